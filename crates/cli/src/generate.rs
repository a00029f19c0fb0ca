//! `completion` and `man`: what shells and `man` know of this program, made of the definition of the command line.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::aot;

use crate::{
    args::{Arguments, Shell},
    failure::{Failure, say},
};

/// `completion SHELL`.
pub fn completion(shell: Shell) -> Result<(), Failure> {
    let shell = match shell {
        Shell::Bash => aot::Shell::Bash,
        Shell::Zsh => aot::Shell::Zsh,
        Shell::Fish => aot::Shell::Fish,
    };
    let mut script = Vec::new();
    aot::generate(shell, &mut Arguments::command(), "nodepool", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())
}

/// `man DIRECTORY`.
pub fn man(directory: &Path) -> Result<(), Failure> {
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|source| Failure::File {
        doing: "writing manual pages into",
        path: directory.to_owned(),
        source,
    })
}
