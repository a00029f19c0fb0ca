//! [`ApiError`]: why a call of the API failed, classed once.

use std::{fmt, time::Duration};

use nodepool_common::sys::causes::with_causes;

use super::auth_errors;
use crate::{ErrorClass, ProviderError};

/// Why a call failed.
#[derive(Clone, Debug)]
pub struct ApiError {
    /// What to do about it.
    pub class: ErrorClass,
    /// Whether the API as a whole is away.
    pub away: bool,
    /// Whether the kubeconfig leads to another cluster than the one that is meant: nothing was asked for.
    pub elsewhere: bool,
    /// HTTP's status; 0: there was no answer.
    pub code: u16,
    /// The API's word for it (`AlreadyExists`); may be empty.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

impl ApiError {
    fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, away: false, elsewhere: false, code: 0, reason: String::new(), message: message.into() }
    }

    /// Nothing that the cluster could be blamed for.
    pub fn config(message: String) -> Self {
        Self::new(ErrorClass::Config, message)
    }

    /// The credentials cannot be used.
    pub fn credentials(message: impl fmt::Display) -> Self {
        Self::new(ErrorClass::Config, format!("the credentials of the kubeconfig cannot be used: {message}"))
    }

    /// A call was not answered in time.
    pub fn unanswered(within: Duration) -> Self {
        let why = format!("no answer within {} s", within.as_secs());
        kube::Error::Service(std::io::Error::new(std::io::ErrorKind::TimedOut, why).into()).into()
    }

    /// It did not come to pass in time.
    pub fn timeout(message: String) -> Self {
        Self::new(ErrorClass::Timeout, message)
    }

    /// Ours.
    pub fn bug(message: String) -> Self {
        Self::new(ErrorClass::Bug, message)
    }

    /// An answer that is none of the API's.
    pub fn unreadable(message: impl fmt::Display) -> Self {
        Self::new(ErrorClass::Transient, format!("its answer cannot be read: {message}"))
    }

    /// The kubeconfig leads to another cluster; `why`: [`Scope::lacks`](crate::Scope::lacks).
    pub fn elsewhere(why: String) -> Self {
        Self { elsewhere: true, ..Self::new(ErrorClass::Transient, why) }
    }

    fn is_away(message: String) -> Self {
        Self { away: true, ..Self::new(ErrorClass::Transient, message) }
    }

    /// What the API answered.
    pub(super) fn answered(status: &kube::core::Status) -> Self {
        let said = if status.message.is_empty() { status.reason.clone() } else { status.message.clone() };
        let (class, message) = match status.code {
            401 => (ErrorClass::Config, format!("the cluster refuses the credentials of the kubeconfig (401): {said}")),
            403 if said.contains("exceeded quota") => (quota_class(&said), said),
            // Of a quota that was made a moment ago the cluster has not reckoned yet what is used.
            403 if said.contains("status unknown for quota") => (ErrorClass::Transient, said),
            // The namespace is on its way out: another one will not be.
            403 if said.contains("being terminated") => (ErrorClass::Transient, said),
            400 | 403 | 405 | 413 | 415 | 422 => (ErrorClass::Config, said),
            404 => (ErrorClass::Gone, said),
            429 | 503 | 504 => {
                (ErrorClass::Transient, format!("the API says to come back later ({}): {said}", status.code))
            }
            _ => (ErrorClass::Transient, said),
        };
        Self {
            away: matches!(status.code, 429 | 503 | 504),
            code: status.code,
            reason: status.reason.clone(),
            ..Self::new(class, message)
        }
    }

    /// Whether a thing of that name is there already.
    pub fn is_taken(&self) -> bool {
        self.code == 409 && self.reason == "AlreadyExists"
    }

    /// Whether the thing, or what it was to be made in, is not there.
    pub const fn is_missing(&self) -> bool {
        self.code == 404
    }

    /// Whether it is another one than was meant, or it is being changed by somebody else at the moment.
    pub fn is_conflict(&self) -> bool {
        self.code == 409 && !self.is_taken()
    }

    /// Whether our account may not do it.
    pub fn is_forbidden(&self) -> bool {
        self.code == 403 && self.reason == "Forbidden" && self.message.contains("cannot ")
    }

    /// Whether the service account that a pod is to run as does not exist (yet).
    pub fn misses_service_account(&self) -> bool {
        self.code == 403 && self.message.contains("error looking up service account")
    }

    /// The same as the trait's error.
    pub fn doing(self, doing: impl Into<String>) -> ProviderError {
        let (away, elsewhere) = (self.away, self.elsewhere);
        ProviderError { away, elsewhere, ..ProviderError::new(self.class, doing, self) }
    }

    /// The error's name in the metrics.
    pub(super) const fn word(&self) -> &'static str {
        match self.code {
            0 => "connection",
            401 | 403 => "refused",
            404 => "missing",
            409 => "conflict",
            429 | 503 | 504 => "later",
            500.. => "server",
            _ => "invalid",
        }
    }
}

/// A quota that is used up is waited for; one that is smaller than a single pod is not.
fn quota_class(said: &str) -> ErrorClass {
    let part = |name: &str| {
        let list = said.split_once(&format!("{name}: ")).map(|(_, rest)| rest).unwrap_or_default();
        let list = list.split(", used: ").next().unwrap_or_default();
        let list = list.split(", limited: ").next().unwrap_or_default();
        list.split(',').filter_map(|item| item.trim().split_once('=')).collect::<Vec<_>>()
    };
    let limited = part("limited");
    let too_large = part("requested").into_iter().any(|(name, wanted)| {
        let limit = limited.iter().find(|(limit, _)| *limit == name).map(|(_, amount)| *amount);
        let amounts = (super::quota::quantity(wanted), limit.and_then(super::quota::quantity));
        matches!(amounts, (Some(wanted), Some(limit)) if wanted > limit)
    });
    if too_large { ErrorClass::Config } else { ErrorClass::Quota }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self::answered(&status),
            kube::Error::Auth(error) => Self::credentials(auth_errors::told(&error)),
            error @ (kube::Error::InferConfig(_)
            | kube::Error::InferKubeconfig(_)
            | kube::Error::RustlsTls(_)
            | kube::Error::ProxyProtocolUnsupported { .. }
            | kube::Error::ProxyProtocolDisabled { .. }) => Self::config(chain(&error)),
            error @ kube::Error::SerdeError(_) => Self::unreadable(chain(&error)),
            error => Self::is_away(format!("the API cannot be reached: {}", chain(&error))),
        }
    }
}

/// An error with its causes, each said once; of one that is about credentials only what may be told.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    auth_errors::told_in(error).unwrap_or_else(|| with_causes(error).trim_start_matches("ServiceError: ").to_owned())
}
