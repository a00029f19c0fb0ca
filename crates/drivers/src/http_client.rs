//! The beginning of every HTTP client of ours.

/// A client's builder, once there is cryptography for it: `reqwest::Client::builder()` alone panics at `build()` in a
/// process that has not connected to ZooKeeper yet.
pub(crate) fn builder() -> reqwest::ClientBuilder {
    nodepool_common::sys::crypto::install_provider();
    reqwest::Client::builder()
}
