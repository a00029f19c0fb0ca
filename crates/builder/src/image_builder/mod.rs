//! The image-builder host: images made by a playbook on another machine, over SSH.
//!
//! All of it lives in `dib-ansible`, a process that a build runs as any other `dib-cmd`: nodepool-builder's own executable
//! under that name ([`builtin`]). It is the operator's wrapper, argument by argument, and does what that
//! leaves to chance:
//!
//! ```text
//!   dib-ansible ──arguments──> inventory, playbook
//!      │  targets     which hosts the playbook is for, and how Ansible would call ssh for each (recorded, not guessed)
//!      │  preflight   each of them: reachable, its key known, login, Python, rsync, space
//!      └─ guard       a process of its own: runs ansible-playbook, outlives whoever is killed
//!           │  ansible-playbook ──> ssh = dib-ansible by another name (`wrapper`): adds what is missing, marks the
//!           │                       remote command, notes the connection; then it is OpenSSH's own ssh
//!           └─ sweep            at the end of a cancelled build: ends all that carries the mark, over a fresh ssh
//! ```
//!
//! Nothing here speaks SSH by itself: connections, keys, configuration and known hosts are OpenSSH's own, so that what
//! works by hand works here (decision 0006). Ansible's settings are the user's, too: none is overridden. What we add
//! goes in through the search path, where `ssh` is ours for this build.
//!
//! [`trust_host`] is `nodepool-builder trust-host`.

mod arguments;
pub mod builtin;
mod call;
pub mod executable;
mod guard;
mod known_hosts;
mod notes;
mod openssh;
mod output;
mod preflight;
mod say;
mod space;
mod start;
mod state;
mod sweep;
mod targets;
pub mod trust_host;
mod wrapper;

use std::process::ExitCode;

use nodepool_common::config::{Config, Diskimage};

use state::Declared;

/// Whether a command line, as `/proc` has it, is that of a playbook's guard, which ends by itself once it has ended what the
/// build runs elsewhere.
pub fn is_guard(command_line: &[u8]) -> bool {
    command_line.split(|byte| *byte == 0).skip(1).any(|word| word == guard::ARGUMENT.as_bytes())
}

/// Whether an executable is `dib-ansible` of ours, of whichever version: nothing else knows how its guard is called.
pub fn is_own_program(file: &std::path::Path) -> bool {
    let name = guard::ARGUMENT.as_bytes();
    std::fs::read(file).is_ok_and(|bytes| {
        // A name of its length begins with two dashes at few places only.
        bytes.iter().enumerate().any(|(at, byte)| *byte == name[0] && bytes[at..].starts_with(name))
    })
}

/// The command that builds an image which has `ansible`, in the place of its `dib-cmd`; the arguments that every
/// `dib-cmd` gets (`-x -t … -o …`) are to be appended, and no elements. Its program is ours, whatever file has the name
/// ([`builtin`]). `None`: it has no `ansible`.
pub fn command(config: &Config, image: &Diskimage) -> Option<Vec<String>> {
    let build = image.ansible.as_ref()?;
    let mut words = vec![builtin::NAME.to_owned()];
    let mut option = |name: &str, value: String| words.extend([name.to_owned(), value]);
    if let Some(inventory) = &build.inventory {
        option("--inventory", inventory.to_string_lossy().into_owned());
    }
    if let Some(host) = &build.image_builder {
        option("--image-builder", host.clone());
    }
    if let Some(bytes) = build.min_free {
        option("--min-free", bytes.to_string());
    }
    words.extend(declaring(config));
    // What begins with a dash is a playbook nevertheless.
    let playbook = build.playbook.to_string_lossy();
    words.push(if playbook.starts_with('-') { format!("./{playbook}") } else { playbook.into_owned() });
    Some(words)
}

/// The option that tells `dib-ansible` the configuration's `image-builders`.
pub fn declaring(config: &Config) -> Vec<String> {
    let declared: Vec<Declared> = config.image_builders.iter().map(Declared::from).collect();
    serde_json::to_string(&declared).map(|json| vec!["--image-builders".to_owned(), json]).unwrap_or_default()
}

/// A note for the beginning of a build log, in the form of all lines of ours there.
pub fn note(text: &str) -> String {
    say::lines(text)
}

/// `dib-ansible`, by whichever name it was called.
pub fn main() -> ExitCode {
    builtin::run_if_called().unwrap_or_else(start::main)
}
