//! A launcher that has less of a processor than a burst could use, as in a pod of the operator (half of one): no session is
//! lost. Here it has a tenth, because debug programs on a busy machine may not come to use half of one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails that way

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use nodepool_testing::ZooKeeperServer;
use serde_json::json;
use support::*;

const REQUESTS: u32 = 100;

/// A control group whose processes have a tenth of a processor; taken away when it is dropped.
struct ATenth(PathBuf);

impl ATenth {
    /// `Err`: why this machine cannot.
    fn new() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        let (parent, file, limit) = if root.join("cgroup.controllers").exists() {
            (root.to_owned(), "cpu.max", "10000 100000")
        } else {
            (root.join("cpu"), "cpu.cfs_quota_us", "10000")
        };
        let group = parent.join(format!("nodepool-test-{}", std::process::id()));
        let what = |error| format!("{}: {error}", group.display());
        fs::create_dir(&group).map_err(what)?;
        let this = Self(group.clone());
        fs::write(group.join(file), limit).map_err(what)?;
        Ok(this)
    }

    fn holds(&self, pid: u32) {
        fs::write(self.0.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// How often its processes had to wait for their next share.
    fn throttled(&self) -> u64 {
        let stat = fs::read_to_string(self.0.join("cpu.stat")).unwrap();
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap().parse().unwrap()
    }
}

impl Drop for ATenth {
    fn drop(&mut self) {
        // The launcher's end may not be known to the kernel's accounts yet.
        let mut tries = 0;
        while fs::remove_dir(&self.0).is_err() && tries < 100 {
            std::thread::sleep(Duration::from_millis(20));
            tries += 1;
        }
    }
}

#[tokio::test]
async fn a_burst_on_little_of_a_processor_costs_no_session() {
    let _alone = alone().await;
    let group = match ATenth::new() {
        Ok(group) => group,
        Err(why) => {
            println!("skipped: no control group can be made here: {why}");
            return;
        }
    };
    let server = ZooKeeperServer::start();
    let stage = Stage::new(&server).await;
    stage.set_env("TOKIO_WORKER_THREADS", Path::new("4"));
    // Pings go out after a third of that, and the server waits for no longer than all of it.
    stage.session_timeout.set(6.0);
    stage.script(&json!({"p": {"boot_delay": 0.2, "quota": {"instances": -1, "cores": -1, "ram": -1}}}));
    stage.configure(&[fake("p", &["a"], 2 * REQUESTS)]);
    let launcher = stage.launcher().await;
    group.holds(launcher.pid());
    stage.offered("a").await;
    let before = group.throttled();
    let mut requests = Vec::new();
    for _ in 0..REQUESTS {
        requests.push(stage.request(&["a"]).await);
    }
    for request in &requests {
        stage.fulfilled(request).await;
    }
    let throttled = group.throttled() - before;
    assert!(throttled > 10, "the burst took all that it could have: {throttled} times");
    for words in ["suspended", " lost"] {
        assert!(!launcher.logged(&["ZooKeeper", "session", words]), "{}", launcher.log());
    }
    for request in &requests {
        stage.release(request).await;
    }
    stage.no_node_is_left().await;
    drop(launcher);
}
