//! What a run has shown.

use std::collections::BTreeMap;

use nodepool_bench::numbers::{float, round, spread};
use serde_json::{Value, json};

use super::document::{Document, differences};
use super::life::{Load, Request};

/// Seconds since the epoch, but `late` and `gone`, which are lengths.
pub struct Times {
    /// From when the run counts.
    pub t0: f64,
    /// The first request was submitted.
    pub start: f64,
    /// The last request was submitted.
    pub submit_end: f64,
    /// By how much the open mode was late at worst.
    pub late: f64,
    /// The last node was returned.
    pub end: f64,
    /// From there until the nodes were deleted.
    pub gone: Option<f64>,
}

impl Load {
    /// One object with all figures; lengths in seconds.
    pub fn report(&self, times: &Times) -> Value {
        let options = &self.options;
        let requests = self.requests.borrow();
        let answered = |failed: bool| {
            let these = requests.iter().filter(move |r| r.failed.get() == failed);
            these.filter_map(|r| Some((r, r.answered.get()?)))
        };
        let done: Vec<f64> = answered(false).map(|(_, at)| at - times.t0).collect();
        let first = done.iter().copied().reduce(f64::min);
        let last = done.iter().copied().reduce(f64::max);
        let seen = |r: &Request, at: f64| at - if options.restart { times.t0 } else { r.submitted };
        let seconds = |t: Option<f64>| t.map(|t| round(t, 3));
        let errors = self.errors.borrow();
        json!({
            "mode": format!("{:?}", options.mode).to_lowercase(), "requests": options.requests,
            "nodes_per_request": options.nodes, "hold_s": options.hold,
            "fulfilled": done.len(), "failed": answered(true).count(),
            "unanswered": options.requests - self.answered.get(),
            "errors": &errors[..errors.len().min(20)],
            "submit_s": round(times.submit_end - times.start, 3), "submit_late_s": round(times.late, 3),
            "first_fulfilled_s": seconds(first), "all_fulfilled_s": seconds(last),
            "requests_per_s": last.map(|s| round(float(done.len()) / s, 2)),
            "returned_s": round(times.end - times.t0, 3),
            "nodes_gone_s": seconds(times.gone.map(|gone| times.end - times.t0 + gone)),
            "deletion_lag_s": seconds(times.gone),
            "latency_s": spread(answered(false).map(|(r, at)| seen(r, at)).collect()),
            "zk_latency_s": spread(answered(false).map(|(r, _)| r.zk_latency.get()).collect()),
            "requestor_data": self.damage(),
        })
    }

    /// What became of the `requestor_data` of the requests that were answered.
    fn damage(&self) -> Value {
        let (mut checked, mut damaged) = (0, 0);
        let mut keys: BTreeMap<String, usize> = BTreeMap::new();
        let mut example = Value::Null;
        for request in self.requests.borrow().iter() {
            let Ok(record) = serde_json::from_slice::<Document>(&request.record.borrow()) else { continue };
            checked += 1;
            let mut out = vec![];
            let got = record.raw("requestor_data").unwrap_or("(absent)");
            differences("", &request.requestor_data, got, &mut out);
            damaged += usize::from(!out.is_empty());
            for difference in out {
                if example.is_null() {
                    example = json!({"key": difference.path, "sent": difference.sent, "got": difference.got});
                }
                *keys.entry(difference.path).or_default() += 1;
            }
        }
        json!({"checked": checked, "damaged": damaged, "keys": keys, "example": example})
    }
}
