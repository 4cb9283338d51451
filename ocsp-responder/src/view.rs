//! Follows the published log of one appliance and answers what a serial is worth.
//!
//! Owns a compact index in a state directory of its own. Promises that no answer comes from data that does not
//! verify: entries become visible only after the tree that they complete has the root of a head that the pinned log
//! key signed, which proves at once that they are the log's and that it still begins with what was verified before.
//! Never reads a clock, never holds a key but the TLS client's, never waits while it answers.
//!
//! Failure story: whatever goes wrong, the old view stays and its [`Reader::as_of`] tells its age; the caller answers
//! `tryLater` once that is too old. Unreachable, torn and no room are tried again and mend themselves; a bad signature,
//! a rolled-back log, altered entries and a bad entry are loud and end when the source is right again; a fork is
//! written down with both heads and nothing more is believed until an operator has mended it (docs/OCSP.md)
//! ([`FollowError::Fork`]). A damaged index is found by its checksums, said, and made anew from the log.
//!
//! The index, and why so: serials are random, so a record is found in a sorted file by one read (see `segment.rs`) and a
//! restart reads only the fences and filters, 2 octets a certificate. New records wait in the manifest until there are
//! 4,096 of them, then become a segment; segments are merged in a thread of its own (see `merge.rs`). There
//! is no write-ahead log: each manifest is written whole, atomically, and is right by itself. No dependency does this
//! better: an embedded database would bring pages to recover, and a memory map needs unsafe code.

mod book;
mod error;
mod filter;
mod fork;
mod merge;
mod reader;
mod record;
mod replay;
mod segment;
mod source;
mod state;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use book::{BadEntry, IssuerBinding};
pub use error::{Damaged, FollowError, ViewError};
pub use fork::Compared;
pub use reader::Reader;
pub use replay::Changed;
pub use source::{Fetched, Https, HttpsFiles, HttpsRefused, Source, SourceError, Version};

use merge::{Merge, NotMerged};
use reader::{Shared, Snapshot};
use record::{Record, settle};
use replay::{Replay, write_segment};
use segment::{NotOpened, Segment};
use state::{Found, Manifest, Position, StateDir};

use crate::log::checkpoint::{BadNote, Checkpoint, NOTE_BYTES_MAX, VerifierKey};

/// How much is held before it is written elsewhere; tests hold less.
#[derive(Clone, Copy, Debug)]
struct Holds {
    /// Records that wait in the manifest for a segment.
    recent: usize,
    /// Records of a long way that wait in memory for one.
    spill: usize,
}

/// The manifest keeps below 200 kB, and memory below 32 MiB.
const HOLDS: Holds = Holds {
    recent: 4096,
    spill: 1 << 19,
};

/// Where the newest head is published.
const CHECKPOINT: &str = "log/checkpoint";

/// Times that a torn state is looked at anew within one call.
const TORN_MAX: usize = 3;

/// The pause after a merge that failed: without room the next one fails as well.
const MERGE_PAUSE: Duration = Duration::from_secs(60);

/// The one writer of one log's index.
pub struct View {
    // Dropped first: it writes into the directory that `state` has locked.
    merge: Option<Merge>,
    merge_after: Option<Instant>,
    key: VerifierKey,
    shared: Arc<Shared>,
    holds: Holds,
    /// The newest head that was ever verified.
    kept: Option<(Checkpoint, String)>,
    state: Arc<StateDir>,
}

/// What following brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Followed {
    /// The head that was verified.
    pub head: Checkpoint,
    /// Entries read; 0 when there was nothing new.
    pub entries: u64,
    /// Which answers a cache has to drop.
    pub changed: Changed,
    /// Whether a damaged index was made anew.
    pub rebuilt: bool,
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "View({}, {})", self.key, self.state.path().display())
    }
}

/// Writing failed at this place.
fn storage(path: &Path) -> impl FnOnce(io::Error) -> FollowError {
    let path = path.to_owned();
    move |source| FollowError::Storage { path, source }
}

/// Runs what waits for the disk where it holds nobody up.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A fault of this program: it goes on in the task that asked, as if there had been no thread.
        Err(stopped) => std::panic::resume_unwind(Box::new(stopped.to_string())),
    }
}

impl View {
    /// Opens the index of the log that `key` signs, or begins one; takes a fraction of a second whatever its size.
    ///
    /// What was verified before can be asked at once. A damaged index is not an error: it is said in the log, nothing is
    /// answered from it, and [`Self::follow`] makes it anew.
    ///
    /// # Errors
    /// [`ViewError`]: the operator has to act; nothing was changed.
    pub fn open(state: &Path, key: VerifierKey) -> Result<Self, ViewError> {
        let state = StateDir::open(state)?;
        let storage = |source| ViewError::Storage {
            path: state.path().to_owned(),
            source,
        };
        let found = state.read_manifest(&key)?;
        let kept = state.read_head(&key)?;
        let (snapshot, damage) = match found {
            Found::Manifest(manifest) => match open_segments(&state, &manifest.segments) {
                Ok(segments) => (Some(snapshot_of(*manifest, segments)), None),
                Err(NotOpened::Broken(broken)) => (None, Some(broken.to_string())),
                Err(NotOpened::Io(source)) => return Err(storage(source)),
            },
            Found::Damaged(what) => (None, Some(what)),
            Found::Nothing if kept.is_some() => (None, Some("the manifest is missing".into())),
            Found::Nothing => (None, None),
        };
        if let Some(what) = &damage {
            tracing::error!(what, state = %state.path().display(), "the index is damaged and will be made anew from the log");
        }
        let snapshot = snapshot.unwrap_or_else(|| Snapshot {
            position: Position::start(key.clone()),
            recent: Vec::new(),
            segments: Vec::new(),
        });
        let used: Vec<(u64, u64)> = snapshot
            .segments
            .iter()
            .map(|segment| (segment.id(), segment.records()))
            .collect();
        state.remove_strays(&used).map_err(storage)?;
        // The head in the manifest is as good where the file is gone, or somebody put an older one back.
        let in_manifest = snapshot.position.head.clone();
        let kept = kept
            .into_iter()
            .chain(in_manifest)
            .max_by_key(|(head, _)| head.size);
        let shared = Shared::new(snapshot);
        shared.set_damaged(damage.is_some());
        Ok(Self {
            merge: None,
            merge_after: None,
            key,
            shared: Arc::new(shared),
            holds: HOLDS,
            kept,
            state: Arc::new(state),
        })
    }

    /// A reader; cheap, and valid for as long as anybody holds it.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Whether parts of the index are being merged, in the background.
    #[must_use]
    pub const fn is_merging(&self) -> bool {
        self.merge.is_some()
    }

    /// Reads and verifies what is new at `source`, makes it durable, then visible.
    ///
    /// Call it again and again, as often as answers should be fresh. Long ways (a first start) report through
    /// `tracing` each million entries. A call that is dropped midway leaves everything as it was.
    ///
    /// # Errors
    /// [`FollowError`]; what was visible stays so. See [`FollowError::is_transient`].
    pub async fn follow(&mut self, source: &Source) -> Result<Followed, FollowError> {
        if let Some(evidence) = self.state.fork().map_err(storage(self.state.path()))? {
            return Err(FollowError::Fork { evidence });
        }
        if let Some(note) = self.shared.take_convicted() {
            return Err(self.forked(&note));
        }
        self.tend().await;
        let mut torn = 1;
        loop {
            match self.attempt(source).await {
                Err(FollowError::Torn { .. }) if torn < TORN_MAX => torn += 1,
                outcome => return outcome,
            }
        }
    }

    /// Reads the head and goes there.
    async fn attempt(&mut self, source: &Source) -> Result<Followed, FollowError> {
        let (head, note) = self.read_head(source).await?;
        self.compare(&head, &note)?;
        let rebuilt = self.shared.is_damaged();
        let before = self.shared.current();
        let start = if rebuilt {
            Position::start(self.key.clone())
        } else {
            before.position.clone()
        };
        if !rebuilt && start.frontier.size() == head.size && start.frontier.root() == head.root {
            return Ok(Followed {
                head,
                entries: 0,
                changed: Changed::Serials(Vec::new()),
                rebuilt,
            });
        }
        let kept = self.kept.as_ref().map(|(kept, _)| kept.clone());
        let replay = Replay::new(start, kept, Arc::clone(&self.state), self.holds);
        let replay = match Box::pin(replay.run(source, &head)).await {
            Err(FollowError::Altered { from, to }) => {
                return Err(self.wrong_root(source, &head, &note, (from, to)).await);
            }
            replay => replay?,
        };
        let mut replay = self.judge(replay, source, &head, &note).await?;
        let (entries, changed) = (replay.entries(), replay.changed());
        replay.position.head = Some((head.clone(), note.clone()));
        let (state, most) = (Arc::clone(&self.state), self.holds.recent);
        let before = (!rebuilt).then_some(before);
        let snapshot = blocking(move || commit(&state, before.as_deref(), replay, most)).await?;
        self.kept = Some((head.clone(), note));
        let before = self.shared.current();
        self.shared.publish(snapshot);
        if rebuilt {
            before
                .segments
                .iter()
                .for_each(|segment| segment.set_disposable(true));
            self.shared.set_damaged(false);
            tracing::info!(entries, "the index was made anew from the log");
        }
        self.start_merge();
        Ok(Followed {
            head,
            entries,
            changed,
            rebuilt,
        })
    }

    /// The published head, once its signature verified.
    async fn read_head(&self, source: &Source) -> Result<(Checkpoint, String), FollowError> {
        let Some(octets) = source.get(CHECKPOINT, NOTE_BYTES_MAX).await? else {
            let path = CHECKPOINT.to_owned();
            return Err(FollowError::Torn { path });
        };
        let text = String::from_utf8(octets);
        let note =
            text.map_err(|_| FollowError::Head(BadNote::Malformed("it is not UTF-8 text")))?;
        let head = Checkpoint::verify(&note, &self.key).map_err(FollowError::Head)?;
        // What others added is not kept: it would be cosigned, served and written down with the rest.
        let note = self.key.alone(&note).map_err(FollowError::Head)?;
        Ok((head, note))
    }

    /// Compares sizes, and roots of one size, with the newest head that was ever verified.
    fn compare(&self, head: &Checkpoint, note: &str) -> Result<(), FollowError> {
        let Some((kept, _)) = &self.kept else {
            return Ok(());
        };
        if head.size < kept.size {
            return Err(FollowError::Rollback {
                kept: kept.size,
                offered: head.size,
            });
        }
        if head.size == kept.size && head.root != kept.root {
            return Err(self.forked(note));
        }
        Ok(())
    }

    /// Believes the entries that were read, or says why not.
    async fn judge(
        &self,
        replay: Replay,
        source: &Source,
        head: &Checkpoint,
        note: &str,
    ) -> Result<Replay, FollowError> {
        let from = head.size.saturating_sub(replay.entries());
        if replay.position.frontier.root() != head.root {
            let range = (from, head.size.saturating_sub(1));
            return Err(self.wrong_root(source, head, note, range).await);
        }
        // The entries are the ones that the new head was signed over, and they are not the old head's.
        if replay.parted {
            return Err(self.forked(note));
        }
        match replay.bad {
            Some((index, source)) => Err(FollowError::BadEntry { index, source }),
            None => Ok(replay),
        }
    }

    /// What it means that the entries at hand are not what the head was signed over.
    async fn wrong_root(
        &self,
        source: &Source,
        head: &Checkpoint,
        note: &str,
        (from, to): (u64, u64),
    ) -> FollowError {
        if let Some((kept, _)) = &self.kept
            && fork::is_proved(source, kept, head).await
        {
            return self.forked(note);
        }
        FollowError::Altered { from, to }
    }

    /// Keeps the evidence of a fork.
    fn forked(&self, offered: &str) -> FollowError {
        let kept = self
            .kept
            .as_ref()
            .map(|(_, note)| note.as_str())
            .unwrap_or_default();
        tracing::error!(
            kept,
            offered,
            "the log was forked: its key signed two histories"
        );
        let evidence = self.state.path().join("fork");
        if let Err(error) = self.state.write_fork(kept, offered) {
            // The kept head stays too, so that the fork is found again at the next call.
            tracing::error!(path = %evidence.display(), %error, "the evidence of the fork cannot be written");
        }
        FollowError::Fork { evidence }
    }

    /// Puts the output of a merge in the place of its inputs, and begins the next one.
    async fn tend(&mut self) {
        if self.merge.as_ref().is_some_and(Merge::is_finished)
            && let Some(merge) = self.merge.take()
        {
            let inputs = merge.inputs.clone();
            let installed = match merge.finish() {
                Ok(output) => self.install(&inputs, output).await,
                Err(fault) => Err(fault),
            };
            match installed {
                Ok(()) => {}
                Err(NotMerged::Broken(broken)) => {
                    tracing::error!(%broken, "the index is damaged and will be made anew from the log");
                    self.shared.set_damaged(true);
                }
                Err(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(%error, cause, "the index is not made smaller; it is tried again");
                    self.merge_after = Some(Instant::now() + MERGE_PAUSE);
                }
            }
        }
        self.start_merge();
    }

    /// Names the output of a merge in the manifest instead of its inputs.
    async fn install(&self, inputs: &[u64], output: Segment) -> Result<(), NotMerged> {
        let before = self.shared.current();
        let place = before
            .segments
            .windows(inputs.len().max(1))
            .position(|window| {
                window
                    .iter()
                    .map(|segment| segment.id())
                    .eq(inputs.iter().copied())
            });
        // Made anew meanwhile: the output takes its file away.
        let Some(place) = place else { return Ok(()) };
        let mut segments = before.segments.clone();
        let retired: Vec<Arc<Segment>> = segments
            .splice(place..place + inputs.len(), [Arc::new(output)])
            .collect();
        let state = Arc::clone(&self.state);
        let written = blocking(move || {
            state.write_manifest(&before.position, &segments, &before.recent)?;
            segments
                .iter()
                .for_each(|segment| segment.set_disposable(false));
            let (position, recent) = (before.position.clone(), before.recent.clone());
            Ok::<_, io::Error>(Snapshot {
                position,
                recent,
                segments,
            })
        });
        self.shared.publish(written.await?);
        retired
            .iter()
            .for_each(|segment| segment.set_disposable(true));
        Ok(())
    }

    /// Begins a merge, if there is something to merge.
    fn start_merge(&mut self) {
        let waits = self.merge_after.is_some_and(|after| Instant::now() < after);
        if self.merge.is_some() || waits || self.shared.is_damaged() {
            return;
        }
        let segments = self.shared.current().segments.clone();
        let sizes: Vec<u64> = segments.iter().map(|segment| segment.records()).collect();
        let Some(inputs) = merge::choose(&sizes).and_then(|from| segments.get(from..)) else {
            return;
        };
        let directory = self.state.path().to_owned();
        match Merge::start(inputs.to_vec(), directory, self.state.next_segment()) {
            Ok(merge) => self.merge = Some(merge),
            Err(error) => {
                tracing::warn!(%error, "the index is not made smaller; it is tried again");
                self.merge_after = Some(Instant::now() + MERGE_PAUSE);
            }
        }
    }
}

/// Opens the segments that a manifest names.
fn open_segments(
    state: &StateDir,
    segments: &[(u64, u64)],
) -> Result<Vec<Arc<Segment>>, NotOpened> {
    let open =
        |(id, records): &(u64, u64)| Segment::open(state.path(), *id, *records).map(Arc::new);
    segments.iter().map(open).collect()
}

/// The state that a manifest describes.
fn snapshot_of(manifest: Manifest, segments: Vec<Arc<Segment>>) -> Snapshot {
    Snapshot {
        position: manifest.position,
        recent: manifest.recent,
        segments,
    }
}

/// Makes verified entries durable: segments, then the head, then the manifest.
///
/// They come after `before`, or make the index anew; at most `most` records wait in the manifest.
fn commit(
    state: &StateDir,
    before: Option<&Snapshot>,
    replay: Replay,
    most: usize,
) -> Result<Snapshot, FollowError> {
    let failed = || storage(state.path());
    let mut recent = before.map_or_else(Vec::new, |before| before.recent.clone());
    let mut segments = before.map_or_else(Vec::new, |before| before.segments.clone());
    let write = |records: &mut Vec<Record>, segments: &mut Vec<Arc<Segment>>| {
        let written = write_segment(state, records).map_err(failed());
        written.map(|segment| segments.push(Arc::new(segment)))
    };
    if !replay.spilled.is_empty() {
        // They are newer than what waited in the manifest, so that one becomes a segment before them.
        if !recent.is_empty() {
            write(&mut recent, &mut segments)?;
        }
        segments.extend(replay.spilled);
    }
    recent.extend(replay.pending);
    if recent.len() > most {
        write(&mut recent, &mut segments)?;
    }
    settle(&mut recent);
    let position = replay.position;
    let note = position
        .head
        .as_ref()
        .map(|(_, note)| note.as_str())
        .unwrap_or_default();
    state.write_head(note).map_err(failed())?;
    state
        .write_manifest(&position, &segments, &recent)
        .map_err(failed())?;
    segments
        .iter()
        .for_each(|segment| segment.set_disposable(false));
    Ok(Snapshot {
        position,
        recent,
        segments,
    })
}

#[cfg(test)]
pub(crate) mod tests;
