//! `nodepool-launcher`: wiring.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use nodepool_common::{
    process::{self, Frame},
    stats::Stats,
    sys::{host, shutdown::Shutdown},
};
use nodepool_launcher::{
    run::{Launcher, Options},
    web,
};
use tokio::net::TcpListener;
use tracing::{error, info};

/// Serves the node requests of Zuul.
#[derive(Debug, Parser)]
#[command(name = "nodepool-launcher", disable_version_flag = true, infer_long_args = true)]
#[allow(clippy::struct_excessive_bools)] // they are the command line's switches
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
    #[arg(short = 'p', value_name = "FILE", default_value = "/var/run/nodepool/nodepool.pid")]
    pid_file: PathBuf,
    /// Run in the foreground with debug logging
    #[arg(short = 'd')]
    debug: bool,
    /// Run in the foreground
    #[arg(short = 'f')]
    foreground: bool,
    /// Do not serve HTTP
    #[arg(long)]
    no_webapp: bool,
    /// Address of the HTTP server, instead of the configuration's `webapp: listen_address`
    #[arg(long, value_name = "ADDRESS")]
    web_address: Option<String>,
    /// Port of the HTTP server, instead of the configuration's `webapp: port`
    #[arg(long, value_name = "PORT")]
    web_port: Option<u16>,
    /// Seconds between two searches for leaked resources
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    cleanup_interval: f64,
    /// Seconds before a deletion that failed is tried again; doubles up to twelve times that
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    delete_interval: f64,
    /// Seconds after which the lock directory of a request that is gone is removed
    #[arg(long, value_name = "SECONDS", default_value_t = 28800.0)]
    request_lock_age: f64,
    /// Show the version
    #[arg(long)]
    version: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        println!("Nodepool version: {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    let options = process::Options {
        program: "nodepool-launcher",
        app: "nodepool",
        logging: arguments.logging.clone(),
        pid_file: arguments.pid_file.clone(),
        debug: arguments.debug,
        foreground: arguments.foreground,
    };
    process::main(&options, || async { run(arguments).await.unwrap_or_else(|code| code) })
}

async fn run(arguments: Arguments) -> Result<ExitCode, ExitCode> {
    let (frame, watcher) = Frame::new(&arguments.config, arguments.secure.as_deref())?;
    // Bound before anything else, and answered from the first moment: the probes of a pod must not wait for clouds.
    let listener = if arguments.no_webapp {
        None
    } else {
        let webapp = &frame.loaded.config.webapp;
        let host = arguments.web_address.clone().unwrap_or_else(|| webapp.listen_address.clone());
        let port = arguments.web_port.unwrap_or(webapp.port);
        match TcpListener::bind((host.as_str(), port)).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                error!(
                    logger = "nodepool.WebApp",
                    "Cannot listen on {host}:{port} (webapp of the configuration): {error}"
                );
                return Err(ExitCode::FAILURE);
            }
        }
    };
    let zk = frame.connect()?;
    let stats = Stats::from_env();
    let options = Options {
        cleanup_interval: seconds(arguments.cleanup_interval),
        delete_interval: seconds(arguments.delete_interval),
        request_lock_age: seconds(arguments.request_lock_age),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fqdn: host::fqdn(),
    };
    let (launcher, core) = Launcher::new(options, frame.loaded.config.clone(), zk.clone(), stats.clone());
    launcher.note_loaded(&frame.loaded);
    if let Some(listener) = listener {
        let (ready, pools) = (Arc::clone(&launcher), Arc::clone(&launcher));
        let sources = web::WebState {
            records: web::read_cache(zk.clone()),
            readiness: Arc::new(move || ready.readiness()),
            metrics: Arc::new(move || stats.render()),
            pools: Arc::new(move || {
                let launcher = Arc::clone(&pools);
                Box::pin(async move { launcher.pool_list().await })
            }),
        };
        // Until the end: what runs to its end may be watched.
        let serving = web::serve(listener, sources, frame.end.clone());
        frame.shutdown.spawn(frame.shutdown.guard("HTTP server", serving));
    }
    dump_on_signal(&launcher, &frame.shutdown);
    let shutdown = frame.shutdown.clone();
    Ok(frame.run(&zk, launcher.run(core, watcher, &shutdown)).await)
}

/// SIGUSR2: what the launcher is doing goes to the log, where Python's threads would have dumped their stacks.
fn dump_on_signal(launcher: &Arc<Launcher>, shutdown: &Shutdown) {
    let mut dumps = shutdown.state_dumps();
    let launcher = Arc::clone(launcher);
    tokio::spawn(async move {
        while dumps.changed().await.is_ok() {
            info!(logger = "nodepool.stack_dump", "{}", launcher.state_dump().await);
        }
    });
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(10))
}
