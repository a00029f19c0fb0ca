//! `nodepool-builder trust-host`.

use std::{fs, path::Path, process::Command};

use clap::Parser;
use nodepool_builder::image_builder::trust_host;

use crate::world::{ADDRESS, Ended, Host, Pod, Running, ansible, fingerprint, free_port};

const ARGUMENTS: &str = "NODEPOOL_TEST_TRUST_HOST";

#[derive(Parser)]
struct CommandLine {
    #[command(flatten)]
    args: trust_host::Args,
}

/// No test by itself: the program that the others run in a pod, which is this test binary again.
#[test]
fn trust_host_as_a_program() {
    let Ok(words) = std::env::var(ARGUMENTS) else { return };
    let words = ["trust-host"].into_iter().chain(words.split_whitespace());
    let failed = trust_host::run(&CommandLine::parse_from(words).args) != std::process::ExitCode::SUCCESS;
    std::process::exit(i32::from(failed));
}

fn command(pod: &Pod, arguments: &str) -> Command {
    let mut command =
        pod.command(&std::env::current_exe().unwrap(), &["--exact", "trust::trust_host_as_a_program", "--nocapture"]);
    command.env(ARGUMENTS, arguments);
    command
}

fn trust(pod: &Pod, arguments: &str) -> Ended {
    Running::start(pod, command(pod, arguments)).wait()
}

/// The same with a terminal, at which this is typed.
fn trust_at_a_terminal(pod: &Pod, arguments: &str, typed: &str) -> Ended {
    let exe = std::env::current_exe().unwrap();
    let line = format!("{} --exact trust::trust_host_as_a_program --nocapture", exe.display());
    let typing = format!("echo '{typed}' | script -qefc '{line}' /dev/null");
    let mut command = pod.command(Path::new("/bin/sh"), &["-c", &typing]);
    command.env(ARGUMENTS, arguments);
    Running::start(pod, command).wait()
}

fn pod_and_host() -> Option<(Pod, Host)> {
    let pod = Pod::new(ansible()?);
    let host = Host::start(&pod);
    Some((pod, host))
}

const KNOWN: &str = "nodepool/known_hosts";

#[test]
fn the_right_fingerprint_records_the_key_where_ssh_looks_and_the_build_goes_on() {
    let Some((pod, host)) = pod_and_host() else { return };
    let stranger = "other.example ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKPpx8Gc0acQpxEIiMOAQ/mJcrODzMthNttl9zzt0XHw\n";
    pod.write(KNOWN, stranger);
    let print = fingerprint(&host.key);
    let name = format!("[{ADDRESS}]:{}", host.port);
    let ended = trust(&pod, &format!("{ADDRESS} --port {} --fingerprint {print}", host.port));
    let recorded = format!("Recorded ED25519 {print} of {name} in /var/lib/nodepool/known_hosts.");
    ended.has(0, &[&format!("256 {print} {name} (ED25519)"), &recorded]);
    assert_eq!(pod.read(KNOWN), format!("{stranger}{name} {}\n", host.key));
    pod.inventory(host.port, "");
    pod.playbook(crate::builds::EXAMPLE);
    pod.run().has(0, &["the image is there"]);
    trust(&pod, &format!("{ADDRESS} --port {} --yes", host.port)).has(0, &["known already"]);
}

#[test]
fn a_wrong_fingerprint_and_nobody_to_ask_record_nothing() {
    let Some((pod, host)) = pod_and_host() else { return };
    let arguments = format!("nodepool@{ADDRESS} --port {}", host.port);
    let print = fingerprint(&host.key);
    trust(&pod, &format!("{arguments} --fingerprint SHA256:wrong"))
        .has(1, &["shows none of the keys given by --fingerprint", &print]);
    trust(&pod, &arguments).has(1, &[&print, "nobody is there to confirm"]);
    assert!(!pod.path(KNOWN).exists());
    trust_at_a_terminal(&pod, &arguments, "no").has(1, &["not confirmed: nothing was recorded"]);
    assert_eq!(pod.read(KNOWN), "");
    trust_at_a_terminal(&pod, &arguments, "yes").has(0, &["Type `yes` to accept", "Recorded ED25519"]);
    assert!(pod.read(KNOWN).contains(&host.key));
}

#[test]
fn a_changed_key_is_replaced_only_where_that_is_said() {
    let Some((pod, host)) = pod_and_host() else { return };
    pod.trust(&host);
    let (before, port) = (host.key.clone(), host.port);
    pod.write(KNOWN, &format!("# mine\n{}second.example {before}\n", pod.read(KNOWN)));
    let host = host.reinstalled(&pod);
    let arguments = format!("{ADDRESS} --port {port}");
    let prints = [fingerprint(&before), fingerprint(&host.key)];
    let texts = prints.each_ref().map(String::as_str);
    trust(&pod, &format!("{arguments} --yes")).has(1, &[texts[0], texts[1], "repeat with --replace"]);
    trust_at_a_terminal(&pod, &arguments, "yes").has(1, &["has CHANGED", texts[0], texts[1], "not confirmed"]);
    assert!(pod.read(KNOWN).contains(&before));
    trust(&pod, &format!("{arguments} --fingerprint {} --replace", texts[1])).has(0, &["Recorded ED25519"]);
    assert_eq!(pod.read(KNOWN), format!("# mine\nsecond.example {before}\n[{ADDRESS}]:{port} {}\n", host.key));
}

#[test]
fn the_users_configuration_decides_about_file_hashing_and_alias() {
    let Some((pod, host)) = pod_and_host() else { return };
    let config = format!(
        "Host ib\n  HostName {ADDRESS}\n  Port {}\n  HostKeyAlias builder.example\n  HashKnownHosts yes\n  \
         UserKnownHostsFile /no/such/place/known_hosts /var/lib/nodepool/hosts\nHost jumped\n  HostName {ADDRESS}\n  Port {}\n  \
         ProxyJump nodepool@ib\n  IdentityFile /var/lib/nodepool-ssh-key/priv\n  UserKnownHostsFile /var/lib/nodepool/jumped\n",
        host.port, host.port
    );
    // The way to nowhere is a file, which no directory can be made in.
    pod.write("nodepool/.ssh/config", &config.replace("/no/such/place", "/dev/null"));
    trust(&pod, "ib --yes").has(0, &["of builder.example in /var/lib/nodepool/hosts"]);
    assert!(pod.read("nodepool/hosts").starts_with("|1|"), "{}", pod.read("nodepool/hosts"));
    // Through the host itself, which has to know its own key first, and to log in.
    pod.write(
        "nodepool/.ssh/config",
        &format!(
            "{}Host *\n  IdentityFile /var/lib/nodepool-ssh-key/priv\n",
            config.replace("/no/such/place", "/dev/null")
        ),
    );
    let ended = trust(&pod, "jumped --yes");
    ended.has(0, &["in /var/lib/nodepool/jumped"]);
    assert!(pod.read("nodepool/jumped").contains(&host.key));
}

#[test]
fn a_host_that_is_away_says_why() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    trust(&pod, &format!("{ADDRESS} --port {} --yes", free_port())).has(1, &["nobody listens there"]);
    trust(&pod, "no-such-host.invalid --yes").has(1, &["has no address"]);
    assert!(fs::metadata(pod.path(KNOWN)).is_err());
}
