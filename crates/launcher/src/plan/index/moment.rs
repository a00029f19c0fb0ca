//! Moments that can be put in order.

use std::cmp::Ordering;

use nodepool_common::model::Timestamp;

/// A moment to order by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moment(pub Timestamp);

impl Eq for Moment {}

impl Ord for Moment {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0)
    }
}

impl PartialOrd for Moment {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
