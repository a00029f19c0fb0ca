//! What `ssh`, `sftp` and `scp` are for ansible-playbook and for the rsync that its `synchronize` runs: we, by another
//! name. A call ends as OpenSSH's own program, in this very process, with
//!
//! - keepalives, where the user's configuration has none: an hour without output must not end a build;
//! - the host key that was checked, also where it would be let through (`synchronize` switches the check off);
//! - the build's mark in the environment of the remote command;
//!
//! and how the host was reached is noted, for the end of a cancelled build. What we do not understand passes as it is:
//! other programs use ssh, too, such as git.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, ExitCode},
};

use super::{
    call::Call,
    notes, openssh,
    space::quoted,
    state::{Build, MARK, Mode, PROGRAMS, State, VARIABLE},
};

/// Seconds between two signs of life. With ssh's three, a dead connection is noticed after a minute and a half.
const ALIVE_INTERVAL: u32 = 30;

/// This call of ours as one of [`PROGRAMS`], if it is one.
pub fn state_of_this_call() -> Option<State> {
    name().filter(|name| PROGRAMS.contains(&name.as_str()))?;
    Some(State { directory: std::env::var_os(VARIABLE)?.into() })
}

/// The name that we were called by.
pub fn name() -> Option<String> {
    Some(Path::new(&std::env::args_os().next()?).file_name()?.to_string_lossy().into_owned())
}

/// Does what ssh, sftp or scp would; does not return where it succeeds.
pub fn run(state: &State) -> ExitCode {
    let name = name().unwrap_or_default();
    let arguments: Vec<String> = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    let build = match state.build() {
        Ok(build) => build,
        Err(error) => return complain(&name, &format!("reading {}: {error}", state.path("build.json").display())),
    };
    let Some((_, program)) = build.programs.iter().find(|(known, _)| *known == name) else {
        return complain(&name, "it is not installed: install OpenSSH's client");
    };
    let words = match (name.as_str(), Call::parse(&arguments)) {
        ("ssh", Some(call)) if build.mode == Mode::Record => return record(state, &call),
        ("ssh", Some(call)) => ssh(state, &build, program, call),
        ("ssh", None) => arguments,
        // They call ssh by its full path unless they are told another.
        _ => ["-S".to_owned(), state.path("bin/ssh").to_string_lossy().into_owned()]
            .into_iter()
            .chain(arguments)
            .collect(),
    };
    let error = Command::new(program).args(words).exec();
    complain(&name, &format!("running {}: {error}", program.display()))
}

fn complain(name: &str, problem: &str) -> ExitCode {
    eprintln!("dib-ansible, in the place of {name}: {problem}");
    ExitCode::from(255)
}

/// Notes the call for [`super::targets`].
fn record(state: &State, call: &Call) -> ExitCode {
    let path = state.path("calls").join(std::process::id().to_string());
    match serde_json::to_vec(call).map_err(Into::into).and_then(|json| fs::write(path, json)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => complain("ssh", &format!("noting the call: {error}")),
    }
}

/// The words for the real ssh.
fn ssh(state: &State, build: &Build, program: &Path, mut call: Call) -> Vec<String> {
    let Some(settings) = openssh::Settings::of(program, &call) else { return call.words(&[]) };
    let mut options = Vec::new();
    let host = build.hosts.iter().find(|host| host.hostname == settings.hostname && host.port == settings.port);
    if let Some(host) = host {
        options.extend(host.options.iter().cloned());
    }
    if settings.alive_interval == 0 {
        options.extend(["-o".to_owned(), format!("ServerAliveInterval={ALIVE_INTERVAL}")]);
    }
    let marked = ["env".to_owned(), format!("{MARK}={}", build.mark)];
    if call.has_command() && is_ansibles(&call.command) {
        remember(state, &settings, &options, &call);
        call.command.splice(..0, marked);
    } else if call.has_command() && host.is_some() && call.sets("ConnectTimeout") {
        // The module `raw`: whatever the user's shell understands.
        remember(state, &settings, &options, &call);
        let command = quoted(&call.command.join(" "));
        call.command = marked.into_iter().chain([r#""$SHELL""#.to_owned(), "-c".to_owned(), command]).collect();
    }
    call.words(&options)
}

/// Whether a remote command is Ansible's: `/bin/sh -c …`. Others may go where only certain commands are allowed, as git's
/// do, and the other end of an rsync where `authorized_keys` forces rrsync, which takes nothing that does not begin with
/// `rsync --server`. That one needs no mark: it ends with its connection.
fn is_ansibles(command: &[String]) -> bool {
    let command = command.join(" ");
    let mut words = command.split_whitespace();
    words.next().is_some_and(|first| first.starts_with('/')) && words.next() == Some("-c")
}

/// Notes how the host was reached and what the command leaves behind. A note that cannot be made is no reason to fail.
fn remember(state: &State, settings: &openssh::Settings, options: &[String], call: &Call) {
    let mut hash = DefaultHasher::new();
    (&settings.hostname, settings.port, &settings.user).hash(&mut hash);
    let path = state.path("hosts").join(format!("{:016x}", hash.finish()));
    if !path.exists() {
        let mut connection = call.connection();
        connection.options.splice(..0, options.iter().cloned());
        if let Ok(json) = serde_json::to_vec(&connection) {
            let draft = path.with_extension(std::process::id().to_string());
            let _ = fs::write(&draft, json).and_then(|()| fs::rename(&draft, &path));
        }
    }
    notes::append(&state.path("notes"), &call.command.join(" "));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ansibles(command: &str) -> bool {
        is_ansibles(&command.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn only_ansibles_own_commands_are_marked() {
        assert!(ansibles("/bin/sh -c 'echo ~ && sleep 0'"));
        for command in [
            "git-upload-pack 'project'",
            "scp -t /a",
            "gerrit version",
            "sudo reboot",
            "/usr/bin/true",
            "",
            "rsync --server --sender -x . /a",
            "/usr/bin/rsync --server . /a",
            "sudo -u root rsync --server . /a",
        ] {
            assert!(!ansibles(command), "{command}");
        }
    }
}
