//! A simulated cloud in another process, reached over a socket.
//!
//! With `NODEPOOL_FAKE_CLOUD=unix:/path` or `tcp:127.0.0.1:PORT` in the environment, every `fake` provider's cloud is
//! served by the peer that listens there (upstream's own fake adapter, in `tests/conformance`).
//!
//! # The protocol
//!
//! One JSON object per line, both ways, on one connection per provider; replies may come in any order.
//!
//! ```text
//! request  {"id": 7, "provider": "fake-provider", "method": "create_server", "params": {...}}
//! reply    {"id": 7, "result": ...}
//!      or  {"id": 7, "error": {"class": "quota", "message": "...", "external_id": "..."}}
//! ```
//!
//! `class` is one of `quota config transient gone timeout capacity bug`. An error reply to `create_server` **with**
//! `external_id` means that the server exists although its creation failed (upstream's
//! `OpenStackCloudCreateException`): the id is put on record and the server's fault looked up, as upstream's
//! `_handleServerFault` does.
//!
//! | method | params | result |
//! |---|---|---|
//! | `hello` | `provider`, `config` (may be absent) | anything; first on each connection |
//! | `create_server` | `name image flavor az security_groups nics:[{"net-id": …}] key_name config_drive meta userdata boot_from_volume volume_size` | server |
//! | `list_servers` | | list of servers |
//! | `delete_server` | `id` | anything |
//! | `list_flavors` | | list of `{id, name, ram, vcpus}` |
//! | `find_image`, `find_network` | `name_or_id` | `{id, name}` or null |
//! | `availability_zones` | | list of names |
//! | `compute_limits` | | `{max_total_cores, max_total_instances, max_total_ram_size}` |
//! | `volume_limits` | | `{"absolute": {maxTotalVolumes, maxTotalVolumeGigabytes}}` or null |
//! | `upload_image` | `name filename disk_format md5 sha256 size metadata:{…}` | `{id}`; the image is active |
//! | `delete_image` | `id` | anything |
//! | `list_images` | | list of images: `{id, …}` with their metadata beside the id |
//! | `list_ports` | `status` | list of `{id, status, device_owner}` |
//! | `delete_port` | `id` | anything |
//! | `list_floating_ips` | | list of `{id, port_id}` |
//! | `console` | `id` | text or null |
//! | `label_ready` | `pool label` | true, false, or null: by the driver's own rule |
//! | `host_keys` | `node address connection_type? port?` | list of keys, or null: scan the address |
//!
//! A server is raw Nova-like JSON as upstream's `FakeSession` makes it: `id name status addresses public_v4 public_v6
//! private_v4 hostId interface_ip metadata flavor OS-EXT-AZ:availability_zone os-extended-volumes:volumes_attached
//! fault`.
//!
//! A connection that drops fails the calls in flight as transient (a creation so cut is looked for by its metadata);
//! the next call connects again, with a short back-off.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use nodepool_common::model::{LabelName, NodeId, PoolName, ProviderName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpStream, UnixStream},
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    ErrorClass,
    openstack::api::{
        Cloud, CloudError, ComputeLimits, CreateServer, Flavor, FloatingIp, Image, ImageService, Named, NetworkService,
        NewImage, Pace, Port, Server, VolumeLimits, read_all,
    },
};

/// The peer may hold a call back on purpose (upstream's `pause_creates`), so this is generous.
const CALL_DEADLINE: Duration = Duration::from_secs(120);
const CONNECT_ATTEMPTS: u32 = 5;
const CONNECT_BACKOFF: Duration = Duration::from_millis(100);

/// The cloud of one provider behind a socket.
#[derive(Debug)]
pub(crate) struct RemoteCloud {
    provider: ProviderName,
    address: String,
    next_id: AtomicU64,
    connection: tokio::sync::Mutex<Option<Arc<Connection>>>,
}

/// Calls in flight; `None` once the connection is closed.
type Pending = Mutex<Option<HashMap<u64, oneshot::Sender<Result<Value, CloudError>>>>>;

/// One connection; its two tasks end with it.
#[derive(Debug)]
struct Connection {
    lines: mpsc::UnboundedSender<String>,
    pending: Arc<Pending>,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl Connection {
    fn new(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (read, mut write) = tokio::io::split(stream);
        let (lines, mut outgoing) = mpsc::unbounded_channel::<String>();
        let pending: Arc<Pending> = Arc::new(Mutex::new(Some(HashMap::new())));
        let writer = tokio::spawn(async move {
            while let Some(line) = outgoing.recv().await {
                if write.write_all(line.as_bytes()).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
        });
        let calls = Arc::clone(&pending);
        let reader = tokio::spawn(async move {
            let mut incoming = BufReader::new(read).lines();
            while let Ok(Some(line)) = incoming.next_line().await {
                let Ok(reply) = serde_json::from_str::<Value>(&line) else {
                    tracing::warn!(%line, "the fake cloud's peer sent a line that is no JSON");
                    continue;
                };
                let call = reply.get("id").and_then(Value::as_u64).and_then(|id| lock(&calls).as_mut()?.remove(&id));
                if let Some(call) = call {
                    let _ = call.send(read_reply(&reply));
                }
            }
            // Dropping the senders fails the calls in flight.
            lock(&calls).take();
        });
        Self { lines, pending, _tasks: [AbortOnDropHandle::new(writer), AbortOnDropHandle::new(reader)] }
    }

    fn is_closed(&self) -> bool {
        self.lines.is_closed() || lock(&self.pending).is_none()
    }

    async fn call(&self, id: u64, provider: &str, method: &str, params: Value) -> Result<Value, CloudError> {
        let (reply, answer) = oneshot::channel();
        match lock(&self.pending).as_mut() {
            Some(calls) => calls.insert(id, reply),
            None => return Err(dropped(method)),
        };
        let forget = Forget { pending: &self.pending, id };
        let line = json!({"id": id, "provider": provider, "method": method, "params": params});
        if self.lines.send(format!("{line}\n")).is_err() {
            return Err(dropped(method));
        }
        let answer = timeout(CALL_DEADLINE, answer).await;
        drop(forget);
        match answer {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(dropped(method)),
            Err(_) => Err(CloudError::new(
                ErrorClass::Timeout,
                format!("the fake cloud's peer has not answered {method} for {} s", CALL_DEADLINE.as_secs()),
            )),
        }
    }
}

/// Removes a call that nobody waits for any more.
struct Forget<'a> {
    pending: &'a Pending,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(calls) = lock(self.pending).as_mut() {
            calls.remove(&self.id);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn dropped(method: &str) -> CloudError {
    CloudError::new(ErrorClass::Transient, format!("the fake cloud's peer closed the connection during {method}"))
}

fn read_reply(reply: &Value) -> Result<Value, CloudError> {
    let Some(error) = reply.get("error").filter(|error| !error.is_null()) else {
        return Ok(reply.get("result").cloned().unwrap_or_default());
    };
    let text = |key: &str| error.get(key).and_then(Value::as_str);
    let class = match text("class").unwrap_or_default() {
        "quota" => ErrorClass::Quota,
        "config" => ErrorClass::Config,
        "gone" => ErrorClass::Gone,
        "timeout" => ErrorClass::Timeout,
        "capacity" => ErrorClass::Capacity,
        "bug" => ErrorClass::Bug,
        _ => ErrorClass::Transient,
    };
    Err(CloudError {
        external_id: text("external_id").map(ToOwned::to_owned),
        // An answer, so nothing is ambiguous about it.
        status: Some(match class {
            ErrorClass::Config => 400,
            ErrorClass::Gone => 404,
            ErrorClass::Quota => 403,
            _ => 409,
        }),
        ..CloudError::new(class, text("message").unwrap_or("no message"))
    })
}

impl RemoteCloud {
    /// `address` is `unix:/path` or `tcp:HOST:PORT`.
    pub fn new(provider: ProviderName, address: &str) -> Self {
        Self {
            provider,
            address: address.to_owned(),
            next_id: AtomicU64::new(1),
            connection: tokio::sync::Mutex::default(),
        }
    }

    async fn connect(&self) -> Result<Connection, CloudError> {
        let mut backoff = CONNECT_BACKOFF;
        let mut attempt = 1;
        loop {
            let connected = match self.address.split_once(':') {
                Some(("unix", path)) => UnixStream::connect(path).await.map(Connection::new),
                Some(("tcp", address)) => TcpStream::connect(address).await.map(Connection::new),
                _ => {
                    return Err(CloudError::new(
                        ErrorClass::Config,
                        format!("NODEPOOL_FAKE_CLOUD is {:?}, not unix:/path or tcp:HOST:PORT", self.address),
                    ));
                }
            };
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) if attempt == CONNECT_ATTEMPTS => {
                    return Err(CloudError::new(
                        ErrorClass::Transient,
                        format!("cannot connect to the fake cloud's peer at {}: {error}", self.address),
                    ));
                }
                Err(_) => {}
            }
            attempt += 1;
            sleep(backoff).await;
            backoff *= 2;
        }
    }

    async fn connection(&self) -> Result<Arc<Connection>, CloudError> {
        let mut current = self.connection.lock().await;
        if let Some(connection) = current.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.connect().await?);
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        connection.call(id, self.provider.as_str(), "hello", json!({"provider": self.provider})).await?;
        *current = Some(Arc::clone(&connection));
        Ok(connection)
    }

    async fn call(&self, method: &str, params: Value) -> Result<Value, CloudError> {
        let connection = self.connection().await?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        connection.call(id, self.provider.as_str(), method, params).await
    }
}

#[async_trait]
impl ImageService for RemoteCloud {
    async fn create_image(&self, image: &NewImage) -> Result<Image, CloudError> {
        let params = json!({
            "name": image.name,
            "filename": image.path,
            "disk_format": image.format,
            "md5": image.md5,
            "sha256": image.sha256,
            "size": image.size,
            "metadata": image.metadata,
        });
        let made = Image::read(&self.call("upload_image", params).await?).ok_or_else(|| {
            CloudError::new(ErrorClass::Bug, "the fake cloud's peer answered upload_image without an image's id")
        })?;
        Ok(Image { status: "active".to_owned(), ..made })
    }

    async fn get_image(&self, id: &str) -> Result<Option<Image>, CloudError> {
        Ok(self.images_with(&[]).await?.into_iter().find(|image| image.id == id))
    }

    async fn delete_image(&self, id: &str) -> Result<(), CloudError> {
        self.call("delete_image", json!({"id": id})).await.map(drop)
    }

    async fn images_with(&self, metadata: &[(&'static str, String)]) -> Result<Vec<Image>, CloudError> {
        let reply = self.call("list_images", json!({})).await?;
        Ok(read_all(&reply, |image| Image::read(image).filter(|image| image.has(metadata))))
    }
}

#[async_trait]
impl NetworkService for RemoteCloud {
    async fn find_network(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        Ok(Named::read(&self.call("find_network", json!({"name_or_id": name_or_id})).await?))
    }

    async fn list_ports(&self, status: &str) -> Result<Vec<Port>, CloudError> {
        Ok(read_all(&self.call("list_ports", json!({"status": status})).await?, Port::read))
    }

    async fn delete_port(&self, id: &str) -> Result<(), CloudError> {
        self.call("delete_port", json!({"id": id})).await.map(drop)
    }

    async fn list_floating_ips(&self) -> Result<Vec<FloatingIp>, CloudError> {
        Ok(read_all(&self.call("list_floating_ips", json!({})).await?, FloatingIp::read))
    }

    async fn delete_floating_ip(&self, id: &str) -> Result<(), CloudError> {
        Err(CloudError::new(
            ErrorClass::Config,
            format!("the fake cloud's protocol cannot delete floating IP {id}; set clean-floating-ips: false"),
        ))
    }
}

#[async_trait]
impl Cloud for RemoteCloud {
    fn is_simulated(&self) -> bool {
        true
    }

    async fn start(&self) -> Result<(), CloudError> {
        self.connection().await.map(drop)
    }

    fn pace(&self) -> Pace {
        let interval = Duration::from_millis(100);
        Pace {
            first: Duration::from_millis(20),
            busy: interval,
            quiet: interval,
            least: Duration::from_millis(20),
            learns: false,
        }
    }

    async fn create_server(&self, create: &CreateServer) -> Result<Server, CloudError> {
        let reply = self.call("create_server", create.to_params()).await?;
        Server::read(&reply).ok_or_else(|| {
            CloudError::new(ErrorClass::Bug, "the fake cloud's peer answered create_server without a server's id")
        })
    }

    async fn list_servers(&self) -> Result<Vec<Arc<Server>>, CloudError> {
        let reply = self.call("list_servers", json!({})).await?;
        Ok(read_all(&reply, |server| Server::read(server).map(Arc::new)))
    }

    async fn delete_server(&self, id: &str, _: Option<&Value>) -> Result<(), CloudError> {
        self.call("delete_server", json!({"id": id})).await.map(drop)
    }

    async fn list_flavors(&self) -> Result<Vec<Flavor>, CloudError> {
        Ok(read_all(&self.call("list_flavors", json!({})).await?, Flavor::read))
    }

    async fn find_image(&self, name_or_id: &str) -> Result<Option<Named>, CloudError> {
        Ok(Named::read(&self.call("find_image", json!({"name_or_id": name_or_id})).await?))
    }

    async fn availability_zones(&self) -> Result<Vec<String>, CloudError> {
        let reply = self.call("availability_zones", json!({})).await?;
        Ok(read_all(&reply, |name| name.as_str().map(ToOwned::to_owned)))
    }

    async fn compute_limits(&self) -> Result<ComputeLimits, CloudError> {
        Ok(ComputeLimits::read(&self.call("compute_limits", json!({})).await?))
    }

    async fn volume_limits(&self) -> Result<Option<VolumeLimits>, CloudError> {
        let reply = self.call("volume_limits", json!({})).await?;
        Ok((!reply.is_null()).then(|| VolumeLimits::read(&reply)))
    }

    async fn console(&self, id: &str) -> Result<Option<String>, CloudError> {
        Ok(self.call("console", json!({"id": id})).await?.as_str().map(ToOwned::to_owned))
    }

    async fn label_ready(&self, pool: &PoolName, label: &LabelName) -> Option<Result<bool, CloudError>> {
        match self.call("label_ready", json!({"pool": pool, "label": label})).await {
            Ok(reply) => reply.as_bool().map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    async fn host_keys(&self, node: &NodeId, address: &str) -> Option<Result<Vec<String>, CloudError>> {
        match self.call("host_keys", json!({"node": node, "address": address})).await {
            Ok(Value::Null) => None,
            Ok(reply) => Some(Ok(read_all(&reply, |key| key.as_str().map(ToOwned::to_owned)))),
            Err(error) => Some(Err(error)),
        }
    }
}
