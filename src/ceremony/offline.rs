//! Issuers whose root is elsewhere: what is remembered until the root answers, and the judging of its answer.
//!
//! Owns the pending files beside the transcript. Promises that an answer is taken only if it is the certificate
//! asked for: this key, this name, signed by the root that the ceremony file named, fit to sign and valid now.
//! Never asks the root itself. Failure story: a refused answer changes nothing; an acceptance that failed midway
//! is run again and goes on where it stopped.

use std::path::PathBuf;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use certstatus::log::checkpoint::VerifierKey;
use certstatus::log::{DetailHash, IssuerName};
use certstatus::signature::{SignatureAlgorithm, split};
use certstatus::{UnixMillis, hex};
use der::{Decode as _, Encode as _};
use serde::{Deserialize, Serialize};
use serde_json::json;
use x509_cert::Certificate;
use x509_cert::ext::pkix::AuthorityKeyIdentifier;

use super::authority::{bind, first_crls};
use super::hosts::{HostMode, HostProgram, Hosts};
use super::plan::{Ca, OfflineRoot};
use super::site::record_event;
use super::{CeremonyError, StepFailed, paper, sha256, write};
use crate::config::{Config, LogKeyPlace};
use crate::hsm::{Hsm, KeyAlgorithm, LogKey};
use crate::issuer::Signer;
use crate::profile::IssuerFacts;
use crate::signing_log::{IssuerRecord, IssuerRole, Publication, SigningLog};
use crate::store::Store;
use crate::time::Clock;
use crate::witnesses::{self, Testimony};

/// What an accepted certificate came to.
#[derive(Clone, Debug, Serialize)]
pub struct Accepted {
    /// Whose.
    pub issuer: IssuerName,
    /// SHA-256 of its certificate.
    pub sha256: DetailHash,
    /// Who signed it.
    pub root: IssuerName,
    /// SHA-256 of the root's certificate.
    pub root_sha256: DetailHash,
}

/// What is remembered of a request until its answer comes. Everything in it is public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pending {
    version: u32,
    issuer: IssuerName,
    role: IssuerRole,
    algorithm: KeyAlgorithm,
    /// Base64 of the SubjectPublicKeyInfo.
    spki: String,
    /// RFC 4514.
    subject: String,
    root: IssuerName,
    /// RFC 4514.
    root_subject: String,
    /// Hexadecimal.
    root_sha256: Option<String>,
    crl_validity_seconds: u64,
    partitions: u32,
}

/// An answer that is the one asked for.
#[derive(Debug)]
struct Answer {
    /// The issuer's certificate, DER.
    certificate: Vec<u8>,
    /// The root's certificate, DER.
    root: Vec<u8>,
    /// What the root signs with.
    root_algorithm: SignatureAlgorithm,
}

/// Where a pending request is remembered.
fn pending_file(config: &Config, issuer: &IssuerName) -> PathBuf {
    paper(config, &format!("{issuer}.pending.json"))
}

/// Remembers what the answer must be.
pub(super) fn remember(
    config: &Config,
    ca: &Ca,
    signer: &Signer,
    root: &OfflineRoot,
) -> Result<(), StepFailed> {
    let pending = Pending {
        version: 1,
        issuer: ca.name.clone(),
        role: ca.role,
        algorithm: ca.algorithm,
        spki: Base64::encode_string(signer.public_key().spki()),
        subject: ca.spec.subject.to_string(),
        root: root.name.clone(),
        root_subject: root.subject.to_string(),
        root_sha256: root.sha256.map(|hash| hex::encode(&hash)),
        crl_validity_seconds: ca.crl_validity.as_secs(),
        partitions: ca.partitions,
    };
    // Strings and numbers always serialise.
    let text = serde_json::to_string_pretty(&pending).unwrap_or_default();
    write(&pending_file(config, &ca.name), text.as_bytes())
}

/// Takes an offline root's answer: `answer` is PEM, the issuer's certificate and then the root's.
///
/// The daemon must be stopped: the log has one writer. Running it again after a failure is harmless.
///
/// # Errors
/// [`CeremonyError::AnswerRefused`]: nothing was changed. [`CeremonyError::Accepting`]: see to
/// the reason and run it again.
pub async fn accept(
    config: &Config,
    issuer: &IssuerName,
    answer: &str,
    clock: Clock,
    hosts: &HostProgram,
    mut progress: impl FnMut(&str),
) -> Result<Accepted, CeremonyError> {
    let refuse = |problem: String| CeremonyError::AnswerRefused {
        issuer: issuer.clone(),
        problem,
    };
    let pending = recall(config, issuer).map_err(refuse)?;
    let answer = judge(&pending, answer, clock.now()).map_err(refuse)?;
    progress("starting the token hosts");
    let (running, hsm) = Hosts::start(hosts, config, HostMode::Signing).await?;
    progress("binding the certificate in the log");
    // `take` drops the connections, so that nobody is told of hosts that went away.
    let taken = take(config, &pending, &answer, clock, hsm).await;
    running.stop().await;
    taken.map_err(|source| CeremonyError::Accepting {
        issuer: issuer.clone(),
        source: Box::new(source),
    })?;
    Ok(Accepted {
        issuer: issuer.clone(),
        sha256: sha256(&answer.certificate),
        root: pending.root,
        root_sha256: sha256(&answer.root),
    })
}

/// Reads what the answer must be.
fn recall(config: &Config, issuer: &IssuerName) -> Result<Pending, String> {
    let path = pending_file(config, issuer);
    let refuse = |why: String| {
        format!(
            "{}: {why}; was there a ceremony with a request of {issuer}?",
            path.display()
        )
    };
    let text = std::fs::read_to_string(&path).map_err(|error| refuse(error.to_string()))?;
    let pending: Pending =
        serde_json::from_str(&text).map_err(|error| refuse(error.to_string()))?;
    if pending.version != 1 || pending.issuer != *issuer {
        return Err(refuse("is of another version or issuer".to_owned()));
    }
    Ok(pending)
}

/// Judges an answer; touches nothing.
fn judge(pending: &Pending, answer: &str, now: UnixMillis) -> Result<Answer, String> {
    let chain = certificates(answer)?;
    let [certificate, root] = chain.as_slice() else {
        return Err(format!(
            "the answer must be two PEM certificates, that of {} and then that of {}; it has {}",
            pending.issuer,
            pending.root,
            chain.len()
        ));
    };
    let root_facts = judge_root(pending, root, now)?;
    let root_algorithm = judge_issuer(pending, certificate, &root_facts, now)?;
    Ok(Answer {
        certificate: certificate.clone(),
        root: root.clone(),
        root_algorithm,
    })
}

/// Judges the root's certificate by itself.
fn judge_root(pending: &Pending, root: &[u8], now: UnixMillis) -> Result<IssuerFacts, String> {
    let found = sha256(root).to_string();
    if let Some(pin) = &pending.root_sha256
        && *pin != found
    {
        return Err(format!(
            "the second certificate has SHA-256 {found}, but the ceremony file pins {pin}"
        ));
    }
    let (signed, algorithm, signature) = split(root).map_err(|fault| fault.to_string())?;
    let name = pending.root.clone();
    let facts = IssuerFacts::from_certificate(name, root, algorithm)
        .map_err(|refused| format!("the second certificate is unfit: {refused}"))?;
    let fields =
        Certificate::from_der(root).map_err(|_| "the second certificate is not DER".to_owned())?;
    let subject = fields.tbs_certificate().subject().to_string();
    if subject != pending.root_subject {
        return Err(format!(
            "the second certificate is that of {subject}, not of {}",
            pending.root_subject
        ));
    }
    facts
        .public_key
        .verify(algorithm, signed, signature)
        .map_err(|fault| format!("the second certificate did not sign itself: {fault}"))?;
    if facts.path_len == Some(0) {
        return Err("the root may sign no CA certificate: its path length is 0".to_owned());
    }
    judge_validity("second", &fields, now)?;
    Ok(facts)
}

/// Judges the issuer's certificate below its root; says what the root signed it with.
fn judge_issuer(
    pending: &Pending,
    certificate: &[u8],
    root: &IssuerFacts,
    now: UnixMillis,
) -> Result<SignatureAlgorithm, String> {
    let (signed, algorithm, signature) = split(certificate).map_err(|fault| fault.to_string())?;
    root.public_key
        .verify(algorithm, signed, signature)
        .map_err(|fault| format!("the root did not sign the first certificate: {fault}"))?;
    let name = pending.issuer.clone();
    let facts = IssuerFacts::from_certificate(name, certificate, pending.algorithm.signature())
        .map_err(|refused| format!("the first certificate is unfit: {refused}"))?;
    if Base64::encode_string(facts.public_key.spki()) != pending.spki {
        return Err(format!(
            "the first certificate is for another key than that of {}",
            pending.issuer
        ));
    }
    let fields = Certificate::from_der(certificate)
        .map_err(|_| "the first certificate is not DER".to_owned())?;
    let tbs = fields.tbs_certificate();
    if tbs.subject().to_string() != pending.subject {
        return Err(format!(
            "the first certificate is for {}, not for {}",
            tbs.subject(),
            pending.subject
        ));
    }
    // Chains are built by the names' bytes and by key identifiers, so both must agree to the bit.
    if tbs.issuer().to_der().unwrap_or_default() != root.subject {
        return Err(format!(
            "the first certificate was issued by {}, which is not, byte for byte, the root's subject",
            tbs.issuer()
        ));
    }
    let identifier: Option<(bool, AuthorityKeyIdentifier)> = tbs
        .get_extension()
        .map_err(|_| "the first certificate's authorityKeyIdentifier is damaged".to_owned())?;
    let named = identifier.and_then(|(_, identifier)| identifier.key_identifier);
    if named.is_some_and(|named| named.as_bytes() != root.key_id) {
        return Err("the first certificate's authorityKeyIdentifier is not the root's".to_owned());
    }
    if facts.path_len != Some(0) {
        return Err(
            "the first certificate has no path length of 0: whoever has its key could make further CAs"
                .to_owned(),
        );
    }
    if facts.not_after > root.not_after {
        return Err(format!(
            "the first certificate is valid until {}, longer than its root, which ends at {}",
            facts.not_after, root.not_after
        ));
    }
    judge_validity("first", &fields, now)?;
    Ok(algorithm)
}

/// Refuses a certificate that is not valid now.
fn judge_validity(which: &str, certificate: &Certificate, now: UnixMillis) -> Result<(), String> {
    let validity = certificate.tbs_certificate().validity();
    let from = validity.not_before.to_unix_duration();
    let until = validity.not_after.to_unix_duration();
    let now = Duration::from_secs(now.seconds());
    if now < from || now > until {
        return Err(format!(
            "the {which} certificate is valid from {} until {}, not now",
            validity.not_before, validity.not_after
        ));
    }
    Ok(())
}

/// The certificates in a PEM text, DER; text around them is skipped, as tools put some there.
fn certificates(text: &str) -> Result<Vec<Vec<u8>>, String> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find(BEGIN) {
        let from = rest.get(start..).unwrap_or_default();
        let length = from
            .find(END)
            .map(|end| end + END.len())
            .ok_or("the answer's PEM is cut off")?;
        let (block, after) = from.split_at(length);
        let (_, document) = der::Document::from_pem(&format!("{block}\n"))
            .map_err(|error| format!("the answer's PEM is damaged: {error}"))?;
        found.push(document.as_bytes().to_vec());
        rest = after;
    }
    Ok(found)
}

/// Opens the log, binds root and issuer, signs the first CRL.
async fn take(
    config: &Config,
    pending: &Pending,
    answer: &Answer,
    clock: Clock,
    hsm: Hsm,
) -> Result<(), StepFailed> {
    let log_key = log_key(config, &hsm).await?;
    let publication = Publication {
        published: config.published.clone(),
        details: config.details.clone(),
    };
    let store = Store::open(&config.state_dir).await?;
    let origin = &config.log.origin;
    let log = SigningLog::open(store, clock.clone(), origin, log_key, publication).await?;
    let taken = bind_answer(config, pending, answer, &clock, &hsm, &log).await;
    log.stop().await;
    taken
}

/// The log key of a site that has had its ceremony.
///
/// A key on a token is found by the public key in the verifier key's file; that it is the log's own, the opening of
/// the log checks.
async fn log_key(config: &Config, hsm: &Hsm) -> Result<LogKey, StepFailed> {
    let uri = match &config.log.key {
        LogKeyPlace::File(path) => return Ok(LogKey::from_file(path)?),
        LogKeyPlace::Token(uri) => uri,
    };
    let path = config.verifier_key_file();
    let unreadable = |source| StepFailed::Read {
        path: path.clone(),
        source,
    };
    let text = std::fs::read_to_string(&path).map_err(unreadable)?;
    let key = VerifierKey::parse(text.trim_end())
        .map_err(|bad| unreadable(std::io::Error::new(std::io::ErrorKind::InvalidData, bad)))?;
    Ok(LogKey::open(hsm, uri, &key.spki_sha256()).await?)
}

/// What [`take`] does with the open log.
async fn bind_answer(
    config: &Config,
    pending: &Pending,
    answer: &Answer,
    clock: &Clock,
    hsm: &Hsm,
    log: &SigningLog,
) -> Result<(), StepFailed> {
    // An older copy of the store must not append, as at a start of the daemon.
    let heard = witnesses::hear(&config.witnesses, log.origin(), log.verifier()).await;
    let testimony = Testimony::of(&config.witnesses, &heard, log).await?;
    testimony.tell();
    testimony.judge()?;
    log.recover(hsm.clone()).await?;
    let known = log.issuers().await?;
    let root = IssuerRecord {
        name: pending.root.clone(),
        certificate: answer.root.clone(),
        algorithm: answer.root_algorithm,
        role: IssuerRole::Root,
        parent: pending.root.clone(),
        partitions: 0,
    };
    bind(log, config, root, &known).await?;
    let uri = config
        .issuer(&pending.issuer)
        .and_then(|issuer| issuer.key.clone())
        .ok_or_else(|| StepFailed::NoKey(pending.issuer.clone()))?;
    let record = IssuerRecord {
        name: pending.issuer.clone(),
        certificate: answer.certificate.clone(),
        algorithm: pending.algorithm.signature(),
        role: pending.role,
        parent: pending.root.clone(),
        partitions: pending.partitions,
    };
    let facts = bind(log, config, record, &known).await?;
    let pin = facts.public_key.sha256();
    let signer = Signer::open(hsm, pending.issuer.clone(), &uri, facts.algorithm, &pin).await?;
    signer.self_test(log).await?;
    let validity = Duration::from_secs(pending.crl_validity_seconds);
    let terms = (pending.role, validity);
    first_crls(log, config, (&signer, &facts), terms, clock.now()).await?;
    let data = json!({
        "certificate_sha256": sha256(&answer.certificate),
        "issuer": pending.issuer,
        "root": pending.root,
        "root_sha256": sha256(&answer.root),
    });
    record_event(log, "certificate-accepted", data).await?;
    log.publish().await?;
    Ok(())
}

#[cfg(test)]
mod tests;
