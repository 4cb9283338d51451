//! Checks details against their leaves, and every signature against its intent.
//!
//! Owns what only details can show: that the bytes to be signed are what the leaf says, that the
//! signature is the issuer's over those very bytes, that the signed object is the one logged, and that a CRL's
//! list is the one that follows from the log.
//! Promises that nothing of a detail is read before its hash agreed. Keeps the bytes of open intents only, and of
//! one CRL. Failure story: the first disagreement is a [`Cause`] at its entry.

use std::collections::BTreeMap;

use base64ct::{Base64 as StandardBase64, Encoding as _};

use super::fault::{Cause, ClassName};
use super::ledger::{IssuerId, Ledger, Open, Recipe};
use super::report::DetailReport;
use super::tbs;
use super::units::Units;
use crate::crl::Frame;
use crate::log::{
    Class, CrlList, Detail as _, DetailHash, Entry, EntryKind, EventDetail, Gone, IntentDetail,
    IssuerName, LeafIndex, Outcome, OutcomeDetail, Subject, UnitsReturned,
};
use crate::signature::{KeyKind, PublicKey, SignatureAlgorithm, assemble};

/// What every self-test begins with, so that none can be a certificate, CRL or request.
pub const SELF_TEST_PREFIX: &[u8] = b"Hallmark self-test";

/// The event that makes an issuer's key known, before it has a certificate.
const KEY_GENERATED: &str = "key-generated";

/// What an audit does where a leaf names a detail that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Erased {
    /// Reports it.
    #[default]
    Fault,
    /// Counts it, and the signatures that cannot be checked without it.
    Counted,
}

/// The checks that need details, and their counts.
#[derive(Debug)]
pub(super) struct Details {
    erased: Erased,
    /// What was checked.
    pub report: DetailReport,
    /// Certificates issued under each order.
    pub orders: BTreeMap<String, u64>,
    /// Units that unresolved certificates hold, and those given back.
    pub units: Units,
    /// The bytes of the newest CRL intent: its outcome most often follows at once.
    built: Option<(LeafIndex, Vec<u8>)>,
}

/// A CRL that is about to be signed: its log anchor is the caller's to compare.
pub(super) struct ToSign {
    /// Its intent.
    intent: LeafIndex,
    issuer: IssuerId,
    partition: u32,
    /// The bytes around its list.
    pub frame: Frame,
    list: CrlList,
}

impl Details {
    /// No detail checked yet.
    pub(super) fn new(erased: Erased) -> Self {
        Self {
            erased,
            report: DetailReport::default(),
            orders: BTreeMap::new(),
            units: Units::default(),
            built: None,
        }
    }

    /// Checks the detail of an entry that the ledger has admitted, `ended` being the intent that it
    /// ends; gives back a CRL if it is about to be signed, for [`Self::build`].
    pub(super) fn check(
        &mut self,
        entry: &Entry,
        bytes: Option<&[u8]>,
        ended: Option<Open>,
        ledger: &mut Ledger,
    ) -> Result<Option<ToSign>, Cause> {
        let detail = self.matching(entry, bytes)?;
        match (&entry.kind, detail) {
            (EntryKind::Intent { issuer, .. }, detail) => {
                self.intent(entry, issuer, detail, ledger)
            }
            (
                EntryKind::Outcome {
                    intent, outcome, ..
                },
                detail,
            ) => {
                if let Some(open) = ended {
                    let end = (*intent, *outcome);
                    self.outcome(entry, end, &open, detail, ledger)?;
                }
                Ok(None)
            }
            (_, None) => Ok(None),
            (
                EntryKind::Issuer {
                    issuer,
                    spki,
                    certificate,
                },
                Some(bytes),
            ) => {
                let detail = EventDetail::parse(bytes).map_err(Cause::DetailMalformed)?;
                issuer_entry(issuer, spki, certificate, &detail, ledger).map(|()| None)
            }
            (EntryKind::Event { event }, Some(bytes)) => {
                let detail = EventDetail::parse(bytes).map_err(Cause::DetailMalformed)?;
                match event.0.as_str() {
                    KEY_GENERATED => key_generated(&detail, ledger)?,
                    UnitsReturned::EVENT => {
                        let act = UnitsReturned::of(&detail)
                            .ok_or(Cause::Event("names no order, or no number of units"))?;
                        self.units.give_back(act)?;
                    }
                    _ => {}
                }
                Ok(None)
            }
            (_, Some(bytes)) => EventDetail::parse(bytes)
                .map_err(Cause::DetailMalformed)
                .map(|_| None),
        }
    }

    /// The detail that the leaf names, if it hashes to what the leaf says.
    fn matching<'a>(
        &mut self,
        entry: &Entry,
        bytes: Option<&'a [u8]>,
    ) -> Result<Option<&'a [u8]>, Cause> {
        match (entry.detail, bytes) {
            (None, None) => Ok(None),
            (None, Some(_)) => Err(Cause::DetailStray),
            (Some(hash), Some(bytes)) if DetailHash::of(bytes) == hash => {
                self.report.matched += 1;
                Ok(Some(bytes))
            }
            (Some(_), Some(_)) => Err(Cause::DetailAltered),
            (Some(_), None) if self.erased == Erased::Counted => {
                self.report.erased += 1;
                Ok(None)
            }
            (Some(_), None) => Err(Cause::DetailMissing),
        }
    }

    /// Checks an intent: the key is known, and the bytes to be signed are what the leaf says.
    fn intent(
        &self,
        entry: &Entry,
        issuer: &IssuerName,
        detail: Option<&[u8]>,
        ledger: &mut Ledger,
    ) -> Result<Option<ToSign>, Cause> {
        if entry.detail.is_none() {
            return Err(Cause::DetailUnnamed);
        }
        let id = ledger.issuer(issuer);
        let bound = ledger
            .record(id)
            .is_some_and(|record| record.spki.is_some());
        // With a detail erased, it may have been the one that made the key known.
        if !bound && self.report.erased == 0 {
            return Err(Cause::IssuerEarly(issuer.clone()));
        }
        let Some(bytes) = detail else {
            return Ok(None);
        };
        let detail = IntentDetail::parse(bytes).map_err(Cause::DetailMalformed)?;
        let Some(subject) = ledger.open_mut(entry.index).map(|open| open.subject) else {
            return Ok(None);
        };
        check_tbs(id, subject, &detail, ledger)?;
        match (subject, detail.list) {
            (Subject::Crl { number, partition }, Some(list)) => {
                let frame = frame(id, (subject, number), detail.tbs.0, ledger)?;
                return Ok(Some(ToSign {
                    intent: entry.index,
                    issuer: id,
                    partition,
                    frame,
                    list,
                }));
            }
            (Subject::Crl { .. }, None) => {
                let what = "its detail does not say what its list follows from";
                return Err(fault(subject, what));
            }
            (_, Some(_)) => return Err(fault(subject, "its detail is that of a CRL")),
            (_, None) => {}
        }
        if let Some(open) = ledger.open_mut(entry.index) {
            open.tbs = Some(detail.tbs.0);
            open.order = detail.order;
        }
        Ok(None)
    }

    /// Rebuilds the list of a CRL whose log anchor states `size` entries, and with it the bytes to be signed: they
    /// must have the hash that the detail says.
    pub(super) fn build(
        &mut self,
        crl: ToSign,
        size: u64,
        ledger: &mut Ledger,
    ) -> Result<(), Cause> {
        let (class, list) = (ClassName(Class::Crl), crl.list);
        let wrong = |what| Cause::Tbs { class, what };
        let parsed = &crl.frame.parsed;
        if let Some(gone) = list.gone {
            if parsed
                .expired_since
                .is_some_and(|since| gone.expired > since)
            {
                return Err(wrong(
                    "it leaves out what its expiredCertsOnCRL says that it keeps",
                ));
            }
            if !ledger.lists.may_leave(crl.issuer, crl.partition, gone) {
                return Err(wrong(
                    "it leaves out certificates that stood on no CRL made after their end of validity",
                ));
            }
        }
        let of = ledger
            .selection(crl.issuer, crl.partition, &parsed.scope, (size, list.gone))
            .map_err(wrong)?;
        // Only an erased detail hides how many partitions there are.
        let Some(of) = of else { return Ok(()) };
        let recipe = Recipe {
            frame: crl.frame,
            of,
        };
        let builder = ledger.lists.build(of);
        let by_log = u64::try_from(builder.entries()).unwrap_or(u64::MAX);
        let tbs = builder.fill(&recipe.frame);
        if DetailHash::of(&tbs) != list.sha256 || by_log != list.entries {
            let says = list.entries;
            return Err(Cause::List { says, by_log });
        }
        if let Some(open) = ledger.open_mut(crl.intent) {
            open.list = Some(recipe);
        }
        self.built = Some((crl.intent, tbs));
        Ok(())
    }

    /// The bytes of an intent that ends, where they are known.
    fn bytes<'a>(
        &'a mut self,
        intent: LeafIndex,
        open: &'a Open,
        ledger: &Ledger,
    ) -> Option<std::borrow::Cow<'a, [u8]>> {
        let Some(recipe) = &open.list else {
            return open.tbs.as_deref().map(Into::into);
        };
        match self.built.take() {
            Some((of, tbs)) if of == intent => Some(tbs.into()),
            other => {
                self.built = other;
                Some(ledger.lists.build(recipe.of).fill(&recipe.frame).into())
            }
        }
    }

    /// Checks an outcome: an issued one has the issuer's signature over the intent's bytes.
    fn outcome(
        &mut self,
        entry: &Entry,
        (intent, outcome): (LeafIndex, Outcome),
        open: &Open,
        detail: Option<&[u8]>,
        ledger: &mut Ledger,
    ) -> Result<(), Cause> {
        let issued = matches!(outcome, Outcome::Issued { .. });
        if issued && entry.detail.is_none() {
            return Err(Cause::DetailUnnamed);
        }
        let detail = detail.map(OutcomeDetail::parse).transpose();
        let detail = detail.map_err(Cause::DetailMalformed)?;
        if let (Outcome::Unresolved { .. }, Subject::Certificate { .. }) = (outcome, open.subject) {
            match &open.tbs {
                Some(_) => self.units.unresolved(open.order.as_ref()),
                None => self.units.unresolved_of_any(),
            }
        }
        if !issued {
            let signed = detail.is_some_and(|detail| detail.signature.is_some());
            let what = "there is a signature, but the outcome says that none was kept";
            return if signed {
                Err(fault(open.subject, what))
            } else {
                Ok(())
            };
        }
        if let (Subject::Certificate { .. }, Some(order)) = (open.subject, &open.order) {
            *self.orders.entry(order.clone()).or_default() += 1;
        }
        let key = ledger
            .record(open.issuer)
            .and_then(|record| record.key.clone());
        if let Subject::Crl { partition, .. } = open.subject {
            let made = open.list.as_ref().map(|list| Gone {
                covered: list.of.size,
                expired: list.frame.parsed.this_update,
            });
            ledger.lists.issue(open.issuer, partition, made);
        }
        let tbs = self.bytes(intent, open, ledger);
        let (Some(detail), Some(tbs), Some(key)) = (detail, tbs, key) else {
            self.report.signatures_unverified += 1;
            return Ok(());
        };
        let object = signed_object(open, &tbs, &detail, &key, ledger)?;
        drop(tbs);
        let sha256 = DetailHash::of(&object);
        match detail.sha256 {
            Some(logged) if logged == sha256 => {}
            // A self-test is not a DER object that anyone is given, so its hash may be left out.
            None if open.subject == Subject::SelfTest => {}
            Some(_) | None => return Err(Cause::ObjectHash),
        }
        self.report.signatures_verified += 1;
        ledger.set_crl_hash(open.issuer, open.subject, sha256);
        Ok(())
    }
}

/// A fault of what was to be signed.
const fn fault(subject: Subject, what: &'static str) -> Cause {
    Cause::Tbs {
        class: ClassName(subject.class()),
        what,
    }
}

/// Verifies the signature and puts the signed object together.
fn signed_object(
    open: &Open,
    tbs: &[u8],
    detail: &OutcomeDetail,
    key: &PublicKey,
    ledger: &Ledger,
) -> Result<Vec<u8>, Cause> {
    let Some(signature) = &detail.signature else {
        return Err(fault(
            open.subject,
            "it was issued, but its detail has no signature",
        ));
    };
    let named = match open.subject.class() {
        Class::Certificate => tbs::certificate(tbs).map(|parsed| parsed.algorithm),
        Class::Crl => tbs::crl_algorithm(tbs),
        // Neither a request's nor a self-test's bytes name the algorithm.
        Class::Request | Class::SelfTest => None,
    };
    let candidates = named
        .as_ref()
        .map_or(fitting(key.kind()), std::slice::from_ref);
    let mut refused = crate::signature::SignatureFault::UnknownAlgorithm;
    for algorithm in candidates {
        match key.verify(*algorithm, tbs, &signature.0) {
            Ok(()) => return Ok(assemble(tbs, *algorithm, &signature.0)),
            Err(source) => refused = source,
        }
    }
    let name = ledger.record(open.issuer).map(|record| record.name.clone());
    match name {
        Some(issuer) => Err(Cause::Signature {
            issuer,
            source: refused,
        }),
        None => Err(fault(open.subject, "its issuer is unknown")),
    }
}

/// The algorithms that a CA key of this kind may sign with.
const fn fitting(kind: KeyKind) -> &'static [SignatureAlgorithm] {
    use SignatureAlgorithm as Is;
    match kind {
        KeyKind::P256 => &[Is::EcdsaSha256],
        KeyKind::P384 => &[Is::EcdsaSha384],
        KeyKind::Ed25519 => &[Is::Ed25519],
        KeyKind::Rsa(_) => &[
            Is::RsaPkcs1Sha256,
            Is::RsaPssSha256,
            Is::RsaPkcs1Sha384,
            Is::RsaPssSha384,
            Is::RsaPkcs1Sha512,
            Is::RsaPssSha512,
        ],
    }
}

/// Checks that the bytes to be signed are what leaf and detail say of them.
fn check_tbs(
    id: IssuerId,
    subject: Subject,
    detail: &IntentDetail,
    ledger: &Ledger,
) -> Result<(), Cause> {
    let issuer = ledger.record(id);
    let bytes = detail.tbs.0.as_slice();
    let spki = match subject {
        Subject::Certificate { serial, not_after } => {
            let parsed = tbs::certificate(bytes).ok_or(fault(
                subject,
                "its bytes are not a TBSCertificate of this appliance",
            ))?;
            if parsed.serial != serial {
                return Err(fault(subject, "the serial in its bytes is not the leaf's"));
            }
            if parsed.not_after != not_after {
                return Err(fault(
                    subject,
                    "the end of validity in its bytes is not the leaf's",
                ));
            }
            check_issuer_name(id, subject, &parsed, ledger)?;
            Some(parsed.spki)
        }
        Subject::Crl { .. } => {
            tbs::crl_algorithm(bytes).ok_or(fault(subject, "its bytes are not a TBSCertList"))?;
            None
        }
        Subject::Request => {
            let spki = tbs::request_spki(bytes).ok_or(fault(
                subject,
                "its bytes are not a CertificationRequestInfo",
            ))?;
            let own = issuer.and_then(|record| record.spki);
            if own.is_some_and(|own| own != DetailHash::of(spki).0) {
                return Err(fault(subject, "it requests a certificate for another key"));
            }
            Some(spki)
        }
        Subject::SelfTest => {
            if !bytes.starts_with(SELF_TEST_PREFIX) {
                return Err(fault(subject, "its bytes do not begin as a self-test's do"));
            }
            None
        }
    };
    match (detail.spki, spki) {
        (Some(logged), Some(spki)) if logged != DetailHash::of(spki) => Err(fault(
            subject,
            "the public key in its bytes is not the one that its detail names",
        )),
        _ => Ok(()),
    }
}

/// Checks that a certificate names its issuer as the issuer's own certificate does.
fn check_issuer_name(
    id: IssuerId,
    subject: Subject,
    parsed: &tbs::TbsCertificate<'_>,
    ledger: &Ledger,
) -> Result<(), Cause> {
    let Some(record) = ledger.record(id) else {
        return Ok(());
    };
    let self_signed = record.spki == Some(DetailHash::of(parsed.spki).0);
    let known = record
        .subject
        .as_deref()
        .or(self_signed.then_some(parsed.subject));
    if known.is_some_and(|known| known != parsed.issuer) {
        return Err(fault(
            subject,
            "the issuer in its bytes is not the subject of its issuer",
        ));
    }
    Ok(())
}

/// Reads the bytes around a CRL's list, if they say what the leaf and the issuer's certificate say.
fn frame(
    id: IssuerId,
    (subject, number): (Subject, u64),
    tbs: Vec<u8>,
    ledger: &Ledger,
) -> Result<Frame, Cause> {
    let frame = Frame::parse(tbs).map_err(|refused| fault(subject, refused.0))?;
    if frame.parsed.number != number {
        return Err(fault(
            subject,
            "the CRL number in its bytes is not the leaf's",
        ));
    }
    let name = ledger
        .record(id)
        .and_then(|record| record.subject.as_deref());
    if name.is_some_and(|name| name != frame.parsed.issuer) {
        return Err(fault(
            subject,
            "the issuer in its bytes is not the subject of its issuer",
        ));
    }
    Ok(frame)
}

/// Takes in an issuer's key from the event that tells of its generation.
///
/// Keys that are not an issuer's (the log key) have no `issuer` in their event.
fn key_generated(detail: &EventDetail, ledger: &mut Ledger) -> Result<(), Cause> {
    let text = |name: &str| detail.data.get(name).and_then(serde_json::Value::as_str);
    let Some(issuer) = text("issuer") else {
        return Ok(());
    };
    let issuer: IssuerName = issuer
        .parse()
        .map_err(|_| Cause::Event("names an issuer by what is not a name"))?;
    let spki = text("spki_der").and_then(|text| StandardBase64::decode_vec(text).ok());
    let spki = spki.ok_or(Cause::Event("has no key (spki_der, base64)"))?;
    let key = PublicKey::parse(&spki)
        .map_err(|_| Cause::Event("has a key that is no SubjectPublicKeyInfo of a known kind"))?;
    let sha256 = DetailHash::of(&spki);
    if text("spki_sha256").is_some_and(|logged| logged != sha256.to_string()) {
        return Err(Cause::Event("has a key whose hash is not spki_sha256"));
    }
    let id = ledger.issuer(&issuer);
    ledger.bind_key(id, sha256.0)?;
    if let Some(record) = ledger.record_mut(id) {
        record.key = Some(key);
    }
    Ok(())
}

/// Takes in an issuer's certificate from the detail of its entry.
fn issuer_entry(
    issuer: &IssuerName,
    spki: &[u8; 32],
    certificate: &[u8; 32],
    detail: &EventDetail,
    ledger: &mut Ledger,
) -> Result<(), Cause> {
    let Some(text) = detail
        .data
        .get("certificate")
        .and_then(serde_json::Value::as_str)
    else {
        return Err(Cause::Event("has no certificate"));
    };
    let der = StandardBase64::decode_vec(text)
        .map_err(|_| Cause::Event("has a certificate that is not base64"))?;
    let partitions = detail.data.get("partitions");
    if let Some(partitions) = partitions.and_then(serde_json::Value::as_u64) {
        let partitions = u32::try_from(partitions)
            .map_err(|_| Cause::Event("has more CRL partitions than there can be"))?;
        let id = ledger.issuer(issuer);
        if let Some(record) = ledger.record_mut(id) {
            record.partitions = Some(partitions);
        }
    }
    bind_certificate(issuer, spki, certificate, &der, ledger)
}

/// Binds an issuer to its certificate, given as DER, if both hashes in the log agree.
pub(super) fn bind_certificate(
    issuer: &IssuerName,
    spki: &[u8; 32],
    certificate: &[u8; 32],
    der: &[u8],
    ledger: &mut Ledger,
) -> Result<(), Cause> {
    let wrong = |what| Cause::CaCertificate {
        issuer: issuer.clone(),
        what,
    };
    if DetailHash::of(der).0 != *certificate {
        return Err(wrong(
            "its certificate is not the one whose hash was logged",
        ));
    }
    let parsed =
        tbs::ca_certificate(der).ok_or(wrong("its certificate is not an X.509 certificate"))?;
    if DetailHash::of(parsed.spki).0 != *spki {
        return Err(wrong(
            "the key in its certificate is not the one whose hash was logged",
        ));
    }
    let key = PublicKey::parse(parsed.spki)
        .map_err(|_| wrong("the key in its certificate is of no known kind"))?;
    let id = ledger.issuer(issuer);
    if let Some(record) = ledger.record_mut(id) {
        record.key = Some(key);
        record.subject = Some(parsed.subject.to_vec());
    }
    Ok(())
}
