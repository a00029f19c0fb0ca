//! One wrong value in one pool costs that pool, and nothing else.

use super::{check, check_errors, lines, load};
use crate::config::{Driver, Loaded, Part};

/// A provider with a pool `main` that has `key` and one `other`; each has its own label.
const OPENSTACK: &str = "\
labels: [{name: a}, {name: b}]
providers:
- name: p
  cloud: c
  cloud-images: [{name: i}]
  pools:
  - name: main
    KEY
    labels: [{name: a, cloud-image: i, min-ram: 1}]
  - name: other
    labels: [{name: b, cloud-image: i, min-ram: 1}]
";
const METASTATIC: &str = "\
labels: [{name: a}, {name: b}, {name: c}]
providers:
- name: p
  driver: metastatic
  pools:
  - name: main
    KEY
    labels: [{name: a, backing-label: c}]
  - name: other
    labels: [{name: b, backing-label: c}]
";
const KUBERNETES: &str = "\
labels: [{name: a}, {name: b}]
providers:
- name: p
  driver: kubernetes
  pools:
  - name: main
    KEY
    labels: [{name: a, type: namespace}]
  - name: other
    labels: [{name: b, type: namespace}]
";
const STATIC: &str = "\
labels: [{name: a}, {name: b}]
providers:
- name: p
  driver: static
  pools:
  - name: main
    KEY
    nodes: [{name: one, labels: a}]
  - name: other
    nodes: [{name: two, labels: b}]
";

fn with(text: &str, key: &str) -> String {
    text.replace("    KEY\n", &format!("    {key}\n"))
}

/// The labels that each pool serves, and why it does not serve others.
fn served(loaded: &Loaded) -> Vec<(Vec<&str>, Vec<&str>)> {
    assert!(loaded.broken_providers.is_empty(), "{:?}", loaded.broken_providers);
    let pools = loaded.config.providers["p"].pools.iter();
    pools
        .map(|pool| {
            (pool.labels.keys().map(AsRef::as_ref).collect(), pool.broken_labels.values().map(String::as_str).collect())
        })
        .collect()
}

#[test]
fn a_wrong_value_leaves_out_its_pool_only() {
    for (text, key, why) in [
        (OPENSTACK, "max-servers: many", "`max-servers` must be a whole number, not the text `many`"),
        (OPENSTACK, "networks: {}", "`networks` must be a list of texts, not a mapping"),
        (METASTATIC, "host-key-checking: perhaps", "`host-key-checking` must be true or false, not the text `perhaps`"),
        (KUBERNETES, "max-resources: [x]", "`max-resources` must be a mapping, not a list"),
        (STATIC, "priority: high", "`priority` must be a whole number, not the text `high`"),
    ] {
        let text = with(text, key);
        let loaded = load(&text);
        let left_out = format!("pool main is left out: {why}");
        assert_eq!(served(&loaded), [(vec![], vec![left_out.as_str()]), (vec!["b"], vec![])], "{text}");
        let [broken] = &loaded.broken_parts[..] else { panic!("{:?}", loaded.broken_parts) };
        assert_eq!((&broken.part, broken.pool.as_str()), (&Part::Pool, "main"));
        let told = broken.to_string();
        assert!(told.starts_with("Pool main of provider p is left out") && told.contains("main:"), "{told}");
        assert!(check_errors(&text).contains(why), "config-validate fails all the same");
        let own = match &loaded.config.providers["p"].driver {
            Driver::OpenStack(own) => own.pools["main"].labels.len(),
            Driver::Kubernetes(own) => own.pools["main"].len(),
            Driver::Metastatic(own) => own.pools["main"].len(),
            _ => 0,
        };
        assert_eq!(own, 0, "the driver has none of its labels, and the pool, whose nodes may be there");
    }
}

#[test]
fn hosts_of_a_pool_that_is_left_out_have_not_gone() {
    for bad in [
        with(STATIC, "max-servers: many"),
        STATIC.replace("    KEY\n", "").replacen("[{name: one, labels: a}]", "{}", 1),
    ] {
        let loaded = load(&bad);
        let pool = &loaded.config.providers["p"].pools[0];
        assert!(pool.hosts.as_ref().unwrap().is_empty() && !pool.broken_hosts.is_empty(), "{pool:?}");
    }
}

#[test]
fn in_a_reload_a_pool_that_has_become_unusable_stays_as_it_runs() {
    for text in [OPENSTACK, METASTATIC, KUBERNETES] {
        let before = load(&with(text, "max-servers: 3")).config;
        let now =
            load(&with(text, "max-servers: many").replace("- name: other\n", "- name: other\n    max-servers: 7\n"));
        let kept = now.keeping_broken(&before);
        let (pools, was) = (&kept.providers["p"].pools, &before.providers["p"].pools);
        assert_eq!(pools[0], was[0], "with its limits and labels");
        assert!((pools[1].limits.limit("instances") - 7.0).abs() < f64::EPSILON, "what else has changed counts");
        let (Driver::OpenStack(own), Driver::OpenStack(was)) =
            (&kept.providers["p"].driver, &before.providers["p"].driver)
        else {
            continue;
        };
        assert_eq!(own.pools["main"], was.pools["main"]);
        // A label goes whose image has gone.
        let other_image =
            with(text, "max-servers: many").replace("name: i}", "name: j}").replace("cloud-image: i", "cloud-image: j");
        assert!(load(&other_image).keeping_broken(&before).providers["p"].pools[0].labels.is_empty());
    }
    let before = load(&STATIC.replace("    KEY\n", "")).config;
    let kept = load(&with(STATIC, "max-servers: many")).keeping_broken(&before);
    assert_eq!(kept.providers["p"], before.providers["p"], "a static provider stays whole");
    let new = load(&with(OPENSTACK, "max-servers: many"));
    let kept = new.keeping_broken(&load("labels: [{name: a}]\n").config);
    assert!(kept.providers["p"].pools[0].labels.is_empty(), "what has never run is left out");
}

#[test]
fn a_pool_that_is_defined_twice_is_an_error_where_labels_are_lost_by_it() {
    let same = with(OPENSTACK, "priority: 1").replace("name: other", "name: main");
    let errors = check_errors(&same);
    let expected = "main:10:5: provider `p`, pool `main` is defined twice; this one counts, without `a` of the first (the first \
                    is at main:7:5; write both as one, or give one of them another name)";
    assert_eq!(errors, expected);
    assert!(lines(&load(&same).warnings).contains("is defined twice"), "Python runs with it");
    let all = check(&same.replace("name: b, c", "name: a, c"));
    assert!(all.contains("main:10:5: provider `p`, pool `main` is defined twice; this one counts (the first"), "{all}");
}
