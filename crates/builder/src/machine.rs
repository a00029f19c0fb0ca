//! [`Machine`]: what of its machine a builder uses, apart from the network. It decides nothing: a simulation has another one, in which
//! builds take no time of the host's, disks are full, and what was killed writes no more (`crates/sim/src/builder`).

use std::{
    fmt,
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use nix::fcntl::Flock;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    build::{
        command::BuildCommand,
        process::{self, Ended},
    },
    files,
};

/// A piece of work on files.
pub type FileWork = Box<dyn FnOnce() + Send>;

/// See the module's comment.
#[async_trait]
pub trait Machine: fmt::Debug + Send + Sync {
    /// Keeps other builders out of images-dir ([`files::claim`]).
    fn claim(&self, images_dir: &Path) -> io::Result<Option<Flock<File>>>;

    /// Ends what a killed builder has left running in that images-dir; how many processes there were.
    async fn end_leftovers(&self, images_dir: PathBuf) -> usize;

    /// Runs a build or a hook to its end, or ends it ([`process::run`]).
    async fn run(&self, command: &BuildCommand, log: File, limit: Duration, cancel: &CancellationToken) -> Ended;

    /// The bytes that can still be written there ([`files::free_space`]).
    fn free_space(&self, path: &Path) -> io::Result<u64>;

    /// Does what may take a while, or changes files of images; an error where it has come to no end.
    async fn work_on_files(&self, work: FileWork) -> io::Result<()>;
}

/// The one that this process runs on.
#[derive(Clone, Copy, Debug)]
pub struct ThisMachine;

#[async_trait]
impl Machine for ThisMachine {
    fn claim(&self, images_dir: &Path) -> io::Result<Option<Flock<File>>> {
        files::claim(images_dir)
    }

    async fn end_leftovers(&self, images_dir: PathBuf) -> usize {
        spawn_blocking(move || process::end_leftovers(&images_dir)).await.unwrap_or_default()
    }

    async fn run(&self, command: &BuildCommand, log: File, limit: Duration, cancel: &CancellationToken) -> Ended {
        process::run(command, log, limit, cancel).await
    }

    fn free_space(&self, path: &Path) -> io::Result<u64> {
        files::free_space(path)
    }

    async fn work_on_files(&self, work: FileWork) -> io::Result<()> {
        spawn_blocking(work).await.map_err(io::Error::other)
    }
}

/// Does work on files on that machine, and returns what came of it.
pub(crate) async fn on_files<T: Send + 'static>(
    machine: &dyn Machine,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, is_done) = tokio::sync::oneshot::channel();
    machine.work_on_files(Box::new(move || drop(done.send(work())))).await?;
    is_done.await.map_err(io::Error::other)?
}
