//! Inputs of what the log is made of: entries, details, tiles, heads and proofs.

use certstatus::audit::{Consistency, Inclusion, Proof, Proven};
use certstatus::log::checkpoint::Checkpoint;
use certstatus::log::detail::{
    Base64, CrlList, Detail, DetailHash, EventDetail, Gone, IntentDetail, OutcomeDetail, Salt,
};
use certstatus::log::entry::{Class, Entry, EntryKind, IssuerName, LeafIndex, Outcome, Subject};
use certstatus::log::merkle::{Hash, leaf_hash, subtree_root};
use certstatus::log::tile;
use certstatus::{SerialNumber, UnixMillis};
use hallmark_fuzz::log::{ORIGIN, Whole, consistency, inclusion, leaves, log_key, note};

use crate::write;

/// One entry of each kind.
fn entries() -> Vec<Entry> {
    let issuer: IssuerName = "device-1".parse().expect("a name");
    let serial = SerialNumber::from_random([0x5a; 16]);
    let subjects = [
        Subject::Certificate {
            serial,
            not_after: UnixMillis::END_OF_TIME,
        },
        Subject::Crl {
            number: u64::MAX,
            partition: 0,
        },
        Subject::Request,
        Subject::SelfTest,
    ];
    assert!(subjects.iter().any(|subject| subject.class() == Class::Crl));
    let outcomes = [
        Outcome::Issued { attempts: 1 },
        Outcome::Abandoned,
        Outcome::Unresolved { attempts: 2 },
    ];
    let mut kinds = vec![
        EntryKind::Genesis {
            origin: ORIGIN.into(),
            log_key: log_key().1.to_string(),
        },
        EntryKind::Issuer {
            issuer: issuer.clone(),
            spki: [1; 32],
            certificate: [2; 32],
        },
        EntryKind::Revoked {
            issuer: issuer.clone(),
            serial,
            reason: 4,
            revoked_at: UnixMillis(1_700_000_000_000),
        },
        EntryKind::Event {
            event: "order-opened".parse().expect("a name"),
        },
        EntryKind::Tick,
    ];
    kinds.extend(subjects.map(|subject| EntryKind::Intent {
        issuer: issuer.clone(),
        subject,
    }));
    kinds.extend(outcomes.map(|outcome| EntryKind::Outcome {
        intent: LeafIndex(3),
        issuer: issuer.clone(),
        subject: subjects[0],
        outcome,
    }));
    let numbered = kinds.into_iter().zip(0..).map(|(kind, index)| Entry {
        index: LeafIndex(index),
        time: UnixMillis(1_700_000_000_123 + index),
        detail: (!matches!(kind, EntryKind::Tick))
            .then_some(DetailHash([index.to_le_bytes()[0]; 32])),
        kind,
    });
    numbered.collect()
}

/// The details of an intent, an outcome and an event.
fn details() -> Vec<(&'static str, Vec<u8>)> {
    let intent = IntentDetail {
        device_id: Some("Dev-\u{fc}\"1\"".into()),
        line: Some("line-1".into()),
        list: None,
        operator: None,
        order: Some("demo".into()),
        profile: Some("mqtt-device".into()),
        requested: Some(DetailHash([1; 32])),
        salt: Salt([7; 16]),
        spki: Some(DetailHash([2; 32])),
        tbs: Base64(vec![0x30, 3, 2, 1, 5]),
        why: Some("device".into()),
    };
    let crl = IntentDetail {
        list: Some(CrlList {
            entries: 2,
            gone: Some(Gone {
                covered: 9,
                expired: UnixMillis(1_700_000_000_123),
            }),
            sha256: DetailHash([4; 32]),
        }),
        ..intent.clone()
    };
    let outcome = OutcomeDetail {
        reason: Some("the token was lost".into()),
        salt: Salt([8; 16]),
        sha256: Some(DetailHash([3; 32])),
        signature: Some(Base64(vec![9; 70])),
    };
    let text = r#"{"a":[1,-2,true,{"b":"c"}],"d":18446744073709551615}"#;
    let event = EventDetail {
        data: serde_json::from_str(text).expect("JSON"),
        salt: Salt([9; 16]),
    };
    vec![
        ("intent", intent.encode()),
        ("outcome", outcome.encode()),
        ("event", event.encode()),
        ("intent-of-a-crl", crl.encode()),
    ]
}

/// Everything of the log.
pub fn log() {
    let entries: Vec<Vec<u8>> = entries().iter().map(Entry::encode).collect();
    for (at, entry) in entries.iter().enumerate() {
        write("entry", &format!("entry-{at:02}"), entry);
    }
    let width = u16::try_from(entries.len()).expect("a dozen");
    let bundle = tile::encode_entries(entries.iter().map(Vec::as_slice));
    write(
        "tile_entries",
        "a-dozen",
        [&width.to_be_bytes()[..], &bundle].concat(),
    );
    write(
        "tile_entries",
        "one",
        [
            &[0, 1][..],
            &tile::encode_entries([&entries[4][..]].into_iter()),
        ]
        .concat(),
    );
    write("tile_entries", "one-empty-leaf", [0, 1, 0, 0]);
    let details = details();
    for (name, detail) in &details {
        write("detail", name, detail);
    }
    let numbered = details
        .iter()
        .zip(510..)
        .map(|((_, detail), index)| (index, &detail[..]));
    let bundle = tile::encode_details(numbered.clone().take(2));
    write(
        "tile_details",
        "two",
        [&1_u64.to_be_bytes()[..], &bundle].concat(),
    );
    let bundle = tile::encode_details(numbered.skip(2));
    write(
        "tile_details",
        "first-of-bundle-2",
        [&2_u64.to_be_bytes()[..], &bundle].concat(),
    );
    write("tile_details", "none", [0; 8]);
    write("tile_hashes", "one", [6; 32]);
    write("tile_hashes", "full", [7; 8192]);
    write("tile_hashes", "three-and-a-half", [8; 112]);
    let (_, key) = log_key();
    write("verifier_key", "log-key", key.to_string());
    let body = |size| {
        Checkpoint {
            origin: ORIGIN.into(),
            size,
            root: [5; 32],
        }
        .body()
    };
    write("checkpoint", "body", body(20_852_163));
    write("checkpoint", "body-empty-tree", body(0));
    write(
        "checkpoint",
        "body-other-origin",
        body(1).replace("factory", "other"),
    );
    write("checkpoint", "note", note(&body(1)));
    let cosigned = format!(
        "{}\u{2014} witness.example/w1 jWbPPwAAAABkGFDLEZM=\n",
        note(&body(u64::MAX))
    );
    write("checkpoint", "note-cosigned", cosigned);
    for (name, index, size) in [
        ("inclusion", 5, 7),
        ("inclusion-first", 0, 256),
        ("inclusion-last", 299, 300),
    ] {
        proof(name, index, size, &inclusion(index.into(), &leaves(size)));
    }
    for (name, old, size) in [
        ("consistency", 6, 7),
        ("consistency-of-two", 4, 8),
        ("consistency-long", 255, 300),
    ] {
        proof(
            name,
            old,
            size,
            &consistency(old.into(), &leaves(size), Whole::Yes),
        );
    }
    proof("only-leaf", 0, 1, &[]);
    proof_files();
}

/// Files of proofs about the dozen entries.
fn proof_files() {
    let leaves: Vec<Vec<u8>> = entries().iter().map(Entry::encode).collect();
    let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let head = |size: usize| {
        let head = Checkpoint {
            origin: ORIGIN.into(),
            size: u64::try_from(size).expect("a dozen"),
            root: subtree_root(&hashes[..size]),
        };
        note(&head.body())
    };
    let text = |leaf: &[u8]| String::from_utf8(leaf.to_vec()).expect("a leaf is JSON");
    // The revocation, the intent and the outcomes of the one serial.
    let proven = |at: usize| Proven {
        index: LeafIndex(u64::try_from(at).expect("a dozen")),
        leaf: text(&leaves[at]),
        path: inclusion(at, &hashes),
    };
    for (name, places) in [
        ("inclusion", &[2, 5, 9, 10, 11][..]),
        ("inclusion-of-one", &[5]),
        ("inclusion-of-none", &[]),
        ("inclusion-of-a-tick", &[4]),
    ] {
        let proof = Proof::Inclusion(Inclusion {
            checkpoint: head(hashes.len()),
            serial: SerialNumber::from_random([0x5a; 16]),
            entries: places.iter().copied().map(proven).collect(),
        });
        write("proof_file", name, proof.encode());
    }
    for (name, old, path) in [
        ("consistency", 7, consistency(7, &hashes, Whole::Yes)),
        ("consistency-of-the-same", hashes.len(), Vec::new()),
        ("consistency-of-the-empty-tree", 0, Vec::new()),
        ("consistency-that-does-not-hold", 6, Vec::new()),
    ] {
        let (older, newer) = (head(old), head(hashes.len()));
        let proof = Proof::Consistency(Consistency { older, newer, path });
        write("proof_file", name, proof.encode());
    }
}

/// A proof as its target reads it.
fn proof(name: &str, index: u16, size: u16, hashes: &[[u8; 32]]) {
    // The target adds 1, so that no tree is empty.
    let numbers = [index.to_be_bytes(), (size - 1).to_be_bytes()].concat();
    write("proof", name, [&numbers[..], &hashes.concat()].concat());
}
