//! What a load has to say: errors, warnings, and where.

use std::{cell::RefCell, fmt, sync::Arc};

use super::{Place, yaml::Mark};

/// Something in the configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What is wrong with which object.
    pub message: String,
    /// A way out.
    pub help: Option<String>,
}

/// Something in the configuration that was read, but is hardly what was meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// Where.
    pub place: Place,
    /// What is odd about which object.
    pub message: String,
    /// A way out.
    pub help: Option<String>,
}

fn line(f: &mut fmt::Formatter<'_>, place: &Place, message: &str, help: Option<&str>) -> fmt::Result {
    write!(f, "{place}: {message}")?;
    help.map_or(Ok(()), |help| write!(f, " ({help})"))
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, &self.message, self.help.as_deref())
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, &self.place, &self.message, self.help.as_deref())
    }
}

/// Every error of a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// The errors.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    /// One per line: `FILE:LINE:COLUMN: message (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// How much is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// As the daemons read it: unknown keys and wrong types that have a sensible meaning are warnings.
    Runtime,
    /// As `nodepool config-validate` reads it: they are errors.
    Strict,
}

/// Collects what is found in one file. The walkers share it, hence the cells.
#[derive(Debug)]
pub struct Report {
    /// How much is forgiven.
    pub mode: Mode,
    file: Arc<str>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<Warning>>,
}

impl Report {
    /// Nothing found yet.
    pub fn new(mode: Mode, file: Arc<str>) -> Self {
        Self { mode, file, errors: RefCell::default(), warnings: RefCell::default() }
    }

    /// An empty report on the same file, for a part whose errors are its own.
    pub fn part(&self) -> Self {
        Self::new(self.mode, Arc::clone(&self.file))
    }

    /// The place in this file.
    pub fn place(&self, at: Mark) -> Place {
        Place { file: Arc::clone(&self.file), line: at.line, column: at.column }
    }

    /// Whether this is `config-validate`.
    pub fn strict(&self) -> bool {
        self.mode == Mode::Strict
    }

    /// Notes an error.
    pub fn error(&self, at: Mark, message: impl Into<String>, help: Option<String>) {
        let error = ConfigError { place: self.place(at), message: message.into(), help };
        self.errors.borrow_mut().push(error);
    }

    /// Notes a warning.
    pub fn warning(&self, at: Mark, message: impl Into<String>, help: Option<String>) {
        let warning = Warning { place: self.place(at), message: message.into(), help };
        self.warnings.borrow_mut().push(warning);
    }

    /// Notes what upstream's schema rejects and its daemons ignore: an error when validating, else a warning.
    pub fn lapse(&self, at: Mark, message: impl Into<String>, help: Option<String>) {
        self.note(self.strict(), at, message, help);
    }

    /// Notes what is an error for one reader and a warning for the other.
    pub fn note(&self, is_error: bool, at: Mark, message: impl Into<String>, help: Option<String>) {
        if is_error {
            self.error(at, message, help);
        } else {
            self.warning(at, message, help);
        }
    }

    /// The errors so far, taken out.
    pub fn take_errors(&self) -> Vec<ConfigError> {
        self.errors.take()
    }

    /// Takes in another report's findings.
    pub fn absorb(&self, other: Self) {
        self.errors.borrow_mut().extend(other.errors.into_inner());
        self.warnings.borrow_mut().extend(other.warnings.into_inner());
    }

    /// The warnings, or the errors if there are any.
    pub fn finish(self) -> Result<Vec<Warning>, ConfigErrors> {
        let mut errors = self.errors.into_inner();
        errors.sort_by(|a, b| {
            (&a.place.file, a.place.line, a.place.column).cmp(&(&b.place.file, b.place.line, b.place.column))
        });
        if errors.is_empty() { Ok(self.warnings.into_inner()) } else { Err(ConfigErrors(errors)) }
    }
}
