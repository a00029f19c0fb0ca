//! What counts of a file with our own keys that cannot be used as it is, where there is none from before that can.
//!
//! Nobody's gate may have looked at that file, so no daemon ends for it; and what it says must not be done otherwise than it
//! says, because of a mistake somewhere else in it. So it is taken apart ([`Parts`]): `image-builders`, `zookeeper-tls`, and each
//! entry of `diskimages` and `providers`. What can be used beside the first file counts. Of the rest:
//!
//! - **An image that it names is not built**, nor one that has that for a parent: it would be built by the `dib-cmd` of the first
//!   file, on this machine instead of an image-builder. Where `image-builders` cannot be used, no image is built by a playbook:
//!   on which host, and by which key that is known, is said there.
//! - **A ZooKeeper whose host name was to be verified is verified**, even if `verify-hostname` itself is not understood. A file
//!   that is no YAML is searched for the word.
//! - **A provider runs**: all that the file can say of one is how long its launches may take, and it gets the default.
//!
//! A file that is no YAML, or cannot be read, may name any image: none is built until it is mended.

use std::{collections::HashSet, fmt, rc::Rc, sync::Arc};

use super::{
    Config, Diskimage,
    extensions::{Extensions, Parsed},
    report::{ConfigErrors, Mode},
    source::Environment,
    yaml::{Document, Node, Value},
};
use crate::model::ImageName;

/// A file with our own keys that cannot be used as it is ([`extensions`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokenExtensions {
    /// All that is wrong with it, each with its place.
    pub errors: ConfigErrors,
    /// What counts in its place.
    pub instead: Instead,
}

/// What counts where the file with our own keys cannot be used as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// It as it was before.
    Before,
    /// What is right in it ([`load`]).
    Rest {
        /// The images that are not built, in the order of nodepool.yaml.
        paused: Vec<ImageName>,
        /// Whether the names of ZooKeeper's servers are verified, because it may ask for that.
        is_verified: bool,
    },
    /// Nothing of it: it cannot be read, or is no YAML.
    Nothing {
        /// All images: any may be named in it.
        paused: Vec<ImageName>,
        /// Whether the names of ZooKeeper's servers are verified, because it may ask for that.
        is_verified: bool,
    },
}

impl Instead {
    /// The images that are not built.
    pub fn paused(&self) -> &[ImageName] {
        match self {
            Self::Before => &[],
            Self::Rest { paused, .. } | Self::Nothing { paused, .. } => paused,
        }
    }
}

impl fmt::Display for BrokenExtensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("The file with the keys of our own cannot be used as it is; ")?;
        let is_verified = match self.instead {
            Instead::Before => {
                f.write_str("what it said before stays in force")?;
                false
            }
            Instead::Rest { is_verified, .. } => {
                f.write_str("what is right in it counts")?;
                is_verified
            }
            Instead::Nothing { is_verified, .. } => {
                f.write_str("nothing of it counts")?;
                is_verified
            }
        };
        if is_verified {
            f.write_str(", the host names of ZooKeeper's servers are verified because it may ask for that")?;
        }
        for (i, image) in self.instead.paused().iter().enumerate() {
            f.write_str(if i == 0 { ", and these images are not built until it can: " } else { ", " })?;
            write!(f, "{image}")?;
        }
        write!(f, ":\n{}", self.errors)
    }
}

/// A piece of the file that is of use or not by itself.
struct Part {
    key: Rc<Node>,
    value: Rc<Node>,
    /// The list that it is an item of, if it is one.
    list: Option<Rc<Node>>,
}

impl Part {
    fn is_of(&self, key: &str) -> bool {
        self.key.as_text() == Some(key)
    }
}

/// A second file, taken apart.
struct Parts<'a> {
    file: &'a Extensions,
    root: Rc<Node>,
    all: Vec<Part>,
}

impl<'a> Parts<'a> {
    /// `None`: it is no mapping, as far as it can be read at all.
    fn of(file: &'a Extensions, env: &Environment) -> Option<Self> {
        let root = file.parse(Mode::Runtime, env).document?.root?;
        let mut parts = Vec::new();
        for (key, value) in root.entries()? {
            match value.items().filter(|_| matches!(key.as_text(), Some("diskimages" | "providers"))) {
                Some(items) => parts.extend(items.iter().map(|item| Part {
                    key: Rc::clone(key),
                    value: Rc::clone(item),
                    list: Some(Rc::clone(value)),
                })),
                None => parts.push(Part { key: Rc::clone(key), value: Rc::clone(value), list: None }),
            }
        }
        Some(Self { file, root: Rc::clone(&root), all: parts })
    }

    /// The file as if it had only these parts.
    fn with(&self, parts: &[&Part], env: &Environment) -> Parsed {
        let mut entries: Vec<(Rc<Node>, Rc<Node>)> = Vec::new();
        for part in parts {
            let Some(list) = &part.list else {
                entries.push((Rc::clone(&part.key), Rc::clone(&part.value)));
                continue;
            };
            if let Some((_, whole)) = entries.iter_mut().find(|(key, _)| key.at == part.key.at) {
                let items = whole.items().unwrap_or_default().iter().chain([&part.value]).map(Rc::clone).collect();
                *whole = Rc::new(whole.with_value(Value::List(items)));
            } else {
                let whole = Rc::new(list.with_value(Value::List(vec![Rc::clone(&part.value)])));
                entries.push((Rc::clone(&part.key), whole));
            }
        }
        let parsed = self.file.parse(Mode::Runtime, env);
        let root = Rc::new(self.root.with_value(Value::Map(entries)));
        let document = parsed.document.map(|document| Document { root: Some(root), ..document });
        Parsed { document, ..parsed }
    }
}

/// Loads with what can be used of the second file, by `load`; `None`: the first cannot be used by itself. `parents`: each of its
/// diskimages with its parent, if it has one; `config`: the configuration in what is loaded.
pub fn load<L, E>(
    second: &Extensions,
    env: &Environment,
    parents: &[(String, Option<String>)],
    config: impl Fn(&mut L) -> &mut Arc<Config>,
    load: impl Fn(Option<Parsed>) -> Result<L, E>,
) -> Option<(L, Instead)> {
    let mut loaded = load(None).ok()?;
    let Some(parts) = Parts::of(second, env) else {
        let config = Arc::make_mut(config(&mut loaded));
        let is_verified = verify(config, second.mentions("verify-hostname"));
        let paused = pause(config, |_| true);
        return Some((loaded, Instead::Nothing { paused, is_verified }));
    };
    let (mut good, mut bad): (Vec<&Part>, Vec<&Part>) = (Vec::new(), Vec::new());
    for part in &parts.all {
        good.push(part);
        match load(Some(parts.with(&good, env))) {
            Ok(with) => loaded = with,
            Err(_) => bad.extend(good.pop()),
        }
    }
    let is_bad = |key: &str| bad.iter().any(|part| part.is_of(key));
    // What has no name that can be read may be any of them.
    let named = |part: &&Part| part.value.get("name").and_then(|name| name.as_text()).map(str::to_owned);
    let images: Option<HashSet<String>> = bad.iter().filter(|part| part.is_of("diskimages")).map(named).collect();
    let by_playbook = is_bad("image-builders");
    let is_paused = |image: &Diskimage| {
        let is_named = |name: &str| images.as_ref().is_none_or(|images| images.contains(name));
        (by_playbook && image.ansible.is_some()) || lineage(image.name.as_str(), parents).any(is_named)
    };
    let config = Arc::make_mut(config(&mut loaded));
    let is_verified = verify(config, is_bad("zookeeper-tls"));
    let paused = pause(config, is_paused);
    Some((loaded, Instead::Rest { paused, is_verified }))
}

/// An image and its parents.
fn lineage<'p>(image: &'p str, parents: &'p [(String, Option<String>)]) -> impl Iterator<Item = &'p str> {
    let parent =
        |name: &&'p str| parents.iter().find(|(child, _)| child == name).and_then(|(_, parent)| parent.as_deref());
    // Circles are told elsewhere; no chain is longer than all images.
    std::iter::successors(Some(image), parent).take(parents.len() + 1)
}

/// Pauses images, and names them.
fn pause(config: &mut Config, is_paused: impl Fn(&Diskimage) -> bool) -> Vec<ImageName> {
    let images = config.diskimages.values_mut().filter(|image| is_paused(image));
    images
        .map(|image| {
            if !image.pause {
                Arc::make_mut(image).pause = true;
            }
            image.name.clone()
        })
        .collect()
}

/// Has the host names of ZooKeeper's servers verified, if that may have been asked for; whether that makes a difference.
fn verify(config: &mut Config, is_asked_for: bool) -> bool {
    match &mut config.zookeeper.tls {
        Some(tls) if is_asked_for && !tls.verify_hostname => {
            tls.verify_hostname = true;
            true
        }
        _ => false,
    }
}

/// The diskimages of the first file, each with its parent.
pub fn parents(root: Option<&Node>) -> Vec<(String, Option<String>)> {
    let items = root.and_then(|root| root.get("diskimages")?.items()).unwrap_or_default();
    let text = |item: &Node, key: &str| item.get(key).and_then(|value| value.as_text()).map(str::to_owned);
    items.iter().filter_map(|item| Some((text(item, "name")?, text(item, "parent")))).collect()
}
