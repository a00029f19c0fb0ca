//! Keys as other programs call them, and what is said instead.

use super::{check, check_errors, lines, load};

/// A configuration with a label of an openstack provider that has these keys, too.
fn server(keys: &str) -> String {
    format!(
        "labels: [{{name: l}}]\ndiskimages: [{{name: d, elements: [vm]}}]\nproviders:\n- name: o\n  cloud: c\n  diskimages: [{{name: \
         d}}]\n  cloud-images: [{{name: ci}}]\n  pools:\n  - name: main\n    labels:\n    - {{name: l, {keys}}}\n"
    )
}

fn pod(driver: &str, keys: &str) -> String {
    let kind = if driver == "openshiftpods" { "" } else { "type: pod, " };
    format!(
        "labels: [{{name: l}}]\nproviders:\n- name: k\n  driver: {driver}\n  context: c\n  pools:\n  - name: main\n    labels:\n    - \
         {{name: l, {kind}{keys}}}\n"
    )
}

fn host(keys: &str) -> String {
    format!(
        "labels: [{{name: l}}]\nproviders:\n- name: s\n  driver: static\n  pools:\n  - name: main\n    nodes:\n    - {{{keys}}}\n"
    )
}

fn image(keys: &str) -> String {
    format!("diskimages: [{{name: d, formats: [raw], {keys}}}]\n")
}

/// That validation has one error, with these words.
fn only(text: &str, expected: &str) {
    let errors = check_errors(text);
    assert!(errors.contains(expected), "{expected}\n{text}\n{errors}");
    assert_eq!(errors.lines().count(), 1, "{text}\n{errors}");
}

#[test]
fn what_servers_are_called_by_leads_to_the_key() {
    for (keys, expected) in [
        ("diskimage: d, flavor: m1", "(did you mean `flavor-name`?)"),
        ("diskimage: d, memory: 5", "(did you mean `min-ram`?)"),
        ("diskimage: d, min-ram: 1, keypair: k", "(did you mean `key-name`?)"),
        ("diskimage: d, min-ram: 1, metadata: {a: b}", "(did you mean `instance-properties`?)"),
        ("diskimage: d, min-ram: 1, vcpus: 2", "(how many a server has is a matter of its flavor"),
        ("diskimage: d, min-ram: 1, disk: 40", "or write `boot-from-volume: true` and `volume-size`, in GB)"),
        ("diskimage: d, min-ram: 1, hostname: x", "(leave it out: Nodepool names its servers itself)"),
        (
            "diskimage: d, min-ram: 1, user: x",
            "(did you mean `username`? It belongs in one of the top-level `diskimages` or ",
        ),
        ("diskimage: d, min-ram: 1, region: x", "(did you mean `region-name`? It belongs in a provider itself)"),
        (
            "diskimage: d, min-ram: 1, port: 22",
            "(did you mean `connection-port`? It belongs in one of the `cloud-images` of a provider or ",
        ),
        ("image: d, min-ram: 1", "has no key `image` (write `diskimage: d`)"),
        ("image: ci, min-ram: 1", "has no key `image` (write `cloud-image: ci`)"),
        ("image: x, min-ram: 1", "(say what it boots from: write `diskimage: d`, or `cloud-image: ci`)"),
        (
            "min-ram: 1",
            "has neither `diskimage` nor `cloud-image` (say what it boots from: write `diskimage: d`, or `cloud-image: ci`)",
        ),
    ] {
        only(&server(keys), expected);
    }
    let loaded = load(&server("image: d, min-ram: 1"));
    assert!(lines(&loaded.warnings).contains("has no key `image` (write `diskimage: d`)"), "{:?}", loaded.warnings);
    assert!(loaded.broken_parts[0].reason.contains("has neither"), "to the daemons there is none");
}

#[test]
fn an_empty_flavor_or_image_is_told() {
    let warned = check(&server("diskimage: d, flavor-name: ''"));
    assert!(warned.contains("`flavor-name` is empty, so that the smallest flavor of the cloud is taken"), "{warned}");
    let warned = check(&server("diskimage: d, min-ram: 1, flavor-name: '', cloud-image: ''"));
    assert!(warned.contains("`flavor-name` is empty and counts as not given"), "{warned}");
    assert!(warned.contains("`cloud-image` is empty and counts as not given (leave the key out)"), "{warned}");
    only(&server("cloud-image: '', min-ram: 1"), "has neither `diskimage` nor `cloud-image`");
}

#[test]
fn what_pods_are_called_by_leads_to_the_key() {
    for driver in ["kubernetes", "openshift", "openshiftpods"] {
        for (keys, expected) in [
            ("image: i, imagePullPolicy: Always", "(did you mean `image-pull`?)"),
            ("image: i, nodeSelector: {a: b}", "(did you mean `node-selector`?)"),
            ("image: i, volumeMounts: []", "(did you mean `volume-mounts`?)"),
            ("image: i, ram: 5", "(did you mean `memory`?)"),
            ("image: i, cpus: 5", "(did you mean `cpu`?)"),
            (
                "image: i, metadata: {labels: {a: b}}",
                "(write its `labels` and `annotations` as keys of this label itself)",
            ),
            ("image: i, serviceAccountName: x", "(it is a part of a pod's `spec`: write the whole of that"),
            (
                "image: i, resources: {limits: {cpu: 2, memory: 1Gi}, requests: {cpu: 1, memory: 512Mi}}",
                "has no key `resources` (each amount is a key of this label itself, memory and storage in MiB: write `cpu: 1`, \
                 `memory: 512`, `cpu-limit: 2`, `memory-limit: 1024`)",
            ),
            ("image: i, limits: {memory: 2Gi}", "write `memory-limit: 2048`)"),
            ("image: i, requests: {cpu: 500m}", "(whole numbers of CPUs only can be written without a `spec`"),
            ("image: i, resources: []", "`cpu-limit`, `memory-limit` and `storage-limit` the most that it gets)"),
            ("diskimage: i", "(did you mean `image`?)"),
            ("image: i, cpu-request: 1", "(did you mean `cpu`?)"),
            ("image: i, env: [{key: A, value: b}]", "an item of `env` has no key `key` (did you mean `name`?)"),
            ("image: i, labels: [a, b]", "(write `a: …` and `b: …`, without dashes)"),
        ] {
            only(&pod(driver, keys), expected);
        }
    }
    only(&pod("openshiftpods", "type: pod, image: i"), "(leave it out: nodes of this driver are always pods)");
    only(&pod("kubernetes", "image: i, namespace: x"), "(leave it out: each node is made in one of its own)");
}

#[test]
fn the_types_of_nodes_are_those_of_the_driver() {
    for (driver, own, other) in [("kubernetes", "namespace", "project"), ("openshift", "project", "namespace")] {
        let missing = check_errors(&pod(driver, "image: i").replace("type: pod, ", ""));
        assert!(
            missing.ends_with(&format!("(write `type: pod` for a pod, or `type: {own}` for an empty {own})")),
            "{missing}"
        );
        let warned = check(&pod(driver, "image: i").replace("type: pod", &format!("type: {other}")));
        let words = format!("there is no `type` `{other}` with this driver");
        assert!(
            warned.contains(&words)
                && warned.contains(&format!("(write `type: {own}` for an empty {own}, or `type: pod`)")),
            "{warned}"
        );
    }
    let without = check_errors(&pod("kubernetes", "cpu: 1"));
    assert!(
        without.contains("`image: REGISTRY/NAME:TAG`, or `type: namespace` for a node that is an empty namespace)"),
        "{without}"
    );
    let without = check_errors(&pod("openshiftpods", "cpu: 1"));
    assert!(without.ends_with("(say which image its pod runs, `image: REGISTRY/NAME:TAG`)"), "{without}");
}

#[test]
fn what_hosts_are_called_by_leads_to_the_key() {
    for (keys, expected) in [
        ("hostname: h, labels: l", "a node has no key `hostname` (did you mean `name`?)"),
        ("name: h, labels: l, port: 2222", "(did you mean `connection-port`?)"),
        ("name: h, labels: l, user: root", "(did you mean `username`?)"),
        ("name: h, labels: l, slots: 4", "(did you mean `max-parallel-jobs`?)"),
        ("name: h, labels: l, ansible_python_interpreter: /p", "(did you mean `python-path`?)"),
        ("name: h, labels: 'l,l'", "label `l,l` is not among the top-level labels (write several as a list: [l, l])"),
        ("name: h, labels: l, connection-port: ssh", "(a port is a number from 1 to 65535, without quotes)"),
        ("name: h, labels: l, private-key: /k", "(leave it out: Nodepool does not log in to nodes"),
    ] {
        only(&host(keys), expected);
    }
    let errors = check_errors(&host("name: h, labels: l").replace("nodes:", "labels: [l]\n    nodes:"));
    assert!(errors.contains("(a static pool has `nodes`: `- name: HOST`, each with its own `labels`)"), "{errors}");
}

#[test]
fn a_host_is_a_name_or_an_address_alone() {
    for (name, problem, help) in [
        ("ssh://h1", "is a URL", "write `name: h1`"),
        ("ssh://root@h1:2222/", "is a URL", "write `name: h1`, `connection-port: 2222` and `username: root`"),
        ("h1:2222", "has a port in it", "write `name: h1` and `connection-port: 2222`"),
        ("[2001:db8::1]:22", "has a port in it", "write `name: 2001:db8::1` and `connection-port: 22`"),
        ("[2001:db8::1]", "has brackets", "write `name: 2001:db8::1`"),
        ("root@h1", "has a user in it", "write `name: h1` and `username: root`"),
        ("h 1", "is neither a name nor an address", "write it as `host1.example.com` or `192.0.2.1`"),
    ] {
        let text = host(&format!("name: '{name}', labels: l"));
        let errors = check_errors(&text);
        assert!(
            errors.contains(&format!("its `name` {problem}")) && errors.ends_with(&format!("({help})")),
            "{name}: {errors}"
        );
        let loaded = load(&text);
        assert!(
            lines(&loaded.warnings).contains(problem) && loaded.broken_parts.is_empty(),
            "Python's launcher runs with it"
        );
        let elsewhere = host(&format!("name: '{name}', labels: l, connection-type: docker"));
        assert_eq!(check(&elsewhere), "", "what a container is called is its plugin's matter");
    }
    assert_eq!(check(&host("name: '2001:db8::1', labels: l")), "");
}

#[test]
fn what_a_build_is_told_by_leads_to_the_key() {
    for (keys, expected) in [
        ("elements: [vm], env: {A: b}", "(did you mean `env-vars`?)"),
        ("elements: [vm], timeout: 5", "(did you mean `build-timeout`?)"),
        ("elements: [vm], version: '9'", "(did you mean `release`?)"),
        ("elements: [vm], user: root", "(did you mean `username`?)"),
        ("elements: [vm], distro: fedora", "name the distribution's element in `elements`"),
        ("elements: [vm], playbook: p.yaml", "(it belongs below `ansible`: `ansible: {playbook: p.yaml}`)"),
        (
            "elements: [vm], dib-cmd: [disk-image-create, '-x', a b]",
            "(write it in one line: `dib-cmd: disk-image-create -x 'a b'`)",
        ),
    ] {
        only(&image(keys), expected);
    }
    let provider = server("diskimage: d, min-ram: 1")
        .replace("diskimages: [{name: d}]", "diskimages: [{name: d, metadata: {a: b}}]");
    only(&provider, "(did you mean `meta`?)");
    let builder = "image-builders: [{name: b, hostname: h, user: u, ssh-port: 22, private-key: /k}]\n";
    let errors = check_errors(builder);
    for expected in
        ["did you mean `host`?", "did you mean `username`?", "did you mean `port`?", "in ~/.ssh of the builder's user"]
    {
        assert!(errors.contains(expected), "{expected}: {errors}");
    }
    assert_eq!(errors.lines().count(), 4, "{errors}");
    only("image-builders: [{name: b, host: 'root@h:22'}]\n", "its `host` has a user in it");
    only("image-builders: [{name: b, host: h, host-keys: a b}]\n", "(write it as a list: ['a b'])");
    only("diskimages: [{name: d, ansible: p.yaml}]\n", "(write `ansible: {playbook: p.yaml}`)");
    only("diskimages: [{name: d, env-vars: {A: }}]\n", "(write '' for an empty text, or leave it out)");
    only("diskimages: [{name: d, formats: [.raw]}]\n", "(did you mean `raw`?)");
}

/// Neither is said to be missing.
#[test]
fn elements_and_formats_in_another_form_are_told_once() {
    for (keys, expected) in [
        ("elements: vm", "`elements` must be a list of texts, not the text `vm` (write it as a list: [vm])"),
        ("element: vm", "has no key `element` (did you mean `elements: [vm]`?)"),
        ("Elements: [vm]", "(did you mean `elements`?)"),
        ("elements: {vm: , fedora: }", "(write the names alone, as a list: [vm, fedora])"),
        ("elements: [vm], format: qcow2", "has no key `format` (did you mean `formats: [qcow2]`?)"),
        ("elements: [vm], formats: qcow2", "(write it as a list: [qcow2])"),
    ] {
        let text = format!("diskimages: [{{name: d, {keys}}}]\n");
        let errors = check_errors(&text);
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{errors}");
        let Err(all) = super::check_bytes(text.as_bytes(), &super::environment(&[])) else { panic!("{text}") };
        let warnings = lines(&all.warnings);
        assert!(!warnings.contains("has no `elements`"), "{text}: {warnings}");
        assert!(!keys.contains("format") || !warnings.contains("never built"), "{text}: {warnings}");
    }
    let warned = check("diskimages: [{name: d, formats: [raw], elements: []}]\n");
    assert!(warned.contains("has no `elements`"), "{warned}");
}

#[test]
fn limits_of_tenants_that_limit_nothing_are_told() {
    let of = |keys: &str| format!("tenant-resource-limits: [{{tenant-name: t, {keys}}}]\n");
    for (keys, expected) in [
        ("max-server: 5", "`max-server` limits nothing: no resource is called so (did you mean `max-servers`?)"),
        ("max_cores: 5", "(did you mean `max-cores`?)"),
        ("max-instances: 5", "(did you mean `max-servers`?)"),
        ("max-memory: 5", "(did you mean `max-ram`?)"),
        (
            "max-gpus-of-all: 5",
            "(write one of max-cores, max-servers, max-ram, max-volumes, max-volume-gb, or the name of a resource",
        ),
    ] {
        let text = of(keys);
        for warnings in [check(&text), lines(&load(&text).warnings)] {
            assert!(warnings.contains(expected), "{keys}: {warnings}");
        }
    }
    assert_eq!(check(&of("cores: 5, nvidia.com/gpu: 1, max-ram: 5")), "");
    only(
        "tenant-resource-limits: [{tenant-name: t, limits: {max-ram: 5}}]\n",
        "beside `tenant-name`, as `max-ram: 5`)",
    );
    for name in ["tenant", "name"] {
        only(&format!("tenant-resource-limits: [{{{name}: t, max-cores: 5}}]\n"), "(write `tenant-name: t`)");
    }
}

#[test]
fn a_number_that_yaml_reads_otherwise_says_what_it_became() {
    for (number, expected) in [
        (
            "010",
            "main:1:31: label `l`: `min-ready` is written `010`, which is octal in YAML, and counts as 8 (write 10, or 8 if that is meant)",
        ),
        ("007", "counts as 7 (write 7)"),
        ("1:30", "is written `1:30`, which is in the base of 60 in YAML, and counts as 90 (write 90)"),
    ] {
        let text = format!(
            "labels: [{{name: l, min-ready: {number}}}]\nproviders: [{{name: s, driver: static, pools: [{{name: p, nodes: [{{name: h, labels: l}}]}}]}}]\n"
        );
        for warnings in [check(&text), lines(&load(&text).warnings)] {
            assert!(warnings.contains(expected), "{warnings}");
        }
    }
    for plain in ["0", "10", "1_000", "0x10"] {
        assert!(!check(&format!("labels: [{{name: l, min-ready: {plain}}}]\n")).contains("is written"), "{plain}");
    }
}

#[test]
fn an_image_name_format_that_cannot_be_filled_in_is_refused() {
    let of = |format: &str| {
        server("diskimage: d, min-ram: 1")
            .replace("  cloud: c\n", &format!("  cloud: c\n  image-name-format: '{format}'\n"))
    };
    for (format, expected) in [
        (
            "{image}-{timestamp}",
            "has `{image}`, which is not known there, so that each upload fails (did you mean `{image_name}`?)",
        ),
        ("{image_name}-{build_id}", "has `{build_id}`, which is not known there"),
        ("{colour}", "(within braces there may be `{image_name}`, `{upload_id}` and `{timestamp}`)"),
        ("{}", "has `{}`"),
        ("x-{image_name", "has a `{` without its other"),
        ("x}", "has a `}` without its other"),
    ] {
        let errors = check_errors(&of(format));
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{format}: {errors}");
        let loaded = load(&of(format));
        assert!(loaded.broken_providers.is_empty() && !loaded.warnings.is_empty(), "launchers need none: {loaded:?}");
    }
    for good in ["{image_name}-{upload_id:>12}-{timestamp!s}", "{{x}}-{timestamp}"] {
        assert_eq!(check(&of(good)), "", "{good}");
    }
    assert!(
        check(&of("x")).contains("all uploads have the same name (write something like `x-{image_name}-{timestamp}`)")
    );
}
