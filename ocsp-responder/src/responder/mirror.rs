//! Keeps one appliance's CA certificates, CRLs and this responder's certificates, each of them verified.
//!
//! Owns the directory `files` in a log's state directory and the task that fetches into it: soon after each new head,
//! and every few seconds. Promises that nothing is served or signed with before it verified against the followed log,
//! that the last good file stays when a new one does not verify, and that what is kept is verified again at each start,
//! so that the responder answers while the appliance is down. Spends at most a twentieth of its time on fetching.
//! Failure story: each file that is missing, wrong or old is told once, counted, and tried again.

mod crls;
mod keep;
mod status;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::certificate::{self, CaCertificate, ResponderCertificate};
use super::config::LogConfig;
use super::files::{Kind, Published};
use super::issuers::Issuer;
use super::log::{FollowedLog, News};
use super::server::Stopping;
use super::source::SharedSource;
use super::{RunError, State};
use crate::log::IssuerName;
use crate::log::checkpoint::Checkpoint;
use crate::log::entry::Slug;
use crate::view::{IssuerBinding, Source, Version};
use crls::Anchor;
use keep::Directory;
pub use status::MirrorStatus;
use status::NotTaken;

/// The longest certificate in octets.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// The pause between two rounds where nothing is new.
const IDLE: Duration = Duration::from_secs(5);

/// The pause where there are new heads: an appliance at work has several a second.
const BUSY: Duration = Duration::from_secs(2);

/// The pause where there are new revocations: their CRL is wanted.
const URGENT: Duration = Duration::from_millis(500);

/// Rounds after a revocation that are as urgent: its CRL is signed after it.
const URGENT_ROUNDS: u32 = 10;

/// A round's time is at most this share of all.
const SHARE: u32 = 20;

/// Runs what waits for the disk where it holds nobody up.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        // A fault of this program: it goes on in the task that asked, as if there had been no thread.
        Err(stopped) => std::panic::resume_unwind(Box::new(stopped.to_string())),
    }
}

/// What is kept of one issuer.
#[derive(Debug)]
struct Kept {
    ca: Arc<CaCertificate>,
    certificate: Option<Arc<ResponderCertificate>>,
    /// Whether its key signed a CRL that names this log.
    vouched: bool,
}

/// The task that mirrors one appliance's files.
#[derive(Debug)]
pub struct Mirror {
    source: Arc<SharedSource>,
    log: Arc<FollowedLog>,
    responder: Slug,
    directory: Directory,
    kept: BTreeMap<IssuerName, Kept>,
    /// The CRLs of the source as they were taken last, by path: they may be large, and seldom change.
    versions: BTreeMap<String, Version>,
    /// Since when the CRLs at these paths and the log are of different moments.
    lags: BTreeMap<String, Instant>,
    /// The heads in CRLs, by path: those that are the log's, and those that could not be compared yet.
    compared: BTreeMap<String, Checkpoint>,
    anchors: BTreeMap<String, Anchor>,
    /// Issuers that another log has too, as it was told.
    twins: BTreeSet<IssuerName>,
    /// Whether what is answered for changed in this round.
    changed: bool,
    /// Whose CRLs are looked at first, counted on where those of one issuer ended a round.
    turn: usize,
}

impl Mirror {
    /// Begins with what is kept, verified anew.
    ///
    /// # Errors
    /// [`RunError::Storage`]: the state directory cannot be read.
    pub async fn open(
        config: &LogConfig,
        source: Arc<SharedSource>,
        log: Arc<FollowedLog>,
        state: &State,
    ) -> Result<Self, RunError> {
        let path = config.state_dir.join("files");
        let directory =
            Directory::open(&path).map_err(|source| RunError::Storage { path, source })?;
        let mut mirror = Self {
            source,
            log,
            responder: config.responder.clone(),
            directory,
            kept: BTreeMap::new(),
            versions: BTreeMap::new(),
            lags: BTreeMap::new(),
            compared: BTreeMap::new(),
            anchors: BTreeMap::new(),
            twins: BTreeSet::new(),
            changed: true,
            turn: 0,
        };
        for binding in mirror.log.reader.issuers() {
            mirror.restore(&binding, state).await;
        }
        mirror.tell_issuers(state);
        Ok(mirror)
    }

    /// Takes what is kept of an issuer.
    async fn restore(&mut self, binding: &IssuerBinding, state: &State) {
        let name = &binding.name;
        let Some(der) = self.directory.read(&ca_path(name), CERTIFICATE_BYTES_MAX) else {
            return;
        };
        let Ok(ca) = certificate::ca(der, binding) else {
            // The log names another one by now, or the file was damaged: the source has it.
            return;
        };
        self.adopt_ca(name, ca, state);
        if let Some(der) = self
            .directory
            .read(&certificate_path(name), CERTIFICATE_BYTES_MAX)
            && let Some(kept) = self.kept.get_mut(name)
        {
            match certificate::responder(der, &kept.ca, state.answerer.spki()) {
                Ok(certificate) => kept.certificate = Some(Arc::new(certificate)),
                Err(error) => {
                    let error = crate::chain(&error);
                    tracing::warn!(log = self.log.name, issuer = %name, error, "the kept responder certificate cannot be used");
                }
            }
        }
        self.restore_crls(binding, state).await;
    }

    /// Mirrors until it is time to stop.
    pub async fn run(mut self, state: Arc<State>, mut stopping: Stopping) {
        let mut news = self.log.news();
        let (mut seen, mut urgent) = (News::default(), URGENT_ROUNDS);
        loop {
            let begun = Instant::now();
            tokio::select! {
                () = self.round(&state) => {}
                () = stopping.wait() => return,
            }
            let least = begun.elapsed() * SHARE;
            let now = *news.borrow_and_update();
            urgent = if now.revocations == seen.revocations {
                urgent.saturating_sub(1)
            } else {
                URGENT_ROUNDS
            };
            seen = now;
            tokio::select! {
                () = wait(&mut news, begun, urgent > 0, least, seen) => {}
                () = stopping.wait() => return,
            }
        }
    }

    /// Looks at every file once, as long as the source answers: first at what answers are signed with, since a CRL
    /// may take long, then at the CRLs. Where one takes too long, the next round begins with another issuer's.
    async fn round(&mut self, state: &State) {
        let source = self.source.get();
        let issuers = self.log.reader.issuers();
        let mut answered = true;
        for binding in &issuers {
            answered = answered && self.look_at_certificates(&source, binding, state).await;
        }
        self.tell_issuers(state);
        let first = self.turn.checked_rem(issuers.len()).unwrap_or_default();
        let (later, sooner) = issuers.split_at(first);
        for binding in sooner.iter().chain(later) {
            if !answered {
                break;
            }
            answered = self.look_at_crls(&source, binding, state).await;
            if !answered {
                self.turn = self.turn.wrapping_add(1);
            }
        }
        self.tell_issuers(state);
    }

    /// Looks at the CA certificate of one issuer and at the one for this responder; whether the source answered.
    async fn look_at_certificates(
        &mut self,
        source: &Source,
        binding: &IssuerBinding,
        state: &State,
    ) -> bool {
        let name = &binding.name;
        let known = self.kept.contains_key(name);
        let taken = self.look_at_ca(source, binding, state).await;
        if !self.tell(&ca_path(name), taken, state) {
            return false;
        }
        if !self.kept.contains_key(name) {
            return true;
        }
        if !known {
            // Its index was lost and what was mirrored is there: an old CRL convicts a log that was rewritten meanwhile.
            self.restore_crls(binding, state).await;
        }
        let path = format!("responders/{}/{name}.cer", self.responder);
        let taken = self.look_at_certificate(source, name, &path, state).await;
        self.tell(&path, taken, state)
    }

    /// Tells what became of a file; whether the source answered.
    fn tell(&self, path: &str, taken: Result<(), NotTaken>, state: &State) -> bool {
        let answered = !taken.as_ref().is_err_and(NotTaken::is_the_source);
        self.log
            .mirror
            .tell(&self.log.name, path, taken, &state.metrics);
        answered
    }

    /// Replaces the issuers that are answered for, if they changed.
    fn tell_issuers(&mut self, state: &State) {
        if std::mem::take(&mut self.changed) {
            self.set_issuers(state);
        }
        let bound = self.log.reader.issuers();
        let knows = bound
            .iter()
            .all(|binding| self.kept.contains_key(&binding.name));
        self.log.set_knows_issuers(!bound.is_empty() && knows);
    }

    /// Replaces the issuers that are answered for, and tells those that another log has too.
    fn set_issuers(&mut self, state: &State) {
        let log_has_some = self.kept.values().any(|kept| kept.certificate.is_some());
        let issuers = self.kept.iter().map(|(name, kept)| {
            Arc::new(Issuer {
                log: Arc::clone(&self.log),
                name: name.clone(),
                ca: Arc::clone(&kept.ca),
                certificate: kept.certificate.clone(),
                log_has_some,
                vouched: kept.vouched,
            })
        });
        state.issuers.set(self.log.index, issuers.collect());
        // After it is set: of two logs that come up together the later one sees the other.
        let all = state.issuers.all();
        for (name, kept) in &self.kept {
            let is_twin = |other: &&Arc<Issuer>| {
                other.log.index != self.log.index && other.ca.hashes == kept.ca.hashes
            };
            if let Some(twin) = all.iter().find(is_twin)
                && self.twins.insert(name.clone())
            {
                tracing::error!(log = self.log.name, issuer = %name, other = twin.log.name, "another log names the same issuer: it is answered for from the one that its CRL names");
            }
        }
    }

    /// Fetches the certificate that the log binds an issuer to.
    async fn look_at_ca(
        &mut self,
        source: &Source,
        binding: &IssuerBinding,
        state: &State,
    ) -> Result<(), NotTaken> {
        let name = &binding.name;
        let is_kept =
            |kept: &Kept| crate::log::DetailHash::of(&kept.ca.der).0 == binding.certificate;
        if let Some(kept) = self.kept.get(name).filter(|kept| is_kept(kept)) {
            return self.keep_again(&ca_path(name), &ca_path(name), &kept.ca.der);
        }
        let der = source.get(&ca_path(name), CERTIFICATE_BYTES_MAX).await?;
        let ca = certificate::ca(der.ok_or(NotTaken::Missing)?, binding)?;
        let kept = self.directory.write(&ca_path(name), &ca.der);
        self.adopt_ca(name, ca, state);
        kept.map_err(NotTaken::NotKept)
    }

    /// Serves a CA certificate and answers for it.
    fn adopt_ca(&mut self, name: &IssuerName, ca: CaCertificate, state: &State) {
        let published = Published::new(Kind::Certificate, &ca.der, state.clock.now().date, None);
        if state.files.set(self.log.index, &ca_path(name), published) {
            tracing::warn!(log = self.log.name, issuer = %name, "a log before this one has an issuer of this name: its files have the short paths");
        }
        let before = self.kept.remove(name);
        // A renewed certificate of the same key and Name changes nothing of what that key said.
        let vouched = before.as_ref().is_some_and(|before| {
            before.vouched && before.ca.name == ca.name && before.ca.key.sha256() == ca.key.sha256()
        });
        let certificate = before.and_then(|kept| kept.certificate);
        // A certificate by the same key under another Name is none by this issuer.
        let certificate = certificate.filter(|own| {
            certificate::responder(own.der.clone(), &ca, state.answerer.spki()).is_ok()
        });
        let ca = Arc::new(ca);
        let kept = Kept {
            ca,
            certificate,
            vouched,
        };
        self.kept.insert(name.clone(), kept);
        self.changed = true;
    }

    /// Keeps a file that is used and could not be kept before; `path` is its name at the source.
    fn keep_again(&self, path: &str, at: &str, octets: &[u8]) -> Result<(), NotTaken> {
        if !self.log.mirror.problems().contains_key(path) {
            return Ok(());
        }
        let kept = self.directory.write(at, octets);
        kept.map_err(NotTaken::NotKept)
    }

    /// Fetches this responder's certificate by an issuer.
    async fn look_at_certificate(
        &mut self,
        source: &Source,
        name: &IssuerName,
        path: &str,
        state: &State,
    ) -> Result<(), NotTaken> {
        let der = source.get(path, CERTIFICATE_BYTES_MAX).await?;
        let Some(kept) = self.kept.get(name) else {
            return Ok(());
        };
        let Some(der) = der else {
            // Not every issuer makes one; but one that was there was taken back.
            return kept
                .certificate
                .as_ref()
                .map_or(Ok(()), |_| Err(NotTaken::Missing));
        };
        if kept.certificate.as_ref().is_some_and(|own| own.der == der) {
            return self.keep_again(path, &certificate_path(name), &der);
        }
        let found = certificate::responder(der, &kept.ca, state.answerer.spki())?;
        let now = state.clock.now().date;
        let older = kept
            .certificate
            .as_ref()
            .is_some_and(|own| own.not_after > found.not_after && own.is_valid(now));
        if !found.is_valid(now) || older {
            return Err(NotTaken::Dates {
                from: found.not_before,
                to: found.not_after,
            });
        }
        tracing::info!(log = self.log.name, issuer = %name, until = %found.not_after, "a responder certificate is used from now on");
        let on_disk = self.directory.write(&certificate_path(name), &found.der);
        if let Some(kept) = self.kept.get_mut(name) {
            kept.certificate = Some(Arc::new(found));
        }
        self.changed = true;
        on_disk.map_err(NotTaken::NotKept)
    }
}

/// Waits for the next round.
async fn wait(
    news: &mut watch::Receiver<News>,
    begun: Instant,
    urgent: bool,
    least: Duration,
    seen: News,
) {
    let at = |pause: Duration| sleep_until(begun + pause.max(least));
    if urgent {
        return at(URGENT).await;
    }
    let idle = at(IDLE);
    tokio::pin!(idle);
    loop {
        tokio::select! {
            () = &mut idle => return,
            changed = news.changed() => {
                let now = *news.borrow_and_update();
                let pause = if now.revocations == seen.revocations { BUSY } else { URGENT };
                if changed.is_err() {
                    return idle.await;
                }
                if pause == URGENT {
                    return at(URGENT).await;
                }
                let sooner = idle.deadline().min(begun + BUSY.max(least));
                idle.as_mut().reset(sooner);
            }
        }
    }
}

/// Where a CA certificate is, at the source and in the directory.
fn ca_path(name: &IssuerName) -> String {
    format!("ca/{name}.cer")
}

/// Where this responder's certificate by an issuer is kept.
fn certificate_path(name: &IssuerName) -> String {
    format!("responder/{name}.cer")
}

/// The last part of a path without `.crl`, if it is one.
fn crl_stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".crl")
}
