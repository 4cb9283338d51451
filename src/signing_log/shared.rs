//! What the writer, the publisher and the askers share.
//!
//! Owns the state, the head that is durable, the newest entries on their way to publication, and the readers.
//! Promises that [`Shared::head`] never runs ahead of a commit. Never blocks: locks are held for an instant.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock};

use certstatus::UnixMillis;
use certstatus::log::IssuerName;
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::merkle::Hash;
use sqlx::sqlite::SqlitePool;
use tokio::sync::{Notify, watch};

use super::error::LogError;
use super::mover::Moves;
use super::record::{LogState, Publication};
use super::revocations::{Authorities, Revocation};
use super::tree::StoredEntry;
use crate::hsm::LogKey;
use crate::ra::Registry;
use crate::store::Lock;
use crate::time::Clock;

/// Entries that wait in memory for the publisher; beyond it the publisher reads them from the database.
const TAIL_ENTRIES_MAX: usize = 8192;

/// Their octets at most.
const TAIL_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What all parts of the log share.
pub(super) struct Shared {
    pub registry: Registry,
    pub clock: Clock,
    pub origin: String,
    pub key: LogKey,
    pub verifier: VerifierKey,
    pub publication: Publication,
    state: Mutex<LogState>,
    pub head: watch::Sender<Head>,
    pub published: watch::Sender<Published>,
    /// Publication is wanted at once.
    pub urgent: Notify,
    tail: Mutex<Tail>,
    readers: RwLock<SqlitePool>,
    /// What the mover and the writer have moved into the database.
    pub moves: Moves,
    /// Revocations, releases and unresolved certificates since this process began.
    pub revocations: watch::Sender<u64>,
    /// The issuers whose own certificates stand revoked.
    revoked_issuers: RwLock<BTreeMap<IssuerName, Revocation>>,
    /// No more intents.
    pub stopping: AtomicBool,
    /// No more entries.
    pub ended: AtomicBool,
    /// Keeps other processes out for as long as any part of the log lives.
    _lock: Lock,
}

/// The durable tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub size: u64,
    pub root: Hash,
    pub newest: UnixMillis,
    pub open_intents: u64,
}

/// How far publication is.
#[derive(Clone, Debug, Default)]
pub(super) struct Published {
    /// Entries that the published checkpoint covers.
    pub size: u64,
    /// Attempts that failed, and why the last one did.
    pub failures: u64,
    pub fault: Option<String>,
}

/// The newest entries, in order.
#[derive(Default)]
struct Tail {
    entries: VecDeque<StoredEntry>,
    bytes: usize,
}

impl Shared {
    /// Starts in a state.
    pub(super) fn new(
        parts: (Clock, String, LogKey, VerifierKey, Publication),
        registry: Registry,
        readers: SqlitePool,
        (state, head): (LogState, Head),
        lock: Lock,
    ) -> Self {
        let (clock, origin, key, verifier, publication) = parts;
        Self {
            registry,
            clock,
            origin,
            key,
            verifier,
            publication,
            state: Mutex::new(state),
            head: watch::Sender::new(head),
            published: watch::Sender::new(Published::default()),
            urgent: Notify::new(),
            tail: Mutex::default(),
            readers: RwLock::new(readers),
            moves: Moves::default(),
            revocations: watch::Sender::new(0),
            revoked_issuers: RwLock::default(),
            stopping: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            _lock: lock,
        }
    }

    /// Whether the log takes entries.
    pub(super) fn state(&self) -> LogState {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone()
    }

    /// Sets the state, and wakes the publisher, which waits for recovery.
    pub(super) fn set_state(&self, new: LogState) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = new;
        drop(state);
        self.head.send_modify(|_| {});
    }

    /// The durable tree, unless recovery has yet to make sure what is durable.
    pub(super) fn confirmed(&self) -> Result<Head, LogError> {
        match self.state() {
            LogState::Recovering => Err(LogError::Recovering),
            LogState::Running | LogState::Halted { .. } => Ok(*self.head.borrow()),
        }
    }

    /// Why entries are not taken now, if so.
    pub(super) fn gate(&self) -> Result<(), LogError> {
        if self.stopping.load(Ordering::SeqCst) {
            return Err(LogError::Stopping);
        }
        match self.state() {
            LogState::Running => Ok(()),
            LogState::Recovering => Err(LogError::Recovering),
            LogState::Halted { reason } => Err(LogError::Halted(reason)),
        }
    }

    /// Connections that only read.
    pub(super) fn readers(&self) -> SqlitePool {
        let readers = self.readers.read().unwrap_or_else(PoisonError::into_inner);
        readers.clone()
    }

    /// Puts others in their place, after reopening.
    pub(super) fn replace_readers(&self, new: SqlitePool) {
        let mut readers = self.readers.write().unwrap_or_else(PoisonError::into_inner);
        *readers = new;
    }

    /// The issuers whose own certificates stand revoked.
    pub(super) fn revoked_issuers(&self) -> BTreeMap<IssuerName, Revocation> {
        let revoked = self.revoked_issuers.read();
        revoked.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells which they are.
    pub(super) fn set_revoked_issuers(&self, authorities: &Authorities) {
        let revoked = self.revoked_issuers.write();
        *revoked.unwrap_or_else(PoisonError::into_inner) = authorities.revoked().clone();
    }

    /// Hands entries that just became durable to the publisher.
    pub(super) fn hand_over(&self, entries: impl Iterator<Item = StoredEntry>) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            tail.bytes += entry.weight();
            tail.entries.push_back(entry);
        }
        // A publisher that far behind reads from the database; what is here would only be in the way.
        if tail.entries.len() > TAIL_ENTRIES_MAX || tail.bytes > TAIL_BYTES_MAX {
            *tail = Tail::default();
        }
    }

    /// Takes the entries from `first` up to, not including, `end`, if all of them are in memory.
    pub(super) fn take(&self, first: u64, end: u64) -> Option<Vec<StoredEntry>> {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        while tail
            .entries
            .front()
            .is_some_and(|entry| entry.index < first)
        {
            tail.pop();
        }
        let have = tail.entries.front()?.index == first;
        let last = tail.entries.back()?.index;
        if !have || last.saturating_add(1) < end {
            return None;
        }
        (first..end).map(|_| tail.pop()).collect()
    }

    /// A signed note over a tree.
    pub(super) async fn note(&self, size: u64, root: Hash) -> Result<String, LogError> {
        let checkpoint = Checkpoint {
            origin: self.origin.clone(),
            size,
            root,
        };
        let signature = self
            .key
            .sign(checkpoint.body().as_bytes())
            .await
            .map_err(LogError::LogKey)?;
        Ok(checkpoint.to_note(&self.verifier, &signature))
    }
}

impl Tail {
    /// The oldest entry.
    fn pop(&mut self) -> Option<StoredEntry> {
        let entry = self.entries.pop_front()?;
        self.bytes = self.bytes.saturating_sub(entry.weight());
        Some(entry)
    }
}

impl StoredEntry {
    /// Its octets.
    fn weight(&self) -> usize {
        self.leaf.len() + self.detail.as_ref().map_or(0, Vec::len)
    }
}
