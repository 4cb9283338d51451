//! The directory in which verified files wait for the next start.
//!
//! Owns its layout, which is that of `public/` with `responder/` for this responder's certificates. Promises that a file
//! is whole or not there. Never believes what it reads: the caller verifies it anew.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use super::crl_stem;
use crate::durable;
use crate::log::IssuerName;

/// The directory.
#[derive(Clone, Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Opens it, and makes it where it is not there.
    pub fn open(path: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(path)?;
        Ok(Self(path.to_owned()))
    }

    /// Replaces a file.
    pub fn write(&self, path: &str, octets: &[u8]) -> io::Result<()> {
        durable::write(&self.0.join(path), octets)
    }

    /// An open file.
    pub fn file(&self, path: &str) -> Option<File> {
        File::open(self.0.join(path)).ok()
    }

    /// A file's octets; none if there are none, or more than so many, which was never written here.
    pub fn read(&self, path: &str, limit: usize) -> Option<Vec<u8>> {
        let file = match File::open(self.0.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            opened => opened,
        };
        let mut octets = Vec::new();
        let read = file.and_then(|file| file.take(limit as u64 + 1).read_to_end(&mut octets));
        match read {
            Ok(_) if octets.len() <= limit => Some(octets),
            Ok(_) => None,
            Err(error) => {
                tracing::warn!(path, %error, "a kept file cannot be read; it is fetched anew");
                None
            }
        }
    }

    /// The partitions of an issuer's CRLs that may be there, the full one (0) first.
    pub fn partitions(&self, name: &IssuerName) -> Vec<u32> {
        let mut found = vec![0];
        let partitions = std::fs::read_dir(self.0.join(format!("crl/{name}")));
        for entry in partitions.into_iter().flatten().flatten() {
            // Temporary files of a crash begin with a dot.
            let path = entry.path();
            let number = crl_stem(&path).and_then(|stem| stem.parse::<u32>().ok());
            found.extend(number.filter(|number| *number > 0));
        }
        found
    }
}
