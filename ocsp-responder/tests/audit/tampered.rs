//! Logs that somebody without the log key changed after they were signed.

use certstatus::audit::{Erased, Named};
use certstatus::log::LeafIndex;
use certstatus::log::merkle::leaf_hash;

use crate::forge::{Details, Forge, Landmarks, Published, chain};

/// Expects a fault at an entry (or of the whole log), with this in its sentence.
fn expect(case: &str, published: &Published, index: Option<LeafIndex>, sentence: &str) {
    let fault = published.audit().expect_err(case);
    assert_eq!(fault.index, index, "{case}: {fault}");
    let chain = chain(&fault);
    assert!(chain.contains(sentence), "{case}: {chain}");
}

/// What an attacker can do about the hash tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tiles {
    /// Leaves them as they are.
    Honest,
    /// Makes them anew from the changed entries.
    Remade,
    /// Deletes them.
    Gone,
}

fn tampered(tiles: Tiles, change: impl Fn(&mut Published, Landmarks)) -> (Published, Landmarks) {
    let (forge, marks) = Forge::standard();
    let mut published = forge.published();
    change(&mut published, marks);
    match tiles {
        Tiles::Honest => {}
        Tiles::Remade => {
            let hashes = published
                .leaves
                .iter()
                .map(|leaf| leaf_hash(leaf))
                .collect();
            published.hashes = Some(hashes);
        }
        Tiles::Gone => published.hashes = None,
    }
    (published, marks)
}

fn replace(bytes: &mut Vec<u8>, from: &str, to: &str) {
    let text = String::from_utf8(bytes.clone()).unwrap();
    assert!(text.contains(from), "{text}");
    *bytes = text.replacen(from, to, 1).into_bytes();
}

#[test]
fn an_edited_entry_is_found() {
    // A revocation's reason: a change that breaks no rule of the log.
    let edit = |published: &mut Published, marks: Landmarks| {
        let leaf = &mut published.leaves[marks.revoked.0 as usize];
        replace(leaf, "\"reason\":1", "\"reason\":4");
    };
    let (published, marks) = tampered(Tiles::Honest, edit);
    expect(
        "honest tiles",
        &published,
        Some(marks.revoked),
        "it was edited or moved",
    );
    // Without honest tiles the other heads tell where: the anchor in the published CRL was made right
    // after the revocation.
    for tiles in [Tiles::Remade, Tiles::Gone] {
        let (published, marks) = tampered(tiles, edit);
        let among = format!("one of the entries 0 to {} was edited", marks.revoked);
        expect("other tiles", &published, None, &among);
    }
    // A late entry, after every other head.
    let edit = |published: &mut Published, _: Landmarks| {
        let leaf = published.leaves.last_mut().unwrap();
        let time = String::from_utf8(leaf.clone()).unwrap();
        let digits = time
            .split("\"time\":")
            .nth(1)
            .unwrap()
            .split(',')
            .next()
            .unwrap()
            .to_owned();
        replace(
            leaf,
            &digits,
            &(digits.parse::<u64>().unwrap() + 1).to_string(),
        );
    };
    for tiles in [Tiles::Remade, Tiles::Gone] {
        let (published, marks) = tampered(tiles, edit);
        let among = format!("one of the entries {} to 593 was edited", marks.crl_intent);
        expect("late entry", &published, None, &among);
    }
}

#[test]
fn an_entry_that_is_not_canonical_is_found() {
    for (from, to) in [
        ("\"v\":1", "\"v\": 1"),
        ("\"v\":1", "\"v\":2"),
        ("revoked", "tick"),
    ] {
        let (published, marks) = tampered(Tiles::Remade, |published, marks| {
            replace(&mut published.leaves[marks.revoked.0 as usize], from, to);
        });
        expect(to, &published, Some(marks.revoked), "not a canonical leaf");
    }
}

#[test]
fn a_dropped_entry_is_found() {
    // Cut out of its bundle, so that the bundle is short.
    let (published, _) = tampered(Tiles::Honest, |published, _| {
        published.leaves.pop();
    });
    expect(
        "short",
        &published,
        Some(LeafIndex(512)),
        "tile/entries/002.p/82 is missing",
    );
    // Cut out, and something else put in at the end so that the width is right.
    for tiles in [Tiles::Honest, Tiles::Remade, Tiles::Gone] {
        let (published, marks) = tampered(tiles, |published, marks| {
            let last = published.leaves.last().unwrap().clone();
            published.leaves.remove(marks.revoked.0 as usize);
            published.leaves.push(last);
        });
        let says = format!("says that it is entry {}", marks.revoked.0 + 1);
        expect("filled up", &published, Some(marks.revoked), &says);
    }
    // A whole bundle gone.
    let base = tempfile::tempdir().unwrap();
    let (forge, _) = Forge::standard();
    let published = forge.published();
    published.write(base.path());
    std::fs::remove_file(base.path().join("public/log/tile/entries/001")).unwrap();
    let fault = crate::forge::audit(base.path(), &published.options(), Details::Given);
    let fault = fault.unwrap_err();
    assert_eq!(fault.index, Some(LeafIndex(256)));
    assert!(
        fault.to_string().contains("tile/entries/001 is missing"),
        "{fault}"
    );
    // A bundle cut off in the middle.
    let path = base.path().join("public/log/tile/entries/000");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let fault = crate::forge::audit(base.path(), &published.options(), Details::Given);
    let fault = fault.unwrap_err();
    assert_eq!(fault.index, Some(LeafIndex(0)));
    assert!(
        fault
            .to_string()
            .contains("truncated, over-long or malformed"),
        "{fault}"
    );
}

#[test]
fn reordered_and_added_entries_are_found() {
    for tiles in [Tiles::Honest, Tiles::Remade, Tiles::Gone] {
        let (published, marks) = tampered(tiles, |published, marks| {
            published
                .leaves
                .swap(marks.intent_a.0 as usize, marks.intent_b.0 as usize);
        });
        let says = format!("says that it is entry {}", marks.intent_b);
        expect("swapped", &published, Some(marks.intent_a), &says);
        let (published, marks) = tampered(tiles, |published, marks| {
            let again = published.leaves[marks.revoked.0 as usize].clone();
            published.leaves.insert(marks.revoked.0 as usize, again);
            published.leaves.pop();
        });
        let index = LeafIndex(marks.revoked.0 + 1);
        let says = format!("says that it is entry {}", marks.revoked);
        expect("doubled", &published, Some(index), &says);
    }
}

#[test]
fn a_wrong_hash_tile_is_found_and_named() {
    let (published, _) = tampered(Tiles::Honest, |published, _| {
        published.hashes.as_mut().unwrap()[300] = [0; 32];
    });
    expect(
        "level 0",
        &published,
        Some(LeafIndex(300)),
        "the hash tile tile/0/001 is wrong",
    );
    let (forge, _) = Forge::standard();
    let published = forge.published();
    for (path, index) in [
        ("tile/1/000.p/2", 0),
        ("tile/0/002.p/82", 512),
        ("tile/0/000", 0),
    ] {
        let base = tempfile::tempdir().unwrap();
        published.write(base.path());
        let file = base.path().join("public/log").join(path);
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] ^= 1;
        std::fs::write(&file, &bytes).unwrap();
        let fault = crate::forge::audit(base.path(), &published.options(), Details::NotGiven);
        let fault = fault.unwrap_err();
        assert_eq!(fault.index, Some(LeafIndex(index)), "{fault}");
        assert!(
            fault
                .to_string()
                .contains(&format!("the hash tile {path} is wrong")),
            "{fault}"
        );
        bytes.pop();
        std::fs::write(&file, &bytes).unwrap();
        let fault = crate::forge::audit(base.path(), &published.options(), Details::NotGiven);
        let fault = fault.unwrap_err();
        assert!(
            fault
                .to_string()
                .contains(&format!("the hash tile {path} is wrong")),
            "{fault}"
        );
    }
}

#[test]
fn an_entry_whose_leaf_tile_was_remade_is_found_by_the_level_above() {
    let (forge, _) = Forge::standard();
    let mut published = forge.published();
    let base = tempfile::tempdir().unwrap();
    published.write(base.path());
    let above = std::fs::read(base.path().join("public/log/tile/1/000.p/2")).unwrap();
    let leaf = &mut published.leaves[300];
    replace(leaf, "\"v\":1", "\"v\":1");
    let digits = (1_700_000_000_000u64 + 7 * 301).to_string();
    let other = (1_700_000_000_000u64 + 7 * 301 + 1).to_string();
    replace(leaf, &digits, &other);
    let hashes = published
        .leaves
        .iter()
        .map(|leaf| leaf_hash(leaf))
        .collect();
    published.hashes = Some(hashes);
    published.write(base.path());
    std::fs::write(base.path().join("public/log/tile/1/000.p/2"), above).unwrap();
    let fault = crate::forge::audit(base.path(), &published.options(), Details::Given);
    let fault = fault.unwrap_err();
    assert_eq!(fault.index, Some(LeafIndex(256)));
    assert!(
        fault
            .to_string()
            .contains("or one of the 255 entries after it"),
        "{fault}"
    );
}

#[test]
fn a_forged_head_is_found() {
    let (forge, _) = Forge::standard();
    let published = forge.published();
    let mut forged = published.clone();
    forged.head = forged.head.replacen("594", "593", 1);
    expect("size", &forged, None, "does not verify");
    let mut forged = published.clone();
    forged.head = String::from("nothing\n");
    expect("garbage", &forged, None, "not a signed checkpoint");
    // A head that is signed, but over other entries.
    let mut forged = published.clone();
    let mut other = published.leaves.clone();
    *other.last_mut().unwrap() = b"another".to_vec();
    forged.head = forge.sign_head(&other);
    forged.hashes = None;
    expect(
        "other entries",
        &forged,
        None,
        "do not hash up to the signed head",
    );
    // Another log's key.
    let key = certstatus::log::checkpoint::VerifierKey::new(crate::forge::ORIGIN, [5; 32]).unwrap();
    let mut forged = published;
    forged.log_key = key;
    expect("other key", &forged, None, "no signature by the key");
}

#[test]
fn tampered_details_are_found() {
    type Change = fn(&mut Published, Landmarks);
    type Case = (
        &'static str,
        Change,
        fn(Landmarks) -> LeafIndex,
        &'static str,
    );
    let missing = "its detail is missing";
    let altered = "its detail does not hash to what its leaf says";
    let cases: [Case; 7] = [
        (
            "dropped",
            |p, m| p.details[m.issued_b.0 as usize] = None,
            |m| m.issued_b,
            missing,
        ),
        (
            "edited",
            |p, m| replace_detail(p, m.intent_a),
            |m| m.intent_a,
            altered,
        ),
        (
            "edited event",
            |p, m| replace_detail(p, m.order),
            |m| m.order,
            altered,
        ),
        (
            "swapped",
            |p, m| p.details.swap(m.intent_a.0 as usize, m.intent_b.0 as usize),
            |m| m.intent_a,
            altered,
        ),
        (
            "moved down",
            |p, m| p.details.swap(m.open.0 as usize, m.open.0 as usize + 1),
            |m| m.open,
            missing,
        ),
        (
            "added",
            |p, m| p.details[m.revoked.0 as usize] = Some(b"{}".to_vec()),
            |m| m.revoked,
            "its leaf names none",
        ),
        (
            "broken line",
            |p, m| p.details[m.open.0 as usize] = Some(b"{\n}".to_vec()),
            |_| LeafIndex(512),
            "details/002.p/82 is truncated or malformed",
        ),
    ];
    for (case, change, index, sentence) in cases {
        let (published, marks) = tampered(Tiles::Honest, change);
        expect(case, &published, Some(index(marks)), sentence);
        // Only a gone detail is ever allowed.
        let mut options = published.options();
        options.erased = Erased::Counted;
        let verified = published.audit_with(&options, Details::Given).is_ok();
        assert_eq!(verified, case == "dropped", "{case}");
        // Without details there is nothing to see.
        assert!(
            published.audit_with(&options, Details::NotGiven).is_ok(),
            "{case}"
        );
    }
    // A detail of an entry that is not there.
    let (forge, _) = Forge::standard();
    let mut published = forge.published();
    published.details.push(Some(b"{}".to_vec()));
    published.details.remove(0);
    let base = tempfile::tempdir().unwrap();
    forge.published().write(base.path());
    let path = base.path().join("private/details/002.p/82");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(b"594 {}\n");
    std::fs::write(&path, bytes).unwrap();
    let fault = crate::forge::audit(base.path(), &published.options(), Details::Given);
    assert_eq!(fault.unwrap_err().index, Some(LeafIndex(594)));
}

fn replace_detail(published: &mut Published, index: LeafIndex) {
    let detail = published.details[index.0 as usize].as_mut().unwrap();
    replace(detail, "demo", "demo2");
}

#[test]
fn forks_and_truncations_are_found_by_other_heads() {
    let (mut forge, marks) = Forge::standard();
    let honest = forge.published();
    let crl = honest.crls["device-1"].clone();
    let cosigned = format!(
        "{}\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZC\
         B9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n",
        honest.head
    );
    let named = |name: &str, contents: String| Named {
        name: name.into(),
        contents,
    };
    // The log is rewritten with the log key: a revocation has another reason. Its own CRLs are left out,
    // since their anchors would give it away.
    let place = marks.revoked.0 as usize;
    if let certstatus::log::EntryKind::Revoked { reason, .. } = &mut forge.entries[place].kind {
        *reason = 4;
    }
    let mut rewritten = forge.published();
    rewritten.crls.clear();
    let older = forge.sign_head(&honest.leaves[..100]);
    for (name, head) in [
        ("older", older),
        ("same", honest.head.clone()),
        ("cosigned", cosigned),
    ] {
        let mut options = rewritten.options();
        options.checkpoints.push(named(name, head));
        let fault = rewritten
            .audit_with(&options, Details::NotGiven)
            .unwrap_err()
            .to_string();
        assert!(
            fault.contains(&format!("{name} states another root")),
            "{fault}"
        );
        assert!(fault.contains("from entry 0 on"), "{fault}");
    }
    // With details, the logged CRL itself convicts it.
    let fault = rewritten
        .audit_with(&rewritten.options(), Details::Given)
        .unwrap_err();
    assert_eq!(fault.index, Some(marks.crl_intent));
    assert!(
        fault
            .to_string()
            .contains("states another root for the first"),
        "{fault}"
    );
    // A CRL from a broker's disk.
    let mut options = rewritten.options();
    options.crls.push(Named {
        name: "kept.crl".into(),
        contents: crl.clone(),
    });
    let fault = rewritten
        .audit_with(&options, Details::NotGiven)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("the log anchor in kept.crl states another root"),
        "{fault}"
    );
    // An older head that agrees narrows the fork down.
    let mut options = rewritten.options();
    options
        .checkpoints
        .push(named("oldest", forge.sign_head(&honest.leaves[..20])));
    options.checkpoints.push(named("same", honest.head.clone()));
    let fault = rewritten
        .audit_with(&options, Details::NotGiven)
        .unwrap_err()
        .to_string();
    assert!(fault.contains("from entry 20 on"), "{fault}");
}

#[test]
fn a_truncated_log_is_found_by_later_heads() {
    let (forge, marks) = Forge::standard();
    let honest = forge.published();
    let mut short = honest.clone();
    short.leaves.truncate(20);
    short.details.truncate(20);
    short.hashes.as_mut().unwrap().truncate(20);
    short.head = forge.sign_head(&short.leaves);
    // The newest published CRL anchors a head of more entries.
    expect(
        "by its own CRL",
        &short,
        Some(LeafIndex(20)),
        "the log is truncated",
    );
    short.crls.clear();
    assert!(short.audit().is_ok());
    let mut options = short.options();
    options.checkpoints.push(Named {
        name: "later".into(),
        contents: honest.head,
    });
    let fault = short.audit_with(&options, Details::Given).unwrap_err();
    assert_eq!(fault.index, Some(LeafIndex(20)));
    assert!(
        fault
            .to_string()
            .contains("later states 594 entries, but only 20"),
        "{fault}"
    );
    let mut options = short.options();
    let crl = honest.crls["device-1"].clone();
    options.crls.push(Named {
        name: "kept.crl".into(),
        contents: crl,
    });
    let fault = short.audit_with(&options, Details::NotGiven).unwrap_err();
    let kept = format!("kept.crl states {} entries", marks.crl_intent);
    assert!(fault.to_string().contains(&kept), "{fault}");
}

#[test]
fn foreign_checkpoints_and_crls_are_faults() {
    let (mut forge, marks) = Forge::standard();
    let published = forge.published();
    let mut options = published.options();
    let contents = published.head.replacen("594", "500", 1);
    options.checkpoints.push(Named {
        name: "forged".into(),
        contents,
    });
    let fault = published
        .audit_with(&options, Details::Given)
        .unwrap_err()
        .to_string();
    assert!(
        fault.contains("forged is not a checkpoint that the log key signed"),
        "{fault}"
    );
    // A CRL that an issuer signed, but that the log does not know.
    let _ = marks;
    let tbs = forge.crl_tbs("device-1", 9, &[11], &published.head);
    let signature = forge.cas["device-1"].sign(&tbs);
    let algorithm = certstatus::signature::SignatureAlgorithm::EcdsaSha256;
    let unlogged = certstatus::signature::assemble(&tbs, algorithm, &signature);
    let same_number = forge.crl_tbs("device-1", 2, &[11], &published.head);
    let signature = forge.cas["device-1"].sign(&same_number);
    let another = certstatus::signature::assemble(&same_number, algorithm, &signature);
    let by_root = certstatus::signature::assemble(&tbs, algorithm, &forge.cas["root"].sign(&tbs));
    forge.crls.clear();
    let mut garbage = unlogged.clone();
    garbage.pop();
    for (contents, sentence) in [
        (unlogged, "the log knows no CRL of its issuer and number"),
        (
            another,
            "the CRL that the log knows by its number is another one",
        ),
        (by_root, "no issuer of this log signed it"),
        (garbage, "x.crl"),
    ] {
        let mut options = published.options();
        options.crls.push(Named {
            name: "x.crl".into(),
            contents,
        });
        let fault = published
            .audit_with(&options, Details::Given)
            .unwrap_err()
            .to_string();
        assert!(fault.contains(sentence), "{fault}");
    }
}

#[test]
fn a_wrong_ca_certificate_is_found() {
    let (forge, _) = Forge::standard();
    let mut published = forge.published();
    let root = published.ca["root"].clone();
    published.ca.insert("device-1".into(), root);
    let what = "its certificate is not the one whose hash was logged";
    expect("other", &published, Some(LeafIndex(12)), what);
    published.ca.remove("device-1");
    expect(
        "missing",
        &published,
        Some(LeafIndex(12)),
        "missing from ca/",
    );
}

#[test]
fn a_crl_in_the_place_of_another_is_found_or_shown() {
    let (mut forge, _) = Forge::standard();
    let old = forge.published();
    forge.crl("device-1", 3, &[13, 11]);
    forge.crl("root", 1, &[]);
    let mut published = forge.published();
    assert!(
        published
            .audit()
            .unwrap()
            .crls
            .iter()
            .all(|crl| crl.number == crl.newest)
    );
    // An older CRL of the same issuer is genuine, but shown to be out of date.
    published
        .crls
        .insert("device-1".into(), old.crls["device-1"].clone());
    let crls = published.audit().unwrap().crls;
    assert_eq!((crls[0].number, crls[0].newest), (2, 3));
    published
        .crls
        .insert("device-1".into(), published.crls["root"].clone());
    expect(
        "another issuer's",
        &published,
        None,
        "published under the name of another issuer",
    );
}
