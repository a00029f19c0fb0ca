//! [`Event`]: what happened, and to what.

use serde::{Deserialize, Serialize};

use crate::{explain::Kind, model::Timestamp};

/// Characters of a text that are kept: an error of a cloud may be a whole page.
const LONGEST_TEXT: usize = 1000;
/// Bytes of an id or a name that are kept; longer ones come from nobody who means well.
const LONGEST_NAME: usize = 255;
/// How many nodes and labels of one event are kept.
const MOST_NAMES: usize = 100;

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, in seconds since the epoch.
    pub at: Timestamp,
    /// What, in a word for programs: `request-accepted`.
    pub code: String,
    /// One sentence for people.
    pub text: String,
    /// The request that it concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The nodes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<String>,
    /// The provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// The provider's pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// The labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// The diskimage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The number of its build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<String>,
}

/// An event as it is found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Its number: later ones have larger ones. With it the next page is asked for.
    pub number: u64,
    /// The host of the launcher that has it; empty in that launcher's own file.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub launcher: String,
    /// The event.
    #[serde(flatten)]
    pub event: Event,
}

impl Event {
    /// An event of no subject yet.
    pub fn new(at: Timestamp, code: &str, text: impl Into<String>) -> Self {
        Self { at, code: code.to_owned(), text: text.into(), ..Self::default() }
    }

    /// The same, with no more than is kept of one.
    #[must_use]
    pub fn bounded(mut self) -> Self {
        if let Some((end, _)) = self.text.char_indices().nth(LONGEST_TEXT) {
            self.text.truncate(end);
            self.text.push('…');
        }
        // What is written in JSON is read again as the same number: pages of different launchers meet at such times.
        self.at = (self.at * 1e6).round() / 1e6;
        self.nodes.truncate(MOST_NAMES);
        self.labels.truncate(MOST_NAMES);
        let single = [&mut self.request, &mut self.provider, &mut self.pool, &mut self.image, &mut self.build];
        for name in single.into_iter().flatten().chain(&mut self.nodes).chain(&mut self.labels) {
            let end = (0..=LONGEST_NAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end));
            name.truncate(end.unwrap_or(0));
        }
        self
    }

    /// What it is found by.
    pub fn subjects(&self) -> impl Iterator<Item = (Kind, &str)> {
        let of = |kind| {
            let (one, several): (_, &[String]) = match kind {
                Kind::Request => (self.request.as_ref(), &[]),
                Kind::Node => (None, &self.nodes),
                Kind::Label => (None, &self.labels),
                Kind::Image => (self.image.as_ref(), &[]),
                Kind::Provider => (self.provider.as_ref(), &[]),
            };
            one.into_iter().chain(several).map(move |id| (kind, id.as_str()))
        };
        Kind::ALL.into_iter().flat_map(of)
    }
}
