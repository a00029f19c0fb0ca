//! Reads the whole tree, many reads in flight.
//!
//! The places are known (zookeeper.md 2), so no listing waits for what it does not need: a node's data and its lock's
//! children are asked for at once. Ten thousand nodes are two round trips deep.

use futures::{StreamExt, stream::FuturesUnordered};
use zookeeper_client::{Client, Error};

use super::{
    super::{
        nodes::now,
        paths::{self, Lock, Spot},
        record::stat,
    },
    tree::Tree,
};
use crate::model::{BuildId, ImageName, NodeId, ProviderName, RequestId, UploadKey};

/// Visits in flight, each of one to three requests.
const IN_FLIGHT: usize = 256;

enum Visit {
    Nodes,
    Node(NodeId),
    Requests,
    Request(RequestId),
    RequestLocks,
    RequestLock(RequestId),
    Images,
    Image(ImageName),
    Build(ImageName, BuildId),
    Uploads(ImageName, BuildId, ProviderName),
    Upload(UploadKey),
    Pools,
    Pool(String),
}

/// What a visit saw, and where to go next.
#[derive(Default)]
struct Seen {
    data: Vec<(Spot, Vec<u8>, zookeeper_client::Stat)>,
    there: Vec<Spot>,
    next: Vec<Visit>,
}

/// Fills an empty tree with what there is now, more or less: what changes meanwhile the watch tells.
pub(super) async fn walk(client: &Client, mut tree: Tree) -> Result<Tree, Error> {
    let mut todo = vec![Visit::Pools, Visit::Images, Visit::RequestLocks, Visit::Requests, Visit::Nodes];
    let mut visits = FuturesUnordered::new();
    loop {
        while visits.len() < IN_FLIGHT
            && let Some(visit) = todo.pop()
        {
            visits.push(see(client, visit));
        }
        let Some(seen) = visits.next().await else { return Ok(tree) };
        let seen = seen?;
        for spot in seen.there {
            tree.add(&spot, now());
        }
        for (spot, data, now_stat) in seen.data {
            tree.put(&spot, &data, stat(&now_stat), now());
        }
        todo.extend(seen.next);
    }
}

async fn see(client: &Client, visit: Visit) -> Result<Seen, Error> {
    let mut seen = Seen::default();
    match visit {
        Visit::Nodes => seen.go(list(client, paths::NODES).await?, |id| Visit::Node(id.into())),
        Visit::Node(id) => seen.locked_record(client, Spot::Node(id.clone()), Lock::Node(id)).await?,
        Visit::Requests => seen.go(list(client, paths::REQUESTS).await?, |id| Visit::Request(id.into())),
        Visit::Request(id) => seen.record(client, Spot::Request(id)).await?,
        Visit::RequestLocks => seen.go(list(client, paths::REQUEST_LOCKS).await?, |id| Visit::RequestLock(id.into())),
        Visit::RequestLock(id) => match client.get_children(&paths::request_lock(&id)).await {
            Ok((contenders, stat)) => {
                seen.contenders(&Lock::Request(id.clone()), contenders);
                seen.data.push((Spot::RequestLock(id), Vec::new(), stat));
            }
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        },
        Visit::Images => seen.go(list(client, paths::IMAGES).await?, |image| Visit::Image(image.into())),
        Visit::Image(image) => {
            let path = format!("{}/{image}", paths::IMAGES);
            let below = list(client, &path).await?;
            seen.there.push(Spot::Image(image.clone()));
            for child in &below {
                match child.as_str() {
                    "pause" => seen.there.push(Spot::Pause(image.clone())),
                    "request-build" => seen.record(client, Spot::BuildRequest(image.clone())).await?,
                    "builds" => {
                        let builds = list(client, &format!("{path}/builds")).await?;
                        seen.go(builds, |build| Visit::Build(image.clone(), build.into()));
                    }
                    _ => {}
                }
            }
        }
        Visit::Build(image, build) => {
            let providers = format!("{}/{image}/builds/{build}/providers", paths::IMAGES);
            let providers = list(client, &providers).await?;
            seen.go(providers, |provider| Visit::Uploads(image.clone(), build.clone(), provider.into()));
            seen.locked_record(client, Spot::Build(image.clone(), build.clone()), Lock::Build(image, build)).await?;
        }
        Visit::Uploads(image, build, provider) => {
            let path = format!("{}/{image}/builds/{build}/providers/{provider}/images", paths::IMAGES);
            seen.go(list(client, &path).await?, |id| {
                Visit::Upload(UploadKey {
                    image: image.clone(),
                    provider: provider.clone(),
                    build: build.clone(),
                    id: id.into(),
                })
            });
        }
        Visit::Upload(key) => seen.locked_record(client, Spot::Upload(key.clone()), Lock::Upload(key)).await?,
        Visit::Pools => seen.go(list(client, paths::POOLS).await?, Visit::Pool),
        Visit::Pool(name) => seen.record(client, Spot::Pool(name)).await?,
    }
    Ok(seen)
}

impl Seen {
    /// `lock` is never a record's name (zookeeper.md 2).
    fn go(&mut self, children: Vec<String>, visit: impl Fn(String) -> Visit) {
        self.next.extend(children.into_iter().filter(|child| child != "lock").map(visit));
    }

    async fn record(&mut self, client: &Client, spot: Spot) -> Result<(), Error> {
        match client.get_data(&spot.path()).await {
            Ok((data, stat)) => self.data.push((spot, data, stat)),
            Err(Error::NoNode) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn locked_record(&mut self, client: &Client, spot: Spot, lock: Lock) -> Result<(), Error> {
        let dir = format!("{}/lock", spot.path());
        let (contenders, record) = tokio::join!(list(client, &dir), self.record(client, spot));
        record?;
        self.contenders(&lock, contenders?);
        Ok(())
    }

    fn contenders(&mut self, lock: &Lock, contenders: Vec<String>) {
        self.there.extend(contenders.into_iter().map(|contender| Spot::Contender(lock.clone(), contender)));
    }
}

async fn list(client: &Client, path: &str) -> Result<Vec<String>, Error> {
    match client.list_children(path).await {
        Err(Error::NoNode) => Ok(Vec::new()),
        result => result,
    }
}
