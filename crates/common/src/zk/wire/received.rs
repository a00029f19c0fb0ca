//! [`Received`]: what a server has sent and nobody has processed yet.

use std::io;

use bytes::{Buf, BytesMut};
use futures::FutureExt;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::{addresses::Failed, connection::first_message};

/// What is kept while nothing arrives.
const IDLE: usize = 16 << 10;
/// What one read asks for where more has arrived than fits.
const CHUNK: usize = 64 << 10;
/// What is read at once, however much there is: requests and pings are sent in between.
const AT_ONCE: usize = 512 << 10;

/// See the module.
#[derive(Debug)]
pub(super) struct Received {
    buffer: BytesMut,
    /// Whether it is larger than while nothing arrives.
    is_grown: bool,
    /// What a read has failed with behind data that is to be processed before.
    error: Option<io::Error>,
}

impl Received {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::with_capacity(IDLE), is_grown: false, error: None }
    }

    /// Waits until something has arrived, and reads all that has, or [`AT_ONCE`] of it. Returns how much; 0: the server has
    /// closed the connection. May be dropped while it waits: nothing is lost.
    pub(super) async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> io::Result<usize> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        self.make_room(IDLE);
        let mut last = stream.read_buf(&mut self.buffer).await?;
        let mut filled = last;
        while last > 0 && filled < AT_ONCE {
            self.make_room(CHUNK);
            last = match stream.read_buf(&mut self.buffer).now_or_never() {
                Some(Ok(read)) => read,
                Some(Err(error)) => {
                    self.error = Some(error);
                    0
                }
                None => 0,
            };
            filled += last;
        }
        Ok(filled)
    }

    /// So much room where there is hardly any.
    fn make_room(&mut self, wanted: usize) {
        if self.buffer.capacity() - self.buffer.len() < wanted / 4 {
            // In an empty one of that size there is room enough again.
            self.is_grown |= wanted > IDLE || !self.buffer.is_empty();
            self.buffer.reserve(wanted);
        }
    }

    /// Has each whole message processed, in order.
    pub(super) fn process<E: From<Failed>>(
        &mut self,
        mut process: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some((message, length)) = first_message(&self.buffer)? {
            process(message)?;
            self.buffer.advance(length);
        }
        if self.buffer.is_empty() && self.is_grown {
            (self.buffer, self.is_grown) = (BytesMut::with_capacity(IDLE), false);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        [&u32::try_from(length).unwrap().to_be_bytes()[..], &vec![7; length]].concat()
    }

    #[tokio::test]
    async fn all_that_has_arrived_is_read_at_once_and_no_large_buffer_is_kept() {
        let (mut ours, mut server) = tokio::io::duplex(4 << 20);
        let mut received = Received::new();
        let lengths = [9, 300_000, 5];
        for length in lengths {
            server.write_all(&message(length)).await.unwrap();
        }
        let sent = lengths.iter().sum::<usize>() + 4 * lengths.len();
        assert_eq!(received.fill(&mut ours).await.unwrap(), sent);
        let mut processed = Vec::new();
        received
            .process(|message| {
                processed.push(message.len());
                Ok::<_, Failed>(())
            })
            .unwrap();
        assert_eq!(processed, lengths);
        assert_eq!(received.buffer.capacity(), IDLE);

        // Somebody who sends faster than anybody reads does not keep requests from being sent.
        server.write_all(&message(2 << 20)).await.unwrap();
        let filled = received.fill(&mut ours).await.unwrap();
        assert!((AT_ONCE..2 * AT_ONCE).contains(&filled), "{filled}");
        drop(server);
        while received.fill(&mut ours).await.unwrap() > 0 {}
    }

    #[tokio::test]
    async fn what_came_before_an_error_is_processed_before_it() {
        let mut stream = one_message_and_an_error();
        let mut received = Received::new();
        assert_eq!(received.fill(&mut stream).await.unwrap(), 5);
        let error = received.fill(&mut stream).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    /// A message, and then a broken connection.
    fn one_message_and_an_error() -> impl AsyncRead + Unpin {
        struct Broken;
        impl AsyncRead for Broken {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                _: &mut std::task::Context<'_>,
                _: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<io::Result<()>> {
                std::task::Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
        }
        AsyncReadExt::chain(io::Cursor::new(message(1)), Broken)
    }
}
