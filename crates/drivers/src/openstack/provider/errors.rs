//! Errors of a cloud as errors of a provider.

use std::fmt;

use nodepool_common::model::ProviderName;

use crate::{ProviderError, openstack::api::CloudError};

pub(super) type Result<T> = std::result::Result<T, ProviderError>;

/// Says what was being done, in which provider, when the cloud answered with an error.
pub(super) fn error(provider: &ProviderName, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
    let doing = format!("{doing} in provider {provider}");
    move |error| ProviderError {
        away: error.is_away(),
        elsewhere: error.elsewhere,
        ..ProviderError::new(error.class, doing, error)
    }
}
