//! CRLs under the eyes of OpenSSL, read back, damaged, and at their limits.

use super::*;
use crate::signature::openssl::OpenSsl;
use crate::signature::{PublicKey, assemble, split, tlv};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use der::{Decode, Encode};
use proptest::prelude::*;
use std::time::Duration;
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectKeyIdentifier;

/// The anchor of the tests.
const ANCHOR: LogAnchor<'_> = LogAnchor {
    origin: "log.example/site",
    log_key: "log.example/site+5d1ea3d6+AQ",
    checkpoint: "log.example/site\n7\nAAAA\n\n\u{2014} log.example/site AAAA\n",
};

/// A Name: CN=test.
const NAME: &[u8] = &[
    0x30, 15, 0x31, 13, 0x30, 11, 0x06, 3, 0x55, 4, 3, 0x0c, 4, b't', b'e', b's', b't',
];

/// Fields that name no certificate.
fn fields() -> CrlFields<'static> {
    CrlFields {
        issuer: NAME,
        authority_key_id: &[0xab; 20],
        algorithm: SignatureAlgorithm::EcdsaSha256,
        number: 7,
        this_update: UnixMillis::from_seconds(1_700_000_000),
        next_update: UnixMillis::from_seconds(1_800_000_000),
        scope: Scope::UserCertificates,
        expired_since: None,
        anchor: ANCHOR,
    }
}

/// A serial that this number tells from others.
fn serial(number: u32) -> SerialNumber {
    let mut octets = [0x5a; 16];
    octets[12..].copy_from_slice(&number.to_be_bytes());
    SerialNumber::from_random(octets)
}

/// An entry of 2023.
fn entry(number: u32, reason: Option<u8>) -> RevokedEntry {
    let revoked_at = UnixMillis::from_seconds(1_690_000_000 + u64::from(number));
    RevokedEntry {
        serial: serial(number),
        revoked_at,
        reason,
    }
}

/// A CRL with a signature that nobody checks.
fn unsigned(fields: &CrlFields<'_>, revoked: &[RevokedEntry]) -> Vec<u8> {
    assemble(
        TbsCrl::encode(fields, revoked).der(),
        fields.algorithm,
        &[0x77; 70],
    )
}

/// A CA made by OpenSSL, signing with aws-lc-rs.
struct Authority {
    openssl: OpenSsl,
    certificate: Certificate,
    key: EcdsaKeyPair,
}

impl Authority {
    /// An issuer below a root, so that its authority key identifier is not its own.
    fn new() -> Self {
        let openssl = OpenSsl::new();
        openssl.key("root", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        openssl.key("ca", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
        openssl.write(
            "ca.ext",
            b"basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n\
              subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n",
        );
        openssl.run("req -x509 -new -key root.pem -subj /CN=root -days 30 -addext keyUsage=keyCertSign -out root.crt");
        openssl.run("req -new -key ca.pem -subj /O=Example/CN=issuer -out ca.csr");
        openssl.run(
            "x509 -req -in ca.csr -CA root.crt -CAkey root.pem -extfile ca.ext -days 30 -out ca.crt",
        );
        let der = openssl.run("x509 -in ca.crt -outform DER");
        let pkcs8 = openssl.run("pkcs8 -topk8 -nocrypt -in ca.pem -outform DER");
        Self {
            openssl,
            certificate: Certificate::from_der(&der).unwrap(),
            key: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap(),
        }
    }

    /// The issuer's Name and subject key identifier.
    fn identity(&self) -> (Vec<u8>, Vec<u8>) {
        let tbs = self.certificate.tbs_certificate();
        let (_, ski) = tbs
            .get_extension::<SubjectKeyIdentifier>()
            .unwrap()
            .unwrap();
        (tbs.subject().to_der().unwrap(), ski.0.as_bytes().to_vec())
    }

    /// When its certificate was made: a moment ago, by OpenSSL's clock.
    fn born(&self) -> UnixMillis {
        let not_before = self.certificate.tbs_certificate().validity().not_before;
        UnixMillis::from_seconds(not_before.to_unix_duration().as_secs())
    }

    /// A device certificate `NAME.crt` with this serial.
    fn device(&self, name: &str, serial: SerialNumber) {
        let options = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        self.openssl.key(name, options);
        self.openssl.run(&format!(
            "req -new -key {name}.pem -subj /CN={name} -out {name}.csr"
        ));
        self.openssl.write(
            "device.ext",
            b"authorityKeyIdentifier=keyid\nkeyUsage=digitalSignature\n",
        );
        self.openssl.run(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.pem -set_serial 0x{serial} \
             -extfile device.ext -days 30 -out {name}.crt"
        ));
    }

    /// Signs a list and writes `list.crl` in PEM.
    fn publish(&self, tbs: &TbsCrl) -> Vec<u8> {
        let signature = self.key.sign(&SystemRandom::new(), tbs.der()).unwrap();
        let der = assemble(
            tbs.der(),
            SignatureAlgorithm::EcdsaSha256,
            signature.as_ref(),
        );
        self.openssl.write("list.der", &der);
        self.openssl
            .run("crl -inform DER -in list.der -out list.crl");
        der
    }

    /// What `openssl verify` says of a device certificate with the published list.
    fn verdict(&self, name: &str) -> String {
        let line = "verify -x509_strict -crl_check -CAfile root.crt -untrusted ca.crt";
        self.openssl
            .ask(&format!("{line} -CRLfile list.crl {name}.crt"))
            .text
    }
}

#[test]
fn openssl_reads_the_list_and_obeys_it() {
    let authority = Authority::new();
    let (issuer, authority_key_id) = authority.identity();
    authority.device("good", serial(1));
    authority.device("bad", serial(2));
    for scope in [Scope::UserCertificates, Scope::Everything] {
        let fields = CrlFields {
            issuer: &issuer,
            authority_key_id: &authority_key_id,
            number: u64::MAX,
            this_update: authority.born(),
            next_update: authority.born().saturating_add(Duration::from_secs(86_400)),
            scope: scope.clone(),
            ..fields()
        };
        let der = authority.publish(&TbsCrl::encode(
            &fields,
            &[entry(2, Some(1)), entry(3, None)],
        ));
        let said = authority
            .openssl
            .ask("crl -in list.crl -noout -text -CAfile ca.crt");
        for text in [
            "verify OK",
            "Version 2 (0x1)",
            "Signature Algorithm: ecdsa-with-SHA256",
            "Issuer: O = Example, CN = issuer",
            "X509v3 CRL Number: \n                18446744073709551615",
            &serial(2).to_string().to_uppercase(),
            "X509v3 CRL Reason Code: \n                Key Compromise",
            &serial(3).to_string().to_uppercase(),
            "1.2.840.113556.1.8000.2554.45864.3357.32055.18580.40992.12208346.13479745",
        ] {
            assert!(said.text.contains(text), "{text}: {}", said.text);
        }
        assert_eq!(said.text.matches("CRL Reason Code").count(), 1);
        let critical = "X509v3 Issuing Distribution Point: critical\n                \
                        Only User Certificates";
        assert_eq!(
            said.text.contains(critical),
            scope == Scope::UserCertificates
        );
        assert!(
            authority.verdict("good").contains("good.crt: OK"),
            "{}",
            authority.verdict("good")
        );
        assert!(authority.verdict("bad").contains("certificate revoked"));
        let parsed = parse(&der).unwrap();
        assert_eq!(
            (parsed.issuer, parsed.authority_key_id),
            (issuer.clone(), authority_key_id.clone())
        );
        assert_eq!((parsed.number, parsed.scope), (u64::MAX, scope));
    }
}

#[test]
fn a_changed_list_or_another_issuer_is_refused_by_openssl_and_by_us() {
    let authority = Authority::new();
    let (issuer, authority_key_id) = authority.identity();
    let fields = CrlFields {
        issuer: &issuer,
        authority_key_id: &authority_key_id,
        ..fields()
    };
    let der = authority.publish(&TbsCrl::encode(&fields, &[entry(2, Some(1))]));
    let spki = authority
        .openssl
        .run("pkey -in ca.pem -pubout -outform DER");
    let key = PublicKey::parse(&spki).unwrap();
    let (tbs, algorithm, signature) = split(&der).unwrap();
    assert_eq!(key.verify(algorithm, tbs, signature), Ok(()));
    let mut changed = der.clone();
    let reason = der.windows(3).position(|w| w == [0x0a, 1, 1]).unwrap();
    changed[reason + 2] = 3;
    let (tbs, algorithm, signature) = split(&changed).unwrap();
    assert!(key.verify(algorithm, tbs, signature).is_err());
    authority.openssl.write("changed.der", &changed);
    let said = authority
        .openssl
        .ask("crl -inform DER -in changed.der -noout -CAfile ca.crt");
    assert!(said.text.contains("verify failure"), "{}", said.text);
    let other = CrlFields {
        authority_key_id: &[1; 20],
        ..fields
    };
    authority.publish(&TbsCrl::encode(&other, &[]));
    authority.device("good", serial(1));
    assert!(
        !authority.verdict("good").contains("good.crt: OK"),
        "a foreign key identifier"
    );
}

#[test]
fn openssl_verifies_lists_by_other_keys() {
    use SignatureAlgorithm as A;
    let pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest";
    for (algorithm, key_options, sign) in [
        (
            A::EcdsaSha384,
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
            "dgst -sha384 -sign",
        ),
        (
            A::RsaPkcs1Sha256,
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            "dgst -sha256 -sign",
        ),
        (
            A::RsaPssSha256,
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
            &format!("dgst -sha256 {pss} -sign"),
        ),
        (
            A::Ed25519,
            "-algorithm ED25519",
            "pkeyutl -rawin -sign -inkey",
        ),
    ] {
        let openssl = OpenSsl::new();
        openssl.key("ca", key_options);
        let der = openssl.run("req -x509 -new -key ca.pem -subj /CN=ca -outform DER");
        openssl.write("ca.der", &der);
        openssl.run("x509 -inform DER -in ca.der -out ca.crt");
        let certificate = Certificate::from_der(&der).unwrap();
        let issuer = certificate.tbs_certificate().subject().to_der().unwrap();
        let spki = openssl.run("pkey -in ca.pem -pubout -outform DER");
        let key_id = PublicKey::parse(&spki).unwrap().key_identifier();
        let fields = CrlFields {
            algorithm,
            issuer: &issuer,
            authority_key_id: &key_id,
            ..fields()
        };
        let tbs = TbsCrl::encode(&fields, &[entry(1, Some(4))]);
        openssl.write("tbs", tbs.der());
        let input = if algorithm == A::Ed25519 {
            "-in tbs"
        } else {
            "tbs"
        };
        let signature = openssl.run(&format!("{sign} ca.pem {input}"));
        openssl.write("list.der", &assemble(tbs.der(), algorithm, &signature));
        let said = openssl.ask("crl -inform DER -in list.der -noout -CAfile ca.crt");
        assert!(
            said.text.contains("verify OK"),
            "{algorithm:?}: {}",
            said.text
        );
    }
}

#[test]
fn a_partition_names_its_url_and_expired_certificates_their_time() {
    let openssl = OpenSsl::new();
    let url = "http://pki.example/crl/device-1/3.crl";
    let since = UnixMillis::from_seconds(1_600_000_000);
    let fields = CrlFields {
        scope: Scope::Partition(url.to_owned()),
        expired_since: Some(since),
        ..fields()
    };
    let der = unsigned(&fields, &[entry(2, Some(1))]);
    openssl.write("list.der", &der);
    let said = openssl
        .ask("crl -inform DER -in list.der -noout -text")
        .text;
    for text in [
        "X509v3 Issuing Distribution Point: critical",
        &format!("URI:{url}"),
        "Only User Certificates",
        "20200913122640Z",
    ] {
        assert!(said.contains(text), "{text}: {said}");
    }
    for parsed in [parse(&der).unwrap(), parse_head(&der).unwrap()] {
        assert_eq!(parsed.scope, fields.scope);
        assert_eq!(parsed.expired_since, Some(since));
    }
    assert_eq!(parse(&der).unwrap().revoked, [entry(2, Some(1))]);
    assert!(parse_head(&der).unwrap().revoked.is_empty());
}

#[test]
fn a_long_name_finds_room_before_the_entries() {
    let text = tlv::wrap(0x0c, &[&[b'x'; 3000]]);
    let pair = tlv::wrap(tlv::SEQUENCE, &[&[0x06, 3, 0x55, 4, 3], &text]);
    let issuer = tlv::wrap(tlv::SEQUENCE, &[&tlv::wrap(tlv::SET, &[&pair])]);
    let fields = CrlFields {
        issuer: &issuer,
        ..fields()
    };
    let parsed = parse(&unsigned(&fields, &[entry(1, None)])).unwrap();
    assert_eq!(
        (parsed.issuer, parsed.revoked),
        (issuer, vec![entry(1, None)])
    );
}

#[test]
fn an_empty_list_has_no_revoked_certificates() {
    let openssl = OpenSsl::new();
    let der = unsigned(&fields(), &[]);
    openssl.write("list.der", &der);
    let said = openssl.ask("crl -inform DER -in list.der -noout -text");
    assert!(
        said.text.contains("No Revoked Certificates."),
        "{}",
        said.text
    );
    assert!(parse(&der).unwrap().revoked.is_empty());
}

#[test]
fn times_change_their_form_in_2050() {
    let openssl = OpenSsl::new();
    for (this, next, shown) in [
        (
            0,
            951_782_400,
            ["Jan  1 00:00:00 1970 GMT", "Feb 29 00:00:00 2000 GMT"],
        ),
        (
            GENERALIZED_FROM_SECONDS - 1,
            GENERALIZED_FROM_SECONDS,
            ["Dec 31 23:59:59 2049 GMT", "Jan  1 00:00:00 2050 GMT"],
        ),
        (
            4_107_542_399,
            u64::MAX,
            ["Feb 28 23:59:59 2100 GMT", "Dec 31 23:59:59 9999 GMT"],
        ),
    ] {
        let fields = CrlFields {
            this_update: UnixMillis::from_seconds(this),
            next_update: UnixMillis::from_seconds(next),
            ..fields()
        };
        let revoked_at = fields.this_update;
        let der = unsigned(
            &fields,
            &[RevokedEntry {
                revoked_at,
                ..entry(1, Some(1))
            }],
        );
        openssl.write("list.der", &der);
        let said = openssl.ask("crl -inform DER -in list.der -noout -text");
        assert!(
            said.text.contains(&format!("Last Update: {}", shown[0])),
            "{}",
            said.text
        );
        assert!(
            said.text.contains(&format!("Next Update: {}", shown[1])),
            "{}",
            said.text
        );
        assert!(
            said.text
                .contains(&format!("Revocation Date: {}", shown[0])),
            "{}",
            said.text
        );
        let parsed = parse(&der).unwrap();
        assert_eq!(parsed.this_update, fields.this_update);
        assert_eq!(
            parsed.next_update,
            fields.next_update.min(UnixMillis::END_OF_TIME)
        );
        assert_eq!(parsed.revoked[0].revoked_at, revoked_at);
    }
    assert!(
        unsigned(&fields(), &[])
            .windows(15)
            .any(|w| w == b"\x17\x0d231114221320Z")
    );
}

#[test]
fn reasons_that_a_full_list_may_not_carry_are_left_out() {
    for reason in 0..=u8::MAX {
        let der = unsigned(&fields(), &[entry(1, Some(reason))]);
        let expected = if [1, 2, 3, 4, 5, 6, 9, 10].contains(&reason) {
            Some(reason)
        } else {
            None
        };
        assert_eq!(parse(&der).unwrap().revoked, [entry(1, expected)]);
    }
}

#[test]
fn a_million_entries_take_one_vector_that_never_grows() {
    let revoked: Vec<_> = (0..1_000_000)
        .map(|n| entry(n, if n % 2 == 0 { Some(1) } else { None }))
        .collect();
    let mut builder = TbsCrlBuilder::with_capacity(revoked.len());
    let room = builder.out.capacity();
    revoked.iter().for_each(|entry| builder.push(entry));
    assert_eq!(builder.entries(), 1_000_000);
    let tbs = builder.finish(&fields());
    assert_eq!(tbs.der.capacity(), room);
    assert!(room < 49_010_000, "{room}");
    assert!(tbs.der.len() > 42_000_000 && tbs.der.len() < 42_001_000);
    let der = assemble(tbs.der(), SignatureAlgorithm::EcdsaSha256, &[]);
    drop(tbs);
    assert!(parse(&der).unwrap().revoked == revoked);
}

//------ What is not ours ----------------------------------------------------------

/// The parts of a TBSCertList, to be put together with one of them wrong.
struct Parts {
    version: Vec<u8>,
    algorithm: Vec<u8>,
    times: Vec<u8>,
    entries: Vec<u8>,
    extensions: Vec<Vec<u8>>,
    outer: Vec<u8>,
}

/// An Extension.
fn extension(oid_and_criticality: &[u8], value: &[u8]) -> Vec<u8> {
    tlv::wrap(
        tlv::SEQUENCE,
        &[oid_and_criticality, &tlv::wrap(tlv::OCTET_STRING, &[value])],
    )
}

/// An issuingDistributionPoint without a name.
fn only_users() -> Vec<u8> {
    tlv::wrap(tlv::SEQUENCE, &[ONLY_USER_CERTIFICATES])
}

/// An issuingDistributionPoint with this one name.
fn named(name: &[u8]) -> Vec<u8> {
    let point = tlv::wrap(0xa0, &[&tlv::wrap(0xa0, &[name])]);
    tlv::wrap(tlv::SEQUENCE, &[&point, ONLY_USER_CERTIFICATES])
}

impl Parts {
    /// Parts that are right.
    fn new() -> Self {
        let identifier = SignatureAlgorithm::EcdsaSha256.identifier().to_vec();
        let one = tlv::wrap(tlv::INTEGER, &[serial(1).as_bytes()]);
        let entry = tlv::wrap(tlv::SEQUENCE, &[&one, b"\x17\x0d231114221320Z"]);
        let key = tlv::wrap(tlv::SEQUENCE, &[&tlv::wrap(0x80, &[&[0xab; 20]])]);
        Self {
            version: vec![2, 1, 1],
            algorithm: identifier.clone(),
            times: b"\x17\x0d231114221320Z\x17\x0d270115080000Z".to_vec(),
            entries: tlv::wrap(tlv::SEQUENCE, &[&entry]),
            extensions: vec![
                extension(AUTHORITY_KEY_IDENTIFIER, &key),
                extension(CRL_NUMBER, &[2, 1, 7]),
                extension(ISSUING_DISTRIBUTION_POINT, &only_users()),
            ],
            outer: identifier,
        }
    }

    /// The CRL of these parts.
    fn der(&self) -> Vec<u8> {
        let extensions = tlv::wrap(tlv::SEQUENCE, &[&self.extensions.concat()]);
        let extensions = tlv::wrap(tlv::CONTEXT_0, &[&extensions]);
        let (version, algorithm) = (&self.version, &self.algorithm);
        let parts = [
            version,
            algorithm,
            NAME,
            &self.times,
            &self.entries,
            &extensions,
        ];
        let signature = tlv::wrap(tlv::BIT_STRING, &[&[0], &[1; 70]]);
        let tbs = tlv::wrap(tlv::SEQUENCE, &parts);
        tlv::wrap(tlv::SEQUENCE, &[&tbs, &self.outer, &signature])
    }

    /// What [`parse`] says once `change` has been at the parts.
    fn refusal(change: impl FnOnce(&mut Self)) -> &'static str {
        let mut parts = Self::new();
        change(&mut parts);
        parse(&parts.der()).unwrap_err().0
    }

    /// The same, with this contents of the one entry.
    fn entry_refusal(contents: &[&[u8]]) -> &'static str {
        let entry = tlv::wrap(tlv::SEQUENCE, contents);
        Self::refusal(|parts| parts.entries = tlv::wrap(tlv::SEQUENCE, &[&entry]))
    }
}

#[test]
fn each_refusal_names_its_field() {
    let parsed = parse(&Parts::new().der()).unwrap();
    assert_eq!((parsed.number, parsed.scope), (7, Scope::UserCertificates));
    assert_eq!(parsed.anchor, None, "an anchor may be absent");
    let sha384 = SignatureAlgorithm::EcdsaSha384.identifier().to_vec();
    assert_eq!(Parts::refusal(|p| p.version = vec![2, 1, 0]), "version");
    assert_eq!(Parts::refusal(|p| p.version.clear()), "version");
    assert!(Parts::refusal(|p| p.algorithm = sha384.clone()).starts_with("signature: "));
    assert!(Parts::refusal(|p| p.outer = sha384).starts_with("signature: "));
    assert_eq!(
        Parts::refusal(|p| p.outer = vec![0x30, 3, 6, 1, 42]),
        "signatureAlgorithm"
    );
    let rsa_without_null = [0x30, 11, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11];
    assert_eq!(
        Parts::refusal(|p| p.outer = rsa_without_null.to_vec()),
        "signatureAlgorithm"
    );
    assert_eq!(Parts::refusal(|p| p.times[15] = 0x18), "nextUpdate");
    assert_eq!(Parts::refusal(|p| p.times[2] = b'x'), "thisUpdate");
    let early = b"\x18\x0f20231114221320Z\x17\x0d270115080000Z".to_vec();
    assert_eq!(Parts::refusal(|p| p.times = early), "thisUpdate");
    let empty = Parts::refusal(|p| p.entries = vec![0x30, 0]);
    assert_eq!(empty, "revokedCertificates: empty instead of absent");
    let twice = Parts::refusal(|p| {
        let entry = p.entries[2..].to_vec();
        p.entries = tlv::wrap(tlv::SEQUENCE, &[&entry, &entry]);
    });
    assert_eq!(twice, "revokedCertificates: a serial listed twice");
}

#[test]
fn entries_of_other_forms_are_refused() {
    let one = tlv::wrap(tlv::INTEGER, &[serial(1).as_bytes()]);
    let at = b"\x17\x0d231114221320Z";
    let reason = |code: &[u8]| [REASON_PREFIX, code].concat();
    for (contents, field) in [
        (&[&[2, 1, 5][..], at][..], "userCertificate"),
        (&[at, at], "userCertificate"),
        (&[&one, b"\x17\x0d231314221320Z"], "revocationDate"),
        (&[&one], "revocationDate"),
        (&[&one, at, &reason(&[0])], "crlEntryExtensions"),
        (&[&one, at, &reason(&[7])], "crlEntryExtensions"),
        (&[&one, at, &reason(&[1, 0])], "crlEntryExtensions"),
        (&[&one, at, &reason(&[])], "crlEntryExtensions"),
        (&[&one, at, &[0x30, 0]], "crlEntryExtensions"),
    ] {
        let field = format!("revokedCertificates: {field}");
        assert_eq!(Parts::entry_refusal(contents), field);
    }
    let not_a_sequence = Parts::refusal(|p| p.entries = vec![0x30, 2, 5, 0]);
    assert_eq!(not_a_sequence, "revokedCertificates: an entry");
}

#[test]
fn extensions_of_other_forms_are_refused() {
    let unknown = "crlExtensions: one that is not known here, or not in its place";
    assert_eq!(
        Parts::refusal(|p| p.extensions.swap(0, 1)),
        "authorityKeyIdentifier"
    );
    assert_eq!(Parts::refusal(|p| p.extensions.swap(1, 2)), "cRLNumber");
    assert_eq!(Parts::refusal(|p| p.extensions.truncate(1)), "cRLNumber");
    assert_eq!(
        Parts::refusal(|p| p.extensions.push(p.extensions[2].clone())),
        unknown
    );
    let idp = ISSUING_DISTRIBUTION_POINT;
    for (value, refusal) in [
        (extension(&idp[..5], &only_users()), unknown),
        (
            extension(idp, &[0x30, 3, 0x82, 1, 0xff]),
            "issuingDistributionPoint",
        ),
        (
            extension(&[6, 3, 0x55, 0x1d, 27, 1, 1, 0xff], &[2, 1, 1]),
            unknown,
        ),
        (extension(idp, &[0x30, 0]), "issuingDistributionPoint"),
        (
            extension(idp, &named(&tlv::wrap(0x82, &[b"host"]))),
            "issuingDistributionPoint",
        ),
        (
            extension(idp, &named(&tlv::wrap(0x86, &[b"a b"]))),
            "issuingDistributionPoint",
        ),
        (
            extension(idp, &named(&[0x86, 1, b'a', 0x86, 1, b'b'])),
            "issuingDistributionPoint",
        ),
        (
            extension(EXPIRED_CERTS_ON_CRL, b"\x17\x0d231114221320Z"),
            "expiredCertsOnCRL",
        ),
        (extension(LOG_ANCHOR, &[0x30, 0]), "log anchor"),
        (
            extension(LOG_ANCHOR, &[0x30, 7, 12, 1, 0xff, 12, 0, 12, 0]),
            "log anchor",
        ),
    ] {
        assert_eq!(Parts::refusal(|p| p.extensions[2] = value), refusal);
    }
    for number in [
        &[2, 1, 0x80][..],
        &[2, 2, 0, 7],
        &[2, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0],
        &[2, 0],
    ] {
        let value = extension(CRL_NUMBER, number);
        assert_eq!(
            Parts::refusal(|p| p.extensions[1] = value),
            "cRLNumber",
            "{number:?}"
        );
    }
    let with_issuer = tlv::wrap(tlv::SEQUENCE, &[&[0x80, 1, 1], &[0xa1, 0], &[0x82, 1, 1]]);
    let with_issuer = extension(AUTHORITY_KEY_IDENTIFIER, &with_issuer);
    assert_eq!(
        Parts::refusal(|p| p.extensions[0] = with_issuer),
        "authorityKeyIdentifier"
    );
}

//------ Any fields, any octets ----------------------------------------------------

prop_compose! {
    /// Up to forty entries with distinct serials.
    fn any_entries()(
        raw in proptest::collection::vec(
            (0..=253_402_300_799_u64, proptest::option::of(0..12_u8)), 0..40)
    ) -> Vec<RevokedEntry> {
        let serials = raw.into_iter().enumerate();
        serials.map(|(index, (seconds, reason))| RevokedEntry {
            serial: serial(u32::try_from(index).unwrap()),
            revoked_at: UnixMillis::from_seconds(seconds),
            reason: reason.filter(|&reason| carried(reason)),
        }).collect()
    }
}

/// Encodes the fields of a parsed list again.
fn encode_again(parsed: &ParsedCrl, anchor: LogAnchor<'_>) -> Vec<u8> {
    let fields = CrlFields {
        issuer: &parsed.issuer,
        authority_key_id: &parsed.authority_key_id,
        algorithm: parsed.algorithm,
        number: parsed.number,
        this_update: parsed.this_update,
        next_update: parsed.next_update,
        scope: parsed.scope.clone(),
        expired_since: parsed.expired_since,
        anchor,
    };
    TbsCrl::encode(&fields, &parsed.revoked).der
}

proptest! {
    #[test]
    fn what_is_encoded_is_read(
        revoked in any_entries(),
        number in any::<u64>(),
        shift in 0..64_u32,
        times in any::<[u64; 2]>(),
        texts in any::<[String; 3]>(),
        key in proptest::collection::vec(any::<u8>(), 0..300),
        url in proptest::option::of("[!-~]{1,80}"),
        since in proptest::option::of(0..253_402_300_800_u64),
    ) {
        let number = number >> shift;
        let [origin, log_key, checkpoint] = &texts;
        let anchor = LogAnchor { origin, log_key, checkpoint };
        let fields = CrlFields {
            number,
            anchor,
            authority_key_id: &key,
            this_update: UnixMillis(times[0] % 253_402_300_800_000),
            next_update: UnixMillis(times[1] % 253_402_300_800_000),
            scope: url.map_or(Scope::UserCertificates, Scope::Partition),
            expired_since: since.map(UnixMillis::from_seconds),
            ..fields()
        };
        let tbs = TbsCrl::encode(&fields, &revoked);
        prop_assert_eq!(tbs.number(), number);
        let parsed = parse(&assemble(tbs.der(), fields.algorithm, &[])).unwrap();
        prop_assert_eq!(parsed.number, number);
        prop_assert_eq!(&parsed.revoked, &revoked);
        prop_assert_eq!(parsed.this_update.seconds(), fields.this_update.seconds());
        prop_assert_eq!(&parsed.authority_key_id, &key);
        let (o, k, c) = parsed.anchor.clone().unwrap();
        prop_assert_eq!(&[o, k, c], &texts);
        prop_assert_eq!(encode_again(&parsed, anchor), tbs.der());
        let counted = parse_counting(&assemble(tbs.der(), fields.algorithm, &[])).unwrap();
        prop_assert_eq!((counted.listed, counted.revoked.len()), (revoked.len(), 0));
        // The list taken out and put in again.
        let frame = Frame::parse(tbs.frame().to_vec()).unwrap();
        prop_assert_eq!((frame.parsed.number, frame.parsed.listed), (number, 0));
        let mut builder = TbsCrlBuilder::with_capacity(0);
        revoked.iter().for_each(|entry| builder.push(entry));
        prop_assert_eq!(builder.fill(&frame), tbs.der());
        prop_assert_eq!(Frame::parse(tbs.der().to_vec()).is_ok(), revoked.is_empty());
    }

    #[test]
    fn what_a_mutation_leaves_readable_is_still_our_encoding(
        revoked in any_entries(),
        at in any::<proptest::sample::Index>(),
        octet in any::<u8>(),
    ) {
        let mut der = unsigned(&fields(), &revoked);
        let mut frame = TbsCrl::encode(&fields(), &revoked).frame().to_vec();
        let place = at.index(frame.len());
        frame[place] = octet;
        if let Ok(frame) = Frame::parse(frame.clone()) {
            let empty = TbsCrlBuilder::with_capacity(0);
            prop_assert_eq!(empty.fill(&frame), frame.der);
        }
        let at = at.index(der.len());
        der[at] = octet;
        let _ = parse(&der[..at]);
        if let Ok(parsed) = parse(&der) {
            let (tbs, ..) = split(&der).unwrap();
            let (origin, log_key, checkpoint) = parsed.anchor.clone().unwrap();
            let anchor = LogAnchor {
                origin: &origin,
                log_key: &log_key,
                checkpoint: &checkpoint,
            };
            prop_assert_eq!(encode_again(&parsed, anchor), tbs);
        }
    }

    #[test]
    fn random_octets_never_panic(der in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&der);
        let _ = Frame::parse(der);
    }
}
