//! `build-log`: logs on this disk, builds on record.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use nodepool_common::sys::host;
use serde_json::json;

use crate::world::{NODEPOOL, World, stderr, stdout};

/// How long anything may take that should take no time.
const SOON: Duration = Duration::from_secs(30);

impl World {
    async fn add_build(&self, image: &str, id: &str, state: &str, state_time: u64, builder: &str) {
        let record = json!({"state": state, "state_time": state_time, "builder": builder});
        let path = format!("/nodepool/images/{image}/builds/{id}");
        self.zk.create(&path, record.to_string().as_bytes()).await.unwrap();
    }

    async fn end_build(&self, id: &str, record: serde_json::Value) {
        let path = format!("/nodepool/images/jammy/builds/{id}");
        self.zk.set(&path, record.to_string().as_bytes()).await.unwrap();
    }

    fn log(&self, name: &str) -> PathBuf {
        let directory = self.server.directory().join("builds");
        fs::create_dir_all(&directory).unwrap();
        directory.join(name)
    }

    fn follow(&self, image: &str) -> Child {
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(self.config()).args(["build-log", image, "-f"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Status and stderr of a child that is about to end.
fn end_of(mut child: Child) -> (Option<i32>, String) {
    let deadline = Instant::now() + SOON;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("still there: {}", child.wait().unwrap());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let mut stderr = String::new();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    (status.code(), stderr)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_running_builds_log_is_shown_else_the_newest_ones() {
    let world = World::start().await;
    let here = host::fqdn();
    for (id, state, time) in [("a1", "ready", 10), ("a2", "failed", 30), ("a3", "ready", 20)] {
        world.add_build("jammy", id, state, time, &here).await;
        fs::write(world.log(&format!("jammy-{id}.log")), format!("log of {id} \u{fffd}\nExit code: 0\n")).unwrap();
    }
    world.add_build("other", "a9", "ready", 99, &here).await;
    let newest = world.nodepool(&["build-log", "jammy"]).await;
    assert_eq!((newest.status.code(), stdout(&newest)), (Some(0), "log of a2 \u{fffd}\nExit code: 0\n"));
    assert_eq!(stderr(&newest), "");
    for id in ["a3", "jammy-a3"] {
        let asked = world.nodepool(&["build-log", "jammy", "--build-id", id]).await;
        assert_eq!(stdout(&asked), "log of a3 \u{fffd}\nExit code: 0\n");
    }
    let ended = world.nodepool(&["build-log", "--follow", "jammy"]).await;
    assert_eq!((ended.status.code(), stdout(&ended)), (Some(0), stdout(&newest)));
    assert_eq!(stderr(&ended), "nodepool: build a2 of image jammy: failed\n");

    world.add_build("jammy", "a0", "building", 5, &here).await;
    fs::write(world.log("jammy-a0.log"), b"half a l\xff").unwrap();
    let running = world.nodepool(&["build-log", "jammy"]).await;
    assert_eq!((running.status.code(), &*running.stdout), (Some(0), &b"half a l\xff"[..]), "as it is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_shown_is_refused_with_what_there_is() {
    let world = World::start().await;
    let missing = world.log("jammy-a1.log").display().to_string();
    world.add_build("jammy", "a1", "ready", 10, "nb07.example.org").await;
    world.add_build("gone", "b1", "failed", 10, &host::hostname()).await;
    let cases: [(&[&str], &[&str]); 5] = [
        (&["jamy"], &["There is no image jamy; there are: gone, jammy, noble\n"]),
        (&["noble"], &["Image noble has no build"]),
        (&["jammy", "--build-id", "a2"], &["Image jammy has no build a2; it has: a1 (ready)\n"]),
        (
            &["jammy", "-f"],
            &["build a1 of image jammy (ready) is not here: builder nb07.example.org has it, as ", &missing],
        ),
        (&["gone"], &["build b1 of image gone (failed) is not here, where it was built", "build-log-retention: 7"]),
    ];
    for (arguments, said) in cases {
        let refused = world.nodepool(&[&["build-log"], arguments].concat()).await;
        assert_eq!((refused.status.code(), stdout(&refused)), (Some(1), ""), "{arguments:?}");
        assert!(said.iter().all(|text| stderr(&refused).contains(text)), "{arguments:?}: {}", stderr(&refused));
    }
    world.end_build("a1", json!({"state": "failed", "builder": host::fqdn(), "reason": "no space on /var"})).await;
    let failed = world.nodepool(&["build-log", "jammy"]).await;
    assert!(stderr(&failed).contains("(failed: no space on /var)"), "{}", stderr(&failed));
}

/// The log is not there at first, is removed while it is written to, and has its end only after the record has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_build_is_followed_to_its_end() {
    let world = World::start().await;
    world.add_build("jammy", "c0ffee", "building", 10, &host::fqdn()).await;
    let mut child = world.follow("jammy");
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, lines_seen) = mpsc::channel();
    let reader = std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let path = world.log("jammy-c0ffee.log");
    let mut log = File::create(&path).unwrap();
    for line in ["one", "two"] {
        writeln!(log, "{line}").unwrap();
        assert_eq!(lines_seen.recv_timeout(SOON).unwrap(), line);
    }
    fs::remove_file(&path).unwrap();
    writeln!(log, "three").unwrap();
    assert_eq!(lines_seen.recv_timeout(SOON).unwrap(), "three");
    assert!(child.try_wait().unwrap().is_none(), "the build runs");
    let rest: Vec<String> = (0..20_000).map(|n| format!("line {n}")).collect();
    writeln!(log, "{}", rest.join("\n")).unwrap();
    write!(log, "Exit code: 1").unwrap();
    world.end_build("c0ffee", json!({"state": "failed", "reason": "dib-cmd ended\nwith status 1"})).await;
    let (status, stderr) = end_of(child);
    assert_eq!(
        (status, &*stderr),
        (Some(0), "nodepool: build c0ffee of image jammy: failed: dib-cmd ended with status 1\n")
    );
    reader.join().unwrap().unwrap();
    let seen: Vec<String> = lines_seen.into_iter().collect();
    assert_eq!((seen.len(), seen[19_999].as_str(), seen[20_000].as_str()), (20_001, "line 19999", "Exit code: 1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_is_emptied_and_a_record_that_is_removed_end_nothing_badly() {
    let world = World::start().await;
    world.add_build("jammy", "c0ffee", "building", 10, &host::fqdn()).await;
    let path = world.log("jammy-c0ffee.log");
    fs::write(&path, "before\n").unwrap();
    let mut child = world.follow("jammy");
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    fs::write(&path, "anew\n").unwrap();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "before\nanew\n");
    world.zk.delete_recursive("/nodepool/images/jammy/builds/c0ffee").await.unwrap();
    let (status, stderr) = end_of(child);
    assert_eq!((status, &*stderr), (Some(0), "nodepool: build c0ffee of image jammy: its record is gone\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_has_read_enough_ends_it_quietly() {
    let world = World::start().await;
    world.add_build("jammy", "c0ffee", "building", 10, &host::fqdn()).await;
    fs::write(world.log("jammy-c0ffee.log"), "a line of a log\n".repeat(1 << 16)).unwrap();
    let mut child = world.follow("jammy");
    let mut first = String::new();
    // Dropped with all but what its buffer has taken.
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!((first.as_str(), end_of(child)), ("a line of a log\n", (Some(0), String::new())));
}
