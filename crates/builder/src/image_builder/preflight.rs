//! Before a build: each host is reachable and the one we know, lets us in, and has what Ansible needs; and there is
//! space on both sides. Every failure says which host, what is wrong and what to do.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    arguments::Preflight,
    call::Call,
    known_hosts::{self, Known},
    openssh::{Attempt, Settings},
    output,
    space::{self, Probe, shown},
    state::{Declared, HostOptions, State},
    targets::Target,
};
use crate::files;

/// Free bytes on the host, unless its `min-free` says otherwise.
const MIN_FREE_THERE: u64 = 1 << 30;
/// Free bytes here, unless an earlier image says more.
const MIN_FREE_HERE: u64 = 100 << 20;
/// For the whole of a connection and what the probe does. Ansible's own limit for connecting is in its options (10 s).
const PATIENCE: Duration = Duration::from_secs(60);
/// Seconds for connecting where Ansible names none.
const CONNECT_TIMEOUT: &str = "ConnectTimeout=10";

/// Why a build does not begin.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages tell
pub enum PreflightError {
    #[error("{host}: the name {hostname} has no address: {said}; correct `ansible_host` (or `host`) or the DNS")]
    Name { host: String, hostname: String, said: String },
    #[error("{host}: nobody listens there: {said}; is sshd running, and is this its port?")]
    Refused { host: String, said: String },
    #[error("{host}: there is no way to it: {said}; is the machine up, and do routes and firewalls lead to it?")]
    Unreachable { host: String, said: String },
    #[error(
        "{host}: it takes the connection, but does not speak SSH in time: {said}; is this sshd's port, and is the machine overloaded?"
    )]
    Silent { host: String, said: String },
    #[error(
        "{host}: its host key is not known, and nothing is sent to a host that may be another one.\n\
         It shows   {offered}\nand known are   {known}\n\
         Compare it with what the host itself says (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then accept it: {command}"
    )]
    UnknownKey { host: String, offered: String, known: String, command: String },
    #[error(
        "{host}: its host key has CHANGED: it was reinstalled, or another machine answers in its place.\n\
         It shows   {offered}\nand known are   {known}\n\
         If the host itself says that it has a new key (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), replace it: {command}"
    )]
    ChangedKey { host: String, offered: String, known: String, command: String },
    #[error(
        "{host}: it refuses the login: {said}; {offered}; add the public key to ~/.ssh/authorized_keys of {user} there"
    )]
    Login { host: String, said: String, offered: String, user: String },
    #[error("{host}: ssh failed: {said}")]
    Ssh { host: String, said: String },
    #[error(
        "{host}: no answer within {PATIENCE:?} after the login: is the machine overloaded, or does its shell wait for something?"
    )]
    Late { host: String },
    #[error(
        "{host}: the login works, but the commands that were sent did not run: {said}; the user needs an ordinary shell there"
    )]
    NoShell { host: String, said: String },
    #[error(
        "{host}: there is no Python that works{at}; install python3 there, or set `ansible_python_interpreter` in the inventory"
    )]
    NoPython { host: String, at: String },
    #[error(
        "{host}: Python {version} ({path}) is too old for Ansible, which needs 3.6 or later (or 2.7); install another, and set `ansible_python_interpreter` in the inventory"
    )]
    OldPython { host: String, version: String, path: String },
    #[error(
        "{host}: rsync is not there, and the playbook brings the image by it (`synchronize`); install rsync on that host"
    )]
    NoRsync { host: String },
    #[error(
        "rsync is not here, and the playbook brings the image by it (`synchronize`); install rsync beside nodepool-builder"
    )]
    NoRsyncHere,
    #[error("ssh is not here; install OpenSSH's client beside nodepool-builder")]
    NoSshHere,
    #[error(
        "{host}: {free} are free in {directory} (on {device}), and {wanted} must be; make room, or change `min-free` or `directory` of this host in `image-builders`"
    )]
    FullThere { host: String, free: String, directory: String, device: String, wanted: String },
    #[error(
        "{free} are free in {directory}, where the image is to arrive, and {wanted} must be ({why}); make room, or change `min-free` of the diskimage's `ansible`"
    )]
    FullHere { free: String, directory: String, wanted: String, why: String },
    #[error("{directory}, where the image is to arrive, cannot be used: {source}")]
    NoDirectory { directory: PathBuf, source: std::io::Error },
    #[error("running {}: {source}", program.display())]
    Start { program: PathBuf, source: std::io::Error },
    #[error("writing {}: {source}", path.display())]
    Write { path: PathBuf, source: std::io::Error },
}

impl PreflightError {
    /// Whether a playbook may be about to mend it itself: it boots the host, makes room there, installs what is missing. Not
    /// so a key, and what we cannot do without.
    pub fn may_mend_itself(&self) -> bool {
        !matches!(
            self,
            Self::UnknownKey { .. }
                | Self::ChangedKey { .. }
                | Self::NoSshHere
                | Self::NoDirectory { .. }
                | Self::Start { .. }
                | Self::Write { .. }
        )
    }
}

/// What was found on a host.
#[derive(Debug)]
pub struct Checked {
    /// For ssh, from now on; `None`: the user has switched the check of its key off.
    pub options: Option<HostOptions>,
    /// The line for the build log.
    pub line: String,
}

/// What the checks of each host share.
#[derive(Debug)]
pub struct Checks<'a> {
    /// The directory of the build.
    pub state: &'a State,
    /// OpenSSH's ssh.
    pub ssh: &'a Path,
    /// `image-builders`.
    pub declared: &'a [Declared],
    /// Whether the playbook calls rsync.
    pub needs_rsync: bool,
    /// What comes of a check that fails.
    pub mode: Preflight,
}

impl Checks<'_> {
    /// Checks one host.
    pub async fn host(&self, target: &Target) -> Result<Checked, PreflightError> {
        let mut call = target.call.connection();
        if !call.sets("ConnectTimeout") {
            call.options.extend(["-o".to_owned(), CONNECT_TIMEOUT.to_owned()]);
        }
        let uses_password = !target.call.sets("PasswordAuthentication");
        let Some(settings) = Settings::of(self.ssh, &call) else {
            let said = format!("`ssh -G {}` fails: its options or OpenSSH's configuration are wrong", call.destination);
            return Err(PreflightError::Ssh { host: target.name.clone(), said });
        };
        let shown_host = format!("host {} ({})", target.name, settings.shown());
        let declared = self
            .declared
            .iter()
            .find(|declared| declared.name == target.name)
            .or_else(|| self.declared.iter().find(|declared| declared.name == settings.hostname));
        let keys = declared.map(|declared| declared.host_keys.as_slice()).unwrap_or_default();
        let options = self.key_options(&settings, keys)?;
        call.options.splice(..0, options.iter().flatten().cloned());
        let script =
            space::probe_script(target.python.as_deref(), declared.and_then(|declared| declared.directory.as_deref()));
        let mut probe_call = call.clone();
        probe_call.command = vec!["/bin/sh".to_owned(), "-s".to_owned()];
        let attempt = Attempt::make(self.ssh, &probe_call, &script, PATIENCE)
            .await
            .map_err(|source| PreflightError::Start { program: self.ssh.to_owned(), source })?;
        let host_options =
            options.map(|options| HostOptions { hostname: settings.hostname.clone(), port: settings.port, options });
        let key = match (attempt.host_key(), &host_options) {
            (Some(key), Some(_)) if keys.is_empty() => format!("host key {key} is known"),
            (Some(key), Some(_)) => format!("host key {key} is the declared one"),
            (Some(key), None) => {
                format!("host key {key} is NOT CHECKED, as StrictHostKeyChecking is `{}`", settings.strict)
            }
            (None, _) => "host key not seen".to_owned(),
        };
        if let Some(error) = connection_error(&shown_host, &settings, &target.call, keys, &attempt) {
            if uses_password && matches!(error, PreflightError::Login { .. }) {
                let line =
                    format!("{shown_host}: reachable, {key}; the login is by password: not tried before the build");
                return Ok(Checked { options: host_options, line });
            }
            // Of a host that is not there yet nobody knows a key unless it is declared: OpenSSH's own configuration counts.
            let options = host_options.filter(|_| !keys.is_empty() || attempt.host_key().is_some());
            return Ok(Checked { options, line: self.mode.going_on(error)? });
        }
        let found = if let Some(probe) = Probe::of(&attempt) {
            self.judge(&shown_host, target, declared, &probe)
        } else {
            let told = attempt.stdout.lines().next().unwrap_or_default();
            let said = [told, &attempt.summary()].map(str::trim).join(" ").trim().to_owned();
            Err(PreflightError::NoShell { host: shown_host.clone(), said })
        };
        let line = match found {
            Ok(found) => format!("{shown_host}: {key}; {found}"),
            Err(error) => self.mode.going_on(error)?,
        };
        Ok(Checked { options: host_options, line })
    }

    /// What ssh is told so that it accepts only a key that is declared, or known. `None`: the user does without.
    fn key_options(&self, settings: &Settings, keys: &[String]) -> Result<Option<Vec<String>>, PreflightError> {
        let mut options = vec!["StrictHostKeyChecking=yes".to_owned(), "UpdateHostKeys=no".to_owned()];
        if keys.is_empty() {
            if settings.is_unchecked() {
                return Ok(None);
            }
            // Named again, because `synchronize` has ssh look into /dev/null.
            options.push(file_option("UserKnownHostsFile", &settings.known_hosts));
            options.push(file_option("GlobalKnownHostsFile", &settings.global_known_hosts));
        } else {
            // The file is for this host alone: under whichever name it is looked for, these are its keys.
            let name = format!("declared-{}-{}", settings.hostname.replace('/', "_"), settings.port);
            let path = self.state.path(&name);
            let lines = keys.iter().map(|key| format!("* {key}\n")).collect::<Vec<_>>().concat();
            std::fs::write(&path, lines).map_err(|source| PreflightError::Write { path: path.clone(), source })?;
            options.push(file_option("UserKnownHostsFile", &[path]));
            options.push(file_option("GlobalKnownHostsFile", &[]));
        }
        Ok(Some(options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect()))
    }

    /// What a host has must do.
    fn judge(
        &self,
        shown_host: &str,
        target: &Target,
        declared: Option<&Declared>,
        probe: &Probe,
    ) -> Result<String, PreflightError> {
        let host = || shown_host.to_owned();
        let Some((version, path)) = &probe.python else {
            let at = target.python.as_ref().map(|path| format!(" at {path}")).unwrap_or_default();
            return Err(PreflightError::NoPython { host: host(), at });
        };
        if !is_new_enough(version) {
            return Err(PreflightError::OldPython { host: host(), version: version.clone(), path: path.clone() });
        }
        if probe.rsync.is_none() && self.needs_rsync {
            return Err(PreflightError::NoRsync { host: host() });
        }
        let wanted = declared.and_then(|declared| declared.min_free).unwrap_or(MIN_FREE_THERE);
        if let Some(free) = probe.free.filter(|free| *free < wanted) {
            return Err(PreflightError::FullThere {
                host: host(),
                free: shown(free),
                directory: probe.directory.display().to_string(),
                device: probe.device.clone(),
                wanted: shown(wanted),
            });
        }
        let rsync = probe.rsync.as_deref().unwrap_or("no rsync");
        let free = probe.free.map_or_else(|| "unknown space".to_owned(), shown);
        Ok(format!("Python {version} ({path}), {rsync}, {free} free in {}", probe.directory.display()))
    }
}

impl Preflight {
    /// The line for the build log, where the build begins all the same.
    pub fn going_on(self, error: PreflightError) -> Result<String, PreflightError> {
        match self {
            Self::Warn if error.may_mend_itself() => {
                Ok(format!("{error}\nThe build begins all the same: NODEPOOL_ANSIBLE_PREFLIGHT is `warn`"))
            }
            _ => Err(error),
        }
    }
}

/// `NAME=FILE FILE`, as ssh's configuration is written.
fn file_option(name: &str, files: &[PathBuf]) -> String {
    let files: Vec<String> = files.iter().map(|file| format!("\"{}\"", file.display())).collect();
    format!("{name}={}", if files.is_empty() { "none".to_owned() } else { files.join(" ") })
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    matches!((numbers.next(), numbers.next()), (Some(2), Some(7)) | (Some(3), Some(6..)) | (Some(4..), _))
}

/// What kept ssh from logging in; `None`: nothing did.
pub fn connection_error(
    host: &str,
    settings: &Settings,
    call: &Call,
    declared: &[String],
    attempt: &Attempt,
) -> Option<PreflightError> {
    if attempt.is_logged_in() && !attempt.late {
        // What came of the script is for others to judge; ssh's own status is 255 for a connection that broke off.
        return None;
    }
    let host = host.to_owned();
    let said = attempt.summary();
    if attempt.late {
        return Some(PreflightError::Late { host });
    }
    let says = |text: &str| attempt.says(text);
    if says("Could not resolve hostname") {
        return Some(PreflightError::Name { host, hostname: settings.hostname.clone(), said });
    }
    if says("during banner exchange") || says("kex_exchange_identification") || says("banner") {
        return Some(PreflightError::Silent { host, said });
    }
    if says("Connection refused") {
        return Some(PreflightError::Refused { host, said });
    }
    if says("ssh: connect to host") {
        return Some(PreflightError::Unreachable { host, said });
    }
    if says("Host key verification failed") || says("host key is known for") || says("HOST IDENTIFICATION HAS CHANGED")
    {
        return Some(key_error(host, settings, call, declared, attempt));
    }
    if says("Permission denied (") || says("Too many authentication failures") {
        let offered: Vec<&str> = attempt.all_told("Offering public key: ").collect();
        let offered = if offered.is_empty() {
            "no key of ours could be offered".to_owned()
        } else {
            format!("offered were: {}", offered.join(", "))
        };
        return Some(PreflightError::Login { host, said, offered, user: settings.user.clone() });
    }
    if attempt.told("Authentication succeeded").is_some() {
        return Some(PreflightError::NoShell { host, said });
    }
    Some(PreflightError::Ssh { host, said })
}

/// A key that is not known, or not the one that is.
fn key_error(host: String, settings: &Settings, call: &Call, declared: &[String], attempt: &Attempt) -> PreflightError {
    let offered = attempt.host_key().unwrap_or("a key that ssh did not show").to_owned();
    let name = settings.known_as();
    if !declared.is_empty() {
        let known: Vec<String> = declared
            .iter()
            .filter_map(|key| known_hosts::fingerprint(key))
            .map(|(_, fingerprint, kind)| format!("{kind} {fingerprint} (`host-keys` in the configuration)"))
            .collect();
        let command = "change `host-keys` of this host in `image-builders`".to_owned();
        return PreflightError::ChangedKey { host, offered, known: known.join(", "), command };
    }
    let files: Vec<PathBuf> = settings.known_hosts.iter().chain(&settings.global_known_hosts).cloned().collect();
    let known = known_hosts::lookup(&files, &name);
    let fingerprint = offered.split_whitespace().nth(1).unwrap_or_default();
    let has_changed = attempt.says("HAS CHANGED") || !known.is_empty();
    let mut command = vec![format!("nodepool-builder trust-host {}", call.destination)];
    if settings.port != 22 {
        command.push(format!("--port {}", settings.port));
    }
    if call.sets("UserKnownHostsFile")
        && let Some(file) = settings.known_hosts.first()
    {
        command.push(format!("--known-hosts {}", file.display()));
    }
    if fingerprint.starts_with("SHA256:") {
        command.push(format!("--fingerprint {fingerprint}"));
    }
    let command = command.join(" ");
    let known = if known.is_empty() {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        format!("none for {name} (in {})", files.join(", "))
    } else {
        known.iter().map(Known::to_string).collect::<Vec<_>>().join(", ")
    };
    if has_changed {
        PreflightError::ChangedKey { host, offered, known, command: format!("{command} --replace") }
    } else {
        PreflightError::UnknownKey { host, offered, known, command }
    }
}

/// Space here, for the image that is to arrive. Returns the line for the build log.
pub fn here(path: &Path, formats: &[String], min_free: Option<u64>) -> Result<String, PreflightError> {
    let directory = output::directory(path);
    let free = files::free_space(&directory)
        .map_err(|source| PreflightError::NoDirectory { directory: directory.clone(), source })?;
    let last = output::space_of_last(path, formats);
    let (wanted, why) = match min_free {
        Some(bytes) => (bytes, "as configured"),
        None if last > MIN_FREE_HERE => (last, "as much as the last image took"),
        None => (MIN_FREE_HERE, "the least for any image"),
    };
    if free < wanted {
        return Err(PreflightError::FullHere {
            free: shown(free),
            directory: directory.display().to_string(),
            wanted: shown(wanted),
            why: why.to_owned(),
        });
    }
    Ok(format!("{} free in {}, where the image is to arrive", shown(free), directory.display()))
}

/// Whether the playbook, its roles or task files bring files by rsync.
pub fn calls_rsync(playbook: &Path) -> bool {
    let mentions = |path: &Path| std::fs::read_to_string(path).is_ok_and(|text| text.contains("synchronize"));
    mentions(playbook) || ["roles", "tasks"].iter().any(|part| search(&playbook.with_file_name(part), 0, &mentions))
}

fn search(directory: &Path, depth: usize, found: &impl Fn(&Path) -> bool) -> bool {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).any(|path| {
        let is_yaml = path.extension().is_some_and(|suffix| suffix == "yml" || suffix == "yaml");
        if path.is_dir() { depth < 8 && search(&path, depth + 1, found) } else { is_yaml && found(&path) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ansible_2_16_takes_these_pythons() {
        for (version, enough) in
            [("2.6.9", false), ("2.7.18", true), ("3.5.9", false), ("3.6.0", true), ("3.14.1", true), ("x", false)]
        {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn rsync_is_needed_where_the_playbook_or_a_role_says_synchronize() {
        let directory = tempfile::tempdir().unwrap();
        let playbook = directory.path().join("p.yaml");
        std::fs::write(&playbook, "- hosts: a\n  roles: [r]\n").unwrap();
        assert!(!calls_rsync(&playbook));
        let tasks = directory.path().join("roles/r/tasks");
        std::fs::create_dir_all(&tasks).unwrap();
        std::fs::write(tasks.join("main.yml"), "- ansible.posix.synchronize: {mode: pull}\n").unwrap();
        assert!(calls_rsync(&playbook));
    }

    #[test]
    fn a_full_disk_here_is_told_with_both_sizes() {
        let directory = tempfile::tempdir().unwrap();
        let output = directory.path().join("image-0a");
        assert!(here(&output, &[], Some(0)).unwrap().contains("where the image is to arrive"));
        let error = here(&output, &[], Some(1 << 60)).unwrap_err().to_string();
        assert!(error.contains("1073741824.0 GiB must be (as configured)"), "{error}");
        let error = here(Path::new("/no/such/directory/image-0a"), &[], None).unwrap_err().to_string();
        assert!(error.contains("/no/such/directory") && error.contains("cannot be used"), "{error}");
    }
}
