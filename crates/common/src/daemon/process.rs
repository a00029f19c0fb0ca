//! From `main` to the runtime: to the background or not, the log, the threads.

use std::{process::ExitCode, time::Duration};

use super::arguments::Arguments;
use crate::sys::{
    background,
    logging::{self, LogOptions},
};

/// The version of all programs.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What daemons' programs differ in.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// For messages to whoever has started it.
    pub name: &'static str,
    /// Its log file's, without `.log`.
    pub log: &'static str,
    /// Threads of the runtime, on which all tasks run; the main one only waits. `None`: as many as there are processors.
    pub threads: Option<usize>,
}

/// Runs a daemon: in the background unless told otherwise, with a log and a runtime. The errors of `run` have been logged.
pub fn main<F>(program: Program, arguments: &Arguments, run: impl FnOnce() -> F) -> ExitCode
where
    F: Future<Output = Result<ExitCode, ExitCode>>,
{
    if arguments.version {
        println!("Nodepool version: {VERSION}");
        return ExitCode::SUCCESS;
    }
    let complain = |error: &dyn std::error::Error| {
        eprintln!("{}: {error}", program.name);
        ExitCode::FAILURE
    };
    let foreground = arguments.foreground || arguments.debug;
    if !foreground && !background::is_daemon() {
        return match background::start(&arguments.pid_file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        };
    }
    let log = LogOptions { config: arguments.logging.clone(), foreground, debug: arguments.debug, app: program.log };
    let _log = match logging::init(&log) {
        Ok(guard) => guard,
        Err(error) => return complain(&error),
    };
    let mut threads = tokio::runtime::Builder::new_multi_thread();
    if let Some(number) = program.threads {
        threads.worker_threads(number);
    }
    let runtime = match threads.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = runtime.block_on(run()).unwrap_or_else(|code| code);
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}
