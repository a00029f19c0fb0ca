//! Metastatic labels whose backing labels go round in a circle.
//!
//! A node of a metastatic label stands on one of its backing label; where that is metastatic too, on one of the next, and so
//! on. Each chain must end in a label that some other provider serves. One that comes back to where it was orders nodes of
//! itself for ever. Every fact is in the file, so this looks at its tree before providers are read, and each of these labels
//! is told about it where it is read.
//!
//! A backing label that nobody in this file serves is no error: another launcher may serve it, with a file of its own.

use std::collections::{HashMap, HashSet};

use super::{
    unserved::{items, text},
    yaml::{Mark, Node},
};

/// What goes round, by the place of each label's entry in a metastatic pool.
#[derive(Debug, Default)]
pub struct Circles(HashMap<(usize, usize), Circle>);

/// The way from a label round a circle.
#[derive(Debug)]
pub struct Circle {
    /// `a → b → a`
    pub way: String,
    /// Whether the label is the first of the circle in the file: where it is enough to tell of each circle once.
    pub is_first: bool,
}

impl Circles {
    /// The circle that the label at that place is part of, or ends in.
    pub fn at(&self, label: Mark) -> Option<&Circle> {
        self.0.get(&(label.line, label.column))
    }
}

/// Finds them in the whole file.
pub fn circles(root: &Node) -> Circles {
    let mut backing: HashMap<&str, &str> = HashMap::new();
    let mut marks = Vec::new();
    let mut served: HashSet<&str> = HashSet::new();
    for provider in items(root, "providers") {
        let is_metastatic = text(provider, "driver") == Some("metastatic")
            && !text(provider, "name").is_some_and(|name| name.starts_with("fake"));
        for pool in items(provider, "pools") {
            for label in items(pool, "labels") {
                let Some(name) = text(label, "name") else { continue };
                match text(label, "backing-label").filter(|_| is_metastatic) {
                    Some(on) => {
                        backing.insert(name, on);
                        marks.push((label.at, name));
                    }
                    None => {
                        served.insert(name);
                    }
                }
            }
            for node in items(pool, "nodes") {
                served.extend(text(node, "labels").into_iter().flat_map(str::split_whitespace));
                served.extend(items(node, "labels").filter_map(Node::as_text));
            }
        }
    }
    let mut told: HashSet<&str> = HashSet::new();
    let mut circles = Circles::default();
    for (at, name) in marks {
        let Some(chain) = chain(name, &backing, &served) else { continue };
        let is_first = chain.last() == Some(&name) && told.insert(name);
        told.extend(chain.iter().filter(|_| is_first));
        circles.0.insert((at.line, at.column), Circle { way: chain.join(" → "), is_first });
    }
    circles
}

/// The chain below a label up to where it comes back to itself, if it does.
fn chain<'a>(name: &'a str, backing: &HashMap<&'a str, &'a str>, served: &HashSet<&str>) -> Option<Vec<&'a str>> {
    let mut chain = vec![name];
    let mut current = name;
    loop {
        current = backing.get(current).filter(|on| !served.contains(**on)).copied()?;
        let is_back = chain.contains(&current);
        chain.push(current);
        if is_back {
            return Some(chain);
        }
    }
}
