//! Logs that somebody with the log key wrote against the rules: heads and hashes are all right.

use base64ct::{Base64, Encoding as _};
use certstatus::UnixMillis;
use certstatus::audit::Named;
use certstatus::log::detail::{Base64 as Octets, Detail as _};
use certstatus::log::merkle::leaf_hash;
use certstatus::log::{
    DetailHash, EntryKind, EventDetail, IntentDetail, LeafIndex, Outcome, OutcomeDetail, Subject,
};
use certstatus::signature::{SignatureAlgorithm, assemble};

use crate::forge::{
    Details, Forge, NOT_AFTER_UTC, ORIGIN, chain, name, serial, sha256, tbs_certificate, tlv,
};

/// A log with a ceremony and one device certificate, then what the case adds; the case gives back the
/// entry at which the fault is to be found.
pub fn case(sentence: &str, details: Details, change: impl FnOnce(&mut Forge) -> LeafIndex) {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    forge.device(11);
    let expected = change(&mut forge);
    forge.tick();
    let published = forge.published();
    let verified = published.audit_with(&published.options(), details);
    let fault = verified.expect_err(sentence);
    assert_eq!(fault.index, Some(expected), "{sentence}: {fault}");
    assert!(
        chain(&fault).contains(sentence),
        "{sentence}: {}",
        chain(&fault)
    );
}

/// A fault that leaves alone show: it is found with and without details.
fn leaf_case(sentence: &str, change: impl Fn(&mut Forge) -> LeafIndex) {
    case(sentence, Details::NotGiven, &change);
    case(sentence, Details::Given, change);
}

fn last(forge: &Forge) -> LeafIndex {
    LeafIndex(forge.entries.len() as u64 - 1)
}

#[test]
fn times_never_go_back() {
    leaf_case("is before that of the entry before it", |forge| {
        forge.time -= 8;
        forge.tick()
    });
}

#[test]
fn only_entry_0_names_the_log() {
    leaf_case("a genesis entry that is not the first", |forge| {
        let kind = forge.entries[0].kind.clone();
        forge.append(kind, None)
    });
    let log_key = Forge::new().log_key.to_string();
    let kinds = [
        ("the first entry is not genesis", EntryKind::Tick),
        (
            "names another origin",
            EntryKind::Genesis {
                origin: "log.example/other".into(),
                log_key,
            },
        ),
        (
            "names another log key",
            EntryKind::Genesis {
                origin: ORIGIN.into(),
                log_key: "x+0+AA==".into(),
            },
        ),
    ];
    for (sentence, kind) in kinds {
        leaf_case(sentence, |forge| {
            forge.entries[0].kind = kind.clone();
            LeafIndex(0)
        });
    }
}

#[test]
fn an_empty_log_is_no_log() {
    let mut forge = Forge::new();
    forge.entries.clear();
    forge.details.clear();
    let fault = forge.published().audit().unwrap_err();
    assert!(
        fault.to_string().contains("the log has no entries"),
        "{fault}"
    );
}

#[test]
fn an_intent_has_one_outcome_of_its_own_subject() {
    let abandoned = Outcome::Abandoned;
    leaf_case("there is no open intent there", |forge| {
        let tbs = forge.device_tbs(12);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        forge.outcome(intent, abandoned, None);
        forge.outcome(intent, abandoned, None)
    });
    leaf_case("there is no open intent there", |forge| {
        let issuer = "device-1".parse().unwrap();
        let subject = Forge::device_subject(12);
        let intent = LeafIndex(0);
        let kind = EntryKind::Outcome {
            intent,
            issuer,
            subject,
            outcome: abandoned,
        };
        forge.append(kind, None)
    });
    for (issuer, subject) in [
        ("root", Forge::device_subject(12)),
        ("nobody", Forge::device_subject(12)),
        ("device-1", Forge::device_subject(13)),
        ("device-1", Subject::SelfTest),
    ] {
        leaf_case("its issuer or subject is another", |forge| {
            let tbs = forge.device_tbs(12);
            let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
            let issuer = issuer.parse().unwrap();
            let kind = EntryKind::Outcome {
                intent,
                issuer,
                subject,
                outcome: abandoned,
            };
            forge.append(kind, None)
        });
    }
    leaf_case("was signed in no attempt", |forge| {
        let tbs = forge.device_tbs(12);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        forge.outcome(intent, Outcome::Issued { attempts: 0 }, None)
    });
}

#[test]
fn a_serial_is_used_once_by_whatever_issuer() {
    leaf_case("a second time", |forge| {
        let tbs = forge.device_tbs(11);
        forge.intent("device-1", Forge::device_subject(11), tbs)
    });
    leaf_case("a second time", |forge| {
        let root = forge.cas["root"].name.clone();
        let spki = forge.cas["root"].spki.clone();
        let tbs = tbs_certificate(serial(11), &root, &root, &spki, NOT_AFTER_UTC);
        forge.intent("root", Forge::device_subject(11), tbs)
    });
}

#[test]
fn only_known_serials_are_revoked_by_their_own_issuer() {
    leaf_case("never had an intent for", |forge| forge.revoke(99, 1));
    leaf_case("never had an intent for", |forge| forge.revoke(2, 1));
}

#[test]
fn only_a_hold_becomes_another_revocation_or_none() {
    for (first, then) in [(1, 1), (1, 4), (4, 6), (6, 6)] {
        leaf_case("stands revoked already", |forge| {
            forge.revoke(11, first);
            forge.revoke(11, then)
        });
    }
    leaf_case("is not on hold", |forge| forge.revoke(11, 8));
    leaf_case("is not on hold", |forge| {
        forge.revoke(11, 1);
        forge.revoke(11, 8)
    });
    leaf_case("is not on hold", |forge| {
        forge.revoke(11, 6);
        forge.revoke(11, 8);
        forge.revoke(11, 8)
    });
    let unresolved = |forge: &mut Forge| {
        let tbs = forge.device_tbs(12);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        forge.outcome(intent, Outcome::Unresolved { attempts: 1 }, None);
    };
    leaf_case("stands revoked already", |forge| {
        unresolved(forge);
        forge.revoke(12, 1)
    });
    leaf_case("is not on hold", |forge| {
        unresolved(forge);
        forge.revoke(12, 8)
    });
}

#[test]
fn a_hold_that_becomes_final_keeps_its_time_and_none_is_ahead_of_its_entry() {
    let held = |forge: &mut Forge| {
        let since = UnixMillis::from_seconds(forge.time / 1000);
        forge.revoke_since(11, 6, since);
        since
    };
    leaf_case("from another time on than the hold's own", |forge| {
        let since = held(forge);
        forge.revoke_since(11, 1, UnixMillis(since.0 - 1000))
    });
    leaf_case("which is after its own time", |forge| {
        let later = UnixMillis(forge.time + 3_600_000);
        forge.revoke_since(11, 1, later)
    });
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    forge.device(11);
    // Held, released, held again, and then revoked for good: each of them a change of its own.
    held(&mut forge);
    forge.revoke(11, 8);
    let since = held(&mut forge);
    forge.tick();
    forge.revoke_since(11, 1, since);
    let report = forge.published().audit().unwrap();
    assert_eq!(report.certificates.revoked, 1);
}

#[test]
fn crl_numbers_grow() {
    for number in [5, 4] {
        leaf_case("but CRL 5 was there before it", |forge| {
            forge.crl("device-1", 5, &[]);
            // Another issuer counts for itself.
            forge.crl("root", 1, &[]);
            forge.crl("device-1", number, &[]).0
        });
    }
}

#[test]
fn a_name_is_bound_to_one_key_before_it_signs() {
    leaf_case("the log never binds issuer late to a key", |forge| {
        let tbs = forge.crl_tbs("device-1", 1, &[], &forge.head());
        if forge.cas.contains_key("device-1") {
            let spki = forge.cas["device-1"].spki.clone();
            let spki_der = Base64::encode_string(&spki);
            let data = serde_json::json!({ "issuer": "late", "spki_der": spki_der });
            forge.event("key-generated", data);
        }
        let (number, partition) = (1, 0);
        forge.intent("late", Subject::Crl { number, partition }, tbs)
    });
    case(
        "issuer late signs before the log knows its key",
        Details::Given,
        |forge| forge.intent("late", Subject::SelfTest, b"Hallmark self-test".to_vec()),
    );
    leaf_case("binds issuer device-1 to another key", |forge| {
        let detail = EventDetail {
            data: serde_json::json!({}),
            salt: forge.salt(),
        }
        .encode();
        let kind = EntryKind::Issuer {
            issuer: "device-1".parse().unwrap(),
            spki: [7; 32],
            certificate: [7; 32],
        };
        forge.append(kind, Some(detail))
    });
    case(
        "binds issuer device-1 to another key",
        Details::Given,
        |forge| {
            let spki_der = Base64::encode_string(&forge.cas["root"].spki);
            let data = serde_json::json!({ "issuer": "device-1", "spki_der": spki_der });
            forge.event("key-generated", data)
        },
    );
}

#[test]
fn a_renewed_ca_certificate_keeps_the_key() {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    let ca = &forge.cas["root"];
    let tbs = tbs_certificate(serial(9), &ca.name, &ca.name, &ca.spki, NOT_AFTER_UTC);
    let (_, _, renewed) = forge.sign("root", Forge::device_subject(9), tbs);
    forge.issuer_entry("root", &renewed);
    let stale = forge.published();
    forge.cas.get_mut("root").unwrap().certificate = renewed;
    assert!(forge.published().audit().is_ok());
    // With the old certificate still published, the newest entry is the one that is not met.
    let fault = stale.audit().unwrap_err();
    assert_eq!(fault.index, Some(last(&forge)));
}

#[test]
fn key_events_and_issuer_entries_are_checked() {
    let spki = Base64::encode_string(&Forge::standard().0.cas["root"].spki);
    let bad_hash = "00".repeat(32);
    for (sentence, data) in [
        (
            "by what is not a name",
            serde_json::json!({ "issuer": "No Name" }),
        ),
        ("has no key", serde_json::json!({ "issuer": "x" })),
        (
            "has no key",
            serde_json::json!({ "issuer": "x", "spki_der": "%" }),
        ),
        (
            "no SubjectPublicKeyInfo",
            serde_json::json!({ "issuer": "x", "spki_der": "AAAA" }),
        ),
        (
            "whose hash is not spki_sha256",
            serde_json::json!({ "issuer": "x", "spki_der": spki, "spki_sha256": bad_hash }),
        ),
    ] {
        case(sentence, Details::Given, |forge| {
            forge.event("key-generated", data)
        });
    }
    for (sentence, data) in [
        ("has no certificate", serde_json::json!({})),
        ("not base64", serde_json::json!({ "certificate": "%" })),
        (
            "not the one whose hash was logged",
            serde_json::json!({ "certificate": "AAAA" }),
        ),
    ] {
        case(sentence, Details::Given, |forge| {
            let kind = EntryKind::Issuer {
                issuer: "root".parse().unwrap(),
                spki: sha256(&forge.cas["root"].spki),
                certificate: sha256(&forge.cas["root"].certificate),
            };
            let detail = EventDetail {
                data,
                salt: forge.salt(),
            }
            .encode();
            forge.append(kind, Some(detail))
        });
    }
}

#[test]
fn what_is_signed_is_what_the_leaf_says() {
    let subject = Forge::device_subject(12);
    let later = UnixMillis::from_seconds(crate::forge::NOT_AFTER + 1);
    let other_time = Subject::Certificate {
        serial: serial(12),
        not_after: later,
    };
    let crl = Subject::Crl {
        number: 3,
        partition: 0,
    };
    type Bytes = fn(&Forge) -> Vec<u8>;
    let cases: [(&str, Subject, Bytes); 10] = [
        ("the serial in its bytes is not the leaf's", subject, |f| {
            f.device_tbs(13)
        }),
        ("the end of validity in its bytes", other_time, |f| {
            f.device_tbs(12)
        }),
        ("its bytes are not a TBSCertificate", subject, |_| {
            b"Hallmark self-test".to_vec()
        }),
        ("its bytes are not a TBSCertificate", subject, |f| {
            f.crl_tbs("device-1", 3, &[], "x")
        }),
        ("the issuer in its bytes is not the subject", subject, |f| {
            let spki = &f.cas["root"].spki;
            tbs_certificate(
                serial(12),
                &name("other"),
                &name("device"),
                spki,
                NOT_AFTER_UTC,
            )
        }),
        ("its bytes are not a TBSCertList", crl, |f| f.device_tbs(12)),
        (
            "its bytes are not a CertificationRequestInfo",
            Subject::Request,
            |f| f.device_tbs(12),
        ),
        (
            "it requests a certificate for another key",
            Subject::Request,
            |f| {
                tlv(
                    0x30,
                    &[&[2, 1, 0], &name("x"), &f.cas["root"].spki, &[0xa0, 0]],
                )
            },
        ),
        ("do not begin as a self-test's do", Subject::SelfTest, |f| {
            f.device_tbs(12)
        }),
        (
            "do not begin as a self-test's do",
            Subject::SelfTest,
            |_| b"hallmark self-test".to_vec(),
        ),
    ];
    for (sentence, subject, bytes) in cases {
        case(sentence, Details::Given, |forge| {
            let tbs = bytes(forge);
            forge.intent("device-1", subject, tbs)
        });
    }
}

#[test]
fn an_intents_detail_is_there_and_names_the_key_in_its_bytes() {
    case(
        "names no detail, so the signature cannot be checked",
        Details::Given,
        |forge| {
            let subject = Forge::device_subject(12);
            forge.append(
                EntryKind::Intent {
                    issuer: "device-1".parse().unwrap(),
                    subject,
                },
                None,
            )
        },
    );
    case("its detail cannot be read", Details::Given, |forge| {
        let subject = Forge::device_subject(12);
        let detail = Some(b"{}".to_vec());
        forge.append(
            EntryKind::Intent {
                issuer: "device-1".parse().unwrap(),
                subject,
            },
            detail,
        )
    });
    case(
        "the public key in its bytes is not the one",
        Details::Given,
        |forge| {
            let detail = IntentDetail {
                device_id: None,
                line: None,
                list: None,
                operator: None,
                order: None,
                profile: None,
                requested: None,
                salt: forge.salt(),
                spki: Some(DetailHash([1; 32])),
                tbs: Octets(forge.device_tbs(12)),
                why: None,
            };
            let subject = Forge::device_subject(12);
            let issuer = "device-1".parse().unwrap();
            forge.append(EntryKind::Intent { issuer, subject }, Some(detail.encode()))
        },
    );
}

#[test]
fn signatures_are_verified_over_the_intents_bytes() {
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    // (signed by, over the bytes of this serial, hash of the object of this serial, what is found)
    let cases = [
        (
            "root",
            12,
            12,
            "is not issuer device-1's over the intent's bytes",
        ),
        (
            "device-1",
            13,
            12,
            "is not issuer device-1's over the intent's bytes",
        ),
        (
            "device-1",
            12,
            13,
            "does not have the hash that its detail says",
        ),
    ];
    for (by, over, hashed, sentence) in cases {
        case(sentence, Details::Given, |forge| {
            let tbs = forge.device_tbs(12);
            let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
            let signature = forge.cas[by].sign(&forge.device_tbs(over));
            let object = assemble(&forge.device_tbs(hashed), algorithm, &signature);
            forge.outcome(
                intent,
                Outcome::Issued { attempts: 1 },
                Some((signature, object)),
            )
        });
    }
    case("names no detail", Details::Given, |forge| {
        let tbs = forge.device_tbs(12);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        let (issuer, subject) = ("device-1".parse().unwrap(), Forge::device_subject(12));
        let outcome = Outcome::Issued { attempts: 1 };
        forge.append(
            EntryKind::Outcome {
                intent,
                issuer,
                subject,
                outcome,
            },
            None,
        )
    });
    case("its detail has no signature", Details::Given, |forge| {
        let tbs = forge.device_tbs(12);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        forge.outcome(intent, Outcome::Issued { attempts: 1 }, None)
    });
    case("does not have the hash", Details::Given, |forge| {
        let tbs = forge.device_tbs(12);
        let signature = forge.cas["device-1"].sign(&tbs);
        let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
        let (salt, signature) = (forge.salt(), Some(Octets(signature)));
        let detail = OutcomeDetail {
            reason: None,
            salt,
            sha256: None,
            signature,
        };
        forge.issued(intent, &detail)
    });
    case(
        "there is a signature, but the outcome says",
        Details::Given,
        |forge| {
            let tbs = forge.device_tbs(12);
            let signature = forge.cas["device-1"].sign(&tbs);
            let object = assemble(&tbs, algorithm, &signature);
            let intent = forge.intent("device-1", Forge::device_subject(12), tbs);
            forge.outcome(intent, Outcome::Abandoned, Some((signature, object)))
        },
    );
}

#[test]
fn rsa_and_other_keys_verify_where_the_bytes_name_no_algorithm() {
    use aws_lc_rs::encoding::AsDer as _;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA384, RSA_PSS_SHA256, RsaKeyPair};
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    let spki = pair.public_key().as_der().unwrap().as_ref().to_vec();
    let mut forge = Forge::new();
    let spki_der = Base64::encode_string(&spki);
    forge.event(
        "key-generated",
        serde_json::json!({ "issuer": "rsa", "spki_der": spki_der }),
    );
    let tbs = b"Hallmark self-test of an RSA key".to_vec();
    let random = aws_lc_rs::rand::SystemRandom::new();
    for padding in [
        &RSA_PSS_SHA256 as &dyn aws_lc_rs::signature::RsaEncoding,
        &RSA_PKCS1_SHA384,
    ] {
        let intent = forge.intent("rsa", Subject::SelfTest, tbs.clone());
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(padding, &random, &tbs, &mut signature).unwrap();
        let (salt, signature) = (forge.salt(), Some(Octets(signature)));
        // A self-test is no DER object, so there need be no hash of one.
        forge.issued(
            intent,
            &OutcomeDetail {
                reason: None,
                salt,
                sha256: None,
                signature,
            },
        );
    }
    // A certificate from a root elsewhere: its signature is not this log's to verify.
    let tbs = tbs_certificate(
        serial(1),
        &name("elsewhere"),
        &name("rsa"),
        &spki,
        NOT_AFTER_UTC,
    );
    let certificate = assemble(&tbs, SignatureAlgorithm::EcdsaSha256, &[0; 70]);
    let data = serde_json::json!({ "certificate": Base64::encode_string(&certificate) });
    let detail = EventDetail {
        data,
        salt: forge.salt(),
    }
    .encode();
    let issuer = "rsa".parse().unwrap();
    let kind = EntryKind::Issuer {
        issuer,
        spki: sha256(&spki),
        certificate: sha256(&certificate),
    };
    forge.append(kind, Some(detail));
    let mut published = forge.published();
    published.ca.insert("rsa".into(), certificate);
    let report = published.audit().unwrap();
    assert_eq!(report.details.unwrap().signatures_verified, 2);
}

#[test]
fn a_log_forked_by_its_own_key_needs_another_head_to_be_found() {
    // Two histories, each of them in order: only a head of the other one shows the fork.
    let mut forge = Forge::new();
    forge.tick();
    let one = forge.published();
    forge.entries.pop();
    forge.details.pop();
    forge.event("order-opened", serde_json::json!({}));
    let other = forge.published();
    assert!(one.audit().is_ok() && other.audit().is_ok());
    assert_ne!(leaf_hash(&one.leaves[1]), leaf_hash(&other.leaves[1]));
    let mut options = one.options();
    options.checkpoints.push(Named {
        name: "other".into(),
        contents: other.head,
    });
    let fault = one
        .audit_with(&options, Details::Given)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("other states another root for the first 2 entries"),
        "{fault}"
    );
}
