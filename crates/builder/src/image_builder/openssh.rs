//! OpenSSH's own programs: what its configuration says of a host, and what comes of a connection.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use tokio::io::AsyncWriteExt as _;

use super::call::Call;

/// What `ssh -G` tells of a call, as far as we need it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The name or address to connect to.
    pub hostname: String,
    /// The port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// `HostKeyAlias`.
    pub alias: Option<String>,
    /// Seconds; 0: off.
    pub alive_interval: u32,
    /// `StrictHostKeyChecking`.
    pub strict: String,
    /// `HashKnownHosts`.
    pub hashed: bool,
    /// `UserKnownHostsFile`.
    pub known_hosts: Vec<PathBuf>,
    /// `GlobalKnownHostsFile`.
    pub global_known_hosts: Vec<PathBuf>,
    /// Whether the connection goes through another host.
    pub proxied: bool,
}

impl Settings {
    /// Asks ssh; `None`: it cannot say, and will say why when it is to connect.
    pub fn of(ssh: &Path, call: &Call) -> Option<Self> {
        let mut command = Command::new(ssh);
        command.arg("-G").args(Call { command: Vec::new(), ..call.clone() }.words(&[])).stdin(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(Self::parse(&String::from_utf8_lossy(&output.stdout)))
    }

    fn parse(text: &str) -> Self {
        let mut settings = Self { port: 22, ..Self::default() };
        for (key, value) in text.lines().filter_map(|line| line.split_once(' ')) {
            let paths = || value.split_whitespace().filter(|path| *path != "none").map(home_of).collect();
            match key {
                "hostname" => value.clone_into(&mut settings.hostname),
                "port" => settings.port = value.parse().unwrap_or(22),
                "user" => value.clone_into(&mut settings.user),
                "hostkeyalias" => settings.alias = Some(value.to_owned()),
                "serveraliveinterval" => settings.alive_interval = value.parse().unwrap_or(0),
                "stricthostkeychecking" => value.clone_into(&mut settings.strict),
                "hashknownhosts" => settings.hashed = value == "yes",
                "userknownhostsfile" => settings.known_hosts = paths(),
                "globalknownhostsfile" => settings.global_known_hosts = paths(),
                "proxycommand" | "proxyjump" => settings.proxied |= value != "none",
                _ => {}
            }
        }
        settings
    }

    /// The name under which known hosts have it.
    pub fn known_as(&self) -> String {
        known_as(self.alias.as_deref().unwrap_or(&self.hostname), if self.alias.is_some() { 22 } else { self.port })
    }

    /// Whether the user has switched the check of host keys off.
    pub fn is_unchecked(&self) -> bool {
        matches!(self.strict.as_str(), "false" | "no" | "off" | "accept-new")
    }

    /// `user@host` or `user@host port N`, for messages.
    pub fn shown(&self) -> String {
        let port = if self.port == 22 { String::new() } else { format!(" port {}", self.port) };
        format!("{}@{}{port}", self.user, self.hostname)
    }
}

/// A host's name in known hosts.
pub fn known_as(host: &str, port: u16) -> String {
    if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") }
}

/// `~/` is the home that the user database has, as for ssh.
fn home_of(path: &str) -> PathBuf {
    let Some(rest) = path.strip_prefix("~/") else { return path.into() };
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    let home = user.map(|user| user.dir).or_else(|| std::env::var_os("HOME").map(PathBuf::from));
    home.unwrap_or_default().join(rest)
}

/// What came of a connection.
#[derive(Debug, Default)]
pub struct Attempt {
    /// Whether the deadline ended it.
    pub late: bool,
    /// What the remote command wrote.
    pub stdout: String,
    /// ssh's messages, and the remote command's.
    pub said: Vec<String>,
    /// ssh's account of what it did.
    pub debug: Vec<String>,
}

impl Attempt {
    /// Connects by a call, runs `/bin/sh -s` there with `script`, and waits for its end, but no longer than `deadline`.
    pub async fn make(ssh: &Path, call: &Call, script: &str, deadline: Duration) -> std::io::Result<Self> {
        let options = ["-T", "-o", "BatchMode=yes", "-o", "LogLevel=DEBUG1"].map(str::to_owned);
        let mut command = tokio::process::Command::new(ssh);
        command.args(call.words(&options)).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.env("LC_ALL", "C").kill_on_drop(true).spawn()?;
        let input = child.stdin.take();
        let talk = async {
            if let Some(mut input) = input {
                // It may end before it has read everything.
                let _ = input.write_all(script.as_bytes()).await;
            }
            child.wait_with_output().await
        };
        match tokio::time::timeout(deadline, talk).await {
            Ok(output) => Ok(Self::of(&output?)),
            Err(_) => Ok(Self { late: true, ..Self::default() }),
        }
    }

    fn of(output: &Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let lines = stderr.lines().map(|line| line.trim_end().to_owned()).filter(|line| !line.is_empty());
        let (debug, said) = lines.partition(|line| line.starts_with("debug1: ") || line.starts_with("OpenSSH_"));
        Self { late: false, stdout: String::from_utf8_lossy(&output.stdout).into_owned(), said, debug }
    }

    /// Whether one of ssh's messages contains this.
    pub fn says(&self, text: &str) -> bool {
        self.said.iter().any(|line| line.contains(text))
    }

    /// What follows this in the first line of ssh's account that has it.
    pub fn told(&self, prefix: &str) -> Option<&str> {
        self.debug.iter().find_map(|line| line.strip_prefix("debug1: ")?.strip_prefix(prefix)).map(str::trim)
    }

    /// What follows this in each line of ssh's account that has it.
    pub fn all_told<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.debug.iter().filter_map(move |line| line.strip_prefix("debug1: ")?.strip_prefix(prefix)).map(str::trim)
    }

    /// The host's key: type and fingerprint.
    pub fn host_key(&self) -> Option<&str> {
        self.told("Server host key: ")
    }

    /// Whether somebody was logged in.
    pub fn is_logged_in(&self) -> bool {
        self.told("Authenticated to ").is_some() || self.said.iter().any(|line| line.starts_with("Authenticated to "))
    }

    /// ssh's messages in one line.
    pub fn summary(&self) -> String {
        if self.said.is_empty() { "it said nothing".to_owned() } else { self.said.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_tells_of_a_host_is_read() {
        let settings = Settings::parse(
            "host ib\nuser nodepool\nhostname 127.0.0.2\nport 2222\nserveraliveinterval 60\nstricthostkeychecking ask\n\
             hashknownhosts no\nuserknownhostsfile /var/lib/nodepool/known_hosts /b\nglobalknownhostsfile none\n",
        );
        assert_eq!(settings.known_as(), "[127.0.0.2]:2222");
        assert_eq!(settings.shown(), "nodepool@127.0.0.2 port 2222");
        assert_eq!(settings.known_hosts, [PathBuf::from("/var/lib/nodepool/known_hosts"), "/b".into()]);
        assert!(settings.global_known_hosts.is_empty() && !settings.is_unchecked() && settings.alive_interval == 60);
    }
}
