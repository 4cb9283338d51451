//! Segments: written, read, damaged in every way.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::merge::{Merge, NotMerged, merge};
use super::super::record::{Base, Verdict, settle};
use super::*;
use crate::log::DetailHash;
use crate::{RevocationReason, SerialNumber};

/// A serial as random as a real one.
fn key(n: u64) -> Key {
    let hash = DetailHash::of(&n.to_be_bytes()).0;
    let serial = SerialNumber::from_random(hash[..16].try_into().unwrap());
    Key::new(serial, 1)
}

fn issued(key: Key) -> Record {
    Record {
        key,
        base: Base::Issued,
        verdict: Verdict::None,
    }
}

fn revoked(key: Key, at: u64) -> Record {
    Record {
        key,
        base: Base::Unknown,
        verdict: Verdict::Revoked {
            at,
            reason: RevocationReason::Superseded,
        },
    }
}

fn written(directory: &Path, id: u64, mut records: Vec<Record>) -> Segment {
    settle(&mut records);
    let mut writer = Writer::create(directory, id, records.len()).unwrap();
    records
        .iter()
        .for_each(|record| writer.push(record).unwrap());
    let segment = writer.finish().unwrap();
    segment.set_disposable(false);
    segment
}

#[test]
fn every_record_is_found_and_no_other() {
    let base = tempfile::tempdir().unwrap();
    for count in [1, 33, 34, 35, 68, 5000] {
        let segment = written(
            base.path(),
            count,
            (0..count).map(|n| issued(key(n))).collect(),
        );
        let opened = Segment::open(base.path(), count, segment.records()).unwrap();
        assert_eq!(opened.records(), count);
        for segment in [&segment, &opened] {
            for n in 0..count {
                assert_eq!(
                    segment.get(key(n)).unwrap(),
                    Some(issued(key(n))),
                    "{n} of {count}"
                );
                let other = Key {
                    issuer: 2,
                    ..key(n)
                };
                assert_eq!(segment.get(other).unwrap(), None);
            }
            for n in count..count + 2000 {
                assert_eq!(segment.get(key(n)).unwrap(), None, "{n} of {count}");
            }
        }
    }
}

#[test]
fn serials_that_are_not_random_are_found_too() {
    let base = tempfile::tempdir().unwrap();
    // All in one corner, many blocks with the same first 64 bits.
    let corner = |n: u64| Key {
        serial: 0x41 << 120 | u128::from(n / 200) << 64 | u128::from(n % 200) << 1,
        issuer: 1,
    };
    let segment = written(
        base.path(),
        1,
        (0..10_000).map(|n| issued(corner(n))).collect(),
    );
    for n in 0..10_000 {
        assert_eq!(
            segment.get(corner(n)).unwrap(),
            Some(issued(corner(n))),
            "{n}"
        );
        let between = Key {
            serial: corner(n).serial | 1,
            issuer: 1,
        };
        assert_eq!(segment.get(between).unwrap(), None, "{n}");
    }
}

#[test]
fn a_merge_changes_no_answer() {
    let base = tempfile::tempdir().unwrap();
    let runs: [Vec<Record>; 3] = [
        (0..1000).map(|n| issued(key(n))).collect(),
        (500..600)
            .map(|n| revoked(key(n), 7))
            .chain((2000..2100).map(|n| issued(key(n))))
            .collect(),
        (550..650).map(|n| revoked(key(n), 8)).collect(),
    ];
    let segments: Vec<Arc<Segment>> = (0..)
        .zip(runs)
        .map(|(id, run)| Arc::new(written(base.path(), id, run)))
        .collect();
    let merged = Merge::start(segments.clone(), base.path().to_owned(), 9).unwrap();
    let merged = merged.finish().unwrap();
    assert_eq!(merged.records(), 1100);
    let mut expected: BTreeMap<Key, Record> = BTreeMap::new();
    for segment in &segments {
        let mut walk = segment.walk();
        while let Some(record) = walk.next().unwrap() {
            let over = expected
                .get(&record.key)
                .map_or(record, |older| record.over(*older));
            expected.insert(record.key, over);
        }
    }
    for n in 0..2200 {
        assert_eq!(
            merged.get(key(n)).unwrap(),
            expected.get(&key(n)).copied(),
            "{n}"
        );
    }
    assert_eq!(
        merged.get(key(510)).unwrap().unwrap().status(),
        revoked(key(510), 7).status()
    );
    assert_eq!(merged.get(key(560)).unwrap().unwrap().base, Base::Issued);
}

#[test]
fn any_changed_octet_of_a_block_is_found() {
    let base = tempfile::tempdir().unwrap();
    drop(written(
        base.path(),
        1,
        (0..100).map(|n| issued(key(n))).collect(),
    ));
    let path = base.path().join(file_name(1));
    let honest = std::fs::read(&path).unwrap();
    for at in (0..3 * BLOCK_BYTES).step_by(7) {
        let mut octets = honest.clone();
        octets[at] ^= 0x10;
        std::fs::write(&path, &octets).unwrap();
        let segment = Segment::open(base.path(), 1, 100).unwrap();
        let mut walk = segment.walk();
        let mut outcome = walk.next();
        while let Ok(Some(_)) = outcome {
            outcome = walk.next();
        }
        let broken = outcome.unwrap_err();
        assert!(
            broken.to_string().contains("is not what was written"),
            "{at}: {broken}"
        );
        // A question either meets the damage or gets the right answer.
        for n in 0..100 {
            match segment.get(key(n)) {
                Ok(found) => assert_eq!(found, Some(issued(key(n)))),
                Err(broken) => assert!(broken.to_string().contains("block")),
            }
        }
    }
    // Two blocks that changed places.
    let mut octets = honest.clone();
    octets[..2 * BLOCK_BYTES].rotate_left(BLOCK_BYTES);
    std::fs::write(&path, &octets).unwrap();
    let segment = Segment::open(base.path(), 1, 100).unwrap();
    assert!(segment.walk().next().is_err());
    // A damaged input is never merged into something that looks sound.
    let writer = Writer::create(base.path(), 2, 100).unwrap();
    let merged = merge(&[Arc::new(segment)], writer, &AtomicBool::new(false));
    assert!(matches!(merged, Err(NotMerged::Broken(_))));
}

#[test]
fn a_damaged_or_truncated_file_does_not_open() {
    let base = tempfile::tempdir().unwrap();
    drop(written(
        base.path(),
        1,
        (0..100).map(|n| issued(key(n))).collect(),
    ));
    let path = base.path().join(file_name(1));
    let honest = std::fs::read(&path).unwrap();
    for at in 3 * BLOCK_BYTES..honest.len() {
        let mut octets = honest.clone();
        octets[at] ^= 0x10;
        std::fs::write(&path, &octets).unwrap();
        let refused = Segment::open(base.path(), 1, 100);
        assert!(matches!(refused, Err(NotOpened::Broken(_))), "{at}");
    }
    for length in [0, 1, TRAILER_BYTES, BLOCK_BYTES, honest.len() - 1] {
        std::fs::write(&path, &honest[..length]).unwrap();
        let refused = Segment::open(base.path(), 1, 100);
        assert!(matches!(refused, Err(NotOpened::Broken(_))), "{length}");
    }
    std::fs::write(&path, &honest).unwrap();
    assert!(Segment::open(base.path(), 1, 100).is_ok());
    assert!(matches!(
        Segment::open(base.path(), 1, 99),
        Err(NotOpened::Broken(_))
    ));
    std::fs::rename(&path, base.path().join(file_name(2))).unwrap();
    assert!(matches!(
        Segment::open(base.path(), 1, 100),
        Err(NotOpened::Broken(_))
    ));
    // Another segment's file under this name.
    assert!(matches!(
        Segment::open(base.path(), 2, 100),
        Err(NotOpened::Broken(_))
    ));
}

#[test]
fn a_disposable_file_goes_with_its_last_reader() {
    let base = tempfile::tempdir().unwrap();
    let segment = Arc::new(written(base.path(), 1, vec![issued(key(1))]));
    let reader = Arc::clone(&segment);
    segment.set_disposable(true);
    drop(segment);
    assert!(reader.get(key(1)).unwrap().is_some());
    drop(reader);
    assert!(!base.path().join(file_name(1)).exists());
    // An existing file is never overwritten.
    drop(written(base.path(), 3, vec![issued(key(1))]));
    assert!(Writer::create(base.path(), 3, 1).is_err());
}
