//! `nodepool-launcher`: wiring.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use clap::Parser;
use nodepool_common::{
    config::{self, WebApp},
    daemon::{self, Daemon, Program, Start, VERSION, seconds},
    history::{Bounds, History},
    stats::Stats,
    sys::host,
};
use nodepool_drivers::otlp;
use nodepool_launcher::{
    run::{Launcher, Options},
    web,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tracing::error;

const PROGRAM: &str = "nodepool-launcher";
const WEB_LOGGER: &str = "nodepool.WebApp";
/// Explanations that are made at once; others wait.
const EXPLANATIONS_AT_ONCE: usize = 4;
/// How many others may wait for what this launcher knows of a label or a provider.
const LONG_VIEWS_AT_ONCE: usize = 16;
/// How long the end waits for the disk that has the history.
const LAST_EVENTS: Duration = Duration::from_secs(3);
/// How long the end waits for the collector of spans.
const LAST_SPANS: Duration = Duration::from_secs(3);
/// How long the name of a ZooKeeper server may take to be resolved.
const RESOLVED_WITHIN: Duration = Duration::from_secs(2);

/// Serves the node requests of Zuul.
#[derive(Debug, Parser)]
#[command(name = "nodepool-launcher", disable_version_flag = true, infer_long_args = true)]
#[command(mut_arg("pid_file", |file| file.required(false).default_value("/var/run/nodepool/nodepool.pid")))]
struct Arguments {
    #[command(flatten)]
    daemon: daemon::Arguments,
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
    /// Directory of this launcher alone, in which the history of requests and nodes outlives a restart; without one the
    /// newest 5,000 events are kept in memory
    #[arg(long, value_name = "DIRECTORY", env = "NODEPOOL_HISTORY_DIR")]
    history_dir: Option<PathBuf>,
    /// How many events are kept there at most, about 1 KiB each
    #[arg(long, value_name = "NUMBER", env = "NODEPOOL_HISTORY_EVENTS", default_value_t = 200_000)]
    history_events: u64,
    /// For how many days
    #[arg(long, value_name = "DAYS", env = "NODEPOOL_HISTORY_DAYS", default_value_t = 7.0)]
    history_days: f64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // What happens is many small things, each of which wakes the next: between several threads that costs more time. What takes
    // long is done beside it (`common::daemon::run`, `Frame::serve`): meanwhile the session is pinged.
    let program = Program { name: PROGRAM, log: "nodepool", threads: Some(1) };
    daemon::main(program, &arguments.daemon, || run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let start = Start::new(&arguments.daemon)?;
    // Bound before anything else, and answered from the first moment: the probes of a pod must not wait for clouds.
    let listener = if arguments.no_webapp { None } else { Some(listen(arguments, &start.loaded.config.webapp).await?) };
    let (frame, loaded) = start.connect(Stats::from_env())?;
    let fqdn = host::fqdn();
    let (tracer, exporting) = otlp::start(PROGRAM, &frame.ambient);
    let bounds = Bounds { events: arguments.history_events.max(1), age: seconds(arguments.history_days * 86_400.0) };
    let history = History::start(arguments.history_dir.as_deref(), bounds);
    let options = Options {
        cleanup_interval: seconds(arguments.cleanup_interval),
        delete_interval: seconds(arguments.delete_interval),
        request_lock_age: seconds(arguments.request_lock_age),
        version: VERSION.to_owned(),
        fqdn: fqdn.clone(),
        history: history.clone(),
        tracer,
    };
    let (launcher, core) = Launcher::new(options, frame);
    if let Some(listener) = listener {
        let own = listener.local_addr();
        serve(&launcher, listener).map_err(|error| {
            error!(logger = WEB_LOGGER, "The HTTP server cannot be started: {error}");
            ExitCode::FAILURE
        })?;
        if let Ok(own) = own {
            launcher.set_web_url(web_url(own, &loaded.config.zookeeper, &fqdn).await);
        }
    }
    let status = daemon::run(&launcher, core, &loaded).await;
    history.flush(LAST_EVENTS);
    if let Some(exporting) = exporting {
        exporting.flush(LAST_SPANS).await;
    }
    Ok(status)
}

async fn listen(arguments: &Arguments, webapp: &WebApp) -> Result<TcpListener, ExitCode> {
    let host = arguments.web_address.as_deref().unwrap_or(&webapp.listen_address);
    let port = arguments.web_port.unwrap_or(webapp.port);
    TcpListener::bind((host, port)).await.map_err(|error| {
        error!(logger = WEB_LOGGER, "Cannot listen on {host}:{port} (webapp of the configuration): {error}");
        ExitCode::FAILURE
    })
}

/// Where other launchers and `nodepool explain` can ask this one. Where it listens on all addresses, it is that from which it reaches
/// ZooKeeper, which they reach, too; as a last resort the host's name.
async fn web_url(own: SocketAddr, zookeeper: &config::ZooKeeper, fqdn: &str) -> String {
    if !own.ip().is_unspecified() {
        return format!("http://{own}");
    }
    for server in &zookeeper.servers {
        let towards = host::address_towards(&server.host, server.port);
        let Ok(Ok(address)) = tokio::time::timeout(RESOLVED_WITHIN, towards).await else { continue };
        // Nobody else can use the loopback's; and who listens on all of IPv4 does not on IPv6.
        if !address.is_loopback() && (own.is_ipv6() || address.is_ipv4()) {
            return format!("http://{}", SocketAddr::new(address, own.port()));
        }
    }
    format!("http://{fqdn}:{}", own.port())
}

/// What the dashboard asks.
fn overview(launcher: &Arc<Launcher>) -> web::Source {
    let (whole, part, nodes) = (launcher.clone(), launcher.clone(), launcher.clone());
    let (requests, changes) = (launcher.clone(), launcher.clone());
    web::Source {
        overview: Arc::new(move || {
            let launcher = whole.clone();
            Box::pin(async move { launcher.overview().await })
        }),
        part: Arc::new(move || {
            let launcher = part.clone();
            Box::pin(async move { launcher.overview_part().await })
        }),
        nodes: Arc::new(move || nodes.list_nodes()),
        requests: Arc::new(move || requests.list_requests()),
        changes: Arc::new(move || changes.changes()),
    }
}

fn history_of(launcher: &Arc<Launcher>) -> web::HistorySource {
    let (all, own, known) = (launcher.clone(), launcher.clone(), launcher.clone());
    web::HistorySource {
        of_all: Arc::new(move |query| {
            let launcher = all.clone();
            Box::pin(async move { launcher.history_of_all(&query).await })
        }),
        own: Arc::new(move |query| {
            let launcher = own.clone();
            Box::pin(async move { launcher.own_history(query).await })
        }),
        is_known: Arc::new(move || known.knows_records()),
    }
}

fn serve(launcher: &Arc<Launcher>, listener: TcpListener) -> io::Result<()> {
    let (ready, pools, explain) = (launcher.clone(), launcher.clone(), launcher.clone());
    let (view, known, metrics) = (launcher.clone(), launcher.clone(), launcher.clone());
    let frame = launcher.frame();
    let sources = web::WebState {
        records: web::read_cache(frame.zk.clone()),
        clock: frame.ambient.clock.clone(),
        readiness: Arc::new(move || ready.readiness()),
        metrics: Arc::new(move || metrics.metrics()),
        pools: Arc::new(move || pools.pool_list()),
        history: history_of(launcher),
        explain: web::Explain {
            explain: Arc::new(move |subjects| {
                let launcher = explain.clone();
                Box::pin(async move { launcher.explain(&subjects).await })
            }),
            views: Arc::new(move |subjects| {
                let launcher = view.clone();
                Box::pin(async move { launcher.views_of(&subjects).await })
            }),
            is_known: Arc::new(move || known.knows_records()),
            at_once: Arc::new(Semaphore::new(EXPLANATIONS_AT_ONCE)),
            long_views: Arc::new(Semaphore::new(LONG_VIEWS_AT_ONCE)),
        },
        overview: overview(launcher),
    };
    let listener = listener.into_std()?;
    frame.serve("HTTP server", |end| async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => web::serve(listener, sources, end).await,
            Err(error) => error!(logger = WEB_LOGGER, "The HTTP server cannot use its socket: {error}"),
        }
    })
}
