//! A list in the place of a mapping and the like, old forms, units: what is said leads to the right form.

use super::check_errors;

/// Each: a file, the place of its only error, and the way out.
fn each_leads_to(cases: &[(&str, &str, &str)]) {
    for (text, place, way_out) in cases {
        let errors = check_errors(text);
        assert!(errors.starts_with(&format!("main:{place}: ")), "{text}\n{errors}");
        assert!(errors.ends_with(&format!("({way_out})")), "{text}\n{errors}");
        assert_eq!(errors.lines().count(), 1, "{text}\n{errors}");
    }
}

#[test]
fn a_list_of_mappings_begins_each_item_with_a_dash() {
    each_leads_to(&[
        (
            "zookeeper-servers:\n  host: zk1\n  port: 2281\n",
            "2:3",
            "begin each item with a dash: `- host: zk1`, and its other keys below `host`",
        ),
        ("zookeeper-servers: zk1\n", "1:20", "write `- host: zk1`"),
        (
            "labels:\n  small:\n    min-ready: 1\n",
            "2:3",
            "write each as `- name: small`, and its other keys below `name`",
        ),
        ("labels:\n  -name: a\n", "2:3", "write `- name: a`, with a space behind the dash"),
        ("labels:\n- small\n", "2:3", "write `- name: small`"),
        ("labels:\n- name:small\n", "2:3", "write `- name: small`, with a space behind the colon"),
        ("labels:\n- name = small\n", "2:3", "write `- name: small`, with a colon in the place of `=`"),
        ("labels:\n- min-ready=2\n", "2:3", "write `- name: …` first, and `min-ready: 2` below `name`"),
        ("labels:\n- small: {min-ready: 1}\n", "2:3", "write `- name: small`, and its other keys below `name`"),
        ("labels:\n- small:\n  min-ready: 1\n", "2:3", "write `- name: small`, and its other keys below `name`"),
        (
            "labels:\n- name: a\n- min-ready: 1\n",
            "3:3",
            "write `min-ready: 1` without a dash, below `name: a`, if it belongs to that",
        ),
        ("labels: [{name:small}]\n", "1:11", "write `name: small`"),
        ("zookeeper-servers: [{host:zk1}]\n", "1:22", "write `host: zk1`"),
        ("labels:\n- 'name: small'\n", "2:3", "take the quotes away: `- name: small`"),
        ("labels: small, large\n", "1:9", "write an item for each: `- name: small`, `- name: large`"),
        ("webapp: 0.0.0.0:5\n", "1:9", "write `listen_address: 0.0.0.0` and `port: 5` below `webapp:`"),
        ("elements-dir: [/a, /b]\n", "1:15", "write `elements-dir: /a:/b`, with a colon between them"),
        ("labels: [{id: a}]\n", "1:11", "did you mean `name`?"),
        ("include: other.yaml\n", "1:1", "a configuration includes no other files: write here what stands in them"),
        (
            "zookeeper-servers: {host: [a, b], port: 5}\n",
            "1:20",
            "write one item for each server: `- {host: a, port: 5}`, `- {host: b, port: 5}`",
        ),
        ("zookeeper-servers: [{host: h, port: tls}]\n", "1:37", "a port is a number from 1 to 65535, without quotes"),
        ("diskimages: [{name: d, formats: [raw], elements: '-vm - x'}]\n", "1:50", "write it as a list: [vm, x]"),
        ("labels:\n- name small\n", "2:3", "write `- name: small`, with a colon behind `name`"),
        ("labels:\n-\n", "2:2", "write `- name: …`, and its other keys below `name`"),
        (
            "tenant-resource-limits: {t: {max-cores: 5}}\n",
            "1:25",
            "write each as `- tenant-name: t`, and its other keys below `tenant-name`",
        ),
        ("providers: {c: {cloud: c}}\n", "1:12", "write each as `- name: c`, and its other keys below `name`"),
    ]);
}

#[test]
fn a_zookeeper_server_in_a_single_text_is_written_out_at_once_with_all_that_is_in_it() {
    let of = |item: &str| check_errors(&format!("zookeeper-servers:\n- {item}\n"));
    for (item, way_out) in [
        ("zk://h:2181/nodepool", "write `- {host: h, port: 2181, chroot: /nodepool}`"),
        ("h:2181", "write `- {host: h, port: 2181}`"),
        ("https://zk01", "write `- host: zk01`"),
        (
            "a:2181,b:2181/x",
            "write one item for each server: `- {host: a, port: 2181, chroot: /x}`, `- {host: b, port: 2181, chroot: /x}`",
        ),
        ("'[::1]:2281'", "write `- {host: '::1', port: 2281}`"),
        ("h: 2181", "write `- {host: h, port: 2181}`"),
        ("{host: 'zk://h:2181/np'}", "write `host: h`, `port: 2181` and `chroot: /np`"),
        ("{host: h/np}", "write `host: h` and `chroot: /np`"),
        (
            "{hosts: [a, 'b:5'], port: 2281}",
            "write one item for each server: `- {host: a, port: 2281}`, `- {host: b, port: 5}`",
        ),
    ] {
        let errors = of(item);
        assert!(errors.ends_with(&format!("({way_out})")) && errors.lines().count() == 1, "{item}: {errors}");
    }
    for whole in ["a:2181,b:2181/x", "{a: 2181, b: 2182}"] {
        let errors = check_errors(&format!("zookeeper-servers: {whole}\n"));
        assert!(
            errors.contains("write one item for each server: `- {host: a, port: 2181") && !errors.contains('\n'),
            "{errors}"
        );
    }
    let server =
        &crate::config::tests::load("zookeeper-servers: [{host: 'zk://h:5/np'}]\n").config.zookeeper.servers[0];
    assert_eq!((server.host.as_str(), server.port, server.chroot.as_deref()), ("h", 5, Some("/np")));
}

#[test]
fn a_mapping_has_no_dashes() {
    each_leads_to(&[
        ("webapp: [{port: 5}]\n", "1:9", "write `port: 5`, without a dash"),
        ("diskimages: [{name: d, env-vars: [{name: A, value: b}]}]\n", "1:34", "write `A: …`, without a dash"),
        ("diskimages: [{name: d, env-vars: [A=b]}]\n", "1:34", "write `A: …`, without a dash"),
        ("diskimages: [{name: d, env-vars: A=b}]\n", "1:34", "write `A: …`"),
        ("diskimages: [{name: d, metadata: [a]}]\n", "1:34", "write `a: …`, without a dash"),
        (
            "webapp: [{port: 5}, {listen_address: '::'}]\n",
            "1:9",
            "write `port: 5` and `listen_address: ::`, without dashes",
        ),
        ("webapp: 8005\n", "1:9", "write `port: 8005` below `webapp:`"),
        ("zookeeper-tls: /etc/ssl\n", "1:16", "write `cert:`, `key:` and `ca:` below it, each with the path of a file"),
        ("diskimages: [{name: d, metadata: 5}]\n", "1:34", "write keys below it, each with a colon and its value"),
    ]);
}

#[test]
fn a_list_of_texts_is_written_out() {
    each_leads_to(&[
        ("diskimages: [{name: d, formats: qcow}]\n", "1:33", "write it as a list: [qcow2]"),
        ("diskimages: [{name: d, formats: 'RAW,vhd'}]\n", "1:33", "write it as a list: [raw, vhd]"),
        ("diskimages: [{name: d, elements: vm ubuntu}]\n", "1:34", "write it as a list: [vm, ubuntu]"),
        (
            "providers: [{name: p, cloud: c, pools: [{name: m, networks: private net}]}]\n",
            "1:61",
            "write it as a list: ['private net']",
        ),
        (
            "providers: [{name: p, cloud: c, pools: [{name: m, networks: {name: private}}]}]\n",
            "1:61",
            "write the names alone, as a list: [private]",
        ),
        (
            "providers: [{name: p, cloud: c, pools: [{name: m, networks: [{name: private}]}]}]\n",
            "1:62",
            "write `- private` alone: earlier versions of Nodepool had a mapping there",
        ),
        (
            "providers: [{name: p, cloud: c, pools: [{name: m, availability-zones: [{name: nova}]}]}]\n",
            "1:72",
            "write `- nova` alone",
        ),
    ]);
}

#[test]
fn a_driver_that_is_a_mapping_is_read_as_the_one_that_it_names() {
    each_leads_to(&[
        ("providers: [{name: p, cloud: c, driver: {name: openstack}}]\n", "1:41", "write `driver: openstack`"),
        ("providers: [{name: p, driver: {name: static}, pools: []}]\n", "1:31", "write `driver: static`"),
        ("providers: [{name: p, driver: {kind: static}, pools: []}]\n", "1:31", "write `driver: static`"),
    ]);
}

#[test]
fn a_number_with_a_unit_is_converted_to_the_one_that_is_wanted() {
    each_leads_to(&[
        ("labels: [{name: a, max-ready-age: 1h}]\n", "1:35", "it is a number of seconds: write 3600"),
        ("zookeeper-timeout: 10s\n", "1:20", "it is a number of seconds: write 10"),
        ("tenant-resource-limits: [{tenant-name: t, max-ram: 64G}]\n", "1:52", "it is a number of MiB: write 65536"),
        ("image-builders: [{name: b, host: h, min-free: 20G}]\n", "1:47", "it is a number of GiB: write 20"),
        ("tenant-resource-limits: [{tenant-name: t, max-cores: many}]\n", "1:54", "write a whole number alone"),
    ]);
}

#[test]
fn a_number_in_words_or_groups_is_told_as_one() {
    let pool =
        |limit: &str| format!("providers: [{{name: p, cloud: c, pools: [{{name: m, max-servers: {limit}}}]}}]\n");
    each_leads_to(&[
        (&pool("unlimited"), "1:64", "leave the key out where there is no limit"),
        (&pool("'1,000'"), "1:64", "write 1000"),
        ("tenant-resource-limits: [{tenant: t, max-cores: 5}]\n", "1:35", "write `tenant-name: t`"),
        (
            "x-defaults: &d {a: b}\n",
            "1:1",
            "keys of one's own are not allowed, not even for anchors: put the anchor where what it stands for is used first",
        ),
        (
            "providers: [{name: p, cloud: c, auth: {username: x}}]\n",
            "1:33",
            "how to log in to a cloud stands in clouds.yaml; `cloud` names it",
        ),
    ]);
}

#[test]
fn a_port_is_a_number_from_1_to_65535() {
    for port in ["0", "-1", "65536"] {
        for text in
            ["zookeeper-servers: [{host: h, port: PORT}]\n", "image-builders: [{name: b, host: h, port: PORT}]\n"]
        {
            let errors = check_errors(&text.replace("PORT", port));
            assert!(
                errors.contains(&format!("`port` cannot be {port} (a port is a number from 1 to 65535)")),
                "{errors}"
            );
        }
    }
    let static_host = "labels: [{name: a}]\nproviders: [{name: p, driver: static, pools: [{name: m, nodes: [{name: h, \
                       labels: a, connection-port: 0}]}]}]\n";
    assert!(check_errors(static_host).contains("`connection-port` is 0, so that no node can be connected to"));
    assert!(super::lines(&super::load(static_host).warnings).contains("`connection-port` is 0"), "Python runs with it");
    let webapp = super::check("webapp: {port: 0}\n");
    assert!(webapp.contains("`port` is 0, so that the system chooses another one at each start"), "{webapp}");
}

/// What is written after each piece of advice must not lead back to an earlier one.
#[test]
fn advice_that_is_followed_leads_to_a_file_that_is_right() {
    for chain in [
        ["labels: @a\n", "labels: '@a'\n", "labels: [{name: '@a'}]\n"],
        ["labels: 5\n", "labels: [{name: '5'}]\n", ""],
        ["labels: [yes]\n", "labels: [{name: 'yes'}]\n", ""],
        ["labels: {on: {min-ready: 1}}\n", "labels: [{name: 'on', min-ready: 1}]\n", ""],
        ["labels: [{name: 010}]\n", "labels: [{name: '010'}]\n", ""],
        [
            "diskimages: [{name: d, formats: raw, elements: 5}]\n",
            "diskimages: [{name: d, formats: [raw], elements: ['5']}]\n",
            "",
        ],
        [
            "diskimages: [{name: d, formats: [raw], elements: *vm}]\n",
            "diskimages: [{name: d, formats: [raw], elements: '*vm'}]\n",
            "diskimages: [{name: d, formats: [raw], elements: ['*vm']}]\n",
        ],
        ["zookeeper-servers: zk1:2281/x\n", "zookeeper-servers: [{host: zk1, port: 2281, chroot: /x}]\n", ""],
    ] {
        let steps: Vec<_> = chain.into_iter().filter(|step| !step.is_empty()).collect();
        let (last, wrong) = steps.split_last().unwrap();
        for (step, next) in wrong.iter().zip(&steps[1..]) {
            let errors = check_errors(step);
            let advised = errors.split('`').skip(1).step_by(2).map(|text| text.trim_start_matches("- "));
            let advised: Vec<_> =
                advised.chain(errors.rsplit(": ").next().map(|list| list.trim_end_matches(')'))).collect();
            assert!(
                advised.iter().any(|text| !step.contains(text) && next.contains(text)),
                "{step} is told {errors}, which does not lead to {next}"
            );
        }
        super::check(last);
    }
}
