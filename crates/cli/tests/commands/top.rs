//! `nodepool top`, on a terminal, with a real ZooKeeper and a real launcher.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use nodepool_testing::free_port;
use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::world::{NODEPOOL, World, run, stderr};

/// How long anything may take; machines are busy.
const SOON: Duration = Duration::from_secs(60);

/// `top` on a terminal of its own.
struct Top {
    child: Child,
    keys: File,
    screen: File,
    received: Receiver<String>,
    seen: String,
}

impl Top {
    fn start(config: &Path) -> Self {
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let path = ptsname(&ours, Vec::new()).unwrap();
        let theirs = fs::OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
        let keys = File::from(ours);
        let mut reads = keys.try_clone().unwrap();
        let (sender, received) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(read) = reads.read(&mut buffer) {
                if sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                    break;
                }
            }
        });
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(config).arg("top").env("TERM", "xterm").env("NO_COLOR", "1");
        command
            .stdin(theirs.try_clone().unwrap())
            .stdout(theirs.try_clone().unwrap())
            .stderr(theirs.try_clone().unwrap());
        let child = command.spawn().unwrap();
        Self { child, keys, screen: theirs, received, seen: String::new() }
    }

    /// Waits until that has been written since the last key.
    fn until(&mut self, wanted: &str) {
        let begun = Instant::now();
        while !self.seen.contains(wanted) {
            let left = SOON.saturating_sub(begun.elapsed());
            let read = self.received.recv_timeout(left);
            self.seen += &read.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", self.seen));
        }
    }

    fn press(&mut self, keys: &str) {
        while let Ok(read) = self.received.try_recv() {
            drop(read);
        }
        self.seen.clear();
        self.keys.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen has that. It is drawn anew for each look, as only what is different is written otherwise.
    fn shows(&mut self, wanted: &str) {
        let begun = Instant::now();
        loop {
            self.press("\u{c}");
            let look = Instant::now();
            while look.elapsed() < Duration::from_millis(500) {
                self.seen += &self.received.recv_timeout(Duration::from_millis(50)).unwrap_or_default();
            }
            let text = text(&self.seen);
            if text.contains(wanted) {
                return;
            }
            assert!(begun.elapsed() < SOON, "no {wanted:?} in {text:?}");
        }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.screen).unwrap().local_modes.contains(LocalModes::ICANON)
    }

    fn signal(&self, name: &str) {
        assert!(Command::new("kill").args([name, &self.child.id().to_string()]).status().unwrap().success());
    }

    /// Waits until it is stopped.
    fn is_stopped(&self) {
        let (begun, path) = (Instant::now(), format!("/proc/{}/stat", self.child.id()));
        while !fs::read_to_string(&path).unwrap().contains(") T ") {
            assert!(begun.elapsed() < SOON, "it goes on");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(!self.is_raw());
    }

    /// Waits for its end, and looks whether the terminal is as it was.
    fn ends(&mut self) {
        self.until("\u{1b}[?1049l");
        self.until("\u{1b}[?25h");
        let begun = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(begun.elapsed() < SOON, "it goes on"),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        assert_eq!(status.code(), Some(0), "{:?}", self.seen);
        assert!(!self.is_raw());
    }
}

/// What was written, without orders to the terminal; where it has moved the cursor there is a space.
fn text(written: &str) -> String {
    let mut parts = written.split('\u{1b}');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|c: char| c.is_ascii_alphabetic()).unwrap_or_default();
        if part[end..].starts_with('H') {
            text.push(' ');
        }
        text += part.get(end + 1..).unwrap_or_default();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The launcher's program, which is built with the workspace; by itself where only this crate is tested.
fn launcher() -> PathBuf {
    let program = Path::new(NODEPOOL).with_file_name("nodepool-launcher");
    if !program.exists() {
        let mut command = Command::new(env!("CARGO"));
        command.args(["build", "--package", "nodepool-launcher", "--bin", "nodepool-launcher"]);
        assert!(command.status().unwrap().success());
    }
    program
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A launcher with room for no node of the label `full`.
fn start_launcher(world: &World) -> Running {
    let mut configuration: Value = serde_json::from_slice(&fs::read(world.config()).unwrap()).unwrap();
    configuration["labels"] = json!([{"name": "full"}]);
    configuration["diskimages"] = json!([]);
    configuration["providers"] = json!([{
        "name": "fake-cloud", "driver": "fake", "cloud": "fake", "cloud-images": [{"name": "fake-image"}],
        "pools": [{"name": "main", "max-servers": 1,
            "labels": [{"name": "full", "cloud-image": "fake-image", "min-ram": 1024}]}],
    }]);
    let file = world.server.directory().join("launcher.yaml");
    fs::write(&file, configuration.to_string()).unwrap();
    let mut command = Command::new(launcher());
    command.arg("-f").arg("-c").arg(file).args(["--web-address", "127.0.0.1", "--web-port", &free_port().to_string()]);
    let log = File::create(world.server.directory().join("launcher.log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    Running(command.spawn().unwrap())
}

impl World {
    async fn request(&self, id: &str) {
        let record = json!({"requestor": "zuul", "tenant_name": "tenant", "state": "requested", "state_time": 1_760_000_000.0,
            "created_time": 1_760_000_000.0, "relative_priority": 0, "node_types": ["full"], "nodes": [], "reuse": true,
            "declined_by": [], "event_id": "e"});
        self.zk.create(&format!("/nodepool/requests/{id}"), record.to_string().as_bytes()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_request_is_shown_with_its_reason_filtered_and_opened_and_the_terminal_left_as_it_was() {
    let world = World::start().await;
    // The first one takes all the room.
    world.request("100-0000000001").await;
    world.request("100-0000000002").await;
    let mut top = Top::start(&world.config());
    top.shows("ZooKeeper alone");
    top.shows("100-0000000002 requested");
    let running = start_launcher(&world);
    top.shows("nodepool top: launcher on ");
    top.shows("100-0000000002 pending");
    top.shows("instances needed, 0 there");
    top.press("/0002\r");
    top.shows("only \"0002\": 1 of 2");
    top.shows("100-0000000002");
    assert!(!text(&top.seen).contains("100-0000000001"), "{:?}", top.seen);
    top.press("\r");
    top.shows("request 100-0000000002: WAIT:");
    top.shows("tenant: tenant");
    // Its launcher goes, and what ZooKeeper says is left.
    top.press("\u{1b}");
    drop(running);
    top.shows("ZooKeeper alone");
    // Stopped, the terminal is the shell's; continued, it is drawn anew.
    top.press("\u{1a}");
    top.until("\u{1b}[?1049l");
    top.is_stopped();
    top.signal("-CONT");
    top.until("\u{1b}[?1049h");
    top.shows("100-0000000002");
    assert!(top.is_raw());
    top.press("q");
    top.ends();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_out_gives_the_terminal_back_also_without_zookeeper() {
    let mut world = World::start().await;
    world.request("100-0000000001").await;
    for way in ["\u{3}", "-TERM", "-HUP", "-INT"] {
        let mut top = Top::start(&world.config());
        top.shows("100-0000000001");
        assert!(top.is_raw());
        if way.starts_with('-') {
            top.signal(way);
        } else {
            top.press(way);
        }
        top.ends();
    }
    let mut top = Top::start(&world.config());
    top.shows("100-0000000001");
    world.server.stop();
    top.shows("ZooKeeper, since");
    top.press("?");
    top.shows("the views");
    world.server.restart();
    world.zk.connected().await;
    world.request("100-0000000007").await;
    top.press("?");
    top.shows("100-0000000007");
    top.press("q");
    top.ends();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_terminal_the_commands_that_need_none_are_named() {
    let mut command = Command::new(NODEPOOL);
    command.args(["-c", "/nonexistent", "top"]).env("TERM", "xterm");
    let output = tokio::task::spawn_blocking(move || run(command, "")).await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("`nodepool list`, `request-list` and `explain`"), "{output:?}");
}
