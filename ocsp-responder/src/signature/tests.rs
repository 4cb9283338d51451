//! Keys and signatures made by OpenSSL, refused forms, and random input.

use super::openssl::OpenSsl;
use super::*;
use aws_lc_rs::digest;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use proptest::prelude::*;

/// The kinds of keys that OpenSSL makes here, with the options that make them.
const KEYS: [(KeyKind, &str); 5] = [
    (
        KeyKind::P256,
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
    ),
    (
        KeyKind::P384,
        "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
    ),
    (
        KeyKind::Rsa(2048),
        "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
    ),
    (
        KeyKind::Rsa(3072),
        "-algorithm RSA -pkeyopt rsa_keygen_bits:3072 -pkeyopt rsa_keygen_pubexp:3",
    ),
    (KeyKind::Ed25519, "-algorithm ED25519"),
];

/// Every algorithm, with how OpenSSL is told to use it.
const ALGORITHMS: [(SignatureAlgorithm, &str); 10] = [
    (SignatureAlgorithm::EcdsaSha256, "-sha256"),
    (SignatureAlgorithm::EcdsaSha384, "-sha384"),
    (SignatureAlgorithm::EcdsaSha512, "-sha512"),
    (SignatureAlgorithm::RsaPkcs1Sha256, "-sha256"),
    (SignatureAlgorithm::RsaPkcs1Sha384, "-sha384"),
    (SignatureAlgorithm::RsaPkcs1Sha512, "-sha512"),
    (
        SignatureAlgorithm::RsaPssSha256,
        "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
    ),
    (
        SignatureAlgorithm::RsaPssSha384,
        "-sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
    ),
    (
        SignatureAlgorithm::RsaPssSha512,
        "-sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest",
    ),
    (SignatureAlgorithm::Ed25519, ""),
];

/// Whether X.509 lets this key make this signature.
fn fits(kind: KeyKind, algorithm: SignatureAlgorithm) -> bool {
    use SignatureAlgorithm as A;
    let family = match algorithm {
        A::EcdsaSha256 | A::EcdsaSha384 | A::EcdsaSha512 => "EC",
        A::Ed25519 => "Ed25519",
        _ => "RSA",
    };
    match kind {
        KeyKind::P256 | KeyKind::P384 => family == "EC",
        KeyKind::Rsa(_) => family == "RSA",
        KeyKind::Ed25519 => family == "Ed25519",
    }
}

/// Random octets, by aws-lc-rs.
fn random(len: usize) -> Vec<u8> {
    let mut octets = vec![0; len];
    aws_lc_rs::rand::fill(&mut octets).unwrap();
    octets
}

/// OpenSSL's signature over the file `message` by the key `key.pem`.
fn sign(openssl: &OpenSsl, algorithm: SignatureAlgorithm, options: &str) -> Vec<u8> {
    match algorithm {
        SignatureAlgorithm::Ed25519 => {
            openssl.run("pkeyutl -sign -rawin -inkey key.pem -in message -out signature");
        }
        _ => {
            openssl.run(&format!(
                "dgst {options} -sign key.pem -out signature message"
            ));
        }
    }
    openssl.read("signature")
}

#[test]
fn signatures_by_openssl_verify_and_mutated_ones_do_not() {
    for (kind, key_options) in KEYS {
        let openssl = OpenSsl::new();
        let key = PublicKey::parse(&openssl.key("key", key_options)).unwrap();
        assert_eq!(key.kind(), kind);
        for (algorithm, options) in ALGORITHMS {
            if !fits(kind, algorithm) {
                let verdict = key.verify(algorithm, b"", b"");
                assert_eq!(
                    verdict,
                    Err(SignatureFault::Mismatch),
                    "{kind} {algorithm:?}"
                );
                continue;
            }
            let message = random(1 + usize::from(random(1)[0]));
            openssl.write("message", &message);
            let signature = sign(&openssl, algorithm, options);
            assert_eq!(
                key.verify(algorithm, &message, &signature),
                Ok(()),
                "{kind} {algorithm:?}"
            );
            assert_eq!(key.clone().verify(algorithm, &message, &signature), Ok(()));
            refuses_mutations(&key, algorithm, &message, &signature);
        }
    }
}

/// Changes message and signature in many ways and expects a refusal each time.
fn refuses_mutations(key: &PublicKey, algorithm: SignatureAlgorithm, message: &[u8], good: &[u8]) {
    let refused = |message: &[u8], signature: &[u8]| {
        assert_eq!(
            key.verify(algorithm, message, signature),
            Err(SignatureFault::Bad)
        );
    };
    for at in (0..good.len()).step_by(7) {
        let mut bad = good.to_vec();
        bad[at] ^= 1 << (at % 8);
        refused(message, &bad);
    }
    refused(message, &[good, &[0]].concat());
    refused(message, &good[..good.len() - 1]);
    refused(message, &[]);
    refused(&[message, &[0]].concat(), good);
    let mut other = message.to_vec();
    other[0] ^= 0x80;
    refused(&other, good);
}

#[test]
fn the_three_ways_of_one_hash_do_not_mix() {
    let openssl = OpenSsl::new();
    let key = PublicKey::parse(&openssl.key("key", KEYS[2].1)).unwrap();
    openssl.write("message", b"message");
    let short_salt = "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:20";
    let signature = sign(&openssl, SignatureAlgorithm::RsaPssSha256, short_salt);
    let verdict = key.verify(SignatureAlgorithm::RsaPssSha256, b"message", &signature);
    assert_eq!(verdict, Err(SignatureFault::Bad), "salt of 20 octets");
    let other_mask = "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest \
                      -sigopt rsa_mgf1_md:sha512";
    let signature = sign(&openssl, SignatureAlgorithm::RsaPssSha256, other_mask);
    let verdict = key.verify(SignatureAlgorithm::RsaPssSha256, b"message", &signature);
    assert_eq!(verdict, Err(SignatureFault::Bad), "mask by another hash");
    let signature = sign(&openssl, SignatureAlgorithm::RsaPkcs1Sha256, "-sha256");
    let verdict = key.verify(SignatureAlgorithm::RsaPssSha256, b"message", &signature);
    assert_eq!(verdict, Err(SignatureFault::Bad), "PKCS#1 shown as PSS");
}

#[test]
fn certificates_by_openssl_split_verify_and_join_again() {
    for (kind, key_options) in KEYS {
        let openssl = OpenSsl::new();
        let key = PublicKey::parse(&openssl.key("key", key_options)).unwrap();
        for (algorithm, options) in ALGORITHMS {
            if !fits(kind, algorithm) {
                continue;
            }
            let der = openssl.run(&format!(
                "req -x509 -new -key key.pem -subj /CN=test -outform DER {options}"
            ));
            let (tbs, found, signature) = split(&der).unwrap();
            assert_eq!(found, algorithm);
            assert_eq!(key.verify(found, tbs, signature), Ok(()));
            assert_eq!(
                assemble(tbs, found, signature),
                der,
                "identifiers as OpenSSL writes them"
            );
        }
        // OpenSSL takes the subject key identifier from the BIT STRING too.
        openssl.run("req -x509 -new -key key.pem -subj /CN=test -out cert.pem");
        let shown = openssl.run("x509 -in cert.pem -noout -ext subjectKeyIdentifier");
        let shown: String = String::from_utf8(shown).unwrap().lines().skip(1).collect();
        let identifier = shown.trim().replace(':', "").to_lowercase();
        assert_eq!(crate::hex::encode(&key.key_identifier()), identifier);
    }
}

#[test]
fn a_key_tells_its_octets() {
    let openssl = OpenSsl::new();
    let spki = openssl.key("key", KEYS[3].1);
    let key = PublicKey::parse(&spki).unwrap();
    assert_eq!(key.spki(), spki);
    assert_eq!(
        key.sha256().as_slice(),
        digest::digest(&digest::SHA256, &spki).as_ref()
    );
    let (modulus, exponent) = key.rsa_parts().unwrap();
    let shown = openssl.run("rsa -in key.pem -noout -modulus");
    let shown = String::from_utf8(shown).unwrap();
    let wanted = shown
        .trim()
        .strip_prefix("Modulus=")
        .unwrap()
        .to_lowercase();
    assert_eq!(crate::hex::encode(modulus), wanted);
    assert_eq!(exponent, [3]);
    let ec = PublicKey::parse(&openssl.key("ec", KEYS[0].1)).unwrap();
    assert_eq!(ec.rsa_parts(), None);
    assert_ne!(ec, key);
    assert!(format!("{ec:?}").starts_with("PublicKey(P-256, SHA-256 "));
}

#[test]
fn keys_of_other_kinds_and_forms_are_refused() {
    let openssl = OpenSsl::new();
    openssl.key("p256", KEYS[0].1);
    let mut forms: Vec<(&str, Vec<u8>)> = [
        ("P-521", "-algorithm EC -pkeyopt ec_paramgen_curve:P-521"),
        (
            "secp256k1",
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
        ),
        (
            "explicit parameters",
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -pkeyopt ec_param_enc:explicit",
        ),
        ("Ed448", "-algorithm ED448"),
        ("X25519", "-algorithm X25519"),
        (
            "id-RSASSA-PSS",
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048",
        ),
    ]
    .map(|(name, options)| (name, openssl.key("other", options)))
    .to_vec();
    for form in ["compressed", "hybrid"] {
        let line = format!("ec -in p256.pem -pubout -outform DER -conv_form {form}");
        forms.push((form, openssl.run(&line)));
    }
    for (name, spki) in forms {
        assert_eq!(
            PublicKey::parse(&spki),
            Err(SignatureFault::UnknownKey),
            "{name}"
        );
    }
}

#[test]
fn damaged_keys_are_refused() {
    let openssl = OpenSsl::new();
    for (kind, options) in KEYS {
        let spki = openssl.key("key", options);
        let refused = |what: &str, spki: &[u8]| {
            assert_eq!(
                PublicKey::parse(spki),
                Err(SignatureFault::UnknownKey),
                "{kind} {what}"
            );
        };
        refused("a tail", &[&spki[..], &[0]].concat());
        refused("an end cut off", &spki[..spki.len() - 1]);
        refused("no octets", &[]);
        let bit_string = spki.len() - key_bits(&spki);
        let mut bad = spki.clone();
        bad[bit_string - 1] = 1;
        refused("an unused bit", &bad);
        if matches!(kind, KeyKind::P256 | KeyKind::P384) {
            let mut bad = spki.clone();
            *bad.last_mut().unwrap() ^= 1;
            refused("a point off the curve", &bad);
            bad[bit_string + 1..].fill(0xff);
            refused("coordinates above the prime", &bad);
        }
    }
}

/// How many octets the contents of a key's BIT STRING have, without the unused-bits octet.
fn key_bits(spki: &[u8]) -> usize {
    tlv::whole_sequence(spki, |reader| {
        tlv::raw(reader, Tag::Sequence)?;
        Ok(BitStringRef::decode(reader)?.raw_bytes().len())
    })
    .unwrap()
}

#[test]
fn small_rsa_keys_parse_so_that_a_policy_can_name_them_but_never_verify() {
    let openssl = OpenSsl::new();
    for bits in [512, 1024, 2047] {
        let options = format!("-algorithm RSA -pkeyopt rsa_keygen_bits:{bits}");
        let key = PublicKey::parse(&openssl.key("key", &options)).unwrap();
        assert_eq!(key.kind(), KeyKind::Rsa(bits));
        openssl.write("message", b"message");
        let signature = sign(&openssl, SignatureAlgorithm::RsaPkcs1Sha256, "-sha256");
        for algorithm in [
            SignatureAlgorithm::RsaPkcs1Sha256,
            SignatureAlgorithm::RsaPkcs1Sha512,
        ] {
            let verdict = key.verify(algorithm, b"message", &signature);
            assert_eq!(verdict, Err(SignatureFault::UnusableKey));
        }
    }
}

/// A SubjectPublicKeyInfo of an RSA key with these INTEGER contents.
fn rsa_spki(modulus: &[u8], exponent: &[u8]) -> Vec<u8> {
    let key = [
        tlv::wrap(tlv::INTEGER, &[modulus]),
        tlv::wrap(tlv::INTEGER, &[exponent]),
    ];
    let key = tlv::wrap(tlv::SEQUENCE, &[&key[0], &key[1]]);
    let identifier = [
        0x30, 13, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0,
    ];
    tlv::wrap(
        tlv::SEQUENCE,
        &[&identifier, &tlv::wrap(tlv::BIT_STRING, &[&[0], &key])],
    )
}

#[test]
fn senseless_rsa_numbers_are_refused_or_unusable() {
    let modulus = [&[0, 0x80][..], &[0x55; 255]].concat();
    for exponent in [&[1][..], &[2], &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]] {
        let key = PublicKey::parse(&rsa_spki(&modulus, exponent)).unwrap();
        assert_eq!(key.kind(), KeyKind::Rsa(2048));
        let verdict = key.verify(SignatureAlgorithm::RsaPssSha256, b"", &[0; 256]);
        assert_eq!(
            verdict,
            Err(SignatureFault::UnusableKey),
            "exponent {exponent:02x?}"
        );
    }
    for (modulus, exponent) in [
        (&modulus[..], &[0][..]),
        (&modulus, &[0x80]),
        (&modulus, &[0, 1]),
        (&modulus, &[]),
        (&[0], &[3]),
        (&modulus[1..], &[3]),
    ] {
        let parsed = PublicKey::parse(&rsa_spki(modulus, exponent));
        assert_eq!(parsed, Err(SignatureFault::UnknownKey));
    }
}

/// A SubjectPublicKeyInfo of an Ed25519 key.
fn ed25519_spki(key: &[u8; 32]) -> Vec<u8> {
    let bits = tlv::wrap(tlv::BIT_STRING, &[&[0], key]);
    tlv::wrap(
        tlv::SEQUENCE,
        &[SignatureAlgorithm::Ed25519.identifier(), &bits],
    )
}

#[test]
fn ed25519_keys_of_small_order_never_verify() {
    // R is the neutral element, S is zero: no private key was needed.
    let mut forged = [0; 64];
    forged[0] = 1;
    for (index, mut point) in super::key::ED25519_SMALL_ORDER.into_iter().enumerate() {
        let raw = UnparsedPublicKey::new(&ED25519, point);
        let fooled = (0..200_u8).any(|n| raw.verify(&[n], &forged).is_ok());
        assert_eq!(
            fooled,
            index < 5,
            "the library alone is fooled by {point:02x?}"
        );
        for sign in [0, 0x80] {
            point[31] = point[31] & 0x7f | sign;
            let key = PublicKey::parse(&ed25519_spki(&point)).unwrap();
            let verdict = key.verify(SignatureAlgorithm::Ed25519, &[0], &forged);
            assert_eq!(verdict, Err(SignatureFault::UnusableKey));
        }
    }
}

#[test]
fn ed25519_keys_that_nobody_made_verify_nothing() {
    for first in 2..=u8::MAX {
        let mut octets = [0; 32];
        octets[0] = first; // half of these y coordinates are of no point
        let key = PublicKey::parse(&ed25519_spki(&octets)).unwrap();
        let verdict = key.verify(SignatureAlgorithm::Ed25519, b"", &[0; 64]);
        assert_eq!(verdict, Err(SignatureFault::Bad));
    }
}

#[test]
fn the_default_algorithm_fits_its_key() {
    for (kind, algorithm) in [
        (KeyKind::P256, SignatureAlgorithm::EcdsaSha256),
        (KeyKind::P384, SignatureAlgorithm::EcdsaSha384),
        (KeyKind::Rsa(4096), SignatureAlgorithm::RsaPkcs1Sha256),
        (KeyKind::Ed25519, SignatureAlgorithm::Ed25519),
    ] {
        assert_eq!(SignatureAlgorithm::for_key(kind), algorithm);
    }
}

#[test]
fn split_refuses_what_is_not_der() {
    let tbs = [0x30, 3, 2, 1, 5];
    let good = assemble(&tbs, SignatureAlgorithm::Ed25519, &[7; 4]);
    assert_eq!(
        split(&good),
        Ok((&tbs[..], SignatureAlgorithm::Ed25519, &[7; 4][..]))
    );
    let not_signed = |der: &[u8]| assert_eq!(split(der), Err(SignatureFault::NotSigned));
    not_signed(&[&good[..], &[0]].concat());
    not_signed(&[&[0x30, 0x80], &good[2..], &[0, 0]].concat()); // indefinite length
    not_signed(&[&[0x30, 0x81, good[1]], &good[2..]].concat()); // length not in its shortest form
    let mut unused_bits = good.clone();
    let at = good.len() - 5;
    assert_eq!(unused_bits[at], 0);
    unused_bits[at] = 1;
    not_signed(&unused_bits);
    let identifier = SignatureAlgorithm::Ed25519.identifier();
    let bits = tlv::wrap(tlv::BIT_STRING, &[&[0], &[7; 4]]);
    not_signed(&tlv::wrap(tlv::SEQUENCE, &[&tbs, identifier]));
    not_signed(&tlv::wrap(
        tlv::SEQUENCE,
        &[&tbs, identifier, &bits, &[5, 0]],
    ));
    not_signed(&tlv::wrap(tlv::SEQUENCE, &[&[0x31, 0], identifier, &bits]));
    not_signed(&tlv::wrap(tlv::SEQUENCE, &[&tbs, identifier, &[4, 1, 0]]));
    let other = tlv::wrap(tlv::SEQUENCE, &[&tbs, &[0x30, 3, 6, 1, 42], &bits]);
    assert_eq!(split(&other), Err(SignatureFault::UnknownAlgorithm));
}

proptest! {
    #[test]
    fn random_octets_never_panic(der in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = split(&der);
        let _ = SignatureAlgorithm::parse(&der);
        let _ = PublicKey::parse(&der);
    }

    #[test]
    fn mutated_objects_never_panic(
        at in any::<proptest::sample::Index>(),
        octet in any::<u8>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        let key = rsa_spki(&[&[0, 0x80][..], &[0x55; 255]].concat(), &[1, 0, 1]);
        for algorithm in [SignatureAlgorithm::RsaPssSha384, SignatureAlgorithm::EcdsaSha256] {
            let mut der = assemble(&key, algorithm, &[9; 64]);
            let at = at.index(der.len());
            der[at] = octet;
            let _ = split(&der);
            let _ = split(&der[..cut.index(der.len())]);
            let mut identifier = algorithm.identifier().to_vec();
            identifier[at % algorithm.identifier().len()] = octet;
            let _ = SignatureAlgorithm::parse(&identifier);
        }
        let mut key = key;
        let at = at.index(key.len());
        key[at] = octet;
        if let Ok(key) = PublicKey::parse(&key) {
            let _ = key.verify(SignatureAlgorithm::RsaPkcs1Sha384, b"", &[1; 256]);
            prop_assert!(key.rsa_parts().is_some());
        }
    }

    #[test]
    fn what_is_joined_splits(
        contents in proptest::collection::vec(any::<u8>(), 0..70_000),
        signature in proptest::collection::vec(any::<u8>(), 0..600),
        which in 0..ALGORITHMS.len(),
    ) {
        let tbs = tlv::wrap(tlv::SEQUENCE, &[&contents]);
        let algorithm = ALGORITHMS[which].0;
        let der = assemble(&tbs, algorithm, &signature);
        prop_assert_eq!(der.capacity(), der.len(), "measured exactly");
        prop_assert_eq!(split(&der), Ok((&tbs[..], algorithm, &signature[..])));
    }
}
