//! What is said about keys that are not where they belong, or are not any more.

use super::{SMALL, check, check_errors, lines, load};

#[test]
fn a_retired_key_is_called_that_with_what_took_its_place() {
    for (text, place, expected) in [
        (
            "providers:\n- {name: p, cloud: c, api-timeout: 60}\n",
            "main:2:23",
            "it is `api_timeout` of the cloud in clouds.yaml",
        ),
        (
            "providers:\n- {name: p, cloud: c, image-type: qcow2}\n",
            "main:2:23",
            "`image_format` of the cloud in clouds.yaml",
        ),
        ("providers:\n- {name: p, cloud: c, hostname-format: x}\n", "main:2:23", "leave it out: it had no effect"),
        ("providers:\n- {name: p, cloud: c, username: x}\n", "main:2:23", "stands in clouds.yaml; `cloud` names it"),
        ("zookeeper-auth: {scheme: sasl}\n", "main:1:1", "show a certificate instead, `zookeeper-tls: {"),
        ("gearman-servers: []\n", "main:1:1", "Zuul asks for nodes through ZooKeeper"),
        ("zmq-publishers: []\n", "main:1:1", "Zuul asks for nodes through ZooKeeper"),
        ("labels: [{name: l, subnodes: 1}]\n", "main:1:20", "with a nodeset, in Zuul"),
        (
            "labels: [{name: l}]\nproviders: [{name: s, driver: static, pools: [{name: m, nodes: [{name: h, labels: l, ssh-port: 22}]}]}]\n",
            "main:2:86",
            "it is `connection-port`",
        ),
    ] {
        let errors = check_errors(text);
        assert!(
            errors.starts_with(place) && errors.contains("is a key of earlier versions of Nodepool"),
            "{text}: {errors}"
        );
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}: {errors}");
    }
    let loaded = load("providers:\n- {name: p, cloud: c, api-timeout: 60}\n");
    assert!(loaded.broken_providers.is_empty() && loaded.warnings.len() == 1, "a warning at run time: {loaded:?}");
}

#[test]
fn a_key_of_another_part_of_the_file_is_told_so_before_any_likeness() {
    for (from, to, expected) in [
        (
            "min-ram: 1024",
            "min-ram: 1024\n            max-hold-age: 5",
            "label `small` has no key `max-hold-age` (it belongs at the top level of the file)",
        ),
        (
            "cloud: mine",
            "cloud: mine\n    auto-floating-ip: no",
            "`auto-floating-ip` (it belongs in a pool of a provider)",
        ),
        (
            "cloud: mine",
            "cloud: mine\n    max-ready-age: 5",
            "`max-ready-age` (it belongs in one of the top-level `labels`)",
        ),
        ("min-ready: 2", "min-ready: 2\n    max-servers: 5", "`max-servers` (it belongs in a pool of a provider or "),
        ("max-servers: 5", "min-ram: 5", "`min-ram` (it belongs in one of the `labels` of a pool)"),
        (
            "max-servers: 5",
            "default-label-cpu: 5",
            "`default-label-cpu` (leave it out: driver `openstack` has none; it is a key of: openshiftpods, openshift, kubernetes)",
        ),
        ("max-servers: 5", "max-server: 5", "`max-server` (did you mean `max-servers`?)"),
        ("max-servers: 5", "colour: 5", "`colour` (its keys are: "),
    ] {
        let errors = check_errors(&SMALL.replacen(from, to, 1));
        assert!(errors.contains(expected), "{from} -> {to}: {errors}");
    }
}

#[test]
fn only_what_may_be_left_out_is_said_to_be() {
    let errors = check_errors("labels:\n- name:\n- {name: l, min-ready: }\nproviders:\n- {name: p, cloud: }\n");
    let lines: Vec<_> = errors.lines().collect();
    assert_eq!(lines.len(), 3, "{errors}");
    assert!(lines[0].ends_with("a label: `name` has no value (give it one: it must be there)"), "{errors}");
    assert!(lines[1].ends_with("label `l`: `min-ready` has no value (give it one, or leave the key out)"), "{errors}");
    assert!(lines[2].ends_with("provider `p`: `cloud` has no value (give it one: it must be there)"), "{errors}");
}

#[test]
fn a_file_from_before_version_3_gets_one_line() {
    let text = "\
script-dir: /etc/nodepool/scripts
gearman-servers: [{host: localhost}]
zookeeper-servers: [{host: localhost}]
labels:
- {name: trusty, image: trusty, min-ready: 1, providers: [{name: cloud}]}
providers:
- name: cloud
  username: u
  max-servers: 96
  images: [{name: trusty, min-ram: 8192, diskimage: trusty, private-key: /k}]
targets: [{name: zuul}]
diskimages: [{name: trusty, elements: [ubuntu]}]
";
    let errors = check_errors(text);
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("main:2:1: this is a configuration for Nodepool before 3.0"), "{errors}");
    let loaded = load(text);
    assert!(loaded.warnings[0].message.contains("before 3.0"), "{}", lines(&loaded.warnings));
}

#[test]
fn tabs_that_python_refuses_are_an_error_when_validating_and_a_warning_else() {
    for text in [
        "webapp:\t{port: 1}\n",
        "webapp:\n  port: 1\t\n",
        "webapp: {port: 1,\tlisten_address: a}\n",
        "labels: []\t# none\n",
    ] {
        let expected = "a tab stands here where only spaces may stand: Python Nodepool cannot read the file";
        assert!(check_errors(text).contains(expected), "{text:?}");
        assert!(lines(&load(text).warnings).contains(expected), "{text:?}");
    }
    for text in [
        "# a\tcomment\nimages-dir: /a  # one\tmore\n",
        "images-dir: \"a\tb\"\nelements-dir: 'c\td'\n",
        "elements-dir: |\n  a\tb\n  \tc\nimages-dir: x\n",
        "elements-dir: >-\n  a\tb\n",
    ] {
        assert_eq!(check(text), "", "{text:?}");
    }
}

#[test]
fn a_builder_list_that_is_a_mapping_is_ignored_with_a_warning() {
    let text = "image-builders: {ib: {host: h}}\nproviders: []\n";
    assert!(
        lines(&load(text).warnings)
            .contains("main:1:17: the configuration: `image-builders` must be a list, not a mapping")
    );
    assert!(check_errors(text).contains("must be a list, not a mapping; the daemons ignore it"));
}

#[test]
fn what_else_is_wrong_in_a_provider_whose_driver_is_not_built_is_told() {
    let text = "\
labels: [{name: a}]
providers:
- name: p
  driver: aws
  max-concurrency: many
  pools:
  - name: main
    max-servers: ten
    labels: [{name: b, cloud-image: none, instance-type: t3.small}]
  diskimages: [{name: d}]
";
    let errors = check_errors(text);
    for expected in [
        "main:4:11: provider `p`: this launcher does not serve driver `aws`",
        "main:5:20: provider `p`: `max-concurrency` must be a whole number",
        "main:8:18: provider `p`, pool `main`: `max-servers` must be a whole number",
        "main:9:14: provider `p`, pool `main`, label `b` is not among the top-level labels",
        "main:9:37: provider `p`, pool `main`, label `b`: there is no cloud-image `none` in the provider",
        "main:10:16: provider `p`: diskimage `d` is not among the top-level diskimages",
    ] {
        assert!(errors.contains(expected), "{expected}:\n{errors}");
    }
    assert_eq!(errors.lines().count(), 6, "no word about its keys: {errors}");
}

#[test]
fn a_port_within_the_name_of_a_zookeeper_server_is_taken_out_of_it() {
    let text = "zookeeper-servers:\n- host: zk01:2281\n- {host: '[::1]:5', port: 6}\n- {host: '::1'}\n";
    let errors = check_errors(text);
    assert!(errors.contains("main:2:9: ZooKeeper's `host` is `zk01:2281`"), "{errors}");
    assert!(errors.contains("(write `host: zk01` and `port: 2281`)"), "{errors}");
    let servers = load(text).config.zookeeper.servers.clone();
    let servers: Vec<_> = servers.iter().map(|server| (server.host.as_str(), server.port)).collect();
    assert_eq!(servers, [("zk01", 2281), ("::1", 6), ("::1", 2281)]);
}

#[test]
fn numbers_that_memory_or_zookeeper_pays_for_have_a_bound() {
    let text = "\
labels: [{name: a, min-ready: 1000000000000}]
providers:
- name: p
  driver: static
  pools: [{name: m, nodes: [{name: h, labels: a, max-parallel-jobs: 4000000000}]}]
";
    let errors = check_errors(text);
    assert!(errors.contains("main:1:31: label `a`: `min-ready` is 1000000000000, and at most 10000"), "{errors}");
    assert!(errors.contains("`max-parallel-jobs` is 4000000000, and at most 1000 are allowed (write 1000 or less)"));
    let config = load(text).config;
    assert_eq!(config.labels["a"].min_ready, 10_000);
    assert_eq!(config.providers["p"].pools[0].hosts.as_ref().unwrap()[0].max_parallel_jobs, 1000);
}

#[test]
fn a_key_of_old_that_has_a_list_below_is_the_one_of_today() {
    let errors = check_errors(&SMALL.replace("    pools:\n", "    pool:\n"));
    assert!(errors.contains("provider `cloud` has no key `pool` (did you mean `pools`?)"), "{errors}");
    let old = check_errors(&SMALL.replace("cloud: mine", "cloud: mine\n    pool: public"));
    assert!(old.contains("`pool` is a key of earlier versions of Nodepool (leave it out: whether"), "{old}");
}

#[test]
fn a_key_whose_right_one_is_there_already_is_told_where_that_is() {
    for (add, expected) in [
        ("provider: []\n", "has no key `provider` (`providers` is there already, at main:7:1: leave this one out)"),
        (
            "provider: [{name: x, cloud: y}]\n",
            "(`providers` is there already, at main:7:1: put what stands below this key there, and leave this one out)",
        ),
    ] {
        let errors = check_errors(&format!("{SMALL}{add}"));
        assert!(errors.contains(expected), "{errors}");
    }
    let errors = check_errors(&SMALL.replace("max-servers: 5", "max-servers: 5\n        max-server: 6"));
    assert!(errors.contains("(`max-servers` is there already, at main:16:9: leave one of the two out)"), "{errors}");
}

#[test]
fn what_a_key_is_called_elsewhere_leads_to_ours() {
    let pods = "labels: [{name: l}]\nproviders: [{name: p, driver: DRIVER, context: c, KEY: 5, pools: [{name: m, labels: [{name: l, type: pod, image: i}]}]}]\n";
    let host = "labels: [{name: l}]\nproviders: [{name: p, driver: static, pools: [{name: m, nodes: [{name: h, labels: l, KEY: x}]}]}]\n";
    for (text, expected) in [
        ("zookeeper-tls: {cert: a, key: b, cacert: c}\n".to_owned(), "`cacert` (did you mean `ca`?)"),
        ("zookeeper-servers: [{hostname: h}]\n".to_owned(), "`hostname` (did you mean `host`?)"),
        ("zk: [{host: h}]\n".to_owned(), "`zk` (did you mean `zookeeper-servers`?)"),
        (SMALL.replace("cloud: mine", "cloud: mine\n    region: r"), "`region` (did you mean `region-name`?)"),
        (SMALL.replace("max-servers: 5", "az: [a]"), "`az` (did you mean `availability-zones`?)"),
        (SMALL.replace("max-servers: 5", "max-pods: 5"), "`max-pods` (did you mean `max-servers`?)"),
        (
            SMALL.replace("cloud: mine", "cloud: mine\n    max-pods: 5"),
            "`max-pods` (did you mean `max-servers`? It belongs in a pool of a provider",
        ),
        (SMALL.replace("min-ready: 2", "max-ready: 2"), "`max-ready` (`min-ready` says how many nodes are kept ready"),
        (pods.replace("DRIVER", "openshift").replace("KEY", "max-servers"), "(did you mean `max-projects`?)"),
        (
            pods.replace("DRIVER", "openshiftpods").replace("type: pod, ", "").replace("KEY", "max-servers"),
            "(did you mean `max-pods`?)",
        ),
        (pods.replace("DRIVER", "k8s").replace("KEY", "max-servers"), "no driver `k8s` (did you mean `kubernetes`?"),
        (host.replace("KEY", "user"), "`user` (did you mean `username`?)"),
        (host.replace("KEY", "port"), "`port` (did you mean `connection-port`?)"),
        (host.replace("name: h,", "hostname: h,").replace(", KEY: x", ""), "`hostname` (did you mean `name`?)"),
    ] {
        let errors = check_errors(&text);
        assert!(errors.contains(expected) && errors.lines().count() == 1, "{text}: {errors}");
    }
}

#[test]
fn a_name_that_is_suggested_is_free() {
    let text = "labels: [{name: l}]\nproviders: [{name: p, driver: kubernetes, pools: [\
                {name: zuul-ci, labels: [{name: l, type: namespace}]}, {name: Zuul_CI, labels: []}]}]\n";
    let errors = check_errors(text);
    assert!(errors.contains("(call it otherwise, as `zuul-ci-2`)"), "{errors}");
}
