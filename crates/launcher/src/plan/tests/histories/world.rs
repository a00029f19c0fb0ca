//! The world at the beginning.

use std::collections::BTreeSet;

use super::*;

impl History {
    /// Two clouds of ours, one of them with two pools; a static host of ours; a provider whose nodes stand on theirs; and one pool of
    /// another launcher.
    pub fn new() -> Self {
        let mut setting = Setting::new().provider("p", |pool| pool.limits = cores(8.0)).provider("q", |pool| {
            pool.limits = cores(6.0);
            pool.availability_zones.clear();
            pool.labels.swap_remove("big");
            pool.labels["small"].diskimage = Some("image".into());
        });
        setting.config.labels.get_mut("small").unwrap().max_ready_age = Some(Duration::from_secs(40));
        setting.config.tenant_limits.insert("limited".into(), cores(3.0));
        let mut other = (*setting.records.pools["p"]).clone();
        other.id = Some("id-other".into());
        other.provider_name = Some("o".into());
        other.supported_labels = vec!["elsewhere".into(), "small".into()];
        setting.records.pools.insert("other".to_owned(), Arc::new(other));
        // A second pool of p, and a provider of static hosts.
        setting = setting.provider("s", |pool| {
            pool.hosts = Some(vec![hosts::host("host", 2)]);
            pool.labels.swap_remove("big");
            pool.priority = 120;
        });
        Arc::make_mut(setting.config.providers.get_mut("s").unwrap()).driver = Driver::Static;
        add_side_pool(&mut setting);
        setting = backing::add_provider(setting);
        let config = Arc::new(setting.config.clone());
        Self {
            setting,
            config,
            now: NOW,
            uptime: UPTIME,
            changes: Changes::default(),
            ledger: Ledger::default(),
            running: Vec::new(),
            launches: BTreeMap::new(),
            next: 0,
            known_pool: None,
            unseen: None,
            planner: Planner::default(),
            is_check_due: false,
            away: BTreeSet::new(),
            published: None,
            kinds: BTreeSet::new(),
            truth: Truth::default(),
        }
    }
}

/// A second pool of provider p, with less room, and before the first.
fn add_side_pool(setting: &mut Setting) {
    let p = Arc::make_mut(setting.config.providers.get_mut("p").unwrap());
    let mut side = p.pools[0].clone();
    side.name = "side".into();
    side.limits = cores(5.0);
    side.priority = 90;
    p.pools.push(side);
    let mut component = (*setting.records.pools["p"]).clone();
    component.id = Some("id-p-side".into());
    component.name = Some("side".into());
    component.priority = 90;
    setting.records.pools.insert("p-side".to_owned(), Arc::new(component));
    let state = setting.providers.get_mut("p").unwrap();
    for (label, amount) in [("small", 1.0), ("big", 4.0)] {
        let at = (PoolName::from("side"), LabelName::from(label));
        state.label_resources.insert(at.clone(), Ok(cores(amount).with("instances", 1.0)));
        state.cloud_images.insert(at, CloudImage::There);
    }
    let key = PoolKey { provider: "p".into(), pool: "side".into() };
    setting.pools.push(PoolState { key, launcher_id: "id-p-side".into() });
}
