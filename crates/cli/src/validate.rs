//! `config-validate`: one file, no secure file, no ZooKeeper, no cloud, any environment (traps.md 19).
//!
//! It speaks through the log, on stderr, as upstream's does; but each error is a line of its own with its place. Warnings
//! come first, so that the last line of a file that is refused is an error, next to the prompt.

use std::path::Path;

use nodepool_common::config::{self, Warning};

use crate::failure::Failure;

const LOGGER: &str = "nodepool.cmd.config_validator";

/// Status 0 where the file is valid, 1 where it is not.
pub fn run(path: &Path) -> Result<(), Failure> {
    tracing::info!(logger = LOGGER, "validating {}", path.display());
    match config::validate(path) {
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
