//! Reads the part of `/nodepool` that a command needs into [`Records`].
//!
//! The launcher's tree cache would read everything and then keep watching; a command reads what it shows, once, many
//! paths in one request. It creates nothing: upstream's `nodepool list` makes a lock directory under each node it looks at.
//! What cannot be used is left out and named in the log.

use std::{fmt, panic::resume_unwind, sync::Arc, thread};

use nodepool_common::{
    model::{
        BuildId, BuilderComponent, Entry, ImageBuild, ImageName, ImageUpload, Node, NodeId, NodeRequest, PoolComponent,
        ProviderName, RecordError, Records, RequestId, Stat, UploadId, UploadKey,
    },
    zk::{ZkError, ZooKeeper, paths},
};

/// From so many records on they are read by several threads.
const WORTH_SHARING: usize = 500;

/// `/nodepool/nodes`.
pub const NODES: &str = "/nodepool/nodes";
/// `/nodepool/requests`.
pub const REQUESTS: &str = "/nodepool/requests";
/// Where pools are registered.
const POOLS: &str = "/nodepool/components/pool";
/// Where builders are registered.
const BUILDERS: &str = "/nodepool/components/builder";
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
    read_nodes(zk, ids).await
}

/// These nodes with the contenders for their locks.
pub async fn some_nodes(zk: &ZooKeeper, ids: &[NodeId]) -> Result<Records, ZkError> {
    read_nodes(zk, ids.iter().map(ToString::to_string).collect()).await
}

/// One node, or no entry.
pub async fn node(zk: &ZooKeeper, id: &NodeId) -> Result<Records, ZkError> {
    read_nodes(zk, vec![id.to_string()]).await
}

async fn read_nodes(zk: &ZooKeeper, ids: Vec<String>) -> Result<Records, ZkError> {
    let paths: Vec<String> = ids.iter().map(|id| format!("{NODES}/{id}")).collect();
    let locks: Vec<String> = paths.iter().map(|path| format!("{path}/lock")).collect();
    let (found, contenders) = futures::try_join!(zk.get_many(&paths), zk.children_of_many(&locks))?;
    let mut all: Vec<AsFound> = ids
        .into_iter()
        .zip(paths)
        .zip(found.into_iter().zip(contenders))
        .filter_map(|((id, path), (found, contenders))| Some(AsFound { id, path, found: found?, contenders }))
        .collect();
    let read = |node: &mut AsFound| {
        let id = NodeId::from(std::mem::take(&mut node.id));
        let mut entry = entry(&node.path, Node::read(id.clone(), &node.found.0), node.found.1);
        Arc::make_mut(&mut entry).contenders = std::mem::take(&mut node.contenders).into_iter().collect();
        (id, entry)
    };
    let mut records = Records::default();
    records.nodes.extend(on_all_processors(&mut all, read));
    Ok(records)
}

/// A node as it was found in ZooKeeper.
struct AsFound {
    id: String,
    path: String,
    found: (Vec<u8>, Stat),
    contenders: Vec<String>,
}

/// What `work` makes of each, in their order. Much is shared out among the processors: nothing else is to be done meanwhile.
fn on_all_processors<T: Send, R: Send>(all: &mut [T], work: impl Fn(&mut T) -> R + Sync) -> Vec<R> {
    let processors = if all.len() < WORTH_SHARING { 1 } else { thread::available_parallelism().map_or(1, usize::from) };
    if processors == 1 {
        return all.iter_mut().map(work).collect();
    }
    let (work, share) = (&work, all.len().div_ceil(processors));
    thread::scope(|scope| {
        let parts: Vec<_> =
            all.chunks_mut(share).map(|part| scope.spawn(move || part.iter_mut().map(work).collect())).collect();
        let part =
            |part: thread::ScopedJoinHandle<'_, Vec<R>>| part.join().unwrap_or_else(|panic| resume_unwind(panic));
        parts.into_iter().flat_map(part).collect()
    })
}

/// All node requests, without their locks.
pub async fn requests(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let ids = zk.children(REQUESTS).await?;
    let paths: Vec<String> = ids.iter().map(|id| format!("{REQUESTS}/{id}")).collect();
    let found = zk.get_many(&paths).await?;
    let mut records = Records::default();
    for ((id, path), found) in ids.into_iter().zip(paths).zip(found) {
        let Some((data, stat)) = found else { continue };
        let id = RequestId::from(id);
        records.requests.insert(id.clone(), entry(&path, NodeRequest::read(id, &data), stat));
    }
    Ok(records)
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

/// A request with its lock, and the registered pools.
pub async fn request_and_pools(zk: &ZooKeeper, id: &RequestId) -> Result<Records, ZkError> {
    let (own, mut records) = futures::try_join!(locked_request(zk, id), pools(zk))?;
    records.requests.extend(own.map(|own| (id.clone(), own)));
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
pub async fn pools(zk: &ZooKeeper) -> Result<Records, ZkError> {
    let names = zk.children(POOLS).await?;
    let paths: Vec<String> = names.iter().map(|name| format!("{POOLS}/{name}")).collect();
    let found = zk.get_many(&paths).await?;
    let pool = |(name, found): (String, Option<(Vec<u8>, Stat)>)| {
        let (pool, _) = PoolComponent::read(&name, &found?.0).ok()?;
        Some((name, Arc::new(pool)))
    };
    Ok(Records { pools: names.into_iter().zip(found).filter_map(pool).collect(), ..Records::default() })
}

/// Adds all that there is of these images, and which builders are registered.
pub async fn add_images(zk: &ZooKeeper, records: &mut Records, images: Vec<ImageName>) -> Result<(), ZkError> {
    if images.is_empty() {
        return Ok(());
    }
    let there = zk.children(IMAGES).await?;
    let is_asked_for = |name: &String| images.iter().any(|image| image.as_str() == name);
    let names: Vec<String> = there.into_iter().filter(is_asked_for).collect();
    let of_images = names.iter().map(|name| ImageName::from(name.as_str())).collect();
    let read = builds_of(zk, some_images(zk, names).await?).await?;
    records.uploads = uploads_in(zk, directories_of(zk, of_images).await?).await?.uploads;
    records.builds = read.builds;
    records.images = read.images;
    records.paused_images = read.paused_images;
    records.build_requests = read.build_requests;
    let names = zk.children(BUILDERS).await?;
    let paths: Vec<String> = names.iter().map(|name| format!("{BUILDERS}/{name}")).collect();
    let found = zk.get_many(&paths).await?;
    let builder = |(name, found): (String, Option<(Vec<u8>, Stat)>)| {
        let (builder, _) = BuilderComponent::read(&found?.0).ok()?;
        Some((name, Arc::new(builder)))
    };
    records.builders = names.into_iter().zip(found).filter_map(builder).collect();
    Ok(())
}

/// All images with their pauses and build requests; no builds.
pub async fn images(zk: &ZooKeeper) -> Result<Records, ZkError> {
    some_images(zk, zk.children(IMAGES).await?).await
}

async fn some_images(zk: &ZooKeeper, names: Vec<String>) -> Result<Records, ZkError> {
    let paths = |what: &str| -> Vec<String> { names.iter().map(|name| format!("{IMAGES}/{name}/{what}")).collect() };
    let (pauses, requests) = (paths("pause"), paths("request-build"));
    let (pauses, requests) = futures::try_join!(zk.get_many(&pauses), zk.get_many(&requests))?;
    let mut records = Records::default();
    for ((name, pause), request) in names.into_iter().zip(pauses).zip(requests) {
        let image = ImageName::from(name);
        if pause.is_some() {
            records.paused_images.insert(image.clone());
        }
        if let Some((_, stat)) = request {
            records.build_requests.insert(image.clone(), stat);
        }
        records.images.insert(image);
    }
    Ok(records)
}

/// All images with their pauses, build requests and builds; no uploads.
pub async fn builds(zk: &ZooKeeper) -> Result<Records, ZkError> {
    builds_of(zk, images(zk).await?).await
}

async fn builds_of(zk: &ZooKeeper, mut records: Records) -> Result<Records, ZkError> {
    let ids = build_ids(zk, records.images.iter().cloned().collect()).await?;
    let paths: Vec<String> = ids.iter().map(|(image, id)| build_path(image, id)).collect();
    let found = zk.get_many(&paths).await?;
    for (((image, id), path), found) in ids.into_iter().zip(paths).zip(found) {
        let Some((data, stat)) = found else { continue };
        let build = entry(&path, ImageBuild::read(image.clone(), id.clone(), &data), stat);
        records.builds.insert((image, id), build);
    }
    Ok(records)
}

/// All uploads, and nothing else.
pub async fn uploads(zk: &ZooKeeper) -> Result<Records, ZkError> {
    uploads_in(zk, provider_directories(zk).await?).await
}

async fn uploads_in(zk: &ZooKeeper, directories: Vec<ProviderDirectory>) -> Result<Records, ZkError> {
    let paths: Vec<String> = directories.iter().map(|directory| format!("{}/images", directory.path())).collect();
    let ids = zk.children_of_many(&paths).await?;
    let keys: Vec<UploadKey> = directories
        .into_iter()
        .zip(ids)
        .flat_map(|(ProviderDirectory { image, build, provider }, ids)| {
            let key = move |id: String| UploadKey {
                image: image.clone(),
                provider: provider.clone(),
                build: build.clone(),
                id: UploadId::from(id),
            };
            ids.into_iter().filter(|id| is_record_id(id)).map(key)
        })
        .collect();
    let paths: Vec<String> = keys.iter().map(upload_path).collect();
    let found = zk.get_many(&paths).await?;
    let mut records = Records::default();
    for ((key, path), found) in keys.into_iter().zip(paths).zip(found) {
        let Some((data, stat)) = found else { continue };
        let UploadKey { image, provider, build, id } = key.clone();
        records.uploads.insert(key, entry(&path, ImageUpload::read(image, build, provider, id, &data), stat));
    }
    Ok(records)
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
    directories_of(zk, images).await
}

async fn directories_of(zk: &ZooKeeper, images: Vec<ImageName>) -> Result<Vec<ProviderDirectory>, ZkError> {
    let ids = build_ids(zk, images).await?;
    let paths: Vec<String> = ids.iter().map(|(image, id)| format!("{}/providers", build_path(image, id))).collect();
    let found = zk.children_of_many(&paths).await?;
    let mut directories: Vec<_> = ids
        .into_iter()
        .zip(found)
        .flat_map(|((image, build), providers)| {
            let directory = move |provider: String| ProviderDirectory {
                image: image.clone(),
                build: build.clone(),
                provider: ProviderName::from(provider),
            };
            providers.into_iter().map(directory)
        })
        .collect();
    directories.sort();
    Ok(directories)
}

async fn build_ids(zk: &ZooKeeper, images: Vec<ImageName>) -> Result<Vec<(ImageName, BuildId)>, ZkError> {
    let paths: Vec<String> = images.iter().map(|image| format!("{IMAGES}/{image}/builds")).collect();
    let found = zk.children_of_many(&paths).await?;
    let of_image = |(image, ids): (ImageName, Vec<String>)| {
        let ids = ids.into_iter().filter(|id| is_record_id(id));
        ids.map(move |id| (image.clone(), BuildId::from(id)))
    };
    Ok(images.into_iter().zip(found).flat_map(of_image).collect())
}

/// A build's znode.
pub fn build_path(image: &ImageName, build: &BuildId) -> String {
    paths::build(image, build)
}

/// An upload's znode.
pub fn upload_path(key: &UploadKey) -> String {
    paths::upload(key)
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
