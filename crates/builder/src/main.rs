//! `nodepool-builder`: wiring.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use nodepool_builder::{
    image_builder::trust_host,
    run::{Builder, Options},
};
use nodepool_common::{
    config,
    stats::Stats,
    sys::{
        daemon, host,
        logging::{self, LogOptions},
        shutdown::{Shutdown, ShutdownReason},
    },
    zk::ZooKeeper,
};
use tokio_util::sync::CancellationToken;
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
    let arguments = Arguments::parse();
    if arguments.version {
        println!("Nodepool version: {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    if let Some(Command::TrustHost(arguments)) = &arguments.command {
        return trust_host::run(arguments);
    }
    let foreground = arguments.foreground || arguments.debug;
    if !foreground && !daemon::is_daemon() {
        return match daemon::start(&arguments.pid_file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        };
    }
    let app = "nodepool-builder";
    let options = LogOptions { config: arguments.logging.clone(), foreground, debug: arguments.debug, app };
    let _log = match logging::init(&options) {
        Ok(guard) => guard,
        Err(error) => return complain(&error),
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(&error),
    };
    let code = runtime.block_on(run(arguments));
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

fn complain(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("nodepool-builder: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> ExitCode {
    let path = arguments.config.display().to_string();
    let watcher = config::Watcher::new(&arguments.config, arguments.secure.clone());
    let loaded = match config::load(&arguments.config, arguments.secure.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            error!(logger = "nodepool.config", "The configuration cannot be used:\n{errors}");
            return ExitCode::FAILURE;
        }
    };
    if loaded.config.zookeeper.servers.is_empty() {
        error!(
            logger = LOGGER,
            "No ZooKeeper servers specified in config. Add zookeeper-servers to {path}, or pass the secure file that has \
             them with -s"
        );
        return ExitCode::FAILURE;
    }
    let shutdown = Shutdown::new();
    if let Err(error) = shutdown.listen_for_signals() {
        error!(logger = LOGGER, "Cannot listen for signals: {error}");
        return ExitCode::FAILURE;
    }
    // Outlives the builder's own stop: what runs to its end is still recorded.
    let end = CancellationToken::new();
    let zk = match ZooKeeper::start(&loaded.config.zookeeper, shutdown.tracker(), end.clone()) {
        Ok(zk) => zk,
        Err(error) => {
            error!(logger = "nodepool.zk.ZooKeeper", "{error}");
            return ExitCode::FAILURE;
        }
    };
    let options = Options {
        config: arguments.config,
        secure: arguments.secure,
        build_workers: arguments.build_workers,
        upload_workers: arguments.upload_workers,
        cleanup_interval: Some(arguments.cleanup_interval).filter(|interval| *interval > 0.0).map(seconds),
        retry_interval: seconds(arguments.retry_interval),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fqdn: host::fqdn(),
    };
    let builder = match Builder::new(options, watcher, loaded.config.clone(), zk.clone(), Stats::from_env()) {
        Ok(builder) => builder,
        Err(error) => {
            error!(logger = LOGGER, "{error} ({path})");
            return ExitCode::FAILURE;
        }
    };
    builder.note_loaded(&loaded);
    builder.run(shutdown.reason()).await;
    zk.close().await;
    end.cancel();
    // Also where the builder ended by itself.
    shutdown.request(ShutdownReason::Terminate);
    shutdown.join(Duration::from_secs(5)).await;
    ExitCode::SUCCESS
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(10))
}
