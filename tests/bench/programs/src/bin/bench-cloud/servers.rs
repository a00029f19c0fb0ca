//! The servers of the emulated cloud, and what is asked of it in all.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Map, Value, json};

use super::reply::Call;

pub const PROJECT: &str = "be0c0000000000000000000000000001";
pub const USER: &str = "be0c0000000000000000000000000002";
pub const NETWORKS: [Network; 2] = [
    Network {
        id: "be0c0000-0000-4000-8000-0000000000a1",
        name: "public",
        subnet: "be0c0000-0000-4000-8000-0000000000b1",
        second_byte: 100,
    },
    Network {
        id: "be0c0000-0000-4000-8000-0000000000a2",
        name: "private",
        subnet: "be0c0000-0000-4000-8000-0000000000b2",
        second_byte: 101,
    },
];
pub const IMAGE: &str = "1a000000-0000-4000-9000-000000000001";
pub const FLAVORS: [Flavor; 3] = [
    Flavor { id: "1", name: "bench.small", vcpus: 1, ram: 2048, disk: 20 },
    Flavor { id: "2", name: "bench.medium", vcpus: 4, ram: 8192, disk: 40 },
    Flavor { id: "3", name: "bench.large", vcpus: 8, ram: 16384, disk: 80 },
];
/// The only moment that this cloud knows: launchers show it at most.
pub const TIME: &str = "2026-01-01T00:00:00Z";

/// How the cloud behaves; seconds unless it says otherwise.
pub struct Settings {
    /// From a server's creation until it is ACTIVE, and what is added to it at most, fixed for each server.
    pub boot_delay: f64,
    pub boot_jitter: f64,
    /// From a server's deletion until it is gone.
    pub delete_delay: f64,
    /// What each call takes, and each creation of a server besides.
    pub latency: f64,
    pub create_latency: f64,
    /// What a listing takes besides, in microseconds for each server.
    pub list_us_per_server: f64,
    /// Each so manieth server ends in ERROR; 0: none.
    pub fail_every: u64,
    /// Nova's quota; -1: none.
    pub max_instances: i64,
    /// How many servers are in one page of a listing, as Nova's `max_limit`.
    pub page: usize,
}

pub struct Network {
    pub id: &'static str,
    pub name: &'static str,
    pub subnet: &'static str,
    second_byte: u8,
}

pub struct Flavor {
    pub id: &'static str,
    pub name: &'static str,
    pub vcpus: u32,
    pub ram: u32,
    pub disk: u32,
}

impl Flavor {
    /// That of an id, or of a link that ends with it.
    pub fn of(reference: &str) -> Option<&'static Flavor> {
        let id = reference.rsplit('/').next()?;
        FLAVORS.iter().find(|flavor| flavor.id == id)
    }
}

pub struct Server {
    number: u64,
    pub name: String,
    image: String,
    flavor: &'static Flavor,
    zone: String,
    key: Option<String>,
    metadata: Map<String, Value>,
    pub networks: Vec<&'static Network>,
    pub active_at: Instant,
    fails: bool,
    gone_at: Option<Instant>,
    /// What a listing says of it while it is built and afterwards, before microversion 2.47.
    listed: [Option<Rc<str>>; 2],
}

impl Server {
    pub fn id(&self) -> String {
        id(self.number)
    }

    pub fn status(&self, now: Instant) -> &'static str {
        if now < self.active_at {
            "BUILD"
        } else if self.fails {
            "ERROR"
        } else {
            "ACTIVE"
        }
    }

    /// On loopback, so that nothing of a benchmark can leave the machine.
    pub fn address(&self, network: &Network) -> String {
        format!("127.{}.{}.{}", network.second_byte, (self.number >> 8) & 0xff, self.number & 0xff)
    }

    /// `links_to`: the cloud's address. `embed`: with the flavor's properties, as from microversion 2.47 on.
    pub fn show(&self, links_to: &str, status: &str, embed: bool) -> Value {
        let id = self.id();
        let built = status != "BUILD";
        let mut addresses = Map::new();
        if status == "ACTIVE" {
            for network in &self.networks {
                let mac = format!("fa:16:3e:{:02x}:{:02x}:00", (self.number >> 8) & 0xff, self.number & 0xff);
                addresses.insert(
                    network.name.into(),
                    json!([{"version": 4, "addr": self.address(network),
                    "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": mac}]),
                );
            }
        }
        let link = |rel: &str, path: &str| json!({"rel": rel, "href": format!("{links_to}/compute/{path}")});
        let flavor = self.flavor;
        let flavor = if embed {
            json!({"original_name": flavor.name, "vcpus": flavor.vcpus, "ram": flavor.ram, "disk": flavor.disk,
                   "ephemeral": 0, "swap": 0, "extra_specs": {}})
        } else {
            json!({"id": flavor.id, "links": [link("bookmark", &format!("flavors/{}", flavor.id))]})
        };
        let mut shown = json!({
            "id": id, "name": self.name, "status": status, "tenant_id": PROJECT, "user_id": USER,
            "metadata": self.metadata,
            "hostId": if built { "be0c1e5f0a7d4b2ca9d0be0c1e5f0a7d4b2ca9d0be0c1e5f0a7d4b2c" } else { "" },
            "image": {"id": self.image, "links": [link("bookmark", &format!("images/{}", self.image))]},
            "flavor": flavor, "created": TIME, "updated": TIME,
            "addresses": addresses, "accessIPv4": "", "accessIPv6": "",
            "links": [link("self", &format!("v2.1/servers/{id}")), link("bookmark", &format!("servers/{id}"))],
            "OS-DCF:diskConfig": "MANUAL", "progress": if built { 100 } else { 0 },
            "OS-EXT-AZ:availability_zone": self.zone, "config_drive": "", "key_name": self.key,
            "OS-SRV-USG:launched_at": built.then_some(TIME), "OS-SRV-USG:terminated_at": null,
            "security_groups": [{"name": "default"}],
            "OS-EXT-STS:task_state": (!built).then_some("spawning"),
            "OS-EXT-STS:vm_state": match status { "ACTIVE" => "active", "ERROR" => "error", _ => "building" },
            "OS-EXT-STS:power_state": u8::from(status == "ACTIVE"),
            "os-extended-volumes:volumes_attached": [],
        });
        if status == "ERROR" {
            shown["fault"] = json!({"code": 500, "created": TIME,
                "message": "No valid host was found. There are not enough hosts available."});
        }
        shown
    }
}

fn id(number: u64) -> String {
    format!("5e000000-0000-4000-8000-{number:012x}")
}

/// Everything there is.
pub struct Cloud {
    pub settings: Settings,
    /// Its address, for links.
    pub base: String,
    /// How many servers were made since the counters were reset.
    pub created: u64,
    /// How many there were at once since then.
    pub peak_servers: usize,
    /// Calls by kind, with ids left out.
    pub calls: BTreeMap<String, u64>,
    pub bytes_out: usize,
    number: u64,
    /// By number, that is in the order of their creation.
    servers: BTreeMap<u64, Server>,
    numbers: HashMap<String, u64>,
    /// By when the deletion of which is over; those whose deletion is under way.
    deleting: Vec<u64>,
}

impl Cloud {
    pub fn new(settings: Settings, base: String) -> Self {
        Self {
            settings,
            base,
            created: 0,
            peak_servers: 0,
            calls: BTreeMap::new(),
            bytes_out: 0,
            number: 0,
            servers: BTreeMap::new(),
            numbers: HashMap::new(),
            deleting: vec![],
        }
    }

    /// How many servers there are.
    pub fn servers(&self) -> usize {
        self.servers.len()
    }

    pub fn count(&mut self, method: &Method, path: &[&str]) {
        let mut kind = method.to_string();
        for (i, word) in path.iter().enumerate() {
            let is_id = word.len() >= 32 && word.chars().all(|c| c.is_ascii_hexdigit() || c == '-');
            kind.push_str(if i == 0 { " /" } else { "/" });
            kind.push_str(if is_id { "{id}" } else { word });
        }
        *self.calls.entry(kind).or_default() += 1;
    }

    /// Drops the servers whose deletion is over.
    pub fn reap(&mut self, now: Instant) {
        let Self { servers, numbers, deleting, .. } = self;
        deleting.retain(|number| {
            let going = servers.get(number).and_then(|server| server.gone_at).is_some_and(|at| at > now);
            if !going {
                servers.remove(number);
                numbers.remove(&id(*number));
            }
            going
        });
    }

    pub fn clear(&mut self) {
        self.servers.clear();
        self.numbers.clear();
        self.deleting.clear();
    }

    /// A server as the body of a creation describes it, up after its boot delay; `at_once`: now.
    pub fn create(&mut self, body: &Value, at_once: bool) -> &Server {
        self.number += 1;
        self.created += 1;
        let number = self.number;
        let text = |key: &str| body[key].as_str().map(String::from);
        let networks = body["networks"].as_array().map(Vec::as_slice).unwrap_or_default();
        let networks: Vec<_> =
            networks.iter().filter_map(|wanted| NETWORKS.iter().find(|network| wanted["uuid"] == network.id)).collect();
        let spread = u32::try_from(number.wrapping_mul(2_654_435_761) % 1000).unwrap_or_default();
        let delay = self.settings.boot_delay + self.settings.boot_jitter * f64::from(spread) / 1000.0;
        let server = Server {
            number,
            name: text("name").unwrap_or_default(),
            image: text("imageRef").unwrap_or_default(),
            flavor: text("flavorRef").and_then(|reference| Flavor::of(&reference)).unwrap_or(&FLAVORS[0]),
            zone: text("availability_zone").unwrap_or_else(|| "nova".into()),
            key: text("key_name"),
            metadata: body["metadata"].as_object().cloned().unwrap_or_default(),
            networks: if networks.is_empty() { vec![&NETWORKS[0]] } else { networks },
            active_at: Instant::now() + Duration::from_secs_f64(if at_once { 0.0 } else { delay }),
            fails: !at_once && self.settings.fail_every > 0 && self.created.is_multiple_of(self.settings.fail_every),
            gone_at: None,
            listed: [None, None],
        };
        self.numbers.insert(server.id(), number);
        self.peak_servers = self.peak_servers.max(self.servers.len() + 1);
        self.servers.entry(number).or_insert(server)
    }

    pub fn get(&self, id: &str) -> Option<&Server> {
        self.servers.get(self.numbers.get(id)?)
    }

    pub fn all(&self) -> impl Iterator<Item = &Server> {
        self.servers.values()
    }

    /// Begins a deletion; None: there is no such server.
    pub fn delete(&mut self, id: &str, now: Instant) -> Option<()> {
        let number = *self.numbers.get(id)?;
        let server = self.servers.get_mut(&number)?;
        if server.gone_at.is_none() {
            server.gone_at = Some(now + Duration::from_secs_f64(self.settings.delete_delay));
            self.deleting.push(number);
        }
        self.reap(now);
        Some(())
    }

    /// One page of a listing.
    pub fn list(&mut self, call: &Call, detail: bool) -> String {
        let now = Instant::now();
        self.reap(now);
        let page = self.settings.page;
        let limit = call.query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(page).min(page);
        let marker = call.query.get("marker").and_then(|id| self.numbers.get(id)).copied().unwrap_or(0);
        let name = call.query.get("name").map(|n| n.trim_matches(['^', '$']));
        let base = &self.base;
        let mut picked =
            self.servers.range_mut(marker + 1..).map(|(_, server)| server).filter(|server| {
                name.is_none_or(|n| server.name.contains(n)) && call.wants("status", server.status(now))
            });
        let mut out = String::from("{\"servers\": [");
        let (mut last, mut count) = (String::new(), 0);
        for server in picked.by_ref().take(limit) {
            if count > 0 {
                out.push(',');
            }
            count += 1;
            last = server.id();
            let status = server.status(now);
            if !detail {
                out.push_str(&json!({"id": last, "name": server.name, "links": []}).to_string());
            } else if call.microversion >= 47 {
                out.push_str(&server.show(base, status, true).to_string());
            } else {
                let slot = usize::from(status != "BUILD");
                let text = match server.listed[slot].take() {
                    Some(text) => text,
                    None => server.show(base, status, false).to_string().into(),
                };
                out.push_str(&text);
                server.listed[slot] = Some(text);
            }
        }
        out.push(']');
        if picked.next().is_some() {
            let path = if detail { "servers/detail" } else { "servers" };
            let _ = write!(
                out,
                ", \"servers_links\": [{{\"rel\": \"next\", \
                 \"href\": \"{base}/compute/v2.1/{path}?limit={limit}&marker={last}\"}}]"
            );
        }
        out.push('}');
        out
    }
}
