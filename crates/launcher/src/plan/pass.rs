//! [`Pass`]: a pass under way.

use std::{collections::HashMap, sync::Arc};

use super::{
    Plan, PoolKey, World,
    budget::Budget,
    index::{ClassId, Index},
    taken::Taken,
};

/// Classes that a pool leaves to others, with the reason; `None`: it does not. It follows from the configuration and the
/// registered pools, and is worked out once until one of those changes.
pub type LeftToOthers = HashMap<(ClassId, PoolKey), Option<Arc<str>>>;

/// A pass under way: the world, what was decided so far, and what that leaves for the next decision.
pub(super) struct Pass<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) index: &'a Index,
    pub(super) left: &'a mut LeftToOthers,
    /// Whether each request is looked at, also where one before it shows what becomes of it.
    pub(super) one_by_one: bool,
    pub(super) plan: Plan,
    pub(super) budget: Budget<'a>,
    pub(super) taken: Taken<'a>,
}
