//! A YAML document as a tree that still knows where each value stands.
//!
//! serde-saphyr's own deserialisation loses the places of nested values and the text of scalars, so the tree is built
//! from its parser's events. Aliases share what is below their node; `<<` is merged as PyYAML does (the mapping's own keys win,
//! wherever they stand; of several merged mappings in a list the first wins). Of equal keys the last wins, with a
//! note that gives both places. What an alias would expand to is counted and bounded, so that a few lines of YAML
//! cannot make the walkers run for ever.

mod characters;
mod digits;
mod hints;
mod mark;
mod scalar;
mod tabs;

use std::{
    collections::HashMap,
    ops::{Range, RangeInclusive},
    rc::Rc,
};

pub use characters::{Odd, is_invisible, meant as meant_characters};
pub use digits::digits;
pub use hints::without_space;
pub use mark::{Mark, Problem, WhichFile};
pub use scalar::{Meaning, is_plain_text, whole};
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, Span, Tag, options};
pub use tabs::advice as advice_on_tabs;

use super::names;

/// Nodes that a file may have once its aliases are expanded: a large installation has some ten thousand.
const MOST_NODES: usize = 1_000_000;
/// How deep a file may nest once its aliases are expanded. A Nodepool configuration is some ten levels deep.
const DEEPEST: usize = 128;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// Where it begins.
    pub at: Mark,
    size: usize,
    depth: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value {
    /// A scalar: its meaning, and its text as written (quotes and escapes undone).
    Scalar(Meaning, String),
    /// A sequence.
    List(Vec<Rc<Node>>),
    /// A mapping, merged, each key once.
    Map(Vec<Entry>),
}

impl Node {
    /// Whether it is `~`, `null` or nothing.
    pub const fn is_null(&self) -> bool {
        matches!(self.value, Value::Scalar(Meaning::Null, _))
    }

    /// Whether it is a number above 0.
    pub const fn is_above_0(&self) -> bool {
        match self.value {
            Value::Scalar(Meaning::Int(value), _) => value > 0,
            Value::Scalar(Meaning::Float(value) | Meaning::BigInt(value), _) => value > 0.0,
            _ => false,
        }
    }

    /// The text of a scalar that is a text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(Meaning::Text, text) => Some(text),
            _ => None,
        }
    }

    /// The entries of a mapping.
    pub fn entries(&self) -> Option<&[(Rc<Self>, Rc<Self>)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn items(&self) -> Option<&[Rc<Self>]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The value of a mapping's key.
    pub fn get(&self, key: &str) -> Option<&Rc<Self>> {
        self.entries()?.iter().find(|(name, _)| name.as_text() == Some(key)).map(|(_, value)| value)
    }

    /// What it is, for messages: ``the text `ten` ``.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
            Value::Scalar(meaning, text) => {
                let kind = match meaning {
                    Meaning::Null => return "nothing".to_owned(),
                    Meaning::Bool(_) => "the boolean",
                    Meaning::Int(_) | Meaning::BigInt(_) => "the whole number",
                    Meaning::Float(_) => "the number",
                    Meaning::Date => "the date",
                    Meaning::Text | Meaning::Merge => "the text",
                };
                let begin: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
                let mut shown = names::shown(&begin);
                if begin.len() < text.len() {
                    shown.push('…');
                }
                format!("{kind} `{shown}`")
            }
        }
    }

    /// Whether a copy of it costs little: what is below it is shared.
    fn is_small(&self) -> bool {
        const FEW: usize = 1000;
        self.items().map_or(0, <[_]>::len) + self.entries().map_or(0, <[_]>::len) <= FEW
    }

    /// The same at another place, where an alias stands for it; what is below it stays where it is.
    fn with_place(&self, at: Mark) -> Self {
        Self { value: self.value.clone(), at, ..*self }
    }

    /// Another value in its place.
    #[must_use]
    pub const fn with_value(&self, value: Value) -> Self {
        Self { value, at: self.at, size: self.size, depth: self.depth }
    }

    /// Whether Python would hold them for the same key of a dict.
    fn same_key(&self, other: &Self) -> bool {
        let (Value::Scalar(a, left), Value::Scalar(b, right)) = (&self.value, &other.value) else { return false };
        match (a, b) {
            (Meaning::Text, Meaning::Text) | (Meaning::Date, Meaning::Date) => left == right,
            (Meaning::Text | Meaning::Date, _) | (_, Meaning::Text | Meaning::Date) => false,
            _ => a == b,
        }
    }
}

/// A key and its value.
pub type Entry = (Rc<Node>, Rc<Node>);

/// A key that stands twice in one mapping.
#[derive(Debug)]
pub struct Duplicate {
    /// The key.
    pub key: String,
    /// Where it stood first.
    pub first: Mark,
    /// What stood there.
    pub lost: Rc<Node>,
    /// What stands at the one that wins.
    pub kept: Rc<Node>,
    /// Where the one stands that wins.
    pub last: Mark,
}

/// A document and what was odd about it.
#[derive(Debug)]
pub struct Document {
    /// `None`: no document at all, only comments and blanks.
    pub root: Option<Rc<Node>>,
    /// Keys that stand twice.
    pub duplicates: Vec<Duplicate>,
    /// The tabs that Python's parser refuses.
    pub tabs: Vec<Mark>,
    /// Characters that are not what they look like.
    pub odd: Vec<Odd>,
    /// The lines of block scalars.
    pub blocks: Vec<RangeInclusive<usize>>,
}

/// Reads exactly one document.
pub fn parse(text: &str) -> Result<Document, Problem> {
    parse_file(text, WhichFile::Main)
}

/// The same, with the places of its values in that file.
pub fn parse_file(text: &str, file: WhichFile) -> Result<Document, Problem> {
    // As PyYAML and libyaml: no line feed is invented after a block scalar that ends the file.
    let mut options = options! { block_scalar_eof_without_line_feed: true };
    options.set_emit_comments(false);
    let mut builder = Builder { text, file, ..Builder::default() };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = event.map_err(|error| {
            let at = Mark::new(error.marker().line(), error.marker().col() + 1);
            hints::explain(text, error.kind(), at)
        })?;
        if matches!(event, Event::DocumentStart(..)) {
            documents += 1;
            if documents > 1 {
                let message = "a second YAML document begins here; the file must be a single one";
                return Err(Problem::new(mark(&span), message, "remove the line `---` or `...` before it"));
            }
        }
        builder.event(event, &span).map_err(|problem| hints::or_template(text, problem))?;
    }
    let tabs = if text.contains('\t') { tabs::refused_by_pyyaml(text, &builder.texts) } else { Vec::new() };
    let quoted: Vec<_> = builder.texts.into_iter().filter(|scalar| !builder.blocks.contains(scalar)).collect();
    let odd = characters::find(text, &quoted, &builder.blocks);
    let (root, duplicates, blocks) = (builder.root, builder.duplicates, builder.block_lines);
    Ok(Document { root, duplicates, tabs, odd, blocks })
}

fn mark(span: &Span) -> Mark {
    Mark::new(span.start.line(), span.start.col() + 1)
}

/// A collection whose end has not come yet.
struct Open {
    map: bool,
    at: Mark,
    anchor: usize,
    children: Vec<Rc<Node>>,
}

#[derive(Default)]
struct Builder<'t> {
    text: &'t str,
    file: WhichFile,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    duplicates: Vec<Duplicate>,
    /// Where quoted and block scalars stand, in characters.
    texts: Vec<Range<usize>>,
    /// Those of them that are block scalars, and their lines.
    blocks: Vec<Range<usize>>,
    block_lines: Vec<RangeInclusive<usize>>,
    /// How many entries all merges have brought in so far.
    merged: usize,
    root: Option<Rc<Node>>,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problem> {
        let at = Mark { file: self.file, ..mark(span) };
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if style != ScalarStyle::Plain {
                    let place = span.start.index()..span.end.index();
                    if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) {
                        self.blocks.push(place.clone());
                        self.block_lines.push(span.start.line()..=span.end.line());
                    }
                    self.texts.push(place);
                }
                let meaning = meaning(&text, style, tag.as_deref(), self.place_of(tag.as_deref(), at))?;
                let value = Value::Scalar(meaning, text.into_owned());
                self.close(Node { value, at, size: 1, depth: 1 }, anchor)
            }
            Event::Alias(anchor) => {
                if let Some(node) = self.anchors.get(&anchor) {
                    let node = if node.is_small() { Rc::new(node.with_place(at)) } else { Rc::clone(node) };
                    return self.place(node, at);
                }
                let message = "this alias stands within what it stands for";
                Err(Problem::new(at, message, "write what is meant, or the name of another anchor"))
            }
            Event::SequenceStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), &["seq"], self.place_of(tag.as_deref(), at))?;
                self.open.push(Open { map: false, at, anchor, children: Vec::new() });
                Ok(())
            }
            Event::MappingStart(_, anchor, tag) => {
                known_tag(tag.as_deref(), &["map"], self.place_of(tag.as_deref(), at))?;
                self.open.push(Open { map: true, at, anchor, children: Vec::new() });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else { return Ok(()) };
                let (at, anchor) = (open.at, open.anchor);
                let size = open.children.iter().fold(1_usize, |sum, child| sum.saturating_add(child.size));
                let depth = 1 + open.children.iter().map(|child| child.depth).max().unwrap_or(0);
                let value = if open.map { self.mapping(open.children)? } else { Value::List(open.children) };
                self.close(Node { value, at, size, depth }, anchor)
            }
            _ => Ok(()),
        }
    }

    /// Where the tag of a value begins; the value where it has none.
    fn place_of(&self, tag: Option<&Tag>, value: Mark) -> Mark {
        let Some(tag) = tag else { return value };
        let tag = tag.original();
        let above = self.text.split('\n').take(value.line).enumerate();
        let lines: Vec<_> = above.skip(value.line.saturating_sub(3)).collect();
        let places = lines.into_iter().rev().filter_map(|(index, line)| {
            let end = if index + 1 == value.line { value.column + tag.chars().count() } else { usize::MAX };
            let before: String = line.chars().take(end).collect();
            let column = before[..before.rfind(&tag)?].chars().count() + 1;
            Some(Mark { line: index + 1, column, ..value })
        });
        places.into_iter().next().unwrap_or(value)
    }

    /// A node is complete: remembers its anchor and hands it to its parent.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Problem> {
        let (at, node) = (node.at, Rc::new(node));
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place(node, at)
    }

    fn place(&mut self, node: Rc<Node>, at: Mark) -> Result<(), Problem> {
        if node.size > MOST_NODES || node.depth > DEEPEST {
            let message =
                format!("with its aliases expanded this is more than {MOST_NODES} values or {DEEPEST} levels");
            return Err(Problem::new(at, message, "write out what is meant, with fewer aliases"));
        }
        match self.open.last_mut() {
            Some(open) => open.children.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    /// Keys and values in turn -> entries, each key once, merges merged.
    fn mapping(&mut self, children: Vec<Rc<Node>>) -> Result<Value, Problem> {
        let mut own: Vec<Entry> = Vec::with_capacity(children.len() / 2);
        let mut index = KeyIndex::default();
        let mut merged: Vec<Entry> = Vec::new();
        let mut children = children.into_iter();
        while let (Some(key), Some(value)) = (children.next(), children.next()) {
            let Value::Scalar(meaning, text) = &key.value else {
                let help = "a key is a plain text; a bracket that is meant as it stands must be in quotes";
                return Err(Problem::new(key.at, format!("{} cannot be a key", key.describe()), help));
            };
            if *meaning == Meaning::Merge {
                merged.extend(merge_sources(&value)?);
                self.merged = self.merged.saturating_add(merged.len());
                if self.merged > MOST_NODES {
                    let message = format!("more than {MOST_NODES} keys are merged");
                    return Err(Problem::new(key.at, message, "write out what is meant, with fewer `<<`"));
                }
                continue;
            }
            match index.find(&own, &key) {
                Some(i) => {
                    let (last, name) = (key.at, text.clone());
                    let kept = Rc::clone(&value);
                    let replaced = std::mem::replace(&mut own[i], (key, value));
                    self.duplicates.push(Duplicate { key: name, first: replaced.0.at, lost: replaced.1, kept, last });
                }
                None => index.push(&mut own, (key, value)),
            }
        }
        if merged.is_empty() {
            return Ok(Value::Map(own));
        }
        let mut entries = Vec::with_capacity(merged.len() + own.len());
        let mut index = KeyIndex::default();
        for entry in merged.into_iter().chain(own) {
            match index.find(&entries, &entry.0) {
                Some(i) => entries[i] = entry,
                None => index.push(&mut entries, entry),
            }
        }
        Ok(Value::Map(entries))
    }
}

/// Finds text keys by hash: a mapping of many keys must not take quadratic time.
#[derive(Default)]
struct KeyIndex {
    texts: HashMap<String, usize>,
    others: Vec<usize>,
}

impl KeyIndex {
    fn find(&self, entries: &[Entry], key: &Node) -> Option<usize> {
        match key.as_text() {
            Some(text) => self.texts.get(text).copied(),
            None => self.others.iter().copied().find(|i| entries[*i].0.same_key(key)),
        }
    }

    fn push(&mut self, entries: &mut Vec<Entry>, entry: Entry) {
        match entry.0.as_text() {
            Some(text) => {
                self.texts.insert(text.to_owned(), entries.len());
            }
            None => self.others.push(entries.len()),
        }
        entries.push(entry);
    }
}

/// What `<<: VALUE` brings in, in the order in which later entries win.
fn merge_sources(value: &Node) -> Result<Vec<Entry>, Problem> {
    let wrong = |node: &Node| {
        let message = format!("`<<` merges a mapping or a list of mappings, not {}", node.describe());
        Problem::new(node.at, message, "write `<<: *NAME`, and `&NAME` above, before the mapping that is meant")
    };
    match &value.value {
        Value::Map(entries) => Ok(entries.clone()),
        Value::List(items) => {
            let mut all = Vec::new();
            for item in items.iter().rev() {
                all.extend_from_slice(item.entries().ok_or_else(|| wrong(item))?);
            }
            Ok(all)
        }
        Value::Scalar(..) => Err(wrong(value)),
    }
}

/// The meaning of a scalar: its tag's, else by style and form.
fn meaning(text: &str, style: ScalarStyle, tag: Option<&Tag>, at: Mark) -> Result<Meaning, Problem> {
    let plain = style == ScalarStyle::Plain;
    let Some(suffix) = known_tag(tag, &["str", "int", "float", "bool", "null", "timestamp"], at)? else {
        return Ok(match (plain && tag.is_none(), text) {
            (false, _) => Meaning::Text,
            (true, "<<") => Meaning::Merge,
            (true, _) => scalar::resolve(text),
        });
    };
    let resolved = scalar::resolve(text);
    let found = match (suffix, resolved) {
        ("str", _) => Some(Meaning::Text),
        ("null", _) => Some(Meaning::Null),
        ("int", meaning @ (Meaning::Int(_) | Meaning::BigInt(_)))
        | ("bool", meaning @ Meaning::Bool(_))
        | ("float", meaning @ Meaning::Float(_)) => Some(meaning),
        #[allow(clippy::cast_precision_loss)] // as Python's float() of an int
        ("float", Meaning::Int(value)) => Some(Meaning::Float(value as f64)),
        ("float", Meaning::BigInt(value)) => Some(Meaning::Float(value)),
        ("timestamp", Meaning::Date) => Some(Meaning::Date),
        _ => None,
    };
    found.ok_or_else(|| {
        Problem::new(
            at,
            format!("`{text}` is no value of the tag `!!{suffix}`"),
            "remove the tag, or correct the value",
        )
    })
}

/// The suffix of a tag that the configuration can use; `None` without a tag or with the bare `!`.
fn known_tag<'t>(tag: Option<&'t Tag>, known: &[&str], at: Mark) -> Result<Option<&'t str>, Problem> {
    let Some(tag) = tag else { return Ok(None) };
    if tag.original() == "!" {
        return Ok(None);
    }
    match tag.core_suffix().or_else(|| (tag.handle() == "tag:yaml.org,2002:").then(|| tag.suffix())) {
        Some(suffix) if known.contains(&suffix) => Ok(Some(suffix)),
        _ => {
            let message =
                format!("the value here begins with `{}`, which YAML takes for a tag that is unknown", tag.original());
            Err(Problem::new(at, message, "put the value in quotes if it is a text; else remove the tag"))
        }
    }
}
