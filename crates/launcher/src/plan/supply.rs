//! Where the nodes of a request come from: ready ones first, then launches, as far as quotas and limits go.
//!
//! What is found is set aside at once, so that one pass promises nothing twice; [`Pass::give_back`] undoes that.

use std::hash::{DefaultHasher, Hash, Hasher};

use nodepool_common::{
    config::Pool,
    model::{LabelName, Node, NodeId, NodeRequest, RequestId},
};

use super::{
    NewNode, PoolKey, Reason, Want, World,
    budget::Fit,
    pass::Pass,
    taken::{Pressure, Shortage},
    usage::label_resources,
};

/// Where the nodes for a request would come from.
#[derive(Debug, Default)]
pub struct Supply {
    /// Ready nodes, with the label each satisfies.
    pub reuse: Vec<(NodeId, LabelName)>,
    /// Nodes to launch.
    pub launch: Vec<NewNode>,
    /// What stops it from getting the rest.
    pub shortage: Option<Shortage>,
    /// What has to be found out first.
    pub unknown: Option<Want>,
}

impl Supply {
    /// Whether there is no node in it.
    pub fn is_nothing(&self) -> bool {
        self.reuse.is_empty() && self.launch.is_empty()
    }
}

impl Pass<'_> {
    /// Finds nodes for the missing labels of a request, in their order, and sets them aside.
    pub fn supply(
        &mut self,
        key: &PoolKey,
        pool: &Pool,
        request: &NodeRequest,
        missing: &[LabelName],
        mut zone: Option<String>,
    ) -> Supply {
        let world = self.world;
        let mut supply = Supply::default();
        for label in missing {
            let suits = |node: &Node| zone.is_none() || node.az.as_deref() == zone.as_deref();
            if request.reuse
                && let Some(node) = self.taken.oldest_idle(key, Some(label), suits)
            {
                zone = zone.or_else(|| node.az.as_deref().map(str::to_owned));
                self.taken.take(key, node.id.clone());
                supply.reuse.push((node.id.clone(), label.clone()));
                continue;
            }
            if pool.hosts.is_some() {
                supply.shortage = Some(Shortage {
                    reason: Reason::NoneFree { label: label.clone() },
                    short: Vec::new(),
                    of_provider: false,
                    until: None,
                });
                break;
            }
            let provider = world.provider(&key.provider);
            if let Some(at) = provider.and_then(|p| p.launch_after).filter(|at| *at > world.now) {
                supply.shortage = Some(Shortage {
                    reason: Reason::QuotaRefused { until: at },
                    short: vec!["instances".to_owned()],
                    of_provider: true,
                    until: Some(at),
                });
                break;
            }
            match self.budget.fits(world, key, pool, label) {
                Fit::Yes => {}
                Fit::No(excess) => {
                    let short = excess.short.iter().map(|short| short.resource.clone()).collect();
                    let of_provider = excess.bound.is_of_provider();
                    let reason = Reason::NoRoom { label: label.clone(), excess };
                    supply.shortage = Some(Shortage { reason, short, of_provider, until: None });
                    break;
                }
                Fit::Unknown(want) => {
                    supply.unknown = Some(want);
                    break;
                }
                // decline_reason has looked at this label already.
                Fit::NotNow(_) | Fit::Broken(_) => break,
            }
            if zone.is_none() {
                zone = match zones(world, key, pool) {
                    Ok(zones) => choose_zone(&request.id, zones),
                    Err(want) => {
                        supply.unknown = Some(want);
                        break;
                    }
                };
            }
            if let Ok(Ok(resources)) = label_resources(world, key, label) {
                self.budget.take(key, resources);
            }
            supply.launch.push(NewNode { label: label.clone(), az: zone.clone() });
        }
        supply
    }

    /// All missing labels of a request out of the stock, which are set aside then; `None`: not all of them are there, or the
    /// provider has not started: for some nodes the way to them has to be renewed before they are handed out.
    pub fn supply_of_stock(
        &mut self,
        key: &PoolKey,
        pool: &Pool,
        request: &NodeRequest,
        missing: &[LabelName],
        zone: Option<String>,
    ) -> Option<Supply> {
        self.world.provider(&key.provider)?;
        let supply = self.supply(key, pool, request, missing, zone);
        if supply.reuse.len() == missing.len() {
            return Some(supply);
        }
        self.give_back(key, &supply);
        None
    }

    /// Whether [`Self::supply_of_stock`] finds everything; nothing is set aside.
    pub fn is_in_stock(
        &mut self,
        key: &PoolKey,
        pool: &Pool,
        request: &NodeRequest,
        missing: &[LabelName],
        zone: Option<String>,
    ) -> bool {
        let supply = self.supply_of_stock(key, pool, request, missing, zone);
        if let Some(supply) = &supply {
            self.give_back(key, supply);
        }
        supply.is_some()
    }

    /// Undoes the reckoning of a supply that is not used after all.
    pub fn give_back(&mut self, key: &PoolKey, supply: &Supply) {
        for (node, _) in &supply.reuse {
            self.taken.give_back(key, node);
        }
        for node in &supply.launch {
            if let Ok(Ok(resources)) = label_resources(self.world, key, &node.label) {
                self.budget.give_back(key, resources);
            }
        }
    }

    /// Whether a supply takes something that the paused requests of a pool wait for.
    pub fn is_in_the_way(&self, key: &PoolKey, supply: &Supply) -> bool {
        self.taken.pressure_on(key).any(|pressure| touches(self.world, key, supply, pressure))
    }
}

/// Whether a supply takes something that is short, or a node of a label that is needed.
fn touches(world: &World<'_>, key: &PoolKey, supply: &Supply, pressure: &Pressure) -> bool {
    supply.reuse.iter().any(|(_, label)| pressure.labels.contains(label))
        || supply.launch.iter().any(|node| match label_resources(world, key, &node.label) {
            Ok(Ok(resources)) => pressure.short.iter().any(|name| resources.amount(name) > 0.0),
            _ => true,
        })
}

fn zones<'a>(world: &World<'a>, key: &PoolKey, pool: &'a Pool) -> Result<&'a [String], Want> {
    if !pool.availability_zones.is_empty() {
        return Ok(&pool.availability_zones);
    }
    world.provider(&key.provider).and_then(|p| p.zones.as_deref()).ok_or_else(|| Want::Zones(key.provider.clone()))
}

/// The zone of all launches for a request: drawn once, from the request's id, so that a restart draws the same.
fn choose_zone(request: &RequestId, zones: &[String]) -> Option<String> {
    let mut hasher = DefaultHasher::new();
    request.hash(&mut hasher);
    let count = u64::try_from(zones.len()).ok().filter(|count| *count > 0)?;
    zones.get(usize::try_from(hasher.finish() % count).ok()?).cloned()
}
