//! The worked example of docs/LOG-FORMAT.md is true: every byte that it shows is made here again.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use certstatus::UnixMillis;
use certstatus::hex;
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::detail::Detail as _;
use certstatus::log::merkle::{Frontier, leaf_hash, node_hash};
use certstatus::log::{DetailHash, Entry, EntryKind, EventDetail, LeafIndex, Salt, tile};

const DOCUMENT: &str = include_str!("../../../docs/LOG-FORMAT.md");

/// The example's lines, each under the name that the document gives it.
fn example() -> Vec<(&'static str, String)> {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let public = pair.public_key().as_ref().try_into().unwrap();
    let key = VerifierKey::new("log.example/factory-1", public).unwrap();
    let data = serde_json::json!({ "order": "demo", "quantity": 100 });
    let detail = EventDetail {
        data,
        salt: Salt([0xa5; 16]),
    }
    .encode();
    let genesis = EntryKind::Genesis {
        origin: "log.example/factory-1".into(),
        log_key: key.to_string(),
    };
    let event = EntryKind::Event {
        event: "order-opened".parse().unwrap(),
    };
    let kinds = [
        (genesis, None),
        (event, Some(DetailHash::of(&detail))),
        (EntryKind::Tick, None),
    ];
    let mut entries = Vec::new();
    for (index, (kind, detail)) in (0..).zip(kinds) {
        let time = UnixMillis(1_767_225_600_000 + index * 60_000);
        entries.push(Entry {
            index: LeafIndex(index),
            time,
            kind,
            detail,
        });
    }
    let leaves: Vec<Vec<u8>> = entries.iter().map(Entry::encode).collect();
    let hashes: Vec<_> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
    let mut tree = Frontier::default();
    hashes.iter().for_each(|hash| tree.push(*hash));
    let head = Checkpoint {
        origin: key.name().into(),
        size: 3,
        root: tree.root(),
    };
    let signature = pair.sign(head.body().as_bytes());
    let note = head.to_note(&key, signature.as_ref().try_into().unwrap());
    assert_eq!(Checkpoint::verify(&note, &key), Ok(head));
    let left = node_hash(&hashes[0], &hashes[1]);
    assert_eq!(node_hash(&left, &hashes[2]), tree.root());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let bundle = tile::encode_entries(leaves.iter().map(Vec::as_slice));
    let lines = tile::encode_details([(1, detail.as_slice())].into_iter());
    vec![
        ("log key", key.to_string()),
        ("leaf 0", text(&leaves[0])),
        ("leaf 1", text(&leaves[1])),
        ("leaf 2", text(&leaves[2])),
        ("detail 1", text(&detail)),
        ("detail hash", DetailHash::of(&detail).to_string()),
        ("leaf hash 0", hex::encode(&hashes[0])),
        ("leaf hash 1", hex::encode(&hashes[1])),
        ("leaf hash 2", hex::encode(&hashes[2])),
        ("node 0-1", hex::encode(&left)),
        ("root", hex::encode(&tree.root())),
        (
            "bundle path",
            format!("public/log/{}", tile::entry_bundle_path(0, 3)),
        ),
        (
            "bundle ends",
            hex::encode(&bundle[bundle.len() - leaves[2].len() - 2..]),
        ),
        (
            "hash tile path",
            format!("public/log/{}", tile::hash_tile_path(0, 0, 3)),
        ),
        (
            "detail bundle path",
            format!("private/{}", tile::detail_bundle_path(0, 3)),
        ),
        ("detail bundle", text(&lines).trim_end().to_owned()),
        ("checkpoint", note),
    ]
}

#[test]
fn the_documents_example_is_true() {
    for (name, value) in example() {
        assert!(
            DOCUMENT.contains(&value),
            "docs/LOG-FORMAT.md lacks {name}:\n{value}"
        );
    }
}

#[test]
fn the_document_names_every_field_of_a_leaf() {
    let (forge, _) = crate::forge::Forge::standard();
    for leaf in forge.leaves() {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&leaf).unwrap();
        for field in fields.keys() {
            assert!(DOCUMENT.contains(&format!("`{field}`")), "{field}");
        }
    }
    for detail in forge.details.iter().flatten() {
        let fields: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(detail).unwrap();
        for field in fields.keys() {
            assert!(DOCUMENT.contains(&format!("`{field}`")), "{field}");
        }
    }
}
