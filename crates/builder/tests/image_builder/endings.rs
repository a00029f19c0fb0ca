//! Builds that are ended: what they run on the host ends, too.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

use std::{fs, time::Instant};

use nix::sys::signal::{Signal, killpg};

use crate::{
    builds::ssh_calls,
    world::{ADDRESS, Ended, Host, HostIs, Pod, Running, ansible, wait_for},
};

const HANGS: &str = "\
- hosts: image-builder
  tasks:
  - name: Half an image
    copy: {content: half, dest: /home/nodepool/half}
  - name: Arrives
    fetch: {src: /home/nodepool/half, dest: '{{ image_output }}.raw', flat: true}
  - name: Hangs
    shell: sleep 3002 & sleep 3003
  - name: Comes too late
    copy: {content: late, dest: /home/nodepool/late}
";

const HANGS_AS_ROOT: &str = "\
- hosts: image-builder
  become: true
  tasks:
  - name: Leaves something behind that has lost its session and its parent
    shell: setsid sleep 3004 >/dev/null 2>&1 </dev/null &
  - name: Hangs
    shell: trap '' TERM HUP; sleep 3005; sleep 3006
";

/// A build that has come to this process on its host.
fn build_until(playbook: &str, process: &str, is: HostIs) -> Option<(Pod, Host, Running)> {
    let pod = Pod::new(ansible()?);
    let host = Host::start_as(&pod, crate::world::free_port(), is);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(playbook);
    let running = Running::start(&pod, pod.build());
    host.wait_for_process(process);
    Some((pod, host, running))
}

/// Nothing of the build is left, here or there.
fn nothing_is_left(pod: &Pod, host: &Host) {
    host.wait_until_idle();
    assert_eq!(host.temporaries(), Vec::<std::path::PathBuf>::new());
    wait_for("the build's directory and connections are gone", || {
        let is_gone = fs::read_dir(pod.path("tmp")).unwrap().count() == 0 && ssh_calls(host.port).is_empty();
        is_gone.then_some(())
    });
    assert!(!pod.image().exists(), "the unfinished image was removed");
}

#[test]
fn a_cancelled_build_ends_on_the_host_too() {
    let Some((pod, host, running)) = build_until(HANGS, "sleep 3003", HostIs::default()) else { return };
    assert!(pod.image().exists());
    host.wait_for_process("sleep 3002");
    let started = Instant::now();
    // As the executor does it: to the whole group.
    killpg(running.pid(), Signal::SIGTERM).unwrap();
    let ended = running.wait();
    // The executor waits for 15 s, and for 8 s more for what ends the rest.
    assert!(started.elapsed().as_secs() < 23, "the executor waits no longer: {:?}", started.elapsed());
    let host_line = |text: &str| format!("host {ADDRESS}: ended `{text}");
    ended.has(
        143,
        &[
            "ended by SIGTERM",
            &host_line("sleep 3002"),
            &host_line("sleep 3003"),
            "removed the unfinished /var/lib/nodepool/dib/image-0a.raw",
        ],
    );
    nothing_is_left(&pod, &host);
    assert!(!host.home("late").exists(), "the playbook did not go on when its task had ended");
}

#[test]
fn what_became_root_ends_where_sudo_asks_for_no_password() {
    let Some((pod, host, running)) = build_until(HANGS_AS_ROOT, "sleep 3005", HostIs::default()) else { return };
    host.wait_for_process("sleep 3004");
    running.signal(Signal::SIGINT);
    running.wait().has(130, &["ended by SIGINT", "ended `sleep 3004`", "ended `sleep 3005`"]);
    nothing_is_left(&pod, &host);
}

#[test]
fn a_builder_that_is_killed_takes_its_build_with_it() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(HANGS_AS_ROOT);
    // The builder, for dib-ansible: a process that waits for its child.
    let build = pod.build();
    let mut builder = std::process::Command::new("sh");
    builder.args(["-c", "\"$@\" & wait", "sh"]).arg(build.get_program()).args(build.get_args()).current_dir("/");
    for (name, value) in build.get_envs() {
        match value {
            Some(value) => builder.env(name, value),
            None => builder.env_remove(name),
        };
    }
    let running = Running::start(&pod, builder);
    host.wait_for_process("sleep 3005");
    running.signal(Signal::SIGKILL);
    nothing_is_left(&pod, &host);
    assert!(running.log().contains("the process that started this build is gone"), "{}", running.log());
    let _: Ended = running.wait();
}

#[test]
fn a_build_whose_every_process_here_is_killed_ends_on_the_host_too() {
    let Some((pod, host, running)) = build_until(HANGS, "sleep 3003", HostIs::default()) else { return };
    // What the executor does to a group that does not end in time.
    killpg(running.pid(), Signal::SIGKILL).unwrap();
    let log = wait_for("the guard is done", || {
        let log = running.log();
        log.contains("ended `sleep 3003`").then_some(log)
    });
    assert!(!log.contains("ended by"), "{log}");
    nothing_is_left(&pod, &host);
}

#[test]
fn what_belongs_to_root_is_named_where_sudo_wants_a_password() {
    // sudo hears the user's SIGTERM and passes it on; what does not mind it is root's.
    let playbook = "- hosts: image-builder\n  tasks:\n  - shell: sleep 3009 & setsid sudo /bin/sh -c 'trap \"\" TERM; sleep 3007; true'\n";
    let is = HostIs { sudo: "/bin/sh", ..HostIs::default() };
    let Some((_pod, host, running)) = build_until(playbook, "sleep 3007", is) else { return };
    wait_for("root's own process runs", || host.processes().iter().any(|line| line == "sleep 3007").then_some(()));
    host.wait_for_process("sleep 3009");
    running.signal(Signal::SIGTERM);
    let ended = running.wait();
    ended.has(143, &["ended `sleep 3009`", "could not end process", "another user's, and sudo asks for a password"]);
    assert!(host.processes().iter().any(|line| line == "sleep 3007"), "{:?}", host.processes());
}

#[test]
fn a_host_that_hangs_when_the_build_is_cancelled_delays_nobody() {
    let Some((_pod, host, running)) = build_until(HANGS, "sleep 3003", HostIs::default()) else { return };
    let port = host.port;
    drop(host);
    // Its address answers, and no more.
    let silent = wait_for("the port is free again", || std::net::TcpListener::bind((ADDRESS, port)).ok());
    let started = Instant::now();
    running.signal(Signal::SIGTERM);
    let ended = running.wait();
    assert!(started.elapsed().as_secs() < 40, "{:?}", started.elapsed());
    assert!(!ended.status.success(), "{ended:?}");
    drop(silent);
}

#[test]
fn a_host_that_lets_in_and_does_no_more_keeps_nothing_here_from_being_cleaned_up() {
    let Some((pod, host, running)) = build_until(HANGS, "sleep 3003", HostIs::default()) else { return };
    assert!(pod.image().exists());
    // Whoever logs in from now on waits for ever.
    let forced = format!("command=\"sleep 1000\" {}\n", pod.public_key);
    fs::write(host.home(".ssh/authorized_keys"), forced).unwrap();
    let started = Instant::now();
    running.signal(Signal::SIGTERM);
    let ended = running.wait();
    // After that the builder kills what is left.
    assert!(started.elapsed().as_secs() < 23, "{:?}", started.elapsed());
    ended.has(143, &["what the build ran there may still run", "removed the unfinished"]);
    wait_for("the build's directory is gone", || (fs::read_dir(pod.path("tmp")).unwrap().count() == 0).then_some(()));
    assert!(!pod.image().exists());
}

#[test]
fn another_builds_processes_on_the_same_host_go_on() {
    let Some((pod, host, running)) = build_until(HANGS, "sleep 3003", HostIs::default()) else { return };
    let other = Pod::new(ansible().unwrap());
    fs::write(host.home(".ssh/authorized_keys"), format!("{}\n{}\n", pod.public_key, other.public_key)).unwrap();
    other.trust(&host);
    other.inventory(host.port, "");
    other.playbook("- hosts: image-builder\n  tasks:\n  - shell: sleep 3008\n");
    let going_on = Running::start(&other, other.build());
    host.wait_for_process("sleep 3008");
    running.signal(Signal::SIGTERM);
    running.wait().has(143, &["ended `sleep 3003`"]);
    assert!(host.processes().iter().any(|line| line.contains("sleep 3008")), "the other build was ended");
    going_on.signal(Signal::SIGTERM);
    going_on.wait().has(143, &["ended `sleep 3008`"]);
}

#[test]
fn a_build_that_is_cancelled_before_the_playbook_runs_ends_at_once() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let silent = crate::world::listener();
    pod.inventory(silent.local_addr().unwrap().port(), "      ansible_timeout: 100\n");
    pod.playbook(HANGS);
    let running = Running::start(&pod, pod.build());
    let connection = silent.accept().unwrap();
    running.signal(Signal::SIGTERM);
    let started = Instant::now();
    running.wait().has(143, &["ended by SIGTERM, before the playbook was started"]);
    assert!(started.elapsed().as_secs() < 30, "it waits for the host: {:?}", started.elapsed());
    assert_eq!(fs::read_dir(pod.path("tmp")).unwrap().count(), 0);
    drop(connection);
}
