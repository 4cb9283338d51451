//! What is told of a log's mirrored files: the CRLs that are served, and what is wrong.
//!
//! Promises one line for each change, whatever the number of rounds that find the same. Holds a line for each file, no
//! more.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, PoisonError};

use crate::UnixMillis;
use crate::responder::certificate::{BadFile, CrlFacts};
use crate::responder::metrics::Metrics;
use crate::view::SourceError;

/// A file that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It cannot be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// It does not verify.
    #[error(transparent)]
    Bad(#[from] BadFile),
    /// It was there, or has to be.
    #[error("it is not published")]
    Missing,
    /// It is used, but not on disk.
    #[error("it cannot be kept: a restart without the appliance will lack it")]
    NotKept(#[source] io::Error),
    /// Certificate dates.
    #[error("it is valid from {from} to {to} only")]
    Dates {
        /// The first moment.
        from: UnixMillis,
        /// The last.
        to: UnixMillis,
    },
}

impl NotTaken {
    /// Whether it is the source that is out of reach, so that asking for the next file is of no use.
    pub const fn is_the_source(&self) -> bool {
        match self {
            Self::Source(
                SourceError::Connect { .. }
                | SourceError::Broken { .. }
                | SourceError::Status { .. }
                | SourceError::Late { .. },
            ) => true,
            Self::Source(SourceError::File { .. } | SourceError::Long { .. })
            | Self::Bad(_)
            | Self::Missing
            | Self::NotKept(_)
            | Self::Dates { .. } => false,
        }
    }
}

/// What is told of a log's files.
#[derive(Debug, Default)]
pub struct MirrorStatus {
    crls: Mutex<BTreeMap<String, CrlFacts>>,
    problems: Mutex<BTreeMap<String, String>>,
}

impl MirrorStatus {
    /// The CRLs that are served, by path.
    pub fn crls(&self) -> BTreeMap<String, CrlFacts> {
        self.crls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What is wrong, by path.
    pub fn problems(&self) -> BTreeMap<String, String> {
        self.problems
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Notes that a CRL is served.
    pub fn serves(&self, path: &str, facts: CrlFacts) {
        let mut crls = self.crls.lock().unwrap_or_else(PoisonError::into_inner);
        crls.insert(path.to_owned(), facts);
    }

    /// Tells what became of a file, once.
    pub fn tell(&self, log: &str, path: &str, taken: Result<(), NotTaken>, metrics: &Metrics) {
        let mut problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        match taken {
            Ok(()) => {
                if problems.remove(path).is_some() {
                    tracing::info!(log, path, "the file is right again");
                }
            }
            Err(error) => {
                metrics.mirror_failed();
                let text = crate::chain(&error);
                let transient = matches!(error, NotTaken::Source(_));
                let known = problems.get(path);
                if known.is_some_and(|known| *known == text || transient) {
                    return;
                }
                if known.is_some() && matches!(error, NotTaken::Missing) {
                    return;
                }
                match error {
                    NotTaken::Source(_) => {
                        tracing::warn!(
                            log,
                            path,
                            text,
                            "a file cannot be fetched; it is tried again"
                        );
                    }
                    NotTaken::NotKept(_) => {
                        tracing::error!(log, path, text, "a file is used and not kept")
                    }
                    NotTaken::Bad(_) | NotTaken::Missing | NotTaken::Dates { .. } => {
                        tracing::error!(
                            log,
                            path,
                            text,
                            "a file is not taken; the last good one stays"
                        );
                    }
                }
                problems.insert(path.to_owned(), text);
            }
        }
    }
}
