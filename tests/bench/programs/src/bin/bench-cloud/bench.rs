//! What the benchmark itself asks, below /_bench.

use std::time::Instant;

use serde_json::{Value, json};

use super::reply::{Call, Reply};
use super::servers::{Cloud, IMAGE, NETWORKS};

/// `GET counters`; `POST reset` sets them to nothing (with `{"servers": true}` the servers, too); `POST seed` with
/// `{"nodes": [{"id", "provider", "pool"}]}` makes servers that are up, as an earlier launcher would have.
pub fn answer(cloud: &mut Cloud, call: &Call, path: &[&str], body: &[u8]) -> Reply {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match (call.method.as_str(), path) {
        ("GET", ["counters"]) => {
            cloud.reap(Instant::now());
            let total: u64 = cloud.calls.values().sum();
            Reply::new(
                200,
                &json!({"total": total, "calls": cloud.calls, "bytes_out": cloud.bytes_out,
                    "servers": cloud.servers(), "peak_servers": cloud.peak_servers, "created": cloud.created}),
            )
        }
        ("POST", ["reset"]) => {
            cloud.calls.clear();
            cloud.bytes_out = 0;
            cloud.created = 0;
            if body["servers"] == true {
                cloud.clear();
            }
            cloud.peak_servers = cloud.servers();
            Reply::new(200, &json!({}))
        }
        ("POST", ["seed"]) => {
            let nodes = body["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
            let made: Vec<Value> = nodes
                .iter()
                .map(|node| {
                    let name = format!("np{}", node["id"].as_str().unwrap_or_default());
                    let server = cloud.create(
                        &json!({"name": name, "flavorRef": "1", "imageRef": IMAGE, "metadata": {
                            "groups": "", "nodepool_node_id": node["id"], "nodepool_pool_name": node["pool"],
                            "nodepool_provider_name": node["provider"]}}),
                        true,
                    );
                    json!({"id": server.id(), "address": server.address(&NETWORKS[0])})
                })
                .collect();
            Reply::new(200, &json!({"servers": made}))
        }
        _ => Reply::not_found("page"),
    }
}
