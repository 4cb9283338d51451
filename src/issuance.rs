//! The issuing path, top to bottom: read this first.
//!
//! Owns the order of the five steps and nothing else: who may ask is `ra`'s, what a certificate says is
//! `profile`'s, what is durable is `signing_log`'s, and signing is `issuer`'s. Promises that what it returns
//! is durable in the log, that one claim gets one certificate however often and however simultaneously it
//! asks, and that a client that goes away cancels nothing. Never retries a closed intent. Failure story: step 1
//! leaves nothing; what steps 2 to 5 leave behind stands with them in `Signer::make`, because CRLs and
//! self-tests take them too. A panic from step 1 on aborts the process: recovery is the normal start, a
//! half-made signature is not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use certstatus::log::entry::Slug;
use certstatus::log::{IssuerName, LeafIndex, Subject};
use certstatus::{SerialNumber, UnixMillis};
use serde::Serialize;
use tokio::sync::watch;

use crate::csr::{Csr, CsrRefused, VerifiedCsr};
use crate::hsm::HsmError;
use crate::issuer::{AbortOnPanic, Issuer, MakeFailed};
use crate::limits;
use crate::profile::{BuildRefused, Profile};
use crate::ra::{Grant, Line, Order, Refused, is_device_id};
use crate::signing_log::{
    Claim, Claimed, IntentRefused, Issued, IssuerRole, LogError, Revocation, SigningLog, ToBeSigned,
};
use crate::time::Clock;

mod admission;
mod renewal;

use admission::Admissions;

pub(crate) use renewal::RenewalTurn;

/// Everything that issuing needs; clones share it.
#[derive(Clone)]
pub struct Issuance {
    inner: Arc<Inner>,
}

/// The shared parts.
struct Inner {
    log: SigningLog,
    clock: Clock,
    profiles: BTreeMap<String, Profile>,
    /// The issuer of line and server certificates.
    access: IssuerName,
    /// The log's issuers; their keys come when their tokens do.
    issuers: RwLock<HashMap<IssuerName, Arc<Known>>>,
    /// Claims in work: a second request for one waits for the first.
    in_work: Mutex<HashMap<Claim, watch::Receiver<()>>>,
    /// What lines may ask of each token at a time.
    admissions: Admissions,
    /// Lines whose renewal is in work.
    renewing: Mutex<BTreeSet<Slug>>,
}

/// An issuer of the log, with what answers carry.
struct Known {
    /// What it is for.
    role: IssuerRole,
    /// Its certificate, then its parents', without the root: a retry needs no token.
    chain: Vec<Vec<u8>>,
    /// Itself, once its token has been there.
    issuer: Option<Issuer>,
}

/// An issuer of the log, as readiness and `hallmark status` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IssuerHealth {
    /// Its name in the log.
    pub issuer: IssuerName,
    /// What it is for.
    pub role: IssuerRole,
    /// Its key was found and tested since the start.
    pub loaded: bool,
    /// It is loaded, and its token could sign now: a certificate, or at least a CRL.
    pub usable: bool,
    /// Since when and why its own certificate is revoked or on hold: it issues nothing, whatever its token could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

/// A certificate that may leave, with what the client wants to know of it.
#[derive(Clone, Debug)]
pub struct Answer {
    /// DER certificates: the leaf, then the intermediates, without the root.
    pub chain: Vec<Vec<u8>>,
    /// The serial.
    pub serial: SerialNumber,
    /// The entries of its intent and its outcome.
    pub entries: (LeafIndex, LeafIndex),
    /// The end of validity.
    pub not_after: UnixMillis,
    /// Made now, or found.
    pub origin: Origin,
}

/// Whether this request made the certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It did.
    New,
    /// An earlier or simultaneous one did; this is the same certificate, byte for byte.
    Repeated,
}

/// Why no certificate comes back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IssueError {
    /// The request itself.
    #[error(transparent)]
    Csr(#[from] CsrRefused),
    /// The line or the order.
    #[error(transparent)]
    Ra(#[from] Refused),
    /// A field, or the profile.
    #[error(transparent)]
    Build(#[from] BuildRefused),
    /// The claim, key or device id is taken, or the log refused.
    #[error(transparent)]
    Intent(#[from] IntentRefused),
    /// The certificate that this request got before is revoked.
    #[error(
        "this request was answered with certificate {0} before, which is revoked: it is not given out again"
    )]
    RevokedBefore(SerialNumber),
    /// The certificate that this request got before is on hold.
    #[error(
        "this request was answered with certificate {0} before, which is on hold: it is given out again once it is released"
    )]
    HeldBefore(SerialNumber),
    /// No device id: neither a common name nor `device_id`.
    #[error("the request names no device: its subject has no single common name")]
    NoDeviceId,
    /// The device id of the request and of the URL differ.
    #[error("the subject says {subject:?} but device_id says {parameter:?}")]
    DeviceIdDiffers {
        /// In the subject.
        subject: String,
        /// In the URL.
        parameter: String,
    },
    /// No token can sign now; nothing was recorded.
    #[error("no token can sign now")]
    NoToken,
    /// The token has as much to sign as it can in time, for this line or for all; nothing was recorded.
    #[error("the token has as much to sign as it can in time")]
    Crowded {
        /// When the line's own share may have been signed.
        retry_after: std::time::Duration,
    },
    /// The token failed after the intent; it is closed, and a retry is a new attempt.
    #[error("the token did not sign")]
    Token(#[source] HsmError),
    /// The token's signature was wrong; the intent is closed as unresolved.
    #[error("the token's signature was wrong")]
    Check(#[source] certstatus::signature::SignatureFault),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// No answer in time; the work goes on and a retry finds it.
    #[error("not ready in time; ask again")]
    Late,
    /// The order's or the line's profile is not among those that were loaded.
    #[error("there is no profile {0:?} in the configured directory: put it back and start again")]
    NoProfile(String),
    /// The system gives no randomness, so there is no serial.
    #[error("the system gives no randomness")]
    Randomness,
    /// What was made over an intent for a certificate cannot be read as one.
    #[error("what was made over the intent at entry {} of the log is not a certificate", .0.0)]
    NotACertificate(LeafIndex),
}

/// Holds a claim while it is in work; dropping it lets those who wait look again.
struct InWork {
    inner: Arc<Inner>,
    claim: Claim,
    _done: watch::Sender<()>,
}

impl From<MakeFailed> for IssueError {
    fn from(failed: MakeFailed) -> Self {
        match failed {
            MakeFailed::Intent(refused) => Self::Intent(refused),
            MakeFailed::Token(source) => Self::Token(source),
            MakeFailed::Check(fault) => Self::Check(fault),
            MakeFailed::Log(error) => Self::Log(error),
        }
    }
}

impl Issuance {
    /// Issuing without any issuer yet; `access` is the issuer of line and server certificates.
    #[must_use]
    pub fn new(
        log: SigningLog,
        clock: Clock,
        profiles: BTreeMap<String, Profile>,
        access: IssuerName,
    ) -> Self {
        let (issuers, in_work, renewing) = (RwLock::default(), Mutex::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                log,
                clock,
                profiles,
                access,
                issuers,
                in_work,
                admissions: Admissions::default(),
                renewing,
            }),
        }
    }

    /// Makes an issuer of the log known; `chain` is its certificate and its parents', without the root.
    ///
    /// From now on certificates that it issued are given out again; `None` until its key is loaded.
    pub fn add_issuer(
        &self,
        name: IssuerName,
        role: IssuerRole,
        chain: Vec<Vec<u8>>,
        issuer: Option<Issuer>,
    ) {
        let mut issuers = self
            .inner
            .issuers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let known = Known {
            role,
            chain,
            issuer,
        };
        issuers.insert(name, Arc::new(known));
    }

    /// The profiles by name.
    #[must_use]
    pub fn profiles(&self) -> &BTreeMap<String, Profile> {
        &self.inner.profiles
    }

    /// Every issuer of the log by name, also those whose key is elsewhere or locked away.
    #[must_use]
    pub fn issuers(&self) -> Vec<IssuerHealth> {
        let issuers = self
            .inner
            .issuers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let revoked = self.inner.log.revoked_issuers();
        let could_sign = |issuer: &Issuer| issuer.signer().usable();
        let mut list: Vec<_> = issuers
            .iter()
            .map(|(name, known)| IssuerHealth {
                issuer: name.clone(),
                role: known.role,
                loaded: known.issuer.is_some(),
                usable: known.issuer.as_ref().is_some_and(could_sign),
                revoked: revoked.get(name).copied(),
            })
            .collect();
        list.sort_by(|a, b| a.issuer.cmp(&b.issuer));
        list
    }

    /// Issues a device certificate under an order, or returns the one that the same request got before.
    ///
    /// `place` is what bounds the work: it is dropped when the work ends, which may be long after the client
    /// went away.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn device(
        &self,
        line: &Line,
        order: &str,
        csr: &[u8],
        device_id: Option<&str>,
        place: impl Send + 'static,
    ) -> Result<Answer, IssueError> {
        let order = self.inner.log.registry().order_for(line, order)?;
        let csr = Csr::parse(csr)?.verify()?;
        let device_id = device_id_of(&csr, device_id)?.to_owned();
        let claim = Claim {
            order: order.terms.order.clone(),
            spki: csr.spki_sha256(),
            requested: csr.requested(&device_id),
        };
        let request = Request {
            line: line.clone(),
            order,
            csr,
            device_id,
        };
        let held = self.hold(claim).await;
        let inner = Arc::clone(&self.inner);
        // From here on the work is not the connection's: a client that goes away cancels nothing.
        run(async move {
            let answered = inner.once(request, &held).await;
            drop((held, place));
            answered
        })
        .await
    }

    /// Issues a certificate under a grant that is no order's unit (a line's, the server's), by the `access` issuer.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn access(
        &self,
        grant: Grant,
        profile: &str,
        csr: VerifiedCsr,
    ) -> Result<Answer, IssueError> {
        self.by_issuer(&self.inner.access, grant, profile, csr)
            .await
    }

    /// As [`Self::access`], by another issuer: a responder's certificate is signed by the issuer that it answers for.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn by_issuer(
        &self,
        issuer: &IssuerName,
        grant: Grant,
        profile: &str,
        csr: VerifiedCsr,
    ) -> Result<Answer, IssueError> {
        let known = self.inner.known(issuer)?;
        let profile = profile.to_owned();
        let inner = Arc::clone(&self.inner);
        run(async move {
            let issued = inner.in_turn(&known, &profile, &csr, &grant).await?;
            answer(issued, &known, Origin::New)
        })
        .await
    }

    /// Waits until nobody works on the claim, then holds it.
    async fn hold(&self, claim: Claim) -> InWork {
        loop {
            let mut before = {
                let mut in_work = self
                    .inner
                    .in_work
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                match in_work.get(&claim) {
                    Some(before) => before.clone(),
                    None => {
                        let (done, waits) = watch::channel(());
                        in_work.insert(claim.clone(), waits);
                        return InWork {
                            inner: Arc::clone(&self.inner),
                            claim,
                            _done: done,
                        };
                    }
                }
            };
            // An error is the end that we wait for: the sender is gone because the work is done.
            let _ended = before.changed().await;
        }
    }
}

/// A request whose sender proved to be a line that may use the order, about a key that it has.
struct Request {
    line: Line,
    order: Order,
    csr: VerifiedCsr,
    device_id: String,
}

impl Inner {
    /// Issued before? The same certificate. Else quota, dates, device-id rules, room at the token, and the five steps.
    async fn once(&self, request: Request, held: &InWork) -> Result<Answer, IssueError> {
        let terms = &request.order.terms;
        let known = self.known(&terms.issuer)?;
        match self.log.claimed(&held.claim).await? {
            Claimed::Free => {}
            Claimed::Issued(issued) => return answer(issued, &known, Origin::Repeated),
            Claimed::Revoked { serial, standing } if standing.is_hold() => {
                return Err(IssueError::HeldBefore(serial));
            }
            Claimed::Revoked { serial, .. } => return Err(IssueError::RevokedBefore(serial)),
            // Only an intent of a halted log has no outcome here: recovery closes it.
            Claimed::InFlight => return Err(IssueError::Late),
        }
        let now = self.clock.now();
        let registry = self.log.registry();
        let grant = registry.grant(&request.line, &terms.order, &request.device_id, now)?;
        let issued = self
            .in_turn(&known, &terms.profile, &request.csr, &grant)
            .await?;
        answer(issued, &known, Origin::New)
    }

    /// The five steps, once the line that asks has its turn at the token; operators and the appliance do not wait for one.
    async fn in_turn(
        &self,
        known: &Known,
        profile: &str,
        csr: &VerifiedCsr,
        grant: &Grant,
    ) -> Result<Issued, IssueError> {
        // Before the intent, so that a crowd at a slow token leaves nothing in the log.
        let issuer = known.issuer.as_ref().ok_or(IssueError::NoToken)?;
        let turn = self.admissions.turn(grant, issuer.signer().token());
        let admitted = turn.await?;
        let issued = self.five_steps(known, profile, csr, grant).await?;
        if let Some(admitted) = admitted {
            admitted.signed();
        }
        Ok(issued)
    }

    /// The five steps.
    async fn five_steps(
        &self,
        known: &Known,
        profile: &str,
        csr: &VerifiedCsr,
        grant: &Grant,
    ) -> Result<Issued, IssueError> {
        let profile = self
            .profiles
            .get(profile)
            .ok_or_else(|| IssueError::NoProfile(profile.to_owned()))?;
        // Before the intent, so that an absent token leaves nothing to clean up.
        let issuer = known
            .issuer
            .as_ref()
            .filter(|issuer| issuer.signer().usable());
        let issuer = issuer.ok_or(IssueError::NoToken)?;

        // 1  Policy and lint on the final certificate. A failure leaves nothing.
        let serial = random_serial()?;
        let tbs = profile.build(csr, grant, issuer.facts(), serial, self.clock.now())?;

        // 2  intent, durable   3  signature   4  check   5  outcome, durable: each failure's
        //    consequence stands with its step in `issuer`, because CRLs and self-tests take the same steps.
        let object = ToBeSigned::Certificate(tbs);
        Ok(issuer.signer().make(&self.log, grant, object).await?)
    }

    /// The issuer, once the log has been read.
    fn known(&self, name: &IssuerName) -> Result<Arc<Known>, IssueError> {
        let issuers = self.issuers.read().unwrap_or_else(PoisonError::into_inner);
        issuers.get(name).cloned().ok_or(IssueError::NoToken)
    }
}

/// Runs work in a task of its own and waits for it, for a while.
async fn run<F>(work: F) -> Result<Answer, IssueError>
where
    F: Future<Output = Result<Answer, IssueError>> + Send + 'static,
{
    let task = tokio::spawn(async move {
        let _guard = AbortOnPanic;
        work.await
    });
    match tokio::time::timeout(limits::ANSWER_DEADLINE, task).await {
        Ok(Ok(result)) => result,
        // A task ends without a result only when the runtime shuts down.
        Ok(Err(_stopping)) => Err(IssueError::Log(LogError::Stopping)),
        Err(_late) => Err(IssueError::Late),
    }
}

/// The device id: the subject's common name; a parameter must agree with it, or stands in for none.
fn device_id_of<'a>(
    csr: &'a VerifiedCsr,
    parameter: Option<&'a str>,
) -> Result<&'a str, IssueError> {
    // Before anything is compared, since a difference is told with both texts.
    let mut texts = csr.common_name().into_iter().chain(parameter);
    if !texts.all(is_device_id) {
        return Err(Refused::DeviceIdForm.into());
    }
    match (csr.common_name(), parameter) {
        (Some(subject), Some(parameter)) if subject != parameter => {
            Err(IssueError::DeviceIdDiffers {
                subject: subject.to_owned(),
                parameter: parameter.to_owned(),
            })
        }
        (Some(id), _) | (None, Some(id)) => Ok(id),
        (None, None) => Err(IssueError::NoDeviceId),
    }
}

/// What the client gets.
fn answer(issued: Issued, known: &Known, origin: Origin) -> Result<Answer, IssueError> {
    let entries = issued.entries();
    let &Subject::Certificate { serial, not_after } = issued.subject() else {
        return Err(IssueError::NotACertificate(entries.0));
    };
    let mut chain = Vec::with_capacity(1 + known.chain.len());
    chain.push(issued.der().to_vec());
    chain.extend(known.chain.iter().cloned());
    Ok(Answer {
        chain,
        serial,
        entries,
        not_after,
        origin,
    })
}

/// A fresh random serial.
///
/// # Errors
/// [`IssueError::Randomness`] when the system gives no randomness.
pub fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).map_err(|_| IssueError::Randomness)?;
    Ok(SerialNumber::from_random(octets))
}

impl Drop for InWork {
    fn drop(&mut self) {
        let mut in_work = self
            .inner
            .in_work
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        in_work.remove(&self.claim);
    }
}
