//! What arrives at a statsd server, and what Prometheus would read.

use std::{collections::BTreeMap, net::UdpSocket, time::Duration};

use super::*;
use crate::model::{Entry, LabelName, Node, NodeState, Records, Stat};

struct Server(UdpSocket);

impl Server {
    fn start() -> (Self, Stats) {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let stats = Stats::new(Some(("localhost", socket.local_addr().unwrap().port())));
        assert!(stats.has_statsd());
        (Self(socket), stats)
    }

    fn packet(&self) -> String {
        let mut buffer = [0; 2048];
        let read = self.0.recv(&mut buffer).expect("a packet");
        String::from_utf8(buffer[..read].to_vec()).unwrap()
    }

    /// The next `n` lines, taken apart as upstream's tests do it.
    fn lines(&self, n: usize) -> BTreeMap<String, Vec<String>> {
        let mut lines = BTreeMap::<String, Vec<String>>::new();
        let mut got = 0;
        while got < n {
            let packet = self.packet();
            assert!(packet.len() <= 512, "{}", packet.len());
            for line in packet.split('\n') {
                let (name, value) = line.split_once(':').expect("a line without a name");
                lines.entry(name.to_owned()).or_default().push(value.to_owned());
                got += 1;
            }
        }
        assert_eq!(got, n, "{lines:?}");
        lines
    }

    fn is_quiet(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let quiet = self.0.recv(&mut [0; 16]).is_err();
        self.0.set_nonblocking(false).unwrap();
        quiet
    }
}

#[test]
fn a_launch_is_reported_under_upstreams_four_names() {
    let (server, stats) = Server::start();
    stats.launch_result(
        &"rdo".into(),
        Some("nova"),
        &"small".into(),
        Some("zuul.a:b"),
        "error.quota",
        Duration::from_millis(12_345),
    );
    let lines = server.lines(8);
    for name in [
        "nodepool.launch.error.quota",
        "nodepool.launch.provider.rdo.error.quota",
        "nodepool.launch.provider.rdo.nova.error.quota",
        "nodepool.launch.requestor.zuul_a_b.error.quota",
    ] {
        assert_eq!(lines[name], ["12345|ms", "1|c"], "{name}");
    }
    stats.launch_result(&"rdo".into(), None, &"small".into(), None, "ready", Duration::from_secs(1));
    let lines = server.lines(4);
    assert_eq!(lines.keys().collect::<Vec<_>>(), ["nodepool.launch.provider.rdo.ready", "nodepool.launch.ready"]);
}

#[test]
fn a_call_of_openstack_is_counted_as_openstacksdk_does() {
    let (server, stats) = Server::start();
    stats.sdk_call(None, "openstack.api.compute.GET.servers_detail", Some(200), Duration::from_millis(1500));
    // The time first: a statsd_exporter takes the first kind for all that its rule brings together.
    assert_eq!(
        server.packet().lines().collect::<Vec<_>>(),
        [
            "openstack.api.compute.GET.servers_detail.200:1500|ms",
            "openstack.api.compute.GET.servers_detail.200:1|c",
            "openstack.api.compute.GET.servers_detail.over_1000:1|c",
            "openstack.api.compute.GET.servers_detail.attempted:1|c",
        ]
    );
    stats.sdk_call(None, "clouds.one.image.PUT.image_file", None, Duration::from_secs(30));
    assert_eq!(
        server.packet(),
        "clouds.one.image.PUT.image_file.failed:1|c\nclouds.one.image.PUT.image_file.attempted:1|c"
    );
}

#[test]
fn whole_gauges_have_no_fraction_and_infinity_is_inf() {
    let (server, stats) = Server::start();
    stats.max_servers(&"rdo".into(), 96.0);
    assert_eq!(server.packet(), "nodepool.provider.rdo.max_servers:96|g");
    stats.max_servers(&"rdo".into(), f64::INFINITY);
    assert_eq!(server.packet(), "nodepool.provider.rdo.max_servers:inf|g");
    stats.tenant_limit("tenant.one", "volume:gb", 1.5);
    assert_eq!(server.packet(), "nodepool.tenant_limits.tenant_one.volume_gb:1.5|g");
    stats.leaked(&"rdo".into(), "floatingips", 2);
    assert_eq!(server.packet(), "nodepool.provider.rdo.leaked.floatingips:2|c");
    stats.leaked(&"rdo".into(), "instances", 0);
    assert!(server.is_quiet());
}

#[test]
fn the_seven_queues_are_reported_under_the_hosts_name() {
    let (server, stats) = Server::start();
    stats.zk_queues("launcher0", &ZkQueues { connection_queue: 3, ..ZkQueues::default() });
    let lines = server.lines(7);
    assert_eq!(lines["nodepool.launcher.launcher0.zk.client.connection_queue"], ["3|g"]);
    for cache in ["node", "request", "image"] {
        for queue in ["event", "playback"] {
            assert_eq!(lines[&format!("nodepool.launcher.launcher0.zk.{cache}_cache.{queue}_queue")], ["0|g"]);
        }
    }
}

fn counts(labels: &[&str], ready: usize) -> NodeCounts {
    let mut records = Records::default();
    for id in 0..ready {
        let mut node = Node::new(0.0);
        node.state = NodeState::Ready;
        node.provider = Some("rdo".into());
        node.labels = vec!["a".into()];
        let entry = Entry::unlocked(Ok(Arc::new(node)), Stat::default());
        records.nodes.insert(format!("{id:010}").into(), entry);
    }
    let labels = labels.iter().map(|label| LabelName::from(*label)).collect::<Vec<_>>();
    count_nodes(&records, [&"rdo".into()], &labels)
}

#[test]
fn only_what_has_changed_is_sent_again() {
    let (server, stats) = Server::start();
    stats.nodes(&counts(&["a"], 1), false);
    let lines = server.lines(33);
    assert_eq!(lines["nodepool.nodes.ready"], ["1|g"]);
    assert_eq!(lines["nodepool.provider.rdo.nodes.in-use"], ["0|g"]);
    assert_eq!(lines["nodepool.label.a.nodes.ready"], ["1|g"]);

    stats.nodes(&counts(&["a"], 1), false);
    assert!(server.is_quiet());
    stats.nodes(&counts(&["a"], 2), false);
    assert_eq!(server.lines(3)["nodepool.nodes.ready"], ["2|g"]);
    stats.nodes(&counts(&["a"], 2), true);
    server.lines(33);
}

#[test]
fn what_has_vanished_is_set_to_zero_once() {
    let (server, stats) = Server::start();
    stats.nodes(&counts(&["a", "b"], 0), false);
    server.lines(44);
    assert!(stats.render().contains(r#"nodepool_label_nodes{label="b",state="ready"} 0"#));
    stats.addressable_requests(&BTreeMap::from([(("rdo".into(), "main".into()), 4)]), false);
    assert_eq!(server.packet(), "nodepool.provider.rdo.pool.main.addressable_requests:4|g");
    stats.addressable_requests(&BTreeMap::new(), false);
    assert_eq!(server.packet(), "nodepool.provider.rdo.pool.main.addressable_requests:0|g");
    stats.nodes(&counts(&["a"], 0), false);
    assert!(server.is_quiet(), "label b was at zero already");
    assert!(!stats.render().contains(r#"label="b""#));
    stats.stop_leading();
    assert!(!stats.render().contains("nodepool_nodes{"));
}

#[test]
fn prometheus_has_labels_and_what_statsd_has_not() {
    let stats = Stats::new(None);
    let (provider, pool) = ("rdo".into(), "main".into());
    stats.launch_result(&provider, None, &"small".into(), Some("zs"), "ready", Duration::from_secs(20));
    stats.max_servers(&provider, f64::INFINITY);
    stats.request_decision(&provider, &pool, RequestDecision::Accepted);
    stats.request_fulfilled_after(&provider, &pool, Some(&"small".into()), Duration::from_secs(21));
    stats.request_fulfilled_after(&provider, &pool, None, Duration::from_secs(21));
    stats.cloud_call(&provider, "create_server", Some("quota"), Duration::from_millis(300));
    stats.host_key_scan(&provider, true, Duration::from_secs(1));
    stats.config_reload_failed();
    stats.zk_connected(true);
    stats.zk_session();
    stats.zk_reply(Duration::from_millis(3));
    stats.plan(Duration::from_micros(50));
    let text = stats.render();
    for line in [
        r#"nodepool_launches_total{az="",provider="rdo",result="ready"} 1"#,
        r#"nodepool_launch_seconds_bucket{label="small",provider="rdo",result="ready",le="20"} 1"#,
        r#"nodepool_requestor_launches_total{requestor="zs",result="ready"} 1"#,
        r#"nodepool_provider_max_servers{provider="rdo"} +Inf"#,
        r#"nodepool_requests_total{decision="accepted",pool="main",provider="rdo"} 1"#,
        r#"nodepool_request_seconds_count{label="small",pool="main",provider="rdo"} 1"#,
        r#"nodepool_request_seconds_count{label="",pool="main",provider="rdo"} 1"#,
        r#"nodepool_cloud_calls_total{operation="create_server",provider="rdo"} 1"#,
        r#"nodepool_cloud_errors_total{class="quota",operation="create_server",provider="rdo"} 1"#,
        r#"nodepool_host_key_scan_seconds_count{provider="rdo",result="ok"} 1"#,
        "nodepool_config_valid 0",
        "nodepool_config_reload_failures_total 1",
        "nodepool_zk_connected 1",
        "nodepool_zk_sessions_total 1",
        r#"nodepool_zk_reply_seconds_bucket{le="0.002"} 0"#,
        r#"nodepool_zk_reply_seconds_bucket{le="0.005"} 1"#,
        r#"nodepool_plan_seconds_bucket{le="0.0001"} 1"#,
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
}

#[test]
fn ages_that_are_no_longer_reported_vanish() {
    let stats = Stats::new(None);
    let has = |line: &str| stats.render().lines().any(|found| found == line);
    let mut ages = Ages::of(&Records::default(), []);
    ages.waiting.insert("a".into(), 1000.5);
    ages.nodes.insert(("rdo".into(), NodeState::Deleting), 900.0);
    ages.built.insert("jammy".into(), 800.0);
    ages.failed.insert("jammy".into(), 850.0);
    ages.uploaded.insert(("jammy".into(), "rdo".into()), 0.0);
    stats.ages(&ages);
    let lines = [
        r#"nodepool_node_requests{state="pending"} 0"#,
        r#"nodepool_oldest_request_timestamp_seconds{label="a"} 1000.5"#,
        r#"nodepool_oldest_node_timestamp_seconds{provider="rdo",state="deleting"} 900"#,
        r#"nodepool_image_built_timestamp_seconds{image="jammy"} 800"#,
        r#"nodepool_image_failed_timestamp_seconds{image="jammy"} 850"#,
        r#"nodepool_image_uploaded_timestamp_seconds{image="jammy",provider="rdo"} 0"#,
    ];
    assert!(lines.into_iter().all(has), "{}", stats.render());
    stats.ages(&Ages::of(&Records::default(), []));
    assert!(has("nodepool_builders 0"));
    assert!(has(lines[0]) && !lines[1..].iter().any(|line| has(line)), "{}", stats.render());
    stats.ages(&ages);
    stats.stop_leading();
    assert!(!lines.into_iter().any(has), "another launcher reports them now: {}", stats.render());

    for paused in [Some(false), Some(true)] {
        stats.pool_paused(&"rdo".into(), &"main".into(), paused);
        stats.pool_paused_by_person(&"rdo".into(), &"main".into(), paused);
    }
    stats.pool_paused(&"aws".into(), &"main".into(), Some(false));
    stats.pool_paused(&"aws".into(), &"main".into(), None);
    assert!(has(r#"nodepool_pool_paused_by_person{pool="main",provider="rdo"} 1"#));
    assert!(has(r#"nodepool_pool_paused{pool="main",provider="rdo"} 1"#) && !stats.render().contains("aws"));
}

#[test]
fn a_scrape_never_falls_between_old_values_and_new_ones() {
    let stats = Stats::new(None);
    let providers: BTreeMap<_, _> = (0..100).map(|n| (ProviderName::from(format!("p{n}").as_str()), true)).collect();
    let held: BTreeMap<_, _> = providers.keys().map(|name| ((name.clone(), "images".to_owned()), 3)).collect();
    let report = || {
        stats.providers_up(&providers);
        stats.held_back(&held);
        stats.nodes(&counts(&["a", "b"], 1), false);
    };
    report();
    let whole = stats.render().lines().count();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        threads.spawn(|| {
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                report();
            }
        });
        let lacks = (0..300).find_map(|_| Some(stats.render().lines().count()).filter(|lines| *lines != whole));
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(lacks, None, "of {whole} lines");
    });
}

#[test]
fn a_statsd_host_that_cannot_be_resolved_costs_its_packets_only() {
    let stats = Stats::new(Some(("no.such.host.invalid", 8125)));
    stats.max_servers(&"rdo".into(), 1.0);
    assert!(stats.render().contains("nodepool_provider_max_servers"));
}
