//! Configurations and the lines they lead to, in real files.

use std::{fs, path::Path, sync::Arc};

use serde_json::json;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

/// Runs some code with a configuration as its log, and returns the warnings about that configuration.
fn log_with(config: &Map<String, Value>, code: impl FnOnce()) -> Vec<String> {
    let (router, warnings) = config::route(config).unwrap();
    let router = Arc::new(router);
    let subscriber = tracing_subscriber::registry().with(PythonLayer::new(router.clone()));
    tracing::subscriber::with_default(subscriber, code);
    router.flush();
    warnings
}

fn file(path: &Path) -> Value {
    json!({"class": "logging.FileHandler", "filename": path, "formatter": "simple"})
}

/// A configuration that logs DEBUG of everything into a file.
fn to_file(path: &Path, format: &str) -> Map<String, Value> {
    object(json!({
        "version": 1,
        "formatters": {"simple": {"class": "nodepool.logconfig.MultiLineFormatter", "format": format}},
        "handlers": {"file": file(path)},
        "root": {"handlers": ["file"], "level": "DEBUG"},
    }))
}

/// What a format makes of what some code logs.
fn logged(format: &str, code: impl FnOnce()) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let warnings = log_with(&to_file(&path, format), code);
    assert!(warnings.is_empty(), "{warnings:?}");
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_line_is_as_pythons() {
    let text = logged(FORMAT, || tracing::info!(logger = "nodepool.PoolWorker.rdo-main", "Hello"));
    let (time, rest) = text.split_at(23);
    assert_eq!(rest, " INFO nodepool.PoolWorker.rdo-main: Hello\n");
    chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S,%3f").expect(time);
}

#[test]
fn ids_come_from_the_event_and_from_the_spans_around_it() {
    let text = logged("%(levelname)s %(name)s: %(message)s", || {
        let request =
            tracing::info_span!("request", event_id = "e1", request = "200-0000000001", node = tracing::field::Empty);
        let _in_request = request.enter();
        tracing::info!("Assigning");
        request.record("node", "0000000007");
        tracing::warn!(attempt = 2, error = "no room", "Launch failed");
        let _in_node = tracing::debug_span!("node", node = "0000000008", logger = "nodepool.NodeLauncher").entered();
        tracing::debug!(event_id = "", "Retrying");
    });
    assert_eq!(
        text,
        "INFO nodepool.common.sys.logging.tests: [e: e1] [node_request: 200-0000000001] Assigning\n\
         WARNING nodepool.common.sys.logging.tests: [e: e1] [node_request: 200-0000000001] [node: 0000000007] Launch failed attempt=2 error=\"no room\"\n\
         DEBUG nodepool.NodeLauncher: [e: e1] [node_request: 200-0000000001] [node: 0000000008] Retrying\n"
    );
}

#[test]
fn spans_below_the_level_still_annotate() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut config = to_file(&path, "%(message)s");
    config.insert("root".to_owned(), json!({"handlers": ["file"], "level": "ERROR"}));
    log_with(&config, || {
        let _span = tracing::debug_span!("node", node = "0000000007").entered();
        tracing::warn!("not this");
        tracing::error!("this");
    });
    assert_eq!(fs::read_to_string(path).unwrap(), "[node: 0000000007] this\n");
}

#[test]
fn every_line_of_a_long_message_has_the_prefix() {
    let text = logged("%(levelname)s %(name)s: %(message)s", || {
        tracing::error!(logger = "nodepool.x", node = "0000000007", "first\nsecond\n\nlast");
    });
    assert_eq!(
        text,
        "ERROR nodepool.x: [node: 0000000007] first\nERROR nodepool.x:   second\nERROR nodepool.x:   \nERROR nodepool.x:   last\n"
    );
}

#[test]
fn an_error_is_told_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("reading the record")]
    struct Outer(#[source] std::io::Error);
    let text = logged("%(message)s", || {
        let error = Outer(std::io::Error::other("disk on fire"));
        tracing::error!(error = &error as &dyn std::error::Error, "Failed");
    });
    assert_eq!(text, "Failed error=\"reading the record: disk on fire\"\n");
}

#[test]
fn formats_are_understood_as_python_does() {
    let text = logged(
        "%(levelname)-8s|%(levelno)05d|%(lineno)d|%(filename)s|%(process)d|%(node)s|%(attempt)s|%%|%(nothing)s|%x",
        || {
            tracing::info!(logger = "nodepool.x", node = "7", attempt = 3, "m");
        },
    );
    let parts = text.trim_end().split('|').collect::<Vec<_>>();
    assert_eq!(parts[..2], ["INFO    ", "00020"]);
    assert!(parts[2].parse::<u32>().unwrap() > 1);
    assert_eq!(parts[3], "tests.rs");
    assert_eq!(parts[4], std::process::id().to_string());
    assert_eq!(parts[5..], ["7", "3", "%", "", "%x"]);
}

/// The operator's template (sf-operator 0.0.68: controllers/static/nodepool/logging.yaml.tmpl) with log forwarding,
/// in its shape; to a file in place of stdout.
#[test]
fn the_operators_configuration_is_accepted_and_forwards_to_fluentd() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("console");
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let yaml = format!(
        r"
version: 1
formatters:
  console:
    class: nodepool.logconfig.MultiLineFormatter
    format: '%(asctime)s %(levelname)s %(name)s: %(message)s'
  fluent_fmt:
    '()': fluent.handler.FluentRecordFormatter
    format:
      level: '%(levelname)s'
      log: '%(name)s: %(message)s'
      labels_app: 'sf'
      labels_run: 'nodepool-launcher'
      component: nodepool
      namespace: sf
      container: launcher
handlers:
  console:
    class: logging.FileHandler
    filename: {}
    formatter: console
    level: WARN
  fluent:
    class: fluent.handler.FluentHandler
    host: 127.0.0.1
    port: {}
    tag: nodepool.launcher
    nanosecond_precision: True
    formatter: fluent_fmt
    level: INFO
loggers:
  nodepool:
    handlers: [console, fluent]
    level: INFO
    propagate: 0
root:
  handlers: [console, fluent]
  level: INFO
",
        path.display(),
        server.local_addr().unwrap().port()
    );
    let file = dir.path().join("logging.yaml");
    fs::write(&file, yaml).unwrap();
    let warnings = log_with(&read(&file).unwrap(), || {
        tracing::warn!(logger = "nodepool.NodePool", "both");
        tracing::info!(logger = "nodepool.NodePool", "forwarded");
        tracing::info!(target: "hyper::client", "noise");
    });
    assert!(warnings.is_empty(), "{warnings:?}");
    let console = fs::read_to_string(path).unwrap();
    assert!(console.ends_with("WARNING nodepool.NodePool: both\n") && console.lines().count() == 1, "{console}");
    let (mut stream, _) = server.accept().unwrap();
    let mut received = Vec::new();
    // The router is gone, and with it the forwarder: the stream ends.
    std::io::Read::read_to_end(&mut stream, &mut received).unwrap();
    let received = String::from_utf8_lossy(&received).into_owned();
    for part in
        ["nodepool.launcher", "labels_run", "nodepool-launcher", "nodepool.NodePool: both", "forwarded", "WARNING"]
    {
        assert!(received.contains(part), "{part} is missing in {received:?}");
    }
    assert!(!received.contains("noise"), "a third-party crate's INFO is not Nodepool's");
}

#[test]
fn what_is_not_known_is_named_and_left_out() {
    let config = object(json!({
        "version": 1,
        "formatters": {"f": {"class": "acme.JsonFormatter", "format": "%(message)s"}},
        "handlers": {
            "mail": {"class": "logging.handlers.SMTPHandler", "mailhost": "x"},
            "null": {"class": "logging.NullHandler", "formatter": "absent", "level": "LOUD"},
        },
        "loggers": {"nodepool": {"handlers": ["mail", "ghost"], "level": "WARN"}},
    }));
    let warnings = log_with(&config, || tracing::error!("goes nowhere")).join("\n");
    for part in ["acme.JsonFormatter", "logging.handlers.SMTPHandler", "no formatter absent", "LOUD", "\"ghost\""] {
        assert!(warnings.contains(part), "{part} is missing in {warnings}");
    }
}

#[test]
fn an_ini_file_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let (log, ini) = (dir.path().join("log"), dir.path().join("logging.conf"));
    let text = format!(
        "[loggers]\nkeys=root,nodepool\n\n[handlers]\nkeys=file,console\n\n[formatters]\nkeys=simple\n\n\
         [logger_root]\nlevel=WARNING\nhandlers=console\n\n\
         [logger_nodepool]\nlevel=DEBUG\nhandlers=file\nqualname=nodepool\npropagate=0\n\n\
         [handler_console]\nclass=StreamHandler\nargs=(sys.stdout,)\nformatter=simple\n\n\
         [handler_file]\nclass=handlers.WatchedFileHandler\nlevel=INFO\nformatter=simple\nargs=('{}',)\n\n\
         [formatter_simple]\nformat=%(levelname)s %(name)s: %(message)s\n",
        log.display()
    );
    fs::write(&ini, text).unwrap();
    let warnings = log_with(&read(&ini).unwrap(), || {
        tracing::debug!(logger = "nodepool.x", "below the handler's level");
        tracing::info!(logger = "nodepool.x", "told");
    });
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(fs::read_to_string(log).unwrap(), "INFO nodepool.x: told\n");
}

#[test]
fn a_configuration_that_cannot_be_used_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("missing.yaml");
    let error = read(&missing).unwrap_err().to_string();
    assert!(error.contains(missing.to_str().unwrap()), "{error}");
    for (name, text, part) in [
        ("broken.yaml", "version: [1", "line"),
        ("list.yaml", "- 1\n", "mapping"),
        ("x.conf", "version: 1\n", "line 1"),
        ("y.conf", "[loggers]\nkeys=root\n", "[formatters]"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        let error = read(&path).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(part), "{error}");
    }
    let config = to_file(&dir.path().join("no/such/dir/log"), "%(message)s");
    let error = config::route(&config).unwrap_err().to_string();
    assert!(error.contains("no/such/dir/log") && error.contains("create its directory"), "{error}");
}

#[test]
fn the_defaults_are_upstreams() {
    let options = |foreground, debug| LogOptions { config: None, foreground, debug, app: "nodepool-builder" };
    let handler = |options| daemon_default(&options)["handlers"]["normal"].clone();
    assert_eq!(handler(options(true, false))["stream"], "ext://sys.stdout");
    assert_eq!(handler(options(false, true))["level"], "DEBUG");
    assert_eq!(handler(options(false, false))["filename"], "/var/log/nodepool/nodepool-builder.log");
    let (router, warnings) = config::route(&daemon_default(&options(true, false))).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(router.level_of("nodepool.zk"), record::Level::INFO);
    assert_eq!(router.level_of("kazoo.client"), record::Level::WARNING);
    let (router, warnings) = config::route(&command_default(false)).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(router.level_of("nodepool.ComponentRegistry"), record::Level::WARNING);
    assert_eq!(router.level_of("nodepool.x"), record::Level::INFO);
}
