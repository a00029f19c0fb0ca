//! The options that both command lines have, as upstream's daemons have them (interfaces.md 3.1).

use std::{path::PathBuf, time::Duration};

/// For `#[command(flatten)]`. The default of `-p` is each daemon's own: `mut_arg("pid_file", …)`.
#[derive(Clone, Debug, clap::Args)]
// A group would bear this type's name, which those of the daemons bear, too.
#[group(skip)]
pub struct Arguments {
    /// Path to the configuration file
    #[arg(short = 'c', value_name = "FILE", default_value = "/etc/nodepool/nodepool.yaml")]
    pub config: PathBuf,
    /// Path to the secure file
    #[arg(short = 's', value_name = "FILE")]
    pub secure: Option<PathBuf>,
    /// Path to a logging configuration (Python's dictConfig as YAML or JSON, or fileConfig)
    #[arg(short = 'l', value_name = "FILE")]
    pub logging: Option<PathBuf>,
    /// Path to the pid file
    #[arg(short = 'p', value_name = "FILE")]
    pub pid_file: PathBuf,
    /// Run in the foreground with debug logging
    #[arg(short = 'd')]
    pub debug: bool,
    /// Run in the foreground
    #[arg(short = 'f')]
    pub foreground: bool,
    /// Show the version
    #[arg(long, display_order = 998)] // behind those of the daemon's own, before --help
    pub version: bool,
}

/// An option's seconds; a minute where they are no time, a hundredth of a second at least.
pub fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(10))
}
