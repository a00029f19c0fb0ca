//! [`Table`]: rows of JSON values, rendered as PrettyTable 0.7 draws them or as Python's `json.dumps` writes them; and as plain
//! records ([`Table::records`]), for whoever writes them in another format.
//!
//! Both programs' outputs are parsed by people's scripts, so the rules are PrettyTable's own, with its idea of how
//! wide a character is; `comfy-table` measures and wraps differently.

use serde_json::{Map, Value};

use crate::model::{Timestamp, wire};

/// A field's key, in JSON and for `fields`, and its header in the text.
pub type Column = (&'static str, &'static str);

/// One value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// Any value: as it is in JSON, as Python's `str` shows it in text; `null` is empty, lists are comma lists.
    Value(Value),
    /// A time in epoch seconds: as it is in JSON, as an age in text.
    Since(i64),
    /// The same where upstream has the age as a text in its JSON, too.
    SinceAsText(Timestamp),
}

impl Cell {
    /// A time, its fraction cut off.
    #[allow(clippy::cast_possible_truncation)] // cutting is what upstream's int() does; out of range saturates
    pub fn since(time: Timestamp) -> Self {
        Self::Since(time as i64)
    }

    /// How many seconds ago, at `now`; `None`: it is no time.
    #[allow(clippy::cast_precision_loss)] // seconds since the epoch fit
    pub fn age(&self, now: Timestamp) -> Option<f64> {
        match self {
            Self::Value(_) => None,
            Self::Since(time) => Some(now - *time as Timestamp),
            Self::SinceAsText(time) => Some(now - time),
        }
    }

    /// For programs: a time is its age in whole seconds at `now`, all else is as it is.
    #[allow(clippy::cast_possible_truncation)] // cut as in the text
    pub fn plain(&self, now: Timestamp) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Since(_) | Self::SinceAsText(_) => {
                self.age(now).map_or(Value::Null, |age| (age.floor() as i64).into())
            }
        }
    }

    fn json(&self, now: Timestamp) -> Value {
        match self {
            Self::Value(value) => value.clone(),
            Self::Since(time) => Value::from(*time),
            Self::SinceAsText(time) => age(*time, now).into(),
        }
    }

    fn text(&self, now: Timestamp) -> String {
        match self {
            Self::Value(Value::Null) => String::new(),
            Self::Value(Value::Array(list)) => list.iter().map(python_str).collect::<Vec<_>>().join(","),
            Self::Value(value) => python_str(value),
            #[allow(clippy::cast_precision_loss)] // seconds since the epoch fit
            Self::Since(time) => age(*time as Timestamp, now),
            Self::SinceAsText(time) => age(*time, now),
        }
    }
}

impl From<Value> for Cell {
    fn from(value: Value) -> Self {
        Self::Value(value)
    }
}

/// One record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// One per column.
    pub cells: Vec<Cell>,
    /// Further keys for JSON; the text has no column for them.
    pub json_only: Map<String, Value>,
}

impl Row {
    /// A row of plain values.
    pub fn of(values: Vec<Value>) -> Self {
        Self { cells: values.into_iter().map(Cell::Value).collect(), json_only: Map::new() }
    }
}

/// A table, as of a point in time.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    columns: Vec<Column>,
    json_only: &'static [&'static str],
    rows: Vec<Row>,
    now: Timestamp,
}

impl Table {
    /// Without rows. Ages will be those at `now`.
    pub fn new(columns: &[Column], now: Timestamp) -> Self {
        Self { columns: columns.to_vec(), json_only: &[], rows: Vec::new(), now }
    }

    /// With these keys beside the columns, each of which a row may have ([`Row::json_only`]).
    #[must_use]
    pub fn with_json_only(mut self, keys: &'static [&'static str]) -> Self {
        self.json_only = keys;
        self
    }

    /// Adds a row at the end.
    pub fn push(&mut self, row: Row) {
        debug_assert_eq!(row.cells.len(), self.columns.len());
        self.rows.push(row);
    }

    /// The rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The same, to be sorted or thinned out.
    pub fn rows_mut(&mut self) -> &mut Vec<Row> {
        &mut self.rows
    }

    /// The time of which it is.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Which cell of a row has the column of that key.
    pub fn position(&self, key: &str) -> Option<usize> {
        self.columns.iter().position(|(name, _)| *name == key)
    }

    /// The columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// The places of the columns that are selected by `fields`, as for [`Self::render_text`].
    pub fn shown(&self, fields: Option<&[&str]>) -> Vec<usize> {
        let fields = fields.filter(|fields| !fields.is_empty());
        (0..self.columns.len()).filter(|&i| fields.is_none_or(|fields| fields.contains(&self.columns[i].0))).collect()
    }

    /// Each row for programs, by the columns' keys ([`Cell::plain`]) and those that only JSON has: each has all of them, `null`
    /// where there is nothing.
    pub fn records(&self) -> Vec<Map<String, Value>> {
        let record = |row: &Row| {
            let cells = self.columns.iter().zip(&row.cells).map(|((key, _), cell)| (*key, cell.plain(self.now)));
            let further = self.json_only.iter().map(|key| (*key, row.json_only.get(*key).cloned().unwrap_or_default()));
            cells.chain(further).map(|(key, value)| (key.to_owned(), value)).collect()
        };
        self.rows.iter().map(record).collect()
    }

    /// As PrettyTable draws it, without a newline at the end. `fields` selects columns by key; their order stays the
    /// table's, unknown keys are ignored, an empty list selects all (`nodepool 11.0.0: status.py`).
    pub fn render_text(&self, fields: Option<&[&str]>) -> String {
        self.render_in_colour(fields, |_, _| None)
    }

    /// The same on a terminal. `colour` has the number of a cell's colour (`ESC [ … m`), by the column's key and the text;
    /// `None`: as it is.
    pub fn render_in_colour(&self, fields: Option<&[&str]>, colour: impl Fn(&str, &str) -> Option<u8>) -> String {
        let shown = self.shown(fields);
        let header: Vec<String> = shown.iter().map(|&i| self.columns[i].1.to_owned()).collect();
        let cell = |row: &Row, i: usize| {
            let text = row.cells[i].text(self.now);
            match colour(self.columns[i].0, &text) {
                Some(number) => format!("\u{1b}[{number}m{text}\u{1b}[0m"),
                None => text,
            }
        };
        let rows: Vec<Vec<String>> =
            self.rows.iter().map(|row| shown.iter().map(|&i| cell(row, i)).collect()).collect();
        draw(&header, &rows)
    }

    /// As `json.dumps` writes it: a list of objects, all fields.
    pub fn render_json(&self) -> String {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                let fields = self
                    .columns
                    .iter()
                    .zip(&row.cells)
                    .map(|((key, _), cell)| ((*key).to_owned(), cell.json(self.now)));
                Value::Object(fields.chain(row.json_only.clone()).collect())
            })
            .collect();
        String::from_utf8_lossy(&wire::to_python_json(&rows)).into_owned()
    }
}

/// How long ago: `DD:HH:MM:SS`. Days may have more digits; a time to come has negative days.
#[allow(clippy::cast_possible_truncation)] // whole numbers, cut as upstream's %d cuts
pub fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now - time;
    let (minutes, s) = ((seconds / 60.0).floor(), seconds.rem_euclid(60.0));
    let (hours, m) = ((minutes / 60.0).floor(), minutes.rem_euclid(60.0));
    let (d, h) = ((hours / 24.0).floor(), hours.rem_euclid(24.0));
    format!("{:02}:{:02}:{:02}:{:02}", d as i64, h as i64, m as i64, s as i64)
}

/// Left-aligned cells between rules, as PrettyTable 0.7.2 has them.
fn draw(header: &[String], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..header.len())
        .map(|i| {
            let column = std::iter::once(&header[i]).chain(rows.iter().map(|row| &row[i]));
            column.flat_map(|cell| cell.split('\n')).map(width).max().unwrap_or(0)
        })
        .collect();
    let mut rule = "+".to_owned();
    for width in &widths {
        rule.push_str(&"-".repeat(width + 2));
        rule.push('+');
    }
    if widths.is_empty() {
        rule.push('+');
    }
    let mut lines = vec![rule.clone()];
    // Without columns PrettyTable has a header of two bars and rows of nothing.
    if widths.is_empty() {
        lines.push("||".to_owned());
    } else {
        push_row(&mut lines, header, &widths);
    }
    lines.push(rule.clone());
    for row in rows {
        push_row(&mut lines, row, &widths);
    }
    lines.push(rule);
    lines.join("\n")
}

/// A row is as high as its highest cell.
fn push_row(lines: &mut Vec<String>, cells: &[String], widths: &[usize]) {
    let cells: Vec<Vec<&str>> = cells.iter().map(|cell| cell.split('\n').collect()).collect();
    let height = cells.iter().map(Vec::len).max().unwrap_or(1);
    for n in 0..height {
        let mut line = String::new();
        for (cell, &full) in cells.iter().zip(widths) {
            let text = cell.get(n).copied().unwrap_or("");
            line.push_str("| ");
            line.push_str(text);
            line.extend(std::iter::repeat_n(' ', full.saturating_sub(width(text)) + 1));
        }
        if !cells.is_empty() {
            line.push('|');
        }
        lines.push(line);
    }
}

/// The columns that PrettyTable 0.7.2 believes a line to take on a terminal.
fn width(line: &str) -> usize {
    let mut columns = 0_isize;
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        if let Some(after) = colour_code(rest) {
            rest = after;
            continue;
        }
        rest = &rest[c.len_utf8()..];
        columns += match c {
            '\u{3000}'..='\u{3029}'
            | '\u{3030}'..='\u{303e}'
            | '\u{3040}'..='\u{3098}'
            | '\u{309b}'..='\u{30ff}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{ac00}'..='\u{d7af}'
            | '\u{ff01}'..='\u{ff60}' => 2,
            // Combining marks; of the rarer scripts' ones it knows more.
            '\u{0300}'..='\u{034e}'
            | '\u{0350}'..='\u{036f}'
            | '\u{1ab0}'..='\u{1abd}'
            | '\u{1dc0}'..='\u{1dff}'
            | '\u{20d0}'..='\u{20dc}'
            | '\u{302a}'..='\u{302f}'
            | '\u{3099}'
            | '\u{309a}'
            | '\u{fe20}'..='\u{fe2f}'
            | '\0'
            | '\u{1f}' => 0,
            '\u{8}' | '\u{7f}' => -1,
            _ => 1,
        };
    }
    columns.unsigned_abs()
}

/// What follows a terminal's colour code (`ESC [ … m`), which takes no column.
fn colour_code(text: &str) -> Option<&str> {
    let code = text.strip_prefix("\u{1b}[")?;
    code.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';').strip_prefix('m')
}

/// Python's `str()` of a value that was read from JSON.
pub(super) fn python_str(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        _ => python_repr(value),
    }
}

fn python_repr(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(list) => format!("[{}]", list.iter().map(python_repr).collect::<Vec<_>>().join(", ")),
        Value::Object(map) => {
            let items = map.iter().map(|(key, value)| format!("{}: {}", quoted(key), python_repr(value)));
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
    }
}

/// Single quotes, unless only they would have to be escaped.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if c.is_control() => out.extend(format!("\\x{:02x}", u32::from(c)).chars()),
            c => out.push(c),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COLUMNS: &[Column] = &[("id", "ID"), ("a", "Aaa")];

    fn table(rows: &[[Value; 2]]) -> Table {
        let mut table = Table::new(COLUMNS, 0.0);
        for row in rows {
            table.push(Row::of(row.to_vec()));
        }
        table
    }

    #[test]
    fn an_empty_table_has_its_header_and_rules() {
        assert_eq!(table(&[]).render_text(None), "+----+-----+\n| ID | Aaa |\n+----+-----+\n+----+-----+");
        assert_eq!(table(&[]).render_json(), "[]");
    }

    /// Each expectation is PrettyTable 0.7.2's own output for the same values.
    #[test]
    fn values_look_as_python_shows_them() {
        let table = table(&[
            [json!("x\ny"), json!({"a": 1.5, "b": null, "it's": "it's", "q": "'\"\n\u{1}"})],
            [json!("日本"), json!(true)],
            [json!("é\u{301}"), json!(null)],
            [json!("\u{1b}[31mred\u{1b}[0m"), json!(["a", "b"])],
        ]);
        assert_eq!(
            table.render_text(None),
            "\
+------+---------------------------------------------------------+
| ID   | Aaa                                                     |
+------+---------------------------------------------------------+
| x    | {'a': 1.5, 'b': None, \"it's\": \"it's\", 'q': '\\'\"\\n\\x01'} |
| y    |                                                         |
| 日本 | True                                                    |
| é\u{301}    |                                                         |
| \u{1b}[31mred\u{1b}[0m  | a,b                                                     |
+------+---------------------------------------------------------+"
        );
    }

    #[test]
    fn colours_take_no_room() {
        let table = table(&[[json!("1"), json!("ready")], [json!("ready"), json!("used")]]);
        let in_colour = table.render_in_colour(None, |key, text| (key == "a" && text == "ready").then_some(32));
        assert!(in_colour.contains("| 1     | \u{1b}[32mready\u{1b}[0m |\n| ready | used  |"), "{in_colour}");
        assert_eq!(in_colour.replace("\u{1b}[32m", "").replace("\u{1b}[0m", ""), table.render_text(None));
    }

    #[test]
    fn fields_select_columns_but_not_their_order() {
        let table = table(&[[json!("1"), json!("x")]]);
        assert_eq!(table.render_text(Some(&["a", "id"])), table.render_text(None));
        assert_eq!(table.render_text(Some(&[])), table.render_text(None));
        assert_eq!(table.render_text(Some(&["a", "b"])), "+-----+\n| Aaa |\n+-----+\n| x   |\n+-----+");
        assert_eq!(table.render_text(Some(&["none"])), "++\n||\n++\n\n++", "as PrettyTable has it");
    }

    #[test]
    fn ages_are_days_hours_minutes_seconds() {
        for (seconds, expected) in [
            (0.9, "00:00:00:00"),
            (61.0, "00:00:01:01"),
            (86_399.0, "00:23:59:59"),
            (400.0 * 86_400.0, "400:00:00:00"),
            (-1.0, "-1:23:59:59"),
        ] {
            assert_eq!(age(0.0, seconds), expected);
        }
    }

    #[test]
    fn absurd_times_are_shown_and_end_nothing() {
        for time in [-1e300, 1e300, f64::MAX, f64::MIN, 0.0, -0.5] {
            assert_eq!(age(time, 1_760_000_000.5).split(':').count(), 4, "{time}");
            let mut table = Table::new(&[("age", "Age")], 1_760_000_000.5);
            table.push(Row { cells: vec![Cell::since(time)], json_only: Map::new() });
            assert!(table.render_text(None).contains("Age") && table.render_json().contains("age"), "{time}");
        }
    }
}
