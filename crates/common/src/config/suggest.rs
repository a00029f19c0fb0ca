//! What was probably meant by a name that nothing has.

/// The known name that was probably meant.
pub fn suggest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let name = plain(name);
    known
        .map(|candidate| (strsim::normalized_damerau_levenshtein(&name, &plain(candidate)), candidate))
        .filter(|(likeness, _)| *likeness >= 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A name as keys are written: `imagePullPolicy` and `image_pull_policy` as `image-pull-policy`.
pub fn plain(name: &str) -> String {
    let mut plain = String::with_capacity(name.len() + 4);
    let mut is_after_small = false;
    for c in name.chars() {
        if c.is_uppercase() && is_after_small {
            plain.push('-');
        }
        is_after_small = c.is_lowercase() || c.is_ascii_digit();
        plain.extend(if c == '_' { '-' } else { c }.to_lowercase());
    }
    plain
}
