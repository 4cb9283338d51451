//! One followed log: what is told of it, how old it is, and the task that follows it.
//!
//! Owns the age of a view. Promises that the age is the worse of two: by the date of the newest entry, and by the steady
//! time since a newer entry was seen, so that a date set back does not make a frozen feed look fresh; that nothing is
//! answered from a log that is dated ahead of every clock here; and that every change of state is told once, in one line. Never answers. Failure story: whatever following says, the view's own
//! rules hold (see [`crate::view`]); here it becomes a log line, a metric, and, with time, `tryLater`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::sleep;

use super::State;
use super::clock::{Moment, millis};
use super::config::LogConfig;
use super::mirror::{MirrorStatus, blocking};
use super::server::Stopping;
use super::source::SharedSource;
use crate::UnixMillis;
use crate::log::checkpoint::{Checkpoint, VerifierKey};
use crate::view::{Changed, FollowError, Followed, Reader, View};

/// How far the newest entry may lie in the future. Beyond it nothing is answered: an answer dated ahead would be believed
/// for as much longer, whatever the log says meanwhile.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// How far it may lie there when it was beyond [`AHEAD_MAX`] before: less, or a log at the bound would come and go.
const AHEAD_AGAIN_MAX: Duration = Duration::from_secs(30);

/// The least pause after the appliance refused this responder: an operator mends it, or its files change.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// The kind of [`Fault`] where the appliance refuses this responder.
const REFUSED: &str = "refused";

/// What is wrong with following a log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The kind: `unreachable`, `refused`, `torn`, `storage`, `head`, `rollback`, `fork`, `altered`, `bad-entry`.
    pub kind: &'static str,
    /// Whether waiting mends it, so that nobody is suspected.
    pub transient: bool,
    /// The whole of it.
    pub text: String,
}

/// The kinds of [`Fault`], for metrics.
pub const FAULTS: [&str; 9] = [
    "altered",
    "bad-entry",
    "fork",
    "head",
    "refused",
    "rollback",
    "storage",
    "torn",
    "unreachable",
];

impl Fault {
    /// As following told it.
    fn of(error: &FollowError) -> Self {
        let kind = match error {
            FollowError::Unreachable(source) if source.is_refusal() => REFUSED,
            FollowError::Unreachable(_) => "unreachable",
            FollowError::Torn { .. } => "torn",
            FollowError::Storage { .. } => "storage",
            FollowError::Head(_) => "head",
            FollowError::Rollback { .. } => "rollback",
            FollowError::Fork { .. } => "fork",
            FollowError::Altered { .. } => "altered",
            FollowError::BadEntry { .. } => "bad-entry",
        };
        Self {
            kind,
            transient: error.is_transient() && kind != REFUSED,
            text: crate::chain(error),
        }
    }
}

/// What changed at a source, for those that mirror its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Heads verified since the start.
    pub heads: u64,
    /// Of these, with a revocation or release in them.
    pub revocations: u64,
}

/// Whether a view is answered from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is.
    Fresh,
    /// Too old, damaged or empty.
    Old,
    /// Its newest entry lies too far in the future.
    Ahead,
}

/// A log as everybody but its follower sees it.
#[derive(Debug)]
pub struct FollowedLog {
    /// Its place in the configuration.
    pub index: usize,
    /// Its name there.
    pub name: String,
    /// Its verifier key.
    pub key: VerifierKey,
    /// What was verified.
    pub reader: Reader,
    max_age: u64,
    /// The newest entry's time that was looked at.
    as_of: AtomicU64,
    /// Until when there are answers, by date.
    until_date: AtomicU64,
    /// Until when there are answers, by the steady clock.
    until_steady: AtomicU64,
    /// From when on there are answers, by the steady clock: until then the newest entry lies too far in the future.
    from_steady: AtomicU64,
    /// The latest date that our clocks ever vouched for, less the steady time then.
    vouched: AtomicU64,
    generation: AtomicU64,
    knows_issuers: AtomicBool,
    /// The end of the client certificate that the source is read with; 0 where there is none.
    client_until: AtomicU64,
    fault: Mutex<Option<Fault>>,
    /// The note of a head, and the same with our line.
    cosigned: Mutex<Option<(String, Bytes)>>,
    news: watch::Sender<News>,
    /// What is told of its other files.
    pub mirror: MirrorStatus,
}

impl FollowedLog {
    /// With what was kept of it.
    pub fn new(index: usize, config: &LogConfig, reader: Reader, now: Moment) -> Self {
        let log = Self {
            index,
            name: config.name.clone(),
            key: config.key.clone(),
            reader,
            max_age: millis(config.max_age),
            as_of: AtomicU64::new(0),
            until_date: AtomicU64::new(0),
            until_steady: AtomicU64::new(0),
            from_steady: AtomicU64::new(0),
            vouched: AtomicU64::new(0),
            generation: AtomicU64::new(0),
            knows_issuers: AtomicBool::new(false),
            client_until: AtomicU64::new(0),
            fault: Mutex::default(),
            cosigned: Mutex::default(),
            news: watch::Sender::default(),
            mirror: MirrorStatus::default(),
        };
        log.look(now);
        log
    }

    /// Compares the newest entry's time, which is the view's from now on, with our clocks.
    fn look(&self, now: Moment) {
        // The latest one counts: our own clock set back does not make a log that was right one of the future.
        let vouched = now.date.0.saturating_sub(now.steady);
        let vouched = self
            .vouched
            .fetch_max(vouched, Ordering::Relaxed)
            .max(vouched);
        let Some(as_of) = self.reader.as_of() else {
            return;
        };
        let within = |max| {
            let least = as_of.0.saturating_sub(millis(max));
            least.saturating_sub(vouched)
        };
        let mut from = within(AHEAD_MAX);
        if now.steady < from || self.is_ahead(now) {
            from = within(AHEAD_AGAIN_MAX);
        }
        self.from_steady.store(from, Ordering::Relaxed);
        // Every look but the one that first sees an entry leaves the other bounds as they are.
        if self.as_of.swap(as_of.0, Ordering::Relaxed) == as_of.0 {
            return;
        }
        let spent = now.date.0.saturating_sub(as_of.0);
        let left = self.max_age.saturating_sub(spent);
        self.until_date
            .store(as_of.0.saturating_add(self.max_age), Ordering::Relaxed);
        self.until_steady
            .store(now.steady.saturating_add(left), Ordering::Relaxed);
    }

    /// Whether the view is young enough to answer from, and not of the future.
    pub fn is_fresh(&self, now: Moment) -> bool {
        now.date.0 < self.until_date.load(Ordering::Relaxed)
            && now.steady < self.until_steady.load(Ordering::Relaxed)
            && !self.is_ahead(now)
            && !self.reader.is_damaged()
    }

    /// Whether the newest entry lies too far in the future.
    pub fn is_ahead(&self, now: Moment) -> bool {
        now.steady < self.from_steady.load(Ordering::Relaxed)
    }

    /// How many milliseconds the newest entry lies beyond the latest date that our clocks vouch for; none before the
    /// first entry.
    pub fn ahead(&self, now: Moment) -> Option<u64> {
        let vouched = self.vouched.load(Ordering::Relaxed);
        let latest = vouched.saturating_add(now.steady).max(now.date.0);
        Some(self.reader.as_of()?.0.saturating_sub(latest))
    }

    /// What can be said of the view now.
    fn standing(&self, now: Moment) -> Standing {
        if self.is_fresh(now) {
            Standing::Fresh
        } else if self.is_ahead(now) {
            Standing::Ahead
        } else {
            Standing::Old
        }
    }

    /// The age of the view in milliseconds, by the worse of both clocks; none before the first entry.
    pub fn age(&self, now: Moment) -> Option<u64> {
        let as_of = self.reader.as_of()?;
        let by_date = now.date.0.saturating_sub(as_of.0);
        let left = self.until_steady.load(Ordering::Relaxed);
        let by_steady = now.steady.saturating_add(self.max_age).saturating_sub(left);
        Some(by_date.max(by_steady))
    }

    /// Counts the changes that made answers wrong; read it before a status, compare it before keeping an answer.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Counts a change that made answers wrong; before they are dropped, so that none is kept in between.
    pub fn changed(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the certificate of each issuer that the log names is at hand.
    pub fn knows_issuers(&self) -> bool {
        self.knows_issuers.load(Ordering::Relaxed)
    }

    /// Says whether it is.
    pub fn set_knows_issuers(&self, knows: bool) {
        self.knows_issuers.store(knows, Ordering::Relaxed);
    }

    /// The end of the client certificate that the source is read with.
    pub fn client_until(&self) -> Option<UnixMillis> {
        let until = UnixMillis(self.client_until.load(Ordering::Relaxed));
        (until.0 > 0).then_some(until)
    }

    /// Says what it is.
    fn set_client_until(&self, until: Option<UnixMillis>) {
        let until = until.unwrap_or(UnixMillis(0));
        self.client_until.store(until.0, Ordering::Relaxed);
    }

    /// What is wrong with following it.
    pub fn fault(&self) -> Option<Fault> {
        self.fault_lock().clone()
    }

    /// The fault; a panic cannot leave it half changed.
    fn fault_lock(&self) -> std::sync::MutexGuard<'_, Option<Fault>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What changes at its source.
    pub fn news(&self) -> watch::Receiver<News> {
        self.news.subscribe()
    }

    /// The note of the newest verified head with our witness's line; made once for each head. None before the first.
    pub fn cosigned(&self, state: &State) -> Option<Bytes> {
        let note = self.reader.note()?;
        let mut kept = self.cosigned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, cosigned)) = &*kept
            && *of == note
        {
            return Some(cosigned.clone());
        }
        // Read from the note itself, so that nothing else is cosigned than what stands above the line.
        let head = Checkpoint::verify(&note, &self.key).ok()?;
        let cosigned = Bytes::from(state.witness.cosign(&head, &note, state.clock.now().date));
        *kept = Some((note, cosigned.clone()));
        drop(kept);
        Some(cosigned)
    }

    /// Following worked: drops answers that are wrong now.
    fn followed(&self, followed: &Followed, state: &State) {
        let any = match &followed.changed {
            Changed::Serials(serials) if serials.is_empty() => false,
            Changed::Serials(serials) => {
                self.changed();
                for (issuer, serial) in serials {
                    state.answerer.cache().forget(self.index, issuer, *serial);
                }
                true
            }
            Changed::Everything => {
                self.changed();
                state.answerer.cache().forget_log(self.index);
                true
            }
        };
        if followed.entries > 0 {
            self.news.send_modify(|news| {
                news.heads += 1;
                news.revocations += u64::from(any);
            });
        }
        if self.fault_lock().take().is_some() {
            let size = followed.head.size;
            tracing::info!(log = self.name, size, "the log is followed again");
        }
    }

    /// Following did not work: tells it, once.
    fn not_followed(&self, error: &FollowError) {
        let fault = Fault::of(error);
        let mut kept = self.fault_lock();
        if kept.as_ref() == Some(&fault) {
            return;
        }
        // An appliance that restarts is a line; each way in which it cannot be reached is not another one. Nor is each
        // time at which a certificate that has ended is refused.
        let told = kept.as_ref().is_some_and(|kept| {
            kept.kind == fault.kind && (fault.transient || fault.kind == REFUSED)
        });
        let text = fault.text.as_str();
        match (told, fault.transient) {
            (true, _) => tracing::debug!(
                log = self.name,
                kind = fault.kind,
                text,
                "still not followed"
            ),
            (false, true) => tracing::warn!(
                log = self.name,
                kind = fault.kind,
                text,
                "the log is not followed; it is tried again"
            ),
            (false, false) if fault.kind == REFUSED => tracing::error!(
                log = self.name,
                kind = fault.kind,
                text,
                "the appliance refuses this responder's client certificate; what was verified before is answered until \
                 it is too old"
            ),
            (false, false) => tracing::error!(
                log = self.name,
                kind = fault.kind,
                text,
                "the log is not believed; what was verified before is answered until it is too old"
            ),
        }
        *kept = Some(fault);
    }
}

/// The task that follows a log.
#[derive(Debug)]
pub struct Follower {
    view: View,
    source: Arc<SharedSource>,
    log: Arc<FollowedLog>,
    poll: Duration,
}

impl Follower {
    /// Follows into `view`, and tells `log`.
    pub const fn new(
        view: View,
        source: Arc<SharedSource>,
        log: Arc<FollowedLog>,
        poll: Duration,
    ) -> Self {
        Self {
            view,
            source,
            log,
            poll,
        }
    }

    /// Follows until it is time to stop.
    pub async fn run(mut self, state: Arc<State>, mut stopping: Stopping) {
        // What was kept and is too old by now is told too.
        let mut standing = match self.log.reader.as_of() {
            Some(_) => Standing::Fresh,
            None => Standing::Old,
        };
        loop {
            let source = self.source.get();
            self.log.set_client_until(self.source.certificate_until());
            let followed = tokio::select! {
                followed = self.view.follow(&source) => followed,
                // A call that is dropped midway leaves everything as it was.
                () = stopping.wait() => break,
            };
            match followed {
                Ok(followed) => self.log.followed(&followed, &state),
                Err(error) => self.log.not_followed(&error),
            }
            let now = state.clock.now();
            self.log.look(now);
            if self.log.standing(now) != standing {
                standing = self.log.standing(now);
                tell(&self.log, standing, now.date);
            }
            let refused = self.log.fault().is_some_and(|fault| fault.kind == REFUSED);
            let pause = match refused {
                true => self.poll.max(REFUSED_PAUSE),
                false => self.poll,
            };
            tokio::select! {
                () = sleep(pause) => {}
                () = stopping.wait() => break,
            }
        }
        // It waits for a merge to stop, off the threads that answer.
        let view = self.view;
        blocking(move || drop(view)).await;
    }
}

/// One line when answers begin or end, or end for another reason.
fn tell(log: &FollowedLog, standing: Standing, now: UnixMillis) {
    let as_of = log.reader.as_of().map(|as_of| as_of.to_string());
    let log = log.name.as_str();
    match standing {
        Standing::Fresh => tracing::info!(log, as_of, "the view is fresh: it is answered from"),
        Standing::Old => tracing::error!(
            log, as_of, %now, "the view is too old or damaged: the answer is tryLater"
        ),
        Standing::Ahead => tracing::error!(
            log, as_of, %now,
            "the log's newest entry lies in the future: this machine's clock or the appliance's is wrong, and the answer \
             is tryLater"
        ),
    }
}
