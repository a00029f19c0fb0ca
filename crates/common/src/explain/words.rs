//! Pieces of sentences that several explanations have.

/// `1 node`, `2 launches`.
pub(super) fn count(number: usize, what: &str) -> String {
    let plural = if what.ends_with("ch") { "es" } else { "s" };
    format!("{number} {what}{}", if number == 1 { "" } else { plural })
}

/// `label a`, `labels a, b`.
pub(super) fn labels(labels: &[&str]) -> String {
    format!("{} {}", if labels.len() == 1 { "label" } else { "labels" }, labels.join(", "))
}

/// As a whole number where it is one.
pub(super) fn amounts<'a>(amounts: impl IntoIterator<Item = (&'a str, f64)>) -> String {
    amounts.into_iter().map(|(name, amount)| format!("{amount} {name}")).collect::<Vec<_>>().join(", ")
}
