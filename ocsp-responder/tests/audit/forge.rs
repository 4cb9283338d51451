//! Makes small logs with software keys: honest ones, and ones that were tampered with.
//!
//! An independent writer: leaves are built from the public entry types, but tiles, bundles, heads and
//! X.509 structures are put together here, from the formats' descriptions.

use std::collections::BTreeMap;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64ct::{Base64, Encoding as _};
use certstatus::audit::{self, Erased, Fault, NotVerified, Options, Report, Source};
use certstatus::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::detail::{Base64 as Octets, Detail as _};
use certstatus::log::merkle::{Frontier, Hash, leaf_hash};
use certstatus::log::{
    CrlList, DetailHash, Entry, EntryKind, EventDetail, Gone, IntentDetail, LeafIndex, Outcome,
    OutcomeDetail, Salt, Subject, tile,
};
use certstatus::signature::{SignatureAlgorithm, assemble};
use certstatus::{SerialNumber, UnixMillis};

pub const ORIGIN: &str = "log.example/factory-1";
pub const NOT_AFTER: u64 = 1_900_000_000;

/// A CA with a software key.
pub struct Ca {
    pair: EcdsaKeyPair,
    pub name: Vec<u8>,
    pub spki: Vec<u8>,
    pub certificate: Vec<u8>,
}

impl Ca {
    fn new(common_name: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
        let spki = p256_spki(pair.public_key().as_ref());
        Self {
            pair,
            name: name(common_name),
            spki,
            certificate: Vec::new(),
        }
    }

    pub fn sign(&self, tbs: &[u8]) -> Vec<u8> {
        self.pair
            .sign(&SystemRandom::new(), tbs)
            .unwrap()
            .as_ref()
            .to_vec()
    }
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    DetailHash::of(bytes).0
}

pub fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let mut out = vec![tag];
    match contents.len() {
        short @ 0..128 => out.push(short as u8),
        long @ 128..256 => out.extend([0x81, long as u8]),
        long => out.extend([0x82, (long >> 8) as u8, long as u8]),
    }
    out.extend(contents);
    out
}

/// The elements of a run of DER, each whole with the length of its header.
fn elements(mut der: &[u8]) -> Option<Vec<(&[u8], usize)>> {
    let mut found = Vec::new();
    while !der.is_empty() {
        let (header, length) = match *der.get(1)? {
            short @ 0..=127 => (2, usize::from(short)),
            0x81 => (3, usize::from(*der.get(2)?)),
            0x82 => (
                4,
                usize::from(*der.get(2)?) << 8 | usize::from(*der.get(3)?),
            ),
            _ => return None,
        };
        let (whole, rest) = der.split_at_checked(header + length)?;
        found.push((whole, header));
        der = rest;
    }
    Some(found)
}

/// A TBSCertList's fields: seven of them where it has a list, which is the sixth then.
fn fields_of(tbs: &[u8]) -> Option<Vec<(&[u8], usize)>> {
    let (whole, header) = *elements(tbs)?.first()?;
    elements(&whole[header..]).filter(|fields| fields.len() >= 6)
}

/// A TBSCertList without its list.
pub fn without_list(tbs: &[u8]) -> Option<Vec<u8>> {
    let mut fields = fields_of(tbs)?;
    if fields.len() == 7 {
        fields.remove(5);
    }
    let fields: Vec<&[u8]> = fields.into_iter().map(|(whole, _)| whole).collect();
    Some(tlv(0x30, &fields))
}

/// How many certificates a TBSCertList lists.
pub fn listed_in(tbs: &[u8]) -> u64 {
    let fields = fields_of(tbs).filter(|fields| fields.len() == 7);
    let entries = fields.and_then(|fields| elements(&fields[5].0[fields[5].1..]));
    entries.map_or(0, |entries| entries.len() as u64)
}

fn p256_spki(point: &[u8]) -> Vec<u8> {
    // id-ecPublicKey, prime256v1
    let algorithm = tlv(
        0x30,
        &[
            b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01",
            b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
        ],
    );
    tlv(0x30, &[&algorithm, &tlv(3, &[&[0], point])])
}

pub fn name(common_name: &str) -> Vec<u8> {
    let value = tlv(0x0c, &[common_name.as_bytes()]);
    let attribute = tlv(0x30, &[b"\x06\x03\x55\x04\x03", &value]);
    tlv(0x30, &[&tlv(0x31, &[&attribute])])
}

pub fn tbs_certificate(
    serial: SerialNumber,
    issuer: &[u8],
    subject: &[u8],
    spki: &[u8],
    not_after: &str,
) -> Vec<u8> {
    let validity = tlv(
        0x30,
        &[
            &tlv(0x17, &[b"250101000000Z"]),
            &tlv(0x17, &[not_after.as_bytes()]),
        ],
    );
    tlv(
        0x30,
        &[
            &[0xa0, 3, 2, 1, 2],
            &tlv(2, &[serial.as_bytes()]),
            SignatureAlgorithm::EcdsaSha256.identifier(),
            issuer,
            &validity,
            subject,
            spki,
        ],
    )
}

/// NOT_AFTER as UTCTime: 1 900 000 000 is 2030-03-17T17:46:40Z.
pub const NOT_AFTER_UTC: &str = "300317174640Z";

/// When the certificate of device `n` ends: from 200 on, a day after the log begins (2023-11-15T22:13:20Z).
pub fn ends(n: u8) -> (u64, &'static str) {
    match n {
        0..200 => (NOT_AFTER, NOT_AFTER_UTC),
        200.. => (1_700_086_400, "231115221320Z"),
    }
}

pub fn serial(n: u8) -> SerialNumber {
    SerialNumber::from_random([n; 16])
}

/// A log in the making.
pub struct Forge {
    log_pair: Ed25519KeyPair,
    pub log_key: VerifierKey,
    pub cas: BTreeMap<String, Ca>,
    pub entries: Vec<Entry>,
    pub details: Vec<Option<Vec<u8>>>,
    pub crls: BTreeMap<String, Vec<u8>>,
    pub time: u64,
    /// How many partitions the issuers' entries tell of.
    pub partitions: u32,
    /// What CRLs say that they cover.
    pub scope: Scope,
    /// What CRLs' details say that has left them.
    pub gone: Option<Gone>,
    /// What CRLs say that they keep.
    pub expired_since: Option<UnixMillis>,
}

impl Forge {
    pub fn new() -> Self {
        let log_pair = Ed25519KeyPair::from_seed_unchecked(&[3; 32]).unwrap();
        let key = log_pair.public_key().as_ref().try_into().unwrap();
        let log_key = VerifierKey::new(ORIGIN, key).unwrap();
        let mut forge = Self {
            log_pair,
            log_key,
            cas: BTreeMap::new(),
            entries: Vec::new(),
            details: Vec::new(),
            crls: BTreeMap::new(),
            time: 1_700_000_000_000,
            partitions: 0,
            scope: Scope::UserCertificates,
            gone: None,
            expired_since: None,
        };
        let log_key = forge.log_key.to_string();
        forge.append(
            EntryKind::Genesis {
                origin: ORIGIN.into(),
                log_key,
            },
            None,
        );
        forge
    }

    pub fn append(&mut self, kind: EntryKind, detail: Option<Vec<u8>>) -> LeafIndex {
        let index = LeafIndex(self.entries.len() as u64);
        self.time += 7;
        let hash = detail.as_deref().map(DetailHash::of);
        self.entries.push(Entry {
            index,
            time: UnixMillis(self.time),
            kind,
            detail: hash,
        });
        self.details.push(detail);
        index
    }

    pub fn salt(&self) -> Salt {
        Salt([self.entries.len() as u8; 16])
    }

    pub fn event(&mut self, event: &str, data: serde_json::Value) -> LeafIndex {
        let detail = EventDetail {
            data,
            salt: self.salt(),
        }
        .encode();
        self.append(
            EntryKind::Event {
                event: event.parse().unwrap(),
            },
            Some(detail),
        )
    }

    pub fn tick(&mut self) -> LeafIndex {
        self.append(EntryKind::Tick, None)
    }

    pub fn intent(&mut self, issuer: &str, subject: Subject, tbs: Vec<u8>) -> LeafIndex {
        let certificate = matches!(subject, Subject::Certificate { .. });
        let list = matches!(subject, Subject::Crl { .. }).then(|| CrlList {
            entries: listed_in(&tbs),
            gone: self.gone,
            sha256: DetailHash::of(&tbs),
        });
        let tbs = list.and_then(|_| without_list(&tbs)).unwrap_or(tbs);
        let detail = IntentDetail {
            device_id: None,
            line: None,
            list,
            operator: None,
            order: (certificate && issuer == "device-1").then(|| "demo".to_owned()),
            profile: None,
            requested: None,
            salt: self.salt(),
            spki: None,
            tbs: Octets(tbs),
            why: None,
        };
        let issuer = issuer.parse().unwrap();
        self.append(EntryKind::Intent { issuer, subject }, Some(detail.encode()))
    }

    /// Appends a self-made outcome of issuing, detail and all.
    pub fn issued(&mut self, intent: LeafIndex, detail: &OutcomeDetail) -> LeafIndex {
        let EntryKind::Intent { issuer, subject } = self.entries[intent.0 as usize].kind.clone()
        else {
            panic!("not an intent")
        };
        let outcome = Outcome::Issued { attempts: 1 };
        let kind = EntryKind::Outcome {
            intent,
            issuer,
            subject,
            outcome,
        };
        self.append(kind, Some(detail.encode()))
    }

    pub fn outcome(
        &mut self,
        intent: LeafIndex,
        outcome: Outcome,
        object: Option<(Vec<u8>, Vec<u8>)>,
    ) -> LeafIndex {
        let EntryKind::Intent { issuer, subject } = self.entries[intent.0 as usize].kind.clone()
        else {
            panic!("not an intent")
        };
        let (signature, object) = object.unzip();
        let detail = OutcomeDetail {
            reason: None,
            salt: self.salt(),
            sha256: object.as_deref().map(DetailHash::of),
            signature: signature.map(Octets),
        };
        let kind = EntryKind::Outcome {
            intent,
            issuer,
            subject,
            outcome,
        };
        self.append(kind, Some(detail.encode()))
    }

    /// As [`Self::sign`], what an issuer says is its full CRL; gives back the intent's index.
    pub fn sign_crl(&mut self, issuer: &str, number: u64, tbs: Vec<u8>) -> LeafIndex {
        let partition = 0;
        self.sign(issuer, Subject::Crl { number, partition }, tbs).0
    }

    /// Intent, signature and outcome; gives back both indexes and the signed object.
    pub fn sign(
        &mut self,
        issuer: &str,
        subject: Subject,
        tbs: Vec<u8>,
    ) -> (LeafIndex, LeafIndex, Vec<u8>) {
        let intent = self.intent(issuer, subject, tbs.clone());
        let signature = self.cas[issuer].sign(&tbs);
        let object = assemble(&tbs, SignatureAlgorithm::EcdsaSha256, &signature);
        let outcome = Outcome::Issued { attempts: 1 };
        let outcome = self.outcome(intent, outcome, Some((signature, object.clone())));
        (intent, outcome, object)
    }

    /// Key generation, self-test, certificate, issuer entry.
    pub fn ceremony(&mut self, ca: &str, parent: &str, number: u8) {
        let new = Ca::new(ca);
        let (subject, spki) = (new.name.clone(), new.spki.clone());
        self.cas.insert(ca.to_owned(), new);
        let data = serde_json::json!({
            "issuer": ca,
            "spki_der": Base64::encode_string(&spki),
            "spki_sha256": certstatus::hex::encode(&sha256(&spki)),
        });
        self.event("key-generated", data);
        self.sign(ca, Subject::SelfTest, b"Hallmark self-test 1".to_vec());
        let serial = serial(number);
        let issuer = self.cas[parent].name.clone();
        let tbs = tbs_certificate(serial, &issuer, &subject, &spki, NOT_AFTER_UTC);
        let not_after = UnixMillis::from_seconds(NOT_AFTER);
        let (_, _, certificate) =
            self.sign(parent, Subject::Certificate { serial, not_after }, tbs);
        self.issuer_entry(ca, &certificate);
        self.cas.get_mut(ca).unwrap().certificate = certificate;
    }

    pub fn issuer_entry(&mut self, ca: &str, certificate: &[u8]) -> LeafIndex {
        let data = serde_json::json!({
            "certificate": Base64::encode_string(certificate),
            "partitions": self.partitions,
        });
        let detail = EventDetail {
            data,
            salt: self.salt(),
        }
        .encode();
        let kind = EntryKind::Issuer {
            issuer: ca.parse().unwrap(),
            spki: sha256(&self.cas[ca].spki),
            certificate: sha256(certificate),
        };
        self.append(kind, Some(detail))
    }

    pub fn device_tbs(&self, n: u8) -> Vec<u8> {
        let issuer = &self.cas["device-1"];
        let spki = &self.cas["root"].spki;
        tbs_certificate(serial(n), &issuer.name, &name("device"), spki, ends(n).1)
    }

    pub fn device_subject(n: u8) -> Subject {
        let not_after = UnixMillis::from_seconds(ends(n).0);
        Subject::Certificate {
            serial: serial(n),
            not_after,
        }
    }

    pub fn device(&mut self, n: u8) -> (LeafIndex, LeafIndex) {
        let tbs = self.device_tbs(n);
        let (intent, outcome, _) = self.sign("device-1", Self::device_subject(n), tbs);
        (intent, outcome)
    }

    pub fn revoke(&mut self, n: u8, reason: u8) -> LeafIndex {
        self.revoke_since(n, reason, UnixMillis::from_seconds(self.time / 1000))
    }

    pub fn revoke_since(&mut self, n: u8, reason: u8, revoked_at: UnixMillis) -> LeafIndex {
        let kind = EntryKind::Revoked {
            issuer: "device-1".parse().unwrap(),
            serial: serial(n),
            reason,
            revoked_at,
        };
        self.append(kind, None)
    }

    /// How a CRL lists a serial by this log; one that it does not have as revoked, as revoked now.
    pub fn entry_of(&self, n: u8) -> RevokedEntry {
        let of = |entry: &Entry| match entry.kind {
            EntryKind::Revoked {
                serial: number,
                reason,
                revoked_at,
                ..
            } if number == serial(n) => Some((revoked_at, Some(reason))),
            EntryKind::Outcome {
                subject: Subject::Certificate { serial: number, .. },
                outcome: Outcome::Unresolved { .. },
                ..
            } if number == serial(n) => Some((entry.time, None)),
            _ => None,
        };
        let now = UnixMillis(self.time);
        let (at, reason) = self
            .entries
            .iter()
            .rev()
            .find_map(of)
            .unwrap_or((now, None));
        RevokedEntry {
            serial: serial(n),
            revoked_at: UnixMillis::from_seconds(at.seconds()),
            reason,
        }
    }

    pub fn crl_tbs(&self, issuer: &str, number: u64, revoked: &[u8], checkpoint: &str) -> Vec<u8> {
        let entries: Vec<_> = revoked.iter().map(|n| self.entry_of(*n)).collect();
        self.crl_listing(issuer, number, &entries, checkpoint)
    }

    pub fn crl_listing(
        &self,
        issuer: &str,
        number: u64,
        entries: &[RevokedEntry],
        checkpoint: &str,
    ) -> Vec<u8> {
        let ca = &self.cas[issuer];
        let log_key = self.log_key.to_string();
        let fields = CrlFields {
            issuer: &ca.name,
            authority_key_id: &[1; 20],
            algorithm: SignatureAlgorithm::EcdsaSha256,
            number,
            this_update: UnixMillis::from_seconds(self.time / 1000),
            next_update: UnixMillis::from_seconds(self.time / 1000 + 86_400),
            scope: self.scope.clone(),
            expired_since: self.expired_since,
            anchor: LogAnchor {
                origin: ORIGIN,
                log_key: &log_key,
                checkpoint,
            },
        };
        TbsCrl::encode(&fields, entries).der().to_vec()
    }

    pub fn crl(&mut self, issuer: &str, number: u64, revoked: &[u8]) -> (LeafIndex, LeafIndex) {
        self.crl_of(issuer, (number, 0), revoked)
    }

    /// A CRL of a partition, published as such.
    pub fn crl_of(
        &mut self,
        issuer: &str,
        (number, partition): (u64, u32),
        revoked: &[u8],
    ) -> (LeafIndex, LeafIndex) {
        let checkpoint = self.head();
        let tbs = self.crl_tbs(issuer, number, revoked, &checkpoint);
        let subject = Subject::Crl { number, partition };
        let (intent, outcome, object) = self.sign(issuer, subject, tbs);
        let name = match partition {
            0 => issuer.to_owned(),
            _ => format!("{issuer}/{partition}"),
        };
        self.crls.insert(name, object);
        (intent, outcome)
    }

    /// A log with everything in it, and its landmarks.
    pub fn standard() -> (Self, Landmarks) {
        let mut forge = Self::new();
        forge.ceremony("root", "root", 1);
        forge.ceremony("device-1", "root", 2);
        forge.crl("device-1", 1, &[]);
        let order = forge.event("order-opened", serde_json::json!({ "order": "demo" }));
        let (intent_a, _) = forge.device(11);
        let (intent_b, issued_b) = forge.device(12);
        let tbs = forge.device_tbs(13);
        let unresolved = forge.intent("device-1", Self::device_subject(13), tbs);
        let tbs = forge.device_tbs(14);
        let abandoned = forge.intent("device-1", Self::device_subject(14), tbs);
        forge.outcome(abandoned, Outcome::Abandoned, None);
        let end = Outcome::Unresolved { attempts: 2 };
        forge.outcome(unresolved, end, None);
        let revoked = forge.revoke(11, 1);
        let (crl_intent, _) = forge.crl("device-1", 2, &[13, 11]);
        let spki = forge.cas["device-1"].spki.clone();
        let request = tlv(0x30, &[&[2, 1, 0], &name("Device CA"), &spki, &[0xa0, 0]]);
        forge.sign("device-1", Subject::Request, request);
        while forge.entries.len() < 590 {
            forge.tick();
        }
        forge.device(15);
        let tbs = forge.device_tbs(16);
        let open = forge.intent("device-1", Self::device_subject(16), tbs);
        forge.tick();
        let landmarks = Landmarks {
            order,
            intent_a,
            intent_b,
            issued_b,
            revoked,
            crl_intent,
            open,
        };
        (forge, landmarks)
    }

    pub fn leaves(&self) -> Vec<Vec<u8>> {
        self.entries.iter().map(Entry::encode).collect()
    }

    pub fn sign_head(&self, leaves: &[Vec<u8>]) -> String {
        let mut tree = Frontier::default();
        leaves.iter().for_each(|leaf| tree.push(leaf_hash(leaf)));
        let size = leaves.len() as u64;
        let head = Checkpoint {
            origin: ORIGIN.into(),
            size,
            root: tree.root(),
        };
        let signature = self.log_pair.sign(head.body().as_bytes());
        head.to_note(&self.log_key, signature.as_ref().try_into().unwrap())
    }

    /// The signed head of the log as it stands.
    pub fn head(&self) -> String {
        self.sign_head(&self.leaves())
    }

    /// Everything published, unchanged.
    pub fn published(&self) -> Published {
        let leaves = self.leaves();
        let ca = |(name, ca): (&String, &Ca)| (name.clone(), ca.certificate.clone());
        Published {
            head: self.sign_head(&leaves),
            hashes: Some(leaves.iter().map(|leaf| leaf_hash(leaf)).collect()),
            leaves,
            details: self.details.clone(),
            ca: self.cas.iter().map(ca).collect(),
            crls: self.crls.clone(),
            log_key: self.log_key.clone(),
        }
    }
}

/// Where things stand in [`Forge::standard`].
#[derive(Clone, Copy)]
pub struct Landmarks {
    pub order: LeafIndex,
    pub intent_a: LeafIndex,
    pub intent_b: LeafIndex,
    pub issued_b: LeafIndex,
    pub revoked: LeafIndex,
    pub crl_intent: LeafIndex,
    pub open: LeafIndex,
}

/// What is in the published directories, before it is written there.
#[derive(Clone)]
pub struct Published {
    pub head: String,
    pub leaves: Vec<Vec<u8>>,
    /// The hashes that the hash tiles are made from; `None` publishes no hash tiles.
    pub hashes: Option<Vec<Hash>>,
    pub details: Vec<Option<Vec<u8>>>,
    pub ca: BTreeMap<String, Vec<u8>>,
    pub crls: BTreeMap<String, Vec<u8>>,
    pub log_key: VerifierKey,
}

pub fn write(base: &Path, path: &str, bytes: &[u8]) {
    let path = base.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

impl Published {
    pub fn write(&self, base: &Path) {
        let public = base.join("public");
        write(&public, "log/checkpoint", self.head.as_bytes());
        for (bundle, leaves) in (0..).zip(self.leaves.chunks(256)) {
            let width = leaves.len() as u16;
            let path = format!("log/{}", tile::entry_bundle_path(bundle, width));
            let mut bytes = Vec::new();
            for leaf in leaves {
                bytes.extend((leaf.len() as u16).to_be_bytes());
                bytes.extend(leaf);
            }
            write(&public, &path, &bytes);
        }
        let mut level = self.hashes.clone().unwrap_or_default();
        for height in 0.. {
            for (index, hashes) in (0..).zip(level.chunks(256)) {
                let path = tile::hash_tile_path(height, index, hashes.len() as u16);
                write(&public, &format!("log/{path}"), &hashes.concat());
            }
            let full = level.chunks_exact(256);
            level = full.map(certstatus::log::merkle::subtree_root).collect();
            if level.is_empty() {
                break;
            }
        }
        for (bundle, details) in (0u64..).zip(self.details.chunks(256)) {
            let path = tile::detail_bundle_path(bundle, details.len() as u16);
            let mut bytes = Vec::new();
            for (index, detail) in (bundle * 256..).zip(details) {
                if let Some(detail) = detail {
                    bytes.extend(format!("{index} ").as_bytes());
                    bytes.extend(detail);
                    bytes.push(b'\n');
                }
            }
            write(&base.join("private"), &path, &bytes);
        }
        for (name, der) in &self.ca {
            write(&public, &format!("ca/{name}.cer"), der);
        }
        for (name, der) in &self.crls {
            write(&public, &format!("crl/{name}.crl"), der);
        }
        write(base, "log.vkey", format!("{}\n", self.log_key).as_bytes());
    }

    pub fn options(&self) -> Options {
        Options {
            log_key: self.log_key.clone(),
            checkpoints: Vec::new(),
            crls: Vec::new(),
            erased: Erased::Fault,
        }
    }

    /// Writes everything to a directory and audits it with details.
    pub fn audit(&self) -> Result<Report, Fault> {
        self.audit_with(&self.options(), Details::Given)
    }

    pub fn audit_with(&self, options: &Options, details: Details) -> Result<Report, Fault> {
        let base = tempfile::tempdir().unwrap();
        self.write(base.path());
        audit(base.path(), options, details)
    }
}

/// Whether an audit gets details.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Details {
    Given,
    NotGiven,
}

pub fn audit(base: &Path, options: &Options, details: Details) -> Result<Report, Fault> {
    let details = (details == Details::Given).then(|| base.join("private"));
    let source = Source {
        published: base.join("public"),
        details,
    };
    match audit::verify(&source, options, |_| {}) {
        Ok(report) => Ok(report),
        Err(NotVerified::Fault(fault)) => Err(fault),
        Err(NotVerified::Unreadable(unreadable)) => panic!("{unreadable:?}"),
    }
}

/// An error and its causes in one sentence.
pub fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}
