//! [`Clouds`]: where images are uploaded to, and what a builder asks them by. Each deletion is judged when it happens (**S5**).

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::{
    config,
    model::{ImageName, LabelName, PoolName, ProviderName, Resources, UploadId, UploadKey, UploadState},
};
use nodepool_drivers::{
    CloudResource, ErrorClass, ImageToUpload, Instance, Launch, LaunchProgress, NodeProfile, OtherClouds, Provider,
    ProviderError, Quota, ResourceKind,
};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::{
    super::{
        chance::Chance,
        network::Calm,
        story::{Story, broken, tell},
    },
    machine::is_whole,
    plan::{Plan, Trouble},
    truth::SharedTruth,
};

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    pub provider: String,
    pub build: String,
    pub upload: String,
    /// Which builder made it.
    pub maker: String,
    pub is_whole: bool,
    marks: Map<String, Value>,
    /// When it is gone.
    gone_at: Option<Instant>,
    /// Its upload was on record when it was made: who looks for what that has left finds it.
    pub had_record: bool,
    /// The driver has said that it left none, and did.
    pub is_left: bool,
}

#[derive(Debug, Default)]
struct Cloud {
    images: BTreeMap<String, Image>,
    next: u32,
    away_until: Option<Instant>,
}

/// All clouds. Clones are the same ones.
#[derive(Clone, Debug)]
pub struct Clouds {
    by_name: Arc<Mutex<BTreeMap<String, Cloud>>>,
    calls: Arc<Mutex<u64>>,
    chance: Chance,
    plan: Plan,
    calm: Calm,
    story: Story,
    truth: SharedTruth,
}

impl Clouds {
    /// Those of a history.
    pub fn new(plan: &Plan, calm: Calm, story: Story, truth: SharedTruth) -> Self {
        let clouds = plan.providers.iter().map(|provider| (provider.name.to_owned(), Cloud::default())).collect();
        let (chance, plan) = (Chance::of(plan.seed, "clouds of images"), plan.clone());
        Self { by_name: Arc::new(Mutex::new(clouds)), calls: Arc::default(), chance, plan, calm, story, truth }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<String, Cloud>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, provider: &str, act: impl FnOnce(&mut Cloud) -> T) -> T {
        let mut clouds = self.open();
        let cloud = clouds.get_mut(provider).unwrap();
        let now = Instant::now();
        cloud.images.retain(|_, image| image.gone_at.is_none_or(|at| at > now));
        act(cloud)
    }

    fn goes_wrong(&self, trouble: Trouble, times: usize) -> bool {
        self.plan.has(trouble) && !self.calm.is_now() && self.chance.one_in(times)
    }

    /// Whether it has that image, whole.
    pub fn has(&self, provider: &str, id: &str) -> bool {
        self.with(provider, |cloud| cloud.images.get(id).is_some_and(|image| image.is_whole && image.gone_at.is_none()))
    }

    /// All images that are not being deleted.
    pub fn images(&self) -> Vec<(String, Image)> {
        let clouds = self.open();
        let all = clouds.values().flat_map(|cloud| &cloud.images);
        all.filter(|(_, image)| image.gone_at.is_none()).map(|(id, image)| (id.clone(), image.clone())).collect()
    }

    /// How often they were asked so far.
    pub fn calls(&self) -> u64 {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A cloud is away for a while.
    pub fn go_away(&self, provider: &str, pause: Duration) {
        tell!(self.story, "cloud {provider}: away for {} s", pause.as_secs());
        self.with(provider, |cloud| cloud.away_until = Some(Instant::now() + pause));
    }

    /// Somebody deletes an image.
    pub fn lose_an_image(&self, chance: &Chance) {
        let images = self.images();
        if images.is_empty() {
            return;
        }
        let (id, image) = chance.pick(&images);
        tell!(self.story, "cloud {}: somebody deletes image {id}", image.provider);
        self.truth.open().vanished.insert(id.clone());
        self.with(&image.provider, |cloud| cloud.images.remove(id));
    }

    /// Troubles are over.
    pub fn calm_down(&self) {
        for cloud in self.open().values_mut() {
            cloud.away_until = None;
        }
    }

    /// Drivers of one process.
    pub fn of_process(&self, process: &str, is_dead: Arc<AtomicBool>) -> Arc<dyn OtherClouds> {
        Arc::new(OfProcess { clouds: self.clone(), process: process.to_owned(), is_dead })
    }
}

#[derive(Debug)]
struct OfProcess {
    clouds: Clouds,
    process: String,
    is_dead: Arc<AtomicBool>,
}

impl OtherClouds for OfProcess {
    fn make(&self, provider: &config::Provider) -> Arc<dyn Provider> {
        Arc::new(Driver {
            name: provider.name.clone(),
            clouds: self.clouds.clone(),
            process: self.process.clone(),
            is_dead: Arc::clone(&self.is_dead),
        })
    }
}

#[derive(Debug)]
struct Driver {
    name: ProviderName,
    clouds: Clouds,
    process: String,
    is_dead: Arc<AtomicBool>,
}

/// An image on its way. Dropped before it is whole by who lives, it is deleted.
struct Sending<'a> {
    driver: &'a Driver,
    id: String,
    stays: bool,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        if !self.stays && !self.driver.is_dead.load(Ordering::SeqCst) {
            let at = Instant::now() + Duration::from_secs(2);
            self.driver
                .with(|cloud| cloud.images.get_mut(&self.id).map(|image| image.gone_at.get_or_insert(at).to_owned()));
        }
    }
}

impl Driver {
    fn with<T>(&self, act: impl FnOnce(&mut Cloud) -> T) -> T {
        self.clouds.with(self.name.as_str(), act)
    }

    async fn live(&self) {
        if self.is_dead.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }

    fn error(&self, class: ErrorClass, doing: &str, why: &str) -> ProviderError {
        tell!(self.clouds.story, "cloud {}: {}: {doing}: {why}", self.name, self.process);
        ProviderError::new(class, format!("{doing} in provider {}", self.name), why.to_owned())
    }

    /// What each call begins with.
    async fn call(&self, doing: &str) -> Result<(), ProviderError> {
        let clouds = &self.clouds;
        self.live().await;
        *clouds.calls.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let hangs = clouds.goes_wrong(Trouble::Hangs, 40);
        let takes = if hangs { clouds.chance.seconds(30.0, 200.0) } else { clouds.chance.seconds(0.02, 0.8) };
        tokio::time::sleep(takes).await;
        self.live().await;
        if self.with(|cloud| cloud.away_until.is_some_and(|until| until > Instant::now())) {
            return Err(self.error(ErrorClass::Transient, doing, "503 Service Unavailable"));
        }
        if hangs {
            return Err(self.error(ErrorClass::Timeout, doing, "no answer"));
        }
        if clouds.goes_wrong(Trouble::CloudErrors, 10) {
            return Err(self.error(ErrorClass::Transient, doing, "500 Internal Server Error"));
        }
        Ok(())
    }

    fn none<T>(&self) -> Result<T, ProviderError> {
        Err(self.error(ErrorClass::Bug, "asking for servers", "a builder does not"))
    }

    /// An image is being deleted: of whom?
    fn may_delete(&self, id: &str, image: &Image) {
        let truth = self.clouds.truth.open();
        let is_its = |key: &UploadKey| {
            key.provider == self.name && *key.build.as_str() == image.build && *key.id.as_str() == image.upload
        };
        let record = truth.uploads.iter().find(|(key, _)| is_its(key)).map(|(_, upload)| upload.state);
        if matches!(record, Some(UploadState::Ready))
            || record == Some(UploadState::Uploading) && image.maker != self.process
        {
            let state = record.map_or("", UploadState::as_str);
            broken!(self.clouds.story, "S5", "{} deletes image {id}, whose upload is {state}", self.process);
        }
    }
}

#[async_trait]
impl Provider for Driver {
    fn name(&self) -> &ProviderName {
        &self.name
    }

    async fn start(&self) -> Result<(), ProviderError> {
        self.call("starting").await
    }

    fn manages_images(&self) -> bool {
        true
    }

    fn image_format(&self) -> Result<String, ProviderError> {
        let of = self.clouds.plan.providers.iter().find(|provider| self.name == *provider.name);
        Ok(of.map(|provider| provider.format.to_owned()).unwrap_or_default())
    }

    fn image_name(&self, image: &ImageName, _: &UploadId, at: u64) -> Result<String, ProviderError> {
        Ok(format!("{image}-{at}"))
    }

    async fn upload_image(&self, image: &ImageToUpload) -> Result<String, ProviderError> {
        let clouds = &self.clouds;
        let doing = format!("uploading image {}", image.name);
        self.call(&doing).await?;
        if !image.path.is_file() {
            return Err(self.error(ErrorClass::Config, &doing, "there is no such file"));
        }
        if !is_whole(&image.path) {
            broken!(clouds.story, "S5", "{} uploads a half of {}", self.process, image.path.display());
        }
        let had_record = {
            let truth = clouds.truth.open();
            truth.uploads.iter().any(|(key, upload)| {
                (&key.provider, &key.build, &key.id) == (&self.name, &image.build, &image.upload)
                    && upload.state == UploadState::Uploading
            })
        };
        let made = Image {
            provider: self.name.to_string(),
            build: image.build.to_string(),
            upload: image.upload.to_string(),
            maker: self.process.clone(),
            is_whole: false,
            marks: image.metadata(&self.name),
            gone_at: None,
            had_record,
            is_left: false,
        };
        let id = self.with(|cloud| {
            cloud.next += 1;
            let id = format!("{}-image-{}", self.name, cloud.next);
            cloud.images.insert(id.clone(), made);
            id
        });
        tell!(clouds.story, "cloud {}: {} makes image {id} of build {}", self.name, self.process, image.build);
        let mut sending = Sending { driver: self, id: id.clone(), stays: false };
        if clouds.goes_wrong(Trouble::KilledAtUpload, 8) {
            clouds.truth.open().dies(&self.process);
        }
        self.live().await;
        tokio::time::sleep(clouds.chance.seconds(2.0, 90.0)).await;
        self.live().await;
        self.call(&doing).await?;
        if !image.path.is_file() {
            return Err(self.error(ErrorClass::Config, &doing, "the file is gone"));
        }
        let is_there = self.with(|cloud| cloud.images.get_mut(&id).map(|image| image.is_whole = true).is_some());
        if !is_there {
            return Err(self.error(ErrorClass::Gone, &doing, "the image is gone"));
        }
        if clouds.goes_wrong(Trouble::KilledAtUpload, 8) {
            clouds.truth.open().dies(&self.process);
        }
        self.live().await;
        sending.stays = true;
        if clouds.goes_wrong(Trouble::ImagesLeft, 6) {
            self.with(|cloud| cloud.images.get_mut(&id).map(|image| image.is_left = true));
            return Err(self.error(ErrorClass::Transient, &doing, "the answer is lost, and the image stays"));
        }
        tell!(clouds.story, "cloud {}: image {id} is there", self.name);
        Ok(id)
    }

    async fn delete_image(&self, id: &str) -> Result<(), ProviderError> {
        self.call(&format!("deleting image {id}")).await?;
        let lingers = self.clouds.goes_wrong(Trouble::Lingering, 4);
        let chance = &self.clouds.chance;
        let takes = if lingers { chance.seconds(30.0, 400.0) } else { chance.seconds(0.1, 3.0) };
        let found = self.with(|cloud| {
            let image = cloud.images.get_mut(id)?;
            let is_new = image.gone_at.is_none();
            image.gone_at.get_or_insert(Instant::now() + takes);
            is_new.then(|| image.clone())
        });
        if let Some(image) = found {
            tell!(self.clouds.story, "cloud {}: {} deletes image {id}", self.name, self.process);
            self.may_delete(id, &image);
        }
        Ok(())
    }

    async fn list_images(&self) -> Result<Vec<CloudResource>, ProviderError> {
        self.call("listing images").await?;
        let of = |(id, image): (&String, &Image)| CloudResource::of(ResourceKind::Image, id.clone(), &image.marks);
        let listed = self.with(|cloud| cloud.images.iter().map(of).collect());
        tokio::time::sleep(self.clouds.chance.seconds(0.01, 1.5)).await;
        self.live().await;
        Ok(listed)
    }

    fn profile(&self, _: &PoolName, _: &LabelName) -> Result<NodeProfile, ProviderError> {
        self.none()
    }

    async fn label_resources(&self, _: &PoolName, _: &LabelName) -> Result<Resources, ProviderError> {
        self.none()
    }

    async fn quota(&self) -> Result<Quota, ProviderError> {
        self.none()
    }

    async fn list_resources(&self) -> Result<Vec<CloudResource>, ProviderError> {
        self.none()
    }

    async fn launch(&self, _: &Launch, _: &dyn LaunchProgress) -> Result<Instance, ProviderError> {
        self.none()
    }

    async fn delete(&self, _: &Value, _: Option<&Value>) -> Result<(), ProviderError> {
        self.none()
    }

    async fn delete_resource(&self, _: &CloudResource) -> Result<(), ProviderError> {
        self.none()
    }
}
