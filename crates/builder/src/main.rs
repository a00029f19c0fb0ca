//! `nodepool-builder`: wiring.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nodepool_builder::{
    image_builder::{self, trust_host},
    run::{Builder, Options},
};
use nodepool_common::{
    daemon::{self, Program, Start, VERSION, seconds},
    stats::Stats,
    sys::host,
};
use tracing::error;

const LOGGER: &str = "nodepool.builder";

/// Builds images and uploads them.
#[derive(Debug, Parser)]
#[command(name = "nodepool-builder", disable_version_flag = true, infer_long_args = true)]
#[command(mut_arg("pid_file", |file| file.required(false).default_value("/var/run/nodepool/nodepool-builder.pid")))]
struct Arguments {
    #[command(flatten)]
    daemon: daemon::Arguments,
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
    match &arguments.command {
        Some(Command::TrustHost(of_host)) if !arguments.daemon.version => trust_host::run(of_host),
        _ => {
            let program = Program { name: "nodepool-builder", log: "nodepool-builder", threads: None };
            daemon::main(program, &arguments.daemon, || run(&arguments))
        }
    }
}

async fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let path = arguments.daemon.config.display();
    let start = Start::new(&arguments.daemon)?;
    if start.loaded.config.zookeeper.servers.is_empty() {
        error!(
            logger = LOGGER,
            "No ZooKeeper servers specified in config. Add zookeeper-servers to {path}, or pass the secure file that has \
             them with -s"
        );
        return Err(ExitCode::FAILURE);
    }
    let (frame, loaded) = start.connect(Stats::from_env())?;
    let options = Options {
        build_workers: arguments.build_workers,
        upload_workers: arguments.upload_workers,
        cleanup_interval: Some(arguments.cleanup_interval).filter(|interval| *interval > 0.0).map(seconds),
        retry_interval: seconds(arguments.retry_interval),
        version: VERSION.to_owned(),
        fqdn: host::fqdn(),
    };
    let builder = Builder::new(options, frame).map_err(|error| {
        error!(logger = LOGGER, "{error} ({path})");
        ExitCode::FAILURE
    })?;
    Ok(daemon::run(&builder, (), &loaded).await)
}
