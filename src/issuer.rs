//! Issuers: a CA certificate and its key, and the one place that has a key sign.
//!
//! Owns [`Signer`] (a key with a name), [`Issuer`] (a signer with the certificate that entitles it) and
//! [`Signed`]. Promises that no [`Issuer`] exists whose key and certificate do not belong together, whose
//! certificate may not sign what it signs, or whose key failed a logged self-test. Never signs without an
//! [`Intent`], which it consumes. Failure story: a failed signature gives the intent back inside
//! [`Failed`], with the count of requests that may have reached a token.

use std::num::NonZeroU32;
use std::time::Duration;

use certstatus::log::{IssuerName, Subject};
use certstatus::signature::{PublicKey, SignatureAlgorithm, SignatureFault};

use crate::config::{self, KeyUri};
use crate::hsm::{CaKey, Hsm, HsmError, Reached};
use crate::limits;
use crate::profile::{CrlPartitions, IssuerFacts};
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::signing_log::{
    Certificate, CheckFailed, Failed, Intent, IntentRefused, Issued, IssuerRecord, IssuerRole,
    LogError, SigningLog, ToBeSigned, aside,
};

/// A CA key under its name in the log: signs intents of that name only.
#[derive(Clone)]
pub struct Signer {
    name: IssuerName,
    key: CaKey,
    public_key: PublicKey,
}

/// A signer with the certificate that entitles it.
#[derive(Clone)]
pub struct Issuer {
    signer: Signer,
    facts: IssuerFacts,
    role: IssuerRole,
}

/// A signature over an intent's TBS, not checked yet.
#[derive(Debug)]
pub struct Signed {
    intent: Intent,
    signature: Vec<u8>,
    attempts: u32,
}

/// The token did not sign: record [`SignFailed::failed`], then tell the client.
#[derive(Debug, thiserror::Error)]
#[error("the token did not sign")]
pub struct SignFailed {
    /// The intent and its attempts.
    pub failed: Box<Failed>,
    /// Why.
    #[source]
    pub source: HsmError,
}

/// Why an object was not made: at which step.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MakeFailed {
    /// 2: nothing was recorded, or recovery closes it.
    #[error(transparent)]
    Intent(IntentRefused),
    /// 3: the intent is closed; a retry is a new attempt.
    #[error("the token did not sign")]
    Token(#[source] HsmError),
    /// 4: the token's signature was wrong; the intent is closed as unresolved.
    #[error("the token's signature was wrong")]
    Check(#[source] SignatureFault),
    /// 5: the outcome may or may not be durable; a retry finds it if it is.
    #[error(transparent)]
    Log(LogError),
}

/// Aborts the process when dropped by a panic: recovery is the normal start, a half-made signature is not.
pub(crate) struct AbortOnPanic;

/// Why an issuer cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The token or its key.
    #[error("issuer {issuer}")]
    Hsm {
        /// The issuer.
        issuer: IssuerName,
        /// Why.
        #[source]
        source: HsmError,
    },
    /// The token did not sign the self-test, which left an intent and its outcome in the log.
    #[error("issuer {issuer}: the self-test failed")]
    SelfTest {
        /// The issuer.
        issuer: IssuerName,
        /// Why.
        #[source]
        source: HsmError,
    },
    /// Certificate and key do not belong together, or the certificate may not sign.
    #[error("issuer {issuer} is unfit: {problem}")]
    Unfit {
        /// The issuer.
        issuer: IssuerName,
        /// Why and what to do.
        problem: String,
    },
    /// The self-test could not be logged.
    #[error("issuer {issuer}: the self-test could not be logged")]
    Log {
        /// The issuer.
        issuer: IssuerName,
        /// Why.
        #[source]
        source: LogError,
    },
}

/// Attempts that may reach a token, over one intent.
const ATTEMPTS_MAX: u32 = 3;

/// The first pause before asking a token again that was busy or away; it doubles.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(20);

/// The longest.
const RETRY_PAUSE_MAX: Duration = Duration::from_millis(320);

impl Signer {
    /// Finds the one key with this place and this SPKI hash, and names it.
    ///
    /// # Errors
    /// [`IssuerError::Hsm`] whose source says `retry_helps`: wait for the token. Others: tell the operator.
    pub async fn open(
        hsm: &Hsm,
        name: IssuerName,
        uri: &KeyUri,
        algorithm: SignatureAlgorithm,
        spki_sha256: &[u8; 32],
    ) -> Result<Self, IssuerError> {
        let key = match hsm.ca_key(uri, algorithm, spki_sha256).await {
            Ok(key) => key,
            Err(source) => {
                return Err(IssuerError::Hsm {
                    issuer: name,
                    source,
                });
            }
        };
        match PublicKey::parse(key.spki()) {
            Ok(public_key) => Ok(Self {
                name,
                key,
                public_key,
            }),
            Err(fault) => Err(IssuerError::Unfit {
                issuer: name,
                problem: fault.to_string(),
            }),
        }
    }

    /// Steps 2 to 5 of `docs/ISSUANCE.md`, in a task of their own: whoever waits may go away.
    ///
    /// # Errors
    /// [`MakeFailed`] says at which step; its intent, if there is one, is closed.
    pub async fn make(
        &self,
        log: &SigningLog,
        grant: &Grant,
        object: ToBeSigned,
    ) -> Result<Issued, MakeFailed> {
        let (signer, log, grant) = (self.clone(), log.clone(), grant.clone());
        let task = tokio::spawn(async move {
            let _guard = AbortOnPanic;
            signer.steps(&log, &grant, object).await
        });
        // A task ends without a result only when the runtime shuts down.
        task.await
            .unwrap_or(Err(MakeFailed::Log(LogError::Stopping)))
    }

    /// Intent, signature, check, outcome.
    async fn steps(
        &self,
        log: &SigningLog,
        grant: &Grant,
        object: ToBeSigned,
    ) -> Result<Issued, MakeFailed> {
        // 2  Durable: serial, unit, claim, full TBS. A failure leaves nothing, or an intent that was
        //    committed but reported as failed: recovery closes it as abandoned, since it reached no token.
        let intent = log
            .record_intent(grant, object)
            .await
            .map_err(MakeFailed::Intent)?;

        // 3  In the token's own process. A failure closes the intent: abandoned when no request reached
        //    the token, else unresolved.
        let signed = match self.sign(intent).await {
            Ok(signed) => signed,
            Err(SignFailed { failed, source }) => {
                close(log, *failed).await;
                return Err(MakeFailed::Token(source));
            }
        };

        // 4  Signature verified, TBS bytes equal. A failure closes the intent as unresolved.
        let checked = match signed.intent.subject() {
            // Reading 50 MB takes as long as hundreds of certificates.
            Subject::Crl { .. } => aside(|| signed.check()).await.map_err(MakeFailed::Log)?,
            _ => signed.check(),
        };
        let certificate = match checked {
            Ok(certificate) => certificate,
            Err(wrong) => {
                tracing::error!(error = %wrong, "the token made a wrong signature");
                close(log, *wrong.failed).await;
                return Err(MakeFailed::Check(wrong.fault));
            }
        };

        // 5  Durable, then out. A failure leaves an object that nobody got: if the outcome became durable
        //    a retry finds it, else recovery closes the intent as unresolved.
        log.record_issued(certificate)
            .await
            .map_err(MakeFailed::Log)
    }

    /// Signs a domain-separated string under a logged intent of its own, and checks the signature.
    ///
    /// # Errors
    /// [`IssuerError`]: the key is not to be used.
    pub async fn self_test(&self, log: &SigningLog) -> Result<(), IssuerError> {
        let issuer = self.name.clone();
        let object = ToBeSigned::SelfTest {
            issuer: issuer.clone(),
            key: self.public_key.clone(),
            algorithm: self.algorithm(),
        };
        let grant = Grant::act(APPLIANCE, Purpose::SelfTest(issuer.clone()));
        match self.make(log, &grant, object).await {
            Ok(_tested) => Ok(()),
            Err(MakeFailed::Token(source)) => Err(IssuerError::SelfTest { issuer, source }),
            Err(MakeFailed::Log(source) | MakeFailed::Intent(IntentRefused::Log(source))) => {
                Err(IssuerError::Log { issuer, source })
            }
            Err(MakeFailed::Intent(refused)) => Err(IssuerError::Unfit {
                issuer,
                problem: refused.to_string(),
            }),
            Err(MakeFailed::Check(fault)) => Err(IssuerError::Unfit {
                issuer,
                problem: format!("self-test: {fault}"),
            }),
        }
    }

    /// Step 3: signs the intent's TBS; owns every attempt over the one identical TBS.
    ///
    /// A token that was busy or away is asked again, and one that died after it got the request is asked
    /// for another signature over the same bytes: only one signature is ever recorded, and the outcome
    /// counts the attempts. A refusal by the token (a wrong key, a rejected PIN) is final at once.
    ///
    /// # Errors
    /// [`SignFailed`]: record its `failed`.
    pub async fn sign(&self, intent: Intent) -> Result<Signed, SignFailed> {
        if intent.issuer() != &self.name {
            // No attempt was made; the intent is closed as abandoned.
            let source = HsmError::Refused {
                token: self.name.to_string(),
                cause: format!("the intent is for issuer {}", intent.issuer()),
                reached: Reached::No,
            };
            return Err(SignFailed::new(intent, 0, source));
        }
        let deadline = tokio::time::Instant::now() + limits::SIGN_DEADLINE;
        let (mut attempts, mut pause) = (0, RETRY_PAUSE_MIN);
        loop {
            let failure = match self.key.sign(intent.tbs()).await {
                Ok(signature) => {
                    return Ok(Signed {
                        intent,
                        signature,
                        attempts: attempts + 1,
                    });
                }
                Err(failure) => failure,
            };
            if failure.reached() == Reached::Maybe {
                attempts += 1;
            }
            let late = tokio::time::Instant::now() >= deadline;
            if !failure.retry_helps() || attempts >= ATTEMPTS_MAX || late {
                return Err(SignFailed::new(intent, attempts, failure));
            }
            if pause == RETRY_PAUSE_MIN {
                // Once for each intent: a token that is away for long is told of by `hsm`.
                tracing::warn!(issuer = %self.name, error = %failure, "signing is tried again");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    /// The name in the log.
    #[must_use]
    pub const fn name(&self) -> &IssuerName {
        &self.name
    }

    /// The public key.
    #[must_use]
    pub const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// What it signs with.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm()
    }

    /// The configured name of its token: issuers of one token share what it can sign.
    #[must_use]
    pub fn token(&self) -> &str {
        self.key.token()
    }

    /// Whether its token could sign now.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.key.usable()
    }
}

impl SignFailed {
    /// The intent that comes back, with what happened to it.
    fn new(intent: Intent, attempts: u32, source: HsmError) -> Self {
        Self {
            failed: Box::new(Failed {
                intent,
                attempts,
                reason: source.to_string(),
            }),
            source,
        }
    }
}

/// What an issuer's certificate, its record in the log and the configuration say about it.
///
/// # Errors
/// [`IssuerError::Unfit`]: the certificate may not sign, or the configuration contradicts the ceremony.
pub fn facts(
    record: &IssuerRecord,
    configured: &config::Issuer,
) -> Result<IssuerFacts, IssuerError> {
    let unfit = |problem| IssuerError::Unfit {
        issuer: record.name.clone(),
        problem,
    };
    let (name, certificate) = (record.name.clone(), &record.certificate);
    let mut facts = IssuerFacts::from_certificate(name, certificate, record.algorithm)
        .map_err(|refused| unfit(refused.to_string()))?;
    facts.take_urls(configured);
    let (count, url) = (record.partitions, &configured.crl_partition_url);
    facts.crl_partitions = match (NonZeroU32::new(count), url) {
        (None, None) => None,
        (Some(count), Some(url)) => Some(CrlPartitions {
            count,
            url: url.clone(),
        }),
        (Some(_), None) => {
            let what = "CRL partitions since its ceremony: name their crl_partition_url";
            return Err(unfit(format!("it has {count} {what}")));
        }
        (None, Some(_)) => {
            let what =
                "it has no CRL partitions since its ceremony, so it has no crl_partition_url";
            return Err(unfit(what.to_owned()));
        }
    };
    Ok(facts)
}

impl Issuer {
    /// Loads the issuer: pinned key, certificate, fitness, logged self-test.
    ///
    /// # Errors
    /// [`IssuerError`] that says `retry_helps`: wait for the token or the log. Others: tell the operator.
    pub async fn load(
        record: &IssuerRecord,
        configured: &config::Issuer,
        hsm: &Hsm,
        log: &SigningLog,
    ) -> Result<Self, IssuerError> {
        let unfit = |problem| IssuerError::Unfit {
            issuer: record.name.clone(),
            problem,
        };
        let facts = facts(record, configured)?;
        let uri = configured
            .key
            .as_ref()
            .ok_or_else(|| unfit("the configuration names no key for it".to_owned()))?;
        // The pin: the public key in the certificate that the ceremony recorded in the log.
        let pin = facts.public_key.sha256();
        let signer = Signer::open(hsm, record.name.clone(), uri, record.algorithm, &pin).await?;
        if signer.public_key != facts.public_key {
            return Err(unfit(
                "its key is not the one in its certificate".to_owned(),
            ));
        }
        signer.self_test(log).await?;
        Ok(Self {
            signer,
            facts,
            role: record.role,
        })
    }

    /// What certificates say about it.
    #[must_use]
    pub const fn facts(&self) -> &IssuerFacts {
        &self.facts
    }

    /// The key half.
    #[must_use]
    pub const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// What it is for.
    #[must_use]
    pub const fn role(&self) -> IssuerRole {
        self.role
    }
}

impl IssuerError {
    /// Whether each further attempt leaves entries in the log: the token is found, but fails its self-test.
    ///
    /// A log that fails takes no more of them until it has recovered.
    #[must_use]
    pub const fn logged(&self) -> bool {
        match self {
            Self::SelfTest { .. } => true,
            Self::Hsm { .. } | Self::Log { .. } | Self::Unfit { .. } => false,
        }
    }

    /// Whether waiting helps: a token that is away or a log that recovers, not a key that is wrong.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::Hsm { source, .. } | Self::SelfTest { source, .. } => source.retry_helps(),
            Self::Log { .. } => true,
            Self::Unfit { .. } => false,
        }
    }
}

impl Signed {
    /// Step 4: verifies the signature and compares the TBS bytes.
    ///
    /// # Errors
    /// [`CheckFailed`]: record its `failed`.
    pub fn check(self) -> Result<Certificate, CheckFailed> {
        self.intent.certify(self.signature, self.attempts)
    }
}

/// Closes a failed intent. When even that fails it stays open, and recovery closes it.
async fn close(log: &SigningLog, failed: Failed) {
    if let Err(error) = log.record_failed(failed).await {
        tracing::error!(%error, "a failed intent stays open until recovery");
    }
}

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_self_test_that_failed_counts_as_logged() {
        let issuer = || "device-1".parse::<IssuerName>().unwrap();
        // Whether a signature may exist is another question than whether there are entries.
        for reached in [Reached::No, Reached::Maybe] {
            let source = HsmError::Unavailable {
                token: "main".to_owned(),
                cause: "gone".to_owned(),
                reached,
            };
            let absent = IssuerError::Hsm {
                issuer: issuer(),
                source: source.clone(),
            };
            assert!(!absent.logged() && absent.retry_helps(), "{reached:?}");
            let failing = IssuerError::SelfTest {
                issuer: issuer(),
                source,
            };
            assert!(failing.logged() && failing.retry_helps(), "{reached:?}");
        }
    }
}
