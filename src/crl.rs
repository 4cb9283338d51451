//! CRLs: through intent, sign and check like every signature.
//!
//! Owns what a CRL of an issuer covers, how it is made and where it is published; `keeper` says when, and
//! `certstatus::crl` encodes it. Promises that every CRL carries the log's origin, its verifier key and the
//! checkpoint over exactly the entries that it takes into account, that its number is larger than any before,
//! and that it is published after the log's entries that it speaks of. Never holds a list twice. Failure story:
//! no new CRL; the published one stays until its `nextUpdate`, and the next attempt has a larger number. One that was
//! issued and could not be written comes back to the caller, who publishes it later.

mod board;
mod keeper;

use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::UnixMillis;
use certstatus::crl::{CrlFields, LogAnchor, Scope, parse_head, published_path};
use certstatus::durable;
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::{Gone, IssuerName};
use certstatus::signature::split;

pub use board::{Board, CrlState};
pub use keeper::{Keeper, Loaded, Schedule};

use crate::issuer::{MakeFailed, Signer};
use crate::profile::IssuerFacts;
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::signing_log::{
    CrlContents, IssuerRole, LogError, RevokedList, SigningLog, ToBeSigned, aside,
};

/// Why a CRL is not made.
#[derive(Debug, thiserror::Error)]
pub enum CrlError {
    /// It was not made.
    #[error("the CRL was not made")]
    Make(#[source] MakeFailed),
    /// The log failed.
    #[error("the log does not serve a CRL")]
    Log(#[source] LogError),
    /// The file could not be written.
    #[error("the CRL was issued but {} was not written", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

/// One of an issuer's CRLs: the full one, or that of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// 0 for the full CRL, else the partition, counted from 1.
    pub partition: u32,
    /// What it covers.
    pub scope: Scope,
}

/// How a CRL is to be.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Which one.
    pub kind: Kind,
    /// From `now` to `nextUpdate`; longer than the outage that a site must bear.
    pub validity: Duration,
    /// `thisUpdate`.
    pub now: UnixMillis,
    /// expiredCertsOnCRL.
    pub expired_since: Option<UnixMillis>,
    /// What stays out, as [`CrlContents::gone`] says it.
    pub gone: Option<Gone>,
    /// The CRL's number is larger than this one, whatever the log knows: a restored log may know less than is
    /// published.
    pub after: u64,
}

/// A CRL that is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The CRL number.
    pub number: u64,
    /// thisUpdate.
    pub this_update: UnixMillis,
    /// nextUpdate.
    pub next_update: UnixMillis,
    /// The entries of the log that it takes into account: the size in its checkpoint.
    pub covered: u64,
    /// How many certificates it lists; not known where it was made before this start.
    pub listed: Option<usize>,
}

/// A CRL that was issued: signed and durable in the log, but not where readers look for it yet.
#[derive(Debug)]
pub struct Made {
    /// Which one.
    partition: u32,
    /// What it will be when it is published.
    head: Published,
    der: Vec<u8>,
}

/// The CRLs of an issuer: the full one first, then its partitions.
#[must_use]
pub fn kinds(role: IssuerRole, facts: &IssuerFacts) -> Vec<Kind> {
    let scope = match role {
        IssuerRole::Device => Scope::UserCertificates,
        IssuerRole::Root | IssuerRole::Access => Scope::Everything,
    };
    let full = Kind {
        partition: 0,
        scope,
    };
    let mut kinds = vec![full];
    if let Some(partitions) = &facts.crl_partitions {
        kinds.extend((1..=partitions.count.get()).map(|partition| Kind {
            partition,
            scope: Scope::Partition(partitions.url.of(partition)),
        }));
    }
    kinds
}

/// Where a CRL is published, below `public/`: `crl/<issuer>.crl`, or `crl/<issuer>/<partition>.crl`.
#[must_use]
pub fn path(published: &Path, issuer: &IssuerName, partition: u32) -> PathBuf {
    published.join(published_path(issuer, partition))
}

/// Makes, signs and logs a CRL; [`Made::publish`] is what follows.
///
/// # Errors
/// [`CrlError`]; the published CRL stays.
pub async fn issue(
    log: &SigningLog,
    signer: &Signer,
    facts: &IssuerFacts,
    terms: &Terms,
) -> Result<Made, CrlError> {
    let issuer = signer.name();
    let partition = terms.kind.partition;
    let contents = CrlContents {
        issuer,
        partition,
        gone: terms.gone,
    };
    let RevokedList {
        list,
        size,
        checkpoint,
    } = log.revoked(&contents).await.map_err(CrlError::Log)?;
    let number = log.next_crl_number(issuer).await.map_err(CrlError::Log)?;
    // As the CRL says it, to the second: what leaves the next one must have ended before this one was made.
    let now = UnixMillis::from_seconds(terms.now.seconds());
    let head = Published {
        number: number.max(terms.after.saturating_add(1)),
        this_update: now,
        next_update: now.saturating_add(terms.validity),
        covered: size,
        listed: Some(list.entries()),
    };
    let (of, within, signer_algorithm, key) = (
        facts.clone(),
        terms.clone(),
        signer.algorithm(),
        log.verifier_key(),
    );
    let origin = log.origin().to_owned();
    let finish = move || {
        list.finish(&CrlFields {
            issuer: &of.subject,
            authority_key_id: &of.key_id,
            algorithm: signer_algorithm,
            number: head.number,
            this_update: head.this_update,
            next_update: head.next_update,
            scope: within.kind.scope,
            expired_since: within.expired_since,
            anchor: LogAnchor {
                origin: &origin,
                log_key: &key,
                checkpoint: &checkpoint,
            },
        })
    };
    let tbs = aside(finish).await.map_err(CrlError::Log)?;
    let grant = Grant::act(APPLIANCE, Purpose::Crl(issuer.clone()));
    let object = ToBeSigned::Crl {
        issuer: issuer.clone(),
        key: signer.public_key().clone(),
        algorithm: signer.algorithm(),
        partition,
        gone: terms.gone,
        tbs,
    };
    let issued = signer
        .make(log, &grant, object)
        .await
        .map_err(CrlError::Make)?;
    Ok(Made {
        partition,
        head,
        der: issued.into_der(),
    })
}

impl Made {
    /// Writes the CRL where readers look for it.
    ///
    /// # Errors
    /// [`CrlError`], and the CRL itself: it is issued, so a retry needs no other.
    pub async fn publish(
        self,
        log: &SigningLog,
        issuer: &IssuerName,
        published: &Path,
    ) -> Result<Published, (CrlError, Self)> {
        // A reader that finds the CRL must find its entries below the published head.
        if let Err(error) = log.publish().await {
            return Err((CrlError::Log(error), self));
        }
        let path = path(published, issuer, self.partition);
        let (file, head) = (path.clone(), self.head);
        let task = tokio::task::spawn_blocking(move || {
            let written = durable::write(&file, &self.der);
            written.map_err(|source| (source, self))
        });
        match task.await {
            Ok(Ok(())) => Ok(head),
            Ok(Err((source, made))) => Err((CrlError::Write { path, source }, made)),
            Err(stopped) => match stopped.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Without a panic, a task ends without a result only when the runtime shuts down.
                Err(_) => std::future::pending().await,
            },
        }
    }
}

/// The CRL that stands published, if it is one of this kind that this issuer signed for this log.
///
/// Anything else is as good as none: it is replaced.
async fn read(
    published: &Path,
    facts: &IssuerFacts,
    kind: &Kind,
    log_key: &VerifierKey,
) -> Option<Published> {
    let path = path(published, &facts.name, kind.partition);
    let (facts, kind, key) = (facts.clone(), kind.clone(), log_key.clone());
    let read = tokio::task::spawn_blocking(move || {
        let der = match std::fs::read(&path) {
            Ok(der) => der,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the published CRL cannot be read");
                return None;
            }
        };
        let judged = judge(&der, &facts, &kind, &key);
        if judged.is_none() {
            tracing::warn!(path = %path.display(), "the published CRL is not this issuer's and is made anew");
        }
        judged
    });
    read.await.unwrap_or(None)
}

/// Reads a CRL's head, if its issuer signed it.
fn judge(der: &[u8], facts: &IssuerFacts, kind: &Kind, log_key: &VerifierKey) -> Option<Published> {
    let head = parse_head(der).ok()?;
    let (tbs, algorithm, signature) = split(der).ok()?;
    facts.public_key.verify(algorithm, tbs, signature).ok()?;
    let (origin, _key, note) = head.anchor?;
    let checkpoint = Checkpoint::verify(&note, log_key).ok()?;
    let ours = head.issuer == facts.subject && head.scope == kind.scope;
    (ours && origin == log_key.name()).then_some(Published {
        number: head.number,
        this_update: head.this_update,
        next_update: head.next_update,
        covered: checkpoint.size,
        listed: None,
    })
}
