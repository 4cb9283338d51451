//! The responder's own keys: one that signs answers, one that cosigns heads.
//!
//! Owns two PKCS#8 files of mode 0600, made where there is none. Promises that a file which others may read is refused,
//! that a key never leaves this module but as a signature, and that no error quotes a file. Never overwrites a key.
//! Failure story: [`KeyError`] names the file and what to do; the responder does not start.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64ct::{Base64, Encoding as _};
use der::pem::LineEnding;

use crate::UnixMillis;
use crate::durable;
use crate::log::DetailHash;
use crate::log::checkpoint::{COSIGNATURE_TYPE, Checkpoint};
use crate::signature::tlv;

/// The longest key file in octets: a P-256 key in PEM has some 250.
const FILE_BYTES_MAX: u64 = 4096;

/// The label of PKCS#8 in PEM (RFC 7468, 10).
const PEM_LABEL: &str = "PRIVATE KEY";

/// The AlgorithmIdentifier of a P-256 key (RFC 5480, 2.1.1).
const P256: &[u8] =
    b"\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";

/// A key that cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refuses.
    #[error("{}: the key cannot be read", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system refuses.
    #[error("{}: the new key cannot be written", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Its mode.
    #[error("{}: others than its owner may use the key: chmod 600 it, and have it replaced if they did", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
    },
    /// Its contents.
    #[error("{}: not a {kind} key in PKCS#8, PEM or DER, unencrypted", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
        /// The kind that is wanted.
        kind: &'static str,
    },
    /// No random numbers.
    #[error("{}: no key can be made", path.display())]
    NotMade {
        /// Which file.
        path: PathBuf,
    },
}

/// Reads a PKCS#8 file that only its owner may read; none if it is not there.
fn read(path: &Path, kind: &'static str) -> Result<Option<Vec<u8>>, KeyError> {
    let failed = |source| KeyError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(failed)?,
    };
    let metadata = file.metadata().map_err(failed)?;
    let not_a_key = || KeyError::NotAKey {
        path: path.to_owned(),
        kind,
    };
    if !metadata.is_file() || metadata.len() > FILE_BYTES_MAX {
        return Err(not_a_key());
    }
    if metadata.mode() & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
        });
    }
    let mut octets = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut octets)
        .map_err(failed)?;
    if octets.first() != Some(&b'-') {
        return Ok(Some(octets));
    }
    match der::pem::decode_vec(&octets) {
        Ok((PEM_LABEL, der)) => Ok(Some(der)),
        _ => Err(not_a_key()),
    }
}

/// Writes a new key as PEM.
fn write(path: &Path, pkcs8: &[u8]) -> Result<(), KeyError> {
    let pem = der::pem::encode_string(PEM_LABEL, LineEnding::LF, pkcs8).map_err(|_| {
        KeyError::NotMade {
            path: path.to_owned(),
        }
    })?;
    durable::write_secret(path, pem.as_bytes()).map_err(|source| KeyError::Write {
        path: path.to_owned(),
        source,
    })
}

/// The key that signs answers: P-256, one for all issuers.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    spki: Vec<u8>,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SigningKey(SHA-256 {})",
            crate::hex::encode(&self.sha256())
        )
    }
}

impl SigningKey {
    /// Reads the key, or makes it where there is none.
    ///
    /// # Errors
    /// [`KeyError`]: tell the operator.
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        if let Some(pkcs8) = read(path, "P-256")? {
            return Self::from_pkcs8(&pkcs8, path);
        }
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new());
        let pkcs8 = made.map_err(|_| KeyError::NotMade {
            path: path.to_owned(),
        })?;
        write(path, pkcs8.as_ref())?;
        let key = Self::from_pkcs8(pkcs8.as_ref(), path)?;
        tracing::info!(path = %path.display(), ?key, "a key was made: have it approved at each appliance");
        Ok(key)
    }

    /// Reads PKCS#8.
    fn from_pkcs8(pkcs8: &[u8], path: &Path) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8);
        let pair = pair.map_err(|_| KeyError::NotAKey {
            path: path.to_owned(),
            kind: "P-256",
        })?;
        let point = tlv::wrap(tlv::BIT_STRING, &[&[0], pair.public_key().as_ref()]);
        Ok(Self {
            spki: tlv::wrap(tlv::SEQUENCE, &[P256, &point]),
            random: SystemRandom::new(),
            pair,
        })
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.spki
    }

    /// The SubjectPublicKeyInfo as PEM, as `hallmark responder approve` takes it.
    #[must_use]
    pub fn spki_pem(&self) -> String {
        // The encoder fails on labels that are none only.
        der::pem::encode_string("PUBLIC KEY", LineEnding::LF, &self.spki).unwrap_or_default()
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        DetailHash::of(&self.spki).0
    }

    /// An ECDSA signature with SHA-256, DER; none if the system has no random numbers.
    pub(super) fn sign(&self, tbs: &[u8]) -> Option<Vec<u8>> {
        let signature = self.pair.sign(&self.random, tbs).ok()?;
        Some(signature.as_ref().to_vec())
    }
}

/// The key that cosigns heads: Ed25519.
pub struct WitnessKey {
    pair: Ed25519KeyPair,
    name: String,
}

impl fmt::Debug for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WitnessKey({})", self.verifier_key())
    }
}

impl WitnessKey {
    /// Reads the key, or makes it where there is none.
    ///
    /// # Errors
    /// [`KeyError`]: tell the operator.
    pub fn load_or_make(path: &Path, name: &str) -> Result<Self, KeyError> {
        let not_made = || KeyError::NotMade {
            path: path.to_owned(),
        };
        let pkcs8 = match read(path, "Ed25519")? {
            Some(pkcs8) => pkcs8,
            None => {
                let pair = Ed25519KeyPair::generate().map_err(|_| not_made())?;
                // Version 1: OpenSSL 3.0 does not read a key with its public half in it.
                let pkcs8 = pair.to_pkcs8v1().map_err(|_| not_made())?;
                write(path, pkcs8.as_ref())?;
                tracing::info!(path = %path.display(), "a witness key was made");
                pkcs8.as_ref().to_vec()
            }
        };
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8);
        let pair = pair.map_err(|_| KeyError::NotAKey {
            path: path.to_owned(),
            kind: "Ed25519",
        })?;
        Ok(Self {
            pair,
            name: name.to_owned(),
        })
    }

    /// The type octet and the public key.
    fn typed(&self) -> Vec<u8> {
        [&[COSIGNATURE_TYPE], self.pair.public_key().as_ref()].concat()
    }

    /// The first four octets of SHA-256(name ‖ 0x0A ‖ type ‖ key) (C2SP signed-note).
    fn id(&self) -> [u8; 4] {
        let mut context = Context::new(&SHA256);
        context.update(self.name.as_bytes());
        context.update(b"\n");
        context.update(&self.typed());
        let digest = context.finish();
        digest.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// The verifier key: `<name>+<hash>+<base64(0x04 ‖ key)>`.
    #[must_use]
    pub fn verifier_key(&self) -> String {
        let id = crate::hex::encode(&self.id());
        format!(
            "{}+{id}+{}",
            self.name,
            Base64::encode_string(&self.typed())
        )
    }

    /// The note of a verified head with this witness's line at its end (C2SP tlog-cosignature, Ed25519).
    #[must_use]
    pub fn cosign(&self, head: &Checkpoint, note: &str, at: UnixMillis) -> String {
        let seconds = at.seconds();
        let message = head.cosigned_message(seconds);
        let signature = self.pair.sign(message.as_bytes());
        let octets = [&self.id(), &seconds.to_be_bytes()[..], signature.as_ref()].concat();
        format!(
            "{note}\u{2014} {} {}\n",
            self.name,
            Base64::encode_string(&octets)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::*;
    use crate::log::checkpoint::CosignerKey;
    use crate::signature::{PublicKey, SignatureAlgorithm};

    #[test]
    fn a_key_is_made_once_and_signs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ocsp.key");
        let key = SigningKey::load_or_make(&path).unwrap();
        let again = SigningKey::load_or_make(&path).unwrap();
        assert_eq!(key.spki(), again.spki());
        let public = PublicKey::parse(key.spki()).unwrap();
        assert_eq!(public.sha256(), key.sha256());
        let signature = key.sign(b"tbs").unwrap();
        let verified = public.verify(SignatureAlgorithm::EcdsaSha256, b"tbs", &signature);
        assert_eq!(verified, Ok(()));
        let pem = key.spki_pem();
        let (label, der) = der::pem::decode_vec(pem.as_bytes()).unwrap();
        assert_eq!((label, der.as_slice()), ("PUBLIC KEY", key.spki()));
    }

    #[test]
    fn what_is_no_key_of_the_owner_alone_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let open =
            |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        WitnessKey::load_or_make(&path, "w.example").unwrap();
        let refused = SigningKey::load_or_make(&path).unwrap_err();
        assert!(matches!(refused, KeyError::NotAKey { .. }), "{refused:?}");
        open(0o640);
        let refused = WitnessKey::load_or_make(&path, "w.example").unwrap_err();
        assert!(matches!(refused, KeyError::Exposed { .. }), "{refused:?}");
        open(0o600);
        std::fs::write(&path, "-----BEGIN SECRET-----\n").unwrap();
        let refused = WitnessKey::load_or_make(&path, "w.example").unwrap_err();
        assert!(matches!(refused, KeyError::NotAKey { .. }), "{refused:?}");
        assert!(!crate::chain(&refused).contains("SECRET"));
    }

    #[test]
    fn a_cosignature_is_what_c2sp_says() {
        let directory = tempfile::tempdir().unwrap();
        let key = WitnessKey::load_or_make(&directory.path().join("w.key"), "w.example/1").unwrap();
        let head = Checkpoint {
            origin: "log.example".into(),
            size: 7,
            root: [3; 32],
        };
        let note = format!("{}\n\u{2014} log.example AAAAAAAA\n", head.body());
        let cosigned = key.cosign(&head, &note, UnixMillis(1_700_000_000_123));
        let line = cosigned.strip_prefix(&note).unwrap();
        let base64 = line
            .strip_prefix("\u{2014} w.example/1 ")
            .unwrap()
            .trim_end();
        let octets = Base64::decode_vec(base64).unwrap();
        assert_eq!(octets.len(), 4 + 8 + 64);
        assert_eq!(octets[4..12], 1_700_000_000_u64.to_be_bytes());
        let verifier = key.verifier_key();
        let typed = Base64::decode_vec(verifier.splitn(3, '+').last().unwrap()).unwrap();
        assert_eq!((typed.len(), typed[0]), (33, 4));
        let message = format!("cosignature/v1\ntime 1700000000\n{}", head.body());
        let public = UnparsedPublicKey::new(&ED25519, &typed[1..]);
        public.verify(message.as_bytes(), &octets[12..]).unwrap();
        let hash = DetailHash::of(&[b"w.example/1\n".as_slice(), &typed].concat()).0;
        assert_eq!(octets[..4], hash[..4]);
        assert!(verifier.contains(&format!("+{}+", crate::hex::encode(&hash[..4]))));
        // What reads cosignatures elsewhere agrees.
        let reader = CosignerKey::parse(&verifier).unwrap();
        let at = UnixMillis::from_seconds(1_700_000_000);
        assert_eq!(reader.cosigned_at(&cosigned), Ok(at));
    }
}
