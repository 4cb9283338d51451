//! Ceremonies: keys, CA certificates and the log are made here and nowhere else.
//!
//! Owns the order of a site's first hour: tokens, log key, log, then for each CA its key, its certificate and
//! its first CRL (which binds the log's key to the CA's), then the server's certificate and the transcript.
//! Promises that everything that can be refused is refused before anything is made, and that every signature,
//! a root's own included, goes through an intent in the log. Never overwrites and never deletes a key. Failure
//! story: [`CeremonyError::Midway`] lists what was made until then, for people to remove by hand.

mod authority;
mod hosts;
mod offline;
mod plan;
mod rehearsal;
mod server;
mod site;
mod subject;
mod transcript;

use std::path::{Path, PathBuf};

use certstatus::log::{DetailHash, IssuerName};
use certstatus::signature::SignatureFault;

use crate::config::{Config, Token};
use crate::crl::CrlError;
use crate::hsm::HsmError;
use crate::issuer::{IssuerError, MakeFailed};
use crate::profile::{BuildRefused, ProfileError};
use crate::signing_log::LogError;
use crate::store::StoreError;
use crate::time::Clock;
use certstatus::durable;

pub use hosts::{HostFailed, HostProgram};
pub use offline::{Accepted, accept};
pub use plan::{Plan, PlanRefused, Problem};
pub use rehearsal::Rehearsal;
pub use transcript::{
    CertificateOfRecord, KeyOfRecord, LogOfRecord, RequestOfRecord, TokenOfRecord, Transcript,
};

use hosts::{HostMode, Hosts};
use site::Site;

/// The mode of directories that the daemon's user alone may read.
const PRIVATE_DIRECTORY: u32 = 0o700;

/// Why a ceremony did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// It was not begun.
    #[error("the ceremony was not begun and nothing was made:{}", lines(problems))]
    NotBegun {
        /// All that is wrong.
        problems: Vec<String>,
    },
    /// The tokens are not usable.
    #[error("nothing was begun and nothing was made")]
    Hosts(#[from] HostFailed),
    /// It failed midway.
    #[error("the ceremony failed while {doing}.{}", left(made))]
    Midway {
        /// What was being done.
        doing: String,
        /// What exists now and stays.
        made: Vec<String>,
        /// Why.
        #[source]
        source: Box<StepFailed>,
    },
    /// An offline root's answer is not the one asked for.
    #[error("the answer for {issuer} is refused and nothing was changed: {problem}")]
    AnswerRefused {
        /// Whose.
        issuer: IssuerName,
        /// What is wrong with it.
        problem: String,
    },
    /// An offline root's answer was good but could not be taken.
    #[error(
        "the certificate of {issuer} could not be accepted; see to the reason and run it again"
    )]
    Accepting {
        /// Whose.
        issuer: IssuerName,
        /// Why.
        #[source]
        source: Box<StepFailed>,
    },
}

/// Why a step of a ceremony failed.
#[derive(Debug, thiserror::Error)]
pub enum StepFailed {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A witness has a head that this store has not.
    #[error("the witnesses do not let this store go on")]
    Witnessed(#[from] crate::witnesses::Refused),
    /// The token.
    #[error(transparent)]
    Hsm(#[from] HsmError),
    /// The issuer.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// An object was not made.
    #[error(transparent)]
    Make(#[from] MakeFailed),
    /// The profile of the server's certificate.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The certificate broke a rule.
    #[error(transparent)]
    Build(#[from] BuildRefused),
    /// The token's signature or public key is wrong.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// The CRL.
    #[error(transparent)]
    Crl(#[from] CrlError),
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no randomness.
    #[error("the system gives no randomness")]
    Randomness,
    /// The ceremony's file has the server's certificate signed by an issuer that has no key here.
    #[error("issuer {0} has no key here, so it cannot sign")]
    CannotSign(IssuerName),
    /// A CA whose parent was not made.
    #[error("its parent {0} cannot be made")]
    NoParent(IssuerName),
    /// The configuration names no key for an issuer.
    #[error("the configuration names no key for issuer {0}")]
    NoKey(IssuerName),
    /// The log binds the name to another certificate.
    #[error("issuer {0} is bound to another certificate in the log, for ever")]
    BoundToAnother(IssuerName),
    /// An event whose name the log does not take.
    #[error("{0:?} is no name of an event")]
    EventName(String),
}

/// Problems, a line each.
fn lines(problems: &[String]) -> String {
    problems
        .iter()
        .map(|problem| format!("\n- {problem}"))
        .collect()
}

/// What a failed ceremony leaves behind.
fn left(made: &[String]) -> String {
    if made.is_empty() {
        return " Nothing was made".to_owned();
    }
    format!(
        " What it had made stays; remove it by hand before a new try:{}\nThe reason",
        lines(made)
    )
}

/// Runs a ceremony from its first key to its transcript.
///
/// `progress` is told each step before it is taken.
///
/// # Errors
/// [`CeremonyError`]: say it to those present. After [`CeremonyError::Midway`] remove what it lists, with the
/// token's own tool where it is a key, and begin again.
pub async fn run(
    config: &Config,
    plan: Plan,
    clock: Clock,
    hosts: &HostProgram,
    mut progress: impl FnMut(&str),
) -> Result<Transcript, CeremonyError> {
    progress("checking that nothing is in the way");
    let problems = rehearsal::obstacles(config, &plan, hosts, clock.now());
    if !problems.is_empty() {
        return Err(CeremonyError::NotBegun { problems });
    }
    progress("starting the token hosts");
    let (running, hsm) = Hosts::start(hosts, config, HostMode::Ceremony).await?;
    progress("looking for keys that are in the way");
    let problems = rehearsal::labels_taken(config, &plan, &hsm).await;
    if !problems.is_empty() {
        drop(hsm);
        running.stop().await;
        return Err(CeremonyError::NotBegun { problems });
    }
    let mut site = Site::new(config, plan, clock, hsm, &mut progress);
    let made = site.make().await;
    let made = made.map_err(|source| site.failed(source));
    // Its connections end first, so that nobody is told of hosts that went away.
    drop(site);
    running.stop().await;
    made
}

/// Rehearses a ceremony: everything but making. Lints each certificate with throw-away keys, starts the token
/// hosts, logs in, and stops them.
///
/// # Errors
/// [`CeremonyError`]; nothing was made.
pub async fn rehearse(
    config: &Config,
    plan: &Plan,
    clock: Clock,
    hosts: &HostProgram,
    mut progress: impl FnMut(&str),
) -> Result<Rehearsal, CeremonyError> {
    progress("checking that nothing is in the way");
    let mut problems = rehearsal::obstacles(config, plan, hosts, clock.now());
    if problems.is_empty() {
        progress("starting the token hosts");
        let (running, hsm) = Hosts::start(hosts, config, HostMode::Ceremony).await?;
        progress("looking for keys that are in the way");
        problems = rehearsal::labels_taken(config, plan, &hsm).await;
        drop(hsm);
        running.stop().await;
    }
    if problems.is_empty() {
        Ok(rehearsal::outline(config, plan))
    } else {
        Err(CeremonyError::NotBegun { problems })
    }
}

/// Where an issuer's certificate is published.
fn published_certificate(config: &Config, name: &str) -> PathBuf {
    config.published.join("ca").join(format!("{name}.cer"))
}

/// Where an issuer's certificate is kept as PEM.
fn kept_certificate(config: &Config, name: &str) -> PathBuf {
    config.state_dir.join("ca").join(format!("{name}.pem"))
}

/// Where what a ceremony writes for people goes.
fn paper(config: &Config, file: &str) -> PathBuf {
    config.state_dir.join("ceremony").join(file)
}

/// PEM (RFC 7468).
fn pem(label: &'static str, der: &[u8]) -> String {
    // A vector's length is below the limit that the encoder checks.
    der::pem::encode_string(label, der::pem::LineEnding::LF, der).unwrap_or_default()
}

/// Writes a file, durable.
fn write(path: &Path, bytes: &[u8]) -> Result<(), StepFailed> {
    durable::write(path, bytes).map_err(|source| StepFailed::Write {
        path: path.to_owned(),
        source,
    })
}

/// Writes a file that must not exist yet, readable by this user alone.
fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), StepFailed> {
    durable::write_secret(path, bytes).map_err(|source| StepFailed::Write {
        path: path.to_owned(),
        source,
    })
}

/// Makes a directory that this user alone may read, unless it is there.
fn make_private_directory(path: &Path) -> Result<(), StepFailed> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(PRIVATE_DIRECTORY)
        .create(path)
        .map_err(|source| StepFailed::Write {
            path: path.to_owned(),
            source,
        })
}

/// The tokens, as transcript and log name them.
fn tokens_of_record(tokens: &[Token]) -> Vec<TokenOfRecord> {
    tokens
        .iter()
        .map(|token| TokenOfRecord {
            name: token.name.clone(),
            label: token.label.clone(),
            serial: token.serial.clone(),
        })
        .collect()
}

/// The program's name and version.
fn product() -> String {
    format!("hallmark {}", env!("CARGO_PKG_VERSION"))
}

/// SHA-256.
fn sha256(bytes: &[u8]) -> DetailHash {
    DetailHash::of(bytes)
}

#[cfg(test)]
mod tests;
