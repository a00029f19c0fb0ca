//! `config-validate`: one file and that with our own keys, no secure file, no ZooKeeper, no cloud, any environment.
//!
//! It speaks through the log, on stderr, as upstream's does; but each error is a line of its own with its place. Warnings
//! come first, so that the last line of a file that is refused is an error, next to the prompt.

use std::path::Path;

use nodepool_common::config::{self, Warning};

use crate::failure::Failure;

const LOGGER: &str = "nodepool.cmd.config_validator";

/// Status 0 where the files are valid, 1 where they are not. `extensions`: the one with our own keys; `None`: the one that
/// the daemons would find.
pub fn run(path: &Path, extensions: Option<&Path>) -> Result<(), Failure> {
    let extensions = extensions.map(Path::to_owned).or_else(|| config::extensions::find(path));
    tracing::info!(logger = LOGGER, "validating {}", path.display());
    if let Some(extensions) = &extensions {
        tracing::info!(logger = LOGGER, "validating {} with it", extensions.display());
    }
    match config::validate(path, extensions.as_deref()) {
        Ok(warnings) => {
            warn(&warnings);
            Ok(())
        }
        Err(errors) => {
            warn(&errors.warnings);
            for error in &errors {
                tracing::error!(logger = LOGGER, "{error}");
            }
            Err(Failure::Reported)
        }
    }
}

fn warn(warnings: &[Warning]) {
    for warning in warnings {
        tracing::warn!(logger = LOGGER, "{warning}");
    }
}
