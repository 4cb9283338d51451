//! Where a host stands: its socket.
//!
//! Owns the lock that makes a host the only one of its socket, and the socket's life. Promises that a socket that somebody listens on is never removed.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::HostError;

/// Looks at a socket that a killed predecessor's worker may still hold, before another host is assumed.
const PROBES: u32 = 50;

/// Time between two looks.
const PROBE_PAUSE: Duration = Duration::from_millis(20);

/// A socket that this process alone serves.
#[derive(Debug)]
pub struct Place {
    /// The socket's path.
    path: PathBuf,
    /// The socket.
    listener: UnixListener,
    /// The lock beside it; ends with the process.
    _lock: File,
}

impl Place {
    /// Locks the place and listens.
    ///
    /// # Errors
    /// [`HostError::Taken`] or [`HostError::Socket`].
    pub fn take(path: &Path) -> Result<Self, HostError> {
        let failed = |source| HostError::Socket {
            path: path.to_owned(),
            source,
        };
        let mut lock_path = path.as_os_str().to_owned();
        lock_path.push(".lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&lock_path)
            .map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(HostError::Taken {
                    path: path.to_owned(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        remove_stale(path)?;
        // Made with its final permissions: the daemon's group may connect, and peer credentials decide.
        let before = rustix::process::umask(
            rustix::fs::Mode::XUSR | rustix::fs::Mode::XGRP | rustix::fs::Mode::RWXO,
        );
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        Ok(Self {
            path: path.to_owned(),
            listener: bound.map_err(failed)?,
            _lock: lock,
        })
    }

    /// The listening socket.
    pub const fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Removes the socket: nothing of this host runs any more.
    pub fn leave(&self) {
        // What is left behind is found stale by the next host.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody listens on.
fn remove_stale(path: &Path) -> Result<(), HostError> {
    for _ in 0..PROBES {
        match UnixStream::connect(path) {
            // A worker whose host was killed, about to notice; or a host without our lock.
            Ok(_) => std::thread::park_timeout(PROBE_PAUSE),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return std::fs::remove_file(path).map_err(|source| HostError::Socket {
                    path: path.to_owned(),
                    source,
                });
            }
            Err(source) => {
                return Err(HostError::Socket {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
    Err(HostError::Taken {
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_place_is_taken_once_and_a_stale_socket_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.sock");
        // A predecessor that was killed leaves its socket.
        drop(UnixListener::bind(&path).unwrap());
        let place = Place::take(&path).unwrap();
        assert!(matches!(
            Place::take(&path).unwrap_err(),
            HostError::Taken { .. }
        ));
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o660);
        UnixStream::connect(&path).unwrap();
        place.leave();
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_that_somebody_listens_on_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token.sock");
        let _other = UnixListener::bind(&path).unwrap();
        assert!(matches!(
            Place::take(&path).unwrap_err(),
            HostError::Taken { .. }
        ));
        assert!(path.exists());
    }
}
