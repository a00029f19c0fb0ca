//! What a plain scalar means: YAML 1.1 as PyYAML's `SafeLoader` reads it.
//!
//! Python Nodepool reads its file with PyYAML, so `on` is true, `010` is 8, `1:30` is 90 and `21.04` is a float, while
//! `y`, `0o10` and `1e3` are texts. The forms are tried in PyYAML's order: bool, float, int, null, date.

use super::digits::digits;

/// A scalar's meaning. Text is what nothing else matched.
#[derive(Clone, Debug, PartialEq)]
pub enum Meaning {
    /// `~`, `null` or nothing at all.
    Null,
    /// `true`, `yes`, `on` and their opposites.
    Bool(bool),
    /// Decimal, octal, hexadecimal, binary or sexagesimal.
    Int(i64),
    /// An integer that no `i64` holds, nearly: its text has the [`digits`].
    BigInt(f64),
    /// With a point.
    Float(f64),
    /// A date or a point in time, which nothing in a configuration wants: the text stands for it.
    Date,
    /// A plain `<<`: as a key, what follows is merged.
    Merge,
    /// A text.
    Text,
}

/// The meaning of an untagged plain scalar.
pub fn resolve(text: &str) -> Meaning {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Meaning::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => return Meaning::Bool(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => return Meaning::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| matches!(c, '-' | '+' | '.' | '0'..='9')) {
        return Meaning::Text;
    }
    if let Some(float) = float(text) {
        return Meaning::Float(float);
    }
    if let Some(int) = int(text) {
        return int;
    }
    if is_date(text) { Meaning::Date } else { Meaning::Text }
}

/// Whether a text needs no quotes to be that text, alone in its line.
pub fn is_plain_text(text: &str) -> bool {
    let is_sign = |c: char| "?:,[]{}#&*!|>'\"%@`".contains(c);
    resolve(text) == Meaning::Text
        && text != "<<"
        && text.trim() == text
        && !text.starts_with(is_sign)
        && !text.starts_with("- ")
        && !text.ends_with(':')
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.contains('\n')
}

/// A cursor that takes what matches: the few regular expressions of PyYAML's resolver, by hand.
struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    /// Takes the longest run of such characters and returns its length.
    fn run(&mut self, matches: impl Fn(char) -> bool) -> usize {
        let rest = self.0.trim_start_matches(matches);
        let taken = self.0.len() - rest.len();
        self.0 = rest;
        taken
    }

    /// Takes one such character if there is one.
    fn one(&mut self, matches: impl Fn(char) -> bool) -> bool {
        match self.0.chars().next() {
            Some(c) if matches(c) => {
                self.0 = &self.0[c.len_utf8()..];
                true
            }
            _ => false,
        }
    }

    /// Takes exactly that text if it comes next.
    fn exact(&mut self, text: &str) -> bool {
        self.0.strip_prefix(text).is_some_and(|rest| {
            self.0 = rest;
            true
        })
    }

    /// `[0-9]`, as often as that.
    fn digits(&mut self, count: usize) -> bool {
        (0..count).all(|_| self.one(|c| c.is_ascii_digit()))
    }

    /// `(?::[0-5]?[0-9])+`
    fn sexagesimal_tail(&mut self) -> bool {
        let mut any = false;
        while self.0.starts_with(':') {
            let part = &self.0[1..];
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let fits = digits == 1 || digits == 2 && part.starts_with(|c| matches!(c, '0'..='5'));
            if !fits {
                return false;
            }
            self.0 = &part[digits..];
            any = true;
        }
        any
    }

    fn end(&self) -> bool {
        self.0.is_empty()
    }
}

const fn digit_or_underscore(c: char) -> bool {
    c.is_ascii_digit() || c == '_'
}

/// Strips the sign; `true`: negative.
fn unsigned(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn float(text: &str) -> Option<f64> {
    let (negative, body) = unsigned(text);
    if matches!(body, ".inf" | ".Inf" | ".INF") {
        return Some(if negative { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Some(f64::NAN);
    }
    let mut cursor = Cursor(body);
    let whole = cursor.one(|c| c.is_ascii_digit());
    if whole {
        cursor.run(digit_or_underscore);
        if cursor.0.starts_with(':') {
            let fits = cursor.sexagesimal_tail() && cursor.exact(".") && {
                cursor.run(digit_or_underscore);
                cursor.end()
            };
            return fits.then(|| sexagesimal(negative, body));
        }
    } else if body.len() != text.len() {
        return None; // a sign is allowed before a digit only
    }
    if !cursor.exact(".") || !whole && !cursor.one(|c| c.is_ascii_digit()) {
        return None;
    }
    cursor.run(digit_or_underscore);
    if cursor.one(|c| matches!(c, 'e' | 'E'))
        && !(cursor.one(|c| matches!(c, '+' | '-')) && cursor.run(|c| c.is_ascii_digit()) > 0)
    {
        return None;
    }
    if !cursor.end() {
        return None;
    }
    let value: f64 = body.replace('_', "").parse().ok()?;
    Some(if negative { -value } else { value })
}

/// `1:30.5` is 90.5: base 60, the first part unbounded.
fn sexagesimal(negative: bool, body: &str) -> f64 {
    let value = body
        .replace('_', "")
        .split(':')
        .fold(0.0, |sum: f64, part| sum.mul_add(60.0, part.parse::<f64>().unwrap_or(0.0)));
    if negative { -value } else { value }
}

fn int(text: &str) -> Option<Meaning> {
    let (negative, body) = unsigned(text);
    let (spelled, radix): (&str, u32) = if let Some(digits) = body.strip_prefix("0b") {
        (digits.chars().all(|c| matches!(c, '0' | '1' | '_')).then_some(digits)?, 2)
    } else if let Some(digits) = body.strip_prefix("0x") {
        (digits.chars().all(|c| c.is_ascii_hexdigit() || c == '_').then_some(digits)?, 16)
    } else if body.len() > 1 && body.starts_with('0') {
        (body.chars().all(|c| matches!(c, '0'..='7' | '_')).then_some(body)?, 8)
    } else if body.contains(':') {
        let mut cursor = Cursor(body);
        let fits = cursor.one(|c| matches!(c, '1'..='9')) && {
            cursor.run(digit_or_underscore);
            cursor.sexagesimal_tail() && cursor.end()
        };
        if !fits {
            return None;
        }
        return of_digits(text);
    } else {
        let fits = body.starts_with(|c: char| c.is_ascii_digit()) && body.chars().all(digit_or_underscore);
        (fits.then_some(body)?, 10)
    };
    let plain = spelled.replace('_', "");
    if plain.is_empty() {
        return None; // PyYAML fails on `0x_`; a text harms nobody
    }
    match i64::from_str_radix(&format!("{}{plain}", if negative { "-" } else { "" }), radix) {
        Ok(value) => Some(Meaning::Int(value)),
        Err(_) => of_digits(text),
    }
}

fn of_digits(text: &str) -> Option<Meaning> {
    let digits = digits(text)?;
    digits.parse().map(Meaning::Int).or_else(|_| digits.parse().map(Meaning::BigInt)).ok()
}

/// An integral float as an int where it fits exactly.
#[allow(clippy::cast_possible_truncation)] // guarded: integral and within i64's exact range
pub fn whole(value: f64) -> Meaning {
    if value.fract() == 0.0 && value.abs() < 9e15 { Meaning::Int(value as i64) } else { Meaning::Float(value) }
}

/// `2026-01-31`, or with a time and a zone in PyYAML's forms.
fn is_date(text: &str) -> bool {
    let mut cursor = Cursor(text);
    let simple = cursor.digits(4)
        && cursor.exact("-")
        && cursor.digits(2)
        && cursor.exact("-")
        && cursor.digits(2)
        && cursor.end();
    simple || is_time(text)
}

fn is_time(text: &str) -> bool {
    let mut cursor = Cursor(text);
    let digit = |c: char| c.is_ascii_digit();
    let blank = |c: char| matches!(c, ' ' | '\t');
    let one_or_two = |cursor: &mut Cursor| {
        let first = cursor.one(digit);
        cursor.one(digit);
        first
    };
    let start = cursor.digits(4)
        && cursor.exact("-")
        && one_or_two(&mut cursor)
        && cursor.exact("-")
        && one_or_two(&mut cursor)
        && (cursor.one(|c| matches!(c, 'T' | 't')) || cursor.run(blank) > 0)
        && one_or_two(&mut cursor)
        && cursor.exact(":")
        && cursor.digits(2)
        && cursor.exact(":")
        && cursor.digits(2);
    if !start {
        return false;
    }
    if cursor.exact(".") {
        cursor.run(digit);
    }
    if cursor.end() {
        return true;
    }
    cursor.run(blank);
    let zone = cursor.exact("Z")
        || cursor.one(|c| matches!(c, '-' | '+'))
            && one_or_two(&mut cursor)
            && (cursor.end() || cursor.exact(":") && cursor.digits(2));
    zone && cursor.end()
}
