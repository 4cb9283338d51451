//! The worker's end of one connection of the daemon: answers out.
//!
//! Owns the stream's writing half and the answers that wait for it. Promises that answers written by
//! several sessions never mix, and that they leave in few system calls: whoever writes takes along what
//! others left in the meantime. Never blocks longer than [`WRITE_PATIENCE`]: a peer that does not read is cut
//! off, as it would otherwise hold up a session.

use std::io::Write as _;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::hsm::wire::{Answer, Fault};

/// The longest that a write may wait for the peer to read.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its number in this worker.
    number: u64,
    /// The socket.
    stream: UnixStream,
    /// What waits to be written.
    out: Mutex<Out>,
}

/// Answers that wait.
#[derive(Debug, Default)]
struct Out {
    /// Whole frames.
    octets: Vec<u8>,
    /// A thread writes at the moment and will look here again.
    writing: bool,
}

impl Connection {
    /// Takes a socket over.
    ///
    /// # Errors
    /// The system's, when the socket is already gone: drop it.
    pub fn new(number: u64, stream: UnixStream) -> std::io::Result<Self> {
        stream.set_write_timeout(Some(WRITE_PATIENCE))?;
        Ok(Self {
            number,
            stream,
            out: Mutex::new(Out::default()),
        })
    }

    /// Its number in this worker.
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The socket, for the thread that reads.
    pub const fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The answers; no panic can leave half a frame there.
    fn lock(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an answer for the next [`Self::flush`].
    pub fn put(&self, answer: &Answer) {
        answer.put(&mut self.lock().octets);
    }

    /// Sends an answer.
    pub fn send(&self, answer: &Answer) {
        self.put(answer);
        self.flush();
    }

    /// Sends a request's failure.
    pub fn fail(&self, id: u32, fault: Fault) {
        self.send(&Answer::Failed { id, fault });
    }

    /// Writes what waits, unless another thread is at it: that one takes it along.
    pub fn flush(&self) {
        let mut octets = Vec::new();
        loop {
            {
                let mut out = self.lock();
                if octets.is_empty() {
                    if out.writing {
                        return;
                    }
                } else {
                    out.writing = false;
                    octets.clear();
                }
                if out.octets.is_empty() {
                    // Keeps the larger buffer, so that a busy connection allocates none.
                    if octets.capacity() > out.octets.capacity() {
                        out.octets = octets;
                    }
                    return;
                }
                out.writing = true;
                std::mem::swap(&mut out.octets, &mut octets);
            }
            if (&self.stream).write_all(&octets).is_err() {
                // The reading thread sees the end and clears up.
                self.end();
                let mut out = self.lock();
                out.octets.clear();
                out.writing = false;
                return;
            }
        }
    }

    /// Ends the connection; both halves.
    pub fn end(&self) {
        // An error means that it has ended already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::wire::{Frame, split_frame};
    use std::io::Read as _;
    use std::sync::Arc;

    #[test]
    fn answers_of_many_threads_arrive_whole_and_none_is_left() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let connection = Arc::new(Connection::new(1, ours).unwrap());
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let connection = Arc::clone(&connection);
                std::thread::spawn(move || {
                    for id in 0..500 {
                        connection.send(&Answer::Signature {
                            id,
                            signature: vec![7; 70],
                        });
                    }
                })
            })
            .collect();
        let reader = std::thread::spawn(move || {
            let mut octets = Vec::new();
            theirs.read_to_end(&mut octets).unwrap();
            let mut rest = octets.as_slice();
            let mut count = 0;
            while let Some(Frame { kind, body, length }) = split_frame(rest).unwrap() {
                assert!(matches!(
                    Answer::parse(kind, body).unwrap(),
                    Answer::Signature { .. }
                ));
                rest = &rest[length..];
                count += 1;
            }
            assert!(rest.is_empty());
            count
        });
        for thread in threads {
            thread.join().unwrap();
        }
        connection.end();
        assert_eq!(reader.join().unwrap(), 2000);
    }

    #[test]
    fn a_peer_that_went_away_is_no_error_here() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(theirs);
        let connection = Connection::new(1, ours).unwrap();
        connection.send(&Answer::Welcome);
        connection.send(&Answer::Welcome);
    }
}
