//! TLS of the line API: the server's certificate, and client certificates of whoever has the key.
//!
//! Owns the server configuration and [`ServerCertificate`], which is replaced while connections go on.
//! Promises that a client certificate was shown only by who has its private key. Never judges whose it is,
//! its chain or its dates: `ra` does, on each request, so that a wrong certificate gets a problem document
//! and not a dead handshake. Failure story: a certificate that does not load leaves the one in use.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use der::{Decode as _, Reader as _, SliceReader, Tag, TagNumber, Tagged as _};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature};
use rustls::crypto::{aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};

use crate::config::MinimumTls;

/// A client's certificate in bytes: RSA-4096 with many names needs 3,000.
const CLIENT_CERTIFICATE_BYTES_MAX: usize = 16 * 1024;

/// The certificates that a client may add to its own; none is needed.
const CLIENT_CHAIN_MAX: usize = 8;

/// Why the TLS side cannot be set up: the operator's to correct.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that is not readable PEM.
    #[error("{}: not readable as PEM; issue the server's certificate anew", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("{}: holds no certificate; issue the server's certificate anew", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Key and certificate do not belong together, or are of a kind that TLS does not use.
    #[error("{}: certificate and key cannot be used together; issue the server's certificate anew", path.display())]
    Pair {
        /// The certificate's file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Error,
    },
    /// The library refuses the configuration.
    #[error("TLS cannot be configured")]
    Configuration(#[source] Error),
}

/// The server's certificate and key as they stand; clones share them.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

impl ServerCertificate {
    /// Reads the chain (leaf first) and the PKCS#8 key, both PEM.
    ///
    /// # Errors
    /// [`TlsError`]: the listener cannot start; issue the certificate anew.
    pub fn load(chain: &Path, key: &Path) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(certified(chain, key)?)));
        Ok(Self { current })
    }

    /// Reads both files again: handshakes from now on use them.
    ///
    /// # Errors
    /// [`TlsError`]: the old certificate stays in use; issue the new one again.
    pub fn replace(&self, chain: &Path, key: &Path) -> Result<(), TlsError> {
        let fresh = Arc::new(certified(chain, key)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }

    /// The leaf, DER.
    #[must_use]
    pub fn leaf(&self) -> Vec<u8> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current
            .cert
            .first()
            .map_or_else(Vec::new, |leaf| leaf.to_vec())
    }
}

/// Loads a chain and its key, and sees that they belong together.
fn certified(chain: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let pem = |path: &Path, source| TlsError::Pem {
        path: path.to_owned(),
        source,
    };
    let certificates = CertificateDer::pem_file_iter(chain)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| pem(chain, source))?;
    if certificates.is_empty() {
        return Err(TlsError::Empty {
            path: chain.to_owned(),
        });
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|source| pem(key, source))?;
    CertifiedKey::from_der(certificates, key, &provider()).map_err(|source| TlsError::Pair {
        path: chain.to_owned(),
        source,
    })
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

/// The cryptography: with the hybrid post-quantum key exchange first.
fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// The server's side of TLS.
///
/// # Errors
/// [`TlsError::Configuration`]: a fault of the build, not of the operator.
pub fn server_config(
    minimum: MinimumTls,
    certificate: ServerCertificate,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(provider());
    let versions: &[_] = match minimum {
        MinimumTls::V1_3 => &[&TLS13],
        MinimumTls::V1_2 => &[&TLS13, &TLS12],
    };
    let verifier = AnyClient {
        algorithms: provider.signature_verification_algorithms,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Configuration)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificate));
    // Sealed tickets carry the client's certificate, so a resumed connection shows the same one, and the
    // server keeps nothing for stations that come and go.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::Configuration)?;
    config.send_tls13_tickets = 1;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Takes any client certificate whose key signed the handshake, or none.
#[derive(Debug)]
struct AnyClient {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: a client shows the certificate that it has, and is told what is wrong with it.
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let long = leaf.len() > CLIENT_CERTIFICATE_BYTES_MAX || others.len() > CLIENT_CHAIN_MAX;
        if long || public_key(leaf).is_none() {
            return Err(Error::InvalidCertificate(CertificateError::BadEncoding));
        }
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // By the bare key: whatever else the certificate says (a version, an unknown critical extension) is
        // no reason to end the handshake without a word.
        let key =
            public_key(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The SubjectPublicKeyInfo of a certificate (RFC 5280, 4.1), whatever else it says.
fn public_key<'a>(certificate: &'a CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'a>> {
    let mut outer = SliceReader::new(certificate).ok()?;
    let whole = field(&mut outer)?;
    let mut whole = SliceReader::new(whole.value()).ok()?;
    let tbs = field(&mut whole)?;
    let mut fields = SliceReader::new(tbs.value()).ok()?;
    let version = Tag::ContextSpecific {
        constructed: true,
        number: TagNumber(0),
    };
    if Tag::peek(&fields).ok()? == version {
        der::AnyRef::decode(&mut fields).ok()?;
    }
    // serialNumber, signature, issuer, validity, subject.
    for _ in 0..5 {
        der::AnyRef::decode(&mut fields).ok()?;
    }
    let key = fields.tlv_bytes().ok()?;
    Some(SubjectPublicKeyInfoDer::from(key))
}

/// One SEQUENCE.
fn field<'a>(from: &mut SliceReader<'a>) -> Option<der::AnyRef<'a>> {
    let any = der::AnyRef::decode(from).ok()?;
    (any.tag() == Tag::Sequence).then_some(any)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// A self-signed certificate and its key.
    fn pair() -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        (params.self_signed(&key).unwrap(), key)
    }

    #[test]
    fn the_public_key_is_found_without_reading_the_rest() {
        let (certificate, key) = pair();
        let found = public_key(certificate.der()).unwrap();
        assert_eq!(
            found.as_ref(),
            rcgen::PublicKeyData::subject_public_key_info(&key)
        );
        assert!(public_key(&CertificateDer::from(vec![0x30, 0x00])).is_none());
    }

    #[test]
    fn a_replacement_that_does_not_load_leaves_the_old_certificate() {
        let directory = tempfile::tempdir().unwrap();
        let (chain, secret) = (
            directory.path().join("server.pem"),
            directory.path().join("server.key"),
        );
        let write = |certificate: &rcgen::Certificate, key: &KeyPair| {
            std::fs::write(&chain, certificate.pem()).unwrap();
            std::fs::write(&secret, key.serialize_pem()).unwrap();
        };
        let (first, first_key) = pair();
        write(&first, &first_key);
        let server = ServerCertificate::load(&chain, &secret).unwrap();
        let (second, second_key) = pair();
        write(&second, &first_key);
        let refused = server.replace(&chain, &secret);
        assert!(matches!(refused, Err(TlsError::Pair { .. })), "{refused:?}");
        assert_eq!(server.leaf(), first.der().to_vec());
        write(&second, &second_key);
        server.replace(&chain, &secret).unwrap();
        assert_eq!(server.leaf(), second.der().to_vec());
        std::fs::write(&chain, "").unwrap();
        assert!(matches!(
            server.replace(&chain, &secret),
            Err(TlsError::Empty { .. })
        ));
        std::fs::remove_file(&chain).unwrap();
        assert!(matches!(
            server.replace(&chain, &secret),
            Err(TlsError::Pem { .. })
        ));
    }

    #[test]
    fn the_hybrid_key_exchange_comes_first() {
        let first = provider().kx_groups.first().map(|group| group.name());
        assert_eq!(first, Some(rustls::NamedGroup::X25519MLKEM768));
    }

    proptest! {
        #[test]
        fn any_certificate_bytes_are_read_or_refused(
            at in 0usize..400, flip in any::<u8>(), cut in 0usize..400, noise in any::<Vec<u8>>(),
        ) {
            let (certificate, _) = pair();
            let mut bytes = certificate.der().to_vec();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            bytes.truncate(bytes.len().saturating_sub(cut / 4));
            let _ = public_key(&CertificateDer::from(bytes));
            let _ = public_key(&CertificateDer::from(noise));
        }
    }
}
