//! CA keys behind a token host: the only road to a private key.
//!
//! Owns the connection to each `hallmark-token` process, key handles, deadlines and the classification of
//! failures. Promises that a [`CaKey`] is the one pinned key, and that every failure says whether a
//! signature may exist. Never holds a PIN or a vendor library in this process. Failure story: a lost host
//! fails the calls in flight with [`HsmError::reached`] saying [`Reached::Maybe`], and the connection is made again.

pub mod host;
mod link;
mod log_key;
// Public for the fuzz targets only (`tests/fuzz/`).
#[doc(hidden)]
pub mod wire;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::signature::Ed25519KeyPair;
use certstatus::signature::{KeyKind, SignatureAlgorithm};

use self::link::{Key, Link};
use crate::config::{KeyUri, Token};

/// The kind of key to generate in a ceremony.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// ECDSA on P-256, SHA-256.
    EcdsaP256,
    /// ECDSA on P-384, SHA-384.
    EcdsaP384,
    /// RSA 3072, PKCS#1 v1.5 with SHA-256.
    Rsa3072,
    /// RSA 4096, PKCS#1 v1.5 with SHA-256.
    Rsa4096,
    /// RSA 3072, PSS with SHA-256.
    Rsa3072Pss,
    /// RSA 4096, PSS with SHA-256.
    Rsa4096Pss,
    /// Ed25519, where the token has it.
    Ed25519,
}

/// How far a key may leave its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyPolicy {
    /// CKA_EXTRACTABLE false, for ever.
    NeverExtractable,
    /// CKA_EXTRACTABLE true with CKA_WRAP_WITH_TRUSTED, for cloning to a backup token.
    WrapWithTrusted,
}

/// What a ceremony host reports of a key that it made.
#[derive(Clone, Debug)]
pub struct GeneratedKey {
    /// The DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
    /// The attributes read back, by CKA name, for the transcript.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// How long a call waits for a token that is not ready yet before it says so: a host that was just started
/// logs in within this time.
const READY_PATIENCE: Duration = Duration::from_secs(3);

/// Tokens that the configuration names.
#[derive(Clone, Debug)]
pub struct Hsm {
    /// One for each token, in the configuration's order.
    links: Arc<[TokenLink]>,
}

/// A token's place and the connection to its host.
#[derive(Debug)]
struct TokenLink {
    /// CK_TOKEN_INFO's label.
    label: String,
    /// CK_TOKEN_INFO's serial number.
    serial: String,
    /// The connection.
    link: Arc<Link>,
}

/// One CA key on one token: pinned by its public key's hash.
#[derive(Clone, Debug)]
pub struct CaKey {
    /// The connection to its token's host.
    link: Arc<Link>,
    /// What is kept open there.
    key: Arc<Key>,
    /// The DER SubjectPublicKeyInfo.
    spki: Arc<[u8]>,
}

/// The Ed25519 key that signs checkpoints.
#[derive(Clone, Debug)]
pub struct LogKey(LogKeyPlace);

/// Where the log key is.
#[derive(Clone, Debug)]
enum LogKeyPlace {
    /// In this process, read from a file.
    File(Arc<Ed25519KeyPair>),
    /// On a token.
    Token(CaKey),
}

/// A token as `status` shows it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TokenHealth {
    /// The configured name.
    pub token: String,
    /// Connected, logged in and its keys found.
    pub usable: bool,
    /// What is wrong and what to do, for people.
    pub problem: Option<String>,
    /// Signatures since the daemon started.
    pub signatures: u64,
    /// Median latency of the last signatures, microseconds.
    pub latency_us: Option<u64>,
}

/// Why the token did not do what it should: named for what the operator should do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HsmError {
    /// The queue is full: retry soon.
    #[error("token {token}: all sessions are busy and the queue is full")]
    Busy {
        /// The configured name.
        token: String,
    },
    /// No host, no module, no token, or it went away.
    #[error("token {token}: not available: {cause}")]
    Unavailable {
        /// The configured name.
        token: String,
        /// The C_ function and CKR name, or the system's error.
        cause: String,
        /// Whether the request may have reached the token.
        reached: Reached,
    },
    /// The PIN was rejected; it is never tried again until the host is started anew.
    #[error(
        "token {token}: the PIN was rejected and will not be tried again: correct pin_file, then restart the token host"
    )]
    PinRejected {
        /// The configured name.
        token: String,
    },
    /// The PIN is locked.
    #[error(
        "token {token}: the PIN is locked: unlock it with the vendor's tool and the SO PIN, then restart the token host"
    )]
    PinLocked {
        /// The configured name.
        token: String,
    },
    /// The key is not there.
    #[error("token {token}: there is no private key labelled {label:?} with the pinned public key")]
    KeyMissing {
        /// The configured name.
        token: String,
        /// The key's label.
        label: String,
    },
    /// The key is there more than once.
    #[error(
        "token {token}: there are {count} private keys labelled {label:?}: remove or rename all but one"
    )]
    KeyAmbiguous {
        /// The configured name.
        token: String,
        /// The key's label.
        label: String,
        /// How many.
        count: usize,
    },
    /// The key's attributes are not those of a CA key.
    #[error("token {token}: key {label:?} is refused: {problem}")]
    KeyUnfit {
        /// The configured name.
        token: String,
        /// The key's label.
        label: String,
        /// Which attribute.
        problem: String,
    },
    /// The token refused the operation.
    #[error("token {token}: refused: {cause}")]
    Refused {
        /// The configured name.
        token: String,
        /// The C_ function and CKR name.
        cause: String,
        /// Whether the request may have reached the token.
        reached: Reached,
    },
    /// No answer in time.
    #[error("token {token}: no answer in time; its worker was killed and is started again")]
    Deadline {
        /// The configured name.
        token: String,
    },
    /// The log key file is not readable or not an Ed25519 PKCS#8 key.
    #[error("log key {}: {problem}", path.display())]
    LogKeyFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// Whether a label is in use on a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is.
    Yes,
    /// It is free.
    No,
}

/// Whether a request may have reached the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It provably did not: no signature exists.
    No,
    /// It may have: a signature may exist.
    Maybe,
}

/// Locks; what these mutexes hold is whole at every moment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HsmError {
    /// Whether a signature may exist after this failure.
    #[must_use]
    pub const fn reached(&self) -> Reached {
        match self {
            Self::Unavailable { reached, .. } | Self::Refused { reached, .. } => *reached,
            Self::Deadline { .. } => Reached::Maybe,
            Self::Busy { .. }
            | Self::PinRejected { .. }
            | Self::PinLocked { .. }
            | Self::KeyMissing { .. }
            | Self::KeyAmbiguous { .. }
            | Self::KeyUnfit { .. }
            | Self::LogKeyFile { .. } => Reached::No,
        }
    }

    /// Whether the same call may succeed later without an operator.
    #[must_use]
    pub const fn retry_helps(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. } | Self::Unavailable { .. } | Self::Deadline { .. }
        )
    }
}

impl Hsm {
    /// Starts to connect to each token's host; returns at once, connections are made and kept in the background.
    ///
    /// Must be called within a tokio runtime, which the connections' tasks run on.
    #[must_use]
    pub fn open(tokens: &[Token]) -> Self {
        Self {
            links: tokens
                .iter()
                .map(|token| TokenLink {
                    label: token.label.clone(),
                    serial: token.serial.clone(),
                    link: Link::open(token),
                })
                .collect(),
        }
    }

    /// The connection to the token that a URI names.
    fn link(&self, uri: &KeyUri) -> Result<&Arc<Link>, HsmError> {
        self.links
            .iter()
            .find(|token| token.label == uri.token_label && token.serial == uri.token_serial)
            .map(|token| &token.link)
            .ok_or_else(|| HsmError::Refused {
                token: uri.token_label.clone(),
                cause: format!(
                    "the configuration has no [[token]] with this label and serial {}",
                    uri.token_serial
                ),
                reached: Reached::No,
            })
    }

    /// Finds the one key with this place and this SPKI hash, reads its attributes back and checks them.
    ///
    /// Waits up to 3 s for a token that is not ready.
    ///
    /// # Errors
    /// [`HsmError::Unavailable`]: wait for the token. Others: stop the start and tell the operator.
    pub async fn ca_key(
        &self,
        uri: &KeyUri,
        algorithm: SignatureAlgorithm,
        spki_sha256: &[u8; 32],
    ) -> Result<CaKey, HsmError> {
        let link = self.link(uri)?;
        let (key, spki) = link
            .open_key(&uri.key_label, algorithm, *spki_sha256, READY_PATIENCE)
            .await
            .map_err(|fault| link.error(fault, &uri.key_label))?;
        Ok(CaKey {
            link: Arc::clone(link),
            key,
            spki,
        })
    }

    /// Whether a private key of this label is on the token, whatever its public key is (before a ceremony).
    ///
    /// # Errors
    /// [`HsmError`] that leaves the question open.
    pub async fn label_taken(
        &self,
        uri: &KeyUri,
        algorithm: SignatureAlgorithm,
    ) -> Result<Taken, HsmError> {
        // No public key has this hash: a label that is free is missing, any other answer is in the way.
        match self.ca_key(uri, algorithm, &[0; 32]).await {
            Err(HsmError::KeyMissing { .. }) => Ok(Taken::No),
            Err(HsmError::KeyUnfit { .. } | HsmError::KeyAmbiguous { .. }) | Ok(_) => {
                Ok(Taken::Yes)
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a key pair on a token whose host was started for a ceremony; refuses a label that exists.
    ///
    /// # Errors
    /// [`HsmError`]; nothing was made unless it is `reached`.
    pub async fn generate(
        &self,
        uri: &KeyUri,
        algorithm: KeyAlgorithm,
        policy: KeyPolicy,
    ) -> Result<GeneratedKey, HsmError> {
        let link = self.link(uri)?;
        let made = match link.wait_ready(READY_PATIENCE).await {
            Ok(()) => link.generate(&uri.key_label, algorithm, policy).await,
            Err(fault) => Err(fault),
        };
        made.map_err(|fault| link.error(fault, &uri.key_label))
    }

    /// Each token's state, in the configuration's order.
    #[must_use]
    pub fn health(&self) -> Vec<TokenHealth> {
        self.links.iter().map(|token| token.link.health()).collect()
    }

    /// Waits until no host works on a signature for this daemon's predecessors: idle, or its worker dead.
    ///
    /// Ends every other connection to the hosts, so only the one daemon that holds the store's lock may call
    /// it. A host that is not running has no worker and counts as idle.
    ///
    /// # Errors
    /// [`HsmError::Deadline`] when a host stays busy.
    pub async fn idle(&self) -> Result<(), HsmError> {
        for token in self.links.iter() {
            let link = &token.link;
            tokio::time::timeout(link.take_over_patience(), link.take_over())
                .await
                .map_err(|_| HsmError::Deadline {
                    token: link.name().to_owned(),
                })?;
        }
        Ok(())
    }
}

impl CaKey {
    /// The algorithm it signs with.
    #[must_use]
    pub fn algorithm(&self) -> SignatureAlgorithm {
        self.key.algorithm
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The configured name of its token.
    #[must_use]
    pub fn token(&self) -> &str {
        self.link.name()
    }

    /// Whether the token could sign now: issuing makes no intent when it could not.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.link.usable(&self.key)
    }

    /// Signs `tbs` once and returns the signature in X.509 form (ECDSA as DER). One call is one attempt.
    ///
    /// # Errors
    /// [`HsmError`]; [`HsmError::reached`] says whether a signature may exist.
    pub async fn sign(&self, tbs: &[u8]) -> Result<Vec<u8>, HsmError> {
        self.link
            .sign(&self.key, tbs)
            .await
            .map_err(|fault| self.link.error(fault, &self.key.label))
    }
}

impl LogKey {
    /// Reads an Ed25519 PKCS#8 key (PEM or DER) from a file that only this user can read.
    ///
    /// # Errors
    /// [`HsmError::LogKeyFile`].
    pub fn from_file(path: &std::path::Path) -> Result<Self, HsmError> {
        log_key::read(path).map(|pair| Self(LogKeyPlace::File(Arc::new(pair))))
    }

    /// Makes a new Ed25519 key and returns its PKCS#8 PEM, for the ceremony to write.
    ///
    /// # Errors
    /// [`HsmError::LogKeyFile`] when the system gives no randomness.
    pub fn generate() -> Result<zeroize::Zeroizing<String>, HsmError> {
        log_key::generate()
    }

    /// Finds the Ed25519 key with this place and this SPKI hash on a token.
    ///
    /// # Errors
    /// As [`Hsm::ca_key`].
    pub async fn open(hsm: &Hsm, uri: &KeyUri, spki_sha256: &[u8; 32]) -> Result<Self, HsmError> {
        let key = hsm
            .ca_key(uri, SignatureAlgorithm::Ed25519, spki_sha256)
            .await?;
        Ok(Self(LogKeyPlace::Token(key)))
    }

    /// The public key, 32 octets.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        match &self.0 {
            LogKeyPlace::File(pair) => log_key::public(pair),
            // The key's octets end an Ed25519 SubjectPublicKeyInfo (RFC 8410, 4).
            LogKeyPlace::Token(key) => key.spki.last_chunk().copied().unwrap_or_default(),
        }
    }

    /// Signs a checkpoint's body.
    ///
    /// # Errors
    /// [`HsmError`] from the token; a key from a file does not fail.
    pub async fn sign(&self, body: &[u8]) -> Result<[u8; 64], HsmError> {
        match &self.0 {
            LogKeyPlace::File(pair) => {
                let signature = pair.sign(body);
                Ok(signature
                    .as_ref()
                    .first_chunk()
                    .copied()
                    // An Ed25519 signature has 64 octets (RFC 8032, 5.1.6).
                    .unwrap_or([0; 64]))
            }
            LogKeyPlace::Token(key) => {
                let signature = key.sign(body).await?;
                <[u8; 64]>::try_from(signature).map_err(|other| HsmError::Refused {
                    token: key.link.name().to_owned(),
                    cause: format!("the log key's signature has {} octets, not 64", other.len()),
                    reached: Reached::Maybe,
                })
            }
        }
    }
}

/// The kind of key that an algorithm makes.
impl KeyAlgorithm {
    /// The public key's kind.
    #[must_use]
    pub const fn kind(self) -> KeyKind {
        match self {
            Self::EcdsaP256 => KeyKind::P256,
            Self::EcdsaP384 => KeyKind::P384,
            Self::Rsa3072 | Self::Rsa3072Pss => KeyKind::Rsa(3072),
            Self::Rsa4096 | Self::Rsa4096Pss => KeyKind::Rsa(4096),
            Self::Ed25519 => KeyKind::Ed25519,
        }
    }

    /// What keys of this kind sign with here.
    #[must_use]
    pub const fn signature(self) -> SignatureAlgorithm {
        match self {
            Self::EcdsaP256 => SignatureAlgorithm::EcdsaSha256,
            Self::EcdsaP384 => SignatureAlgorithm::EcdsaSha384,
            Self::Rsa3072 | Self::Rsa4096 => SignatureAlgorithm::RsaPkcs1Sha256,
            Self::Rsa3072Pss | Self::Rsa4096Pss => SignatureAlgorithm::RsaPssSha256,
            Self::Ed25519 => SignatureAlgorithm::Ed25519,
        }
    }
}
