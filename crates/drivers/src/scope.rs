//! [`Scope`]: which part of a cloud a provider's credentials lead to, or which cluster.
//!
//! The settings may lead to another project or cluster from one moment to the next, and under the same name. What that answers
//! says nothing of the servers in the one before: it does not have them, and they live on. So the scope in which a server was
//! made is put on its node's record, in `driver_data`, where it outlives the process. Nodes that Python Nodepool or an earlier
//! version has made carry none: of them an answer is believed, as upstream does.

use std::fmt;

use serde_json::{Value, json};

/// See the module's comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// A project of an OpenStack, in a region.
    Project {
        /// Its id, as the cloud gave it with the token.
        project: String,
        /// The region of the settings; `None`: they name none.
        region: Option<String>,
    },
    /// A Kubernetes cluster.
    Cluster {
        /// The uid of its namespace `kube-system`, which ends with the cluster; `None`: our account may not see it.
        uid: Option<String>,
        /// The API's address in the kubeconfig.
        server: String,
    },
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Project { project, region } => {
                write!(f, "project {project}")?;
                region.as_ref().map_or(Ok(()), |region| write!(f, " in region {region}"))
            }
            Self::Cluster { uid, server } => {
                write!(f, "the cluster at {server}")?;
                uid.as_ref().map_or(Ok(()), |uid| write!(f, " (its kube-system has the uid {uid})"))
            }
        }
    }
}

impl Scope {
    /// What a node's record says of it.
    pub fn driver_data(&self) -> Value {
        match self {
            Self::Project { project, region } => json!({"project": project, "region": region}),
            Self::Cluster { uid, server } => json!({"cluster": uid, "server": server}),
        }
    }

    /// What a record says of the scope that its node was made in, as far as it is one of the same kind as this.
    fn on_record(&self, driver_data: &Value) -> Option<Self> {
        let known = |key: &str| driver_data.get(key)?.as_str().map(str::to_owned);
        match self {
            Self::Project { .. } => Some(Self::Project { project: known("project")?, region: known("region") }),
            Self::Cluster { .. } => Some(Self::Cluster { uid: known("cluster"), server: known("server")? }),
        }
    }

    /// Whether the two are certainly not the same.
    fn differs(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.as_ref().zip(b.as_ref()).map(|(a, b)| a != b);
        match (self, other) {
            // Settings that name no region lead to the only one.
            (Self::Project { project: a, region: of_a }, Self::Project { project: b, region: of_b }) => {
                a != b || differ(of_a, of_b) == Some(true)
            }
            // A cluster may be reached by several addresses.
            (Self::Cluster { uid: a, server: at_a }, Self::Cluster { uid: b, server: at_b }) => {
                differ(a, b).unwrap_or(at_a != at_b)
            }
            _ => true,
        }
    }

    /// Why this scope says nothing of a node whose record has this `driver_data`: it was made in another one. `None`: it is
    /// the same, or nothing is known of where it was made.
    pub fn lacks(&self, driver_data: Option<&Value>) -> Option<String> {
        let made_in = self.on_record(driver_data?)?;
        let told = || format!("it was made in {made_in}; the settings of its cloud lead to {self} now");
        made_in.differs(self).then(told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(project: &str, region: Option<&str>) -> Scope {
        Scope::Project { project: project.to_owned(), region: region.map(str::to_owned) }
    }

    fn cluster(uid: Option<&str>, server: &str) -> Scope {
        Scope::Cluster { uid: uid.map(str::to_owned), server: server.to_owned() }
    }

    #[test]
    fn a_scope_says_nothing_of_what_was_made_in_another_project_or_region() {
        let made = project("a", Some("R")).driver_data();
        for (now, lacks) in [
            (project("a", Some("R")), false),
            (project("a", None), false),
            (project("b", Some("R")), true),
            (project("a", Some("S")), true),
        ] {
            assert_eq!(now.lacks(Some(&made)).is_some(), lacks, "{now:?}");
        }
        let why = project("b", None).lacks(Some(&made)).unwrap();
        assert_eq!(why, "it was made in project a in region R; the settings of its cloud lead to project b now");
    }

    #[test]
    fn a_cluster_is_known_by_its_uid_and_by_its_address_where_that_may_not_be_seen() {
        let known = cluster(Some("1"), "https://a").driver_data();
        let hidden = cluster(None, "https://a").driver_data();
        for (made, now, lacks) in [
            (&known, cluster(Some("1"), "https://a"), false),
            (&known, cluster(Some("1"), "https://b"), false),
            (&known, cluster(Some("2"), "https://a"), true),
            (&known, cluster(None, "https://a"), false),
            (&known, cluster(None, "https://b"), true),
            (&hidden, cluster(Some("1"), "https://a"), false),
            (&hidden, cluster(None, "https://b"), true),
        ] {
            assert_eq!(now.lacks(Some(made)).is_some(), lacks, "{made}: {now:?}");
        }
    }

    #[test]
    fn nothing_is_known_of_a_record_that_names_no_scope() {
        for now in [project("a", Some("R")), cluster(Some("1"), "https://a")] {
            for data in [None, Some(json!(null)), Some(json!({})), Some(json!({"backing_node": "1"})), Some(json!([1]))]
            {
                assert_eq!(now.lacks(data.as_ref()), None, "{data:?}");
            }
        }
    }
}
