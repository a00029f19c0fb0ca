//! `nodepool-builder trust-host`: shows the keys of a host and, on confirmation, records them where ssh looks for them.
//!
//! The keys are got by OpenSSH's own client, one connection for each type of key, which ends before any login; so they
//! are those that a build would see, through whatever proxies, ports and aliases OpenSSH's configuration has for the
//! host.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use super::{
    call::Call,
    known_hosts::{self, Known},
    openssh::{Attempt, Settings},
    preflight,
    state::find_program,
};
use crate::scratch;

/// The types that are asked for, with the algorithms of each; first the one that ssh prefers.
const TYPES: [&str; 3] =
    ["ssh-ed25519", "ecdsa-sha2-nistp256,ecdsa-sha2-nistp384,ecdsa-sha2-nistp521", "rsa-sha2-512,rsa-sha2-256,ssh-rsa"];
/// For one connection.
const PATIENCE: Duration = Duration::from_secs(30);

/// Records the SSH host key of an image-builder host as known
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The host, as the inventory or OpenSSH's configuration names it: [USER@]HOST
    #[arg(value_name = "HOST")]
    pub host: String,
    /// Its port, where it is not OpenSSH's
    #[arg(long, short = 'p', value_name = "PORT")]
    pub port: Option<u16>,
    /// Accept the key with this fingerprint without asking, and no other; may be given several times
    #[arg(long, value_name = "SHA256:…")]
    pub fingerprint: Vec<String>,
    /// The file to record it in [default: the first of OpenSSH's `UserKnownHostsFile` that can be written]
    #[arg(long, value_name = "FILE")]
    pub known_hosts: Option<PathBuf>,
    /// Accept whatever keys the host shows
    #[arg(long)]
    pub yes: bool,
    /// Replace a key that has changed
    #[arg(long)]
    pub replace: bool,
}

/// Why nothing was recorded.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // the messages tell
pub enum TrustError {
    #[error("ssh is not here; install OpenSSH's client")]
    NoSsh,
    #[error("`ssh -G {0}` fails: the host's name or OpenSSH's configuration are wrong")]
    Configuration(String),
    #[error("{0}")]
    Connection(#[from] preflight::PreflightError),
    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
    #[error("{host} shows none of the keys given by --fingerprint: it shows {shown}; nothing was recorded")]
    OtherFingerprint { host: String, shown: String },
    #[error(
        "the key of {host} has changed: it shows {shown}, and known are {known}; if that is right, repeat with --replace"
    )]
    Changed { host: String, shown: String, known: String },
    #[error(
        "nobody is there to confirm: compare the fingerprint with what the host itself says, and give it by --fingerprint"
    )]
    NobodyToAsk,
    #[error("not confirmed: nothing was recorded")]
    NotConfirmed,
    #[error("there is no file to record it in: none of {0} can be written; name one by --known-hosts")]
    NoFile(String),
}

/// A key that the host has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    /// `TYPE BASE64`.
    key: String,
    bits: String,
    fingerprint: String,
    kind: String,
}

impl Shown {
    fn text(&self) -> String {
        format!("{} {}", self.kind, self.fingerprint)
    }
}

/// Runs the command, and says on standard output or error what came of it.
pub fn run(arguments: &Args) -> ExitCode {
    match trust(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("trust-host: {error}");
            ExitCode::FAILURE
        }
    }
}

fn trust(arguments: &Args) -> Result<(), TrustError> {
    let ssh = find_program("ssh", None).ok_or(TrustError::NoSsh)?;
    let mut options = Vec::new();
    if let Some(port) = arguments.port {
        options.extend(["-o".to_owned(), format!("Port={port}")]);
    }
    let call = Call { options, destination: arguments.host.clone(), command: Vec::new() };
    let settings = Settings::of(&ssh, &call).ok_or_else(|| TrustError::Configuration(arguments.host.clone()))?;
    let name = settings.known_as();
    let shown = shown_keys(&ssh, &call, &settings)?;
    println!("The keys of {name}:");
    for key in &shown {
        println!("{} {} {name} ({})", key.bits, key.fingerprint, key.kind);
    }
    let all_files: Vec<PathBuf> = arguments.known_hosts.as_ref().map_or_else(
        || settings.known_hosts.iter().chain(&settings.global_known_hosts).cloned().collect(),
        |file| vec![file.clone()],
    );
    let known = known_hosts::lookup(&all_files, &name);
    let wanted = wanted(arguments, &name, shown)?;
    let is_known = |key: &Shown| known.iter().any(|known| known.fingerprint == key.fingerprint);
    let new: Vec<Shown> = wanted.iter().filter(|key| !is_known(key)).cloned().collect();
    // A key of the same type that the host no longer shows.
    let stale: Vec<Known> = known
        .iter()
        .filter(|known| wanted.iter().any(|key| key.kind == known.kind && key.fingerprint != known.fingerprint))
        .cloned()
        .collect();
    if new.is_empty() {
        println!("They are known already; nothing is to be done.");
        return Ok(());
    }
    confirm(arguments, &name, &new, &stale)?;
    let file = file_to_write(arguments, &settings)?;
    for path in stale.iter().map(|known| known.file.clone()).collect::<std::collections::BTreeSet<_>>() {
        let lines: Vec<usize> = stale.iter().filter(|known| known.file == path).map(|known| known.line).collect();
        known_hosts::remove(&path, &name, &lines).map_err(|source| TrustError::Io {
            doing: format!("removing the old key from {}", path.display()),
            source,
        })?;
    }
    let keys: Vec<String> = new.iter().map(|key| key.key.clone()).collect();
    known_hosts::add(&file, &name, &keys, settings.hashed)
        .map_err(|source| TrustError::Io { doing: format!("recording the key in {}", file.display()), source })?;
    for key in &new {
        println!("Recorded {} of {name} in {}.", key.text(), file.display());
    }
    Ok(())
}

/// Those of the keys that may be recorded as far as the arguments say.
fn wanted(arguments: &Args, name: &str, shown: Vec<Shown>) -> Result<Vec<Shown>, TrustError> {
    if arguments.fingerprint.is_empty() {
        return Ok(shown);
    }
    // As people copy them: with or without the name of the hash, and with base64's padding.
    let plain = |text: &str| text.trim().trim_start_matches("SHA256:").trim_end_matches('=').to_owned();
    let given: Vec<String> = arguments.fingerprint.iter().map(|text| plain(text)).collect();
    let (wanted, others): (Vec<Shown>, Vec<Shown>) =
        shown.into_iter().partition(|key| given.contains(&plain(&key.fingerprint)));
    if wanted.is_empty() {
        let shown = others.iter().map(Shown::text).collect::<Vec<_>>().join(", ");
        return Err(TrustError::OtherFingerprint { host: name.to_owned(), shown });
    }
    Ok(wanted)
}

/// Asks where there is somebody to ask, and it is not answered by the arguments.
fn confirm(arguments: &Args, name: &str, new: &[Shown], stale: &[Known]) -> Result<(), TrustError> {
    let is_given = arguments.yes || !arguments.fingerprint.is_empty();
    let can_ask = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !stale.is_empty() {
        let known: Vec<String> = stale.iter().map(Known::to_string).collect();
        if !arguments.replace && (is_given || !can_ask) {
            let shown = new.iter().map(Shown::text).collect::<Vec<_>>().join(", ");
            return Err(TrustError::Changed { host: name.to_owned(), shown, known: known.join(", ") });
        }
        println!("The key of {name} has CHANGED. Known so far, and to be replaced:");
        for known in &known {
            println!("{known}");
        }
    }
    if is_given {
        return Ok(());
    }
    if !can_ask {
        return Err(TrustError::NobodyToAsk);
    }
    let word = if stale.is_empty() { "yes" } else { "replace" };
    print!("Compare with what the host itself says. Type `{word}` to accept: ");
    let mut answer = String::new();
    io::stdout()
        .flush()
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|source| TrustError::Io { doing: "asking for confirmation".to_owned(), source })?;
    if answer.trim() == word { Ok(()) } else { Err(TrustError::NotConfirmed) }
}

/// Where the key goes.
fn file_to_write(arguments: &Args, settings: &Settings) -> Result<PathBuf, TrustError> {
    if let Some(file) = &arguments.known_hosts {
        return Ok(file.clone());
    }
    let is_writable = |file: &Path| {
        if let Some(directory) = file.parent() {
            let _ = fs::create_dir_all(directory);
        }
        fs::OpenOptions::new().create(true).append(true).open(file).is_ok()
    };
    settings.known_hosts.iter().find(|file| is_writable(file)).cloned().ok_or_else(|| {
        let files: Vec<String> = settings.known_hosts.iter().map(|file| file.display().to_string()).collect();
        TrustError::NoFile(files.join(", "))
    })
}

/// Connects once for each type of key, with a list of known hosts of our own into which ssh writes what it is shown.
fn shown_keys(ssh: &Path, call: &Call, settings: &Settings) -> Result<Vec<Shown>, TrustError> {
    let io = |doing: &'static str| move |source| TrustError::Io { doing: doing.to_owned(), source };
    let directory = scratch::directory("nodepool-hosts-", None).map_err(io("making a temporary directory"))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("starting"))?;
    let (mut shown, mut trouble) = (Vec::<Shown>::new(), None);
    for (number, algorithms) in TYPES.iter().enumerate() {
        let file = directory.path().join(number.to_string());
        let mut call = call.connection();
        let ours = [
            format!("HostKeyAlgorithms={algorithms}"),
            format!("UserKnownHostsFile=\"{}\"", file.display()),
            "GlobalKnownHostsFile=none".to_owned(),
            "StrictHostKeyChecking=accept-new".to_owned(),
            "HashKnownHosts=no".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "CheckHostIP=no".to_owned(),
            "PreferredAuthentications=none".to_owned(),
            "ConnectTimeout=10".to_owned(),
        ];
        call.options.splice(..0, ours.into_iter().flat_map(|option| ["-o".to_owned(), option]));
        call.command = vec!["true".to_owned()];
        let attempt = runtime
            .block_on(Attempt::make(ssh, &call, "", PATIENCE))
            .map_err(|source| TrustError::Io { doing: format!("running {}", ssh.display()), source })?;
        let text = fs::read_to_string(&file).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_whitespace().skip(1);
            let (Some(kind), Some(encoded)) = (words.next(), words.next()) else { continue };
            let key = format!("{kind} {encoded}");
            if let Some((bits, fingerprint, kind)) = known_hosts::fingerprint(&key) {
                shown.push(Shown { key, bits, fingerprint, kind });
            }
        }
        if text.is_empty() && !attempt.says("no matching host key type") {
            trouble = trouble.or_else(|| {
                preflight::connection_error(&format!("host {}", settings.shown()), settings, &call, &[], &attempt)
            });
            if shown.is_empty() {
                break; // the other types would fail alike
            }
        }
    }
    match (shown.is_empty(), trouble) {
        (true, Some(error)) => Err(error.into()),
        (true, None) => Err(preflight::PreflightError::Ssh {
            host: format!("host {}", settings.shown()),
            said: "it has no key of a type that ssh takes".to_owned(),
        }
        .into()),
        _ => Ok(shown),
    }
}
