//! The signing log's formats: leaves, details, tiles, checkpoints, proofs.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64ct::{Base64, Encoding as _};
use certstatus::audit::{Proof, Shown};
use certstatus::log::checkpoint::{Checkpoint, CosignerKey, VerifierKey};
use certstatus::log::detail::{Detail, EventDetail, IntentDetail, OutcomeDetail};
use certstatus::log::entry::{Entry, LEAF_BYTES_MAX};
use certstatus::log::merkle::{Hash, verify_consistency, verify_inclusion};
use certstatus::log::tile;

/// The origin of the log that checkpoints in the corpus belong to.
pub const ORIGIN: &str = "log.example/factory";

/// The largest tree that proofs are checked against, in leaves.
pub const PROOF_LEAVES_MAX: u16 = 300;

/// A leaf: one entry has one encoding.
pub fn entry(bytes: &[u8]) {
    if let Ok(entry) = Entry::parse(bytes) {
        assert_eq!(entry.encode(), bytes);
        assert!(bytes.len() <= LEAF_BYTES_MAX);
    }
}

/// A detail of any kind: one detail has one encoding.
pub fn detail(bytes: &[u8]) {
    /// One kind.
    fn kind<D: Detail>(bytes: &[u8]) {
        if let Ok(detail) = D::parse(bytes) {
            assert_eq!(detail.encode(), bytes);
        }
    }
    kind::<IntentDetail>(bytes);
    kind::<OutcomeDetail>(bytes);
    kind::<EventDetail>(bytes);
}

/// A tile of as many hashes as its length says: the hashes are its octets.
pub fn tile_hashes(bytes: &[u8]) {
    let width = u16::try_from(bytes.len() / 32).unwrap_or(u16::MAX);
    for other in [0, width.saturating_sub(1), width.saturating_add(1)] {
        assert!(tile::parse_hashes(bytes, other).is_err() || other == width);
    }
    if let Ok(hashes) = tile::parse_hashes(bytes, width) {
        assert_eq!(tile::encode_hashes(&hashes), bytes);
    }
}

/// A width (2 octets, big-endian) and an entry bundle: the leaves are all of its octets.
pub fn tile_entries(bytes: &[u8]) {
    let Some((width, bundle)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let width = u16::from_be_bytes(*width);
    if let Ok(leaves) = tile::parse_entries(bundle, width) {
        assert_eq!(leaves.len(), usize::from(width));
        assert_eq!(tile::encode_entries(leaves.iter().copied()), bundle);
        leaves.into_iter().for_each(entry);
    }
}

/// A bundle's number (8 octets, big-endian) and a detail bundle: all of its octets, in ascending order.
pub fn tile_details(bytes: &[u8]) {
    let Some((number, bundle)) = bytes.split_first_chunk::<8>() else {
        return;
    };
    let number = u64::from_be_bytes(*number);
    if let Ok(details) = tile::parse_details(bundle, number) {
        assert!(
            details
                .iter()
                .all(|(index, _)| index / tile::TILE_WIDTH == number)
        );
        assert!(details.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert_eq!(tile::encode_details(details.iter().copied()), bundle);
        details.into_iter().for_each(|(_, bytes)| detail(bytes));
    }
}

/// A verifier key: one key has one text.
pub fn verifier_key(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(key) = VerifierKey::parse(text) {
        assert_eq!(key.to_string(), text);
        assert_eq!(VerifierKey::new(key.name(), *key.key()), Ok(key));
        // A key has one type.
        assert!(CosignerKey::parse(text).is_err());
    }
    if let Ok(key) = CosignerKey::parse(text) {
        assert_eq!(key.to_string(), text);
    }
}

/// The log key of the corpus: a key that everybody knows.
pub fn log_key() -> (Ed25519KeyPair, VerifierKey) {
    let pair = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a seed has 32 octets");
    let public = pair
        .public_key()
        .as_ref()
        .try_into()
        .expect("a key has 32 octets");
    let key = VerifierKey::new(ORIGIN, public).expect("the origin names a key");
    (pair, key)
}

/// The text as a note that the log key signed, whatever the text is.
pub fn note(text: &str) -> String {
    let (pair, key) = log_key();
    let octets = [&key.id()[..], pair.sign(text.as_bytes()).as_ref()].concat();
    format!(
        "{text}\n\u{2014} {ORIGIN} {}\n",
        Base64::encode_string(&octets)
    )
}

/// A signed note, and the body of one that is signed here: one checkpoint has one body.
pub fn checkpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (_, key) = log_key();
    if let Ok(checkpoint) = Checkpoint::verify(text, &key) {
        assert!(text.starts_with(&checkpoint.body()));
        assert_eq!(checkpoint.origin, ORIGIN);
    }
    if let Ok(checkpoint) = Checkpoint::verify(&note(text), &key) {
        // A text that is a note itself keeps its own signatures apart from the body.
        assert!(text == checkpoint.body() || text.starts_with(&format!("{}\n", checkpoint.body())));
    }
}

/// A proof in a small tree, both kinds: only the one true proof holds.
///
/// The first octets choose a leaf and a size (2 octets each, big-endian); the hashes of the proof follow.
pub fn proof(bytes: &[u8]) {
    let Some((numbers, hashes)) = bytes.split_first_chunk::<4>() else {
        return;
    };
    let [a, b, c, d] = *numbers;
    let size = u16::from_be_bytes([c, d]) % PROOF_LEAVES_MAX + 1;
    let index = u16::from_be_bytes([a, b]) % size;
    let (hashes, _) = hashes.as_chunks::<32>();
    let leaves = leaves(size);
    let (root, at) = (root(&leaves), usize::from(index));
    let holds = verify_inclusion(&leaves[at], index.into(), size.into(), &root, hashes).is_ok();
    assert_eq!(holds, hashes == inclusion(at, &leaves));
    let old = self::root(&leaves[..at]);
    let (old, new) = ((u64::from(index), &old), (u64::from(size), &root));
    let holds = verify_consistency(old, new, hashes).is_ok();
    let expected = if index == 0 {
        Vec::new()
    } else {
        consistency(at, &leaves, Whole::Yes)
    };
    assert_eq!(holds, hashes == expected);
}

/// A proof file: one proof has one encoding, and what it shows is of the log that signed its head.
pub fn proof_file(bytes: &[u8]) {
    let Ok(proof) = Proof::parse(bytes) else {
        return;
    };
    let encoded = proof.encode();
    assert_eq!(
        encoded.strip_suffix(b"\n"),
        Some(bytes.strip_suffix(b"\n").unwrap_or(bytes))
    );
    assert_eq!(Proof::parse(&encoded).ok().as_ref(), Some(&proof));
    let (_, key) = log_key();
    match (proof.check(&key), &proof) {
        (
            Ok(Shown::Inclusion {
                head,
                serial,
                entries,
            }),
            Proof::Inclusion(proof),
        ) => {
            assert_eq!((head.origin.as_str(), serial), (ORIGIN, proof.serial));
            assert!(!entries.is_empty() && entries.len() == proof.entries.len());
            assert!(entries.windows(2).all(|pair| pair[0].index < pair[1].index));
            assert!(entries.iter().all(|about| about.index.0 < head.size));
        }
        (Ok(Shown::Consistency { older, newer }), Proof::Consistency(_)) => {
            assert!(older.size <= newer.size && older.origin == newer.origin);
        }
        (shown, _) => assert!(shown.is_err(), "another kind of proof: {shown:?}"),
    }
}

/// The hash of the leaf at this index in the trees of [`proof`].
fn leaf(index: u16) -> Hash {
    hash(&[&[0], &index.to_be_bytes()])
}

/// SHA-256 of the parts, joined.
fn hash(parts: &[&[u8]]) -> Hash {
    digest(&SHA256, &parts.concat())
        .as_ref()
        .try_into()
        .expect("SHA-256 has 32 octets")
}

/// How many leaves stand left of a tree's top: the largest power of two below the size.
fn left_of(size: usize) -> usize {
    size.next_power_of_two() / 2
}

/// MTH of RFC 9162, 2.1.1, word for word.
fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => hash(&[]),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(left_of(leaves.len()));
            hash(&[&[1], &root(left), &root(right)])
        }
    }
}

/// PATH of RFC 9162, 2.1.3.1, word for word.
pub fn inclusion(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(left_of(leaves.len()));
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (inclusion(index, left), root(right)),
        Some(index) => (inclusion(index, right), root(left)),
    };
    path.push(sibling);
    path
}

/// Whether the old tree is known whole at this node (`b` of SUBPROOF).
#[derive(Clone, Copy)]
pub enum Whole {
    /// Its root is the caller's own.
    Yes,
    /// Its root must be part of the proof.
    No,
}

/// SUBPROOF of RFC 9162, 2.1.4.1, word for word; `old` is at least 1.
pub fn consistency(old: usize, leaves: &[Hash], whole: Whole) -> Vec<Hash> {
    if old == leaves.len() {
        return match whole {
            Whole::Yes => Vec::new(),
            Whole::No => vec![root(leaves)],
        };
    }
    let (left, right) = leaves.split_at(left_of(leaves.len()));
    let (mut path, sibling) = match old.checked_sub(left.len()) {
        None | Some(0) => (consistency(old, left, whole), root(right)),
        Some(old) => (consistency(old, right, Whole::No), root(left)),
    };
    path.push(sibling);
    path
}

/// The leaves of the tree of this size.
pub fn leaves(size: u16) -> Vec<Hash> {
    (0..size).map(leaf).collect()
}
