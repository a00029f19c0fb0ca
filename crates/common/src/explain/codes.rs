//! Codes and words that several explanations have.

/// The code of a request that has failed.
pub(super) const FAILED: &str = "failed";
/// The code of what waits, or was declined, as a cloud does not answer.
pub const PROVIDER_IN_TROUBLE: &str = "provider-in-trouble";
/// The code of what a person of the site has paused.
pub const PAUSED: &str = "paused";
/// What ends it.
pub(super) const UNPAUSE: &str = "`nodepool unpause`, by a person of the site";
/// What ends that no launcher is running.
pub(super) const NO_LAUNCHER_ENDS: &str = "a launcher that is started, and whose providers answer";
