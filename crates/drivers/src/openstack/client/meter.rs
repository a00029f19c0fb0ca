//! [`Meter`]: where calls are counted.

use std::time::Duration;

use nodepool_common::model::ProviderName;

use crate::ApiCalls;

/// Where calls are counted.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub provider: ProviderName,
    pub calls: ApiCalls,
}

impl Meter {
    /// Counts one; `problem` is for metrics ([`nodepool_common::stats::Stats::cloud_call`]).
    pub fn record(&self, call: &'static str, time: Duration, problem: Option<&str>) {
        self.calls.record(&self.provider, call, time, problem);
    }
}
