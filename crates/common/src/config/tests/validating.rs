//! What `nodepool config-validate` says.

use super::{SMALL, check, check_bytes, check_errors, environment};

#[test]
fn what_upstream_accepts_passes() {
    for text in ["{}", "labels: []\nproviders: []\n", "providers: [{name: p, cloud: c}]", "zookeeper-tls: {}", SMALL] {
        assert_eq!(check(text), "");
    }
}

#[test]
fn what_only_upstreams_schema_rejects_passes() {
    for text in [
        "zookeeper-timeout: 10",
        "diskimages: [{name: a, shell-type: sh}]",
        "diskimages: [{name: a, release: 21.04}]",
        "providers: [{name: p, cloud: c, rate: '0.1'}]",
        "zookeeper-tls: {cert: c}",
        "labels: [{name: l, min-ready: true}]",
    ] {
        check(text);
    }
}

#[test]
fn a_file_with_variables_that_are_not_set_is_validated_as_it_is() {
    let warnings = check("images-dir: '%(NODEPOOL_DIR)'\n");
    assert_eq!(
        warnings,
        "main:1:14: the environment variable NODEPOOL_DIR is not set: `%(NODEPOOL_DIR)` stays as it is (set NODEPOOL_DIR, or \
         write the value in the place of `%(NODEPOOL_DIR)`)"
    );
    assert!(check_errors("webapp: {port: '%(NODEPOOL_PORT)'}\n").contains("must be a whole number"));
    assert!(check_bytes(b"webapp: {port: %(NODEPOOL_PORT)}\n", &environment(&[("NODEPOOL_PORT", "5")])).is_ok());
}

#[test]
fn what_upstreams_schema_rejects_fails() {
    for (text, expected) in [
        ("", "the configuration is empty"),
        ("labels:\n", "`labels` has no value"),
        ("labelz: []\n", "the configuration has no key `labelz` (did you mean `labels`?)"),
        (
            "webapp: {port: '8005'}\n",
            "`port` must be a whole number, not the text `8005` (write 8005, without quotes or fraction)",
        ),
        ("webapp: {port: 80.0}\n", "must be a whole number"),
        ("labels: [{name: 5}]\n", "`name` must be a text, not the whole number `5` (write it in quotes: '5')"),
        ("labels: {name: 5}\n", "`labels` must be a list, not a mapping"),
        (
            "diskimages: [{name: a, elements: vm}]\n",
            "must be a list of texts, not the text `vm` (write it as a list: [vm])",
        ),
        ("diskimages: [{name: a, env-vars: {A: 1}}]\n", "a value of `env-vars` must be a text"),
        ("diskimages: [{name: a, pause: 'no'}]\n", "`pause` must be true or false"),
        (
            "diskimages: [{name: a}, {name: a}]\n",
            "diskimage `a` is defined twice (the first is at main:1:14; the last counts)",
        ),
        ("diskimages: [{name: a, abstract: true, parent: b}]\n", "there is no diskimage `b`"),
        ("providers: [{name: p}]\n", "provider `p`: `cloud` is missing"),
        ("providers: [{cloud: c}]\n", "`name` is missing"),
        ("providers: [{name: p, driver: aws}]\n", "main:1:31: provider `p`: this launcher does not serve driver `aws`"),
        ("providers: [{name: p, driver: cloudy}]\n", "there is no driver `cloudy`"),
        ("zookeeper-servers: [{port: 5}]\n", "`host` is missing"),
        ("zookeeper-timeout: 0\n", "more than 0 seconds"),
        ("a: 1\n---\nb: 1\n", "a second YAML document"),
        ("a: [\n", "this is not YAML"),
    ] {
        let errors = check_errors(text);
        assert!(errors.contains(expected), "{text:?}: {errors}");
    }
}

#[test]
fn labels_need_an_image_and_a_size() {
    for (from, to, expected) in [
        ("            min-ram: 1024\n", "", "has neither `min-ram` nor `flavor-name`"),
        ("            diskimage: image\n", "", "has neither `diskimage` nor `cloud-image`"),
        ("diskimage: image", "diskimage: image\n            cloud-image: ready-made", "has both"),
        (
            "- name: ready-made",
            "- {name: ready-made, image-id: a, image-name: b}",
            "has both `image-id` and `image-name`",
        ),
        ("- name: small\n            disk", "- name: smal\n            disk", "is not among the top-level labels"),
        ("diskimage: image", "cloud-image: none", "there is no cloud-image `none`"),
    ] {
        let errors = check_errors(&SMALL.replace(from, to));
        assert!(errors.contains(expected), "{from} -> {to}: {errors}");
    }
}

#[test]
fn all_errors_are_told_at_once_in_the_order_of_the_file() {
    let errors = check_errors(
        "webapp: {prt: 5}\nlabels: [{nam: a}]\nproviders: [{name: p, cloud: 5}]\ndiskimages: [{name: d, parent: e}]\n",
    );
    let places: Vec<_> = errors.lines().map(|line| line.split(' ').next().unwrap_or_default()).collect();
    assert_eq!(places, ["main:1:10:", "main:2:11:", "main:3:30:", "main:4:32:"], "{errors}");
}

#[test]
fn one_mistake_is_told_once() {
    let text = SMALL.replace("formats: [qcow2]", "parent: nobody");
    let errors = check_errors(&text);
    assert!(
        errors.starts_with("main:6:13: diskimage `image`: there is no diskimage `nobody`, its `parent` (add it to")
    );
    assert_eq!(errors.lines().count(), 1, "{errors}");
}
