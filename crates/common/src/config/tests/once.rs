//! One mistake, one message: what follows from it is not told as well.

use super::{SMALL, check_errors, load};

/// The only error of a file; it must have these words.
fn only(text: &str, expected: &str) {
    let errors = check_errors(text);
    assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}\n{errors}");
}

#[test]
fn a_misspelt_key_is_not_told_as_missing() {
    for (from, to, expected) in [
        ("min-ram: 1024", "min-rm: 1024", "has no key `min-rm` (did you mean `min-ram`?)"),
        ("min-ram: 1024", "flavor-nam: x", "(did you mean `flavor-name`?)"),
        ("min-ram: 1024", "min-ram: 8G", "`min-ram` must be a whole number, not the text `8G`"),
        ("diskimage: image", "diskimag: image", "(did you mean `diskimage`?)"),
        ("diskimage: image", "diskimage:", "`diskimage` has no value"),
        ("cloud: mine", "clod: mine", "(did you mean `cloud`?)"),
        ("- name: cloud", "- nmae: cloud", "(did you mean `name`?)"),
        ("- name: main", "- nam: main", "(did you mean `name`?)"),
    ] {
        only(&SMALL.replacen(from, to, 1), expected);
    }
    only("zookeeper-servers: [{hots: h}]\n", "has no key `hots` (did you mean `host`?)");
    only("diskimages: [{nam: d}]\n", "a diskimage has no key `nam` (did you mean `name`?)");
    let pod = "labels: [{name: a}]\nproviders: [{name: k, driver: openshift, context: c, pools: [{name: m, labels: [{name: a, KEYS}]}]}]\n";
    only(&pod.replace("KEYS", "typ: pod, image: x"), "(did you mean `type`?)");
    only(&pod.replace("KEYS", "type: pod, image: x, cpu: 1h"), "`cpu` must be");
}

#[test]
fn at_run_time_what_is_missing_is_an_error_although_it_is_misspelt() {
    let loaded = load(&SMALL.replacen("diskimage: image", "diskimag: image", 1));
    assert!(loaded.broken_parts[0].reason.contains("has neither `diskimage` nor `cloud-image`"), "{loaded:?}");
}

#[test]
fn what_refers_to_something_unusable_is_not_told_as_unknown() {
    for (from, to, expected) in [
        ("- name: small", "- small", "a label must be a mapping"),
        ("- name: small", "- nam: small", "a label has no key `nam`"),
        ("labels:\n  - name: small\n    min-ready: 2", "labels: small", "`labels` must be a list"),
        ("labels:\n", "lables:\n", "has no key `lables` (did you mean `labels`?)"),
        ("- {name: image, elements: [vm],\n    formats: [qcow2]}", "- image", "a diskimage must be a mapping"),
        ("diskimages:\n  - {", "disk-images:\n  - {", "has no key `disk-images`"),
        ("      - name: image", "      - image", "provider `cloud`, a diskimage must be a mapping"),
        (
            "      - name: image",
            "      - name: imge",
            "diskimage `imge` is not among the top-level diskimages (did you mean `image`?)",
        ),
        ("    diskimages:\n      -", "    diskimage:\n      -", "has no key `diskimage` (did you mean `diskimages`?)"),
    ] {
        // A label of its own at the top level has nothing below that could be misplaced by the change.
        only(&SMALL.replacen(from, to, 1).replace("- small\n    min-ready: 2", "- small"), expected);
    }
    let cloud_image = SMALL.replace("diskimage: image", "cloud-image: ready-made");
    only(&cloud_image.replace("- name: ready-made", "- ready-made"), "a cloud-image must be a mapping");
    only(&cloud_image.replace("cloud-images:", "cloud-image:"), "(did you mean `cloud-images`?)");
}

#[test]
fn what_is_unknown_for_another_reason_is_told_beside_it() {
    let text = SMALL.replace("- name: small\n            disk", "- name: large\n            disk");
    let errors = check_errors(&text.replacen("- name: small\n    min-ready: 2", "- small", 1));
    assert!(errors.contains("a label must be a mapping") && errors.contains("label `large` is not among"), "{errors}");
}

#[test]
fn an_image_of_the_other_kind_is_told_so() {
    let cloud_image = SMALL.replace("diskimage: image", "cloud-image: image");
    only(&cloud_image, "`image` is one of its `diskimages`: write `diskimage: image`");
    only(&SMALL.replace("diskimage: image", "diskimage: ready-made"), "(write `cloud-image: ready-made`)");
}

#[test]
fn a_metastatic_label_without_its_backing_label_has_its_other_keys_all_the_same() {
    let text = "labels: [{name: a}]\nproviders: [{name: m, driver: metastatic, pools: [{name: p, labels: [{name: a, KEYS\
                max-parallel-jobs: 2, grace-time: 5, max-age: 9, min-retention-time: 1, host-key-checking: no}]}]}]\n";
    only(&text.replace("KEYS", ""), "label `a`: `backing-label` is missing (it names the label");
    only(&text.replace("KEYS", "backing-lable: b, "), "(did you mean `backing-label`?)");
}

#[test]
fn a_key_is_listed_once() {
    let errors = check_errors("quux: 1\n");
    let (_, listed) = errors.split_once("its keys are: ").unwrap();
    let mut keys: Vec<_> = listed.trim_end_matches(')').split(", ").collect();
    keys.sort_unstable();
    assert!(keys.windows(2).all(|pair| pair[0] != pair[1]), "{errors}");
}

#[test]
fn a_driver_that_is_not_served_is_left_to_python() {
    let of = |driver: &str| check_errors(&format!("providers: [{{name: p, driver: {driver}}}]\n"));
    let offered = "drivers here are: openstack, openshiftpods, openshift, kubernetes, static, metastatic)";
    let leave_it = "leave this provider to a launcher of Python Nodepool, in a file of its own; the ";
    assert!(of("aws").ends_with(&format!("does not serve driver `aws` ({leave_it}{offered}")), "{}", of("aws"));
    assert!(of("awss").contains("did you mean `aws`? This launcher does not serve that: leave"), "{}", of("awss"));
    assert!(of("openstak").contains("did you mean `openstack`? The drivers are: openstack, "), "{}", of("openstak"));
    assert!(!of("cloudy").contains("aws") && !of("cloudy").contains("fake"), "{}", of("cloudy"));
}

#[test]
fn what_is_lost_or_in_the_wrong_place_is_not_told_as_unknown_or_missing() {
    let servers = "zookeeper-servers: [{host: h}]\n";
    only(&format!("{SMALL}labels: []\n"), "the key `labels` stands twice");
    only(&SMALL.replace("    min-ready: 2\n", "    name: other\n"), "so that there is no `small`");
    let dashed = SMALL.replace("    cloud: mine\n", "  - cloud: mine\n");
    let errors = check_errors(&dashed);
    assert!(
        errors.contains("main:9:5:") && errors.contains("(write `cloud: mine` without a dash, below `name: cloud`"),
        "{errors}"
    );
    assert!(!errors.contains("`cloud` is missing"), "{errors}");
    for (text, expected) in [
        ("zookeeper-tls: {cert: a, key: b, ca_cert: c}\n".to_owned(), "(did you mean `ca`?)"),
        (format!("{servers}{}", SMALL.replace("    pools:", "    pool:")), "(did you mean `pools`?)"),
        (format!("{servers}{}", SMALL.replace("        labels:", "        label:")), "(did you mean `labels`?)"),
        (format!("zookeeper_servers: [{{host: h}}]\n{SMALL}"), "(did you mean `zookeeper-servers`?)"),
    ] {
        let errors = super::check_bytes(text.as_bytes(), &super::environment(&[])).unwrap_err();
        assert!(errors.to_string().contains(expected) && errors.iter().count() == 1, "{errors}");
        assert!(errors.warnings.is_empty(), "{text}: {:?}", errors.warnings);
    }
}
