//! Our own keys in a file of their own.

use std::{ffi::OsStr, fs, path::Path};

use super::{
    super::{
        Loaded, advice,
        extensions::{self, Extensions, NAME, OWN, OwnKey},
        load, load_with,
        report::Mode,
        validate,
    },
    SMALL, accepted_by_python, check, environment, lines,
};
use crate::config::{AnsibleBuild, Driver};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKPpx8Gc0acQpxEIiMOAQ/mJcrODzMthNttl9zzt0XHw";

const MAIN: &str = "\
zookeeper-servers: [{host: z}]
zookeeper-tls: {cert: c, key: k, ca: a}
labels: [{name: l}]
diskimages:
- {name: image, elements: [vm], formats: [raw]}
- {name: other, dib-cmd: mine, formats: [raw]}
providers:
- name: cluster
  driver: openshiftpods
  context: c
  pools:
  - name: p
    labels: [{name: l, image: i}]
";

const SECOND: &str = "\
image-builders:
- {name: ib, host: ib.example.org}
zookeeper-tls: {verify-hostname: true}
diskimages:
- name: image
  ansible: {playbook: image.yaml, image-builder: ib}
- name: other
  shell-type: sh
providers:
- {name: cluster, launch-timeout: 77}
";

/// A directory with a configuration and the file beside it.
struct Files(tempfile::TempDir);

impl Files {
    fn new(main: &str, second: &str) -> Self {
        let this = Self(tempfile::tempdir().expect("a directory"));
        this.write("nodepool.yaml", main);
        this.write(NAME, second);
        this
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).expect("written");
    }

    fn load(&self) -> Loaded {
        load(&self.0.path().join("nodepool.yaml"), None).unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// What `config-validate` says, without the directory; errors begin with `E `.
    fn check(&self) -> String {
        let said = match validate(&self.0.path().join("nodepool.yaml"), Some(&self.0.path().join(NAME))) {
            Ok(warnings) => lines(&warnings),
            Err(errors) => errors.iter().map(|error| format!("E {error}")).collect::<Vec<_>>().join("\n"),
        };
        self.plain(&said)
    }

    fn plain(&self, said: &str) -> String {
        said.replace(&format!("{}/", self.0.path().display()), "")
    }
}

#[test]
fn each_of_our_keys_can_stand_in_the_second_file() {
    let files = Files::new(MAIN, SECOND);
    assert_eq!(files.check(), "");
    let loaded = files.load();
    assert_eq!(lines(&loaded.warnings), "");
    assert_eq!(loaded.extensions.as_deref(), Some(files.0.path().join(NAME).as_path()));
    let config = &loaded.config;
    assert_eq!(config.image_builders[0].host.as_deref(), Some("ib.example.org"));
    assert!(config.zookeeper.tls.as_ref().expect("TLS").verify_hostname);
    let build = AnsibleBuild {
        playbook: "image.yaml".into(),
        inventory: None,
        image_builder: Some("ib".to_owned()),
        min_free: None,
    };
    assert_eq!(config.diskimages["image"].ansible, Some(build));
    assert_eq!(config.diskimages["other"].shell_type.as_deref(), Some("sh"));
    assert_eq!(config.providers["cluster"].launch_timeout.as_secs(), 77);
    assert!(matches!(config.providers["cluster"].driver, Driver::Kubernetes(_)));
}

#[test]
fn an_own_key_in_nodepool_yaml_counts_and_config_validate_says_who_refuses_it() {
    let main = "\
image-builders: [{name: ib}]
zookeeper-tls: {verify-hostname: true}
diskimages: [{name: image, ansible: {playbook: p}}, {name: other, shell-type: sh}]
providers: [{name: c, driver: kubernetes, launch-timeout: 5, pools: []}, {name: o, cloud: c, launch-timeout: 5}]
";
    let said = check(main);
    for (place, example) in [
        ("main:1:1: the configuration: ", "`image-builders: …`"),
        ("main:2:17: `zookeeper-tls`: ", "`zookeeper-tls: {verify-hostname: …}`"),
        ("main:3:28: diskimage `image`: ", "`diskimages: [{name: image, ansible: …}]`"),
        ("main:3:67: diskimage `other`: ", "`diskimages: [{name: other, shell-type: …}]`"),
        ("main:4:43: provider `c`: ", "`providers: [{name: c, launch-timeout: …}]`"),
    ] {
        let line = said.lines().find(|line| line.starts_with(place)).unwrap_or_else(|| panic!("{place}: {said}"));
        assert!(line.contains("Python Nodepool's config-validate refuses a file that has `"), "{line}");
        assert!(line.contains(example) && line.contains(NAME), "{line}");
    }
    assert_eq!(said.matches("Python Nodepool's config-validate").count(), OWN.len(), "{said}");
    let said = lines(&super::load(&main.replace("zookeeper-tls: {verify-hostname: true}\n", "")).warnings);
    assert!(!said.contains("config-validate"), "daemons do not mind: {said}");
}

#[test]
fn what_is_wrong_in_the_second_file_has_its_place_there() {
    for (second, expected) in [
        (
            "labels: [{name: l}]\n",
            "E nodepool-extensions.yaml:1:1: this file: `labels` cannot stand in this file, which is for keys that Python \
             Nodepool does not have (here these are: image-builders, zookeeper-tls, diskimages, providers; all else stands \
             in nodepool.yaml)",
        ),
        (
            "diskimages:\n- name: image\n  formats: [raw]\n",
            "E nodepool-extensions.yaml:3:3: diskimage `image`: `formats` cannot stand in this file",
        ),
        (
            "diskimages:\n- name: image\n  ansibel: {playbook: p}\n",
            "(did you mean `ansible`? here these are: ansible, shell-type;",
        ),
        (
            "providers: [{name: cluster, launch-timeout: soon}]\n",
            "E nodepool-extensions.yaml:1:45: provider `cluster`: `launch-timeout` must be a whole number",
        ),
        (
            "providers: [{name: clusster, launch-timeout: 5}]\n",
            "E nodepool-extensions.yaml:1:13: provider `clusster` is not in nodepool.yaml (did you mean `cluster`?)",
        ),
        (
            "diskimages: [{name: imagge, ansible: {playbook: p}}]\n",
            "E nodepool-extensions.yaml:1:14: diskimage `imagge` is not in nodepool.yaml (did you mean `image`?)",
        ),
        (
            "diskimages:\n- {name: image, ansible: {playbook: p, hots: h}}\n",
            "E nodepool-extensions.yaml:2:40: diskimage `image`, `ansible` has no key `hots`",
        ),
        (
            "image-builders: [{name: a, port: 1}]\n",
            "E nodepool-extensions.yaml:1:34: image-builder `a`: `port` without `host`",
        ),
        ("image-builders: {}\n", "E nodepool-extensions.yaml:1:17: the configuration: `image-builders` must be a list"),
        ("image-builders:\n", "E nodepool-extensions.yaml:1:1: the configuration: `image-builders` has no value"),
        (
            "zookeeper-tls: {ca: x}\n",
            "E nodepool-extensions.yaml:1:17: `zookeeper-tls`: `ca` cannot stand in this file",
        ),
        (
            "zookeeper-tls: true\n",
            "E nodepool-extensions.yaml:1:16: `zookeeper-tls` must be a mapping, not the boolean",
        ),
        ("diskimages: {}\n", "E nodepool-extensions.yaml:1:13: `diskimages` must be a list, not a mapping"),
        ("diskimages: [{ansible: {}}]\n", "E nodepool-extensions.yaml:1:14: a diskimage: `name` is missing"),
        (
            "diskimages: [{name: image}, {name: image}]\n",
            "E nodepool-extensions.yaml:1:29: diskimage `image` stands twice in this file",
        ),
        ("- a\n", "E nodepool-extensions.yaml:1:1: this file must be a mapping, not a list"),
        ("a: [\n", "this is not YAML: "),
    ] {
        let said = Files::new(MAIN, second).check();
        assert!(said.contains(expected), "{second}: {said}");
        assert_eq!(said.lines().count(), 1, "told once: {said}");
    }
}

#[test]
fn an_empty_second_file_says_nothing() {
    for second in ["", "# later\n", "{}\n", "---\n"] {
        assert_eq!(Files::new(MAIN, second).check(), "");
    }
}

#[test]
fn a_key_in_both_files_counts_as_the_second_says_and_is_told_with_both_places() {
    let main = MAIN.replace("{name: image, ", "{name: image, ansible: {playbook: first.yaml}, ");
    let files = Files::new(&main, SECOND);
    let expected = "nodepool-extensions.yaml:6:3: diskimage `image`: `ansible` stands in two files; this one counts (the other \
                    is at nodepool.yaml:5:26: take it out there)";
    assert_eq!(files.check(), format!("E {expected}"));
    let loaded = files.load();
    assert_eq!(files.plain(&lines(&loaded.warnings)), expected);
    let build = loaded.config.diskimages["image"].ansible.clone().expect("ansible");
    assert_eq!(build.playbook, Path::new("image.yaml"));
}

/// So nodepool.yaml stays what Python's builder can run with, and what its `config-validate` accepts.
#[test]
fn ansible_in_the_second_file_takes_the_place_of_a_dib_cmd_in_the_first() {
    let second = "diskimages: [{name: other, ansible: {playbook: p}}]\n";
    let files = Files::new(&MAIN.replace("dib-cmd: mine,", "dib-cmd: mine, elements: [vm],"), second);
    assert_eq!(files.check(), "");
    let image = files.load().config.diskimages["other"].clone();
    assert!(image.ansible.is_some() && image.elements.is_empty());
    let one_file = Files::new(&MAIN.replace("dib-cmd: mine,", "dib-cmd: mine, ansible: {playbook: p},"), "");
    assert!(one_file.check().contains("`dib-cmd` beside `ansible`"), "{}", one_file.check());
}

#[test]
fn what_only_the_other_daemons_file_has_is_passed_over() {
    let second =
        "diskimages: [{name: of-the-builder, ansible: {playbook: p}}]\nproviders: [{name: gone, launch-timeout: 5}]\n";
    let files = Files::new(MAIN, second);
    let image = "nodepool-extensions.yaml:1:14: diskimage `of-the-builder` is not in nodepool.yaml";
    let provider = "nodepool-extensions.yaml:2:13: provider `gone` is not in nodepool.yaml";
    assert_eq!(files.check(), format!("E {image}\nE {provider}"));
    assert_eq!(files.plain(&lines(&files.load().warnings)), format!("{image}\n{provider}"), "daemons warn");
    files.write("nodepool-builder.yaml", "diskimages: [{name: of-the-builder}]\n");
    assert_eq!(files.check(), format!("E {provider}, nor in nodepool-builder.yaml"));
    files.write("nodepool-builder.yaml", "diskimages: [\n");
    assert_eq!(files.check(), "", "who knows what it has");
}

/// What is told of a broken second file, and which images are paused.
fn broken(loaded: &Loaded) -> (String, Vec<&str>) {
    let told = loaded.broken_extensions.as_ref().expect("told").to_string();
    let paused = loaded.config.diskimages.values().filter(|image| image.pause).map(|image| image.name.as_str());
    (told, paused.collect())
}

#[test]
fn a_second_file_that_is_no_yaml_does_not_keep_a_daemon_from_starting_and_no_image_is_built() {
    for second in ["a: [\n", "- a\n", "zookeeper-tls: {verify-hostname: true}\na: [\n"] {
        let files = Files::new(MAIN, second);
        let loaded = files.load();
        let (told, paused) = broken(&loaded);
        assert_eq!(paused, ["image", "other"], "any may be named in it");
        let is_verified = second.contains("verify");
        let middle = if is_verified {
            ", the host names of ZooKeeper's servers are verified because it may ask for that"
        } else {
            ""
        };
        let expected = format!(
            "The file with the keys of our own cannot be used as it is; nothing of it counts{middle}, and these images are not \
             built until it can: image, other:\nnodepool-extensions.yaml:"
        );
        assert!(files.plain(&told).starts_with(&expected), "{told}");
        assert_eq!(loaded.config.zookeeper.tls.as_ref().expect("TLS").verify_hostname, is_verified);
        assert_eq!(loaded.config.providers.len(), 1);
    }
    let both = Files::new("labels: [\n", "a: [\n");
    let errors = load(&both.0.path().join("nodepool.yaml"), None).expect_err("nothing to run with").to_string();
    assert_eq!(errors.lines().count(), 2, "{errors}");
}

#[test]
fn of_a_broken_second_file_what_is_right_counts_and_what_is_named_elsewhere_is_left_alone() {
    let main = MAIN.replace(
        "providers:\n",
        "- {name: child, parent: other}\n- {name: free, dib-cmd: f, formats: [raw]}\nproviders:\n",
    );
    // `other` was to be built by a playbook, and has a dib-cmd in nodepool.yaml.
    let second = SECOND.replace("  shell-type: sh\n", "  ansible: {playbok: x}\n");
    let files = Files::new(&main, &second);
    let loaded = files.load();
    let (told, paused) = broken(&loaded);
    assert_eq!(paused, ["other", "child"], "{told}");
    assert!(
        told.contains("what is right in it counts, and these images are not built until it can: other, child:"),
        "{told}"
    );
    assert!(loaded.config.zookeeper.tls.as_ref().expect("TLS").verify_hostname);
    assert!(loaded.config.diskimages["image"].ansible.is_some());
    assert_eq!(loaded.config.providers["cluster"].launch_timeout.as_secs(), 77);
    for (from, to, expected, verified) in [
        // What is to be verified cannot be read, so it is verified.
        ("verify-hostname: true", "verify-hostname: [x]", &[][..], true),
        // On which host, by which key, is not known.
        ("host: ib.example.org", "host: [x]", &["image"], true),
        ("launch-timeout: 77", "launch-timeout: soon", &[], true),
        ("- name: image\n", "- names: image\n", &["image", "other", "child", "free"], true),
    ] {
        let files = Files::new(&main, &SECOND.replace(from, to));
        let loaded = files.load();
        let (told, paused) = broken(&loaded);
        assert_eq!(paused, expected, "{to}: {told}");
        assert_eq!(loaded.config.zookeeper.tls.as_ref().expect("TLS").verify_hostname, verified, "{to}");
        let timeout = loaded.config.providers["cluster"].launch_timeout.as_secs();
        assert_eq!(timeout, if to.contains("soon") { 330 } else { 77 }, "{to}: the provider runs");
    }
}

#[test]
fn a_second_file_that_no_longer_fits_a_changed_first_costs_what_does_not_fit() {
    let base = "- {name: base, abstract: true, ansible: {playbook: base.yaml}}\n";
    let main = MAIN
        .replace("diskimages:\n", &format!("diskimages:\n{base}- {{name: from-base, parent: base, formats: [raw]}}\n"));
    let second = "diskimages:\n- {name: from-base, ansible: {inventory: i.yaml}}\n- {name: other, shell-type: sh}\n";
    let files = Files::new(&main, second);
    let path = files.0.path().join("nodepool.yaml");
    let extensions = Extensions::read(files.0.path().join(NAME));
    let before = files.load();
    assert!(before.broken_extensions.is_none(), "{before:?}");
    // Without its parent it has no playbook.
    files.write("nodepool.yaml", &main.replace(", parent: base", "").replace("max-servers: 5", "max-servers: 6"));
    let loaded = load_with(&path, None, Some(&extensions), Some(&extensions)).expect("goes on");
    let (told, paused) = broken(&loaded);
    assert_eq!(paused, ["from-base"], "{told}");
    assert_eq!(loaded.config.diskimages["other"].shell_type.as_deref(), Some("sh"));
    let kept = loaded.keeping_broken(&before.config);
    assert_eq!(kept.diskimages["from-base"], before.config.diskimages["from-base"], "as it runs");
    assert!(!kept.diskimages["from-base"].pause);
}

#[test]
fn one_that_cannot_be_read_is_told() {
    let files = Files::new(MAIN, "");
    fs::remove_file(files.0.path().join(NAME)).expect("removed");
    assert!(files.check().starts_with("E nodepool-extensions.yaml: cannot read this file: "), "{}", files.check());
    fs::create_dir(files.0.path().join(NAME)).expect("made");
    let broken = files.load().broken_extensions.expect("told").to_string();
    assert!(broken.contains("cannot read this file: "), "{broken}");
}

#[test]
fn the_file_beside_counts_before_the_one_in_the_clone() {
    let of = |config: &str, home: Option<&str>| {
        let found = extensions::candidates(Path::new(config), home.map(OsStr::new));
        found.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        of("/etc/nodepool/nodepool.yaml", Some("/var/lib/nodepool")),
        "/etc/nodepool/nodepool-extensions.yaml /var/lib/nodepool/config/nodepool/nodepool-extensions.yaml"
    );
    assert_eq!(of("here.yaml", None), NAME);
    assert_eq!(of("/a/b.yaml", Some("")), "/a/nodepool-extensions.yaml");
    let files = Files::new(MAIN, "");
    let clone = files.0.path().join("clone.yaml");
    fs::write(&clone, "").expect("written");
    let (beside, nowhere) = (files.0.path().join(NAME), files.0.path().join("nodepool.yaml/x"));
    let first = |places: &[&Path]| extensions::first_of(&places.iter().map(|p| p.to_path_buf()).collect::<Vec<_>>());
    assert_eq!(first(&[&beside, &clone]), Some(beside.clone()));
    assert_eq!(first(&[&nowhere, &clone]), Some(clone));
    assert_eq!(first(&[&nowhere]), None);
}

#[test]
fn variables_count_in_the_second_file_too() {
    let second = Extensions::read(Files::new("", "").0.path().join("gone"));
    assert!(second.parse(Mode::Runtime, &environment(&[])).document.is_none());
    let files = Files::new(MAIN, "image-builders: [{name: '%(NODEPOOL_IB)'}]\n");
    let second = Extensions::read(files.0.path().join(NAME));
    let parsed = second.parse(Mode::Runtime, &environment(&[("NODEPOOL_IB", "ib")]));
    let (main, report) = super::parsed("main", SMALL.as_bytes(), &environment(&[]), Mode::Runtime);
    let loaded = super::assemble(report, main, Some(parsed), None).expect("loads");
    assert_eq!(loaded.config.image_builders[0].name, "ib");
}

#[test]
fn host_keys_are_checked_there_as_in_nodepool_yaml() {
    let spoiled = format!("image-builders:\n- name: a\n  host-keys: ['{}']\n", &KEY[..KEY.len() - 1]);
    let said = Files::new(MAIN, &spoiled).check();
    assert!(
        said.starts_with("E nodepool-extensions.yaml:3:15: image-builder `a`: this host key is no base64"),
        "{said}"
    );
}

/// One that is neither would be refused at users' gates without a word.
#[test]
fn every_key_that_we_read_is_pythons_or_listed_as_ours() {
    let mut count = 0;
    for (driver, level, key) in advice::all_keys() {
        let of_driver =
            |own: &OwnKey| own.drivers.is_empty() || driver.is_some_and(|driver| own.drivers.contains(&driver));
        let is_own = OWN.iter().any(|own| own.level == level && own.key == key && of_driver(own));
        let is_pythons = accepted_by_python::accepts(level, driver, key);
        assert!(is_own != is_pythons, "{driver:?} {level:?} {key}: ours {is_own}, Python's {is_pythons}");
        count += 1;
    }
    assert!(count > 300, "{count}");
}
