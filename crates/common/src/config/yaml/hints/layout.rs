//! Which levels of indentation are open where a line begins.
//!
//! Read from lines alone, as a person reads them: it is asked only about text that no parser could read, so it must get by
//! without one. Block scalars are skipped; brackets are not looked into.

/// A level: what has begun at a column and may go on there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level<'t> {
    /// How many spaces stand before it.
    pub indent: usize,
    /// The line, from 1, in which it was last seen.
    pub line: usize,
    /// The key that stands there; `None`: the dash of an item.
    pub key: Option<&'t str>,
}

/// What one line says, without its indentation, its dashes and a comment behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'t> {
    /// How many spaces stand before the line.
    pub indent: usize,
    /// How many spaces and dashes stand before its first word.
    pub column: usize,
    /// The key, where there is one.
    pub key: Option<&'t str>,
    /// What stands behind the key; the whole content where there is none.
    pub value: &'t str,
}

impl<'t> Content<'t> {
    /// `None`: a line without content.
    pub fn of(line: &'t str) -> Option<Self> {
        let indent = line.len() - line.trim_start_matches(' ').len();
        let mut rest = line[indent..].trim_end();
        let mut column = indent;
        while rest == "-" || rest.starts_with("- ") {
            let behind = rest[1..].trim_start_matches(' ');
            column += rest.len() - behind.len();
            rest = behind;
        }
        let comment = if rest.starts_with('#') { Some(0) } else { rest.find(" #") };
        rest = comment.map_or(rest, |at| rest[..at].trim_end());
        if rest.is_empty() && column == indent {
            return None;
        }
        let (key, value) = match rest.split_once(": ") {
            Some((key, value)) => (Some(key), value.trim_start()),
            None => rest.strip_suffix(':').map_or((None, rest), |key| (Some(key), "")),
        };
        Some(Self { indent, column, key, value })
    }

    /// Whether the line begins with a dash.
    pub const fn is_item(&self) -> bool {
        self.column > self.indent
    }

    /// Whether the lines below, as far as they are indented deeper, are the text of a block scalar.
    pub fn begins_block_scalar(&self) -> bool {
        let header = self.value.strip_prefix(['|', '>']);
        header.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-')))
    }
}

/// The levels that are open behind these lines, the outermost first.
pub fn open_levels<'t>(lines: &[&'t str]) -> Vec<Level<'t>> {
    let mut levels: Vec<Level<'t>> = Vec::new();
    let mut text_deeper_than: Option<usize> = None;
    for (number, line) in (1..).zip(lines) {
        let Some(content) = Content::of(line) else { continue };
        if text_deeper_than.is_some_and(|indent| content.indent > indent) {
            continue;
        }
        text_deeper_than = None;
        if content.is_item() {
            // A list may stand at the column of its key.
            levels
                .retain(|level| level.indent < content.indent || level.indent == content.indent && level.key.is_some());
            levels.push(Level { indent: content.indent, line: number, key: None });
        }
        if let Some(key) = content.key {
            levels.retain(|level| level.indent < content.column);
            levels.push(Level { indent: content.column, line: number, key: Some(key) });
            text_deeper_than = content.begins_block_scalar().then_some(content.column);
        }
    }
    levels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let of = |line| Content::of(line).map(|content| (content.indent, content.column, content.key, content.value));
        assert_eq!(of("  - name: a  # it"), Some((2, 4, Some("name"), "a")));
        assert_eq!(of("labels:"), Some((0, 0, Some("labels"), "")));
        assert_eq!(of(" name:a"), Some((1, 1, None, "name:a")));
        assert_eq!(of("-   - a"), Some((0, 6, None, "a")));
        assert_eq!(of("  -"), Some((2, 3, None, "")));
        assert_eq!((of("   "), of("  # b: c")), (None, None));
    }

    #[test]
    fn the_levels_that_are_open_are_those_of_the_lines_above() {
        let lines = ["a: 1", "labels:", "- name: a", "  text: |", "    b: c", "   d: e", "  min: 1", "  # x", ""];
        let open: Vec<_> = open_levels(&lines).into_iter().map(|level| (level.indent, level.line, level.key)).collect();
        assert_eq!(open, [(0, 2, Some("labels")), (0, 3, None), (2, 7, Some("min"))]);
        assert_eq!(open_levels(&lines[..1]), [Level { indent: 0, line: 1, key: Some("a") }]);
    }
}
