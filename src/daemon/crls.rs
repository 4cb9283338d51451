//! The tasks that keep CRLs fresh: one for each issuer whose key is configured here.
//!
//! Promises that an issuer's CRLs are looked at from the start, whether its token is there or not, and made as
//! soon as it is. Failure story: see `crl`'s keeper; a configuration that contradicts the ceremony stops the
//! start.

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::DaemonError;
use crate::config::{self, Config};
use crate::crl::{Board, Keeper, Schedule};
use crate::issuer::{self, Issuer};
use crate::signing_log::{IssuerRecord, SigningLog};
use crate::time::Clock;

/// The running tasks; they end with it.
pub(super) struct Crls {
    clock: Clock,
    board: Board,
    tasks: JoinSet<()>,
}

impl Crls {
    /// None yet; they tell of themselves on the board.
    pub(super) fn new(clock: Clock, board: Board) -> Self {
        let tasks = JoinSet::new();
        Self {
            clock,
            board,
            tasks,
        }
    }

    /// Starts to keep the CRLs of an issuer; its key is to be sent when it is loaded.
    pub(super) fn keep(
        &mut self,
        record: &IssuerRecord,
        configured: &config::Issuer,
        config: &Config,
        log: &SigningLog,
    ) -> Result<watch::Sender<Option<Issuer>>, DaemonError> {
        let facts = issuer::facts(record, configured)?;
        let (sender, loaded) = watch::channel(None);
        let keeper = Keeper::new(
            (log.clone(), self.clock.clone(), config.published.clone()),
            (record.role, facts),
            Schedule::of(record.role, configured.crl),
            loaded,
            self.board.clone(),
        );
        self.tasks.spawn(keeper.run());
        Ok(sender)
    }
}
