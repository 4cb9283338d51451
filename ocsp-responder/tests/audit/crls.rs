//! CRLs against the log that they are made of: the same rules, for what a log with the log key wrote.

use certstatus::UnixMillis;
use certstatus::audit::Named;
use certstatus::crl::{RevokedEntry, Scope};
use certstatus::log::detail::Detail as _;
use certstatus::log::{CrlList, Gone, IntentDetail, LeafIndex, Outcome, Subject};

use crate::forge::{Details, Forge, chain, ends, serial};
use crate::rules::case;

/// What is said of a logged CRL whose list is not the log's.
const LIST: &str = "the list that follows from the log is not the one that was to be signed";

#[test]
fn logged_crls_agree_with_the_log() {
    case(LIST, Details::Given, |forge| {
        forge.crl("device-1", 1, &[11]).0
    });
    case(LIST, Details::Given, |forge| {
        forge.revoke(11, 1);
        // Of another issuer.
        forge.crl("root", 1, &[11]).0
    });
    case(
        "the CRL number in its bytes is not the leaf's",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("device-1", 2, &[], &forge.head());
            forge.sign_crl("device-1", 1, tbs)
        },
    );
    case(
        "the issuer in its bytes is not the subject",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("root", 1, &[], &forge.head());
            forge.sign_crl("device-1", 1, tbs)
        },
    );
    case(
        "states another root for the first 2 entries",
        Details::Given,
        |forge| {
            let leaves = [forge.leaves()[0].clone(), b"forked".to_vec()];
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.sign_head(&leaves));
            forge.sign_crl("device-1", 1, tbs)
        },
    );
    case(
        "states another root for the first 500 entries",
        Details::Given,
        |forge| {
            // A head that the log did not have yet.
            let leaves = vec![b"future".to_vec(); 500];
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.sign_head(&leaves));
            forge.sign_crl("device-1", 1, tbs)
        },
    );
    case(
        "is not a checkpoint that the log key signed",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("device-1", 1, &[], "nothing");
            forge.sign_crl("device-1", 1, tbs)
        },
    );
}

/// A log whose device issuer has two partitions, and three revoked certificates.
fn partitioned() -> Forge {
    let mut forge = Forge::new();
    forge.partitions = 2;
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    for n in 11..14 {
        forge.device(n);
        forge.revoke(n, 1);
    }
    forge
}

/// Those of the three that belong to a partition.
fn members(partition: u32) -> Vec<u8> {
    let of = |n: &u8| serial(*n).partition(2) == partition;
    (11..14).filter(of).collect()
}

#[test]
fn a_partitions_crl_lists_its_own_certificates_and_stands_in_its_own_place() {
    let mut forge = partitioned();
    forge.crl("device-1", 1, &[11, 12, 13]);
    for partition in [1, 2] {
        forge.scope = Scope::Partition(format!("http://x.example/{partition}.crl"));
        let place = (u64::from(partition) + 1, partition);
        forge.crl_of("device-1", place, &members(partition));
    }
    let report = forge.published().audit().unwrap();
    let mut told: Vec<_> = report
        .crls
        .iter()
        .map(|crl| (crl.partition, crl.number))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(0, 1), (1, 2), (2, 3)]);
    assert!(report.crls.iter().all(|crl| crl.newest == crl.number));

    // Exchanged on the way to readers.
    let one = forge.crls["device-1/1"].clone();
    let full = forge.crls["device-1"].clone();
    for other in [one, full] {
        forge.crls.insert("device-1/2".to_owned(), other);
        let said = chain(&forge.published().audit().unwrap_err());
        assert!(said.contains("in the place of another partition"), "{said}");
    }
}

#[test]
fn a_crl_that_lists_another_partitions_certificates_is_a_fault() {
    let case = |sentence: &str, partition: u32, scope: Scope, revoked: &[u8]| {
        let mut forge = partitioned();
        forge.scope = scope;
        let (at, _) = forge.crl_of("device-1", (1, partition), revoked);
        let fault = forge.published().audit().unwrap_err();
        assert_eq!(fault.index, Some(at), "{sentence}: {fault}");
        assert!(
            chain(&fault).contains(sentence),
            "{sentence}: {}",
            chain(&fault)
        );
    };
    let named = || Scope::Partition("http://x.example/1.crl".to_owned());
    case(LIST, 1, named(), &members(2));
    case("none of its issuer", 3, named(), &[]);
    case("covers a partition", 0, named(), &[]);
    case("covers a partition", 1, Scope::UserCertificates, &[]);
}

#[test]
fn a_crl_made_before_a_hold_was_lifted_verifies() {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    forge.device(11);
    forge.revoke(11, 6);
    let tbs = forge.crl_tbs("device-1", 1, &[11], &forge.head());
    forge.revoke(11, 8);
    // Made before the hold was lifted, logged after it: it takes into account what is below its checkpoint.
    forge.sign(
        "device-1",
        Subject::Crl {
            number: 1,
            partition: 0,
        },
        tbs,
    );
    let report = forge.published().audit().unwrap();
    assert_eq!(report.certificates.revoked, 0);
}

//------ The whole list, and nothing else ----

/// A log with four certificates that count as revoked: two for good, one on hold, one left unresolved; and one whose
/// hold was lifted, one that is good.
fn revoked() -> Forge {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    for n in [11, 12, 14, 15, 16] {
        forge.device(n);
    }
    let tbs = forge.device_tbs(13);
    let open = forge.intent("device-1", Forge::device_subject(13), tbs);
    for (n, reason) in [(11, 1), (15, 6), (12, 4)] {
        forge.time += 60_000;
        forge.revoke(n, reason);
    }
    forge.time += 60_000;
    forge.outcome(open, Outcome::Unresolved { attempts: 1 }, None);
    forge.revoke(15, 8);
    forge.time += 60_000;
    forge.revoke(14, 6);
    forge.time += 60_000;
    forge
}

/// Signs and publishes a CRL of these entries; gives back its intent.
fn list(forge: &mut Forge, number: u64, entries: &[RevokedEntry]) -> LeafIndex {
    let tbs = forge.crl_listing("device-1", number, entries, &forge.head());
    let partition = 0;
    let (intent, _, object) = forge.sign("device-1", Subject::Crl { number, partition }, tbs);
    forge.crls.insert("device-1".to_owned(), object);
    intent
}

/// What the log of [`revoked`] wants listed.
fn honest(forge: &Forge) -> Vec<RevokedEntry> {
    [11, 12, 13, 14].map(|n| forge.entry_of(n)).to_vec()
}

#[test]
fn a_list_that_is_not_the_logs_is_found_with_details_and_without() {
    type Change = fn(&mut Vec<RevokedEntry>, &Forge);
    let cases: [(&str, Change); 10] = [
        ("does not list 4b0b", |list, _| {
            list.remove(0);
        }),
        ("does not list 4e0e", |list, _| {
            list.pop();
        }),
        ("does not list 4d0d", |list, _| {
            list.remove(2);
        }),
        ("lists 501010", |list, forge| list.push(forge.entry_of(16))),
        ("lists 4f0f", |list, forge| {
            list.insert(1, forge.entry_of(15))
        }),
        ("lists 4a0a", |list, forge| {
            list.insert(0, forge.entry_of(10))
        }),
        (
            "4b0b0b0b0b0b0b0b0b0b0b0b0b0b0b0b with another reason",
            |list, _| {
                list[0].reason = Some(4);
            },
        ),
        (
            "4d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d with another reason",
            |list, _| {
                list[2].reason = Some(1);
            },
        ),
        (
            "4c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c with another date",
            |list, _| {
                list[1].revoked_at.0 += 1000;
            },
        ),
        ("in another place", |list, _| list.swap(1, 2)),
    ];
    for (sentence, change) in cases {
        let mut forge = revoked();
        let mut entries = honest(&forge);
        change(&mut entries, &forge);
        let intent = list(&mut forge, 1, &entries);
        let published = forge.published();
        let fault = published.audit().unwrap_err();
        assert_eq!(fault.index, Some(intent), "{sentence}: {fault}");
        assert!(chain(&fault).contains(LIST), "{sentence}: {fault}");
        let without = published.audit_with(&published.options(), Details::NotGiven);
        let said = chain(&without.unwrap_err());
        assert!(said.contains(sentence), "{sentence}: {said}");
    }
}

#[test]
fn a_whole_list_verifies_and_so_does_each_one_before_it() {
    let mut forge = revoked();
    let entries = honest(&forge);
    list(&mut forge, 1, &entries);
    let old = forge.crls["device-1"].clone();
    // A hold that becomes final is listed where that entry stands, from the hold's own time on.
    let held = forge.entry_of(14).revoked_at;
    forge.revoke_since(14, 1, held);
    forge.revoke(16, 5);
    let entries = [11, 12, 13, 14, 16].map(|n| forge.entry_of(n));
    assert_eq!((entries[3].revoked_at, entries[3].reason), (held, Some(1)));
    list(&mut forge, 2, &entries);
    let published = forge.published();
    for details in [Details::Given, Details::NotGiven] {
        let mut options = published.options();
        options.crls.push(Named {
            name: "kept.crl".to_owned(),
            contents: old.clone(),
        });
        published.audit_with(&options, details).unwrap();
    }
}

#[test]
fn a_crl_that_was_never_issued_is_checked_all_the_same() {
    for end in [Outcome::Abandoned, Outcome::Unresolved { attempts: 1 }] {
        let mut forge = revoked();
        let entries = honest(&forge);
        let tbs = forge.crl_listing("device-1", 1, &entries[1..], &forge.head());
        let subject = Subject::Crl {
            number: 1,
            partition: 0,
        };
        let intent = forge.intent("device-1", subject, tbs);
        forge.outcome(intent, end, None);
        let fault = forge.published().audit().unwrap_err();
        assert_eq!(fault.index, Some(intent), "{fault}");
    }
}

#[test]
fn the_detail_of_a_crl_says_how_its_list_follows_and_no_other_does() {
    let append = |forge: &mut Forge, subject, tbs: Vec<u8>, list: Option<CrlList>| {
        let detail = IntentDetail {
            device_id: None,
            line: None,
            list,
            operator: None,
            order: None,
            profile: None,
            requested: None,
            salt: forge.salt(),
            spki: None,
            tbs: certstatus::log::Base64(tbs),
            why: None,
        };
        let issuer = "device-1".parse().unwrap();
        let kind = certstatus::log::EntryKind::Intent { issuer, subject };
        forge.append(kind, Some(detail.encode()))
    };
    let some = CrlList {
        entries: 0,
        gone: None,
        sha256: certstatus::log::DetailHash([0; 32]),
    };
    let crl = Subject::Crl {
        number: 1,
        partition: 0,
    };
    case(
        "does not say what its list follows from",
        Details::Given,
        |forge| {
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.head());
            append(forge, crl, tbs, None)
        },
    );
    case("its detail is that of a CRL", Details::Given, |forge| {
        let test = b"Hallmark self-test".to_vec();
        append(forge, Subject::SelfTest, test, Some(some))
    });
    case("revokedCertificates: not absent", Details::Given, |forge| {
        forge.revoke(11, 1);
        let tbs = forge.crl_tbs("device-1", 1, &[11], &forge.head());
        append(forge, crl, tbs, Some(some))
    });
    for (entries, tampered) in [(1, false), (0, true)] {
        case(LIST, Details::Given, |forge| {
            let tbs = forge.crl_tbs("device-1", 1, &[], &forge.head());
            let mut sha256 = certstatus::log::DetailHash::of(&tbs);
            sha256.0[31] ^= u8::from(tampered);
            let list = CrlList {
                entries,
                gone: None,
                sha256,
            };
            append(forge, crl, tbs, Some(list))
        });
    }
}

//------ What leaves ----

/// When the certificates from 200 on end.
fn end() -> UnixMillis {
    UnixMillis::from_seconds(ends(200).0)
}

/// A log with a revoked certificate that ends soon and one that does not, both on a CRL; gives back its size there.
fn expiring() -> (Forge, u64) {
    let mut forge = Forge::new();
    forge.ceremony("root", "root", 1);
    forge.ceremony("device-1", "root", 2);
    for n in [11, 200] {
        forge.device(n);
        forge.revoke(n, 1);
    }
    let covered = forge.entries.len() as u64;
    forge.crl("device-1", 1, &[11, 200]);
    (forge, covered)
}

/// Lets the time pass until after the end.
fn pass(forge: &mut Forge) {
    forge.time = end().0 + 3_600_000;
}

#[test]
fn what_expired_leaves_after_a_crl_that_was_made_later() {
    let (mut forge, _) = expiring();
    pass(&mut forge);
    let covered = forge.entries.len() as u64;
    let made = UnixMillis::from_seconds(forge.time / 1000);
    forge.crl("device-1", 2, &[11, 200]);
    forge.gone = Some(Gone {
        covered,
        expired: made,
    });
    forge.crl("device-1", 3, &[11]);
    // It may come back, and leave again.
    let (third, gone) = (forge.published(), forge.gone.take());
    forge.crl("device-1", 4, &[11, 200]);
    forge.gone = gone;
    forge.crl("device-1", 5, &[11]);
    for published in [third, forge.published()] {
        for details in [Details::Given, Details::NotGiven] {
            published.audit_with(&published.options(), details).unwrap();
        }
    }
}

#[test]
fn what_leaves_too_early_is_found() {
    let early = "stood on no CRL made after their end of validity";
    // The last CRL was made before the end.
    let (mut forge, covered) = expiring();
    pass(&mut forge);
    let expired = UnixMillis(forge.time);
    forge.gone = Some(Gone { covered, expired });
    let (at, _) = forge.crl("device-1", 2, &[11]);
    let fault = forge.published().audit().unwrap_err();
    assert_eq!(fault.index, Some(at), "{fault}");
    assert!(fault.to_string().contains(early), "{fault}");
    // The CRL after it never took the revocation into account.
    let (mut forge, _) = expiring();
    forge.device(201);
    pass(&mut forge);
    let covered = forge.entries.len() as u64;
    let made = UnixMillis::from_seconds(forge.time / 1000);
    forge.crl("device-1", 2, &[11, 200]);
    forge.revoke(201, 1);
    forge.gone = Some(Gone {
        covered: covered + 10,
        expired: made,
    });
    forge.crl("device-1", 3, &[11]);
    let fault = forge.published().audit().unwrap_err();
    assert!(fault.to_string().contains(early), "{fault}");
    // One of another partition, or of another issuer, does not count.
    let (mut forge, _) = expiring();
    pass(&mut forge);
    let covered = forge.entries.len() as u64;
    forge.crl("root", 1, &[]);
    forge.gone = Some(Gone {
        covered,
        expired: end(),
    });
    forge.crl("device-1", 2, &[11, 200]);
    let fault = forge.published().audit().unwrap_err();
    assert!(fault.to_string().contains(early), "{fault}");
    // Without details: the end has not come.
    let (mut forge, _) = expiring();
    let other = forge.entry_of(11);
    let intent = list(&mut forge, 2, &[other]);
    let published = forge.published();
    assert_eq!(published.audit().unwrap_err().index, Some(intent));
    let without = published.audit_with(&published.options(), Details::NotGiven);
    let said = chain(&without.unwrap_err());
    assert!(said.contains("does not list"), "{said}");
}

#[test]
fn what_a_crl_says_that_it_keeps_is_on_it() {
    let (mut forge, _) = expiring();
    pass(&mut forge);
    let covered = forge.entries.len() as u64;
    let made = UnixMillis::from_seconds(forge.time / 1000);
    forge.crl("device-1", 2, &[11, 200]);
    forge.expired_since = Some(end());
    forge.gone = Some(Gone {
        covered,
        expired: end(),
    });
    // Until its last second it has not expired.
    forge.crl("device-1", 3, &[11, 200]);
    forge.published().audit().unwrap();
    forge.gone = Some(Gone {
        covered,
        expired: made,
    });
    forge.crl("device-1", 4, &[11]);
    let published = forge.published();
    let fault = published.audit().unwrap_err().to_string();
    assert!(
        fault.contains("its expiredCertsOnCRL says that it keeps"),
        "{fault}"
    );
    let without = published.audit_with(&published.options(), Details::NotGiven);
    let said = chain(&without.unwrap_err());
    assert!(said.contains("does not list"), "{said}");
}
