//! The socket between a host and its worker.
//!
//! Owns what crosses it: the listening socket on the way in, one line a beat on the way out. Promises that
//! each side notices the other's death as an end of file. Standard output is not used for this, because
//! vendors' libraries print there.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};

use super::memory::Memory;

/// The time between two beats.
pub const BEAT: Duration = Duration::from_millis(200);

/// The longest that a host waits for a beat; above what a starved machine makes of [`BEAT`].
pub const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How long a job may be overdue before the host kills the worker, which first tries to end in order.
pub const OVERDUE_MAX: Duration = Duration::from_secs(2);

/// What a worker tells its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beat {
    /// It lives; the worst job is overdue by this much.
    Alive {
        /// Zero when none is.
        overdue: Duration,
    },
    /// What a next worker must be told from now on.
    Remember(Memory),
    /// Logged in.
    Ready,
    /// It is about to end.
    Leaving {
        /// Why.
        cause: String,
    },
}

impl Beat {
    /// The line, with its end.
    pub fn line(&self) -> String {
        match self {
            Self::Alive { overdue } => format!("alive {}\n", overdue.as_millis()),
            Self::Remember(memory) => format!("remember {memory}\n"),
            Self::Ready => "ready\n".to_owned(),
            Self::Leaving { cause } => format!("leaving {}\n", cause.replace('\n', " ")),
        }
    }

    /// Reads a line; none if it is none of ours.
    pub fn parse(line: &str) -> Option<Self> {
        let (verb, rest) = line
            .trim_end()
            .split_once(' ')
            .unwrap_or((line.trim_end(), ""));
        match verb {
            "alive" => rest.parse().ok().map(|overdue| Self::Alive {
                overdue: Duration::from_millis(overdue),
            }),
            "remember" => rest.parse().ok().map(Self::Remember),
            "ready" => Some(Self::Ready),
            "leaving" => Some(Self::Leaving {
                cause: rest.to_owned(),
            }),
            _ => None,
        }
    }
}

/// Sends the listening socket to a worker.
///
/// # Errors
/// The system's: give the worker up.
pub fn send_listener(control: &UnixStream, listener: &UnixListener) -> std::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let sockets = [listener.as_fd()];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&sockets)) {
        return Err(std::io::Error::other("no room for a descriptor"));
    }
    rustix::net::sendmsg(
        control,
        &[IoSlice::new(b"L")],
        &mut ancillary,
        SendFlags::empty(),
    )?;
    Ok(())
}

/// Receives the listening socket.
///
/// # Errors
/// The system's, or what came is none: end.
pub fn receive_listener(control: &UnixStream) -> std::io::Result<UnixListener> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut octet = [0];
    rustix::net::recvmsg(
        control,
        &mut [IoSliceMut::new(&mut octet)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    ancillary
        .drain()
        .find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        })
        .map(|socket: OwnedFd| UnixListener::from(socket))
        .ok_or_else(|| std::io::Error::other("standard input brought no listening socket"))
}

/// The worker's end.
#[derive(Debug)]
pub struct Control(UnixStream);

/// What the host did since the last look.
#[derive(Debug, PartialEq, Eq)]
pub enum Host {
    /// It is there.
    Alive,
    /// It is gone.
    Gone,
}

impl Control {
    /// Takes the socket over.
    ///
    /// # Errors
    /// The system's: end.
    pub fn new(stream: UnixStream) -> std::io::Result<Self> {
        stream.set_read_timeout(Some(BEAT))?;
        // A host that does not read is as good as none, but must not hold a session up.
        stream.set_write_timeout(Some(BEAT))?;
        Ok(Self(stream))
    }

    /// Waits for one beat's time and tells whether the host is still there.
    pub fn wait(&self) -> Host {
        let mut octet = [0];
        match (&self.0).read(&mut octet) {
            Ok(0) => Host::Gone,
            Ok(_) => Host::Alive,
            Err(error) => match error.kind() {
                std::io::ErrorKind::WouldBlock
                | std::io::ErrorKind::TimedOut
                | std::io::ErrorKind::Interrupted => Host::Alive,
                _ => Host::Gone,
            },
        }
    }

    /// Tells the host. A line that cannot be written is lost: its end is seen by [`Self::wait`].
    pub fn tell(&self, beat: &Beat) {
        let _ = (&self.0).write_all(beat.line().as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn beats_survive_their_way() {
        for beat in [
            Beat::Alive {
                overdue: Duration::from_millis(1234),
            },
            Beat::Remember(Memory::PinRejected),
            Beat::Ready,
            Beat::Leaving {
                cause: "C_Sign: CKR_DEVICE_ERROR".to_owned(),
            },
        ] {
            assert_eq!(Beat::parse(&beat.line()), Some(beat));
        }
        assert_eq!(Beat::parse("nonsense from a library\n"), None);
        assert_eq!(Beat::parse(""), None);
    }

    proptest! {
        #[test]
        fn any_line_is_one_beat_or_none(
            text in ".{0,80}", verb in "(alive|remember|ready|leaving|[a-z]{0,9})", number in any::<u128>(),
            memory in "(nothing|pin-rejected|pin-locked|unclear-[0-9]{0,4}|[a-z-]{0,12})",
        ) {
            for line in [
                text.clone(),
                format!("{verb} {text}\n"),
                format!("{verb} {number}\n"),
                format!("{verb} {memory}\n"),
            ] {
                if let Some(beat) = Beat::parse(&line) {
                    let again = beat.line();
                    prop_assert!(again.ends_with('\n') && again.matches('\n').count() == 1);
                    // A cause's space at its end is no part of it.
                    prop_assert_eq!(Beat::parse(&again).map(|beat| beat.line()), Some(again));
                }
            }
        }

        #[test]
        fn a_library_s_text_in_a_cause_forges_no_beat(cause in "(.|\n){0,80}") {
            let line = Beat::Leaving { cause }.line();
            prop_assert_eq!(line.matches('\n').count(), 1);
            let leaving = matches!(Beat::parse(&line), Some(Beat::Leaving { .. }));
            prop_assert!(leaving, "{line:?}");
        }

        #[test]
        fn what_a_host_remembers_is_written_one_way(text in "(unclear-)?[0-9a-z+-]{0,12}") {
            if let Ok(memory) = text.parse::<Memory>() {
                prop_assert_eq!(memory.to_string().parse(), Ok(memory));
            }
        }
    }

    #[test]
    fn a_listening_socket_crosses_and_still_listens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let (host, worker) = UnixStream::pair().unwrap();
        send_listener(&host, &listener).unwrap();
        drop(listener);
        let received = receive_listener(&worker).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        received.accept().unwrap();
    }

    #[test]
    fn the_hosts_end_is_noticed() {
        let (host, worker) = UnixStream::pair().unwrap();
        let control = Control::new(worker).unwrap();
        assert_eq!(control.wait(), Host::Alive);
        drop(host);
        assert_eq!(control.wait(), Host::Gone);
    }
}
