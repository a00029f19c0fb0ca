//! [`Replaced`]: gauges that each report replaces as a whole. What a report does not name is not shown any more.
//!
//! `GaugeVec::reset` and setting all of them anew would do the same, but to make a gauge costs many times what it costs to set one
//! (its description is checked and hashed), and a launcher that leads reports every second.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use prometheus::{Gauge, GaugeVec};

/// See the module's comment.
#[derive(Debug)]
pub struct Replaced {
    gauges: GaugeVec,
    shown: Mutex<Shown>,
}

#[derive(Debug, Default)]
struct Shown {
    /// How many reports there were.
    reports: u64,
    /// The values of each gauge's labels, each ended by a NUL, which no name has; and the last report that named it.
    by_labels: BTreeMap<String, (Gauge, u64)>,
    /// Made again for each gauge, in the same memory.
    key: String,
}

impl Shown {
    fn set(&mut self, gauges: &GaugeVec, labels: &[&str], value: f64) {
        self.key.clear();
        for label in labels {
            self.key.push_str(label);
            self.key.push('\0');
        }
        if let Some((gauge, report)) = self.by_labels.get_mut(&self.key) {
            gauge.set(value);
            *report = self.reports;
        } else {
            let gauge = gauges.with_label_values(labels);
            gauge.set(value);
            self.by_labels.insert(self.key.clone(), (gauge, self.reports));
        }
    }

    fn remove(gauges: &GaugeVec, key: &str) {
        let labels: Vec<&str> = key.split_terminator('\0').collect();
        // It fails for one that is not there.
        let _ = gauges.remove_label_values(&labels);
    }
}

impl Replaced {
    /// These gauges, of which none is shown yet.
    pub fn new(gauges: GaugeVec) -> Self {
        Self { gauges, shown: Mutex::default() }
    }

    /// Begins a report. When it is dropped, what it has not named is gone.
    pub fn replace(&self) -> Report<'_> {
        let mut shown = self.shown();
        shown.reports += 1;
        Report { gauges: &self.gauges, shown }
    }

    /// Sets one beside the reports: the next one replaces it.
    pub fn set(&self, labels: &[&str], value: f64) {
        self.shown().set(&self.gauges, labels, value);
    }

    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A report that is being made.
#[derive(Debug)]
pub struct Report<'a> {
    gauges: &'a GaugeVec,
    shown: MutexGuard<'a, Shown>,
}

impl Report<'_> {
    /// Names a gauge, by the values of its labels.
    pub fn set(&mut self, labels: &[&str], value: f64) {
        self.shown.set(self.gauges, labels, value);
    }
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        let (gauges, now) = (self.gauges, self.shown.reports);
        self.shown.by_labels.retain(|key, (_, report)| {
            let is_named = *report == now;
            if !is_named {
                Shown::remove(gauges, key);
            }
            is_named
        });
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{Opts, core::Collector};

    use super::*;

    /// All that is shown: the values of the labels, and the gauge's.
    fn all(gauges: &GaugeVec) -> BTreeMap<String, f64> {
        let families = gauges.collect();
        let metrics = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric);
        let labels = |metric: &prometheus::proto::Metric| {
            let values: Vec<_> = metric.get_label().iter().map(|label| label.value().to_owned()).collect();
            values.join(" ")
        };
        metrics.map(|metric| (labels(metric), metric.get_gauge().get_value())).collect()
    }

    #[test]
    fn a_report_replaces_what_was_shown_before() {
        let gauges = GaugeVec::new(Opts::new("nodes", "Nodes"), &["label", "state"]).unwrap();
        let replaced = Replaced::new(gauges.clone());
        let shown = |of: &[(&str, f64)]| of.iter().map(|(labels, value)| ((*labels).to_owned(), *value)).collect();
        {
            let mut report = replaced.replace();
            report.set(&["a", "ready"], 1.0);
            report.set(&["a", ""], 2.0);
        }
        replaced.set(&["b", "ready"], 3.0);
        let three: BTreeMap<String, f64> = shown(&[("a ready", 1.0), ("a ", 2.0), ("b ready", 3.0)]);
        assert_eq!(all(&gauges), three);
        replaced.replace().set(&["a", "ready"], 4.0);
        assert_eq!(all(&gauges), shown(&[("a ready", 4.0)]), "what was set beside the reports is gone, too");
        drop(replaced.replace());
        assert_eq!(all(&gauges), shown(&[]));
        replaced.replace().set(&["a", ""], 5.0);
        assert_eq!(all(&gauges), shown(&[("a ", 5.0)]), "it comes back");
    }
}
