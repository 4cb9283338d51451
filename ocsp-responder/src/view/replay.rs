//! The way from one verified head to the next: every leaf read, hashed and taken into the book.
//!
//! Owns the new entries until their root agreed. Promises that nothing of them is visible before, and memory that does
//! not grow with their number: records go to segments that no manifest names yet. Bundles are fetched while the ones
//! before them are parsed, on all cores. Never decides what a wrong root means. Failure story: dropping it takes
//! away the files that it wrote; the next try begins at the same place.

use std::io;
use std::sync::Arc;

use super::Holds;
use super::book::BadEntry;
use super::error::FollowError;
use super::record::{Base, Record, Verdict, settle};
use super::segment::{Segment, Writer};
use super::source::Source;
use super::state::{Position, StateDir};
use crate::SerialNumber;
use crate::log::checkpoint::Checkpoint;
use crate::log::entry::{LEAF_BYTES_MAX, NotAnEntry};
use crate::log::merkle::{Hash, leaf_hash};
use crate::log::tile::{BadTile, FULL, TILE_WIDTH, entry_bundle_path, parse_entries, width_in};
use crate::log::{Entry, IssuerName, LeafIndex};

/// Bundles in work at a time: 8,192 entries, about 2 MiB.
const BUNDLES: u64 = 32;

/// The most octets of a bundle.
const BUNDLE_BYTES_MAX: usize = FULL as usize * (2 + LEAF_BYTES_MAX);

/// Serials told one by one; a cache drops everything as fast as more of them.
const CHANGED_MAX: usize = 10_000;

/// Entries between two messages of progress.
const PROGRESS_ENTRIES: u64 = 1_000_000;

/// Threads that parse.
const THREADS_MAX: usize = 4;

/// Which answers may have changed for the worse, or back: revoked, on hold, released, unresolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changed {
    /// Those of these serials, and no others.
    Serials(Vec<(IssuerName, SerialNumber)>),
    /// Too many to tell, or the index was made anew: any.
    Everything,
}

/// A bundle as it was fetched.
struct Bundle {
    octets: Vec<u8>,
    /// Leaves in the file.
    width: u16,
    /// The places of the new ones among them.
    new: std::ops::Range<usize>,
}

/// A leaf, hashed and parsed.
struct Leaf {
    hash: Hash,
    entry: Result<Entry, NotAnEntry>,
}

/// New entries on their way.
pub(super) struct Replay {
    /// The tree and the book with them.
    pub position: Position,
    /// The first signed entry that breaks a rule; the book stops there, the tree goes on.
    pub bad: Option<(LeafIndex, BadEntry)>,
    /// Whether the entries up to the head that was kept have another root.
    pub parted: bool,
    /// Records that no segment has yet.
    pub pending: Vec<Record>,
    /// Records that did not fit in memory, oldest first.
    pub spilled: Vec<Arc<Segment>>,
    /// What changed.
    changed: Option<Vec<(u16, SerialNumber)>>,
    kept: Option<Checkpoint>,
    state: Arc<StateDir>,
    spill_at: usize,
    first: u64,
    told: u64,
}

impl Replay {
    /// Starts after `position`; `kept` is the newest head that was ever verified.
    pub(super) fn new(
        position: Position,
        kept: Option<Checkpoint>,
        state: Arc<StateDir>,
        holds: Holds,
    ) -> Self {
        let first = position.frontier.size();
        Self {
            position,
            bad: None,
            parted: false,
            pending: Vec::new(),
            spilled: Vec::new(),
            // The first time there is nothing that could have been cached.
            changed: (first > 0).then(Vec::new),
            kept,
            state,
            spill_at: holds.spill,
            first,
            told: first,
        }
    }

    /// Entries taken in.
    pub(super) const fn entries(&self) -> u64 {
        self.position.frontier.size() - self.first
    }

    /// Reads all entries up to a head.
    pub(super) async fn run(
        mut self,
        source: &Source,
        head: &Checkpoint,
    ) -> Result<Self, FollowError> {
        let size = head.size;
        let mut fetched = fetch(source, self.position.frontier.size(), size).await?;
        while !fetched.is_empty() {
            let after: usize = fetched.iter().map(|bundle| bundle.new.len()).sum();
            let after = self.position.frontier.size().saturating_add(after as u64);
            let work = tokio::task::spawn_blocking(move || self.take(&fetched, size));
            let (taken, ahead) = tokio::join!(work, fetch(source, after, size));
            self = match taken {
                Ok(taken) => taken?,
                // A fault of this program: it goes on in the task that asked, as if there had been no thread.
                Err(stopped) => std::panic::resume_unwind(Box::new(stopped.to_string())),
            };
            fetched = ahead?;
            self.tell(size);
        }
        Ok(self)
    }

    /// Shows how far a long way has been gone.
    fn tell(&mut self, of: u64) {
        let done = self.position.frontier.size();
        if done >= self.told.saturating_add(PROGRESS_ENTRIES) {
            self.told = done;
            tracing::info!(
                done,
                of,
                origin = self.position.book.log_key().name(),
                "reading the log"
            );
        }
    }

    /// Takes in some bundles.
    fn take(mut self, bundles: &[Bundle], size: u64) -> Result<Self, FollowError> {
        for leaves in parse(bundles) {
            let Ok(leaves) = leaves else {
                return Err(FollowError::Altered {
                    from: self.position.frontier.size(),
                    to: size.saturating_sub(1),
                });
            };
            for leaf in leaves {
                self.leaf(leaf);
            }
        }
        if self.pending.len() >= self.spill_at {
            let path = self.state.path().to_owned();
            self.spill()
                .map_err(|source| FollowError::Storage { path, source })?;
        }
        Ok(self)
    }

    /// Takes in one leaf.
    fn leaf(&mut self, leaf: Leaf) {
        let index = LeafIndex(self.position.frontier.size());
        self.position.frontier.push(leaf.hash);
        if let Some(kept) = &self.kept
            && kept.size == self.position.frontier.size()
        {
            self.parted = kept.root != self.position.frontier.root();
        }
        if self.bad.is_some() {
            return;
        }
        let admitted = leaf.entry.map_err(BadEntry::NotAnEntry);
        match admitted.and_then(|entry| self.position.book.admit(&entry)) {
            Ok(None) => {}
            Ok(Some(record)) => self.record(record),
            Err(fault) => self.bad = Some((index, fault)),
        }
    }

    /// Notes a change.
    fn record(&mut self, record: Record) {
        self.pending.push(record);
        let good = record.base == Base::Issued && record.verdict == Verdict::None;
        if good {
            return;
        }
        if let Some(changed) = &mut self.changed {
            if changed.len() >= CHANGED_MAX {
                self.changed = None;
            } else if let Ok(serial) = SerialNumber::from_slice(&record.key.serial.to_be_bytes()) {
                changed.push((record.key.issuer, serial));
            }
        }
    }

    /// Moves the pending records to a segment of their own.
    fn spill(&mut self) -> io::Result<()> {
        let segment = write_segment(&self.state, &mut self.pending)?;
        self.spilled.push(Arc::new(segment));
        Ok(())
    }

    /// What changed, by issuers' names.
    pub(super) fn changed(&mut self) -> Changed {
        let Some(changed) = self.changed.take() else {
            return Changed::Everything;
        };
        let issuers = self.position.book.issuers();
        let named = changed
            .into_iter()
            .filter_map(|(id, serial)| Some((issuers.get(usize::from(id))?.name.clone(), serial)));
        Changed::Serials(named.collect())
    }
}

/// Writes records as a new segment and empties the list.
pub(super) fn write_segment(state: &StateDir, records: &mut Vec<Record>) -> io::Result<Segment> {
    settle(records);
    state.step("segment")?;
    let id = state.next_segment();
    let written = Writer::create(state.path(), id, records.len()).and_then(|mut writer| {
        records.iter().try_for_each(|record| writer.push(record))?;
        writer.finish()
    });
    if written.is_err() {
        // Half a file only takes room; an absent one is as good.
        let _ = std::fs::remove_file(state.path().join(super::segment::file_name(id)));
    }
    let segment = written?;
    state.step("segment")?;
    *records = Vec::new();
    Ok(segment)
}

/// Reads the next bundles of a log of `size` entries, from entry `next` on; none at its end.
async fn fetch(source: &Source, next: u64, size: u64) -> Result<Vec<Bundle>, FollowError> {
    let first = next / TILE_WIDTH;
    let end = size.div_ceil(TILE_WIDTH).min(first.saturating_add(BUNDLES));
    let mut bundles = Vec::new();
    if next >= size {
        return Ok(bundles);
    }
    for index in first..end {
        let wanted = width_in(size, index);
        let (octets, width) = fetch_bundle(source, index, wanted).await?;
        let skip = if index == first { next % TILE_WIDTH } else { 0 };
        let skip = usize::try_from(skip).unwrap_or(0);
        bundles.push(Bundle {
            octets,
            width,
            new: skip..usize::from(wanted),
        });
    }
    Ok(bundles)
}

/// Reads one bundle: of the width that the head demands, else a wider one, which came in its place.
async fn fetch_bundle(
    source: &Source,
    index: u64,
    wanted: u16,
) -> Result<(Vec<u8>, u16), FollowError> {
    let path = |width| format!("log/{}", entry_bundle_path(index, width));
    let found = source.get_tile(path, wanted, BUNDLE_BYTES_MAX).await?;
    found.ok_or_else(|| FollowError::Torn { path: path(wanted) })
}

/// Parses bundles, on several cores where there are several bundles.
fn parse(bundles: &[Bundle]) -> Vec<Result<Vec<Leaf>, BadTile>> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = bundles.len().div_ceil(cores.min(THREADS_MAX));
    if bundles.len() < 4 || share == bundles.len() {
        return bundles.iter().map(leaves).collect();
    }
    std::thread::scope(|scope| {
        let parts: Vec<_> = bundles
            .chunks(share)
            .map(|part| scope.spawn(move || part.iter().map(leaves).collect::<Vec<_>>()))
            .collect();
        let joined = parts.into_iter().flat_map(|part| match part.join() {
            Ok(leaves) => leaves,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        joined.collect()
    })
}

/// The new leaves of a bundle.
fn leaves(bundle: &Bundle) -> Result<Vec<Leaf>, BadTile> {
    let all = parse_entries(&bundle.octets, bundle.width)?;
    let new = all.get(bundle.new.clone()).ok_or(BadTile)?;
    let leaf = |octets: &&[u8]| Leaf {
        hash: leaf_hash(octets),
        entry: Entry::parse(octets),
    };
    Ok(new.iter().map(leaf).collect())
}
