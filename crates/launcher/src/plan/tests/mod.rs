//! The rules of the planner, each as a sentence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::*;
use nodepool_common::{
    config::{Config, Driver, HostId, Label, OpenStack, Place, Pool, PoolLabel, Provider, WebApp, ZooKeeper},
    model::{
        Contenders, Entry, Extra, LabelName, Node, NodeId, NodeRequest, NodeState, PoolComponent, Records, RequestId,
        RequestState, Resources, Stat, Uptime, change_each,
    },
};

mod assigning;
mod histories;
mod hosts;
mod leaks;
mod ledger;
mod metastatic;
mod placing;
mod reasons;
mod reckoning;
mod renewing;
mod serving;
mod since;
mod upkeep;

const NOW: f64 = 1_000_000.0;
/// The same moment by monotonic time.
const UPTIME: Uptime = Uptime(500.0);

/// A world to be set up by a test.
struct Setting {
    config: Config,
    records: Records,
    pools: Vec<PoolState>,
    providers: BTreeMap<nodepool_common::model::ProviderName, ProviderState>,
    holdings: Holdings,
    stopping: bool,
    renewing: bool,
    session: i64,
}

impl Setting {
    /// No provider yet; labels `small` (1 core) and `big` (4 cores).
    fn new() -> Self {
        let label = |name: &str| Label { name: name.into(), min_ready: 0, max_ready_age: None };
        Self {
            config: Config {
                webapp: WebApp::default(),
                elements_dir: None,
                images_dir: None,
                build_log_dir: None,
                build_log_retention: 7,
                zookeeper: ZooKeeper { servers: vec![], timeout: Duration::from_secs(10), tls: None },
                labels: ["small", "big"].into_iter().map(|name| (name.into(), label(name))).collect(),
                diskimages: indexmap::IndexMap::new(),
                image_builders: vec![],
                providers: indexmap::IndexMap::new(),
                broken_providers: std::collections::BTreeSet::new(),
                max_hold_age: None,
                tenant_limits: indexmap::IndexMap::new(),
            },
            records: Records::default(),
            pools: Vec::new(),
            providers: BTreeMap::new(),
            holdings: Holdings::default(),
            stopping: false,
            renewing: false,
            session: 7,
        }
    }

    /// A provider with pool `main` that has both labels and is ready for use.
    fn provider(mut self, name: &str, change: impl FnOnce(&mut Pool)) -> Self {
        let labels = ["small", "big"].map(|l| (l.into(), PoolLabel { name: l.into(), diskimage: None }));
        let mut pool = Pool {
            name: "main".into(),
            priority: 100,
            disabled: false,
            limits: Resources::new(),
            ignore_provider_quota: false,
            availability_zones: vec!["az1".to_owned(), "az2".to_owned()],
            node_attributes: None,
            labels: labels.into_iter().collect(),
            broken_labels: indexmap::IndexMap::new(),
            broken_hosts: indexmap::IndexMap::new(),
            hosts: None,
        };
        change(&mut pool);
        let key = PoolKey { provider: name.into(), pool: "main".into() };
        let launcher_id = format!("id-{name}");
        self.records.pools.insert(
            name.to_owned(),
            Arc::new(PoolComponent {
                hostname: "h".to_owned(),
                state: "running".to_owned(),
                version: None,
                model_api: 0,
                id: Some(launcher_id.as_str().into()),
                name: Some("main".into()),
                provider_name: Some(name.into()),
                supported_labels: pool.labels.keys().cloned().collect(),
                priority: pool.priority,
                paused: false,
                extra: Extra::default(),
            }),
        );
        let mut state = ProviderState {
            quota: Some(ProjectQuota::default()),
            quota_at: NOW,
            zones: Some(vec![]),
            ..Default::default()
        };
        for (label, cores) in [("small", 1.0), ("big", 4.0)] {
            let at = (pool.name.clone(), LabelName::from(label));
            state.label_resources.insert(at.clone(), Ok(Resources::new().with("cores", cores).with("instances", 1.0)));
            state.cloud_images.insert(at, CloudImage::There);
        }
        self.providers.insert(name.into(), state);
        self.pools.push(PoolState { key, launcher_id: launcher_id.as_str().into() });
        self.config.providers.insert(
            name.into(),
            Arc::new(Provider {
                name: name.into(),
                place: Place::default(),
                max_concurrency: None,
                launch_retries: 3,
                launch_timeout: Duration::from_secs(60),
                boot_timeout: Duration::from_secs(60),
                pools: vec![pool],
                driver: Driver::Fake(OpenStack {
                    cloud: None,
                    region_name: None,
                    image_upload_timeout: Duration::from_secs(1),
                    rate: Duration::ZERO,
                    image_name_format: String::new(),
                    clean_floating_ips: false,
                    port_cleanup_interval: None,
                    post_upload_hook: None,
                    diskimages: indexmap::IndexMap::new(),
                    cloud_images: indexmap::IndexMap::new(),
                    pools: indexmap::IndexMap::new(),
                }),
            }),
        );
        self
    }

    fn request(mut self, id: &str, labels: &[&str], change: impl FnOnce(&mut NodeRequest)) -> Self {
        let mut request = NodeRequest::min_ready(&"x".into(), "e".to_owned(), NOW);
        request.id = id.into();
        request.node_types = labels.iter().map(|l| LabelName::from(*l)).collect();
        request.requestor = Some("zuul".to_owned());
        request.reuse = true;
        change(&mut request);
        self.records.requests.insert(id.into(), entry(request));
        self
    }

    /// A request that provider p's pool has accepted.
    fn accepted(self, id: &str, labels: &[&str]) -> Self {
        let mut this = self.request(id, labels, |r| r.state = RequestState::Pending);
        let pool = PoolKey { provider: "p".into(), pool: "main".into() };
        this.holdings.requests.insert(id.into(), HeldRequest { pool });
        this.request_entry(id).contenders.insert("ours".to_owned());
        this
    }

    fn node(mut self, id: &str, label: &str, state: NodeState, change: impl FnOnce(&mut Node)) -> Self {
        let mut node = Node::new(NOW - 100.0);
        node.id = id.into();
        node.state = state;
        node.provider = Some("p".into());
        node.pool = Some("main".into());
        node.labels = vec![label.into()];
        change(&mut node);
        self.records.nodes.insert(id.into(), entry(node));
        self
    }

    /// Node `id` is ours, for a request.
    fn held(mut self, id: &str, request: &str, launching: bool, failure: Option<&str>) -> Self {
        let node = self.node_entry(id);
        node.contenders.insert("ours".to_owned());
        node.free_since = None;
        let label = node.record.as_ref().unwrap().labels[0].clone();
        let failure = failure.map(str::to_owned);
        self.holdings.nodes.insert(id.into(), HeldNode { request: request.into(), label, launching, failure });
        self
    }

    fn plan(&self) -> Plan {
        self.plan_by(&mut Planner::simple())
    }

    /// What a planner decides that looks at everything.
    fn plan_by(&self, planner: &mut Planner) -> Plan {
        let providers = self.providers.iter().map(|(name, state)| (name.clone(), state)).collect();
        let world = World {
            now: NOW,
            uptime: UPTIME,
            config: &Arc::new(self.config.clone()),
            records: &self.records,
            pools: &self.pools,
            providers: &providers,
            session: self.session,
            holdings: &self.holdings,
            timing: Timing::default(),
            stopping: self.stopping,
            renewing: self.renewing,
        };
        planner.plan(&world, News::everything())
    }

    fn quota(mut self, quota: &Resources) -> Self {
        for state in self.providers.values_mut() {
            state.quota = Some(ProjectQuota { limits: quota.clone(), ours: quota.clone() });
        }
        self
    }
}

impl Setting {
    /// A node that is there, to be changed.
    fn node_entry(&mut self, id: &str) -> &mut Entry<Node> {
        Arc::make_mut(self.records.nodes.get_mut(&NodeId::from(id)).unwrap())
    }

    /// A request that is there, to be changed.
    fn request_entry(&mut self, id: &str) -> &mut Entry<NodeRequest> {
        Arc::make_mut(self.records.requests.get_mut(&RequestId::from(id)).unwrap())
    }
}

fn entry<T>(record: T) -> Arc<Entry<T>> {
    Arc::new(Entry {
        record: Ok(Arc::new(record)),
        stat: Stat::default(),
        contenders: Contenders::default(),
        free_since: Some(NOW - 60.0),
    })
}

fn accepts(plan: &Plan) -> Vec<(String, String)> {
    plan.decisions
        .iter()
        .filter_map(|d| match d {
            Decision::Accept { pool, request } => Some((request.to_string(), pool.provider.to_string())),
            _ => None,
        })
        .collect()
}

fn declines(plan: &Plan) -> Vec<(String, Vec<String>)> {
    plan.decisions
        .iter()
        .filter_map(|d| match d {
            Decision::Decline { request, pools } => {
                Some((request.to_string(), pools.iter().map(|(_, reason)| reason.to_string()).collect()))
            }
            _ => None,
        })
        .collect()
}

fn launches(plan: &Plan) -> usize {
    plan.decisions
        .iter()
        .map(|d| match d {
            Decision::Supply { launch, .. } => launch.len(),
            _ => 0,
        })
        .sum()
}

fn cores(amount: f64) -> Resources {
    Resources::new().with("cores", amount)
}
