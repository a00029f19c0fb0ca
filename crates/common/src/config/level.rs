//! [`Level`]: which part of the file a mapping is.

/// A part of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // each is what its name says; `place` says it in words
pub enum Level {
    Top,
    WebApp,
    ZooKeeperServer,
    ZooKeeperTls,
    Label,
    Diskimage,
    ImageBuilder,
    Provider,
    ProviderDiskimage,
    CloudImage,
    Pool,
    PoolLabel,
    StaticNode,
    Other,
}

impl Level {
    /// Of a mapping with a name, which stands in a provider or not.
    pub fn named(in_a_provider: bool, kind: &str) -> Self {
        match (in_a_provider, kind) {
            (false, "label") => Self::Label,
            (false, "diskimage") => Self::Diskimage,
            (false, "image-builder") => Self::ImageBuilder,
            (true, "diskimage") => Self::ProviderDiskimage,
            (true, "cloud-image") => Self::CloudImage,
            (true, "pool") => Self::Pool,
            (true, "label") => Self::PoolLabel,
            (true, "node") => Self::StaticNode,
            _ => Self::Other,
        }
    }

    /// Where it is in the file: "it belongs …".
    pub const fn place(self) -> &'static str {
        match self {
            Self::Top => "at the top level of the file",
            Self::WebApp => "in `webapp`",
            Self::ZooKeeperServer => "in an item of `zookeeper-servers`",
            Self::ZooKeeperTls => "in `zookeeper-tls`",
            Self::Label => "in one of the top-level `labels`",
            Self::Diskimage => "in one of the top-level `diskimages`",
            Self::ImageBuilder => "in one of `image-builders`",
            Self::Provider => "in a provider itself",
            Self::ProviderDiskimage => "in one of the `diskimages` of a provider",
            Self::CloudImage => "in one of the `cloud-images` of a provider",
            Self::Pool => "in a pool of a provider",
            Self::PoolLabel => "in one of the `labels` of a pool",
            Self::StaticNode => "in one of the `nodes` of a pool",
            Self::Other => "elsewhere",
        }
    }
}
