//! `connection-type`: how Zuul's executors reach a node.
//!
//! Zuul hands it to Ansible as the name of a connection plugin (`zuul 14.3.0: executor/server.py`). Any collection may bring
//! one, so that an unknown name is a warning.

use super::{advice::suggest, fields::Fields};

/// Those of Ansible itself, and the short names that it leads to collections (ansible-core:
/// `config/ansible_builtin_runtime.yml`).
const KNOWN: [&str; 31] = [
    "ssh",
    "winrm",
    "psrp",
    "local",
    "paramiko",
    "paramiko_ssh",
    "smart",
    "network_cli",
    "netconf",
    "httpapi",
    "kubectl",
    "namespace",
    "project",
    "oc",
    "docker",
    "podman",
    "buildah",
    "chroot",
    "jail",
    "lxc",
    "lxd",
    "libvirt_lxc",
    "iocage",
    "zone",
    "qubes",
    "saltstack",
    "funcd",
    "aws_ssm",
    "vmware_tools",
    "napalm",
    "persistent",
];

/// `ssh` where nothing is given; warns of what Ansible does not know. A name with a dot is one of a collection.
pub fn read(fields: &Fields<'_>, given: Option<String>) -> String {
    let Some(kind) = given else { return "ssh".to_owned() };
    if !kind.contains('.') && !KNOWN.contains(&kind.as_str()) {
        let message = format!("{}: Ansible has no connection plugin `{kind}`, its `connection-type`", fields.what);
        let help = suggest(&kind, KNOWN.into_iter()).map_or_else(
            || "write `ssh`, `winrm` or `network_cli`, or the full name of a plugin in a collection".to_owned(),
            |meant| format!("did you mean `{meant}`?"),
        );
        fields.report().warning(fields.at_key("connection-type"), message, Some(help));
    }
    kind
}
