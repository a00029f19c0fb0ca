//! What the cache keeps of many nodes; alone in its process, whose memory is counted.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod zk_common;

use std::alloc::System;

use futures::future::join_all;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use zk_common::*;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const NODES: usize = 2000;
/// Of one node's record, with all that the cache has of it.
const MOST: usize = 2560;

/// A ready node of OpenStack, as Python Nodepool writes it.
const NODE: &str = r#"{"state": "ready", "state_time": 1760000000.123456, "cloud": "our-cloud", "provider": "our-provider",
"pool": "main", "type": ["ubuntu-noble"], "allocated_to": null, "az": "nova", "region": "RegionOne",
"public_ipv4": "203.0.113.100", "private_ipv4": "10.20.30.100", "public_ipv6": "", "host_id":
"6d1a8b2c3d4e5f60718293a4b5c6d7e8f9a0b1c2d3e4f5061728394a", "interface_ip": "203.0.113.100", "connection_port": 22,
"ssh_port": 22, "image_id": "ubuntu-noble", "launcher": "launcher.example.com-PoolWorker.our-provider-main-0a1b2c3d4e5f",
"created_time": 1760000000.123456, "hostname": "np0000000001", "external_id": "3f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
"comment": null, "user_data": null, "hold_job": null, "host_keys": ["ssh-ed25519
AAAAC3NzaC1lZDI1NTE5AAAAIB0aG91Z2h0cyBhcmUgZnJlZSBhbmQga2V5cyBhcmUgbm90"], "username": "zuul", "connection_type": "ssh",
"shell_type": null, "hold_expiration": null, "resources": {"cores": 4, "instances": 1, "ram": 8192}, "slot": null,
"attributes": null, "python_path": "auto", "tenant_name": "our-tenant", "driver_data": null,
"requestor": "NodePool:min-ready", "node_properties": {}}"#;

fn in_use() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

#[tokio::test]
async fn a_node_takes_little_memory() {
    let other = stranger(&SERVER, "/memory").await;
    for parent in ["/nodepool/nodes", "/nodepool/requests"] {
        other.mkdir(parent, &PERSISTENT).await.unwrap();
    }
    // What is made once, at the first connection, is not the nodes'.
    open_with_cache("/memory").await.close().await;
    let record = NODE.replace('\n', " ");
    let paths: Vec<String> = (0..NODES).map(|i| format!("/nodepool/nodes/{i:010}")).collect();
    for created in join_all(paths.iter().map(|path| other.create(path, record.as_bytes(), &PERSISTENT))).await {
        created.unwrap();
    }
    let before = in_use();
    let zk = open_with_cache("/memory").await;
    let known = zk.cache().read(|records| records.nodes.values().filter(|node| node.usable().is_some()).count());
    assert_eq!(known, NODES);
    let each = in_use().saturating_sub(before) / NODES;
    eprintln!("{each} bytes a node");
    assert!(each <= MOST, "{each} bytes a node");
    zk.close().await;
}
