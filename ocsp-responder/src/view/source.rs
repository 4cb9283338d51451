//! Where a published log is read from: a directory, or the appliance.
//!
//! Owns the way from a path below `public/` to bytes. Promises bounded sizes, deadlines on everything that a peer can
//! delay, and that a file that is not there is told from one that cannot be read. Never trusts what it reads.
//! Failure story: [`SourceError`] says what and where; the caller tries again.

mod https;

use std::io::{self, Read as _};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use https::{Https, HttpsFiles, HttpsRefused};

use crate::log::tile::FULL;
use crate::regular;

/// How long reading a file may take: as long as over HTTPS.
const DEADLINE: Duration = Duration::from_secs(30);

/// Files of one directory that are read at a time. What hangs keeps its place, so no more threads than this hang.
const READS_MAX: usize = 8;

/// Where `public/` is.
#[derive(Debug)]
pub enum Source {
    /// A directory: the appliance's own, a mirror, a USB stick.
    Directory(Directory),
    /// The appliance, over HTTPS with a client certificate.
    Https(Box<Https>),
}

/// A version of a file: what tells it from another one in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// In a directory: when it was changed, its length, its number.
    File(Option<SystemTime>, u64, u64),
    /// Over HTTPS: its ETag.
    Tag(String),
}

/// What a source has at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing.
    Missing,
    /// The version that the asker has.
    Unchanged,
    /// A file, with its version where the source tells one.
    New(Vec<u8>, Option<Version>),
}

/// A directory, which may be of a file system that hangs.
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    reads: Arc<Semaphore>,
    deadline: Duration,
}

impl Deref for Directory {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.path
    }
}

impl Directory {
    /// Looks at a path below it, off the threads that answer and for so long at most.
    pub(crate) async fn look<T: Send + 'static>(
        &self,
        path: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, SourceError> {
        let path = self.join(path);
        let late = SourceError::Late {
            url: path.display().to_string(),
            seconds: self.deadline.as_secs(),
        };
        let looked = timeout(self.deadline, async {
            let place = Arc::clone(&self.reads).acquire_owned().await;
            let task = tokio::task::spawn_blocking(move || {
                // Given back when the work ends, whoever waits for it.
                let _place = place;
                work(&path).map_err(|source| SourceError::File { path, source })
            });
            task.await.unwrap_or_else(|stopped| {
                Err(SourceError::File {
                    path: self.path.clone(),
                    source: io::Error::other(stopped),
                })
            })
        });
        looked.await.unwrap_or(Err(late))
    }
}

/// A file of the log cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refuses.
    #[error("{} cannot be read", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It has more octets than such a file can have.
    #[error("{path} is longer than {limit} octets")]
    Long {
        /// The path or URL.
        path: String,
        /// The limit.
        limit: usize,
    },
    /// The appliance cannot be reached, or TLS with it fails.
    #[error("{address} cannot be reached")]
    Connect {
        /// Host and port.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The connection broke.
    #[error("{url}: the connection broke")]
    Broken {
        /// What was asked for.
        url: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The appliance refuses, or another program listens.
    #[error("{url}: the answer is {status}: {problem}")]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What the appliance says of it.
        problem: String,
    },
    /// No answer in time.
    #[error("{url}: no answer within {seconds} s")]
    Late {
        /// What was asked for.
        url: String,
        /// The deadline in seconds.
        seconds: u64,
    },
}

impl SourceError {
    /// Whether the appliance was reached and refuses this client: waiting does not mend it.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::Status {
                status: 401 | 403,
                ..
            }
        )
    }
}

impl Source {
    /// A directory.
    #[must_use]
    pub fn directory(path: impl Into<PathBuf>) -> Self {
        Self::Directory(Directory {
            path: path.into(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            deadline: DEADLINE,
        })
    }

    /// As [`Self::get`], unless the file is the version that the asker has: then it is not sent again.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn get_unless(
        &self,
        path: &str,
        limit: usize,
        known: Option<&Version>,
    ) -> Result<Fetched, SourceError> {
        let directory = match self {
            Self::Directory(directory) => directory,
            Self::Https(https) => {
                let tag = known.and_then(|known| match known {
                    Version::Tag(tag) => Some(tag.as_str()),
                    Version::File(..) => None,
                });
                return https.get_unless(path, limit, tag).await;
            }
        };
        // Looked at before it is read: a file that takes its place in between is looked at again.
        let version = directory.look(path, |path| Ok(version(path))).await?;
        if version.is_some() && version.as_ref() == known {
            return Ok(Fetched::Unchanged);
        }
        let read = self.get(path, limit).await?;
        Ok(read.map_or(Fetched::Missing, |octets| Fetched::New(octets, version)))
    }

    /// Reads a file of at most `limit` octets; `path` is relative to `public/`. `None` when it is not there.
    ///
    /// # Errors
    /// [`SourceError`]: try again later.
    pub async fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Self::Directory(directory) => directory.look(path, move |path| read(path, limit)).await,
            Self::Https(https) => match https.get_unless(path, limit, None).await? {
                Fetched::New(octets, _) => Ok(Some(octets)),
                Fetched::Missing | Fetched::Unchanged => Ok(None),
            },
        }
    }
}

/// The version of a file of a directory.
fn version(path: &Path) -> Option<Version> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    let (length, number) = (metadata.len(), metadata.ino());
    Some(Version::File(metadata.modified().ok(), length, number))
}

/// Names that are looked at in a directory of partial tiles, which has at most one for each width.
const NAMES_MAX: usize = 1024;

impl Source {
    /// Reads a tile or bundle that begins with the `wanted` hashes or entries, and says how wide it is: of that width,
    /// else the full one, else a wider partial one, since a writer or a mirror may drop a partial tile as soon as there
    /// is more (C2SP tlog-tiles). Wider partial ones are found in directories only: over HTTPS nothing is listed, and the
    /// appliance keeps partial tiles until the full one is there.
    ///
    /// `path` makes the path below `public/` from a width; each has at most `limit` octets.
    ///
    /// # Errors
    /// [`SourceError`]: try again later.
    pub(super) async fn get_tile(
        &self,
        path: impl Fn(u16) -> String + Send + Sync,
        wanted: u16,
        limit: usize,
    ) -> Result<Option<(Vec<u8>, u16)>, SourceError> {
        if let Some(octets) = self.get(&path(wanted), limit).await? {
            return Ok(Some((octets, wanted)));
        }
        if wanted >= FULL {
            return Ok(None);
        }
        if let Some(octets) = self.get(&path(FULL), limit).await? {
            return Ok(Some((octets, FULL)));
        }
        for width in self.partials(&path(FULL), wanted).await? {
            if let Some(octets) = self.get(&path(width), limit).await? {
                return Ok(Some((octets, width)));
            }
        }
        Ok(None)
    }

    /// The widths above `narrow` of the partial tiles beside a full tile's path, ascending, as far as they can be listed.
    async fn partials(&self, full: &str, narrow: u16) -> Result<Vec<u16>, SourceError> {
        let Self::Directory(directory) = self else {
            return Ok(Vec::new());
        };
        let partials = format!("{full}.p");
        directory
            .look(&partials, move |path| widths(path, narrow))
            .await
    }
}

/// The widths above `narrow` that stand as names in a directory, ascending.
fn widths(directory: &Path, narrow: u16) -> io::Result<Vec<u16>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let listing = match std::fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut widths = Vec::new();
    for name in listing.take(NAMES_MAX) {
        let name = name?.file_name();
        let width = name.to_str().and_then(|name| name.parse().ok());
        widths.extend(width.filter(|width| (narrow.saturating_add(1)..FULL).contains(width)));
    }
    widths.sort_unstable();
    Ok(widths)
}

/// Reads a regular file.
fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let (file, metadata) = match regular::open(path) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        opened => opened?,
    };
    let long = || {
        let text = format!("a file of more than {limit} octets");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if metadata.len() > limit as u64 {
        return Err(long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
    // It may grow meanwhile.
    file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(long());
    }
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests;
