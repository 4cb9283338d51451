//! Keys on the token: finding the one that is meant, checking that it is fit, making a new one.
//!
//! Owns the search by label, class and pinned public key, and the attributes that a CA key must have.
//! Promises that a key that was opened had each of them at that moment, answered by the token itself.
//! Never guesses between two keys and never changes one. Failure story: each refusal names the attribute.

use std::collections::BTreeMap;

use certstatus::signature::{PublicKey, SignatureAlgorithm};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;

use super::encode::{
    ED25519_NAME_PARAMS, ED25519_OID_PARAMS, P256_PARAMS, P384_PARAMS, ec_public_key,
    rsa_public_key,
};
use super::mechanism::Plan;
use super::verdict::{Judged, Verdict, cause, judge};
use crate::hsm::wire::Fault;
use crate::hsm::{GeneratedKey, KeyAlgorithm, KeyPolicy};

/// Octets of the CKA_ID that joins the halves of a new pair.
const ID_BYTES: usize = 16;

/// The public exponent of new RSA keys: 65537.
const RSA_EXPONENT: &[u8] = &[0x01, 0x00, 0x01];

/// A private key of the token, found and checked. Its handle is good for this worker's life only.
#[derive(Debug)]
pub struct OpenKey {
    /// The token's name for it.
    pub handle: ObjectHandle,
    /// How it signs.
    pub plan: Plan,
    /// The DER SubjectPublicKeyInfo.
    pub spki: Vec<u8>,
}

/// Which key is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// CKA_LABEL.
    pub label: String,
    /// What it signs with.
    pub algorithm: SignatureAlgorithm,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub spki_sha256: [u8; 32],
}

/// A fault that the token had no part in: the worker goes on.
const fn refused(fault: Fault) -> Judged {
    Judged {
        fault,
        verdict: Verdict::Refused,
    }
}

/// A failed call of the library.
#[expect(clippy::needless_pass_by_value, reason = "the form that map_err wants")]
fn failed(error: cryptoki::error::Error) -> Judged {
    judge(&error)
}

impl Wanted {
    /// Finds the one key, checks its attributes, chooses its mechanism.
    ///
    /// # Errors
    /// [`Judged`] with `KeyMissing`, `KeyAmbiguous`, `KeyUnfit` (also for another public key), `Refused`, or what the token said.
    pub fn open(&self, session: &Session, offered: &[MechanismType]) -> Result<OpenKey, Judged> {
        let labelled = session
            .find_objects(&[
                Attribute::Class(ObjectClass::PRIVATE_KEY),
                Attribute::Label(self.label.as_bytes().to_vec()),
            ])
            .map_err(failed)?;
        // Two of one label are refused even when only one has the pinned public key: which of the two a
        // person means in front of the vendor's tool is then anybody's guess.
        let handle = match labelled.as_slice() {
            [] => return Err(refused(Fault::KeyMissing)),
            [one] => *one,
            several => {
                return Err(refused(Fault::KeyAmbiguous {
                    count: u32::try_from(several.len()).unwrap_or(u32::MAX),
                }));
            }
        };
        let public = public_keys(session, handle, &self.label)?
            .into_iter()
            .find(|key| key.sha256() == self.spki_sha256)
            .ok_or_else(|| {
                refused(Fault::KeyUnfit {
                    problem:
                        "its public key is not the pinned one: it is another key of this label"
                            .to_owned(),
                })
            })?;
        Attributes::read(session, handle)?.check()?;
        let plan = Plan::choose(self.algorithm, public.kind(), offered).map_err(refused)?;
        Ok(OpenKey {
            handle,
            plan,
            spki: public.spki().to_vec(),
        })
    }
}

//------ Public keys ----

/// The public keys that may belong to a private key: its own, or those of its public key objects.
fn public_keys(
    session: &Session,
    private: ObjectHandle,
    label: &str,
) -> Result<Vec<PublicKey>, Judged> {
    if let Some(own) = public_key_of(session, private)? {
        return Ok(vec![own]);
    }
    let mut found = Vec::new();
    for template in [
        id_of(session, private)?.map(Attribute::Id),
        Some(Attribute::Label(label.as_bytes().to_vec())),
    ]
    .into_iter()
    .flatten()
    {
        let objects = session
            .find_objects(&[Attribute::Class(ObjectClass::PUBLIC_KEY), template])
            .map_err(failed)?;
        for object in objects {
            found.extend(public_key_of(session, object)?);
        }
    }
    Ok(found)
}

/// The key's CKA_ID, if it has one that is not empty.
fn id_of(session: &Session, key: ObjectHandle) -> Result<Option<Vec<u8>>, Judged> {
    let attributes = session
        .get_attributes(key, &[AttributeType::Id])
        .map_err(failed)?;
    Ok(attributes
        .into_iter()
        .find_map(|attribute| match attribute {
            Attribute::Id(id) if !id.is_empty() => Some(id),
            _ => None,
        }))
}

/// The public key that an object's attributes tell; none when they tell too little.
fn public_key_of(session: &Session, object: ObjectHandle) -> Result<Option<PublicKey>, Judged> {
    let attributes = session
        .get_attributes(
            object,
            &[
                AttributeType::Modulus,
                AttributeType::PublicExponent,
                AttributeType::EcParams,
                AttributeType::EcPoint,
            ],
        )
        .map_err(failed)?;
    let (mut modulus, mut exponent, mut params, mut point) = (None, None, None, None);
    for attribute in attributes {
        match attribute {
            Attribute::Modulus(value) => modulus = Some(value),
            Attribute::PublicExponent(value) => exponent = Some(value),
            Attribute::EcParams(value) => params = Some(value),
            Attribute::EcPoint(value) => point = Some(value),
            _ => {}
        }
    }
    Ok(match (modulus, exponent, params, point) {
        (Some(modulus), Some(exponent), _, _) => rsa_public_key(&modulus, &exponent),
        (_, _, Some(params), Some(point)) => ec_public_key(&params, &point),
        _ => None,
    })
}

//------ Attributes ----

/// The attributes of a private key that say what may be done with it, as the token answered.
#[derive(Debug, Default, PartialEq, Eq)]
struct Attributes(BTreeMap<&'static str, bool>);

/// The attributes that are read, with their CKA names.
const ATTRIBUTES: [(AttributeType, &str); 14] = [
    (AttributeType::Token, "CKA_TOKEN"),
    (AttributeType::Private, "CKA_PRIVATE"),
    (AttributeType::Local, "CKA_LOCAL"),
    (AttributeType::Sensitive, "CKA_SENSITIVE"),
    (AttributeType::AlwaysSensitive, "CKA_ALWAYS_SENSITIVE"),
    (AttributeType::Extractable, "CKA_EXTRACTABLE"),
    (AttributeType::NeverExtractable, "CKA_NEVER_EXTRACTABLE"),
    (AttributeType::WrapWithTrusted, "CKA_WRAP_WITH_TRUSTED"),
    (AttributeType::AlwaysAuthenticate, "CKA_ALWAYS_AUTHENTICATE"),
    (AttributeType::Sign, "CKA_SIGN"),
    (AttributeType::SignRecover, "CKA_SIGN_RECOVER"),
    (AttributeType::Decrypt, "CKA_DECRYPT"),
    (AttributeType::Unwrap, "CKA_UNWRAP"),
    (AttributeType::Derive, "CKA_DERIVE"),
];

impl Attributes {
    /// Asks the token; what it does not answer is absent.
    fn read(session: &Session, key: ObjectHandle) -> Result<Self, Judged> {
        let types = ATTRIBUTES.map(|(kind, _)| kind);
        let answered = session.get_attributes(key, &types).map_err(failed)?;
        Ok(Self(
            answered
                .iter()
                .filter_map(|attribute| {
                    let kind = attribute.attribute_type();
                    let (_, name) = ATTRIBUTES.iter().find(|(known, _)| *known == kind)?;
                    Some((*name, truth(attribute)?))
                })
                .collect(),
        ))
    }

    /// Whether these are a CA key's attributes.
    fn check(&self) -> Result<(), Judged> {
        for name in ["CKA_TOKEN", "CKA_PRIVATE", "CKA_SENSITIVE"] {
            self.want(name, Wants::True)?;
        }
        if self.get("CKA_EXTRACTABLE")? {
            // Declared by the ceremony, so that the key can be cloned to a backup token.
            self.want("CKA_WRAP_WITH_TRUSTED", Wants::True)?;
        } else {
            self.want("CKA_NEVER_EXTRACTABLE", Wants::True)?;
        }
        // A clone on a backup token came in by unwrapping: there the token cannot vouch for its past.
        if self.get("CKA_LOCAL")? {
            self.want("CKA_ALWAYS_SENSITIVE", Wants::True)?;
        }
        self.want("CKA_SIGN", Wants::True)?;
        for name in [
            "CKA_SIGN_RECOVER",
            "CKA_DECRYPT",
            "CKA_UNWRAP",
            "CKA_DERIVE",
        ] {
            self.want(name, Wants::False)?;
        }
        // Older tokens do not know this attribute, and then mean false (PKCS#11 3.1, 4.9).
        match self.0.get("CKA_ALWAYS_AUTHENTICATE") {
            Some(true) => Err(unfit(
                "CKA_ALWAYS_AUTHENTICATE is true: the token wants the PIN for each signature",
            )),
            Some(false) | None => Ok(()),
        }
    }

    /// Whether the token made the key as the ceremony declared: what may leave the token is never decided by it.
    fn keep_to(&self, policy: KeyPolicy) -> Result<(), Judged> {
        let wants = match policy {
            KeyPolicy::NeverExtractable => Wants::False,
            KeyPolicy::WrapWithTrusted => Wants::True,
        };
        self.want("CKA_EXTRACTABLE", wants)
    }

    /// An attribute that must have been answered.
    fn get(&self, name: &'static str) -> Result<bool, Judged> {
        self.0
            .get(name)
            .copied()
            .ok_or_else(|| unfit(format!("the token does not tell {name}")))
    }

    /// An attribute that must have been answered so.
    fn want(&self, name: &'static str, wants: Wants) -> Result<(), Judged> {
        match (self.get(name)?, wants) {
            (true, Wants::True) | (false, Wants::False) => Ok(()),
            (is, _) => Err(unfit(format!("{name} is {is}"))),
        }
    }
}

/// The answer that an attribute must have.
#[derive(Clone, Copy)]
enum Wants {
    True,
    False,
}

/// A key that is refused.
fn unfit(problem: impl Into<String>) -> Judged {
    refused(Fault::KeyUnfit {
        problem: problem.into(),
    })
}

/// The value of one of [`ATTRIBUTES`].
const fn truth(attribute: &Attribute) -> Option<bool> {
    match attribute {
        Attribute::Token(value)
        | Attribute::Private(value)
        | Attribute::Local(value)
        | Attribute::Sensitive(value)
        | Attribute::AlwaysSensitive(value)
        | Attribute::Extractable(value)
        | Attribute::NeverExtractable(value)
        | Attribute::WrapWithTrusted(value)
        | Attribute::AlwaysAuthenticate(value)
        | Attribute::Sign(value)
        | Attribute::SignRecover(value)
        | Attribute::Decrypt(value)
        | Attribute::Unwrap(value)
        | Attribute::Derive(value) => Some(*value),
        _ => None,
    }
}

//------ Generation ----

/// What a ceremony wants made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// CKA_LABEL, which must be free.
    pub label: String,
    /// The kind of key.
    pub algorithm: KeyAlgorithm,
    /// How far it may leave the token.
    pub policy: KeyPolicy,
}

impl NewKey {
    /// Makes the pair, reads its attributes back and checks them.
    ///
    /// # Errors
    /// [`Judged`]; a key may have been made when the fault is `reached`, and stands under its label.
    pub fn generate(&self, session: &Session) -> Result<GeneratedKey, Judged> {
        let label = Attribute::Label(self.label.as_bytes().to_vec());
        for class in [ObjectClass::PRIVATE_KEY, ObjectClass::PUBLIC_KEY] {
            let taken = session
                .find_objects(&[Attribute::Class(class), label.clone()])
                .map_err(failed)?;
            if !taken.is_empty() {
                return Err(refused(Fault::refused(format!(
                    "a key labelled {:?} is on the token already; keys are never overwritten: \
                     choose another label, or remove the key with the vendor's tool",
                    self.label
                ))));
            }
        }
        let mut id = vec![0; ID_BYTES];
        aws_lc_rs::rand::fill(&mut id)
            .map_err(|_| refused(Fault::refused("the system gives no random numbers")))?;
        let (public, private) = self.make(session, &id)?;
        // From here a key exists: every failure says so.
        let attributes = Attributes::read(session, private).map_err(after_making)?;
        attributes.check().map_err(after_making)?;
        attributes.keep_to(self.policy).map_err(after_making)?;
        let spki = public_key_of(session, public)
            .map_err(after_making)?
            .filter(|key| key.kind() == self.algorithm.kind())
            .ok_or_else(|| after_making(unfit("the token does not tell its public key")))?;
        let mut told: BTreeMap<String, String> = attributes
            .0
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.to_string()))
            .collect();
        told.insert("CKA_LABEL".to_owned(), self.label.clone());
        told.insert("CKA_ID".to_owned(), certstatus::hex::encode(&id));
        Ok(GeneratedKey {
            spki: spki.spki().to_vec(),
            attributes: told,
        })
    }

    /// Calls C_GenerateKeyPair; returns the public and the private key.
    fn make(&self, session: &Session, id: &[u8]) -> Result<(ObjectHandle, ObjectHandle), Judged> {
        let (mechanism, kind, parameters) = match self.algorithm {
            KeyAlgorithm::EcdsaP256 => ec(P256_PARAMS),
            KeyAlgorithm::EcdsaP384 => ec(P384_PARAMS),
            KeyAlgorithm::Rsa3072 | KeyAlgorithm::Rsa3072Pss => rsa(3072),
            KeyAlgorithm::Rsa4096 | KeyAlgorithm::Rsa4096Pss => rsa(4096),
            KeyAlgorithm::Ed25519 => edwards(ED25519_OID_PARAMS),
        };
        let private = self.private_template(kind, id);
        let mut public = vec![
            Attribute::Token(true),
            Attribute::Private(false),
            Attribute::KeyType(kind),
            Attribute::Label(self.label.as_bytes().to_vec()),
            Attribute::Id(id.to_vec()),
            Attribute::Verify(true),
        ];
        public.extend(parameters);
        match session.generate_key_pair(&mechanism, &public, &private) {
            // Tokens of before PKCS#11 3.1 name the curve instead of giving its OID. Only a refusal of
            // the template is answered so: after any other failure a key may exist.
            Err(error) if self.algorithm == KeyAlgorithm::Ed25519 && refuses_template(&error) => {
                let (mechanism, _, parameters) = edwards(ED25519_NAME_PARAMS);
                public.retain(|attribute| !matches!(attribute, Attribute::EcParams(_)));
                public.extend(parameters);
                session
                    .generate_key_pair(&mechanism, &public, &private)
                    .map_err(|error| self.not_made(error))
            }
            made => made.map_err(|error| self.not_made(error)),
        }
    }

    /// A failed C_GenerateKeyPair; of a token that may not take the policy, with what to do about it.
    fn not_made(&self, error: cryptoki::error::Error) -> Judged {
        if self.policy == KeyPolicy::WrapWithTrusted && refuses_attributes(&error) {
            return refused(Fault::refused(format!(
                "{}: no key was made; the token does not take the policy wrap-with-trusted (CKA_EXTRACTABLE with \
                 CKA_WRAP_WITH_TRUSTED): allow it with the vendor's tool, or declare never-extractable",
                cause(&error)
            )));
        }
        failed(error)
    }

    /// The private half's template.
    fn private_template(&self, kind: KeyType, id: &[u8]) -> Vec<Attribute> {
        let mut template = vec![
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::KeyType(kind),
            Attribute::Label(self.label.as_bytes().to_vec()),
            Attribute::Id(id.to_vec()),
            Attribute::Sensitive(true),
            Attribute::Sign(true),
            Attribute::SignRecover(false),
            Attribute::Decrypt(false),
            Attribute::Unwrap(false),
            Attribute::Derive(false),
        ];
        template.extend(match self.policy {
            KeyPolicy::NeverExtractable => vec![Attribute::Extractable(false)],
            KeyPolicy::WrapWithTrusted => {
                vec![
                    Attribute::Extractable(true),
                    Attribute::WrapWithTrusted(true),
                ]
            }
        });
        template
    }
}

/// Mechanism, key type and public template of an EC key.
fn ec(params: &[u8]) -> (Mechanism<'static>, KeyType, Vec<Attribute>) {
    (
        Mechanism::EccKeyPairGen,
        KeyType::EC,
        vec![Attribute::EcParams(params.to_vec())],
    )
}

/// Mechanism, key type and public template of an Ed25519 key.
fn edwards(params: &[u8]) -> (Mechanism<'static>, KeyType, Vec<Attribute>) {
    (
        Mechanism::EccEdwardsKeyPairGen,
        KeyType::EC_EDWARDS,
        vec![Attribute::EcParams(params.to_vec())],
    )
}

/// Mechanism, key type and public template of an RSA key.
fn rsa(bits: u64) -> (Mechanism<'static>, KeyType, Vec<Attribute>) {
    (
        Mechanism::RsaPkcsKeyPairGen,
        KeyType::RSA,
        vec![
            Attribute::ModulusBits(bits.into()),
            Attribute::PublicExponent(RSA_EXPONENT.to_vec()),
        ],
    )
}

/// Whether the token refused the template, so that nothing was made.
const fn refuses_template(error: &cryptoki::error::Error) -> bool {
    use cryptoki::error::RvError;
    matches!(
        error,
        cryptoki::error::Error::Pkcs11(
            RvError::AttributeValueInvalid
                | RvError::TemplateInconsistent
                | RvError::TemplateIncomplete
                | RvError::CurveNotSupported
                | RvError::DomainParamsInvalid
                | RvError::ArgumentsBad,
            _
        )
    )
}

/// Whether the token refused the attributes of the pair, so that nothing was made (PKCS#11 3.1, 4.1.1).
const fn refuses_attributes(error: &cryptoki::error::Error) -> bool {
    use cryptoki::error::RvError;
    matches!(
        error,
        cryptoki::error::Error::Pkcs11(
            RvError::AttributeReadOnly
                | RvError::AttributeTypeInvalid
                | RvError::AttributeValueInvalid
                | RvError::ActionProhibited
                | RvError::TemplateInconsistent,
            _
        )
    )
}

/// A failure after the pair was made: the operator must know that it stands on the token.
fn after_making(judged: Judged) -> Judged {
    let cause = match judged.fault {
        Fault::Unavailable { cause, .. } | Fault::Refused { cause, .. } => cause,
        Fault::KeyUnfit { problem } => problem,
        other => other.into_error("", "").to_string(),
    };
    Judged {
        fault: Fault::Refused {
            cause: format!(
                "the key was made and is not fit ({cause}): remove it with the vendor's tool"
            ),
            reached: crate::hsm::Reached::Maybe,
        },
        verdict: judged.verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a token answers for a key that this worker made.
    fn good() -> Attributes {
        Attributes(
            ATTRIBUTES
                .iter()
                .map(|(_, name)| {
                    let value = !matches!(
                        *name,
                        "CKA_EXTRACTABLE"
                            | "CKA_WRAP_WITH_TRUSTED"
                            | "CKA_ALWAYS_AUTHENTICATE"
                            | "CKA_SIGN_RECOVER"
                            | "CKA_DECRYPT"
                            | "CKA_UNWRAP"
                            | "CKA_DERIVE"
                    );
                    (*name, value)
                })
                .collect(),
        )
    }

    /// The problem with attributes.
    fn problem(attributes: &Attributes) -> String {
        match attributes.check() {
            Err(Judged {
                fault: Fault::KeyUnfit { problem },
                verdict: Verdict::Refused,
            }) => problem,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_key_made_here_is_fit() {
        assert_eq!(good().check(), Ok(()));
    }

    #[test]
    fn each_wrong_or_missing_attribute_is_named() {
        for (_, name) in ATTRIBUTES {
            // Alone it is harmless: it matters only with CKA_EXTRACTABLE.
            if name == "CKA_WRAP_WITH_TRUSTED" {
                continue;
            }
            let mut wrong = good();
            let value = wrong.0[name];
            wrong.0.insert(name, !value);
            match name {
                // A key that came from elsewhere is judged by its other attributes.
                "CKA_LOCAL" => assert_eq!(wrong.check(), Ok(())),
                "CKA_EXTRACTABLE" => {
                    assert!(problem(&wrong).contains("CKA_WRAP_WITH_TRUSTED is false"));
                }
                _ => assert!(problem(&wrong).contains(name), "{name}"),
            }
            let mut missing = good();
            missing.0.remove(name);
            if name == "CKA_ALWAYS_AUTHENTICATE" {
                assert_eq!(missing.check(), Ok(()));
            } else {
                assert_eq!(problem(&missing), format!("the token does not tell {name}"));
            }
        }
    }

    #[test]
    fn an_extractable_key_is_fit_only_when_wrapped_with_trusted_keys() {
        let mut clone = good();
        for (name, value) in [
            ("CKA_EXTRACTABLE", true),
            ("CKA_NEVER_EXTRACTABLE", false),
            ("CKA_LOCAL", false),
            ("CKA_ALWAYS_SENSITIVE", false),
        ] {
            clone.0.insert(name, value);
        }
        assert_eq!(problem(&clone), "CKA_WRAP_WITH_TRUSTED is false");
        clone.0.insert("CKA_WRAP_WITH_TRUSTED", true);
        assert_eq!(clone.check(), Ok(()));
    }

    #[test]
    fn a_new_key_may_leave_its_token_exactly_as_declared() {
        let kept = |attributes: &Attributes, policy| attributes.keep_to(policy).is_ok();
        let mut key = good();
        assert!(kept(&key, KeyPolicy::NeverExtractable));
        assert!(!kept(&key, KeyPolicy::WrapWithTrusted));
        key.0.insert("CKA_EXTRACTABLE", true);
        assert!(!kept(&key, KeyPolicy::NeverExtractable));
        assert!(kept(&key, KeyPolicy::WrapWithTrusted));
    }

    #[test]
    fn a_failure_after_making_says_that_the_key_exists() {
        let error = after_making(unfit("CKA_SIGN is false"))
            .fault
            .into_error("t", "k");
        assert_eq!(error.reached(), crate::hsm::Reached::Maybe);
        assert!(error.to_string().contains("CKA_SIGN is false"), "{error}");
    }
}
