//! OpenSSL's requests read, our responses under its eyes, and its responses read.

use super::*;
use crate::RevocationReason;
use crate::signature::PublicKey;
use crate::signature::openssl::OpenSsl;
use std::time::{Duration, SystemTime};

/// Names of device certificates and what is to be said of them.
const DEVICES: [(&str, &str); 3] = [("good", "a1"), ("bad", "b2"), ("never", "c3")];

/// The serial of a device certificate: its last octet is given in hexadecimal.
fn serial(last: &str) -> SerialNumber {
    format!("4{}{last}", "0".repeat(29)).parse().unwrap()
}

/// This second: OpenSSL compares with its own clock.
#[expect(
    clippy::disallowed_methods,
    reason = "OpenSSL reads the clock, and no test can move that"
)]
fn now() -> UnixMillis {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    UnixMillis::from_seconds(since.unwrap().as_secs())
}

/// An issuer, its responder and three devices, by OpenSSL.
struct Pki {
    openssl: OpenSsl,
    issuer: IssuerHashes,
}

impl Pki {
    /// Keys of the issuer and the responder as OpenSSL's options say.
    fn new(issuer: &str, responder: &str) -> Self {
        let openssl = OpenSsl::new();
        openssl.key("ca", issuer);
        openssl.run("req -x509 -new -key ca.pem -subj /O=Example/CN=issuer -days 30 -out ca.crt");
        openssl.write(
            "responder.ext",
            b"extendedKeyUsage=OCSPSigning\nnoCheck=ignored\nkeyUsage=critical,digitalSignature\n",
        );
        openssl.key("responder", responder);
        let sign = "x509 -req -CA ca.crt -CAkey ca.pem -days 30";
        openssl.run("req -new -key responder.pem -subj /CN=responder -out responder.csr");
        openssl.run(&format!(
            "{sign} -in responder.csr -set_serial 77 -extfile responder.ext -out responder.crt"
        ));
        openssl.run("x509 -in responder.crt -outform DER -out responder.der");
        for (name, last) in DEVICES {
            openssl.key(name, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
            openssl.run(&format!(
                "req -new -key {name}.pem -subj /CN={name} -out {name}.csr"
            ));
            let serial = serial(last);
            openssl.run(&format!(
                "{sign} -in {name}.csr -set_serial 0x{serial} -out {name}.crt"
            ));
        }
        let certificate = openssl.run("x509 -in ca.crt -outform DER");
        Self {
            issuer: IssuerHashes::of_certificate(&certificate).unwrap(),
            openssl,
        }
    }

    /// One with P-256 keys.
    fn p256() -> Self {
        let options = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        Self::new(options, options)
    }

    /// OpenSSL's request for all devices.
    fn request(&self, options: &str) -> Vec<u8> {
        self.openssl.run(&format!(
            "ocsp -issuer ca.crt {options} -cert good.crt -cert bad.crt -cert never.crt \
             -reqout request.der"
        ));
        self.openssl.read("request.der")
    }

    /// What OpenSSL says of `response.der`: of each device, and of the nonce of the last request.
    fn verdict(&self, hash: &str) -> String {
        let response = "-respin response.der -CAfile ca.crt -no_nonce";
        // Given certificates it makes a request of its own, and asks nothing of the nonce.
        let devices = self.openssl.ask(&format!(
            "ocsp -issuer ca.crt {hash} -cert good.crt -cert bad.crt -cert never.crt -resp_text \
             {response}"
        ));
        let nonce = self
            .openssl
            .ask(&format!("ocsp -reqin request.der {response}"));
        devices.text + &nonce.text
    }

    /// A signature by the responder's key.
    fn sign(&self, algorithm: SignatureAlgorithm, tbs: &[u8]) -> Vec<u8> {
        use SignatureAlgorithm as A;
        self.openssl.write("tbs", tbs);
        let pss = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest";
        let hash = match algorithm {
            A::EcdsaSha256 | A::RsaPkcs1Sha256 | A::RsaPssSha256 => "-sha256",
            A::EcdsaSha384 | A::RsaPkcs1Sha384 | A::RsaPssSha384 => "-sha384",
            A::EcdsaSha512 | A::RsaPkcs1Sha512 | A::RsaPssSha512 => "-sha512",
            A::Ed25519 => {
                return self
                    .openssl
                    .run("pkeyutl -sign -rawin -inkey responder.pem -in tbs");
            }
        };
        let padding = match algorithm {
            A::RsaPssSha256 | A::RsaPssSha384 | A::RsaPssSha512 => pss,
            _ => "",
        };
        self.openssl
            .run(&format!("dgst {hash} {padding} -sign responder.pem tbs"))
    }

    /// Our answer to a request, written to `response.der`.
    fn answer(&self, request: &[u8], algorithm: SignatureAlgorithm, by: &ResponderId) -> Vec<u8> {
        let request = parse_request(request).unwrap();
        let singles: Vec<_> = request
            .cert_ids
            .iter()
            .map(|id| SingleResponse {
                cert_id: id.der,
                status: status(id.serial_number().unwrap()),
                this_update: now(),
                next_update: now().saturating_add(Duration::from_secs(600)),
            })
            .collect();
        let tbs = response_data(by, now(), &singles, request.nonce);
        let signature = self.sign(algorithm, &tbs);
        let certificate = self.openssl.read("responder.der");
        let response = successful(&tbs, algorithm, &signature, &[&certificate]);
        self.openssl.write("response.der", &response);
        response
    }

    /// The responder's public key.
    fn key(&self) -> PublicKey {
        let spki = self
            .openssl
            .run("pkey -in responder.pem -pubout -outform DER");
        PublicKey::parse(&spki).unwrap()
    }
}

/// What is said of a device.
fn status(of: SerialNumber) -> CertStatus {
    match DEVICES.iter().find(|(_, last)| serial(last) == of) {
        Some(("good", _)) => CertStatus::Good,
        Some(("bad", _)) => CertStatus::Revoked {
            at: UnixMillis::from_seconds(1_700_000_000),
            reason: Some(RevocationReason::KeyCompromise),
        },
        _ => CertStatus::Unknown,
    }
}

/// Leaves a response for `tests/lint.sh` as `lint/NAME.ocsp` in the directory that cargo builds into.
fn leave_for_lint(name: &str, response: &[u8]) {
    // TARGET/PROFILE/deps/THIS-TEST: unit tests are told no directory of their own.
    let program = std::env::current_exe().unwrap();
    let directory = program.ancestors().nth(3).unwrap().join("lint");
    std::fs::create_dir_all(&directory).unwrap();
    // Tests run side by side: the name appears only with its whole contents.
    let part = tempfile::NamedTempFile::new_in(&directory).unwrap();
    std::fs::write(part.path(), response).unwrap();
    part.persist(directory.join(format!("{name}.ocsp")))
        .unwrap();
}

/// Every hash, as OpenSSL's option.
const HASHES: [(HashAlgorithm, &str); 4] = [
    (HashAlgorithm::Sha1, "-sha1"),
    (HashAlgorithm::Sha256, "-sha256"),
    (HashAlgorithm::Sha384, "-sha384"),
    (HashAlgorithm::Sha512, "-sha512"),
];

#[test]
fn requests_by_openssl_are_read_and_written_alike() {
    let pki = Pki::p256();
    let other = Pki::p256();
    for (hash, option) in HASHES {
        for (nonce, octets) in [("-nonce", Some(16)), ("-no_nonce", None)] {
            let der = pki.request(&format!("{option} {nonce}"));
            let request = parse_request(&der).unwrap();
            assert_eq!(request.nonce.map(|nonce| nonce.octets().len()), octets);
            assert_eq!(request.cert_ids.len(), DEVICES.len());
            for (id, (_, last)) in request.cert_ids.iter().zip(DEVICES) {
                assert_eq!(id.hash, Some(hash));
                assert_eq!(id.serial_number(), Some(serial(last)));
                assert!(pki.issuer.matches(id) && !other.issuer.matches(id));
                assert_eq!(pki.issuer.cert_id(hash, serial(last).as_bytes()), id.der);
            }
            let ids: Vec<&[u8]> = request.cert_ids.iter().map(|id| id.der).collect();
            assert_eq!(super::request(&ids, request.nonce.map(Nonce::octets)), der);
        }
    }
}

#[test]
fn a_signed_request_says_the_same() {
    let pki = Pki::p256();
    let plain = pki.request("-no_nonce");
    let signed = pki.request("-no_nonce -signer good.crt -signkey good.pem");
    assert!(signed.len() > 2 * plain.len());
    assert_eq!(
        parse_request(&signed).unwrap().cert_ids,
        parse_request(&plain).unwrap().cert_ids
    );
    // Nobody looks at the signature.
    let mut forged = signed;
    *forged.last_mut().unwrap() ^= 1;
    assert!(parse_request(&forged).is_ok());
}

#[test]
fn hashes_that_are_not_known_name_no_issuer() {
    let pki = Pki::p256();
    for option in ["-md5", "-sha224", "-sha3-256"] {
        let der = pki.request(option);
        for id in parse_request(&der).unwrap().cert_ids {
            assert_eq!(id.hash, None);
            assert!(!pki.issuer.matches(&id));
        }
    }
}

#[test]
fn openssl_takes_our_answers_by_every_key() {
    use SignatureAlgorithm as A;
    let p256 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    let p384 = "-algorithm EC -pkeyopt ec_paramgen_curve:P-384";
    let rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
    for (name, issuer, responder, algorithms) in [
        (
            "p256",
            p256,
            p256,
            &[A::EcdsaSha256, A::EcdsaSha384, A::EcdsaSha512][..],
        ),
        ("p384", p384, p384, &[A::EcdsaSha256, A::EcdsaSha384]),
        (
            "rsa",
            rsa,
            rsa,
            &[
                A::RsaPkcs1Sha256,
                A::RsaPkcs1Sha384,
                A::RsaPkcs1Sha512,
                A::RsaPssSha256,
                A::RsaPssSha384,
                A::RsaPssSha512,
            ],
        ),
        ("rsa-p256", rsa, p256, &[A::EcdsaSha256]),
        ("ed25519", p256, "-algorithm ED25519", &[A::Ed25519]),
    ] {
        let pki = Pki::new(issuer, responder);
        let certificate = pki.openssl.read("responder.der");
        let request = pki.request("-nonce");
        for (index, &algorithm) in algorithms.iter().enumerate() {
            let (by, shown) = match index % 2 {
                0 => (ResponderId::by_name(&certificate), "CN = responder"),
                _ => (ResponderId::by_key(&certificate), "Responder Id: "),
            };
            let response = pki.answer(&request, algorithm, &by.unwrap());
            let said = pki.verdict("");
            for text in [
                "Response verify OK",
                "good.crt: good",
                "bad.crt: revoked",
                "Reason: keyCompromise",
                "Revocation Time: Nov 14 22:13:20 2023 GMT",
                "never.crt: unknown",
                "OCSP Nonce",
                shown,
            ] {
                assert!(said.contains(text), "{name} {algorithm:?}: {text}: {said}");
            }
            assert_eq!(said.matches("Response verify OK").count(), 2, "{said}");
            assert!(!said.contains("WARNING"), "{said}");
            let ParsedResponse::Basic(read) = read_response(&response).unwrap() else {
                panic!("an error status");
            };
            let verdict = pki.key().verify(read.algorithm, read.tbs, read.signature);
            assert_eq!(verdict, Ok(()));
            leave_for_lint(&format!("{name}-{index}"), &response);
        }
    }
}

#[test]
fn openssl_takes_our_answers_for_every_hash_with_and_without_nonce() {
    let pki = Pki::p256();
    let by = ResponderId::by_key(&pki.openssl.read("responder.der")).unwrap();
    for (_, option) in HASHES {
        for nonce in ["-nonce", "-no_nonce"] {
            let request = pki.request(&format!("{option} {nonce}"));
            let response = pki.answer(&request, SignatureAlgorithm::EcdsaSha256, &by);
            let said = pki.verdict(option);
            assert_eq!(said.matches("Response verify OK").count(), 2, "{said}");
            assert!(said.contains("good.crt: good"), "{option}: {said}");
            assert!(said.contains("bad.crt: revoked"), "{option}: {said}");
            assert_eq!(said.contains("OCSP Nonce"), nonce == "-nonce");
            assert!(!said.contains("WARNING"), "{said}");
            leave_for_lint(&format!("hash{option}{nonce}"), &response);
        }
    }
}

#[test]
fn openssl_refuses_a_changed_answer_and_another_nonce() {
    let pki = Pki::p256();
    let by = ResponderId::by_key(&pki.openssl.read("responder.der")).unwrap();
    let request = pki.request("-nonce");
    let mut response = pki.answer(&request, SignatureAlgorithm::EcdsaSha256, &by);
    // The status of the second device, from revoked to revoked two seconds later.
    let time = b"20231114221320Z";
    let at = response.windows(15).position(|octets| octets == time);
    response[at.unwrap() + 13] = b'2';
    pki.openssl.write("response.der", &response);
    let said = pki.verdict("");
    assert!(said.contains("Response Verify Failure"), "{said}");
    let ParsedResponse::Basic(read) = read_response(&response).unwrap() else {
        panic!("an error status");
    };
    assert!(
        pki.key()
            .verify(read.algorithm, read.tbs, read.signature)
            .is_err()
    );
    pki.answer(&request, SignatureAlgorithm::EcdsaSha256, &by);
    pki.request("-nonce");
    let said = pki.verdict("");
    assert!(said.contains("Nonce Verify error"), "{said}");
    // An answer from before without any nonce.
    let request = pki.request("-no_nonce");
    pki.answer(&request, SignatureAlgorithm::EcdsaSha256, &by);
    pki.request("-nonce");
    let said = pki.verdict("");
    assert!(said.contains("WARNING: no nonce in response"), "{said}");
}

#[test]
fn answers_by_openssl_are_read() {
    let pki = Pki::p256();
    let certificate = pki.openssl.read("responder.der");
    let line = |state: &str, revoked: &str, last: &str| {
        let serial = serial(last).to_string().to_uppercase();
        format!("{state}\t491231235959Z\t{revoked}\t{serial}\tunknown\t/CN=x\n")
    };
    let index = line("V", "", "a1") + &line("R", "231114221320Z,keyCompromise", "b2");
    pki.openssl.write("index.txt", index.as_bytes());
    for (hash, option) in HASHES {
        let request = pki.request(option);
        let asked = parse_request(&request).unwrap();
        for (by, next) in [("", true), ("-resp_key_id", false)] {
            let next_update = if next { "-ndays 1" } else { "" };
            pki.openssl.run(&format!(
                "ocsp -index index.txt -CA ca.crt -rsigner responder.crt -rkey responder.pem \
                 -reqin request.der -respout made.der {next_update} {by}"
            ));
            let made = pki.openssl.read("made.der");
            let ParsedResponse::Basic(read) = read_response(&made).unwrap() else {
                panic!("an error status");
            };
            assert_eq!(read.nonce, asked.nonce);
            assert_eq!(read.certificates, [&certificate[..]]);
            let responder = match by {
                "" => ResponderId::by_name(&certificate),
                _ => ResponderId::by_key(&certificate),
            };
            assert_eq!(read.responder, responder.unwrap());
            let verdict = pki.key().verify(read.algorithm, read.tbs, read.signature);
            assert_eq!(verdict, Ok(()));
            assert_eq!(read.singles.len(), DEVICES.len());
            for (single, id) in read.singles.iter().zip(&asked.cert_ids) {
                assert_eq!(&single.cert_id, id);
                assert_eq!(single.cert_id.hash, Some(hash));
                assert_eq!(single.status, status(id.serial_number().unwrap()));
                assert_eq!(single.next_update.is_some(), next);
                assert!(now().seconds() - single.this_update.seconds() < 60);
            }
            assert!(now().seconds() - read.produced_at.seconds() < 60);
        }
    }
}

#[test]
fn openssl_names_our_error_statuses() {
    let openssl = OpenSsl::new();
    for (status, name) in ErrorStatus::ALL.into_iter().zip([
        "malformedrequest (1)",
        "internalerror (2)",
        "trylater (3)",
        "sigrequired (5)",
        "unauthorized (6)",
    ]) {
        openssl.write("response.der", status.der());
        let word = name.split(' ').next().unwrap();
        leave_for_lint(&format!("error-{word}"), status.der());
        let said = openssl.ask("ocsp -respin response.der -text");
        assert!(
            said.text.contains(&format!("Responder Error: {name}")),
            "{}",
            said.text
        );
        assert_eq!(
            read_response(status.der()),
            Ok(ParsedResponse::Error(status))
        );
    }
}
