//! Records and their states, as every Nodepool and Zuul process on the ZooKeeper sees them.
//!
//! A record is read with [`NodeRequest::read`], [`Node::read`], … from the bytes of its znode. Reading is total
//! for everything that is a JSON object with a known state: a key of the wrong type is read as absent and
//! reported in [`Reading::oddities`]; keys that we don't know, and values that we have not changed, are written back as they
//! came ([`Extra`], [`json`]). What cannot be used at all (no data, no JSON, an unknown state) is a [`RecordError`], which the caller logs once per version and
//! steps over (nodepool 11.0.0 raises there and stops a whole pass).
//!
//! Writing produces exactly what nodepool 11.0.0 writes: the same keys in the same order, with Python's
//! separators and ASCII escapes ([`wire`]).

pub mod brake;
mod component;
mod contenders;
mod failures;
pub mod guard;
mod held_back;
mod ids;
mod image;
pub mod json;
mod metastatic;
mod node;
mod pauses;
mod records;
mod request;
mod resources;
mod shared;
mod uptime;
pub mod wire;

pub use component::{BuilderComponent, PoolComponent, pool_title};
pub use contenders::Contenders;
pub use failures::Failures;
pub use held_back::{HeldBack, HeldItem, Holder, LARGEST};
pub use ids::{
    BuildId, ImageName, LabelName, LauncherId, NodeId, PoolName, ProviderName, RequestId, SharedText, TenantName,
    UploadId,
};
pub use image::{BuildState, ImageBuild, ImageUpload, UploadKey, UploadState};
pub use json::{Json, Object};
pub use metastatic::{Backing, Place, metastatic_owner, metastatic_provider};
pub use node::{Node, NodeState};
pub use pauses::{Pause, PausedBy, Pauses};
pub use records::{Changes, Entries, Entry, HasState, Records, RequestLock, Stat, WorkLock, change_each};
pub use request::{MIN_READY_REQUESTOR, NodeRequest, RequestState};
pub use resources::Resources;
pub use uptime::Uptime;
pub use wire::{Extra, Reading, RecordError};

/// Seconds since the epoch, as records carry them (`state_time`, `created_time`).
pub type Timestamp = f64;

/// Declares a state enum with its spelling on the wire.
macro_rules! states {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every state, in upstream's order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The state's spelling in records, tables and metrics.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// The state of that spelling.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}
pub(crate) use states;
