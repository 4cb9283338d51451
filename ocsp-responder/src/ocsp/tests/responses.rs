//! Responses read back, responses of other forms, and certificates.

use super::*;

/// What a client reads of a response with a signature that nobody checks.
fn read_back(tbs: &[u8], check: impl FnOnce(BasicResponse<'_>)) {
    let response = successful(tbs, SignatureAlgorithm::Ed25519, &[7; 64], &[]);
    match read_response(&response).unwrap() {
        ParsedResponse::Basic(basic) => check(basic),
        ParsedResponse::Error(status) => panic!("{status:?}"),
    }
}

/// The refusal of a whole response.
fn refusal(response: &[u8]) -> &'static str {
    read_response(response).unwrap_err().0
}

#[test]
fn error_statuses_are_five_octets() {
    for (status, code) in ErrorStatus::ALL.into_iter().zip([1, 2, 3, 5, 6]) {
        assert_eq!(status.der(), &[0x30, 3, 0x0a, 1, code]);
    }
    for code in [0, 4, 7, 255] {
        assert!(read_response(&[0x30, 3, 0x0a, 1, code]).is_err());
    }
}

#[test]
fn every_status_reason_and_responder_is_read_back() {
    let revoked = |reason| CertStatus::Revoked { at: AT, reason };
    let mut statuses = vec![CertStatus::Good, CertStatus::Unknown, revoked(None)];
    statuses.extend(RevocationReason::ALL.map(|reason| revoked(Some(reason))));
    let name = sequence(&[&tlv::wrap(
        tlv::SET,
        &[&sequence(&[&[6, 3, 0x55, 4, 3], &[0x0c, 1, b'x']])],
    )]);
    for by in [KEY, ResponderId::ByName(name)] {
        let singles: Vec<_> = statuses.iter().map(|&status| single(status)).collect();
        let tbs = response_data(&by, AT, &singles, None);
        read_back(&tbs, |basic| {
            assert_eq!(
                (basic.responder, basic.nonce, basic.tbs),
                (by, None, &tbs[..])
            );
            assert_eq!(basic.produced_at.0, 1_700_000_000_000);
            assert_eq!(
                (basic.signature, basic.certificates.len()),
                (&[7; 64][..], 0)
            );
            assert_eq!(basic.singles.len(), statuses.len());
            for (read, written) in basic.singles.iter().zip(&statuses) {
                let at = UnixMillis(1_700_000_000_000);
                let expected = match *written {
                    CertStatus::Revoked { reason, .. } => CertStatus::Revoked {
                        at,
                        // 0 and 8 are left out.
                        reason: reason.filter(|reason| ![0, 8].contains(&reason.code())),
                    },
                    other => other,
                };
                assert_eq!(read.status, expected);
                assert_eq!((read.cert_id.der, read.this_update), (&ID[..], at));
                assert_eq!(read.next_update, Some(UnixMillis(1_700_000_600_000)));
            }
        });
    }
}

#[test]
fn times_are_whole_seconds_until_9999() {
    for (millis, text) in [
        (0, "19700101000000Z"),
        (999, "19700101000000Z"),
        (951_782_400_000, "20000229000000Z"),
        (4_107_542_399_999, "21000228235959Z"),
        (253_402_300_799_999, "99991231235959Z"),
        (u64::MAX, "99991231235959Z"),
    ] {
        let tbs = response_data(&KEY, UnixMillis(millis), &[single(CertStatus::Good)], None);
        let time = tlv::wrap(tlv::GENERALIZED_TIME, &[text.as_bytes()]);
        // Behind the header and the responder by key.
        assert!(tbs[2 + 24..].starts_with(&time) || tbs[3 + 24..].starts_with(&time));
        read_back(&tbs, |basic| {
            let expected = UnixMillis(millis).min(UnixMillis::END_OF_TIME).seconds();
            assert_eq!(basic.produced_at, UnixMillis::from_seconds(expected));
        });
    }
}

#[test]
fn certificates_come_along_and_every_algorithm_is_named() {
    use SignatureAlgorithm as A;
    let tbs = response_data(&KEY, AT, &[single(CertStatus::Good)], None);
    let certificates = [sequence(&[&[0; 300]]), sequence(&[&[0x0c, 0]])];
    let certificates: Vec<&[u8]> = certificates.iter().map(Vec::as_slice).collect();
    for algorithm in [
        A::EcdsaSha256,
        A::EcdsaSha384,
        A::EcdsaSha512,
        A::RsaPkcs1Sha256,
        A::RsaPkcs1Sha384,
        A::RsaPkcs1Sha512,
        A::RsaPssSha256,
        A::RsaPssSha384,
        A::RsaPssSha512,
        A::Ed25519,
    ] {
        for count in 0..=2 {
            let response = successful(&tbs, algorithm, &[5; 512], &certificates[..count]);
            assert_eq!(response.capacity(), response.len());
            let Ok(ParsedResponse::Basic(basic)) = read_response(&response) else {
                panic!("{algorithm:?}");
            };
            assert_eq!((basic.algorithm, basic.tbs), (algorithm, &tbs[..]));
            assert_eq!(basic.certificates, certificates[..count]);
        }
    }
}

/// A response around this BasicOCSPResponse.
fn around(kind: &[u8], basic: &[u8]) -> Vec<u8> {
    let kind = tlv::wrap(tlv::OBJECT_IDENTIFIER, &[kind]);
    sequence(&[
        &[0x0a, 1, 0],
        &tagged(0, &[&sequence(&[&kind, &octets(basic)])]),
    ])
}

/// A response with this ResponseData.
fn data(parts: &[&[u8]]) -> Vec<u8> {
    successful(&sequence(parts), SignatureAlgorithm::Ed25519, &[], &[])
}

#[test]
fn responses_of_other_forms_are_refused_by_field() {
    let tbs = response_data(&KEY, AT, &[single(CertStatus::Good)], None);
    let ed25519 = SignatureAlgorithm::Ed25519.identifier();
    let basic = sequence(&[&tbs, ed25519, &[3, 1, 0]]);
    assert!(read_response(&around(BASIC, &basic)).is_ok());
    assert_eq!(
        refusal(&around(NONCE, &basic)),
        "responseType: not id-pkix-ocsp-basic"
    );
    assert_eq!(refusal(&around(BASIC, &[0x30, 0])), "BasicOCSPResponse");
    let unknown = sequence(&[&tbs, &[0x30, 3, 6, 1, 1], &[3, 1, 0]]);
    assert!(refusal(&around(BASIC, &unknown)).starts_with("signatureAlgorithm"));
    let bits = sequence(&[&tbs, ed25519, &[3, 2, 1, 0]]);
    assert_eq!(refusal(&around(BASIC, &bits)), "signature");
    let certs = sequence(&[
        &tbs,
        ed25519,
        &[3, 1, 0],
        &tagged(0, &[&sequence(&[&[5, 0]])]),
    ]);
    assert_eq!(refusal(&around(BASIC, &certs)), "certs");
    assert_eq!(refusal(&[0x30, 3, 0x0a, 1, 0]), "responseBytes");
    assert_eq!(refusal(&[0x30, 3, 0x0a, 1, 4]), "responseStatus");
    let kept = sequence(&[&[0x0a, 1, 6], &tagged(0, &[&sequence(&[])])]);
    assert_eq!(refusal(&kept), "responseStatus");
    assert_eq!(refusal(&[]), "not a DER SEQUENCE of status and bytes");
    assert_eq!(
        refusal(&[&ErrorStatus::TryLater.der()[..], &[0]].concat()),
        refusal(&[])
    );
}

#[test]
fn response_data_of_other_forms_is_refused_by_field() {
    let by = tagged(2, &[&octets(&[0xab; 20])]);
    let at = b"\x18\x0f20231114221320Z";
    let id = an_id();
    let good = sequence(&[&id, &[0x80, 0], at]);
    let list = sequence(&[&good]);
    let novel = |criticality: &[u8]| {
        let extension = extension(NOVEL, criticality, &[]);
        tagged(1, &[&sequence(&[&extension])])
    };
    assert!(read_response(&data(&[&by, at, &list])).is_ok());
    assert!(read_response(&data(&[&by, at, &list, &novel(&[])])).is_ok());
    let nonce = extension(NONCE, &[], &octets(&[1]));
    let responder = "responderID, or a version before it";
    for (parts, field) in [
        (
            &[&tagged(0, &[&[2, 1, 0]])[..], &by, at, &list][..],
            responder,
        ),
        (&[&tagged(2, &[&octets(&[0xab; 19])]), at, &list], responder),
        (&[&tagged(1, &[&octets(&[0xab; 20])]), at, &list], responder),
        (&[&by, b"\x18\x1120231114221320.5Z", &list], "producedAt"),
        (&[&by, b"\x17\x0d231114221320Z", &list], "producedAt"),
        (&[&by, at, &[0x30, 0]], "responses: none"),
        (&[&by, at, &list, &novel(CRITICAL)], "a critical extension"),
        (
            &[&by, at, &list, &tagged(1, &[&sequence(&[])])],
            "responseExtensions",
        ),
        (
            &[&by, at, &list, &tagged(1, &[&sequence(&[&nonce, &nonce])])],
            "nonce: twice",
        ),
        (
            &[
                &by,
                at,
                &list,
                &tagged(1, &[&sequence(&[&extension(NONCE, &[], &[])])]),
            ],
            "nonce: its length",
        ),
        (&[&by, at, &list, &[5, 0]], "responseExtensions"),
    ] {
        assert_eq!(refusal(&data(parts)), field);
    }
    let time = tagged(0, &[at]);
    assert!(
        read_response(&data(&[
            &by,
            at,
            &sequence(&[&sequence(&[&id, &[0x82, 0], at, &time, &novel(&[])])])
        ]))
        .is_ok()
    );
    let revoked = |contents: &[&[u8]]| tagged(1, contents);
    for (parts, field) in [
        (&[&[0x80, 0][..], at][..], "responses: certID"),
        (&[&id, at], "responses: certStatus"),
        (&[&id, &[0x80, 1, 0], at], "responses: certStatus"),
        (&[&id, &[0xa0, 0], at], "responses: certStatus"),
        (&[&id, &[0x83, 0], at], "responses: certStatus"),
        (&[&id, &revoked(&[]), at], "responses: certStatus"),
        (
            &[&id, &revoked(&[at, &tagged(0, &[&[0x0a, 1, 7]])]), at],
            "responses: certStatus",
        ),
        (
            &[&id, &revoked(&[at, &tagged(0, &[&[2, 1, 1]])]), at],
            "responses: certStatus",
        ),
        (
            &[&id, &revoked(&[at, &[5, 0]]), at],
            "responses: certStatus",
        ),
        (&[&id, &[0x80, 0]], "responses: thisUpdate"),
        (
            &[&id, &[0x80, 0], at, &tagged(0, &[at, at])],
            "responses: nextUpdate",
        ),
        (&[&id, &[0x80, 0], at, &time, &[5, 0]], "singleExtensions"),
        (
            &[&id, &[0x80, 0], at, &novel(CRITICAL)],
            "a critical extension",
        ),
    ] {
        let response = data(&[&by, at, &sequence(&[&sequence(parts)])]);
        assert_eq!(refusal(&response), field, "{parts:02x?}");
    }
}

#[test]
fn what_is_no_certificate_is_refused_by_field() {
    assert!(IssuerHashes::of_certificate(&[]).is_err());
    let spki = sequence(&[&[0x30, 0], &[3, 2, 0, 5]]);
    let certificate = |subject: &[u8], spki: &[u8]| {
        let empty = [0x30, 0];
        let tbs = sequence(&[
            &[2, 1, 5],
            &empty,
            &empty,
            &empty,
            subject,
            spki,
            &[0xa3, 0],
        ]);
        sequence(&[&tbs, &empty, &[3, 1, 0]])
    };
    let good = certificate(&[0x30, 0], &spki);
    let hashes = IssuerHashes::of_certificate(&good).unwrap();
    // SHA-1 of `30 00` and of `05`: the key without the octet that counts unused bits.
    let digest = |octets: &[u8]| cert_id::sha1(octets).to_vec();
    assert_eq!(hashes.name_hash(HashAlgorithm::Sha1), digest(&[0x30, 0]));
    assert_eq!(hashes.key_hash(HashAlgorithm::Sha1), digest(&[5]));
    for hash in HashAlgorithm::ALL {
        let der = request(&[&hashes.cert_id(hash, &[5])], None);
        let id = parse_request(&der).unwrap().cert_ids[0];
        assert!(hashes.matches(&id));
        let swapped = CertId {
            issuer_name_hash: id.issuer_key_hash,
            ..id
        };
        assert!(!hashes.matches(&swapped));
        let swapped = CertId {
            issuer_key_hash: id.issuer_name_hash,
            ..id
        };
        assert!(!hashes.matches(&swapped));
    }
    for (der, field) in [
        (certificate(&[5, 0], &spki), "tbsCertificate"),
        (
            certificate(&[0x30, 0], &sequence(&[&[0x30, 0]])),
            "subjectPublicKeyInfo",
        ),
        (
            certificate(&[0x30, 0], &sequence(&[&[0x30, 0], &[3, 2, 1, 4]])),
            "subjectPublicKeyInfo",
        ),
    ] {
        assert_eq!(
            IssuerHashes::of_certificate(&der),
            Err(NotACertificate(field))
        );
        assert_eq!(ResponderId::by_key(&der), Err(NotACertificate(field)));
    }
}
