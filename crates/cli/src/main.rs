//! `nodepool`: the command line. Wiring only: arguments, log, one command, exit status.
//!
//! Output goes to stdout and is upstream's to the character; logs and errors go to stderr. The exit status is 0, 1
//! for an error, 2 for a wrong command line. Those of `explain` say more.

// A command runs once, by the host's clock.
#![allow(clippy::disallowed_methods)]

mod aliens;
mod args;
mod build_log;
mod create;
mod explain;
mod failure;
mod generate;
mod history;
mod images;
mod leaks;
mod listing;
mod nodes;
mod output;
mod pauses;
mod providers;
mod session;
mod top;
mod transfer;
mod validate;
mod walk;
mod watch;

use std::{
    io::{self, IsTerminal as _},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory as _, Parser as _};
use nodepool_common::sys::logging;

use crate::{
    args::{Arguments, Command, WhatToPause, WhatToUnpause},
    failure::{Failure, say},
    session::{Session, Surroundings},
};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.version {
        return end(say(&format!("Nodepool version: {}", env!("CARGO_PKG_VERSION"))).map(done));
    }
    let Some(command) = arguments.command else {
        // A failure to write it could only be reported to the same place.
        let _ = Arguments::command().print_help();
        return ExitCode::FAILURE;
    };
    output::set_colour(arguments.colour);
    let with = Surroundings {
        config: &arguments.config,
        secure: arguments.secure.as_deref(),
        timeout: arguments.timeout,
        is_log_seen: arguments.log_config.is_none() || arguments.debug,
    };
    end(start(with, arguments.log_config.as_deref(), arguments.debug, command))
}

/// The exit status; says what went wrong.
fn end(result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(status) => status,
        // Whoever reads us has read enough (`| head`).
        Err(Failure::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Failure::Reported) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("nodepool: error: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn start(
    with: Surroundings<'_>,
    log_config: Option<&Path>,
    debug: bool,
    command: Command,
) -> Result<ExitCode, Failure> {
    match &command {
        Command::Completion { shell } => return generate::completion(*shell).map(done),
        Command::Man { directory } => return generate::man(directory).map(done),
        _ => {}
    }
    let is_top = matches!(command, Command::Top);
    if is_top {
        top::is_possible()?;
    }
    // On its screen there is no room for a log.
    let is_seen = !is_top || log_config.is_some() || !io::stderr().is_terminal();
    let _log = if is_seen { Some(logging::init_command_line(log_config, debug)?) } else { None };
    if let Command::ConfigValidate { extensions } = &command {
        return validate::run(with.config, extensions.as_deref()).map(done);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)?;
    let result = match &command {
        Command::Create { what } => runtime.block_on(create::run(what)).map(done),
        Command::Top => runtime.block_on(top::run(with)).map(done),
        _ => runtime.block_on(run_with_zookeeper(with, command)),
    };
    // Not one that still waits for the address of a server.
    runtime.shutdown_background();
    result
}

async fn run_with_zookeeper(with: Surroundings<'_>, command: Command) -> Result<ExitCode, Failure> {
    let session = Session::open(with).await?;
    let result = tokio::select! {
        biased;
        result = run(&session, command) => result,
        // What it has locked ends with the session, which a server ends.
        gone = session.gone() => return Err(gone),
    };
    // Also after an error: our locks go with the session.
    session.close().await;
    result
}

/// The status of a command that has done what it was to do.
fn done((): ()) -> ExitCode {
    ExitCode::SUCCESS
}

async fn run(session: &Session, command: Command) -> Result<ExitCode, Failure> {
    let zk = &session.zk;
    let result = match command {
        Command::Explain(what) => return explain::run(zk, &what).await,
        Command::History(what) => history::run(zk, &what).await,
        // Handled before, without a connection to ZooKeeper.
        Command::ConfigValidate { .. }
        | Command::Create { .. }
        | Command::Completion { .. }
        | Command::Man { .. }
        | Command::Top => Ok(()),
        Command::List { detail, listing } => nodes::list(zk, detail, &listing.view).await,
        Command::RequestList(listing) => nodes::request_list(zk, &listing.view).await,
        Command::Delete { id, now: false, output } => nodes::delete(zk, &id, output.format).await,
        Command::Delete { id, now: true, output } => nodes::delete_now(session, &id, output.format).await,
        Command::Hold { id, output } => nodes::hold(zk, &id, output.format).await,
        Command::Leaks { provider, remove: false, listing } => {
            leaks::list(session, provider.as_deref(), &listing.view).await
        }
        Command::Leaks { provider, remove: true, listing } => {
            leaks::allow(session, provider.as_deref(), &listing.view).await
        }
        Command::Info { provider, format } => providers::info(zk, &provider, format).await,
        Command::Erase { provider, force } => providers::erase(zk, &provider, force).await,
        Command::ImageList(listing) => images::image_list(zk, &listing.view).await,
        Command::DibImageList(listing) => images::dib_image_list(zk, &listing.view).await,
        Command::ImageStatus(listing) => images::image_status(zk, &listing.view).await,
        Command::ImageBuild { image } => images::build(session, &image).await,
        Command::AlienImageList { provider, listing } => {
            aliens::list(session, provider.as_deref(), &listing.view).await
        }
        Command::BuildLog(wanted) => build_log::print(session, &wanted).await,
        Command::ImagePause { image } => images::pause(zk, &image).await,
        Command::ImageUnpause { image } => images::unpause(zk, &image).await,
        Command::Pause(WhatToPause { provider, pool, note, by }) => {
            pauses::pause(session, provider.into(), pool.map(Into::into), note, by).await
        }
        Command::Unpause(WhatToUnpause { provider, pool }) => {
            pauses::unpause(zk, provider.into(), pool.map(Into::into)).await
        }
        Command::PauseList(listing) => pauses::list(zk, &listing.view).await,
        Command::ImageDelete(upload) => images::delete_upload(zk, &upload).await,
        Command::DibImageDelete { id } => images::delete_build(zk, &id).await,
        Command::ExportImageData { path } => transfer::export(zk, &path).await,
        Command::ImportImageData { path } => transfer::import(zk, &path).await,
    };
    result.map(done)
}
