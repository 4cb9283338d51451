//! A connection that its peer has to read from.
//!
//! Owns how long a peer may leave an answer lying. Promises that a peer which takes nothing, or a few octets now and then,
//! is cut off, whatever the answer is; and that one which takes what it is sent costs no timer. Never looks at what is
//! sent. Failure story: a write fails with [`io::ErrorKind::TimedOut`], which ends the connection.
//!
//! The time runs while octets wait for room in the socket: from when it is full to when all that waits has gone into it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a peer may leave what is sent to it lying.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// However little it is.
    pub least: Duration,
    /// The least speed, in octets a second, that earns more time.
    pub speed_min: u64,
}

impl Patience {
    /// With everybody: a slow modem takes more.
    pub const USUAL: Self = Self {
        least: Duration::from_secs(30),
        speed_min: 4 * 1024,
    };

    /// The time to take so many octets in.
    pub const fn time_for(&self, octets: u64) -> Duration {
        self.least
            .saturating_add(Duration::from_secs(octets / self.speed_min))
    }
}

/// A stream whose peer has to read.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    /// Since when octets wait for room, and how many went out since.
    waiting: Option<(Instant, u64)>,
    /// Made when the socket is full for the first time: most never are.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// A stream with so much patience.
    pub const fn new(stream: S, patience: Patience) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
            alarm: None,
        }
    }

    /// The stream.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream alone.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Judges a write: counts what went out, and how long what did not has waited.
    fn judge(
        &mut self,
        written: Poll<io::Result<usize>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            if let (Some((_, out)), Ok(more)) = (&mut self.waiting, &written) {
                *out += *more as u64;
            }
            return Poll::Ready(written);
        }
        let (since, out) = *self.waiting.get_or_insert_with(|| (Instant::now(), 0));
        let until = since + self.patience.time_for(out);
        let alarm = self
            .alarm
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        if alarm.deadline() != until {
            alarm.as_mut().reset(until);
        }
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, octets);
        self.judge(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Whoever flushes has nothing left that waits.
        self.waiting = None;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const HURRIED: Patience = Patience {
        least: Duration::from_millis(50),
        speed_min: 1000,
    };

    /// Writes so many octets to a peer with room for 100 of them; how it ended.
    fn writing(
        octets: usize,
        patience: Patience,
    ) -> (DuplexStream, impl Future<Output = io::Result<()>>) {
        let (ours, theirs) = duplex(100);
        let mut ours = Patient::new(ours, patience);
        let work = async move {
            ours.write_all(&vec![7; octets]).await?;
            ours.flush().await
        };
        (theirs, work)
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (_theirs, work) = writing(101, HURRIED);
        assert_eq!(work.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_takes_drops_is_cut_off() {
        let (mut theirs, work) = writing(100_000, HURRIED);
        let dripping = async {
            let mut drop = [0];
            while theirs.read_exact(&mut drop).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (ended, ()) = tokio::join!(work, dripping);
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_peer_that_reads_is_waited_for() {
        // A rest between two answers is no delay.
        let patience = Patience {
            least: Duration::from_secs(30),
            speed_min: 1000,
        };
        let (ours, mut theirs) = duplex(100);
        let mut ours = Patient::new(ours, patience);
        for _ in 0..3 {
            let mut taken = vec![0; 5000];
            let (written, read) = tokio::join!(
                async {
                    ours.write_all(&[7; 5000]).await?;
                    ours.flush().await
                },
                theirs.read_exact(&mut taken)
            );
            written.unwrap();
            assert_eq!((read.unwrap(), taken), (5000, vec![7; 5000]));
            assert_eq!(ours.waiting, None, "all is out");
        }
    }

    #[test]
    fn speed_earns_time() {
        assert_eq!(HURRIED.time_for(0), Duration::from_millis(50));
        assert_eq!(HURRIED.time_for(3999), Duration::from_millis(3050));
    }
}
