//! What a profile does not name is refused, whatever the request holds.

use certstatus::signature::tlv;
use der::{Encode, Tag};
use proptest::prelude::*;
use x509_cert::ext::pkix::name::GeneralName;

use super::software_ca::*;
use crate::csr::samples::{DeviceKey, attribute, common_name, extension, name, oid};
use crate::profile::{BuildRefused, Profile, Validity, lint};
use crate::ra::{Grant, GrantKind, Purpose};

/// The tag and OID of a subject attribute, and its text.
type Given<'a> = (&'a str, Tag, &'a str);

/// A profile with a rule of every sort.
const EVERYTHING: &str = r#"
version = 1
purpose = "device"
[key]
allowed = ["P-256"]
[validity]
for = "90d"
[[subject]]
attribute = "C"
value = "DE"
[[subject]]
attribute = "O"
value = "Example Works"
[[subject]]
attribute = "OU"
value = "{order}"
[[subject]]
attribute = "L"
value = "{line}"
[[subject]]
attribute = "title"
from_request = "optional"
max_chars = 8
pattern = "[A-Z]+"
[[subject]]
attribute = "serialNumber"
from_request = "required"
pattern = "[0-9]{4}"
[[subject]]
attribute = "CN"
value = "{device_id}"
in_request = "required"
[[san]]
type = "uri"
value = "urn:dev:id:{device_id}"
[[san]]
type = "dns"
from_request = "optional"
max_count = 2
max_chars = 30
pattern = '[a-z0-9-]+\.plant\.example'
[[san]]
type = "ip"
from_request = "optional"
pattern = '10\..*'
[usage]
key_usage = ["digitalSignature", "keyAgreement"]
extended_key_usage = ["clientAuth", "serverAuth"]
"#;

/// The subject that [`EVERYTHING`] takes, but for what is replaced or added.
const SUBJECT: [Given<'_>; 2] = [
    ("2.5.4.5", Tag::PrintableString, "0042"),
    ("2.5.4.3", Tag::Utf8String, "dev-0001"),
];

/// The subjectAltName extension with these names.
fn san(names: &[Vec<u8>]) -> Vec<u8> {
    let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
    extension("2.5.29.17", &tlv::wrap(tlv::SEQUENCE, &names))
}

/// A dNSName.
fn dns(text: &str) -> Vec<u8> {
    tlv::wrap(0x82, &[text.as_bytes()])
}

/// A URI.
fn uri(text: &str) -> Vec<u8> {
    tlv::wrap(0x86, &[text.as_bytes()])
}

/// An IP address.
fn ip(octets: &[u8]) -> Vec<u8> {
    tlv::wrap(0x87, &[octets])
}

/// What a request of these parts meets: the refused field and rule, or nothing.
fn refusal(
    profile: &Profile,
    ca: &Ca,
    subject: &[u8],
    extensions: &[Vec<u8>],
) -> Option<(String, String)> {
    let csr = DeviceKey::new().verified(subject, extensions);
    match profile.build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW) {
        Ok(_) => None,
        Err(BuildRefused::Request { field, rule }) => Some((field, rule)),
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_violation_in_every_field_is_refused_by_its_name() {
    let ca = Ca::new(Validity::Forever);
    let profile = from_text(EVERYTHING);
    let check = |subject: &[Given<'_>], extensions: &[Vec<u8>], field: &str| {
        let refused = refusal(&profile, &ca, &name(subject), extensions);
        let refused = refused.map(|(field, _)| field);
        assert_eq!(
            refused.as_deref().unwrap_or("nothing"),
            field,
            "{subject:?} {extensions:02x?}"
        );
    };
    let with = |more: Given<'static>| [SUBJECT[0], SUBJECT[1], more];
    check(&SUBJECT, &[], "nothing");
    let utf8 = |oid, text| (oid, Tag::Utf8String, text);
    // Each rule of the subject.
    check(
        &with(("2.5.4.6", Tag::PrintableString, "FR")),
        &[],
        "subject C",
    );
    check(
        &with(("2.5.4.6", Tag::PrintableString, "DE")),
        &[],
        "nothing",
    );
    check(&with(utf8("2.5.4.10", "Other")), &[], "subject O");
    check(&with(utf8("2.5.4.10", "Example Works")), &[], "nothing");
    check(&with(utf8("2.5.4.11", "o-2")), &[], "subject OU");
    check(&with(utf8("2.5.4.11", "o-1")), &[], "nothing");
    check(&with(utf8("2.5.4.7", "l-2")), &[], "subject L");
    check(&with(utf8("2.5.4.7", "l-1")), &[], "nothing");
    check(&with(utf8("2.5.4.12", "ENGINE")), &[], "nothing");
    check(&with(utf8("2.5.4.12", "engine")), &[], "subject title");
    check(
        &with(utf8("2.5.4.12", "ENGINEENGINE")),
        &[],
        "subject title",
    );
    check(&with(utf8("2.5.4.12", "")), &[], "subject title");
    check(
        &with(("2.5.4.12", Tag::TeletexString, "ENGINE")),
        &[],
        "subject title",
    );
    check(&with(SUBJECT[0]), &[], "subject serialNumber");
    check(&with(SUBJECT[1]), &[], "subject CN");
    check(&SUBJECT[1..], &[], "subject serialNumber");
    check(&SUBJECT[..1], &[], "subject CN");
    check(
        &[utf8("2.5.4.5", "42"), SUBJECT[1]],
        &[],
        "subject serialNumber",
    );
    check(
        &[SUBJECT[0], utf8("2.5.4.3", "DEV-0001")],
        &[],
        "subject CN",
    );
    // Attributes without a rule, known and unknown.
    check(&with(utf8("2.5.4.8", "x")), &[], "subject ST");
    check(&with(utf8("2.5.4.4", "x")), &[], "subject 2.5.4.4");
    check(
        &with(("1.2.840.113549.1.9.1", Tag::Ia5String, "a@b")),
        &[],
        "subject 1.2.840.113549.1.9.1",
    );

    let check = |extensions: &[Vec<u8>], field: &str| check(&SUBJECT, extensions, field);
    // Alternative names.
    check(&[san(&[uri("urn:dev:id:dev-0001")])], "nothing");
    check(&[san(&[uri("urn:dev:id:dev-0002")])], "subjectAltName uri");
    check(
        &[san(&[dns("a.plant.example"), ip(&[10, 0, 0, 1])])],
        "nothing",
    );
    check(&[san(&[dns("a.plant.example.org")])], "subjectAltName dns");
    check(&[san(&[dns("*.plant.example")])], "subjectAltName dns");
    check(&[san(&[dns("-.plant.example")])], "subjectAltName dns");
    check(
        &[san(&[dns(&format!("{}.plant.example", "a".repeat(20)))])],
        "subjectAltName dns",
    );
    let three = ["a", "b", "c"].map(|host| dns(&format!("{host}.plant.example")));
    check(&[san(&three)], "subjectAltName dns");
    check(
        &[san(&[dns("a.plant.example"), dns("a.plant.example")])],
        "subjectAltName dns",
    );
    check(&[san(&[ip(&[192, 0, 2, 1])])], "subjectAltName ip");
    check(&[san(&[ip(&[10, 0, 1])])], "subjectAltName ip");
    check(
        &[san(&[ip(&[10, 0, 0, 0, 255, 0, 0, 0])])],
        "subjectAltName ip",
    );
    check(
        &[san(&[tlv::wrap(0x81, &[b"a@b.example"])])],
        "subjectAltName email",
    );
    let directory = tlv::wrap(0xa4, &[&common_name("dev-0001")]);
    check(&[san(&[directory])], "subjectAltName directoryName");
    let other = tlv::wrap(0xa0, &[&oid("1.2.3"), &[0xa0, 2, 5, 0]]);
    check(&[san(&[other])], "subjectAltName otherName");
    check(
        &[san(&[tlv::wrap(0x88, &[&[0x2a, 3]])])],
        "subjectAltName registeredID",
    );
    check(&[san(&[])], "subjectAltName");
    // Usages.
    let usage = |bits: &[u8]| extension("2.5.29.15", &tlv::wrap(tlv::BIT_STRING, &[bits]));
    check(&[usage(&[7, 0x80])], "nothing");
    check(&[usage(&[3, 0x88])], "nothing");
    check(&[usage(&[5, 0xa0])], "keyUsage");
    check(&[usage(&[2, 0x04])], "keyUsage");
    check(&[extension("2.5.29.15", &[5, 0])], "keyUsage");
    let extended =
        |dotted: &str| extension("2.5.29.37", &tlv::wrap(tlv::SEQUENCE, &[&oid(dotted)]));
    check(&[extended("1.3.6.1.5.5.7.3.2")], "nothing");
    check(&[extended("1.3.6.1.5.5.7.3.9")], "extendedKeyUsage");
    check(&[extended("2.5.29.37.0")], "extendedKeyUsage");
    check(&[extension("2.5.29.37", &[5, 0])], "extendedKeyUsage");
    check(&[extension("2.5.29.19", &[0x30, 0])], "nothing");
    check(
        &[extension("2.5.29.19", &[0x30, 3, 1, 1, 0xff])],
        "basicConstraints",
    );
    check(&[extension("2.5.29.19", &[5, 0])], "basicConstraints");
    // Everything else that a certificate can have.
    for dotted in [
        "2.5.29.32",
        "2.5.29.31",
        "2.5.29.35",
        "2.5.29.30",
        "1.3.6.1.5.5.7.1.1",
        "1.3.6.1.5.5.7.48.1.5",
        "1.3.6.1.5.5.7.1.24",
        "1.2.3.4",
    ] {
        check(
            &[extension(dotted, &[5, 0])],
            &format!("extension {dotted}"),
        );
    }
    check(
        &[extension("2.5.29.14", &[4, 2, 1, 2])],
        "subjectKeyIdentifier",
    );
}

#[test]
fn other_keys_are_refused() {
    let ca = Ca::new(Validity::Forever);
    let openssl = crate::csr::samples::OpenSsl::new();
    let der = openssl.request("-algorithm ED25519", "-subj /serialNumber=0042/CN=dev-0001");
    let csr = crate::csr::Csr::parse(&der).unwrap().verify().unwrap();
    let refused = from_text(EVERYTHING).build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    assert!(matches!(refused, Err(BuildRefused::Request { field, .. }) if field == "public key"));
}

#[test]
fn the_key_identifier_that_openssl_asks_for_is_the_one_it_gets() {
    let ca = Ca::new(Validity::Forever);
    let openssl = crate::csr::samples::OpenSsl::new();
    let der = openssl.request(
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        "-subj /CN=dev-0001 -addext subjectKeyIdentifier=hash -addext basicConstraints=CA:FALSE \
         -addext keyUsage=digitalSignature -addext extendedKeyUsage=clientAuth",
    );
    let csr = crate::csr::Csr::parse(&der).unwrap().verify().unwrap();
    assert_eq!(csr.extensions().len(), 4);
    let built = built_in("mqtt-device").build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    assert!(built.is_ok(), "{built:?}");
}

#[test]
fn several_attributes_in_one_rdn_are_refused() {
    let pair = |dotted: &str, text: &str| {
        let value = tlv::wrap(tlv::UTF8_STRING, &[text.as_bytes()]);
        tlv::wrap(tlv::SEQUENCE, &[&oid(dotted), &value])
    };
    let (first, second) = (pair("2.5.4.3", "dev-0001"), pair("2.5.4.5", "0042"));
    // In DER the shorter comes first.
    let rdn = tlv::wrap(tlv::SET, &[&second, &first]);
    let subject = tlv::wrap(tlv::SEQUENCE, &[&rdn]);
    let ca = Ca::new(Validity::Forever);
    let refused = refusal(&from_text(EVERYTHING), &ca, &subject, &[]);
    assert_eq!(refused.unwrap().0, "subject");
}

#[test]
fn a_device_id_must_fit_where_it_is_put() {
    let ca = Ca::new(Validity::Forever);
    for (id, field) in [
        ("a b", "subjectAltName uri"),
        ("é", "subjectAltName uri"),
        (&"x".repeat(65), "subject CN"),
    ] {
        let csr = DeviceKey::new().verified(&common_name(id), &[]);
        let refused = built_in("mqtt-device").build(&csr, &unit(id), &ca.facts, serial(), NOW);
        assert!(
            matches!(&refused, Err(BuildRefused::Request { field: f, .. }) if f == field),
            "{refused:?}"
        );
    }
}

#[test]
fn a_grant_meets_only_profiles_for_its_purpose() {
    let ca = Ca::new(Validity::Forever);
    let renewal = Grant(GrantKind::LineRenewal {
        line: "l-1".parse().unwrap(),
        certificate: serial(),
    });
    let other_acts = [
        Purpose::Ca(issuer_name("x")),
        Purpose::Crl(issuer_name("x")),
        Purpose::SelfTest(issuer_name("x")),
    ]
    .map(|purpose| (Grant::act("shift-lead", purpose), vec![0x30, 0], "none"));
    let grants = BUILT_IN
        .map(|name| {
            let (grant, subject) = grant_for(name);
            (grant, subject, name)
        })
        .into_iter()
        .chain([(renewal, common_name("l-1"), "line")])
        .chain(other_acts);
    for (grant, subject, own) in grants {
        let csr = unproved(&subject, &DeviceKey::new().spki());
        for name in BUILT_IN {
            let built = built_in(name).build(&csr, &grant, &ca.facts, serial(), NOW);
            let both_devices =
                grant.device_id().is_some() && ["mqtt-device", "idevid"].contains(&name);
            if name == own {
                assert!(built.is_ok(), "{name}: {built:?}");
            } else if !both_devices {
                let Err(BuildRefused::Lint { rule, .. }) = built else {
                    panic!("a grant for {own} met {name}: {built:?}")
                };
                assert!(rule.contains("purpose"), "{rule}");
            }
        }
    }
}

//------ Random requests ----------------------------------------------------

/// A subject attribute that may or may not pass.
fn any_attribute() -> impl Strategy<Value = (&'static str, Tag, String)> {
    let oids = prop::sample::select(vec![
        "2.5.4.3",
        "2.5.4.5",
        "2.5.4.6",
        "2.5.4.7",
        "2.5.4.8",
        "2.5.4.10",
        "2.5.4.11",
        "2.5.4.12",
        "2.5.4.4",
        "0.9.2342.19200300.100.1.25",
    ]);
    let tags = prop::sample::select(vec![
        Tag::Utf8String,
        Tag::PrintableString,
        Tag::Ia5String,
        Tag::TeletexString,
        Tag::BmpString,
    ]);
    let texts = prop_oneof![
        Just("dev-0001".to_owned()),
        Just("o-1".to_owned()),
        Just("l-1".to_owned()),
        Just("DE".to_owned()),
        Just("Example Works".to_owned()),
        "[0-9]{4}",
        "[A-Z]{0,10}",
        ".{0,70}",
    ];
    (oids, tags, texts)
}

/// An alternative name that may or may not pass.
fn any_alt_name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(uri("urn:dev:id:dev-0001")),
        "[a-z]{1,3}\\.plant\\.example".prop_map(|t| dns(&t)),
        "[ -~]{0,40}".prop_map(|t| dns(&t)),
        "[ -~]{0,40}".prop_map(|t| uri(&t)),
        "[ -~]{0,40}".prop_map(|t| tlv::wrap(0x81, &[t.as_bytes()])),
        prop::array::uniform4(any::<u8>()).prop_map(|o| ip(&o)),
        (any::<u8>(), any::<u8>()).prop_map(|(a, b)| ip(&[10, 0, a, b])),
        prop::collection::vec(any::<u8>(), 0..18).prop_map(|o| ip(&o)),
        Just(tlv::wrap(0xa4, &[&common_name("x")])),
        Just(tlv::wrap(
            0xa0,
            &[&oid("1.3.6.1.5.5.7.8.4"), &[0xa0, 2, 5, 0]]
        )),
    ]
}

/// An extension that may or may not pass.
fn any_extension() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any_alt_name(), 0..5).prop_map(|names| san(&names)),
        (0..8u8, any::<u8>()).prop_map(|(unused, bits)| {
            let bits = bits >> unused << unused;
            extension("2.5.29.15", &tlv::wrap(tlv::BIT_STRING, &[&[unused, bits]]))
        }),
        (1..10u8).prop_map(|n| {
            let usage = oid(&format!("1.3.6.1.5.5.7.3.{n}"));
            extension("2.5.29.37", &tlv::wrap(tlv::SEQUENCE, &[&usage]))
        }),
        Just(extension("2.5.29.19", &[0x30, 0])),
        Just(extension("2.5.29.19", &[0x30, 3, 1, 1, 0xff])),
        (1..60u8, prop::collection::vec(any::<u8>(), 0..20))
            .prop_map(|(n, value)| extension(&format!("2.5.29.{n}"), &value)),
    ]
}

/// Holds a certificate against [`EVERYTHING`], spelt out here without any of the profile's code.
fn obeys(tbs: &crate::profile::Tbs, ca: &Ca) {
    let read = lint::end_entity(tbs, &ca.facts.subject, &ca.facts.key_id).unwrap();
    let subject: Vec<(String, String)> = read
        .tbs
        .subject()
        .iter()
        .map(|a| {
            (
                a.oid.to_string(),
                String::from_utf8(a.value.value().to_vec()).unwrap(),
            )
        })
        .collect();
    let get = |oid: &str| {
        let mut all = subject
            .iter()
            .filter(|(o, _)| o == oid)
            .map(|(_, v)| v.as_str());
        let first = all.next();
        assert_eq!(all.next(), None);
        first
    };
    assert_eq!(get("2.5.4.3"), Some("dev-0001"));
    assert_eq!(get("2.5.4.6"), Some("DE"));
    assert_eq!(get("2.5.4.10"), Some("Example Works"));
    assert_eq!(get("2.5.4.11"), Some("o-1"));
    assert_eq!(get("2.5.4.7"), Some("l-1"));
    let number = get("2.5.4.5").unwrap();
    assert!(
        number.len() == 4 && number.bytes().all(|c| c.is_ascii_digit()),
        "{number}"
    );
    let title = get("2.5.4.12");
    if let Some(title) = title {
        assert!((1..=8).contains(&title.len()) && title.bytes().all(|c| c.is_ascii_uppercase()));
    }
    assert_eq!(subject.len(), 6 + usize::from(title.is_some()));
    let (mut uris, mut hosts, mut addresses) = (0, 0, 0);
    for name in &read.alt_names.unwrap().value {
        match name {
            GeneralName::UniformResourceIdentifier(text) => {
                assert_eq!(text.as_str(), "urn:dev:id:dev-0001");
                uris += 1;
            }
            GeneralName::DnsName(text) => {
                let host = text.as_str().strip_suffix(".plant.example").unwrap();
                assert!(
                    host.bytes()
                        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
                );
                hosts += 1;
            }
            GeneralName::IpAddress(octets) => {
                assert_eq!((octets.as_bytes().len(), octets.as_bytes()[0]), (4, 10));
                addresses += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(uris == 1 && hosts <= 2 && addresses <= 1);
    assert_eq!(read.key_usage.unwrap().value.len(), 2);
    assert_eq!(read.extended.unwrap().value.len(), 2);
    assert!(!read.constraints.unwrap().value.ca);
}

thread_local! {
    /// [`EVERYTHING`], read once.
    static PROFILE: std::rc::Rc<Profile> = std::rc::Rc::new(from_text(EVERYTHING));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_is_asked_for_the_certificate_obeys_the_profile(
        mut more in prop::collection::vec(any_attribute(), 0..3),
        usual in prop::bool::weighted(0.8),
        extensions in prop::collection::vec(any_extension(), 0..3),
    ) {
        let ca = Ca::shared();
        let profile = PROFILE.with(Clone::clone);
        if usual {
            let usual = SUBJECT.iter().map(|(o, t, v)| (*o, *t, (*v).to_owned()));
            more.splice(0..0, usual);
        }
        let subject: Vec<Given<'_>> = more.iter().map(|(o, t, v)| (*o, *t, v.as_str())).collect();
        let key = DeviceKey::new();
        let mut parts = key.parts(&name(&subject));
        if !extensions.is_empty() {
            parts.attributes.push(crate::csr::samples::extension_request(&extensions));
        }
        // Duplicates and broken names end here; the rest is proved.
        if let Ok(csr) = crate::csr::Csr::parse(&key.request(&parts)) {
            let csr = csr.verify().unwrap();
            match profile.build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW) {
                Ok(tbs) => obeys(&tbs, ca),
                Err(BuildRefused::Request { field, rule }) => {
                    prop_assert!(!field.is_empty() && !rule.is_empty());
                }
                Err(lint) => prop_assert!(false, "a request reached the lint: {lint}"),
            }
        }
    }

    #[test]
    fn whatever_the_device_id_is_the_certificate_names_it_alone(id in "[ -~é]{1,70}") {
        let ca = Ca::shared();
        let csr = DeviceKey::new().verified(&common_name(&id), &[]);
        if let Ok(tbs) = built_in("mqtt-device").build(&csr, &unit(&id), &ca.facts, serial(), NOW) {
            let read = lint::end_entity(&tbs, &ca.facts.subject, &ca.facts.key_id).unwrap();
            prop_assert_eq!(read.tbs.subject().to_der().unwrap(), common_name(&id));
            prop_assert_eq!(read.alt_names.unwrap().value.len(), 1);
        }
    }
}

#[test]
fn a_challenge_password_changes_nothing() {
    let key = DeviceKey::new();
    let mut parts = key.parts(&common_name("dev-0001"));
    let plain = crate::csr::Csr::parse(&key.request(&parts))
        .unwrap()
        .verify()
        .unwrap();
    let password = [&[0x13, 6][..], b"secret"].concat();
    parts
        .attributes
        .push(attribute("1.2.840.113549.1.9.7", &[&password]));
    let with = crate::csr::Csr::parse(&key.request(&parts))
        .unwrap()
        .verify()
        .unwrap();
    assert_eq!(plain.requested("dev-0001"), with.requested("dev-0001"));
}
