//! What the daemons make of a configuration.

use std::{path::Path, time::Duration};

use super::{
    super::{Driver, LabelImage, OpenStack, ZooKeeperServer, diff},
    SMALL, check_errors, environment, lines, load, load_bytes, load_errors,
};
use crate::{
    config::Loaded,
    model::{Object, Resources},
};

fn openstack<'l>(loaded: &'l Loaded, provider: &str) -> &'l OpenStack {
    match &loaded.config.providers[provider].driver {
        Driver::OpenStack(openstack) | Driver::Fake(openstack) => openstack,
        driver => panic!("{driver:?}"),
    }
}

#[test]
fn an_empty_mapping_gets_every_default() {
    let loaded = load("{}");
    let config = &*loaded.config;
    assert_eq!((config.webapp.port, config.webapp.listen_address.as_str()), (8005, "0.0.0.0"));
    assert_eq!(config.build_log_retention, 7);
    assert_eq!(config.zookeeper.timeout, Duration::from_secs(10));
    assert!(config.zookeeper.servers.is_empty() && config.zookeeper.tls.is_none());
    assert!(config.max_hold_age.is_none() && config.images_dir.is_none() && config.build_log_dir.is_none());
    assert!(loaded.warnings.is_empty());
}

#[test]
fn sections_without_a_value_are_absent() {
    let loaded = load("labels:\nproviders:\ndiskimages:\nwebapp:\nzookeeper-servers:\nzookeeper-tls:\nmax-hold-age:\n");
    assert!(loaded.config.labels.is_empty() && loaded.warnings.is_empty());
}

#[test]
fn an_empty_file_is_an_error() {
    for empty in ["", "# nothing\n", "---\n", "~\n"] {
        let expected =
            "main:1:1: the configuration is empty (is it the right file? A configuration has `zookeeper-servers`, ";
        assert!(load_errors(empty).starts_with(expected));
    }
    assert!(load_errors("- a\n").contains("the configuration must be a mapping, not a list"));
}

#[test]
fn a_small_configuration_gets_the_defaults_of_its_parts() {
    let loaded = load(SMALL);
    assert_eq!(lines(&loaded.warnings), "");
    let provider = &loaded.config.providers["cloud"];
    assert_eq!((provider.place.line, provider.launch_retries, provider.max_concurrency), (8, 3, None));
    assert_eq!(provider.launch_timeout, Duration::from_secs(3600));
    assert_eq!(provider.boot_timeout, Duration::from_secs(60));
    let pool = &provider.pools[0];
    assert_eq!((pool.priority, pool.disabled, pool.ignore_provider_quota), (100, false, false));
    assert_eq!(pool.limits, Resources::new().with("instances", 5.0));
    assert_eq!(pool.labels["small"].diskimage.as_ref().map(AsRef::as_ref), Some("image"));
    let own = openstack(&loaded, "cloud");
    assert_eq!(own.rate, Duration::from_secs(1));
    assert_eq!(own.image_name_format, "{image_name}-{timestamp}");
    assert_eq!(own.port_cleanup_interval, Some(Duration::from_secs(600)));
    assert!(!own.clean_floating_ips);
    let image = &own.diskimages["image"];
    assert_eq!((image.username.as_str(), image.python_path.as_str(), image.connection_port), ("zuul", "auto", 22));
    let label = &own.pools["main"].labels["small"];
    assert_eq!((label.volume_size, label.min_ram, label.host_key_checking), (50, 1024, true));
    assert!(own.pools["main"].auto_floating_ip);
}

#[test]
fn every_unusable_value_is_told_with_its_place() {
    let errors = load_errors(
        "webapp:\n  port: ten\nlabels:\n  - min-ready: 1\n  - name: a\n    min-ready: [1]\nzookeeper-timeout: soon\n",
    );
    assert_eq!(
        errors,
        "main:2:9: `webapp`: `port` must be a whole number, not the text `ten` (a port is a number from 1 to 65535, without quotes)\n\
         main:4:5: a label: `name` is missing (write one: `name: …`)\n\
         main:6:16: label `a`: `min-ready` must be a whole number, not a list (write a whole number alone)\n\
         main:7:20: the configuration: `zookeeper-timeout` must be a number, not the text `soon` (it is a number of seconds: \
         write the number alone)"
    );
}

#[test]
fn unknown_keys_are_ignored_with_a_suggestion() {
    let loaded = load(&SMALL.replace("max-servers: 5", "max-server: 5"));
    assert_eq!(
        lines(&loaded.warnings),
        "main:16:9: provider `cloud`, pool `main` has no key `max-server` (did you mean `max-servers`?)"
    );
}

#[test]
fn values_of_another_type_are_taken_for_what_they_mean() {
    let loaded = load(
        "labels:\n  - name: 2204\n    min-ready: '3'\nmax-hold-age: 60.0\nwebapp: {port: \"80\"}\nzookeeper-timeout: 5\n",
    );
    assert_eq!(loaded.config.labels["2204"].min_ready, 3);
    assert_eq!(loaded.config.max_hold_age, Some(Duration::from_secs(60)));
    assert_eq!((loaded.config.webapp.port, loaded.config.zookeeper.timeout), (80, Duration::from_secs(5)));
    let warnings = lines(&loaded.warnings);
    assert!(warnings.contains("label `2204`: `min-ready` must be a whole number, not the text `3`"), "{warnings}");
    assert!(warnings.contains("`name` must be a text, not the whole number `2204` (write it in quotes: '2204')"));
    assert!(!warnings.contains("zookeeper-timeout"), "harmless: {warnings}");
}

#[test]
fn an_error_within_a_provider_breaks_only_that_one() {
    let loaded = load(&format!(
        "{SMALL}  - name: other\n    rate: [1]\n    pools:\n      - name: main\n        labels:\n          - name: smal\n            cloud-image: x\n"
    ));
    assert_eq!(loaded.config.providers.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["cloud"]);
    let broken = &loaded.broken_providers[0];
    assert_eq!((broken.name.as_str(), broken.place.line), ("other", 22));
    assert!(loaded.broken_parts.is_empty(), "they are told with their provider");
    assert!(broken.reason.contains("provider `other`, pool `main`, label `smal` is not among the top-level labels"));
    assert!(
        broken.reason.contains("did you mean `small`?") && broken.reason.contains("no cloud-image `x`"),
        "{broken:?}"
    );
}

#[test]
fn providers_without_name_or_shape_break_alone() {
    let loaded = load("providers:\n  - cloud: c\n  - just text\n  - name: good\n");
    assert_eq!(loaded.config.providers.len(), 1);
    let names: Vec<_> = loaded.broken_providers.iter().map(|broken| broken.name.as_str()).collect();
    assert_eq!(names, ["number 1, without a name", "number 2, without a name"]);
}

#[test]
fn drivers_that_are_not_built_are_named_with_their_place() {
    let loaded = load("providers:\n  - name: x\n    driver: aws\n    pools: []\n  - name: y\n    driver: opnstack\n");
    assert_eq!(
        loaded.broken_providers[0].reason,
        "main:3:13: provider `x`: this launcher does not serve driver `aws` (leave this provider to a launcher of Python \
         Nodepool, in a file of its own; the drivers here are: openstack, openshiftpods, openshift, kubernetes, static, \
         metastatic)"
    );
    assert!(
        loaded.broken_providers[1]
            .reason
            .contains("there is no driver `opnstack` (did you mean `openstack`? The drivers are: openstack,")
    );
}

#[test]
fn a_name_that_begins_with_fake_decides_the_driver() {
    let loaded =
        load("providers:\n  - {name: fake-cloud, driver: static}\n  - {name: a, driver: fake}\n  - {name: b}\n");
    let drivers: Vec<_> = loaded.config.providers.values().map(|provider| provider.driver.name()).collect();
    assert_eq!(drivers, ["fake", "fake", "openstack"]);
}

#[test]
fn of_providers_with_one_name_the_last_counts() {
    let loaded = load("providers:\n  - {name: a, region-name: one}\n  - {name: b}\n  - {name: a, region-name: two}\n");
    assert_eq!(openstack(&loaded, "a").region_name.as_deref(), Some("two"));
    assert!(lines(&loaded.warnings).contains(
        "provider `a` is defined twice; this one counts, and nothing of the first (the first is at main:2:5;"
    ));
    let strict = check_errors("providers:\n- {name: a, cloud: c}\n- {name: a, cloud: d}\n");
    assert!(strict.contains("provider `a` is defined twice"), "{strict}");
    let broken = load("providers:\n  - {name: a}\n  - {name: a, driver: aws}\n");
    assert!(broken.config.providers.is_empty() && broken.broken_providers.len() == 1);
}

#[test]
fn limits_take_the_names_of_resources() {
    let pool = "\
providers:
  - name: a
    priority: 50
    max-concurrency: -1
    launch-retries: 0
    pools:
      - {name: p, max-servers: 0, max-cores: 0, max-ram: 4, max-volumes: 0, max-volume-gb: 0, node-attributes: {a: {b: [1, on]}}}
      - {name: q, max-volumes: 2, max-volume-gb: 3, priority: 0}
";
    let loaded = load(pool);
    let provider = &loaded.config.providers["a"];
    assert_eq!((provider.max_concurrency, provider.launch_retries), (None, 1));
    let limits = Resources::new().with("instances", 0.0).with("cores", 0.0).with("ram", 4.0);
    assert_eq!(
        (&provider.pools[0].limits, provider.pools[0].disabled, provider.pools[0].priority),
        (&limits, true, 50)
    );
    let attributes = provider.pools[0].node_attributes.as_ref().map(Object::text);
    assert_eq!(attributes.as_deref(), Some(r#"{"a": {"b": [1, true]}}"#));
    assert_eq!(provider.pools[1].limits, Resources::new().with("volumes", 2.0).with("volume-gb", 3.0));
    assert_eq!((provider.pools[1].priority, provider.pools[1].disabled), (0, false));
}

/// Each is what PyYAML and `json.dumps` made of it.
#[test]
fn attributes_are_what_python_would_write() {
    for (yaml, json) in [
        ("340282366920938463463374607431768211455", "340282366920938463463374607431768211455"),
        ("-0xFFFFFFFFFFFFFFFFFF", "-4722366482869645213695"),
        ("!!int 18446744073709551616", "18446744073709551616"),
        ("1_000", "1000"),
        ("1:30:00", "5400"),
        ("21.10", "21.1"),
        ("1.0e+16", "1e+16"),
        ("1.0e-5", "1e-05"),
        ("10000000000000000.5", "1e+16"),
        ("-0.0", "-0.0"),
        (".nan", "NaN"),
        ("-.inf", "-Infinity"),
        ("1e3", "\"1e3\""),
        ("\"\\xe9\"", "\"\\u00e9\""),
        (
            "{7: a, 2.50: b, yes: c, ~: d, z: 1, y: 2}",
            "{\"7\": \"a\", \"2.5\": \"b\", \"true\": \"c\", \"null\": \"d\", \"z\": 1, \"y\": 2}",
        ),
    ] {
        let text = SMALL
            .replace("      - name: main\n", &format!("      - name: main\n        node-attributes: {{a: {yaml}}}\n"));
        assert!(text.contains("node-attributes"), "{text}");
        let loaded = load(&text);
        let pool = &loaded.config.providers.values().next().unwrap().pools[0];
        assert_eq!(pool.node_attributes.as_ref().unwrap().get("a").unwrap().as_str(), json, "{yaml}");
    }
}

#[test]
fn tenant_limits_keep_free_names() {
    let loaded = load(
        "tenant-resource-limits:\n  - {tenant-name: t, max-servers: 1, max-cores: 2, max-ram: 3, max-volume-gb: 4, L-1234: 5}\n",
    );
    let expected = [("instances", 1.0), ("cores", 2.0), ("ram", 3.0), ("volume-gb", 4.0), ("L-1234", 5.0)];
    let expected = expected.iter().fold(Resources::new(), |all, (name, amount)| all.with(name, *amount));
    assert_eq!(loaded.config.tenant_limits["t"], expected);
    assert!(load_errors("tenant-resource-limits:\n  - max-cores: 2\n").contains("`tenant-name` is missing"));
}

#[test]
fn children_inherit_what_their_parents_say() {
    let loaded = load(
        "diskimages:
  - name: base
    abstract: true
    elements: [vm]
    env-vars: {A: base, B: base}
    formats: [qcow2, raw, qcow2]
    pause: true
    delete-after-upload: true
    rebuild-age: 10
    release: 21.10
    metadata: {from: base}
    shell-type: sh
  - name: middle
    parent: base
    elements: [vm, more]
    env-vars: {B: middle}
    metadata: {from: middle, on: 1.0}
  - name: leaf
    parent: middle
    pause: false
    delete-after-upload: false
    rebuild-age: 0
    formats: []
    username: me
",
    );
    let images = &loaded.config.diskimages;
    assert_eq!(images.keys().map(AsRef::as_ref).collect::<Vec<_>>(), ["middle", "leaf"]);
    let (middle, leaf) = (&images["middle"], &images["leaf"]);
    assert_eq!(leaf.elements, ["vm", "vm", "more"]);
    assert_eq!((leaf.env_vars["A"].as_str(), leaf.env_vars["B"].as_str()), ("base", "middle"));
    assert_eq!(leaf.formats, ["qcow2", "raw"]);
    assert!(leaf.pause && middle.delete_after_upload && !leaf.delete_after_upload);
    assert_eq!(leaf.rebuild_age, Duration::from_secs(10));
    assert_eq!((leaf.release.as_str(), leaf.username.as_str()), ("21.10", "me"));
    assert_eq!((middle.metadata["from"].as_str(), middle.metadata["True"].as_str()), ("middle", "1.0"));
    assert!(leaf.metadata.is_empty(), "metadata is not inherited");
    assert_eq!(leaf.shell_type.as_deref(), Some("sh"));
    assert_eq!((leaf.dib_cmd.as_str(), leaf.build_timeout), ("disk-image-create", Duration::from_secs(28800)));
}

#[test]
fn parents_that_are_missing_or_go_round_are_errors_only_for_images_that_are_built() {
    let errors =
        load_errors("diskimages:\n  - {name: a, parent: b}\n  - {name: b, parent: a}\n  - {name: c, parent: bb}\n");
    assert!(errors.contains("diskimage `a`: its parents go round in a circle: a → b → a"), "{errors}");
    assert_eq!(errors.lines().count(), 2, "each circle once: {errors}");
    assert!(errors.contains("main:4:23: diskimage `c`: there is no diskimage `bb`, its `parent`"), "{errors}");
    let unused =
        load("diskimages:\n  - {name: a, abstract: true, parent: a}\n  - {name: c, abstract: true, parent: d}\n");
    assert_eq!(unused.warnings.len(), 2);
}

#[test]
fn cross_references_are_checked() {
    for (from, to, expected) in [
        (
            "diskimage: image",
            "diskimage: imag",
            "diskimage `imag` is not among the top-level diskimages (did you mean `image`?)",
        ),
        ("      - name: image", "      - name: other", "provider `cloud`: diskimage `other` is not among"),
        (
            "diskimage: image",
            "cloud-image: redy-made",
            "there is no cloud-image `redy-made` in the provider (did you mean `ready-made`?)",
        ),
        ("            diskimage: image\n", "", "has neither `diskimage` nor `cloud-image`"),
        ("formats: [qcow2]", "abstract: true", "diskimage `image` is abstract and never built"),
    ] {
        let loaded = load(&SMALL.replace(from, to));
        let providers = loaded.broken_providers.iter().map(|broken| &broken.reason);
        let broken: Vec<_> = providers.chain(loaded.broken_parts.iter().map(|broken| &broken.reason)).collect();
        assert!(broken.len() == 1 && broken[0].contains(expected), "{from} -> {to}: {broken:#?}");
    }
}

#[test]
fn a_label_with_two_images_takes_the_diskimage() {
    let loaded = load(&SMALL.replace("diskimage: image", "diskimage: image\n            cloud-image: ready-made"));
    let label = &openstack(&loaded, "cloud").pools["main"].labels["small"];
    assert_eq!(label.image, LabelImage::Diskimage("image".into()));
    assert!(lines(&loaded.warnings).contains("has both `diskimage` and `cloud-image`"));
}

#[test]
fn labels_inherit_from_their_pool_and_images_know_their_port() {
    let text = SMALL
        .replace("      - name: ready-made", "      - {name: ready-made, connection-type: winrm, image-id: 7}")
        .replace("max-servers: 5", "networks: [a, b]\n        host-key-checking: no");
    let loaded = load(&text);
    let own = openstack(&loaded, "cloud");
    let label = &own.pools["main"].labels["small"];
    assert_eq!(
        (label.networks.as_slice(), label.host_key_checking),
        (["a".to_owned(), "b".to_owned()].as_slice(), false)
    );
    let image = &own.cloud_images["ready-made"];
    assert_eq!((image.connection_port, image.python_path.as_str(), &image.username), (5986, "auto", &None));
    let replaced = load(&text.replace("min-ram: 1024", "networks: []"));
    assert!(openstack(&replaced, "cloud").pools["main"].labels["small"].networks.is_empty());
}

#[test]
fn rates_and_intervals_may_be_switched_off() {
    let loaded = load(
        "providers:\n  - {name: a, rate: 0, port-cleanup-interval: 0, clean-floating-ips: yes}\n  - {name: b, rate: '0.5'}\n",
    );
    let own = openstack(&loaded, "a");
    assert_eq!((own.rate, own.port_cleanup_interval, own.clean_floating_ips), (Duration::ZERO, None, true));
    assert_eq!(openstack(&loaded, "b").rate, Duration::from_millis(500));
}

#[test]
fn variables_are_substituted_before_parsing() {
    let env = environment(&[("NODEPOOL_PORT", "81"), ("OTHER", "x"), ("NODEPOOL_TEXT", "a\nmax-hold-age: 5")]);
    let text = "webapp: {port: %(NODEPOOL_PORT), listen_address: 'x%(NODEPOOL_PORT)s%(OTHER)'}\nimages-dir: %(NODEPOOL_TEXT)\n";
    let config = load_bytes(text.as_bytes(), None, &env).expect("loads").config;
    assert_eq!((config.webapp.port, config.webapp.listen_address.as_str()), (81, "x81s%(OTHER)"));
    assert_eq!(
        (config.images_dir.as_deref(), config.max_hold_age),
        (Some(Path::new("a")), Some(Duration::from_secs(5)))
    );
    let errors = load_errors(text);
    assert!(errors.contains("environment variable NODEPOOL_PORT"), "{errors}");
}

#[test]
fn zookeeper_comes_from_the_secure_file_if_it_has_it() {
    let main = b"zookeeper-servers: [{host: a}]\nzookeeper-tls: {cert: c, verify-hostname: true}\ndiskimages: [{name: i, env-vars: {A: '1', B: '2'}}]\n";
    let secure = b"zookeeper-servers: [{host: '[::1]', port: 5, chroot: /x}]\nzookeeper-tls: {cert: c2, key: k2, ca: a2}\ndiskimages: [{name: i, env-vars: {B: '3'}}]\n";
    let config = load_bytes(main, Some(secure), &environment(&[])).expect("loads").config;
    let server = ZooKeeperServer { host: "::1".to_owned(), port: 5, chroot: Some("/x".to_owned()) };
    assert_eq!(config.zookeeper.servers, [server]);
    let tls = config.zookeeper.tls.as_ref().expect("TLS");
    assert!(
        tls.cert == Path::new("c2") && tls.key == Path::new("k2") && tls.ca == Path::new("a2") && tls.verify_hostname
    );
    assert_eq!(
        (config.diskimages["i"].env_vars["A"].as_str(), config.diskimages["i"].env_vars["B"].as_str()),
        ("1", "3")
    );
    let errors = load_bytes(main, None, &environment(&[])).expect_err("TLS is incomplete").to_string();
    assert!(errors.contains("main:2:16: `zookeeper-tls`: `key` and `ca` missing"), "{errors}");
}

#[test]
fn an_empty_secure_file_changes_nothing_and_a_wrong_one_is_an_error() {
    let main = b"zookeeper-servers: [{host: a}]\n";
    for empty in ["", "# later\n", "{}", "---\n"] {
        let config = load_bytes(main, Some(empty.as_bytes()), &environment(&[])).expect("loads").config;
        assert_eq!((config.zookeeper.servers[0].host.as_str(), config.zookeeper.servers[0].port), ("a", 2281));
    }
    let wrong = b"diskimages:\n  - {name: i, env-vars: {}}\n  - {name: j}\n";
    let errors = load_bytes(main, Some(wrong), &environment(&[])).expect_err("no such images").to_string();
    assert!(errors.contains("secure:2:5: the main configuration has no diskimage `i`"), "{errors}");
    assert!(errors.contains("secure:3:5: diskimage `j`: `env-vars` is missing"), "{errors}");
}

#[test]
fn duplicate_keys_are_told_with_both_places() {
    let loaded = load("webapp: {port: 1}\nlabels: []\nwebapp: {port: 2}\n");
    assert_eq!(loaded.config.webapp.port, 2);
    let warning = "main:3:1: the key `webapp` stands twice in one mapping; this one counts (the first is at main:1:1; \
                   leave one of the two out)";
    assert_eq!(lines(&loaded.warnings), warning);
}

#[test]
fn what_a_crash_leaves_in_a_file_is_told_with_its_place() {
    let bytes = |bytes: &[u8]| load_bytes(bytes, None, &environment(&[])).expect_err("must fail").to_string();
    assert!(bytes(b"a: 1\nb: \0\0").starts_with("main:2:4: the control character U+0000"));
    assert!(bytes(b"a: 1\nb: \xff").starts_with("main:2:4: this is not UTF-8"));
}

#[test]
fn a_difference_names_the_providers_that_changed_not_those_that_moved() {
    let old = load("providers:\n  - {name: a}\n  - {name: b}\n  - {name: c}\n").config;
    let new = load("labels: [{name: l}]\n\nproviders:\n  - {name: d}\n  - {name: a}\n  - {name: b, rate: 2}\n").config;
    let diff = diff(&old, &new);
    let names =
        |names: &[crate::model::ProviderName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert_eq!((names(&diff.added), names(&diff.removed), names(&diff.changed)), ("d".into(), "c".into(), "b".into()));
    assert!(diff.labels_changed && !diff.zookeeper_changed && !diff.webapp_changed && !diff.is_empty());
    assert!(super::super::diff(&old, &old).is_empty());
}

#[test]
fn what_cannot_be_a_file_in_images_dir_is_left_out_with_a_warning() {
    let loaded = load(
        "diskimages:\n- {name: ../x, formats: [raw]}\n- {name: a, elements: [vm], formats: [tar.gz, raw, ../../x], keep-formats: [md5, raw]}\n\
         - {name: base/x, abstract: true}\n- {name: .., parent: base/x}\n",
    );
    let names: Vec<_> = loaded.config.diskimages.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["a"]);
    let image = &loaded.config.diskimages["a"];
    assert_eq!((&image.formats[..], &image.keep_formats[..]), (&["raw".to_owned()][..], &["raw".to_owned()][..]));
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 5, "{warnings:?}");
    assert!(
        warnings.iter().any(|warning| warning.contains("main:2:3: diskimage `../x` cannot be built")),
        "{warnings:?}"
    );
    assert!(warnings.iter().any(|warning| warning.contains("diskimage `a`: `tar.gz` in `formats`")), "{warnings:?}");
}
