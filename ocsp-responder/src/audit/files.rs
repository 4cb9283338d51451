//! Reads the published directory, of which nothing is trusted.
//!
//! Owns the way from a tile's place to bytes: the exact partial, else the full tile, else a wider
//! partial, since a writer may delete or outgrow a partial at any time. Promises bounded reads and no
//! reading of anything but regular files. Failure story: what is absent is `None`, and the caller
//! decides whether that is a fault of the log; what cannot be read is [`Unreadable`].

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::log::tile::{FULL, width_in};
use crate::regular;

/// The most bytes of one file: a detail bundle of large CRLs stays below it.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// A file or directory could not be read: neither a proof of a fault nor of its absence.
#[derive(Debug, thiserror::Error)]
#[error("{} {}", path.display(), advice(source))]
pub struct Unreadable {
    /// Which.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: std::io::Error,
}

/// What is wrong with a file and what to do.
fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::NotFound => "is not there: is this the directory that holds log/?",
        _ => "cannot be read; give its owner's or group's rights, or copy it anew",
    }
}

/// A tile or bundle as it was found.
pub(super) struct Found {
    /// Where, relative to the directory.
    pub path: String,
    /// How many hashes, entries or detail places it has.
    pub width: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Reads a whole file; `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Unreadable> {
    let unreadable = |source| Unreadable {
        path: path.to_owned(),
        source,
    };
    let (file, metadata) = match regular::open(path) {
        Ok(opened) => opened,
        Err(fault) if absent(&fault) => return Ok(None),
        Err(fault) => return Err(unreadable(fault)),
    };
    if metadata.len() > FILE_BYTES_MAX {
        let text = "not a regular file of at most 1 GiB";
        return Err(unreadable(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            text,
        )));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    Ok(Some(bytes))
}

/// Whether an error says that there is no such file.
fn absent(fault: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    matches!(fault.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

/// Reads tile or bundle `index` of a level with `count` hashes, whose paths `path` makes from a width.
///
/// The newest checkpoint needs the exact width, but any wider tile begins with the same hashes.
pub(super) fn read_tile(
    base: &Path,
    index: u64,
    count: u64,
    path: impl Fn(u64, u16) -> String,
) -> Result<Option<Found>, Unreadable> {
    let exact = width_in(count, index);
    let mut widths = vec![exact];
    if exact < FULL {
        widths.push(FULL);
    }
    for width in widths {
        if let Some(found) = read_width(base, index, width, &path)? {
            return Ok(Some(found));
        }
    }
    if exact == FULL {
        return Ok(None);
    }
    for width in wider(&base.join(format!("{}.p", path(index, FULL))), exact)? {
        if let Some(found) = read_width(base, index, width, &path)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Reads one tile or bundle of exactly this width.
fn read_width(
    base: &Path,
    index: u64,
    width: u16,
    path: impl Fn(u64, u16) -> String,
) -> Result<Option<Found>, Unreadable> {
    let path = path(index, width);
    let bytes = read(&base.join(&path))?;
    Ok(bytes.map(|bytes| Found { path, width, bytes }))
}

/// The widths above `exact` that a directory of partial tiles has, ascending.
fn wider(directory: &Path, exact: u16) -> Result<Vec<u16>, Unreadable> {
    let mut widths: Vec<u16> = names(directory)?
        .iter()
        .filter_map(|name| name.parse().ok())
        .filter(|width| (exact + 1..FULL).contains(width))
        .collect();
    widths.sort_unstable();
    Ok(widths)
}

/// The names in a directory, sorted; none when it does not exist.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, Unreadable> {
    let unreadable = |source| Unreadable {
        path: directory.to_owned(),
        source,
    };
    let listing = match std::fs::read_dir(directory) {
        Ok(listing) => listing,
        Err(fault) if absent(&fault) => return Ok(Vec::new()),
        Err(fault) => return Err(unreadable(fault)),
    };
    let mut names = Vec::new();
    for item in listing {
        if let Ok(name) = item.map_err(unreadable)?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::tile::entry_bundle_path;

    fn write(base: &Path, path: &str, bytes: &[u8]) {
        let path = base.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    fn found(base: &Path, index: u64, count: u64) -> Option<(String, u16)> {
        let found = read_tile(base, index, count, entry_bundle_path).unwrap();
        found.map(|found| (found.path, found.width))
    }

    #[test]
    fn the_exact_width_is_preferred_then_full_then_wider() {
        let base = tempfile::tempdir().unwrap();
        let base = base.path();
        assert_eq!(found(base, 1, 266), None);
        write(base, "tile/entries/001.p/9", b"narrower");
        write(base, "tile/entries/001.p/x", b"stray");
        assert_eq!(found(base, 1, 266), None);
        write(base, "tile/entries/001.p/100", b"wider");
        write(base, "tile/entries/001.p/20", b"wider");
        assert_eq!(
            found(base, 1, 266),
            Some(("tile/entries/001.p/20".into(), 20))
        );
        write(base, "tile/entries/001", b"full");
        assert_eq!(found(base, 1, 266), Some(("tile/entries/001".into(), 256)));
        write(base, "tile/entries/001.p/10", b"exact");
        assert_eq!(
            found(base, 1, 266),
            Some(("tile/entries/001.p/10".into(), 10))
        );
        assert_eq!(found(base, 1, 512), Some(("tile/entries/001".into(), 256)));
        assert_eq!(found(base, 0, 512), None);
    }

    #[test]
    fn a_directory_in_the_place_of_a_file_is_unreadable() {
        let base = tempfile::tempdir().unwrap();
        assert!(read(base.path()).is_err());
        assert_eq!(read(&base.path().join("absent")).unwrap(), None);
        assert_eq!(
            names(&base.path().join("absent")).unwrap(),
            Vec::<String>::new()
        );
    }
}
