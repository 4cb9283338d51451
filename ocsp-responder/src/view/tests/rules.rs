//! What each kind of entry makes of an answer.

use super::*;
use crate::audit::{self, Erased, Options};
use crate::log::{Entry, LeafIndex, Subject};

fn status(view: &View, name: &str, n: u64) -> CertStatus {
    view.reader().status(&issuer(name), serial(1, n)).unwrap()
}

fn revoked(at: u64, reason: Option<RevocationReason>) -> CertStatus {
    let at = UnixMillis::from_seconds(at / 1000);
    CertStatus::Revoked { at, reason }
}

#[test]
fn every_outcome_has_its_answer() {
    let mut site = Site::new();
    let device = issuer("device-1");
    site.log.certificate(&device, serial(1, 0), ISSUED).unwrap();
    site.log
        .certificate(&device, serial(1, 1), Outcome::Abandoned)
        .unwrap();
    let unresolved_at = site.log.time + 1;
    site.log
        .certificate(&device, serial(1, 2), Outcome::Unresolved { attempts: 1 })
        .unwrap();
    let subject = Subject::Certificate {
        serial: serial(1, 3),
        not_after: UnixMillis(0),
    };
    site.log
        .push(EntryKind::Intent {
            issuer: device.clone(),
            subject,
        })
        .unwrap();
    // Revoked while its intent is open, then issued after all.
    let subject = Subject::Certificate {
        serial: serial(1, 4),
        not_after: UnixMillis(0),
    };
    let intent = site
        .log
        .push(EntryKind::Intent {
            issuer: device.clone(),
            subject,
        })
        .unwrap();
    let revoked_at = site.log.time;
    site.log
        .revoke(&device, serial(1, 4), RevocationReason::Superseded)
        .unwrap();
    let outcome = EntryKind::Outcome {
        intent,
        issuer: device.clone(),
        subject,
        outcome: ISSUED,
    };
    site.log.push(outcome).unwrap();
    // Held and released, whatever it was before.
    for n in [0, 1, 2] {
        site.log
            .revoke(&device, serial(1, n), RevocationReason::CertificateHold)
            .unwrap();
        site.log
            .revoke(&device, serial(1, n), RevocationReason::RemoveFromCrl)
            .unwrap();
    }
    site.log.publish().unwrap();
    let mut view = site.open();
    assert_eq!(
        view.reader().status(&device, serial(1, 0)),
        Err(Damaged::Nothing)
    );
    assert_eq!((view.reader().as_of(), view.reader().head()), (None, None));
    assert_eq!(follow(&mut view, &site).changed, Changed::Everything);
    let check = |view: &View| {
        assert_eq!(status(view, "device-1", 0), CertStatus::Good);
        assert_eq!(status(view, "device-1", 1), CertStatus::Unknown);
        assert_eq!(status(view, "device-1", 2), revoked(unresolved_at, None));
        assert_eq!(status(view, "device-1", 3), CertStatus::Unknown);
        let superseded = revoked(revoked_at, Some(RevocationReason::Superseded));
        assert_eq!(status(view, "device-1", 4), superseded);
        assert_eq!(status(view, "device-2", 0), CertStatus::Unknown);
    };
    check(&view);
    drop(view);
    check(&site.open());
}

#[test]
fn what_changed_is_told() {
    let mut site = Site::new();
    site.grow(0..10);
    let mut view = site.open();
    follow(&mut view, &site);
    let nothing = Changed::Serials(Vec::new());
    let idle = follow(&mut view, &site);
    assert_eq!(
        (idle.entries, &idle.changed, idle.rebuilt),
        (0, &nothing, false)
    );
    site.issue(10);
    site.revoke(1, RevocationReason::CertificateHold);
    site.revoke(1, RevocationReason::RemoveFromCrl);
    let device = issuer("device-1");
    site.log
        .certificate(&device, serial(1, 99), Outcome::Unresolved { attempts: 0 })
        .unwrap();
    site.log.publish().unwrap();
    let followed = follow(&mut view, &site);
    assert_eq!(followed.entries, 6);
    assert_eq!(followed.head, site.log.head());
    let serials = [1, 1, 99].map(|n| (device.clone(), serial(1, n)));
    assert_eq!(followed.changed, Changed::Serials(serials.to_vec()));
    (0..10_001).for_each(|_| site.revoke(2, RevocationReason::KeyCompromise));
    site.log.publish().unwrap();
    assert_eq!(follow(&mut view, &site).changed, Changed::Everything);
    site.check(&view.reader());
    // No release takes back what is for good, which the audit reports.
    site.revoke(2, RevocationReason::RemoveFromCrl);
    site.log.publish().unwrap();
    follow(&mut view, &site);
    site.check(&view.reader());
    let revoked = status(&view, "device-1", 2);
    assert!(matches!(revoked, CertStatus::Revoked { .. }), "{revoked:?}");
}

#[test]
fn issuers_are_bound_to_the_newest_certificate() {
    let mut site = Site::new();
    site.log.publish().unwrap();
    let mut view = site.open();
    follow(&mut view, &site);
    let [first] = &view.reader().issuers()[..] else {
        panic!()
    };
    assert_eq!(first.name, issuer("device-1"));
    let (spki, renewed) = (first.spki, [9; 32]);
    // Of CRLs the newest issued number of each partition counts.
    let crls = [(10, 0, ISSUED), (11, 2, ISSUED), (12, 0, ISSUED)];
    let lost = Outcome::Unresolved { attempts: 1 };
    for (number, partition, outcome) in crls.into_iter().chain([(13, 0, lost), (14, 5000, ISSUED)])
    {
        site.log
            .crl(&issuer("device-1"), number, partition, outcome)
            .unwrap();
    }
    // A name that signs before it has a certificate is not bound.
    site.log
        .certificate(&issuer("early"), serial(1, 0), ISSUED)
        .unwrap();
    let name = issuer("device-1");
    site.log
        .push(EntryKind::Issuer {
            issuer: name.clone(),
            spki,
            certificate: renewed,
        })
        .unwrap();
    site.log.publish().unwrap();
    follow(&mut view, &site);
    drop(view);
    let view = site.open();
    let certificate = renewed;
    assert_eq!(
        view.reader().issuers(),
        [IssuerBinding {
            name,
            spki,
            certificate,
            crls: BTreeMap::from([(0, 12), (2, 11)]),
        }]
    );
    assert_eq!(status(&view, "early", 0), CertStatus::Good);
    assert_eq!(status(&view, "device-1", 0), CertStatus::Unknown);
}

/// A signed log with one bad entry is refused at that entry, and what was verified before stands.
fn bad(sentence: &str, change: impl FnOnce(&mut Site)) {
    let mut site = Site::new();
    site.grow(0..200);
    let mut view = site.open();
    follow(&mut view, &site);
    let (before, time) = (site.log.head(), site.log.time);
    change(&mut site);
    let index = LeafIndex(site.log.size() - 1);
    for _ in 0..300 {
        site.log.push(EntryKind::Tick).unwrap();
    }
    site.log.publish().unwrap();
    for _ in 0..2 {
        let refused = refused(&mut view, &site);
        assert!(!refused.is_transient());
        let FollowError::BadEntry { index: at, source } = refused else {
            panic!("{sentence}: {refused:?}");
        };
        assert_eq!(at, index, "{sentence}");
        assert!(
            source.to_string().contains(sentence),
            "{sentence}: {source}"
        );
    }
    let reader = view.reader();
    assert_eq!(reader.head(), Some(before));
    assert_eq!(reader.as_of(), Some(UnixMillis(time - 1)));
    for (serial, status) in &site.expected {
        assert_eq!(
            reader.status(&issuer("device-1"), *serial).as_ref(),
            Ok(status)
        );
    }
    // The audit refuses it too.
    let source = audit::Source {
        published: site.public(),
        details: None,
    };
    assert!(
        audit::verify(&source, &options(&site), |_| {}).is_err(),
        "{sentence}"
    );
}

fn options(site: &Site) -> Options {
    Options {
        log_key: site.log.key().clone(),
        checkpoints: Vec::new(),
        crls: Vec::new(),
        erased: Erased::Fault,
    }
}

fn raw(site: &mut Site, index: u64, time: u64, kind: EntryKind) {
    let (index, time) = (LeafIndex(index), UnixMillis(time));
    let entry = Entry {
        index,
        time,
        kind,
        detail: None,
    };
    site.log.push_leaf(entry.encode()).unwrap();
}

#[test]
fn signed_entries_that_break_a_rule_are_refused() {
    bad("not a canonical leaf", |site| {
        site.log.push_leaf(b"{}".to_vec()).unwrap()
    });
    bad("says that it is entry 7", |site| {
        raw(site, 7, site.log.time, EntryKind::Tick)
    });
    bad("is before that of the entry before it", |site| {
        raw(site, site.log.size(), TIME, EntryKind::Tick);
    });
    bad("a genesis entry that is not the first", |site| {
        let (origin, log_key) = (ORIGIN.to_owned(), site.log.key().to_string());
        raw(
            site,
            site.log.size(),
            site.log.time,
            EntryKind::Genesis { origin, log_key },
        );
    });
    bad("binds issuer device-1 to another key", |site| {
        let name = issuer("device-1");
        let kind = EntryKind::Issuer {
            issuer: name,
            spki: [1; 32],
            certificate: [1; 32],
        };
        site.log.push(kind).unwrap();
    });
    let outcome = |intent: u64, name: &str, n: u64| EntryKind::Outcome {
        intent: LeafIndex(intent),
        issuer: issuer(name),
        subject: Subject::Certificate {
            serial: serial(1, n),
            not_after: UnixMillis::END_OF_TIME,
        },
        outcome: ISSUED,
    };
    // Entry 2 is the intent of serial 0, and entry 3 its outcome.
    bad("ends intent 2", |site| {
        site.log.push(outcome(2, "device-1", 0)).unwrap();
    });
    bad("ends intent 0", |site| {
        site.log.push(outcome(0, "device-1", 9000)).unwrap();
    });
    for (name, n) in [("device-1", 9001), ("other", 9000)] {
        bad("which is not open or is another one's", |site| {
            let subject = Subject::Certificate {
                serial: serial(1, 9000),
                not_after: UnixMillis::END_OF_TIME,
            };
            let intent = EntryKind::Intent {
                issuer: issuer("device-1"),
                subject,
            };
            let intent = site.log.push(intent).unwrap();
            site.log.push(outcome(intent.0, name, n)).unwrap();
        });
    }
}

#[test]
fn entry_0_names_the_log() {
    let base = tempfile::tempdir().unwrap();
    for (sentence, origin, log_key) in [
        ("names another origin", "log.example/other", None),
        ("names another log key", ORIGIN, Some("x+00000000+AA==")),
    ] {
        let public = base.path().join(sentence);
        let honest = MadeLog::new(&public, ORIGIN, [7; 32], TIME).unwrap();
        let key = honest.key().clone();
        let log_key = log_key.map_or_else(|| key.to_string(), str::to_owned);
        let kind = EntryKind::Genesis {
            origin: origin.to_owned(),
            log_key,
        };
        let entry = Entry {
            index: LeafIndex(0),
            time: UnixMillis(1),
            kind,
            detail: None,
        };
        let mut forged = MadeLog::empty(&public, ORIGIN, [7; 32], TIME).unwrap();
        forged.push_leaf(entry.encode()).unwrap();
        forged.publish().unwrap();
        let mut view = View::open(&base.path().join(format!("state {sentence}")), key).unwrap();
        let refused = wait(view.follow(&Source::directory(public))).unwrap_err();
        let FollowError::BadEntry {
            index: LeafIndex(0),
            source,
        } = refused
        else {
            panic!("{refused:?}");
        };
        assert!(source.to_string().contains(sentence), "{source}");
        assert_eq!(view.reader().as_of(), None);
    }
}

#[test]
fn a_log_without_entries_says_nothing() {
    let base = tempfile::tempdir().unwrap();
    let public = base.path().join("public");
    let mut log = MadeLog::empty(&public, ORIGIN, [7; 32], TIME).unwrap();
    log.publish().unwrap();
    let mut view = View::open(&base.path().join("state"), log.key().clone()).unwrap();
    let followed = wait(view.follow(&Source::directory(public))).unwrap();
    assert_eq!(followed.entries, 0);
    let answer = view.reader().status(&issuer("device-1"), serial(1, 0));
    assert_eq!(answer, Err(Damaged::Nothing));
}

/// What happens next in a random log.
#[derive(Clone, Debug)]
enum Act {
    Issue,
    Revoke(proptest::sample::Index, usize),
    Publish,
    Follow,
    Restart,
}

fn acts() -> impl proptest::strategy::Strategy<Value = Vec<Act>> {
    use proptest::prelude::*;
    let act = prop_oneof![
        20 => Just(Act::Issue),
        8 => (any::<prop::sample::Index>(), 0usize..10).prop_map(|(which, reason)| Act::Revoke(which, reason)),
        3 => Just(Act::Publish),
        3 => Just(Act::Follow),
        1 => Just(Act::Restart),
    ];
    prop::collection::vec(act, 1..250)
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 24, ..Default::default() })]
    #[test]
    fn the_view_and_the_audit_agree_on_any_log_that_keeps_the_rules(acts in acts()) {
        let mut site = Site::new();
        site.log.publish().unwrap();
        let mut view = site.open_small();
        let mut issued = 0;
        for act in acts {
            match act {
                Act::Issue => {
                    site.issue(issued);
                    issued += 1;
                }
                Act::Revoke(which, reason) if issued > 0 => {
                    let n = which.index(usize::try_from(issued).unwrap()) as u64;
                    let reason = RevocationReason::ALL[reason];
                    if site.may_revoke(n, reason) {
                        site.revoke(n, reason);
                    }
                }
                Act::Revoke(..) => {}
                Act::Publish => drop(site.log.publish().unwrap()),
                Act::Follow => drop(follow(&mut view, &site)),
                Act::Restart => {
                    drop(view);
                    view = site.open_small();
                }
            }
        }
        site.log.publish().unwrap();
        follow(&mut view, &site);
        site.check(&view.reader());
        settle_down(&mut view, &site);
        site.check(&view.reader());
        drop(view);
        let view = site.open();
        site.check(&view.reader());
        let source = audit::Source { published: site.public(), details: None };
        let report = audit::verify(&source, &options(&site), |_| {}).unwrap();
        let revoked = site.expected.values().filter(|status| **status != CertStatus::Good).count();
        proptest::prop_assert_eq!(report.certificates.issued, issued);
        proptest::prop_assert_eq!(report.certificates.revoked, revoked as u64);
        proptest::prop_assert_eq!(report.root.0, view.reader().head().unwrap().root);
        proptest::prop_assert_eq!(Some(report.newest), view.reader().as_of());
    }
}
