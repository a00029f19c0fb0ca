//! What a build runs (`nodepool 11.0.0: builder.py _buildImage`; interfaces.md 3.4).

use std::{
    env,
    path::{Path, PathBuf},
};

use nodepool_common::config::{Config, Diskimage};

use crate::image_builder;

/// A program with its arguments, and what its environment has beyond ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildCommand {
    /// The first is the program.
    pub arguments: Vec<String>,
    /// In the order in which they are set: later ones win.
    pub environment: Vec<(String, String)>,
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
    /// that names a playbook (`ansible`) is built by our own `dib-ansible`, which takes no elements.
    pub fn new(config: &Config, image: &Diskimage, formats: &[String], base: &Path) -> Result<Self, CommandError> {
        let base = base.to_str().ok_or_else(|| {
            CommandError(format!("images-dir is no text that a command can be given: {}", base.display()))
        })?;
        let by_playbook = image_builder::command(config, image);
        let mut arguments = match &by_playbook {
            Some(command) => command.clone(),
            None => words("dib-cmd", &image.dib_cmd.replace("%p", &package_dir().to_string_lossy()))?,
        };
        if arguments.is_empty() {
            return Err(CommandError(format!("dib-cmd of diskimage {} names no program", image.name)));
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
        environment.extend(image.env_vars.iter().map(|(name, value)| (name.clone(), value.clone())));
        Ok(Self { arguments, environment })
    }
}

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
        let command = command(
            "    dib-cmd: /usr/local/bin/dib-ansible 'my playbook.yaml'\n    env-vars: {DIB_RELEASE: other}\n",
            &["raw"],
        );
        let expected = [
            "/usr/local/bin/dib-ansible",
            "my playbook.yaml",
            "-x",
            "-t",
            "raw",
            "--checksum",
            "--no-tmpfs",
            "-o",
            "/images/i-1",
        ];
        assert_eq!(command.arguments, expected);
        assert_eq!(command.environment.last(), Some(&("DIB_RELEASE".to_owned(), "other".to_owned())));
    }

    #[test]
    fn a_command_that_cannot_be_split_is_refused() {
        let (config, image) = config("    dib-cmd: \"build 'it\"\n");
        let error = BuildCommand::new(&config, &image, &[], Path::new("/images/i-1")).unwrap_err();
        assert_eq!(error.to_string(), "dib-cmd has a quote without its end: build 'it");
    }
}
