//! The end of patience with a client that does not read what it asked for.
//!
//! Promise: a connection on which nothing could be written for a while, though something should be,
//! fails; writes that go through at once pay for nothing. It deliberately does not mind a client
//! that reads slowly.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// A stream whose writes must make progress.
pub struct Patient<S> {
    stream: S,
    limit: Duration,
    /// Set while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// A stream on which a write waits so long at most.
    pub fn new(stream: S, limit: Duration) -> Patient<S> {
        Patient { stream, limit, deadline: None }
    }

    /// What came of a write: one that waits does so until the deadline only.
    fn within<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let limit = self.limit;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.within(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.within(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.within(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_write_that_nobody_reads_fails_and_not_before_its_time() {
        let limit = Duration::from_millis(50);
        run(async {
            let (_reader, stream) = duplex(8);
            let mut stream = Patient::new(stream, limit);
            let begun = std::time::Instant::now();
            let written = tokio::time::timeout(Duration::from_secs(20), stream.write_all(&[0; 9]));
            let failed = written.await.expect("it does not wait for ever").unwrap_err();
            assert_eq!(failed.kind(), io::ErrorKind::TimedOut);
            assert!(begun.elapsed() >= limit);
        });
    }

    #[test]
    fn who_reads_slowly_gets_it_all() {
        run(async {
            let (mut reader, stream) = duplex(1);
            let mut stream = Patient::new(stream, Duration::from_secs(1));
            let read = async {
                let mut got = Vec::new();
                while let Ok(byte) = reader.read_u8().await {
                    got.push(byte);
                    // Longer than the limit in all, far less between two bytes.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                got
            };
            let write = async move { stream.write_all(&[7; 14]).await };
            let (got, written) = tokio::join!(read, write);
            written.expect("there was progress");
            assert_eq!(got, [7; 14]);
        });
    }
}
