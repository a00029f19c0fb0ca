//! Running a build: a child process in a process group of its own, its output in the log.
//!
//! The child writes to the log's file itself, so nothing is lost or held up if we are busy, stopped or killed. When its time
//! is up, or the builder stops, the whole group is asked to end (SIGTERM), and after [`GRACE`] made to (SIGKILL): a build
//! is a tree of processes, and half of one that goes on would write into the next build's disk space. The child may use
//! the grace to end what it has started elsewhere; `dib-ansible` does.
//!
//! A builder that was killed has no time for that. Its successor in the same images-dir finds the builds' processes by
//! their environment and ends them before it does anything else ([`end_leftovers`]).

use std::{
    fs,
    fs::File,
    io::{self, Write as _},
    os::unix::{ffi::OsStrExt as _, process::ExitStatusExt as _},
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tokio::{process::Command, time::timeout};
use tokio_util::sync::CancellationToken;

use super::command::{BuildCommand, FILENAME};
use crate::image_builder;

/// Between asking a build to end and making it.
pub const GRACE: Duration = Duration::from_secs(15);

/// For a playbook's guard that has outlived its build.
const GUARD_GRACE: Duration = Duration::from_secs(8);

/// How a build's process ended.
#[derive(Debug)]
pub enum Ended {
    /// By itself.
    Exited(ExitStatus),
    /// It ran longer than it may, and was ended.
    TimedOut,
    /// The builder did not want it any more, and it was ended.
    Cancelled,
    /// It could not be started.
    NotStarted(io::Error),
}

impl Ended {
    /// The number for the metrics and the log's last line: the exit code, as Python gives it (a signal is negative).
    pub fn code(&self) -> i32 {
        match self {
            Self::Exited(status) => status.code().unwrap_or_else(|| -status.signal().unwrap_or(1)),
            // As a shell says of a command that it does not find.
            Self::NotStarted(_) => 127,
            Self::TimedOut | Self::Cancelled => 1,
        }
    }
}

/// Runs a build to its end, or ends it. Its last line in the log is upstream's `Exit code: N` where it ended by itself.
pub async fn run(command: &BuildCommand, mut log: File, limit: Duration, cancel: &CancellationToken) -> Ended {
    let mut group = match Group::start(command, &log) {
        Ok(group) => group,
        Err(error) => return Ended::NotStarted(error),
    };
    let (ended, note) = tokio::select! {
        biased;
        status = group.child.wait() => match status {
            Ok(status) => {
                let ended = Ended::Exited(status);
                let note = format!("Exit code: {}", ended.code());
                (ended, note)
            }
            Err(error) => (Ended::NotStarted(error), "Nobody knows how it ended".to_owned()),
        },
        () = tokio::time::sleep(limit) => {
            group.end().await;
            (Ended::TimedOut, format!("Build timeout: ended after {} s (build-timeout)", limit.as_secs()))
        }
        () = cancel.cancelled() => {
            group.end().await;
            (Ended::Cancelled, "Ended: the builder was stopped".to_owned())
        }
    };
    group.is_over = true;
    // What has left the group, or outlived its first process.
    let _ = killpg(group.id, Signal::SIGKILL);
    if let Some((_, file)) = command.environment.iter().find(|(name, _)| name == FILENAME) {
        end_strays(file).await;
    }
    // A full disk has no room for it.
    let _ = writeln!(log, "{note}");
    ended
}

/// A child with its process group. Dropped while it runs, all of it is killed.
struct Group {
    child: tokio::process::Child,
    id: Pid,
    is_over: bool,
}

impl Group {
    fn start(command: &BuildCommand, log: &File) -> io::Result<Self> {
        let Some((program, arguments)) = command.arguments.split_first() else {
            return Err(io::Error::other("there is no program to run"));
        };
        let mut child = if command.is_own {
            let mut own = Command::new("/proc/self/exe");
            own.arg0(program);
            own
        } else {
            Command::new(program)
        };
        let child = child
            .args(arguments)
            .envs(command.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log.try_clone()?)
            .process_group(0)
            .spawn()?;
        let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let id = id.ok_or_else(|| io::Error::other("it has no process id"))?;
        Ok(Self { child, id, is_over: false })
    }

    /// Asks, then makes. Some of the group may outlive its first process: as long as one does, the group keeps its id.
    async fn end(&mut self) {
        let _ = killpg(self.id, Signal::SIGTERM);
        let _ = timeout(GRACE, self.child.wait()).await;
        let _ = killpg(self.id, Signal::SIGKILL);
        let _ = self.child.wait().await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.is_over {
            let _ = killpg(self.id, Signal::SIGKILL);
        }
    }
}

/// Kills what a build that is over has left. A playbook's guard, and all that is its, may first end what runs on the
/// image-builder host: it ends by itself.
async fn end_strays(file: &str) {
    let deadline = tokio::time::Instant::now() + GUARD_GRACE;
    loop {
        let found = marked(|value| value == file.as_bytes());
        let is_late = tokio::time::Instant::now() >= deadline;
        for process in found.iter().filter(|process| is_late || !process.is_guarded) {
            let _ = kill(process.id, Signal::SIGKILL);
        }
        if is_late || !found.iter().any(|process| process.is_guarded) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Ends the processes of builds in this images-dir that an earlier builder has left, and returns how many there were.
/// Only to be called before a build is begun. Blocks for up to [`GRACE`].
#[allow(clippy::disallowed_methods)] // its thread waits for processes of the host, whatever time a runtime has
pub fn end_leftovers(images_dir: &Path) -> usize {
    // With one slash at its end, however it is configured.
    let within = images_dir.join("");
    let leftovers = || marked(|file| file.starts_with(within.as_os_str().as_bytes()));
    let found = leftovers();
    for process in found.iter().filter(|process| !process.is_guarded) {
        let _ = kill(process.id, Signal::SIGTERM);
    }
    let deadline = std::time::Instant::now() + GRACE;
    while !found.is_empty() && !leftovers().is_empty() && std::time::Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(100));
    }
    for process in leftovers() {
        let _ = kill(process.id, Signal::SIGKILL);
    }
    found.len()
}

/// A build's process.
struct Marked {
    id: Pid,
    /// It is a playbook's guard, or comes from one.
    is_guarded: bool,
}

/// Processes that build such a file, by their environment.
fn marked(is_wanted: impl Fn(&[u8]) -> bool) -> Vec<Marked> {
    let mark = format!("{FILENAME}=");
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    let found: Vec<i32> = ids
        .filter(|id| *id != own)
        // Other users' cannot be read, and are not ours to end.
        .filter(|id| {
            fs::read(format!("/proc/{id}/environ")).is_ok_and(|variables| {
                let mut files = variables.split(|byte| *byte == 0).filter_map(|one| one.strip_prefix(mark.as_bytes()));
                files.any(&is_wanted)
            })
        })
        .collect();
    let is_guarded = |id: i32| {
        let ancestors = std::iter::successors(Some(id), |id| parent(*id).filter(|parent| found.contains(parent)));
        ancestors
            .take(found.len())
            .any(|id| fs::read(format!("/proc/{id}/cmdline")).is_ok_and(|line| image_builder::is_guard(&line)))
    };
    found.iter().map(|id| Marked { id: Pid::from_raw(*id), is_guarded: is_guarded(*id) }).collect()
}

fn parent(id: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in brackets may have anything in it.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, environment: &[(&str, &str)]) -> BuildCommand {
        BuildCommand {
            arguments: ["sh", "-c", script].map(str::to_owned).to_vec(),
            environment: environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            ..BuildCommand::default()
        }
    }

    /// Of a test that waits for something.
    const SOON: Duration = Duration::from_secs(30);

    struct Try {
        dir: tempfile::TempDir,
    }

    impl Try {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap() }
        }

        fn log(&self) -> File {
            super::super::log::create(&self.dir.path().join("log")).unwrap()
        }

        fn said(&self) -> String {
            fs::read_to_string(self.dir.path().join("log")).unwrap()
        }
    }

    fn is_alive(id: &str) -> bool {
        // A zombie has ended.
        fs::read_to_string(format!("/proc/{}/stat", id.trim())).is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn output_and_errors_go_to_the_log_with_the_exit_code_last() {
        let this = Try::new();
        let command = shell("echo $GREETING; echo problem >&2; exit 3", &[("GREETING", "hello")]);
        let ended = run(&command, this.log(), GRACE, &CancellationToken::new()).await;
        assert_eq!(ended.code(), 3);
        assert_eq!(this.said(), "hello\nproblem\nExit code: 3\n");
    }

    #[tokio::test]
    async fn what_has_left_the_group_is_killed_and_a_guard_is_waited_for() {
        let this = Try::new();
        let file = this.dir.path().join("i-1").display().to_string();
        let script = "setsid sleep 1000 & echo $!; \
                      setsid sh -c 'touch \"$1\"; sleep 1; echo guarded' guard \"$DIB_IMAGE_FILENAME.up\" --guard-of & \
                      while [ ! -e \"$DIB_IMAGE_FILENAME.up\" ]; do :; done";
        let ended = run(&shell(script, &[(FILENAME, &file)]), this.log(), GRACE, &CancellationToken::new()).await;
        assert_eq!(ended.code(), 0);
        let said = this.said();
        let stray = said.lines().next().unwrap();
        assert!(said.ends_with("\nguarded\nExit code: 0\n"), "{said}");
        let gone = || async { (!is_alive(stray)).then_some(()) };
        nodepool_testing::wait_for(SOON, "the stray is gone", gone).await;
        assert!(marked(|value| value == file.as_bytes()).is_empty());
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_so() {
        let this = Try::new();
        let command = BuildCommand { arguments: vec!["/nowhere/dib".to_owned()], ..BuildCommand::default() };
        let ended = run(&command, this.log(), GRACE, &CancellationToken::new()).await;
        assert!(matches!(&ended, Ended::NotStarted(error) if error.kind() == io::ErrorKind::NotFound), "{ended:?}");
    }

    #[tokio::test]
    async fn a_build_that_takes_too_long_ends_with_its_children() {
        let this = Try::new();
        let command = shell("sleep 1000 & echo $!; wait", &[]);
        let ended = run(&command, this.log(), Duration::from_secs(6), &CancellationToken::new()).await;
        assert!(matches!(ended, Ended::TimedOut), "{ended:?}");
        let said = this.said();
        let (child, note) = said.split_once('\n').unwrap();
        assert!(note.starts_with("Build timeout: ended after 6 s"), "{note}");
        let gone = || async { (!is_alive(child)).then_some(()) };
        nodepool_testing::wait_for(SOON, "its child is gone", gone).await;
    }

    #[tokio::test]
    async fn a_cancelled_build_may_tidy_up_first() {
        let this = Try::new();
        let cancel = CancellationToken::new();
        let command = shell("trap 'echo tidied; exit 0' TERM; echo ready; sleep 1000 & wait", &[]);
        let running = run(&command, this.log(), GRACE, &cancel);
        let cancelling = async {
            while !this.said().contains("ready") {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        };
        let (ended, ()) = tokio::join!(running, cancelling);
        assert!(matches!(ended, Ended::Cancelled), "{ended:?}");
        assert_eq!(this.said(), "ready\ntidied\nEnded: the builder was stopped\n");
    }

    #[tokio::test]
    async fn the_processes_of_a_killed_builder_are_found_and_ended() {
        let this = Try::new();
        let images = this.dir.path().to_owned();
        let mark = images.join("i-1").display().to_string();
        let mut left = shell("sleep 1000", &[(FILENAME, &mark)]);
        left.arguments[2] = "echo started; exec sleep 1000".to_owned();
        let group = Group::start(&left, &this.log()).unwrap();
        let other = Group::start(&shell("exec sleep 1000", &[(FILENAME, "/elsewhere/i-1")]), &this.log()).unwrap();
        while !this.said().contains("started") {
            tokio::task::yield_now().await;
        }
        let mut group = group;
        let (ended, status) =
            tokio::join!(tokio::task::spawn_blocking(move || end_leftovers(&images)), group.child.wait());
        assert_eq!(ended.unwrap(), 1);
        assert_eq!(status.unwrap().signal(), Some(Signal::SIGTERM as i32));
        assert!(is_alive(&other.id.to_string()));
        group.is_over = true;
    }
}
