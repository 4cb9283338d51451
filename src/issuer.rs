//! Issuers: a CA certificate and its key, and the one place that has a key sign.
//!
//! Owns [`Signer`] (a key with a name), [`Issuer`] (a signer with the certificate that entitles it) and
//! [`Signed`]. Promises that no [`Issuer`] exists whose key and certificate do not belong together, whose
//! certificate may not sign what it signs, or whose key failed a logged self-test. Never signs without an
//! [`Intent`], which it consumes. Failure story: a failed signature gives the intent back inside
//! [`Failed`], with the count of requests that may have reached a token.

use std::time::Duration;

use certstatus::log::IssuerName;
use certstatus::signature::{PublicKey, SignatureAlgorithm};

use crate::config;
use crate::hsm::{CaKey, Hsm, HsmError, Reached};
use crate::profile::IssuerFacts;
use crate::ra::{APPLIANCE, Grant, Purpose};
use crate::signing_log::{
    Certificate, CheckFailed, Failed, Intent, IntentRefused, IssuerRecord, IssuerRole, LogError,
    SigningLog, ToBeSigned,
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

/// How long all attempts over one intent may take together: a worker that is killed and started anew, with a
/// login, fits in; beyond it the line is better served by a refusal that it can retry.
const SIGN_DEADLINE: Duration = Duration::from_secs(15);

/// Attempts that may reach a token, over one intent.
const ATTEMPTS_MAX: u32 = 3;

/// The pause before asking a token again that was busy or away.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

impl Signer {
    /// Names a key.
    ///
    /// # Errors
    /// [`IssuerError::Unfit`] when the key's public part does not parse.
    pub fn new(name: IssuerName, key: CaKey) -> Result<Self, IssuerError> {
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

    /// Signs a domain-separated string under a logged intent of its own, and checks the signature.
    ///
    /// # Errors
    /// [`IssuerError`]: the key is not to be used.
    pub async fn self_test(&self, log: &SigningLog) -> Result<(), IssuerError> {
        let unlogged = |source| IssuerError::Log {
            issuer: self.name.clone(),
            source,
        };
        let object = ToBeSigned::SelfTest {
            issuer: self.name.clone(),
            key: self.public_key.clone(),
            algorithm: self.algorithm(),
        };
        let grant = Grant::act(APPLIANCE, Purpose::SelfTest(self.name.clone()));
        let intent = log
            .record_intent(&grant, object)
            .await
            .map_err(|refused| match refused {
                IntentRefused::Log(source) => unlogged(source),
                other => IssuerError::Unfit {
                    issuer: self.name.clone(),
                    problem: other.to_string(),
                },
            })?;
        match self.sign(intent).await {
            Ok(signed) => match signed.check() {
                Ok(tested) => log.record_issued(tested).await.map(drop).map_err(unlogged),
                Err(wrong) => {
                    let problem = format!("self-test: {wrong}");
                    log.record_failed(*wrong.failed).await.map_err(unlogged)?;
                    Err(IssuerError::Unfit {
                        issuer: self.name.clone(),
                        problem,
                    })
                }
            },
            Err(SignFailed { failed, source }) => {
                log.record_failed(*failed).await.map_err(unlogged)?;
                Err(IssuerError::Hsm {
                    issuer: self.name.clone(),
                    source,
                })
            }
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
        let deadline = tokio::time::Instant::now() + SIGN_DEADLINE;
        let mut attempts = 0;
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
            tracing::warn!(issuer = %self.name, attempts, error = %failure, "signing is tried again");
            tokio::time::sleep(RETRY_PAUSE).await;
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

impl Issuer {
    /// Loads the issuer: pinned key, certificate, fitness, logged self-test.
    ///
    /// # Errors
    /// [`IssuerError::Hsm`] whose source says `retry_helps`: wait for the token. Others: tell the operator.
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
        let mut facts = IssuerFacts::from_certificate(
            record.name.clone(),
            &record.certificate,
            record.algorithm,
        )
        .map_err(|refused| unfit(refused.to_string()))?;
        facts.crl_url.clone_from(&configured.crl_url);
        facts.ocsp_url.clone_from(&configured.ocsp_url);
        facts.ca_url.clone_from(&configured.ca_url);
        let uri = configured
            .key
            .as_ref()
            .ok_or_else(|| unfit("the configuration names no key for it".to_owned()))?;
        // The pin: the public key in the certificate that the ceremony recorded in the log.
        let key = hsm
            .ca_key(uri, record.algorithm, &facts.public_key.sha256())
            .await
            .map_err(|source| IssuerError::Hsm {
                issuer: record.name.clone(),
                source,
            })?;
        let signer = Signer::new(record.name.clone(), key)?;
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
    /// Whether waiting helps: a token that is away or a log that recovers, not a key that is wrong.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        match self {
            Self::Hsm { source, .. } => source.retry_helps(),
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
