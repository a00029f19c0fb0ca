//! [`Pass`]: a pass under way.

use std::collections::{BTreeSet, HashMap, HashSet};

use nodepool_common::model::LauncherId;

use super::{
    Plan, PoolKey, Reason, World,
    budget::Budget,
    grounds::Common,
    index::{ClassId, Index},
    memory::Memories,
    since::Waits,
    taken::Taken,
};

/// Classes that a pool leaves to others, with the reason; `None`: it does not. It follows from the configuration and the
/// registered pools, and is worked out once until one of those changes.
pub type LeftToOthers = HashMap<(ClassId, PoolKey), Option<Reason>>;

/// A pass under way: the world, what was decided so far, and what that leaves for the next decision.
pub(super) struct Pass<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) index: &'a Index,
    /// The pools that are registered, by whichever launcher.
    pub(super) registered: HashSet<&'a LauncherId>,
    pub(super) left: &'a mut LeftToOthers,
    /// What each pool made of what waits, in the last pass.
    pub(super) memories: &'a mut Memories,
    /// Since when requests wait.
    pub(super) waits: &'a mut Waits,
    /// What all pools have in common of what that rests on.
    pub(super) common: Common,
    /// Classes to be looked at whatever the grounds: those of [`Requests::take_renewed`](super::index::Requests::take_renewed),
    /// and those of which an earlier pool has just accepted a request.
    pub(super) renewed: BTreeSet<ClassId>,
    /// Whether each request is looked at, also where one before it shows what becomes of it.
    pub(super) one_by_one: bool,
    pub(super) plan: Plan,
    pub(super) budget: Budget<'a>,
    pub(super) taken: Taken<'a>,
}
