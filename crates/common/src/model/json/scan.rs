//! A scanner for JSON as Python reads it: RFC 8259 with `NaN`, `Infinity` and `-Infinity`, lone surrogates as escapes, and
//! any depth.
//!
//! It only finds where a value ends; nothing is converted, so nothing is lost. It does not recurse: a record of a mebibyte
//! may be half a million brackets.

/// Why a text is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} at byte {at}")]
pub struct NotJson {
    /// What is missing or too much.
    pub what: &'static str,
    /// Where, counted from 0.
    pub at: usize,
}

/// A place in a text. Each step takes what it has found.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// At a text's beginning.
    pub const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Takes blanks, and then that byte if it is next.
    pub fn take(&mut self, byte: u8) -> bool {
        self.blanks();
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Nothing but blanks is left.
    pub fn end(&mut self) -> Result<(), NotJson> {
        self.blanks();
        if self.at == self.text.len() { Ok(()) } else { self.fail("something after the document's end") }
    }

    /// Takes a member's name with its quotes, and the colon.
    pub fn name(&mut self) -> Result<&'a str, NotJson> {
        self.blanks();
        let name = self.string("no name of a member")?;
        if self.take(b':') { Ok(name) } else { self.fail("no colon after a name") }
    }

    /// Takes the comma between two members.
    pub fn comma(&mut self) -> Result<(), NotJson> {
        if self.take(b',') { Ok(()) } else { self.fail("neither a comma nor a closing bracket") }
    }

    /// Takes a whole value.
    pub fn value(&mut self) -> Result<&'a str, NotJson> {
        self.blanks();
        let start = self.at;
        // The closing brackets that are due, the innermost last.
        let mut due = Vec::new();
        loop {
            self.blanks();
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    if !self.take(b'}') {
                        self.name()?;
                        due.push(b'}');
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    if !self.take(b']') {
                        due.push(b']');
                        continue;
                    }
                }
                Some(b'"') => drop(self.string("no text")?),
                _ => self.plain()?,
            }
            // A value has ended, and with it all those whose last it was.
            loop {
                let Some(&closing) = due.last() else { return Ok(&self.text[start..self.at]) };
                if self.take(closing) {
                    due.pop();
                } else if self.take(b',') {
                    if closing == b'}' {
                        self.name()?;
                    }
                    break;
                } else {
                    return self.fail("neither a comma nor a closing bracket");
                }
            }
        }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, NotJson> {
        Err(NotJson { what, at: self.at })
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }

    fn peek(&self) -> Option<u8> {
        self.rest().first().copied()
    }

    fn blanks(&mut self) {
        self.at += self.rest().iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\n' | b'\r')).count();
    }

    fn string(&mut self, missing: &'static str) -> Result<&'a str, NotJson> {
        let start = self.at;
        if self.peek() != Some(b'"') {
            return self.fail(missing);
        }
        self.at += 1;
        loop {
            self.at += self.rest().iter().take_while(|b| !matches!(b, b'"' | b'\\' | ..=0x1f)).count();
            match self.rest() {
                [b'"', ..] => {
                    self.at += 1;
                    return Ok(&self.text[start..self.at]);
                }
                [b'\\', b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
                [b'\\', b'u', digits @ ..] if digits.len() >= 4 && digits[..4].iter().all(u8::is_ascii_hexdigit) => {
                    self.at += 6;
                }
                [b'\\', ..] => return self.fail("an unknown escape"),
                [] => return self.fail("a text without end"),
                _ => return self.fail("a control character in a text"),
            }
        }
    }

    /// A literal or a number.
    fn plain(&mut self) -> Result<(), NotJson> {
        let literals: [&[u8]; 6] = [b"null", b"true", b"false", b"NaN", b"Infinity", b"-Infinity"];
        if let Some(literal) = literals.into_iter().find(|literal| self.rest().starts_with(literal)) {
            self.at += literal.len();
            return Ok(());
        }
        let start = self.at;
        self.at += usize::from(self.peek() == Some(b'-'));
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else if self.digits() == 0 {
            self.at = start;
            return self.fail("no value");
        }
        // What follows and does not belong to it is found by whoever looks for a comma or the end.
        let whole = self.at;
        if self.peek() == Some(b'.') {
            self.at += 1;
            if self.digits() == 0 {
                self.at = whole;
                return Ok(());
            }
        }
        let mantissa = self.at;
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.peek(), Some(b'+' | b'-')));
            if self.digits() == 0 {
                self.at = mantissa;
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> usize {
        let count = self.rest().iter().take_while(|b| b.is_ascii_digit()).count();
        self.at += count;
        count
    }
}

/// The text that a string with its quotes stands for. A lone surrogate, which no Rust text can hold, becomes U+FFFD.
pub fn decode(quoted: &str) -> String {
    let mut text = String::with_capacity(quoted.len());
    let mut rest = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    // UTF-16 units that were written as escapes and await what follows them.
    let mut units = Vec::new();
    while let Some(at) = rest.find('\\') {
        if at > 0 {
            flush(&mut units, &mut text);
            text.push_str(&rest[..at]);
        }
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        if escape == b'u' {
            units.extend(rest.get(at + 2..at + 6).and_then(|digits| u16::from_str_radix(digits, 16).ok()));
            rest = rest.get(at + 6..).unwrap_or_default();
            continue;
        }
        flush(&mut units, &mut text);
        text.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            itself => char::from(itself),
        });
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    flush(&mut units, &mut text);
    text.push_str(rest);
    text
}

fn flush(units: &mut Vec<u16>, text: &mut String) {
    text.extend(char::decode_utf16(units.drain(..)).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER)));
}
