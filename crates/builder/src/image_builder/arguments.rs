//! `dib-ansible`'s command line: the operator's wrapper's, and options of ours.

use std::path::PathBuf;

use clap::Parser;

use super::state::Declared;

/// Where the operator has playbooks and inventory.
const DIRECTORY: &str = "/var/lib/nodepool/config/nodepool/dib-ansible";

/// Makes an image by a playbook on an image-builder host
#[derive(Debug, Parser)]
#[command(name = "dib-ansible", disable_version_flag = true, infer_long_args = true, args_override_self = true)]
pub struct Arguments {
    /// Without effect
    #[arg(short = 'x')]
    pub trace: bool,
    /// Image formats, separated by commas: raw, qcow2
    #[arg(short = 't', value_name = "FORMATS")]
    pub formats: Option<String>,
    /// Without effect: the builder computes checksums itself
    #[arg(long)]
    pub checksum: bool,
    /// Without effect
    #[arg(long)]
    pub no_tmpfs: bool,
    /// Without effect
    #[arg(long, value_name = "OPTIONS")]
    pub qemu_img_options: Option<String>,
    /// Path of the image, without the suffix of its format
    #[arg(short = 'o', value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// The playbook: a path as it is, else one below the directory
    pub playbook: PathBuf,

    /// Where playbooks and inventory are looked for
    #[arg(long, value_name = "DIRECTORY", env = "NODEPOOL_ANSIBLE_DIRECTORY", default_value = DIRECTORY)]
    pub directory: PathBuf,
    /// The inventory: a path as it is, else one below the directory [default: inventory.yaml]
    #[arg(long, value_name = "FILE")]
    pub inventory: Option<PathBuf>,
    /// ansible-playbook; `ansible` is expected beside it [default: /usr/bin/ansible-playbook, else from PATH]
    #[arg(long, value_name = "FILE", env = "NODEPOOL_ANSIBLE_PLAYBOOK")]
    pub ansible_playbook: Option<PathBuf>,
    /// Build on this host of the inventory only
    #[arg(long, value_name = "HOST")]
    pub image_builder: Option<String>,
    /// What a check of the hosts or of the space before the build does that fails: `refuse` the build, or `warn` and begin
    /// all the same, for playbooks that see to it themselves. A host's key is never let through
    #[arg(long, value_name = "MODE", env = "NODEPOOL_ANSIBLE_PREFLIGHT", value_enum, default_value_t = Preflight::Refuse)]
    pub preflight: Preflight,
    /// `image-builders` of the configuration, as JSON
    #[arg(long, value_name = "JSON", value_parser = declared, hide = true)]
    pub image_builders: Option<DeclaredList>,
    /// The configuration whose `image-builders` count [default: /etc/nodepool/nodepool.yaml, if it can be read]
    #[arg(long, value_name = "FILE", env = "NODEPOOL_CONFIG")]
    pub config: Option<PathBuf>,
    /// Bytes that must be free where the image is to arrive [default: 100 MiB, or as much as the last one of the name]
    #[arg(long, value_name = "BYTES")]
    pub min_free: Option<u64>,
}

/// What comes of a check that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Preflight {
    /// The build does not begin.
    Refuse,
    /// The build log says so.
    Warn,
}

/// So that clap takes the list as one value.
#[derive(Clone, Debug)]
pub struct DeclaredList(pub Vec<Declared>);

fn declared(text: &str) -> Result<DeclaredList, String> {
    serde_json::from_str(text).map(DeclaredList).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, i32> {
        let words = ["dib-ansible"].into_iter().chain(line.split_whitespace());
        Arguments::try_parse_from(words).map_err(|error| error.exit_code())
    }

    #[test]
    fn what_the_builder_passes_is_understood() {
        let arguments =
            parse("my.yaml -x -t raw,qcow2 --checksum --no-tmpfs --qemu-img-options compat=0.10 -o /d/image-0a")
                .unwrap();
        assert_eq!(arguments.playbook, PathBuf::from("my.yaml"));
        assert_eq!(arguments.formats.as_deref(), Some("raw,qcow2"));
        assert_eq!(arguments.output, Some("/d/image-0a".into()));
        assert_eq!(arguments.directory, PathBuf::from(DIRECTORY));
    }

    #[test]
    fn what_argparse_takes_is_taken() {
        assert!(parse("-x -x --check --no-t my.yaml").is_ok(), "abbreviations and repetitions");
        assert_eq!(parse("-traw -o/d/i my.yaml").unwrap().formats.as_deref(), Some("raw"));
        assert_eq!(parse("-t raw -t qcow2 my.yaml").unwrap().formats.as_deref(), Some("qcow2"), "the last counts");
    }

    #[test]
    fn a_wrong_command_line_is_status_2_as_argparses() {
        for line in ["", "a.yaml b.yaml", "a.yaml -t raw element", "a.yaml --unknown", "a.yaml -z", "a.yaml -t"] {
            assert_eq!(parse(line).unwrap_err(), 2, "{line}");
        }
        assert_eq!(parse("-h").unwrap_err(), 0);
    }
}
