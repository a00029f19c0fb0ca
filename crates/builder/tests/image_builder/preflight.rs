//! What is wrong before a build: which host, what, and what to do.

// Measures by the host's clock.
#![allow(clippy::disallowed_methods)]

use std::{fs, time::Instant};

use crate::{
    builds::EXAMPLE,
    world::{ADDRESS, Host, HostIs, Pod, Running, ansible, fingerprint, free_port, listener},
};

/// A pod with the example playbook, for a host at this port.
fn pod(port: u16) -> Option<Pod> {
    let pod = Pod::new(ansible()?);
    pod.inventory(port, "");
    pod.playbook(EXAMPLE);
    Some(pod)
}

/// A trusted host that lacks something.
fn host(is: HostIs) -> Option<(Pod, Host)> {
    let pod = Pod::new(ansible()?);
    let host = Host::start_as(&pod, free_port(), is);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(EXAMPLE);
    Some((pod, host))
}

fn not_started(ended: &crate::world::Ended, texts: &[&str]) {
    ended.has(1, texts);
    assert!(!ended.log.contains("PLAY ["), "the playbook was started:\n{}", ended.log);
}

#[test]
fn an_unknown_key_stops_the_build_with_its_fingerprint_and_the_command_that_accepts_it() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.inventory(host.port, "");
    pod.playbook(EXAMPLE);
    let shown = fingerprint(&host.key);
    let name = format!("[{ADDRESS}]:{}", host.port);
    let command = format!("nodepool-builder trust-host {ADDRESS} --port {} --fingerprint {shown}", host.port);
    let known = format!("none for {name} (in /var/lib/nodepool/known_hosts");
    not_started(&pod.run(), &["host key is not known", &format!("It shows   ssh-ed25519 {shown}"), &known, &command]);
    assert!(!pod.path("nodepool/known_hosts").exists());
}

#[test]
fn a_changed_key_stops_the_build_with_both_fingerprints() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(EXAMPLE);
    let before = fingerprint(&host.key);
    let host = host.reinstalled(&pod);
    let after = fingerprint(&host.key);
    let known = format!("and known are   ED25519 {before} (/var/lib/nodepool/known_hosts line 1)");
    let command = format!("nodepool-builder trust-host {ADDRESS} --port {} --fingerprint {after} --replace", host.port);
    not_started(
        &pod.run(),
        &["its host key has CHANGED", &format!("It shows   ssh-ed25519 {after}"), &known, &command],
    );
}

#[test]
fn a_host_that_is_down_a_name_without_address_and_a_silent_port_are_told_apart() {
    let port = free_port();
    let Some(pod) = pod(port) else { return };
    let of_host = format!("host image-builder (nodepool@{ADDRESS} port {port}): nobody listens there");
    not_started(&pod.run(), &[&of_host, "Connection refused", "is sshd running"]);

    let inventory = pod.read("nodepool/config/nodepool/dib-ansible/inventory.yaml");
    pod.write(
        "nodepool/config/nodepool/dib-ansible/inventory.yaml",
        &inventory.replace(ADDRESS, "no-such-host.invalid"),
    );
    not_started(&pod.run(), &["the name no-such-host.invalid has no address", "correct `ansible_host`"]);

    let silent = listener();
    pod.inventory(silent.local_addr().unwrap().port(), "      ansible_timeout: 2\n");
    let started = Instant::now();
    not_started(&pod.run(), &["takes the connection, but does not speak SSH in time"]);
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

#[test]
fn a_refused_login_names_the_key_that_was_offered() {
    let Some((pod, host)) = host(HostIs::default()) else { return };
    fs::write(host.home(".ssh/authorized_keys"), "").unwrap();
    let offered = format!("offered were: /var/lib/nodepool-ssh-key/priv ED25519 {}", fingerprint(&pod.public_key));
    not_started(
        &pod.run(),
        &["it refuses the login", "Permission denied (publickey", &offered, "~/.ssh/authorized_keys of nodepool there"],
    );
}

#[test]
fn a_host_without_python_or_rsync_says_what_to_install() {
    let Some((pod, host)) = host(HostIs { without: vec!["/usr/bin/python3"], ..HostIs::default() }) else { return };
    not_started(&pod.run(), &["there is no Python that works; install python3 there"]);
    pod.inventory(host.port, "      ansible_python_interpreter: /opt/python\n");
    not_started(&pod.run(), &["there is no Python that works at /opt/python"]);
    drop(host);

    let Some((pod, _host)) = self::host(HostIs { without: vec!["/usr/bin/rsync"], ..HostIs::default() }) else {
        return;
    };
    not_started(&pod.run(), &["rsync is not there", "install rsync on that host"]);
    // A playbook that does without may.
    pod.playbook("- hosts: image-builder\n  tasks:\n  - fetch: {src: /etc/hostname, dest: '{{ image_output }}.raw', flat: true}\n");
    pod.run().has(0, &["no rsync", "the image is there"]);
}

#[test]
fn what_a_playbook_sees_to_itself_is_no_reason_to_refuse_where_that_is_said() {
    let Some((pod, host)) = host(HostIs { home: "50m", ..HostIs::default() }) else { return };
    let full = "and 1.0 GiB must be";
    not_started(&pod.run(), &[full, "set NODEPOOL_ANSIBLE_PREFLIGHT to `warn`, in `env-vars`"]);
    let run = |pod: &Pod| {
        let mut build = pod.build();
        build.env("NODEPOOL_ANSIBLE_PREFLIGHT", "warn");
        Running::start(pod, build).wait()
    };
    run(&pod).has(0, &[full, "The build begins all the same", "the image is there"]);
    // A host that the playbook's first play boots.
    drop(host);
    pod.playbook(&EXAMPLE.replacen(
        "- ",
        "- hosts: localhost\n  gather_facts: false\n  tasks:\n  - debug: {msg: boots it}\n\n- ",
        1,
    ));
    let ended = run(&pod);
    assert!(ended.log.contains("nobody listens there") && ended.log.contains("boots it"), "{}", ended.log);
    // A key that is another one is not let through.
    let host = Host::start(&pod);
    pod.inventory(host.port, "");
    not_started(&run(&pod), &["host key is not known"]);
}

#[test]
fn a_host_that_runs_no_commands_is_no_image_builder() {
    let Some((pod, _host)) = host(HostIs { sshd: "ForceCommand echo only backups", ..HostIs::default() }) else {
        return;
    };
    not_started(&pod.run(), &["the commands that were sent did not run: only backups", "an ordinary shell"]);
}

#[test]
fn a_full_disk_there_or_here_stops_the_build_and_touches_nothing() {
    let Some((pod, host)) = host(HostIs { home: "50m", ..HostIs::default() }) else { return };
    not_started(&pod.run(), &["are free in /home/nodepool (on home), and 1.0 GiB must be", "`min-free`"]);
    let declared = r#"[{"name": "image-builder", "min_free": 1048576}]"#;
    pod.run_with(&["--image-builders", declared]).has(0, &["the image is there"]);
    drop(host);

    let Some((mut pod, _host)) = self::host(HostIs::default()) else { return };
    "mount -t tmpfs -o size=8m images /var/lib/nodepool/dib; echo kept >/var/lib/nodepool/dib/image-00.raw"
        .clone_into(&mut pod.prepare);
    let full = "8 MiB are free in /var/lib/nodepool/dib, where the image is to arrive, and 100 MiB must be";
    not_started(&pod.run(), &[full, "make room"]);
    pod.run_with(&["--min-free", "1048576"]).has(0, &["the image is there"]);
}

#[test]
fn who_has_switched_the_check_of_keys_off_is_told_and_obeyed() {
    let Some((pod, host)) = host(HostIs::default()) else { return };
    fs::remove_file(pod.path("nodepool/known_hosts")).unwrap();
    pod.inventory(host.port, "      ansible_host_key_checking: false\n");
    pod.run().has(0, &["is NOT CHECKED, as StrictHostKeyChecking is `", "the image is there"]);
}
