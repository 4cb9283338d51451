//! Profiles, what is built by them from anybody's request, CA certificates, and the registry's changes.

use std::path::Path;
use std::str::FromStr as _;
use std::sync::LazyLock;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use certstatus::log::entry::{IssuerName, Slug};
use certstatus::signature::{PublicKey, SignatureAlgorithm, assemble};
use certstatus::{SerialNumber, UnixMillis};
use der::{Decode as _, Encode as _};
use hallmark::csr::{Csr, VerifiedCsr};
use hallmark::profile::{
    BuildRefused, CaSigner, CaSpec, IssuerFacts, Profile, ProfileError, Tbs, Validity, build_ca,
};
use hallmark::ra::{Change, Grant, Purpose, Registry};
use x509_cert::TbsCertificate;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{
    AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAltName,
};
use x509_cert::name::Name;

use super::signatures::{after_first, after_header};

/// The time of every build: 2023-11-14.
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

/// The SubjectPublicKeyInfo of the P-256 key whose private number is 1, so that its point is the generator's
/// (SEC 2, 2.4.2); the last 65 octets are the point.
const SPKI: [u8; 91] =
    *b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\
    \x03\x01\x07\x03\x42\x00\x04\
    \x6b\x17\xd1\xf2\xe1\x2c\x42\x47\xf8\xbc\xe6\xe5\x63\xa4\x40\xf2\
    \x77\x03\x7d\x81\x2d\xeb\x33\xa0\xf4\xa1\x39\x45\xd8\x98\xc2\x96\
    \x4f\xe3\x42\xe2\xfe\x1a\x7f\x9b\x8e\xe7\xeb\x4a\x7c\x0f\x9e\x16\
    \x2b\xce\x33\x57\x6b\x31\x5e\xce\xcb\xb6\x40\x68\x37\xbf\x51\xf5";

/// The built-in profiles that judge requests from outside.
const PROFILES: [(&str, &str); 4] = [
    (
        "mqtt-device",
        include_str!("../../../profiles/mqtt-device.toml"),
    ),
    ("idevid", include_str!("../../../profiles/idevid.toml")),
    ("line", include_str!("../../../profiles/line.toml")),
    (
        "ocsp-signing",
        include_str!("../../../profiles/ocsp-signing.toml"),
    ),
];

/// What all builds share.
struct Factory {
    profiles: Vec<Profile>,
    issuer: IssuerFacts,
    registry: Registry,
    key: EcdsaKeyPair,
    line: Slug,
    order: Slug,
}

/// A line with a certificate, and an order for it.
pub const CHANGES: &str = r#"{"change":"line-added","line":"line-1"}
{"change":"line-certified","line":"line-1","certificate":{"serial":"5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a","sha256":"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d","not_before":1600000000000,"not_after":1800000000000}}
{"change":"order-opened","terms":{"order":"demo","profile":"mqtt-device","issuer":"device-1","lines":["line-1"],"quantity":1000,"from":1600000000000,"until":1800000000000,"device_id_pattern":"[ -~]*"}}"#;

/// When changes are made.
const CHANGED_AT: certstatus::UnixMillis = certstatus::UnixMillis(1_700_000_000_000);

/// Made once.
fn factory() -> &'static Factory {
    static FACTORY: LazyLock<Factory> = LazyLock::new(|| {
        let profile = |(name, text)| {
            let path = format!("/profiles/{name}.toml");
            Profile::from_text(Path::new(&path), text).expect("it is built in")
        };
        let registry = Registry::default();
        for line in CHANGES.lines() {
            let change: Change = serde_json::from_str(line).expect("a change");
            registry
                .admit(&change, CHANGED_AT)
                .expect("a change that can be made");
            registry.apply(&change);
        }
        let key = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            &[&[0; 31][..], &[1]].concat(),
            &SPKI[26..],
        );
        Factory {
            profiles: PROFILES.into_iter().map(profile).collect(),
            issuer: issuer(),
            registry,
            key: key.expect("1 is a private key"),
            line: "line-1".parse().expect("a name"),
            order: "demo".parse().expect("a name"),
        }
    });
    &FACTORY
}

/// A root that issues everything here.
fn issuer() -> IssuerFacts {
    let name: IssuerName = "device-1".parse().expect("a name");
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    let spec = CaSpec {
        subject: Name::from_str("CN=Root,O=Example").expect("a name"),
        validity: Validity::Forever,
        path_len: None,
    };
    let key = PublicKey::parse(&SPKI).expect("a key");
    let signer = CaSigner::Itself {
        name: &name,
        algorithm,
    };
    let serial = SerialNumber::from_random([1; 16]);
    let tbs = build_ca(&spec, &key, signer, serial, NOW).expect("a CA certificate");
    let certificate = assemble(tbs.der(), algorithm, &[0x30, 6, 2, 1, 1, 2, 1, 1]);
    let facts = IssuerFacts::from_certificate(name, &certificate, algorithm);
    IssuerFacts {
        crl_url: Some("http://pki.example/crl/device-1.crl".into()),
        ocsp_url: Some("http://pki.example/ocsp".into()),
        ..facts.expect("a CA certificate that was just built")
    }
}

/// A DER value around these parts.
fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.concat();
    let length = u32::try_from(contents.len())
        .expect("an input is short")
        .to_be_bytes();
    let header = match contents.len() {
        0..=0x7f => vec![tag, length[3]],
        _ => [&[tag, 0x83][..], &length[1..]].concat(),
    };
    let header = match (header.get(2), header.get(3)) {
        (Some(0), Some(0)) => vec![tag, 0x81, length[3]],
        (Some(0), Some(_)) => vec![tag, 0x82, length[2], length[3]],
        _ => header,
    };
    [header, contents].concat()
}

/// The request with a key of ours in the place of its own, signed by it: so changes of it still verify.
fn signed_again(bytes: &[u8], key: &EcdsaKeyPair) -> Option<Vec<u8>> {
    let first = |bytes: &'_ [u8]| bytes.len() - after_first(bytes).len();
    let info = after_header(bytes);
    let info = after_header(&info[..first(info)]);
    let (version, rest) = info.split_at(first(info));
    let (subject, rest) = rest.split_at(first(rest));
    let attributes = after_first(rest);
    let info = wrap(0x30, &[version, subject, &SPKI, attributes]);
    let signature = key.sign(&SystemRandom::new(), &info).ok()?;
    Some(assemble(
        &info,
        SignatureAlgorithm::EcdsaSha256,
        signature.as_ref(),
    ))
}

/// A request, signed again: what the built-in profiles make of it obeys each of their rules.
pub fn certificate(bytes: &[u8]) {
    let factory = factory();
    let Some(request) = signed_again(bytes, &factory.key) else {
        return;
    };
    let Ok(csr) = Csr::parse(&request).and_then(Csr::verify) else {
        return;
    };
    let device_id = csr.common_name().unwrap_or("device-1").to_owned();
    for profile in &factory.profiles {
        let grant = match profile.name() {
            "line" => Grant::act("operator", Purpose::Line(factory.line.clone())),
            "ocsp-signing" => Grant::act(
                "operator",
                Purpose::Responder("responder-1".parse().unwrap()),
            ),
            _ => match unit(factory, &device_id) {
                Some(grant) => grant,
                None => continue,
            },
        };
        let serial = SerialNumber::from_random([0x5a; 16]);
        match profile.build(&csr, &grant, &factory.issuer, serial, NOW) {
            Ok(tbs) => judge(&tbs, profile.name(), &device_id, &csr),
            Err(BuildRefused::Request { field, rule }) => {
                assert!(!field.is_empty() && !rule.is_empty());
            }
            Err(BuildRefused::Lint { rule, .. }) => panic!("{}: {rule}", profile.name()),
        }
    }
}

/// A unit of the order, where it may name this device id.
fn unit(factory: &Factory, device_id: &str) -> Option<Grant> {
    let line = factory
        .registry
        .authenticate(Some(&[0]), NOW)
        .expect("the line has a certificate");
    factory
        .registry
        .grant(&line, &factory.order, device_id, NOW)
        .ok()
}

/// Reads the final certificate with another library and holds it against the profile's words.
fn judge(tbs: &Tbs, profile: &str, device_id: &str, csr: &VerifiedCsr) {
    let issuer = &factory().issuer;
    let read = TbsCertificate::from_der(tbs.der()).expect("a TBSCertificate");
    assert_eq!(read.to_der().expect("what was read"), tbs.der());
    assert_eq!(read.serial_number().as_bytes(), [0x5a; 16]);
    assert_eq!(read.issuer().to_der().expect("a name"), issuer.subject);
    let spki = read.subject_public_key_info().to_der().expect("a key");
    assert_eq!(spki, csr.public_key().spki());
    let since = read.validity().not_before.to_unix_duration().as_secs();
    let until = read.validity().not_after.to_unix_duration().as_secs();
    assert_eq!(since, NOW.seconds() - 300);
    assert!(until <= issuer.not_after.seconds());

    let subject: Vec<(String, String)> = read
        .subject()
        .iter()
        .map(|one| {
            (
                one.oid.to_string(),
                String::from_utf8_lossy(one.value.value()).into_owned(),
            )
        })
        .collect();
    let named = |oid: &str, value: &str| (oid.to_owned(), value.to_owned());
    match profile {
        "mqtt-device" => assert_eq!(subject, [named("2.5.4.3", device_id)]),
        "line" => assert_eq!(subject, [named("2.5.4.3", "line-1")]),
        "ocsp-signing" => assert_eq!(subject, [named("2.5.4.3", "responder-1")]),
        _ => {
            let (last, before) = subject.split_last().expect("a serialNumber");
            assert_eq!(*last, named("2.5.4.5", device_id));
            let plain = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
            assert!(before.len() <= 1);
            assert!(before.iter().all(|(oid, value)| {
                oid == "2.5.4.11" && (1..=32).contains(&value.len()) && value.chars().all(plain)
            }));
        }
    }

    let usage: KeyUsage = extension(&read).expect("a keyUsage").1;
    assert!(usage.digital_signature() && !usage.key_cert_sign() && !usage.crl_sign());
    let constraints = extension::<BasicConstraints>(&read);
    assert!(constraints.is_none_or(|(_, found)| !found.ca));
    let (_, key_id) = extension::<AuthorityKeyIdentifier>(&read).expect("an AKI");
    assert_eq!(
        key_id.key_identifier.expect("a key id").as_bytes(),
        issuer.key_id
    );
    let purposes = extension::<ExtendedKeyUsage>(&read).map(|(_, found)| found.0);
    let purposes: Vec<String> = purposes
        .unwrap_or_default()
        .iter()
        .map(ToString::to_string)
        .collect();
    let expected: &[&str] = match profile {
        "idevid" => &[],
        "ocsp-signing" => &["1.3.6.1.5.5.7.3.9"],
        _ => &["1.3.6.1.5.5.7.3.2"],
    };
    assert_eq!(purposes, expected);
    let names = extension::<SubjectAltName>(&read)
        .map(|(_, found)| found.0)
        .unwrap_or_default();
    match (profile, names.as_slice()) {
        ("mqtt-device", [GeneralName::UniformResourceIdentifier(uri)]) => {
            assert_eq!(uri.as_str(), format!("https://device.internal/{device_id}"));
        }
        ("mqtt-device", _) => panic!("not the one name that the profile writes: {names:?}"),
        (_, names) => assert!(names.is_empty()),
    }
    let ids: Vec<_> = read
        .extensions()
        .into_iter()
        .flatten()
        .map(|found| found.extn_id)
        .collect();
    assert!((1..ids.len()).all(|at| !ids[..at].contains(&ids[at])));
}

/// The extension of this kind, which stands at most once.
fn extension<T>(read: &TbsCertificate) -> Option<(bool, T)>
where
    T: for<'a> der::Decode<'a> + der::oid::AssociatedOid,
{
    read.get_extension::<T>().ok().flatten()
}

/// A profile's file: a refusal names the file; what is accepted builds, or says why not.
pub fn profile(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let path = Path::new("/profiles/custom.toml");
    let profile = match Profile::from_text(path, text) {
        Ok(profile) => profile,
        Err(ProfileError::Value { key, problem, .. }) => {
            return assert!(!key.is_empty() && !problem.is_empty());
        }
        Err(refused) => return assert!(refused.to_string().contains("custom.toml")),
    };
    assert_eq!(profile.name(), "custom");
    let factory = factory();
    let subject = Name::from_str("CN=device-1").expect("a name");
    let csr = VerifiedCsr::own_key(subject, PublicKey::parse(&SPKI).expect("a key"));
    let grants = [
        unit(factory, "device-1").expect("the order names it"),
        Grant::act("operator", Purpose::Line(factory.line.clone())),
        Grant::act(
            "operator",
            Purpose::Server(vec!["api.example".into(), "192.0.2.1".into()]),
        ),
        Grant::act(
            "operator",
            Purpose::Responder("responder-1".parse().unwrap()),
        ),
    ];
    for grant in &grants {
        let serial = SerialNumber::from_random([0x5a; 16]);
        if let Ok(tbs) = profile.build(&csr, grant, &factory.issuer, serial, NOW) {
            let read = TbsCertificate::from_der(tbs.der()).expect("a TBSCertificate");
            assert_eq!(read.to_der().expect("what was read"), tbs.der());
            let constraints = extension::<BasicConstraints>(&read);
            assert!(constraints.is_none_or(|(_, found)| !found.ca));
        }
    }
}

/// A CA certificate that somebody installs: what is accepted may sign certificates, and by this key.
pub fn issuer_certificate(bytes: &[u8]) {
    let name: IssuerName = "device-1".parse().expect("a name");
    for algorithm in [
        SignatureAlgorithm::EcdsaSha256,
        SignatureAlgorithm::RsaPkcs1Sha256,
    ] {
        let Ok(facts) = IssuerFacts::from_certificate(name.clone(), bytes, algorithm) else {
            continue;
        };
        assert_eq!(facts.certificate, bytes);
        assert!(!facts.key_id.is_empty() && !facts.subject.is_empty());
        let read = x509_cert::Certificate::from_der(bytes).expect("a certificate");
        let tbs = read.tbs_certificate();
        assert_eq!(tbs.subject().to_der().expect("a name"), facts.subject);
        let (_, constraints) = extension::<BasicConstraints>(tbs).expect("basicConstraints");
        assert!(constraints.ca && constraints.path_len_constraint == facts.path_len);
        let (_, usage) = extension::<KeyUsage>(tbs).expect("a keyUsage");
        assert!(usage.key_cert_sign());
    }
}

/// Changes of the registry as the log's details hold them, a line each: applied where they are admitted.
pub fn registry(bytes: &[u8]) {
    let registry = Registry::default();
    for line in bytes.split(|octet| *octet == b'\n').take(64) {
        let Ok(change) = serde_json::from_slice::<Change>(line) else {
            continue;
        };
        let again = serde_json::to_vec(&change).expect("a change is JSON");
        assert_eq!(
            serde_json::from_slice::<Change>(&again).expect("it was written here"),
            change
        );
        if registry.admit(&change, CHANGED_AT).is_err() {
            continue;
        }
        registry.apply(&change);
        // What was added is there, and is not added twice.
        match &change {
            Change::LineAdded { line } => {
                assert!(
                    registry.line(line).is_some() && registry.admit(&change, CHANGED_AT).is_err()
                );
            }
            Change::LineCertified {
                line, certificate, ..
            } => {
                assert_eq!(registry.line_of(certificate.serial).as_ref(), Some(line));
                assert!(registry.admit(&change, CHANGED_AT).is_err());
            }
            Change::OrderOpened { terms } => {
                assert!(
                    registry.order(&terms.order).is_some()
                        && registry.admit(&change, CHANGED_AT).is_err()
                );
            }
            Change::LineDecertified { serial, .. } => {
                assert_eq!(registry.line_of(*serial), None);
            }
            // Here no unit is ever held, so that none can be given back.
            Change::UnitsReturned { .. } => unreachable!("more units than are held"),
            Change::ResponderApproved { responder, .. } => {
                assert!(
                    registry.responder(responder).is_some()
                        && registry.admit(&change, CHANGED_AT).is_err()
                );
            }
            Change::ResponderRevoked { responder } => {
                assert_eq!(registry.responder(responder), None);
            }
            Change::ReaderCertified {
                reader,
                certificate,
            } => {
                assert_eq!(
                    registry.reader_of(certificate.serial).as_ref(),
                    Some(reader)
                );
                assert!(registry.admit(&change, CHANGED_AT).is_err());
            }
            Change::ReaderDecertified { serial, .. } => {
                assert_eq!(registry.reader_of(*serial), None);
                assert!(registry.decertified(*serial).is_some());
            }
            Change::LineSet { .. } | Change::OrderSet { .. } | Change::ReaderSet { .. } => {}
        }
    }
    if let Ok(line) = registry.authenticate(Some(&[0]), NOW) {
        for order in registry.orders() {
            let _ = registry.grant(&line, &order.terms.order, "device-1", NOW);
        }
    }
}
