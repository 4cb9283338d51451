//! Revoking: certificates one by one and by the hundred, and those of issuers.
//!
//! Owns the order of acts around the log's entries: a line's certificate stops authenticating before it is
//! revoked, and authenticates again only after it is released; an issuer's certificate is revoked by its parent
//! alone. Promises that repeating an act changes nothing that is done, and that the answer says by when what was
//! done is visible where. Never revokes more than it was told by serial or name: what a criterion matches is
//! `signing_log::Selection`'s, and is shown before. Failure story: a failure between two acts leaves the safer
//! part done; the same request does the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use certstatus::log::entry::Slug;
use certstatus::log::{DetailHash, IssuerName};
use certstatus::{RevocationReason, SerialNumber};
use serde::Serialize;

use crate::config;
use crate::crl;
use crate::issuance::Issuance;
use crate::ra::{Change, ChangeRefused, PartyCertificate, PartyState};
use crate::signing_log::{
    CertificateKind, CertificateRecord, IssuerRole, LogError, Revocation, Revoked, Selection,
    SigningLog,
};
use crate::time::Clock;

mod visibility;

use visibility::Answered;
pub use visibility::{CrlWaits, Visible};

/// The longest that an answer waits for its publication.
const PUBLICATION_DEADLINE: Duration = Duration::from_secs(2);

/// A comment or a selection's token in characters.
const WORDS_CHARS_MAX: usize = 500;

/// Who revokes, with what the site says of visibility.
#[derive(Clone)]
pub struct Revocations {
    log: SigningLog,
    clock: Clock,
    terms: config::Revocation,
    /// The issuers whose keys are configured here.
    keys: BTreeSet<IssuerName>,
    /// Which of them could sign now.
    issuance: Issuance,
    /// What is wrong with their CRLs.
    crls: crl::Board,
}

/// What an operator wants done with certificates.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The certificates, at most [`crate::limits::REVOCATIONS_MAX`].
    pub serials: Vec<SerialNumber>,
    /// Why; `remove-from-crl` releases holds.
    pub reason: RevocationReason,
    /// The operator's words for the log.
    pub comment: Option<String>,
    /// The token of the selection that the serials are of, for the log.
    pub selection: Option<String>,
}

/// What became of a wish.
#[derive(Debug, Serialize)]
pub struct Done {
    /// Certificates that stand otherwise than before.
    pub changed: usize,
    /// Certificates that stood so already, or are revoked for good, which nothing changes.
    pub unchanged: usize,
    /// Certificates that could not be revoked or released.
    pub refused: Vec<RefusedOne>,
    /// Lines whose key is in other hands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<Withdrawn>,
    /// Certificates of lines that are released and authenticate nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub uncertified: Vec<Uncertified>,
    /// By when it is visible where.
    pub visible: Visible,
    /// Each certificate that was not refused with how it stands, for an answer about one.
    #[serde(skip)]
    pub standings: Vec<Standing>,
}

/// How a certificate stands after the wish.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Which.
    pub serial: SerialNumber,
    /// Its newest revocation.
    pub revocation: Revocation,
    /// Whether the wish made it so.
    pub changed: bool,
}

/// A certificate that could not be revoked or released.
#[derive(Debug, Serialize)]
pub struct RefusedOne {
    /// Which.
    pub serial: SerialNumber,
    /// Why.
    pub problem: String,
    /// The same, for an answer about one.
    #[serde(skip)]
    pub cause: crate::signing_log::RevokeRefused,
}

/// A line whose key is in other hands: whoever has it could have renewed with it.
#[derive(Debug, Serialize)]
pub struct Withdrawn {
    /// The line, which is disabled.
    pub line_disabled: Slug,
    /// Its other certificates, which authenticate no more.
    pub withdrawn: Vec<SerialNumber>,
}

/// A line's certificate that is released and does not authenticate its line: it may be in other hands.
#[derive(Debug, Serialize)]
pub struct Uncertified {
    /// Which.
    pub serial: SerialNumber,
    /// Why.
    pub problem: String,
}

/// Why nothing was revoked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RevokeError {
    /// The log, or a value that cannot be.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An issuer's certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityRefused),
}

/// Why an issuer's certificate is not revoked here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityRefused {
    /// There is no such issuer.
    #[error("there is no issuer {0}")]
    Missing(IssuerName),
    /// A root's own CRL cannot revoke the root (RFC 5280, 6.1: a trust anchor is trusted by configuration).
    #[error(
        "{0} is a root: no CRL revokes it. Whoever trusts it must stop: take its certificate out of every trust \
         store, and revoke what it signed"
    )]
    Root(IssuerName),
    /// Who signed it has its key elsewhere.
    #[error(
        "the certificate of {issuer} was signed by {parent}, whose key is not at hand here: revoke it where that \
         key is kept, and publish the CRL from there; until then close the orders of {issuer} (hallmark order close)"
    )]
    ParentElsewhere {
        /// Whose certificate it is.
        issuer: IssuerName,
        /// Who signed it.
        parent: IssuerName,
    },
    /// It is one of several.
    #[error(
        "one of the serials is that of the issuer {0}, whose revocation stops all that it issues: revoke it by \
         itself (hallmark cert revoke --issuer-certificate {0})"
    )]
    Among(IssuerName),
}

/// A value that cannot be.
fn refused(key: &'static str, problem: impl Into<String>) -> RevokeError {
    RevokeError::Log(LogError::Change(ChangeRefused::Value {
        key,
        problem: problem.into(),
    }))
}

impl Revocations {
    /// Revoking in this log; `keys` are the issuers whose keys are configured here. What is asked of `issuance` and of
    /// the board of CRLs is only by when CRLs can follow.
    #[must_use]
    pub fn new(
        log: SigningLog,
        clock: Clock,
        terms: config::Revocation,
        keys: BTreeSet<IssuerName>,
        (issuance, crls): (Issuance, crl::Board),
    ) -> Self {
        Self {
            log,
            clock,
            terms,
            keys,
            issuance,
            crls,
        }
    }

    /// Revokes, holds or releases certificates by their serials, in one transaction.
    ///
    /// A line's own stop authenticating it first; with key-compromise the line is disabled and its other
    /// certificates are withdrawn too. A released one authenticates its line again, unless another of the line was
    /// revoked for key-compromise since it was issued. A reader's likewise, alone: readers cannot renew by themselves,
    /// so whoever has its key has no other certificate.
    ///
    /// # Errors
    /// [`RevokeError`]: no entry revokes anything; lines may have been changed. The same wish may be made again.
    pub async fn revoke(&self, operator: &str, wish: &Wish) -> Result<Done, RevokeError> {
        let mut seen = BTreeSet::new();
        let serials = wish.serials.iter().copied();
        let serials: Vec<_> = serials.filter(|serial| seen.insert(*serial)).collect();
        if serials.is_empty() {
            return Err(refused("serials", "names no certificate"));
        }
        let note = note(wish)?;
        self.authorities(&serials).await?;
        let release = wish.reason == RevocationReason::RemoveFromCrl;
        let lines = if release {
            Vec::new()
        } else {
            self.decertify(operator, &serials, wish.reason).await?
        };
        let outcomes = self
            .log
            .record_revocations(operator, &serials, wish.reason, &note)
            .await?;
        let uncertified = if release {
            self.recertify(operator, &serials, &outcomes).await?
        } else {
            Vec::new()
        };
        let mut done = Done {
            changed: 0,
            unchanged: 0,
            refused: Vec::new(),
            lines,
            uncertified,
            visible: self.visible(&serials).await,
            standings: Vec::new(),
        };
        for (serial, outcome) in serials.into_iter().zip(outcomes) {
            done.count(serial, outcome);
        }
        Ok(done)
    }

    /// Revokes, holds or releases the certificate of an issuer, by its parent. From then on (until it is released)
    /// the issuer issues nothing, also after a restart.
    ///
    /// # Errors
    /// [`AuthorityRefused`], or as [`Self::revoke`].
    pub async fn revoke_issuer(
        &self,
        operator: &str,
        issuer: &IssuerName,
        wish: &Wish,
    ) -> Result<Done, RevokeError> {
        let records = self.log.issuers().await?;
        let found = records.iter().find(|record| record.name == *issuer);
        let record = found.ok_or_else(|| AuthorityRefused::Missing(issuer.clone()))?;
        if record.parent == record.name {
            return Err(AuthorityRefused::Root(issuer.clone()).into());
        }
        let elsewhere = || AuthorityRefused::ParentElsewhere {
            issuer: issuer.clone(),
            parent: record.parent.clone(),
        };
        let serial = record.serial().ok_or_else(elsewhere)?;
        let wish = Wish {
            serials: vec![serial],
            ..wish.clone()
        };
        self.revoke(operator, &wish).await
    }

    /// Judges the issuers' certificates among the serials: alone, and by a parent whose key is here.
    async fn authorities(&self, serials: &[SerialNumber]) -> Result<(), RevokeError> {
        let records = self.log.issuers().await?;
        let of_issuer = |record: &&crate::signing_log::IssuerRecord| {
            record
                .serial()
                .is_some_and(|serial| serials.contains(&serial))
        };
        let Some(record) = records.iter().find(of_issuer) else {
            return Ok(());
        };
        if serials.len() > 1 {
            return Err(AuthorityRefused::Among(record.name.clone()).into());
        }
        if record.parent == record.name {
            return Err(AuthorityRefused::Root(record.name.clone()).into());
        }
        // Signed here: the log has its intent, under its parent.
        let known = match record.serial() {
            Some(serial) => self.log.certificate(serial).await?,
            None => None,
        };
        let signed_here = known.is_some_and(|known| known.issuer == record.parent);
        if signed_here && self.keys.contains(&record.parent) {
            return Ok(());
        }
        Err(AuthorityRefused::ParentElsewhere {
            issuer: record.name.clone(),
            parent: record.parent.clone(),
        }
        .into())
    }

    /// Ends what lines' and readers' certificates among the serials authenticate.
    async fn decertify(
        &self,
        operator: &str,
        serials: &[SerialNumber],
        reason: RevocationReason,
    ) -> Result<Vec<Withdrawn>, RevokeError> {
        let mut lines = Vec::new();
        for serial in serials {
            if let Some(reader) = self.log.registry().reader_of(*serial) {
                let serial = *serial;
                let change = Change::ReaderDecertified { reader, serial };
                self.log.record_change(operator, change).await?;
                continue;
            }
            // Asked anew each time: withdrawing one line's certificates may have taken the next one along.
            let Some(line) = self.log.registry().line_of(*serial) else {
                // It authenticates no more, but whoever has its key may have renewed with it before that.
                if reason == RevocationReason::KeyCompromise
                    && let Some(line) = self.line_of_revoked(*serial).await?
                {
                    lines.push(self.withdraw(operator, line, *serial).await?);
                }
                continue;
            };
            // First, so that a failure between the steps leaves the safer part; a retry does the rest.
            if reason == RevocationReason::KeyCompromise {
                lines.push(self.withdraw(operator, line.clone(), *serial).await?);
            }
            let serial = *serial;
            let change = Change::LineDecertified { line, serial };
            self.log.record_change(operator, change).await?;
        }
        Ok(lines)
    }

    /// The line of a certificate that was revoked for another reason than its key.
    async fn line_of_revoked(&self, serial: SerialNumber) -> Result<Option<Slug>, LogError> {
        let Some(record) = self.log.certificate(serial).await? else {
            return Ok(None);
        };
        let standing = record.revocation.and_then(|standing| standing.reason);
        // Where it stands so already all was done, and the line may have new certificates since.
        if record.why != "line" || standing == Some(RevocationReason::KeyCompromise) {
            return Ok(None);
        }
        Ok(record.line.and_then(|line| line.parse().ok()))
    }

    /// Disables a line and ends what its certificates but this one authenticate.
    async fn withdraw(
        &self,
        operator: &str,
        line: Slug,
        serial: SerialNumber,
    ) -> Result<Withdrawn, LogError> {
        let log = &self.log;
        // First, so that no renewal that is in work is admitted after the others are listed.
        if log.registry().line_state(&line) != Some(PartyState::Disabled) {
            let change = Change::LineSet {
                line: line.clone(),
                state: PartyState::Disabled,
            };
            log.record_change(operator, change).await?;
        }
        let record = log.registry().line(&line);
        let certificates = record.map(|record| record.certificates).unwrap_or_default();
        let mut withdrawn = Vec::new();
        for certificate in certificates.iter().filter(|c| c.serial != serial) {
            let change = Change::LineDecertified {
                line: line.clone(),
                serial: certificate.serial,
            };
            log.record_change(operator, change).await?;
            withdrawn.push(certificate.serial);
        }
        Ok(Withdrawn {
            line_disabled: line,
            withdrawn,
        })
    }

    /// Lets lines' and readers' certificates that were released authenticate again.
    async fn recertify(
        &self,
        operator: &str,
        serials: &[SerialNumber],
        outcomes: &[Revoked],
    ) -> Result<Vec<Uncertified>, RevokeError> {
        let mut uncertified = Vec::new();
        let released = serials.iter().zip(outcomes);
        let released = released.filter(|(_, outcome)| !matches!(outcome, Revoked::Refused(_)));
        let selection = Selection {
            serials: released.map(|(serial, _)| *serial).collect(),
            kind: Some(CertificateKind::Line),
            ..Selection::default()
        };
        if selection.serials.is_empty() {
            return Ok(uncertified);
        }
        for serial in &selection.serials {
            if let Some((reader, certificate)) = self.log.registry().decertified(*serial) {
                let change = Change::ReaderCertified {
                    reader,
                    certificate,
                };
                self.log.record_change(operator, change).await?;
            }
        }
        let page = self.log.select(&selection, None, None).await?;
        for record in page.certificates {
            if self.log.registry().line_of(record.serial).is_some() {
                continue;
            }
            let Some(change) = self.certified_again(&record).await? else {
                continue;
            };
            match self.log.record_change(operator, change).await {
                Ok(_) => {}
                // The log knows better: it was revoked meanwhile, or a certificate of its line was compromised.
                Err(LogError::Change(ChangeRefused::Value {
                    key: "certificate",
                    problem,
                })) => uncertified.push(Uncertified {
                    serial: record.serial,
                    problem,
                }),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(uncertified)
    }

    /// The change that lets a line's certificate authenticate; none where the line is gone.
    async fn certified_again(
        &self,
        record: &CertificateRecord,
    ) -> Result<Option<Change>, RevokeError> {
        let damaged = || LogError::Damaged(format!("the certificate {} of a line", record.serial));
        let line = record.line.as_deref().and_then(|line| line.parse().ok());
        let known = |line: &Slug| self.log.registry().line_state(line).is_some();
        let Some(line) = line.filter(known) else {
            return Ok(None);
        };
        let whole = self.log.certificate(record.serial).await?;
        let pem = whole.and_then(|whole| whole.pem).ok_or_else(damaged)?;
        let (_, der) = der::pem::decode_vec(pem.as_bytes()).map_err(|_| damaged())?;
        let certificate = PartyCertificate {
            serial: record.serial,
            sha256: DetailHash::of(&der),
            not_before: record.not_before,
            not_after: record.not_after,
        };
        Ok(Some(Change::LineCertified {
            line,
            certificate,
            renews: None,
        }))
    }

    /// Publishes, and says by when it is visible where. Where publishing fails or takes long it goes on by itself,
    /// and what was done stands all the same.
    async fn visible(&self, serials: &[SerialNumber]) -> Visible {
        let published = tokio::time::timeout(PUBLICATION_DEADLINE, self.log.publish()).await;
        match published {
            Ok(Ok(())) => {
                let answered = self.answered(serials).await;
                let waits = self.crls_that_wait(serials).await;
                Visible::published(self.clock.now(), &self.terms, answered, waits)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a revocation is not published yet");
                Visible::unpublished()
            }
            Err(_late) => Visible::unpublished(),
        }
    }

    /// Whether responders answer for any of these certificates.
    async fn answered(&self, serials: &[SerialNumber]) -> Answered {
        let known = self.issuance.issuers().into_iter();
        let device = known.filter(|known| known.role == IssuerRole::Device);
        let device: BTreeSet<IssuerName> = device.map(|known| known.issuer).collect();
        for serial in serials {
            match self.log.certificate(*serial).await {
                Ok(Some(record)) if device.contains(&record.issuer) => return Answered::ByOcsp,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "whether OCSP is concerned cannot be read");
                    return Answered::ByOcsp;
                }
            }
        }
        Answered::ByCrlsAlone
    }

    /// The issuers of these certificates whose CRLs cannot follow now, and why.
    async fn crls_that_wait(&self, serials: &[SerialNumber]) -> Vec<CrlWaits> {
        let mut in_trouble = self.issuers_in_trouble();
        let mut waits = Vec::new();
        for serial in serials {
            // Nothing to look up in the normal case.
            if in_trouble.is_empty() {
                break;
            }
            match self.log.certificate(*serial).await {
                Ok(record) => {
                    let found = record.and_then(|record| in_trouble.remove_entry(&record.issuer));
                    waits.extend(found);
                }
                Err(error) => {
                    // What was done stands. Too many that wait are told rather than too few.
                    tracing::warn!(%error, "whose CRLs are concerned cannot be read");
                    waits.extend(std::mem::take(&mut in_trouble));
                }
            }
        }
        let waits = waits.into_iter();
        waits
            .map(|(issuer, problem)| CrlWaits { issuer, problem })
            .collect()
    }

    /// The issuers whose CRLs cannot be made now, and why.
    fn issuers_in_trouble(&self) -> BTreeMap<IssuerName, String> {
        let mut problems = BTreeMap::new();
        for known in self.issuance.issuers() {
            if !self.keys.contains(&known.issuer) {
                let elsewhere = "its key is not at hand here: make its CRL where that key is kept";
                problems.insert(known.issuer, elsewhere.to_owned());
            } else if !known.usable {
                let away = "its token cannot sign now: the CRL follows when it is back";
                problems.insert(known.issuer, away.to_owned());
            }
        }
        for crl in self.crls.states() {
            if let Some(problem) = crl.problem {
                problems.entry(crl.issuer).or_insert(problem);
            }
        }
        problems
    }
}

impl Done {
    /// Takes in what became of one certificate.
    fn count(&mut self, serial: SerialNumber, outcome: Revoked) {
        let (revocation, changed) = match outcome {
            Revoked::Changed(standing) => (standing, true),
            Revoked::Unchanged(standing) => (standing, false),
            Revoked::Refused(cause) => {
                self.refused.push(RefusedOne {
                    serial,
                    problem: cause.to_string(),
                    cause,
                });
                return;
            }
        };
        self.changed += usize::from(changed);
        self.unchanged += usize::from(!changed);
        self.standings.push(Standing {
            serial,
            revocation,
            changed,
        });
    }
}

/// What the entries' details say beside the operator's name.
fn note(wish: &Wish) -> Result<BTreeMap<&'static str, String>, RevokeError> {
    let mut note = BTreeMap::new();
    for (key, words) in [("comment", &wish.comment), ("selection", &wish.selection)] {
        let Some(words) = words else { continue };
        let length = words.chars().count();
        if !(1..=WORDS_CHARS_MAX).contains(&length) || words.chars().any(char::is_control) {
            let problem =
                format!("has 1 to {WORDS_CHARS_MAX} characters, and no control characters");
            return Err(refused(key, problem));
        }
        note.insert(key, words.clone());
    }
    Ok(note)
}
