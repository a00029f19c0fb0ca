//! `--watch`: a list again and again, until it is ended by Ctrl-C or SIGTERM, which is no error.
//!
//! On a terminal each list is drawn over the one before, in one write: every line is cleared behind its end, and what is below the
//! last one, so that nothing is blank in between. Lines that are too long are cut by the terminal, and those for which it has no
//! room are counted. Elsewhere one list follows the other.
//!
//! A connection that breaks ends nothing: what could not be read is read the next time.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use nodepool_common::sys::clock;
use rustix::termios::tcgetwinsize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, say, say_aside};

/// Cut long lines instead of going on below; no cursor. Then the cursor to the top, and nothing below it.
const BEGIN: &str = "\u{1b}[?7l\u{1b}[?25l\u{1b}[H\u{1b}[J";
/// Undoes [`BEGIN`].
const END: &str = "\u{1b}[?7h\u{1b}[?25h";
/// Where a terminal does not say how large it is.
const ROWS: usize = 24;

/// Prints what `render` makes, with that pause after each.
pub async fn watch(pause: Duration, render: impl AsyncFn() -> Result<String, Failure>) -> Result<(), Failure> {
    let mut ends = [SignalKind::interrupt(), SignalKind::terminate()].map(signal);
    let is_terminal = io::stdout().is_terminal();
    let _screen = if is_terminal { Some(Screen::begin()?) } else { None };
    tokio::select! {
        biased;
        () = any(&mut ends) => Ok(()),
        result = repeat(pause, is_terminal, render) => result,
    }
}

/// The terminal while lists are drawn on it. It is as before when this ends, also where nobody waits for the lists any more because
/// the connection is lost for good.
struct Screen;

impl Screen {
    fn begin() -> Result<Self, Failure> {
        put(BEGIN)?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Where it cannot be written to, nothing is seen either.
        let _ = put(END);
    }
}

/// Ends with one of these signals.
async fn any(signals: &mut [io::Result<Signal>; 2]) {
    let [one, other] = signals;
    tokio::select! {
        biased;
        () = next(one) => {}
        () = next(other) => {}
    }
}

/// A signal that cannot be waited for ends the process, as it does without us.
async fn next(signal: &mut io::Result<Signal>) {
    match signal {
        Ok(signal) => drop(signal.recv().await),
        Err(_) => std::future::pending().await,
    }
}

async fn repeat(
    pause: Duration,
    is_terminal: bool,
    render: impl AsyncFn() -> Result<String, Failure>,
) -> Result<(), Failure> {
    loop {
        match render().await {
            Ok(text) if is_terminal => put(&frame(&text, pause, rows()))?,
            Ok(text) => say(&text)?,
            Err(Failure::ZooKeeper(error)) if error.is_transient() => say_aside(&format!("{error}; it is tried again")),
            Err(failure) => return Err(failure),
        }
        tokio::time::sleep(pause).await;
    }
}

/// The terminal's height.
fn rows() -> usize {
    let size = tcgetwinsize(io::stdout()).map_or(0, |size| size.ws_row);
    if size == 0 { ROWS } else { size.into() }
}

/// What is drawn of a text on a terminal of so many rows.
fn frame(text: &str, pause: Duration, rows: usize) -> String {
    #[allow(clippy::cast_possible_truncation)] // seconds since the epoch
    let now = clock::utc(clock::now() as i64);
    let title = format!("every {pause:?}, {now}; Ctrl-C ends it");
    let all = text.lines().count();
    // Beside the title; one more for what is left out.
    let room = rows.saturating_sub(1);
    let shown = if all <= room { all } else { room.saturating_sub(1) };
    let mut lines = vec![title];
    lines.extend(text.lines().take(shown).map(str::to_owned));
    if shown < all {
        lines.push(format!("… {} lines more", all - shown));
    }
    format!("\u{1b}[H{}\u{1b}[K\u{1b}[J", lines.join("\u{1b}[K\r\n"))
}

/// To standard output, in one write.
fn put(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(Failure::Output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_no_more_lines_than_the_terminal() {
        let text = "1\n2\n3\n4\n5";
        for (rows, last) in [(6, "5"), (5, "… 2 lines more"), (3, "… 4 lines more"), (2, "… 5 lines more")] {
            let frame = frame(text, Duration::from_secs(2), rows);
            let lines: Vec<_> = frame.split("\r\n").collect();
            assert_eq!(lines.len(), rows);
            assert!(lines[0].starts_with("\u{1b}[Hevery 2s, "), "{frame:?}");
            assert!(lines.iter().all(|line| line.contains("\u{1b}[K")), "{frame:?}");
            assert_eq!(*lines.last().unwrap(), format!("{last}\u{1b}[K\u{1b}[J"));
        }
    }
}
