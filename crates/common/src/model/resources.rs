//! Amounts of what a node takes and a quota allows.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

/// Amounts by resource name: `cores`, `instances`, `ram` (MiB), `volumes`, `volume-gb` and whatever else a driver
/// counts. As a need or a usage, an absent name is 0; as a limit, an absent name is unlimited (`nodepool 11.0.0:
/// driver/utils.py QuotaInformation`).
///
/// In the order of the names. Each node has some, most of them of the same few names: those that are known take no memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources(Vec<(Cow<'static, str>, f64)>);

/// The names that our drivers count.
const KNOWN: [&str; 7] = ["cores", "floating-ips", "instances", "ports", "ram", "volume-gb", "volumes"];

/// What some clouds limit and no record names. Zuul adds up whatever a node's `resources` name, and Python Nodepool, which
/// writes none of these, would take them for limits of its own.
const UNRECORDED: [&str; 2] = ["floating-ips", "ports"];

impl Resources {
    /// No resource at all; as a limit: unlimited.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Where a name is, or would be.
    fn find(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(there, _)| there.as_ref().cmp(name))
    }

    fn get(&self, name: &str) -> Option<f64> {
        self.find(name).ok().map(|at| self.0[at].1)
    }

    /// The amount of a name, 0 where it was absent.
    fn entry(&mut self, name: &str) -> &mut f64 {
        let at = self.find(name).unwrap_or_else(|at| {
            let known = KNOWN.into_iter().find(|known| *known == name);
            self.0.insert(at, (known.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed), 0.0));
            at
        });
        &mut self.0[at].1
    }

    /// Sets one amount; `None` leaves it absent.
    #[must_use]
    pub fn with(mut self, name: &str, amount: impl Into<Option<f64>>) -> Self {
        if let Some(amount) = amount.into() {
            self.set(name, amount);
        }
        self
    }

    /// The amount as a need or a usage.
    pub fn amount(&self, name: &str) -> f64 {
        self.get(name).unwrap_or(0.0)
    }

    /// The amount as a limit.
    pub fn limit(&self, name: &str) -> f64 {
        self.get(name).unwrap_or(f64::INFINITY)
    }

    /// Sets one amount.
    pub fn set(&mut self, name: &str, amount: f64) {
        *self.entry(name) = amount;
    }

    /// Name and amount, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, amount)| (name.as_ref(), *amount))
    }

    /// Whether nothing is counted (as a limit: nothing is limited).
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of it a record names: the three that every record names are 0 where nothing is said.
    #[must_use]
    pub fn recorded(&self) -> Self {
        let mut recorded = self.clone();
        recorded.0.retain(|(name, _)| !UNRECORDED.contains(&name.as_ref()));
        for name in ["cores", "instances", "ram"] {
            recorded.entry(name);
        }
        recorded
    }

    /// A usage that was read from a record, with what no record names taken from the need it began with.
    #[must_use]
    pub fn with_unrecorded_of(mut self, need: &Self) -> Self {
        for name in UNRECORDED {
            if let (Some(amount), None) = (need.get(name), self.get(name)) {
                self.set(name, amount);
            }
        }
        self
    }

    /// Adds another usage to this one.
    pub fn add(&mut self, other: &Self) {
        for (name, amount) in other.iter() {
            *self.entry(name) += amount;
        }
    }

    /// What remains of this limit after a usage. Unlimited stays unlimited.
    #[must_use]
    pub fn less(&self, usage: &Self) -> Self {
        Self(self.0.iter().map(|(name, limit)| (name.clone(), limit - usage.amount(name))).collect())
    }

    /// The resources of which `need` wants more than this limit, with what is wanted and what there is. Of what others
    /// than servers use as well, an overdrawn limit matters to those who need some.
    pub fn shortages<'a>(&'a self, need: &'a Self) -> impl Iterator<Item = (&'a str, f64, f64)> {
        let is_shared = |name: &str| UNRECORDED.contains(&name) || name.starts_with("volume");
        self.iter()
            .map(move |(name, limit)| (name, need.amount(name), limit))
            .filter(move |(name, need, limit)| need > limit && (*need > 0.0 || !is_shared(name)))
    }

    /// Whether `need` fits in this limit. A resource of which nothing is left and nothing is needed fits, one that
    /// is overdrawn does not (upstream subtracts and looks for a negative remainder).
    pub fn fits(&self, need: &Self) -> bool {
        self.shortages(need).next().is_none()
    }

    /// From a record's `resources` or `quota`: numbers only, the rest is left out.
    pub fn from_json(map: &Map<String, Value>) -> Self {
        let mut resources = Self(Vec::with_capacity(map.len()));
        for (name, value) in map {
            if let Some(amount) = value.as_f64() {
                resources.set(name, amount);
            }
        }
        resources
    }

    /// As records hold them: whole numbers as integers, infinite amounts left out (they are not JSON).
    pub fn to_json(&self) -> Map<String, Value> {
        self.iter().filter_map(|(name, amount)| Some((name.to_owned(), json_number(amount)?))).collect()
    }
}

/// A number as Python would have written it: integral amounts without a fraction.
#[allow(clippy::cast_possible_truncation)] // guarded: integral and within i64's exact range
fn json_number(amount: f64) -> Option<Value> {
    if amount.fract() == 0.0 && amount.abs() < 9e15 {
        Some(Value::from(amount as i64))
    } else {
        Number::from_f64(amount).map(Value::Number)
    }
}

impl std::fmt::Display for Resources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, (name, amount)) in self.iter().enumerate() {
            write!(f, "{}{name} {amount}", if i == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_absent_limit_is_unlimited_and_an_absent_need_is_nothing() {
        let limit = Resources::new().with("cores", 4.0);
        assert!(limit.fits(&Resources::new().with("cores", 4.0).with("ram", 1e9)));
        assert!(!limit.fits(&Resources::new().with("cores", 5.0)));
        assert!(!limit.less(&Resources::new().with("cores", 5.0)).fits(&Resources::new()), "overdrawn");
    }

    #[test]
    fn what_no_record_names_is_taken_from_the_need() {
        let need = Resources::new().with("cores", 2.0).with("ports", 1.0);
        let recorded = need.recorded();
        assert_eq!(recorded, Resources::new().with("cores", 2.0).with("instances", 0.0).with("ram", 0.0));
        let actual = Resources::new().with("cores", 4.0);
        assert_eq!(actual.with_unrecorded_of(&need), Resources::new().with("cores", 4.0).with("ports", 1.0));
    }

    #[test]
    fn whole_amounts_are_written_as_integers() {
        let json = Value::Object(Resources::new().with("cores", 4.0).with("gpu", 0.5).to_json());
        assert_eq!(json.to_string(), r#"{"cores":4,"gpu":0.5}"#);
    }
}
