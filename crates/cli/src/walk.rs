//! Reads the part of `/nodepool` that a command needs into [`Records`].
//!
//! The launcher's tree cache would read everything and then keep watching; a command reads what it shows, once, many
//! paths at a time. It creates nothing: upstream's `nodepool list` makes a lock directory under each node it looks at.
//! What cannot be used is left out and named in the log.

use std::{fmt, future::Future, sync::Arc};

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use nodepool_common::{
    model::{
        BuildId, Entry, ImageBuild, ImageName, ImageUpload, Node, NodeId, NodeRequest, PoolComponent, ProviderName,
        RecordError, Records, RequestId, Stat, UploadId, UploadKey,
    },
    zk::{ZkError, ZooKeeper, paths},
};

/// Reads under way at a time: enough to hide the round trips, too few to fill a server's queue.
const AT_ONCE: usize = 200;

/// `/nodepool/nodes`.
pub const NODES: &str = "/nodepool/nodes";
/// `/nodepool/requests`.
pub const REQUESTS: &str = "/nodepool/requests";
/// Where pools are registered.
const POOLS: &str = "/nodepool/components/pool";
/// `/nodepool/images`.
pub const IMAGES: &str = "/nodepool/images";

/// Whether a word of the command line can be the name of one znode. One that cannot must not become part of a path: it
/// would lead to something else.
pub fn is_name(word: &str) -> bool {
    !word.is_empty() && !word.contains('/') && word != "." && word != ".."
}

/// Whether a word can be the id of a build or an upload, among which their lock's directory stands.
pub fn is_record_id(word: &str) -> bool {
    is_name(word) && word != "lock"
}

/// All nodes with the contenders for their locks.
pub async fn nodes(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let ids = zk.children(NODES).await?;
    let entries = each(ids, |id| read_node(zk, NodeId::from(id))).await?;
    Ok(Records { nodes: entries.into_iter().flatten().collect(), ..Records::default() })
}

/// One node, or no entry.
pub async fn node(zk: &ZooKeeper, id: &NodeId) -> Result<Records, ZkError> {
    Ok(Records { nodes: read_node(zk, id.clone()).await?.into_iter().collect(), ..Records::default() })
}

async fn read_node(zk: &ZooKeeper, id: NodeId) -> Result<Option<(NodeId, Arc<Entry<Node>>)>, ZkError> {
    let path = format!("{NODES}/{id}");
    let lock = format!("{path}/lock");
    let (record, contenders) = futures::try_join!(zk.get(&path), zk.children(&lock))?;
    let Some((data, stat)) = record else { return Ok(None) };
    let mut entry = entry(&path, Node::read(id.clone(), &data), stat);
    Arc::make_mut(&mut entry).contenders = contenders.into_iter().collect();
    Ok(Some((id, entry)))
}

/// All node requests, without their locks.
pub async fn requests(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let ids = zk.children(REQUESTS).await?;
    let entries = each(ids, |id| async move {
        let path = format!("{REQUESTS}/{id}");
        let id = RequestId::from(id);
        let found = zk.get(&path).await?;
        Ok(found.map(|(data, stat)| (id.clone(), entry(&path, NodeRequest::read(id, &data), stat))))
    })
    .await?;
    Ok(Records { requests: entries.into_iter().flatten().collect(), ..Records::default() })
}

/// One request with the contenders for its lock, or no entry.
async fn locked_request(zk: &ZooKeeper, id: &RequestId) -> Result<Option<Arc<Entry<NodeRequest>>>, ZkError> {
    let (path, lock) = (paths::request(id), paths::request_lock(id));
    let (record, contenders) = futures::try_join!(zk.get(&path), zk.children(&lock))?;
    let Some((data, stat)) = record else { return Ok(None) };
    let mut entry = Entry::unlocked(NodeRequest::read(id.clone(), &data).map(|(request, _)| Arc::new(request)), stat);
    Arc::make_mut(&mut entry).contenders = contenders.into_iter().collect();
    Ok(Some(entry))
}

/// What there is to say of a request: itself with its lock, those that wait beside it, the nodes, the registered pools.
pub async fn around_request(zk: &ZooKeeper, id: &RequestId) -> Result<Records, ZkError> {
    let (own, others, nodes, pools) = futures::try_join!(locked_request(zk, id), requests(zk), nodes(zk), pools(zk))?;
    let mut records =
        Records { requests: others.requests, nodes: nodes.nodes, pools: pools.pools, ..Records::default() };
    match own {
        Some(own) => records.requests.insert(id.clone(), own),
        None => records.requests.remove(id),
    };
    Ok(records)
}

/// A node, and its request where it has one.
pub async fn around_node(zk: &ZooKeeper, id: &NodeId) -> Result<Records, ZkError> {
    let mut records = node(zk, id).await?;
    let of = records.nodes.get(id).and_then(|entry| entry.usable()).and_then(|node| node.allocated_to.clone());
    if let Some(of) = of
        && let Some(request) = locked_request(zk, &of).await?
    {
        records.requests.insert(of, request);
    }
    Ok(records)
}

/// The registered pools.
async fn pools(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let names = zk.children(POOLS).await?;
    let found = each(names, |name| async move {
        let record = zk.get(&format!("{POOLS}/{name}")).await?;
        let pool = record.and_then(|(data, _)| PoolComponent::read(&name, &data).ok());
        Ok(pool.map(|(pool, _)| (name, Arc::new(pool))))
    })
    .await?;
    Ok(Records { pools: found.into_iter().flatten().collect(), ..Records::default() })
}

/// All images with their pauses and build requests; no builds.
pub async fn images(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let mut records = Records::default();
    let names = zk.children(IMAGES).await?;
    let found = each(names, |name| async move {
        let (pause, request) = (format!("{IMAGES}/{name}/pause"), format!("{IMAGES}/{name}/request-build"));
        let (pause, request) = futures::try_join!(zk.get(&pause), zk.get(&request))?;
        Ok((ImageName::from(name), pause.is_some(), request.map(|(_, stat)| stat)))
    })
    .await?;
    for (image, paused, request) in found {
        if paused {
            records.paused_images.insert(image.clone());
        }
        if let Some(stat) = request {
            records.build_requests.insert(image.clone(), stat);
        }
        records.images.insert(image);
    }
    Ok(records)
}

/// All images with their pauses, build requests and builds; no uploads.
pub async fn builds(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let mut records = images(zk).await?;
    let ids = build_ids(zk, records.images.iter().cloned().collect()).await?;
    let entries = each(ids, |(image, id)| async move {
        let path = build_path(&image, &id);
        let found = zk.get(&path).await?;
        Ok(found.map(|(data, stat)| {
            let build = entry(&path, ImageBuild::read(image.clone(), id.clone(), &data), stat);
            ((image, id), build)
        }))
    })
    .await?;
    records.builds = entries.into_iter().flatten().collect();
    Ok(records)
}

/// All uploads, and nothing else.
pub async fn uploads(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let keys = each(provider_directories(zk).await?, |directory| async move {
        let ids = zk.children(&format!("{}/images", directory.path())).await?;
        let ProviderDirectory { image, build, provider } = directory;
        let key = move |id: String| UploadKey {
            image: image.clone(),
            provider: provider.clone(),
            build: build.clone(),
            id: UploadId::from(id),
        };
        Ok(ids.into_iter().filter(|id| is_record_id(id)).map(key).collect::<Vec<_>>())
    })
    .await?;
    let entries = each(keys.into_iter().flatten().collect(), |key: UploadKey| async move {
        let path = upload_path(&key);
        let found = zk.get(&path).await?;
        Ok(found.map(|(data, stat)| {
            let UploadKey { image, provider, build, id } = key.clone();
            (key, entry(&path, ImageUpload::read(image, build, provider, id, &data), stat))
        }))
    })
    .await?;
    Ok(Records { uploads: entries.into_iter().flatten().collect(), ..Records::default() })
}

/// A provider's part of a build: there from the first attempt to upload, also when no upload is left.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProviderDirectory {
    /// The build's image.
    pub image: ImageName,
    /// The build.
    pub build: BuildId,
    /// The provider.
    pub provider: ProviderName,
}

impl ProviderDirectory {
    /// Its znode.
    pub fn path(&self) -> String {
        format!("{}/providers/{}", build_path(&self.image, &self.build), self.provider)
    }
}

/// The providers' parts of all builds, in order.
pub async fn provider_directories(zk: &ZooKeeper) -> Result<Vec<ProviderDirectory>, ZkError> {
    let images = zk.children(IMAGES).await?.into_iter().map(ImageName::from).collect();
    let ids = build_ids(zk, images).await?;
    let found = each(ids, |(image, build)| async move {
        let providers = zk.children(&format!("{}/providers", build_path(&image, &build))).await?;
        let directory = move |provider: String| ProviderDirectory {
            image: image.clone(),
            build: build.clone(),
            provider: ProviderName::from(provider),
        };
        Ok(providers.into_iter().map(directory).collect::<Vec<_>>())
    })
    .await?;
    let mut directories: Vec<_> = found.into_iter().flatten().collect();
    directories.sort();
    Ok(directories)
}

async fn build_ids(zk: &ZooKeeper, images: Vec<ImageName>) -> Result<Vec<(ImageName, BuildId)>, ZkError> {
    let found = each(images, |image: ImageName| async move {
        let ids = zk.children(&format!("{IMAGES}/{image}/builds")).await?;
        let ids = ids.into_iter().filter(|id| is_record_id(id));
        Ok(ids.map(|id| (image.clone(), BuildId::from(id))).collect::<Vec<_>>())
    })
    .await?;
    Ok(found.into_iter().flatten().collect())
}

/// A build's znode.
pub fn build_path(image: &ImageName, build: &BuildId) -> String {
    paths::build(image, build)
}

/// An upload's znode.
pub fn upload_path(key: &UploadKey) -> String {
    paths::upload(key)
}

/// Does one thing for many, [`AT_ONCE`]; ends at the first error.
async fn each<T, R, F: Future<Output = Result<R, ZkError>>>(
    items: Vec<T>,
    work: impl Fn(T) -> F,
) -> Result<Vec<R>, ZkError> {
    stream::iter(items).map(work).buffer_unordered(AT_ONCE).try_collect().await
}

fn entry<T: fmt::Debug>(path: &str, read: Result<(T, Vec<String>), RecordError>, stat: Stat) -> Arc<Entry<T>> {
    let record = match read {
        Ok((record, _)) => Ok(Arc::new(record)),
        Err(error) => {
            tracing::warn!(logger = "nodepool.zk.ZooKeeper", "Leaving out {path}: {error}");
            Err(error)
        }
    };
    Entry::unlocked(record, stat)
}
