//! What is for people at a terminal: `--watch`, colours, completion, manual pages.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    time::Duration,
};

use rustix::{
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use serde_json::json;
use tokio::time::Instant;

use crate::world::{NODEPOOL, World, nodepool, run, stderr, stdout};

/// How long anything may take that should take no time.
const SOON: Duration = Duration::from_secs(30);

/// A terminal: the program's side, and what appears on it.
fn terminal(rows: u16) -> (File, Receiver<String>) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    tcsetwinsize(&ours, Winsize { ws_row: rows, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    let path = ptsname(&ours, Vec::new()).unwrap();
    let theirs = fs::OpenOptions::new().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut ours, mut buffer) = (File::from(ours), [0; 8192]);
        // An error: the program is gone.
        while let Ok(read) = ours.read(&mut buffer) {
            if sender.send(String::from_utf8_lossy(&buffer[..read]).into_owned()).is_err() {
                break;
            }
        }
    });
    (theirs, received)
}

/// Reads until that has been seen so often; what was seen.
fn until(received: &Receiver<String>, wanted: &str, times: usize) -> String {
    let (begun, mut seen) = (Instant::now(), String::new());
    while seen.matches(wanted).count() < times {
        let left = SOON.saturating_sub(begun.elapsed());
        seen += &received.recv_timeout(left).unwrap_or_else(|_| panic!("no {wanted:?} in {seen:?}"));
    }
    seen
}

fn interrupt(child: &Child) {
    let done = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

impl World {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(NODEPOOL);
        command.arg("-c").arg(self.config()).args(arguments).env_remove("NO_COLOR").env("TERM", "xterm");
        command
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_list_is_printed_again_and_ends_by_an_interrupt() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready"})).await;
    let mut command = world.command(&["list", "--watch", "0.2", "--format", "csv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line + "\n")));
    let seen = until(&received, "0000000001,,", 2);
    assert_eq!(seen.matches("id,provider,").count(), 2, "one whole list after the other: {seen}");
    world.add_node("0000000002", &json!({"state": "hold"})).await;
    until(&received, "0000000002,,,,,,hold,", 1);
    interrupt(&child);
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((ended.status.code(), stderr(&ended)), (Some(0), ""));

    // Nobody reads any more.
    let mut child =
        world.command(&["list", "--watch", "0.1"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output()).await.unwrap().unwrap();
    assert_eq!((ended.status.code(), stderr(&ended)), (Some(0), ""));
}

/// The server is away for longer than anything in the session waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watched_list_outlives_a_connection() {
    let mut world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready"})).await;
    let mut command = world.command(&["list", "--watch", "0.2", "--format", "csv"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (sender, received) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line + "\n")));
    until(&received, "0000000001,", 1);
    world.server.stop();
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(child.try_wait().unwrap().is_none(), "it gave up");
    while received.try_recv().is_ok() {}
    world.server.restart();
    until(&received, "0000000001,", 2);
    interrupt(&child);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_terminal_a_watched_list_is_redrawn_in_colour_and_the_terminal_left_as_it_was() {
    let world = World::start().await;
    for id in 1..=20 {
        world.add_node(&format!("{id:010}"), &json!({"state": "ready"})).await;
    }
    let (screen, received) = terminal(10);
    let mut command = world.command(&["list", "--watch", "0.2"]);
    let mut child = command.stdout(screen.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    drop((command, screen));
    let seen = until(&received, "every 200ms", 3);
    assert!(seen.starts_with("\u{1b}[?7l\u{1b}[?25l"), "{seen:?}");
    let frames: Vec<_> = seen.split("\u{1b}[Hevery").collect();
    assert_eq!(frames[1].matches('\n').count(), 9, "no more than the terminal has: {seen:?}");
    assert!(frames[1].contains("… 16 lines more") && frames[1].contains("\u{1b}[32mready\u{1b}[0m"), "{seen:?}");
    assert!(!frames[2].contains("\u{1b}[2J"), "nothing is blank in between: {seen:?}");
    interrupt(&child);
    until(&received, "\u{1b}[?7h\u{1b}[?25h", 1);
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_terminal_is_left_as_it_was_also_where_zookeeper_is_gone_for_good() {
    let mut world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready"})).await;
    let (screen, received) = terminal(10);
    // Long enough for the first connection, on a busy machine too.
    let mut command = world.command(&["list", "--watch", "0.2", "--timeout", "8"]);
    let mut child = command.stdout(screen.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
    drop((command, screen));
    until(&received, "every 200ms", 1);
    world.server.stop();
    until(&received, "\u{1b}[?7h\u{1b}[?25h", 1);
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn colours_are_for_terminals_and_for_who_wants_them() {
    let world = World::start().await;
    world.add_node("0000000001", &json!({"state": "ready", "comment": "failed"})).await;
    let colour = "\u{1b}[32mready\u{1b}[0m";
    for (options, no_color, expected) in [
        (&["list"][..], None, false),
        (&["--color", "always", "list"], None, true),
        (&["list", "--color=always"], Some("1"), true),
        (&["list", "--color=always", "--format", "csv"], None, false),
    ] {
        let mut command = world.command(options);
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        let list = tokio::task::spawn_blocking(move || run(command, "")).await.unwrap();
        assert_eq!(stdout(&list).contains('\u{1b}'), expected, "{options:?} {list:?}");
        assert_eq!(stdout(&list).contains(colour), expected, "{options:?} {list:?}");
    }
    for (options, no_color, expected) in [
        (&["list"][..], None, true),
        (&["list"], Some("1"), false),
        (&["list"], Some(""), true),
        (&["list", "--color", "never"], None, false),
    ] {
        let (screen, received) = terminal(50);
        let mut command = world.command(options);
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        let mut child = command.stdout(screen.try_clone().unwrap()).stderr(Stdio::piped()).spawn().unwrap();
        drop((command, screen));
        let seen = until(&received, "--+\r\n", 3);
        assert_eq!(seen.contains(colour), expected, "{options:?} {no_color:?} {seen:?}");
        assert!(child.wait().unwrap().success());
    }
    let plain = world.nodepool(&["list"]).await;
    let painted = world.nodepool(&["--color", "always", "list"]).await;
    let masked = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "0");
    let bare = stdout(&painted).replace("\u{1b}[32m", "").replace("\u{1b}[0m", "");
    assert_eq!(masked(&bare), masked(stdout(&plain)), "but for colours it is the same");
}

#[test]
fn completions_and_manual_pages_know_commands_and_options() {
    for (shell, probe) in [("bash", Some("bash")), ("zsh", None), ("fish", None)] {
        let script = nodepool(&["completion", shell]);
        assert_eq!((script.status.code(), stderr(&script)), (Some(0), ""), "{shell}");
        for word in ["dib-image-list", "older-than", "in-use", "relative_priority"] {
            assert!(stdout(&script).contains(word), "{shell}: {word}");
        }
        if let Some(probe) = probe {
            // What bash would offer for the word that is being written.
            let asked =
                "COMP_WORDS=(nodepool list --st); COMP_CWORD=2; _nodepool nodepool --st list; echo \"${COMPREPLY[@]}\"";
            let mut command = Command::new(probe);
            command.args(["--norc", "-c", &format!("{}\n{asked}", stdout(&script))]);
            assert_eq!(stdout(&run(command, "")), "--state\n");
        }
    }
    assert_eq!(nodepool(&["completion", "tcsh"]).status.code(), Some(2));

    let dir = tempfile::tempdir().unwrap();
    let man = nodepool(&["man", dir.path().to_str().unwrap()]);
    assert_eq!((man.status.code(), stdout(&man), stderr(&man)), (Some(0), "", ""));
    assert!(fs::read_to_string(dir.path().join("nodepool.1")).unwrap().contains("nodepool\\-list(1)"));
    assert!(fs::read_to_string(dir.path().join("nodepool-list.1")).unwrap().contains("older\\-than"));
    let nowhere = nodepool(&["man", "/nonexistent"]);
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(stderr(&nowhere).contains("writing manual pages into /nonexistent"), "{nowhere:?}");
}
