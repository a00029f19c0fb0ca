//! The `metastatic` driver.

use std::time::Duration;

use super::{
    super::{Driver, Part},
    check, check_errors, load,
};

const FULL: &str = "\
labels: [{name: small}, {name: other}, {name: large}]
providers:
- name: cloud
  cloud: c
  cloud-images: [{name: i}]
  pools: [{name: main, labels: [{name: large, cloud-image: i, min-ram: 8192}]}]
- name: meta
  driver: metastatic
  pools:
  - name: main
    max-servers: 10
    labels:
    - name: small
      backing-label: large
      max-parallel-jobs: 4
      max-age: 3600
    - name: other
      backing-label: large
      max-parallel-jobs: 4
      max-age: 3600
      host-key-checking: true
";

#[test]
fn a_label_has_upstreams_defaults() {
    assert_eq!(check(FULL), "");
    let loaded = load(FULL);
    let provider = &loaded.config.providers["meta"];
    assert_eq!(provider.boot_timeout, Duration::from_secs(120));
    let Driver::Metastatic(metastatic) = &provider.driver else { panic!("{:?}", provider.driver) };
    let small = metastatic.label(&"main".into(), &"small".into()).unwrap();
    assert_eq!((small.backing_label.as_str(), small.max_parallel_jobs), ("large", 4));
    assert_eq!((small.grace_time, small.min_retention_time), (Duration::from_secs(60), Duration::ZERO));
    assert_eq!((small.max_age, small.host_key_checking), (Some(Duration::from_secs(3600)), false));
    assert!(metastatic.any_label(&"other".into()).unwrap().host_key_checking);
}

#[test]
fn no_machine_carries_more_than_1000_nodes() {
    assert!(load(&FULL.replace("max-parallel-jobs: 4", "max-parallel-jobs: 1000")).broken_parts.is_empty());
    let errors = check_errors(&FULL.replace("max-parallel-jobs: 4", "max-parallel-jobs: 1001"));
    assert!(errors.contains("`max-parallel-jobs` is 1001, and at most 1000 are allowed"), "{errors}");
}

/// What upstream's `test_metastatic_validator` is about; upstream's config-validate does not see it.
#[test]
fn labels_that_disagree_about_their_backing_nodes_are_refused() {
    let errors = check_errors(&FULL.replacen("max-parallel-jobs: 4", "max-parallel-jobs: 2", 1));
    assert!(
        errors.contains("main:17:7: provider `meta`, pool `main`, label `other`: Multiple label definitions"),
        "{errors}"
    );
    assert!(errors.contains("`max-parallel-jobs` is 4 here and 2 in label `small` (that one is at main:13:7: write the same `max-parallel-jobs` in both"), "{errors}");
    let loaded = load(&FULL.replacen("max-parallel-jobs: 4", "max-parallel-jobs: 2", 1));
    assert_eq!(loaded.broken_parts.len(), 1, "the others are served");
    assert_eq!(loaded.broken_parts[0].part, Part::Label("other".into()));
}

#[test]
fn what_makes_no_sense_is_named_with_its_place() {
    for (from, to, expected) in [
        ("max-age: 3600", "max-age: 5, min-retention-time: 6", "`max-age` must be at least `min-retention-time`"),
        ("max-parallel-jobs: 4", "max-parallel-jobs: 0", "`max-parallel-jobs` is 0, so that no node fits"),
        ("backing-label: large", "backing-label: huge", "backing-label `huge` is not among the top-level labels"),
    ] {
        let text = FULL.replace(from, &to.replace(", ", "\n      "));
        let errors = check_errors(&text);
        assert!(errors.contains(expected), "{errors}");
    }
    let errors = check_errors(&FULL.replacen("      backing-label: large\n", "", 1));
    assert!(
        errors.contains("main:13:7: provider `meta`, pool `main`, label `small`: `backing-label` is missing"),
        "{errors}"
    );
}

#[test]
fn backing_labels_that_go_round_in_a_circle_are_refused_once_however_long_it_is() {
    let circle = |labels: &str, more: &str| {
        format!(
            "labels: [{{name: a}}, {{name: b}}, {{name: c}}, {{name: d}}]\nproviders:\n- name: meta\n  driver: metastatic\n  \
             pools:\n  - name: main\n    labels: [{labels}]\n{more}"
        )
    };
    let itself = circle("{name: a, backing-label: a}", "");
    let errors = check_errors(&itself);
    let expected = "its backing labels go round in a circle, so that no node is ever made: a → a (";
    assert!(errors.starts_with("main:7:39:") && errors.contains(expected), "{errors}");
    let loaded = load(&itself);
    assert!(loaded.broken_parts[0].reason.contains("a → a") && loaded.broken_providers.is_empty());
    let three = "{name: d, backing-label: a}, {name: a, backing-label: b}, {name: b, backing-label: c}, {name: c, backing-label: a}";
    let errors = check_errors(&circle(three, ""));
    assert!(errors.contains("label `a`:") && errors.contains(": a → b → c → a (one of them must"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "once, and not for what leads into it: {errors}");
    let loaded = load(&circle(three, ""));
    assert_eq!(loaded.broken_parts.len(), 4, "none of them is served");
    assert!(loaded.broken_parts.iter().any(|broken| broken.reason.contains(": d → a → b → c → a")));
    let grounded = "- {name: racks, driver: static, pools: [{name: m, nodes: [{name: h, labels: [c]}]}]}\n";
    assert_eq!(check(&circle(three, grounded)), "", "another provider serves one of them");
    assert_eq!(check(&circle("{name: a, backing-label: b}", "")), "", "another launcher may serve it");
}
