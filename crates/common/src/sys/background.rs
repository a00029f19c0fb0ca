//! Going to the background, as the daemons do without `-f`.
//!
//! A program with threads cannot fork safely, so the parent starts itself anew, in a session of its own and without
//! the terminal, writes the child's pid and ends.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{sys::signal, unistd::Pid};

/// Set in the child's environment.
const MARK: &str = "NODEPOOL_IS_A_DAEMON";

/// Why the daemon did not start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A process of the pid file is alive.
    #[error("{file} names process {pid}, which is running: stop it first, or give another file with -p")]
    Running {
        /// The pid file.
        file: PathBuf,
        /// What it names.
        pid: i32,
    },
    /// The pid file or the process cannot be made.
    #[error("cannot {doing}: {source}")]
    Io {
        /// "write pid file /var/run/…"
        doing: String,
        /// Why.
        source: io::Error,
    },
}

/// Whether this process was started by [`start`].
pub fn is_daemon() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Starts this program anew in the background, with the same arguments, and records its pid. A stale pid file is
/// replaced.
pub fn start(pid_file: &Path) -> Result<(), DaemonError> {
    if let Some(pid) = fs::read_to_string(pid_file).ok().and_then(|text| text.trim().parse::<i32>().ok())
        && signal::kill(Pid::from_raw(pid), None).is_ok()
    {
        return Err(DaemonError::Running { file: pid_file.to_owned(), pid });
    }
    let failed = |doing: String| move |source| DaemonError::Io { doing, source };
    // Tried before the child runs: a file that cannot be written must not leave a daemon nobody knows of.
    fs::write(pid_file, "").map_err(failed(format!("write pid file {}", pid_file.display())))?;
    let program = std::env::current_exe().map_err(failed("find this program's own file".to_owned()))?;
    let child = Command::new(&program)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(failed(format!("start {} in the background", program.display())))?;
    fs::write(pid_file, format!("{}\n", child.id())).map_err(failed(format!("write pid file {}", pid_file.display())))
}
