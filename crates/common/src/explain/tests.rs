//! What is explained, by records as they are read from ZooKeeper.

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::{
    Contenders, Entry, ImageBuild, ImageName, Node, NodeId, NodeRequest, PoolComponent, RecordError, Records,
    RequestId, Stat,
};

const NOW: Timestamp = 1_760_000_100.0;
const REQUEST: &str = "200-0000000002";

/// Records, and what launchers say.
#[derive(Default)]
struct Site {
    records: Records,
    asked: Asked,
}

impl Site {
    fn request(mut self, id: &str, change: &Value) -> Self {
        let mut data = json!({"state": "requested", "state_time": 1_760_000_000.0, "node_types": ["small"], "declined_by": [],
            "nodes": [], "reuse": true, "requestor": "zuul", "relative_priority": 0});
        data.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let id = RequestId::from(id);
        let record = NodeRequest::read(id.clone(), data.to_string().as_bytes()).map(|(request, _)| Arc::new(request));
        self.records.requests.insert(id, entry(record, false));
        self
    }

    fn node(mut self, id: &str, is_locked: bool, data: &Value) -> Self {
        let id = NodeId::from(id);
        let record = Node::read(id.clone(), data.to_string().as_bytes()).map(|(node, _)| Arc::new(node));
        self.records.nodes.insert(id, entry(record, is_locked));
        self
    }

    fn pool(mut self, name: &str, labels: &[&str]) -> Self {
        let data = json!({"hostname": "host", "state": "running", "id": format!("id-{name}"), "name": "main",
            "provider_name": name, "supported_labels": labels, "priority": 100, "paused": false});
        let znode = format!("host{:010}", self.records.pools.len());
        let (pool, _) = PoolComponent::read(&znode, data.to_string().as_bytes()).unwrap();
        self.records.pools.insert(znode, Arc::new(pool));
        self
    }

    fn says(mut self, pool: &str, answer: Answer) -> Self {
        let pool = PoolView {
            id: format!("id-{pool}"),
            provider: pool.to_owned(),
            pool: "main".to_owned(),
            answer,
            ..PoolView::default()
        };
        self.asked.views.push(LauncherView {
            hostname: "host".to_owned(),
            as_of: Some(NOW),
            pools: vec![pool],
            ..LauncherView::default()
        });
        self
    }

    fn trouble(mut self, why: &str) -> Self {
        let pool = self.asked.views.last_mut().and_then(|view| view.pools.last_mut()).unwrap();
        pool.trouble = Some((why.to_owned(), NOW - 60.0));
        self
    }

    fn locked(mut self, id: &str) -> Self {
        let entry = Arc::make_mut(self.records.requests.get_mut(&RequestId::from(id)).unwrap());
        entry.contenders = contender();
        self
    }

    fn explain(&self) -> Explanation {
        explain(&self.records, &Subject::Request(REQUEST.into()), &self.asked, NOW).unwrap()
    }

    fn is(&self, verdict: Verdict, code: &str, words: &str) {
        let explanation = self.explain();
        assert_eq!((explanation.verdict, explanation.code.as_str()), (verdict, code), "{explanation:?}");
        assert!(explanation.sentence.contains(words), "{}", explanation.sentence);
        let text = explanation.render(NOW);
        assert!(text.contains(words), "{text}");
    }
}

fn contender() -> Contenders {
    let mut contenders = Contenders::default();
    contenders.insert("a__lock__0000000000");
    contenders
}

fn entry<T: Clone>(record: Result<Arc<T>, RecordError>, is_locked: bool) -> Arc<Entry<T>> {
    let contenders = if is_locked { contender() } else { Contenders::default() };
    Arc::new(Entry { contenders, ..Arc::unwrap_or_clone(Entry::unlocked(record, Stat::default())) })
}

fn waits(verdict: Verdict, code: &str, sentence: &str) -> Answer {
    Answer::Waits(Said {
        verdict,
        code: code.to_owned(),
        sentence: sentence.to_owned(),
        why: json!({}),
        since: Some(NOW - 30.0),
        ended_by: Some("room".to_owned()),
    })
}

#[test]
fn a_request_waits_for_what_the_pool_says_that_is_likeliest_to_serve_it() {
    let site = Site::default()
        .request("200-0000000001", &json!({}))
        .request("200-0000000003", &json!({}))
        .request("100-0000000009", &json!({"node_types": ["big"]}))
        .request(REQUEST, &json!({"declined_by": ["id-p"], "decline_reasons": ["p-main: it is too large"]}))
        .pool("p", &["small"])
        .pool("q", &["small"])
        .pool("r", &["small"])
        .pool("s", &["big"])
        .says("q", waits(Verdict::Wait, "no-room", "2 cores needed, 0 there"))
        .says("r", waits(Verdict::Act, "unknown", "the cloud does not answer"));
    site.is(Verdict::Wait, "no-room", "Pool q-main: 2 cores needed, 0 there");
    let explanation = site.explain();
    assert_eq!((explanation.since, explanation.ended_by.as_deref()), (Some(NOW - 30.0), Some("room")));
    assert_eq!(explanation.before, Some(1), "one of the same label comes before it");
    let pools: Vec<_> =
        explanation.pools.iter().map(|pool| (pool.pool.as_str(), pool.code.as_str(), pool.is_out)).collect();
    assert_eq!(
        pools,
        [
            ("q-main", "no-room", false),
            ("r-main", "unknown", false),
            ("p-main", "declined", true),
            ("s-main", "labels-missing", true)
        ]
    );
    assert!(explanation.pools[2].sentence.contains("it is too large"));
}

#[test]
fn nobody_that_could_serve_it_is_told_apart_from_nobody_that_wants_to() {
    let site = || Site::default().request(REQUEST, &json!({}));
    site().is(Verdict::Act, "no-launcher", "No launcher is running");
    site().pool("s", &["big"]).is(Verdict::Change, "no-pool-has-label", "No registered pool has label small");
    let declined = || Site::default().request(REQUEST, &json!({"declined_by": ["id-p"]})).pool("p", &["small"]);
    declined().is(Verdict::Change, "declined-by-all", "Each registered pool has declined it");
    let failed = json!({"state": "failed", "declined_by": ["id-p"], "decline_reasons": ["p-main: image of label small is not available"]});
    Site::default().request(REQUEST, &failed).is(Verdict::Change, "failed", "image of label small is not available");
    // Where the record says that it was the site's, somebody of the site has to act; served it will not be, either way.
    let mut of_the_site = failed;
    of_the_site["decline_codes"] = json!(["pool-disabled", "image-missing"]);
    let site = Site::default().request(REQUEST, &of_the_site);
    site.is(Verdict::Act, "failed", "image of label small is not available");
    assert_eq!((site.explain().exit_code(), site.explain().goes_on()), (3, false));
}

#[test]
fn a_launcher_that_was_not_asked_is_named() {
    let mut site = Site::default().request(REQUEST, &json!({})).pool("p", &["small"]);
    site.asked.silent.push(Silent {
        hostname: "host".to_owned(),
        pools: vec!["p-main".to_owned()],
        why: "connection refused".to_owned(),
    });
    site.is(Verdict::Wait, "not-asked", "its launcher on host has not said");
    assert!(site.explain().render(NOW).contains("connection refused"));
}

#[test]
fn a_provider_in_trouble_is_a_thing_to_act_on() {
    let site = Site::default().request(REQUEST, &json!({})).pool("p", &["small"]);
    let site = site.says("p", Answer::Nothing).trouble("keystone: connection refused");
    site.is(Verdict::Act, "provider-in-trouble", "keystone: connection refused");
}

#[test]
fn an_accepted_request_is_told_what_is_under_way() {
    let pending = || Site::default().request(REQUEST, &json!({"state": "pending", "node_types": ["small", "small"]}));
    pending().pool("p", &["small"]).is(Verdict::Wait, "launcher-lost", "Another one puts it back");
    pending().is(Verdict::Act, "no-launcher", "no other one is running");
    pending().locked(REQUEST).is(Verdict::Wait, "accepted", "A launcher serves it");
    let launching = vec![Launching { node: "0000000007".to_owned(), label: "small".to_owned() }];
    let serves = |waits| Answer::Serves { ready: 1, done: Vec::new(), launching: launching.clone(), waits };
    let site = pending().locked(REQUEST).pool("p", &["small"]).says("p", serves(None));
    site.is(Verdict::Wait, "launching", "1 of 2 nodes ready, 1 launch under way");
    let between = Answer::Serves { ready: 1, done: Vec::new(), launching: Vec::new(), waits: None };
    pending().locked(REQUEST).says("p", between).is(
        Verdict::Wait,
        "between-steps",
        "1 of 2 nodes ready; the next step",
    );
    let Answer::Waits(said) = waits(Verdict::Wait, "no-room", "no core is left") else { unreachable!() };
    let site = pending().locked(REQUEST).says("p", serves(Some(said)));
    site.is(Verdict::Wait, "no-room", "the rest waits: no core is left");
    let site = pending().locked(REQUEST).says("p", serves(None)).trouble("503");
    site.is(Verdict::Act, "provider-in-trouble", "its provider has trouble: 503");
}

#[test]
fn a_request_that_has_its_nodes_says_whether_they_were_taken() {
    let fulfilled = || Site::default().request(REQUEST, &json!({"state": "fulfilled", "nodes": ["0000000007"]}));
    let node = json!({"state": "ready", "state_time": NOW, "type": ["small"], "allocated_to": REQUEST});
    fulfilled().node("0000000007", false, &node).is(
        Verdict::Fine,
        "waits-for-requestor",
        "not taken them yet: 0000000007",
    );
    fulfilled().node("0000000007", true, &node).is(Verdict::Fine, "served", "has taken them");
    Site::default().node("0000000007", true, &node).is(Verdict::Fine, "gone", "0000000007 (ready)");
    let subject = Subject::Request(REQUEST.into());
    assert_eq!(explain(&Records::default(), &subject, &Asked::default(), NOW), None);
}

fn of_node(records: &Records) -> Option<Explanation> {
    explain(records, &Subject::Node("0000000007".into()), &Asked::default(), NOW)
}

#[test]
fn a_node_is_explained_by_its_state_and_its_lock() {
    let cases = [
        ("building", true, None, Verdict::Wait, "launching"),
        ("building", false, None, Verdict::Wait, "to-be-deleted"),
        ("ready", false, None, Verdict::Fine, "in-stock"),
        ("ready", false, Some(REQUEST), Verdict::Wait, "waits-for-requestor"),
        ("ready", false, Some("200-0000000099"), Verdict::Wait, "set-aside-in-vain"),
        ("ready", true, Some(REQUEST), Verdict::Fine, "taken"),
        ("in-use", true, Some(REQUEST), Verdict::Fine, "in-use"),
        ("in-use", false, Some(REQUEST), Verdict::Wait, "to-be-deleted"),
        ("hold", false, None, Verdict::Fine, "held"),
        ("deleting", true, None, Verdict::Wait, "deleting"),
        ("failed", false, None, Verdict::Wait, "to-be-deleted"),
    ];
    for (state, is_locked, request, verdict, code) in cases {
        let data = json!({"state": state, "state_time": NOW - 5.0, "type": ["small"], "allocated_to": request, "provider": "p",
            "pool": "main", "external_id": "server-1"});
        let site = Site::default().request(REQUEST, &json!({})).node("0000000007", is_locked, &data);
        let explanation = of_node(&site.records).unwrap();
        assert_eq!(
            (explanation.verdict, explanation.code.as_str()),
            (verdict, code),
            "{state} {is_locked} {request:?}"
        );
        let text = explanation.render(NOW);
        assert!(text.contains("server-1") && text.contains("p-main") && text.contains("(5 s ago)"), "{text}");
    }
    assert_eq!(of_node(&Records::default()), None);
}

#[test]
fn a_node_that_is_kept_for_others_or_carries_others_says_so() {
    let explain = |site: Site| of_node(&site.records).unwrap().code;
    let ready = json!({"state": "ready", "state_time": NOW, "type": ["small"], "allocated_to": REQUEST});
    let pending = Site::default().request(REQUEST, &json!({"state": "pending"}));
    assert_eq!(explain(pending.node("0000000007", true, &ready)), "waits-for-others");
    let backing =
        json!({"owner": "NodePool:metastatic:meta", "label": "small", "slots": 2, "failed": false, "launched": NOW});
    let carries = json!({"state": "in-use", "state_time": NOW, "type": ["large"], "user_data": backing.to_string()});
    assert_eq!(explain(Site::default().node("0000000007", true, &carries)), "carries-nodes");
}

#[test]
fn what_a_program_reads_is_what_was_explained() {
    let site = Site::default().request(REQUEST, &json!({})).pool("p", &["small"]);
    let explanation = site.says("p", waits(Verdict::Wait, "no-room", "no core is left")).explain();
    let json = serde_json::to_string(&explanation).unwrap();
    assert_eq!(serde_json::from_str::<Explanation>(&json).unwrap(), explanation);
    assert!(json.contains(r#""verdict":"wait""#), "{json}");
}

#[test]
fn an_image_that_nobody_builds_is_not_said_to_be_built_again_by_itself() {
    let image = ImageName::from("noble");
    let gap = |state: &str, is_paused: bool| {
        let mut records = Records::default();
        let data = json!({"state": state, "state_time": NOW, "builder": "b1"}).to_string();
        let build = ImageBuild::read(image.clone(), "1".into(), data.as_bytes()).map(|(build, _)| Arc::new(build));
        records.builds.insert((image.clone(), "1".into()), entry(build, false));
        if is_paused {
            records.paused_images.insert(image.clone());
        }
        let gap = image::gap(&records, &image, &"p".into(), Paused::default(), NOW).unwrap();
        (gap.code, gap.ended_by)
    };
    let without_builder = "a builder that is started, and has the image in its file".to_owned();
    assert_eq!(gap("failed", false), ("image-build-failed", without_builder.clone()));
    assert_eq!(gap("building", false), ("no-builder", without_builder));
    let (code, ended_by) = gap("failed", true);
    assert!(code == "image-build-failed" && ended_by.contains("image-unpause"), "{code}: {ended_by}");
}
