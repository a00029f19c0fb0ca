//! A launcher that is given its time and its chance does the same each time, and nobody waits for it.

use nodepool_common::{
    sys::{Ambient, clock::Simulated, entropy::Entropy},
    zk::{ZooKeeper, memory::Memory},
};

use super::*;

const START: Timestamp = 1_760_000_000.0;

/// A launcher that keeps two nodes in stock, each no longer than ten minutes; nothing runs yet. It has a ZooKeeper in memory, this
/// clock, and chance of this seed.
fn launcher_with(simulated: &Simulated, seed: u64) -> (Arc<Launcher>, Core, Loaded, TempDir) {
    let provider = json!({
        "name": "p", "driver": "fake", "cloud": "fake",
        "cloud-images": [{"name": "image", "username": "zuul"}],
        "pools": [{"name": "main", "labels": [{"name": "a", "cloud-image": "image", "min-ram": 1}]}],
    });
    let (_, dir) = start(free_port(), &[provider]);
    keep_in_stock(&dir, json!([{"name": "a", "min-ready": 2, "max-ready-age": 600}]));
    let mut start = Start::load(&dir.path().join("nodepool.yaml"), None).unwrap();
    start.ambient = Ambient { clock: simulated.clock(), entropy: Entropy::seeded(seed) };
    let clock = simulated.clock();
    #[allow(clippy::cast_possible_truncation)] // ms since the epoch fit
    let memory = Memory::new(move || (clock.now() * 1000.0) as i64);
    let (frame, loaded) = start.connect_with(Arc::new(memory), Duration::from_secs(10), Stats::new(None));
    let (launcher, core) = Launcher::new(options(), frame);
    (launcher, core, loaded, dir)
}

/// Runs such a launcher for more than an hour; returns all that is in ZooKeeper then.
fn an_hour_with(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (launcher, core, loaded, _dir) = launcher_with(&Simulated::starting_at(START), seed);
        let running = Arc::clone(&launcher);
        let running = tokio::spawn(async move { daemon::run(&running, core, &loaded).await });
        tokio::time::sleep(Duration::from_secs(3900)).await;
        let mut found = Vec::new();
        dump(&launcher.zk, "/nodepool".to_owned(), &mut found).await;
        launcher.frame.shutdown.request(ShutdownReason::Terminate);
        running.await.unwrap();
        found
    })
}

fn keep_in_stock(dir: &TempDir, labels: Value) {
    let file = dir.path().join("nodepool.yaml");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["labels"] = labels;
    fs::write(&file, config.to_string()).unwrap();
}

/// A path and all below it, each with its data.
async fn dump(zk: &ZooKeeper, path: String, found: &mut Vec<String>) {
    let (data, _) = zk.get(&path).await.unwrap().unwrap_or_default();
    found.push(format!("{path} {}", String::from_utf8_lossy(&data)));
    let mut children = zk.children(&path).await.unwrap();
    children.sort();
    for child in children {
        Box::pin(dump(zk, format!("{path}/{child}"), found)).await;
    }
}

#[test]
fn the_same_seed_gives_the_same_records_twice_after_an_hour_that_nobody_waits_for() {
    let first = an_hour_with(7);
    let nodes: Vec<_> = first.iter().filter(|line| line.contains("\"state\": \"ready\"")).collect();
    assert_eq!(nodes.len(), 2, "{first:#?}");
    assert!(nodes.iter().all(|line| line.starts_with("/nodepool/nodes/00000000")), "{nodes:#?}");
    // Two for each ten minutes.
    assert!(nodes.iter().any(|line| line.starts_with("/nodepool/nodes/0000000013")), "{nodes:#?}");
    let second = an_hour_with(7);
    for (first, second) in first.iter().zip(&second) {
        assert_eq!(first, second);
    }
    assert_eq!(first.len(), second.len());
    assert_ne!(first, an_hour_with(8), "the ids of pools differ");
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_as_long_as_it_was_meant_whoever_sets_the_clock_meanwhile() {
    for hours in [2.0, -2.0] {
        let simulated = Simulated::starting_at(START);
        let (launcher, mut core, _loaded, _dir) = launcher_with(&simulated, 7);
        let pause = Duration::from_secs(60);
        let request = RequestId::from("100-0000000001");
        core.book.reports().tell(Event::RequestLocked { request: request.clone(), pause });
        launcher.catch_up(&mut core);
        simulated.set_by(hours * 3600.0);
        // As the loop does when it notices that.
        Daemon::clock_stepped(&*launcher, &mut core, hours * 3600.0);
        let waits = |core: &mut Core| {
            core.book.tidy(launcher.clock.uptime());
            core.book.requests_after.contains_key(&request)
        };
        tokio::time::advance(Duration::from_secs(59)).await;
        assert!(waits(&mut core), "{hours}");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!waits(&mut core), "{hours}");
        launcher.zk.close().await;
    }
}
