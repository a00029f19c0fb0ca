//! What was probably meant by a name that nothing has.

/// The known name that was probably meant.
pub fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let plain = |text: &str| text.to_lowercase().replace('_', "-");
    let name = plain(name);
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&name, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}
