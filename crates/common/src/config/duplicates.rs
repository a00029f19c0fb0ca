//! Keys that stand twice in one mapping, of which PyYAML takes the last without a word.
//!
//! The daemons do the same. `config-validate` does not accept it where something with a name is lost by it: a label, a provider,
//! a pool. That happens where two files are put together, and where the dash of an item is missing.

use super::{
    names,
    report::Report,
    unserved::text,
    yaml::{Duplicate, Node, Value},
};

/// The keys by which items are known.
const HEADS: [&str; 3] = ["name", "host", "tenant-name"];

/// Tells of one.
pub fn tell(report: &Report, duplicate: &Duplicate) {
    let (key, first) = (names::shown(&duplicate.key), report.place(duplicate.first));
    let both = duplicate.lost.as_text().zip(duplicate.kept.as_text()).filter(|(lost, kept)| lost != kept);
    if let Some((lost, kept)) = both.filter(|_| HEADS.contains(&key.as_str())) {
        let (lost, kept) = (names::shown(lost), names::shown(kept));
        let message = format!("the key `{key}` stands twice in one item, so that there is no `{lost}`");
        let help = format!(
            "write `- {key}: {kept}` if another item begins here; else leave one of the two out: the first is at {first}"
        );
        report.lapse(duplicate.last, message, Some(help));
        report.note_lost(&lost);
        return;
    }
    for name in duplicate.lost.items().unwrap_or_default().iter().filter_map(|item| text(item, "name")) {
        report.note_lost(name);
    }
    let (ignored, is_lost) = ignored(&duplicate.lost, &duplicate.kept);
    let message = format!("the key `{key}` stands twice in one mapping; this one counts{ignored}");
    let way_out = if ignored.is_empty() { "leave one of the two out" } else { "write both as one" };
    let help = Some(format!("the first is at {first}; {way_out}"));
    report.note(is_lost && report.strict(), duplicate.last, message, help);
}

/// What of the first is ignored, and whether something with a name is.
fn ignored(lost: &Node, kept: &Node) -> (String, bool) {
    match &lost.value {
        Value::List(items) if !items.is_empty() => {
            let kept = kept.items().unwrap_or_default();
            let head = |item: &Node| HEADS.iter().find_map(|head| text(item, head)).map(str::to_owned);
            let name = |item: &Node| head(item).or_else(|| item.as_text().map(str::to_owned));
            let is_there = |name: &str| kept.iter().any(|other| text(other, "name") == Some(name));
            let is_lost = items.iter().filter_map(|item| text(item, "name")).any(|name| !is_there(name));
            let some: Vec<_> = items.iter().filter_map(|item| name(item)).collect();
            let some = names::listed(some.iter().map(String::as_str));
            let some = if some.is_empty() { some } else { format!(" ({some})") };
            let are = if items.len() == 1 { "item of the first is" } else { "items of the first are" };
            (format!(", and the {} {are} ignored{some}", items.len()), is_lost)
        }
        _ => (String::new(), false),
    }
}
