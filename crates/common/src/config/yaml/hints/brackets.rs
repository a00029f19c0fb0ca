//! Which bracket is open at a place, and where the last quoted text before it began.
//!
//! As `layout`, it reads text that no parser could read, and only as well as that needs: a bracket or a quote counts
//! where a value may begin, and what is quoted or a comment does not count.

use crate::config::yaml::Mark;

/// What is known of a place.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Before {
    /// The innermost `[` or `{` that is open.
    pub bracket: Option<(char, Mark)>,
    /// The quote with which the last quoted text began.
    pub quote: Option<(char, Mark)>,
}

/// Looks at what stands before a place.
pub fn before(text: &str, place: Mark) -> Before {
    let mut last_quote = None;
    let mut open: Vec<(char, Mark)> = Vec::new();
    let (mut quote, mut may_begin, mut before) = (None, true, '\n');
    let mut at = Mark::new(1, 1);
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if (at.line, at.column) >= (place.line, place.column) {
            break;
        }
        let next = chars.peek().copied().unwrap_or('\n');
        match (c, quote) {
            ('\\', Some('"')) if next != '\n' => {
                chars.next();
                at.column += 1;
            }
            (c, Some(end)) if c == end => (quote, may_begin) = (None, false),
            (_, Some(_)) => {}
            ('#', None) if before.is_whitespace() => while chars.next_if(|c| *c != '\n').is_some() {},
            ('"' | '\'', None) if may_begin => {
                quote = Some(c);
                last_quote = Some((c, at));
            }
            ('[' | '{', None) if may_begin || !open.is_empty() => {
                open.push((c, at));
                may_begin = true;
            }
            (']' | '}', None) if !open.is_empty() => {
                open.pop();
                may_begin = false;
            }
            ('\n', None) => may_begin = true,
            (',', None) if !open.is_empty() => may_begin = true,
            (':' | '-', None) if next.is_whitespace() => may_begin |= c == ':',
            (c, None) if c.is_whitespace() => {}
            (_, None) => may_begin = false,
        }
        before = c;
        at = if c == '\n' { Mark::new(at.line + 1, 1) } else { Mark { column: at.column + 1, ..at } };
    }
    Before { bracket: open.pop(), quote: last_quote }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bracket_counts_where_a_value_may_begin() {
        let open = |text: &str| {
            let end = Mark::new(usize::MAX, 1);
            before(text, end).bracket.map(|(bracket, at)| (bracket, at.line, at.column))
        };
        assert_eq!(open("a: [b, {c: d\n"), Some(('{', 1, 8)));
        assert_eq!(open("a:\n- [b, {c: d}\n"), Some(('[', 2, 3)));
        for closed in ["a: [b]\n", "a: b[0\n", "a: '['\n", "a: \"\\\"[\"\n", "a: b # [\n", "# '\na: b\n"] {
            assert_eq!(open(closed), None, "{closed}");
        }
        assert_eq!(before("a: [b\n", Mark::new(1, 4)).bracket, None, "not before its own place");
    }

    #[test]
    fn a_quoted_text_may_end_many_lines_below() {
        let place = Mark::new(3, 5);
        let quote = before("a: \"b\nc: d\ne: \"f\"\n", place).quote;
        assert_eq!(quote, Some(('"', Mark::new(1, 4))));
    }
}
