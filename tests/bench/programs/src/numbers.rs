//! Times and their spread.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Seconds since the epoch, as records have them.
pub fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// A count as a number to reckon with. Those of a run are far below the 2^53 that it holds exactly.
#[allow(clippy::cast_precision_loss)]
pub fn float(count: usize) -> f64 {
    count as f64
}

/// Rounded to so many digits after the point.
pub fn round(x: f64, digits: i32) -> f64 {
    let p = 10f64.powi(digits);
    (x * p).round() / p
}

/// The value below which `share` (0 to 1) of them are, between neighbours in proportion; `sorted` must not be empty.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // an index into `sorted`
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = float(sorted.len() - 1) * share;
    let (low, high) = (at as usize, (at as usize + 1).min(sorted.len() - 1));
    sorted[low] + (sorted[high] - sorted[low]) * at.fract()
}

/// Percentiles, extremes and mean of so many seconds; null of none.
pub fn spread(mut values: Vec<f64>) -> Value {
    if values.is_empty() {
        return Value::Null;
    }
    values.sort_by(f64::total_cmp);
    let at = |share| round(quantile(&values, share), 4);
    let mean = round(values.iter().sum::<f64>() / float(values.len()), 4);
    json!({"p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0), "min": at(0.0), "mean": mean})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantile_lies_between_its_neighbours() {
        let spread = spread(vec![4.0, 1.0, 2.0, 3.0]);
        assert_eq!(spread["p50"], 2.5);
        assert_eq!(spread["max"], 4.0);
        assert_eq!(spread["min"], 1.0);
        assert_eq!(spread["mean"], 2.5);
    }
}
