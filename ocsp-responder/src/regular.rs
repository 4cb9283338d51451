//! Opening files of which nothing is trusted, not even that they are files.
//!
//! Promises that it never waits for a peer: opening a FIFO waits for its writer, and opening a terminal may take it as
//! one's own. Never reads. Failure story: what is no regular file is [`io::ErrorKind::InvalidData`].

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file for reading.
///
/// # Errors
/// As of the system; [`io::ErrorKind::InvalidData`] for a directory, FIFO, socket or device.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::options()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() {
        return Ok((file, metadata));
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "not a regular file",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        for path in [fifo.as_path(), directory.path(), Path::new("/dev/null")] {
            let refused = open(path).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::InvalidData, "{path:?}");
        }
        let file = directory.path().join("file");
        std::fs::write(&file, "four").unwrap();
        assert_eq!(open(&file).unwrap().1.len(), 4);
        let absent = open(&directory.path().join("none")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
    }
}
