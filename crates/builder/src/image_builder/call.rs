//! A call of ssh, taken apart as ssh does it: `ssh [options] [user@]host [options] [command …]`.

use serde::{Deserialize, Serialize};

/// ssh's options that have no value (ssh(1), OpenSSH 9.9).
const FLAGS: &str = "46AaCfGgKkMNnqsTtVvXxYy";
/// Those after which ssh does something else than connect.
const OTHERWISE: &str = "GOQV";

/// A call that connects somewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Each with its value.
    pub options: Vec<String>,
    /// `[user@]host`, as it was given.
    pub destination: String,
    /// The words of the remote command.
    pub command: Vec<String>,
}

impl Call {
    /// `None`: it connects nowhere, or we do not understand it.
    pub fn parse(arguments: &[String]) -> Option<Self> {
        let (mut options, mut destination) = (Vec::new(), None);
        let mut rest = arguments.iter();
        let mut no_more_options = false;
        while let Some(word) = rest.next() {
            if no_more_options || !word.starts_with('-') || word == "-" {
                if destination.is_some() {
                    let command = [word].into_iter().chain(rest).cloned().collect();
                    return Some(Self { options, destination: destination?, command });
                }
                destination = Some(word.clone());
                no_more_options = false;
            } else if word == "--" {
                no_more_options = true;
            } else {
                options.push(word.clone());
                for (at, letter) in word.char_indices().skip(1) {
                    if OTHERWISE.contains(letter) {
                        return None;
                    }
                    if !FLAGS.contains(letter) {
                        if at + letter.len_utf8() == word.len() {
                            options.push(rest.next()?.clone());
                        }
                        break;
                    }
                }
            }
        }
        Some(Self { options, destination: destination?, command: Vec::new() })
    }

    /// The same destination for a connection of our own: without terminal, and apart from shared connections.
    pub fn connection(&self) -> Self {
        let mut options = ["-o", "ControlMaster=no", "-o", "ControlPath=none"].map(str::to_owned).to_vec();
        let mut theirs = self.options.iter();
        while let Some(option) = theirs.next() {
            let Some(letters) = option.strip_prefix('-') else { continue };
            let has_value = letters.len() == 1 && !FLAGS.contains(letters);
            if has_value {
                let value = theirs.next();
                if letters != "S" {
                    options.push(option.clone());
                    options.extend(value.cloned());
                }
            } else if !letters.chars().all(|letter| "tTnsfN".contains(letter)) {
                options.push(option.clone());
            }
        }
        Self { options, destination: self.destination.clone(), command: Vec::new() }
    }

    /// Whether an option of that name is set on the command line.
    pub fn sets(&self, name: &str) -> bool {
        let name = name.to_lowercase();
        self.options.iter().any(|option| {
            let option = option.strip_prefix("-o").unwrap_or(option).trim_start().to_lowercase();
            option.strip_prefix(&name).is_some_and(|rest| rest.starts_with(['=', ' ']))
        })
    }

    /// Whether this uses no subsystem, so that the command is one.
    pub fn has_command(&self) -> bool {
        !self.command.is_empty()
            && !self.options.iter().any(|option| {
                option.len() > 1 && option[1..].chars().all(|c| FLAGS.contains(c)) && option.contains('s')
            })
    }

    /// The words for the program `ssh`, with more options before its own.
    pub fn words(&self, options: &[String]) -> Vec<String> {
        let destination = ["--".to_owned(), self.destination.clone()];
        options.iter().chain(&self.options).chain(&destination).chain(&self.command).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Option<Call> {
        Call::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    /// As Ansible 2.16 calls it.
    const ANSIBLE: [&str; 13] = [
        "-C",
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=60s",
        "-o",
        "Port=2222",
        "-o",
        "User=\"nodepool\"",
        "-oControlPath=\"/c/1\"",
        "-tt",
        "127.0.0.2",
        "/bin/sh -c 'echo ~ && sleep 0'",
    ];

    #[test]
    fn ansibles_call_is_taken_apart_and_put_together_again() {
        let call = parse(&ANSIBLE).unwrap();
        assert_eq!(call.destination, "127.0.0.2");
        assert_eq!(call.command, ["/bin/sh -c 'echo ~ && sleep 0'"]);
        assert!(
            call.sets("port") && call.sets("ControlPath") && !call.sets("ServerAliveInterval") && !call.sets("Control")
        );
        assert!(call.has_command());
        let words = call.words(&["-v".to_owned()]);
        assert_eq!(words[0], "-v");
        assert_eq!(words[1..12], ANSIBLE[..11]);
        assert_eq!(words[12..], ["--", ANSIBLE[11], ANSIBLE[12]]);
    }

    #[test]
    fn rsyncs_call_is_taken_apart() {
        let call = parse(&["-S", "none", "-l", "nodepool", "host", "rsync", "--server", "-x"]).unwrap();
        assert_eq!((call.destination.as_str(), call.options.len(), call.command.len()), ("host", 4, 3));
    }

    #[test]
    fn options_may_follow_the_host() {
        let call = parse(&["host", "-p", "22", "--", "command"]).unwrap();
        assert_eq!((call.options.len(), call.command), (2, vec!["command".to_owned()]));
    }

    #[test]
    fn what_connects_nowhere_is_no_call() {
        for words in
            [&["-o", "ControlPersist"][..], &["-V"], &["-O", "exit", "host"], &["-G", "host"], &[], &["-vG", "host"]]
        {
            assert_eq!(parse(words), None, "{words:?}");
        }
    }

    #[test]
    fn a_connection_of_our_own_has_neither_terminal_nor_socket() {
        let connection = parse(&ANSIBLE).unwrap().connection();
        assert_eq!(connection.options[..4], ["-o", "ControlMaster=no", "-o", "ControlPath=none"]);
        assert!(!connection.options.contains(&"-tt".to_owned()) && connection.command.is_empty());
        assert!(connection.options.contains(&"Port=2222".to_owned()));
        let connection = parse(&["-S", "none", "-s", "host", "sftp"]).unwrap().connection();
        assert_eq!(connection.options.len(), 4);
    }

    #[test]
    fn a_subsystem_is_no_command() {
        assert!(!parse(&["-s", "host", "sftp"]).unwrap().has_command());
        assert!(parse(&["-o", "s=1", "host", "true"]).unwrap().has_command());
    }
}
