//! [`OpenStackProvider`]: what the driver's stories share.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use nodepool_common::{
    config::{self, LabelImage},
    model::{LabelName, PoolName, ProviderName},
    sys::entropy::Entropy,
};
use tokio::{
    sync::{Mutex, Semaphore},
    time::Instant,
};

use super::{
    errors::{Result, error},
    listings::{Listings, Servers},
    lookups::Lookups,
    when_to_look::{Experiences, Kind, Look, Outcome},
};
use crate::{
    ErrorClass, ProviderError, ResourceKind,
    openstack::api::{Cloud, CloudError, Fault, FloatingIp, ImageFormat, Port, Server},
};

/// So many floating IPs are made or deleted at a time. Neutron's transactions on one external network get into each
/// other's way and are repeated: on a cloud where one takes 1 s, twenty at once took 20 s to 90 s each.
const FLOATING_IPS_AT_ONCE: usize = 4;

/// So long a deletion waits for a listing that others need, while nobody waits for the room that it makes.
const AT_LEISURE: Duration = Duration::from_secs(5);

/// See the module's comment. Its stories are told by the files beside this one.
pub(crate) struct OpenStackProvider {
    pub(super) name: ProviderName,
    pub(super) config: config::OpenStack,
    pub(super) cloud: Arc<dyn Cloud>,
    pub(super) image_format: ImageFormat,
    pub(super) servers: Listings<Server>,
    pub(super) floating_ips: Listings<FloatingIp>,
    /// See [`FLOATING_IPS_AT_ONCE`].
    pub(super) floating_ip_changes: Semaphore,
    pub(super) lookups: Lookups,
    experiences: std::sync::Mutex<Experiences>,
    /// Whether somebody waits for the room that deletions make.
    room_is_wanted: AtomicBool,
    /// How many deletions wait for a listing that others need.
    at_leisure: AtomicUsize,
    pub(super) ports: Mutex<Option<PortCheck>>,
    /// Labels whose servers turned out to need floating IPs: whether one does is known only once it has its addresses.
    pub(super) gives_floating_ips: std::sync::Mutex<HashSet<(PoolName, LabelName)>>,
    /// Kinds of resources that could not be listed in the last search for leaks.
    pub(super) unlisted: std::sync::Mutex<HashSet<ResourceKind>>,
    /// What spreads retries.
    pub(super) entropy: Entropy,
}

/// The last look at ports that are DOWN.
#[derive(Debug)]
pub(super) struct PortCheck {
    pub at: Instant,
    /// By id.
    pub down: HashMap<String, Port>,
}

impl fmt::Debug for OpenStackProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenStackProvider")
            .field("name", &self.name)
            .field("cloud", &self.cloud)
            .finish_non_exhaustive()
    }
}

impl OpenStackProvider {
    pub fn new(
        name: ProviderName,
        config: config::OpenStack,
        cloud: Arc<dyn Cloud>,
        image_format: ImageFormat,
        entropy: Entropy,
    ) -> Self {
        Self {
            entropy,
            servers: Listings::new(Arc::clone(&cloud)),
            floating_ips: Listings::new(Arc::clone(&cloud)),
            floating_ip_changes: Semaphore::new(FLOATING_IPS_AT_ONCE),
            lookups: Lookups::new(name.clone(), Arc::clone(&cloud)),
            name,
            config,
            cloud,
            image_format,
            experiences: std::sync::Mutex::default(),
            room_is_wanted: AtomicBool::new(false),
            at_leisure: AtomicUsize::new(0),
            ports: Mutex::default(),
            gives_floating_ips: std::sync::Mutex::default(),
            unlisted: std::sync::Mutex::default(),
        }
    }

    pub(super) fn label(
        &self,
        pool: &PoolName,
        label: &LabelName,
    ) -> Result<(&config::OpenStackPool, &config::OpenStackLabel)> {
        let found = self.config.pools.get(pool).and_then(|pool| Some((pool, pool.labels.get(label)?)));
        found.ok_or_else(|| {
            ProviderError::new(
                ErrorClass::Config,
                format!("looking up label {label} of pool {pool} in provider {}", self.name),
                "the configuration has no such label there (any more)",
            )
        })
    }

    pub(super) fn image(&self, label: &config::OpenStackLabel) -> Result<Image<'_>> {
        let found = match &label.image {
            LabelImage::Diskimage(name) => self.config.diskimages.get(name).map(Image::Disk),
            LabelImage::CloudImage(name) => self.config.cloud_images.get(name).map(Image::Cloud),
        };
        found.ok_or_else(|| {
            let (what, name) = match &label.image {
                LabelImage::Diskimage(name) => ("diskimages", name.to_string()),
                LabelImage::CloudImage(name) => ("cloud-images", name.clone()),
            };
            ProviderError::new(
                ErrorClass::Config,
                format!("looking up the image of label {} in provider {}", label.name, self.name),
                format!("{name} is not in the provider's {what}; add it there"),
            )
        })
    }

    pub(super) fn gives_floating_ips(&self) -> std::sync::MutexGuard<'_, HashSet<(PoolName, LabelName)>> {
        self.gives_floating_ips.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unlisted(&self) -> std::sync::MutexGuard<'_, HashSet<ResourceKind>> {
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn error(&self, doing: impl fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
        error(&self.name, doing)
    }

    pub(super) fn forget(&self) {
        tracing::info!(
            provider = %self.name,
            "the cloud refused a server's image, flavor, network, zone or key: all of them will be looked up anew"
        );
        self.lookups.forget();
    }

    pub(super) async fn fault(&self, id: &str) -> Option<Fault> {
        match self.cloud.get_server(id, None).await {
            Ok(server) => server.and_then(|server| server.fault.as_deref().cloned()),
            Err(error) => {
                tracing::warn!(provider = %self.name, %id, %error, "cannot read the server's fault");
                None
            }
        }
    }

    /// The next listing for one who waits. `None` where the cloud does not answer at the moment: the callers have
    /// deadlines, and until then it may come back.
    pub(super) async fn next_listing(
        &self,
        wait: &mut Wait<'_>,
        doing: impl Fn() -> String,
    ) -> Result<Option<Arc<Servers>>> {
        let listing = match wait.look() {
            Some((at, apart)) => self.servers.at(at, apart, wait.seen).await,
            None => self.servers.after(wait.seen).await,
        };
        wait.seen = listing.started;
        match listing.found {
            Ok(servers) => Ok(Some(servers)),
            Err(error) if error.class == ErrorClass::Bug => Err(self.error(doing())(error)),
            // Also where it refuses: what waits has done nothing wrong, and credentials are mended.
            Err(_) => Ok(None),
        }
    }

    fn experiences(&self) -> std::sync::MutexGuard<'_, Experiences> {
        self.experiences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody begins to wait for what has just begun. `seen`: listings that began before are of no use to him.
    pub(super) fn wait(&self, kind: Kind, seen: Instant) -> Wait<'_> {
        let began = Instant::now();
        Wait {
            provider: self,
            kind,
            began,
            is_dated: true,
            seen,
            first: None,
            not_yet: None,
            is_soon: false,
            at_leisure: None,
        }
    }

    fn is_room_wanted(&self) -> bool {
        self.room_is_wanted.load(Ordering::SeqCst)
    }

    /// Whether somebody waits for the room that deletions make; those that are under way are looked at if it is so now.
    pub(super) fn room_is_wanted(&self, wanted: bool) {
        let before = self.room_is_wanted.swap(wanted, Ordering::SeqCst);
        if wanted && !before && self.at_leisure.load(Ordering::SeqCst) > 0 {
            let look = self.experiences().next(&Kind::Deletion, self.cloud.generation(), None);
            self.servers.plan(Instant::now(), look.apart);
        }
    }
}

/// Somebody who waits until a listing shows what began at a moment to be done.
pub(super) struct Wait<'a> {
    provider: &'a OpenStackProvider,
    kind: Kind,
    began: Instant,
    /// Whether that is when it really began: else nothing can be learnt from how long it takes.
    is_dated: bool,
    /// When the last listing began that he has seen.
    seen: Instant,
    first: Option<Duration>,
    not_yet: Option<Duration>,
    /// Whether what he waits for now is another thing, which comes soon.
    is_soon: bool,
    at_leisure: Option<AtLeisure<'a>>,
}

impl Wait<'_> {
    /// As long as nobody waits for what is freed, a listing that others need is soon enough, within [`AT_LEISURE`].
    pub fn at_leisure(self) -> Self {
        Self { at_leisure: Some(AtLeisure::new(&self.provider.at_leisure)), ..self }
    }

    /// What is waited for began earlier, nobody knows when.
    pub fn begun_unseen(self) -> Self {
        Self { is_dated: false, ..self }
    }

    /// When a listing would be news, and the least time from the one before; `None`: at an interval.
    fn look(&self) -> Option<(Instant, Duration)> {
        let Self { provider, kind, .. } = self;
        if self.is_soon || !provider.cloud.pace().learns {
            return None;
        }
        let Look { age, apart } = provider.experiences().next(kind, provider.cloud.generation(), self.not_yet);
        let is_early = self.at_leisure.is_some() && !provider.is_room_wanted();
        let age = if is_early { age.max(AT_LEISURE) } else { age };
        Some((self.began + age, apart))
    }

    fn age(&mut self) -> Duration {
        let age = self.seen.saturating_duration_since(self.began);
        self.first.get_or_insert(age);
        age
    }

    /// The listing has shown that it is not done.
    pub fn not_yet(&mut self) {
        let age = self.age();
        self.not_yet = Some(age);
        self.is_soon = false;
        if self.is_dated {
            self.provider.experiences().not_yet(&self.kind, self.provider.cloud.generation(), age);
        }
    }

    /// What has to come now is no question of how long it takes: it is looked for at an interval.
    pub fn soon(&mut self) {
        if !std::mem::replace(&mut self.is_soon, true) {
            self.provider.servers.hurry_for_news();
        }
    }

    /// The listing has shown that it is done, or that it has `failed`.
    pub fn done(&mut self, failed: bool) {
        let done = self.age();
        if self.at_leisure.is_some() || !self.is_dated {
            // How late it was looked at says nothing of how long it took.
            return;
        }
        let outcome = Outcome { first: self.first.unwrap_or(done), not_yet: self.not_yet, done, failed };
        let generation = self.provider.cloud.generation();
        self.provider.experiences().learn(&self.kind, generation, outcome);
    }
}

/// Counts one of those that wait at leisure, until it is dropped.
struct AtLeisure<'a>(&'a AtomicUsize);

impl<'a> AtLeisure<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for AtLeisure<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a label's servers are made from.
pub(super) enum Image<'a> {
    Disk(&'a config::OpenStackDiskimage),
    Cloud(&'a config::CloudImage),
}

impl Image<'_> {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Disk(image) => image.name.as_str(),
            Self::Cloud(image) => &image.name,
        }
    }

    pub(super) fn config_drive(&self) -> bool {
        match self {
            Self::Disk(image) => image.config_drive,
            Self::Cloud(image) => image.config_drive,
        }
        .unwrap_or(false)
    }
}

/// The name or id by which a cloud image is looked up.
pub(super) trait ExternalName {
    fn external_name(&self) -> &str;
}

impl ExternalName for config::CloudImage {
    fn external_name(&self) -> &str {
        self.image_name.as_deref().unwrap_or(&self.name)
    }
}
