//! Sums of resources that stay exact while amounts come and go.

use std::{collections::BTreeMap, sync::Arc};

use nodepool_common::model::Resources;

/// Parts of one that are still told apart: a thousandth of a CPU is the smallest share that a cloud gives.
const PARTS: f64 = 1e6;
/// What an amount counts at most, in parts: an absurd one on a record must not make the sum overflow, or it would be wrong
/// once that record is gone.
const MOST: f64 = 1e24;

/// A sum of [`Resources`]. What is taken out again leaves nothing behind, as it would where floating-point numbers are
/// added and subtracted.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    parts: BTreeMap<String, i128>,
    /// Shared with those who have it as it was.
    total: Arc<Resources>,
}

impl Sum {
    /// The sum.
    pub fn total(&self) -> &Arc<Resources> {
        &self.total
    }

    /// Adds amounts.
    pub fn add(&mut self, amounts: &Resources) {
        self.change(amounts, i128::saturating_add);
    }

    /// Takes amounts out again.
    pub fn subtract(&mut self, amounts: &Resources) {
        self.change(amounts, i128::saturating_sub);
    }

    #[allow(clippy::cast_possible_truncation)] // clamped; NaN becomes 0
    #[allow(clippy::cast_precision_loss)] // whole numbers below 9e9 come back as they were
    fn change(&mut self, amounts: &Resources, operation: fn(i128, i128) -> i128) {
        for (name, amount) in amounts.iter() {
            let parts = (amount * PARTS).clamp(-MOST, MOST).round() as i128;
            let sum = match self.parts.get_mut(name) {
                Some(sum) => {
                    *sum = operation(*sum, parts);
                    *sum
                }
                None => *self.parts.entry(name.to_owned()).or_insert(operation(0, parts)),
            };
            Arc::make_mut(&mut self.total).set(name, sum as f64 / PARTS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_out_again_leaves_nothing_behind() {
        let (mut sum, tenth) = (Sum::default(), Resources::new().with("cores", 0.1));
        (0..7).for_each(|_| sum.add(&tenth));
        assert!((sum.total().amount("cores") - 0.7).abs() < 1e-12);
        (0..7).for_each(|_| sum.subtract(&tenth));
        assert_eq!(**sum.total(), Resources::new().with("cores", 0.0));
        sum.add(&Resources::new().with("ram", 1e300));
        sum.add(&Resources::new().with("ram", f64::NAN));
        sum.add(&Resources::new().with("ram", 5.0));
        sum.subtract(&Resources::new().with("ram", 1e300));
        assert!((sum.total().amount("ram") - 5.0).abs() < 1e-9, "absurd records do no harm");
    }
}
