//! The process that runs ansible-playbook and cleans up after it.
//!
//! It is one of its own, in a process group of its own, because its work begins where others end: the executor may
//! kill dib-ansible and its whole group, and a builder that was killed takes nobody with it. It learns of the end of
//! dib-ansible by the end of its standard input, whatever the reason.
//!
//! When the build is to end, the playbook is first stopped (SIGSTOP), so that it starts nothing more and its connections
//! stay; then its remote processes are ended; then it is, by SIGINT, at which Ansible removes its own files; then the
//! unfinished image is removed here; and then, where the hosts have answered, whatever it may have started in between is ended
//! there. Each step has its time, so that a dead host does not keep the others from being done.

use std::{
    ffi::OsString,
    io::Read as _,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use nodepool_common::sys::clock::files_now;
use serde::{Deserialize, Serialize};
use tokio::process::Child;

use super::{
    call::Call,
    notes, output,
    say::say,
    state::{Build, State, VARIABLE},
    sweep,
    targets::path_with,
};

/// The first argument of such a process; the second is the directory.
pub const ARGUMENT: &str = "--guard-of";
/// For closing shared connections.
const CLOSING: Duration = Duration::from_secs(2);
/// How long ansible-playbook may take to end after SIGINT.
const GRACE: Duration = Duration::from_secs(3);
/// For a host to answer. With the last sweep, the grace and the closing that is less than the 23 s after which a
/// builder that stops kills what is left of a build ([`crate::build::process`]), however dead the hosts are; and what is to be
/// cleaned up here is done before the last sweep.
const SWEEP: Duration = Duration::from_secs(9);
/// For a host that has answered before.
const LAST_SWEEP: Duration = Duration::from_secs(6);
/// Ansible's status when a host cannot be reached any more; it is a sum of bits.
const UNREACHABLE: i32 = 4;

/// `plan.json`: what the guard does.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// ansible-playbook.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// The files that the build makes.
    pub files: Vec<PathBuf>,
    /// Whether Ansible's sockets may go to our directory, because the user has no wish of his own.
    pub own_sockets: bool,
}

/// Whether this process is a guard, and whose.
pub fn directory_of_this_call() -> Option<PathBuf> {
    let mut arguments = std::env::args_os().skip(1);
    (arguments.next()? == ARGUMENT).then(|| arguments.next().map(PathBuf::from)).flatten()
}

/// The guard.
pub fn main(directory: &Path) -> ExitCode {
    let state = State { directory: directory.to_owned() };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("starting: {error}")),
    };
    let code = runtime.block_on(run(&state));
    if let Err(error) = std::fs::remove_dir_all(directory) {
        say(format!("removing {}: {error}", directory.display()));
    }
    code
}

fn complain(problem: &str) -> ExitCode {
    say(problem);
    ExitCode::FAILURE
}

async fn run(state: &State) -> ExitCode {
    let read = |name: &str| std::fs::read(state.path(name));
    let plan: Plan = match read("plan.json").and_then(|json| Ok(serde_json::from_slice(&json)?)) {
        Ok(plan) => plan,
        Err(error) => return complain(&format!("reading {}: {error}", state.path("plan.json").display())),
    };
    let build = match state.build() {
        Ok(build) => build,
        Err(error) => return complain(&format!("reading {}: {error}", state.path("build.json").display())),
    };
    let started = files_now();
    let mut playbook = match start(state, &plan) {
        Ok(child) => child,
        Err(error) => return complain(&format!("starting {}: {error}", plan.program.display())),
    };
    let group = playbook.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let status = tokio::select! {
        biased;
        status = playbook.wait() => Some(status),
        () = end_of_input() => None,
    };
    match status {
        Some(Ok(status)) => finish(state, &build, &plan, status).await,
        Some(Err(error)) => complain(&format!("waiting for {}: {error}", plan.program.display())),
        None => {
            let answered = stop(state, &build, &mut playbook, group).await;
            let mut removed = output::remove_since(&plan.files, started);
            removed.extend(output::remove_unfinished(&plan.files));
            for file in removed {
                say(format!("removed the unfinished {}", file.display()));
            }
            // Whatever it may have started in between.
            sweep_all(state, &build, answered, LAST_SWEEP).await;
            close_connections(state, &build).await;
            ExitCode::FAILURE
        }
    }
}

/// ansible-playbook, in its own process group, writing to the build log.
fn start(state: &State, plan: &Plan) -> std::io::Result<Child> {
    let mut more: Vec<(&str, OsString)> = vec![(VARIABLE, state.directory.clone().into_os_string())];
    if plan.own_sockets {
        more.push(("ANSIBLE_SSH_CONTROL_PATH_DIR", state.path("control").into_os_string()));
    }
    let mut command = std::process::Command::new(&plan.program);
    command.args(&plan.arguments).stdin(Stdio::null()).envs(path_with(state, more)).process_group(0);
    tokio::process::Command::from(command).spawn()
}

/// Returns when dib-ansible has gone or says so.
async fn end_of_input() {
    let (tell, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        // Both an end and an error mean that nobody is there.
        let _ = std::io::stdin().read(&mut [0]);
        let _ = tell.send(());
    });
    let _ = told.await;
}

/// The playbook has ended by itself.
async fn finish(state: &State, build: &Build, plan: &Plan, status: ExitStatus) -> ExitCode {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    if code != 0 {
        say(format!("the playbook failed, status {code}: what went wrong stands above"));
        if code < 128 && code & UNREACHABLE != 0 {
            say("a host became unreachable: ending what may still run there");
            sweep_all(state, build, sweep::hosts(state), SWEEP).await;
        }
        for file in output::remove_unfinished(&plan.files) {
            say(format!("removed the unfinished {}", file.display()));
        }
    }
    close_connections(state, build).await;
    u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Ends the playbook and what it runs elsewhere. Returns the hosts that could be swept.
async fn stop(state: &State, build: &Build, playbook: &mut Child, group: Option<Pid>) -> Vec<Call> {
    let signal = |signal: Signal| {
        if let Some(group) = group {
            // It may have ended meanwhile.
            let _ = killpg(group, signal);
        }
    };
    say("the build is to end: ending the playbook and what it runs on its hosts");
    signal(Signal::SIGSTOP);
    let answered = sweep_all(state, build, sweep::hosts(state), SWEEP).await;
    signal(Signal::SIGINT);
    signal(Signal::SIGCONT);
    if tokio::time::timeout(GRACE, playbook.wait()).await.is_err() {
        signal(Signal::SIGKILL);
        let _ = playbook.wait().await;
    }
    signal(Signal::SIGKILL);
    answered
}

/// Ends what the build runs on these hosts, each within `patience`; those that answered.
async fn sweep_all(state: &State, build: &Build, hosts: Vec<Call>, patience: Duration) -> Vec<Call> {
    let Some((_, ssh)) = build.programs.iter().find(|(name, _)| name == "ssh") else { return Vec::new() };
    let notes = notes::read(&state.path("notes"));
    let mut answered = Vec::new();
    let mut sweeps = tokio::task::JoinSet::new();
    for call in hosts {
        let (ssh, mark, notes) = (
            ssh.clone(),
            build.mark.clone(),
            notes::Notes { becomes: notes.becomes.clone(), temporaries: notes.temporaries.clone() },
        );
        sweeps.spawn(async move {
            let swept = sweep::host(&ssh, &call, &mark, &notes, patience).await;
            (call, swept)
        });
    }
    while let Some(Ok((call, swept))) = sweeps.join_next().await {
        let host = call.destination.clone();
        match swept {
            Err(problem) => say(format!(
                "host {host}: what the build ran there may still run: {problem}; look for processes with {}={} in their environment",
                super::state::MARK,
                build.mark
            )),
            Ok(swept) => {
                for command in swept.ended {
                    say(format!("host {host}: ended `{command}`"));
                }
                for process in swept.left {
                    say(format!(
                        "host {host}: could not end process {process}: it is another user's, and sudo asks for a password there"
                    ));
                }
                answered.push(call);
            }
        }
    }
    answered
}

/// Ends the connections that Ansible shares among its calls; they would stay for a minute.
async fn close_connections(state: &State, build: &Build) {
    let Some((_, ssh)) = build.programs.iter().find(|(name, _)| name == "ssh") else { return };
    let mut closing = tokio::task::JoinSet::new();
    for socket in std::fs::read_dir(state.path("control")).into_iter().flatten().filter_map(Result::ok) {
        let mut command = tokio::process::Command::new(ssh);
        command.args(["-O", "exit", "-o"]).arg(format!("ControlPath=\"{}\"", socket.path().display())).arg("none");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        closing.spawn(async move { command.status().await });
    }
    let _ = tokio::time::timeout(CLOSING, closing.join_all()).await;
}
