//! Asking clouds what the planner wants to know: each question once at a time.

use std::{collections::BTreeSet, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt;
use nodepool_common::{
    model::{NodeId, ProviderName, Records, Resources, Uptime},
    sys::shutdown,
};
use nodepool_drivers::{CloudResource, ErrorClass, ProviderError, leaks::is_node_of};

use super::{ANSWER_TIMEOUT, Cloud, Clouds};
use crate::{
    plan::{ProjectQuota, Want},
    run::Launcher,
};

/// What a cloud says of its quota is of no use any more when the records are not there by then; it is asked for again.
const RECORDS_WITHIN: Duration = Duration::from_secs(15);

/// Something to ask a cloud. Whoever takes one up brings it to an end with [`Launcher::answer`].
#[derive(Debug)]
pub struct Question {
    pub(super) cloud: Arc<Cloud>,
    pub(super) want: Want,
    /// When it was asked.
    pub(super) at: Uptime,
}

/// What a cloud has said.
pub(super) enum Answer {
    Quota(ProjectQuota),
    /// The same, which may count servers of ours as those of others: it is asked for again.
    RoughQuota(ProjectQuota),
    /// What a quota is reckoned from, once there are records: with the nodes that were on record before the cloud was asked, where
    /// there were records.
    Used(nodepool_drivers::Quota, Vec<CloudResource>, Option<BTreeSet<NodeId>>),
    Takes(Result<Resources, String>),
    Ready(bool),
    Zones(Vec<String>),
}

/// A question on its way; it may be asked again once this is dropped, also by a panic.
struct Asking<'a> {
    clouds: &'a Clouds,
    question: Question,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.clouds.asked(&self.question);
    }
}

impl Launcher {
    /// Asks a cloud, and keeps the answer.
    pub(in crate::run) async fn answer(&self, question: Question) {
        let question = Asking { clouds: &self.clouds, question };
        let question = &question.question;
        let failed = |class, why: String| {
            Err(ProviderError::new(class, format!("asking provider {}", question.cloud.config.name), why))
        };
        let asked = AssertUnwindSafe(self.answer_of(question)).catch_unwind();
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Ok(answer)) => answer,
            // A pause follows, as after any failure; and whoever has asked is woken.
            Ok(Err(panic)) => failed(ErrorClass::Bug, format!("its driver panicked{}", shutdown::describe(&*panic))),
            Err(_) => failed(ErrorClass::Timeout, format!("no answer within {} s", ANSWER_TIMEOUT.as_secs())),
        };
        let answer = match answer {
            Ok(Answer::Used(quota, resources, before)) => {
                // At a start the cloud may be faster than ZooKeeper. Without records all servers would be those of others.
                if tokio::time::timeout(RECORDS_WITHIN, self.zk.cache().until_ready()).await.is_err() {
                    return;
                }
                let name = &question.cloud.config.name;
                Ok(self.zk.cache().read(|records| reckoned(records, before.as_ref(), name, &resources, quota)))
            }
            answer => answer,
        };
        self.clouds.keep(question, answer);
    }

    async fn answer_of(&self, question: &Question) -> Result<Answer, ProviderError> {
        let provider = &question.cloud.provider;
        match &question.want {
            Want::Quota(_) => {
                // A node that is deleted while the cloud answers may be in its list and no longer on record.
                let cache = self.zk.cache();
                let before = cache.ready().then(|| cache.read(|records| records.nodes.keys().cloned().collect()));
                let (quota, resources) = tokio::try_join!(provider.quota(), provider.list_resources())?;
                Ok(Answer::Used(quota, resources, before))
            }
            Want::Zones(_) => provider.availability_zones().await.map(Answer::Zones),
            Want::LabelReady(_, pool, label) => provider.label_ready(pool, label).await.map(Answer::Ready),
            Want::LabelResources(_, pool, label) => match provider.label_resources(pool, label).await {
                Ok(takes) => Ok(Answer::Takes(Ok(takes))),
                Err(error) if error.class == ErrorClass::Config => Ok(Answer::Takes(Err(error.to_string()))),
                Err(error) => Err(error),
            },
        }
    }
}

/// What a cloud's answer leaves to us. `before`: see [`Answer::Used`]. Without it a server of a node that went while the cloud
/// answered looks like one that was left behind.
fn reckoned(
    records: &Records,
    before: Option<&BTreeSet<NodeId>>,
    provider: &ProviderName,
    resources: &[CloudResource],
    quota: nodepool_drivers::Quota,
) -> Answer {
    let none = BTreeSet::new();
    let others = used_by_others(records, before.unwrap_or(&none), provider, resources, &quota.used);
    let of_no_node = |resource: &CloudResource| {
        is_node_of(provider, resource, |_| true) && !is_node_of(provider, resource, |id| records.nodes.contains_key(id))
    };
    let is_rough = before.is_none() && resources.iter().any(|each| each.kind.is_node() && of_no_node(each));
    let ours = quota.limits.less(&others);
    let quota = ProjectQuota { limits: quota.limits, ours };
    if is_rough { Answer::RoughQuota(quota) } else { Answer::Quota(quota) }
}

/// What is taken by others than nodes of this provider (`nodepool 11.0.0: driver/statemachine.py unmanagedQuotaUsed`):
/// those on record now, and those that were `before` the cloud was asked. Our own leaked servers count: they take quota
/// until they are gone. Of a resource that others than servers use as
/// well, `used` says how much that is in all.
fn used_by_others(
    records: &Records,
    before: &BTreeSet<NodeId>,
    provider: &ProviderName,
    resources: &[CloudResource],
    used: &Resources,
) -> Resources {
    let (mut ours, mut others) = (Resources::new(), Resources::new());
    for resource in resources.iter().filter(|resource| resource.kind.is_node()) {
        let is_node = is_node_of(provider, resource, |node| records.nodes.contains_key(node) || before.contains(node));
        let side = if is_node { &mut ours } else { &mut others };
        side.add(&resource.resources);
    }
    for (name, in_all) in used.iter() {
        // The two were not read at the same moment.
        others.set(name, (in_all - ours.amount(name)).max(0.0));
    }
    others
}

#[cfg(test)]
mod tests {
    use nodepool_common::model::{Entry, Node, Stat};
    use nodepool_drivers::ResourceKind;
    use serde_json::{Map, json};

    use super::*;

    #[test]
    fn others_use_what_servers_that_are_no_nodes_take_and_of_some_resources_what_is_not_ours() {
        let provider = ProviderName::from("p");
        let server = |node: &str, ports: f64| CloudResource {
            kind: ResourceKind::Instance,
            id: format!("server-{node}"),
            metadata: Map::from_iter([
                ("nodepool_provider_name".to_owned(), json!("p")),
                ("nodepool_node_id".to_owned(), json!(node)),
            ])
            .into(),
            resources: Resources::new().with("cores", 2.0).with("ports", ports),
        };
        let mut records = Records::default();
        let record = Ok(Arc::new(Node::new(0.0)));
        let entry = Entry::unlocked(record, Stat::default());
        records.nodes.insert("1".into(), entry);
        let listed = [server("1", 2.0), server("2", 1.0)];
        let others = |ports: Option<f64>| {
            used_by_others(&records, &BTreeSet::new(), &provider, &listed, &Resources::new().with("ports", ports))
        };
        assert_eq!(others(None), Resources::new().with("cores", 2.0).with("ports", 1.0));
        let of_router = Resources::new().with("cores", 2.0).with("ports", 7.0);
        assert_eq!(others(Some(9.0)), of_router, "a router's and the like count");
        assert_eq!(others(Some(1.0)), Resources::new().with("cores", 2.0).with("ports", 0.0));
        // One without a record: left behind, or of a node that went while the cloud answered, if nobody knows the records of then.
        let quota = || nodepool_drivers::Quota { limits: Resources::new().with("cores", 8.0), used: Resources::new() };
        let reckoned = |before: Option<&BTreeSet<NodeId>>, listed: &[CloudResource]| {
            let (quota, is_rough) = match reckoned(&records, before, &provider, listed, quota()) {
                Answer::Quota(quota) => (quota, false),
                Answer::RoughQuota(quota) => (quota, true),
                _ => panic!("no quota"),
            };
            (quota.ours, is_rough)
        };
        let ours = |cores: f64| Resources::new().with("cores", cores);
        assert_eq!(reckoned(None, &listed), (ours(6.0), true));
        assert_eq!(reckoned(None, &listed[..1]), (ours(8.0), false));
        assert_eq!(reckoned(Some(&BTreeSet::new()), &listed), (ours(6.0), false));
        assert_eq!(reckoned(Some(&BTreeSet::from(["2".into()])), &listed), (ours(8.0), false));
        let before = BTreeSet::from(["2".into()]);
        let others = used_by_others(&records, &before, &provider, &listed, &Resources::new());
        assert_eq!(others, Resources::new(), "its record went while the cloud answered");
    }
}
