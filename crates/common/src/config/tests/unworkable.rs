//! What upstream's validator passes and what cannot work.

use super::{SMALL, check, check_bytes, check_errors, environment, lines, load, load_errors};

/// That `config-validate` refuses it so, and that the daemons take it with a warning of the same words.
fn refused(text: &str, place: &str, words: &str) {
    let errors = check_errors(text);
    let told = |lines: &str| lines.lines().any(|line| line.starts_with(place) && line.contains(words));
    assert!(told(&errors) && errors.lines().count() == 1, "{text}: {errors}");
    let loaded = load(text);
    assert!(told(&lines(&loaded.warnings)), "{text}: {:?}", loaded.warnings);
    assert!(loaded.broken_providers.is_empty() && loaded.broken_parts.is_empty(), "{loaded:?}");
}

/// That both take it, with one warning.
fn warned(text: &str, place: &str, words: &str) {
    for warnings in [check(text), lines(&load(text).warnings)] {
        let told = warnings.starts_with(place) && warnings.contains(words);
        assert!(told && warnings.lines().count() == 1, "{text}: {warnings}");
    }
}

fn small(from: &str, to: &str) -> String {
    assert!(SMALL.contains(from), "{from}");
    SMALL.replacen(from, to, 1)
}

fn pod(label: &str) -> String {
    format!(
        "labels: [{{name: l}}]\nzookeeper-servers: [{{host: zk01}}]\nproviders:\n- name: k\n  driver: kubernetes\n  \
         pools:\n  - name: main\n    labels:\n    - {{name: l, {label}}}\n"
    )
}

fn host(keys: &str) -> String {
    format!(
        "labels: [{{name: l}}]\nzookeeper-servers: [{{host: zk01}}]\nproviders:\n- name: s\n  driver: static\n  \
         pools:\n  - name: main\n    nodes:\n    - {{name: h, {keys}}}\n"
    )
}

#[test]
fn a_file_that_has_work_and_no_zookeeper_is_told_so() {
    let warnings = lines(&check_bytes(SMALL.as_bytes(), &environment(&[])).unwrap());
    assert!(warnings.starts_with("main:1:1: there are no `zookeeper-servers`"), "{warnings}");
    assert_eq!(check_bytes(b"labels: []\nproviders: []\n", &environment(&[])), Ok(vec![]), "what a site begins with");
    let empty = lines(&check_bytes(b"zookeeper-servers: []\n", &environment(&[])).unwrap());
    assert!(empty.starts_with("main:1:20: there are no `zookeeper-servers`"), "{empty}");
    assert!(load(SMALL).warnings.is_empty(), "the daemons look for themselves, with the secure file");
}

#[test]
fn a_zookeeper_host_is_a_name_or_an_address() {
    let at = "main:1:28: ";
    let of = |host: &str| format!("zookeeper-servers: [{{host: {host}}}]\n");
    refused(&of("'https://zk01'"), at, "it must be a name or an address, not a URL (write `host: zk01`)");
    refused(&of("'tcp://zk01:2182/'"), at, "(write `host: zk01` and `port: 2182`)");
    refused(
        &of("'zk01,zk02:7'"),
        at,
        "each server is an item of its own (write one item for each server: `- {host: zk01, port: 2181}`, `- {host: zk02, port: 7}`)",
    );
    refused(&of("'zk 01'"), at, "neither a host's name nor an address");
    let servers = |host: &str| {
        let config = load(&of(host)).config;
        let servers: Vec<_> = config.zookeeper.servers.iter().map(|s| (s.host.clone(), s.port)).collect();
        servers
    };
    assert_eq!(servers("'https://zk01'"), [("zk01".to_owned(), 2281)]);
    assert_eq!(servers("'tcp://zk01:2182/'"), [("zk01".to_owned(), 2182)]);
    let several = "'zk01, zk02', port: 5";
    assert_eq!(servers(several), [("zk01".to_owned(), 2181), ("zk02".to_owned(), 5)], "as kazoo reads it");
}

#[test]
fn servers_with_different_chroots_are_no_ensemble() {
    let text = "zookeeper-servers: [{host: a, chroot: /x}, {host: b}, {host: c, chroot: /y}]\n";
    let errors = check_errors(text);
    assert!(
        errors.starts_with("main:1:73: ZooKeeper's `chroot` is `/x` at one server and `/y` at this one"),
        "{errors}"
    );
    assert_eq!(check("zookeeper-servers: [{host: a, chroot: /x}, {host: b, chroot: /x}]\n"), "");
}

#[test]
fn a_limit_below_0_leaves_room_for_nothing() {
    warned(
        &small("max-servers: 5", "max-servers: -3"),
        "main:16:22: ",
        "`max-servers` is -3, which leaves room for nothing, as 0 does (leave the key out where there is no limit)",
    );
    warned(&small("max-servers: 5", "max-ram: -1"), "main:16:18: ", "`max-ram` is -1");
    warned(
        "tenant-resource-limits: [{tenant-name: t, max-cores: -1}]\n",
        "main:1:54: ",
        "tenant `t`: `max-cores` is -1",
    );
    warned("tenant-resource-limits: [{tenant-name: t, gpu: -1}]\n", "main:1:48: ", "tenant `t`: `gpu` is -1");
    let resources = pod("type: namespace").replace("- name: main\n", "- name: main\n    max-resources: {gpu: -1}\n");
    warned(&resources, "main:8:26: ", "`gpu` is -1");
    assert_eq!(check(&small("max-servers: 5", "max-servers: 0")), "", "0 is the way to switch a pool off");
    warned(&small("cloud: mine", "cloud: mine\n    max-concurrency: 0"), "main:10:22: ", "it serves no request at all");
    assert_eq!(check(&small("cloud: mine", "cloud: mine\n    max-concurrency: -1")), "");
}

#[test]
fn a_time_of_0_seconds_is_none() {
    let provider = |key: &str| small("cloud: mine", &format!("cloud: mine\n    {key}"));
    refused(&provider("launch-timeout: 0"), "main:10:21: ", "each launch is given up at once");
    refused(&provider("launch-timeout: -5"), "main:10:21: ", "`launch-timeout` is -5 seconds");
    warned(&provider("boot-timeout: 0"), "main:10:19: ", "a node whose keys are checked fails at once");
    warned(&provider("image-upload-timeout: 0"), "main:10:27: ", "counts as not given, so that it is an hour");
    assert_eq!(load(&provider("image-upload-timeout: 0")).config, load(&provider("image-upload-timeout: 3600")).config);
    warned(
        &small("formats", "rebuild-age: 0,\n    formats"),
        "main:6:18: ",
        "`rebuild-age` is 0 and counts as not given",
    );
    warned(&small("formats", "build-timeout: -1,\n    formats"), "main:6:20: ", "so that it is eight hours");
    refused(&host("labels: l, timeout: 0"), "main:9:37: ", "never found in time");
    assert_eq!(check(&host("labels: l, timeout: 0, host-key-checking: false")), "");
}

#[test]
fn what_no_pool_serves_is_not_kept_ready() {
    let text = "\
labels:
- {name: a, min-ready: 1}
- {name: b}
- {name: c, min-ready: 2}
- {name: d, min-ready: 0}
- {name: e, min-ready: 1}
zookeeper-servers: [{host: zk01}]
providers:
- {name: s, driver: static, pools: [{name: m, nodes: [{name: h, labels: a}]}]}
";
    warned(text, "main:4:24: ", "nothing is kept ready for `c`, `e`: no pool of this file serves it");
    let many: Vec<_> = (0..9).map(|n| format!("- {{name: l{n}, min-ready: 1}}\n")).collect();
    warned(&format!("labels:\n{}", many.concat()), "main:2:25: ", "`l0`, `l1`, `l2`, `l3`, `l4`, 4 more: no pool");
}

#[test]
fn a_pod_is_made_from_an_image_or_from_a_spec_with_containers() {
    let at = "main:9:7: ";
    refused(&pod("type: pod"), at, "has neither `image` nor `spec`, and Kubernetes refuses such a pod");
    refused(&pod("type: pod, spec: {}"), "main:9:34: ", "its `spec` is empty, and Kubernetes refuses such a pod");
    refused(&pod("type: pod, spec: {nodeName: n}"), "main:9:34: ", "its `spec` has no `containers`");
    refused(&pod("type: pod, image: i, image-pull: Allways"), "main:9:50: ", "(did you mean `Always`?)");
    refused(&pod("type: pod, image: i, image-pull: x"), "main:9:50: ", "(write one of Always, IfNotPresent, Never)");
    assert_eq!(check(&pod("type: pod, image: i, image-pull: Never")), "");
    assert_eq!(check(&pod("type: pod, spec: {containers: [{name: c, image: i}]}")), "");
}

#[test]
fn an_image_beside_a_spec_is_refused_even_where_that_is_empty() {
    for (spec, at, help) in [
        ("{}", "main:9:44: ", "leave the empty `spec` out"),
        ("{containers: [{name: c, image: i}]}", "main:9:35: ", "write it within `spec`, as the `image` of a container"),
    ] {
        let text = pod(&format!("type: pod, image: i, spec: {spec}"));
        let errors = check_errors(&text);
        assert!(errors.starts_with(at) && errors.contains(help), "Python's refuses it: {errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert_eq!(load(&text).warnings, [], "its driver runs it");
    }
}

#[test]
fn a_namespace_runs_no_image() {
    warned(
        &pod("type: namespace, image: i, privileged: true"),
        "main:9:41: ",
        "`image`, `privileged` have no effect, since its node is an empty namespace (write `type: pod`",
    );
    warned(&pod("type: namespace, spec: {a: b}"), "main:9:40: ", "`spec` has no effect");
    assert_eq!(check(&pod("type: namespace, cpu: 1, labels: {a: b}")), "");
}

#[test]
fn an_image_of_which_nothing_can_be_built_is_told() {
    warned(&small("[qcow2]", "[qcow]"), "main:6:14: ", "`qcow` in `formats` is no format that");
    assert!(check(&small("[qcow2]", "[qcow]")).ends_with("(did you mean `qcow2`?)"));
    warned(&small("elements: [vm],", ""), "main:5:5: ", "diskimage `image` has no `elements`");
    let playbook = "dib-cmd: dib-ansible image.yaml";
    assert_eq!(check(&small("elements: [vm]", playbook)), "", "another program needs none");
    assert_eq!(check(&small("elements: [vm]", "dib-cmd: disk-image-create -n vm")), "");
    let stub = small("{name: image, elements: [vm],\n    formats: [qcow2]}", "name: image");
    assert_eq!(check(&stub), "", "another file says how it is built");
    warned(
        "diskimages: [{name: d, elements: [vm]}]\nzookeeper-servers: [{host: z}]\n",
        "main:1:14: ",
        "is never built",
    );
    assert_eq!(
        check(
            "diskimages: [{name: d, elements: [vm]}, {name: e, parent: d, formats: [raw]}]\n\
             zookeeper-servers: [{host: z}]\n"
        ),
        "",
        "it is a parent"
    );
    refused(&small("elements: [vm]", "dib-cmd: run 'it"), "main:5:28: ", "`dib-cmd` has a quote without its end");
}

#[test]
fn names_that_nobody_asks_for_are_told() {
    warned("labels: [{name: ' '}]\n", "main:1:17: ", "label ` `: its name is nothing but blanks");
    warned("labels:\n- name: |\n    a\n", "main:3:5: ", "label `a\\n`: its name has a blank or a line break at an end");
    assert!(check("labels: [{name: 'a '}]\n").ends_with("(write `name: a`)"));
    warned(
        "labels: [{name: \"a\\nb\"}]\n",
        "main:1:17: ",
        "label `a\\nb`: its name has a line break or another control",
    );
}

#[test]
fn a_provider_with_images_has_a_name_that_is_part_of_a_path() {
    let text = small("name: cloud", "name: a/b");
    let errors = check_errors(&text);
    assert!(
        errors.starts_with("main:8:11: provider `a/b`: its name cannot be a part of a path in ZooKeeper"),
        "{errors}"
    );
    assert_eq!(errors.lines().count(), 1, "and nothing of the labels that boot from its images: {errors}");
    let loaded = load(&text);
    assert!(lines(&loaded.warnings).contains("part of a path"), "{:?}", loaded.warnings);
    assert!(loaded.config.providers["a/b"].driver.diskimages().is_empty(), "nothing is uploaded there in each pass");
    assert_eq!(loaded.broken_parts.len(), 1, "the label of that image");
    warned("providers: [{name: a/b, cloud: c}]\nzookeeper-servers: [{host: z}]\n", "main:1:20: ", "part of a path");
}

#[test]
fn a_connection_that_ansible_does_not_know_is_told() {
    warned(&host("labels: l, connection-type: telnet"), "main:9:45: ", "Ansible has no connection plugin `telnet`");
    warned(&small("- name: image\n    c", "- {name: image, connection-type: wirm}\n    c"), "main:11:40: ", "`winrm`?");
    assert_eq!(check(&host("labels: l, connection-type: community.docker.docker_api")), "");
    assert_eq!(check(&host("labels: l, connection-type: network_cli")), "");
}

#[test]
fn a_host_that_is_no_node_is_told() {
    warned(&host("labels: l, max-parallel-jobs: 0"), "main:9:47: ", "this host is no node at all");
    warned(&host("labels: []"), "main:9:25: ", "it has no `labels`, so that nothing is ever run on it");
}

#[test]
fn a_line_of_known_hosts_is_taken_for_its_key() {
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";
    let text = host(&format!("labels: l, host-key: 'h,10.0.0.1 {key} me@h'"));
    warned(&text, "main:9:38: ", "is a line of known_hosts, and `h,10.0.0.1` before the key is ignored here");
    assert!(
        check(&text).ends_with("(write the key without it: `ssh-ed25519 AAAAC3NzaC1lZDI1NTE5…`)"),
        "{}",
        check(&text)
    );
    let hosts = |text: &str| load(text).config.providers["s"].pools[0].hosts.clone().unwrap()[0].host_keys.clone();
    assert_eq!(hosts(&text), [key]);
    let revoked = host(&format!("labels: l, host-key: '@revoked h {key}'"));
    warned(&revoked, "main:9:38: ", "begins with `@revoked`, which is no type of a key");
}

#[test]
fn references_to_the_environment_that_stay_are_told() {
    warned(
        &small("cloud: mine", "cloud: '%(CLOUD)s'"),
        "main:9:13: ",
        "`%(CLOUD)s` stays as it is: only environment variables whose names begin with NODEPOOL_ are put in (write \
         `%(NODEPOOL_CLOUD)` and set that variable)",
    );
    let text = small("cloud: mine", "cloud: '%(NODEPOOL_CLOUD)s' # not %(NODEPOOL_CLOUDS)");
    let environment = environment(&[("NODEPOOL_CLOUD", "mine"), ("NODEPOOL_CLOUDS", "x")]);
    let warnings = lines(&check_bytes(text.as_bytes(), &environment).unwrap());
    assert!(warnings.contains("\nmain:9:13: the `s` behind `%(NODEPOOL_CLOUD)` stays"), "{warnings}");
    assert!(!warnings.contains("CLOUDS"), "{warnings}");
    for text in ["# '%(CLOUD)s'\n", "    # %(CLOUD)\n", "images-dir: '%(asctime)s'\n", "images-dir: '100%(x'\n"] {
        assert_eq!(check(&format!("{text}labels: []\n")), "", "{text}");
    }
}

#[test]
fn the_paths_of_tls_are_all_there_or_in_the_secure_file() {
    let warnings = check("zookeeper-tls: {cert: c, key: k}\n");
    assert!(
        warnings.starts_with("main:1:16: `zookeeper-tls`: `ca` missing, so that no connection is made")
            && warnings.contains("a secure file that has all three takes the place of these"),
        "{warnings}"
    );
    assert!(load_errors("zookeeper-tls: {cert: c, key: k}\n").contains("`ca` missing"));
}

#[test]
fn warnings_are_told_beside_errors_in_the_order_of_the_file() {
    let text = "labels: [{name: ' '}]\nproviders: [{name: p}]\nwebapp: {}\nwebapp: {}\nbuild-log-dir: '%(X)'\n";
    let errors = check_bytes(text.as_bytes(), &environment(&[])).unwrap_err();
    assert_eq!(errors.to_string().lines().count(), 1, "{errors}");
    let places: Vec<_> = errors.warnings.iter().map(|warning| warning.place.line).collect();
    assert_eq!(places, [1, 1, 4, 5], "{:?}", errors.warnings);
    let twice = "webapp: {}\nwebapp: {}\nlabels: [{name: ' '}]\n";
    assert!(check(&format!("{twice}build-log-dir: '%(X)'\n")).lines().is_sorted(), "likewise without one");
}

#[test]
fn a_clouds_yaml_is_called_that() {
    let errors = check_errors("clouds:\n  c:\n    auth: {auth_url: 'http://k', username: u}\n");
    assert!(errors.starts_with("main:1:1: this is a clouds.yaml, as `clouds` shows"), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
}

#[test]
fn a_key_that_is_refused_is_where_it_stands() {
    let annotated = pod("type: pod, image: i, annotations: {team: a, cost centre: b}");
    let errors = check_errors(&annotated);
    let expected = "the key `cost centre` cannot be that of an annotation";
    assert!(errors.starts_with("main:9:61: ") && errors.contains(expected), "{errors}");
}

#[test]
fn a_spec_for_a_part_of_a_cpu_keeps_the_labels_memory() {
    let text = pod("type: pod, image: i, cpu: '0.5', memory: 512, memory-limit: 1024");
    let expected =
        "command: [sleep, infinity], resources: {requests: {cpu: 0.5, memory: 512Mi}, limits: {memory: 1024Mi}}}]}`";
    let errors = check_errors(&text);
    assert!(errors.starts_with("main:9:43: ") && errors.contains(expected), "{errors}");
}

#[test]
fn a_label_that_stands_twice_is_told_of_a_provider_of_another_launcher_too() {
    let text = "labels: [{name: small}]\nzookeeper-servers: [{host: zk01}]\nproviders:\n- name: a\n  driver: aws\n  \
                region-name: r\n  pools:\n  - name: main\n    labels: [{name: small, cloud-image: i}, {name: small, cloud-image: i}]\n  \
                cloud-images: [{name: i, username: u, image-id: x}]\n";
    let warnings = lines(&load(text).warnings);
    assert!(warnings.contains("label `small` is listed twice; this one counts"), "{warnings}");
}
