//! The terminal: keys and data in, the screen out, and everything as it was before at the end.
//!
//! One thread reads keys and draws. Signals are the main thread's: also where the terminal is gone and reading from it never returns,
//! the program ends. The terminal is given back by whoever ends first: the thread, the main one, or a panic.

use std::{
    io::{self, BufWriter, Stdout, Write as _},
    panic,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, TryRecvError},
    },
    thread,
    time::{Duration, Instant},
};

use nodepool_common::sys::clock;
use ratatui_core::terminal::Terminal;
use ratatui_crossterm::{
    CrosstermBackend,
    crossterm::{
        cursor::{Hide, Show},
        event::{self, Event, KeyEventKind},
        execute,
        terminal::{Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode},
    },
};
use rustix::{
    process::{Signal, getpid, kill_process},
    termios::tcgetwinsize,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};

use super::{
    data::Arrived,
    draw::draw,
    state::{Act, State, Wish},
};
use crate::failure::Failure;

/// How long what has come may wait for the screen, and a signal for its effect.
const TURN: Duration = Duration::from_millis(100);
/// Ages go on.
const TICK: Duration = Duration::from_secs(1);
/// How long the thread may take for its end; then it hangs in the terminal.
const END: Duration = Duration::from_millis(500);

/// Whether the terminal is ours.
static IS_ON: AtomicBool = AtomicBool::new(false);

/// What signals say to the thread.
#[derive(Debug, Default)]
struct Told {
    ends: AtomicBool,
    stops: AtomicBool,
    goes_on: AtomicBool,
}

/// The screen, while it is there.
#[derive(Debug)]
pub struct Screen {
    told: Arc<Told>,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

type Output = Terminal<CrosstermBackend<BufWriter<Stdout>>>;

impl Screen {
    /// Takes the terminal, and shows the state until its end.
    pub fn begin(state: State, wishes: watch::Sender<Wish>, arrived: Receiver<Arrived>) -> Result<Self, Failure> {
        let told = Arc::new(Told::default());
        let (before, of_hook) = (panic::take_hook(), Arc::clone(&told));
        panic::set_hook(Box::new(move |info| {
            of_hook.ends.store(true, Ordering::Relaxed);
            give_back();
            before(info);
        }));
        take().map_err(Failure::Output)?;
        let terminal = fresh();
        let (sender, ended) = oneshot::channel();
        let of_thread = Arc::clone(&told);
        let show = move || {
            let result = terminal.and_then(|terminal| show(terminal, state, &wishes, &arrived, &of_thread));
            give_back();
            // Nobody waits for it any more where a signal was faster.
            let _ = sender.send(result);
        };
        let thread = thread::Builder::new().name("screen".to_owned()).spawn(show).map_err(|error| {
            give_back();
            Failure::Runtime(error)
        })?;
        Ok(Self { told, ended, thread: Some(thread) })
    }

    /// Waits for the end: by a key, a signal, or as there is no terminal any more.
    pub async fn ended(&mut self) -> Result<(), Failure> {
        tokio::select! {
            biased;
            ended = &mut self.ended => match ended {
                Ok(result) => result.map_err(Failure::Output),
                // A panic: its message is there.
                Err(_) => Err(Failure::Reported),
            },
            () = end_by_signal(&self.told) => Ok(()),
            () = hung_up() => Ok(()),
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.told.ends.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        if let Some(thread) = self.thread.take() {
            while !thread.is_finished() && begun.elapsed() < END {
                thread::sleep(Duration::from_millis(5));
            }
        }
        give_back();
    }
}

/// Passes on what stops and continues us; ends with a signal that ends us.
async fn end_by_signal(told: &Told) {
    let of = |kind: SignalKind| {
        let signal = signal(kind);
        async move {
            match signal {
                Ok(mut signal) => drop(signal.recv().await),
                // It does what it does without us.
                Err(_) => std::future::pending().await,
            }
        }
    };
    let raw = |signal: Signal| SignalKind::from_raw(signal.as_raw());
    let notes = async {
        let (Ok(mut stops), Ok(mut goes_on)) = (signal(raw(Signal::TSTP)), signal(raw(Signal::CONT))) else {
            return std::future::pending().await;
        };
        loop {
            tokio::select! {
                biased;
                _ = stops.recv() => told.stops.store(true, Ordering::Relaxed),
                _ = goes_on.recv() => told.goes_on.store(true, Ordering::Relaxed),
            }
        }
    };
    tokio::select! {
        biased;
        () = of(SignalKind::interrupt()) => {}
        () = of(SignalKind::terminate()) => {}
        () = of(SignalKind::hangup()) => {}
        () = notes => {}
    }
}

/// Ends when the terminal is gone without a signal, as where it is not the one that controls us.
async fn hung_up() {
    while tcgetwinsize(io::stdin()).is_ok() {
        tokio::time::sleep(TICK).await;
    }
}

/// An empty screen. Not `Terminal::clear`, which asks the terminal where its cursor is and waits for an answer that may never come.
fn fresh() -> io::Result<Output> {
    execute!(io::stdout(), Clear(ClearType::All))?;
    Terminal::new(CrosstermBackend::new(BufWriter::with_capacity(1 << 16, io::stdout())))
}

fn take() -> io::Result<()> {
    enable_raw_mode()?;
    IS_ON.store(true, Ordering::SeqCst);
    execute!(io::stdout(), EnterAlternateScreen, Hide).inspect_err(|_| give_back())
}

/// As it was before; once.
fn give_back() {
    if IS_ON.swap(false, Ordering::SeqCst) {
        // Where there is no terminal any more, nothing is to be given back.
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
        let _ = io::stdout().flush();
    }
}

fn show(
    mut terminal: Output,
    mut state: State,
    wishes: &watch::Sender<Wish>,
    arrived: &Receiver<Arrived>,
    told: &Told,
) -> io::Result<()> {
    let mut drawn: Option<Instant> = None;
    loop {
        if drawn.is_none_or(|at| at.elapsed() >= TICK) {
            state.now = clock::now();
            terminal.draw(|frame| draw(&mut state, frame.buffer_mut()))?;
            drawn = Some(Instant::now());
        }
        let mut wait = TURN;
        // All keys that are there, then one drawing.
        while event::poll(wait)? {
            wait = Duration::ZERO;
            drawn = None;
            let act = match event::read()? {
                // Before ratatui sees it.
                Event::Resize(..) => Act::Redraw,
                Event::Key(key) if key.kind != KeyEventKind::Release => state.key(key),
                _ => Act::Draw,
            };
            match act {
                Act::Quit => return Ok(()),
                Act::Draw => {}
                Act::Redraw => terminal = fresh()?,
                Act::Suspend => told.stops.store(true, Ordering::Relaxed),
            }
        }
        wishes.send_if_modified(|wish| {
            let next = state.wish();
            let is_another = *wish != next;
            *wish = next;
            is_another
        });
        loop {
            match arrived.try_recv() {
                Ok(Arrived::Seen(seen)) => state.see(*seen),
                Ok(Arrived::Details(subject, lines)) => state.explain(&subject, lines),
                Ok(Arrived::Trouble(trouble)) if trouble == state.trouble => continue,
                Ok(Arrived::Trouble(trouble)) => state.trouble = trouble,
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => break,
            }
            drawn = None;
        }
        if told.ends.load(Ordering::Relaxed) {
            return Ok(());
        }
        if told.stops.swap(false, Ordering::Relaxed) {
            give_back();
            told.goes_on.store(false, Ordering::Relaxed);
            // Not the one that we have taken over, which would be told to us again.
            kill_process(getpid(), Signal::STOP)?;
            // Others of our threads may be stopped later than this one is asked.
            while !told.goes_on.load(Ordering::Relaxed) && !told.ends.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(10));
            }
            told.goes_on.store(true, Ordering::Relaxed);
        }
        // Also where somebody else has stopped us; what is on the screen is not known then.
        if told.goes_on.swap(false, Ordering::Relaxed) && !told.ends.load(Ordering::Relaxed) {
            take()?;
            terminal = fresh()?;
            drawn = None;
        }
    }
}
