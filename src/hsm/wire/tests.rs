//! The protocol: everything survives its way, and nothing that arrives panics.

use super::*;
use proptest::prelude::*;

/// Every kind of answer.
fn answers() -> Vec<Answer> {
    let faults = [
        Fault::Busy,
        Fault::unavailable("C_SignInit: CKR_DEVICE_ERROR"),
        Fault::lost("C_Sign: CKR_DEVICE_ERROR"),
        Fault::PinRejected,
        Fault::PinLocked,
        Fault::KeyMissing,
        Fault::KeyAmbiguous { count: 2 },
        Fault::KeyUnfit {
            problem: "CKA_SIGN is false".to_owned(),
        },
        Fault::refused("no"),
        Fault::Refused {
            cause: "yes and no".to_owned(),
            reached: Reached::Maybe,
        },
        Fault::Deadline,
    ];
    let states = [
        TokenState::Starting,
        TokenState::Ready,
        TokenState::PinRejected,
        TokenState::PinLocked,
        TokenState::Unavailable("no slot holds the token “ü”".to_owned()),
    ];
    let attributes = BTreeMap::from([
        ("CKA_SIGN".to_owned(), "true".to_owned()),
        ("CKA_LABEL".to_owned(), String::new()),
    ]);
    let mut all = vec![
        Answer::Welcome,
        Answer::Opened {
            id: 1,
            key: 2,
            spki: vec![3; 91],
        },
        Answer::Signature {
            id: u32::MAX,
            signature: vec![4; 70],
        },
        Answer::Generated {
            id: 5,
            spki: vec![6; 91],
            attributes,
        },
        Answer::StillRunning { id: 7, jobs: 8 },
    ];
    all.extend(faults.map(|fault| Answer::Failed { id: 9, fault }));
    all.extend(states.map(Answer::State));
    all
}

/// Every kind of request, as frames.
fn requests() -> Vec<u8> {
    let mut out = Vec::new();
    put_hello(&mut out);
    put_open_key(&mut out, 1, "ca", SignatureAlgorithm::EcdsaSha384, &[7; 32]);
    put_sign(&mut out, 2, 3, b"tbs");
    put_generate(
        &mut out,
        4,
        "new",
        KeyAlgorithm::Rsa4096Pss,
        KeyPolicy::WrapWithTrusted,
    );
    put_take_over(&mut out, 5);
    out
}

/// Takes frames apart as far as they go.
fn frames(mut octets: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, WireFault> {
    let mut all = Vec::new();
    while let Some(Frame { kind, body, length }) = split_frame(octets)? {
        all.push((kind, body.to_vec()));
        octets = &octets[length..];
    }
    Ok(all)
}

#[test]
fn every_answer_survives_its_way() {
    let mut out = Vec::new();
    for answer in answers() {
        answer.put(&mut out);
    }
    let parsed: Vec<Answer> = frames(&out)
        .unwrap()
        .iter()
        .map(|(kind, body)| Answer::parse(*kind, body).unwrap())
        .collect();
    assert_eq!(parsed, answers());
}

#[test]
fn every_request_survives_its_way() {
    let frames = frames(&requests()).unwrap();
    let parsed: Vec<Request<'_>> = frames
        .iter()
        .map(|(kind, body)| Request::parse(*kind, body).unwrap())
        .collect();
    assert_eq!(
        parsed,
        [
            Request::Hello,
            Request::OpenKey {
                id: 1,
                label: "ca",
                algorithm: SignatureAlgorithm::EcdsaSha384,
                spki_sha256: [7; 32],
            },
            Request::Sign {
                id: 2,
                key: 3,
                total: 3,
                part: b"tbs",
            },
            Request::Generate {
                id: 4,
                label: "new",
                algorithm: KeyAlgorithm::Rsa4096Pss,
                policy: KeyPolicy::WrapWithTrusted,
            },
            Request::TakeOver { id: 5 },
        ]
    );
}

#[test]
fn every_algorithm_has_a_code_of_its_own() {
    let mut signatures = 0;
    let mut keys = 0;
    for code in 0..=u8::MAX {
        if let Ok(algorithm) = signature_of(code) {
            assert_eq!(signature_code(algorithm), code);
            signatures += 1;
        }
        if let Ok(algorithm) = algorithm_of(code) {
            assert_eq!(algorithm_code(algorithm), code);
            keys += 1;
        }
    }
    assert_eq!((signatures, keys), (10, 7));
}

#[test]
fn a_long_tbs_is_sent_in_parts_and_none_is_too_long() {
    let tbs: Vec<u8> = (0..3 * PART_BYTES_MAX + 5)
        .map(|n| n.to_le_bytes()[0])
        .collect();
    let mut out = Vec::new();
    put_sign(&mut out, 1, 2, &tbs);
    let mut joined = Vec::new();
    for (kind, body) in frames(&out).unwrap() {
        match Request::parse(kind, &body).unwrap() {
            Request::Sign { total, part, .. } => {
                assert_eq!(usize::try_from(total).unwrap(), tbs.len());
                joined.extend_from_slice(part);
            }
            Request::More { id: 1, part } => joined.extend_from_slice(part),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(joined, tbs);
}

#[test]
fn a_frame_is_not_believed_to_be_longer_than_any_may_be() {
    let too_long = u32::try_from(FRAME_BYTES_MAX + 1).unwrap();
    let octets = [&too_long.to_be_bytes()[..], &[SIGN]].concat();
    assert_eq!(
        split_frame(&octets),
        Err(WireFault::Length(FRAME_BYTES_MAX + 1))
    );
    assert_eq!(split_frame(&[0; 8]), Err(WireFault::Length(0)));
    assert_eq!(split_frame(&[0, 0, 0, 9, SIGN]), Ok(None), "not whole yet");
}

#[test]
fn another_version_is_named() {
    let mut out = Vec::new();
    put_hello(&mut out);
    let last = out.len() - 1;
    out[last] += 1;
    let Frame { kind, body, .. } = split_frame(&out).unwrap().unwrap();
    assert_eq!(
        Request::parse(kind, body),
        Err(WireFault::Version(PROTOCOL + 1))
    );
}

#[test]
fn a_cause_that_is_too_long_is_cut_at_a_character() {
    let mut out = Vec::new();
    Answer::Failed {
        id: 1,
        fault: Fault::refused(format!("x{}", "ü".repeat(TEXT_BYTES_MAX))),
    }
    .put(&mut out);
    let Frame { kind, body, .. } = split_frame(&out).unwrap().unwrap();
    let Answer::Failed {
        fault: Fault::Refused { cause, .. },
        ..
    } = Answer::parse(kind, body).unwrap()
    else {
        panic!("another answer")
    };
    assert_eq!(cause.len(), TEXT_BYTES_MAX - 1);
}

#[test]
fn octets_after_a_body_are_refused() {
    let mut out = Vec::new();
    put_take_over(&mut out, 1);
    let Frame { kind, body, .. } = split_frame(&out).unwrap().unwrap();
    let longer = [body, &[0]].concat();
    assert_eq!(Request::parse(kind, &longer), Err(WireFault::Body));
}

#[test]
fn only_faults_before_the_token_say_that_no_signature_exists() {
    for answer in answers() {
        if let Answer::Failed { fault, .. } = answer {
            let maybe = matches!(
                fault,
                Fault::Deadline
                    | Fault::Unavailable {
                        reached: Reached::Maybe,
                        ..
                    }
                    | Fault::Refused {
                        reached: Reached::Maybe,
                        ..
                    }
            );
            let error = fault.into_error("t", "k");
            assert_eq!(error.reached() == Reached::Maybe, maybe, "{error}");
        }
    }
}

proptest! {
    #[test]
    fn random_octets_never_panic(
        kind in any::<u8>(),
        octets in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let _ = split_frame(&octets);
        let _ = Request::parse(kind, &octets);
        let _ = Answer::parse(kind, &octets);
    }

    #[test]
    fn mutated_frames_never_panic(place in any::<usize>(), octet in any::<u8>()) {
        let mut out = requests();
        for answer in answers() {
            answer.put(&mut out);
        }
        let place = place % out.len();
        out[place] = octet;
        for (kind, body) in frames(&out).unwrap_or_default() {
            let _ = Request::parse(kind, &body);
            let _ = Answer::parse(kind, &body);
        }
    }

    #[test]
    fn any_label_survives(label in "\\PC{0,60}", id in any::<u32>()) {
        let mut out = Vec::new();
        put_open_key(&mut out, id, &label, SignatureAlgorithm::Ed25519, &[1; 32]);
        let Frame { kind, body, .. } = split_frame(&out).unwrap().unwrap();
        let expected = Request::OpenKey {
            id,
            label: &label,
            algorithm: SignatureAlgorithm::Ed25519,
            spki_sha256: [1; 32],
        };
        prop_assert_eq!(Request::parse(kind, body), Ok(expected));
    }
}
