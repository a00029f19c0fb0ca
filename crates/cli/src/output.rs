//! How lists are printed: as upstream's table, or for programs.
//!
//! The names of the fields are those of the HTTP API, and so those of the table's columns (`common/src/status`), with two
//! differences for programs: an age is a number of seconds, and each record has every field, `null` where there is nothing.
//! `json` and `yaml` have all fields of a record, `csv` the columns that the table shows.

use std::{
    env,
    io::{self, IsTerminal as _},
    sync::atomic::{AtomicBool, Ordering},
};

use nodepool_common::status::Table;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, say};

/// When there are colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // would be in the help
pub enum Colour {
    // On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    Always,
    Never,
}

/// Whether tables are in colour: one answer for the process, as there is one standard output.
static IN_COLOUR: AtomicBool = AtomicBool::new(false);

/// Decides it (<https://no-color.org>: any value of `NO_COLOR` but the empty one).
pub fn set_colour(when: Colour) {
    let is_set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|terminal| terminal == "dumb");
    let in_colour = match when {
        Colour::Always => true,
        Colour::Never => false,
        Colour::Auto => io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb,
    };
    IN_COLOUR.store(in_colour, Ordering::Relaxed);
}

/// Whether there are colours.
pub fn is_in_colour() -> bool {
    IN_COLOUR.load(Ordering::Relaxed)
}

/// The colour of a state, as a number of ECMA-48; other columns have none.
pub fn colour(column: &str, text: &str) -> Option<u8> {
    // Numbers of ECMA-48, and bright black.
    let (red, green, yellow, magenta, cyan, grey) = (31, 32, 33, 35, 36, 90);
    match text {
        _ if column != "state" => None,
        "ready" | "fulfilled" => Some(green),
        "init" | "building" | "testing" | "uploading" | "requested" | "pending" => Some(yellow),
        "in-use" | "used" => Some(cyan),
        "hold" | "paused" => Some(magenta),
        "failed" | "aborted" => Some(red),
        "deleting" | "deleted" => Some(grey),
        _ => None,
    }
}

/// How something is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    // Without documentation, which would take the help a line for each.
    #[default]
    Table,
    Json,
    Yaml,
    Csv,
}

/// `--format`.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct Output {
    /// how it is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// Prints a table; `fields` are the columns that the text has, as in [`Table::render_text`].
pub fn print(table: &Table, fields: Option<&[&str]>, format: Format) -> Result<(), Failure> {
    say(&render(table, fields, format)?)
}

/// The same, as text without a newline at the end.
pub fn render(table: &Table, fields: Option<&[&str]>, format: Format) -> Result<String, Failure> {
    match format {
        Format::Table if is_in_colour() => Ok(table.render_in_colour(fields, colour)),
        Format::Table => Ok(table.render_text(fields)),
        Format::Json | Format::Yaml => document(&json!(table.records()), format),
        Format::Csv => csv(table, fields),
    }
}

/// JSON or YAML of something that is no table.
pub fn document(value: &Value, format: Format) -> Result<String, Failure> {
    if format == Format::Yaml {
        let yaml = serde_saphyr::to_string(value).map_err(|error| unwritable("YAML", &error))?;
        return Ok(yaml.trim_end().to_owned());
    }
    serde_json::to_string_pretty(value).map_err(|error| unwritable("JSON", &error))
}

fn csv(table: &Table, fields: Option<&[&str]>) -> Result<String, Failure> {
    let keys: Vec<&str> = table.shown(fields).into_iter().map(|i| table.columns()[i].0).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    let cells = |record: &Map<String, Value>| keys.iter().map(|key| cell(&record[*key])).collect::<Vec<_>>();
    let mut written = writer.write_record(&keys);
    for record in table.records() {
        written = written.and_then(|()| writer.write_record(cells(&record)));
    }
    written.map_err(|error| unwritable("CSV", &error))?;
    let bytes = writer.into_inner().map_err(|error| unwritable("CSV", &error))?;
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_owned())
}

/// Texts and numbers as they are, nothing for `null`, commas between the items of a list, JSON for what has a structure.
fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(","),
        _ => value.to_string(),
    }
}

fn unwritable(what: &str, error: &dyn std::error::Error) -> Failure {
    Failure::Refused(format!("this cannot be written as {what}: {error}"))
}

#[cfg(test)]
mod tests {
    use nodepool_common::status::{Cell, Column, Row};

    use super::*;

    const COLUMNS: &[Column] = &[("id", "ID"), ("labels", "Labels"), ("note", "Note"), ("age", "Age")];

    fn table() -> Table {
        let mut table = Table::new(COLUMNS, 100.0);
        for (id, labels, note) in [
            ("0000000001", json!(["a", "b"]), json!("a \"word\", and\nmore: 日本")),
            ("no", json!([]), json!(null)),
            ("1e3", json!(["null", "~"]), json!({"k": [1, true, null]})),
        ] {
            let cells = [json!(id), labels, note].into_iter().map(Cell::Value).chain([Cell::Since(40)]);
            table.push(Row { cells: cells.collect(), json_only: Map::new() });
        }
        table
    }

    #[test]
    fn each_format_says_the_same_records() {
        let table = table();
        let json = render(&table, None, Format::Json).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), json!(table.records()));
        let yaml = render(&table, None, Format::Yaml).unwrap();
        assert_eq!(serde_saphyr::from_str::<Value>(&yaml).unwrap(), json!(table.records()), "{yaml}");
        assert_eq!(
            render(&table, None, Format::Csv).unwrap(),
            "id,labels,note,age\n0000000001,\"a,b\",\"a \"\"word\"\", and\nmore: 日本\",60\nno,,,60\n1e3,\"null,~\",\"{\"\"k\"\":[1,true,null]}\",60"
        );
    }

    #[test]
    fn fields_are_for_table_and_csv() {
        let (table, fields) = (table(), Some(&["id", "age"][..]));
        assert_eq!(render(&table, fields, Format::Csv).unwrap(), "id,age\n0000000001,60\nno,60\n1e3,60");
        assert_eq!(render(&table, fields, Format::Json).unwrap(), render(&table, None, Format::Json).unwrap());
    }

    #[test]
    fn nothing_is_an_empty_list() {
        let empty = Table::new(COLUMNS, 0.0);
        let all = [Format::Json, Format::Yaml, Format::Csv].map(|format| render(&empty, None, format).unwrap());
        assert_eq!(all, ["[]", "[]", "id,labels,note,age"]);
    }
}
