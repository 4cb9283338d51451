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
    /// A CRL that is not there, although the log knows of it.
    #[error(
        "it is not published, although by the verified log number {issued} was issued: somebody withholds it"
    )]
    Withheld {
        /// The newest that was issued.
        issued: u64,
    },
    /// A CRL's anchor.
    #[error(
        "its log anchor cannot be compared with the log: hash tiles are missing at the source, or wrong"
    )]
    Unproved,
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
            | Self::Withheld { .. }
            | Self::Unproved
            | Self::NotKept(_)
            | Self::Dates { .. } => false,
        }
    }

    /// Whether a newer CRL is known of than the source shows.
    pub const fn is_withheld(&self) -> bool {
        matches!(
            self,
            Self::Withheld { .. } | Self::Bad(BadFile::Behind { .. })
        )
    }

    /// Whether a moment later it may be right: a CRL and the log are published, copied and fetched one after the other.
    pub const fn is_of_another_moment(&self) -> bool {
        self.is_withheld() || matches!(self, Self::Bad(BadFile::Ahead { .. }))
    }
}

/// What is wrong with a file.
#[derive(Debug)]
struct Problem {
    text: String,
    withheld: bool,
}

/// What is told of a log's files.
#[derive(Debug, Default)]
pub struct MirrorStatus {
    crls: Mutex<BTreeMap<String, CrlFacts>>,
    problems: Mutex<BTreeMap<String, Problem>>,
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
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let told = problems.iter();
        told.map(|(path, problem)| (path.clone(), problem.text.clone()))
            .collect()
    }

    /// The CRLs of which the source does not show the newest, each with what is wrong.
    pub fn withheld(&self) -> Vec<String> {
        let problems = self.problems.lock().unwrap_or_else(PoisonError::into_inner);
        let withheld = problems.iter().filter(|(_, problem)| problem.withheld);
        withheld
            .map(|(path, problem)| format!("{path}: {}", problem.text))
            .collect()
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
                if known.is_some_and(|known| known.text == text || transient) {
                    return;
                }
                let withheld = error.is_withheld();
                if known.is_some_and(|known| known.withheld) && withheld {
                    problems.insert(path.to_owned(), Problem { text, withheld });
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
                    NotTaken::Bad(_)
                    | NotTaken::Missing
                    | NotTaken::Withheld { .. }
                    | NotTaken::Unproved
                    | NotTaken::Dates { .. } => {
                        tracing::error!(
                            log,
                            path,
                            text,
                            "a file is not taken; the last good one stays"
                        );
                    }
                }
                problems.insert(path.to_owned(), Problem { text, withheld });
            }
        }
    }
}
