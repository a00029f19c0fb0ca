//! [`Records`]: everything under `/nodepool`, as last seen. The tree cache fills it, the planners read it.

use std::{collections::BTreeSet, sync::Arc};

use imbl::{OrdMap, OrdSet};

use super::{
    BuildId, BuilderComponent, Contenders, HeldBack, Holder, ImageBuild, ImageName, ImageUpload, LauncherId, Node,
    NodeId, NodeRequest, PausedBy, Pauses, PoolComponent, PoolName, ProviderName, RecordError, RequestId, Timestamp,
    UploadKey, UploadState,
};

/// What of a znode's stat matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stat {
    /// Of the data.
    pub version: i32,
    /// The transaction that last changed the data; the greater one is the newer one.
    pub mzxid: i64,
    /// Creation, ms since the epoch by the server's clock.
    pub ctime: i64,
    /// Last change of the data, ms since the epoch by the server's clock.
    pub mtime: i64,
    /// The session that the znode ends with; 0: it is persistent.
    pub ephemeral_owner: i64,
}

impl Stat {
    /// When the record was made, by ZooKeeper's clock.
    #[allow(clippy::cast_precision_loss)] // milliseconds since the epoch fit
    pub fn created(&self) -> Timestamp {
        self.ctime as Timestamp / 1000.0
    }

    /// A time that the record's data gives, but one that can be: what was written is not from after the writing. A time
    /// to come, of a writer whose clock is far ahead, would put off for ever whatever waits for an age; it counts as the
    /// time of the last write, as ZooKeeper has it, or as `now` where that is earlier.
    #[allow(clippy::cast_precision_loss)] // milliseconds since the epoch fit
    pub fn no_later(&self, time: Timestamp, now: Timestamp) -> Timestamp {
        if time <= now {
            return time;
        }
        let written = if self.mtime > 0 { self.mtime as Timestamp / 1000.0 } else { now };
        written.min(now)
    }

    /// The same for the order of records, which does not change with the time of looking.
    #[allow(clippy::cast_precision_loss)] // milliseconds since the epoch fit
    pub fn in_order(&self, time: Timestamp) -> Timestamp {
        if self.mtime > 0 { time.min(self.mtime as Timestamp / 1000.0) } else { time }
    }
}

/// A record with its lock.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    /// What its data says, or why it cannot be used.
    pub record: Result<Arc<T>, RecordError>,
    /// Of its znode.
    pub stat: Stat,
    /// The children of its lock directory; not empty: probably locked.
    pub contenders: Contenders,
    /// Since when there are no contenders, as this process saw it; `None` while there are. Seconds since the epoch.
    pub free_since: Option<Timestamp>,
}

impl<T> Entry<T> {
    /// A record that nobody has locked, since an unknown time.
    pub fn unlocked(record: Result<Arc<T>, RecordError>, stat: Stat) -> Arc<Self> {
        Arc::new(Self { record, stat, contenders: Contenders::default(), free_since: None })
    }

    /// The record, where it can be used.
    pub fn usable(&self) -> Option<&Arc<T>> {
        self.record.as_ref().ok()
    }

    /// Whether somebody has, or waits for, its lock.
    pub fn is_locked(&self) -> bool {
        !self.contenders.is_empty()
    }
}

/// A record that says since when it is in its state.
pub trait HasState {
    /// `state_time`, as it is written.
    fn state_time(&self) -> Timestamp;
}

impl HasState for Node {
    fn state_time(&self) -> Timestamp {
        self.state_time
    }
}

impl HasState for NodeRequest {
    fn state_time(&self) -> Timestamp {
        self.state_time
    }
}

impl HasState for ImageBuild {
    fn state_time(&self) -> Timestamp {
        self.state_time
    }
}

impl HasState for ImageUpload {
    fn state_time(&self) -> Timestamp {
        self.state_time
    }
}

impl<T: HasState> Entry<T> {
    /// Since when a usable record is in its state: never after `now`.
    pub fn since(&self, now: Timestamp) -> Option<Timestamp> {
        Some(self.stat.no_later(self.usable()?.state_time(), now))
    }

    /// By what usable records are ordered in time. A `state_time` to come makes no record the newest for ever.
    pub fn order(&self) -> Option<Timestamp> {
        Some(self.stat.in_order(self.usable()?.state_time()))
    }
}

impl Entry<NodeRequest> {
    /// When a usable request was made: never after `now`.
    pub fn asked(&self, now: Timestamp) -> Option<Timestamp> {
        let request = self.usable()?;
        Some(self.stat.no_later(request.created_time.unwrap_or(request.state_time), now))
    }
}

/// A directory `/nodepool/requests-lock/<request>`, which outlives its request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestLock {
    /// Its children.
    pub contenders: Contenders,
    /// Since when there are none, as this process saw it. Seconds since the epoch.
    pub free_since: Option<Timestamp>,
    /// Creation, ms since the epoch by the server's clock; where it was not read, by ours.
    pub ctime: i64,
}

/// A lock that protects more than one record: who builds an image, who uploads a build to a provider.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WorkLock {
    /// The children of its directory; not empty: probably locked.
    pub contenders: Contenders,
    /// Since when there are none, as this process saw it. Seconds since the epoch.
    pub free_since: Option<Timestamp>,
}

impl WorkLock {
    /// Whether somebody has it, or waits for it.
    pub fn is_locked(&self) -> bool {
        !self.contenders.is_empty()
    }
}

/// Records of a kind, with their locks, by their names.
pub type Entries<K, T> = OrdMap<K, Arc<Entry<T>>>;

/// Changes each value of a map.
pub fn change_each<K: Clone + Ord, V: Clone>(map: &mut OrdMap<K, V>, change: impl Fn(&mut V)) {
    let changed = std::mem::take(map).into_iter().map(|(key, mut value)| {
        change(&mut value);
        (key, value)
    });
    *map = changed.collect();
}

/// Everything under `/nodepool`, as last seen. A clone is a snapshot: it costs a few counters, and shares all that is not changed
/// since.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// `/nodepool/nodes`.
    pub nodes: Entries<NodeId, Node>,
    /// `/nodepool/requests`. An entry's contenders are those of its lock in `requests-lock`.
    pub requests: Entries<RequestId, NodeRequest>,
    /// `/nodepool/requests-lock`.
    pub request_locks: OrdMap<RequestId, RequestLock>,
    /// `/nodepool/images/<image>`, whether or not it has builds.
    pub images: OrdSet<ImageName>,
    /// `/nodepool/images/<image>/builds`.
    pub builds: Entries<(ImageName, BuildId), ImageBuild>,
    /// `/nodepool/images/<image>/builds/<build>/providers/<provider>/images`.
    pub uploads: Entries<UploadKey, ImageUpload>,
    /// Images with a `pause` child.
    pub paused_images: OrdSet<ImageName>,
    /// Images with a `request-build` child, and its stat.
    pub build_requests: OrdMap<ImageName, Stat>,
    /// `/nodepool/images/<image>/builds/lock`, where somebody has had it since we look: who builds the image.
    pub building: OrdMap<ImageName, WorkLock>,
    /// `…/builds/<build>/providers/<provider>/images/lock`, where somebody has had it since we look: who uploads the build to the provider.
    pub uploading: OrdMap<(ImageName, BuildId, ProviderName), WorkLock>,
    /// `/nodepool/components/pool`, by the znode's name. Unusable ones are left out.
    pub pools: OrdMap<String, Arc<PoolComponent>>,
    /// `/nodepool/components/builder`, by the znode's name. Unusable ones are left out.
    pub builders: OrdMap<String, Arc<BuilderComponent>>,
    /// `/nodepool/leaks`: what is not removed until somebody allows it. Without locks.
    pub held_back: Entries<Holder, HeldBack>,
    /// `/nodepool/pauses`: what people of the site have paused. Without locks.
    pub pauses: Entries<ProviderName, Pauses>,
}

/// Which of the [`Records`] may have changed. It says where to look again, not what has become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Everything may have: what was derived from the records has to be derived anew.
    pub everything: bool,
    /// Nodes and their locks.
    pub nodes: BTreeSet<NodeId>,
    /// Requests and their locks.
    pub requests: BTreeSet<RequestId>,
    /// The components of pools, or what is paused of them.
    pub pools: bool,
    /// Uploads of images.
    pub uploads: bool,
}

impl Changes {
    /// Everything.
    pub fn everything() -> Self {
        Self { everything: true, pools: true, uploads: true, ..Self::default() }
    }

    /// Adds what another names.
    pub fn extend(&mut self, other: Self) {
        self.everything |= other.everything;
        self.pools |= other.pools;
        self.uploads |= other.uploads;
        self.nodes.extend(other.nodes);
        self.requests.extend(other.requests);
    }
}

impl Records {
    /// The newest ready upload of an image in a provider (`nodepool 11.0.0: zk/zookeeper.py
    /// getMostRecentImageUpload`).
    pub fn newest_upload(&self, image: &ImageName, provider: &ProviderName) -> Option<&Arc<ImageUpload>> {
        let first = UploadKey { image: image.clone(), provider: provider.clone(), build: "".into(), id: "".into() };
        self.uploads
            .range(first..)
            .take_while(|(key, _)| key.image == *image && key.provider == *provider)
            .filter_map(|(_, entry)| Some((entry.order()?, entry.usable()?)))
            .filter(|(_, upload)| upload.state == UploadState::Ready)
            .max_by(|(a, _), (b, _)| a.total_cmp(b))
            .map(|(_, upload)| upload)
    }

    /// Registered pools that have all labels of a request and have not declined it.
    pub fn pools_that_may_serve(&self, request: &NodeRequest) -> impl Iterator<Item = &PoolComponent> {
        self.pools.values().map(Arc::as_ref).filter(|pool| {
            pool.id.as_ref().is_some_and(|id| !request.declined_by.contains(id)) && pool.supports(&request.node_types)
        })
    }

    /// [`NodeRequest::order`] of the request with an id; without a relative priority where its record cannot be read.
    pub fn order_of<'r>(&self, id: &'r RequestId) -> (&'r str, i64, &'r str) {
        let relative = self.requests.get(id).and_then(|e| e.usable()).map_or(0, |r| r.relative_priority);
        (id.priority(), relative, id.sequence())
    }

    /// Who has paused a pool, or its whole provider; `None`: nobody has. Where the record cannot be read, all of the provider is paused:
    /// somebody has paused something.
    pub fn paused_by(&self, provider: &ProviderName, pool: &PoolName) -> Option<PausedBy> {
        let entry = self.pauses.get(provider)?;
        match &entry.record {
            Ok(pauses) => {
                let whole = || Some(PausedBy::new(provider, None, pauses.get(None)?));
                let one = || Some(PausedBy::new(provider, Some(pool), pauses.get(Some(pool))?));
                whole().or_else(one)
            }
            Err(error) => Some(PausedBy {
                provider: provider.clone(),
                pool: None,
                by: "somebody".to_owned(),
                note: format!("the record of its pauses cannot be read: {error}"),
                since: entry.stat.created(),
            }),
        }
    }

    /// Whether a builder of Python Nodepool's is registered.
    pub fn has_upstreams_builder(&self) -> bool {
        self.builders.values().any(|builder| builder.is_upstreams())
    }

    /// The ids of all registered pools: a request fails once each of them has declined it.
    pub fn registered_pool_ids(&self) -> impl Iterator<Item = &LauncherId> {
        self.pools.values().filter_map(|pool| pool.id.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Pause, *};

    const NOW: Timestamp = 1_760_000_000.0;

    fn upload(id: &str, state_time: &str, mtime: i64) -> (UploadKey, Arc<Entry<ImageUpload>>) {
        let key = UploadKey { image: "i".into(), provider: "p".into(), build: "b".into(), id: id.into() };
        let data = format!(r#"{{"state": "ready", "state_time": {state_time}, "external_id": "{id}"}}"#);
        let UploadKey { image, provider, build, id } = key.clone();
        let (upload, _) = ImageUpload::read(image, build, provider, id, data.as_bytes()).unwrap();
        let stat = Stat { mtime, ..Stat::default() };
        (key, Entry::unlocked(Ok(Arc::new(upload)), stat))
    }

    #[test]
    fn an_upload_from_the_future_is_not_the_newest_for_ever() {
        let mut records = Records::default();
        records.uploads.extend([
            upload("0000000001", "1e300", 1_759_000_000_000),
            upload("0000000002", "1759900000.5", 1_759_900_000_600),
            upload("0000000003", "-1e300", 1_759_950_000_000),
        ]);
        let newest = records.newest_upload(&"i".into(), &"p".into()).unwrap();
        assert_eq!(newest.id.as_str(), "0000000002");
    }

    #[test]
    fn a_pool_is_paused_by_itself_with_its_provider_or_where_nobody_can_tell() {
        let pause = |by: &str| Some(Pause { by: by.to_owned(), ..Pause::default() });
        let mut pauses = Pauses::default();
        pauses.set(Some(&"main".into()), pause("one"));
        let mut records = Records::default();
        let by = |records: &Records, pool: &str| records.paused_by(&"p".into(), &pool.into()).map(|paused| paused.by);
        assert_eq!(by(&records, "main"), None);
        records.pauses.insert("p".into(), Entry::unlocked(Ok(Arc::new(pauses.clone())), Stat::default()));
        assert_eq!((by(&records, "main").as_deref(), by(&records, "other")), (Some("one"), None));
        pauses.set(None, pause("all"));
        records.pauses.insert("p".into(), Entry::unlocked(Ok(Arc::new(pauses)), Stat::default()));
        assert_eq!((by(&records, "main").as_deref(), by(&records, "other").as_deref()), (Some("all"), Some("all")));
        records.pauses.insert("p".into(), Entry::unlocked(Err(RecordError::Empty), Stat::default()));
        assert_eq!(by(&records, "other").as_deref(), Some("somebody"));
        assert_eq!(records.paused_by(&"q".into(), &"main".into()), None);
    }

    #[test]
    fn a_time_to_come_counts_as_the_last_write() {
        let (_, entry) = upload("0000000001", "1760000100", 1_759_000_000_000);
        assert_eq!(entry.since(NOW), Some(1_759_000_000.0));
        assert_eq!(entry.since(NOW + 100.0), Some(1_760_000_100.0), "as it says");
        let (_, entry) = upload("0000000001", "1760000100", 1_760_000_100_000);
        assert_eq!(entry.since(NOW), Some(NOW), "it is our own clock that is behind");
        let (_, entry) = upload("0000000001", "-1e300", 1_759_000_000_000);
        assert_eq!(entry.since(NOW), Some(-1e300));
    }
}
