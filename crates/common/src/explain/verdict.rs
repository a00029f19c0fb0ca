//! [`Verdict`]: who has to do something.

use serde::{Deserialize, Serialize};

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It is served, or is as it should be.
    Fine,
    /// It waits for what comes by itself.
    Wait,
    /// A person of the site has to do something: a cloud, an image, a launcher is in trouble.
    Act,
    /// It will never be served as it is: the request or the configuration has to be changed.
    Change,
}

impl Verdict {
    /// The exit code of `nodepool explain`.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::Wait | Self::Act => 2,
            Self::Change => 3,
        }
    }
}
