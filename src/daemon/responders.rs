//! The tasks that keep responders' certificates fresh: one for each device issuer.
//!
//! Owns when a responder's certificate is made, published and removed. Promises that every approved key has a
//! certificate by every device issuer whose token can sign, made at once after the approval and renewed when a third
//! of its life is left; that a certificate which stands published and counts is kept over a restart; and that nothing
//! is made or published any more once a revoked approval is in the log. Never asks a token that is away: that would
//! fill the log. Failure story: the published certificate stays until its end; attempts go on with longer pauses; an
//! outage is told once when it begins and once when it ends.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::durable;
use certstatus::log::entry::Slug;
use certstatus::signature::{PublicKey, SignatureFault};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use x509_cert::name::Name;

use super::DaemonError;
use crate::config::{self, Config};
use crate::csr::VerifiedCsr;
use crate::issuance::{Issuance, IssueError};
use crate::issuer::{self, AbortOnPanic, Issuer};
use crate::profile::IssuerFacts;
use crate::ra::{APPLIANCE, ApprovedResponder, Grant, Purpose};
use crate::responders::{Board, ResponderCertificate, directory, path};
use crate::signing_log::{IssuerRecord, IssuerRole, LogError, SigningLog};
use crate::time::Clock;

/// The profile of responders' certificates.
const PROFILE: &str = "ocsp-signing";

/// The longest pause between two looks: a pause does not see the clock being set.
const LOOK_INTERVAL: Duration = Duration::from_secs(3600);

/// The first pause after a failure; it doubles.
const RETRY_PAUSE_MIN: Duration = Duration::from_secs(1);

/// The longest while an attempt leaves nothing in the log.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);

/// The longest after attempts that may have left entries in the log.
const RETRY_PAUSE_LOGGED_MAX: Duration = Duration::from_secs(600);

/// The largest file that is looked at in octets: a certificate of ours has a tenth.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// Why a responder has no fresh certificate; it is tried again.
#[derive(Debug, thiserror::Error)]
enum KeepFailed {
    /// The approved key.
    #[error("the approved key is unfit")]
    Key(#[source] SignatureFault),
    /// No certificate was issued.
    #[error("no certificate was issued")]
    Issue(#[source] IssueError),
    /// What was issued is not what was asked for.
    #[error("what was issued is not a certificate of this issuer for this key")]
    Strange,
    /// The log does not publish.
    #[error("its entries are not published")]
    Publish(#[source] LogError),
    /// A file.
    #[error("{}: cannot be written, read or removed", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl KeepFailed {
    /// The longest pause that is of use.
    const fn longest_pause(&self) -> Duration {
        match self {
            Self::Issue(IssueError::NoToken | IssueError::Log(_))
            | Self::Publish(_)
            | Self::File { .. } => RETRY_PAUSE_MAX,
            Self::Issue(_) | Self::Key(_) | Self::Strange => RETRY_PAUSE_LOGGED_MAX,
        }
    }

    /// Whether everything waits, and others say so.
    const fn waits(&self) -> bool {
        matches!(
            self,
            Self::Issue(IssueError::Log(LogError::Recovering | LogError::Stopping))
        )
    }
}

/// The running tasks; they end with it.
pub(super) struct Responders {
    issuance: Issuance,
    log: SigningLog,
    clock: Clock,
    published: PathBuf,
    board: Board,
    tasks: JoinSet<()>,
}

impl Responders {
    /// None yet; they tell of themselves on the board.
    pub(super) fn new(
        issuance: &Issuance,
        log: &SigningLog,
        clock: &Clock,
        config: &Config,
        board: Board,
    ) -> Self {
        Self {
            issuance: issuance.clone(),
            log: log.clone(),
            clock: clock.clone(),
            published: config.published.clone(),
            board,
            tasks: JoinSet::new(),
        }
    }

    /// Starts to keep the certificates that an issuer signs for responders, where it is one of devices.
    pub(super) fn keep(
        &mut self,
        record: &IssuerRecord,
        configured: &config::Issuer,
        loaded: watch::Receiver<Option<Issuer>>,
    ) -> Result<(), DaemonError> {
        if record.role != IssuerRole::Device {
            return Ok(());
        }
        let keeper = Keeper {
            issuance: self.issuance.clone(),
            log: self.log.clone(),
            clock: self.clock.clone(),
            published: self.published.clone(),
            board: self.board.clone(),
            facts: issuer::facts(record, configured)?,
            loaded,
            made: BTreeMap::new(),
        };
        self.tasks.spawn(keeper.run());
        Ok(())
    }
}

/// Keeps the certificates that one issuer signs for responders.
struct Keeper {
    issuance: Issuance,
    log: SigningLog,
    clock: Clock,
    published: PathBuf,
    board: Board,
    facts: IssuerFacts,
    /// Tells when its key is there.
    loaded: watch::Receiver<Option<Issuer>>,
    /// What was made since the start, and when: a file that could not be written costs no second signature.
    made: BTreeMap<Slug, (ResponderCertificate, UnixMillis)>,
}

impl Keeper {
    /// Keeps them, for ever.
    async fn run(mut self) {
        let _guard = AbortOnPanic;
        let mut changes = self.log.registry().changes();
        let (mut told, mut pause) = (None, RETRY_PAUSE_MIN);
        loop {
            changes.borrow_and_update();
            self.loaded.borrow_and_update();
            let approved = self.log.registry().responders();
            let until = match self.round(&approved).await {
                Ok(idle) => {
                    if told.take().is_some() {
                        tracing::info!(issuer = %self.facts.name, "responders' certificates are kept fresh again");
                    }
                    pause = RETRY_PAUSE_MIN;
                    idle
                }
                Err(error) => {
                    self.tell(&error, &mut told);
                    let now = pause.min(error.longest_pause());
                    pause = (now * 2).min(error.longest_pause());
                    now
                }
            };
            self.wait(Instant::now() + until, &approved, &mut changes)
                .await;
        }
    }

    /// Waits until then, or until other responders are approved, or the issuer's key is there.
    ///
    /// Other changes of the registry end no pause: lines are added all the time.
    async fn wait(
        &mut self,
        until: Instant,
        approved: &[ApprovedResponder],
        changes: &mut watch::Receiver<()>,
    ) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                Ok(()) = self.loaded.changed() => return,
                Ok(()) = changes.changed() => {
                    if self.log.registry().responders() != approved {
                        return;
                    }
                }
            }
        }
    }

    /// Tells a trouble that is not the one that was told last.
    fn tell(&self, error: &KeepFailed, told: &mut Option<String>) {
        let text = certstatus::chain(error);
        if !error.waits() && told.as_ref() != Some(&text) {
            tracing::warn!(
                issuer = %self.facts.name, error = %text,
                "a responder's certificate is not renewed; it is tried again"
            );
            *told = Some(text);
        }
    }

    /// Makes every certificate that is due and removes those of responders that are not approved; the time until the
    /// next is due.
    async fn round(&mut self, approved: &[ApprovedResponder]) -> Result<Duration, KeepFailed> {
        let is_approved = |name: &Slug| approved.iter().any(|known| known.responder == *name);
        self.made.retain(|name, _| is_approved(name));
        self.board.retain(&self.facts.name, is_approved);
        let mut outcome = self.sweep().await.map(|()| LOOK_INTERVAL);
        for responder in approved {
            // One that fails keeps no other from being looked at.
            let kept = self.keep(responder).await;
            outcome = match (outcome, kept) {
                (Ok(idle), Ok(left)) => Ok(idle.min(left)),
                (Err(error), _) | (Ok(_), Err(error)) => Err(error),
            };
        }
        outcome
    }

    /// Keeps one responder's certificate; the time until it is due.
    async fn keep(&mut self, responder: &ApprovedResponder) -> Result<Duration, KeepFailed> {
        let name = &responder.responder;
        let mut current = self.current(responder).await;
        let made = self.made.get(name).map(|(_, made)| *made);
        let left = |certificate: &ResponderCertificate| {
            certificate
                .due_in(made, self.clock.now())
                .min(LOOK_INTERVAL)
        };
        let due = current
            .as_ref()
            .map_or(Duration::ZERO, |(certificate, _)| left(certificate));
        let outcome = if due.is_zero() {
            match self.issue(responder).await {
                Ok(issued) => {
                    current = Some((issued, false));
                    Ok(RETRY_PAUSE_MIN)
                }
                Err(error) => Err(error),
            }
        } else {
            Ok(due)
        };
        let outcome = match &current {
            Some((certificate, false)) => {
                let written = self.publish(responder, certificate.der.clone()).await;
                written.and(outcome)
            }
            _ => outcome,
        };
        let problem = outcome.as_ref().err().map(|e| certstatus::chain(e));
        let certificate = current.as_ref().map(|(certificate, _)| certificate);
        if self.is_approved(responder) {
            self.board
                .tell(name, &self.facts.name, certificate, problem);
        }
        outcome
    }

    /// Whether the log still has this approval.
    fn is_approved(&self, responder: &ApprovedResponder) -> bool {
        let now = self.log.registry().responder(&responder.responder);
        now.as_ref() == Some(responder)
    }

    /// The responder's certificate that counts, and whether it is the published one.
    async fn current(&self, responder: &ApprovedResponder) -> Option<(ResponderCertificate, bool)> {
        let path = path(&self.published, &responder.responder, &self.facts.name);
        let (facts, spki) = (self.facts.clone(), responder.spki.0.clone());
        let judge = move || {
            let der = read(&path)?;
            let judged = ResponderCertificate::judge(der, &facts, &spki);
            if judged.is_none() {
                tracing::warn!(path = %path.display(), "the published certificate is not this responder's and is made anew");
            }
            judged
        };
        let published = tokio::task::spawn_blocking(judge).await.unwrap_or(None);
        match self.made.get(&responder.responder) {
            Some((made, _)) if published.as_ref() != Some(made) => Some((made.clone(), false)),
            _ => published.map(|certificate| (certificate, true)),
        }
    }

    /// Issues a certificate through the five steps.
    async fn issue(
        &mut self,
        responder: &ApprovedResponder,
    ) -> Result<ResponderCertificate, KeepFailed> {
        let name = &responder.responder;
        let spki = &responder.spki.0;
        let key = PublicKey::parse(spki).map_err(KeepFailed::Key)?;
        // The operators' approval stands for a proof of possession: without the key the certificate is of no use.
        let csr = VerifiedCsr::own_key(Name::default(), key);
        let grant = Grant::act(APPLIANCE, Purpose::Responder(name.clone()));
        let issuer = &self.facts.name;
        let made = self.clock.now();
        let answer = self
            .issuance
            .by_issuer(issuer, grant, PROFILE, csr)
            .await
            .map_err(KeepFailed::Issue)?;
        tracing::info!(
            responder = %name, %issuer, serial = %answer.serial, until = %answer.not_after,
            "a responder's certificate was issued"
        );
        let der = answer.chain.into_iter().next().unwrap_or_default();
        let issued =
            ResponderCertificate::judge(der, &self.facts, spki).ok_or(KeepFailed::Strange)?;
        self.made.insert(name.clone(), (issued.clone(), made));
        Ok(issued)
    }

    /// Writes a certificate where responders look for it, unless its approval was revoked meanwhile.
    async fn publish(&self, responder: &ApprovedResponder, der: Vec<u8>) -> Result<(), KeepFailed> {
        // A reader that finds the certificate must find its entries below the published head.
        self.log.publish().await.map_err(KeepFailed::Publish)?;
        if !self.is_approved(responder) {
            return Ok(());
        }
        let path = path(&self.published, &responder.responder, &self.facts.name);
        blocking(path, move |path| durable::write(path, &der)).await
        // Revoked while it was written: the next round, which that change asks for, removes it.
    }

    /// Removes this issuer's certificates of responders that are not approved.
    async fn sweep(&self) -> Result<(), KeepFailed> {
        let (registry, issuer) = (self.log.registry().clone(), self.facts.name.clone());
        let file = format!("{issuer}.cer");
        blocking(directory(&self.published), move |all| {
            let entries = match std::fs::read_dir(all) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                let name = entry.file_name();
                let name: Option<Slug> = name.to_str().and_then(|name| name.parse().ok());
                let Some(name) = name.filter(|name| registry.responder(name).is_none()) else {
                    continue;
                };
                match std::fs::remove_file(entry.path().join(&file)) {
                    Ok(()) => tracing::info!(
                        responder = %name, %issuer,
                        "a responder is not approved any more: its published certificate is removed"
                    ),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                // Other issuers' certificates may stand there still.
                let _left = std::fs::remove_dir(entry.path());
            }
            Ok(())
        })
        .await
    }
}

/// Reads a published certificate, if there is one.
fn read(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let opened = std::fs::File::open(path).and_then(|file| {
        let mut der = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut der)?;
        Ok(der)
    });
    match opened {
        Ok(der) => Some(der),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the published certificate cannot be read");
            None
        }
    }
}

/// Does something with a path on a thread that may wait for the disk.
async fn blocking<F>(path: PathBuf, work: F) -> Result<(), KeepFailed>
where
    F: FnOnce(&Path) -> io::Result<()> + Send + 'static,
{
    let at = path.clone();
    tokio::task::spawn_blocking(move || work(&at))
        .await
        .map_err(io::Error::other)
        .and_then(|done| done)
        .map_err(|source| KeepFailed::File { path, source })
}
