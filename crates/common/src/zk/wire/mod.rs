//! A real ZooKeeper: a client of our own, over TCP and TLS.
//!
//! Why not a library: decision 0014. What it leaves out is what nobody here asks for (authentication, read-only servers, access
//! lists, watches of children, configuration of ensembles).
//!
//! | file | what it has | imports of these |
//! |---|---|---|
//! | `jute` | how ZooKeeper writes numbers, texts and lists of them | |
//! | `messages` | requests, replies and watch events | `jute` |
//! | `pem` | keys and certificates as they come | |
//! | `tls` | whom we trust, and our certificate, as rustls wants them | |
//! | `target` | from the configuration to addresses, chroot, TLS | `pem` `replies` `tls` |
//! | `addresses` | the addresses of a server's name, one after the other | `target` |
//! | `diagnose` | why nobody could be reached, in words | `addresses` `target` `tls` |
//! | `connection` | one connection to one server, up to the session's beginning or resumption | `addresses` `jute` `messages` `target` `tls` |
//! | `replies` | who is told how long replies take | |
//! | `received` | what a server has sent | `addresses` `connection` |
//! | `watches` | the watches of a connection, and who gets their events | `messages` |
//! | `backoff` | how long to wait before the next server is tried | |
//! | `keeper` | the task that keeps a session: sends, receives, pings, resumes | all of these but `pem` `tls` |
//! | `session` | [`Session`](super::protocol::Session), by commands to a keeper | `jute` `keeper` `messages` `watches` |
//! | `connector` | [`Connector`](super::protocol::Connector) | `connection` `diagnose` `keeper` `session` `target` |

mod addresses;
mod backoff;
mod connection;
mod connector;
mod diagnose;
mod jute;
mod keeper;
mod messages;
mod pem;
mod received;
mod replies;
mod session;
mod target;
mod tls;
mod watches;

pub(super) use self::{replies::Replies, target::Target};
