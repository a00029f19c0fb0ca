//! What is wrong with a text that is no YAML, and what to do about it.
//!
//! A parser says at which token it gave up, in words of its own grammar, and often a line behind the mistake. Here the lines
//! around that place are looked at as a person would look at them, for the mistakes that people make. In this order, the
//! first that is found is told, with its own place:
//!
//! 1. what no YAML is meant to have: marks of an unfinished merge, tabs in the indentation, characters that look like others,
//!    marks of a template;
//! 2. what the parser is sure of: an unknown alias, quotes and brackets, a value that begins with a special character;
//! 3. what the lines show (`lines`): a second `: `, a space or a colon that is missing, an indentation that fits nothing
//!    above.
//!
//! Where nothing is found, the parser's own words are told. They are kept beside what is found, too: hints repeat what stands in
//! the file, which may be a password, and are for who runs `config-validate`, not for logs and HTTP.

mod brackets;
mod layout;
mod lines;

use serde_saphyr::granit_parser::ErrorKind;

use self::layout::Content;
use super::{Mark, Problem, characters, tabs};
use crate::config::suggest::suggest;

/// Longer values are not repeated in a hint.
const LONGEST_VALUE: usize = 60;

/// Says why a parser gave up at a place.
pub fn explain(text: &str, kind: &ErrorKind, at: Mark) -> Problem {
    let source = Source { text, lines: text.split('\n').collect(), at };
    let found = source
        .unfinished_merge()
        .or_else(|| source.tab(kind))
        .or_else(|| source.odd_character())
        .or_else(|| source.template())
        .or_else(|| source.known_kind(kind))
        .or_else(|| source.second_colon())
        .or_else(|| source.line_above())
        .or_else(|| source.indentation());
    let Hint { at, message, help } = found.unwrap_or_else(|| Hint {
        at,
        message: kind.to_string(),
        help: "compare this line and the one above with their neighbours: indentation, quotes, brackets, and a colon with a \
               space behind each key"
            .to_owned(),
    });
    let in_general = Some(format!("this is not YAML: {kind}"));
    Problem { at, message: format!("this is not YAML: {message}"), help: Some(help), in_general }
}

/// A problem of a text that is YAML and yet not usable, or the mark of a template in its line that is the cause.
pub fn or_template(text: &str, problem: Problem) -> Problem {
    let source = Source { text, lines: text.split('\n').collect(), at: problem.at };
    match source.template() {
        Some(Hint { at, message, help }) => Problem::new(at, message, help),
        None => problem,
    }
}

/// What to do with a value that YAML takes for something else.
pub fn in_quotes(value: &str) -> String {
    let value = value.trim_end();
    if value.is_empty() || value.chars().count() > LONGEST_VALUE {
        return "put the value in quotes".to_owned();
    }
    format!("put the value in quotes: '{}'", value.replace('\'', "''"))
}

/// What is wrong, where, and what to do.
struct Hint {
    at: Mark,
    message: String,
    help: String,
}

/// The text, and where the parser gave up.
struct Source<'t> {
    text: &'t str,
    lines: Vec<&'t str>,
    at: Mark,
}

impl<'t> Source<'t> {
    #[allow(clippy::unnecessary_wraps)] // what is found is returned as it is
    fn hint(&self, message: impl Into<String>, help: impl Into<String>) -> Option<Hint> {
        Some(Hint { at: self.at, message: message.into(), help: help.into() })
    }

    fn line(&self, number: usize) -> &'t str {
        number.checked_sub(1).and_then(|index| self.lines.get(index)).copied().unwrap_or_default()
    }

    /// The line in which the parser gave up, from that place on.
    fn rest(&self) -> &'t str {
        let line = self.line(self.at.line);
        line.char_indices().nth(self.at.column.saturating_sub(1)).map_or("", |(index, _)| &line[index..])
    }

    /// The value at that place, up to what ends it within brackets.
    fn value(&self) -> &'t str {
        let rest = self.rest();
        let is_in_brackets = brackets::before(self.text, self.at).bracket.is_some();
        let end = rest.find([',', ']', '}']).filter(|end| is_in_brackets && *end > 0);
        end.map_or(rest, |end| rest[..end].trim_end())
    }

    /// The last line with content above that of the parser.
    fn above(&self) -> Option<(usize, Content<'t>)> {
        (1..self.at.line).rev().find_map(|number| Some((number, Content::of(self.line(number))?)))
    }

    fn unfinished_merge(&self) -> Option<Hint> {
        let is_mark = |line: &str, mark: &str| {
            line.strip_prefix(mark).is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        let first = self.lines.iter().position(|line| is_mark(line, "<<<<<<<") || is_mark(line, ">>>>>>>"))?;
        let at = Mark::new(first + 1, 1);
        let help = "keep what is right of both versions, and remove the lines that begin with `<<<<<<<`, `=======` and `>>>>>>>`";
        Some(Hint { at, message: "this line was left by an unfinished merge".to_owned(), help: help.to_owned() })
    }

    /// A tab before the first word of a line: of the one where the parser gave up, or of the next that has one, since the
    /// parser names the line before.
    fn tab(&self, kind: &ErrorKind) -> Option<Hint> {
        let places = tabs::in_indentation(&self.lines);
        let is_sure = matches!(
            kind,
            ErrorKind::TabNotAllowed
                | ErrorKind::TabInBlockIndentation
                | ErrorKind::TabInIndentation
                | ErrorKind::TabInPlainScalar
                | ErrorKind::TabAtBlockScalarStart
        );
        let first = places.iter().find(|place| place.line == self.at.line || is_sure && place.line > self.at.line)?;
        let first = *first;
        let message = "a tab stands in the indentation of this line, where only spaces may stand".to_owned();
        Some(Hint { at: first, message, help: tabs::advice(first, &places) })
    }

    /// A character that is not what it looks like, in the line where the parser gave up or the last two with content above.
    fn odd_character(&self) -> Option<Hint> {
        let all = characters::find(self.text, &[], &[]);
        let mut above = (1..self.at.line).rev().filter(|number| Content::of(self.line(*number)).is_some());
        let first = above.nth(1).unwrap_or(1);
        let last = all.iter().rev().find(|odd| (first..=self.at.line).contains(&odd.at.line))?;
        let odd = all.iter().find(|odd| odd.at.line == last.at.line)?;
        let others = all.iter().filter(|other| other.at.line == odd.at.line && other.c != odd.c);
        let also = others
            .map(|other| format!("; column {} has {}, too: {}", other.at.column, other.name(), other.advice(&[])));
        let help = std::iter::once(odd.advice(&all)).chain(also).collect();
        Some(Hint { at: odd.at, message: odd.message(), help })
    }

    /// A mark of a template in the line where the parser gave up: the last one before that place, else the first.
    fn template(&self) -> Option<Hint> {
        let line = self.line(self.at.line);
        let marks = ["{{", "{%", "{#"].into_iter().flat_map(|mark| line.match_indices(mark));
        let mut marks: Vec<_> = marks.map(|(index, mark)| (line[..index].chars().count() + 1, mark)).collect();
        marks.sort_unstable();
        let before = marks.iter().rev().find(|(column, _)| *column <= self.at.column);
        let (column, mark) = *before.or_else(|| marks.first())?;
        let message = format!("`{mark}` begins a mark of a template, and for YAML a mapping");
        let help = if mark == "{{" {
            "put the value in quotes if it is meant as it stands; else fill the template in first, and validate what comes of it"
        } else {
            "this file is a template: fill it in first, with the program that it is for, and validate what comes of it"
        };
        Some(Hint { at: Mark { column, ..self.at }, message, help: help.to_owned() })
    }

    /// What the parser's own kind of error says enough of.
    fn known_kind(&self, kind: &ErrorKind) -> Option<Hint> {
        let rest = self.rest();
        match kind {
            ErrorKind::UnknownAnchor => self.unknown_alias(),
            ErrorKind::UnclosedQuotedScalar | ErrorKind::DocumentIndicatorInQuotedScalar => {
                let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\'')).unwrap_or('"');
                self.hint(
                    format!("the quote `{quote}` that begins here is never closed"),
                    format!("write `{quote}` where the value ends"),
                )
            }
            ErrorKind::InvalidTrailingSingleQuotedScalar | ErrorKind::InvalidTrailingDoubleQuotedScalar
                if self.open_quote().is_some() =>
            {
                self.open_quote()
            }
            ErrorKind::InvalidTrailingSingleQuotedScalar => self.hint(
                "something stands behind the closing quote",
                "put the whole value in quotes; a `'` within single quotes is written twice: 'it''s'",
            ),
            ErrorKind::InvalidTrailingDoubleQuotedScalar => self.hint(
                "something stands behind the closing quote",
                "put the whole value in quotes; a `\"` within double quotes is written `\\\"`",
            ),
            ErrorKind::UnknownQuotedScalarEscape => self.hint(
                "a `\\` in double quotes begins an escape, and there is none that goes on like this one",
                "use single quotes, where `\\` is only itself, or write it twice",
            ),
            ErrorKind::MismatchedFlowCollectionEnd { open, close } => self.hint(
                format!("the bracket `{open}` that begins here is closed by `{close}`"),
                format!("write `{}` where it ends", closing(*open)),
            ),
            ErrorKind::UnclosedFlowCollection { .. }
            | ErrorKind::UnexpectedEofFlowMapping
            | ErrorKind::UnexpectedEofFlowSequence
            | ErrorKind::UnexpectedEofImplicitFlowMapping
            | ErrorKind::InvalidColonPlacement
            | ErrorKind::BlockEntryInFlowCollection
            | ErrorKind::InvalidFlowScalarIndent
            | ErrorKind::ExpectedFlowMappingSeparator
            | ErrorKind::ExpectedFlowSequenceSeparator => self.open_bracket(kind),
            ErrorKind::BlockSequenceEntryNotAllowed if Content::of(self.line(self.at.line))?.key.is_some() => self
                .hint(
                    "a list cannot begin in the line of its key",
                    "begin it in the next line, or write it in brackets: [a, b]",
                ),
            ErrorKind::MisplacedFlowCollectionEnd => {
                self.hint("this bracket closes none that is open", "remove it, or write the one that it closes")
            }
            ErrorKind::UnexpectedCharacter { .. }
            | ErrorKind::MissingAnchorOrAliasName
            | ErrorKind::UndeclaredTagHandle
            | ErrorKind::InvalidTagTerminator
            | ErrorKind::MissingTagUri
            | ErrorKind::UnclosedVerbatimTag
            | ErrorKind::MappingKeyNotAllowed
            | ErrorKind::InvalidBlockScalarHeader => {
                let first = rest.chars().next().filter(|c| "@`%*&!?|>".contains(*c))?;
                let help = if matches!(first, '|' | '>') {
                    format!("begin the text in the next line, or {}", in_quotes(self.value()))
                } else {
                    in_quotes(self.value())
                };
                self.hint(format!("a value cannot begin with `{first}`, which means something else to YAML"), help)
            }
            _ => None,
        }
    }

    /// A quoted text that ends in a line below, where another one was to begin.
    fn open_quote(&self) -> Option<Hint> {
        let (quote, at) = brackets::before(self.text, self.at).quote.filter(|(_, at)| at.line < self.at.line)?;
        let message =
            format!("the quote `{quote}` that begins here is closed by the one in line {} only", self.at.line);
        Some(Hint { at, message, help: format!("write `{quote}` where the value ends") })
    }

    fn unknown_alias(&self) -> Option<Hint> {
        let is_name = |c: &char| !c.is_whitespace() && !matches!(c, ',' | '[' | ']' | '{' | '}');
        let alias: String = self.rest().strip_prefix('*')?.chars().take_while(is_name).collect();
        let above = self.lines.iter().take(self.at.line).flat_map(|line| line.split([' ', '[', '{', ',']));
        let anchors: Vec<&str> =
            above.filter_map(|word| word.strip_prefix('&')).filter(|name| !name.is_empty()).collect();
        let help = match suggest(&alias, anchors.into_iter()) {
            Some(meant) => format!("did you mean `*{meant}`?"),
            None => format!(
                "write `&{alias}` above, before what it stands for; or, if it is a text, {}",
                in_quotes(self.value())
            ),
        };
        self.hint(format!("`*{alias}` stands for what is marked `&{alias}`, and nothing above is"), help)
    }

    fn open_bracket(&self, kind: &ErrorKind) -> Option<Hint> {
        let is_at_bracket =
            self.rest().starts_with(['[', '{']) && matches!(kind, ErrorKind::UnclosedFlowCollection { .. });
        let (open, at) = match self.rest().chars().next() {
            Some(open) if is_at_bracket => (open, self.at),
            _ => brackets::before(self.text, self.at).bracket?,
        };
        let close = closing(open);
        if at.line == self.at.line && !is_at_bracket {
            let message = format!(
                "a comma is missing before this place, or the bracket `{open}` of column {} is not closed",
                at.column
            );
            return self.hint(message, format!("write `,` between two values, and `{close}` where the last one ends"));
        }
        let message = format!("the bracket `{open}` that begins here is never closed");
        Some(Hint { at, message, help: format!("write `{close}` where it ends") })
    }
}

fn closing(open: char) -> char {
    if open == '[' { ']' } else { '}' }
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(LONGEST_VALUE) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `name:a` as it was meant, `name: a`; not an address, which has a colon, too.
pub fn without_space(text: &str) -> Option<String> {
    let (key, value) = text.split_once(':')?;
    let is_key = key.starts_with(|c: char| c.is_ascii_alphabetic())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let is_one = is_key && !value.is_empty() && !value.starts_with([' ', ':']) && !value.starts_with("//");
    is_one.then(|| format!("{key}: {}", shortened(value)))
}
