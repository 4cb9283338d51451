//! Keeps an issuer's CRLs fresh: renews them long before they end, and at once when something is revoked.
//!
//! Owns when a CRL is made. Promises that a revocation is on the CRL a few seconds after it is durable while
//! a token can sign, that revocations in between share one CRL, and that an outage is told once when it begins
//! and once when it ends. Never gives up, and never asks a token that is away: that would fill the log. Failure
//! story: the published CRLs stay; attempts go on with longer pauses; below half of a CRL's life it is a
//! warning, below a quarter an error.

use std::path::PathBuf;
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::log::Gone;
use certstatus::log::checkpoint::VerifierKey;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Board, CrlError, Kind, Made, Published, Terms, issue, kinds, read};
use crate::config::CrlTerms;
use crate::issuer::{AbortOnPanic, Issuer, MakeFailed, Signer};
use crate::limits;
use crate::profile::IssuerFacts;
use crate::signing_log::{IssuerRole, LogError, SigningLog};
use crate::time::Clock;

/// The longest sleep: the wall clock may jump, and ages are to be judged.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// The first pause after a failure; it doubles.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest while an attempt leaves nothing in the log.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest after attempts that left entries in the log.
const RETRY_PAUSE_LOGGED_MAX: Duration = Duration::from_secs(60);

/// How far `thisUpdate` may lie ahead of the clock before the CRL is made anew: readers would not take it yet.
const AHEAD_MAX: Duration = Duration::from_secs(60);

/// How seldom an issuer's CRLs are made, and how long they count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// From `thisUpdate` to `nextUpdate`.
    pub validity: Duration,
    /// From one CRL to the next, while nothing is revoked; less where that is more than a third of its life.
    pub every: Option<Duration>,
    /// expiredCertsOnCRL.
    pub keep_expired_since: Option<UnixMillis>,
}

/// An issuer whose key is at hand, once it is.
pub type Loaded = watch::Receiver<Option<Issuer>>;

/// Keeps the CRLs of one issuer.
pub struct Keeper {
    log: SigningLog,
    clock: Clock,
    published: PathBuf,
    facts: IssuerFacts,
    schedule: Schedule,
    loaded: Loaded,
    board: Board,
    targets: Vec<Target>,
    alarm: Alarm,
}

/// One of the CRLs.
#[derive(Debug)]
struct Target {
    kind: Kind,
    head: Option<Published>,
    /// A newer one, which could not be written where readers look: written first, so that no retry costs a signature.
    unwritten: Option<Made>,
    /// Whether the log is known to have issued what is published.
    logged: bool,
}

/// How little of a CRL's life is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    /// More than half.
    Fresh,
    /// Less than half.
    Half,
    /// Less than a quarter.
    Quarter,
    /// Nothing: relying parties refuse it, and with it everybody.
    Ended,
}

/// Why a round did not make every CRL that is due.
#[derive(Debug, thiserror::Error)]
enum RoundFailed {
    /// The issuer is not loaded, or its token cannot sign: nothing was tried.
    #[error("its token cannot sign now")]
    NoToken,
    /// An attempt failed.
    #[error(transparent)]
    Crl(#[from] CrlError),
}

impl Schedule {
    /// The schedule of an issuer of this role under these terms.
    #[must_use]
    pub fn of(role: IssuerRole, terms: CrlTerms) -> Self {
        let default = match role {
            IssuerRole::Root => limits::ROOT_CRL_VALIDITY,
            IssuerRole::Device | IssuerRole::Access => limits::CRL_VALIDITY,
        };
        Self {
            validity: terms.validity.unwrap_or(default),
            every: terms.every,
            keep_expired_since: terms.keep_expired_since,
        }
    }

    /// From one CRL to the next.
    fn every(&self, life: Duration) -> Duration {
        let asked = self.every.unwrap_or(limits::CRL_EVERY.min(life / 3));
        asked.min(life / 2)
    }

    /// When a published CRL is to be followed by another, whatever is revoked.
    fn due(&self, head: &Published) -> UnixMillis {
        let life = Duration::from_millis(head.next_update.0.saturating_sub(head.this_update.0));
        head.this_update.saturating_add(self.every(life))
    }

    /// What stays out of the CRL that follows this one: what had expired a whole interval ago and stood on it.
    ///
    /// X.509 wants a revoked certificate on one regular CRL after its expiry; those that a revocation asks
    /// for are no regular ones, hence the interval.
    fn gone(&self, head: Option<&Published>, now: UnixMillis) -> Option<Gone> {
        let head = head?;
        let regular = now.saturating_sub(self.every(self.validity));
        let mut expired = head.this_update.min(regular);
        if let Some(since) = self.keep_expired_since {
            expired = expired.min(since);
        }
        Some(Gone {
            covered: head.covered,
            expired,
        })
    }
}

impl Alarm {
    /// How it stands with a CRL.
    fn of(head: Option<&Published>, now: UnixMillis) -> Self {
        let Some(head) = head else {
            return Self::Ended;
        };
        let life = head.next_update.0.saturating_sub(head.this_update.0);
        let left = head.next_update.0.saturating_sub(now.0);
        match left {
            0 => Self::Ended,
            left if left < life / 4 => Self::Quarter,
            left if left < life / 2 => Self::Half,
            _ => Self::Fresh,
        }
    }
}

impl RoundFailed {
    /// Whether the attempt left entries in the log.
    const fn logged(&self) -> bool {
        match self {
            Self::NoToken | Self::Crl(CrlError::Log(_)) => false,
            Self::Crl(CrlError::Make(failed)) => !matches!(failed, MakeFailed::Intent(_)),
            // It is kept and written again.
            Self::Crl(CrlError::Write { .. }) => false,
        }
    }
}

impl Keeper {
    /// Keeps the CRLs of an issuer below `published`, once `loaded` brings its key.
    #[must_use]
    pub fn new(
        (log, clock, published): (SigningLog, Clock, PathBuf),
        (role, facts): (IssuerRole, IssuerFacts),
        schedule: Schedule,
        loaded: Loaded,
        board: Board,
    ) -> Self {
        let target = |kind| Target {
            kind,
            head: None,
            unwritten: None,
            logged: false,
        };
        Self {
            targets: kinds(role, &facts).into_iter().map(target).collect(),
            log,
            clock,
            published,
            facts,
            schedule,
            loaded,
            board,
            alarm: Alarm::Fresh,
        }
    }

    /// Keeps them, for ever.
    pub async fn run(mut self) {
        let _guard = AbortOnPanic;
        let mut revocations = self.log.revocations();
        self.look().await;
        let (mut told, mut pause) = (None, RETRY_PAUSE_MIN);
        loop {
            revocations.borrow_and_update();
            self.loaded.borrow_and_update();
            let started = Instant::now();
            let ended = self.round().await;
            self.raise();
            match ended {
                Ok(made) => {
                    if told.take().is_some() {
                        tracing::info!(issuer = %self.facts.name, "its CRLs are kept fresh again");
                    }
                    self.board.trouble(&self.facts.name, None);
                    pause = RETRY_PAUSE_MIN;
                    if made {
                        // What is revoked meanwhile shares the next one.
                        tokio::time::sleep_until(started + limits::CRL_PAUSE).await;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(self.idle()) => {}
                        // The senders live in the log and in the daemon, for longer than this task.
                        _ = revocations.changed() => {}
                    }
                }
                Err(error) => {
                    self.tell(&error, &mut told);
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        Ok(()) = self.loaded.changed() => {}
                    }
                    let longest = match error.logged() {
                        true => RETRY_PAUSE_LOGGED_MAX,
                        false => RETRY_PAUSE_MAX,
                    };
                    pause = (pause * 2).min(longest);
                }
            }
        }
    }

    /// Reads what is published.
    async fn look(&mut self) {
        let Ok(log_key) = VerifierKey::parse(&self.log.verifier_key()) else {
            return; // It is the text of a key that parsed.
        };
        for target in &mut self.targets {
            target.head = read(&self.published, &self.facts, &target.kind, &log_key).await;
            let (name, partition) = (&self.facts.name, target.kind.partition);
            self.board.publish(name, partition, target.head.as_ref());
        }
    }

    /// Makes every CRL that is due; tells whether there was one.
    async fn round(&mut self) -> Result<bool, RoundFailed> {
        let heads = self.targets.iter().map(|target| target.head.as_ref());
        let since = heads.map(|head| head.map_or(0, |head| head.covered)).min();
        let changed = self
            .log
            .revoked_since(&self.facts.name, since.unwrap_or(0))
            .await
            .map_err(CrlError::Log)?;
        let newest = changed.values().max().copied();
        let (mut made, mut failed) = (false, None);
        for place in 0..self.targets.len() {
            let Some(target) = self.targets.get(place) else {
                continue;
            };
            let partition = target.kind.partition;
            let last = match partition {
                0 => newest,
                partition => changed.get(&partition).copied(),
            };
            if !self.is_due(target, last) {
                continue;
            }
            match self.renew(place).await {
                Ok(()) => made = true,
                Err(RoundFailed::NoToken) => return Err(RoundFailed::NoToken),
                // One that fails keeps no other from being made: partitions are there for what a full one is too long for.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(made),
        }
    }

    /// Whether a CRL is to be made, given the last entry that changed what it lists.
    fn is_due(&self, target: &Target, changed: Option<u64>) -> bool {
        let Some(head) = &target.head else {
            return true;
        };
        let now = self.clock.now();
        now >= self.schedule.due(head)
            || head.this_update > now.saturating_add(AHEAD_MAX)
            || changed.is_some_and(|entry| entry >= head.covered)
    }

    /// Makes and publishes a CRL; publishes the one that was made before and could not be written, where there is one.
    async fn renew(&mut self, place: usize) -> Result<(), RoundFailed> {
        let Some(target) = self.targets.get_mut(place) else {
            return Ok(());
        };
        let made = match target.unwritten.take() {
            Some(made) => made,
            None => self.make(place).await?,
        };
        let name = self.facts.name.clone();
        let published = made.publish(&self.log, &name, &self.published).await;
        let Some(target) = self.targets.get_mut(place) else {
            return Ok(());
        };
        let head = match published {
            Ok(head) => head,
            Err((error, made)) => {
                target.unwritten = Some(made);
                return Err(error.into());
            }
        };
        target.head = Some(head);
        target.logged = true;
        let partition = target.kind.partition;
        self.board.publish(&name, partition, Some(&head));
        tracing::info!(
            issuer = %name, partition, number = head.number, listed = head.listed,
            until = %head.next_update, "CRL published"
        );
        Ok(())
    }

    /// Makes a CRL.
    async fn make(&self, place: usize) -> Result<Made, RoundFailed> {
        let signer = self.signer().ok_or(RoundFailed::NoToken)?;
        let target = self.targets.get(place).ok_or(RoundFailed::NoToken)?;
        let (now, head) = (self.clock.now(), target.head.as_ref());
        let gone = match self.logged(target).await? {
            true => self.schedule.gone(head, now),
            false => None,
        };
        let terms = Terms {
            kind: target.kind.clone(),
            validity: self.schedule.validity,
            now,
            expired_since: self.schedule.keep_expired_since,
            gone,
            after: head.map_or(0, |head| head.number),
        };
        Ok(issue(&self.log, &signer, &self.facts, &terms).await?)
    }

    /// Whether the log issued the published CRL: only then may what stood on it leave. A log that was restored from
    /// a backup knows of neither the CRL nor, perhaps, of revocations on it.
    async fn logged(&self, target: &Target) -> Result<bool, CrlError> {
        let Some(head) = target.head.filter(|_| !target.logged) else {
            return Ok(target.logged);
        };
        let (number, partition) = (head.number, target.kind.partition);
        let issued = self
            .log
            .issued_crl(&self.facts.name, (number, partition), head.covered);
        issued.await.map_err(CrlError::Log)
    }

    /// The key, if its token could sign now.
    fn signer(&self) -> Option<Signer> {
        let loaded = self.loaded.borrow();
        let signer = loaded.as_ref().map(Issuer::signer);
        signer.filter(|signer| signer.usable()).cloned()
    }

    /// How long there is nothing to do, unless something is revoked.
    fn idle(&self) -> Duration {
        let now = self.clock.now();
        let heads = self
            .targets
            .iter()
            .filter_map(|target| target.head.as_ref());
        let next = heads.map(|head| self.schedule.due(head)).min();
        let until = next.map_or(0, |next| next.0.saturating_sub(now.0));
        Duration::from_millis(until).min(LOOK_INTERVAL)
    }

    /// Tells of a failure, once for each reason.
    fn tell(&self, error: &RoundFailed, told: &mut Option<String>) {
        let text = certstatus::chain(error);
        // While the log recovers or ends, everything waits, and others say so.
        let waits = matches!(
            error,
            RoundFailed::Crl(CrlError::Log(LogError::Recovering | LogError::Stopping))
        );
        self.board.trouble(&self.facts.name, Some(&text));
        if !waits && told.as_ref() != Some(&text) {
            tracing::warn!(
                issuer = %self.facts.name, error = %text,
                "its CRLs are not renewed; it is tried again"
            );
            *told = Some(text);
        }
    }

    /// Raises or ends the alarm about the CRL with the least of its life left.
    fn raise(&mut self) {
        let now = self.clock.now();
        let alarms = self.targets.iter().map(|target| {
            let alarm = Alarm::of(target.head.as_ref(), now);
            (alarm, target.kind.partition, target.head)
        });
        let Some((alarm, partition, head)) = alarms.max_by_key(|(alarm, ..)| *alarm) else {
            return;
        };
        if alarm == self.alarm {
            return;
        }
        self.alarm = alarm;
        let issuer = &self.facts.name;
        let until = head.map_or_else(|| "never".to_owned(), |head| head.next_update.to_string());
        match alarm {
            Alarm::Fresh => tracing::info!(%issuer, "its CRLs are fresh"),
            Alarm::Half => tracing::warn!(
                %issuer, partition, %until, "less than half of a CRL's life is left: see why it is not renewed"
            ),
            Alarm::Quarter => tracing::error!(
                %issuer, partition, %until, "less than a quarter of a CRL's life is left: when it ends, \
                 whoever checks it refuses every certificate of this issuer"
            ),
            Alarm::Ended => tracing::error!(
                %issuer, partition, %until, "there is no CRL that counts: whoever checks it refuses every \
                 certificate of this issuer"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const NOW: UnixMillis = UnixMillis::from_seconds(1_800_000_000);

    fn head(life: Duration) -> Published {
        Published {
            number: 1,
            this_update: NOW,
            next_update: NOW.saturating_add(life),
            covered: 9,
            listed: None,
        }
    }

    fn schedule(validity: Duration, every: Option<Duration>) -> Schedule {
        Schedule {
            validity,
            every,
            keep_expired_since: None,
        }
    }

    #[test]
    fn a_crl_is_renewed_long_before_it_ends() {
        let daily = schedule(7 * DAY, None);
        assert_eq!(daily.due(&head(7 * DAY)), NOW.saturating_add(DAY));
        // A third of a short life, also of one that was configured otherwise.
        assert_eq!(daily.due(&head(6 * HOUR)), NOW.saturating_add(2 * HOUR));
        assert_eq!(daily.due(&head(365 * DAY)), NOW.saturating_add(DAY));
        let hourly = schedule(7 * DAY, Some(HOUR));
        assert_eq!(hourly.due(&head(7 * DAY)), NOW.saturating_add(HOUR));
        // Never later than at half of the life that the published one has.
        let weekly = schedule(30 * DAY, Some(7 * DAY));
        assert_eq!(weekly.due(&head(2 * DAY)), NOW.saturating_add(DAY));
    }

    #[test]
    fn defaults_are_those_of_the_role() {
        let of = |role| Schedule::of(role, CrlTerms::default()).validity;
        assert_eq!(of(IssuerRole::Device), 7 * DAY);
        assert_eq!(of(IssuerRole::Access), 7 * DAY);
        assert_eq!(of(IssuerRole::Root), 365 * DAY);
        let terms = CrlTerms {
            validity: Some(DAY),
            every: Some(HOUR),
            keep_expired_since: Some(NOW),
        };
        let asked = Schedule::of(IssuerRole::Root, terms);
        assert_eq!((asked.validity, asked.every), (DAY, Some(HOUR)));
        assert_eq!(asked.keep_expired_since, Some(NOW));
    }

    #[test]
    fn what_expired_leaves_after_a_whole_interval_and_a_crl() {
        let daily = schedule(7 * DAY, None);
        assert_eq!(daily.gone(None, NOW), None);
        let old = head(7 * DAY);
        let gone = |expired| {
            let covered = 9;
            Some(Gone { covered, expired })
        };
        let later = NOW.saturating_add(3 * DAY);
        // Long after the last CRL: what expired before it.
        assert_eq!(daily.gone(Some(&old), later), gone(NOW));
        // Seconds after the last CRL: what expired a day ago.
        let soon = NOW.saturating_add(Duration::from_secs(3));
        let day_ago = soon.saturating_sub(DAY);
        assert_eq!(daily.gone(Some(&old), soon), gone(day_ago));
        let since = NOW.saturating_sub(30 * DAY);
        let kept = Schedule {
            keep_expired_since: Some(since),
            ..daily
        };
        assert_eq!(kept.gone(Some(&old), later), gone(since));
    }

    #[test]
    fn the_alarm_follows_what_is_left() {
        let crl = head(8 * DAY);
        let rows = [
            (DAY, Alarm::Fresh),
            (4 * DAY, Alarm::Fresh),
            (5 * DAY, Alarm::Half),
            (7 * DAY, Alarm::Quarter),
            (8 * DAY, Alarm::Ended),
            (9 * DAY, Alarm::Ended),
        ];
        for (age, alarm) in rows {
            assert_eq!(
                Alarm::of(Some(&crl), NOW.saturating_add(age)),
                alarm,
                "{age:?}"
            );
        }
        assert_eq!(Alarm::of(None, NOW), Alarm::Ended);
    }
}
