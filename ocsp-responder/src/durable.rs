//! Files that survive a power cut: the one place that writes published files.
//!
//! Promises that after [`write()`] returns, the file has either its old or its new contents whole, on disk, and
//! that its name is on disk too. Never leaves a half-written file under its name, and never overwrites a
//! secret. Failure story: an error leaves the old file and removes the temporary one; only a crash may leave
//! a temporary file (`.NAME.ThreadId(N).tmp`), which a later write of that name takes away.

use std::ffi::{OsStr, OsString};
use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags};

/// The mode of published files, less the umask.
const MODE_PUBLIC: u32 = 0o644;

/// The mode of files for this user and its group, less the umask.
const MODE_PRIVATE: u32 = 0o640;

/// The mode of private keys.
const MODE_SECRET: u32 = 0o600;

/// Replaces `path` with `bytes`: temporary file in the same directory, fsync, rename, fsync of the directory.
///
/// Missing parent directories are made (mode 0755 less the umask).
///
/// # Errors
/// The system's error: report the path and try again later; the old contents still stand.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, MODE_PUBLIC, bytes)
}

/// Like [`write()`], with mode 0640 less the umask from the start: for what is not for everyone.
///
/// # Errors
/// As [`write()`].
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, MODE_PRIVATE, bytes)
}

/// Who may do what with a file, whatever the umask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The mode, such as 0o640.
    pub mode: u32,
    /// The id of its group; without one, that of this process.
    pub group: Option<u32>,
}

/// Like [`write()`], with a mode and group of its own: the file has them before it has its name.
///
/// # Errors
/// As [`write()`]; also when this process may not give a file to the group.
pub fn write_for(path: &Path, access: Access, bytes: &[u8]) -> io::Result<()> {
    let directory = ensure_directory(path)?;
    // Closed to everybody else until it belongs to the right group.
    let temporary = Temporary::create(path, access.mode & MODE_SECRET, bytes)?;
    // By the descriptor: whoever may write here could have put a link to another file in the name's place.
    std::os::unix::fs::fchown(&temporary.file, None, access.group)?;
    temporary
        .file
        .set_permissions(Permissions::from_mode(access.mode))?;
    // Owner and mode are to be on disk before the name is.
    temporary.file.sync_all()?;
    temporary.take_name(path, directory)
}

/// Replaces a file with one of this mode.
fn replace(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let directory = ensure_directory(path)?;
    Temporary::create(path, mode, bytes)?.take_name(path, directory)
}

/// Like [`write()`], with mode 0600 from the start: for private keys.
///
/// # Errors
/// As [`write()`]; also when `path` exists, since a key is never overwritten.
pub fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = ensure_directory(path)?;
    let temporary = Temporary::create(path, MODE_SECRET, bytes)?;
    // One step, so that a file that appears meanwhile is not overwritten either.
    match rustix::fs::renameat_with(CWD, &temporary.path, CWD, path, RenameFlags::NOREPLACE) {
        Ok(()) => temporary.renamed(),
        // Some network file systems do not have it; a second link to the same file is as good.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            std::fs::hard_link(&temporary.path, path)?;
            drop(temporary);
        }
        Err(error) => return Err(error.into()),
    }
    sync_directory(directory)
}

/// A file under a temporary name, removed unless it was renamed.
struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Writes `bytes` to a new file beside `path` and fsyncs it.
    fn create(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<Self> {
        let Some(name) = path.file_name() else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path has no file name",
            ));
        };
        let path = path.with_file_name(hidden(name));
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let file = match options.open(&path) {
            // A crash left it: this thread writes one file at a time, and one process owns a directory.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                std::fs::remove_file(&path)?;
                options.open(&path)?
            }
            opened => opened?,
        };
        let mut temporary = Self { path, file };
        temporary.file.write_all(bytes)?;
        temporary.file.sync_all()?;
        Ok(temporary)
    }

    /// Gives the file its own name, which is durable then.
    fn take_name(self, path: &Path, directory: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.renamed();
        sync_directory(directory)
    }

    /// The file has its own name now.
    fn renamed(mut self) {
        self.path.clear();
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing depends on it: the next write of this name takes a stray one away.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The temporary name beside `name`: one for each thread, so that two that write one path do not meet.
fn hidden(name: &OsStr) -> OsString {
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{:?}.tmp", std::thread::current().id()));
    hidden
}

/// Makes the missing directories above `path`, each durable in its parent, and returns the lowest.
fn ensure_directory(path: &Path) -> io::Result<&Path> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    make_directory(directory)?;
    Ok(directory)
}

/// Makes a directory and those above it; fsyncs the parent of each that it made.
fn make_directory(directory: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o755).create(directory) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            ensure_directory(directory)?;
            return make_directory(directory);
        }
        Err(error) => return Err(error),
    }
    let parent = directory.parent().filter(|p| !p.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Makes the names in a directory durable.
fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names in a directory, sorted.
    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_made_and_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crl");
        write(&path, b"old, and longer").unwrap();
        write(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(dir.path()), ["crl"]);
    }

    #[test]
    fn missing_directories_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log/tile/0/000");
        write(&path, b"tile").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"tile");
        write(&dir.path().join("log/checkpoint"), b"head").unwrap();
        assert_eq!(names(&dir.path().join("log")), ["checkpoint", "tile"]);
    }

    #[test]
    fn a_private_file_is_not_for_everyone_though_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("details");
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        write(&path, b"old").unwrap();
        write_private(&path, b"new").unwrap();
        assert_eq!(mode() & !0o640, 0);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_file_for_others_has_its_mode_whatever_the_umask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crl");
        for mode in [0o664, 0o400, 0o640] {
            let group = Some(rustix::process::getgid().as_raw());
            write_for(&path, Access { mode, group }, b"list").unwrap();
            let found = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode);
        }
        assert_eq!(names(dir.path()), ["crl"]);
    }

    #[test]
    fn a_secret_is_private_and_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/server.key");
        write_secret(&path, b"key").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let error = write_secret(&path, b"other").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"key");
        assert_eq!(names(&dir.path().join("keys")), ["server.key"]);
    }

    #[test]
    fn a_secret_does_not_follow_a_dangling_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &path).unwrap();
        assert!(write_secret(&path, b"key").is_err());
        assert_eq!(names(dir.path()), ["key"]);
    }

    #[test]
    fn a_failure_leaves_the_old_file_and_no_temporary_one() {
        let dir = tempfile::tempdir().unwrap();
        // A directory under the name makes the rename fail after the temporary file was written.
        let path = dir.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        std::fs::write(path.join("inside"), b"stays").unwrap();
        assert!(write(&path, b"new").is_err());
        assert_eq!(names(dir.path()), ["taken"]);
        assert_eq!(names(&path), ["inside"]);
        assert!(write(&dir.path().join("taken/inside/below"), b"x").is_err());
        assert!(write(&dir.path().join(".."), b"x").is_err());
    }

    #[test]
    fn a_stray_temporary_file_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("crl");
        std::fs::write(dir.path().join(hidden(OsStr::new("crl"))), b"half, longer").unwrap();
        write(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(names(dir.path()), ["crl"]);
    }

    #[test]
    fn two_threads_may_write_one_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("checkpoint");
        std::thread::scope(|scope| {
            for letter in [b'a', b'b'] {
                let path = &path;
                scope.spawn(move || {
                    for _ in 0..50 {
                        write(path, &[letter; 4096]).unwrap();
                    }
                });
            }
        });
        let written = std::fs::read(&path).unwrap();
        assert!(written == [b'a'; 4096] || written == [b'b'; 4096]);
        assert_eq!(names(dir.path()), ["checkpoint"]);
    }

    #[test]
    fn a_bare_name_is_written_in_the_current_directory() {
        assert_eq!(ensure_directory(Path::new("name")).unwrap(), Path::new("."));
    }
}
