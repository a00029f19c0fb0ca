//! [`Listing`]: what every list takes beside its own options, and what that does to its table.
//!
//! A list has the options for which its table has a column: `--provider`, `--label`, `--state`, `--older-than`. Which these are
//! follows from the columns (`common/src/status`), and so do the names that `--sort` knows; a wrong one is an error of the
//! command line, which names the right ones. Without any of these options a table is as it was.

use std::{cmp::Ordering, ffi::OsStr, fmt, marker::PhantomData, time::Duration};

use clap::{
    Arg, ArgAction, ArgMatches, Command,
    builder::{PossibleValue, PossibleValuesParser, TypedValueParser},
};
use nodepool_common::status::{Cell, Column, Row, Table};
use serde_json::Value;

use crate::{
    failure::Failure,
    output::{self, Format},
    watch::watch,
};

/// What is listed.
pub trait Kind: fmt::Debug {
    /// The table's columns.
    const COLUMNS: &'static [Column];
    /// Whether a list takes filters. One that asks clouds has options of its own.
    const HAS_FILTERS: bool = true;
    /// The states that may be in the column `state`.
    fn states() -> Vec<&'static str> {
        Vec::new()
    }
}

/// Options that select, order and print the rows of a table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// How it is printed.
    pub format: Format,
    /// Only rows with one of these; empty: all.
    pub providers: Vec<String>,
    /// Only rows with one of these among their labels; empty: all.
    pub labels: Vec<String>,
    /// Only rows in one of these; empty: all.
    pub states: Vec<String>,
    /// Only rows whose state has lasted longer.
    pub older_than: Option<Duration>,
    /// Columns by which rows are ordered, those before first; a `-` before the name: the other way round.
    pub sort: Vec<String>,
    /// The last row first.
    pub reverse: bool,
    /// Again and again, with that pause.
    pub watch: Option<Duration>,
}

/// The [`View`] of one kind of list, as clap takes it.
#[derive(Clone, Debug)]
pub struct Listing<K> {
    /// What was asked for.
    pub view: View,
    kind: PhantomData<K>,
}

/// Where labels are: a node's, and those that a request asks for.
const LABELS: [&str; 2] = ["label", "node_types"];

fn has<K: Kind>(key: &str) -> bool {
    K::HAS_FILTERS && K::COLUMNS.iter().any(|(name, _)| *name == key)
}

impl<K: Kind> clap::Args for Listing<K> {
    fn augment_args(command: Command) -> Command {
        let mut command = command.arg(
            Arg::new("format")
                .long("format")
                .value_name("FORMAT")
                .default_value("table")
                .value_parser(clap::builder::EnumValueParser::<Format>::new())
                .help("how it is printed"),
        );
        let many = |name: &'static str, value: &'static str| {
            Arg::new(name).long(name).action(ArgAction::Append).value_delimiter(',').value_name(value)
        };
        if has::<K>("provider") {
            command = command
                .arg(many("provider", "PROVIDER").help("only of this provider; of several, with commas between them"));
        }
        if LABELS.into_iter().any(has::<K>) {
            command = command.arg(many("label", "LABEL").help("only with this label, or one of several"));
        }
        if has::<K>("state") {
            let states = PossibleValuesParser::new(K::states());
            command =
                command.arg(many("state", "STATE").value_parser(states).help("only in this state, or one of several"));
        }
        if has::<K>("age") {
            let age = Arg::new("older-than").long("older-than").value_name("AGE").value_parser(duration);
            command = command.arg(age.help("only if the state has lasted longer than this: 90s, 15m, 2h, 3d"));
        }
        let sort = Arg::new("sort").long("sort").value_name("COLUMN").value_delimiter(',').action(ArgAction::Append);
        let sort = sort.allow_hyphen_values(true).ignore_case(true).value_parser(SortKeys::new(K::COLUMNS));
        if K::HAS_FILTERS {
            let watch =
                Arg::new("watch").long("watch").value_name("SECONDS").num_args(0..=1).default_missing_value("2");
            let help = "again every 2 seconds, or every SECONDS, until Ctrl-C; on a terminal in place";
            command = command.arg(watch.value_parser(pause).help(help));
        }
        command
            .arg(sort.help("order by this column, or by several; -COLUMN: the largest, or the last, first"))
            .arg(Arg::new("reverse").long("reverse").action(ArgAction::SetTrue).help("the last row first"))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Takes the names of columns, also with a `-` before them.
#[derive(Clone)]
struct SortKeys(PossibleValuesParser);

impl SortKeys {
    fn new(columns: &'static [Column]) -> Self {
        Self(PossibleValuesParser::new(columns.iter().map(|(key, _)| PossibleValue::new(*key))))
    }
}

impl TypedValueParser for SortKeys {
    type Value = String;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<String, clap::Error> {
        let text = value.to_string_lossy();
        let name = text.strip_prefix('-').unwrap_or(&text);
        self.0.parse_ref(command, arg, OsStr::new(name))?;
        Ok(text.into_owned())
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        self.0.possible_values()
    }
}

impl<K: Kind> clap::FromArgMatches for Listing<K> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        // A list that does not have the option knows nothing of it.
        let many = |name: &str| {
            let values = matches.try_get_many::<String>(name).ok().flatten();
            values.into_iter().flatten().cloned().collect()
        };
        let view = View {
            format: matches.get_one("format").copied().unwrap_or_default(),
            providers: many("provider"),
            labels: many("label"),
            states: many("state"),
            older_than: matches.try_get_one("older-than").ok().flatten().copied(),
            sort: many("sort"),
            reverse: matches.get_flag("reverse"),
            watch: matches.try_get_one("watch").ok().flatten().copied(),
        };
        let view = if K::HAS_FILTERS { view } else { View { providers: Vec::new(), ..view } };
        Ok(Self { view, kind: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A time on the command line: more than none; fractions are fine.
pub fn seconds(word: &str) -> Result<Duration, String> {
    let seconds = word.parse().ok().filter(|seconds: &f64| *seconds >= 0.001);
    let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    duration.ok_or_else(|| "a number of seconds, such as 10 or 0.5".to_owned())
}

/// How long to wait between two lists: each reads all that it shows.
pub fn pause(word: &str) -> Result<Duration, String> {
    let least = Duration::from_millis(100);
    seconds(word).ok().filter(|pause| *pause >= least).ok_or_else(|| "0.1 seconds or more, such as 2 or 0.5".to_owned())
}

/// A time that has passed: a whole number with a unit.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a whole number of s, m, h or d, such as 90s, 15m, 2h, 3d".to_owned();
    let unit = match text.chars().last() {
        Some('s') => 1,
        Some('m') => 60,
        Some('h') => 3600,
        Some('d') => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| wrong())?;
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

impl View {
    /// Prints what is asked for of a table; `fields` are the columns that it has as a text ([`Table::render_text`]).
    pub fn print(&self, mut table: Table, fields: Option<&[&str]>) -> Result<(), Failure> {
        self.apply(&mut table);
        output::print(&table, fields, self.format)
    }

    /// Prints what `read` finds, as [`Self::print`] does: once, or again and again.
    pub async fn show(
        &self,
        fields: Option<&[&str]>,
        read: impl AsyncFn() -> Result<Table, Failure>,
    ) -> Result<(), Failure> {
        let Some(pause) = self.watch else { return self.print(read().await?, fields) };
        let render = async || {
            let mut table = read().await?;
            self.apply(&mut table);
            output::render(&table, fields, self.format)
        };
        watch(pause, render).await
    }

    /// Leaves the rows that are asked for, in the order that is asked for.
    fn apply(&self, table: &mut Table) {
        let now = table.now();
        let place = |key| table.position(key);
        let (provider, state, age) = (place("provider"), place("state"), place("age"));
        let label = LABELS.into_iter().find_map(place);
        let keys: Vec<(usize, bool)> = self
            .sort
            .iter()
            .filter_map(|key| {
                let name = key.strip_prefix('-').unwrap_or(key);
                let at = table.columns().iter().position(|(column, _)| column.eq_ignore_ascii_case(name))?;
                Some((at, key.starts_with('-')))
            })
            .collect();
        let rows = table.rows_mut();
        rows.retain(|row| {
            is_one_of(row, provider, &self.providers)
                && is_one_of(row, label, &self.labels)
                && is_one_of(row, state, &self.states)
                && self.older_than.is_none_or(|least| {
                    let age = age.and_then(|at| row.cells[at].age(now));
                    age.is_some_and(|age| age > least.as_secs_f64())
                })
        });
        if !keys.is_empty() {
            rows.sort_by_cached_key(|row| {
                SortKey(keys.iter().map(|(at, down)| (key(&row.cells[*at], now), *down)).collect())
            });
        }
        if self.reverse {
            rows.reverse();
        }
    }
}

/// Whether a cell, or an item of its list, is one of these; any is where there are none.
fn is_one_of(row: &Row, at: Option<usize>, wanted: &[String]) -> bool {
    let matches = |value: &Value| value.as_str().is_some_and(|text| wanted.iter().any(|wanted| wanted == text));
    wanted.is_empty()
        || at.is_some_and(|at| match &row.cells[at] {
            Cell::Value(Value::Array(items)) => items.iter().any(matches),
            Cell::Value(value) => matches(value),
            _ => false,
        })
}

/// What a row is ordered by, and which of it the other way round.
#[derive(PartialEq)]
struct SortKey(Vec<(Key, bool)>);

#[derive(PartialEq, PartialOrd)]
enum Key {
    Number(f64),
    Text(String),
    /// Last, in either direction.
    Nothing,
}

fn key(cell: &Cell, now: f64) -> Key {
    match cell.plain(now) {
        Value::Null => Key::Nothing,
        Value::Number(number) => number.as_f64().map_or(Key::Nothing, Key::Number),
        Value::String(text) if text.is_empty() => Key::Nothing,
        Value::String(text) => Key::Text(text),
        Value::Array(items) if items.is_empty() => Key::Nothing,
        other => Key::Text(other.to_string()),
    }
}

impl Eq for SortKey {}

impl PartialOrd for SortKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SortKey {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut all = self.0.iter().zip(&other.0).map(|((a, down), (b, _))| {
            let order = a.partial_cmp(b).unwrap_or(Ordering::Equal);
            let has_both = !matches!(a, Key::Nothing) && !matches!(b, Key::Nothing);
            if *down && has_both { order.reverse() } else { order }
        });
        all.find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Map, json};

    use super::*;

    #[derive(Debug)]
    struct Things;

    impl Kind for Things {
        const COLUMNS: &'static [Column] = &[
            ("id", "ID"),
            ("provider", "Provider"),
            ("label", "Label"),
            ("state", "State"),
            ("age", "Age"),
            ("AZ", "AZ"),
        ];
        fn states() -> Vec<&'static str> {
            vec!["ready", "used"]
        }
    }

    #[derive(Debug)]
    struct Names;

    impl Kind for Names {
        const COLUMNS: &'static [Column] = &[("id", "ID"), ("provider", "Provider")];
        const HAS_FILTERS: bool = false;
    }

    #[derive(Debug, Parser)]
    #[command(infer_long_args = true)]
    enum Program {
        Things(Listing<Things>),
        Names {
            #[arg(long)]
            provider: Option<String>,
            #[command(flatten)]
            listing: Listing<Names>,
        },
    }

    fn view(options: &str) -> Result<View, String> {
        match Program::try_parse_from(format!("p {options}").split_whitespace()) {
            Ok(Program::Things(listing)) => Ok(listing.view),
            Ok(Program::Names { listing, provider }) => {
                assert!(provider.is_none() || listing.view.providers.is_empty(), "the option is the command's own");
                Ok(listing.view)
            }
            Err(error) => {
                assert_eq!(error.exit_code(), 2);
                Err(error.to_string())
            }
        }
    }

    fn ids(options: &str) -> String {
        let mut table = Table::new(Things::COLUMNS, 10_000.0);
        for (id, provider, labels, state, since, zone) in [
            ("1", json!("p"), json!(["b"]), "ready", 9_990, json!(null)),
            ("2", json!("q"), json!(["a", "b"]), "used", 0, json!("z10")),
            ("3", json!(null), json!([]), "ready", 5_000, json!("z2")),
            ("4", json!("p"), json!(["a"]), "used", 9_000, json!("z2")),
        ] {
            let cells = [json!(id), provider, labels, json!(state)].into_iter().map(Cell::Value);
            let cells = cells.chain([Cell::Since(since), Cell::Value(zone)]).collect();
            table.push(Row { cells, json_only: Map::new() });
        }
        view(&format!("things {options}")).unwrap().apply(&mut table);
        table.rows().iter().map(|row| row.cells[0].plain(0.0).as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn rows_are_selected_by_what_their_columns_have() {
        for (options, expected) in [
            ("", "1234"),
            ("--provider p", "14"),
            ("--provider p,q --provider r", "124"),
            ("--label a", "24"),
            ("--label a --provider p", "4"),
            ("--state used", "24"),
            ("--state used,ready", "1234"),
            ("--older-than 10s", "234"),
            ("--older-than 1h", "23"),
            ("--older 1d", ""),
            ("--provider unknown", ""),
        ] {
            assert_eq!(ids(options), expected, "{options}");
        }
    }

    #[test]
    fn rows_are_sorted_by_several_columns_and_what_is_absent_comes_last() {
        for (options, expected) in [
            ("--sort age", "1432"),
            ("--sort -age", "2341"),
            ("--sort -age --reverse", "1432"),
            ("--reverse", "4321"),
            ("--sort provider", "1423"),
            ("--sort -provider", "2143"),
            ("--sort state,-id", "3142"),
            ("--sort az --sort -id", "2431"),
        ] {
            assert_eq!(ids(options), expected, "{options}");
        }
    }

    #[test]
    fn what_there_is_not_is_an_error_that_names_what_there_is() {
        let wrong = view("things --sort size").unwrap_err();
        assert!(wrong.contains("id, provider, label, state, age, AZ]"), "{wrong}");
        let wrong = view("things --state flying").unwrap_err();
        assert!(wrong.contains("ready, used]"), "{wrong}");
        for age in ["2", "h", "2w", "-2h", "2.5h", "99999999999999999d", "2ü"] {
            assert!(view(&format!("things --older-than={age}")).unwrap_err().contains("90s, 15m, 2h, 3d"), "{age}");
        }
        assert!(view("names --state ready").is_err(), "a table without the column has no such option");
        assert!(view("names --provider p --sort id").is_ok());
    }
}
