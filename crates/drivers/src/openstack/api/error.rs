//! [`CloudError`]: why a call of a cloud failed, classed once.

use std::fmt;

use crate::ErrorClass;

/// Why a call of a cloud failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CloudError {
    pub class: ErrorClass,
    /// For people; names the call where that is not obvious.
    pub message: String,
    /// A server that exists although its creation failed.
    pub external_id: Option<String>,
    /// The cloud's HTTP status; `None`: no (complete) answer was received.
    pub status: Option<u16>,
    /// Whether that is because the cloud cannot be reached, or did not answer in time.
    pub unanswered: bool,
    /// Whether the settings lead to another project or region than the one that is meant: nothing was asked for.
    pub elsewhere: bool,
}

impl CloudError {
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), external_id: None, status: None, unanswered: false, elsewhere: false }
    }

    /// An answer of the cloud: classed by its status and its words.
    pub fn answered(status: u16, message: impl Into<String>) -> Self {
        let message = message.into();
        let class = match status {
            _ if speaks_of_quota(&message) && matches!(status, 400 | 403 | 409 | 413 | 429) => ErrorClass::Quota,
            413 => ErrorClass::Quota,
            404 | 410 => ErrorClass::Gone,
            // Nova cannot choose among several networks: `networks` has to.
            409 if message.contains("Multiple possible networks") => ErrorClass::Config,
            _ if speaks_of_capacity(&message) && status < 500 => ErrorClass::Capacity,
            // 409 on a server is "it is busy", 408 and 429 mean "later".
            408 | 409 | 425 | 429 | 500.. => ErrorClass::Transient,
            400..500 => ErrorClass::Config,
            _ => ErrorClass::Bug,
        };
        Self { status: Some(status), ..Self::new(class, message) }
    }

    /// The settings lead to another project or region; `why`: [`Scope::lacks`](crate::Scope::lacks).
    pub fn elsewhere(why: String) -> Self {
        Self { elsewhere: true, ..Self::new(ErrorClass::Transient, why) }
    }

    /// Whether the cloud as a whole is away, for whatever was asked of it.
    pub fn is_away(&self) -> bool {
        self.unanswered || matches!(self.status, Some(408 | 425 | 429 | 502..=504))
    }

    /// Whether the cloud may have acted although we have no answer.
    pub fn is_ambiguous(&self) -> bool {
        self.external_id.is_none()
            && matches!(self.class, ErrorClass::Transient | ErrorClass::Timeout)
            && self.status.is_none_or(|status| status >= 500)
    }
}

impl fmt::Display for CloudError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(f, "HTTP {status}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for CloudError {}

/// Nova says "Quota exceeded for …", Neutron "Maximum number of ports exceeded" or "exceeds quota".
pub(crate) fn speaks_of_quota(message: &str) -> bool {
    let message = message.to_lowercase();
    message.contains("quota") || message.contains("number of ports exceeded")
}

/// Nova's scheduler found no host, or a compute host gave up and no other was left, or a network is full.
pub(crate) fn speaks_of_capacity(message: &str) -> bool {
    let message = message.to_lowercase();
    ["no valid host", "exceeded maximum number of retries", "no more ip addresses available"]
        .iter()
        .any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_classed_by_status_and_words() {
        for (status, message, class) in [
            (403, "Quota exceeded for instances: Requested 1, but already used 3 of 3 instances", ErrorClass::Quota),
            (403, "Policy doesn't allow os_compute_api:servers:create to be performed.", ErrorClass::Config),
            (413, "Over limit", ErrorClass::Quota),
            (403, "Maximum number of ports exceeded", ErrorClass::Quota),
            (400, "Invalid key_name provided.", ErrorClass::Config),
            (401, "The request you have made requires authentication.", ErrorClass::Config),
            (404, "Instance x could not be found.", ErrorClass::Gone),
            (409, "Multiple possible networks found, use a Network ID to be more specific.", ErrorClass::Config),
            (409, "Cannot 'delete' instance x while it is in task_state spawning", ErrorClass::Transient),
            (500, "No valid host was found.", ErrorClass::Transient),
            (503, "<html>", ErrorClass::Transient),
            (409, "Quota exceeded for resources: ['floatingip'].", ErrorClass::Quota),
            (409, "No more IP addresses available on network x.", ErrorClass::Capacity),
        ] {
            assert_eq!(CloudError::answered(status, message).class, class, "{status} {message}");
        }
    }
}
