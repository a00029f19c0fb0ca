//! Reads the whole tree, many reads in one request.
//!
//! The places are known ([`paths`]), so no listing waits for what it does not need: a node's data and its lock's
//! children are asked for at once, 64 nodes in one request (measured: ten times as fast as one request for each read).
//! Ten thousand nodes are two round trips deep.

use futures::{StreamExt, stream::FuturesUnordered};

use super::{
    super::{
        paths::{self, Lock, Spot},
        protocol::{Client, Error, Found, Read},
        record::stat,
    },
    tree::Tree,
};
use crate::{
    model::{BuildId, ImageName, ProviderName, Timestamp, UploadKey},
    sys::clock::Clock,
};

/// Visits in one request: some hundred kB of answer.
pub(super) const BATCH: usize = 64;
/// Requests in flight.
const IN_FLIGHT: usize = 8;

/// A place to be read.
enum Visit {
    Directory(Directory),
    /// A record, or a lock's directory, of which the stat is what matters; with its contenders.
    Record(Spot, Option<Lock>),
    Image(ImageName),
    Build(ImageName, BuildId),
    /// The contenders for a lock that protects work, not a record.
    Contenders(Lock),
}

/// A directory, and what its children are.
#[derive(Clone)]
enum Directory {
    Nodes,
    Requests,
    RequestLocks,
    Images,
    Builds(ImageName),
    Uploads(ImageName, BuildId, ProviderName),
    Pools,
    Builders,
    HeldByProviders,
    HeldByBuilders,
    Pauses,
}

impl Directory {
    fn path(&self) -> String {
        match self {
            Self::Nodes => paths::NODES.to_owned(),
            Self::Requests => paths::REQUESTS.to_owned(),
            Self::RequestLocks => paths::REQUEST_LOCKS.to_owned(),
            Self::Images => paths::IMAGES.to_owned(),
            Self::Builds(image) => format!("{}/{image}/builds", paths::IMAGES),
            Self::Uploads(image, build, provider) => paths::uploads(image, build, provider),
            Self::Pools => paths::POOLS.to_owned(),
            Self::Builders => paths::BUILDERS.to_owned(),
            Self::HeldByProviders => paths::HELD_BY_PROVIDERS.to_owned(),
            Self::HeldByBuilders => paths::HELD_BY_BUILDERS.to_owned(),
            Self::Pauses => paths::PAUSES.to_owned(),
        }
    }

    /// The lock that stands among the records of a directory, and protects the making of them.
    fn lock(&self) -> Option<Lock> {
        match self {
            Self::Builds(image) => Some(Lock::Building(image.clone())),
            Self::Uploads(image, build, provider) => {
                Some(Lock::Uploading(image.clone(), build.clone(), provider.clone()))
            }
            _ => None,
        }
    }

    fn child(&self, name: &str) -> Visit {
        match self {
            Self::Nodes => Visit::Record(Spot::Node(name.into()), Some(Lock::Node(name.into()))),
            Self::Requests => Visit::Record(Spot::Request(name.into()), None),
            Self::RequestLocks => Visit::Record(Spot::RequestLock(name.into()), Some(Lock::Request(name.into()))),
            Self::Images => Visit::Image(name.into()),
            Self::Builds(image) => Visit::Build(image.clone(), name.into()),
            Self::Uploads(image, build, provider) => {
                let key = UploadKey {
                    image: image.clone(),
                    provider: provider.clone(),
                    build: build.clone(),
                    id: name.into(),
                };
                Visit::Record(Spot::Upload(key.clone()), Some(Lock::Upload(key)))
            }
            Self::Pools => Visit::Record(Spot::Pool(name.to_owned()), None),
            Self::Builders => Visit::Record(Spot::Builder(name.to_owned()), None),
            Self::HeldByProviders => Visit::Record(Spot::HeldBack(paths::provider_holder(name)), None),
            Self::HeldByBuilders => Visit::Record(Spot::HeldBack(paths::builder_holder(name)), None),
            Self::Pauses => Visit::Record(Spot::Pauses(paths::paused_provider(name)), None),
        }
    }
}

enum Ask {
    Data(String),
    Children(String),
}

impl Ask {
    fn as_read(&self) -> Read<'_> {
        match self {
            Self::Data(path) => Read::Data(path),
            Self::Children(path) => Read::Children(path),
        }
    }
}

/// Fills an empty tree with what there is now, more or less: what changes meanwhile the watch tells.
pub(super) async fn walk(client: &Client, mut tree: Tree, clock: &Clock) -> Result<Tree, Error> {
    let all = [
        Directory::HeldByBuilders,
        Directory::HeldByProviders,
        Directory::Pauses,
        Directory::Builders,
        Directory::Pools,
        Directory::Images,
        Directory::RequestLocks,
        Directory::Requests,
        Directory::Nodes,
    ];
    let mut todo: Vec<Visit> = all.into_iter().map(Visit::Directory).collect();
    let mut requests = FuturesUnordered::new();
    loop {
        while requests.len() < IN_FLIGHT && !todo.is_empty() {
            let batch = todo.split_off(todo.len().saturating_sub(BATCH));
            requests.push(read(client, batch));
        }
        let Some(answered) = requests.next().await else { return Ok(tree) };
        for (visit, answers) in answered? {
            visit.arrived(answers, &mut tree, &mut todo, clock.now());
        }
    }
}

/// One request for a batch of visits.
async fn read(client: &Client, visits: Vec<Visit>) -> Result<Vec<(Visit, Vec<Found>)>, Error> {
    let mut all = Vec::new();
    let mut counts = Vec::with_capacity(visits.len());
    for visit in &visits {
        let asks = visit.asks();
        counts.push(asks.len());
        all.extend(asks);
    }
    let reads: Vec<Read<'_>> = all.iter().map(Ask::as_read).collect();
    let mut answers = client.read(&reads).await?.into_iter();
    let mut answered = Vec::with_capacity(visits.len());
    for (visit, count) in visits.into_iter().zip(counts) {
        let mut own = Vec::with_capacity(count);
        for answer in answers.by_ref().take(count) {
            match answer {
                Ok(found) => own.push(found),
                // What has vanished meanwhile is not there.
                Err(Error::NoNode) => {}
                Err(error) => return Err(error),
            }
        }
        answered.push((visit, own));
    }
    Ok(answered)
}

impl Visit {
    fn asks(&self) -> Vec<Ask> {
        match self {
            Self::Directory(directory) => vec![Ask::Children(directory.path())],
            Self::Record(spot, None) => vec![Ask::Data(spot.path())],
            Self::Record(spot @ Spot::RequestLock(_), Some(_)) => {
                vec![Ask::Data(spot.path()), Ask::Children(spot.path())]
            }
            Self::Record(spot, Some(_)) => {
                let path = spot.path();
                let lock = format!("{path}/lock");
                vec![Ask::Data(path), Ask::Children(lock)]
            }
            Self::Image(image) => vec![Ask::Children(Spot::Image(image.clone()).path())],
            Self::Build(image, build) => {
                let path = Spot::Build(image.clone(), build.clone()).path();
                vec![Ask::Children(format!("{path}/providers"))]
            }
            Self::Contenders(lock) => vec![Ask::Children(lock.dir())],
        }
    }

    /// Puts what was read by `now` into the tree; where to go next into `todo`.
    fn arrived(self, answers: Vec<Found>, tree: &mut Tree, todo: &mut Vec<Self>, now: Timestamp) {
        let (mut data, mut children) = (None, None);
        for answer in answers {
            match answer {
                Found::Data(bytes, stat) => data = Some((bytes, stat)),
                Found::Children(names) => children = Some(names),
            }
        }
        match self {
            Self::Directory(directory) => {
                // `lock` is never a record's name: numbers are, and ids of builds in hexadecimal digits.
                let names = children.unwrap_or_default().into_iter();
                for name in names {
                    if name != "lock" {
                        todo.push(directory.child(&name));
                    } else if let Some(lock) = directory.lock() {
                        todo.push(Self::Contenders(lock));
                    }
                }
            }
            Self::Record(spot, lock) => {
                if let Some(lock) = lock {
                    for contender in children.unwrap_or_default() {
                        tree.add(&Spot::Contender(lock.clone(), contender), now);
                    }
                }
                if let Some((bytes, new)) = data {
                    tree.put(&spot, &bytes, stat(&new), now);
                }
            }
            Self::Image(image) => {
                let Some(children) = children else { return };
                tree.add(&Spot::Image(image.clone()), now);
                for child in children {
                    match child.as_str() {
                        "pause" => drop(tree.add(&Spot::Pause(image.clone()), now)),
                        "request-build" => todo.push(Self::Record(Spot::BuildRequest(image.clone()), None)),
                        "builds" => todo.push(Self::Directory(Directory::Builds(image.clone()))),
                        _ => {}
                    }
                }
            }
            Self::Build(image, build) => {
                for provider in children.unwrap_or_default() {
                    let uploads = Directory::Uploads(image.clone(), build.clone(), provider.into());
                    todo.push(Self::Directory(uploads));
                }
                let spot = Spot::Build(image.clone(), build.clone());
                todo.push(Self::Record(spot, Some(Lock::Build(image, build))));
            }
            Self::Contenders(lock) => {
                for name in children.unwrap_or_default() {
                    tree.add(&Spot::Contender(lock.clone(), name), now);
                }
            }
        }
    }
}
