//! The drivers `kubernetes`, `openshift` and `openshiftpods`: a node is a pod, or a namespace with or without one.
//!
//! One provider serves the three; [`KubernetesKind`](nodepool_common::config::KubernetesKind) says what it makes of a
//! node. The parts, each of which knows only those above it:
//!
//! | | |
//! |---|---|
//! | `kubeconfig` | where the credentials are, and what of them Zuul is given |
//! | `proxy` | whether calls go through one |
//! | `auth_errors` | what is told of credentials that cannot be had, without secrets |
//! | `api_error` | why a call failed, classed once |
//! | `cluster` | a client made from them; made anew when the files change |
//! | `calls` | one call with a deadline, and whether it is worth repeating |
//! | `manifest` | what is created: pods, namespaces, roles. Pure |
//! | `life` | what a pod's status means for a launch. Pure |
//! | `board` | the pods of a namespace, kept current by one watch that all launches there share |
//! | `quota` | what a namespace's `ResourceQuota` leaves |
//! | `home` | the story of a namespace or project that is a node's own |
//! | `provider` | the story of a launch |
//! | `ending` | the story of a deletion, and what is found by its labels |
//! | `site` | what `openshiftpods` needs before it can begin: a namespace with an account of ours |
//!
//! Nothing that matters is in memory only: every object that we make carries the node's, pool's and provider's names as
//! labels, and by them it is found again. The rights that are needed are upstream's (create, get and delete); with
//! `list` and `watch` pods are followed instead of asked for, and leaks are found.

mod api_error;
mod auth_errors;
mod board;
mod calls;
mod cluster;
mod ending;
mod home;
mod kubeconfig;
mod life;
mod manifest;
mod provider;
mod proxy;
mod quota;
pub mod site;
#[cfg(test)]
mod tests;

pub use provider::KubernetesProvider;
