//! The issuing path, top to bottom: read this first.
//!
//! Owns the order of the five steps and nothing else: who may ask is `ra`'s, what a certificate says is
//! `profile`'s, what is durable is `signing_log`'s, and signing is `issuer`'s. Promises that what it returns
//! is durable in the log, that one claim gets one certificate however often and however simultaneously it
//! asks, and that a client that goes away cancels nothing. Never retries a closed intent. Failure story: each
//! `?` below says what it leaves behind; a panic from step 1 on aborts the process, because recovery is the
//! normal start and a half-made signature is not.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use certstatus::log::{IssuerName, LeafIndex, Subject};
use certstatus::{SerialNumber, UnixMillis};
use tokio::sync::watch;

use crate::csr::{Csr, CsrRefused, VerifiedCsr};
use crate::hsm::HsmError;
use crate::issuer::{Issuer, SignFailed};
use crate::limits;
use crate::profile::{BuildRefused, Profile};
use crate::ra::{Grant, Line, Order, Refused};
use crate::signing_log::{
    Claim, Claimed, Failed, IntentRefused, Issued, IssuerRole, LogError, SigningLog, ToBeSigned,
};
use crate::time::Clock;

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
    /// Issuers whose token has been there; others are added when it comes.
    issuers: RwLock<HashMap<IssuerName, Arc<Loaded>>>,
    /// Claims in work: a second request for one waits for the first.
    in_work: Mutex<HashMap<Claim, watch::Receiver<()>>>,
}

/// An issuer with what its answers carry.
struct Loaded {
    issuer: Issuer,
    /// Its certificate, then its parents', without the root.
    chain: Vec<Vec<u8>>,
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
    /// Something that cannot be at this point.
    #[error("the configuration lacks {0}")]
    Missing(String),
}

/// Holds a claim while it is in work; dropping it lets those who wait look again.
struct InWork {
    inner: Arc<Inner>,
    claim: Claim,
    _done: watch::Sender<()>,
}

/// Aborts the process when dropped by a panic.
struct AbortOnPanic;

impl Issuance {
    /// Issuing without any issuer yet; `access` is the issuer of line and server certificates.
    #[must_use]
    pub fn new(
        log: SigningLog,
        clock: Clock,
        profiles: BTreeMap<String, Profile>,
        access: IssuerName,
    ) -> Self {
        let (issuers, in_work) = (RwLock::default(), Mutex::default());
        Self {
            inner: Arc::new(Inner {
                log,
                clock,
                profiles,
                access,
                issuers,
                in_work,
            }),
        }
    }

    /// Adds an issuer whose key is loaded; `chain` is its certificate and its parents', without the root.
    pub fn add_issuer(&self, issuer: Issuer, chain: Vec<Vec<u8>>) {
        let name = issuer.facts().name.clone();
        let mut issuers = self
            .inner
            .issuers
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        issuers.insert(name, Arc::new(Loaded { issuer, chain }));
    }

    /// Whether a device issuer and the access issuer are loaded and their tokens could sign now.
    #[must_use]
    pub fn ready(&self) -> bool {
        let issuers = self
            .inner
            .issuers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let usable = |role| {
            let mut of_role = issuers.values().filter(|held| held.issuer.role() == role);
            of_role.any(|held| held.issuer.signer().usable())
        };
        usable(IssuerRole::Device) && usable(IssuerRole::Access)
    }

    /// The profiles by name.
    #[must_use]
    pub fn profiles(&self) -> &BTreeMap<String, Profile> {
        &self.inner.profiles
    }

    /// The loaded issuers: name, role, and whether the token could sign now.
    #[must_use]
    pub fn issuers(&self) -> Vec<(IssuerName, IssuerRole, bool)> {
        let issuers = self
            .inner
            .issuers
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = issuers
            .iter()
            .map(|(name, held)| {
                (
                    name.clone(),
                    held.issuer.role(),
                    held.issuer.signer().usable(),
                )
            })
            .collect();
        list.sort_by(|a, b| a.0.cmp(&b.0));
        list
    }

    /// Issues a device certificate under an order, or returns the one that the same request got before.
    ///
    /// # Errors
    /// [`IssueError`].
    pub async fn device(
        &self,
        line: &Line,
        order: &str,
        csr: &[u8],
        device_id: Option<&str>,
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
        run(async move { inner.once(request, &held).await }).await
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
        let loaded = self.inner.loaded(&self.inner.access)?;
        let profile = profile.to_owned();
        let inner = Arc::clone(&self.inner);
        run(async move {
            let issued = inner.five_steps(&loaded, &profile, &csr, &grant).await?;
            answer(issued, &loaded, Origin::New)
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
    /// Issued before? The same certificate. Else quota, dates, device-id rules, and the five steps.
    async fn once(&self, request: Request, held: &InWork) -> Result<Answer, IssueError> {
        let terms = &request.order.terms;
        let loaded = self.loaded(&terms.issuer);
        match self.log.claimed(&held.claim).await? {
            Claimed::Free => {}
            Claimed::Issued(issued) => return answer(issued, &*loaded?, Origin::Repeated),
            Claimed::Revoked { serial } => return Err(IssueError::RevokedBefore(serial)),
            // Only an intent of a halted log has no outcome here: recovery closes it.
            Claimed::InFlight => return Err(IssueError::Late),
        }
        let now = self.clock.now();
        let registry = self.log.registry();
        let grant = registry.grant(&request.line, &terms.order, &request.device_id, now)?;
        let loaded = loaded?;
        let issued = self
            .five_steps(&loaded, &terms.profile, &request.csr, &grant)
            .await?;
        answer(issued, &loaded, Origin::New)
    }

    /// The five steps.
    async fn five_steps(
        &self,
        loaded: &Loaded,
        profile: &str,
        csr: &VerifiedCsr,
        grant: &Grant,
    ) -> Result<Issued, IssueError> {
        let profile = self
            .profiles
            .get(profile)
            .ok_or_else(|| IssueError::Missing(format!("the profile {profile}")))?;
        let issuer = &loaded.issuer;
        if !issuer.signer().usable() {
            // Before the intent, so that an absent token leaves nothing to clean up.
            return Err(IssueError::NoToken);
        }

        // 1  Policy and lint on the final certificate. A failure leaves nothing.
        let serial = random_serial()?;
        let tbs = profile.build(csr, grant, issuer.facts(), serial, self.clock.now())?;

        // 2  Durable: serial, unit, claim, full TBS. A failure leaves nothing, or an intent that was
        //    committed but reported as failed: recovery closes it as abandoned, since it reached no token.
        let intent = self
            .log
            .record_intent(grant, ToBeSigned::Certificate(tbs))
            .await?;

        // 3  In the token's own process. A failure closes the intent: abandoned when no request reached
        //    the token, else unresolved.
        let signed = match issuer.signer().sign(intent).await {
            Ok(signed) => signed,
            Err(SignFailed { failed, source }) => {
                self.close(*failed).await;
                return Err(IssueError::Token(source));
            }
        };

        // 4  Signature verified, TBS bytes equal. A failure closes the intent as unresolved.
        let certificate = match signed.check() {
            Ok(certificate) => certificate,
            Err(wrong) => {
                tracing::error!(error = %wrong, "the token made a wrong signature");
                self.close(*wrong.failed).await;
                return Err(IssueError::Check(wrong.fault));
            }
        };

        // 5  Durable, then out. A failure leaves a certificate that nobody got: if the outcome became
        //    durable the retry finds it, else recovery closes the intent as unresolved.
        Ok(self.log.record_issued(certificate).await?)
    }

    /// Closes a failed intent. When even that fails it stays open, and recovery closes it.
    async fn close(&self, failed: Failed) {
        if let Err(error) = self.log.record_failed(failed).await {
            tracing::error!(%error, "a failed intent stays open until recovery");
        }
    }

    /// The issuer, if its token has been there.
    fn loaded(&self, name: &IssuerName) -> Result<Arc<Loaded>, IssueError> {
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
fn answer(issued: Issued, loaded: &Loaded, origin: Origin) -> Result<Answer, IssueError> {
    let entries = issued.entries();
    let &Subject::Certificate { serial, not_after } = issued.subject() else {
        return Err(IssueError::Missing(
            "a certificate where its intent says one is".to_owned(),
        ));
    };
    let mut chain = Vec::with_capacity(1 + loaded.chain.len());
    chain.push(issued.der().to_vec());
    chain.extend(loaded.chain.iter().cloned());
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
/// [`IssueError::Missing`] when the system gives no randomness.
pub fn random_serial() -> Result<SerialNumber, IssueError> {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets)
        .map_err(|_| IssueError::Missing("randomness from the system".to_owned()))?;
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

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
