//! What people see of the records: the tables that the command line prints and the HTTP API serves.
//!
//! Each function turns [`Records`] into a [`Table`], pure and at a given time; [`Table`] renders it as text or JSON.
//! Column keys, headers and values are nodepool 11.0.0's (`status.py`), to the character. Two
//! things differ on purpose: rows come in the order of their ids (upstream: in the order of the cache or of
//! ZooKeeper, which is arbitrary), and JSON rows of `request-list` may carry `decline_reasons`. A record that cannot
//! be used is left out; upstream ends the whole command there.

mod table;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};
pub use table::{Cell, Column, Row, Table, age};

use crate::model::{BuildState, ImageName, Json, LabelName, Node, NodeId, Records, Timestamp};

/// `/node-list` and `nodepool list --detail`.
pub const NODE_COLUMNS: &[Column] = &[
    ("id", "ID"),
    ("provider", "Provider"),
    ("label", "Label"),
    ("server_id", "Server ID"),
    ("public_ipv4", "Public IPv4"),
    ("ipv6", "IPv6"),
    ("state", "State"),
    ("age", "Age"),
    ("locked", "Locked"),
    ("pool", "Pool"),
    ("hostname", "Hostname"),
    ("private_ipv4", "Private IPv4"),
    ("AZ", "AZ"),
    ("username", "Username"),
    ("connection_port", "Port"),
    ("launcher", "Launcher"),
    ("allocated_to", "Allocated To"),
    ("hold_job", "Hold Job"),
    ("comment", "Comment"),
    ("user_data", "User Data"),
    ("driver_data", "Driver Data"),
];

/// The columns of `nodepool list` without `--detail`.
pub const NODE_FIELDS: &[&str] =
    &["id", "provider", "label", "server_id", "public_ipv4", "ipv6", "state", "age", "locked"];

/// `/request-list`.
pub const REQUEST_COLUMNS: &[Column] = &[
    ("id", "Request ID"),
    ("relative_priority", "Priority"),
    ("state", "State"),
    ("requestor", "Requestor"),
    ("node_types", "Node Types"),
    ("nodes", "Nodes"),
    ("declined_by", "Declined By"),
    ("event_id", "Event ID"),
];

/// `/image-list`.
pub const UPLOAD_COLUMNS: &[Column] = &[
    ("id", "Build ID"),
    ("upload_id", "Upload ID"),
    ("provider", "Provider"),
    ("image", "Image"),
    ("external_name", "Provider Image Name"),
    ("external_id", "Provider Image ID"),
    ("state", "State"),
    ("age", "Age"),
];

/// `/dib-image-list`.
pub const BUILD_COLUMNS: &[Column] = &[
    ("id", "ID"),
    ("image", "Image"),
    ("builder", "Builder"),
    ("formats", "Formats"),
    ("state", "State"),
    ("age", "Age"),
];

/// What `/dib-image-list` shows in place of a state.
pub const PAUSED: &str = "paused";

/// `/image-status`.
pub const IMAGE_COLUMNS: &[Column] = &[
    ("image", "Image"),
    ("paused", "Paused"),
    ("build_request", "Build Request"),
    ("build_request_age", "Build Request Age"),
];

/// All nodes, or the one of an id: no row where there is none.
pub fn node_list(records: &Records, only: Option<&str>, now: Timestamp) -> Table {
    let mut table = Table::new(NODE_COLUMNS, now);
    for (id, entry) in &records.nodes {
        if only.is_none_or(|only| only == id.as_str())
            && let Some(node) = entry.usable()
        {
            table.push(node_row(id, node, entry.is_locked()));
        }
    }
    table
}

fn node_row(id: &NodeId, node: &Node, locked: bool) -> Row {
    let before = [
        json!(id),
        json!(node.provider),
        json!(node.labels),
        json!(node.external_id),
        json!(node.public_ipv4),
        json!(node.public_ipv6),
        json!(node.state.as_str()),
    ];
    let after = [
        json!(if locked { "locked" } else { "unlocked" }),
        json!(node.pool),
        json!(node.hostname),
        json!(node.private_ipv4),
        json!(node.az),
        json!(node.username),
        port(&node.connection_port),
        json!(node.launcher),
        json!(node.allocated_to),
        json!(node.hold_job),
        json!(node.comment),
        node.user_data.as_ref().map_or(Value::Null, Json::view),
        json!(node.driver_data),
    ];
    // The other tables have epoch seconds in JSON.
    let age = Cell::SinceAsText(node.state_time);
    let cells = before.into_iter().map(Cell::Value).chain([age]).chain(after.into_iter().map(Cell::Value));
    Row { cells: cells.collect(), json_only: Map::new() }
}

/// For pods the "port" is a kubeconfig with its token: whatever is not a number is not for everybody's eyes.
fn port(port: &Value) -> Value {
    let is_number = match port {
        Value::Number(_) => true,
        Value::String(text) => text.trim().parse::<i64>().is_ok(),
        _ => false,
    };
    if is_number { port.clone() } else { json!("redacted") }
}

/// All node requests.
pub fn request_list(records: &Records, now: Timestamp) -> Table {
    let mut table = Table::new(REQUEST_COLUMNS, now).with_json_only(&["decline_reasons"]);
    for (id, request) in records.requests.iter().filter_map(|(id, entry)| Some((id, entry.usable()?))) {
        let mut row = Row::of(vec![
            json!(id),
            json!(request.relative_priority),
            json!(request.state.as_str()),
            json!(request.requestor),
            json!(request.node_types),
            json!(request.nodes),
            json!(request.declined_by),
            json!(request.event_id),
        ]);
        if !request.decline_reasons.is_empty() {
            row.json_only.insert("decline_reasons".to_owned(), json!(request.decline_reasons));
        }
        table.push(row);
    }
    table
}

/// All uploads.
pub fn image_list(records: &Records, now: Timestamp) -> Table {
    let mut table = Table::new(UPLOAD_COLUMNS, now);
    let mut uploads: Vec<_> = records.uploads.iter().filter_map(|(key, entry)| Some((key, entry.usable()?))).collect();
    // The records have the provider before the build; people look for a build's uploads.
    uploads.sort_by(|(a, _), (b, _)| {
        (&a.image, &a.build, &a.provider, &a.id).cmp(&(&b.image, &b.build, &b.provider, &b.id))
    });
    for (key, upload) in uploads {
        table.push(Row {
            cells: vec![
                json!(key.build).into(),
                json!(key.id).into(),
                json!(key.provider).into(),
                json!(key.image).into(),
                json!(upload.external_name).into(),
                json!(upload.external_id).into(),
                json!(upload.state.as_str()).into(),
                Cell::since(upload.state_time),
            ],
            json_only: Map::new(),
        });
    }
    table
}

/// All builds. A paused image's builds show `paused` in place of their state.
pub fn dib_image_list(records: &Records, now: Timestamp) -> Table {
    let mut table = Table::new(BUILD_COLUMNS, now);
    for ((image, id), build) in records.builds.iter().filter_map(|(key, entry)| Some((key, entry.usable()?))) {
        let paused = records.paused_images.contains(image);
        table.push(Row {
            cells: vec![
                json!(format!("{image}-{id}")).into(),
                json!(image).into(),
                json!(build.builder).into(),
                json!(build.formats).into(),
                json!(if paused { PAUSED } else { build.state.as_str() }).into(),
                Cell::since(build.state_time),
            ],
            json_only: Map::new(),
        });
    }
    table
}

/// All images: whether they are paused, and what became of a manual build request. `building` tells whether a
/// builder is at work on an image's request; [`is_building`] answers from the records.
pub fn image_status(records: &Records, building: impl Fn(&ImageName) -> bool, now: Timestamp) -> Table {
    let mut table = Table::new(IMAGE_COLUMNS, now);
    for image in &records.images {
        let (request, since) = match records.build_requests.get(image) {
            None => (Value::Null, Value::Null.into()),
            Some(stat) => {
                (json!(if building(image) { "building" } else { "pending" }), Cell::Since(stat.ctime.div_euclid(1000)))
            }
        };
        table.push(Row {
            cells: vec![
                json!(image).into(),
                json!(records.paused_images.contains(image)).into(),
                request.into(),
                since,
            ],
            json_only: Map::new(),
        });
    }
    table
}

/// Whether a build of this image is going on, as far as the records say.
pub fn is_building(records: &Records, image: &ImageName) -> bool {
    records
        .builds
        .iter()
        .any(|((of, _), entry)| of == image && entry.usable().is_some_and(|b| b.state == BuildState::Building))
}

/// Every label that some registered pool of the cluster serves, once.
pub fn label_list(records: &Records, now: Timestamp) -> Table {
    let mut table = Table::new(&[("label", "Label")], now);
    let labels: BTreeSet<&LabelName> = records.pools.values().flat_map(|pool| &pool.supported_labels).collect();
    for label in labels {
        table.push(Row::of(vec![json!(label)]));
    }
    table
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Entry, ImageBuild, ImageName, ImageUpload, NodeRequest, PoolComponent, Stat, UploadKey};

    const NOW: Timestamp = 1_760_000_000.5;

    fn entry<T>(record: T, contenders: &[&str]) -> Arc<Entry<T>> {
        Arc::new(Entry {
            record: Ok(Arc::new(record)),
            stat: Stat::default(),
            contenders: contenders.iter().copied().collect(),
            free_since: None,
        })
    }

    fn add_node(records: &mut Records, id: &str, contenders: &[&str], data: &str) {
        let (node, oddities) = Node::read(id.into(), data.as_bytes()).unwrap();
        assert!(oddities.is_empty(), "{oddities:?}");
        records.nodes.insert(id.into(), entry(node, contenders));
    }

    #[test]
    fn the_node_table_is_upstreams_to_the_character() {
        let mut records = Records::default();
        add_node(
            &mut records,
            "0000000002",
            &["5f0c__lock__0000000000"],
            r#"{"state": "in-use", "state_time": 1759913599.25, "provider": "rdo", "type": ["a", "b"], "external_id": "x1"}"#,
        );
        add_node(&mut records, "0000000001", &[], r#"{"state": "ready", "state_time": 1759999999.9, "type": ["a"]}"#);
        assert_eq!(
            node_list(&records, None, NOW).render_text(Some(NODE_FIELDS)),
            "\
+------------+----------+-------+-----------+-------------+------+--------+-------------+----------+
| ID         | Provider | Label | Server ID | Public IPv4 | IPv6 | State  | Age         | Locked   |
+------------+----------+-------+-----------+-------------+------+--------+-------------+----------+
| 0000000001 |          | a     |           |             |      | ready  | 00:00:00:00 | unlocked |
| 0000000002 | rdo      | a,b   | x1        |             |      | in-use | 01:00:00:01 | locked   |
+------------+----------+-------+-----------+-------------+------+--------+-------------+----------+"
        );
        assert!(
            node_list(&records, None, NOW).render_json().contains(r#""age": "01:00:00:01""#),
            "a text, as upstream's"
        );
        assert_eq!(node_list(&records, Some("0000000002"), NOW).rows().len(), 1);
        assert_eq!(node_list(&records, Some("0000000003"), NOW).render_json(), "[]");
    }

    #[test]
    fn a_pods_credentials_are_redacted_and_numbers_are_not() {
        let mut records = Records::default();
        for (id, port) in [("1", "22"), ("2", "\" 22\""), ("3", "{\"token\": \"s3cret\"}"), ("4", "\"s3cret\"")] {
            add_node(&mut records, id, &[], &format!(r#"{{"state": "ready", "connection_port": {port}}}"#));
        }
        let json: Value = serde_json::from_str(&node_list(&records, None, NOW).render_json()).unwrap();
        let ports: Vec<_> = json.as_array().unwrap().iter().map(|row| &row["connection_port"]).collect();
        assert_eq!(ports, [&json!(22), &json!(" 22"), &json!("redacted"), &json!("redacted")]);
        assert!(!node_list(&records, None, NOW).render_text(None).contains("s3cret"));
    }

    #[test]
    fn json_keeps_lists_and_nulls_and_adds_the_reasons_of_a_decline() {
        let mut records = Records::default();
        let data = br#"{"state": "failed", "node_types": ["a", "a"], "declined_by": ["l1"], "decline_reasons": ["rdo-main: no flavor"]}"#;
        let (request, _) = NodeRequest::read("200-0000000001".into(), data).unwrap();
        records.requests.insert("200-0000000001".into(), entry(request, &[]));
        let table = request_list(&records, NOW);
        assert_eq!(
            table.render_json(),
            r#"[{"id": "200-0000000001", "relative_priority": 0, "state": "failed", "requestor": null, "node_types": ["a", "a"], "nodes": [], "declined_by": ["l1"], "event_id": null, "decline_reasons": ["rdo-main: no flavor"]}]"#
        );
        assert!(!table.render_text(None).contains("no flavor"), "the columns of the text are fixed");
    }

    #[test]
    fn builds_of_a_paused_image_show_paused_and_ages_are_epoch_seconds_in_json() {
        let mut records = Records::default();
        records.images.extend(["img", "other"].map(ImageName::from));
        let data = br#"{"state": "ready", "state_time": 1759999940.9, "builder": "b1", "formats": "qcow2,raw"}"#;
        let (build, _) = ImageBuild::read("img".into(), "c0ffee".into(), data).unwrap();
        records.builds.insert(("img".into(), "c0ffee".into()), entry(build, &[]));
        records.build_requests.insert("img".into(), Stat { ctime: 1_759_999_990_999, ..Stat::default() });
        assert_eq!(
            dib_image_list(&records, NOW).render_json(),
            r#"[{"id": "img-c0ffee", "image": "img", "builder": "b1", "formats": ["qcow2", "raw"], "state": "ready", "age": 1759999940}]"#
        );
        records.paused_images.insert("img".into());
        let text = dib_image_list(&records, NOW).render_text(None);
        assert!(text.contains("| img-c0ffee | img   | b1      | qcow2,raw | paused | 00:00:01:00 |"), "{text}");
        let status = image_status(&records, |image| is_building(&records, image), NOW);
        assert!(!is_building(&records, &"img".into()));
        assert_eq!(
            status.render_text(None),
            "\
+-------+--------+---------------+-------------------+
| Image | Paused | Build Request | Build Request Age |
+-------+--------+---------------+-------------------+
| img   | True   | pending       | 00:00:00:10       |
| other | False  |               |                   |
+-------+--------+---------------+-------------------+"
        );
        assert!(status.render_json().starts_with(
            r#"[{"image": "img", "paused": true, "build_request": "pending", "build_request_age": 1759999990}"#
        ));
    }

    #[test]
    fn uploads_of_one_build_stand_together() {
        let mut records = Records::default();
        for (provider, build, id) in [("p1", "b2", "1"), ("p1", "b1", "1"), ("p2", "b1", "1")] {
            let key = UploadKey { image: "i".into(), provider: provider.into(), build: build.into(), id: id.into() };
            let data = br#"{"state": "ready", "state_time": 1759999940.9}"#;
            let (upload, _) = ImageUpload::read("i".into(), build.into(), provider.into(), id.into(), data).unwrap();
            records.uploads.insert(key, entry(upload, &[]));
        }
        let json: Value = serde_json::from_str(&image_list(&records, NOW).render_json()).unwrap();
        let order: Vec<_> = json.as_array().unwrap().iter().map(|r| format!("{}{}", r["id"], r["provider"])).collect();
        assert_eq!(order, ["\"b1\"\"p1\"", "\"b1\"\"p2\"", "\"b2\"\"p1\""]);
        assert_eq!(json[0]["age"], json!(1_759_999_940));
    }

    /// Of each table one row, with every kind of value.
    #[test]
    fn records_have_all_keys_and_ages_in_seconds() {
        let mut records = Records::default();
        add_node(
            &mut records,
            "0000000001",
            &[],
            r#"{"state": "ready", "state_time": 1759999939.9, "type": ["a", "b"]}"#,
        );
        let nodes = node_list(&records, None, NOW).records();
        assert_eq!(
            (&nodes[0]["age"], &nodes[0]["label"], &nodes[0]["ipv6"]),
            (&json!(60), &json!(["a", "b"]), &Value::Null)
        );
        let keys: Vec<_> = nodes[0].keys().map(String::as_str).collect();
        assert_eq!(keys, NODE_COLUMNS.iter().map(|(key, _)| *key).collect::<Vec<_>>());

        let (request, _) = NodeRequest::read("200-0000000001".into(), br#"{"state": "requested"}"#).unwrap();
        records.requests.insert("200-0000000001".into(), entry(request, &[]));
        assert_eq!(
            request_list(&records, NOW).records()[0]["decline_reasons"],
            Value::Null,
            "also where there is none"
        );

        let (build, _) =
            ImageBuild::read("img".into(), "c0ffee".into(), br#"{"state": "ready", "state_time": 1759999940.9}"#)
                .unwrap();
        records.builds.insert(("img".into(), "c0ffee".into()), entry(build, &[]));
        assert_eq!(dib_image_list(&records, NOW).records()[0]["age"], json!(60));
        records.images.insert("img".into());
        assert_eq!(image_status(&records, |_| false, NOW).records()[0]["build_request_age"], Value::Null);
    }

    #[test]
    fn a_label_of_several_pools_is_listed_once() {
        let mut records = Records::default();
        for (name, labels) in [("h0000000001", r#"["b", "a"]"#), ("h0000000002", r#"["b"]"#)] {
            let data = format!(r#"{{"supported_labels": {labels}}}"#);
            let (pool, _) = PoolComponent::read(name, data.as_bytes()).unwrap();
            records.pools.insert(name.to_owned(), Arc::new(pool));
        }
        assert_eq!(label_list(&records, NOW).render_json(), r#"[{"label": "a"}, {"label": "b"}]"#);
    }
}
