//! What a load has to say: errors, warnings, and where.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    fmt,
    rc::Rc,
    sync::Arc,
};

use super::{
    Part, Place,
    advice::Level,
    yaml::{Mark, WhichFile},
};
use crate::model::PoolName;

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

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// In the order of the file; never empty.
    errors: Vec<ConfigError>,
    /// What was found beside them, in the order of the file.
    pub warnings: Vec<Warning>,
}

impl ConfigErrors {
    /// The errors, in the order of the file.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.errors.iter()
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
        Self { errors: vec![error], warnings: Vec::new() }
    }
}

impl fmt::Display for ConfigErrors {
    /// The errors, one per line: `FILE:LINE:COLUMN: message (help)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.errors.iter().enumerate() {
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

/// By line and column; shared with the reports of parts.
type ByPlace<T> = Rc<RefCell<HashMap<(usize, usize), T>>>;

/// Collects what is found in one file, and in what was put into its tree from the one with our own keys. The walkers share
/// it, hence the cells.
#[derive(Debug)]
pub struct Report {
    /// How much is forgiven.
    pub mode: Mode,
    file: Arc<str>,
    /// The file with our own keys, once its values are in the tree.
    extensions: RefCell<Option<Arc<str>>>,
    /// Of the provider that this is about.
    driver: Cell<Option<&'static str>>,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<Warning>>,
    faulty: RefCell<Vec<FaultyPart>>,
    keys: RefCell<Option<Vec<KnownKeys>>>,
    /// Items of lists that seem to belong to the one above, by line and column, with what to write then.
    dashes: ByPlace<String>,
    /// The keys of those items, by the place of the item above.
    below: ByPlace<Vec<String>>,
    /// The names of what is lost because a key stands twice.
    lost: Rc<RefCell<Vec<String>>>,
}

/// A pool, or a part of one, that has errors of its own.
#[derive(Debug)]
pub struct FaultyPart {
    /// The pool.
    pub pool: PoolName,
    /// What of it.
    pub part: Part,
    /// What is wrong with it; never empty.
    pub errors: Vec<ConfigError>,
}

/// The keys that a part of the file may have.
#[derive(Debug)]
pub struct KnownKeys {
    /// Of the provider that it belongs to, if it does.
    pub driver: Option<&'static str>,
    /// Which part.
    pub level: Level,
    /// Its keys.
    pub keys: Vec<&'static str>,
}

impl Report {
    /// Nothing found yet.
    pub fn new(mode: Mode, file: Arc<str>) -> Self {
        Self {
            mode,
            file,
            extensions: RefCell::default(),
            driver: Cell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            faulty: RefCell::default(),
            keys: RefCell::default(),
            dashes: Rc::default(),
            below: Rc::default(),
            lost: Rc::default(),
        }
    }

    /// One that also keeps which keys its readers know; see [`Self::known_keys`].
    pub fn of_keys() -> Self {
        Self { keys: RefCell::new(Some(Vec::new())), ..Self::new(Mode::Strict, "keys".into()) }
    }

    /// An empty report on the same file, for a part whose errors are its own.
    pub fn part(&self) -> Self {
        let keys = self.keys.borrow().is_some().then(Vec::new);
        let part = Self {
            keys: RefCell::new(keys),
            dashes: Rc::clone(&self.dashes),
            below: Rc::clone(&self.below),
            lost: Rc::clone(&self.lost),
            ..Self::new(self.mode, Arc::clone(&self.file))
        };
        part.driver.set(self.driver.get());
        part.extensions.replace(self.extensions.borrow().clone());
        part
    }

    /// From now on this is about a provider with that driver.
    pub fn about_driver(&self, driver: &'static str) {
        self.driver.set(Some(driver));
    }

    /// The driver of the provider that this is about.
    pub fn driver(&self) -> Option<&'static str> {
        self.driver.get()
    }

    /// Whether it is asked which keys there are, and not what is wrong.
    pub fn keeps_keys(&self) -> bool {
        self.keys.borrow().is_some()
    }

    /// Takes down which keys a part of the file may have, if that is asked for.
    pub fn note_keys(&self, level: Level, keys: Vec<&'static str>) {
        if let Some(known) = &mut *self.keys.borrow_mut() {
            known.push(KnownKeys { driver: self.driver.get(), level, keys });
        }
    }

    /// Which keys the parts of the file have that were read with this report.
    pub fn known_keys(self) -> Vec<KnownKeys> {
        self.keys.into_inner().unwrap_or_default()
    }

    /// From now on places may be in that file, too.
    pub fn extended_by(&self, other: &Self) {
        self.extensions.replace(Some(Arc::clone(&other.file)));
    }

    /// The file's name.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The place in its file.
    pub fn place(&self, at: Mark) -> Place {
        let extensions = self.extensions.borrow();
        let file = extensions.as_ref().filter(|_| at.file == WhichFile::Extensions).unwrap_or(&self.file);
        Place { file: Arc::clone(file), line: at.line, column: at.column }
    }

    /// Whether this is `config-validate`.
    pub fn strict(&self) -> bool {
        self.mode == Mode::Strict
    }

    /// Notes that an item of a list seems to belong to the one above, which has these keys then.
    pub fn note_dash(&self, at: Mark, help: String, above: Mark, keys: impl Iterator<Item = String>) {
        self.dashes.borrow_mut().insert((at.line, at.column), help);
        self.below.borrow_mut().entry((above.line, above.column)).or_default().extend(keys);
    }

    /// Whether a key of an item stands in one below, which seems to belong to it.
    pub fn has_below(&self, item: Mark, key: &str) -> bool {
        self.below.borrow().get(&(item.line, item.column)).is_some_and(|keys| keys.iter().any(|other| other == key))
    }

    /// Notes the name of something that is lost because a key stands twice.
    pub fn note_lost(&self, name: &str) {
        self.lost.borrow_mut().push(name.to_owned());
    }

    /// The names of what is lost so.
    pub fn lost(&self) -> Vec<String> {
        self.lost.borrow().clone()
    }

    /// What to write where an item belongs to the one above, if it seems so.
    pub fn dash_too_many(&self, at: Mark) -> Option<String> {
        self.dashes.borrow().get(&(at.line, at.column)).cloned()
    }

    /// Notes an error.
    pub fn error(&self, at: Mark, message: impl Into<String>, help: Option<String>) {
        let error = ConfigError { place: self.place(at), message: message.into(), help };
        self.errors.borrow_mut().push(error);
    }

    /// Takes in errors that another report had.
    pub fn add_errors(&self, errors: Vec<ConfigError>) {
        self.errors.borrow_mut().extend(errors);
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

    /// Notes a pool or a part of one with errors of its own, which do not count as errors of what it belongs to.
    pub fn faulty(&self, part: FaultyPart) {
        self.faulty.borrow_mut().push(part);
    }

    /// The pools and their parts with errors of their own, taken out.
    pub fn take_faulty(&self) -> Vec<FaultyPart> {
        self.faulty.take()
    }

    /// Takes in another report's findings.
    pub fn absorb(&self, other: Self) {
        self.errors.borrow_mut().extend(other.errors.into_inner());
        self.warnings.borrow_mut().extend(other.warnings.into_inner());
        self.faulty.borrow_mut().extend(other.faulty.into_inner());
        if let (Some(keys), Some(others)) = (&mut *self.keys.borrow_mut(), other.keys.into_inner()) {
            keys.extend(others);
        }
    }

    /// The warnings, or the errors with them if there are any; both in the order of the file.
    pub fn finish(self) -> Result<Vec<Warning>, ConfigErrors> {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort_by(|a, b| in_the_file(&a.place).cmp(&in_the_file(&b.place)));
        warnings.sort_by(|a, b| in_the_file(&a.place).cmp(&in_the_file(&b.place)));
        if errors.is_empty() { Ok(warnings) } else { Err(ConfigErrors { errors, warnings }) }
    }
}

fn in_the_file(place: &Place) -> (&str, usize, usize) {
    (&place.file, place.line, place.column)
}
