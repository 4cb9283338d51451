//! `crl-sync`: puts verified CRLs where a broker reads them, and makes sure that the broker knows.
//!
//! Owns the order: fetch, verify, write, rename, read back, and only then signal. Promises that
//! - nothing but a CRL that verifies, counts now and is newer gets into a broker's file, and never half of it;
//! - what was written is told until the broker was told, through failures, kills and restarts (`owed` in the state
//!   directory stands before the first file changes and goes after the broker was told);
//! - a file is not made before every issuer's CRL is there: a broker refuses every client of one that is missing;
//! - the log says so at a half and a quarter of a CRL's life and at its end.
//!
//! ```text
//!  fetch.rs ── octets ──▶ issuer.rs ── Crl ──▶ store.rs, place.rs ── files ──▶ broker.rs
//!                                      └─────▶ alarm.rs
//! ```
//!
//! Never trusts a source, never takes a CRL out of a file. Failure story: what fails is told once, shown in status and
//! metrics, and tried again at longer and longer pauses; what is in place stays.

mod alarm;
mod broker;
mod config;
mod fetch;
mod issuer;
mod look;
mod ops;
mod place;
mod status;
mod store;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use crate::responder::{Clock, Stopping};
use alarm::Level;
use broker::{Change, TellError};
pub use config::SyncConfig;
use config::{BrokerConfig, CrlConfig};
use issuer::{Crl, Issuer};
use look::{Looking, Sources};
use place::Wanted;
pub use status::SyncStatus;
use store::Store;

/// The pause after a first failure to tell the broker.
const PAUSE_FIRST: Duration = Duration::from_secs(1);

/// The longest pause between two tries: a broker that comes back learns of revocations within it.
const PAUSE_LAST: Duration = Duration::from_secs(60);

/// Why `crl-sync` does not start.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The state directory.
    #[error("{} cannot be used", path.display())]
    State {
        /// What of it.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Health and metrics.
    #[error("{address} (listen.ops) cannot be listened at")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process.
    #[error("{} is locked: another crl-sync runs with this configuration", path.display())]
    Locked {
        /// The lock.
        path: PathBuf,
    },
}

/// What stops a round before the broker has what it should have.
#[derive(Debug, thiserror::Error)]
enum RoundError {
    /// Some CRLs were never there.
    #[error(
        "nothing is written before every issuer's CRL is there, since the broker would refuse every client of the others: {0}"
    )]
    Waiting(String),
    /// A file.
    #[error("{} cannot be written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The broker.
    #[error("the CRL is in place and the broker could not be told")]
    Tell(#[source] TellError),
    /// The broker, which was told.
    #[error(
        "the CRL is in place and new connections are judged by it; sessions of revoked clients are NOT ended"
    )]
    Sessions(#[source] TellError),
}

impl From<TellError> for RoundError {
    fn from(error: TellError) -> Self {
        match error {
            TellError::Sessions(why) => Self::Sessions(*why),
            other => Self::Tell(other),
        }
    }
}

/// One issuer's CRL: what is in place, and what the broker was told of.
#[derive(Debug)]
struct Held {
    issuer: Arc<Issuer>,
    /// Its file.
    path: PathBuf,
    /// The newest that verified.
    current: Option<Arc<Crl>>,
    /// The one that the broker was told of last.
    told: Option<Arc<Crl>>,
    level: Level,
}

impl Held {
    /// Whether the broker was not told of what is in place.
    fn has_news(&self) -> bool {
        match (&self.current, &self.told) {
            (None, _) => false,
            (Some(current), Some(told)) => current.der != told.der,
            (Some(_), None) => true,
        }
    }
}

/// The synchroniser of one broker.
#[derive(Debug)]
pub struct Syncer {
    broker: BrokerConfig,
    poll: Duration,
    ops: Option<SocketAddr>,
    clock: Clock,
    store: Store,
    held: Vec<Held>,
    sources: Sources,
    /// What the files were when they were last seen to be right.
    seen: Option<Vec<store::Stamp>>,
    /// Whether the broker has files already.
    established: bool,
    /// What went wrong last, until it goes right.
    failure: Option<String>,
    /// On the steady clock: not told before.
    next_try: u64,
    pause: Duration,
    counts: status::Counts,
    /// What others may see.
    shared: ops::Shared,
}

impl Syncer {
    /// Takes up what is in place and what is owed; asks no source yet.
    ///
    /// # Errors
    /// [`SyncError`]: mend the state directory, or end the other process.
    pub fn open(config: SyncConfig, clock: Clock) -> Result<Self, SyncError> {
        let store = Store::open(&config.state_dir)?;
        let (mut issuers, mut sources) = (Vec::new(), Vec::new());
        for CrlConfig {
            issuer,
            sources: of_one,
        } in config.crls
        {
            issuers.push(Arc::new(issuer));
            sources.push(of_one);
        }
        let paths = config.broker.target.paths(&references(&issuers));
        let held: Vec<Held> = issuers
            .iter()
            .zip(paths)
            .map(|(issuer, path)| Held {
                issuer: Arc::clone(issuer),
                path,
                current: None,
                told: store.told(issuer).map(Arc::new),
                level: Level::Fresh,
            })
            .collect();
        let mut syncer = Self {
            broker: config.broker,
            poll: config.poll,
            ops: config.ops,
            clock,
            store,
            held,
            sources: Sources::new(&issuers, sources),
            seen: None,
            established: false,
            failure: None,
            next_try: 0,
            pause: PAUSE_FIRST,
            counts: status::Counts::default(),
            shared: ops::Shared::default(),
        };
        syncer.take_up();
        Ok(syncer)
    }

    /// Takes up the newest CRLs that are in place or were told of.
    fn take_up(&mut self) {
        for held in &mut self.held {
            let in_place = place::read(&held.path).into_iter();
            let mut found: Vec<Crl> = in_place
                .filter_map(|der| held.issuer.verify(der).ok())
                .collect();
            self.established |= !found.is_empty();
            found.extend(held.told.as_deref().cloned());
            for crl in found {
                let newer = held
                    .current
                    .as_ref()
                    .is_none_or(|kept| kept.number < crl.number);
                if newer {
                    tracing::info!(crl = held.issuer.name.as_str(), number = crl.number, until = %crl.next_update, "a CRL is in place");
                    held.current = Some(Arc::new(crl));
                }
            }
        }
    }

    /// Looks, writes and tells until `told` is ready.
    ///
    /// # Errors
    /// [`SyncError::Listen`]: another program has the address of `listen.ops`.
    pub async fn run(mut self, told: impl Future<Output = ()>) -> Result<(), SyncError> {
        let (_stop, stopping) = Stopping::new();
        if let Some(address) = self.ops {
            let listener = TcpListener::bind(address).await;
            let listener = listener.map_err(|source| SyncError::Listen { address, source })?;
            tracing::info!(ops = %address, "health and metrics");
            tokio::spawn(ops::serve(listener, self.shared.clone(), stopping));
        }
        tokio::pin!(told);
        loop {
            let round = self.round(Looking::AsTheyCome);
            tokio::select! {
                () = round => {}
                () = &mut told => break,
            }
            tokio::select! {
                () = tokio::time::sleep(self.poll) => {}
                () = &mut told => break,
            }
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Looks at every source, writes and tells once.
    pub async fn once(&mut self) -> SyncStatus {
        self.round(Looking::AtAll).await;
        self.status()
    }

    /// One round.
    async fn round(&mut self, looking: Looking) {
        self.look(looking).await;
        let done = match self.put() {
            Ok(()) => self.tell().await,
            Err(error) => Err(error),
        };
        match done {
            // Between two tries nothing is well yet.
            Ok(()) if self.is_owed() => {}
            Ok(()) => {
                if self.failure.take().is_some() {
                    tracing::info!("all is well again: the broker has the CRLs and knows");
                }
            }
            Err(error) => self.fail(&error),
        }
        self.watch();
        self.shared.publish(self.status());
    }

    /// Takes newer CRLs from the sources.
    async fn look(&mut self, looking: Looking) {
        let mut found = self.sources.look(looking).await;
        let now = self.clock.now().date;
        while let Some((at, crl)) = found.pop() {
            let Some(held) = self.held.get_mut(at.issuer) else {
                continue;
            };
            let replaces = match &held.current {
                None => Ok(true),
                Some(kept) => crl.replaces(kept),
            };
            let taken = crl.counts_at(now).and(replaces);
            if let Ok(true) = taken {
                tracing::info!(crl = held.issuer.name.as_str(), number = crl.number, made = %crl.this_update, until = %crl.next_update, source = %self.sources.name(at), "a newer CRL verified");
                held.current = Some(Arc::new(crl));
                self.seen = None;
            }
            self.sources.judged(at, taken.map(|_| ()));
        }
    }

    /// Makes the broker's files say what they should.
    fn put(&mut self) -> Result<(), RoundError> {
        if self.seen.is_some() && self.seen == self.stamps() {
            return Ok(());
        }
        if self.seen.take().is_some() {
            tracing::warn!("the broker's files were changed by somebody else");
            self.take_up();
        }
        let missing = self.held.iter().filter(|held| held.current.is_none());
        let missing: Vec<&str> = missing.map(|held| held.issuer.name.as_str()).collect();
        if !missing.is_empty() && !self.established {
            return Err(RoundError::Waiting(format!(
                "{} is missing",
                missing.join(", ")
            )));
        }
        let issuers: Vec<&Issuer> = self.held.iter().map(|held| &*held.issuer).collect();
        let crls: Vec<Option<&Crl>> = self
            .held
            .iter()
            .map(|held| held.current.as_deref())
            .collect();
        for wanted in self.broker.target.wanted(&issuers, &crls) {
            if wanted.is_in_place() {
                continue;
            }
            self.put_one(&wanted).map_err(|source| RoundError::Write {
                path: wanted.path.clone(),
                source,
            })?;
            self.established = true;
            // There is something new to tell: at once.
            (self.next_try, self.pause) = (0, PAUSE_FIRST);
        }
        self.seen = self.stamps();
        Ok(())
    }

    /// What tells whether somebody else changed the files.
    fn stamps(&self) -> Option<Vec<store::Stamp>> {
        let with_crl = self.held.iter().filter(|held| held.current.is_some());
        store::stamps(with_crl.map(|held| &held.path))
    }

    /// Puts one file in place; that it is to be told stands on disk before.
    fn put_one(&self, wanted: &Wanted) -> io::Result<()> {
        self.store.owe()?;
        wanted.put(self.broker.access)?;
        tracing::info!(file = %wanted.path.display(), octets = wanted.octets.len(), "written, and read back");
        Ok(())
    }

    /// Whether the broker is to be told of something.
    fn is_owed(&self) -> bool {
        self.store.owes() || self.held.iter().any(Held::has_news)
    }

    /// Tells the broker what it was not told of.
    async fn tell(&mut self) -> Result<(), RoundError> {
        if !self.is_owed() {
            return Ok(());
        }
        if self.clock.now().steady < self.next_try {
            return Ok(());
        }
        let changes = self.changes().await;
        self.counts.tries += 1;
        let told = self.broker.tell(&changes).await;
        // From its end: a command may take longer than the pause.
        self.next_try = self.clock.now().steady.saturating_add(millis(self.pause));
        self.pause = (self.pause * 2).min(PAUSE_LAST);
        told?;
        self.counts.told += 1;
        for change in &changes {
            tracing::info!(
                crl = change.issuer.name.as_str(), number = change.now.number, newly_revoked = change.revoked.len(),
                no_longer_listed = change.unlisted.len(), until = %change.now.next_update, "the broker was told"
            );
        }
        for held in &mut self.held {
            if let Some(current) = held.current.as_ref().filter(|_| held.has_news()) {
                self.store
                    .keep(&held.issuer, current)
                    .map_err(|source| RoundError::Write {
                        path: self.store.path(&held.issuer),
                        source,
                    })?;
                held.told = held.current.clone();
            }
        }
        let path = self.store.owed_path();
        self.store
            .settle()
            .map_err(|source| RoundError::Write { path, source })?;
        (self.next_try, self.pause) = (0, PAUSE_FIRST);
        Ok(())
    }

    /// What the broker is told: every CRL, since it may have been told of any and not said so.
    async fn changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        for held in &self.held {
            let Some(now) = held.current.clone() else {
                continue;
            };
            let (issuer, file, before) = (
                Arc::clone(&held.issuer),
                held.path.clone(),
                held.told.clone(),
            );
            // A million entries take a while to compare.
            let compared =
                tokio::task::spawn_blocking(move || Change::between(issuer, file, now, before));
            changes.extend(compared.await);
        }
        changes
    }

    /// Remembers and tells what went wrong, once.
    fn fail(&mut self, error: &RoundError) {
        let text = crate::chain(error);
        self.counts.failures += 1;
        if self.failure.as_deref() != Some(&text) {
            // In the message too: not every reader of a log shows fields.
            tracing::error!(error = text, "{text}; it is tried again");
            self.failure = Some(text);
        }
    }

    /// Tells how much of each CRL's life is left.
    fn watch(&mut self) {
        let now = self.clock.now().date;
        for held in &mut self.held {
            let level = Level::of(held.current.as_deref(), now);
            alarm::tell(
                held.issuer.name.as_str(),
                held.level,
                level,
                held.current.as_deref(),
            );
            held.level = level;
        }
    }
}

/// References to issuers.
fn references(issuers: &[Arc<Issuer>]) -> Vec<&Issuer> {
    issuers.iter().map(|issuer| &**issuer).collect()
}

/// A duration in milliseconds, as long as there are.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Checks that what a configuration names can be used, without asking or changing anything.
///
/// # Errors
/// [`SyncError::State`]: the directory of a file is missing, and so is the one that it would be made in.
pub fn check(config: &SyncConfig) -> Result<(), SyncError> {
    let issuers: Vec<&Issuer> = config.crls.iter().map(|crl| &crl.issuer).collect();
    for path in config.broker.target.paths(&issuers) {
        let parent = path.parent().unwrap_or(Path::new("/"));
        let is_directory = |path: &Path| {
            std::fs::metadata(path).and_then(|data| match data.is_dir() {
                true => Ok(()),
                false => Err(io::ErrorKind::NotADirectory.into()),
            })
        };
        let found = match is_directory(parent) {
            // A run makes it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                is_directory(parent.parent().unwrap_or(Path::new("/"))).map_err(|_| error)
            }
            found => found,
        };
        found.map_err(|source| SyncError::State {
            path: parent.to_owned(),
            source,
        })?;
    }
    Ok(())
}
