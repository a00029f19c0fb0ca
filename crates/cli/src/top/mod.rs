//! `top`: how everything stands, on a full screen.
//!
//! | module | what |
//! |---|---|
//! | [`state`] | what is on the screen: keys and data change it; pure |
//! | [`draw`] | the screen, of the state and a size; pure |
//! | [`rows`] | rows of cells, of an overview and lists; pure |
//! | [`clean`] | texts, so that they give no orders to the terminal |
//! | [`data`] | what is fetched, beside the screen |
//! | [`screen`] | the terminal: keys, signals, how it was before |
//!
//! It words nothing itself: sentences are those of explanations (`common/src/explain`), numbers those of the overview that the
//! dashboard shows (`common/src/overview`).
//!
//! The screen has a thread of its own, so that keys are answered whatever the network does; ZooKeeper and the launchers are
//! followed on the main one, and send what they have.

mod clean;
mod data;
mod draw;
mod rows;
mod screen;
mod state;
#[cfg(test)]
mod tests;

use std::{
    env,
    io::{self, IsTerminal as _},
    sync::mpsc::sync_channel,
    time::Duration,
};

use nodepool_common::sys::clock;
use tokio::sync::watch;

use self::{screen::Screen, state::State};
use crate::{
    failure::Failure,
    output,
    session::{Session, Surroundings},
};

/// What may wait to be shown.
const WAITING: usize = 64;
/// For the end of the ZooKeeper session, in which nothing is locked.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Whether there is a terminal that can show a full screen.
pub fn is_possible() -> Result<(), Failure> {
    let why = if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        "standard input and output are not both a terminal"
    } else if env::var_os("TERM").is_none_or(|terminal| terminal.is_empty() || terminal == "dumb") {
        "the terminal (TERM) has no full screen"
    } else {
        return Ok(());
    };
    Err(Failure::Refused(format!("{why}: `nodepool list`, `request-list` and `explain` say the same as text")))
}

/// `top`; ends with `q`, Ctrl-C, SIGTERM, SIGHUP, or as `--timeout` says.
pub async fn run(with: Surroundings<'_>) -> Result<(), Failure> {
    let session = Session::begin(with)?;
    let state = State::new(output::is_in_colour(), clock::now());
    let (wishes, to_fetch) = watch::channel(state.wish());
    let (sender, arrived) = sync_channel(WAITING);
    let mut screen = Screen::begin(state, wishes, arrived)?;
    let result = tokio::select! {
        biased;
        ended = screen.ended() => ended,
        gone = session.gone() => Err(gone),
        () = data::follow(&session.zk, &to_fetch, &sender) => Ok(()),
    };
    // The terminal first, then what is to be said on it.
    drop(screen);
    let _ = tokio::time::timeout(LAST_WORDS, session.close()).await;
    result
}
