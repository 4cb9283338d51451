//! The daemon: starts, wires, recovers, renews and stops.
//!
//! Owns the order in which the parts come up. Promises that the admin socket, health and the API answer as soon
//! as the log is open, that nothing is issued before recovery is through, and that a token which is absent is
//! waited for while a wrong one stops the start. The log does not open without its key: with a key in a file
//! that is at once, with one on a token when that token is there; what is waited for is told. Never decides
//! about a request. Failure story: an error ends the process with its whole chain on standard error; the
//! service's supervisor starts it again.

mod crls;
mod listeners;
mod responders;
mod server_certificate;
mod tokens;
mod witnesses;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::log::IssuerName;
use certstatus::log::checkpoint::VerifierKey;
use rustix::process::Resource;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::admin::AdminError;
use crate::config::{Config, LogKeyPlace};
use crate::hsm::{Hsm, HsmError, LogKey};
use crate::http::ops::Boards;
use crate::http::tls::TlsError;
use crate::issuance::Issuance;
use crate::issuer::{Issuer, IssuerError};
use crate::limits;
use crate::profile::{Profile, ProfileError};
use crate::signing_log::{IssuerRecord, LogError, Publication, SigningLog};
use crate::store::{Store, StoreError};
use crate::time::Clock;
use crate::witnesses::{Board, Refused, Unwitnessed};
use crls::Crls;
use listeners::Listeners;
use responders::Responders;

/// The pause between attempts at what has to wait for a token or the storage.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause between self-tests of a token that fails them.
const SELF_TEST_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Why the daemon does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A profile.
    #[error("the profiles cannot be used")]
    Profile(#[from] ProfileError),
    /// The profiles' directory.
    #[error("{}: cannot list the profiles", path.display())]
    Profiles {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The database.
    #[error("the store does not open")]
    Store(#[from] StoreError),
    /// The log.
    #[error("the signing log does not open")]
    Log(#[from] LogError),
    /// The log key.
    #[error("the log key cannot be used")]
    LogKey(#[source] HsmError),
    /// A witness has a head that this store has not.
    #[error("the witnesses do not let this store start")]
    Witnessed(#[from] Refused),
    /// An issuer.
    #[error("an issuer cannot be used")]
    Issuer(#[from] IssuerError),
    /// An issuer in the log that the configuration does not name.
    #[error("the log has the issuer {0}, but the configuration has no [[issuer]] of that name")]
    NotConfigured(IssuerName),
    /// A listener.
    #[error("cannot listen on {address}")]
    Listen {
        /// Its address.
        address: std::net::SocketAddr,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The signals that end the daemon.
    #[error("cannot wait for signals")]
    Signals(#[source] std::io::Error),
    /// The file that says which log key is the log's.
    #[error("{}: the log's verifier key cannot be read", path.display())]
    VerifierKey {
        /// The file.
        path: PathBuf,
        /// The system's error, or what is wrong with its contents.
        #[source]
        source: std::io::Error,
    },
    /// The admin socket.
    #[error("the admin socket cannot be used")]
    Admin(#[from] AdminError),
    /// The server's certificate.
    #[error("the API's certificate cannot be used")]
    Tls(#[from] TlsError),
    /// A token host.
    #[error("the host of token {token} does not start")]
    TokenHost {
        /// The token.
        token: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// Reads every `*.toml` of a directory as a profile.
///
/// # Errors
/// [`DaemonError`] names the file and the key.
pub fn load_profiles(directory: &Path) -> Result<BTreeMap<String, Profile>, DaemonError> {
    let unlisted = |source| DaemonError::Profiles {
        path: directory.to_owned(),
        source,
    };
    let mut profiles = BTreeMap::new();
    for file in std::fs::read_dir(directory).map_err(unlisted)? {
        let path = file.map_err(unlisted)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let profile = Profile::load(&path)?;
            profiles.insert(profile.name().to_owned(), profile);
        }
    }
    Ok(profiles)
}

/// The trouble that was told last: the same trouble is told once, not five times a second.
#[derive(Default)]
struct Told(String);

impl Told {
    /// The error with its causes, if it is not the one that was told last.
    fn news(&mut self, error: &dyn std::error::Error) -> Option<&str> {
        let text = certstatus::chain(error);
        if text == self.0 {
            return None;
        }
        self.0 = text;
        Some(&self.0)
    }
}

/// Starts the token hosts and then the daemon; stops them in reverse order. For places without systemd.
///
/// # Errors
/// [`DaemonError`].
pub async fn run(
    config: Config,
    config_path: &Path,
    unwitnessed: Unwitnessed,
) -> Result<(), DaemonError> {
    let hosts = tokens::Hosts::start(&config, config_path)?;
    let result = serve(config, Clock::system(), unwitnessed).await;
    hosts.stop().await;
    result
}

/// The daemon alone; its token hosts run beside it. Returns when it is told to stop.
///
/// # Errors
/// [`DaemonError`].
pub async fn serve(
    config: Config,
    clock: Clock,
    unwitnessed: Unwitnessed,
) -> Result<(), DaemonError> {
    raise_file_limit();
    let profiles = load_profiles(&config.profiles)?;
    let store = Store::open(&config.state_dir).await?;
    let hsm = Hsm::open(&config.tokens);
    let key = log_key(&config, &hsm).await?;
    let publication = Publication {
        published: config.published.clone(),
        details: config.details.clone(),
    };
    let log = SigningLog::open(store, clock.clone(), &config.log.origin, key, publication).await?;
    let access = config.server.issuer.clone();
    let issuance = Issuance::new(log.clone(), clock.clone(), profiles, access);

    let boards = Boards {
        witnesses: Board::new(&config.witnesses),
        ..Boards::default()
    };
    let listeners = Listeners::start(&config, &issuance, &log, &hsm, &clock, &boards).await?;

    let access_loaded = Notify::new();
    let keep_fresh = async {
        access_loaded.notified().await;
        server_certificate::keep_fresh(&config, &issuance, &clock, &listeners.certificate).await;
        Ok(())
    };
    let mut responders = Responders::new(&issuance, &log, &clock, &config, boards.responders);
    let mut crls = Crls::new(clock.clone(), boards.crls);
    let up = async {
        // Before recovery: until then nothing is appended, published or signed.
        let accepted = witnesses::ask(&config, &log, &boards.witnesses, unwitnessed).await?;
        recover(&log, &hsm).await;
        accepted.record(&log).await?;
        let keepers = (&mut crls, &mut responders);
        let come_up = come_up(&config, &issuance, &log, &hsm, &access_loaded, keepers);
        tokio::try_join!(come_up, keep_fresh).map(|((), ())| ())
    };
    // Ends by a signal, or by an error that no waiting mends.
    let result = tokio::select! {
        told = stop_signal() => told,
        failed = up => failed,
    };
    tracing::info!("stopping: requests in work are finished");
    listeners.drain().await;
    log.stop().await;
    result
}

/// Recovery, for as long as storage and tokens take.
async fn recover(log: &SigningLog, hsm: &Hsm) {
    let mut told = Told::default();
    while let Err(error) = log.recover(hsm.clone()).await {
        if let Some(text) = told.news(&error) {
            tracing::warn!(error = %text, "recovery is tried again");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Loads every issuer whose key is here; tells when it is that of the server's certificate.
///
/// Waits for tokens as long as it takes. Issuers are loaded side by side: a root's token, which is
/// seldom there, must not hold up the others.
async fn come_up(
    config: &Config,
    issuance: &Issuance,
    log: &SigningLog,
    hsm: &Hsm,
    access_loaded: &Notify,
    (crls, responders): (&mut Crls, &mut Responders),
) -> Result<(), DaemonError> {
    let records = log.issuers().await?;
    let mut loading = JoinSet::new();
    for record in &records {
        let chain = chain(record, &records);
        // A retry of what this issuer signed is answered without its token.
        issuance.add_issuer(record.name.clone(), record.role, chain.clone(), None);
        let configured = config
            .issuer(&record.name)
            .ok_or_else(|| DaemonError::NotConfigured(record.name.clone()))?;
        if configured.key.is_none() {
            continue; // An offline root: its key is elsewhere.
        }
        let keeper = crls.keep(record, configured, config, log)?;
        responders.keep(record, configured, keeper.subscribe())?;
        let (record, configured) = (record.clone(), configured.clone());
        let (issuance, log, hsm) = (issuance.clone(), log.clone(), hsm.clone());
        loading.spawn(async move {
            let issuer = load_issuer(&record, &configured, &hsm, &log).await?;
            issuance.add_issuer(
                record.name.clone(),
                record.role,
                chain,
                Some(issuer.clone()),
            );
            // After it can issue, since a keeper tries at once.
            keeper.send_replace(Some(issuer));
            Ok::<_, DaemonError>(record.name)
        });
    }
    while let Some(ended) = loading.join_next().await {
        match ended {
            Ok(loaded) => {
                if loaded? == config.server.issuer {
                    access_loaded.notify_one();
                }
            }
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Without a panic, a task ends without a result only when the runtime shuts down.
                Err(_) => return Ok(()),
            },
        }
    }
    tracing::info!("ready");
    Ok(())
}

/// Loads one issuer, waiting for a token that is away.
async fn load_issuer(
    record: &IssuerRecord,
    configured: &crate::config::Issuer,
    hsm: &Hsm,
    log: &SigningLog,
) -> Result<Issuer, DaemonError> {
    let (mut told, mut pause) = (Told::default(), RETRY_PAUSE);
    loop {
        match Issuer::load(record, configured, hsm, log).await {
            Ok(issuer) => return Ok(issuer),
            Err(error) if !error.retry_helps() => return Err(error.into()),
            Err(error) => {
                if let Some(text) = told.news(&error) {
                    tracing::warn!(issuer = %record.name, error = %text, "waiting for the issuer");
                }
                tokio::time::sleep(pause).await;
                if error.logged() {
                    // A token that is there but fails its self-tests writes two entries each time.
                    pause = (pause * 2).min(SELF_TEST_PAUSE_MAX);
                }
            }
        }
    }
}

/// The issuer's certificate and its parents', without the root.
fn chain(record: &IssuerRecord, records: &[IssuerRecord]) -> Vec<Vec<u8>> {
    let by_name: HashMap<_, _> = records
        .iter()
        .map(|record| (&record.name, record))
        .collect();
    let mut chain = Vec::new();
    let mut at = record;
    // The ceremony lets no name be its own ancestor, so the walk is no longer than the list.
    for _ in records {
        if at.parent == at.name {
            break;
        }
        chain.push(at.certificate.clone());
        match by_name.get(&at.parent) {
            Some(parent) => at = parent,
            None => break,
        }
    }
    chain
}

/// The log key, from its file or from its token, which is waited for.
async fn log_key(config: &Config, hsm: &Hsm) -> Result<LogKey, DaemonError> {
    let uri = match &config.log.key {
        LogKeyPlace::File(path) => return LogKey::from_file(path).map_err(DaemonError::LogKey),
        LogKeyPlace::Token(uri) => uri,
    };
    let pin = log_key_pin(config)?;
    let mut told = Told::default();
    loop {
        match LogKey::open(hsm, uri, &pin).await {
            Ok(key) => return Ok(key),
            Err(error) if !error.retry_helps() => return Err(DaemonError::LogKey(error)),
            Err(error) => {
                if let Some(text) = told.news(&error) {
                    tracing::warn!(error = %text, "waiting for the log key; nothing answers until it is there");
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
}

/// The hash of the log key's SubjectPublicKeyInfo, from the verifier key that the ceremony wrote.
///
/// A wrong file only finds no key on the token: that the key is the log's own, `SigningLog::open` checks
/// against entry 0.
fn log_key_pin(config: &Config) -> Result<[u8; 32], DaemonError> {
    let path = config.verifier_key_file();
    let failed = |source| DaemonError::VerifierKey {
        path: path.clone(),
        source,
    };
    let text = std::fs::read_to_string(&path).map_err(failed)?;
    let key = VerifierKey::parse(text.trim_end())
        .map_err(|bad| failed(std::io::Error::new(std::io::ErrorKind::InvalidData, bad)))?;
    Ok(key.spki_sha256())
}

/// Raises the soft limit of open files, as far as the hard one allows, to what all connections need.
///
/// The usual soft limit of 1,024 is below [`limits::CONNECTIONS_MAX`]. Where the hard limit is too low it is told, and
/// connections beyond it wait in the system's queue.
fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(limits::FILES_MAX, |hard| hard.min(limits::FILES_MAX));
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    if wanted < limits::FILES_MAX {
        tracing::warn!(
            hard = wanted,
            wanted = limits::FILES_MAX,
            "few open files are allowed"
        );
    }
}

/// Waits for SIGTERM or SIGINT.
async fn stop_signal() -> Result<(), DaemonError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_of_a_trouble_is_told_once() {
        let trouble = |cause: &str| HsmError::Unavailable {
            token: "main".to_owned(),
            cause: cause.to_owned(),
            reached: crate::hsm::Reached::No,
        };
        let mut told = Told::default();
        let rows = [
            ("no host", true),
            ("no host", false),
            ("no token", true),
            ("no token", false),
            ("no host", true),
        ];
        for (cause, news) in rows {
            let text = told.news(&trouble(cause));
            assert_eq!(
                text.is_some_and(|text| text.contains(cause)),
                news,
                "{cause}"
            );
        }
    }
}
