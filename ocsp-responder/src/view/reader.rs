//! Answers from what was verified last.
//!
//! Owns the snapshot that readers share and the one lock around its pointer, held for a few nanoseconds. Promises that
//! a question never waits for following, and that all its parts come from one verified state. Never reads the log.
//! Failure story: a damaged part of the index answers nothing, and sets the sign at which the view makes it anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::book::IssuerBinding;
use super::error::Damaged;
use super::fork::{self, Compared};
use super::record::{Key, Record, find};
use super::segment::Segment;
use super::source::Source;
use super::state::Position;
use crate::log::IssuerName;
use crate::log::checkpoint::Checkpoint;
use crate::{CertStatus, SerialNumber, UnixMillis};

/// One verified state of the log.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// Where in the log.
    pub position: Position,
    /// The records that no segment has yet, sorted.
    pub recent: Vec<Record>,
    /// The segments, oldest first.
    pub segments: Vec<Arc<Segment>>,
}

/// What the view and its readers share.
#[derive(Debug)]
pub(super) struct Shared {
    current: RwLock<Arc<Snapshot>>,
    damaged: AtomicBool,
    /// The note of a head that contradicts the log and was not published as its head.
    convicted: Mutex<Option<String>>,
}

impl Shared {
    /// Starts with this state.
    pub(super) fn new(snapshot: Snapshot) -> Self {
        Self {
            current: RwLock::new(Arc::new(snapshot)),
            damaged: AtomicBool::new(false),
            convicted: Mutex::default(),
        }
    }

    /// The note of a head that was found to contradict the log since this was asked last.
    pub(super) fn take_convicted(&self) -> Option<String> {
        self.convicted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// The state now.
    pub(super) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts a newer state in its place.
    pub(super) fn publish(&self, snapshot: Snapshot) {
        let before = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, Arc::new(snapshot))
        };
        // The old one may close and remove files: not under the lock.
        drop(before);
    }

    /// Whether a reader met damage.
    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    /// Says that somebody met damage, or that it is mended.
    pub(super) fn set_damaged(&self, damaged: bool) {
        self.damaged.store(damaged, Ordering::Relaxed);
    }
}

/// Answers from the newest verified state; cheap to clone, for any number of threads.
///
/// Each question reads 1 KiB, rarely two, from a file that is normally in the page cache: 1.5 µs in a small index,
/// 3 µs among ten million serials, whose pages no processor cache holds. It neither waits for
/// [`follow`](super::View::follow) nor holds it up. A file that is not in the page cache costs a read of the disk.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(super) shared: Arc<Shared>,
}

impl Reader {
    /// What a serial is worth, as of [`Self::as_of`].
    ///
    /// # Errors
    /// [`Damaged`]: nothing can be said now; answer `tryLater`.
    pub fn status(&self, issuer: &IssuerName, serial: SerialNumber) -> Result<CertStatus, Damaged> {
        let snapshot = self.shared.current();
        snapshot.as_of().ok_or(Damaged::Nothing)?;
        let Some(id) = snapshot.position.book.names().get(issuer) else {
            return Ok(CertStatus::Unknown);
        };
        match snapshot.get(Key::new(serial, *id)) {
            Ok(record) => Ok(record.map_or(CertStatus::Unknown, |record| record.status())),
            Err(broken) => {
                if !self.shared.damaged.swap(true, Ordering::Relaxed) {
                    tracing::error!(%broken, "the index is damaged and will be made anew from the log");
                }
                Err(Damaged::Index(broken.to_string()))
            }
        }
    }

    /// The time of the newest verified entry, by the appliance's clock; none before the first.
    ///
    /// An idle log has an entry a minute, so this tells how old the view is.
    #[must_use]
    pub fn as_of(&self) -> Option<UnixMillis> {
        self.shared.current().as_of()
    }

    /// The newest verified head.
    #[must_use]
    pub fn head(&self) -> Option<Checkpoint> {
        let snapshot = self.shared.current();
        snapshot
            .position
            .head
            .as_ref()
            .map(|(head, _)| head.clone())
    }

    /// The signed note of [`Self::head`], with the log key's line alone.
    #[must_use]
    pub fn note(&self) -> Option<String> {
        let snapshot = self.shared.current();
        snapshot
            .position
            .head
            .as_ref()
            .map(|(_, note)| note.clone())
    }

    /// What `source` proves of a head that the log key signed and that came another way, such as a CRL's log anchor, and
    /// the newest verified one. Nothing where it is newer than that, or hash tiles are missing or wrong: ask again later.
    ///
    /// A contradiction is a fork: the next [`follow`](super::View::follow) writes down both heads and says so.
    pub async fn compare(
        &self,
        source: &Source,
        other: &Checkpoint,
        note: &str,
    ) -> Option<Compared> {
        let head = self.head().filter(|head| other.size <= head.size)?;
        let compared = fork::compare(source, other, &head).await?;
        if compared == Compared::Contradicts {
            let convicted = self.shared.convicted.lock();
            *convicted.unwrap_or_else(PoisonError::into_inner) = Some(note.to_owned());
        }
        Some(compared)
    }

    /// The issuers that the log binds to a certificate, in the order in which it names them.
    #[must_use]
    pub fn issuers(&self) -> Vec<IssuerBinding> {
        let snapshot = self.shared.current();
        let bound = snapshot
            .position
            .book
            .issuers()
            .iter()
            .filter_map(|issuer| {
                let (spki, certificate) = issuer.bound?;
                Some(IssuerBinding {
                    name: issuer.name.clone(),
                    spki,
                    certificate,
                    crls: issuer.crls.clone(),
                })
            });
        bound.collect()
    }

    /// Serials in the index; one that is in several parts not yet merged counts in each.
    #[must_use]
    pub fn records(&self) -> u64 {
        let snapshot = self.shared.current();
        let merged: u64 = snapshot
            .segments
            .iter()
            .map(|segment| segment.records())
            .sum();
        merged.saturating_add(snapshot.recent.len() as u64)
    }

    /// Whether damage of the index was met and is not mended yet; some answers may be missing until then.
    #[must_use]
    pub fn is_damaged(&self) -> bool {
        self.shared.is_damaged()
    }
}

impl Snapshot {
    /// The time of the newest entry.
    fn as_of(&self) -> Option<UnixMillis> {
        self.position.book.newest()
    }

    /// What all parts of the index together know of a serial.
    fn get(&self, key: Key) -> Result<Option<Record>, super::segment::Broken> {
        let mut known = find(&self.recent, key);
        // Newest first; the older ones are asked too, since each may know a part.
        for segment in self.segments.iter().rev() {
            if let Some(older) = segment.get(key)? {
                known = Some(known.map_or(older, |newer| newer.over(older)));
            }
        }
        Ok(known)
    }
}
