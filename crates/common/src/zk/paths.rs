//! Where things are under `/nodepool`, as in nodepool 11.0.0: the paths, and what a path of an event means.

use crate::model::{BuildId, Holder, ImageName, NodeId, ProviderName, RequestId, UploadId, UploadKey};

/// The root of everything that Nodepool keeps.
pub const ROOT: &str = "/nodepool";
/// `/nodepool/nodes`.
pub const NODES: &str = "/nodepool/nodes";
/// `/nodepool/requests`.
pub const REQUESTS: &str = "/nodepool/requests";
/// `/nodepool/requests-lock`.
pub const REQUEST_LOCKS: &str = "/nodepool/requests-lock";
/// `/nodepool/images`.
pub const IMAGES: &str = "/nodepool/images";
/// `/nodepool/components/pool`.
pub const POOLS: &str = "/nodepool/components/pool";
/// `/nodepool/components/builder`.
pub const BUILDERS: &str = "/nodepool/components/builder";
/// `/nodepool/components`.
pub const COMPONENTS: &str = "/nodepool/components";
/// Where launchers keep what their searches for leaks hold back; ours alone.
pub const HELD_BY_PROVIDERS: &str = "/nodepool/leaks/provider";
/// The same of builders.
pub const HELD_BY_BUILDERS: &str = "/nodepool/leaks/builder";
/// What people of the site have paused; ours alone.
pub const PAUSES: &str = "/nodepool/pauses";
/// `/nodepool/elections`.
pub const ELECTIONS: &str = "/nodepool/elections";

/// A node's record.
pub fn node(id: &NodeId) -> String {
    format!("{NODES}/{id}")
}

/// A node's lock directory.
pub fn node_lock(id: &NodeId) -> String {
    format!("{NODES}/{id}/lock")
}

/// A request's record.
pub fn request(id: &RequestId) -> String {
    format!("{REQUESTS}/{id}")
}

/// A request's lock directory.
pub fn request_lock(id: &RequestId) -> String {
    format!("{REQUEST_LOCKS}/{id}")
}

/// `/nodepool/images/<image>`.
pub fn image(image: &ImageName) -> String {
    format!("{IMAGES}/{image}")
}

/// A build's record.
pub fn build(image: &ImageName, build: &BuildId) -> String {
    format!("{IMAGES}/{image}/builds/{build}")
}

/// The directory of a build's uploads to a provider.
pub fn uploads(image: &ImageName, build: &BuildId, provider: &ProviderName) -> String {
    format!("{IMAGES}/{image}/builds/{build}/providers/{provider}/images")
}

/// An upload's record.
pub fn upload(key: &UploadKey) -> String {
    format!("{}/{}", uploads(&key.image, &key.build, &key.provider), key.id)
}

/// What is held back.
pub fn held_back(holder: &Holder) -> String {
    match holder {
        Holder::Provider(name) => format!("{HELD_BY_PROVIDERS}/{}", escaped(name.as_str())),
        Holder::Builder(id) => format!("{HELD_BY_BUILDERS}/{}", escaped(id)),
    }
}

/// What is paused of a provider.
pub fn pauses(provider: &ProviderName) -> String {
    format!("{PAUSES}/{}", escaped(provider.as_str()))
}

/// The provider whose znode has that name below [`PAUSES`].
pub fn paused_provider(znode: &str) -> ProviderName {
    unescaped(znode).into()
}

/// A name as a znode's: without `/`, and neither empty nor `.` nor `..`.
fn escaped(name: &str) -> String {
    match name {
        "" | "." | ".." => format!("%{name}"),
        _ => name.replace('%', "%25").replace('/', "%2F"),
    }
}

fn unescaped(znode: &str) -> String {
    match znode {
        "%" | "%." | "%.." => znode[1..].to_owned(),
        _ => znode.replace("%2F", "/").replace("%25", "%"),
    }
}

/// The holder whose znode has that name below [`HELD_BY_PROVIDERS`].
pub(super) fn provider_holder(znode: &str) -> Holder {
    Holder::Provider(unescaped(znode).into())
}

/// The holder whose znode has that name below [`HELD_BY_BUILDERS`].
pub(super) fn builder_holder(znode: &str) -> Holder {
    Holder::Builder(unescaped(znode))
}

/// What a path under `/nodepool` is; what nobody reads from the cache has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Spot {
    Node(NodeId),
    Request(RequestId),
    RequestLock(RequestId),
    Image(ImageName),
    Pause(ImageName),
    BuildRequest(ImageName),
    Build(ImageName, BuildId),
    Upload(UploadKey),
    Pool(String),
    Builder(String),
    HeldBack(Holder),
    Pauses(ProviderName),
    Contender(Lock, String),
}

/// A lock directory whose contenders the cache knows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lock {
    Node(NodeId),
    Request(RequestId),
    /// Who has it builds the image.
    Building(ImageName),
    Build(ImageName, BuildId),
    /// Who has it uploads the build to the provider.
    Uploading(ImageName, BuildId, ProviderName),
    Upload(UploadKey),
}

impl Lock {
    /// The directory of its contenders.
    pub fn dir(&self) -> String {
        match self {
            Self::Node(id) => node_lock(id),
            Self::Request(id) => request_lock(id),
            Self::Building(of) => format!("{}/builds/lock", image(of)),
            Self::Build(image, id) => format!("{}/lock", build(image, id)),
            Self::Uploading(image, build, provider) => format!("{}/lock", uploads(image, build, provider)),
            Self::Upload(key) => format!("{}/lock", upload(key)),
        }
    }
}

impl Spot {
    /// Takes a path apart. A build or an upload is never called `lock`: one is an id in hexadecimal digits, the other a number.
    pub fn parse(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.strip_prefix(ROOT)?.strip_prefix('/')?.split('/').collect();
        let upload = |image: &str, build: &str, provider: &str, id: &str| UploadKey {
            image: image.into(),
            provider: provider.into(),
            build: build.into(),
            id: UploadId::from(id),
        };
        Some(match parts[..] {
            ["nodes", id] => Self::Node(id.into()),
            ["nodes", id, "lock", contender] => Self::Contender(Lock::Node(id.into()), contender.to_owned()),
            ["requests", id] => Self::Request(id.into()),
            ["requests-lock", id] => Self::RequestLock(id.into()),
            ["requests-lock", id, contender] => Self::Contender(Lock::Request(id.into()), contender.to_owned()),
            ["images", image] => Self::Image(image.into()),
            ["images", image, "pause"] => Self::Pause(image.into()),
            ["images", image, "request-build"] => Self::BuildRequest(image.into()),
            ["images", image, "builds", "lock", contender] => {
                Self::Contender(Lock::Building(image.into()), contender.to_owned())
            }
            ["images", image, "builds", build, "providers", provider, "images", "lock", contender] => {
                let lock = Lock::Uploading(image.into(), build.into(), provider.into());
                Self::Contender(lock, contender.to_owned())
            }
            ["images", _, "builds", "lock"] | ["images", _, "builds", _, "providers", _, "images", "lock"] => {
                return None;
            }
            ["images", image, "builds", build] => Self::Build(image.into(), build.into()),
            ["images", image, "builds", build, "lock", contender] => {
                Self::Contender(Lock::Build(image.into(), build.into()), contender.to_owned())
            }
            ["images", image, "builds", build, "providers", provider, "images", id] => {
                Self::Upload(upload(image, build, provider, id))
            }
            ["images", image, "builds", build, "providers", provider, "images", id, "lock", contender] => {
                Self::Contender(Lock::Upload(upload(image, build, provider, id)), contender.to_owned())
            }
            ["components", "pool", name] => Self::Pool(name.to_owned()),
            ["components", "builder", name] => Self::Builder(name.to_owned()),
            ["leaks", "provider", name] => Self::HeldBack(provider_holder(name)),
            ["leaks", "builder", id] => Self::HeldBack(builder_holder(id)),
            ["pauses", provider] => Self::Pauses(paused_provider(provider)),
            _ => return None,
        })
    }

    /// The path of it.
    pub fn path(&self) -> String {
        match self {
            Self::Node(id) => node(id),
            Self::Request(id) => request(id),
            Self::RequestLock(id) => request_lock(id),
            Self::Image(of) => image(of),
            Self::Pause(image) => format!("{IMAGES}/{image}/pause"),
            Self::BuildRequest(image) => format!("{IMAGES}/{image}/request-build"),
            Self::Build(image, id) => build(image, id),
            Self::Upload(key) => upload(key),
            Self::Pool(name) => format!("{POOLS}/{name}"),
            Self::Builder(name) => format!("{BUILDERS}/{name}"),
            Self::HeldBack(holder) => held_back(holder),
            Self::Pauses(provider) => pauses(provider),
            Self::Contender(lock, contender) => format!("{}/{contender}", lock.dir()),
        }
    }

    /// Of a contender for the lock of a node or a request: that record.
    pub fn locked_record(&self) -> Option<Self> {
        match self {
            Self::Contender(Lock::Node(id), _) => Some(Self::Node(id.clone())),
            Self::Contender(Lock::Request(id), _) => Some(Self::Request(id.clone())),
            _ => None,
        }
    }

    /// Whether its data, or its stat, is what we keep of it.
    pub fn has_data(&self) -> bool {
        matches!(
            self,
            Self::Node(_)
                | Self::Request(_)
                | Self::BuildRequest(_)
                | Self::Build(..)
                | Self::Upload(_)
                | Self::Pool(_)
                | Self::Builder(_)
                | Self::HeldBack(_)
                | Self::Pauses(_)
                | Self::RequestLock(_)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_and_what_it_is_are_one_and_the_same() {
        for path in [
            "/nodepool/nodes/0000000001",
            "/nodepool/nodes/0000000001/lock/abc__lock__0000000000",
            "/nodepool/requests/200-0000000001",
            "/nodepool/requests-lock/200-0000000001",
            "/nodepool/requests-lock/200-0000000001/abc__lock__0000000000",
            "/nodepool/images/i",
            "/nodepool/images/i/pause",
            "/nodepool/images/i/request-build",
            "/nodepool/images/i/builds/b",
            "/nodepool/images/i/builds/lock/c",
            "/nodepool/images/i/builds/b/lock/c",
            "/nodepool/images/i/builds/b/providers/p/images/lock/c",
            "/nodepool/images/i/builds/b/providers/p/images/0000000001",
            "/nodepool/images/i/builds/b/providers/p/images/0000000001/lock/c",
            "/nodepool/components/pool/host0000000000",
            "/nodepool/components/builder/host0000000000",
            "/nodepool/leaks/provider/rdo",
            "/nodepool/leaks/provider/a%2Fb%252F",
            "/nodepool/leaks/provider/%..",
            "/nodepool/leaks/builder/3b5f",
            "/nodepool/pauses/rdo",
            "/nodepool/pauses/a%2Fb",
        ] {
            assert_eq!(Spot::parse(path).unwrap().path(), path);
        }
    }

    #[test]
    fn lock_directories_are_neither_builds_nor_uploads() {
        for path in [
            "/nodepool",
            "/nodepool/nodes/1/lock",
            "/nodepool/images/i/builds/lock",
            "/nodepool/images/i/builds/b/providers/p/images/lock",
            "/nodepool/images/i/builds/lock/c/d",
            "/nodepoolx/nodes/1",
            "/zuul/nodepool",
            "/nodepool/leaks/provider",
        ] {
            assert_eq!(Spot::parse(path), None, "{path}");
        }
    }
}
