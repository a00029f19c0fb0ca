//! [`Want`]: what has to be found out.

use nodepool_common::model::{LabelName, PoolName, ProviderName};
use serde::Serialize;

/// Something the planner needs to know of a cloud.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Want {
    /// Limits less what others use.
    Quota(ProviderName),
    /// What a node of a label takes.
    LabelResources(ProviderName, PoolName, LabelName),
    /// Whether the image of a label is there.
    LabelReady(ProviderName, PoolName, LabelName),
    /// The zones.
    Zones(ProviderName),
}
