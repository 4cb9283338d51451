//! A CA whose keys are software, so that tests can have certificates signed and shown to OpenSSL.

use std::path::PathBuf;
use std::str::FromStr;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use certstatus::log::IssuerName;
use certstatus::signature::{PublicKey, SignatureAlgorithm, assemble};
use certstatus::{SerialNumber, UnixMillis};
use x509_cert::name::Name;

use crate::csr::VerifiedCsr;
use crate::csr::samples::{DeviceKey, common_name};
use crate::profile::{CaSigner, CaSpec, IssuerFacts, Profile, Tbs, Validity, build_ca};
use crate::ra::{Grant, GrantKind, Purpose};

/// The time in these tests: 2026-01-01T00:00:00Z and a half.
pub const NOW: UnixMillis = UnixMillis(1_767_225_600_500);
/// What ECDSA P-256 keys sign with.
pub const ALGORITHM: SignatureAlgorithm = SignatureAlgorithm::EcdsaSha256;

/// A root and an issuer below it.
pub struct Ca {
    /// The root.
    pub root: IssuerFacts,
    /// The issuer's key.
    pub key: DeviceKey,
    /// The issuer.
    pub facts: IssuerFacts,
}

/// A random serial.
pub fn serial() -> SerialNumber {
    let mut octets = [0; 16];
    SystemRandom::new().fill(&mut octets).unwrap();
    SerialNumber::from_random(octets)
}

/// A name in the log.
pub fn issuer_name(text: &str) -> IssuerName {
    text.parse().unwrap()
}

/// The certificate of a TBS, signed.
pub fn signed(tbs: &Tbs, key: &DeviceKey) -> Vec<u8> {
    let signature = key.sign(&tbs.der);
    assemble(&tbs.der, tbs.algorithm, &signature)
}

/// A CA certificate's specification.
pub fn ca_spec(subject: &str, validity: Validity, path_len: Option<u8>) -> CaSpec {
    CaSpec {
        subject: match subject {
            "" => Name::default(),
            _ => Name::from_str(subject).unwrap(),
        },
        validity,
        path_len,
    }
}

impl Ca {
    /// One that never ends, for tests that need many certificates.
    pub fn shared() -> &'static Self {
        static CA: std::sync::OnceLock<Ca> = std::sync::OnceLock::new();
        CA.get_or_init(|| Self::new(Validity::Forever))
    }

    /// A root that never ends and an issuer with this validity.
    pub fn new(validity: Validity) -> Self {
        let root_key = DeviceKey::new();
        let public = PublicKey::parse(&root_key.spki()).unwrap();
        let name = issuer_name("root");
        let itself = CaSigner::Itself {
            name: &name,
            algorithm: ALGORITHM,
        };
        let spec = ca_spec("CN=Device Root,O=Example Works", Validity::Forever, Some(1));
        let tbs = build_ca(&spec, &public, itself, serial(), NOW).unwrap();
        let certificate = signed(&tbs, &root_key);
        let root = IssuerFacts::from_certificate(name.clone(), &certificate, ALGORITHM).unwrap();

        let key = DeviceKey::new();
        let public = PublicKey::parse(&key.spki()).unwrap();
        let spec = ca_spec("CN=Device Issuer 1,O=Example Works", validity, Some(0));
        let tbs = build_ca(&spec, &public, CaSigner::Parent(&root), serial(), NOW).unwrap();
        let certificate = signed(&tbs, &root_key);
        let name = issuer_name("devices");
        let mut facts = IssuerFacts::from_certificate(name, &certificate, ALGORITHM).unwrap();
        facts.crl_url = Some("http://pki.example/crl/devices.crl".to_owned());
        facts.ocsp_url = Some("http://pki.example/ocsp".to_owned());
        facts.ca_url = Some("http://pki.example/ca/devices.cer".to_owned());
        Self { root, key, facts }
    }
}

/// Where the built-in profiles stand.
pub fn profiles() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("profiles")
}

/// A built-in profile.
pub fn built_in(name: &str) -> Profile {
    Profile::load(&profiles().join(format!("{name}.toml"))).unwrap()
}

/// A profile from text.
pub fn from_text(text: &str) -> Profile {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("test.toml");
    std::fs::write(&path, text).unwrap();
    Profile::load(&path).unwrap()
}

/// A unit of the order `o-1` for the line `l-1`.
pub fn unit(device_id: &str) -> Grant {
    Grant(GrantKind::Unit {
        order: "o-1".parse().unwrap(),
        line: "l-1".parse().unwrap(),
        certificate: SerialNumber::from_random([7; 16]),
        device_id: device_id.to_owned(),
    })
}

/// A grant for each built-in profile, with the subject of a request that fits.
pub fn grant_for(profile: &str) -> (Grant, Vec<u8>) {
    match profile {
        "mqtt-device" => (unit("dev-0001"), common_name("dev-0001")),
        "idevid" => (unit("dev-0001"), vec![0x30, 0]),
        "line" => (
            Grant::act("shift-lead", Purpose::Line("l-1".parse().unwrap())),
            common_name("l-1"),
        ),
        "tls-server" => (
            Grant::act(
                "appliance",
                Purpose::Server(vec![
                    "ca.example".to_owned(),
                    "192.0.2.1".to_owned(),
                    "::1".to_owned(),
                ]),
            ),
            common_name("ca.example"),
        ),
        "ocsp-signing" => (
            Grant::act(
                "shift-lead",
                Purpose::Responder("responder-1".parse().unwrap()),
            ),
            common_name("responder-1"),
        ),
        other => panic!("no grant for {other}"),
    }
}

/// The built-in profiles.
pub const BUILT_IN: [&str; 5] = [
    "mqtt-device",
    "idevid",
    "line",
    "tls-server",
    "ocsp-signing",
];

/// A request for a key that is not proved here.
pub fn unproved(subject: &[u8], spki: &[u8]) -> VerifiedCsr {
    let subject = der::Decode::from_der(subject).unwrap();
    VerifiedCsr::own_key(subject, PublicKey::parse(spki).unwrap())
}
