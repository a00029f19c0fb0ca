//! A real ZooKeeper, by the client library `zookeeper-client`: the only place that names it.
//!
//! | file | what it has | imports of these |
//! |---|---|---|
//! | `pem` | keys and certificates as they come | |
//! | `tls` | a TLS client that judges as the library's does, for messages | |
//! | `target` | from the configuration to the library's connector: addresses, chroot, TLS | `pem` `tls` |
//! | `diagnose` | why nobody could be reached, in words | `target` `tls` |
//! | `session` | [`Session`](super::protocol::Session) by the library's calls | |
//! | `connector` | [`Connector`](super::protocol::Connector) | `target` `diagnose` `session` |

mod connector;
mod diagnose;
mod pem;
mod session;
mod target;
mod tls;

pub(super) use self::target::Target;
