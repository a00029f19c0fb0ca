//! `dib-ansible`: wiring.

use std::process::ExitCode;

fn main() -> ExitCode {
    nodepool_builder::image_builder::main()
}
