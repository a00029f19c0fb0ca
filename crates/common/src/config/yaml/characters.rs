//! Characters that look like others, or like nothing at all: what word processors, chats and web pages put in the place of a
//! space, a dash or a quote.
//!
//! To YAML they are letters, so that `– name` is the name of a key, and a list becomes a mapping. In comments, in block scalars
//! and, but for those that nobody sees, in quotes they are left alone.

use std::ops::Range;

use super::Mark;

/// What a character is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Space,
    Nothing,
    Dash,
    Quote(char),
    Sign(char),
}

/// One of them, and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Odd {
    /// The character.
    pub c: char,
    /// Where.
    pub at: Mark,
    kind: Kind,
}

const NAMES: [(char, Kind, &str); 41] = [
    ('\u{85}', Kind::Nothing, "NEXT LINE"),
    ('\u{a0}', Kind::Space, "NO-BREAK SPACE"),
    ('\u{ad}', Kind::Nothing, "SOFT HYPHEN"),
    ('\u{1680}', Kind::Space, "OGHAM SPACE MARK"),
    ('\u{2000}', Kind::Space, "EN QUAD"),
    ('\u{2001}', Kind::Space, "EM QUAD"),
    ('\u{2002}', Kind::Space, "EN SPACE"),
    ('\u{2003}', Kind::Space, "EM SPACE"),
    ('\u{2004}', Kind::Space, "THREE-PER-EM SPACE"),
    ('\u{2005}', Kind::Space, "FOUR-PER-EM SPACE"),
    ('\u{2006}', Kind::Space, "SIX-PER-EM SPACE"),
    ('\u{2007}', Kind::Space, "FIGURE SPACE"),
    ('\u{2008}', Kind::Space, "PUNCTUATION SPACE"),
    ('\u{2009}', Kind::Space, "THIN SPACE"),
    ('\u{200a}', Kind::Space, "HAIR SPACE"),
    ('\u{200b}', Kind::Nothing, "ZERO WIDTH SPACE"),
    ('\u{200c}', Kind::Nothing, "ZERO WIDTH NON-JOINER"),
    ('\u{200d}', Kind::Nothing, "ZERO WIDTH JOINER"),
    ('\u{200e}', Kind::Nothing, "LEFT-TO-RIGHT MARK"),
    ('\u{200f}', Kind::Nothing, "RIGHT-TO-LEFT MARK"),
    ('\u{2028}', Kind::Nothing, "LINE SEPARATOR"),
    ('\u{2029}', Kind::Nothing, "PARAGRAPH SEPARATOR"),
    ('\u{202f}', Kind::Space, "NARROW NO-BREAK SPACE"),
    ('\u{205f}', Kind::Space, "MEDIUM MATHEMATICAL SPACE"),
    ('\u{2060}', Kind::Nothing, "WORD JOINER"),
    ('\u{3000}', Kind::Space, "IDEOGRAPHIC SPACE"),
    ('\u{feff}', Kind::Nothing, "BYTE ORDER MARK"),
    ('\u{2010}', Kind::Dash, "HYPHEN"),
    ('\u{2011}', Kind::Dash, "NON-BREAKING HYPHEN"),
    ('\u{2012}', Kind::Dash, "FIGURE DASH"),
    ('\u{2013}', Kind::Dash, "EN DASH"),
    ('\u{2014}', Kind::Dash, "EM DASH"),
    ('\u{2015}', Kind::Dash, "HORIZONTAL BAR"),
    ('\u{2212}', Kind::Dash, "MINUS SIGN"),
    ('\u{2018}', Kind::Quote('\''), "LEFT SINGLE QUOTATION MARK"),
    ('\u{2019}', Kind::Quote('\''), "RIGHT SINGLE QUOTATION MARK"),
    ('\u{201c}', Kind::Quote('"'), "LEFT DOUBLE QUOTATION MARK"),
    ('\u{201d}', Kind::Quote('"'), "RIGHT DOUBLE QUOTATION MARK"),
    ('\u{201e}', Kind::Quote('"'), "DOUBLE LOW-9 QUOTATION MARK"),
    ('\u{ff1a}', Kind::Sign(':'), "FULLWIDTH COLON"),
    ('\u{ff0c}', Kind::Sign(','), "FULLWIDTH COMMA"),
];

fn known(c: char) -> Option<(Kind, &'static str)> {
    // Almost all characters of almost all files.
    if c.is_ascii() {
        return None;
    }
    NAMES.iter().find(|(known, ..)| *known == c).map(|(_, kind, name)| (*kind, *name))
}

fn named(c: char, name: &str) -> String {
    format!("U+{:04X} ({name})", u32::from(c))
}

/// Whether a character shows nothing, or nothing but a space that is none.
pub fn is_invisible(c: char) -> bool {
    known(c).is_some_and(|(kind, _)| matches!(kind, Kind::Space | Kind::Nothing))
}

/// The text as it was meant, and what stands in it in the place of that; `None`: all is what it looks like.
pub fn meant(text: &str) -> Option<(String, String)> {
    let (first, (_, name)) = text.chars().find_map(|c| Some((c, known(c)?)))?;
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match known(c) {
            None => plain.push(c),
            Some((Kind::Space, _)) => plain.push(' '),
            Some((Kind::Nothing, _)) => {}
            Some((Kind::Dash, _)) => plain.push('-'),
            Some((Kind::Quote(sign) | Kind::Sign(sign), _)) => plain.push(sign),
        }
    }
    Some((plain.trim().to_owned(), named(first, name)))
}

impl Odd {
    /// What is wrong with it.
    pub fn message(&self) -> String {
        let what = match self.kind {
            Kind::Space => "looks like a space, and is none to YAML".to_owned(),
            Kind::Nothing => "cannot be seen, and is there all the same".to_owned(),
            Kind::Dash => "looks like `-`, and is a letter to YAML".to_owned(),
            Kind::Quote(sign) => format!("looks like `{sign}`, and is a part of the value"),
            Kind::Sign(sign) => format!("looks like `{sign}`, and is a letter to YAML"),
        };
        format!("the character {} stands here, which {what}", self.name())
    }

    /// `U+00A0 (NO-BREAK SPACE)`.
    pub fn name(&self) -> String {
        named(self.c, known(self.c).map_or("", |(_, name)| name))
    }

    /// What to do about it, with the other lines that have it. `all`: those of the file.
    pub fn advice(&self, all: &[Self]) -> String {
        let instead = match self.kind {
            Kind::Space => "write a space instead".to_owned(),
            Kind::Nothing => "delete it".to_owned(),
            Kind::Dash => "write `-` instead".to_owned(),
            Kind::Quote(sign) => format!("write `{sign}` instead, at both ends, or no quotes"),
            Kind::Sign(':') => "write `:` and a space instead".to_owned(),
            Kind::Sign(sign) => format!("write `{sign}` instead"),
        };
        instead
            + &super::mark::in_other_lines(self.at, all.iter().filter(|other| other.c == self.c).map(|other| other.at))
    }
}

/// All of them in a text. `quoted` and `blocks`: where its quoted and its block scalars stand, in characters and in their order.
pub fn find(text: &str, quoted: &[Range<usize>], blocks: &[Range<usize>]) -> Vec<Odd> {
    let mut found = Vec::new();
    if text.is_ascii() {
        return found;
    }
    let (mut quoted, mut blocks) = (quoted.iter().peekable(), blocks.iter().peekable());
    let mut line = Line::default();
    let mut number = 1;
    let mut chars = text.chars().enumerate().peekable();
    while let Some((index, c)) = chars.next() {
        let next = chars.peek().map_or('\n', |(_, next)| *next);
        while quoted.next_if(|scalar| scalar.end <= index).is_some() {}
        while blocks.next_if(|scalar| scalar.end <= index).is_some() {}
        let in_quotes = quoted.peek().is_some_and(|scalar| scalar.contains(&index));
        let in_block = blocks.peek().is_some_and(|scalar| scalar.contains(&index));
        if c == '#' && !in_quotes && !in_block && line.is_behind_blank() {
            line.in_comment = true;
        }
        if let Some((kind, _)) = known(c).filter(|_| !line.in_comment && !in_block && index > 0) {
            let is_odd = match kind {
                Kind::Nothing => true,
                Kind::Space | Kind::Sign(_) => !in_quotes,
                Kind::Dash => !in_quotes && (line.begins_value() || !(line.is_behind_blank() && next.is_whitespace())),
                Kind::Quote(_) => !in_quotes && line.begins_value(),
            };
            if is_odd {
                found.push(Odd { c, at: Mark::new(number, line.column + 1), kind });
            }
        }
        if c == '\n' {
            (line, number) = (Line::default(), number + 1);
        } else {
            line.take(c);
        }
    }
    found
}

/// What stands before a character in its line.
#[derive(Default)]
struct Line {
    column: usize,
    in_comment: bool,
    /// The character before; `None`: the line begins.
    before: Option<char>,
    /// The last one that is no blank.
    last: Option<char>,
}

impl Line {
    const fn is_behind_blank(&self) -> bool {
        matches!(self.before, None | Some(' ' | '\t'))
    }

    const fn begins_value(&self) -> bool {
        match self.last {
            None | Some('[' | '{' | ',') => true,
            Some(':' | '-') => self.is_behind_blank(),
            _ => false,
        }
    }

    fn take(&mut self, c: char) {
        self.column += 1;
        self.before = Some(c);
        if !c.is_whitespace() {
            self.last = Some(c);
        }
    }
}
