//! What is sent: octets in memory, or a part of an open file.
//!
//! Promises that a file is sent as it was when its headers were: it is open, so a newer one in its place changes
//! nothing. A client that takes a file too slowly is cut off between two parts of it, and within one as [`Patience`] says.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::{Bytes, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::patience::Patience;

/// Octets read from a file at a time.
const CHUNK: u64 = 64 * 1024;

/// A body.
#[derive(Debug)]
pub struct Body(Kind);

/// The kinds of it.
#[derive(Debug)]
enum Kind {
    /// `None` once it was sent.
    Whole(Option<Bytes>),
    /// The rest of a part of a file.
    Part(Box<Rest>),
}

/// What is still to be sent of a file.
#[derive(Debug)]
struct Rest {
    file: Arc<File>,
    from: u64,
    left: u64,
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    deadline: Instant,
}

impl Body {
    /// Nothing.
    pub const fn empty() -> Self {
        Self(Kind::Whole(None))
    }

    /// Octets.
    pub const fn whole(octets: Bytes) -> Self {
        Self(Kind::Whole(Some(octets)))
    }

    /// A part of a file that has it.
    pub fn part(file: Arc<File>, from: u64, length: u64) -> Self {
        let allowed = Patience::USUAL.time_for(length);
        Self(Kind::Part(Box::new(Rest {
            file,
            from,
            left: length,
            reading: None,
            deadline: Instant::now() + allowed,
        })))
    }
}

impl Rest {
    /// Reads the next octets where it holds nobody up.
    fn read(&self) -> JoinHandle<io::Result<Vec<u8>>> {
        let (file, from) = (Arc::clone(&self.file), self.from);
        let length = usize::try_from(self.left.min(CHUNK)).unwrap_or_default();
        tokio::task::spawn_blocking(move || {
            let mut octets = vec![0; length];
            file.read_exact_at(&mut octets, from)?;
            Ok(octets)
        })
    }

    /// The next octets; none at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if Instant::now() > self.deadline {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => self.read(),
        };
        if let Poll::Ready(read) = Pin::new(&mut reading).poll(cx) {
            let octets = read.map_err(io::Error::other).flatten();
            return Poll::Ready(Some(octets.map(|octets| {
                self.from += octets.len() as u64;
                self.left = self.left.saturating_sub(octets.len() as u64);
                Bytes::from(octets)
            })));
        }
        self.reading = Some(reading);
        Poll::Pending
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let octets = match &mut self.0 {
            Kind::Whole(octets) => octets.take().map(Ok),
            Kind::Part(rest) => ready!(rest.poll(cx)),
        };
        Poll::Ready(octets.map(|octets| octets.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(octets) => octets.is_none(),
            Kind::Part(rest) => rest.left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(match &self.0 {
            Kind::Whole(octets) => octets.as_ref().map_or(0, |octets| octets.len() as u64),
            Kind::Part(rest) => rest.left,
        })
    }
}
