//! Distinct types for the many strings that name things, so that a pool is never passed for a provider.

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use serde::{Deserialize, Serialize};

use super::shared::shared;

/// Types of texts, and how one is made of a text: [`Arc::from`], or [`shared`] for those that many records have.
macro_rules! ids {
    ($of:path: $($(#[$meta:meta])* $name:ident),+ $(,)?) => { $(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text of the id.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl From<&str> for $name { fn from(text: &str) -> Self { Self($of(text)) } }
        impl From<String> for $name { fn from(text: String) -> Self { Self($of(text.as_str())) } }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.pad(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { write!(f, "{}", &self.0) }
        }
        impl AsRef<str> for $name { fn as_ref(&self) -> &str { &self.0 } }
        impl Borrow<str> for $name { fn borrow(&self) -> &str { &self.0 } }
        impl PartialEq<str> for $name { fn eq(&self, other: &str) -> bool { &*self.0 == other } }
        impl PartialEq<&str> for $name { fn eq(&self, other: &&str) -> bool { &*self.0 == *other } }
    )+ };
}

ids! { Arc::from:
    /// A node request: `<priority>-<10 digits>`.
    RequestId,
    /// A node: ten digits.
    NodeId,
    /// A build of a diskimage: 32 hexadecimal digits, or ten decimal ones in old data.
    BuildId,
    /// An upload of a build to a provider: ten digits.
    UploadId,
}

ids! { shared:
    /// A label: what a job asks for.
    LabelName,
    /// A provider of the configuration.
    ProviderName,
    /// A pool; unique within its provider only.
    PoolName,
    /// A diskimage.
    ImageName,
    /// What a pool worker writes into `declined_by` and registers as its component's `id`:
    /// `<fqdn>-PoolWorker.<provider>-<pool>-<uuid4 hex>`, new at each start.
    LauncherId,
    /// A Zuul tenant.
    TenantName,
    /// Any other text that is the same in many records: a zone, a user, a kind of connection.
    SharedText,
}

impl Deref for SharedText {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl RequestId {
    /// The part before the dash, by which requests are ordered as text (`nodepool 11.0.0: zk/zookeeper.py`
    /// `NodeRequest.priority`). The whole id where there is no dash.
    pub fn priority(&self) -> &str {
        self.0.split_once('-').map_or(&*self.0, |(priority, _)| priority)
    }

    /// The sequence number's text, the last key of the order.
    pub fn sequence(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, sequence)| sequence)
    }
}
