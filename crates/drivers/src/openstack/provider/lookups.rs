//! [`Lookups`]: what a label means to the cloud (flavor, image, networks, zones), looked up once and kept.
//!
//! A cloud rarely changes these, and each launch would otherwise cost four calls more. An HTTP 400 on a creation says
//! that something kept is stale, so all of it is forgotten, as upstream does.
//!
//! Each thing is looked up by one caller at a time; who comes meanwhile gets what that one brought, be it an error:
//! a cloud that is down is asked once, not once per launch that waits. No look-up waits for one of another thing.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nodepool_common::{config, model::ProviderName};
use tokio::time::Instant;

use super::errors::{Result, error};
use crate::{
    ErrorClass, ProviderError,
    openstack::api::{Cloud, CloudError, ExternalNetwork, Flavor, Named},
};

/// A flavor that was not found is looked for again after this.
const FLAVOR_MISSED: Duration = Duration::from_secs(30);

/// See the module's comment.
#[derive(Debug)]
pub(super) struct Lookups {
    provider: ProviderName,
    cloud: Arc<dyn Cloud>,
    /// Replaced as a whole, so that what is on its way while it is forgotten does not come back.
    kept: Mutex<Arc<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// By RAM, then name.
    flavors: Slot<Arc<Vec<Flavor>>>,
    /// The same, with those that only an administrator is shown.
    all_flavors: Slot<Arc<Vec<Flavor>>>,
    zones: Slot<Vec<String>>,
    external_networks: Slot<Arc<Vec<ExternalNetwork>>>,
    images: Mutex<HashMap<String, Arc<Slot<Option<Named>>>>>,
    networks: Mutex<HashMap<String, Arc<Slot<Option<Named>>>>>,
}

/// One thing.
#[derive(Debug)]
struct Slot<T> {
    /// Held by whoever looks it up.
    flight: tokio::sync::Mutex<()>,
    /// What the last look-up brought, and when.
    last: Mutex<Option<(Instant, Answer<T>)>>,
}

type Answer<T> = std::result::Result<T, CloudError>;

impl<T> Default for Slot<T> {
    fn default() -> Self {
        Self { flight: tokio::sync::Mutex::default(), last: Mutex::default() }
    }
}

impl<T: Clone> Slot<T> {
    fn last(&self) -> MutexGuard<'_, Option<(Instant, Answer<T>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept, if it will do; else what the look-up brings that is on its way, or a new one.
    async fn get(&self, will_do: impl Fn(&T, Duration) -> bool, look_up: impl Future<Output = Answer<T>>) -> Answer<T> {
        let asked = Instant::now();
        let usable = || match &*self.last() {
            Some((at, Ok(value))) if *at > asked || will_do(value, at.elapsed()) => Some(Ok(value.clone())),
            Some((at, Err(error))) if *at > asked => Some(Err(error.clone())),
            _ => None,
        };
        if let Some(kept) = usable() {
            return kept;
        }
        let _flight = self.flight.lock().await;
        if let Some(brought) = usable() {
            return brought;
        }
        let answer = look_up.await;
        *self.last() = Some((Instant::now(), answer.clone()));
        answer
    }
}

fn slot<T>(slots: &Mutex<HashMap<String, Arc<Slot<T>>>>, name: &str) -> Arc<Slot<T>> {
    let mut slots = slots.lock().unwrap_or_else(PoisonError::into_inner);
    Arc::clone(slots.entry(name.to_owned()).or_default())
}

impl Lookups {
    pub fn new(provider: ProviderName, cloud: Arc<dyn Cloud>) -> Self {
        Self { provider, cloud, kept: Mutex::default() }
    }

    fn kept(&self) -> Arc<Kept> {
        Arc::clone(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Everything will be looked up anew.
    pub fn forget(&self) {
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }

    fn error(&self, doing: impl std::fmt::Display) -> impl FnOnce(CloudError) -> ProviderError {
        error(&self.provider, doing)
    }

    /// By RAM, then name. `None`: of any age.
    pub async fn flavors(&self, not_older_than: Option<Duration>) -> Result<Arc<Vec<Flavor>>> {
        let will_do = |_: &Arc<Vec<Flavor>>, age| not_older_than.is_none_or(|limit| age <= limit);
        let look_up = async { self.cloud.list_flavors().await.map(sorted) };
        self.kept().flavors.get(will_do, look_up).await.map_err(self.error("listing flavors"))
    }

    /// By RAM, then name, also those that are private and not the project's: it may use them if its user is an
    /// administrator.
    pub async fn all_flavors(&self, not_older_than: Duration) -> Result<Arc<Vec<Flavor>>> {
        let will_do = |_: &Arc<Vec<Flavor>>, age| age <= not_older_than;
        let look_up = async { self.cloud.list_all_flavors().await.map(sorted) };
        self.kept().all_flavors.get(will_do, look_up).await.map_err(self.error("listing flavors"))
    }

    /// The one that a label asks for.
    pub async fn flavor(&self, label: &config::OpenStackLabel) -> Result<Flavor> {
        let mut flavors = self.flavors(None).await?;
        if choose_flavor(&flavors, label).is_none() {
            // It may have been made since.
            flavors = self.flavors(Some(FLAVOR_MISSED)).await?;
        }
        if choose_flavor(&flavors, label).is_none() {
            flavors = self.all_flavors(FLAVOR_MISSED).await?;
        }
        choose_flavor(&flavors, label).cloned().ok_or_else(|| {
            let names: Vec<&str> = flavors.iter().map(|flavor| flavor.name.as_str()).collect();
            let wanted = match (label.min_ram, &label.flavor_name) {
                (0, Some(name)) => format!("is called {name} (flavor-name) or has that id"),
                (0, None) => "is meant: the label has neither flavor-name nor min-ram".to_owned(),
                (ram, None) => format!("has {ram} MiB of RAM (min-ram)"),
                (ram, Some(name)) => format!("has {ram} MiB of RAM (min-ram) and {name} in its name (flavor-name)"),
            };
            ProviderError::new(
                ErrorClass::Config,
                format!("choosing the flavor of label {} in provider {}", label.name, self.provider),
                format!("no flavor of the cloud {wanted}; it has: {}", names.join(", ")),
            )
        })
    }

    /// An active image of the cloud that the configuration names.
    pub async fn image(&self, name: &str) -> Result<Option<Named>> {
        // How long one is believed to be missing is for whoever asks to say.
        let will_do = |image: &Option<Named>, _| image.is_some();
        let image = slot(&self.kept().images, name).get(will_do, self.cloud.find_image(name)).await;
        image.map_err(self.error(format_args!("looking for image {name}")))
    }

    /// A network of the cloud that the configuration names.
    pub async fn network(&self, name: &str) -> Result<Named> {
        let doing = format!("looking for network {name}");
        let will_do = |network: &Option<Named>, _| network.is_some();
        let network = slot(&self.kept().networks, name).get(will_do, self.cloud.find_network(name)).await;
        network.map_err(self.error(&doing))?.ok_or_else(|| {
            ProviderError::new(
                ErrorClass::Config,
                format!("{doing} in provider {}", self.provider),
                "the cloud has no network of that name or id that this project may see; check `networks`, here \
                 and in clouds.yaml",
            )
        })
    }

    /// Those that lead outside.
    pub async fn external_networks(&self) -> Result<Arc<Vec<ExternalNetwork>>> {
        let look_up = async { self.cloud.external_networks().await.map(Arc::new) };
        self.kept().external_networks.get(|_, _| true, look_up).await.map_err(self.error("listing external networks"))
    }

    /// Those that are available.
    pub async fn zones(&self) -> Result<Vec<String>> {
        let look_up = async {
            match self.cloud.availability_zones().await {
                // A cloud may not want to tell; then it chooses itself.
                Err(error) if matches!(error.status, Some(403 | 404)) => Ok(Vec::new()),
                other => other,
            }
        };
        self.kept().zones.get(|_, _| true, look_up).await.map_err(self.error("listing availability zones"))
    }
}

fn sorted(mut flavors: Vec<Flavor>) -> Arc<Vec<Flavor>> {
    flavors.sort_by(|a, b| a.ram.total_cmp(&b.ram).then_with(|| a.name.cmp(&b.name)));
    Arc::new(flavors)
}

/// By min-ram: the smallest one with so much whose name contains flavor-name. Else by exact name or id.
fn choose_flavor<'a>(by_ram: &'a [Flavor], label: &config::OpenStackLabel) -> Option<&'a Flavor> {
    let name = label.flavor_name.as_deref().unwrap_or("");
    if label.min_ram == 0 {
        return by_ram.iter().find(|flavor| flavor.name == name || flavor.id == name);
    }
    #[allow(clippy::cast_precision_loss)] // MiB
    by_ram.iter().find(|flavor| flavor.ram >= label.min_ram as f64 && flavor.name.contains(name))
}

#[cfg(test)]
mod tests {
    use indexmap::IndexMap;
    use nodepool_common::config::LabelImage;

    use super::*;

    fn flavor(name: &str, ram: f64) -> Flavor {
        Flavor { id: format!("id-{name}"), name: name.to_owned(), ram, vcpus: 1.0 }
    }

    fn label(min_ram: u64, flavor_name: Option<&str>) -> config::OpenStackLabel {
        config::OpenStackLabel {
            name: "l".into(),
            image: LabelImage::CloudImage("i".to_owned()),
            min_ram,
            flavor_name: flavor_name.map(ToOwned::to_owned),
            key_name: None,
            console_log: false,
            boot_from_volume: false,
            volume_size: 50,
            instance_properties: IndexMap::new(),
            dynamic_instance_properties: IndexMap::new(),
            userdata: None,
            networks: Vec::new(),
            host_key_checking: true,
        }
    }

    #[test]
    fn flavors_are_chosen_as_upstream_chooses_them() {
        let flavors = [flavor("a.small", 2048.0), flavor("b.small", 2048.0), flavor("a.large", 8192.0)];
        for (min_ram, name, expected) in [
            (0, Some("b.small"), Some("b.small")),
            (0, Some("id-a.large"), Some("a.large")),
            (0, Some("small"), None),
            (2000, None, Some("a.small")),
            (2048, Some("b"), Some("b.small")),
            (2049, None, Some("a.large")),
            (2049, Some("b"), None),
            (8193, None, None),
        ] {
            let chosen = choose_flavor(&flavors, &label(min_ram, name)).map(|flavor| flavor.name.as_str());
            assert_eq!(chosen, expected, "{min_ram} {name:?}");
        }
    }

    /// A cloud that is down is asked once, not once by each who waits.
    #[tokio::test]
    async fn who_waits_for_a_look_up_shares_its_failure_and_who_comes_later_does_not() {
        let slot: Slot<u32> = Slot::default();
        let calls = std::sync::atomic::AtomicU32::new(0);
        let ask = || {
            slot.get(|_, _| true, async {
                tokio::task::yield_now().await;
                match calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                    0 => Err(CloudError::new(ErrorClass::Transient, "down")),
                    call => Ok(call),
                }
            })
        };
        let (one, two, three) = tokio::join!(ask(), ask(), ask());
        assert!(one.is_err() && one == two && two == three);
        assert_eq!(ask().await, Ok(1));
        assert_eq!(ask().await, Ok(1), "kept");
    }
}
