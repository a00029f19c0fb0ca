//! The providers that images are uploaded to: made from the configuration, started when first needed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{
    config::{self, Config},
    model::{BuildId, ProviderName, UploadId},
};
use nodepool_drivers::{Context, ErrorClass, Provider, ProviderError};
use tokio::{sync::OnceCell, time::Instant};
use tracing::{error, info, warn};

use crate::plan::ProviderImages;

const LOGGER: &str = "nodepool.ProviderManager";
/// Upstream's clouds wait as long for an answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a provider's format counts before it is asked again.
const FORMATS_AGE: Duration = Duration::from_secs(5);

/// A provider with images.
#[derive(Debug)]
pub(super) struct Cloud {
    /// Its part of the configuration.
    pub config: Arc<config::Provider>,
    provider: Arc<dyn Provider>,
    started: OnceCell<()>,
}

impl Cloud {
    /// The provider, connected to its cloud. Every failure is another attempt the next time.
    pub async fn connected(&self) -> Result<&Arc<dyn Provider>, ProviderError> {
        let name = &self.config.name;
        let start = || async {
            tokio::time::timeout(START_TIMEOUT, self.provider.start()).await.unwrap_or_else(|_| {
                let why = format!("it did not answer within {} s", START_TIMEOUT.as_secs());
                Err(ProviderError::new(ErrorClass::Timeout, format!("connecting provider {name} to its cloud"), why))
            })
        };
        self.started.get_or_try_init(start).await?;
        Ok(&self.provider)
    }

    /// Deletes every image in the cloud that carries the marks of this upload; their number.
    pub async fn sweep(&self, build: &BuildId, upload: &UploadId) -> Result<usize, ProviderError> {
        let provider = self.connected().await?;
        let mut deleted = 0;
        for image in provider.list_images().await? {
            let marks = (image.tag("nodepool_build_id"), image.tag("nodepool_upload_id"));
            if marks == (Some(build.as_str()), Some(upload.as_str())) {
                info!(
                    logger = LOGGER,
                    "Deleting image {} of provider {}, left of an upload", image.id, self.config.name
                );
                provider.delete_image(&image.id).await?;
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

/// Every provider with images.
#[derive(Debug)]
pub(super) struct Clouds {
    context: Context,
    entries: Mutex<BTreeMap<ProviderName, Arc<Cloud>>>,
    formats: Mutex<Formats>,
}

/// What providers said of their formats, and when.
#[derive(Debug, Default)]
struct Formats {
    known: BTreeMap<ProviderName, ProviderImages>,
    /// `None`: to be asked now.
    asked: Option<Instant>,
    /// What was last said of a provider's format.
    troubles: BTreeMap<ProviderName, String>,
}

impl Clouds {
    pub fn new(context: Context) -> Self {
        Self { context, entries: Mutex::default(), formats: Mutex::default() }
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<ProviderName, Arc<Cloud>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The provider of that name, where images are uploaded to it.
    pub fn get(&self, name: &ProviderName) -> Option<Arc<Cloud>> {
        self.open().get(name).cloned()
    }

    /// Brings the providers in line with the configuration, and returns those that are new or changed. What runs with an
    /// old one goes on with it.
    pub fn apply(&self, config: &Config) -> Vec<ProviderName> {
        let mut entries = self.open();
        entries.retain(|name, _| config.providers.contains_key(name));
        let mut changed = Vec::new();
        for (name, provider) in &config.providers {
            if entries.get(name).is_some_and(|entry| config::same_provider(&entry.config, provider)) {
                continue;
            }
            match nodepool_drivers::make(provider, &self.context) {
                Ok(made) if made.manages_images() => {
                    let config = Arc::clone(provider);
                    entries.insert(name.clone(), Arc::new(Cloud { config, provider: made, started: OnceCell::new() }));
                    changed.push(name.clone());
                }
                Ok(_) => drop(entries.remove(name)),
                Err(error) => {
                    error!(logger = LOGGER, "Provider {name} ({}) is left out: {error}", provider.place);
                    entries.remove(name);
                }
            }
        }
        self.formats.lock().unwrap_or_else(PoisonError::into_inner).asked = None;
        changed
    }

    /// What the planner needs to know. Asks each provider for its format anew from time to time: a clouds.yaml may have
    /// changed.
    pub fn images(&self) -> BTreeMap<ProviderName, ProviderImages> {
        let mut formats = self.formats.lock().unwrap_or_else(PoisonError::into_inner);
        if formats.asked.is_some_and(|asked| asked.elapsed() < FORMATS_AGE) {
            return formats.known.clone();
        }
        let entries: Vec<_> = self.open().iter().map(|(name, cloud)| (name.clone(), Arc::clone(cloud))).collect();
        let troubles = &mut formats.troubles;
        troubles.retain(|name, _| entries.iter().any(|(known, _)| known == name));
        let format = |(name, cloud): (ProviderName, Arc<Cloud>)| {
            let format = match cloud.provider.image_format() {
                Ok(format) => {
                    troubles.remove(&name);
                    Some(format)
                }
                Err(error) => {
                    let trouble = error.to_string();
                    if troubles.get(&name) != Some(&trouble) {
                        warn!(logger = LOGGER, "Nothing is uploaded to provider {name} for now: {trouble}");
                        troubles.insert(name.clone(), trouble);
                    }
                    None
                }
            };
            (name, ProviderImages { format })
        };
        let known: BTreeMap<_, _> = entries.into_iter().map(format).collect();
        formats.known.clone_from(&known);
        formats.asked = Some(Instant::now());
        known
    }
}
