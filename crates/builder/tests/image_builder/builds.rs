//! Builds that come to their end by themselves.

use std::fs;

use crate::world::{ADDRESS, Host, Pod, Running, ansible, free_port, keygen};

/// The operator's documented example in its steps: Zuul's public keys there, the build, the image back.
pub const EXAMPLE: &str = r#"
- name: My cloud image
  hosts: image-builder
  vars:
    built: /home/nodepool/cache/my-image
  tasks:
    - debug:
        msg: "Building {{ image_output }}"
    - name: Zuul's public key
      copy:
        src: /var/lib/zuul-ssh-key/pub
        dest: /home/nodepool/zuul.pub
    - name: Zuul's spare public key
      copy:
        src: /var/lib/zuul-spare-ssh-key/pub
        dest: /home/nodepool/zuul-spare.pub
    - name: Build
      shell: mkdir -p cache && cat zuul.pub zuul-spare.pub > {{ built }}
      args:
        chdir: /home/nodepool
    - set_fact:
        final_image_path: "{{ image_output }}.raw"
      when: raw_type | default(false)
    - set_fact:
        final_image_path: "{{ image_output }}.qcow2"
      when: qcow2_type | default(false)
    - name: Bring it
      ansible.posix.synchronize:
        mode: pull
        src: "{{ built }}"
        dest: "{{ final_image_path }}"
"#;

#[test]
fn the_operators_example_makes_an_image() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(EXAMPLE);
    let known = pod.read("nodepool/known_hosts");
    let ended = pod.run();
    ended.has(
        0,
        &[
            "dib-ansible: building with the playbook /var/lib/nodepool/config/nodepool/dib-ansible/image.yaml",
            &format!("host image-builder (nodepool@{ADDRESS} port {}): host key ssh-ed25519 SHA256:", host.port),
            " is known; Python 3.",
            "rsync version 3",
            " free in /home/nodepool",
            "Building /var/lib/nodepool/dib/image-0a",
            "TASK [Bring it]",
            "dib-ansible: the playbook has ended, and the image is there",
        ],
    );
    assert_eq!(fs::read_to_string(pod.image()).unwrap(), "ssh-ed25519 zuul-ssh-key\nssh-ed25519 zuul-spare-ssh-key\n");
    assert_eq!(pod.read("nodepool/known_hosts"), known, "nobody writes into the user's known hosts");
    assert_eq!(fs::read_dir(pod.path("tmp")).unwrap().count(), 0, "nothing is left in the temporary directory");
    host.wait_until_idle();
    assert!(!ended.log.contains("[WARNING]"), "{}", ended.log);
}

#[test]
fn an_image_comes_by_a_key_that_lets_nothing_but_rsync_in() {
    let Some(ansible) = ansible() else { return };
    if !std::path::Path::new("/usr/bin/rrsync").exists() {
        eprintln!("SKIPPED: /usr/bin/rrsync is not installed");
        return;
    }
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    let forced = keygen(&pod.path("nodepool-ssh-key/rsync"));
    let authorized = format!("{}\ncommand=\"rrsync -ro /home/nodepool/cache\" {forced}\n", pod.public_key);
    fs::write(host.home(".ssh/authorized_keys"), authorized).unwrap();
    let by_key = "mode: pull\n        private_key: /var/lib/nodepool-ssh-key/rsync";
    pod.playbook(&EXAMPLE.replace("mode: pull", by_key).replace("src: \"{{ built }}\"", "src: /my-image"));
    pod.run().has(0, &["TASK [Bring it]", "the image is there"]);
}

#[test]
fn an_image_builder_of_the_configuration_needs_neither_inventory_nor_known_hosts() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.playbook(EXAMPLE);
    let config = |key: &str| {
        format!(
            "image-builders:\n- {{name: image-builder, host: {ADDRESS}, port: {}, username: nodepool, host-keys: ['{key}'], \
             min-free: 0.1, directory: /home/nodepool/cache}}\n",
            host.port
        )
    };
    pod.write("nodepool/nodepool.yaml", &config(&host.key));
    let options = ["--config", "/var/lib/nodepool/nodepool.yaml", "--image-builder", "image-builder"];
    pod.run_with(&options).has(0, &["is the declared one", "the image is there"]);
    assert!(!pod.path("nodepool/known_hosts").exists(), "rsync's ssh has not recorded the key, either");
    // Another key than the declared one.
    let other = Host::start(&pod);
    pod.write("nodepool/nodepool.yaml", &config(&other.key));
    fs::remove_file(pod.image()).unwrap();
    pod.run_with(&options).has(
        1,
        &[
            "its host key has CHANGED",
            &crate::world::fingerprint(&host.key),
            &crate::world::fingerprint(&other.key),
            "`host-keys` in the configuration",
            "change `host-keys` of this host",
        ],
    );
}

#[test]
fn a_playbook_that_fails_in_the_middle_says_where_and_its_status_is_ours() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook(
        "- hosts: image-builder\n  tasks:\n  - name: Works\n    command: 'true'\n  - name: Breaks\n    shell: echo no kernel >&2; exit 3\n  \
         - name: Comes too late\n    command: 'true'\n",
    );
    let ended = pod.run();
    ended.has(2, &["TASK [Works]", "TASK [Breaks]", "no kernel", "dib-ansible: the playbook failed, status 2"]);
    assert!(!ended.log.contains("TASK [Comes too late]"));
    assert_eq!(fs::read_dir(pod.path("tmp")).unwrap().count(), 0);
}

#[test]
fn an_image_that_does_not_arrive_is_a_failure() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.inventory(host.port, "");
    pod.playbook("- hosts: image-builder\n  tasks:\n  - command: 'true'\n");
    pod.run().has(1, &["/var/lib/nodepool/dib/image-0a.raw is not there", "{{ image_output }}.FORMAT"]);
    // The operator's own check makes an empty file.
    pod.playbook(
        "- hosts: image-builder\n  tasks:\n  - local_action:\n      module: file\n      path: '{{ image_output }}.raw'\n      state: touch\n",
    );
    pod.run().has(0, &["the image is there"]);
}

#[test]
fn a_playbook_that_ansible_does_not_understand_ends_with_ansibles_status() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    pod.inventory(free_port(), "");
    pod.playbook("- hosts: image-builder\n  taskz: []\n");
    pod.run().has(4, &["cannot use the playbook or the inventory (status 4)", "'taskz' is not a valid attribute"]);
    pod.playbook("- hosts: image-bilder\n  tasks: []\n");
    pod.run().has(1, &["is for no host of the inventory: ['image-bilder']"]);
}

#[test]
fn what_a_play_says_of_its_connection_counts_for_the_checks() {
    let Some(ansible) = ansible() else { return };
    let pod = Pod::new(ansible);
    let host = Host::start(&pod);
    pod.trust(&host);
    pod.write(
        "nodepool/config/nodepool/dib-ansible/inventory.yaml",
        &format!("ungrouped: {{hosts: {{image-builder: {{ansible_host: {ADDRESS}}}, other: {{}}}}}}\n"),
    );
    // Without these the login would be root's at port 22, and `other` would be looked for in the DNS.
    pod.playbook(&format!(
        "- hosts: other\n  connection: local\n  gather_facts: false\n  tasks: [debug: {{msg: here}}]\n\
         - hosts: image-builder\n  remote_user: nodepool\n  vars: {{ansible_port: {}}}\n  tasks:\n  - raw: id -un; exit 5\n",
        host.port
    ));
    pod.run().has(
        2,
        &["host other: not checked", &format!("(nodepool@{ADDRESS} port {})", host.port), "\"nodepool\\r\\n\""],
    );
}

#[test]
fn silence_does_not_end_a_build_whoever_has_configured_keepalives() {
    let Some(ansible) = ansible() else { return };
    for (config, expected) in [(true, "the user's 60 s"), (false, "ours")] {
        let pod = Pod::new(ansible.clone());
        let host = Host::start(&pod);
        pod.trust(&host);
        pod.inventory(host.port, "");
        if !config {
            let text = pod.read("nodepool/.ssh/config").replace("ServerAliveInterval 60", "");
            pod.write("nodepool/.ssh/config", &text);
        }
        pod.playbook("- hosts: image-builder\n  tasks:\n  - shell: sleep 3001; true\n");
        let running = Running::start(&pod, pod.build());
        host.wait_for_process("sleep 3001");
        let calls = ssh_calls(host.port);
        assert!(!calls.is_empty());
        let has_ours = calls.iter().all(|call| call.contains("ServerAliveInterval=30"));
        let has_none = calls.iter().all(|call| !call.contains("ServerAliveInterval"));
        assert!(if config { has_none } else { has_ours }, "not {expected}: {calls:#?}");
        running.signal(nix::sys::signal::Signal::SIGTERM);
        running.wait().has(143, &["ended `sleep 3001`"]);
    }
}

/// The command lines of OpenSSH's clients that talk to this port.
pub fn ssh_calls(port: u16) -> Vec<String> {
    let lines = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines
        .filter(|line| line.split(' ').next().is_some_and(|program| program.ends_with("/ssh")))
        .filter(|line| line.contains(&format!("Port={port}")))
        .collect()
}
