//! Where a published log is read from: a directory, or the appliance.
//!
//! Owns the way from a path below `public/` to bytes. Promises bounded sizes, deadlines on everything that a peer can
//! delay, and that a file that is not there is told from one that cannot be read. Never trusts what it reads.
//! Failure story: [`SourceError`] says what and where; the caller tries again.

mod https;

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

pub use https::{Https, HttpsFiles, HttpsRefused};

/// Where `public/` is.
#[derive(Debug)]
pub enum Source {
    /// A directory: the appliance's own, a mirror, a USB stick.
    Directory(PathBuf),
    /// The appliance, over HTTPS with a client certificate.
    Https(Box<Https>),
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
    #[error(
        "{url}: the answer is {status}; see that this responder's certificate has the role `responder`"
    )]
    Status {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
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

impl Source {
    /// Reads a file of at most `limit` octets; `path` is relative to `public/`. `None` when it is not there.
    ///
    /// # Errors
    /// [`SourceError`]: try again later.
    pub async fn get(&self, path: &str, limit: usize) -> Result<Option<Vec<u8>>, SourceError> {
        match self {
            Self::Directory(directory) => {
                let path = directory.join(path);
                let task = tokio::task::spawn_blocking(move || {
                    read(&path, limit).map_err(|source| SourceError::File { path, source })
                });
                task.await.unwrap_or_else(|stopped| {
                    Err(SourceError::File {
                        path: directory.clone(),
                        source: io::Error::other(stopped),
                    })
                })
            }
            Self::Https(https) => https.get(path, limit).await,
        }
    }
}

/// Reads a regular file.
fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    use io::ErrorKind::{NotADirectory, NotFound};
    let file = match std::fs::File::open(path) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
        opened => opened?,
    };
    let metadata = file.metadata()?;
    let long = || {
        let text = format!("not a regular file of at most {limit} octets");
        io::Error::new(io::ErrorKind::InvalidData, text)
    };
    if !metadata.is_file() || metadata.len() > limit as u64 {
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
