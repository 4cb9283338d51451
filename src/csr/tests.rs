//! Requests that come, good and bad.

use certstatus::signature::KeyKind;
use proptest::prelude::*;

use super::samples::*;
use super::*;

/// The `genpkey` options of each kind of key, its kind, and further `req` options.
const GOOD: [(&str, KeyKind, &str); 9] = [
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        KeyKind::P256,
        "-sha256",
    ),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        KeyKind::P256,
        "-sha384",
    ),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        KeyKind::P384,
        "-sha256",
    ),
    (
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        KeyKind::P384,
        "-sha512",
    ),
    (
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        KeyKind::Rsa(2048),
        "-sha256",
    ),
    (
        "-algorithm RSA -pkeyopt rsa_keygen_bits:3072",
        KeyKind::Rsa(3072),
        "-sha512",
    ),
    (
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        KeyKind::Rsa(2048),
        "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
    ),
    (
        "-algorithm RSA -pkeyopt rsa_keygen_bits:4096",
        KeyKind::Rsa(4096),
        "-sha384",
    ),
    ("-algorithm ED25519", KeyKind::Ed25519, ""),
];

/// The options of a P-256 key.
const P256: &str = GOOD[0].0;

/// The rule that refuses a request.
fn rule(bytes: &[u8]) -> &'static str {
    match Csr::parse(bytes).and_then(Csr::verify) {
        Ok(_) => "none",
        Err(refused) => {
            assert!(!refused.to_string().is_empty());
            refused.rule()
        }
    }
}

/// Where the corpus stands.
fn corpus() -> std::path::PathBuf {
    std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/csr")
}

#[test]
fn requests_by_openssl_are_read_and_proved() {
    let openssl = OpenSsl::new();
    for (key, kind, options) in GOOD {
        let der = openssl.request(key, &format!("-subj /CN=dev-0001/O=Example {options}"));
        let csr = Csr::parse(&der).unwrap().verify().unwrap();
        assert_eq!(csr.public_key().kind(), kind, "{key} {options}");
        assert_eq!(csr.common_name(), Some("dev-0001"));
        assert_eq!(csr.subject().len(), 2);
        assert!(csr.extensions().is_empty());
        assert_eq!(csr.spki_sha256().0, csr.public_key().sha256());
    }
}

#[test]
fn every_encoding_that_clients_send_is_the_same_request() {
    let openssl = OpenSsl::new();
    let der = openssl.request(P256, "-subj /CN=dev-0001");
    let pem = openssl.run("req -inform DER -in csr.der");
    let with_text = openssl.run("req -inform DER -in csr.der -text");
    let new_label = openssl.run("req -inform DER -in csr.der -newhdr");
    assert!(new_label.contains("NEW CERTIFICATE REQUEST"));
    let base64: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let wrapped = pem
        .lines()
        .filter(|line| !line.starts_with('-'))
        .collect::<Vec<_>>()
        .join("\r\n");
    let forms = [
        &pem,
        &with_text,
        &new_label,
        &base64,
        &wrapped,
        &pem.replace('\n', "\r\n"),
    ];
    let expected = Csr::parse(&der)
        .unwrap()
        .verify()
        .unwrap()
        .requested("dev-0001");
    for form in forms {
        let csr = Csr::parse(form.as_bytes()).unwrap().verify().unwrap();
        assert_eq!(csr.requested("dev-0001"), expected, "{form}");
    }
}

#[test]
fn requests_by_rcgen_are_read_and_proved() {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut parameters =
        rcgen::CertificateParams::new(vec!["dev-0001.example".to_owned()]).unwrap();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters
        .distinguished_name
        .push(rcgen::DnType::CommonName, "dev-0001");
    let request = parameters.serialize_request(&key).unwrap();
    let csr = Csr::parse(request.der()).unwrap().verify().unwrap();
    assert_eq!(csr.common_name(), Some("dev-0001"));
    assert_eq!(csr.alt_names().len(), 1);
    assert_eq!(csr.extensions().len(), 1);
}

#[test]
fn what_was_asked_for_is_kept() {
    let openssl = OpenSsl::new();
    let der = openssl.request(
        P256,
        "-subj /CN=dev-0001 -addext subjectAltName=DNS:a.example,IP:10.0.0.1,URI:urn:x:y \
         -addext keyUsage=digitalSignature",
    );
    let csr = Csr::parse(&der).unwrap().verify().unwrap();
    assert_eq!(csr.extensions().len(), 2);
    assert_eq!(csr.alt_names().len(), 3);
}

#[test]
fn the_requested_fields_tell_requests_apart_but_not_retries() {
    let key = DeviceKey::new();
    let usage = extension("2.5.29.15", &[3, 2, 7, 0x80]);
    let first = key.verified(&common_name("dev-0001"), &[]);
    let again = key.verified(&common_name("dev-0001"), &[]);
    let hash = first.requested("dev-0001");
    assert_eq!(again.requested("dev-0001"), hash);
    assert_ne!(again.requested("dev-0002"), hash);
    assert_ne!(
        key.verified(&common_name("dev-0002"), &[])
            .requested("dev-0001"),
        hash
    );
    assert_ne!(
        key.verified(&common_name("dev-0001"), &[usage])
            .requested("dev-0001"),
        hash
    );
    // Another key is another claim, but asks for the same.
    let other = DeviceKey::new().verified(&common_name("dev-0001"), &[]);
    assert_eq!(other.requested("dev-0001"), hash);
    let own = VerifiedCsr::own_key(first.subject().clone(), first.public_key().clone());
    assert_eq!(own.requested("dev-0001"), hash);
    // The definition, spelt out, because claims in the log hold it.
    let subject = common_name("dev-0001");
    let mut spelt = (subject.len() as u64).to_be_bytes().to_vec();
    spelt.extend(&subject);
    spelt.extend([0; 8]);
    spelt.extend([0, 0, 0, 0, 0, 0, 0, 8]);
    spelt.extend(b"dev-0001");
    assert_eq!(DetailHash::of(&spelt), hash);
}

#[test]
fn a_common_name_is_the_only_one_and_text() {
    let key = DeviceKey::new();
    let of = |attributes: &[(&str, Tag, &str)]| {
        let csr = key.verified(&name(attributes), &[]);
        csr.common_name().map(str::to_owned)
    };
    for tag in [Tag::Utf8String, Tag::PrintableString, Tag::Ia5String] {
        assert_eq!(of(&[("2.5.4.3", tag, "a-1")]).as_deref(), Some("a-1"));
    }
    assert_eq!(
        of(&[("2.5.4.3", Tag::Utf8String, "é")]).as_deref(),
        Some("é")
    );
    assert_eq!(of(&[("2.5.4.3", Tag::PrintableString, "a_1")]), None);
    assert_eq!(of(&[("2.5.4.3", Tag::Ia5String, "é")]), None);
    assert_eq!(of(&[("2.5.4.3", Tag::TeletexString, "a")]), None);
    assert_eq!(of(&[("2.5.4.10", Tag::Utf8String, "a")]), None);
    let twice = ("2.5.4.3", Tag::Utf8String, "a");
    assert_eq!(of(&[twice, twice]), None);
}

#[test]
fn a_request_of_our_own_is_what_openssl_verifies() {
    let key = DeviceKey::new();
    let subject = Name::from_der(&common_name("Device Issuer 2")).unwrap();
    let info = request_to_sign(&subject, &PublicKey::parse(&key.spki()).unwrap());
    let signature = key.sign(&info);
    let request =
        certstatus::signature::assemble(&info, SignatureAlgorithm::EcdsaSha256, &signature);
    assert_eq!(rule(&request), "none");
    let openssl = OpenSsl::new();
    openssl.write("csr.der", &request);
    let said = openssl.run("req -inform DER -in csr.der -verify -noout");
    assert!(said.contains("verify OK"), "{said}");
}

//------ Bad requests -------------------------------------------------------

#[test]
fn a_request_cut_anywhere_is_refused() {
    let openssl = OpenSsl::new();
    let der = openssl.request(
        P256,
        "-subj /CN=dev-0001 -addext subjectAltName=DNS:a.example",
    );
    for length in 0..der.len() {
        let expected = if length == 0 {
            "request-empty"
        } else {
            "request-truncated"
        };
        assert_eq!(rule(&der[..length]), expected, "{length}");
    }
    let pem = openssl.run("req -inform DER -in csr.der");
    for length in 0..pem.trim_end().len() {
        assert_ne!(rule(&pem.as_bytes()[..length]), "none", "{length}");
    }
}

#[test]
fn a_request_changed_anywhere_is_refused() {
    let der = {
        let key = DeviceKey::new();
        key.request(&key.parts(&common_name("dev-0001")))
    };
    for index in 0..der.len() {
        let mut changed = der.clone();
        changed[index] ^= 0x01;
        assert_ne!(rule(&changed), "none", "{index}");
    }
}

#[test]
fn bytes_after_the_end_are_refused() {
    let key = DeviceKey::new();
    let der = key.request(&key.parts(&common_name("dev-0001")));
    assert_eq!(rule(&[&der[..], &[0]].concat()), "request-trailing-bytes");
    assert_eq!(rule(&[&der[..], &der].concat()), "request-trailing-bytes");
    let long = vec![0x30; limits::CSR_BYTES_MAX + 1];
    assert_eq!(rule(&long), "request-too-long");
}

#[test]
fn a_signature_by_another_key_is_no_proof() {
    let (key, other) = (DeviceKey::new(), DeviceKey::new());
    let mut parts = key.parts(&common_name("dev-0001"));
    parts.spki = other.spki();
    assert_eq!(rule(&key.request(&parts)), "signature-wrong");
    // An algorithm of another kind of key.
    let info = key.parts(&common_name("dev-0001")).info();
    let request = certstatus::signature::assemble(&info, SignatureAlgorithm::Ed25519, &[0; 64]);
    assert_eq!(rule(&request), "signature-mismatch");
}

#[test]
fn each_part_is_judged() {
    let key = DeviceKey::new();
    let good = key.parts(&common_name("dev-0001"));
    let with = |change: &dyn Fn(&mut Parts)| {
        let mut parts = good.clone();
        change(&mut parts);
        rule(&key.request(&parts))
    };
    assert_eq!(with(&|_| ()), "none");
    assert_eq!(with(&|p| p.version = vec![2, 1, 1]), "request-version");
    assert_eq!(with(&|p| p.version = vec![2, 2, 0, 0]), "request-version");
    assert_eq!(
        with(&|p| p.subject = vec![0x30, 2, 5, 0]),
        "request-malformed"
    );
    assert_eq!(with(&|p| p.subject = vec![0x31, 0]), "request-malformed");

    let password = attribute("1.2.840.113549.1.9.7", &[&[0x13, 1, b'x']]);
    assert_eq!(with(&|p| p.attributes = vec![password.clone()]), "none");
    assert_eq!(
        with(&|p| p.attributes = vec![password.clone(); 2]),
        "request-attribute-twice"
    );
    let two = [attribute("1.2.840.113549.1.9.7", &[&[0x13, 1, b'y']])];
    assert_eq!(
        with(&|p| p.attributes = [std::slice::from_ref(&password), &two].concat()),
        "request-attribute-twice"
    );
    let values = attribute(
        "1.2.840.113549.1.9.7",
        &[&[0x13, 1, b'x'], &[0x13, 1, b'y']],
    );
    assert_eq!(
        with(&|p| p.attributes = vec![values.clone()]),
        "request-attribute-twice"
    );
    let out_of_order = attribute(
        "1.2.840.113549.1.9.7",
        &[&[0x13, 1, b'y'], &[0x13, 1, b'x']],
    );
    assert_eq!(
        with(&|p| p.attributes = vec![out_of_order.clone()]),
        "request-not-der"
    );
    assert_eq!(
        with(&|p| p.attributes = vec![attribute("1.2.840.113549.1.9.14", &[])]),
        "request-malformed"
    );
    assert_eq!(
        with(&|p| p.attributes = vec![attribute("1.3.6.1.4.1.311.2.1.14", &[&[0x30, 0]])]),
        "request-attribute"
    );

    let asks =
        |extensions: &[Vec<u8>]| with(&|p| p.attributes = vec![extension_request(extensions)]);
    let usage = extension("2.5.29.15", &[3, 2, 7, 0x80]);
    assert_eq!(asks(std::slice::from_ref(&usage)), "none");
    assert_eq!(
        asks(&[usage.clone(), usage.clone()]),
        "request-extension-twice"
    );
    assert_eq!(asks(&[vec![5, 0]]), "request-malformed");
    assert_eq!(
        asks(&[extension("2.5.29.17", &[5, 0])]),
        "request-malformed"
    );
    assert_eq!(
        asks(&[extension("2.5.29.17", &[0x30, 5])]),
        "request-malformed"
    );
    // critical FALSE written out, which DER forbids.
    let value = tlv::wrap(tlv::OCTET_STRING, &[&[3, 2, 7, 0x80]]);
    let written_out = tlv::wrap(tlv::SEQUENCE, &[&oid("2.5.29.15"), &[1, 1, 0], &value]);
    assert_eq!(asks(&[written_out]), "request-not-der");
}

#[test]
fn too_many_of_anything_is_refused() {
    let key = DeviceKey::new();
    let subject_of = |count| {
        let attributes = vec![("2.5.4.11", Tag::Utf8String, "x"); count];
        rule(&key.request(&key.parts(&name(&attributes))))
    };
    assert_eq!(subject_of(limits::CSR_SUBJECT_ATTRIBUTES_MAX), "none");
    assert_eq!(
        subject_of(limits::CSR_SUBJECT_ATTRIBUTES_MAX + 1),
        "request-too-many"
    );
    assert_eq!(subject_of(400), "request-too-many");

    let extensions_of = |extensions: &[Vec<u8>]| {
        let mut parts = key.parts(&common_name("x"));
        parts.attributes.push(extension_request(extensions));
        rule(&key.request(&parts))
    };
    let some = |count: usize| -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| extension(&format!("1.2.{n}"), &[5, 0]))
            .collect()
    };
    assert_eq!(extensions_of(&some(limits::CSR_EXTENSIONS_MAX)), "none");
    assert_eq!(
        extensions_of(&some(limits::CSR_EXTENSIONS_MAX + 1)),
        "request-too-many"
    );

    let names = |count| {
        let names = vec![&[0x82, 1, b'a'][..]; count];
        extensions_of(&[extension("2.5.29.17", &tlv::wrap(tlv::SEQUENCE, &names))])
    };
    assert_eq!(names(limits::CSR_SANS_MAX), "none");
    assert_eq!(names(limits::CSR_SANS_MAX + 1), "request-too-many");

    let deep = (0..40).fold(vec![5, 0], |inner, _| tlv::wrap(tlv::SEQUENCE, &[&inner]));
    let pair = tlv::wrap(tlv::SEQUENCE, &[&oid("2.5.4.3"), &deep]);
    let subject = tlv::wrap(tlv::SEQUENCE, &[&tlv::wrap(tlv::SET, &[&pair])]);
    assert_eq!(rule(&key.request(&key.parts(&subject))), "request-too-deep");
}

#[test]
fn other_keys_are_refused_by_name() {
    let openssl = OpenSsl::new();
    let of = |key: &str, options: &str| {
        rule(&openssl.request(key, &format!("-subj /CN=dev-0001 {options}")))
    };
    assert_eq!(
        of(
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "-sha256"
        ),
        "key-curve"
    );
    assert_eq!(
        of("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "-sha512"),
        "key-curve"
    );
    let explicit = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit";
    assert_eq!(of(explicit, "-sha256"), "key-curve");
    assert_eq!(
        of("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "-sha256"),
        "key-rsa-size"
    );
    assert_eq!(
        of("-algorithm RSA -pkeyopt rsa_keygen_bits:2047", "-sha256"),
        "key-rsa-size"
    );
    assert_eq!(
        of(
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3",
            "-sha256"
        ),
        "key-rsa-exponent"
    );
    assert_eq!(
        of(
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "-sha256"
        ),
        "signature-algorithm"
    );
    assert_eq!(
        of(
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
            "-sha256 -sigopt rsa_pss_saltlen:32"
        ),
        "key-algorithm"
    );
    assert_eq!(of("-algorithm ED448", ""), "signature-algorithm");
    assert_eq!(of(P256, "-sha1"), "signature-algorithm");
    assert_eq!(of(GOOD[4].0, "-sha1"), "signature-algorithm");
}

#[test]
fn points_that_are_not_on_their_curve_are_refused() {
    let key = DeviceKey::new();
    let with_point = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut parts = key.parts(&common_name("x"));
        let at = parts.spki.len() - 65;
        let mut point = parts.spki.split_off(at);
        change(&mut point);
        // The BIT STRING and SEQUENCE lengths follow the point's.
        let (algorithm, bits) = (parts.spki[2..23].to_vec(), [&[0], &point[..]].concat());
        let bits = tlv::wrap(tlv::BIT_STRING, &[&bits]);
        parts.spki = tlv::wrap(tlv::SEQUENCE, &[&algorithm, &bits]);
        rule(&key.request(&parts))
    };
    assert_eq!(with_point(&|_| ()), "none");
    assert_eq!(with_point(&|p| p[64] ^= 1), "key-point");
    assert_eq!(with_point(&|p| p[1..].fill(0)), "key-point");
    assert_eq!(with_point(&|p| p[1..].fill(0xff)), "key-point");
    assert_eq!(
        with_point(&|p| {
            p[0] = 2 + (p[64] & 1);
            p.truncate(33);
        }),
        "key-point-compressed"
    );
    assert_eq!(with_point(&|p| p.truncate(64)), "key-point");
    assert_eq!(with_point(&|p| *p = vec![0]), "key-encoding");
    assert_eq!(with_point(&Vec::clear), "key-encoding");
}

//------ Corpus -------------------------------------------------------------

/// The files of the corpus: each name begins with the rule that refuses it, or with `good`.
fn corpus_files() -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name() != "README.md")
        .map(|entry| {
            let name = entry.file_name().into_string().unwrap();
            (name, std::fs::read(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    assert!(
        files.len() >= 30,
        "the corpus in tests/vectors/csr has {} files",
        files.len()
    );
    files
}

#[test]
fn the_corpus_is_refused_by_the_rules_that_its_names_say() {
    for (name, bytes) in corpus_files() {
        let (expected, _) = name.split_once('.').unwrap();
        let expected = expected.split_once('_').map_or(expected, |(rule, _)| rule);
        let found = match rule(&bytes) {
            "none" => "good",
            found => found,
        };
        assert_eq!(found, expected, "{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(Csr::parse(&bytes).and_then(Csr::verify).is_err());
        let mut der = bytes;
        der.splice(0..0, [0x30, 0x82]);
        prop_assert!(Csr::parse(&der).is_err());
    }

    #[test]
    fn no_change_of_the_corpus_panics_or_passes(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4),
    ) {
        let files = FILES.with(Clone::clone);
        let (name, original) = file.get(&files);
        let mut bytes = original.clone();
        for (at, octet, how) in changes {
            if bytes.is_empty() { break; }
            let at = at.index(bytes.len());
            match how {
                0 => bytes[at] = octet,
                1 => bytes.truncate(at),
                2 => bytes.insert(at, octet),
                _ => { bytes.remove(at); }
            }
        }
        // No panic so far. What is accepted must be, octet for octet, a request that somebody signed: the one that
        // this file carries, whatever white space or label came or went around it. Of a refused file a change may
        // take away what it was refused for (the octet after the end, the second block), and nothing else.
        if Csr::parse(&bytes).and_then(Csr::verify).is_ok() {
            let accepted = der_of(&bytes);
            if name.starts_with("good") {
                prop_assert_eq!(accepted, der_of(original), "{}", name);
            } else {
                let good = |(name, _): &&(String, Vec<u8>)| name.starts_with("good");
                let signed = files.iter().filter(good).any(|(_, file)| der_of(file) == accepted);
                prop_assert!(signed, "{} became a request that nobody signed", name);
            }
        }
    }
}

/// The DER that a file of any encoding carries.
fn der_of(bytes: &[u8]) -> Vec<u8> {
    transport::decode(bytes).unwrap().into_owned()
}

#[test]
fn a_refused_file_without_its_fault_is_the_request_that_it_carries() {
    let read = |name: &str| std::fs::read(corpus().join(name)).unwrap();
    let signed = read("good_by-hand.der");
    let trailing = read("request-trailing-bytes.der");
    let cut = &trailing[..trailing.len() - 1];
    assert_eq!((rule(cut), der_of(cut)), ("none", signed));
}

thread_local! {
    /// The corpus, read once.
    static FILES: std::rc::Rc<Vec<(String, Vec<u8>)>> = std::rc::Rc::new(corpus_files());
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let oid = EXTENSION_REQUEST;
    let all = [
        CsrRefused::TooLong(1),
        CsrRefused::Empty,
        CsrRefused::Encoding,
        CsrRefused::PemLabel,
        CsrRefused::PrivateKey,
        CsrRefused::PemEnd,
        CsrRefused::Several,
        CsrRefused::Truncated,
        CsrRefused::Trailing,
        CsrRefused::NotDer("x"),
        CsrRefused::TooDeep(1),
        CsrRefused::TooMany { what: "x", max: 1 },
        CsrRefused::Malformed("x"),
        CsrRefused::Version,
        CsrRefused::Attribute(oid),
        CsrRefused::AttributeTwice(oid),
        CsrRefused::ExtensionTwice(oid),
        CsrRefused::KeyAlgorithm,
        CsrRefused::KeyCurve,
        CsrRefused::KeyPointCompressed,
        CsrRefused::KeyPoint,
        CsrRefused::KeyEncoding,
        CsrRefused::KeySmallOrder,
        CsrRefused::RsaSize(1),
        CsrRefused::RsaEven,
        CsrRefused::RsaExponent,
        CsrRefused::RsaSmallFactor(3),
        CsrRefused::RsaRoca,
        CsrRefused::RsaClosePrimes,
        CsrRefused::SignatureAlgorithm,
        CsrRefused::SignatureMismatch,
        CsrRefused::Signature,
    ];
    let mut rules: Vec<&str> = all.iter().map(CsrRefused::rule).collect();
    let slug = |rule: &&str| rule.bytes().all(|c| c.is_ascii_lowercase() || c == b'-');
    assert!(rules.iter().all(slug));
    rules.sort_unstable();
    rules.dedup();
    assert_eq!(rules.len(), all.len());
}
