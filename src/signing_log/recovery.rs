//! Recovery: makes sure what is durable, then closes what nobody else will.
//!
//! After a failed transaction the entries of its batch may or may not be on disk. Recovery opens the database
//! anew, rewrites the write-ahead log into it, and compares the tree with both possibilities: a third is
//! damage. What became durable counts; of it, intents that were reported as failed are closed as abandoned,
//! since no caller ever held them; outcomes that were lost are appended again while their callers wait.
//! At a start every open intent is an earlier process's: unresolved, once no token works for it any more.
//! Failure story: it is tried again, with longer pauses, for as long as it takes.

use std::time::Duration;

use certstatus::log::merkle::Hash;
use serde_json::json;
use sqlx::Connection as _;

use super::append::{Append, Note};
use super::error::LogError;
use super::plan::{Plan, Waiting};
use super::record::LogState;
use super::tree;
use super::writer::{Stranded, StrandedOutcome, Writer, tell};
use crate::hsm::Hsm;
use crate::limits;
use crate::store::{self, Connections, Store};

/// How long old readers may hold up the reopening.
const READERS_DEADLINE: Duration = Duration::from_secs(5);

impl Writer {
    /// At a start: rewrites the write-ahead log, closes the open intents of earlier processes, then runs.
    ///
    /// # Errors
    /// [`LogError`]: nothing was closed; call again.
    pub(super) async fn recover(&mut self, hsm: &Hsm) -> Result<(), LogError> {
        match self.shared.state() {
            LogState::Running => return Ok(()),
            LogState::Halted { reason } => return Err(LogError::Halted(reason)),
            LogState::Recovering => {}
        }
        // The last process may have died of a failed fsync: what we read may be in the page cache only.
        if let Some(database) = self.database.as_mut() {
            let emptied = store::checkpoint_wal(database).await;
            let emptied = self.shared.moves.emptied(emptied).await;
            emptied.map_err(|error| LogError::halted(&error))?;
        }
        if !self.inherited.is_empty() {
            hsm.idle().await.map_err(LogError::TokenBusy)?;
        }
        if !self.inherited.is_empty() {
            let closed = self.inherited.len();
            let event = recovered(&json!({ "after": "start", "unresolved": closed }))?;
            let inherited = std::mem::take(&mut self.inherited);
            let closings = inherited.into_iter().map(|closing| Append::Outcome {
                closing: Box::new(closing),
                answer: None,
            });
            let batch = closings.chain([event]).collect();
            if let Err((stranded, fault)) = self.commit(batch).await {
                self.halt(stranded, fault).await;
                return match self.shared.state() {
                    LogState::Running => Ok(()),
                    _ => Err(LogError::Stopping),
                };
            }
        }
        self.shared.set_state(LogState::Running);
        Ok(())
    }

    /// Halts, and recovers: until it succeeds, or until everyone is gone or asks to stop.
    pub(super) async fn halt(&mut self, stranded: Stranded, fault: LogError) {
        let mut stranded = stranded;
        let mut pause = Duration::ZERO;
        self.say_halted(fault);
        loop {
            if !self.pause(pause).await {
                for outcome in stranded.outcomes {
                    tell(outcome.answer, Err(LogError::Stopping));
                }
                for append in std::mem::take(&mut self.kept) {
                    append.refuse(&LogError::Stopping);
                }
                return;
            }
            pause = (pause * 2).clamp(self.pace.retry_min, self.pace.retry_max);
            if let Err(error) = self.restore(&mut stranded).await {
                self.say_halted(error);
                continue;
            }
            let outcomes = stranded.outcomes.len() + self.kept.len();
            let event = match recovered(&json!({ "after": "halt", "outcomes": outcomes })) {
                Ok(event) => event,
                Err(error) => {
                    self.say_halted(error);
                    continue;
                }
            };
            let batch = self.resumption(stranded, event);
            match self.commit(batch).await {
                Ok(()) => {
                    tracing::warn!(size = self.view.edge.size(), "the signing log runs again");
                    self.shared.set_state(LogState::Running);
                    return;
                }
                Err((again, error)) => {
                    stranded = again;
                    self.say_halted(error);
                }
            }
        }
    }

    /// Sets the state and tells the operator.
    fn say_halted(&self, fault: LogError) {
        let reason = match fault {
            LogError::Halted(reason) => reason,
            other => certstatus::chain(&other),
        };
        let path = self.path.display();
        let reason = format!(
            "{path}: {reason}; nothing is issued; make sure that the disk works and has room, it is retried"
        );
        tracing::error!(%reason, "the signing log is halted");
        self.shared.set_state(LogState::Halted { reason });
    }

    /// Waits a while, refusing what comes meanwhile but for outcomes, which are kept; false to give up.
    async fn pause(&mut self, pause: Duration) -> bool {
        let stopping = self.stop.is_some();
        if stopping && !pause.is_zero() {
            return false;
        }
        let until = tokio::time::Instant::now() + pause;
        let mut batch = Vec::new();
        loop {
            let waiting = self.queue.recv_many(&mut batch, limits::GROUP_COMMIT_MAX);
            match tokio::time::timeout_at(until, waiting).await {
                Err(_elapsed) => return true,
                Ok(0) => return false,
                Ok(_) => {}
            }
            let error = self.refusal();
            for append in batch.drain(..) {
                match append {
                    Append::Outcome { .. } => self.kept.push(append),
                    Append::Stop { answer } => self.stop = Some(answer),
                    other => other.refuse(&error),
                }
            }
            if self.stop.is_some() && !stopping {
                // One more attempt, so that a passing fault loses no outcome at the end.
                return true;
            }
        }
    }

    /// What everyone is told now.
    fn refusal(&self) -> LogError {
        match self.shared.state() {
            LogState::Halted { reason } => LogError::Halted(reason),
            LogState::Recovering | LogState::Running => LogError::Recovering,
        }
    }

    /// Opens the database anew and finds out whether the stranded plan is durable; makes sure that it is.
    async fn restore(&mut self, stranded: &mut Stranded) -> Result<(), LogError> {
        let readers = self.shared.readers();
        // A reader that hangs on the broken disk must not hold up recovery.
        let _closed = tokio::time::timeout(READERS_DEADLINE, readers.close()).await;
        if let Some(database) = self.database.take() {
            // It failed already; what matters is that it lets go of the file.
            let _closed = database.close().await;
        }
        let opened = Store::connect(&self.path).await;
        let Connections {
            mut writer,
            readers,
        } = opened.map_err(|error| LogError::halted(&error))?;
        let emptied = store::checkpoint_wal(&mut writer).await;
        let emptied = self.shared.moves.emptied(emptied).await;
        emptied.map_err(|error| LogError::halted(&error))?;
        let size = tree::size(&mut writer).await?;
        let size = size.ok_or_else(|| LogError::Damaged("the log is gone".to_owned()))?;
        let root = tree::edge_at(size, &mut writer).await?.root();
        self.database = Some(writer);
        self.shared.replace_readers(readers);
        let found = (size, root);
        if found == tree_of(&self.view.edge) {
            // Lost, or never written.
            stranded.plan = None;
            stranded.intents.clear();
            return Ok(());
        }
        match stranded.plan.take() {
            Some(plan) if found == tree_of(&plan.edge) => {
                self.settle(*plan, stranded);
                Ok(())
            }
            plan => {
                stranded.plan = plan;
                Err(LogError::Damaged(format!(
                    "it holds {size} entries that this process did not write; restore a backup"
                )))
            }
        }
    }

    /// The plan was durable though it was reported as failed: it counts.
    fn settle(&mut self, plan: Plan, stranded: &mut Stranded) {
        self.install(plan);
        for outcome in stranded.outcomes.drain(..) {
            tell(outcome.answer, Ok(outcome.index));
        }
        for intent in std::mem::take(&mut stranded.intents) {
            self.abandon(intent, "the commit was reported as failed");
        }
    }

    /// The first batch after a halt: what was lost, what was kept, and the event that tells of it, which also
    /// shows that the disk takes entries again.
    fn resumption(&mut self, stranded: Stranded, event: Append) -> Vec<Append> {
        let lost = stranded
            .outcomes
            .into_iter()
            .map(|outcome| Append::Outcome {
                closing: outcome.closing,
                answer: outcome.answer,
            });
        lost.chain(self.kept.drain(..)).chain([event]).collect()
    }
}

/// A tree by size and root.
fn tree_of(edge: &certstatus::log::tile::Edge) -> (u64, Hash) {
    (edge.size(), edge.root())
}

/// The event that tells of a recovery.
fn recovered(data: &serde_json::Value) -> Result<Append, LogError> {
    let name = "recovered".parse();
    let name = name.expect("\"recovered\" has the form of an event's name");
    let note = Box::new(Note::event(name, data.clone())?);
    Ok(Append::Note { note, answer: None })
}

impl Stranded {
    /// What a transaction leaves that failed after it was planned.
    pub(super) fn of(plan: Plan, waiting: Vec<Waiting>, error: &LogError) -> Self {
        let mut stranded = Self {
            plan: Some(Box::new(plan)),
            outcomes: Vec::new(),
            intents: Vec::new(),
        };
        for waiting in waiting {
            match waiting {
                Waiting::Intent { answer, intent } => {
                    // The asker never gets the intent, whatever becomes of it.
                    drop(answer.send(Err(error.clone().into())));
                    stranded.intents.push(*intent);
                }
                Waiting::Refused { answer, .. } => drop(answer.send(Err(error.clone().into()))),
                Waiting::Outcome {
                    answer,
                    closing,
                    index,
                } => stranded.outcomes.push(StrandedOutcome {
                    closing,
                    answer,
                    index,
                }),
                Waiting::Note { answer, .. } => tell(answer, Err(error.clone())),
                Waiting::Revoked { answer, .. } => drop(answer.send(Err(error.clone()))),
            }
        }
        stranded
    }

    /// What a batch leaves that failed before it was planned: nothing of it is durable.
    pub(super) fn unplanned(group: Vec<Append>, error: &LogError) -> Self {
        let mut stranded = Self {
            plan: None,
            outcomes: Vec::new(),
            intents: Vec::new(),
        };
        for append in group {
            match append {
                Append::Outcome { closing, answer } => stranded.outcomes.push(StrandedOutcome {
                    index: closing.intent,
                    closing,
                    answer,
                }),
                other => other.refuse(error),
            }
        }
        stranded
    }
}
