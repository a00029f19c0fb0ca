//! Tabs where PyYAML has none.
//!
//! YAML 1.2 lets tabs separate values, and our parser takes them. PyYAML takes a tab only within quotes, in the content of
//! a block scalar and in a comment; everywhere else it is "a character that cannot start any token", and the file is
//! refused (PyYAML: scanner.py `scan_to_next_token`, `scan_plain`).

use std::ops::Range;

use super::Mark;

/// The tabs before the first word of each line, one of each, in a text that could not be read.
pub fn in_indentation(lines: &[&str]) -> Vec<Mark> {
    let of_line = |(number, line): (usize, &&str)| {
        let space = line.len() - line.trim_start_matches([' ', '\t']).len();
        let column = line[..space].find('\t')? + 1;
        Some(Mark::new(number, column))
    };
    (1..).zip(lines).filter_map(of_line).collect()
}

/// What to do about a tab, with the other lines that have some. `all`: the tabs of the file.
pub fn advice(tab: Mark, all: &[Mark]) -> String {
    format!("write spaces instead{}", super::mark::in_other_lines(tab, all.iter().copied()))
}

/// Those tabs of a text that could be read. `scalars`: the quoted and block scalars, as ranges of characters, in their order.
pub fn refused_by_pyyaml(text: &str, scalars: &[Range<usize>]) -> Vec<Mark> {
    let mut found = Vec::new();
    let mut scalars = scalars.iter().peekable();
    let (mut line, mut column, mut before, mut in_comment) = (1, 1, '\n', false);
    for (index, c) in text.chars().enumerate() {
        while scalars.next_if(|scalar| scalar.end <= index).is_some() {}
        let in_scalar = scalars.peek().is_some_and(|scalar| scalar.contains(&index));
        if c == '#' && !in_scalar && matches!(before, ' ' | '\t' | '\n') {
            in_comment = true;
        }
        if c == '\t' && !in_scalar && !in_comment {
            found.push(Mark::new(line, column));
        }
        before = c;
        column += 1;
        if c == '\n' {
            (line, column, in_comment) = (line + 1, 1, false);
        }
    }
    found
}
