//! What a build runs (`nodepool 11.0.0: builder.py _buildImage`).

use std::{
    env,
    path::{Path, PathBuf},
};

use nodepool_common::config::{Config, Diskimage};

use crate::image_builder::{self, builtin, executable::executable};

/// A program with its arguments, and what its environment has beyond ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildCommand {
    /// The first is the program.
    pub arguments: Vec<String>,
    /// The program is our own executable under that name, whatever file has it ([`builtin`]).
    pub is_own: bool,
    /// In the order in which they are set: later ones win.
    pub environment: Vec<(String, String)>,
    /// What the build log begins with.
    pub note: Option<String>,
}

/// Why there is nothing to run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CommandError(String);

impl BuildCommand {
    /// The command that builds an image into `<base>.<format>` for each format.
    ///
    /// `dib-cmd` and the elements are split into words as a shell does, without being run by one. `%p` stands for the
    /// directory in `NODEPOOL_PACKAGE_DIR`, else for that of our own executable (upstream: of its Python package). An image
    /// that names a playbook (`ansible`) is built by our own `dib-ansible`, which takes no elements; and so is one whose
    /// `dib-cmd` means that program ([`builtin`]).
    pub fn new(config: &Config, image: &Diskimage, formats: &[String], base: &Path) -> Result<Self, CommandError> {
        let base = base.to_str().ok_or_else(|| {
            CommandError(format!("images-dir is no text that a command can be given: {}", base.display()))
        })?;
        let by_playbook = image_builder::command(config, image);
        let mut arguments = match &by_playbook {
            Some(command) => command.clone(),
            None => words_of_command(image)?,
        };
        let Some(program) = arguments.first().cloned() else {
            return Err(CommandError(format!("dib-cmd of diskimage {} names no program", image.name)));
        };
        let runs = Runs::of(&program, by_playbook.is_some(), image);
        if runs == Runs::InPlaceOfFile && !arguments.iter().any(|word| word.starts_with("--conf")) {
            arguments.splice(1..1, image_builder::declaring(config));
        }
        let types = formats.join(",");
        arguments.extend(["-x", "-t", &types, "--checksum", "--no-tmpfs"].map(str::to_owned));
        if types.contains("qcow2") {
            arguments.extend(["--qemu-img-options", "compat=0.10"].map(str::to_owned));
        }
        arguments.extend(["-o", base].map(str::to_owned));
        if by_playbook.is_none() {
            arguments.extend(words("elements", &image.elements.join(" "))?);
        }

        let mut environment = vec![
            ("DIB_RELEASE".to_owned(), image.release.clone()),
            ("DIB_IMAGE_NAME".to_owned(), image.name.to_string()),
            (FILENAME.to_owned(), base.to_owned()),
        ];
        if let Some(elements) = &config.elements_dir {
            environment.push(("ELEMENTS_PATH".to_owned(), elements.to_string_lossy().into_owned()));
        }
        if runs == Runs::InPlaceOfFile && env::var_os(PREFLIGHT).is_none() {
            // The file checks nothing: what it builds is built.
            environment.push((PREFLIGHT.to_owned(), "warn".to_owned()));
        }
        environment.extend(image.env_vars.iter().map(|(name, value)| (name.clone(), value.clone())));
        let is_own = matches!(runs, Runs::ForKeys | Runs::InPlaceOfFile);
        Ok(Self { arguments, is_own, environment, note: runs.note(&program) })
    }
}

/// What a build runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    /// Our own `dib-ansible`: the image has `ansible`.
    ForKeys,
    /// Our own `dib-ansible`: `dib-cmd` means it.
    InPlaceOfFile,
    /// The file which `dib-cmd` names, although it means that.
    SwitchedOff,
    /// Something else.
    Other,
}

impl Runs {
    pub(super) fn of(program: &str, has_keys: bool, image: &Diskimage) -> Self {
        let own = executable().ok();
        let of_process = env::var(builtin::SWITCH).ok();
        let switch = image.env_vars.get(builtin::SWITCH).or(of_process.as_ref());
        match (has_keys, builtin::is_meant(program, own.as_deref().and_then(Path::parent))) {
            (true, _) => Self::ForKeys,
            (false, false) => Self::Other,
            (false, true) if switch.is_some_and(|value| builtin::is_off(value)) => Self::SwitchedOff,
            (false, true) => Self::InPlaceOfFile,
        }
    }

    fn note(self, program: &str) -> Option<String> {
        let (version, switch) = (env!("CARGO_PKG_VERSION"), builtin::SWITCH);
        let text = match self {
            Self::Other => return None,
            Self::ForKeys => {
                format!("this is nodepool-builder's own dib-ansible {version}, for the diskimage's `ansible`")
            }
            Self::InPlaceOfFile => format!(
                "this is nodepool-builder's own dib-ansible {version}, whatever the file {program} is; to have that run, set \
                 {switch} to `no`, in `env-vars` of the diskimage or in the builder's environment"
            ),
            Self::SwitchedOff => format!(
                "running the file {program}, and not nodepool-builder's own dib-ansible {version}, because {switch} is `no`"
            ),
        };
        Some(image_builder::note(&text))
    }
}

fn words_of_command(image: &Diskimage) -> Result<Vec<String>, CommandError> {
    words("dib-cmd", &image.dib_cmd.replace("%p", &package_dir().to_string_lossy()))
}

/// The program that `dib-cmd` of an image names, if that can be read.
pub(super) fn program(image: &Diskimage) -> Option<String> {
    words_of_command(image).ok()?.into_iter().next()
}

/// What comes of a failed check of `dib-ansible`'s (docs/image-builder.md).
const PREFLIGHT: &str = "NODEPOOL_ANSIBLE_PREFLIGHT";

/// The variable that tells a build's processes apart from all others.
pub const FILENAME: &str = "DIB_IMAGE_FILENAME";

fn words(what: &str, text: &str) -> Result<Vec<String>, CommandError> {
    shlex::split(text).ok_or_else(|| CommandError(format!("{what} has a quote without its end: {text}")))
}

fn package_dir() -> PathBuf {
    let own = || env::current_exe().ok()?.parent().map(Path::to_owned);
    env::var_os("NODEPOOL_PACKAGE_DIR").map(PathBuf::from).or_else(own).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(diskimage: &str) -> (Config, Diskimage) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("nodepool.yaml");
        let text = format!("elements-dir: /elements\nimages-dir: /images\ndiskimages:\n  - name: i\n{diskimage}");
        std::fs::write(&path, text).unwrap();
        let config = nodepool_common::config::load(&path, None).unwrap().config;
        let image = Diskimage::clone(&config.diskimages["i"]);
        (Config::clone(&config), image)
    }

    fn command(diskimage: &str, formats: &[&str]) -> BuildCommand {
        let (config, image) = config(diskimage);
        let formats: Vec<String> = formats.iter().map(|format| (*format).to_owned()).collect();
        BuildCommand::new(&config, &image, &formats, Path::new("/images/i-1")).unwrap()
    }

    #[test]
    fn the_default_command_is_disk_image_create_with_upstreams_arguments() {
        let command = command("    elements: [fedora, 'vm extra']\n    release: 21\n", &["qcow2", "raw"]);
        let expected = "disk-image-create -x -t qcow2,raw --checksum --no-tmpfs --qemu-img-options compat=0.10 \
                        -o /images/i-1 fedora vm extra";
        assert_eq!(command.arguments.join(" "), expected);
        let expected =
            [("DIB_RELEASE", "21"), ("DIB_IMAGE_NAME", "i"), (FILENAME, "/images/i-1"), ("ELEMENTS_PATH", "/elements")];
        assert_eq!(command.environment, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_wrapper_gets_its_words_first_and_env_vars_override_everything() {
        let command =
            command("    dib-cmd: /srv/wrapper 'my playbook.yaml'\n    env-vars: {DIB_RELEASE: other}\n", &["raw"]);
        let expected =
            ["/srv/wrapper", "my playbook.yaml", "-x", "-t", "raw", "--checksum", "--no-tmpfs", "-o", "/images/i-1"];
        assert_eq!(command.arguments, expected);
        assert_eq!((command.is_own, command.note), (false, None));
        assert_eq!(command.environment.last(), Some(&("DIB_RELEASE".to_owned(), "other".to_owned())));
    }

    /// The operator's documented line, with its Python script at that path: ours gets the arguments that the script documents.
    #[test]
    fn the_operators_dib_ansible_by_name_is_ours_with_the_same_arguments() {
        for program in ["/usr/local/bin/dib-ansible", "dib-ansible"] {
            let command = command(&format!("    dib-cmd: {program} my.yaml\n"), &["qcow2", "raw"]);
            let expected = format!(
                "{program} --image-builders [] my.yaml -x -t qcow2,raw --checksum --no-tmpfs --qemu-img-options compat=0.10 \
                 -o /images/i-1"
            );
            assert_eq!(command.arguments.join(" "), expected);
            assert!(command.is_own);
            let note = command.note.unwrap();
            assert!(note.contains("| dib-ansible: this is nodepool-builder's own dib-ansible "), "{note}");
            assert!(note.contains(program) && note.contains("set NODEPOOL_BUILTIN_DIB_ANSIBLE to `no`"), "{note}");
            assert!(note.ends_with('\n') && note.lines().count() == 1, "{note}");
            assert!(command.environment.contains(&("NODEPOOL_ANSIBLE_PREFLIGHT".to_owned(), "warn".to_owned())));
        }
    }

    #[test]
    fn the_file_runs_where_the_diskimage_says_so() {
        let command = command(
            "    dib-cmd: /usr/local/bin/dib-ansible my.yaml\n    env-vars: {NODEPOOL_BUILTIN_DIB_ANSIBLE: 'no'}\n",
            &["raw"],
        );
        assert_eq!(command.arguments[..2], ["/usr/local/bin/dib-ansible", "my.yaml"]);
        assert!(!command.is_own);
        let note = command.note.unwrap();
        assert!(note.contains("running the file /usr/local/bin/dib-ansible, and not nodepool-builder's own"), "{note}");
    }

    #[test]
    fn an_image_with_ansible_is_ours_whatever_the_switch_says() {
        let text = "    ansible: {playbook: my.yaml}\n    env-vars: {NODEPOOL_BUILTIN_DIB_ANSIBLE: 'no'}\n";
        let command = command(text, &["raw"]);
        assert!(command.is_own && command.arguments[0] == "dib-ansible", "{command:?}");
        assert!(command.note.unwrap().contains("for the diskimage's `ansible`"));
        assert!(!command.environment.iter().any(|(name, _)| name == "NODEPOOL_ANSIBLE_PREFLIGHT"));
    }

    #[test]
    fn a_command_that_cannot_be_split_is_refused() {
        let (config, image) = config("    dib-cmd: \"build 'it\"\n");
        let error = BuildCommand::new(&config, &image, &[], Path::new("/images/i-1")).unwrap_err();
        assert_eq!(error.to_string(), "dib-cmd has a quote without its end: build 'it");
    }
}
