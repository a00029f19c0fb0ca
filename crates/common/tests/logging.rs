//! Logging set up for a whole process, which can be done once only.

use std::fs;

use nodepool_common::sys::logging::{LogError, LogOptions, init};

#[test]
fn a_process_logs_its_own_events_and_the_log_crates_records_to_the_configured_place() {
    let dir = tempfile::tempdir().unwrap();
    let (log, config) = (dir.path().join("log"), dir.path().join("logging.yaml"));
    let yaml = format!(
        "version: 1
formatters:
  simple: {{class: nodepool.logconfig.MultiLineFormatter, format: '%(levelname)s %(name)s: %(message)s'}}
handlers:
  file: {{class: logging.handlers.WatchedFileHandler, filename: {}, formatter: simple}}
  mail: {{class: logging.handlers.SMTPHandler}}
root: {{handlers: [file], level: INFO}}
",
        log.display()
    );
    fs::write(&config, yaml).unwrap();
    let options = LogOptions { config: Some(config), foreground: true, debug: true, app: "nodepool" };
    let guard = init(&options).unwrap();
    tracing::info!(logger = "nodepool.NodePool", request = "200-0000000001", "Started");
    tracing::debug!(logger = "nodepool.NodePool", "-d has no effect together with -l");
    log::info!(target: "russh::client", "noise");
    log::warn!(target: "russh::client", "worth knowing");
    drop(guard);
    assert_eq!(
        fs::read_to_string(log).unwrap(),
        "WARNING nodepool.logconfig: Logging configuration: handler mail: class logging.handlers.SMTPHandler is not \
         known; its records go nowhere\n\
         INFO nodepool.NodePool: [node_request: 200-0000000001] Started\n\
         WARNING paramiko.russh.client: worth knowing\n"
    );
    assert!(matches!(init(&options), Err(LogError::Twice)));
}
