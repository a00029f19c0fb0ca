//! [`FakeCloud`]: an OpenStack of the mind, in this process.
//!
//! It has the flavors, networks, quota and addresses of upstream's `FakeOpenStackCloud`
//! (`nodepool 11.0.0: driver/fake/adapter.py`), and does what its [`super::script`] says. Nothing runs in it: a server
//! is a record with the times at which it boots and disappears, and its state follows from the clock. Who waits for
//! servers is woken at exactly those times, so an instant cloud is instant.
//!
//! Its addresses contain `fake`: no network leads there, and their host key is always the same.
//!
//! With `state_file` or `state_dir` in the script the records live in a file (written aside and renamed, read again
//! when somebody else has changed it), so that servers outlive this process and go on booting without it. Two
//! processes that change it at the same moment may overwrite each other.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::{
    model::{NodeId, ProviderName},
    sys::{Ambient, entropy::Entropy},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

use super::{
    script::{Director, FaultDetails},
    stored_image::StoredImage,
    version::Version,
};
use crate::{
    ErrorClass,
    openstack::api::{
        Cloud, CloudError, ComputeLimits, CreateServer, Flavor, FloatingIp, Named, NetworkService, Pace, Port, Server,
        Volume, VolumeLimits, speaks_of_quota,
    },
};

const FAKE_KEY: &str = "ssh-rsa FAKEKEY";
const RAM: f64 = 8192.0;
const VCPUS: f64 = 4.0;
/// The last one has no public IPv4 by itself, the one before has IPv6.
const NETWORKS: [&str; 4] =
    ["fake-public-network-name", "fake-private-network-name", "no-auto-ip-network-name", "fake-ipv6-network-name"];
const NO_AUTO_IP: usize = 2;
const IPV6: usize = 3;

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct FakeCloud {
    pub(super) provider: ProviderName,
    networks: Vec<Named>,
    flavors: Vec<Flavor>,
    /// Seconds since the epoch at `started`.
    epoch: f64,
    started: Instant,
    entropy: Entropy,
    world: Mutex<World>,
    /// A server appeared, changed or disappeared.
    changed: Notify,
}

#[derive(Debug)]
pub(super) struct World {
    pub director: Director,
    servers: BTreeMap<String, Record>,
    /// By id.
    pub images: BTreeMap<String, StoredImage>,
    down_ports: Option<Vec<Port>>,
    /// The file that servers and images were last read from or written to, and its version.
    file: Option<(PathBuf, Version)>,
    last_listed: f64,
}

/// What outlives the process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State<Servers, Images> {
    servers: Servers,
    images: Images,
}

/// A server; times are seconds since the epoch.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    /// Nova's document, without `status` and `fault`.
    document: Value,
    /// When it leaves BUILD; `None`: never.
    boots_at: Option<f64>,
    /// What it then says; `None`: ACTIVE.
    #[serde(default)]
    fault: Option<String>,
    #[serde(default)]
    deleting: bool,
    /// When it disappears; `None`: never.
    #[serde(default)]
    gone_at: Option<f64>,
    volume_size: Option<u64>,
}

impl Record {
    fn is_gone(&self, now: f64) -> bool {
        self.gone_at.is_some_and(|at| at <= now)
    }

    fn server(&self, now: f64) -> Option<Server> {
        let mut document = self.document.clone();
        let booted = self.boots_at.is_some_and(|at| at <= now);
        let status = match (&self.fault, booted) {
            (_, false) => "BUILD",
            (None, true) => "ACTIVE",
            (Some(_), true) => "ERROR",
        };
        document["status"] = json!(status);
        if let Some(fault) = self.fault.as_ref().filter(|_| booted) {
            document["fault"] = json!({"message": fault, "code": 500});
        }
        if self.deleting {
            document["OS-EXT-STS:task_state"] = json!("deleting");
        }
        Server::read(&document)
    }

    /// When it will change next, after `now`.
    fn next_change(&self, now: f64) -> Option<f64> {
        [self.boots_at, self.gone_at].into_iter().flatten().filter(|at| *at > now).min_by(f64::total_cmp)
    }
}

impl World {
    fn read_state(&mut self, provider: &str) -> Result<(), String> {
        let Some(path) = self.director.state_file(provider) else { return Ok(()) };
        let written = match std::fs::metadata(&path).and_then(|metadata| Version::of(&metadata)) {
            Ok(written) => written,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(format!("cannot read the fake cloud's state {}: {error}", path.display())),
        };
        let as_known = (path, written);
        if self.file.as_ref() == Some(&as_known) {
            return Ok(());
        }
        let path = &as_known.0;
        let data = std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        let state = serde_json::from_slice(&data).map_err(|error| format!("{}: {error}", path.display()))?;
        State { servers: self.servers, images: self.images } = state;
        self.file = Some(as_known);
        Ok(())
    }

    pub fn write_state(&mut self, provider: &str) -> Result<(), String> {
        let Some(path) = self.director.state_file(provider) else { return Ok(()) };
        let written = write(&path, &State { servers: &self.servers, images: &self.images })
            .map_err(|error| format!("cannot write the fake cloud's state {}: {error}", path.display()))?;
        self.file = Some((path, written));
        Ok(())
    }
}

fn write(path: &Path, state: &impl Serialize) -> std::io::Result<Version> {
    let aside = path.with_extension(format!("{}.new", std::process::id()));
    std::fs::write(&aside, serde_json::to_vec(state)?)?;
    std::fs::rename(&aside, path)?;
    Version::of(&std::fs::metadata(path)?)
}

pub(super) fn unusable(error: String) -> CloudError {
    CloudError::new(ErrorClass::Config, error)
}

pub(super) fn refused(fault: &FaultDetails, call: &str) -> CloudError {
    let message = fault.message.clone().unwrap_or_else(|| format!("the script lets {call} fail"));
    let status = fault.status.unwrap_or(if speaks_of_quota(&message) { 403 } else { 500 });
    CloudError::answered(status, message)
}

pub(super) fn lost_answer() -> CloudError {
    CloudError::new(ErrorClass::Transient, "the connection broke before the answer came")
}

fn new_id(entropy: &Entropy) -> String {
    entropy.uuid().simple().to_string()
}

impl FakeCloud {
    /// `script` is the path of the script, if there is one.
    pub fn new(provider: ProviderName, script: Option<PathBuf>, ambient: &Ambient) -> Self {
        let new_id = || new_id(&ambient.entropy);
        let named = |name: &str| Named { id: new_id(), name: name.to_owned() };
        let flavor = |name: &str| Flavor { id: new_id(), name: name.to_owned(), ram: RAM, vcpus: VCPUS };
        Self {
            provider,
            networks: NETWORKS.into_iter().map(named).collect(),
            flavors: vec![flavor("Fake Flavor"), flavor("Unreal Flavor")],
            epoch: ambient.clock.now(),
            started: Instant::now(),
            entropy: ambient.entropy.clone(),
            world: Mutex::new(World {
                director: Director::new(script),
                servers: BTreeMap::new(),
                images: BTreeMap::new(),
                down_ports: None,
                file: None,
                last_listed: 0.0,
            }),
            changed: Notify::new(),
        }
    }

    pub(super) fn new_id(&self) -> String {
        new_id(&self.entropy)
    }

    /// Seconds since the epoch, by the runtime's clock (which tests may hold).
    fn now(&self) -> f64 {
        self.epoch + self.started.elapsed().as_secs_f64()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every call begins with: the script and the state as they are now, and the call's own duration.
    pub(super) async fn begin(&self) -> Result<(), CloudError> {
        let delay = {
            let mut world = self.lock();
            world.director.refresh(self.provider.as_str()).map_err(unusable)?;
            world.read_state(self.provider.as_str()).map_err(unusable)?;
            let now = self.now();
            world.servers.retain(|_, record| !record.is_gone(now));
            world.director.script.api_delay
        };
        pause(delay).await;
        Ok(())
    }

    fn document(&self, id: &str, create: &CreateServer) -> Value {
        let is_on = |network: usize| create.networks.contains(&self.networks[network].id);
        let fake = |version: u64, addr: &str| json!({"version": version, "addr": addr});
        let v4 = || json!([fake(4, "fake")]);
        let (addresses, public_v4, public_v6, interface_ip, host_id) = if is_on(IPV6) {
            let public = json!([fake(4, "fake"), fake(6, "fake_v6")]);
            (json!({"public": public, "private": v4()}), "fake", "fake_v6", "fake_v6", "fake_host_id")
        } else if is_on(NO_AUTO_IP) {
            (Value::Null, "", "", "fake", "fake")
        } else {
            (json!({"public": v4(), "private": v4()}), "fake", "", "fake", "fake")
        };
        let groups: Vec<Value> = create.security_groups.iter().map(|name| json!({"name": name})).collect();
        json!({
            "id": id,
            "name": create.name,
            "addresses": addresses,
            "public_v4": public_v4,
            "public_v6": public_v6,
            "private_v4": "fake",
            "interface_ip": interface_ip,
            "hostId": host_id,
            "metadata": create.meta,
            "flavor": {"id": create.flavor},
            "image": {"id": create.image},
            "key_name": create.key_name,
            "config_drive": create.config_drive,
            "security_groups": groups,
            "OS-EXT-AZ:availability_zone": create.az,
            "os-extended-volumes:volumes_attached":
                create.volume_size.map(|_| vec![json!({"id": format!("volume-of-{id}")})]).unwrap_or_default(),
        })
    }

    /// Nova's own checks.
    fn check(&self, world: &World, create: &CreateServer) -> Result<(), CloudError> {
        let script = &world.director.script;
        if create.az.as_ref().is_some_and(|az| !script.azs.contains(az)) {
            return Err(CloudError::answered(400, "The requested availability zone is not available"));
        }
        if !self.flavors.iter().any(|flavor| flavor.id == create.flavor) {
            return Err(CloudError::answered(404, format!("Flavor {} could not be found.", create.flavor)));
        }
        #[allow(clippy::cast_precision_loss)] // some thousands
        let instances = world.servers.len() as f64 + 1.0;
        for (name, wanted, limit) in [
            ("instances", instances, script.quota.instances),
            ("cores", instances * VCPUS, script.quota.cores),
            ("ram", instances * RAM, script.quota.ram),
        ] {
            if limit >= 0.0 && wanted > limit {
                return Err(CloudError::answered(
                    403,
                    format!("Quota exceeded for {name}: {wanted} would be used, but the limit is {limit}"),
                ));
            }
        }
        Ok(())
    }

    fn create(&self, create: &CreateServer) -> Result<Server, CloudError> {
        let now = self.now();
        let mut world = self.lock();
        let fail = world.director.fault("fail_create", |script| &script.fail_create);
        if let Some(fault) = fail.as_ref().filter(|fault| !fault.with_id) {
            return Err(refused(fault, "the creation"));
        }
        self.check(&world, create)?;
        let id = self.new_id();
        let boot = world.director.script.boot_delay + world.director.hang("hang_boot", |script| script.hang_boot);
        let full = create.az.as_ref().is_some_and(|az| world.director.script.full_azs.contains(az));
        let boot_fault = match &fail {
            Some(fault) => Some(fault.clone()),
            None if full => {
                Some(FaultDetails { message: Some("No valid host was found.".to_owned()), ..Default::default() })
            }
            None => world.director.fault("fail_boot", |script| &script.fail_boot),
        };
        let boot = if fail.is_some() { 0.0 } else { boot };
        let record = Record {
            document: self.document(&id, create),
            boots_at: boot.is_finite().then_some(now + boot),
            fault: boot_fault
                .map(|fault| fault.message.unwrap_or_else(|| "the script lets it fail to boot".to_owned())),
            deleting: false,
            gone_at: None,
            volume_size: create.volume_size,
        };
        let server = record.server(now);
        world.servers.insert(id.clone(), record);
        world.write_state(self.provider.as_str()).map_err(unusable)?;
        self.changed.notify_one();
        if let Some(fault) = fail {
            return Err(CloudError { external_id: Some(id), ..refused(&fault, "the creation") });
        }
        if world.director.fault("lose_create", |script| &script.lose_create).is_some() {
            return Err(lost_answer());
        }
        server.ok_or_else(|| CloudError::new(ErrorClass::Bug, "the fake cloud made a server without an id"))
    }
}

/// Infinite: for ever.
pub(super) async fn pause(seconds: f64) {
    if seconds.is_infinite() {
        std::future::pending::<()>().await;
    } else if seconds > 0.0 {
        sleep(Duration::from_secs_f64(seconds)).await;
    }
}

#[async_trait]
impl NetworkService for FakeCloud {
    async fn find_network(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        self.begin().await?;
        let found = self.networks.iter().find(|network| network.name == name_or_id || network.id == name_or_id);
        Ok(found.or_else(|| self.networks.first()).cloned())
    }

    async fn list_ports(&self, status: &str) -> Result<Vec<Port>, CloudError> {
        self.begin().await?;
        if status != "DOWN" {
            return Ok(Vec::new());
        }
        let mut world = self.lock();
        let count = world.director.script.down_ports;
        // Upstream's two: one was a server's, one was nobody's.
        let owner = |number: usize| number.is_multiple_of(2).then(|| "compute:nova".to_owned());
        let make = || {
            (0..count)
                .map(|number| Port { id: self.new_id(), device_owner: owner(number), ..Port::default() })
                .collect()
        };
        Ok(world.down_ports.get_or_insert_with(make).clone())
    }

    async fn delete_port(&self, id: &str) -> Result<(), CloudError> {
        self.begin().await?;
        if let Some(ports) = &mut self.lock().down_ports {
            ports.retain(|port| port.id != id);
        }
        Ok(())
    }

    async fn list_floating_ips(&self) -> Result<Vec<FloatingIp>, CloudError> {
        self.begin().await?;
        Ok(Vec::new())
    }

    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        Err(CloudError::answered(404, format!("Floating IP {id} could not be found")))
    }
}

#[async_trait]
impl Cloud for FakeCloud {
    fn is_simulated(&self) -> bool {
        true
    }

    async fn start(&self) -> Result<(), CloudError> {
        self.begin().await
    }

    fn pace(&self) -> Pace {
        // It tells of changes; the interval is for a script or a state file that somebody edits.
        let quiet = Duration::from_secs(1);
        Pace { first: Duration::ZERO, busy: quiet, quiet, least: Duration::from_millis(2), learns: false }
    }

    async fn changed(&self) {
        let next = {
            let world = self.lock();
            world.servers.values().filter_map(|record| record.next_change(world.last_listed)).min_by(f64::total_cmp)
        };
        let wait = async {
            // A hair later than the moment itself, which rounding could otherwise miss.
            pause(next.map_or(f64::INFINITY, |next| (next - self.now()).max(0.0) + 2e-6)).await;
        };
        tokio::select! {
            () = wait => {}
            () = self.changed.notified() => {}
        }
    }

    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError> {
        self.begin().await?;
        let hang = self.lock().director.hang("hang_create", |script| script.hang_create);
        pause(hang).await;
        self.create(create)
    }

    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError> {
        self.begin().await?;
        let mut world = self.lock();
        if let Some(fault) = world.director.fault("fail_list", |script| &script.fail_list) {
            return Err(refused(&fault, "the listing"));
        }
        let now = self.now();
        world.last_listed = now;
        Ok(world.servers.values().filter_map(|record| record.server(now)).map(Arc::new).collect())
    }

    async fn delete_server(&self, id: &str, _: Option<&Value>) -> Result<(), CloudError> {
        self.begin().await?;
        let mut guard = self.lock();
        let world = &mut *guard;
        if let Some(fault) = world.director.fault("fail_delete", |script| &script.fail_delete) {
            return Err(refused(&fault, "the deletion"));
        }
        let Some(record) = world.servers.get_mut(id) else {
            return Err(CloudError::answered(404, format!("Instance {id} could not be found.")));
        };
        let now = self.now();
        if !record.deleting {
            let hang = world.director.hang("hang_delete", |script| script.hang_delete);
            record.deleting = true;
            record.gone_at = hang.is_finite().then_some(now + hang);
        }
        world.servers.retain(|_, record| !record.is_gone(now));
        world.write_state(self.provider.as_str()).map_err(unusable)?;
        self.changed.notify_one();
        Ok(())
    }

    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        self.begin().await?;
        Ok(self.flavors.clone())
    }

    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        self.begin().await?;
        let exists = self
            .lock()
            .director
            .script
            .images
            .as_ref()
            .is_none_or(|images| images.iter().any(|image| image == name_or_id));
        let id = if name_or_id == "Fake Precise" { "fake-image-id" } else { name_or_id };
        Ok(exists.then(|| Named { id: id.to_owned(), name: name_or_id.to_owned() }))
    }

    async fn availability_zones(&self) -> Result<Vec<String>, CloudError> {
        self.begin().await?;
        Ok(self.lock().director.script.azs.clone())
    }

    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError> {
        self.begin().await?;
        let quota = self.lock().director.script.quota;
        Ok(ComputeLimits { cores: limited(quota.cores), instances: limited(quota.instances), ram: limited(quota.ram) })
    }

    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError> {
        self.begin().await?;
        let quota = self.lock().director.script.quota;
        let (volumes, gigabytes) = (limited(quota.volumes), limited(quota.volume_gb));
        Ok(Some(VolumeLimits { volumes, gigabytes, ..VolumeLimits::default() }))
    }

    #[allow(clippy::cast_precision_loss)] // GB
    async fn list_volumes(&self) -> Result<Vec<Volume>, CloudError> {
        self.begin().await?;
        let world = self.lock();
        let volumes = world.servers.iter().filter_map(|(id, record)| Some((id, record.volume_size?)));
        let volume = |(id, size): (&String, u64)| Volume {
            id: format!("volume-of-{id}"),
            size: size as f64,
            attached: true,
            ..Volume::default()
        };
        Ok(volumes.map(volume).collect())
    }

    async fn console(&self, id: &str) -> Result<Option<String>, CloudError> {
        self.begin().await?;
        let world = self.lock();
        if !world.servers.contains_key(id) {
            return Err(CloudError::answered(404, format!("Instance {id} could not be found.")));
        }
        Ok(world.director.script.console.clone())
    }

    async fn host_keys(&self, _node: &NodeId, address: &str) -> Option<Result<Vec<String>, CloudError>> {
        if !address.contains("fake") {
            return None;
        }
        let fault = self.lock().director.fault("fail_host_keys", |script| &script.fail_host_keys);
        Some(match fault {
            Some(_) => Err(CloudError::new(ErrorClass::Timeout, "the script lets the host-key scan time out")),
            None => Ok(vec![FAKE_KEY.to_owned()]),
        })
    }
}

fn limited(amount: f64) -> Option<f64> {
    (amount >= 0.0).then_some(amount)
}
