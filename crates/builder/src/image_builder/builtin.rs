//! `dib-ansible` within nodepool-builder: which `dib-cmd` means it, and how a process knows that it is one.
//!
//! The operator mounts a Python script of that name over whatever its images have, and diskimages say
//! `dib-cmd: /usr/local/bin/dib-ansible PLAYBOOK`. What they mean is a program that takes these arguments, which the builder has
//! in its own executable: it starts itself (`/proc/self/exe`) under that name, in the place of the file. So a build is a child
//! process as any other `dib-cmd`'s is, with its group, its log and its time.
//!
//! `dib-cmd` means it where its first word is `dib-ansible` without a directory, or in the operator's directory, or in that of
//! nodepool-builder itself. A program of that name elsewhere is somebody's own, and a wrapper (`sudo dib-ansible …`) runs what
//! it finds. [`SWITCH`] makes the file run after all.

use std::{ffi::OsStr, path::Path, process::ExitCode};

use super::{guard, start, wrapper};

/// Its name.
pub const NAME: &str = "dib-ansible";
/// Where the operator mounts its script.
const OPERATORS: &str = "/usr/local/bin";
/// The environment variable that has the file run which `dib-cmd` names: `no`.
pub const SWITCH: &str = "NODEPOOL_BUILTIN_DIB_ANSIBLE";

/// Whether the first word of a `dib-cmd` means ours. `own`: the directory of the running executable.
pub fn is_meant(program: &str, own: Option<&Path>) -> bool {
    let path = Path::new(program);
    let directory = path.parent().unwrap_or(Path::new(""));
    let is_there = directory == Path::new("") || directory == Path::new(OPERATORS) || own == Some(directory);
    is_there && path.file_name() == Some(OsStr::new(NAME))
}

/// Whether a value of [`SWITCH`] switches ours off.
pub fn is_off(value: &str) -> bool {
    ["no", "false", "off", "0"].contains(&value.trim().to_ascii_lowercase().as_str())
}

/// Runs what this process was started as, if that is `dib-ansible` or a part of it, and returns its exit status.
pub fn run_if_called() -> Option<ExitCode> {
    if let Some(state) = wrapper::state_of_this_call() {
        return Some(wrapper::run(&state));
    }
    if let Some(directory) = guard::directory_of_this_call() {
        return Some(guard::main(&directory));
    }
    (wrapper::name()?.as_str() == NAME).then(start::main)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_operators_program_by_name_and_our_own_are_meant() {
        let own = Some(Path::new("/opt/nodepool/bin"));
        for program in ["dib-ansible", "/usr/local/bin/dib-ansible", "/opt/nodepool/bin/dib-ansible"] {
            assert!(is_meant(program, own), "{program}");
        }
        for program in [
            "/srv/site/dib-ansible",
            "./dib-ansible",
            "bin/dib-ansible",
            "/usr/local/bin/dib-ansible.py",
            "/usr/local/bin/../bin/dib-ansible",
            "/usr/local/bin",
            "sudo",
            "disk-image-create",
            "",
        ] {
            assert!(!is_meant(program, own), "{program}");
        }
        assert!(!is_meant("/opt/nodepool/bin/dib-ansible", None));
    }

    #[test]
    fn it_is_switched_off_by_no_in_any_form() {
        assert!(["no", "No", "false", "OFF", " 0 "].into_iter().all(is_off));
        assert!(!["", "yes", "1", "true", "nothing"].into_iter().any(is_off));
    }
}
