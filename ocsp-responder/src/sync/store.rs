//! What `crl-sync` remembers: the CRLs that the broker was told of, and that something is owed to it.
//!
//! Owns the state directory. Promises that one process at a time has it, and that what it says survives a power cut. The
//! directory can be removed while nothing runs: the broker is told once more, and files in place still guard against
//! older ones. Failure story: the system's error; the caller tries again.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;

use super::SyncError;
use super::issuer::{Crl, Issuer};
use crate::durable;

/// The state directory.
#[derive(Debug)]
pub struct Store {
    directory: PathBuf,
    /// Its flock goes with it.
    _lock: File,
}

/// A file as it was looked at: when it was changed, its length, its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(SystemTime, u64, u64);

/// The stamps of files; none when one cannot be seen.
pub fn stamps<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Option<Vec<Stamp>> {
    paths
        .map(|path| {
            let data = std::fs::metadata(path).ok()?;
            Some(Stamp(data.modified().ok()?, data.len(), data.ino()))
        })
        .collect()
}

impl Store {
    /// Makes the directory where there is none, and locks it.
    pub fn open(directory: &Path) -> Result<Self, SyncError> {
        let path = directory.join("lock");
        let failed = |source| SyncError::State {
            path: path.clone(),
            source,
        };
        std::fs::create_dir_all(directory).map_err(failed)?;
        let mut options = OpenOptions::new();
        let lock = options.create(true).truncate(false).write(true).open(&path);
        let lock = lock.map_err(failed)?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self {
                directory: directory.to_owned(),
                _lock: lock,
            }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SyncError::Locked { path }),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// Where the CRL of an issuer is kept.
    pub fn path(&self, issuer: &Issuer) -> PathBuf {
        self.directory.join(format!("{}.crl", issuer.name))
    }

    /// The CRL that the broker was told of last; none if there is none that verifies.
    pub fn told(&self, issuer: &Issuer) -> Option<Crl> {
        let der = std::fs::read(self.path(issuer)).ok()?;
        issuer.verify(der).ok()
    }

    /// Keeps the CRL that the broker was told of.
    pub fn keep(&self, issuer: &Issuer, crl: &Crl) -> io::Result<()> {
        durable::write(&self.path(issuer), &crl.der)
    }

    /// Where it stands that something is owed.
    pub fn owed_path(&self) -> PathBuf {
        self.directory.join("owed")
    }

    /// Whether something is owed.
    pub fn owes(&self) -> bool {
        // What cannot be seen may be there.
        self.owed_path().try_exists().unwrap_or(true)
    }

    /// Writes down that the broker is to be told, before anything changes.
    pub fn owe(&self) -> io::Result<()> {
        durable::write(&self.owed_path(), b"the broker is to be told\n")
    }

    /// Nothing is owed any more.
    pub fn settle(&self) -> io::Result<()> {
        match std::fs::remove_file(self.owed_path()) {
            // A power cut that brings it back has the broker told once more.
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
