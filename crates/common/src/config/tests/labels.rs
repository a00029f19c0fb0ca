//! One wrong value in one label costs that label, and nothing else.

use super::{super::Driver, SMALL, check_errors, lines, load};
use crate::config::Loaded;

/// A configuration of one openstack provider with a good label and `bad`, whose entry in the pool is `entry`.
fn with(entry: &str) -> String {
    format!(
        "labels: [{{name: good}}, {{name: bad}}]\nproviders:\n- name: c\n  cloud: c\n  cloud-images: [{{name: i}}]\n  pools:\n  \
         - name: main\n    labels:\n    - {{name: good, cloud-image: i, min-ram: 1}}\n    - {entry}\n"
    )
}

/// The labels that the first pool of provider `c` serves, and those that it does not.
fn labels(loaded: &Loaded) -> (Vec<&str>, Vec<(&str, &str)>) {
    assert!(loaded.broken_providers.is_empty(), "{:?}", loaded.broken_providers);
    let pool = &loaded.config.providers["c"].pools[0];
    let broken = pool.broken_labels.iter().map(|(label, why)| (label.as_str(), why.as_str()));
    (pool.labels.keys().map(AsRef::as_ref).collect(), broken.collect())
}

#[test]
fn a_wrong_value_leaves_out_its_label_only() {
    for (entry, why) in [
        (
            "{name: bad, cloud-image: i, min-ram: 1, volume-size: 1o}",
            "`volume-size` must be a whole number, not the text `1o`",
        ),
        ("{name: bad, min-ram: 1}", "has neither `diskimage` nor `cloud-image`"),
        ("{name: bad, cloud-image: j, min-ram: 1}", "there is no cloud-image `j` in the provider"),
        ("{name: bad, diskimage: d, min-ram: 1}", "diskimage `d` is not among the top-level diskimages"),
        ("{name: bad, cloud-image: [i], min-ram: 1}", "`cloud-image` must be a text, not a list"),
    ] {
        let text = with(entry);
        let loaded = load(&text);
        let (served, broken) = labels(&loaded);
        assert_eq!(served, ["good"], "{entry}");
        assert!(broken.len() == 1 && broken[0].0 == "bad" && broken[0].1 == why, "{entry}: {broken:?}");
        let Driver::OpenStack(own) = &loaded.config.providers["c"].driver else { panic!("no openstack") };
        assert_eq!(own.pools["main"].labels.len(), 1);
        let told = loaded.broken_parts[0].to_string();
        assert!(told.starts_with("Label bad of pool main of provider c is left out"), "{told}");
        assert!(told.contains("main:10:"), "with its place: {told}");
        assert!(check_errors(&text).contains(why), "config-validate fails as before");
    }
}

#[test]
fn a_label_that_is_not_among_the_top_level_labels_or_has_no_name_is_left_out() {
    let loaded = load(&with("{name: worse, cloud-image: i, min-ram: 1}"));
    let (served, broken) = labels(&loaded);
    assert_eq!((served, broken), (vec!["good"], vec![("worse", "is not among the top-level labels")]));
    let nameless = load(&with("{cloud-image: i, min-ram: 1}"));
    let (served, broken) = labels(&nameless);
    assert_eq!((served.as_slice(), broken[0].0), (["good"].as_slice(), "in line 10, without a name"));
}

#[test]
fn of_equal_labels_the_last_counts_usable_or_not() {
    let bad_last = load(&with("{name: good, cloud-image: nothing, min-ram: 1}"));
    assert_eq!(labels(&bad_last).0.len(), 0);
    let Driver::OpenStack(own) = &bad_last.config.providers["c"].driver else { panic!("no openstack") };
    assert!(own.pools["main"].labels.is_empty());
    assert!(lines(&bad_last.warnings).contains("label `good` is listed twice; this one counts"));
    let bad_first = with("{name: good, cloud-image: i, min-ram: 2}").replacen("min-ram: 1", "min-ram: one", 1);
    assert_eq!(labels(&load(&bad_first)), (vec!["good"], vec![]));
}

#[test]
fn a_builder_keeps_the_images_of_a_provider_with_bad_labels() {
    let text = SMALL.replace("min-ram: 1024", "min-ram: one");
    let loaded = load(&text);
    assert!(loaded.config.providers["cloud"].driver.diskimages().contains_key("image"));
    assert_eq!(loaded.broken_parts.len(), 1);
}

#[test]
fn a_diskimage_that_its_provider_lacks_costs_the_label() {
    let text = SMALL.replace("    diskimages:\n      - name: image\n", "");
    let expected =
        "its provider does not have diskimage `image` in its own `diskimages`, so it is never uploaded there";
    let errors = check_errors(&text);
    assert!(errors.contains("main:17:24:") && errors.contains(expected), "{errors}");
    let loaded = load(&text);
    assert!(loaded.broken_parts[0].reason.contains(expected), "{loaded:?}");
}

#[test]
fn in_a_reload_a_label_that_has_become_unusable_stays_as_it_runs() {
    let entry = "{name: bad, cloud-image: i, min-ram: 2}";
    let before = load(&with(entry)).config;
    let text = with("{name: bad, cloud-image: i, min-ram: two}")
        .replace("- name: main\n", "- name: main\n    max-servers: 7\n");
    let reloaded = load(&text);
    assert_eq!(labels(&reloaded).0, ["good"]);
    let kept = reloaded.keeping_broken(&before);
    let pool = &kept.providers["c"].pools[0];
    assert!(pool.labels.contains_key("bad") && pool.broken_labels.is_empty());
    assert!((pool.limits.limit("instances") - 7.0).abs() < f64::EPSILON, "what else has changed counts");
    let Driver::OpenStack(own) = &kept.providers["c"].driver else { panic!("no openstack") };
    assert_eq!(own.pools["main"].labels["bad"].min_ram, 2);
    // Unless what it boots from is gone.
    let without = load(
        &text.replace("{name: i}", "{name: k}").replace("{name: good, cloud-image: i", "{name: good, cloud-image: k"),
    );
    let kept = without.keeping_broken(&before);
    assert!(!kept.providers["c"].pools[0].labels.contains_key("bad"));
}

/// Two hosts, of which the second one has a label that the first has, too.
const HOSTS: &str = "\
labels: [{name: a}, {name: b}]
providers:
- name: c
  driver: static
  pools:
  - name: main
    nodes:
    - {name: one, labels: [a, b]}
    - {name: two, labels: b}
";

#[test]
fn a_label_of_a_static_host_that_is_not_at_the_top_level_costs_that_label() {
    let text = HOSTS.replace(", {name: b}", "");
    let loaded = load(&text);
    assert_eq!(labels(&loaded), (vec!["a"], vec![("b", "is not among the top-level labels")]));
    let hosts = loaded.config.providers["c"].pools[0].hosts.as_ref().unwrap();
    assert_eq!(hosts.iter().map(|host| host.id.name.as_str()).collect::<Vec<_>>(), ["one"]);
    assert!(check_errors(&text).contains("label `b` is not among the top-level labels"));
}

#[test]
fn in_a_reload_a_static_provider_with_a_label_that_has_become_unusable_stays_as_it_runs() {
    let before = load(HOSTS).config;
    let reloaded = load(&HOSTS.replace(", {name: b}", "").replace("nodes:", "max-servers: 7\n    nodes:"));
    let kept = reloaded.keeping_broken(&before);
    assert_eq!(kept.providers["c"], before.providers["c"], "host two and its label, and host one with both of its own");
    assert!(!kept.labels.contains_key("b"), "the rest of the file counts");
    // A label that has never run is left out, and nothing else.
    let reloaded = load(&HOSTS.replace("labels: b}", "labels: b}\n    - {name: three, labels: [a, typo]}"));
    let kept = reloaded.keeping_broken(&before);
    let pool = &kept.providers["c"].pools[0];
    assert_eq!(pool.hosts.as_ref().unwrap().len(), 3);
    assert_eq!(pool.broken_labels.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["typo"]);
}
