//! How a key signs on a given token: the choice of mechanism, and the call.
//!
//! Owns the map from our signature algorithms to PKCS#11 mechanisms. Promises the X.509 form of a
//! signature, of the right length, or an error. Where a token takes a digest, it gets a digest: so a CRL
//! of 40 MB does not cross the network to an HSM. Never decides whether to try again.

use certstatus::signature::{KeyKind, SignatureAlgorithm};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;

use super::encode::{Hash, ecdsa_der};
use super::verdict::{Judged, Verdict, judge};
use crate::hsm::Reached;
use crate::hsm::wire::Fault;

/// Data above this many octets goes to a hashing mechanism in parts: many tokens bound a single C_Sign.
const WHOLE_BYTES_MAX: usize = 16 * 1024;

/// How one key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What is sent to the token.
    step: Step,
    /// The key's kind, which says what a signature looks like.
    kind: KeyKind,
}

/// What is sent to the token, with which mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A digest, with CKM_ECDSA.
    EcdsaDigest(Hash),
    /// Everything, with CKM_ECDSA_SHA256 or its siblings.
    EcdsaWhole(Hash),
    /// A DigestInfo, with CKM_RSA_PKCS.
    RsaDigestInfo(Hash),
    /// Everything, with CKM_SHA256_RSA_PKCS or its siblings.
    RsaWhole(Hash),
    /// A digest, with CKM_RSA_PKCS_PSS.
    PssDigest(Hash),
    /// Everything, with CKM_SHA256_RSA_PKCS_PSS or its siblings.
    PssWhole(Hash),
    /// Everything, with CKM_EDDSA.
    Eddsa,
}

/// The family of signatures that an algorithm belongs to.
enum Family {
    Ecdsa(Hash),
    Rsa(Hash),
    Pss(Hash),
    Eddsa,
}

/// The family and hash of an algorithm.
const fn family(algorithm: SignatureAlgorithm) -> Family {
    match algorithm {
        SignatureAlgorithm::EcdsaSha256 => Family::Ecdsa(Hash::Sha256),
        SignatureAlgorithm::EcdsaSha384 => Family::Ecdsa(Hash::Sha384),
        SignatureAlgorithm::EcdsaSha512 => Family::Ecdsa(Hash::Sha512),
        SignatureAlgorithm::RsaPkcs1Sha256 => Family::Rsa(Hash::Sha256),
        SignatureAlgorithm::RsaPkcs1Sha384 => Family::Rsa(Hash::Sha384),
        SignatureAlgorithm::RsaPkcs1Sha512 => Family::Rsa(Hash::Sha512),
        SignatureAlgorithm::RsaPssSha256 => Family::Pss(Hash::Sha256),
        SignatureAlgorithm::RsaPssSha384 => Family::Pss(Hash::Sha384),
        SignatureAlgorithm::RsaPssSha512 => Family::Pss(Hash::Sha512),
        SignatureAlgorithm::Ed25519 => Family::Eddsa,
    }
}

impl Plan {
    /// Chooses from what the token offers.
    ///
    /// # Errors
    /// [`Fault::Refused`]: the algorithm does not fit the key, or the token has no mechanism for it.
    pub fn choose(
        algorithm: SignatureAlgorithm,
        kind: KeyKind,
        offered: &[MechanismType],
    ) -> Result<Self, Fault> {
        let (candidates, fits): ([Step; 2], bool) = match family(algorithm) {
            Family::Ecdsa(hash) => (
                [Step::EcdsaDigest(hash), Step::EcdsaWhole(hash)],
                // A digest longer than the curve's order would be cut, by us or by the token: not here.
                match kind {
                    KeyKind::P256 => hash == Hash::Sha256,
                    KeyKind::P384 => hash != Hash::Sha512,
                    KeyKind::Rsa(_) | KeyKind::Ed25519 => false,
                },
            ),
            Family::Rsa(hash) => (
                [Step::RsaDigestInfo(hash), Step::RsaWhole(hash)],
                matches!(kind, KeyKind::Rsa(_)),
            ),
            Family::Pss(hash) => (
                [Step::PssDigest(hash), Step::PssWhole(hash)],
                matches!(kind, KeyKind::Rsa(_)),
            ),
            Family::Eddsa => ([Step::Eddsa, Step::Eddsa], kind == KeyKind::Ed25519),
        };
        if !fits {
            return Err(Fault::refused(format!(
                "a {kind} key does not sign with {algorithm:?}: correct the issuer's algorithm"
            )));
        }
        candidates
            .into_iter()
            .find(|step| offered.contains(&step.mechanism().mechanism_type()))
            .map(|step| Self { step, kind })
            .ok_or_else(|| {
                Fault::refused(format!(
                    "the token offers no mechanism that signs {algorithm:?}: choose another \
                     algorithm or token"
                ))
            })
    }

    /// Signs `tbs` and returns the signature in X.509 form.
    ///
    /// # Errors
    /// [`Judged`]: what to tell the daemon and whether this worker goes on.
    pub fn sign(
        &self,
        session: &Session,
        key: ObjectHandle,
        tbs: &[u8],
    ) -> Result<Vec<u8>, Judged> {
        let mechanism = self.step.mechanism();
        let raw = match self.step {
            Step::EcdsaDigest(hash) | Step::PssDigest(hash) => {
                session.sign(&mechanism, key, hash.digest(tbs).as_ref())
            }
            Step::RsaDigestInfo(hash) => session.sign(&mechanism, key, &hash.digest_info(tbs)),
            Step::EcdsaWhole(_) | Step::RsaWhole(_) | Step::PssWhole(_)
                if tbs.len() > WHOLE_BYTES_MAX =>
            {
                sign_in_parts(session, &mechanism, key, tbs)
            }
            Step::EcdsaWhole(_) | Step::RsaWhole(_) | Step::PssWhole(_) | Step::Eddsa => {
                session.sign(&mechanism, key, tbs)
            }
        }
        .map_err(|error| judge(&error))?;
        self.x509_form(raw)
    }

    /// The X.509 form of what the token returned.
    fn x509_form(&self, raw: Vec<u8>) -> Result<Vec<u8>, Judged> {
        let (length, encoded) = (
            raw.len(),
            match self.kind {
                KeyKind::P256 | KeyKind::P384 => ecdsa_der(&raw, self.kind),
                KeyKind::Rsa(bits) => {
                    (u32::try_from(raw.len()) == Ok(bits.div_ceil(8))).then_some(raw)
                }
                KeyKind::Ed25519 => (raw.len() == 64).then_some(raw),
            },
        );
        encoded.ok_or_else(|| Judged {
            fault: Fault::Refused {
                cause: format!(
                    "C_Sign returned {length} octets that are no {} signature",
                    self.kind
                ),
                reached: Reached::Maybe,
            },
            verdict: Verdict::Refused,
        })
    }
}

/// Signs in parts with C_SignUpdate and C_SignFinal.
fn sign_in_parts(
    session: &Session,
    mechanism: &Mechanism<'_>,
    key: ObjectHandle,
    tbs: &[u8],
) -> Result<Vec<u8>, cryptoki::error::Error> {
    session.sign_init(mechanism, key)?;
    for part in tbs.chunks(WHOLE_BYTES_MAX) {
        session.sign_update(part)?;
    }
    session.sign_final()
}

impl Step {
    /// The mechanism with its parameters.
    fn mechanism(self) -> Mechanism<'static> {
        match self {
            Self::EcdsaDigest(_) => Mechanism::Ecdsa,
            Self::EcdsaWhole(Hash::Sha256) => Mechanism::EcdsaSha256,
            Self::EcdsaWhole(Hash::Sha384) => Mechanism::EcdsaSha384,
            Self::EcdsaWhole(Hash::Sha512) => Mechanism::EcdsaSha512,
            Self::RsaDigestInfo(_) => Mechanism::RsaPkcs,
            Self::RsaWhole(Hash::Sha256) => Mechanism::Sha256RsaPkcs,
            Self::RsaWhole(Hash::Sha384) => Mechanism::Sha384RsaPkcs,
            Self::RsaWhole(Hash::Sha512) => Mechanism::Sha512RsaPkcs,
            Self::PssDigest(hash) => Mechanism::RsaPkcsPss(pss(hash)),
            Self::PssWhole(hash @ Hash::Sha256) => Mechanism::Sha256RsaPkcsPss(pss(hash)),
            Self::PssWhole(hash @ Hash::Sha384) => Mechanism::Sha384RsaPkcsPss(pss(hash)),
            Self::PssWhole(hash @ Hash::Sha512) => Mechanism::Sha512RsaPkcsPss(pss(hash)),
            Self::Eddsa => Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure)),
        }
    }
}

/// PSS parameters: MGF1 with the same hash, a salt as long as the digest (RFC 4055, 3.1).
fn pss(hash: Hash) -> PkcsPssParams {
    let (hash_alg, mgf) = match hash {
        Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
        Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
        Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
    };
    PkcsPssParams {
        hash_alg,
        mgf,
        s_len: u64::from(hash.length()).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The step chosen for a P-256 key.
    fn chosen(offered: &[MechanismType]) -> Option<Step> {
        Plan::choose(SignatureAlgorithm::EcdsaSha256, KeyKind::P256, offered)
            .ok()
            .map(|plan| plan.step)
    }

    #[test]
    fn a_digest_is_preferred_and_hashing_tokens_get_everything() {
        use MechanismType as M;
        assert_eq!(
            chosen(&[M::ECDSA_SHA256, M::ECDSA]),
            Some(Step::EcdsaDigest(Hash::Sha256))
        );
        assert_eq!(
            chosen(&[M::ECDSA_SHA384, M::ECDSA_SHA256]),
            Some(Step::EcdsaWhole(Hash::Sha256))
        );
        assert_eq!(chosen(&[M::ECDSA_SHA384, M::RSA_PKCS]), None);
    }

    #[test]
    fn an_algorithm_that_does_not_fit_the_key_is_refused() {
        let all = [
            MechanismType::ECDSA,
            MechanismType::RSA_PKCS,
            MechanismType::RSA_PKCS_PSS,
            MechanismType::EDDSA,
        ];
        for (algorithm, kind) in [
            (SignatureAlgorithm::EcdsaSha384, KeyKind::P256),
            (SignatureAlgorithm::EcdsaSha512, KeyKind::P384),
            (SignatureAlgorithm::EcdsaSha256, KeyKind::Rsa(3072)),
            (SignatureAlgorithm::RsaPkcs1Sha256, KeyKind::Ed25519),
            (SignatureAlgorithm::RsaPssSha256, KeyKind::P256),
            (SignatureAlgorithm::Ed25519, KeyKind::P256),
        ] {
            let fault = Plan::choose(algorithm, kind, &all).unwrap_err();
            assert!(matches!(fault, Fault::Refused { .. }), "{fault:?}");
        }
    }

    #[test]
    fn a_signature_of_the_wrong_length_may_exist_but_is_refused() {
        let plan = Plan::choose(
            SignatureAlgorithm::RsaPkcs1Sha256,
            KeyKind::Rsa(3072),
            &[MechanismType::SHA256_RSA_PKCS],
        )
        .unwrap();
        assert_eq!(plan.x509_form(vec![1; 384]), Ok(vec![1; 384]));
        let judged = plan.x509_form(vec![1; 383]).unwrap_err();
        assert_eq!(judged.verdict, Verdict::Refused);
        let error = judged.fault.into_error("t", "k");
        assert_eq!(error.reached(), Reached::Maybe);
        assert!(error.to_string().contains("383 octets"), "{error}");
    }
}
