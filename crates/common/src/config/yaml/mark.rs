//! [`Mark`]: a place in a file; and a [`Problem`] at one.

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
    /// In which of a configuration's files.
    pub file: WhichFile,
}

impl Mark {
    /// In the file that is read.
    pub const fn new(line: usize, column: usize) -> Self {
        Self { line, column, file: WhichFile::Main }
    }
}

/// A file of those whose trees are read as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhichFile {
    /// The configuration file itself.
    #[default]
    Main,
    /// The one that has only our own keys ([`crate::config::extensions`]).
    Extensions,
}

/// Why a text is not one YAML document.
#[derive(Debug)]
pub struct Problem {
    /// Where.
    pub at: Mark,
    /// What is wrong.
    pub message: String,
    /// A way out.
    pub help: Option<String>,
    /// What is wrong without a word of the text, where `message` or `help` repeat some of it: passwords need quotes more often
    /// than anything else, and people put them into these files.
    pub in_general: Option<String>,
}

impl Problem {
    /// With a way out.
    pub fn new(at: Mark, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { at, message: message.into(), help: Some(help.into()), in_general: None }
    }

    /// What is wrong, for logs and for what everybody can read: nothing of a text that is no YAML is repeated.
    pub fn without_its_text(&self) -> &str {
        self.in_general.as_ref().unwrap_or(&self.message)
    }
}

/// The other lines of places like one, for advice: `; line 6 has one, too`.
pub(super) fn in_other_lines(this: Mark, all: impl Iterator<Item = Mark>) -> String {
    const MOST: usize = 5;
    let mut lines: Vec<usize> = all.map(|at| at.line).filter(|line| *line != this.line).collect();
    lines.dedup();
    let mut named: Vec<String> = lines.iter().take(MOST).map(ToString::to_string).collect();
    if lines.len() > MOST {
        named.push("others".to_owned());
    }
    match named.split_last() {
        None => String::new(),
        Some((line, [])) => format!("; line {line} has one, too"),
        Some((last, first)) => format!("; lines {} and {last} have some, too", first.join(", ")),
    }
}
