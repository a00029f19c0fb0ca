//! Tabs where PyYAML has none.
//!
//! YAML 1.2 lets tabs separate values, and our parser takes them. PyYAML takes a tab only within quotes, in the content of
//! a block scalar and in a comment; everywhere else it is "a character that cannot start any token", and the file is
//! refused (PyYAML: scanner.py `scan_to_next_token`, `scan_plain`).

use std::ops::Range;

use super::Mark;

/// The first such tab of a text that could be read, and how many there are. `scalars`: the quoted and block scalars, as
/// ranges of characters, in their order.
pub fn refused_by_pyyaml(text: &str, scalars: &[Range<usize>]) -> Option<(Mark, usize)> {
    let mut found = None;
    let mut count = 0;
    let mut scalars = scalars.iter().peekable();
    let (mut line, mut column, mut before, mut in_comment) = (1, 1, '\n', false);
    for (index, c) in text.chars().enumerate() {
        while scalars.next_if(|scalar| scalar.end <= index).is_some() {}
        let in_scalar = scalars.peek().is_some_and(|scalar| scalar.contains(&index));
        if c == '#' && !in_scalar && matches!(before, ' ' | '\t' | '\n') {
            in_comment = true;
        }
        if c == '\t' && !in_scalar && !in_comment {
            found.get_or_insert(Mark { line, column });
            count += 1;
        }
        before = c;
        column += 1;
        if c == '\n' {
            (line, column, in_comment) = (line + 1, 1, false);
        }
    }
    found.map(|first| (first, count))
}
