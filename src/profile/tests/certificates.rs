//! What profiles make, as OpenSSL sees it.

use certstatus::UnixMillis;
use certstatus::signature::{KeyKind, PublicKey, SignatureAlgorithm};
use std::time::Duration;

use super::software_ca::*;
use crate::csr::samples::{DeviceKey, OpenSsl, common_name};
use crate::profile::{BuildRefused, CaSigner, IssuerFacts, Validity, build_ca, lint};

/// The `genpkey` options of each kind of key.
const KEYS: [(&str, &str); 5] = [
    ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
    ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
    ("rsa2048", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
    ("rsa3072", "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
    ("ed25519", "-algorithm ED25519"),
];

/// A validity of twenty years.
const TWENTY_YEARS: Validity = Validity::For(Duration::from_secs(20 * 365 * 24 * 3600));

/// Writes root, issuer and certificate as PEM.
fn write_chain(openssl: &OpenSsl, ca: &Ca, certificate: &[u8]) {
    for (name, der) in [
        ("root", &ca.root.certificate[..]),
        ("issuer", &ca.facts.certificate),
        ("leaf", certificate),
    ] {
        openssl.write(&format!("{name}.der"), der);
        openssl.run(&format!("x509 -inform DER -in {name}.der -out {name}.pem"));
    }
}

/// Leaves a certificate for `tests/lint.sh` as `lint/NAME.cer` in the directory that cargo builds into.
fn leave_for_lint(name: &str, certificate: &[u8]) {
    // TARGET/PROFILE/deps/THIS-TEST: unit tests are told no directory of their own.
    let program = std::env::current_exe().unwrap();
    let directory = program.ancestors().nth(3).unwrap().join("lint");
    std::fs::create_dir_all(&directory).unwrap();
    // Tests run side by side: the name appears only with its whole contents.
    let part = tempfile::NamedTempFile::new_in(&directory).unwrap();
    std::fs::write(part.path(), certificate).unwrap();
    part.persist(directory.join(format!("{name}.cer"))).unwrap();
}

#[test]
fn openssl_verifies_every_built_in_profile_with_every_key() {
    let ca = Ca::new(Validity::Forever);
    let openssl = OpenSsl::new();
    for (key, options) in KEYS {
        openssl.run(&format!("genpkey {options} -out {key}.pem"));
        openssl.run(&format!(
            "pkey -in {key}.pem -pubout -outform DER -out {key}.der"
        ));
        let spki = openssl.read(&format!("{key}.der"));
        for name in BUILT_IN {
            let profile = built_in(name);
            let (grant, subject) = grant_for(name);
            let csr = unproved(&subject, &spki);
            let built = profile.build(&csr, &grant, &ca.facts, serial(), NOW);
            if name == "idevid" && key == "ed25519" {
                assert!(
                    matches!(built, Err(BuildRefused::Request { field, .. }) if field == "public key")
                );
                continue;
            }
            let tbs = built.unwrap();
            let certificate = signed(&tbs, &ca.key);
            write_chain(&openssl, &ca, &certificate);
            leave_for_lint(&format!("profile-{name}-{key}"), &certificate);
            let said = openssl.run(
                "verify -x509_strict -attime 1767225700 -CAfile root.pem -untrusted issuer.pem leaf.pem",
            );
            assert_eq!(said.trim(), "leaf.pem: OK", "{name} with {key}");
            let text = openssl.run("x509 -in leaf.pem -noout -text");
            let told = openssl.run("x509 -in leaf.pem -noout -serial");
            let serial = tbs.serial.to_string().to_uppercase();
            assert_eq!(told.trim(), format!("serial={serial}"));
            for expected in expected_text(name) {
                assert!(
                    text.contains(expected),
                    "{name} with {key}: no {expected:?} in\n{text}"
                );
            }
        }
    }
}

/// What OpenSSL shows of each built-in profile.
fn expected_text(profile: &str) -> &'static [&'static str] {
    match profile {
        "mqtt-device" => &[
            "Subject: CN = dev-0001\n",
            "URI:https://device.internal/dev-0001\n",
            "TLS Web Client Authentication\n",
            "X509v3 Key Usage: critical\n                Digital Signature\n",
            "X509v3 Basic Constraints: critical\n                CA:FALSE",
            "Not After : Dec 30 00:00:00 2035 GMT",
            "Not Before: Dec 31 23:55:00 2025 GMT",
            "URI:http://pki.example/crl/devices.crl",
            "OCSP - URI:http://pki.example/ocsp",
            "CA Issuers - URI:http://pki.example/ca/devices.cer",
        ],
        "idevid" => &[
            "Subject: serialNumber = dev-0001\n",
            "Not After : Dec 31 23:59:59 9999 GMT",
        ],
        "line" => &["Subject: CN = l-1\n", "TLS Web Client Authentication\n"],
        "tls-server" => &[
            "Subject: CN = ca.example\n",
            "DNS:ca.example, IP Address:192.0.2.1, IP Address:0:0:0:0:0:0:0:1",
            "TLS Web Server Authentication\n",
        ],
        "ocsp-signing" => &[
            "OCSP Signing\n",
            "OCSP No Check",
            "Not After : Jan  4 00:00:00 2026 GMT",
        ],
        other => panic!("nothing expected of {other}"),
    }
}

#[test]
fn a_tbs_says_what_it_was_made_of() {
    let ca = Ca::new(TWENTY_YEARS);
    let key = DeviceKey::new();
    let csr = key.verified(&common_name("dev-0001"), &[]);
    let serial = serial();
    let tbs = built_in("mqtt-device")
        .build(&csr, &unit("dev-0001"), &ca.facts, serial, NOW)
        .unwrap();
    assert_eq!(tbs.serial, serial);
    assert_eq!(tbs.issuer, ca.facts.name);
    assert_eq!(tbs.issuer_key, ca.facts.public_key);
    assert_eq!(tbs.profile, "mqtt-device");
    assert_eq!(tbs.device_id.as_deref(), Some("dev-0001"));
    assert_eq!(tbs.spki, csr.spki_sha256());
    assert_eq!(tbs.requested, csr.requested("dev-0001"));
    assert_eq!(tbs.not_before, UnixMillis::from_seconds(1_767_225_300));
    assert_eq!(
        tbs.not_after,
        UnixMillis::from_seconds(1_767_225_600 + 3650 * 86_400)
    );
    let read = lint::end_entity(&tbs, &ca.facts.subject, &ca.facts.key_id).unwrap();
    assert_eq!(read.issuer, ca.facts.subject);
    assert_eq!(read.key.kind(), KeyKind::P256);
}

#[test]
fn the_authority_key_id_is_copied_from_the_issuer() {
    let mut ca = Ca::new(TWENTY_YEARS);
    // As with a CA whose subjectKeyIdentifier is not the SHA-1 of its key.
    ca.facts.key_id = vec![7; 8];
    let csr = DeviceKey::new().verified(&common_name("dev-0001"), &[]);
    let tbs = built_in("mqtt-device")
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    let read = lint::end_entity(&tbs, &ca.facts.subject, &[7; 8]).unwrap();
    assert_eq!(read.authority_key_id.as_deref(), Some(&[7; 8][..]));
}

#[test]
fn a_hardware_module_name_is_made_and_read() {
    let text = std::fs::read_to_string(profiles().join("idevid.toml")).unwrap();
    let commented = "#[[san]]\n#type = \"hardware-module\"\n#hardware_type = \"1.3.6.1.4.1.32473.1\"\n#value = \"{device_id}\"\n";
    assert!(text.contains(commented), "the example in idevid.toml");
    let profile = from_text(&text.replace(commented, &commented.replace('#', "")));
    let ca = Ca::new(Validity::Forever);
    let csr = DeviceKey::new().verified(&[0x30, 0], &[]);
    let tbs = profile
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    let openssl = OpenSsl::new();
    write_chain(&openssl, &ca, &signed(&tbs, &ca.key));
    let text = openssl.run("x509 -in leaf.pem -noout -text");
    assert!(text.contains("othername: 1.3.6.1.5.5.7.8.4"), "{text}");
    let said = openssl.run("asn1parse -inform DER -in leaf.der");
    assert!(
        said.contains("subjectAltName") || said.contains("Subject Alternative Name"),
        "{said}"
    );
}

#[test]
fn without_a_subject_the_alternative_name_is_critical() {
    let profile = from_text(
        "version = 1\npurpose = \"device\"\n[validity]\nfor = \"90d\"\n\
         [[san]]\ntype = \"uri\"\nvalue = \"urn:dev:id:{device_id}\"\n\
         [usage]\nkey_usage = [\"digitalSignature\"]\n",
    );
    let ca = Ca::new(TWENTY_YEARS);
    let csr = DeviceKey::new().verified(&[0x30, 0], &[]);
    let tbs = profile
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    let openssl = OpenSsl::new();
    write_chain(&openssl, &ca, &signed(&tbs, &ca.key));
    let text = openssl.run("x509 -in leaf.pem -noout -text");
    assert!(
        text.contains("X509v3 Subject Alternative Name: critical"),
        "{text}"
    );
    openssl.run(
        "verify -x509_strict -attime 1767225700 -CAfile root.pem -untrusted issuer.pem leaf.pem",
    );
}

#[test]
fn nothing_outlives_its_issuer_unless_the_profile_says_so() {
    let ca = Ca::new(Validity::For(Duration::from_secs(86_400)));
    let csr = DeviceKey::new().verified(&common_name("dev-0001"), &[]);
    let refused = built_in("mqtt-device").build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    let Err(BuildRefused::Lint { profile, rule }) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(profile, "mqtt-device");
    assert!(rule.contains("only until 2026-01-02T00:00:00Z"), "{rule}");

    let csr = DeviceKey::new().verified(&[0x30, 0], &[]);
    let refused = built_in("idevid").build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    assert!(matches!(refused, Err(BuildRefused::Lint { .. })));
    let text = std::fs::read_to_string(profiles().join("idevid.toml")).unwrap();
    let profile =
        from_text(&text.replace("may_outlive_issuer = false", "may_outlive_issuer = true"));
    let tbs = profile
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    assert_eq!(tbs.not_after, UnixMillis::END_OF_TIME);
}

#[test]
fn required_urls_are_required() {
    let text = std::fs::read_to_string(profiles().join("mqtt-device.toml")).unwrap();
    let mut ca = Ca::new(TWENTY_YEARS);
    let csr = DeviceKey::new().verified(&common_name("dev-0001"), &[]);
    let strict = from_text(&text.replace("\"if-configured\"", "\"required\""));
    assert!(
        strict
            .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
            .is_ok()
    );
    let never = from_text(&text.replace("\"if-configured\"", "\"never\""));
    let tbs = never
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    let read = lint::end_entity(&tbs, &ca.facts.subject, &ca.facts.key_id).unwrap();
    assert_eq!(
        (read.crl_url, read.ocsp_url, read.ca_url),
        (None, None, None)
    );
    ca.facts.ocsp_url = None;
    let refused = strict.build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    assert!(matches!(refused, Err(BuildRefused::Lint { rule, .. }) if rule.contains("ocsp_url")));
    // A URL that is none is found in the final bytes.
    ca.facts.ocsp_url = Some("ftp://pki.example/".to_owned());
    let refused = strict.build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW);
    assert!(matches!(refused, Err(BuildRefused::Lint { rule, .. }) if rule.contains("http://")));
}

//------ CA certificates ----------------------------------------------------

#[test]
fn ca_certificates_nest() {
    let ca = Ca::new(TWENTY_YEARS);
    assert_eq!(ca.root.path_len, Some(1));
    assert_eq!(ca.facts.path_len, Some(0));
    assert_eq!(ca.root.not_after, UnixMillis::END_OF_TIME);
    let openssl = OpenSsl::new();
    write_chain(&openssl, &ca, &ca.facts.certificate);
    let said = openssl.run("verify -x509_strict -attime 1767225700 -CAfile root.pem issuer.pem");
    assert_eq!(said.trim(), "issuer.pem: OK");

    let public = PublicKey::parse(&DeviceKey::new().spki()).unwrap();
    let refuse = |signer: &IssuerFacts, subject: &str, validity, path_len| {
        let spec = ca_spec(subject, validity, path_len);
        match build_ca(&spec, &public, CaSigner::Parent(signer), serial(), NOW) {
            Err(BuildRefused::Lint { rule, .. }) => rule,
            other => panic!("{other:?}"),
        }
    };
    let day = Validity::For(Duration::from_secs(86_400));
    assert!(refuse(&ca.facts, "CN=Sub", day, Some(0)).contains("path length is 0"));
    assert!(refuse(&ca.root, "CN=Sub", day, Some(1)).contains("at most 0"));
    assert!(refuse(&ca.root, "CN=Sub", day, None).contains("at most 0"));
    assert!(refuse(&ca.root, "", day, Some(0)).contains("empty subject"));
    assert!(
        refuse(&ca.root, "CN=Device Root,O=Example Works", day, Some(0))
            .contains("that of the issuer")
    );
    assert!(refuse(&ca.root, "CN=Sub,STREET=Main", day, Some(0)).contains("2.5.4.9"));
    let long = format!("CN={}", "a".repeat(65));
    assert!(refuse(&ca.root, &long, day, Some(0)).contains("at most 64"));
    let mut ending = ca.root.clone();
    ending.not_after = NOW;
    assert!(refuse(&ending, "CN=Sub", day, Some(0)).contains("only until"));
}

#[test]
fn a_root_signs_itself_with_what_its_key_can() {
    let public = PublicKey::parse(&DeviceKey::new().spki()).unwrap();
    let name = issuer_name("root");
    let spec = ca_spec("CN=Root", TWENTY_YEARS, None);
    for (algorithm, good) in [
        (SignatureAlgorithm::EcdsaSha256, true),
        (SignatureAlgorithm::EcdsaSha384, true),
        (SignatureAlgorithm::EcdsaSha512, false),
        (SignatureAlgorithm::RsaPssSha256, false),
        (SignatureAlgorithm::Ed25519, false),
    ] {
        let itself = CaSigner::Itself {
            name: &name,
            algorithm,
        };
        let built = build_ca(&spec, &public, itself, serial(), NOW);
        assert_eq!(built.is_ok(), good, "{algorithm:?}");
    }
}

#[test]
fn only_ca_certificates_give_facts() {
    let ca = Ca::new(TWENTY_YEARS);
    let csr = DeviceKey::new().verified(&common_name("dev-0001"), &[]);
    let tbs = built_in("mqtt-device")
        .build(&csr, &unit("dev-0001"), &ca.facts, serial(), NOW)
        .unwrap();
    let leaf = signed(&tbs, &ca.key);
    let refused = IssuerFacts::from_certificate(issuer_name("leaf"), &leaf, ALGORITHM).unwrap_err();
    assert!(refused.to_string().contains("CA:TRUE"), "{refused}");
    let root = &ca.root.certificate;
    for length in 0..root.len() {
        let cut = IssuerFacts::from_certificate(issuer_name("root"), &root[..length], ALGORITHM);
        assert!(cut.is_err(), "{length}");
    }
    let ed25519 = SignatureAlgorithm::Ed25519;
    assert!(IssuerFacts::from_certificate(issuer_name("root"), root, ed25519).is_err());
}

#[test]
fn openssl_made_roots_give_facts() {
    let openssl = OpenSsl::new();
    openssl.run(
        "req -x509 -newkey rsa:3072 -nodes -keyout k.pem -subj /CN=Root/O=Example -days 3650 \
         -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature -outform DER -out root.der",
    );
    let facts = IssuerFacts::from_certificate(
        issuer_name("root"),
        &openssl.read("root.der"),
        SignatureAlgorithm::RsaPkcs1Sha256,
    )
    .unwrap();
    assert_eq!(facts.key_id, facts.public_key.key_identifier());
    assert_eq!(facts.path_len, None);
}
