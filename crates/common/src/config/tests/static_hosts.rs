//! The `static` driver.

use std::time::Duration;

use super::{check, check_errors, lines, load};
use crate::config::{HostId, Part, diff};

const FULL: &str = "\
labels: [{name: a}, {name: b}]
providers:
- name: racks
  driver: static
  priority: 5
  pools:
  - name: main
    node-attributes: {rack: 7}
    nodes:
    - name: one.example
      labels: a b
    - name: two.example
      labels: [a]
      username: admin
      connection-port: 5986
      connection-type: winrm
      shell-type: cmd
      python-path: /usr/bin/python3
      timeout: 13
      host-key: ssh-ed25519 AAAA
      host-key-checking: false
      max-parallel-jobs: 2
";

#[test]
fn a_host_has_the_defaults_of_a_linux_machine() {
    assert_eq!(check(FULL), "");
    let loaded = load(FULL);
    let pool = &loaded.config.providers["racks"].pools[0];
    let hosts = pool.hosts.as_ref().unwrap();
    assert_eq!(pool.labels.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["a", "b"], "the words of a text count");
    assert_eq!(pool.priority, 5);
    let (one, two) = (&hosts[0], &hosts[1]);
    assert_eq!(one.id, HostId { name: "one.example".to_owned(), username: "zuul".to_owned(), port: 22 });
    assert_eq!((one.labels.len(), one.max_parallel_jobs, one.timeout), (2, 1, Duration::from_secs(5)));
    assert_eq!((one.connection_type.as_str(), one.python_path.as_str(), one.host_key_checking), ("ssh", "auto", true));
    assert!(one.has_host_keys() && !two.has_host_keys());
    assert_eq!(two.host_keys, ["ssh-ed25519 AAAA"]);
    assert_eq!((two.shell_type.as_deref(), two.max_parallel_jobs), (Some("cmd"), 2));
}

/// Upstream's `test_static_config`.
#[test]
fn the_same_file_twice_is_the_same_configuration() {
    let (one, two) = (load(FULL), load(FULL));
    assert_eq!(one.config.providers["racks"].pools, two.config.providers["racks"].pools);
    assert!(diff(&one.config, &two.config).is_empty(), "nothing is made anew");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    let errors = check_errors(&FULL.replace("      labels: a b\n", "").replace("labels: [a]", "labels: [c]"));
    assert!(
        errors.contains("main:10:7: provider `racks`, pool `main`, node `one.example`: `labels` is missing"),
        "{errors}"
    );
    assert!(
        errors.contains("main:12:15: provider `racks`, pool `main`, node `two.example`: label `c` is not among"),
        "{errors}"
    );
    assert!(check_errors(&FULL.replace("timeout: 13", "ssh-port: 2222")).contains("ssh-port"));
    let old = load(&FULL.replace("connection-port: 5986", "ssh-port: 2222"));
    assert_eq!(old.config.providers["racks"].pools[0].hosts.as_ref().unwrap()[1].id.port, 2222, "its old name is read");
    let twice = FULL.replace("two.example", "one.example").replace("admin", "zuul").replace("5986", "22");
    let warnings = check(&twice);
    assert!(
        warnings.contains("is listed twice") && warnings.contains("the first is at main:10:7 and counts"),
        "{warnings}"
    );
    assert_eq!(load(&twice).config.providers["racks"].pools[0].hosts.as_ref().unwrap().len(), 1);
    assert!(lines(&load(&twice).warnings).contains("listed twice"));
}

#[test]
fn one_wrong_value_in_a_host_costs_that_host_and_a_reload_keeps_the_provider_as_it_ran() {
    let text = FULL.replace("      labels: [a]\n", "      labels: [b]\n").replace("labels: a b", "labels: a");
    let bad = text.replace("timeout: 13", "timeout: 1o");
    assert!(check_errors(&bad).contains("`timeout` must be a whole number"));
    let loaded = load(&bad);
    assert!(loaded.broken_providers.is_empty(), "{loaded:?}");
    let [broken] = &loaded.broken_parts[..] else { panic!("{:?}", loaded.broken_parts) };
    assert_eq!(
        (&broken.part, broken.pool.as_str(), broken.provider.as_str()),
        (&Part::Host("two.example".to_owned()), "main", "racks")
    );
    assert!(broken.reason.contains("main:19:16: ") && broken.to_string().contains("is left out"), "{broken}");
    let pool = &loaded.config.providers["racks"].pools[0];
    assert_eq!(pool.hosts.as_ref().unwrap().len(), 1);
    assert_eq!(pool.broken_hosts["two.example"], "`timeout` must be a whole number, not the text `1o`");
    let why = "host two.example is left out: `timeout` must be a whole number, not the text `1o`";
    assert_eq!(pool.broken_labels["b"], why, "requests for it are told");

    let before = load(&text).config;
    assert_eq!(loaded.keeping_broken(&before).providers["racks"], before.providers["racks"]);
    let new = load(&format!("{text}    - {{name: three.example, labels: b, connection-port: many}}\n"));
    let kept = new.keeping_broken(&before);
    let pool = &kept.providers["racks"].pools[0];
    assert_eq!((pool.hosts.as_ref().unwrap().len(), pool.broken_hosts.len()), (2, 1), "it has never run");
    assert!(pool.broken_labels.is_empty(), "another host has its label");
    for nameless in ["    - {labels: b}\n", "    - three.example\n", "    - {name: three.example}\n"] {
        let loaded = load(&format!("{text}{nameless}"));
        assert_eq!(loaded.broken_parts.len(), 1, "{nameless}");
        assert_eq!(loaded.config.providers["racks"].pools[0].hosts.as_ref().unwrap().len(), 2, "{nameless}");
    }
}

#[test]
fn the_comment_of_a_host_key_is_left_away() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let text = FULL.replace("labels: a b", &format!("labels: a b\n      host-key: ['{key} root@one', '{key}']"));
    let warnings = check(&text);
    assert!(
        warnings.contains("main:12:17:") && warnings.contains("the comment `root@one` of this `host-key`"),
        "{warnings}"
    );
    let loaded = load(&text);
    assert_eq!(loaded.config.providers["racks"].pools[0].hosts.as_ref().unwrap()[0].host_keys, [key, key]);
    let no_key = check(&text.replace(&format!("['{key} root@one', '{key}']"), "[one.example ssh-ed25519 AAAA]"));
    assert!(
        no_key.contains("`one.example` before the key is ignored here") && no_key.contains("or is cut short"),
        "{no_key}"
    );
}
