//! The one writer: takes what waits, makes one transaction of it, then answers everyone.
//!
//! Owns the database's writing connection and the view of what is durable. Promises that an answer goes out
//! after the commit, never before, and that requests in flight together share one fsync. Never signs.
//! Failure story: a transaction that fails, wherever, halts the log; see [`super::recovery`].

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::log::entry::Slug;
use certstatus::log::tile::Edge;
use certstatus::log::{LeafIndex, Outcome};
use sqlx::Connection as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::{mpsc, oneshot};

use super::append::{Append, Closing, Note};
use super::error::LogError;
use super::intent::Intent;
use super::plan::{Facts, Plan, View, Waiting};
use super::record::{IssuerRecord, LogState};
use super::revocations::{Authorities, Revocation, RevokedRow};
use super::shared::{Head, Shared};
use super::tables::{self, WriteFault};
use super::tree::StoredEntry;
use crate::limits;
use crate::ra::Units;

/// How long things take; tests are in a hurry.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// An idle log appends a tick after this long.
    pub tick: Duration,
    /// Publication waits this long for more.
    pub publication: Duration,
    /// The first pause between attempts to recover or publish; it doubles.
    pub retry_min: Duration,
    /// The longest.
    pub retry_max: Duration,
    /// The longest that stopping waits for the outcomes of open intents.
    pub stop: Duration,
}

impl Pace {
    /// As in production.
    pub(super) const NORMAL: Self = Self {
        tick: limits::TICK_INTERVAL,
        publication: limits::PUBLICATION_DELAY,
        retry_min: Duration::from_millis(100),
        retry_max: Duration::from_secs(5),
        stop: limits::ANSWER_DEADLINE,
    };
}

/// The writer's task.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub queue: mpsc::Receiver<Append>,
    /// The database file, to open it anew.
    pub path: PathBuf,
    /// None only while it is opened anew.
    pub database: Option<SqliteConnection>,
    pub view: View,
    /// Open intents of earlier processes, which recovery closes.
    pub inherited: Vec<Closing>,
    /// Outcomes that nobody else will append: first in the next batch.
    pub kept: Vec<Append>,
    /// Whom to tell when everything has stopped.
    pub stop: Option<oneshot::Sender<()>>,
    pub pace: Pace,
    #[cfg(test)]
    pub faults: super::tests::Faults,
}

/// What a failed transaction leaves: it may or may not be durable.
pub(super) struct Stranded {
    pub plan: Option<Box<Plan>>,
    pub outcomes: Vec<StrandedOutcome>,
    /// Intents whose askers were told that they failed.
    pub intents: Vec<Intent>,
}

/// An outcome whose asker still waits.
pub(super) struct StrandedOutcome {
    pub closing: Box<Closing>,
    pub answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
    /// Where it stands if the transaction became durable.
    pub index: LeafIndex,
}

impl Writer {
    /// Runs until everyone who can ask is gone, or until it is told to stop.
    pub(super) async fn run(mut self) {
        let _guard = AbortOnPanic;
        loop {
            let mut batch = std::mem::take(&mut self.kept);
            if batch.is_empty() && !self.wait(&mut batch).await {
                break;
            }
            self.take(batch).await;
            if self.stop.is_some() {
                self.drain().await;
                break;
            }
        }
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.head.send_modify(|_| {});
        if let Some(database) = self.database.take() {
            // A close that fails leaves a WAL that the next start moves into the database.
            let _closed = database.close().await;
        }
        if let Some(stopped) = self.stop.take() {
            // Whoever asked may have given up waiting.
            let _unheard = stopped.send(());
        }
    }

    /// Waits for appends, or for the time of a tick; false when nobody is left to ask.
    async fn wait(&mut self, batch: &mut Vec<Append>) -> bool {
        let waiting = self.queue.recv_many(batch, limits::GROUP_COMMIT_MAX);
        match tokio::time::timeout(self.pace.tick, waiting).await {
            Ok(count) => count > 0,
            Err(_idle) => {
                if self.shared.state() == LogState::Running {
                    let note = Box::new(Note::tick());
                    batch.push(Append::Note { note, answer: None });
                }
                true
            }
        }
    }

    /// Takes a batch: entries in transactions, controls and changes of the registry by themselves.
    pub(super) async fn take(&mut self, batch: Vec<Append>) {
        let mut group = Vec::with_capacity(batch.len());
        for append in batch {
            match append {
                Append::Recover { hsm, answer } => {
                    self.append(std::mem::take(&mut group)).await;
                    let recovered = self.recover(&hsm).await;
                    // Whoever asked may have given up waiting; the state says it too.
                    let _unheard = answer.send(recovered);
                }
                Append::Stop { answer } => {
                    self.append(std::mem::take(&mut group)).await;
                    self.stop = Some(answer);
                }
                append if append.changes_registry() => {
                    self.append(std::mem::take(&mut group)).await;
                    self.append(vec![append]).await;
                }
                append => group.push(append),
            }
        }
        self.append(group).await;
    }

    /// Appends a group in one transaction and answers everyone; through a halt, if it comes to that.
    async fn append(&mut self, group: Vec<Append>) {
        if group.is_empty() {
            return;
        }
        if let LogState::Recovering = self.shared.state() {
            group
                .into_iter()
                .for_each(|append| append.refuse(&LogError::Recovering));
            return;
        }
        if let Err((stranded, fault)) = self.commit(group).await {
            self.halt(stranded, fault).await;
        }
    }

    /// Makes one transaction. An error means that nobody knows whether it is durable.
    pub(super) async fn commit(&mut self, group: Vec<Append>) -> Result<(), (Stranded, LogError)> {
        let facts = match self.facts(&group).await {
            Ok(facts) => facts,
            Err(fault) => {
                let error = LogError::Halted(certstatus::chain(&fault));
                return Err((Stranded::unplanned(group, &error), error));
            }
        };
        let now = self.shared.clock.now();
        let (plan, waiting) = Plan::make(group, &self.view, facts, now);
        if !plan.entries.is_empty()
            && let Err(fault) = self.write(&plan).await
        {
            let error = LogError::Halted(certstatus::chain(&fault));
            return Err((Stranded::of(plan, waiting, &error), error));
        }
        self.install(plan);
        for waiting in waiting {
            self.answer(waiting);
        }
        if let Some(database) = self.database.as_mut() {
            self.shared.moves.finish(database).await;
        }
        Ok(())
    }

    /// What the group has to know.
    async fn facts(&mut self, group: &[Append]) -> Result<Facts, WriteFault> {
        match self.database.as_mut() {
            Some(database) => tables::facts(group, database).await,
            None => Err(sqlx::Error::PoolClosed.into()),
        }
    }

    /// Writes a plan.
    async fn write(&mut self, plan: &Plan) -> Result<(), WriteFault> {
        #[cfg(test)]
        self.faults.before_commit()?;
        let written = match self.database.as_mut() {
            Some(database) => tables::write(plan, database).await,
            None => Err(sqlx::Error::PoolClosed.into()),
        };
        #[cfg(test)]
        self.faults.after_commit()?;
        written
    }

    /// Makes a durable plan the view, and shows it to readers and publisher.
    pub(super) fn install(&mut self, plan: Plan) {
        if plan.entries.is_empty() {
            return;
        }
        let Plan {
            first,
            entries,
            opened,
            closed,
            changes,
            units,
            revoked,
            issuers,
            edge,
            newest,
            ..
        } = plan;
        self.view.open.extend(opened);
        for (intent, ..) in &closed {
            self.view.open.remove(intent);
        }
        for (_, change) in &changes {
            self.view.registry.apply(change);
        }
        for (order, units) in &units {
            self.set_units(order, *units);
        }
        self.install_revoked(&issuers, &revoked);
        self.view.edge = edge;
        self.view.newest = newest;
        let entries = (first..).zip(entries);
        self.shared
            .hand_over(entries.map(|(index, (leaf, detail))| StoredEntry {
                index,
                leaf,
                detail,
            }));
        self.shared.head.send_replace(self.view.head());
        // After the head, so that whoever wakes finds what woke it.
        if !revoked.is_empty() {
            let count = u64::try_from(revoked.len()).unwrap_or(u64::MAX);
            let counted = &self.shared.revocations;
            counted.send_modify(|so_far| *so_far = so_far.saturating_add(count));
        }
    }

    /// Takes in issuers, and how their certificates stand.
    fn install_revoked(&mut self, issuers: &[(u64, IssuerRecord)], revoked: &[RevokedRow]) {
        let authorities = &mut self.view.authorities;
        for (_, record) in issuers {
            authorities.add(record);
        }
        let mut changed = false;
        for row in revoked {
            let standing = Revocation {
                revoked_at: row.revoked_at,
                reason: row.reason,
                entry: LeafIndex(row.entry),
            };
            changed |= authorities.note(row.serial, standing);
        }
        if changed {
            self.shared.set_revoked_issuers(authorities);
        }
    }

    /// Sets an order's figures, and tells the operator when the order gets shorter for want of approval.
    fn set_units(&self, order: &Slug, units: Units) {
        let registry = &self.view.registry;
        let held = |order| registry.order(order).map_or(0, |order| order.held);
        let grows = units.held > 0 && units.held > held(order);
        registry.set_units(order, units);
        if grows {
            tracing::warn!(
                %order,
                held = units.held,
                "unresolved intents hold units of the order: find out why the token fails, then give them \
                 back with `hallmark order approve`"
            );
        }
    }

    /// Answers one who waited for a plan that is durable now.
    fn answer(&mut self, waiting: Waiting) {
        match waiting {
            Waiting::Intent { answer, intent } => {
                // Whoever asked is gone: the intent can never reach a token.
                if let Err(Ok(intent)) = answer.send(Ok(*intent)) {
                    self.abandon(intent, "nobody waited for the intent");
                }
            }
            Waiting::Refused { answer, refused } => drop(answer.send(Err(refused))),
            Waiting::Outcome { answer, index, .. } => tell(answer, Ok(index)),
            Waiting::Note { answer, result } => tell(answer, result),
            Waiting::Revoked { answer, outcomes } => {
                self.shared.urgent.notify_one();
                drop(answer.send(Ok(outcomes)));
            }
        }
    }

    /// Closes an intent that reached no token, with the next batch.
    pub(super) fn abandon(&mut self, intent: Intent, reason: &str) {
        let index = intent.index;
        let closing = Closing::unsigned(
            intent.index,
            intent.issuer,
            intent.subject,
            Outcome::Abandoned,
            intent.order,
            reason.to_owned(),
        );
        match closing {
            Ok(closing) => self.kept.push(Append::Outcome {
                closing: Box::new(closing),
                answer: None,
            }),
            // Without randomness nothing works; the next start closes it.
            Err(error) => tracing::error!(%index, %error, "an intent stays open"),
        }
    }

    /// After a stop was asked for: takes outcomes until no intent is open, for a while.
    async fn drain(&mut self) {
        let deadline = tokio::time::Instant::now() + self.pace.stop;
        // Halted or recovering there is nothing to wait for: the next start closes what is open.
        while self.shared.state() == LogState::Running {
            let mut batch = std::mem::take(&mut self.kept);
            if batch.is_empty() {
                if self.view.open.is_empty() && self.queue.is_empty() {
                    return;
                }
                let waiting = self.queue.recv_many(&mut batch, limits::GROUP_COMMIT_MAX);
                match tokio::time::timeout_at(deadline, waiting).await {
                    Ok(1..) => {}
                    // Nobody is left, or time is up: the next start closes what is open.
                    Ok(0) | Err(_) => return,
                }
            }
            self.take(batch).await;
        }
    }
}

impl View {
    /// What others see of it.
    pub(super) fn head(&self) -> Head {
        Head {
            size: self.edge.size(),
            root: self.edge.root(),
            newest: self.newest,
            open_intents: u64::try_from(self.open.len()).unwrap_or(u64::MAX),
        }
    }

    /// Before entry 0.
    pub(super) fn empty(registry: crate::ra::Registry) -> Self {
        Self {
            edge: Edge::default(),
            newest: UnixMillis(0),
            open: BTreeSet::new(),
            registry,
            authorities: Authorities::default(),
        }
    }
}

impl Append {
    /// Whether it changes lines or orders: decided on the registry as it stands, so in a batch of its own.
    fn changes_registry(&self) -> bool {
        match self {
            Self::Note { note, .. } => note.changes_registry(),
            _ => false,
        }
    }

    /// Answers that it was not taken. An outcome is lost with it: only where none can be.
    pub(super) fn refuse(self, error: &LogError) {
        match self {
            Self::Intent { answer, .. } => drop(answer.send(Err(error.clone().into()))),
            Self::Outcome { answer, .. } | Self::Note { answer, .. } => {
                tell(answer, Err(error.clone()));
            }
            Self::Revoke { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Recover { answer, .. } => drop(answer.send(Err(error.clone()))),
            Self::Stop { answer } => drop(answer.send(())),
        }
    }
}

/// Aborts the process when dropped by a panic: a daemon whose log has died must not stay up, and recovery is
/// the normal start.
pub(super) struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Answers, where somebody waits.
pub(super) fn tell(
    answer: Option<oneshot::Sender<Result<LeafIndex, LogError>>>,
    result: Result<LeafIndex, LogError>,
) {
    if let Some(answer) = answer {
        // Whoever asked may be gone; the entry stands all the same.
        let _unheard = answer.send(result);
    }
}
