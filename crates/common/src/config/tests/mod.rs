//! Our own configurations, in and out of order.

mod accepted_by_python;
mod advising;
mod duplicates;
mod extensions;
mod following;
mod habits;
mod image_builders;
mod kubernetes;
mod labels;
mod loading;
mod metastatic;
mod once;
mod pod_specs;
mod pools;
mod reloading;
mod shapes;
mod static_hosts;
mod unworkable;
mod validating;
mod yaml_as_pyyaml;
mod yaml_hints;

use super::{
    ConfigErrors, Document, Loaded, Warning, assemble,
    report::{Mode, Report},
    source::{self, Environment},
};

/// An environment of these variables.
fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::new(variables.iter().map(|(name, value)| (name.into(), value.into())))
}

fn parsed(name: &str, bytes: &[u8], env: &Environment, mode: Mode) -> (Option<Document>, Report) {
    let report = Report::new(mode, name.into());
    (source::parse(bytes, env, &report), report)
}

fn load_bytes(main: &[u8], secure: Option<&[u8]>, env: &Environment) -> Result<Loaded, ConfigErrors> {
    let (document, report) = parsed("main", main, env, Mode::Runtime);
    let secure = secure.map(|secure| parsed("secure", secure, env, Mode::Runtime));
    assemble(report, document, None, secure)
}

fn check_bytes(main: &[u8], env: &Environment) -> Result<Vec<Warning>, ConfigErrors> {
    let (document, report) = parsed("main", main, env, Mode::Strict);
    assemble(report, document, None, None).map(|loaded| loaded.warnings)
}

/// Loads at run time; panics with the errors.
fn load(text: &str) -> Loaded {
    load_bytes(text.as_bytes(), None, &Environment::default()).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The errors of a load that must fail, one per line.
fn load_errors(text: &str) -> String {
    match load_bytes(text.as_bytes(), None, &Environment::default()) {
        Ok(loaded) => panic!("loaded, but must not: {loaded:#?}"),
        Err(errors) => errors.to_string(),
    }
}

/// Validates; the warnings, one per line, but for that of a missing ZooKeeper, which most texts here have no use for. Panics
/// with the errors.
fn check(text: &str) -> String {
    let warnings = check_bytes(text.as_bytes(), &Environment::default()).unwrap_or_else(|errors| panic!("{errors}"));
    let told: Vec<_> =
        warnings.into_iter().filter(|warning| !warning.message.contains("`zookeeper-servers`")).collect();
    lines(&told)
}

/// The errors of a validation that must fail, one per line.
fn check_errors(text: &str) -> String {
    match check_bytes(text.as_bytes(), &Environment::default()) {
        Ok(_) => panic!("validates, but must not:\n{text}"),
        Err(errors) => errors.to_string(),
    }
}

fn lines(warnings: &[Warning]) -> String {
    warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// A small configuration with one of everything.
const SMALL: &str = "\
labels:
  - name: small
    min-ready: 2
diskimages:
  - {name: image, elements: [vm],
    formats: [qcow2]}
providers:
  - name: cloud
    cloud: mine
    diskimages:
      - name: image
    cloud-images:
      - name: ready-made
    pools:
      - name: main
        max-servers: 5
        labels:
          - name: small
            diskimage: image
            min-ram: 1024
";
