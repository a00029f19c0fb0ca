//! A real ZooKeeper: a client of our own, over TCP and TLS.
//!
//! Why not a library: decision 0014. What it leaves out is what nobody here asks for (authentication, read-only servers, access
//! lists, watches of children, configuration of ensembles).
//!
//! | file | what it has | imports of these |
//! |---|---|---|
//! | `jute` | how ZooKeeper writes numbers, texts and lists of them | |
//! | `messages` | requests and answers | `jute` |
//! | `pem` | keys and certificates as they come | |
//! | `tls` | whom we trust, and our certificate, as rustls wants them | |
//! | `target` | from the configuration to addresses, chroot, TLS | `pem` `tls` |
//! | `diagnose` | why nobody could be reached, in words | `target` `tls` |
//! | `connection` | one connection to one server, up to the session's beginning or resumption | `jute` `messages` `target` `tls` |
//! | `keeper` | the task that keeps a session: sends, hears, pings, resumes | `connection` `jute` `messages` `target` |
//! | `session` | [`Session`](super::protocol::Session), by orders to a keeper | `jute` `keeper` `messages` |
//! | `connector` | [`Connector`](super::protocol::Connector) | `connection` `diagnose` `keeper` `session` `target` |

mod connection;
mod connector;
mod diagnose;
mod jute;
mod keeper;
mod messages;
mod pem;
mod session;
mod target;
mod tls;

pub(super) use self::target::Target;
