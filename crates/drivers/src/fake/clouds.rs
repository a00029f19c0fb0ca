//! [`FakeClouds`]: the fake clouds of this process, which outlive a reload of the configuration.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use nodepool_common::model::ProviderName;

use super::cloud::FakeCloud;
use crate::Context;

/// See the module's comment.
#[derive(Debug, Default)]
pub(crate) struct FakeClouds(Mutex<HashMap<ProviderName, Arc<FakeCloud>>>);

impl FakeClouds {
    /// The provider's; made when it is asked for first, with the script that `NODEPOOL_FAKE_CLOUD_SCRIPT` names.
    pub fn of(provider: &ProviderName, context: &Context) -> Arc<FakeCloud> {
        let clouds: Arc<Self> = context.kept();
        let mut clouds = clouds.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cloud = clouds.entry(provider.clone()).or_insert_with(|| {
            let script = context.variable("NODEPOOL_FAKE_CLOUD_SCRIPT").map(Into::into);
            Arc::new(FakeCloud::new(provider.clone(), script, &context.ambient))
        });
        Arc::clone(cloud)
    }
}
