//! Tests of the log as a whole.
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::tables::WriteFault;

/// What goes wrong at the next commits.
#[derive(Clone, Default)]
pub(super) struct Faults {
    before: Arc<AtomicU8>,
    after: Arc<AtomicU8>,
}

impl Faults {
    /// Fails before the transaction.
    pub(super) fn before_commit(&self) -> Result<(), WriteFault> {
        spend(&self.before)
    }
    /// Fails after the transaction.
    pub(super) fn after_commit(&self) -> Result<(), WriteFault> {
        spend(&self.after)
    }
}

fn spend(left: &AtomicU8) -> Result<(), WriteFault> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    match taken {
        Ok(_) => Err(WriteFault::Sql(sqlx::Error::WorkerCrashed)),
        Err(_) => Ok(()),
    }
}
