//! An image's way into a cloud: the stories over [`ImageService`](crate::openstack::api::ImageService).
//!
//! An upload is good once the cloud has the image active and reports what we have read: size, MD5 and the hash of its
//! choice. Whatever else happens (an error, a deadline, a dropped future), the image that was begun is deleted by
//! [`Begun`], so an attempt begins with none, and there are never two of one upload. After the process's sudden end
//! the image is found by its metadata, as a leak ([`crate::Provider::list_images`]).
//!
//! An image that has the same name already is never taken for ours, as upstream takes one whose checksums fit: names
//! carry the time of the upload, so only somebody else's image could have it, and it lacks the metadata that keeps it
//! from being removed as a leak. A repetition needs no such find: it has deleted what the attempt before it left.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBuilder};
use nodepool_common::model::ProviderName;
use tokio::{
    runtime::Handle,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use crate::{
    ErrorClass, ImageToUpload,
    checksums::Checksums,
    openstack::api::{Cloud, CloudError, Image, ImageFile, NewImage, Route},
};

/// Repetitions after a broken connection or an error of the cloud's own.
const RETRIES: usize = 2;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// Between two looks at an image that is not active yet: doubled from the first to the second.
const LOOK: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Why an attempt failed, as far as that decides about the next.
enum Failure {
    /// The next one may work.
    Passing(CloudError),
    /// It would fail again.
    Lasting(CloudError),
}

use Failure::{Lasting, Passing};

impl Failure {
    /// A call's error.
    fn of(error: CloudError) -> Self {
        let passing = matches!(error.class, ErrorClass::Transient | ErrorClass::Timeout)
            && error.status.is_none_or(|status| status >= 500 || matches!(status, 408 | 429));
        if passing { Passing(error) } else { Lasting(error) }
    }
}

/// Uploads an image and returns its id. `seed`: what spreads the retries. See the module's comment.
pub(crate) async fn upload(
    cloud: &Arc<dyn Cloud>,
    provider: &ProviderName,
    image: &ImageToUpload,
    limit: Duration,
    seed: u64,
) -> Result<String, CloudError> {
    let mut begun = Begun::new(Arc::clone(cloud), provider.clone(), image.marks(provider));
    let uploaded = match timeout(limit, attempts(cloud, provider, image, &mut begun, seed)).await {
        Ok(uploaded) => uploaded,
        Err(_) => Err(CloudError::new(
            ErrorClass::Timeout,
            format!("not done after {} s (image-upload-timeout)", limit.as_secs()),
        )),
    };
    match &uploaded {
        Ok(id) => begun.keep(id).await,
        Err(_) => begun.give_up().await,
    }
    uploaded
}

async fn attempts(
    cloud: &Arc<dyn Cloud>,
    provider: &ProviderName,
    image: &ImageToUpload,
    begun: &mut Begun,
    seed: u64,
) -> Result<String, CloudError> {
    let delays = ExponentialBuilder::default().with_min_delay(RETRY_DELAY).with_max_times(RETRIES).with_jitter();
    let mut delays = delays.with_jitter_seed(seed).build();
    let mut route = cloud.route().await?;
    if route == Route::Import {
        cloud.takes_imports().await?;
    }
    loop {
        let failure = match attempt(&**cloud, provider, image, route, begun).await {
            Ok(id) => return Ok(id),
            Err(failure) => failure,
        };
        begun.delete().await;
        match (failure, route) {
            (Lasting(refusal), Route::Direct) if is_refusal(&refusal) => {
                if let Err(error) = cloud.takes_imports().await {
                    let message = format!("the cloud refuses direct uploads ({refusal}), and {}", error.message);
                    return Err(CloudError::new(error.class, message));
                }
                tracing::info!(%provider, image = image.name, %refusal, "no direct upload here: importing the image");
                route = Route::Import;
            }
            (Passing(error), _) => {
                let Some(delay) = delays.next() else { return Err(error) };
                tracing::warn!(
                    %provider, image = image.name, %error,
                    "the upload of {} failed, trying again in {} ms", image.path.display(), delay.as_millis()
                );
                sleep(delay).await;
            }
            (Lasting(error), _) => return Err(error),
        }
    }
}

/// Whether it is direct uploads as such that the cloud does not take: by policy, or a proxy before it.
fn is_refusal(error: &CloudError) -> bool {
    error.class == ErrorClass::Config && matches!(error.status, Some(403 | 405 | 501))
}

async fn attempt(
    cloud: &dyn Cloud,
    provider: &ProviderName,
    image: &ImageToUpload,
    route: Route,
    begun: &mut Begun,
) -> Result<String, Failure> {
    let file = ImageFile::open(&image.path).await.map_err(Lasting)?;
    let (size, start) = (file.size(), Instant::now());
    let created = begun.create(NewImage::new(image, size, provider)).await.map_err(Failure::of)?;
    if created.status == "active" {
        return Ok(created.id);
    }
    tracing::info!(%provider, image = image.name, id = created.id, "uploading {} ({size} bytes)", image.path.display());
    let (data, reading) = file.read();
    let sent = cloud.send_image(&created.id, route, data).await;
    // What is wrong with the file explains the rest.
    let read = reading.finish().await.map_err(Lasting)?;
    sent.map_err(Failure::of)?;
    let read = read.ok_or_else(|| {
        Passing(CloudError::new(ErrorClass::Transient, "the cloud took the image before it had all of its data"))
    })?;
    check_file(image, &read).map_err(Lasting)?;
    if route == Route::Import {
        cloud.import_image(&created.id).await.map_err(Failure::of)?;
    }
    let active = wait_until_active(cloud, &created.id, route).await?;
    check_image(&active, image, &read).map_err(Passing)?;
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)] // for people
    let rate = size as f64 / 1e6 / seconds.max(1e-3);
    tracing::info!(%provider, image = image.name, id = active.id, "uploaded in {seconds:.1} s ({rate:.0} MB/s)");
    Ok(active.id)
}

/// The checksums that the build left beside the file: a bad file must not become a good image.
fn check_file(image: &ImageToUpload, read: &Checksums) -> Result<(), CloudError> {
    for (algorithm, given, found) in [("md5", &image.md5, &read.md5), ("sha256", &image.sha256, &read.sha256)] {
        if let Some(given) = given.as_ref().filter(|given| !given.eq_ignore_ascii_case(found)) {
            let path = image.path.display();
            return Err(CloudError::new(
                ErrorClass::Bug,
                format!("{path} is damaged: {path}.{algorithm} says {given}, but the file has {algorithm} {found}"),
            ));
        }
    }
    Ok(())
}

/// What the cloud says that it has, against what was read.
fn check_image(active: &Image, image: &ImageToUpload, read: &Checksums) -> Result<(), CloudError> {
    if active.format.as_ref().is_some_and(|format| *format != image.format) {
        // An import may convert images (`[image_conversion]` of Glance); then the cloud's sums are of other bytes.
        tracing::info!(id = active.id, format = active.format, "the cloud has converted the image: sums not compared");
        return Ok(());
    }
    let hash = active.hash.as_ref();
    let reports = [
        active.size.map(|size| ("size", size.to_string(), read.size.to_string())),
        active.checksum.clone().map(|md5| ("checksum", md5, read.md5.clone())),
        // An algorithm that we do not compute proves nothing either way; the MD5 remains.
        hash.and_then(|(name, value)| Some((name.as_str(), value.clone(), read.by(name)?.to_owned()))),
    ];
    for (what, has, sent) in reports.into_iter().flatten() {
        if has != sent {
            return Err(CloudError::new(
                ErrorClass::Transient,
                format!("the cloud has other data than was sent: {what} {has}, not {sent}"),
            ));
        }
    }
    Ok(())
}

async fn wait_until_active(cloud: &dyn Cloud, id: &str, route: Route) -> Result<Image, Failure> {
    let (mut pause, longest) = LOOK;
    let mut importing = false;
    loop {
        match cloud.get_image(id).await {
            Ok(Some(image)) => match image.status.as_str() {
                "active" => return Ok(image),
                "killed" | "error" | "deleted" | "pending_delete" | "deactivated" => {
                    let message = format!("the cloud's image {id} is {}", image.status);
                    return Err(Passing(CloudError::new(ErrorClass::Transient, message)));
                }
                status => {
                    // A failed import puts the image back to where it was.
                    let back = importing && matches!(status, "queued" | "uploading");
                    if route == Route::Import && (back || image.failed_import.is_some()) {
                        return Err(Passing(import_failed(cloud, &image).await));
                    }
                    importing |= status == "importing";
                }
            },
            Ok(None) => {
                let message = format!("image {id} is gone: somebody deleted it while it was made");
                return Err(Lasting(CloudError::new(ErrorClass::Gone, message)));
            }
            // It may come back, and the caller has a deadline.
            Err(error) if error.class == ErrorClass::Transient => {}
            Err(error) => return Err(Lasting(error)),
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn import_failed(cloud: &dyn Cloud, image: &Image) -> CloudError {
    let why = cloud.import_failure(&image.id).await.unwrap_or_else(|| "it does not say why".to_owned());
    let stores = image.failed_import.as_deref().unwrap_or("its stores");
    CloudError::new(ErrorClass::Transient, format!("the cloud failed to import the image into {stores}: {why}"))
}

/// Deletes an image; one that is gone is fine.
pub(crate) async fn delete(cloud: &dyn Cloud, id: &str) -> Result<(), CloudError> {
    match cloud.delete_image(id).await {
        Err(error) if error.class != ErrorClass::Gone => Err(error),
        _ => Ok(()),
    }
}

/// What an upload has begun in the cloud. Dropped, it is deleted by a task.
struct Begun(Leftover);

/// See [`Begun`], which alone has a `drop`.
#[derive(Debug)]
struct Leftover {
    cloud: Arc<dyn Cloud>,
    provider: ProviderName,
    marks: [(&'static str, String); 3],
    record: Record,
    /// The answer to a creation was lost: the record may come to exist later.
    lost: bool,
}

#[derive(Debug)]
enum Record {
    None,
    /// In a task, so that its answer is heard even if the upload is dropped.
    Creating(JoinHandle<Result<Image, CloudError>>),
    Made(String),
}

impl Begun {
    fn new(cloud: Arc<dyn Cloud>, provider: ProviderName, marks: [(&'static str, String); 3]) -> Self {
        Self(Leftover { cloud, provider, marks, record: Record::None, lost: false })
    }

    async fn create(&mut self, image: NewImage) -> Result<Image, CloudError> {
        let cloud = Arc::clone(&self.0.cloud);
        self.0.record = Record::Creating(tokio::spawn(async move { cloud.create_image(&image).await }));
        self.0.created().await
    }

    async fn delete(&mut self) {
        self.0.delete().await;
    }

    /// The image is good: nothing of it is to be deleted. Others of this upload can only come from lost answers.
    async fn keep(mut self, id: &str) {
        self.0.record = Record::None;
        if self.0.lost {
            self.0.delete_all_but(Some(id)).await;
            self.0.lost = false;
        }
    }

    /// The upload has failed for good.
    async fn give_up(mut self) {
        self.0.delete().await;
        self.0.lost = false;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let record = std::mem::replace(&mut self.0.record, Record::None);
        if matches!(record, Record::None) && !self.0.lost {
            return;
        }
        // Without a runtime the process is about to end, and the image is a leak.
        let Ok(runtime) = Handle::try_current() else { return };
        let (cloud, provider, marks) = (Arc::clone(&self.0.cloud), self.0.provider.clone(), self.0.marks.clone());
        let mut left = Leftover { cloud, provider, marks, record, lost: self.0.lost };
        runtime.spawn(async move { left.delete().await });
    }
}

impl Leftover {
    /// Waits for the answer to the creation.
    async fn created(&mut self) -> Result<Image, CloudError> {
        let Record::Creating(task) = &mut self.record else {
            return Err(CloudError::new(ErrorClass::Bug, "no image is being created"));
        };
        let created = task.await.unwrap_or_else(|error| Err(CloudError::new(ErrorClass::Bug, error.to_string())));
        self.record = created.as_ref().map_or(Record::None, |image| Record::Made(image.id.clone()));
        self.lost |= created.as_ref().is_err_and(CloudError::is_ambiguous);
        created
    }

    /// Deletes what there is. What cannot be deleted is left to the search for leaks.
    async fn delete(&mut self) {
        if matches!(self.record, Record::Creating(_)) {
            // Whether it was made is all that matters now.
            let _ = self.created().await;
        }
        if let Record::Made(id) = &self.record {
            self.delete_one(id).await;
            self.record = Record::None;
        }
        if self.lost {
            self.delete_all_but(None).await;
        }
    }

    async fn delete_all_but(&self, good: Option<&str>) {
        match self.cloud.images_with(&self.marks).await {
            Ok(images) => {
                for image in images.iter().filter(|image| good != Some(image.id.as_str())) {
                    self.delete_one(&image.id).await;
                }
            }
            Err(error) => tracing::warn!(
                provider = %self.provider, %error,
                "cannot look for images of a creation whose answer was lost; the search for leaks will find them"
            ),
        }
    }

    async fn delete_one(&self, id: &str) {
        match delete(&*self.cloud, id).await {
            Ok(()) => tracing::info!(provider = %self.provider, %id, "deleted the image of an upload that failed"),
            Err(error) => tracing::warn!(
                provider = %self.provider, %id, %error,
                "cannot delete the image of an upload that failed; the search for leaks will find it"
            ),
        }
    }
}
