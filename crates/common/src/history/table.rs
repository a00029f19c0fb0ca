//! Events as a table, for `nodepool history`.

use serde_json::{Map, json};

use super::event::Found;
use crate::{
    model::Timestamp,
    status::{Cell, Column, Row, Table},
    sys::clock,
};

/// The table's columns.
pub const COLUMNS: &[Column] = &[
    ("time", "Time"),
    ("event", "Event"),
    ("request", "Request"),
    ("nodes", "Nodes"),
    ("provider", "Provider"),
    ("pool", "Pool"),
    ("label", "Label"),
    ("image", "Image"),
    ("build", "Build"),
    ("launcher", "Launcher"),
    ("text", "What"),
];

/// The table of some events, in their order; times are of UTC.
pub fn table(events: &[Found], now: Timestamp) -> Table {
    let mut table = Table::new(COLUMNS, now);
    for found in events {
        table.push(row(found));
    }
    table
}

#[allow(clippy::cast_possible_truncation)] // whole seconds since the epoch
fn row(found: &Found) -> Row {
    let event = &found.event;
    let cells = [
        json!(clock::utc(event.at as i64)),
        json!(event.code),
        json!(event.request),
        json!(event.nodes),
        json!(event.provider),
        json!(event.pool),
        json!(event.labels),
        json!(event.image),
        json!(event.build),
        json!(found.launcher),
        json!(event.text),
    ];
    Row { cells: cells.into_iter().map(Cell::Value).collect(), json_only: Map::new() }
}
