//! `nodepool-launcher`: wiring.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
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
use nodepool_launcher::{
    run::{Launcher, Options},
    web,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
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
    let foreground = arguments.foreground || arguments.debug;
    if !foreground && !daemon::is_daemon() {
        return match daemon::start(&arguments.pid_file) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => complain(&error),
        };
    }
    let options = LogOptions { config: arguments.logging.clone(), foreground, debug: arguments.debug, app: "nodepool" };
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
    eprintln!("nodepool-launcher: {error}");
    ExitCode::FAILURE
}

async fn run(arguments: Arguments) -> ExitCode {
    let loaded = match config::load(&arguments.config, arguments.secure.as_deref()) {
        Ok(loaded) => loaded,
        Err(errors) => {
            error!(logger = "nodepool.config", "The configuration cannot be used:\n{errors}");
            return ExitCode::FAILURE;
        }
    };
    let shutdown = Shutdown::new();
    if let Err(error) = shutdown.listen_for_signals() {
        error!(logger = "nodepool.NodePool", "Cannot listen for signals: {error}");
        return ExitCode::FAILURE;
    }
    // Bound before anything else, and answered from the first moment: the probes of a pod must not wait for clouds.
    let listener = if arguments.no_webapp {
        None
    } else {
        let webapp = &loaded.config.webapp;
        let host = arguments.web_address.clone().unwrap_or_else(|| webapp.listen_address.clone());
        let port = arguments.web_port.unwrap_or(webapp.port);
        match TcpListener::bind((host.as_str(), port)).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                error!(
                    logger = "nodepool.WebApp",
                    "Cannot listen on {host}:{port} (webapp of the configuration): {error}"
                );
                return ExitCode::FAILURE;
            }
        }
    };
    // Outlives the launcher's own stop: what runs to its end needs ZooKeeper and may be watched over HTTP.
    let end = CancellationToken::new();
    let zk = match ZooKeeper::start(&loaded.config.zookeeper, shutdown.tracker(), end.clone()) {
        Ok(zk) => zk,
        Err(error) => {
            error!(logger = "nodepool.zk.ZooKeeper", "{error}");
            return ExitCode::FAILURE;
        }
    };
    let stats = Stats::from_env();
    let options = Options {
        config: arguments.config,
        secure: arguments.secure,
        cleanup_interval: seconds(arguments.cleanup_interval),
        delete_interval: seconds(arguments.delete_interval),
        request_lock_age: seconds(arguments.request_lock_age),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fqdn: host::fqdn(),
    };
    let launcher = Launcher::new(options, loaded.config.clone(), zk.clone(), stats.clone());
    launcher.note_loaded(&loaded);
    if let Some(listener) = listener {
        let (ready, pools) = (Arc::clone(&launcher), Arc::clone(&launcher));
        let sources = web::WebState {
            records: web::read_cache(zk.clone()),
            readiness: Arc::new(move || ready.readiness()),
            metrics: Arc::new(move || stats.render()),
            pools: Arc::new(move || pools.pool_list()),
        };
        shutdown.spawn(web::serve(listener, sources, end.clone()));
    }
    dump_on_signal(&launcher, &shutdown);
    launcher.run(shutdown.reason()).await;
    zk.close().await;
    end.cancel();
    // Also where the launcher ended by itself.
    shutdown.request(ShutdownReason::Terminate);
    shutdown.join(Duration::from_secs(5)).await;
    ExitCode::SUCCESS
}

/// SIGUSR2: what the launcher is doing goes to the log, where Python's threads would have dumped their stacks.
fn dump_on_signal(launcher: &Arc<Launcher>, shutdown: &Shutdown) {
    let mut dumps = shutdown.state_dumps();
    let launcher = Arc::clone(launcher);
    tokio::spawn(async move {
        while dumps.changed().await.is_ok() {
            info!(logger = "nodepool.stack_dump", "{}", launcher.state_dump());
        }
    });
}

fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::from_secs(60)).max(Duration::from_millis(10))
}
