//! `nodepool.yaml` -> [`Config`].
//!
//! ```text
//!   bytes --source--> text --yaml--> tree with places --extensions--> tree --fields--> Config
//!          UTF-8,           PyYAML's                     our own keys,       global, diskimages, providers, openstack:
//!          %(NODEPOOL_X)    YAML 1.1                     from their file     defaults, inheritance, cross references
//! ```
//!
//! Two readings of the same walkers, told apart by the report's mode: [`load`] is the daemons' (what upstream's would
//! ignore or take as it comes is a warning, and an error within a provider breaks that provider only), [`validate`]
//! that of `nodepool config-validate` (strict as upstream's schema). Both find all errors, not only the first, and
//! say where each stands. Where upstream's schema rejects what its daemons use without harm, we accept it.
//!
//! What the files import of each other goes one way, from a row to rows above it, but for one call: `advice` learns which keys
//! there are from the readers, run over one of everything.
//!
//! | | what it has |
//! |---|---|
//! | `types` `left_out` | the result; what is left out of it |
//! | `level` `suggest` `formats` `units` | parts of the file, and what was probably meant |
//! | `yaml` | a file as a tree with places |
//! | `report` `names` `duplicates` `source` | what is found; names in messages; from bytes to text |
//! | `shapes` `zookeeper_texts` `python` | values that are written in another shape |
//! | `aliases` `synonyms` `advice` | keys that a part of the file does not have |
//! | `fields` `numbers` `collections` | a mapping, read key by key |
//! | `doubtful` `unserved` `backing` | what parts say of each other |
//! | `addresses` `image_builders` `connections` `unbuildable` `diskimages` `zookeeper_servers` `global` | the top-level keys |
//! | `provider_parts` | what the readers of all drivers use |
//! | `openstack` `kubernetes` `metastatic` `static_hosts` `unbuilt` | those readers, with `kubernetes_*` below theirs |
//! | `providers` | which of them reads a provider |
//! | `extensions` `salvage` | the file with our own keys; what counts of one that cannot be used as it is |
//! | this file, then `reload` `keeping` `diff` | a configuration; another one in its place |
//!
//! [`Watcher`] tells when the files have changed and are whole again; [`diff`] what that means for the providers.

mod addresses;
mod advice;
mod aliases;
mod backing;
mod collections;
mod connections;
mod diff;
mod diskimages;
mod doubtful;
mod duplicates;
pub mod extensions;
mod fields;
mod formats;
mod global;
mod image_builders;
mod keeping;
mod kubernetes;
mod kubernetes_forms;
mod kubernetes_names;
mod kubernetes_spec;
mod left_out;
mod level;
mod metastatic;
mod names;
mod numbers;
mod openstack;
mod provider_parts;
mod providers;
mod python;
mod reload;
mod report;
mod salvage;
mod shapes;
mod source;
mod static_hosts;
mod suggest;
mod synonyms;
mod types;
mod unbuildable;
mod unbuilt;
mod units;
mod unserved;
pub mod yaml;
mod zookeeper_servers;
mod zookeeper_texts;

#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

pub use diff::{Diff, diff, same as same_provider};
use diskimages::Diskimages;
use doubtful::Doubtful;
use extensions::{Extensions, Parsed};
use fields::Fields;
use left_out::Broken;
pub use left_out::{BrokenPart, BrokenProvider, Part};
use level::Level;
use provider_parts::Scope;
use providers::Providers;
pub use reload::{Poll, Watcher};
pub use report::{ConfigError, ConfigErrors, Warning};
use report::{Mode, Report};
pub use salvage::{BrokenExtensions, Instead};
use source::Environment;
pub use suggest::suggest;
pub use types::*;
use yaml::{Document, Mark, Node};

/// A configuration that can run.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What it says, without the broken providers.
    pub config: Arc<Config>,
    /// What was read but is hardly what was meant.
    pub warnings: Vec<Warning>,
    /// Providers that cannot run as they are configured.
    pub broken_providers: Vec<BrokenProvider>,
    /// Pools, labels and hosts of other providers that cannot be used as they are configured, in the order of the file.
    pub broken_parts: Vec<BrokenPart>,
    /// The file with our own keys, where there is one.
    pub extensions: Option<PathBuf>,
    /// What is wrong with it, where it does not count as it is now.
    pub broken_extensions: Option<BrokenExtensions>,
}

/// Loads the configuration as the daemons do: `path`, what the file with our own keys adds to it ([`extensions`]), and what a
/// secure file overrides in it.
///
/// Errors outside of providers are returned, all of them; those within one only leave it out
/// ([`Loaded::broken_providers`]), those within a pool, a label of a pool or a static host only that
/// ([`Loaded::broken_parts`]). Those of the file with our own keys leave that out
/// ([`Loaded::broken_extensions`]).
pub fn load(path: &Path, secure: Option<&Path>) -> Result<Loaded, ConfigErrors> {
    load_with(path, secure, extensions::find(path).map(Extensions::read).as_ref(), None)
}

/// The same with that file of our own keys. `before`: the one that counts if it cannot be used.
fn load_with(
    path: &Path,
    secure: Option<&Path>,
    second: Option<&Extensions>,
    before: Option<&Extensions>,
) -> Result<Loaded, ConfigErrors> {
    let env = Environment::of_this_process();
    let attempt = |second: Option<Parsed>| {
        let report_of = |path| self::report(path, Mode::Runtime);
        let (report, secure_report) = (report_of(path), secure.map(report_of));
        let main = source::read(path, &env, &report);
        let secure = secure.zip(secure_report).map(|(path, report)| (source::read(path, &env, &report), report));
        assemble(report, main, second, secure)
    };
    let parsed = |file: &Extensions| file.parse(Mode::Runtime, &env);
    let first = attempt(second.map(parsed));
    let loaded = match (first, second) {
        (Err(errors), Some(second)) => {
            let whole = before.and_then(|before| attempt(Some(parsed(before))).ok());
            let found = whole.map(|loaded| (loaded, Instead::Before)).or_else(|| {
                let main = source::read(path, &env, &self::report(path, Mode::Runtime)).and_then(|main| main.root);
                let parents = salvage::parents(main.as_deref());
                salvage::load(
                    before.unwrap_or(second),
                    &env,
                    &parents,
                    |loaded: &mut Loaded| &mut loaded.config,
                    attempt,
                )
            });
            // Without it, or with other parts of it: so what is wrong is known to be in it.
            let Some((mut loaded, instead)) = found else { return Err(errors) };
            loaded.broken_extensions = Some(BrokenExtensions { errors, instead });
            Ok(loaded)
        }
        (first, _) => first,
    };
    loaded.map(|loaded| Loaded { extensions: second.map(|second| second.path.clone()), ..loaded })
}

/// Checks a configuration as `nodepool config-validate` does: that file, and `extensions` with it, without its secure file,
/// without any cloud, with whatever environment there is: so the operator's check of a change runs it.
pub fn validate(path: &Path, extensions: Option<&Path>) -> Result<Vec<Warning>, ConfigErrors> {
    let env = Environment::of_this_process();
    let report = report(path, Mode::Strict);
    let main = source::read(path, &env, &report);
    let second = extensions.map(|path| Extensions::read(path.to_owned()).parse(Mode::Strict, &env));
    assemble(report, main, second, None).map(|loaded| loaded.warnings)
}

fn report(path: &Path, mode: Mode) -> Report {
    Report::new(mode, path.to_string_lossy().into())
}

/// From documents to a configuration. `None` for a document: it could not be read, as its report says.
fn assemble(
    report: Report,
    main: Option<Document>,
    second: Option<extensions::Parsed>,
    secure: Option<(Option<Document>, Report)>,
) -> Result<Loaded, ConfigErrors> {
    let (secure_document, secure_report) = secure.map_or((None, None), |(document, report)| (document, Some(report)));
    let mut loaded = None;
    if let Some(mut root) = main.and_then(|document| root(&report, document)) {
        if report.strict() {
            extensions::note_own_keys(&report, &root);
        }
        if let Some(second) = &second {
            root = extensions::graft(&report, &root, second);
        }
        let secure_root = secure_document.and_then(|document| document.root).filter(|root| !root.is_null());
        let secure = secure_root.as_deref().zip(secure_report.as_ref());
        let secure = secure.and_then(|(root, report)| Some((report, Fields::of(report, root, "the secure file")?)));
        loaded = build(&report, &root, secure);
    }
    for other in second.map(|second| second.report).into_iter().chain(secure_report) {
        report.absorb(other);
    }
    let place = report.place(Mark::default());
    let warnings = report.finish()?;
    let (config, broken) = loaded.ok_or_else(|| {
        ConfigErrors::from(ConfigError { place, message: "the configuration cannot be used".to_owned(), help: None })
    })?;
    let Broken { providers: broken_providers, parts: broken_parts } = broken;
    let config = Arc::new(config);
    let (extensions, broken_extensions) = (None, None);
    Ok(Loaded { config, warnings, broken_providers, broken_parts, extensions, broken_extensions })
}

/// The document's root. An empty file is an error, as for upstream: more likely lost than meant.
fn root(report: &Report, document: Document) -> Option<std::rc::Rc<Node>> {
    let root = document.root.filter(|root| !root.is_null());
    if root.is_none() {
        let help = "is it the right file? A configuration has `zookeeper-servers`, `labels` and `providers`";
        report.error(Mark::new(1, 1), "the configuration is empty", Some(help.to_owned()));
    }
    root
}

fn build(report: &Report, root: &Node, secure: Option<(&Report, Fields<'_>)>) -> Option<(Config, Broken)> {
    let help = |_: &Node| {
        "is it the right file? A configuration has keys: `zookeeper-servers:`, `labels:`, `providers:`".to_owned()
    };
    let top = Fields::or_help(report, root, "the configuration", help)?.on(Level::Top);
    if let Some((at, key)) = advice::before_version_3(root) {
        let message = format!("this is a configuration for Nodepool before 3.0, as `{key}` and its labels show");
        let help = "labels and providers have to be written anew, as `labels: [{name: LABEL}]` and `providers: [{name: NAME, \
                    driver: openstack, cloud: CLOUD, cloud-images: [{name: IMAGE}], pools: [{name: main, max-servers: 10, \
                    labels: [{name: LABEL, cloud-image: IMAGE, min-ram: 8192}]}]}]`; how to log in to clouds stands in \
                    clouds.yaml now; the other keys that are not known any more are left out";
        // Before all else, also where the other lines are told.
        report.lapse(if report.strict() { at } else { root.at }, message, Some(help.to_owned()));
        if report.strict() {
            return None; // each of its other lines would be told as wrong, too
        }
    }
    let has = |key: &str| root.get(key).is_some();
    if report.strict() && has("clouds") && !["labels", "providers", "diskimages"].into_iter().any(has) {
        let help = "name the configuration of Nodepool, nodepool.yaml: `-c FILE`; a clouds.yaml is found by itself, as \
                    openstacksdk does";
        report.error(root.at, "this is a clouds.yaml, as `clouds` shows", Some(help.to_owned()));
        return None; // its keys would be told as wrong, one by one
    }
    let mut diskimages = diskimages::diskimages(report, &top);
    if let Some((secure_report, secure)) = &secure {
        global::secure_env_vars(secure_report, secure, &mut diskimages);
    }
    let labels = global::labels(report, &top);
    unserved::check(report, root);
    let circles = backing::circles(root);
    let doubtful_labels = Doubtful::of(&top, "labels");
    let scope =
        Scope { labels: &labels, doubtful_labels: &doubtful_labels, diskimages: &diskimages, circles: &circles };
    let Providers { good, broken } = providers::providers(report, &top, &scope);
    let zookeeper = global::zookeeper(report, &top, secure.as_ref().map(|(report, fields)| (*report, fields)));
    zookeeper_servers::check_that_there_are(report, &top, root, &zookeeper.servers);
    let config = Config {
        webapp: global::webapp(report, &top),
        elements_dir: top.filled("elements-dir").map(Into::into),
        images_dir: top.filled("images-dir").map(Into::into),
        build_log_dir: top.filled("build-log-dir").map(Into::into),
        build_log_retention: top.int("build-log-retention").unwrap_or(7),
        zookeeper,
        max_hold_age: top
            .number("max-hold-age", true)
            .filter(|age| *age > 0.0 && age.is_finite())
            .and_then(|age| top.duration("max-hold-age", age)),
        tenant_limits: global::tenant_limits(report, &top),
        labels,
        image_builders: image_builders::image_builders(report, &top),
        diskimages: diskimages.buildable.into_iter().map(|(name, image)| (name, Arc::new(image))).collect(),
        broken_providers: broken.providers.iter().map(|broken| broken.name.clone()).collect(),
        providers: good,
    };
    top.finish();
    if let Some((_, secure)) = secure {
        secure.finish();
    }
    Some((config, broken))
}
