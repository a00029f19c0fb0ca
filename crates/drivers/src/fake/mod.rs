//! The `fake` driver: the `openstack` driver on a cloud that does not exist.
//!
//! [`cloud::FakeCloud`] lives in this process ([`clouds`]), with its [`images`]; its faults and sizes come from a [`script`].
//! [`remote::RemoteCloud`] is another process's cloud, for upstream's own test-suite. Everything else is the openstack
//! driver.

pub(crate) mod cloud;
pub(crate) mod clouds;
pub(crate) mod images;
pub(crate) mod remote;
pub(crate) mod script;
mod stored_image;
mod version;
