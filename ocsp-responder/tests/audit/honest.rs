//! Logs in which nothing is wrong.

use base64ct::{Base64, Encoding as _};
use certstatus::audit::{Agreement, Certificates, Erased, Named, Tally};
use certstatus::log::{Class, Subject};

use crate::forge::{Details, Forge, audit, write};

#[test]
fn an_honest_log_verifies_and_is_summed_up() {
    let (forge, marks) = Forge::standard();
    let report = forge.published().audit().unwrap();
    assert_eq!(report.entries, 594);
    assert_eq!(report.newest.0, forge.time);
    let certificates = Certificates {
        issued: 5,
        abandoned: 1,
        unresolved: 1,
        open: 1,
        revoked: 1,
    };
    assert_eq!(report.certificates, certificates);
    let tally = Tally {
        intents: 8,
        signatures: 5,
        attempts: 7,
        abandoned: 1,
        unresolved: 1,
        open: 1,
    };
    assert_eq!(report.classes[&Class::Certificate], tally);
    let signatures = |class| report.classes[&class].signatures;
    assert_eq!(signatures(Class::Crl), 2);
    assert_eq!(
        (signatures(Class::Request), signatures(Class::SelfTest)),
        (1, 2)
    );
    assert_eq!(report.orders, [("demo".to_owned(), 3)].into());
    let details = report.details.unwrap();
    assert_eq!(
        (details.signatures_verified, details.signatures_unverified),
        (10, 0)
    );
    assert_eq!(details.erased, 0);
    // Three tiles of leaves, one of their roots.
    assert_eq!((report.tiles_checked, report.tiles_missing), (4, 0));
    let by = "the log anchor in crl/device-1.crl".into();
    let anchor = Agreement {
        by,
        size: marks.crl_intent.0,
    };
    assert_eq!(report.agrees_with, [anchor]);
    let root = &report.issuers[&"root".parse().unwrap()];
    assert_eq!(
        root.spki_sha256.unwrap().0,
        crate::forge::sha256(&forge.cas["root"].spki)
    );
    assert_eq!(root.classes[&Class::Certificate].signatures, 2);
}

#[test]
fn an_honest_log_verifies_without_details_and_without_hash_tiles() {
    let (forge, _) = Forge::standard();
    let mut published = forge.published();
    published.hashes = None;
    let report = published
        .audit_with(&published.options(), Details::NotGiven)
        .unwrap();
    assert_eq!(report.certificates.issued, 5);
    assert_eq!(report.details, None);
    assert_eq!((report.tiles_checked, report.tiles_missing), (0, 4));
}

#[test]
fn other_heads_of_the_same_log_agree() {
    let (forge, marks) = Forge::standard();
    let published = forge.published();
    let mut options = published.options();
    for size in [0, 1, 255, 256, 300, 594] {
        let name = format!("head of {size}");
        let contents = forge.sign_head(&published.leaves[..size]);
        options.checkpoints.push(Named { name, contents });
    }
    let report = published.audit_with(&options, Details::Given).unwrap();
    let mut sizes: Vec<u64> = report
        .agrees_with
        .iter()
        .map(|agreed| agreed.size)
        .collect();
    sizes.sort_unstable();
    assert_eq!(sizes, [0, 1, marks.crl_intent.0, 255, 256, 300, 594]);
}

#[test]
fn a_reader_falls_back_to_full_and_wider_bundles() {
    let (mut forge, _) = Forge::standard();
    let old = forge.published();
    while forge.entries.len() < 800 {
        forge.tick();
    }
    let base = tempfile::tempdir().unwrap();
    forge.published().write(base.path());
    // The head of 594 needs partials of 82 entries; there are full tiles and one of 3 hashes now.
    write(base.path(), "public/log/checkpoint", old.head.as_bytes());
    let report = audit(base.path(), &old.options(), Details::Given).unwrap();
    assert_eq!(report.entries, 594);
    // And a partial that is wider than the head needs.
    let bundles = base.path().join("public/log/tile/entries");
    let bytes = std::fs::read(bundles.join("002")).unwrap();
    let end = (0..200).fold(0, |at, _| {
        at + 2 + usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
    });
    std::fs::remove_file(bundles.join("002")).unwrap();
    write(&bundles, "002.p/200", &bytes[..end]);
    write(&bundles, "002.p/7", b"an older partial, no longer needed");
    let report = audit(base.path(), &old.options(), Details::Given).unwrap();
    assert_eq!(report.entries, 594);
}

#[test]
fn an_erased_detail_is_counted_where_that_is_allowed() {
    let (forge, marks) = Forge::standard();
    let mut published = forge.published();
    published.details[marks.intent_a.0 as usize] = None;
    let mut options = published.options();
    options.erased = Erased::Counted;
    let report = published.audit_with(&options, Details::Given).unwrap();
    let details = report.details.unwrap();
    assert_eq!((details.erased, details.signatures_unverified), (1, 1));
    assert_eq!(details.signatures_verified, 9);
    // All details erased: what remains is what leaves and published certificates show.
    published.details.fill(None);
    let report = published.audit_with(&options, Details::Given).unwrap();
    assert_eq!(report.details.unwrap().signatures_unverified, 10);
}

#[test]
fn a_key_may_wait_for_its_certificate() {
    let (mut forge, _) = Forge::standard();
    let spki_der = Base64::encode_string(&forge.cas["device-1"].spki);
    let data = serde_json::json!({ "issuer": "late", "spki_der": spki_der });
    forge.event("key-generated", data);
    forge.intent("late", Subject::SelfTest, b"Hallmark self-test".to_vec());
    let report = forge.published().audit().unwrap();
    assert_eq!(
        report.issuers[&"late".parse().unwrap()].classes[&Class::SelfTest].open,
        1
    );
}
