//! [`Context`]: what of the outside drivers use besides their clouds.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use nodepool_common::{config, model::ProviderName, stats::Stats, sys::Ambient, trace};

use crate::provider::Provider;

/// Makes providers of clouds that no driver of this crate leads to.
pub trait OtherClouds: std::fmt::Debug + Send + Sync {
    /// The provider that a part of the configuration describes; it does not reach its cloud yet.
    fn make(&self, provider: &config::Provider) -> Arc<dyn Provider>;
}

/// The process's environment with time and chance, given once, so that a test can give other ones; and where calls of clouds are
/// counted.
#[derive(Clone, Debug, Default)]
pub struct Context {
    variables: HashMap<String, String>,
    /// Time and chance; the system's, unless replaced.
    pub ambient: Ambient,
    /// Calls of all providers that were made with this context.
    pub calls: ApiCalls,
    /// What drivers keep while the process lives, by its type.
    kept: Arc<Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
    /// Makes all providers, in place of the drivers.
    pub(crate) other_clouds: Option<Arc<dyn OtherClouds>>,
}

/// Counts the calls of clouds' APIs.
#[derive(Clone, Debug, Default)]
pub struct ApiCalls {
    counts: Arc<Mutex<BTreeMap<(ProviderName, &'static str), ApiCall>>>,
    /// Where each call is reported as well.
    stats: Option<Stats>,
}

/// The calls of one kind of one provider.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ApiCall {
    /// How many, retries included.
    pub count: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How long they took in all.
    pub time: Duration,
}

impl ApiCalls {
    /// Counts a call; `error`: what it failed with, in a word.
    pub(crate) fn record(&self, provider: &ProviderName, call: &'static str, time: Duration, error: Option<&str>) {
        trace::call(call, provider.as_str(), time, error);
        if let Some(stats) = &self.stats {
            stats.cloud_call(provider, call, error, time);
        }
        let mut calls = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = calls.entry((provider.clone(), call)).or_default();
        entry.count += 1;
        entry.failed += u64::from(error.is_some());
        entry.time += time;
    }

    /// Whether there is somebody to tell by statsd.
    pub(crate) fn has_statsd(&self) -> bool {
        self.stats.as_ref().is_some_and(Stats::has_statsd)
    }

    /// Counts a call of OpenStack's under openstacksdk's name for it ([`Stats::sdk_call`]).
    pub(crate) fn record_as_sdk(
        &self,
        server: Option<&(String, u16)>,
        name: &str,
        status: Option<u16>,
        time: Duration,
    ) {
        if let Some(stats) = &self.stats {
            stats.sdk_call(server, name, status, time);
        }
    }

    /// All so far, by provider and kind (upstream's words for them: `create_server`, `detailed server list`, …).
    pub fn snapshot(&self) -> BTreeMap<(ProviderName, &'static str), ApiCall> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Context {
    /// The process's own environment.
    pub fn from_env() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            // A name or value that is no text is none of ours.
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Self { variables: variables.collect(), ..Self::default() }
    }

    /// The same, reporting each call of a cloud as a metric.
    #[must_use]
    pub fn with_stats(mut self, stats: Stats) -> Self {
        self.calls.stats = Some(stats);
        self
    }

    /// The same with that time and chance.
    #[must_use]
    pub fn with_ambient(mut self, ambient: Ambient) -> Self {
        self.ambient = ambient;
        self
    }

    /// The same where all providers are made by this, whatever driver the configuration names: for a simulation.
    #[must_use]
    pub fn with_other_clouds(mut self, clouds: Arc<dyn OtherClouds>) -> Self {
        self.other_clouds = Some(clouds);
        self
    }

    /// The same with one more variable.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.variables.insert(name.to_owned(), value.into());
        self
    }

    /// A variable that is set and not empty.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// All variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// What a driver keeps while the process lives, also when the configuration is read anew: the one value of that type
    /// that belongs to this context and its clones.
    pub(crate) fn kept<T: Any + Default + Send + Sync>(&self) -> Arc<T> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get(&TypeId::of::<T>()).and_then(|value| Arc::clone(value).downcast().ok());
        known.unwrap_or_else(|| {
            let new = Arc::<T>::default();
            kept.insert(TypeId::of::<T>(), Arc::clone(&new) as Arc<dyn Any + Send + Sync>);
            new
        })
    }
}

#[cfg(test)]
mod tests {
    use nodepool_common::trace::Tracer;

    use super::*;

    #[tokio::test]
    async fn a_call_is_a_part_of_the_span_in_which_it_is_made() {
        let (tracer, mut ended) = Tracer::new(Ambient::system());
        let (span, calls) = (tracer.begin("LaunchAttempt", None), ApiCalls::default());
        let made = async { calls.record(&"p".into(), "create_server", Duration::from_secs(2), Some("quota")) };
        trace::within(&span, made).await;
        let call = ended.try_recv().unwrap();
        assert_eq!((call.name, call.error.as_deref(), call.is_call), ("create_server", Some("quota"), true));
        assert_eq!(call.parent, span.parent());
        assert!((call.end - call.start - 2.0).abs() < 1e-3);
        calls.record(&"p".into(), "create_server", Duration::from_secs(2), None);
        assert!(ended.try_recv().is_err(), "outside of any span");
    }
}
