//! Why a view cannot be opened, does not follow, or does not answer.

use std::io;
use std::path::PathBuf;

use super::book::BadEntry;
use super::source::SourceError;
use crate::log::LeafIndex;
use crate::log::checkpoint::BadNote;

/// A view's state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// Another process writes it.
    #[error("{} is in use by another process; each log needs a state directory of its own", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// It belongs to another log.
    #[error(
        "{} holds the index of the log with the key {found}: choose another directory, or remove it if that log \
         is followed no more", path.display()
    )]
    OtherLog {
        /// The directory.
        path: PathBuf,
        /// The verifier key that it was made for.
        found: String,
    },
    /// The head that it keeps is not the log's.
    #[error(
        "{} is not a head that this log's key signed: restore it from a backup; only if there is none, remove it, \
         and a rolled-back or forked log will go unnoticed this once", path.display()
    )]
    KeptHead {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: BadNote,
    },
    /// The system refuses.
    #[error("{} cannot be used", path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A view did not follow its log; what it had before stands.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The source does not answer. Try again.
    #[error("the log cannot be read")]
    Unreachable(#[from] SourceError),
    /// The source is between two states, or a copy is not complete. Try again.
    #[error("{path} is not there yet: the log is being published or copied")]
    Torn {
        /// The file, relative to `public/`.
        path: String,
    },
    /// The index cannot be written. Try again; make room if it lasts.
    #[error("the index cannot be written at {}", path.display())]
    Storage {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The published head is not one that the log key signed.
    #[error("the published checkpoint is not one that the log key signed")]
    Head(#[source] BadNote),
    /// The published head is older than the one that was verified before.
    #[error(
        "the published checkpoint states {offered} entries, but {kept} were verified before: the log was rolled back, \
         or the source serves an old copy"
    )]
    Rollback {
        /// Entries verified before.
        kept: u64,
        /// Entries stated now.
        offered: u64,
    },
    /// There are two signed histories.
    #[error(
        "the log was forked: its key signed two histories. Both heads stand in {}, and nothing more of this log is \
         believed. Which history is true decides what to do: docs/OCSP.md, 'A fork'", evidence.display()
    )]
    Fork {
        /// The file with both heads.
        evidence: PathBuf,
    },
    /// What is published is not what the head was signed over.
    #[error(
        "the entries {from} to {to} do not hash up to the signed head: one of them was edited, added or dropped on \
         the way, or a file is damaged"
    )]
    Altered {
        /// The first entry that can be the one.
        from: u64,
        /// The last.
        to: u64,
    },
    /// The log key signed an entry that breaks a rule.
    #[error("entry {index} is signed, but breaks a rule of the log")]
    BadEntry {
        /// Which.
        index: LeafIndex,
        /// How.
        #[source]
        source: BadEntry,
    },
}

impl FollowError {
    /// Whether it is a matter of waiting, and no sign that somebody tampers.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Torn { .. } | Self::Storage { .. } => true,
            Self::Head(_)
            | Self::Rollback { .. }
            | Self::Fork { .. }
            | Self::Altered { .. }
            | Self::BadEntry { .. } => false,
        }
    }
}

/// A serial's status cannot be told now: answer `tryLater`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Damaged {
    /// Nothing of the log was verified yet.
    #[error("nothing of the log is verified yet")]
    Nothing,
    /// The index on disk is not what was written; the next [`follow`](super::View::follow) makes it anew.
    #[error("the index is damaged: {0}")]
    Index(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_sentences_are_those_that_are_told() {
        let page = include_str!("../../../docs/OCSP.md");
        let source = || io::Error::from(io::ErrorKind::StorageFull);
        let path = || PathBuf::from("/srv/state");
        let unreachable = SourceError::File {
            path: path(),
            source: source(),
        };
        let torn = "log/tile/entries/000".to_owned();
        let rows = [
            (
                "the log cannot be read",
                FollowError::Unreachable(unreachable),
            ),
            (
                "is not there yet: the log is being published or copied",
                FollowError::Torn { path: torn },
            ),
            (
                "the index cannot be written at",
                FollowError::Storage {
                    path: path(),
                    source: source(),
                },
            ),
            (
                "the published checkpoint is not one that the log key signed",
                FollowError::Head(BadNote::Malformed("x")),
            ),
            (
                "the log was rolled back, or the source serves an old copy",
                FollowError::Rollback {
                    kept: 2,
                    offered: 1,
                },
            ),
            (
                "do not hash up to the signed head",
                FollowError::Altered { from: 1, to: 2 },
            ),
            (
                "is signed, but breaks a rule of the log",
                FollowError::BadEntry {
                    index: LeafIndex(1),
                    source: BadEntry::Genesis("x"),
                },
            ),
            ("the log was forked", FollowError::Fork { evidence: path() }),
        ];
        for (sentence, error) in rows {
            let told = error.to_string();
            let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(told.contains(sentence), "{sentence}: {told}");
            assert!(page.contains(sentence), "docs/OCSP.md lacks: {sentence}");
        }
    }
}
