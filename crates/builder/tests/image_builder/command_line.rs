//! `dib-ansible` beside the operator's wrapper: what ansible-playbook gets, argument by argument, and
//! what is said of wrong arguments. ansible-playbook is a program that writes down how it was called.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use nodepool_builder::image_builder;
use nodepool_common::config;
use tempfile::TempDir;

/// A site: its directory of playbooks and a recording ansible-playbook.
struct Site {
    dir: TempDir,
}

const RECORDER: &str = r#"#!/bin/sh
for word; do case $word in --list-hosts) printf '  play #1 (a): a\n    pattern: [a]\n    hosts (1):\n      localhost\n'; exit 0 ;; esac; done
for word; do printf '%s\n' "$word"; done >"$RECORD/arguments"
env -0 | sort -z | tr '\0' '\n' >"$RECORD/environment"
for word; do case $word in image_output=*) : >"${word#image_output=}.raw"; : >"${word#image_output=}.qcow2" ;; esac; done
exit ${STATUS:-0}
"#;

impl Site {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let site = Self { dir };
        fs::create_dir(site.path("playbooks")).unwrap();
        fs::create_dir(site.path("bin")).unwrap();
        fs::write(site.path("playbooks/inventory.yaml"), "ungrouped: {hosts: {a: {}}}\n").unwrap();
        fs::write(site.path("playbooks/my.yaml"), "- hosts: a\n").unwrap();
        fs::write(site.path("bin/ansible-playbook"), RECORDER).unwrap();
        fs::set_permissions(site.path("bin/ansible-playbook"), fs::Permissions::from_mode(0o755)).unwrap();
        site
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dib-ansible"));
        command.args(words).env("NODEPOOL_ANSIBLE_DIRECTORY", self.path("playbooks"));
        command.env("NODEPOOL_ANSIBLE_PLAYBOOK", self.path("bin/ansible-playbook")).env("RECORD", self.dir.path());
        command.env("TMPDIR", self.dir.path());
        command
    }

    /// Status and output.
    fn run(&self, words: &[&str]) -> (i32, String) {
        let output = self.command(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    fn arguments(&self) -> Vec<String> {
        fs::read_to_string(self.path("arguments")).unwrap().lines().map(str::to_owned).collect()
    }
}

#[test]
fn ansible_playbook_is_called_as_the_operators_wrapper_does() {
    let site = Site::new();
    let (inventory, playbook) = (site.path("playbooks/inventory.yaml"), site.path("playbooks/my.yaml"));
    let output = site.path("image-0a");
    let (inventory, playbook, output) =
        (inventory.to_str().unwrap(), playbook.to_str().unwrap(), output.to_str().unwrap());
    let image_output = format!("image_output={output}");
    let usual = ["-v", "-i", inventory, playbook, "-e", &image_output];
    // The order of formats is not defined in what the builder passes; the wrapper's is.
    for (formats, types) in [
        ("raw", &["-e", "raw_type=True"][..]),
        ("qcow2", &["-e", "qcow2_type=True"][..]),
        ("qcow2,raw", &["-e", "raw_type=True", "-e", "qcow2_type=True"][..]),
    ] {
        let words = [
            "my.yaml",
            "-x",
            "-t",
            formats,
            "--checksum",
            "--no-tmpfs",
            "--qemu-img-options",
            "compat=0.10",
            "-o",
            output,
        ];
        let (status, log) = site.run(&words);
        assert_eq!(status, 0, "{log}");
        assert_eq!(site.arguments(), [&usual[..], types].concat(), "{formats}");
    }
    // A playbook by its path is taken as it is.
    let (status, log) = site.run(&[playbook, "-t", "raw", "-o", output]);
    assert_eq!((status, &site.arguments()[3]), (0, &playbook.to_owned()), "{log}");
}

#[test]
fn the_environment_is_passed_on_with_three_variables_of_ours() {
    let site = Site::new();
    let output = site.path("image-0a");
    let words = ["my.yaml", "-t", "raw", "-o", output.to_str().unwrap()];
    let mut command = site.command(&words);
    command.env("DIB_RELEASE", "").env("DIB_IMAGE_NAME", "image").env("ANSIBLE_SSH_ARGS", "-o Compression=yes");
    assert!(command.output().unwrap().status.success());
    let passed: Vec<String> =
        fs::read_to_string(site.path("environment")).unwrap().lines().map(str::to_owned).collect();
    for expected in ["DIB_RELEASE=", "DIB_IMAGE_NAME=image", "ANSIBLE_SSH_ARGS=-o Compression=yes"] {
        assert!(passed.iter().any(|line| line == expected), "{expected}: {passed:#?}");
    }
    let mut expected = command;
    expected.args(["-c", "env -0 | sort -z | tr '\\0' '\\n'"]);
    // The same variables for a shell: what differs is ours, or the shell's own.
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "env -0 | sort -z | tr '\\0' '\\n'"]);
    for (name, value) in expected.get_envs() {
        shell.env(name, value.unwrap());
    }
    let plain = String::from_utf8(shell.output().unwrap().stdout).unwrap();
    let added: Vec<&str> = passed
        .iter()
        .filter(|line| {
            !plain.lines().any(|plain| plain == line.as_str())
                && !line.starts_with("_=")
                && !line.starts_with("OLDPWD=")
        })
        .filter_map(|line| line.split('=').next())
        .collect();
    assert_eq!(added, ["ANSIBLE_SSH_CONTROL_PATH_DIR", "NODEPOOL_DIB_ANSIBLE", "PATH"]);
    // Whoever has a wish for the sockets keeps it.
    let mut command = site.command(&words);
    command.env("ANSIBLE_SSH_CONTROL_PATH_DIR", "/mine");
    assert!(command.output().unwrap().status.success());
    assert!(fs::read_to_string(site.path("environment")).unwrap().contains("ANSIBLE_SSH_CONTROL_PATH_DIR=/mine\n"));
}

#[test]
fn errors_have_the_wrappers_statuses() {
    let site = Site::new();
    let output = site.path("image-0a");
    let output = output.to_str().unwrap();
    for words in
        [&["-t", "raw", "-o", output][..], &["my.yaml", "element", "-t", "raw"][..], &["my.yaml", "--frobnicate"][..]]
    {
        assert_eq!(site.run(words).0, 2, "{words:?}");
    }
    let one = |words: &[&str], text: &str| {
        let (status, log) = site.run(words);
        assert!(status == 1 && log.contains(text), "{words:?}: {status} {log}");
    };
    one(&["none.yaml", "-t", "raw", "-o", output], "there is no playbook none.yaml, neither as it is nor in ");
    one(&["my.yaml", "-t", "vhd,raw", "-o", output], "the format `vhd` is none that playbooks know");
    one(&["my.yaml", "-t", "raw"], "-o is missing");
    one(&["my.yaml", "-o", output], "-t is missing");
    fs::remove_file(site.path("playbooks/inventory.yaml")).unwrap();
    one(&["my.yaml", "-t", "raw", "-o", output], "there is no inventory ");
    let (status, _) = {
        fs::write(site.path("playbooks/inventory.yaml"), "").unwrap();
        let output = site.command(&["my.yaml", "-t", "raw", "-o", output]).env("STATUS", "7").output().unwrap();
        (output.status.code().unwrap(), output)
    };
    assert_eq!(status, 7, "the playbook's status is ours");
    assert!(!site.path("arguments").exists() || !site.arguments().is_empty());
}

#[test]
fn an_image_with_ansible_is_built_by_the_program_beside_ours() {
    let site = Site::new();
    let file = site.path("nodepool.yaml");
    fs::write(
        &file,
        "image-builders: [{name: ib, host: 127.0.0.1, min-free: 2}]\ndiskimages:\n- {name: dib}\n\
         - {name: image, ansible: {playbook: my.yaml, inventory: inventory.yaml, image-builder: ib, min-free: 0}}\n",
    )
    .unwrap();
    let loaded = config::load(&file, None).unwrap();
    let image = |name: &str| image_builder::command(&loaded.config, &loaded.config.diskimages[name]);
    assert_eq!(image("dib"), None);
    let words = image("image").unwrap();
    assert!(words[0].ends_with("dib-ansible"), "{words:?}");
    let declared = r#"[{"name":"ib","host":"127.0.0.1","min_free":2147483648}]"#;
    let options = [
        "--inventory",
        "inventory.yaml",
        "--image-builder",
        "ib",
        "--min-free",
        "0",
        "--image-builders",
        declared,
        "my.yaml",
    ];
    assert_eq!(words[1..], options);
    // And dib-ansible understands them.
    let output = site.path("image-0a");
    let all: Vec<&str> = options.iter().copied().chain(["-x", "-t", "raw", "-o", output.to_str().unwrap()]).collect();
    let (status, log) = site.run(&all);
    assert_eq!(status, 0, "{log}");
    let arguments = site.arguments();
    assert_eq!(arguments[..3], ["-v", "-i", site.path("playbooks/inventory.yaml").to_str().unwrap()]);
    assert!(arguments[3] == "-i" && arguments[4].ends_with("/image-builders.json"), "{arguments:?}");
    assert_eq!(arguments[5..8], ["--limit", "ib", site.path("playbooks/my.yaml").to_str().unwrap()]);
    assert!(!Path::new(&arguments[4]).exists(), "the build's directory is gone");
}
