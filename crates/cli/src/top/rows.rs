//! What is shown, as rows of cells: made of an overview and of lists when they come, apart from the screen. All texts in them are
//! [clean](super::clean), and all sentences are the explanations'.

use std::collections::{BTreeMap, HashMap};

use nodepool_common::{
    explain::{Kind, Subject, Verdict},
    history,
    model::Timestamp,
    overview::{Amount, OpenRequest, Overview, ProviderSeen, lists::List},
};
use serde_json::Value;

use super::clean;

/// What can be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All requests, with what they wait for.
    Requests,
    /// Providers with their quotas.
    Providers,
    /// All nodes.
    Nodes,
    /// Images.
    Images,
    /// What has happened.
    Activity,
    /// What somebody has to do something about.
    Attention,
}

impl View {
    /// In the order of their numbers.
    pub const ALL: [Self; 6] =
        [Self::Requests, Self::Providers, Self::Nodes, Self::Images, Self::Activity, Self::Attention];

    /// Its place among [`View::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Requests => "Requests",
            Self::Providers => "Providers",
            Self::Nodes => "Nodes",
            Self::Images => "Images",
            Self::Activity => "Activity",
            Self::Attention => "Attention",
        }
    }

    /// Its columns. The last one has what room is left.
    pub const fn columns(self) -> &'static [Column] {
        match self {
            Self::Requests => REQUESTS,
            Self::Providers => PROVIDERS,
            Self::Nodes => NODES,
            Self::Images => IMAGES,
            Self::Activity => ACTIVITY,
            Self::Attention => ATTENTION,
        }
    }
}

/// A column of a view.
#[derive(Debug)]
pub struct Column {
    /// Its title.
    pub title: &'static str,
    /// How many cells it takes; 0: what is left.
    pub width: u16,
    /// It is shown on screens of at least so many cells.
    pub from: u16,
}

const fn column(title: &'static str, width: u16, from: u16) -> Column {
    Column { title, width, from }
}

const REQUESTS: &[Column] = &[
    column("ID", 14, 0),
    column("STATE", 9, 60),
    column("AGE", 11, 45),
    column("LABELS", 12, 75),
    column("REQUESTOR", 22, 130),
    column("TENANT", 14, 150),
    column("WHY", 0, 0),
];
const PROVIDERS: &[Column] = &[
    column("PROVIDER", 16, 0),
    column("QUOTA", 24, 60),
    column("LAUNCHES", 8, 90),
    column("WAITING", 7, 75),
    column("WHY", 0, 0),
];
const NODES: &[Column] = &[
    column("ID", 10, 0),
    column("STATE", 9, 0),
    column("AGE", 11, 45),
    column("LABELS", 14, 60),
    column("PROVIDER", 14, 80),
    column("POOL", 10, 120),
    column("LOCKED", 6, 100),
    column("REQUEST", 14, 80),
    column("ADDRESS", 15, 140),
    column("COMMENT", 0, 100),
];
const IMAGES: &[Column] =
    &[column("IMAGE", 20, 0), column("BUILT", 11, 45), column("UPLOADS", 7, 60), column("WHY", 0, 0)];
const ACTIVITY: &[Column] =
    &[column("AGO", 11, 0), column("WHICH", 14, 60), column("WHAT", 18, 100), column("TEXT", 0, 0)];
const ATTENTION: &[Column] = &[
    column("KIND", 8, 0),
    column("WHICH", 16, 45),
    column("COUNT", 5, 75),
    column("SINCE", 11, 60),
    column("WHY", 0, 0),
];

/// What stands in a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A text.
    Text(String),
    /// Ordered by the number.
    Number(f64, String),
    /// How long ago that is.
    Since(Option<Timestamp>),
    /// How much of a limit is used.
    Bar(Option<Bar>),
}

/// How much of a limit is used.
#[derive(Clone, Debug, PartialEq)]
pub struct Bar {
    /// Of what.
    pub name: String,
    /// The limit, where there is one.
    pub limit: Option<f64>,
    /// By our nodes.
    pub used: f64,
    /// By others.
    pub others: f64,
}

impl Bar {
    fn of(amount: &Amount) -> Self {
        let number = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
        Self {
            name: clean::line(&amount.resource),
            limit: amount.limit.filter(|limit| limit.is_finite()),
            used: number(amount.used),
            others: number(amount.others),
        }
    }

    /// How full, as a part of 1; 0 where there is no limit.
    pub fn full(&self) -> f64 {
        match self.limit {
            Some(limit) if limit > 0.0 => (self.used + self.others) / limit,
            Some(_) if self.used + self.others > 0.0 => 1.0,
            _ => 0.0,
        }
    }
}

/// What a row is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What is explained by Enter.
    pub subject: Option<Subject>,
    /// By which it is found again in the next data.
    pub key: String,
    /// As [`View::columns`].
    pub cells: Vec<Cell>,
    /// Whether somebody has to do something.
    pub verdict: Option<Verdict>,
    /// The sentence of the last column, whole, for the lines below the table.
    pub why: String,
    /// Quotas and limits, for the lines below the table.
    pub bars: Vec<Bar>,
    /// What a filter looks into, in small letters.
    pub haystack: String,
}

impl Row {
    fn new(subject: Option<Subject>, key: impl Into<String>, cells: Vec<Cell>) -> Self {
        let mut haystack = String::new();
        for cell in &cells {
            if let Cell::Text(text) | Cell::Number(_, text) = cell {
                haystack.push_str(&text.to_lowercase());
                haystack.push(' ');
            }
        }
        let why = match cells.last() {
            Some(Cell::Text(text)) => text.clone(),
            _ => String::new(),
        };
        Self { subject, key: key.into(), cells, verdict: None, why, bars: Vec::new(), haystack }
    }

    fn judged(self, verdict: Option<Verdict>) -> Self {
        Self { verdict, ..self }
    }
}

fn text(text: &str) -> Cell {
    Cell::Text(clean::line(text))
}

#[allow(clippy::cast_precision_loss)] // numbers of nodes and requests
fn count(number: usize) -> Cell {
    Cell::Number(number as f64, number.to_string())
}

fn subject(kind: Kind, id: &str) -> Option<Subject> {
    Subject::of(id, Some(kind)).pop()
}

/// As the first line of an explanation has it.
fn why(verdict: Verdict, sentence: &str) -> Cell {
    text(&format!("{verdict}: {sentence}"))
}

/// Values of a list by their names.
struct Values<'a> {
    at: HashMap<&'a str, usize>,
}

impl<'a> Values<'a> {
    fn of(list: &'a List) -> Self {
        Self { at: list.columns.iter().enumerate().map(|(at, name)| (name.as_ref(), at)).collect() }
    }

    fn get<'r>(&self, row: &'r Value, name: &str) -> &'r Value {
        self.at.get(name).and_then(|at| row.get(at)).unwrap_or(&Value::Null)
    }

    fn text<'r>(&self, row: &'r Value, name: &str) -> &'r str {
        self.get(row, name).as_str().unwrap_or_default()
    }

    fn labels(&self, row: &Value) -> Cell {
        let labels = self.get(row, "labels").as_array().map(Vec::as_slice).unwrap_or_default();
        text(&labels.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(","))
    }
}

/// Verdict and sentence of requests, by their ids.
type Explained<'a> = BTreeMap<&'a str, (Verdict, &'a str)>;

/// All requests: those that are not done first, in the order in which they were made.
pub fn requests<'a>(list: &List, overview: &'a Overview) -> Vec<Row> {
    let values = Values::of(list);
    let failed = overview.attention.iter().filter(|needs| needs.kind == Kind::Request.as_str());
    let failed = failed.flat_map(|needs| needs.ids.iter().map(|id| (id.as_str(), (needs.verdict, &*needs.sentence))));
    let open = |open: &'a OpenRequest| (open.id.as_str(), (open.verdict, open.sentence.as_str()));
    let explained: Explained<'_> = failed.chain(overview.oldest.iter().map(open)).collect();
    let mut rows: Vec<(bool, f64, Row)> = list.rows.iter().map(|row| request(&values, row, &explained)).collect();
    rows.sort_by(|(a, x, _), (b, y, _)| a.cmp(b).then_with(|| x.total_cmp(y)));
    rows.into_iter().map(|(_, _, row)| row).collect()
}

fn request(values: &Values<'_>, row: &Value, explained: &Explained<'_>) -> (bool, f64, Row) {
    let (id, state) = (values.text(row, "id"), values.text(row, "state"));
    let asked = values.get(row, "asked").as_f64();
    let known = explained.get(id);
    let said = match known {
        Some((verdict, sentence)) => why(*verdict, sentence),
        None => text(values.text(row, "waits_for")),
    };
    let cells = vec![
        text(id),
        text(state),
        Cell::Since(asked),
        values.labels(row),
        text(values.text(row, "requestor")),
        text(values.text(row, "tenant")),
        said,
    ];
    let is_done = !matches!(state, "requested" | "pending");
    let row = Row::new(subject(Kind::Request, id), id, cells).judged(known.map(|(verdict, _)| *verdict));
    (is_done, asked.unwrap_or(f64::INFINITY), row)
}

/// All nodes, in the order of their ids.
pub fn nodes(list: &List) -> Vec<Row> {
    let values = Values::of(list);
    let row = |row: &Value| {
        let id = values.text(row, "id");
        let is_locked = values.get(row, "locked").as_bool() == Some(true);
        let cells = vec![
            text(id),
            text(values.text(row, "state")),
            Cell::Since(values.get(row, "since").as_f64()),
            values.labels(row),
            text(values.text(row, "provider")),
            text(values.text(row, "pool")),
            text(if is_locked { "locked" } else { "" }),
            text(values.text(row, "request")),
            text(values.text(row, "address")),
            text(values.text(row, "comment")),
        ];
        Row::new(subject(Kind::Node, id), id, cells)
    };
    list.rows.iter().map(row).collect()
}

/// Providers, those that need somebody first.
pub fn providers(overview: &Overview) -> Vec<Row> {
    let mut all: Vec<&ProviderSeen> = overview.providers.iter().collect();
    all.sort_by_key(|seen| std::cmp::Reverse(seen.verdict >= Verdict::Act));
    all.into_iter().map(provider).collect()
}

fn provider(seen: &ProviderSeen) -> Row {
    let mut bars: Vec<Bar> = seen.quota.iter().map(Bar::of).collect();
    for pool in &seen.pools {
        let limits = pool.limits.iter().filter(|limit| limit.limit.is_some());
        bars.extend(
            limits
                .map(|limit| Bar { name: clean::line(&format!("{} {}", pool.name, limit.resource)), ..Bar::of(limit) }),
        );
    }
    // What is short first, what has no limit last.
    bars.sort_by(|a, b| b.limit.is_some().cmp(&a.limit.is_some()).then_with(|| b.full().total_cmp(&a.full())));
    let launching = match seen.max_concurrency {
        Some(most) => format!("{}/{most}", seen.launching),
        None => seen.launching.to_string(),
    };
    #[allow(clippy::cast_precision_loss)] // launches
    let cells = vec![
        text(&seen.name),
        Cell::Bar(bars.first().cloned()),
        Cell::Number(seen.launching as f64, launching),
        count(seen.pools.iter().map(|pool| pool.waiting).sum()),
        why(seen.verdict, &seen.sentence),
    ];
    Row { bars, ..Row::new(subject(Kind::Provider, &seen.name), &seen.name, cells).judged(Some(seen.verdict)) }
}

/// Images, those that need somebody first.
pub fn images(overview: &Overview) -> Vec<Row> {
    let mut all: Vec<_> = overview.images.iter().collect();
    all.sort_by_key(|seen| std::cmp::Reverse(seen.verdict >= Verdict::Act));
    let row = |seen: &nodepool_common::overview::ImageSeen| {
        let sentence = why(seen.verdict, &seen.sentence);
        let cells = vec![text(&seen.name), Cell::Since(seen.built), count(seen.uploads), sentence];
        Row::new(subject(Kind::Image, &seen.name), &seen.name, cells).judged(Some(seen.verdict))
    };
    all.into_iter().map(row).collect()
}

/// What has happened, the newest first.
pub fn activity(events: &[history::Found]) -> Vec<Row> {
    let row = |found: &history::Found| {
        let event = &found.event;
        let of = [
            event.request.as_ref().and_then(|id| subject(Kind::Request, id)),
            event.nodes.first().and_then(|id| subject(Kind::Node, id)),
            event.image.as_ref().and_then(|name| subject(Kind::Image, name)),
            event.provider.as_ref().and_then(|name| subject(Kind::Provider, name)),
        ];
        let of = of.into_iter().flatten().next();
        let which = text(of.as_ref().map_or("", Subject::id));
        let cells = vec![Cell::Since(Some(event.at)), which, text(&event.code), text(&event.text)];
        Row::new(of, format!("{} {}", found.launcher, found.number), cells)
    };
    events.iter().map(row).collect()
}

/// What somebody has to do something about, the gravest first.
pub fn attention(overview: &Overview) -> Vec<Row> {
    let row = |needs: &nodepool_common::overview::Attention| {
        let first = needs.ids.first().map(String::as_str).unwrap_or_default();
        let cells = vec![
            text(&needs.kind),
            text(&needs.ids.join(",")),
            count(needs.count),
            Cell::Since(needs.since),
            why(needs.verdict, &needs.sentence),
        ];
        let of = Kind::parse(&needs.kind).and_then(|kind| subject(kind, first));
        let mut row = Row::new(of, format!("{} {first} {}", needs.kind, needs.code), cells).judged(Some(needs.verdict));
        if let Some(end) = &needs.ended_by {
            row.why = clean::line(&format!("{} (ended by: {end})", row.why));
        }
        row
    };
    overview.attention.iter().map(row).collect()
}
