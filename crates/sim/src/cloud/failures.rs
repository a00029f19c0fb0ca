//! [`Failures`]: how often the same call of a process has failed of late. Nobody may spin.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nodepool_common::model::ProviderName;
use tokio::time::Instant;

/// For so long a failure counts.
pub const WINDOW: Duration = Duration::from_secs(30);

/// The moments of failures, by process, provider and call. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Failures(Arc<Mutex<Moments>>);

type Moments = HashMap<(String, ProviderName, String), VecDeque<Instant>>;

impl Failures {
    /// A call has failed now; how often it has within [`WINDOW`].
    pub fn note(&self, process: &str, provider: &ProviderName, call: &str) -> usize {
        let mut moments = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let of_late = moments.entry((process.to_owned(), provider.clone(), call.to_owned())).or_default();
        of_late.push_back(Instant::now());
        of_late.retain(|at| at.elapsed() < WINDOW);
        of_late.len()
    }
}
