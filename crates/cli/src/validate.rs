//! `config-validate`: one file, no secure file, no ZooKeeper, no cloud, any environment (traps.md 19).
//!
//! It speaks through the log, on stderr, as upstream's does; but each error is a line of its own with its place.

use std::path::Path;

use nodepool_common::config;

use crate::failure::Failure;

const LOGGER: &str = "nodepool.cmd.config_validator";

/// Status 0 where the file is valid, 1 where it is not.
pub fn run(path: &Path) -> Result<(), Failure> {
    tracing::info!(logger = LOGGER, "validating {}", path.display());
    match config::validate(path) {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!(logger = LOGGER, "{warning}");
            }
            Ok(())
        }
        Err(errors) => {
            for error in &errors {
                tracing::error!(logger = LOGGER, "{error}");
            }
            Err(Failure::Reported)
        }
    }
}
