//! The command line: `--name value` and `--flag`, nothing else.

use std::collections::HashMap;
use std::str::FromStr;

use crate::Tls;

/// The arguments that every program which speaks to ZooKeeper takes.
pub const ZOOKEEPER: [&str; 5] = ["--zk", "--tls-ca", "--tls-cert", "--tls-key", "--tls-name"];

/// What was given.
pub struct Arguments(HashMap<String, String>);

impl Arguments {
    /// Those of this process: `names` have a value, `flags` have none. Says which one is unknown, or lacks its value.
    pub fn read(names: &[&str], flags: &[&str]) -> Result<Self, String> {
        Self::of(std::env::args().skip(1), names, flags)
    }

    fn of(mut args: impl Iterator<Item = String>, names: &[&str], flags: &[&str]) -> Result<Self, String> {
        let mut given = HashMap::new();
        while let Some(name) = args.next() {
            let value = match name.as_str() {
                n if flags.contains(&n) => String::new(),
                n if names.contains(&n) => args.next().ok_or_else(|| format!("{name} needs a value"))?,
                _ => return Err(format!("unknown argument {name}; there are {}", [names, flags].concat().join(" "))),
            };
            given.insert(name, value);
        }
        Ok(Self(given))
    }

    /// The value of `name`.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether the flag was given.
    pub fn flag(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// The value of `name` as a number, or `default` where it was not given.
    pub fn number<T: FromStr>(&self, name: &str, default: T) -> Result<T, String> {
        match self.text(name) {
            Some(value) => value.parse().map_err(|_| format!("{name}: not a number: {value}")),
            None => Ok(default),
        }
    }

    /// Where ZooKeeper is, and how to speak TLS with it: see [`ZOOKEEPER`].
    pub fn zookeeper(&self) -> Result<(&str, Option<Tls>), String> {
        let hosts = self.text("--zk").ok_or("--zk HOST:PORT is missing")?;
        let tls = ["--tls-ca", "--tls-cert", "--tls-key"].map(|name| self.text(name));
        let tls = match tls {
            [None, None, None] => None,
            [Some(ca), Some(cert), Some(key)] => {
                Some(Tls::new(ca, cert, key, self.text("--tls-name").map(String::from))?)
            }
            _ => return Err("--tls-ca, --tls-cert and --tls-key go together".into()),
        };
        Ok((hosts, tls))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Arguments, String> {
        Arguments::of(line.split(' ').map(String::from), &["--requests"], &["--driven"])
    }

    #[test]
    fn names_have_values_and_flags_have_none() {
        let a = of("--driven --requests 7").unwrap();
        assert!(a.flag("--driven"));
        assert_eq!(a.number("--requests", 1), Ok(7));
        assert_eq!(of("--driven").unwrap().number("--requests", 1), Ok(1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(of("--requests").err().unwrap(), "--requests needs a value");
        assert!(of("--request 7").err().unwrap().starts_with("unknown argument --request;"));
        assert_eq!(of("--requests x").unwrap().number("--requests", 1), Err("--requests: not a number: x".into()));
    }
}
