//! The client: OpenStack's APIs behind a [`Cloud`](super::api::Cloud). It knows nothing of nodes, pools and labels, and
//! nothing of the driver.
//!
//! | | what it knows | imports of these |
//! |---|---|---|
//! | `service` | the services and their names | |
//! | `meter` | where calls are counted | |
//! | `messages` | what errors say | |
//! | `trust` | whose certificates are trusted | `messages` |
//! | `settings` | clouds.yaml | `service` `messages` `trust` |
//! | `tls` | the HTTP client that the settings describe | `messages` `trust` `settings` |
//! | `redirects` | which redirects it follows | `messages` |
//! | `catalog` | where a service is | `service` `settings` |
//! | `auth` | the body of a login | `settings` |
//! | `identity` | Keystone's tokens | `auth` `catalog` `redirects` `meter` `messages` |
//! | `turns` | calls at a distance in time | |
//! | `gate` | when a service may be called | `turns` |
//! | `sdk_metrics` | openstacksdk's names for calls | `service` |
//! | `http` | one call, once | `identity` `gate` `tls` `redirects` `catalog` `sdk_metrics` |
//! | `page_deadlines` | how long a page of a listing may take | `http` |
//! | `ipv6` | whether this host has a route for IPv6 | |
//! | `nova` | [`Nova`](nova::Nova): a call, as often as is right | `http` `page_deadlines` `ipv6` |
//! | `page` | a page of a listing, item by item | |
//! | `pages` | listings, page by page | `nova` `page` `page_deadlines` |
//! | `calls` | the trait's calls of servers, volumes, limits | `nova` `pages` |
//! | `neutron` | those of networks | `nova` `pages` |
//! | `glance` | those of images | `nova` `pages` |

mod auth;
mod calls;
mod catalog;
mod gate;
mod glance;
mod http;
mod identity;
mod ipv6;
mod messages;
mod meter;
mod neutron;
mod nova;
mod page;
mod page_deadlines;
mod pages;
mod redirects;
mod sdk_metrics;
mod service;
mod settings;
mod tls;
mod trust;
mod turns;

pub(crate) use self::{nova::Nova, settings::CloudSettings};
