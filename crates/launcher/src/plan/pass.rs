//! [`Pass`]: a pass under way.

use super::{Plan, World, budget::Budget, taken::Taken};

/// A pass under way: the world, what was decided so far, and what that leaves for the next decision.
pub(super) struct Pass<'a> {
    pub(super) world: &'a World<'a>,
    pub(super) plan: Plan,
    pub(super) budget: Budget,
    pub(super) taken: Taken<'a>,
}
