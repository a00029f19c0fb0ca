//! Our own keys in a file of their own, [`NAME`].
//!
//! Python's `config-validate` refuses a `nodepool.yaml` that has a key which Nodepool 11.0.0 does not know, and where it is
//! the gate of a configuration repository, such a file never gets in. So each of our keys ([`OWN`]) can
//! stand in a second file, which has the structure of nodepool.yaml and nothing in it but these keys, beside the names of
//! what they belong to:
//!
//! ```yaml
//! image-builders: [{name: ib, host: ib.example.org}]
//! zookeeper-tls: {verify-hostname: true}
//! diskimages: [{name: my-image, ansible: {playbook: my-image.yaml}}]
//! providers: [{name: my-cluster, launch-timeout: 600}]
//! ```
//!
//! **Which file.** The first that is there counts, and no other is read: beside the configuration file, then
//! `~/config/nodepool/`, the operator's clone of the configuration repository.
//!
//! **How it is read.** Its values are put into the tree of nodepool.yaml ([`graft`]) before anything is read from that, each
//! with a [`Mark`] that says where it comes from. So the readers need not know, and errors name the right file. A key that
//! stands in both files counts as the second says, and is told with both places.
//!
//! **Names that nodepool.yaml does not have.** Launcher and builder may have independent files and share the second. An entry
//! whose provider or diskimage this configuration lacks is passed over if `nodepool.yaml` or `nodepool-builder.yaml` beside
//! the second file has it; else that is an error of `config-validate`, and a warning of the daemons.
//!
//! **When it is broken.** Nobody's gate may have looked at it, so no daemon ends for it: the one that was good last stays in
//! force, and nodepool.yaml counts as it is now. At a start there is none, and after a change of nodepool.yaml it may not fit
//! any more: then what can be used of it counts, and what the rest of it names is left alone ([`super::salvage`]).

use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    rc::Rc,
};

use super::{
    advice::{Level, suggest},
    fields::Fields,
    python::python_str,
    report::{Mode, Report},
    shapes,
    source::{self, Environment},
    yaml::{Document, Mark, Node, Value, WhichFile},
};

/// The file's name.
pub const NAME: &str = "nodepool-extensions.yaml";

/// Where the operator has its clone of the configuration repository, below the home directory.
const CLONE: &str = "config/nodepool";

/// Files beside the second one of which it may speak.
const OF_DAEMONS: [&str; 2] = ["nodepool.yaml", "nodepool-builder.yaml"];

/// A key that the readers of this module's neighbours know and Python's `config-validate` refuses.
#[derive(Debug)]
pub struct OwnKey {
    /// In which part of the file.
    pub level: Level,
    /// Its name.
    pub key: &'static str,
    /// In a provider: of which drivers.
    pub drivers: &'static [&'static str],
}

/// All of them. (`shell-type` of a diskimage is Python's own: its daemons read what its `config-validate` refuses.)
pub const OWN: [OwnKey; 5] = [
    OwnKey { level: Level::Top, key: "image-builders", drivers: &[] },
    OwnKey { level: Level::ZooKeeperTls, key: "verify-hostname", drivers: &[] },
    OwnKey { level: Level::Diskimage, key: "ansible", drivers: &[] },
    OwnKey { level: Level::Diskimage, key: "shell-type", drivers: &[] },
    OwnKey { level: Level::Provider, key: "launch-timeout", drivers: &["kubernetes", "openshift", "openshiftpods"] },
];

/// Our keys in a part of the file; of a provider, with its driver.
fn own_keys(level: Level, driver: Option<&str>) -> Vec<&'static str> {
    let fits = |own: &&OwnKey| own.level == level && driver.is_none_or(|driver| own.drivers.contains(&driver));
    OWN.iter().filter(fits).map(|own| own.key).collect()
}

/// Where the second file of a configuration may be; the first that is there counts.
pub fn candidates(config: &Path, home: Option<&OsStr>) -> Vec<PathBuf> {
    let beside = config.with_file_name(NAME);
    let home = home.filter(|home| !home.is_empty());
    let clone = home.map(|home| Path::new(home).join(CLONE).join(NAME));
    std::iter::once(beside).chain(clone).collect()
}

/// [`candidates`] of this process.
pub fn places(config: &Path) -> Vec<PathBuf> {
    candidates(config, std::env::var_os("HOME").as_deref())
}

/// The second file of a configuration, if there is one.
pub fn find(config: &Path) -> Option<PathBuf> {
    first_of(&places(config))
}

/// The first that is there. One that cannot be looked at is there: reading it will tell.
pub fn first_of(places: &[PathBuf]) -> Option<PathBuf> {
    let is_there = |path: &&PathBuf| match fs::metadata(path) {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
    };
    places.iter().find(is_there).cloned()
}

/// The second file as it was read at some time.
#[derive(Clone, Debug)]
pub struct Extensions {
    /// Where it is.
    pub path: PathBuf,
    /// Its bytes, or why they could not be read.
    content: Result<Vec<u8>, String>,
}

impl Extensions {
    /// Reads it.
    pub fn read(path: PathBuf) -> Self {
        let content = fs::read(&path).map_err(|error| error.to_string());
        Self { path, content }
    }

    /// Whether that word stands in it, outside of comments.
    pub fn mentions(&self, word: &str) -> bool {
        let Ok(bytes) = &self.content else { return false };
        let text = String::from_utf8_lossy(bytes);
        text.lines().any(|line| line.split('#').next().unwrap_or_default().contains(word))
    }

    /// Parses it; what is odd about it is in the report.
    pub fn parse(&self, mode: Mode, env: &Environment) -> Parsed {
        let report = Report::new(mode, self.path.to_string_lossy().into());
        let document = match &self.content {
            Ok(bytes) => source::parse_file(bytes, WhichFile::Extensions, env, &report),
            Err(error) => {
                let help = "let the user that this runs as read it, or take it away".to_owned();
                report.error(Mark::default(), format!("cannot read this file: {error}"), Some(help));
                None
            }
        };
        Parsed { document, report, directory: self.path.parent().map(Path::to_owned) }
    }
}

/// The second file, parsed.
#[derive(Debug)]
pub struct Parsed {
    /// `None`: it could not be, as the report says.
    pub document: Option<Document>,
    /// What was found in it.
    pub report: Report,
    /// Where its neighbours are looked for.
    pub directory: Option<PathBuf>,
}

/// Warns of each of our keys in nodepool.yaml itself, for whom Python's `config-validate` would keep from merging it.
pub fn note_own_keys(report: &Report, root: &Node) {
    let note = |node: &Node, what: &str, level: Level, driver: Option<&str>, example: &dyn Fn(&str) -> String| {
        let own = own_keys(level, driver);
        for (key, _) in node.entries().unwrap_or_default() {
            if let Some(name) = key.as_text().filter(|name| own.contains(name)) {
                let message = format!("{what}: Python Nodepool's config-validate refuses a file that has `{name}`");
                let help = format!("where that matters, move it: {} in {NAME} beside this file", example(name));
                report.warning(key.at, message, Some(help));
            }
        }
    };
    note(root, "the configuration", Level::Top, None, &|key| format!("`{key}: …`"));
    if let Some(tls) = root.get("zookeeper-tls") {
        note(tls, "`zookeeper-tls`", Level::ZooKeeperTls, None, &|key| format!("`zookeeper-tls: {{{key}: …}}`"));
    }
    for (list, kind, level) in
        [("diskimages", "diskimage", Level::Diskimage), ("providers", "provider", Level::Provider)]
    {
        for item in root.get(list).and_then(|node| node.items()).unwrap_or_default() {
            let name = text(item, "name").unwrap_or("?");
            let driver = (level == Level::Provider).then(|| driver_of(item));
            let example = |key: &str| format!("`{list}: [{{name: {name}, {key}: …}}]`");
            note(item, &format!("{kind} `{name}`"), level, driver, &example);
        }
    }
}

/// The first file's tree with what the second says. `report`: the first's, which from now on knows both files' names.
pub fn graft(report: &Report, main: &Rc<Node>, second: &Parsed) -> Rc<Node> {
    let own = &second.report;
    report.extended_by(own);
    let Some(root) =
        second.document.as_ref().and_then(|document| document.root.as_ref()).filter(|root| !root.is_null())
    else {
        return Rc::clone(main); // not read, or nothing but comments
    };
    let Some(top) = Fields::of(own, root, "this file") else { return Rc::clone(main) };
    let graft = Graft { report, own, directory: second.directory.as_deref() };
    let mut merged = Rc::clone(main);
    for (key, value) in top.rest() {
        merged = match key.as_text() {
            Some("image-builders") => graft.key(&merged, key, value, "the configuration"),
            Some("zookeeper-tls") => graft.zookeeper_tls(&merged, key, value),
            Some("diskimages") => graft.list(&merged, key, value, "diskimage", Level::Diskimage),
            Some("providers") => graft.list(&merged, key, value, "provider", Level::Provider),
            _ => {
                graft.refuse(key, "this file", &["image-builders", "zookeeper-tls", "diskimages", "providers"]);
                merged
            }
        };
    }
    merged
}

struct Graft<'a> {
    /// The first file's.
    report: &'a Report,
    /// The second file's.
    own: &'a Report,
    /// Where the second file is.
    directory: Option<&'a Path>,
}

impl Graft<'_> {
    /// `into` with one of our keys. `what`: whose key it is, for messages.
    fn key(&self, into: &Rc<Node>, key: &Rc<Node>, value: &Rc<Node>, what: &str) -> Rc<Node> {
        let name = key.as_text().unwrap_or_default();
        if value.is_null() {
            self.own.lapse(key.at, format!("{what}: `{name}` has no value"), Some("leave the key out".to_owned()));
            return Rc::clone(into);
        }
        if let Some(first) = into.get(name).filter(|first| !first.is_null()) {
            let message = format!("{what}: `{name}` stands in two files; this one counts");
            let help = format!("the other is at {}: take it out there", self.report.place(first.at));
            self.own.lapse(key.at, message, Some(help));
        }
        with_entry(into, key, value)
    }

    /// `into`, a mapping, with those of our keys that `second` has; others are refused.
    fn keys(&self, into: &Rc<Node>, second: &Node, what: &str, known: &[&str]) -> Rc<Node> {
        let mut merged = Rc::clone(into);
        for (key, value) in second.entries().unwrap_or_default() {
            match key.as_text() {
                Some("name") => {}
                Some(name) if known.contains(&name) => {
                    if name != "launch-timeout" || self.is_duration(second, what) {
                        merged = self.key(&merged, key, value, what);
                    }
                }
                _ => self.refuse(key, what, known),
            }
        }
        merged
    }

    /// Whether `launch-timeout` is one. Told here, because what is wrong within a provider's tree costs the provider.
    fn is_duration(&self, second: &Node, what: &str) -> bool {
        let part = self.own.part();
        if let Some(fields) = Fields::of(&part, second, what) {
            fields.seconds("launch-timeout");
        }
        let errors = part.take_errors();
        let is_one = errors.is_empty();
        self.own.add_errors(errors);
        is_one
    }

    fn zookeeper_tls(&self, into: &Rc<Node>, key: &Rc<Node>, second: &Node) -> Rc<Node> {
        if Fields::of(self.own, second, "`zookeeper-tls`").is_none() {
            return Rc::clone(into);
        }
        // Where the first file has none, the secure file may.
        let first =
            into.get("zookeeper-tls").filter(|first| first.entries().is_some_and(|entries| !entries.is_empty()));
        let first = first.map_or_else(|| Rc::new(second.with_value(Value::Map(Vec::new()))), Rc::clone);
        let known = own_keys(Level::ZooKeeperTls, None);
        for (name, _) in second.entries().unwrap_or_default().iter().filter(|(name, _)| name.as_text() == Some("name"))
        {
            self.refuse(name, "`zookeeper-tls`", &known);
        }
        with_entry(into, key, &self.keys(&first, second, "`zookeeper-tls`", &known))
    }

    /// A list of named things: what the second file says of each is put into those of that name.
    fn list(&self, into: &Rc<Node>, key: &Rc<Node>, second: &Node, kind: &str, level: Level) -> Rc<Node> {
        let list = key.as_text().unwrap_or_default();
        let Some(entries) = second.items() else {
            let help = Some(shapes::as_list(list, second));
            self.own.error(second.at, format!("`{list}` must be a list, not {}", second.describe()), help);
            return Rc::clone(into);
        };
        let first = into.get(list).filter(|first| !first.is_null());
        if first.is_some_and(|first| first.items().is_none()) {
            return Rc::clone(into); // the first file's readers tell
        }
        let mut items = first.and_then(|first| first.items()).unwrap_or_default().to_vec();
        let mut seen: Vec<String> = Vec::new();
        for entry in entries {
            let Some((fields, name)) = Fields::named(self.own, entry, None, kind) else { continue };
            let what = fields.what;
            if seen.contains(&name) {
                let help = "write both as one".to_owned();
                self.own.error(entry.at, format!("{what} stands twice in this file"), Some(help));
            }
            let mut is_known = false;
            for item in items.iter_mut().filter(|item| text(item, "name") == Some(&name)) {
                let driver = (level == Level::Provider).then(|| driver_of(item));
                *item = self.keys(item, entry, &what, &own_keys(level, driver));
                is_known = true;
            }
            if !is_known {
                self.missing(entry, &what, &name, list, &items);
                let nothing = Rc::new(entry.with_value(Value::Map(Vec::new())));
                self.keys(&nothing, entry, &what, &own_keys(level, None));
            }
            seen.push(name);
        }
        match first {
            Some(first) => with_entry(into, key, &Rc::new(first.with_value(Value::List(items)))),
            None => Rc::clone(into),
        }
    }

    /// Tells of something that is no key of ours. `known`: those that there are.
    fn refuse(&self, key: &Node, what: &str, known: &[&str]) {
        let name = python_str(key).unwrap_or_default();
        let message =
            format!("{what}: `{name}` cannot stand in this file, which is for keys that Python Nodepool does not have");
        let meant = suggest(&name, known.iter().copied()).map(|meant| format!("did you mean `{meant}`? "));
        let others = match known {
            [] => "here there are none".to_owned(),
            known => format!("here these are: {}", known.join(", ")),
        };
        let help = format!("{}{others}; all else stands in {}", meant.unwrap_or_default(), self.report.file());
        self.own.lapse(key.at, message, Some(help));
    }

    /// Tells of an entry whose thing the first file does not have, unless the other daemon's file has it.
    fn missing(&self, entry: &Node, what: &str, name: &str, list: &str, items: &[Rc<Node>]) {
        let mut known: Vec<String> = items.iter().filter_map(|item| text(item, "name")).map(str::to_owned).collect();
        let mut files = vec![self.report.file().to_owned()];
        for file in OF_DAEMONS {
            let Some(path) = self.directory.map(|directory| directory.join(file)) else { continue };
            match names(&path, list) {
                Ok(Some(names)) => {
                    known.extend(names);
                    let path = path.to_string_lossy().into_owned();
                    if !files.contains(&path) {
                        files.push(path);
                    }
                }
                Ok(None) => {}
                Err(Unreadable) => return, // nobody knows what it has
            }
        }
        if known.iter().any(|known| known == name) {
            return;
        }
        let message = format!("{what} is not in {}", files.join(", nor in "));
        let meant = suggest(name, known.iter().map(String::as_str)).map(|meant| format!("did you mean `{meant}`?"));
        self.own.lapse(entry.at, message, meant);
    }
}

/// The file is there, and is no configuration.
struct Unreadable;

/// The names in a list of a file; `None`: there is no such file.
fn names(path: &Path, list: &str) -> Result<Option<Vec<String>>, Unreadable> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(_) => return Err(Unreadable),
    };
    let report = Report::new(Mode::Runtime, path.to_string_lossy().into());
    let document = source::parse(&bytes, &Environment::of_this_process(), &report).ok_or(Unreadable)?;
    let items = document.root.as_ref().and_then(|root| root.get(list)?.items()).unwrap_or_default();
    Ok(Some(items.iter().filter_map(|item| text(item, "name")).map(str::to_owned).collect()))
}

/// A mapping with an entry, in the place of the one of that name or at the end.
fn with_entry(map: &Rc<Node>, key: &Rc<Node>, value: &Rc<Node>) -> Rc<Node> {
    let Some(entries) = map.entries() else { return Rc::clone(map) };
    let mut entries = entries.to_vec();
    let entry = (Rc::clone(key), Rc::clone(value));
    match entries.iter().position(|(other, _)| other.as_text().is_some() && other.as_text() == key.as_text()) {
        Some(i) => entries[i] = entry,
        None => entries.push(entry),
    }
    Rc::new(map.with_value(Value::Map(entries)))
}

/// A scalar of a mapping, as it is written.
fn text<'n>(node: &'n Node, key: &str) -> Option<&'n str> {
    match &node.get(key)?.value {
        Value::Scalar(_, text) => Some(text),
        _ => None,
    }
}

/// The driver of a provider, as the readers of providers find it.
fn driver_of(provider: &Node) -> &str {
    if text(provider, "name").is_some_and(|name| name.starts_with("fake")) {
        return "fake";
    }
    text(provider, "driver").filter(|driver| !driver.is_empty()).unwrap_or("openstack")
}
