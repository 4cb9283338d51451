//! Moves committed pages from the write-ahead log into the database, beside the writer.
//!
//! Owns when that is done. Promises nothing that durability rests on: a commit is durable in the write-ahead
//! log, and the writer moves what this task has not. Never delays a commit. Its connection stays open through
//! a halt, so that the log's index outlives the writer's connection: a commit that failed stays taken back. Failure story: told once, tried
//! again with the next pages; a disk that does not work halts the log in the writer's next commit.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use certstatus::chain;
use sqlx::Connection as _;

use super::shared::Shared;
use crate::{limits, store};

/// Follows the log and moves its pages until it ends.
pub(super) async fn run(shared: Arc<Shared>, path: PathBuf) {
    let mut mover = match store::open_mover(&path).await {
        Ok(mover) => mover,
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(%error, "pages are moved by the writer alone; commits take longer");
            return;
        }
    };
    let mut head = shared.head.subscribe();
    let mut moved = head.borrow_and_update().size;
    let mut failing = false;
    // The senders live in what this task shares, so `changed` does not fail.
    while !shared.ended.load(Ordering::SeqCst) && head.changed().await.is_ok() {
        let size = head.borrow_and_update().size;
        if size.saturating_sub(moved) < limits::MOVE_INTERVAL {
            continue;
        }
        moved = size;
        let result = store::move_wal(&mut mover).await;
        if let (Err(error), false) = (&result, failing) {
            let error = chain(error);
            tracing::warn!(%error, "pages stay in the write-ahead log; it is tried again");
        }
        failing = result.is_err();
    }
    // A close that fails leaves a WAL that the next start moves into the database.
    let _closed = mover.close().await;
}
