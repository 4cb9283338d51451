//! Secrets: the files that hold them, and the processes that hold them in memory.
//!
//! Owns who else may have access to a file with a PIN or a key, the reading of it, and what keeps a process's memory
//! off the disks. Promises that a file that others may read or write is refused, that no more is read than was asked
//! for, and that what was read is wiped when it is dropped. Never writes a file (`durable` does) and never says what one holds. Failure story:
//! [`SecretRefused`] is for an operator to mend.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit};
use zeroize::Zeroizing;

/// Permission bits that a secret's file must not have: to be written by the group, or anything by others. Its
/// group may read, as systemd hands credentials out with an access list, whose mask shows there.
const FORBIDDEN: u32 = 0o027;

/// Why a file with a secret is not used; the text goes on after the file's name.
#[derive(Debug, thiserror::Error)]
pub enum SecretRefused {
    /// Others have access to it.
    #[error("can be written by its group or used by others (mode {mode:03o}): chmod 0400 it")]
    Open {
        /// Its permission bits.
        mode: u32,
    },
    /// It is not there, or not this user's to read.
    #[error("cannot be read by this user: {0}")]
    Unreadable(io::Error),
    /// It holds more than such a secret can have.
    #[error("has more than {bytes_max} octets, so it is something else")]
    TooLong {
        /// The most that it may have.
        bytes_max: usize,
    },
}

/// Looks at a file's permissions alone, which needs no right to read it.
///
/// # Errors
/// [`SecretRefused`]: tell the operator.
pub fn look(path: &Path) -> Result<(), SecretRefused> {
    judge(&std::fs::metadata(path).map_err(SecretRefused::Unreadable)?)
}

/// Opens a file that is closed to others, to see that this user can.
///
/// # Errors
/// [`SecretRefused`]: tell the operator.
pub fn open(path: &Path) -> Result<File, SecretRefused> {
    let file = File::open(path).map_err(SecretRefused::Unreadable)?;
    judge(&file.metadata().map_err(SecretRefused::Unreadable)?)?;
    Ok(file)
}

/// Reads a file that is closed to others, up to `bytes_max` octets.
///
/// # Errors
/// [`SecretRefused`]: tell the operator.
pub fn read(path: &Path, bytes_max: usize) -> Result<Zeroizing<Vec<u8>>, SecretRefused> {
    let file = open(path)?;
    // Reserved at once, so that growing leaves no copy behind; one octet more tells what is too long.
    let capacity = bytes_max.saturating_add(1);
    let mut octets = Zeroizing::new(Vec::with_capacity(capacity));
    file.take(u64::try_from(capacity).unwrap_or(u64::MAX))
        .read_to_end(&mut octets)
        .map_err(SecretRefused::Unreadable)?;
    if octets.len() > bytes_max {
        return Err(SecretRefused::TooLong { bytes_max });
    }
    Ok(octets)
}

/// Keeps this process's memory out of core dumps and from debuggers, for as long as it lives.
///
/// To be called first of all in each program, before anything is read or made.
///
/// # Errors
/// The system's error: do not go on.
pub fn harden() -> io::Result<()> {
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}

/// Refuses permissions that let others in.
fn judge(file: &Metadata) -> Result<(), SecretRefused> {
    let mode = file.permissions().mode() & 0o777;
    if mode & FORBIDDEN == 0 {
        Ok(())
    } else {
        Err(SecretRefused::Open { mode })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::Permissions;

    #[test]
    fn a_secret_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "1234").unwrap();
        for (mode, good) in [
            (0o400, true),
            (0o600, true),
            (0o440, true),
            (0o640, true),
            (0o444, false),
            (0o660, false),
            (0o604, false),
            (0o601, false),
        ] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert_eq!(look(&path).is_ok(), good, "{mode:o}");
            assert_eq!(open(&path).is_ok(), good, "{mode:o}");
            match read(&path, 4) {
                Ok(octets) => assert!(good && octets.as_slice() == b"1234", "{mode:o}"),
                Err(refused) => {
                    let text = refused.to_string();
                    let told = text.contains(&format!("mode {mode:03o}"));
                    assert!(!good && told && !text.contains("1234"), "{text}");
                }
            }
        }
        assert!(look(&dir.path().join("none")).is_err());
        assert!(open(&dir.path().join("none")).is_err());
    }

    #[test]
    fn no_more_is_read_than_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pin");
        std::fs::write(&path, "12345").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        assert_eq!(read(&path, 5).unwrap().as_slice(), b"12345");
        let refused = read(&path, 4).unwrap_err();
        assert!(matches!(refused, SecretRefused::TooLong { bytes_max: 4 }));
    }
}
