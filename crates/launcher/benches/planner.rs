//! What a pass of the planner costs on a large site: `cargo bench --package nodepool-launcher`.
//!
//! 20 pools of ours of 40 that are registered, 50 labels each, 100,000 nodes, 10,000 requests that wait. Everything is taken
//! in and decided once; then one event after another, each with its pass, whose outcome is published as the loop does it. Each figure
//! is printed beside what is wanted.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::format_push_string, missing_docs)] // a benchmark fails that way, and may be slow to begin

use std::{
    collections::BTreeMap,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use nodepool_common::{
    config,
    model::{
        Changes, Contenders, Entry, LabelName, Node, NodeId, NodeRequest, NodeState, PoolComponent, ProviderName,
        Records, Resources, Stat, Uptime,
    },
    sys::watch,
    zk::Freshness,
};
use nodepool_launcher::{
    plan::{
        CloudImage, Decision, Ledger, News, Planner, PoolKey, PoolState, ProjectQuota, ProviderState, Timing, World,
    },
    run::{PassMade, Published, PublishedPool},
};

const NOW: f64 = 1_760_000_000.0;
const OUR_POOLS: usize = 20;
const ALL_POOLS: usize = 40;
const LABELS: usize = 50;
const NODES: usize = 100_000;
const REQUESTS: usize = 10_000;
const EVENTS: usize = 2_000;

fn main() {
    // `cargo test --benches` only wants to know that it starts.
    let small = std::env::args().any(|argument| argument == "--test");
    let (nodes, requests, events) = if small { (1000, 100, 10) } else { (NODES, REQUESTS, EVENTS) };
    let mut site = Site::new();
    let before = resident();
    site.fill(nodes, requests);
    let records = resident().saturating_sub(before);

    let before = resident();
    let mut planner = Planner::default();
    let began = Instant::now();
    let (decisions, _) = site.pass(&mut planner, Changes::everything());
    let everything = began.elapsed();
    let index = resident().saturating_sub(before);

    let (mut times, mut looks) = (Vec::new(), Vec::new());
    for event in 0..events {
        let changes = site.happen(event);
        let began = Instant::now();
        looks.push(site.pass(&mut planner, changes).1);
        times.push(began.elapsed());
    }
    times.sort();
    let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
    let looks_at = |of: fn(&Looks) -> usize| {
        let mut counts: Vec<_> = looks.iter().map(of).collect();
        counts.sort_unstable();
        (counts[counts.len() / 2], counts[counts.len() * 9 / 10], counts[counts.len() - 1])
    };
    println!(
        "{nodes} nodes, {requests} requests waiting, {OUR_POOLS} pools of ours of {ALL_POOLS}, {LABELS} labels each"
    );
    println!("everything once: {everything:.1?} (wanted: 1 s), {decisions} decisions");
    println!("one event: median {median:.1?} (wanted: 100 µs), worst {worst:.1?} (wanted: 5 ms)");
    let (requests, free) = (looks_at(|looks| looks.requests), looks_at(|looks| looks.nodes));
    println!(
        "looked at in one event (median, 9 of 10, worst): requests, once for each pool, {requests:?}; nodes {free:?}"
    );
    println!("memory a node: {} B of records, {} B of index (wanted: 2 KiB together)", records / nodes, index / nodes);
}

/// Bytes of memory that are in use.
fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

fn provider(number: usize) -> ProviderName {
    format!("cloud-{number:02}").as_str().into()
}

fn label(number: usize) -> LabelName {
    format!("label-{:02}", number % LABELS).as_str().into()
}

/// A large site.
struct Site {
    config: Arc<config::Config>,
    records: Records,
    pools: Vec<PoolState>,
    providers: BTreeMap<ProviderName, ProviderState>,
    ledger: Ledger,
    published: watch::Sender<Option<Arc<Published>>>,
    version: i64,
    labels: Vec<LabelName>,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("nodepool.yaml");
        fs::write(&path, nodepool_yaml()).unwrap();
        let config = config::load(&path, None).expect("the configuration is valid").config;
        let labels: Vec<_> = (0..LABELS).map(label).collect();
        let mut site = Self {
            config,
            records: Records::default(),
            pools: Vec::new(),
            providers: BTreeMap::new(),
            ledger: Ledger::default(),
            published: watch::Sender::default(),
            version: 1,
            labels,
        };
        for number in 0..ALL_POOLS {
            let id = format!("host-PoolWorker.{}-main-{number:032}", provider(number));
            let component = json(&[
                ("hostname", "\"host\""),
                ("state", "\"running\""),
                ("id", &format!("{id:?}")),
                ("name", "\"main\""),
                ("provider_name", &format!("{:?}", provider(number).as_str())),
                ("supported_labels", &format!("{:?}", site.labels.iter().map(LabelName::as_str).collect::<Vec<_>>())),
                ("priority", "100"),
                ("paused", "false"),
            ]);
            let component = PoolComponent::read(&format!("pool-{number:010}"), component.as_bytes()).unwrap().0;
            site.records.pools.insert(format!("host{number:010}"), Arc::new(component));
            if number < OUR_POOLS {
                let key = PoolKey { provider: provider(number), pool: "main".into() };
                let mut state = ProviderState {
                    quota: Some(ProjectQuota::default()),
                    quota_at: NOW,
                    zones: Some(Vec::new()),
                    ..ProviderState::default()
                };
                for label in &site.labels {
                    let at = (key.pool.clone(), label.clone());
                    let takes = Resources::new().with("cores", 4.0).with("instances", 1.0).with("ram", 8192.0);
                    state.label_resources.insert(at.clone(), Ok(takes));
                    state.cloud_images.insert(at, CloudImage::There);
                }
                site.providers.insert(provider(number), state);
                site.pools.push(PoolState { key, launcher_id: id.as_str().into() });
            }
        }
        site
    }

    /// Nodes in use everywhere, so that our pools are full, and requests that wait for them.
    fn fill(&mut self, nodes: usize, requests: usize) {
        for number in 0..nodes {
            self.node(number, NodeState::InUse, true);
        }
        for number in 0..requests {
            self.request(number, number % 7 % 3);
        }
    }

    fn node(&mut self, number: usize, state: NodeState, locked: bool) -> NodeId {
        let id = NodeId::from(format!("{number:010}").as_str());
        let record = json(&[
            ("state", &format!("{:?}", state.as_str())),
            ("state_time", "1759999000.5"),
            ("created_time", "1759999000.25"),
            ("provider", &format!("{:?}", provider(number % ALL_POOLS).as_str())),
            ("pool", "\"main\""),
            ("type", &format!("[{:?}]", label(number).as_str())),
            ("launcher", "\"host-PoolWorker.cloud-main-0123456789abcdef0123456789abcdef\""),
            ("external_id", "\"01234567-89ab-cdef-0123-456789abcdef\""),
            ("hostname", "\"node.example.org\""),
            ("public_ipv4", "\"192.0.2.1\""),
            ("interface_ip", "\"192.0.2.1\""),
            ("connection_type", "\"ssh\""),
            ("connection_port", "22"),
            ("host_keys", "[\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"]"),
            ("resources", r#"{"cores": 4, "instances": 1, "ram": 8192}"#),
        ]);
        let node = Node::read(id.clone(), record.as_bytes()).unwrap().0;
        self.records.nodes.insert(id.clone(), self.entry(node, locked));
        id
    }

    fn request(&mut self, number: usize, tenant: usize) {
        let mut request = NodeRequest::min_ready(&label(number), "event".to_owned(), NOW);
        request.id = format!("200-{number:010}").as_str().into();
        request.requestor = Some("zuul".to_owned());
        request.reuse = true;
        request.relative_priority = i64::try_from(number % 10).unwrap();
        request.tenant_name = Some(format!("tenant-{tenant}").as_str().into());
        let id = request.id.clone();
        self.records.requests.insert(id, self.entry(request, false));
    }

    fn entry<T>(&self, record: T, locked: bool) -> Arc<Entry<T>> {
        let contenders =
            if locked { Contenders::from(["0123456789abcdef__lock__0000000000"]) } else { Contenders::default() };
        let stat = Stat { mzxid: self.version, ctime: 1_759_999_000_000, mtime: 1_759_999_000_000, ..Stat::default() };
        let free_since = (!locked).then_some(NOW - 60.0);
        Arc::new(Entry { record: Ok(Arc::new(record)), stat, contenders, free_since })
    }

    /// Something happens, as it does all the time: a node of ours is used up, a request comes or is withdrawn, another
    /// launcher's node changes.
    fn happen(&mut self, event: usize) -> Changes {
        let mut changes = Changes::default();
        self.version += 1;
        match event % 4 {
            0 => {
                let ours = event * ALL_POOLS % self.records.nodes.len();
                changes.nodes.insert(self.node(ours, NodeState::Used, true));
            }
            1 => {
                let number = REQUESTS + event;
                self.request(number, 0);
                changes.requests.insert(format!("200-{number:010}").as_str().into());
            }
            2 => {
                let first = self.records.requests.keys().next().unwrap().clone();
                self.records.requests.remove(&first);
                changes.requests.insert(first);
            }
            _ => {
                let others = (event * ALL_POOLS + OUR_POOLS) % self.records.nodes.len();
                changes.nodes.insert(self.node(others, NodeState::InUse, false));
            }
        }
        changes
    }

    /// One pass. What it decides is not carried out: it is counted, and what it is about is busy from then on.
    fn pass(&mut self, planner: &mut Planner, changes: Changes) -> (usize, Looks) {
        let began = Instant::now();
        let touched = self.ledger.holdings_mut().take_touched();
        let providers = self.providers.iter().map(|(name, state)| (name.clone(), state)).collect();
        let world = World {
            now: NOW,
            uptime: Uptime(1.0),
            config: &self.config,
            records: &self.records,
            pools: &self.pools,
            providers: &providers,
            session: 1,
            holdings: &self.ledger,
            timing: Timing::default(),
            stopping: false,
            renewing: false,
        };
        let plan = planner.plan(&world, News { changes, touched, setting: false });
        let count = plan.decisions.len();
        let looks = Looks { requests: plan.looks, nodes: plan.node_looks };
        for decision in plan.decisions {
            let is_expected = matches!(decision, Decision::Accept { .. } | Decision::Delete { .. });
            assert!(is_expected, "not expected here: {decision:?}");
            self.ledger.begin(&decision);
        }
        self.publish(planner, began.elapsed());
        (count, looks)
    }

    /// Shows what is so now to those who read it.
    fn publish(&self, planner: &Planner, took: Duration) {
        let pool = |state: &PoolState| PublishedPool {
            key: state.key.clone(),
            launcher_id: state.launcher_id.clone(),
            paused: false,
            paused_by: None,
        };
        let published = Published {
            pools: self.pools.iter().map(pool).collect(),
            pass: Some(PassMade { at: NOW, uptime: Uptime(1.0), took }),
            records: Freshness::Current,
            stopping: false,
            config: Arc::clone(&self.config),
            troubles: Vec::new(),
            held: self.ledger.snapshot(),
            planned: planner.snapshot(),
        };
        self.published.send_replace(Some(Arc::new(published)));
    }
}

/// What a pass has looked at.
struct Looks {
    requests: usize,
    nodes: usize,
}

fn json(members: &[(&str, &str)]) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("{name:?}: {value}")).collect();
    format!("{{{}}}", members.join(", "))
}

fn nodepool_yaml() -> String {
    let mut yaml = "zookeeper-servers:\n- {host: localhost, port: 2281}\nlabels:\n".to_owned();
    for number in 0..LABELS {
        yaml += &format!("- name: {}\n", label(number));
    }
    yaml += "providers:\n";
    for number in 0..OUR_POOLS {
        yaml += &format!(
            "- name: {}\n  driver: fake\n  cloud: fake\n  pools:\n  - name: main\n    max-servers: 2500\n    labels:\n",
            provider(number)
        );
        for number in 0..LABELS {
            yaml += &format!("    - {{name: {}, cloud-image: image, min-ram: 8192}}\n", label(number));
        }
        yaml += "  cloud-images:\n  - name: image\n";
    }
    yaml
}
