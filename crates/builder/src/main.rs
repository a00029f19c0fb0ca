//! `nodepool-builder`: wiring.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use nodepool_builder::{
    image_builder::{self, trust_host},
    run::{Builder, Options},
};
use nodepool_common::{
    process::{self, Frame},
    stats::Stats,
    sys::host,
};
use tracing::error;

const LOGGER: &str = "nodepool.builder";

/// Builds images and uploads them.
#[derive(Debug, Parser)]
#[command(name = "nodepool-builder", disable_version_flag = true, infer_long_args = true)]
struct Arguments {
    /// Path to the configuration file
    #[arg(short = 'c', value_name = "FILE", default_value = "/etc/nodepool/nodepool.yaml")]
    config: PathBuf,
    /// Path to the secure file
    #[arg(short = 's', value_name = "FILE")]
    secure: Option<PathBuf>,
    /// Path to a logging configuration (Python's dictConfig as YAML or JSON, or fileConfig)
    #[arg(short = 'l', value_name = "FILE")]
    logging: Option<PathBuf>,
    /// Path to the pid file
    #[arg(short = 'p', value_name = "FILE", default_value = "/var/run/nodepool/nodepool-builder.pid")]
    pid_file: PathBuf,
    /// Run in the foreground with debug logging
    #[arg(short = 'd')]
    debug: bool,
    /// Run in the foreground
    #[arg(short = 'f')]
    foreground: bool,
    /// Builds at a time
    #[arg(long, value_name = "N", default_value_t = 1)]
    build_workers: usize,
    /// Uploads at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    upload_workers: usize,
    /// Seconds between two looks at the files of images; 0: nothing is ever deleted
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    cleanup_interval: f64,
    /// Seconds before a build or an upload that failed is tried again; doubles up to sixty times that
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    retry_interval: f64,
    /// Show the version
    #[arg(long)]
    version: bool,
    /// Something else than building images
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    TrustHost(trust_host::Args),
}

fn main() -> ExitCode {
    if let Some(code) = image_builder::builtin::run_if_called() {
        return code;
    }
    let arguments = Arguments::parse();
    if arguments.version {
        println!("Nodepool version: {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(Command::TrustHost(arguments)) = &arguments.command {
        return trust_host::run(arguments);
    }
    let options = process::Options {
        program: "nodepool-builder",
        app: "nodepool-builder",
        logging: arguments.logging.clone(),
        pid_file: arguments.pid_file.clone(),
        debug: arguments.debug,
        foreground: arguments.foreground,
    };
    process::main(&options, || async { run(arguments).await.unwrap_or_else(|code| code) })
}

async fn run(arguments: Arguments) -> Result<ExitCode, ExitCode> {
    let path = arguments.config.display().to_string();
    let (frame, watcher) = Frame::new(&arguments.config, arguments.secure.as_deref())?;
    if frame.loaded.config.zookeeper.servers.is_empty() {
        error!(
            logger = LOGGER,
            "No ZooKeeper servers specified in config. Add zookeeper-servers to {path}, or pass the secure file that has \
             them with -s"
        );
        return Err(ExitCode::FAILURE);
    }
    let zk = frame.connect()?;
    let options = Options {
        build_workers: arguments.build_workers,
        upload_workers: arguments.upload_workers,
        cleanup_interval: Some(arguments.cleanup_interval).filter(|interval| *interval > 0.0).map(seconds),
        retry_interval: seconds(arguments.retry_interval),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fqdn: host::fqdn(),
    };
    let builder = Builder::new(options, watcher, frame.loaded.config.clone(), zk.clone(), Stats::from_env());
    let builder = builder.map_err(|error| {
        error!(logger = LOGGER, "{error} ({path})");
        ExitCode::FAILURE
    })?;
    builder.note_loaded(&frame.loaded);
    let shutdown = frame.shutdown.clone();
    Ok(frame.run(&zk, builder.run(&shutdown)).await)
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(10))
}
