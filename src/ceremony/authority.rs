//! One CA of a ceremony: key, self-test, certificate or request, first CRL.
//!
//! Owns what belongs to one `[[ca]]`. Promises that a certificate is written only after its outcome is in the
//! log, and that an issuer is bound in the log before it signs anything but its self-test and its own certificate
//! or request. Never signs
//! with a key whose public part was not read back from the token. Failure story: see `site`.

use std::collections::HashMap;
use std::time::Duration;

use base64ct::{Base64, Encoding as _};
use certstatus::UnixMillis;
use certstatus::log::IssuerName;
use serde_json::json;

use super::plan::{Ca, OfflineRoot, Parent};
use super::site::{Site, record_event};
use super::{
    CertificateOfRecord, KeyOfRecord, RequestOfRecord, StepFailed, kept_certificate, offline,
    paper, pem, published_certificate, sha256, write,
};
use crate::config::Config;
use crate::crl;
use crate::csr;
use crate::hsm::{GeneratedKey, Reached};
use crate::issuance::random_serial;
use crate::issuer::{self, Signer};
use crate::profile::{CaSigner, IssuerFacts, build_ca};
use crate::ra::{Grant, Purpose};
use crate::signing_log::{IssuerRecord, IssuerRole, SigningLog, ToBeSigned};

/// What a ceremony has made so far that later steps and the transcript need.
#[derive(Default)]
pub(super) struct Made {
    /// The keys.
    pub keys: Vec<KeyOfRecord>,
    /// The certificates.
    pub certificates: Vec<CertificateOfRecord>,
    /// The requests.
    pub requests: Vec<RequestOfRecord>,
    /// The issuers that can sign.
    pub issuers: HashMap<IssuerName, Working>,
}

/// An issuer that can sign.
#[derive(Clone)]
pub(super) struct Working {
    /// Its key.
    pub signer: Signer,
    /// What its certificates say about it.
    pub facts: IssuerFacts,
}

impl<P: FnMut(&str)> Site<'_, P> {
    /// Makes one CA.
    pub async fn authority(
        &mut self,
        log: &SigningLog,
        ca: &Ca,
        made: &mut Made,
    ) -> Result<(), StepFailed> {
        let signer = self.key(log, ca, made).await?;
        self.doing(format!("testing the key of {}", ca.name));
        signer.self_test(log).await?;
        match &ca.parent {
            Parent::Offline(root) => self.request(log, ca, &signer, root, made).await,
            Parent::Itself | Parent::Root(_) => self.certificate(log, ca, signer, made).await,
        }
    }

    /// Makes the key and logs what the token reports of it.
    async fn key(
        &mut self,
        log: &SigningLog,
        ca: &Ca,
        made: &mut Made,
    ) -> Result<Signer, StepFailed> {
        self.doing(format!("making the key of {}: {}", ca.name, ca.key));
        let generated = match self.hsm.generate(&ca.key, ca.algorithm, ca.policy).await {
            Ok(generated) => generated,
            Err(error) => {
                if error.reached() == Reached::Maybe {
                    self.made(format!("perhaps a key pair {}", ca.key));
                }
                return Err(error.into());
            }
        };
        self.made(format!("a key pair {}", ca.key));
        let pin = sha256(&generated.spki);
        let algorithm = ca.algorithm.signature();
        let signer = Signer::open(&self.hsm, ca.name.clone(), &ca.key, algorithm, &pin.0).await?;
        record_event(log, "key-generated", self.key_event(ca, &generated)).await?;
        made.keys.push(KeyOfRecord {
            issuer: ca.name.clone(),
            uri: ca.key.to_string(),
            algorithm: ca.algorithm,
            policy: ca.policy,
            spki_sha256: pin,
            attributes: generated.attributes,
        });
        Ok(signer)
    }

    /// What the log says of a key that was made.
    fn key_event(&self, ca: &Ca, generated: &GeneratedKey) -> serde_json::Value {
        json!({
            "algorithm": ca.algorithm,
            "attributes": generated.attributes,
            "issuer": ca.name,
            "key_label": ca.key.key_label,
            "operator": self.operator(),
            "policy": ca.policy,
            "spki_der": Base64::encode_string(&generated.spki),
            "spki_sha256": sha256(&generated.spki),
            "token_label": ca.key.token_label,
            "token_serial": ca.key.token_serial,
        })
    }

    /// Makes the certificate, binds it in the log, signs the first CRL.
    async fn certificate(
        &mut self,
        log: &SigningLog,
        ca: &Ca,
        signer: Signer,
        made: &mut Made,
    ) -> Result<(), StepFailed> {
        self.doing(format!("making the certificate of {}", ca.name));
        let parent = match &ca.parent {
            Parent::Root(name) => made.issuers.get(name).cloned(),
            Parent::Itself | Parent::Offline(_) => None,
        };
        let by = match &parent {
            Some(parent) => CaSigner::Parent(&parent.facts),
            None => CaSigner::Itself {
                name: &ca.name,
                algorithm: signer.algorithm(),
            },
        };
        let serial = random_serial().map_err(|_| StepFailed::Randomness)?;
        let now = self.clock.now();
        let tbs = build_ca(&ca.spec, signer.public_key(), by, serial, now)?;
        let grant = Grant::act(&self.operator(), Purpose::Ca(ca.name.clone()));
        let with = parent.as_ref().map_or(&signer, |parent| &parent.signer);
        let signed = with.make(log, &grant, ToBeSigned::Certificate(tbs)).await?;
        let record = IssuerRecord {
            name: ca.name.clone(),
            certificate: signed.der().to_vec(),
            algorithm: signer.algorithm(),
            role: ca.role,
            parent: with.name().clone(),
            partitions: ca.partitions,
        };
        let facts = bind(log, self.config, record, &[]).await?;
        let path = kept_certificate(self.config, ca.name.as_str());
        self.made(path.display().to_string());
        self.doing(format!("making the first CRL of {}", ca.name));
        let (role, validity) = (ca.role, ca.crl_validity);
        first_crls(
            log,
            self.config,
            (&signer, &facts),
            (role, validity),
            self.clock.now(),
        )
        .await?;
        made.certificates.push(CertificateOfRecord {
            name: ca.name.to_string(),
            role: Some(ca.role),
            issuer: parent.map_or_else(|| ca.name.clone(), |parent| parent.facts.name),
            sha256: sha256(signed.der()),
            pem: pem("CERTIFICATE", signed.der()),
        });
        made.issuers
            .insert(ca.name.clone(), Working { signer, facts });
        Ok(())
    }

    /// Makes the request for an offline root, and remembers what its answer must be.
    async fn request(
        &mut self,
        log: &SigningLog,
        ca: &Ca,
        signer: &Signer,
        root: &OfflineRoot,
        made: &mut Made,
    ) -> Result<(), StepFailed> {
        self.doing(format!("making the request of {}", ca.name));
        let tbs = csr::request_to_sign(&ca.spec.subject, signer.public_key());
        let grant = Grant::act(&self.operator(), Purpose::Ca(ca.name.clone()));
        let object = ToBeSigned::Request {
            issuer: ca.name.clone(),
            key: signer.public_key().clone(),
            algorithm: signer.algorithm(),
            tbs,
        };
        let signed = signer.make(log, &grant, object).await?;
        let text = pem("CERTIFICATE REQUEST", signed.der());
        let path = paper(self.config, &format!("{}.csr.pem", ca.name));
        write(&path, text.as_bytes())?;
        self.made(path.display().to_string());
        offline::remember(self.config, ca, signer, root)?;
        made.requests.push(RequestOfRecord {
            issuer: ca.name.clone(),
            root: root.name.clone(),
            file: path.display().to_string(),
            pem: text,
        });
        Ok(())
    }
}

/// Signs an issuer's first CRLs: the full one, and one for each partition.
pub(super) async fn first_crls(
    log: &SigningLog,
    config: &Config,
    (signer, facts): (&Signer, &IssuerFacts),
    (role, validity): (IssuerRole, Duration),
    now: UnixMillis,
) -> Result<(), StepFailed> {
    for kind in crl::kinds(role, facts) {
        let terms = crl::Terms {
            kind,
            validity,
            now,
            expired_since: None,
            gone: None,
            after: 0,
        };
        let made = crl::issue(log, signer, facts, &terms).await?;
        let published = made.publish(log, signer.name(), &config.published);
        published.await.map_err(|(error, _)| error)?;
    }
    Ok(())
}

/// Binds an issuer in the log, unless it is bound already, and writes its certificate: DER for the world, PEM
/// for people.
pub(super) async fn bind(
    log: &SigningLog,
    config: &Config,
    record: IssuerRecord,
    known: &[IssuerRecord],
) -> Result<IssuerFacts, StepFailed> {
    let (name, der) = (record.name.clone(), record.certificate.clone());
    let facts = facts(config, &record)?;
    match known.iter().find(|known| known.name == name) {
        None => drop(log.record_issuer(record).await?),
        Some(bound) if bound.certificate == der => {}
        Some(_) => {
            return Err(StepFailed::BoundToAnother(name));
        }
    }
    write(&published_certificate(config, name.as_str()), &der)?;
    let text = pem("CERTIFICATE", &der);
    write(&kept_certificate(config, name.as_str()), text.as_bytes())?;
    Ok(facts)
}

/// What an issuer's certificate and the configuration say about it; a root elsewhere may not be configured.
pub(super) fn facts(config: &Config, record: &IssuerRecord) -> Result<IssuerFacts, StepFailed> {
    match config.issuer(&record.name) {
        Some(configured) => Ok(issuer::facts(record, configured)?),
        None => {
            let (name, algorithm) = (record.name.clone(), record.algorithm);
            Ok(IssuerFacts::from_certificate(
                name,
                &record.certificate,
                algorithm,
            )?)
        }
    }
}
