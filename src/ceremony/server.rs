//! The API's own certificate, the last thing that a ceremony makes.
//!
//! Owns the server's software key. Promises that the key is written, private, before a certificate for it
//! exists. Never shows the key. Failure story: see `site`.

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use certstatus::signature::PublicKey;
use x509_cert::name::Name;
use zeroize::Zeroizing;

use super::authority::Made;
use super::site::Site;
use super::{CertificateOfRecord, StepFailed, pem, sha256, write, write_secret};
use crate::config::Config;
use crate::csr::VerifiedCsr;
use crate::issuance::random_serial;
use crate::profile::{IssuerFacts, Profile, ProfileError};
use crate::ra::{Grant, Purpose};
use crate::signing_log::{SigningLog, ToBeSigned};

/// The profile of the API's certificate.
const PROFILE: &str = "tls-server";

/// A software key that was made just now.
pub(super) struct OwnKey {
    /// PKCS#8, PEM.
    pub private: Zeroizing<String>,
    /// The public half.
    pub public: PublicKey,
    /// The pair, for signing with it here.
    pub pair: EcdsaKeyPair,
}

impl OwnKey {
    /// Makes a P-256 key.
    ///
    /// # Errors
    /// [`StepFailed::Randomness`].
    pub fn make() -> Result<Self, StepFailed> {
        let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
        let random = aws_lc_rs::rand::SystemRandom::new();
        let document =
            EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(|_| StepFailed::Randomness)?;
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref())
            .map_err(|_| StepFailed::Randomness)?;
        let spki = pair
            .public_key()
            .as_der()
            .map_err(|_| StepFailed::Randomness)?;
        Ok(Self {
            private: Zeroizing::new(pem("PRIVATE KEY", document.as_ref())),
            public: PublicKey::parse(spki.as_ref())?,
            pair,
        })
    }
}

/// Reads the profile of the API's certificate.
pub(super) fn profile(config: &Config) -> Result<Profile, ProfileError> {
    Profile::load(&config.profiles.join(format!("{PROFILE}.toml")))
}

/// The request for the API's certificate: the names stand in the grant.
pub(super) fn request(key: &PublicKey) -> VerifiedCsr {
    VerifiedCsr::own_key(Name::default(), key.clone())
}

/// The grant for the API's certificate.
pub(super) fn grant(config: &Config, operator: &str) -> Grant {
    Grant::act(operator, Purpose::Server(config.server.names.clone()))
}

impl<P: FnMut(&str)> Site<'_, P> {
    /// Makes the server's key and certificate.
    pub async fn server(&mut self, log: &SigningLog, made: &mut Made) -> Result<(), StepFailed> {
        self.doing("making the server's key and certificate".to_owned());
        let name = &self.config.server.issuer;
        let issuer = made
            .issuers
            .get(name)
            .ok_or_else(|| StepFailed::CannotSign(name.clone()))?
            .clone();
        let key = OwnKey::make()?;
        let path = self.config.server_key_file();
        write_secret(&path, key.private.as_bytes())?;
        self.made(path.display().to_string());
        let profile = profile(self.config)?;
        let serial = random_serial().map_err(|_| StepFailed::Randomness)?;
        let facts: &IssuerFacts = &issuer.facts;
        let grant = grant(self.config, &self.operator());
        let now = self.clock.now();
        let tbs = profile.build(&request(&key.public), &grant, facts, serial, now)?;
        let object = ToBeSigned::Certificate(tbs);
        let signed = issuer.signer.make(log, &grant, object).await?;
        let leaf = pem("CERTIFICATE", signed.der());
        // What the server sends: itself and its issuer, not the root, which clients must have.
        let chain = leaf.clone() + &pem("CERTIFICATE", &facts.certificate);
        let path = self.config.server_chain_file();
        write(&path, chain.as_bytes())?;
        self.made(path.display().to_string());
        made.certificates.push(CertificateOfRecord {
            name: "the server".to_owned(),
            role: None,
            issuer: facts.name.clone(),
            sha256: sha256(signed.der()),
            pem: leaf,
        });
        Ok(())
    }
}
