//! `diskimages` with inheritance.
//!
//! Each entry is read once, with every key optional; then each image that is not abstract is made by laying the chain
//! of its parents over the defaults, root first, and itself last. The rules of which value overrides are upstream's,
//! key by key (`nodepool 11.0.0: config.py DiskImage.setFromConfig`).
//!
//! An image's name and its formats become names of files in images-dir, and the name a part of paths in ZooKeeper. What can be
//! neither is an error in `config-validate`; daemons leave the image or the format out with a warning. Upstream takes it, and
//! fails in each pass.
//!
//! `ansible` is ours: it takes the place of `dib-cmd`. Whichever of the two an image or its nearest parent says counts;
//! of several `ansible` in a line each key is inherited by itself. Where the two stand in different files ([`super::extensions`]),
//! `ansible` is ours and `dib-cmd` what Python's builder runs: both may be said of one image.

use std::{path::PathBuf, time::Duration};

use indexmap::{IndexMap, IndexSet};

use super::{
    AnsibleBuild, Diskimage,
    advice::suggest,
    doubtful::Doubtful,
    fields::Fields,
    formats,
    image_builders::gibibytes,
    names,
    python::python_str,
    report::Report,
    shapes, unbuildable,
    yaml::{Mark, Meaning, Node, Value},
};
use crate::model::ImageName;

/// What providers may refer to.
#[derive(Debug, Default)]
pub struct Diskimages {
    /// With inheritance applied.
    pub buildable: IndexMap<ImageName, Diskimage>,
    /// Only good as parents.
    pub abstracts: IndexSet<String>,
    /// Defined, or what may be, in a way that was reported as wrong: no reason to report those who refer to them, too.
    pub unusable: IndexSet<String>,
}

/// One entry as it stands in the file.
struct Entry {
    at: Mark,
    /// Whether the file says how it is built.
    is_described: bool,
    /// Which of `elements` and `formats` were reported as misspelt or unusable.
    told: Vec<&'static str>,
    parent: Option<(String, Mark)>,
    is_abstract: bool,
    dib_cmd: Option<String>,
    pause: Option<bool>,
    elements: Vec<String>,
    formats: Vec<String>,
    keep_formats: Vec<String>,
    delete_after_upload: Option<bool>,
    release: Option<String>,
    rebuild_age: Option<Duration>,
    env_vars: IndexMap<String, String>,
    username: Option<String>,
    python_path: Option<String>,
    shell_type: Option<String>,
    build_timeout: Option<Duration>,
    metadata: IndexMap<String, String>,
    ansible: Option<Ansible>,
}

/// An `ansible` as it stands in the file.
struct Ansible {
    at: Mark,
    playbook: Option<String>,
    /// Whether `playbook` was reported as misspelt or unusable.
    has_told_playbook: bool,
    inventory: Option<String>,
    image_builder: Option<String>,
    min_free: Option<u64>,
}

/// Reads `diskimages`.
pub fn diskimages(report: &Report, top: &Fields<'_>) -> Diskimages {
    let mut entries: IndexMap<String, Entry> = IndexMap::new();
    for node in top.list("diskimages") {
        let Some((fields, name)) = Fields::named(report, node, None, "diskimage") else { continue };
        let mut entry = Entry::read(report, &fields);
        entry.is_described = top.raw("images-dir").is_some() || unbuildable::is_described(node);
        if let Some(first) = entries.get(&name) {
            let help = Some(format!("the first is at {}; the last counts", report.place(first.at)));
            report.lapse(entry.at, format!("{} is defined twice", fields.what), help);
        }
        entries.insert(name, entry);
        fields.finish();
    }
    let mut images = Diskimages::default();
    let doubtful = Doubtful::of(top, "diskimages");
    let mut told: IndexSet<&str> = IndexSet::new();
    for (name, entry) in &entries {
        let lineage = lineage(name, entry, &entries, &doubtful, &mut told, report);
        if entry.is_abstract {
            images.abstracts.insert(name.clone());
        } else if let Some(lineage) = lineage.filter(|_| is_name_usable(report, name, entry)) {
            let name = ImageName::from(name.as_str());
            let mut image = defaults(name.clone());
            let told_keys: Vec<&str> = lineage.iter().flat_map(|entry| entry.told.iter().copied()).collect();
            for entry in lineage.into_iter().rev() {
                entry.lay_over(&mut image);
            }
            finish_ansible(report, entry, &mut image);
            if entry.is_described {
                unbuildable::check(report, top, entry.at, &image, &told_keys);
            }
            images.buildable.insert(name, image);
        } else {
            images.unusable.insert(name.clone());
        }
    }
    images.unusable.extend(doubtful.into_names());
    images
}

impl Entry {
    fn read(report: &Report, fields: &Fields<'_>) -> Self {
        let dib_cmd = fields.filled("dib-cmd");
        if let Some(command) = &dib_cmd {
            unbuildable::check_command(report, fields, command);
        }
        let mut entry = Self {
            at: fields.at(),
            is_described: true,
            told: Vec::new(), // filled below
            parent: fields.filled("parent").map(|parent| (parent, fields.at_key("parent"))),
            is_abstract: fields.bool("abstract").unwrap_or(false),
            dib_cmd,
            pause: fields.bool("pause"),
            elements: fields.texts("elements").unwrap_or_default(),
            formats: formats(report, fields, "formats"),
            keep_formats: formats(report, fields, "keep-formats"),
            delete_after_upload: fields.bool("delete-after-upload"),
            release: fields.get("release").and_then(|node| release(report, fields, node)),
            rebuild_age: fields.seconds_above_0("rebuild-age", "a day"),
            env_vars: fields.text_map("env-vars").unwrap_or_default(),
            username: fields.filled("username"),
            python_path: fields.filled("python-path"),
            shell_type: fields.filled("shell-type"),
            build_timeout: fields.seconds_above_0("build-timeout", "eight hours"),
            metadata: fields.str_map("metadata").unwrap_or_default(),
            ansible: Ansible::read(report, fields),
        };
        for (key, values) in [("elements", &entry.elements), ("formats", &entry.formats)] {
            // An empty list was not told.
            let is_list = fields.raw(key).and_then(Node::items).is_some_and(<[_]>::is_empty);
            let is_by_playbook = fields.raw("ansible").is_some_and(|node| !node.is_null());
            if values.is_empty() && !is_list && (is_by_playbook || !fields.lacks(&[key])) {
                entry.told.push(key);
            }
        }
        entry
    }

    /// Lays what this entry says over what its parents said.
    fn lay_over(&self, image: &mut Diskimage) {
        fn set<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        set(&mut image.dib_cmd, self.dib_cmd.as_ref());
        image.pause |= self.pause == Some(true); // a child cannot undo it
        image.elements.extend_from_slice(&self.elements);
        set(&mut image.formats, Some(&self.formats).filter(|formats| !formats.is_empty()));
        set(&mut image.keep_formats, Some(&self.keep_formats).filter(|formats| !formats.is_empty()));
        set(&mut image.delete_after_upload, self.delete_after_upload.as_ref());
        set(&mut image.release, self.release.as_ref());
        set(&mut image.rebuild_age, self.rebuild_age.as_ref());
        image.env_vars.extend(self.env_vars.clone());
        set(&mut image.username, self.username.as_ref());
        set(&mut image.python_path, self.python_path.as_ref());
        if self.shell_type.is_some() {
            image.shell_type.clone_from(&self.shell_type);
        }
        set(&mut image.build_timeout, self.build_timeout.as_ref());
        image.metadata.clone_from(&self.metadata); // not inherited
        if let Some(ansible) = &self.ansible {
            let build = image.ansible.get_or_insert_with(|| AnsibleBuild {
                playbook: PathBuf::new(),
                inventory: None,
                image_builder: None,
                min_free: None,
            });
            ansible.lay_over(build);
        } else if self.dib_cmd.is_some() {
            image.ansible = None;
        }
    }
}

impl Ansible {
    fn read(report: &Report, image: &Fields<'_>) -> Option<Self> {
        let node = image.get("ansible")?;
        let what = format!("{}, `ansible`", image.what);
        let fields = Fields::or_help(report, node, what, |node| shapes::as_mapping_of("ansible", node))?;
        let playbook = fields.filled("playbook");
        let ansible = Self {
            at: node.at,
            has_told_playbook: playbook.is_none() && !fields.lacks(&["playbook"]),
            playbook,
            inventory: fields.filled("inventory"),
            image_builder: fields.filled("image-builder"),
            min_free: gibibytes(&fields, "min-free"),
        };
        fields.finish();
        for (key, why) in [
            ("dib-cmd", "`ansible` takes its place"),
            ("elements", "they are for disk-image-create, and a playbook gets none"),
        ] {
            // In two files they say what Python's builder runs, and what ours does.
            if image.get(key).is_some_and(|other| other.at.file == node.at.file) {
                let help = Some("leave one of the two out".to_owned());
                report.error(image.at_key(key), format!("{}: `{key}` beside `ansible`: {why}", image.what), help);
            }
        }
        Some(ansible)
    }

    fn lay_over(&self, build: &mut AnsibleBuild) {
        if let Some(playbook) = &self.playbook {
            build.playbook = playbook.into();
        }
        if let Some(inventory) = &self.inventory {
            build.inventory = Some(inventory.into());
        }
        if self.image_builder.is_some() {
            build.image_builder.clone_from(&self.image_builder);
        }
        build.min_free = self.min_free.or(build.min_free);
    }
}

/// An image that is built by a playbook has one, and no elements, whatever its parents say.
fn finish_ansible(report: &Report, entry: &Entry, image: &mut Diskimage) {
    let Some(build) = &image.ansible else { return };
    image.elements.clear();
    let is_told = entry.ansible.as_ref().is_some_and(|ansible| ansible.has_told_playbook);
    if build.playbook.as_os_str().is_empty() && !is_told {
        let at = entry.ansible.as_ref().map_or(entry.at, |ansible| ansible.at);
        let help = "give the path of the playbook that builds the image".to_owned();
        report.error(at, format!("diskimage `{}`, `ansible`: `playbook` is missing", image.name), Some(help));
    }
}

fn defaults(name: ImageName) -> Diskimage {
    Diskimage {
        name,
        dib_cmd: Diskimage::DIB_CMD.to_owned(),
        pause: false,
        elements: Vec::new(),
        formats: Vec::new(),
        keep_formats: Vec::new(),
        delete_after_upload: false,
        release: String::new(),
        rebuild_age: Duration::from_secs(24 * 60 * 60),
        env_vars: IndexMap::new(),
        username: "zuul".to_owned(),
        python_path: "auto".to_owned(),
        shell_type: None,
        build_timeout: Duration::from_secs(8 * 60 * 60),
        metadata: IndexMap::new(),
        ansible: None,
    }
}

/// A release is handed to the build as text. Upstream's schema rejects `21.04` without quotes and its daemons would
/// make `21.1` of `21.10`: we keep what is written.
fn release(report: &Report, fields: &Fields<'_>, node: &Node) -> Option<String> {
    match &node.value {
        Value::Scalar(Meaning::Bool(false) | Meaning::Int(0), _) => None, // false to Python: does not override
        Value::Scalar(Meaning::Float(_) | Meaning::Date, text) => {
            let help = Some(format!("write it in quotes: '{text}'"));
            report.warning(node.at, format!("{}: `release` should be a text", fields.what), help);
            Some(text.clone())
        }
        Value::Scalar(..) => python_str(node).filter(|text| !text.is_empty()),
        _ => {
            fields.wrong(
                node.at,
                "release",
                format!("must be a text, not {}", node.describe()),
                shapes::as_text("release", node),
            );
            None
        }
    }
}

/// The image and its parents, root last. What is wrong in a chain that ends in an image to be built is an error; in
/// one that nobody builds a missing parent is what upstream's schema rejects, and a cycle what neither notices.
fn lineage<'e>(
    name: &'e str,
    entry: &'e Entry,
    entries: &'e IndexMap<String, Entry>,
    doubtful: &Doubtful,
    told: &mut IndexSet<&'e str>,
    report: &Report,
) -> Option<Vec<&'e Entry>> {
    let mut seen = vec![name];
    let mut lineage = vec![entry];
    let mut current = entry;
    while let Some((parent, at)) = &current.parent {
        let child = seen.last().copied().unwrap_or(name);
        if seen.contains(&parent.as_str()) {
            let is_told = seen.iter().any(|name| told.contains(name));
            if entry.is_abstract || !is_told {
                let way = seen.join(" → ");
                let message = format!("diskimage `{name}`: its parents go round in a circle: {way} → {parent}");
                report.note(!entry.is_abstract, *at, message, Some("remove one `parent` of these".to_owned()));
            }
            if !entry.is_abstract {
                told.extend(seen);
            }
            return None;
        }
        let Some((parent, next)) = entries.get_key_value(parent) else {
            if !doubtful.has(parent) && (child == name || !entry.is_abstract && !report.strict()) {
                let known = entries.keys().map(String::as_str).filter(|known| *known != child);
                let help = suggest(parent, known).map(|meant| format!("did you mean `{meant}`?"));
                let message = format!("diskimage `{child}`: there is no diskimage `{parent}`, its `parent`");
                let help = help
                    .unwrap_or_else(|| format!("add it to the top-level `diskimages`, or remove `parent: {parent}`"));
                report.note(report.strict() || !entry.is_abstract, *at, message, Some(help));
            }
            return None;
        };
        seen.push(parent);
        lineage.push(next);
        current = next;
    }
    Some(lineage)
}

/// Whether files in images-dir, and the image's records, can be called by this name.
fn is_name_usable(report: &Report, name: &str, entry: &Entry) -> bool {
    let is_usable = names::is_part_of_a_path(name);
    if !is_usable {
        let name = names::shown(name);
        let message = format!("diskimage `{name}` cannot be built: files in images-dir cannot have such a name");
        let help = "call it by letters, digits, dots and dashes, without `/`".to_owned();
        report.lapse(entry.at, message, Some(help));
    }
    is_usable
}

/// What stands beside an image's file in images-dir.
const BESIDE: [&str; 3] = ["md5", "sha256", "d"];

/// Formats are a set; each is the extension of a file, by which the build's files are known.
fn formats(report: &Report, fields: &Fields<'_>, key: &'static str) -> Vec<String> {
    let texts: IndexSet<String> = fields.texts(key).unwrap_or_default().into_iter().collect();
    let is_extension = |format: &String| {
        let is_word = !format.is_empty() && format.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        let is_usable = is_word && !BESIDE.contains(&format.as_str());
        if !is_usable {
            let message = format!("{}: `{format}` in `{key}` cannot be the extension of an image's file", fields.what);
            let meant = formats::known(format.trim_start_matches(['.', '*']));
            let help = meant.map_or_else(
                || "formats are single words, as `raw`, `qcow2`, `vhd` or `tar`".to_owned(),
                |meant| format!("did you mean `{meant}`?"),
            );
            report.lapse(fields.at_key(key), message, Some(help));
        }
        is_usable
    };
    let texts: Vec<String> = texts.into_iter().filter(is_extension).collect();
    for format in &texts {
        unbuildable::check_format(report, fields.at_key(key), &fields.what, key, format);
    }
    texts
}
