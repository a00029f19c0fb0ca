//! The programs of images' builds, as they are on this machine: looked at when a configuration is loaded.
//!
//! A build with a program that is not here fails a minute later and again and again; and a file that has the name of our own
//! `dib-ansible` is not run ([`builtin`]), which nobody sees who put it there. Both are told once for each load.

use std::{
    collections::{BTreeMap, HashSet},
    env, fs,
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use nodepool_common::config::{Config, Diskimage};

use super::command::{Runs, program};
use crate::image_builder::{self, builtin, executable::executable};

/// What there is to say of the images' programs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What keeps an image from being built as it is configured.
    pub warnings: Vec<String>,
    /// What is as it was meant to be, and still may surprise.
    pub notes: Vec<String>,
}

/// Looks at the programs of all images that are to be built.
pub fn at_programs(config: &Config) -> Findings {
    let listed: HashSet<_> =
        config.providers.values().flat_map(|provider| provider.driver.diskimages().keys()).cloned().collect();
    let is_built = |image: &&Diskimage| !image.pause && (!image.formats.is_empty() || listed.contains(&image.name));
    let mut missing: BTreeMap<(String, String), Vec<&str>> = BTreeMap::new();
    let mut replaced: BTreeMap<PathBuf, Vec<&str>> = BTreeMap::new();
    for image in config.diskimages.values().map(AsRef::as_ref).filter(is_built) {
        let Some(program) = program(image) else { continue };
        match Runs::of(&program, image.ansible.is_some(), image) {
            Runs::ForKeys => {}
            Runs::InPlaceOfFile => {
                if let Some(file) = found(&program, image) {
                    replaced.entry(file).or_default().push(image.name.as_str());
                }
            }
            Runs::SwitchedOff | Runs::Other => {
                if let Some(problem) = problem(&program, image) {
                    missing.entry((program, problem)).or_default().push(image.name.as_str());
                }
            }
        }
    }
    let mut findings = Findings::default();
    for ((program, problem), images) in missing {
        findings.warnings.push(format!(
            "The builds of diskimage {} will fail: their `dib-cmd` runs {program}, which {problem}; install it, or name another \
             program",
            images.join(", ")
        ));
    }
    for (file, images) in replaced {
        let (shown, images, switch) = (file.display(), images.join(", "), builtin::SWITCH);
        match Origin::of(&file) {
            Origin::Own => {}
            Origin::Operator => findings.notes.push(format!(
                "Diskimage {images} is built by nodepool-builder's own dib-ansible in the place of the operator's script {shown}"
            )),
            Origin::Other => findings.warnings.push(format!(
                "The file {shown}, which `dib-cmd` of diskimage {images} names, is not run: nodepool-builder has a dib-ansible of \
                 its own, and runs that. To have the file run, set {switch} to `no`, in `env-vars` of the diskimage or in the \
                 builder's environment; to have it left alone, give it another name"
            )),
        }
    }
    findings
}

/// Where an executable of that name is, for a build of that image; relative paths depend on where a build runs.
fn found(program: &str, image: &Diskimage) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.is_absolute() {
        return path.exists().then(|| path.to_owned());
    }
    if program.contains('/') {
        return None;
    }
    let all = image.env_vars.get("PATH").map(Into::into).or_else(|| env::var_os("PATH")).unwrap_or_default();
    env::split_paths(&all).map(|directory| directory.join(program)).find(|path| is_executable(path))
}

/// Why a program cannot be run, if that is certain.
fn problem(program: &str, image: &Diskimage) -> Option<String> {
    let path = Path::new(program);
    if path.is_absolute() {
        return match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some("does not exist here".to_owned()),
            Ok(metadata) if metadata.is_dir() => Some("is a directory".to_owned()),
            Ok(_) if !is_executable(path) => Some("is not executable".to_owned()),
            _ => None,
        };
    }
    (!program.contains('/') && found(program, image).is_none()).then(|| "is in no directory of PATH".to_owned())
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// Where a file comes from that has the name of our `dib-ansible`.
#[derive(Debug, PartialEq, Eq)]
enum Origin {
    /// `dib-ansible` of this program.
    Own,
    /// The operator's script, which ours takes the place of.
    Operator,
    /// A script of the site.
    Other,
}

/// The variables that the operator's script gives to the playbook, and what it runs.
const OF_THE_OPERATORS: [&str; 4] = ["image_output", "raw_type", "qcow2_type", "/usr/bin/ansible-playbook"];
/// A script is smaller.
const LARGEST_SCRIPT: u64 = 64 * 1024;

impl Origin {
    fn of(file: &Path) -> Self {
        let own = executable().ok().and_then(|path| path.canonicalize().ok());
        if own.is_some() && file.canonicalize().ok() == own {
            return Self::Own;
        }
        let text = fs::File::open(file).and_then(|file| {
            let mut text = Vec::new();
            file.take(LARGEST_SCRIPT).read_to_end(&mut text)?;
            Ok(text)
        });
        let Ok(text) = text else { return Self::Other };
        if text.starts_with(b"\x7fELF") {
            return if image_builder::is_own_program(file) { Self::Own } else { Self::Other };
        }
        let text = String::from_utf8_lossy(&text);
        let is_python = text.lines().next().is_some_and(|first| first.starts_with("#!") && first.contains("python"));
        if is_python && OF_THE_OPERATORS.iter().all(|word| text.contains(word)) { Self::Operator } else { Self::Other }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(dir: &Path, images: &str) -> Config {
        let path = dir.join("nodepool.yaml");
        fs::write(&path, format!("images-dir: /images\ndiskimages:\n{images}")).unwrap();
        Config::clone(&nodepool_common::config::load(&path, None).unwrap().config)
    }

    fn program_at(path: &Path, text: &[u8]) {
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn a_program_that_is_not_here_is_told_with_its_images() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().join("here");
        program_at(&here, b"#!/bin/sh\n");
        let plain = dir.path().join("plain");
        fs::write(&plain, "").unwrap();
        let images = format!(
            "- {{name: a, dib-cmd: /no/such -x, formats: [raw]}}\n- {{name: b, dib-cmd: /no/such, formats: [raw]}}\n- {{name: good, \
             dib-cmd: {}, formats: [raw]}}\n- {{name: plain, dib-cmd: {}, formats: [raw]}}\n- {{name: paused, pause: true, dib-cmd: \
             /no/such, formats: [raw]}}\n- {{name: never, dib-cmd: /no/such}}\n- {{name: found, dib-cmd: here, formats: [raw], \
             env-vars: {{PATH: '{}'}}}}\n- {{name: lost, dib-cmd: no-such-program, formats: [raw]}}\n- {{name: p, formats: [raw], \
             ansible: {{playbook: p}}}}\n",
            here.display(),
            plain.display(),
            dir.path().display()
        );
        let Findings { warnings, notes } = at_programs(&config(dir.path(), &images));
        assert_eq!(warnings.len(), 3, "{warnings:#?}");
        let told = |words: &str| assert!(warnings.iter().any(|line| line.contains(words)), "{words}: {warnings:#?}");
        told("The builds of diskimage a, b will fail: their `dib-cmd` runs /no/such, which does not exist here");
        told(&format!("diskimage plain will fail: their `dib-cmd` runs {}, which is not executable", plain.display()));
        told("diskimage lost will fail: their `dib-cmd` runs no-such-program, which is in no directory of PATH");
        assert_eq!(notes, [""; 0]);
    }

    /// The directory stands in for /usr/local/bin: found by PATH, the name alone means ours, too.
    #[test]
    fn a_file_of_our_name_that_is_somebodys_own_is_told_with_the_switch() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dib-ansible");
        let of = |more: &str| {
            let path = dir.path().display();
            let image = format!(
                "- {{name: i, dib-cmd: dib-ansible p.yaml, formats: [raw], env-vars: {{PATH: '{path}'{more}}}}}\n"
            );
            at_programs(&config(dir.path(), &image))
        };
        assert_eq!(of(""), Findings::default(), "there is none");
        program_at(&file, b"#!/usr/bin/env python3\nprint('mine')\n");
        let Findings { warnings, notes } = of("");
        assert!(notes.is_empty() && warnings.len() == 1, "{warnings:?} {notes:?}");
        let expected = format!("The file {}, which `dib-cmd` of diskimage i names, is not run", file.display());
        assert!(warnings[0].starts_with(&expected), "{warnings:?}");
        assert!(warnings[0].contains("set NODEPOOL_BUILTIN_DIB_ANSIBLE to `no`"), "{warnings:?}");
        assert_eq!(of(", NODEPOOL_BUILTIN_DIB_ANSIBLE: 'no'"), Findings::default(), "it is run");

        program_at(
            &file,
            b"#!/usr/bin/env python3\n# image_output raw_type qcow2_type\nos.execv('/usr/bin/ansible-playbook', [])\n",
        );
        let Findings { warnings, notes } = of("");
        assert!(warnings.is_empty() && notes.len() == 1, "{warnings:?} {notes:?}");
        assert!(notes[0].contains("in the place of the operator's script"), "{notes:?}");

        fs::remove_file(&file).unwrap();
        std::os::unix::fs::symlink(executable().unwrap(), &file).unwrap();
        assert_eq!(of(""), Findings::default(), "ours");
        fs::remove_file(&file).unwrap();
        program_at(&file, b"\x7fELF, and no more of it");
        assert_eq!(of("").warnings.len(), 1, "a program of somebody's");
    }
}
