//! `image-builders`, and `ansible` of diskimages.

use std::path::PathBuf;

use super::{check, check_errors, load};
use crate::config::{AnsibleBuild, Diskimage, ImageBuilder};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKPpx8Gc0acQpxEIiMOAQ/mJcrODzMthNttl9zzt0XHw";

/// Accepts it; all that there is to say is that Python would not.
fn accepted(text: &str) {
    for warning in check(text).lines() {
        assert!(warning.contains("Python Nodepool's config-validate refuses"), "{warning}");
    }
}

fn image(text: &str, name: &str) -> Diskimage {
    (*load(text).config.diskimages[name]).clone()
}

#[test]
fn all_keys_of_an_image_builder_are_read_and_validate() {
    let text = format!(
        "image-builders:\n- name: image-builder\n  host: ib.example.org\n  port: 2222\n  username: nodepool\n  \
         host-keys: ['{KEY} root@ib']\n  min-free: 0.5\n  directory: /var/lib/builder\n- name: other\n"
    );
    accepted(&text);
    let builders = &load(&text).config.image_builders;
    let expected = ImageBuilder {
        name: "image-builder".to_owned(),
        host: Some("ib.example.org".to_owned()),
        port: Some(2222),
        username: Some("nodepool".to_owned()),
        host_keys: vec![KEY.to_owned()],
        min_free: Some(1 << 29),
        directory: Some("/var/lib/builder".into()),
    };
    assert_eq!(builders[0], expected);
    let bare = ImageBuilder {
        name: "other".to_owned(),
        host: None,
        port: None,
        username: None,
        host_keys: vec![],
        min_free: None,
        directory: None,
    };
    assert_eq!(builders[1], bare);
}

#[test]
fn a_host_key_that_was_spoiled_in_copying_is_found_when_the_configuration_is_read() {
    let place = "main:3:15: image-builder `a`: this host key ";
    for (key, problem) in [
        (KEY[12..].to_owned(), "is not of two words"),
        (KEY[..KEY.len() - 1].to_owned(), "is no base64: it is cut short or was changed in copying"),
        (KEY[..12].to_owned() + "AAAAC3Nz", "is not of the type that it names, `ssh-ed25519`, or is cut short"),
        (KEY.replace("ssh-ed25519", "ssh-rsa"), "is not of the type that it names, `ssh-rsa`"),
        (format!("ib.example.org {KEY}"), "begins with `ib.example.org`, which is no type of a key"),
        ("SHA256:abc x".to_owned(), "begins with `SHA256:abc`"),
    ] {
        let errors = check_errors(&format!("image-builders:\n- name: a\n  host-keys: ['{key}']\n"));
        assert!(errors.starts_with(&format!("{place}{problem}")), "{key}: {errors}");
        assert!(errors.contains("ssh_host_ed25519_key.pub"), "{errors}");
    }
}

#[test]
fn what_is_wrong_with_an_image_builder_has_its_place() {
    for (text, expected) in [
        (
            "image-builders: [{name: a, hots: b}]\n",
            "main:1:28: image-builder `a` has no key `hots` (did you mean `host`?)",
        ),
        ("image-builders: [{name: a}, {name: a}]\n", "main:1:29: image-builder `a` is defined twice"),
        (
            "image-builders: [{name: a, port: 22}]\n",
            "main:1:34: image-builder `a`: `port` without `host` means nothing",
        ),
        (
            "image-builders: [{name: a, min-free: -1}]\n",
            "main:1:38: image-builder `a`: `min-free` must be a number of GiB",
        ),
        ("image-builders: [{host: a}]\n", "main:1:18: an image-builder: `name` is missing"),
        ("image-builders: {name: a}\n", "`image-builders` must be a list, not a mapping"),
    ] {
        let errors = check_errors(text);
        assert!(errors.starts_with(expected) || errors.contains(expected), "{text}: {errors}");
    }
}

#[test]
fn each_key_of_ansible_is_inherited_by_itself() {
    let text = "\
diskimages:
- {name: base, abstract: true, formats: [raw], ansible: {inventory: ours.yaml, image-builder: ib, min-free: 2}}
- {name: a, parent: base, ansible: {playbook: a.yaml}}
- {name: b, parent: a, ansible: {image-builder: other}}
";
    accepted(text);
    let build = |playbook: &str, host: &str| {
        Some(AnsibleBuild {
            playbook: playbook.into(),
            inventory: Some(PathBuf::from("ours.yaml")),
            image_builder: Some(host.to_owned()),
            min_free: Some(2 << 30),
        })
    };
    assert_eq!(image(text, "a").ansible, build("a.yaml", "ib"));
    assert_eq!(image(text, "b").ansible, build("a.yaml", "other"));
}

#[test]
fn of_dib_cmd_and_ansible_the_nearest_one_counts() {
    let text = "\
diskimages:
- {name: dib, formats: [raw], dib-cmd: mine, elements: [vm]}
- {name: playbook, parent: dib, ansible: {playbook: a.yaml}}
- {name: dib-again, parent: playbook, dib-cmd: other}
- {name: plain, parent: playbook}
";
    accepted(text);
    assert!(image(text, "dib").ansible.is_none());
    assert!(image(text, "playbook").ansible.is_some());
    assert!(image(text, "playbook").elements.is_empty(), "a playbook gets no elements");
    assert!(image(text, "dib-again").ansible.is_none());
    assert_eq!(image(text, "dib-again").dib_cmd, "other");
    assert_eq!(image(text, "dib-again").elements, ["vm"]);
    assert!(image(text, "plain").ansible.is_some());
}

#[test]
fn what_is_wrong_with_ansible_has_its_place() {
    for (text, expected) in [
        ("diskimages: [{name: a, ansible: {}}]\n", "main:1:33: diskimage `a`, `ansible`: `playbook` is missing"),
        (
            "diskimages: [{name: a, ansible: {playbook: p, host: h}}]\n",
            "main:1:47: diskimage `a`, `ansible` has no key `host`",
        ),
        (
            "diskimages: [{name: a, ansible: {playbook: p}, dib-cmd: c}]\n",
            "main:1:57: diskimage `a`: `dib-cmd` beside `ansible`: `ansible` takes its place",
        ),
        (
            "diskimages: [{name: a, ansible: {playbook: p}, elements: [vm]}]\n",
            "main:1:58: diskimage `a`: `elements` beside `ansible`",
        ),
        ("diskimages: [{name: a, ansible: p}]\n", "diskimage `a`, `ansible` must be a mapping, not the text `p`"),
    ] {
        let errors = check_errors(text);
        assert!(errors.starts_with(expected) || errors.contains(expected), "{text}: {errors}");
    }
}
