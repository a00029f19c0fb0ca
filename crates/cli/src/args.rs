//! The command line: upstream's sub-commands, options and words.
//!
//! As with upstream's argparse: long options may be abbreviated to unique prefixes, global options stand before the
//! sub-command, a usage error is status 2. `explain`, `history`, `pause`, `leaks`, `build-log` and `create` are ours alone; the last one
//! has the words and options of the operator's command of that name.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use nodepool_common::{
    explain, history,
    model::{BuildState, NodeState, RequestState, UploadState},
    status::{self, Column},
};

use crate::{
    aliens, leaks,
    listing::{Kind, Listing, duration, seconds},
    output::{Colour, Format, Output},
    pauses,
};

/// Node pool.
#[derive(Debug, Parser)]
#[command(name = "nodepool", infer_long_args = true, disable_help_subcommand = true, subcommand_value_name = "COMMAND")]
pub struct Arguments {
    /// path to log config file
    #[arg(short = 'l', value_name = "LOGCONFIG")]
    pub log_config: Option<PathBuf>,
    /// show nodepool version
    #[arg(long)]
    pub version: bool,
    /// path to config file
    #[arg(short = 'c', value_name = "CONFIG", default_value = "/etc/nodepool/nodepool.yaml")]
    pub config: PathBuf,
    /// path to secure file
    #[arg(short = 's', value_name = "SECURE")]
    pub secure: Option<PathBuf>,
    /// show DEBUG level logging
    #[arg(long)]
    pub debug: bool,
    /// end with status 1 after so long without a connection to ZooKeeper; without it, wait for it for ever
    #[arg(long, value_name = "SECONDS", value_parser = seconds, global = true)]
    pub timeout: Option<Duration>,
    /// colours in tables: auto is on a terminal, unless `NO_COLOR` is set
    #[arg(long = "color", value_name = "WHEN", value_enum, default_value_t, global = true)]
    pub colour: Colour,
    /// What to do; without one the help is shown.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The sub-commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// list nodes
    List {
        /// Output detailed node info
        #[arg(long)]
        detail: bool,
        /// Which, and how.
        #[command(flatten)]
        listing: Listing<Nodes>,
    },
    /// list images from providers
    ImageList(Listing<Uploads>),
    /// list images built with diskimage-builder
    DibImageList(Listing<Builds>),
    /// list image status
    ImageStatus(Listing<Images>),
    /// build image using diskimage-builder
    ImageBuild {
        /// image name
        image: String,
    },
    /// list images not accounted for by nodepool
    AlienImageList {
        /// provider name
        provider: Option<String>,
        /// How.
        #[command(flatten)]
        listing: Listing<AlienImages>,
    },
    /// print the log of an image's running build, or of its newest one
    BuildLog(WhichLog),
    /// place a node in the DELETE state
    Delete {
        /// node id
        id: String,
        /// delete the node in the foreground
        #[arg(long)]
        now: bool,
        /// How the node is shown.
        #[command(flatten)]
        output: Output,
    },
    /// place a node in the HOLD state e.g. for running maintenance tasks
    Hold {
        /// node id
        id: String,
        /// How the node is shown.
        #[command(flatten)]
        output: Output,
    },
    /// delete an image
    ImageDelete(WhichUpload),
    /// Delete a dib built image from disk along with all cloud uploads of this image
    DibImageDelete {
        /// dib image id
        id: String,
    },
    /// Validate configuration file
    ConfigValidate {
        /// file with the keys that Python Nodepool does not have; by default nodepool-extensions.yaml beside the
        /// configuration file, else in ~/config/nodepool
        #[arg(long, value_name = "FILE")]
        extensions: Option<PathBuf>,
    },
    /// list the current node requests
    RequestList(Listing<Requests>),
    /// say what a request waits for, since when, what ends it and who has to act; the same of a node, and of a label, an image or a
    /// provider by its name: of each of that name. Ends with status 0: it is served, or fine; 2: it waits, or somebody has to act
    /// (a command line that is wrong is 2 as well, with nothing on stdout); 3: it will not be served as it is; 1: there is no trace
    /// of it. Of several things the gravest counts: 3, then 2, then 0
    Explain(WhatToExplain),
    /// list what was asked, decided, launched and deleted, the newest first, by what all launchers know; also of requests and nodes
    /// whose records are gone
    History(WhatHappened),
    /// show how everything stands on a full screen, until q: requests with what they wait for, providers with their quotas, nodes,
    /// images, what has happened, what needs somebody; ? shows the keys
    Top,
    /// list resources of ours without a record: those that are removed, and those that are held back
    Leaks {
        /// only this provider
        #[arg(long)]
        provider: Option<String>,
        /// let what is held back be removed, once: what this command then lists, and nothing that is found later
        #[arg(long)]
        remove: bool,
        /// How.
        #[command(flatten)]
        listing: Listing<Leaks>,
    },
    /// Show provider data from zookeeper
    Info {
        /// Provider name
        #[arg(value_name = "PROVIDER")]
        provider: String,
        /// table, json or yaml: one object with the lists "images" and "nodes"
        #[arg(long, default_value = "table", value_parser = without_csv, value_name = "FORMAT")]
        format: Format,
    },
    /// Erase provider data from zookeeper
    Erase {
        /// Provider name
        #[arg(value_name = "PROVIDER")]
        provider: String,
        /// Bypass the warning prompt
        #[arg(long)]
        force: bool,
    },
    /// pause an image
    ImagePause {
        /// image name
        image: String,
    },
    /// unpause an image
    ImageUnpause {
        /// image name
        image: String,
    },
    /// have launchers take on no request for a provider, or for one pool of it, and launch nothing there, until `unpause`: across all
    /// launchers and their restarts. Other pools serve what they can; the rest waits. What is launched already is finished
    Pause(WhatToPause),
    /// end a pause of a provider, or of one pool of it
    Unpause(WhatToUnpause),
    /// list what is paused of providers, by whom, since when and why
    PauseList(Listing<Pauses>),
    /// print the completion of commands and options for a shell
    Completion {
        /// which shell
        #[arg(value_enum)]
        shell: Shell,
    },
    /// write manual pages, one for each command
    Man {
        /// into this directory
        directory: PathBuf,
    },
    /// make what a provider needs before it can begin
    Create {
        /// What.
        #[command(subcommand)]
        what: Create,
    },
    /// Export image data from ZooKeeper
    ExportImageData {
        /// Export file path
        path: PathBuf,
    },
    /// Import image data to ZooKeeper
    ImportImageData {
        /// Import file path
        path: PathBuf,
    },
}

/// Two tables are not one CSV.
fn without_csv(word: &str) -> Result<Format, String> {
    match <Format as clap::ValueEnum>::from_str(word, false) {
        Ok(format) if format != Format::Csv => Ok(format),
        _ => Err("these are two tables: table, json or yaml".to_owned()),
    }
}

/// `list`.
#[derive(Clone, Debug)]
pub struct Nodes;

impl Kind for Nodes {
    const COLUMNS: &'static [Column] = status::NODE_COLUMNS;
    fn states() -> Vec<&'static str> {
        NodeState::ALL.iter().map(|state| state.as_str()).collect()
    }
}

/// `request-list`.
#[derive(Clone, Debug)]
pub struct Requests;

impl Kind for Requests {
    const COLUMNS: &'static [Column] = status::REQUEST_COLUMNS;
    fn states() -> Vec<&'static str> {
        RequestState::ALL.iter().map(|state| state.as_str()).collect()
    }
}

/// `image-list`.
#[derive(Clone, Debug)]
pub struct Uploads;

impl Kind for Uploads {
    const COLUMNS: &'static [Column] = status::UPLOAD_COLUMNS;
    fn states() -> Vec<&'static str> {
        UploadState::ALL.iter().map(|state| state.as_str()).collect()
    }
}

/// `dib-image-list`.
#[derive(Clone, Debug)]
pub struct Builds;

impl Kind for Builds {
    const COLUMNS: &'static [Column] = status::BUILD_COLUMNS;
    fn states() -> Vec<&'static str> {
        BuildState::ALL.iter().map(|state| state.as_str()).chain([status::PAUSED]).collect()
    }
}

/// `image-status`.
#[derive(Clone, Debug)]
pub struct Images;

impl Kind for Images {
    const COLUMNS: &'static [Column] = status::IMAGE_COLUMNS;
}

/// `alien-image-list`.
#[derive(Clone, Debug)]
pub struct AlienImages;

impl Kind for AlienImages {
    const COLUMNS: &'static [Column] = aliens::COLUMNS;
    const HAS_FILTERS: bool = false;
}

/// `history`.
#[derive(Clone, Debug)]
pub struct Events;

impl Kind for Events {
    const COLUMNS: &'static [Column] = history::COLUMNS;
}

/// `pause-list`.
#[derive(Clone, Debug)]
pub struct Pauses;

impl Kind for Pauses {
    const COLUMNS: &'static [Column] = pauses::COLUMNS;
}

/// `leaks`.
#[derive(Clone, Debug)]
pub struct Leaks;

impl Kind for Leaks {
    const COLUMNS: &'static [Column] = leaks::COLUMNS;
    const HAS_FILTERS: bool = false;
}

/// What `pause` pauses, and why.
#[derive(Debug, Args)]
pub struct WhatToPause {
    /// provider name
    pub provider: String,
    /// only this pool of it
    #[arg(long)]
    pub pool: Option<String>,
    /// why, for all who see it
    #[arg(long, value_parser = pauses::line)]
    pub note: Option<String>,
    /// who pauses it; by default who runs this, as user@host
    #[arg(long, value_name = "WHO", value_parser = pauses::line)]
    pub by: Option<String>,
}

/// The pause of what `unpause` ends.
#[derive(Debug, Args)]
pub struct WhatToUnpause {
    /// provider name
    pub provider: String,
    /// only that of this pool of it
    #[arg(long)]
    pub pool: Option<String>,
}

/// Which upload `image-delete` means.
#[derive(Debug, Args)]
pub struct WhichUpload {
    /// provider name
    #[arg(long)]
    pub provider: String,
    /// image name
    #[arg(long)]
    pub image: String,
    /// image upload id
    #[arg(long)]
    pub upload_id: String,
    /// image build id
    #[arg(long)]
    pub build_id: String,
}

/// Whose completion there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // their names
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

/// What `create` makes.
#[derive(Debug, Subcommand)]
pub enum Create {
    /// a namespace for the pods of an openshiftpods provider, with an account and its token
    OpenshiftpodsNamespace(PodsNamespaceOptions),
}

/// How `create openshiftpods-namespace` goes about it.
#[derive(Debug, Args)]
#[allow(clippy::struct_excessive_bools)] // a command line's switches
pub struct PodsNamespaceOptions {
    /// kubeconfig context that may create the namespace; the current one by default
    #[arg(long, value_name = "CONTEXT")]
    pub nodepool_context: Option<String>,
    /// name of the namespace
    #[arg(long, value_name = "NAMESPACE", default_value = "nodepool")]
    pub nodepool_namespace: String,
    /// kubeconfig context of the Software Factory; the current one by default
    #[arg(long, value_name = "CONTEXT")]
    pub kube_context: Option<String>,
    /// namespace of the Software Factory, where nodepool-providers-secrets is; the context's own by default
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// print a piece of nodepool.yaml for it
    #[arg(long)]
    pub show_config_template: bool,
    /// print the kubeconfig instead of storing it in nodepool-providers-secrets
    #[arg(long)]
    pub skip_providers_secrets: bool,
    /// print the manifests, ask and change nothing
    #[arg(long)]
    pub dry_run: bool,
}

/// The kind of a word of the command line.
fn kind_to_explain(word: &str) -> Result<explain::Kind, String> {
    explain::Kind::parse(word).ok_or_else(|| format!("it is one of {}", explain::Kind::words()))
}

/// What `explain` explains, and how.
#[derive(Debug, Args)]
pub struct WhatToExplain {
    /// id of a request, as Zuul shows it, or of a node; or the name of a label, an image or a provider
    pub id: String,
    /// what it is the name of, where several things have it: label, image, provider, request, node
    #[arg(long, value_name = "KIND", value_parser = kind_to_explain)]
    pub kind: Option<explain::Kind>,
    /// for people or for programs
    #[arg(long, value_enum, default_value_t = ExplanationFormat::Text)]
    pub format: ExplanationFormat,
    /// print it again whenever it changes, until it is served or never will be
    #[arg(long)]
    pub watch: bool,
}

/// Which events `history` lists, and how.
#[derive(Debug, Args)]
pub struct WhatHappened {
    /// only what concerns this: the id of a request or of a node, or the name of a label, an image or a provider
    pub id: Option<String>,
    /// what it is the name of, where several things have it: label, image, provider, request, node
    #[arg(long, value_name = "KIND", value_parser = kind_to_explain, requires = "id")]
    pub kind: Option<explain::Kind>,
    /// only events of this kind, such as request-failed, or of several, with commas between them
    #[arg(long = "event", value_name = "EVENT", value_delimiter = ',')]
    pub events: Vec<String>,
    /// only what is not older than this: 90s, 15m, 2h, 3d
    #[arg(long, value_name = "AGE", value_parser = duration)]
    pub since: Option<Duration>,
    /// so many at most, the newest
    #[arg(long, value_name = "NUMBER", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub limit: u16,
    /// How.
    #[command(flatten)]
    pub listing: Listing<Events>,
}

/// How an explanation is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ExplanationFormat {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Which log `build-log` prints, and for how long.
#[derive(Debug, Args)]
pub struct WhichLog {
    /// image name
    pub image: String,
    /// print what is added, until the build has ended
    #[arg(short, long)]
    pub follow: bool,
    /// image build id, where it is another build that is asked for
    #[arg(long)]
    pub build_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, error::ErrorKind};

    use super::*;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn long_options_may_be_abbreviated_and_commands_may_not() {
        assert!(parse("nodepool --deb list --det").unwrap().debug);
        assert!(matches!(
            parse("nodepool delete 0000000001 --n").unwrap().command,
            Some(Command::Delete { now: true, .. })
        ));
        assert!(parse("nodepool --vers").unwrap().version);
        assert_eq!(parse("nodepool lis").unwrap_err().kind(), ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn global_options_stand_before_the_command() {
        assert_eq!(parse("nodepool -c/a/b -s c list").unwrap().config, PathBuf::from("/a/b"));
        assert_eq!(parse("nodepool list").unwrap().config, PathBuf::from("/etc/nodepool/nodepool.yaml"));
        assert_eq!(parse("nodepool list -c x").unwrap_err().exit_code(), 2);
        for line in ["nodepool --timeout 2.5 list", "nodepool list --timeout 2.5"] {
            assert_eq!(parse(line).unwrap().timeout, Some(Duration::from_millis(2500)), "this one anywhere");
        }
        for seconds in ["0", "-1", "nan", "inf", "2s", "1e300"] {
            assert!(parse(&format!("nodepool --timeout={seconds} list")).is_err(), "{seconds}");
        }
    }

    #[test]
    fn a_command_is_not_needed_but_its_arguments_are() {
        assert!(parse("nodepool").unwrap().command.is_none());
        assert_eq!(parse("nodepool hold").unwrap_err().exit_code(), 2);
        assert_eq!(parse("nodepool image-delete --provider p --image i").unwrap_err().exit_code(), 2);
    }
}
