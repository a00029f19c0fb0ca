//! [`Service`]: the services of an OpenStack that are called.

/// A service with the names that catalogues have for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Compute,
    Image,
    Network,
    Volume,
}

impl Service {
    pub const ALL: [Self; 4] = [Self::Compute, Self::Image, Self::Network, Self::Volume];

    pub const fn types(self) -> &'static [&'static str] {
        match self {
            Self::Compute => &["compute"],
            Self::Image => &["image"],
            Self::Network => &["network"],
            Self::Volume => &["block-storage", "volumev3", "volumev2", "volume", "block-store"],
        }
    }

    pub const fn name(self) -> &'static str {
        self.types()[0]
    }
}
