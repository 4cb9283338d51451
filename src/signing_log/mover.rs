//! Moves committed pages from the write-ahead log into the database, beside the writer.
//!
//! With a million certificates nearly every index page that a commit touches is another one, and writing them
//! in place takes tens of milliseconds: beside the commits that costs nobody his wait. Owns when pages are
//! moved, and what is known of the ones that no fsync of the database has covered yet. Promises that a failed
//! fsync of the database loses no page silently: SQLite copies a page once, so the process ends, and the next
//! start, which reads the write-ahead log from its beginning, copies them all again. Never delays a commit but
//! for the last pages of a log that is full. Its connection stays open through a halt, so that the log's index
//! outlives the writer's connection: a commit that failed stays taken back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::Mutex;

use super::shared::Shared;
use crate::limits;
use crate::store::{self, Moved, StoreError, WAL_PAGES};

/// What is known of the pages that were moved.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Some were moved that no fsync has covered. Held while pages are moved.
    unsynced: Mutex<bool>,
    /// The write-ahead log has so many pages that the writer has to move the last ones.
    full: AtomicBool,
}

impl Moves {
    /// Moves pages by this connection; `alone` when nobody writes meanwhile.
    async fn make(&self, unsynced: &mut bool, connection: &mut SqliteConnection, alone: bool) {
        match store::move_wal(connection).await {
            Ok(Moved { pages, all }) => {
                // Beside a writer all that was asked for may be copied, and no fsync made: there is more by then.
                *unsynced = !(all && alone);
                let full = *unsynced && pages >= WAL_PAGES;
                self.full.store(full, Ordering::Relaxed);
            }
            Err(error) => end_if(*unsynced, &error),
        }
    }

    /// In the writer, between commits: moves the last pages of a log that is full, so that it begins anew.
    pub(super) async fn finish(&self, writer: &mut SqliteConnection) {
        // Where the mover is at it, a later commit finds it done.
        if self.full.load(Ordering::Relaxed)
            && let Ok(mut unsynced) = self.unsynced.try_lock()
        {
            self.make(&mut unsynced, writer, true).await;
        }
    }

    /// The whole write-ahead log was moved and fsynced, or it was tried.
    pub(super) async fn emptied(&self, result: Result<(), StoreError>) -> Result<(), StoreError> {
        let mut unsynced = self.unsynced.lock().await;
        match &result {
            Ok(()) => *unsynced = false,
            // Somebody reads; nothing was written.
            Err(StoreError::WalBusy) => {}
            Err(error) => end_if(*unsynced, error),
        }
        result
    }
}

/// Ends the process when pages may be lost that only a start copies again.
fn end_if(unsynced: bool, error: &StoreError) {
    let error = certstatus::chain(error);
    if unsynced {
        tracing::error!(
            %error,
            "what was moved into the database may not be on the disk: the process ends, and its next start moves \
             everything again; make sure that the disk works and has room"
        );
        std::process::abort();
    }
    tracing::warn!(%error, "pages stay in the write-ahead log; it is tried again");
}

/// Follows the log and moves its pages until it ends.
pub(super) async fn run(shared: Arc<Shared>, mut mover: SqliteConnection) {
    let mut head = shared.head.subscribe();
    let mut moved = head.borrow_and_update().size;
    // The senders live in what this task shares, so `changed` does not fail.
    while !shared.ended.load(Ordering::SeqCst) && head.changed().await.is_ok() {
        let size = head.borrow_and_update().size;
        if size.saturating_sub(moved) >= limits::MOVE_INTERVAL {
            moved = size;
            let mut unsynced = shared.moves.unsynced.lock().await;
            shared.moves.make(&mut unsynced, &mut mover, false).await;
        }
    }
    // A close that fails leaves a WAL that the next start moves into the database.
    let _closed = mover.close().await;
}
