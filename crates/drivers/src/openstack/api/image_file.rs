//! [`ImageFile`]: a file on its way to a cloud, far larger than memory.
//!
//! One thread reads it, computes its checksums (two seconds of a core for each GiB, which no task may take from others)
//! and hands the chunks over a short channel to whoever sends them: a slow cloud slows the reading, and no more than a
//! few chunks exist at a time. Holes are read as the zeros they stand for: Glance takes nothing else.
//!
//! Exactly as many bytes are sent as the file had when it was opened. A file that ends early, grows or is written to
//! meanwhile makes [`Reading::finish`] fail, which the cloud's answer alone would not tell.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::SystemTime,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::{
    sync::mpsc,
    task::{JoinHandle, spawn_blocking},
};

use super::CloudError;
use crate::{
    ErrorClass,
    checksums::{Checksumming, Checksums},
};

const CHUNK: usize = 256 * 1024;
/// Chunks that wait to be sent.
const CHUNKS: usize = 4;

/// See the module's comment.
#[derive(Debug)]
pub(crate) struct ImageFile {
    file: File,
    path: Arc<Path>,
    size: u64,
    modified: Option<SystemTime>,
}

/// What is sent: the file's bytes in order, once.
#[derive(Debug)]
pub(crate) struct ImageData {
    chunks: mpsc::Receiver<Bytes>,
    left: u64,
}

/// The thread that reads. Ends by itself when its [`ImageData`] is dropped.
#[derive(Debug)]
pub(crate) struct Reading {
    path: Arc<Path>,
    thread: JoinHandle<io::Result<Option<Checksums>>>,
}

fn unusable(path: &Path, error: &io::Error) -> CloudError {
    // No cloud can help with it, and the next upload of the same file may find it mended.
    CloudError::new(ErrorClass::Transient, format!("cannot read the image file {}: {error}", path.display()))
}

impl ImageFile {
    pub async fn open(path: &Path) -> Result<Self, CloudError> {
        let wanted = PathBuf::from(path);
        let opened = spawn_blocking(move || {
            let file = File::open(&wanted)?;
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(io::Error::other("it is no regular file"));
            }
            if metadata.len() == 0 {
                return Err(io::Error::other("it is empty"));
            }
            Ok(Self { file, path: wanted.into(), size: metadata.len(), modified: metadata.modified().ok() })
        });
        opened.await.map_err(io::Error::other).flatten().map_err(|error| unusable(path, &error))
    }

    /// Bytes, holes included.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Begins to read.
    pub fn read(self) -> (ImageData, Reading) {
        let (sender, chunks) = mpsc::channel(CHUNKS);
        let (left, path) = (self.size, Arc::clone(&self.path));
        (ImageData { chunks, left }, Reading { path, thread: spawn_blocking(move || self.read_into(&sender)) })
    }

    /// `None`: nobody wants the rest.
    fn read_into(mut self, chunks: &mpsc::Sender<Bytes>) -> io::Result<Option<Checksums>> {
        let mut checksums = Checksumming::default();
        let mut left = self.size;
        while left > 0 {
            let wanted = left.min(CHUNK as u64);
            let mut chunk = Vec::with_capacity(CHUNK);
            self.file.by_ref().take(wanted).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                let read = self.size - left;
                return Err(io::Error::other(format!("it had {} bytes and ends after {read}", self.size)));
            }
            checksums.update(&chunk);
            left -= chunk.len() as u64;
            if chunks.blocking_send(chunk.into()).is_err() {
                return Ok(None);
            }
        }
        let now = self.file.metadata()?;
        if now.len() != self.size {
            return Err(io::Error::other(format!("it had {} bytes and now has {}", self.size, now.len())));
        }
        if now.modified().ok() != self.modified {
            return Err(io::Error::other("it was written to while it was read"));
        }
        Ok(Some(checksums.finish()))
    }
}

impl ImageData {
    /// The next chunk, for those who have no use for a [`Body`]; `None` at the end, and where reading failed.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.chunks.recv().await
    }
}

impl Body for ImageData {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let chunk = ready!(self.chunks.poll_recv(context));
        if let Some(chunk) = &chunk {
            self.left = self.left.saturating_sub(chunk.len() as u64);
        } else if self.left > 0 {
            // Why, says the thread. This breaks the connection off, so that nobody takes the part for the whole.
            return Poll::Ready(Some(Err(io::Error::other("the file could not be read to its end"))));
        }
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

impl Reading {
    /// The checksums of all that was read. `None`: the data was not wanted to its end.
    pub async fn finish(self) -> Result<Option<Checksums>, CloudError> {
        self.thread.await.map_err(io::Error::other).flatten().map_err(|error| unusable(&self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        file
    }

    async fn read(data: &mut ImageData) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(chunk) = data.next().await {
            all.extend_from_slice(&chunk);
        }
        all
    }

    #[tokio::test]
    async fn all_bytes_come_in_order_with_their_checksums() {
        let content: Vec<u8> = (0..3 * CHUNK + 17).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let file = file(&content);
        let image = ImageFile::open(file.path()).await.unwrap();
        assert_eq!(image.size(), content.len() as u64);
        let (mut data, reading) = image.read();
        assert_eq!(data.size_hint().exact(), Some(content.len() as u64));
        assert!(read(&mut data).await == content);
        let mut expected = Checksumming::default();
        expected.update(&content);
        assert_eq!(reading.finish().await.unwrap(), Some(expected.finish()));
    }

    #[tokio::test]
    async fn a_file_that_shrinks_or_grows_meanwhile_is_an_error_that_says_so() {
        for (size, expected) in [(CHUNK as u64, "ends after"), (100 * CHUNK as u64, "now has")] {
            let file = file(&vec![1; 50 * CHUNK]);
            let (mut data, reading) = ImageFile::open(file.path()).await.unwrap().read();
            data.next().await.unwrap();
            file.as_file().set_len(size).unwrap();
            read(&mut data).await;
            let error = reading.finish().await.unwrap_err();
            assert!(error.message.contains(expected), "{error}");
            assert!(error.message.contains(&file.path().display().to_string()), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        for (path, expected) in [
            (directory.path().to_owned(), "no regular file"),
            (directory.path().join("absent.raw"), "absent.raw: No such file"),
        ] {
            let error = ImageFile::open(&path).await.unwrap_err();
            assert!(error.message.contains(expected), "{error}");
        }
        let empty = file(b"");
        assert!(ImageFile::open(empty.path()).await.unwrap_err().message.contains("is empty"));
    }

    #[tokio::test]
    async fn nobody_reads_on_when_nobody_wants_the_rest() {
        let file = file(&vec![1; 50 * CHUNK]);
        let (mut data, reading) = ImageFile::open(file.path()).await.unwrap().read();
        data.next().await.unwrap();
        drop(data);
        assert_eq!(reading.finish().await.unwrap(), None);
    }
}
