//! The signing log: the truth about every signature, made durable before and after it.
//!
//! Owns entries, details, the Merkle tree, checkpoints, claims, quotas and the publication of all that.
//! Promises that an [`Intent`] exists only after its commit, that each intent gets exactly one outcome, and
//! that a claim, a serial, a device id and an order's unit are taken in the intent's own transaction.
//! Never signs with a CA key. Failure story: a failed commit halts the log ([`LogState::Halted`]); nothing is
//! issued until recovery has made sure what is durable and closed the open intents.
//!
//! One task writes (`writer`): it takes what waits, decides it (`plan`), commits it in one transaction
//! (`tables`) and answers. Another publishes what is durable (`publish`).

mod append;
mod error;
mod intent;
mod mover;
mod plan;
mod publish;
mod read;
mod record;
mod recovery;
mod revocations;
mod select;
mod shared;
mod start;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod tree;
mod writer;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use certstatus::log::checkpoint::VerifierKey;
use certstatus::log::merkle::Hash;
use certstatus::log::{EventName, IssuerName, LeafIndex, Subject};
use certstatus::{RevocationReason, SerialNumber};
use sqlx::pool::PoolConnection;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use error::{Holder, IntentRefused, LogError};
pub use intent::{Certificate, CheckFailed, Failed, Intent, Issued, ToBeSigned};
pub use record::{
    CertificateFilter, CertificateRecord, CertificateState, Claim, Claimed, CrlContents,
    IssuerRecord, IssuerRole, LogState, LogStatus, Publication, RevokedList,
};
pub use revocations::{Revocation, RevokeRefused, Revoked};
pub use select::{CertificateKind, Selection, SelectionPage};

use append::{Append, Closing, IntentDraft, Note};
use revocations::RevokeDraft;
use shared::Shared;
use start::Parts;

use crate::hsm::{Hsm, LogKey};
use crate::limits;
use crate::ra::{Change, ChangeRefused, Grant, Registry};
use crate::store::Store;
use crate::time::Clock;

/// The open log; clones share it.
#[derive(Clone)]
pub struct SigningLog {
    inner: Arc<Inner>,
}

/// What the clones share; the writer ends when the last of them is gone.
struct Inner {
    shared: Arc<Shared>,
    asks: mpsc::Sender<Append>,
    tasks: Mutex<Option<Tasks>>,
    #[cfg(test)]
    faults: tests::Faults,
}

/// Runs work that takes long on a thread where nobody waits behind it.
///
/// # Errors
/// [`LogError::Stopping`]: the process ends.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LogError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => Err(LogError::Stopping),
        },
    }
}

/// The log's own tasks.
struct Tasks {
    writer: JoinHandle<()>,
    publisher: JoinHandle<()>,
    mover: JoinHandle<()>,
}

impl SigningLog {
    /// Makes a new log (ceremony): entry 0 names origin and verifier key; `data` is the genesis detail.
    ///
    /// # Errors
    /// [`LogError`]; the store stays without a log: start over with an empty state directory.
    pub async fn create(
        store: Store,
        clock: Clock,
        origin: &str,
        key: LogKey,
        publication: Publication,
        data: serde_json::Value,
    ) -> Result<Self, LogError> {
        let parts = Parts::new(clock, origin, key, publication);
        Self::create_with(store, parts, data).await
    }

    /// Opens the log: state [`LogState::Recovering`] until [`Self::recover`]; reads work at once.
    ///
    /// Refuses a log key that is not the one that entry 0 names, and a database that lacks what is published.
    ///
    /// # Errors
    /// [`LogError::WrongLog`]: correct the configuration. [`LogError::Damaged`]: restore a backup.
    pub async fn open(
        store: Store,
        clock: Clock,
        origin: &str,
        key: LogKey,
        publication: Publication,
    ) -> Result<Self, LogError> {
        let parts = Parts::new(clock, origin, key, publication);
        Self::open_with(store, parts).await
    }

    /// The log over its running tasks.
    fn from_parts(
        shared: Arc<Shared>,
        asks: mpsc::Sender<Append>,
        tasks: Tasks,
        #[cfg(test)] faults: tests::Faults,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                shared,
                asks,
                tasks: Mutex::new(Some(tasks)),
                #[cfg(test)]
                faults,
            }),
        }
    }

    /// Makes durable what may not be, and closes every open intent as unresolved, once no token works on one
    /// any more ([`Hsm::idle`], asked only where there are open intents). From then on the state is
    /// [`LogState::Running`]; a later halt recovers by itself, and leaves intents that a caller holds to it.
    ///
    /// # Errors
    /// [`LogError`]; call again.
    pub async fn recover(&self, hsm: Hsm) -> Result<(), LogError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Append::Recover { hsm, answer }).await?;
        answered.await.unwrap_or(Err(LogError::Stopping))
    }

    /// The registry that this log keeps in step with its entries.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.inner.shared.registry
    }

    /// Step 2: makes the intent durable, with its claim, its serial and its unit.
    ///
    /// To be called in a task that nobody cancels: an intent that is dropped stays open until the next start.
    ///
    /// # Errors
    /// [`IntentRefused`]; nothing may be signed.
    pub async fn record_intent(
        &self,
        grant: &Grant,
        object: ToBeSigned,
    ) -> Result<Intent, IntentRefused> {
        let shared = &self.inner.shared;
        shared.gate()?;
        let draft = match object {
            // Hashing 50 MB takes as long as hundreds of certificates.
            ToBeSigned::Crl { .. } => {
                let (grant, shared) = (grant.clone(), Arc::clone(shared));
                let new = move || IntentDraft::new(&grant, object, &shared.origin, &shared.clock);
                aside(new).await??
            }
            _ => IntentDraft::new(grant, object, &shared.origin, &shared.clock)?,
        };
        let draft = Box::new(draft);
        let (answer, answered) = oneshot::channel();
        self.try_ask(Append::Intent { draft, answer })?;
        // The writer drops an answer only when it ends.
        answered
            .await
            .unwrap_or(Err(IntentRefused::Log(LogError::Stopping)))
    }

    /// Step 5: makes the outcome durable. Through a halt it waits and is appended after recovery.
    ///
    /// # Errors
    /// [`LogError`]: the object must not leave; its retry finds it if the outcome became durable.
    pub async fn record_issued(&self, certificate: Certificate) -> Result<Issued, LogError> {
        let outcome = self.close(Closing::issued(&certificate)?).await?;
        let Certificate { intent, der, .. } = certificate;
        Ok(Issued {
            der,
            subject: intent.subject,
            intent: intent.index,
            outcome,
        })
    }

    /// Closes an intent as abandoned (no attempt) or unresolved; returns the unit as the rules say.
    ///
    /// # Errors
    /// [`LogError`]: the intent stays open until recovery closes it.
    pub async fn record_failed(&self, failed: Failed) -> Result<(), LogError> {
        self.close(Closing::failed(failed)?).await.map(drop)
    }

    /// Appends an outcome; there are never more of them than open intents, so it waits rather than fails.
    async fn close(&self, closing: Closing) -> Result<LeafIndex, LogError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Append::Outcome {
            closing: Box::new(closing),
            answer: Some(answer),
        })
        .await?;
        answered.await.unwrap_or(Err(LogError::Stopping))
    }

    /// Logs a change of lines or orders by `operator` and applies it.
    ///
    /// # Errors
    /// [`LogError::Change`] when it cannot be made as things stand.
    pub async fn record_change(
        &self,
        operator: &str,
        change: Change,
    ) -> Result<LeafIndex, LogError> {
        self.note(Note::change(operator, change)?).await
    }

    /// Logs an event with its data (a JSON object without null or fractions; must not hold secrets).
    ///
    /// # Errors
    /// [`LogError`].
    pub async fn record_event(
        &self,
        event: EventName,
        data: serde_json::Value,
    ) -> Result<LeafIndex, LogError> {
        self.note(Note::event(event, data)?).await
    }

    /// Logs an issuer: binds its name to its certificate (ceremony).
    ///
    /// # Errors
    /// [`LogError::Change`] when the name is taken or the certificate does not parse.
    pub async fn record_issuer(&self, issuer: IssuerRecord) -> Result<LeafIndex, LogError> {
        self.note(Note::issuer(issuer)?).await
    }

    /// Appends an entry that touches no intent.
    async fn note(&self, note: Note) -> Result<LeafIndex, LogError> {
        self.inner.shared.gate()?;
        let (answer, answered) = oneshot::channel();
        self.try_ask(Append::Note {
            note: Box::new(note),
            answer: Some(answer),
        })?;
        answered.await.unwrap_or(Err(LogError::Stopping))
    }

    /// Revokes one certificate, puts it on hold or (`remove-from-crl`) releases it; one that stands so already, or
    /// is revoked for good, stays as it is.
    ///
    /// # Errors
    /// [`LogError::Revoke`] for a serial that was not issued, and for the release of what is not on hold.
    pub async fn record_revoked(
        &self,
        operator: &str,
        serial: SerialNumber,
        reason: RevocationReason,
    ) -> Result<Revocation, LogError> {
        let (serials, note) = ([serial], BTreeMap::new());
        let mut one = self
            .record_revocations(operator, &serials, reason, &note)
            .await?;
        match one.pop() {
            Some(Revoked::Changed(standing) | Revoked::Unchanged(standing)) => Ok(standing),
            Some(Revoked::Refused(refused)) => Err(LogError::Revoke(refused)),
            None => Err(LogError::Damaged("a revocation has no answer".to_owned())),
        }
    }

    /// Revokes several certificates for one reason, an entry each, in one transaction: all of it or nothing.
    ///
    /// Each comes to something of its own, in the order given. `note` is what the entries' details say beside the
    /// operator's name.
    ///
    /// # Errors
    /// [`LogError::Change`] for more than [`limits::REVOCATIONS_MAX`]; any other:
    /// nothing is known to have changed, and the same call may be made again.
    pub async fn record_revocations(
        &self,
        operator: &str,
        serials: &[SerialNumber],
        reason: RevocationReason,
        note: &BTreeMap<&'static str, String>,
    ) -> Result<Vec<Revoked>, LogError> {
        self.inner.shared.gate()?;
        if serials.len() > limits::REVOCATIONS_MAX {
            let most = limits::REVOCATIONS_MAX;
            return Err(LogError::Change(ChangeRefused::Value {
                key: "serials",
                problem: format!(
                    "has {} entries: send at most {most} at a time",
                    serials.len()
                ),
            }));
        }
        let draft = Box::new(RevokeDraft::new(operator, serials, reason, note)?);
        let (answer, answered) = oneshot::channel();
        self.try_ask(Append::Revoke { draft, answer })?;
        answered.await.unwrap_or(Err(LogError::Stopping))
    }

    /// Counts what changes CRLs (revocations, holds, releases, unresolved certificates) since this process began.
    ///
    /// It changes once they are durable and [`Self::revoked`] has them; their publication follows at once, and
    /// [`Self::publish`] waits for it.
    #[must_use]
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.inner.shared.revocations.subscribe()
    }

    /// The issuers whose own certificates stand revoked or on hold: they issue nothing.
    #[must_use]
    pub fn revoked_issuers(&self) -> BTreeMap<IssuerName, Revocation> {
        self.inner.shared.revoked_issuers()
    }

    /// One page of a selection: of the log's first `entries` entries (all that are durable, where none), what comes
    /// after the intent `after`.
    ///
    /// # Errors
    /// [`LogError::Change`] for a criterion that cannot be; [`LogError::Read`], [`LogError::Recovering`]: try again.
    pub async fn select(
        &self,
        selection: &Selection,
        entries: Option<u64>,
        after: Option<u64>,
    ) -> Result<SelectionPage, LogError> {
        let durable = self.inner.shared.confirmed()?.size;
        let entries = entries.map_or(durable, |entries| entries.min(durable));
        select::page(selection, entries, after, &mut *self.reader().await?).await
    }

    /// Puts an append in the queue, if there is room.
    fn try_ask(&self, append: Append) -> Result<(), LogError> {
        self.inner.asks.try_send(append).map_err(|full| match full {
            TrySendError::Full(_) => LogError::Busy,
            TrySendError::Closed(_) => LogError::Stopping,
        })
    }

    /// Puts an append in the queue, when there is room.
    async fn ask(&self, append: Append) -> Result<(), LogError> {
        let asked = self.inner.asks.send(append).await;
        asked.map_err(|_| LogError::Stopping)
    }

    /// What a claim has come to. Not while recovering: what was issued may not be durable.
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Recovering`]: try again. [`LogError::Damaged`]: tell the operator.
    pub async fn claimed(&self, claim: &Claim) -> Result<Claimed, LogError> {
        let durable = self.inner.shared.confirmed()?.size;
        read::claimed(claim, durable, &mut *self.reader().await?).await
    }

    /// Lists certificates, oldest first.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub async fn certificates(
        &self,
        filter: &CertificateFilter,
    ) -> Result<Vec<CertificateRecord>, LogError> {
        read::certificates(filter, &mut *self.reader().await?).await
    }

    /// One certificate, with its PEM.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub async fn certificate(
        &self,
        serial: SerialNumber,
    ) -> Result<Option<CertificateRecord>, LogError> {
        read::certificate(serial, &mut *self.reader().await?).await
    }

    /// The issuers in the order of the ceremony.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub async fn issuers(&self) -> Result<Vec<IssuerRecord>, LogError> {
        read::issuers(&mut *self.reader().await?).await
    }

    /// What is to be on a CRL, with the checkpoint of the log that it is read from.
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Recovering`], [`LogError::LogKey`]: try again.
    pub async fn revoked(&self, contents: &CrlContents<'_>) -> Result<RevokedList, LogError> {
        let shared = &self.inner.shared;
        shared.confirmed()?;
        let read::Revoked { list, head } =
            read::revoked(contents, &mut *self.reader().await?).await?;
        // The database shows a commit before its writer knows that it is durable.
        let mut durable = shared.head.subscribe();
        let known = tokio::time::timeout(limits::ANSWER_DEADLINE, async {
            // The sender lives in what this log shares, so this does not fail.
            let _durable = durable.wait_for(|durable| durable.size >= head.0).await;
        });
        if known.await.is_err() {
            return Err(LogError::Read(
                "the newest entries are not known to be durable".to_owned(),
            ));
        }
        let (size, root) = head;
        let checkpoint = shared.note(size, root).await?;
        Ok(RevokedList {
            list,
            size,
            checkpoint,
        })
    }

    /// The partitions of an issuer (0: it has none) whose revocations changed in the entries from `since` on,
    /// each with the last such entry.
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Recovering`]: try again.
    pub async fn revoked_since(
        &self,
        issuer: &IssuerName,
        since: u64,
    ) -> Result<BTreeMap<u32, u64>, LogError> {
        self.inner.shared.confirmed()?;
        read::changed(issuer, since, &mut *self.reader().await?).await
    }

    /// Whether the log issued the CRL of this number and partition, which covers its first `covered` entries. False
    /// also where its outcome stands far behind them.
    ///
    /// # Errors
    /// [`LogError::Read`], [`LogError::Recovering`]: try again.
    pub async fn issued_crl(
        &self,
        issuer: &IssuerName,
        (number, partition): (u64, u32),
        covered: u64,
    ) -> Result<bool, LogError> {
        self.inner.shared.confirmed()?;
        let subject = Subject::Crl { number, partition };
        read::issued((issuer, subject), covered, &mut *self.reader().await?).await
    }

    /// The next CRL number of an issuer: the larger of last + 1 and the time in milliseconds.
    ///
    /// Its full CRL and its partitions share the sequence.
    ///
    /// # Errors
    /// [`LogError::Read`].
    pub async fn next_crl_number(&self, issuer: &IssuerName) -> Result<u64, LogError> {
        let last = read::crl_number(issuer, &mut *self.reader().await?).await?;
        let now = self.inner.shared.clock.now().0;
        Ok(last.map_or(now, |last| now.max(last.saturating_add(1))))
    }

    /// A connection that only reads.
    async fn reader(&self) -> Result<PoolConnection<sqlx::Sqlite>, LogError> {
        let shared = &self.inner.shared;
        let acquired = shared.readers().acquire().await;
        acquired.map_err(|error| match shared.state() {
            // Recovery closes the readers, and opens them again when it succeeds.
            LogState::Halted { reason } => LogError::Halted(reason),
            LogState::Recovering | LogState::Running => LogError::read(&error),
        })
    }

    /// A checkpoint (whole signed note) over everything that is durable now.
    ///
    /// # Errors
    /// [`LogError::LogKey`] or [`LogError::Recovering`]: try again.
    pub async fn checkpoint(&self) -> Result<String, LogError> {
        let head = self.inner.shared.confirmed()?;
        self.inner.shared.note(head.size, head.root).await
    }

    /// The root of the tree of the first `size` entries in the store; none where it has fewer. Answers while
    /// recovering too: it tells what the store holds, not what is known to be durable.
    ///
    /// # Errors
    /// [`LogError::Read`]: try again. [`LogError::Damaged`]: restore a backup.
    pub async fn root_at(&self, size: u64) -> Result<Option<Hash>, LogError> {
        let head = *self.inner.shared.head.borrow();
        if size >= head.size {
            return Ok((size == head.size).then_some(head.root));
        }
        let edge = tree::edge_at(size, &mut *self.reader().await?).await?;
        Ok(Some(edge.root()))
    }

    /// The key that verifies checkpoints.
    #[must_use]
    pub fn verifier(&self) -> &VerifierKey {
        &self.inner.shared.verifier
    }

    /// The verifier key in its text form.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        self.inner.shared.verifier.to_string()
    }

    /// The origin line.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.inner.shared.origin
    }

    /// Publishes everything that is durable now and returns when it is on disk.
    ///
    /// # Errors
    /// [`LogError`]; publication goes on being retried.
    pub async fn publish(&self) -> Result<(), LogError> {
        let shared = &self.inner.shared;
        let target = shared.confirmed()?.size;
        let mut published = shared.published.subscribe();
        let before = published.borrow_and_update().failures;
        shared.urgent.notify_one();
        let reached = published
            .wait_for(|state| state.size >= target || state.failures > before)
            .await;
        match reached {
            Ok(state) if state.size >= target => Ok(()),
            Ok(state) => {
                let fault = state.fault.clone().unwrap_or_default();
                Err(LogError::Publish(fault))
            }
            Err(_gone) => Err(LogError::Stopping),
        }
    }

    /// State, size, age.
    #[must_use]
    pub fn status(&self) -> LogStatus {
        let shared = &self.inner.shared;
        let head = *shared.head.borrow();
        LogStatus {
            state: shared.state(),
            size: head.size,
            published: shared.published.borrow().size,
            newest: head.newest,
            open_intents: head.open_intents,
        }
    }

    /// Takes no more intents, waits for the queue and open intents to drain, publishes, appends no more.
    pub async fn stop(&self) {
        self.inner.shared.stopping.store(true, Ordering::SeqCst);
        let (answer, answered) = oneshot::channel();
        if self.ask(Append::Stop { answer }).await.is_ok() {
            // An error is the writer's end, which is what we wait for.
            let _stopped = answered.await;
        }
        let tasks = {
            let mut tasks = self
                .inner
                .tasks
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            tasks.take()
        };
        if let Some(tasks) = tasks {
            // A task that panicked has aborted the process or said why.
            let _ended = tasks.writer.await;
            let _ended = tasks.publisher.await;
            let _ended = tasks.mover.await;
        }
        self.inner.shared.readers().close().await;
    }
}
