//! The log key when it is a file: an Ed25519 PKCS#8 key that only this user can read.
//!
//! Owns the reading, the checks and the making of the file's contents. Promises that what it read is wiped
//! from memory but for the key itself. Never writes a file and never says what one holds.

use std::path::Path;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::HsmError;
use crate::secret;

/// The PEM label of PKCS#8 (RFC 7468, 10).
const PEM_LABEL: &str = "PRIVATE KEY";

/// The largest key file in octets: PKCS#8 of Ed25519 with its public key has 85, in PEM about 180.
const FILE_BYTES_MAX: usize = 4096;

/// Reads a key.
///
/// # Errors
/// [`HsmError::LogKeyFile`]: an operator must mend the file.
pub fn read(path: &Path) -> Result<Ed25519KeyPair, HsmError> {
    let refused = |problem: String| HsmError::LogKeyFile {
        path: path.to_owned(),
        problem,
    };
    let octets =
        secret::read(path, FILE_BYTES_MAX).map_err(|problem| refused(problem.to_string()))?;
    parse(&octets).ok_or_else(|| {
        refused("is not one Ed25519 private key in PKCS#8 (PEM or DER), not encrypted".to_owned())
    })
}

/// Reads PEM or DER.
fn parse(octets: &[u8]) -> Option<Ed25519KeyPair> {
    if octets.len() > FILE_BYTES_MAX {
        return None;
    }
    if octets.starts_with(b"-----BEGIN ") {
        let mut der = Zeroizing::new(vec![0; octets.len()]);
        let (label, der) = der::pem::decode(octets, &mut der).ok()?;
        if label == PEM_LABEL {
            return Ed25519KeyPair::from_pkcs8(der).ok();
        }
        return None;
    }
    Ed25519KeyPair::from_pkcs8(octets).ok()
}

/// The public key, 32 octets.
pub fn public(pair: &Ed25519KeyPair) -> [u8; 32] {
    let mut octets = [0; 32];
    // An Ed25519 public key has 32 octets (RFC 8032, 5.1.5).
    for (to, from) in octets.iter_mut().zip(pair.public_key().as_ref()) {
        *to = *from;
    }
    octets
}

/// Makes a key: its PKCS#8 as PEM.
///
/// # Errors
/// [`HsmError::LogKeyFile`] when the system gives no randomness.
pub fn generate() -> Result<Zeroizing<String>, HsmError> {
    let failed = |problem: &str| HsmError::LogKeyFile {
        path: std::path::PathBuf::from("(new)"),
        problem: problem.to_owned(),
    };
    let pair = Ed25519KeyPair::generate().map_err(|_| failed("the system gives no randomness"))?;
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair
        .as_der()
        .map_err(|_| failed("the new key cannot be encoded"))?;
    der::pem::encode_string(PEM_LABEL, der::pem::LineEnding::LF, der.as_ref())
        .map(Zeroizing::new)
        .map_err(|_| failed("the new key cannot be encoded"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    /// A file with a mode.
    fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.key");
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        (dir, path)
    }

    #[test]
    fn a_generated_key_is_read_back_from_pem_and_der() {
        let pem = generate().unwrap();
        let (_dir, path) = file(pem.as_bytes(), 0o400);
        let pair = read(&path).unwrap();
        let (_, der) = der::pem::decode_vec(pem.as_bytes()).unwrap();
        let (_dir, path) = file(&der, 0o600);
        assert_eq!(public(&read(&path).unwrap()), public(&pair));
        assert_ne!(*generate().unwrap(), *pem);
    }

    #[test]
    fn a_file_that_is_open_to_others_is_refused() {
        let pem = generate().unwrap();
        for mode in [0o644, 0o620, 0o604] {
            let (_dir, path) = file(pem.as_bytes(), mode);
            let error = read(&path).err().unwrap().to_string();
            assert!(error.contains(&format!("mode {mode:03o}")), "{error}");
        }
    }

    #[test]
    fn what_is_no_ed25519_key_is_refused() {
        let rng = aws_lc_rs::rand::SystemRandom::new();
        let p256 = aws_lc_rs::signature::EcdsaKeyPair::generate_pkcs8(
            &aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING,
            &rng,
        )
        .unwrap();
        let other_label = generate().unwrap().replace("PRIVATE KEY", "PUBLIC KEY");
        for content in [
            p256.as_ref(),
            b"",
            b"-----BEGIN PRIVATE KEY-----\n",
            other_label.as_bytes(),
            &[0x30; FILE_BYTES_MAX + 1],
        ] {
            let (_dir, path) = file(content, 0o600);
            assert!(matches!(read(&path), Err(HsmError::LogKeyFile { .. })));
        }
    }

    proptest! {
        #[test]
        fn no_file_panics(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&octets);
            let _ = parse(&[b"-----BEGIN ", octets.as_slice()].concat());
        }

        #[test]
        fn a_damaged_key_is_refused_or_a_pair_that_fits(
            at in any::<prop::sample::Index>(), octet in any::<u8>(), cut in 0usize..8, in_pem in any::<bool>(),
        ) {
            let pem = generate().unwrap();
            let (_, der) = der::pem::decode_vec(pem.as_bytes()).unwrap();
            let mut octets = if in_pem { pem.as_bytes().to_vec() } else { der };
            prop_assert!(parse(&octets).is_some());
            let at = at.index(octets.len());
            octets[at] = octet;
            octets.truncate(octets.len() - cut);
            if let Some(read) = parse(&octets) {
                // Another seed makes another pair: a file without the public key cannot show it (RFC 5958, 2).
                let signature = read.sign(b"checkpoint");
                let key = aws_lc_rs::signature::UnparsedPublicKey::new(
                    &aws_lc_rs::signature::ED25519,
                    public(&read),
                );
                prop_assert!(key.verify(b"checkpoint", signature.as_ref()).is_ok());
            }
        }
    }
}
