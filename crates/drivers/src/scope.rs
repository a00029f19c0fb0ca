//! [`Scope`]: which part of a cloud a provider's credentials lead to.
//!
//! A cloud's settings may lead to another project from one moment to the next, and under the same name. What it answers then
//! says nothing of the servers in the project before: it does not have them, and they live on. So the scope in which a
//! server was made is put on its node's record, in `driver_data`, where it outlives the process. Nodes that Python Nodepool or
//! an earlier version has made carry none: of them an answer is believed, as upstream does.

use std::fmt;

use serde_json::{Value, json};

/// A project, in a region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The project's id, as the cloud gave it with the token.
    pub project: String,
    /// The region of the settings; `None`: they name none.
    pub region: Option<String>,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "project {}", self.project)?;
        self.region.as_ref().map_or(Ok(()), |region| write!(f, " in region {region}"))
    }
}

impl Scope {
    /// What a node's record says of it.
    pub fn driver_data(&self) -> Value {
        json!({"project": self.project, "region": self.region})
    }

    /// Why this scope says nothing of a node whose record has this `driver_data`: it was made in another one. `None`: it is
    /// the same, or nothing is known of where it was made.
    pub fn lacks(&self, driver_data: Option<&Value>) -> Option<String> {
        let known = |key: &str| driver_data?.get(key)?.as_str().map(str::to_owned);
        let made_in = Self { project: known("project")?, region: known("region") };
        // Settings that name no region lead to the only one.
        let regions = made_in.region.as_ref().zip(self.region.as_ref());
        let differs = made_in.project != self.project || regions.is_some_and(|(made_in, now)| made_in != now);
        differs.then(|| format!("it was made in {made_in}; the settings of its cloud lead to {self} now"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(project: &str, region: Option<&str>) -> Scope {
        Scope { project: project.to_owned(), region: region.map(str::to_owned) }
    }

    #[test]
    fn a_scope_says_nothing_of_what_was_made_in_another_project_or_region() {
        let made = scope("a", Some("R")).driver_data();
        for (now, lacks) in [
            (scope("a", Some("R")), false),
            (scope("a", None), false),
            (scope("b", Some("R")), true),
            (scope("a", Some("S")), true),
        ] {
            assert_eq!(now.lacks(Some(&made)).is_some(), lacks, "{now:?}");
        }
        let why = scope("b", None).lacks(Some(&made)).unwrap();
        assert_eq!(why, "it was made in project a in region R; the settings of its cloud lead to project b now");
    }

    #[test]
    fn nothing_is_known_of_a_record_that_names_no_project() {
        let now = scope("a", Some("R"));
        for data in [None, Some(json!(null)), Some(json!({})), Some(json!({"backing_node": "1"})), Some(json!([1]))] {
            assert_eq!(now.lacks(data.as_ref()), None, "{data:?}");
        }
    }
}
