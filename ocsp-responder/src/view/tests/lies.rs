//! Logs that lie, or look as if they did: nothing of them becomes visible.

use super::*;
use crate::log::tile::{FULL, entry_bundle_path, hash_tile_path, parse_entries};

/// A site whose view has seen the first 100 certificates, and whose log has grown since.
fn grown() -> (Site, View, Checkpoint) {
    let mut site = Site::new();
    site.grow(0..100);
    let mut view = site.open();
    follow(&mut view, &site);
    let before = site.log.head();
    site.grow(100..400);
    (site, view, before)
}

/// The view still stands at `before`, and says of later serials that it does not know them.
fn stands(view: &View, before: &Checkpoint) {
    let reader = view.reader();
    assert_eq!(reader.head().as_ref(), Some(before));
    assert_eq!(
        reader.status(&issuer("device-1"), serial(1, 0)),
        Ok(CertStatus::Good)
    );
    assert_eq!(
        reader.status(&issuer("device-1"), serial(1, 399)),
        Ok(CertStatus::Unknown)
    );
}

fn bundle(site: &Site, index: u64) -> PathBuf {
    site.public()
        .join("log")
        .join(entry_bundle_path(index, FULL))
}

#[test]
fn a_tampered_leaf_is_found() {
    let (site, mut view, before) = grown();
    let path = bundle(&site, 2);
    let honest = std::fs::read(&path).unwrap();
    // One that still parses, one that does not, one that lies about its place.
    for (from, to) in [
        ("\"reason\":1", "\"reason\":4"),
        ("\"kind\":\"revoked\"", "\"kind\":\"revoker\""),
        ("\"index\":600", "\"index\":601"),
    ] {
        let at = honest
            .windows(from.len())
            .position(|part| part == from.as_bytes())
            .unwrap();
        let mut tampered = honest.clone();
        tampered[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(&path, &tampered).unwrap();
        let refused = refused(&mut view, &site);
        assert!(
            matches!(refused, FollowError::Altered { .. }),
            "{from}: {refused:?}"
        );
        assert!(!refused.is_transient());
        stands(&view, &before);
    }
    std::fs::write(&path, &honest).unwrap();
    follow(&mut view, &site);
    site.check(&view.reader());
}

#[test]
fn a_dropped_or_truncated_leaf_is_found() {
    let (site, mut view, before) = grown();
    let path = bundle(&site, 2);
    let honest = std::fs::read(&path).unwrap();
    let leaves = parse_entries(&honest, FULL).unwrap();
    let dropped: Vec<&[u8]> = leaves
        .iter()
        .enumerate()
        .filter(|(n, _)| *n != 9)
        .map(|(_, l)| *l)
        .collect();
    let mut doubled = dropped.clone();
    doubled.push(leaves[255]);
    let encode = |leaves: Vec<&[u8]>| crate::log::tile::encode_entries(leaves.into_iter());
    for tampered in [
        encode(dropped),
        encode(doubled),
        honest[..honest.len() - 1].to_vec(),
        Vec::new(),
    ] {
        std::fs::write(&path, &tampered).unwrap();
        let refused = refused(&mut view, &site);
        assert!(
            matches!(refused, FollowError::Altered { .. }),
            "{refused:?}"
        );
        stands(&view, &before);
    }
    // One that is not there at all may still come.
    std::fs::remove_file(&path).unwrap();
    let refused = refused(&mut view, &site);
    assert!(
        matches!(&refused, FollowError::Torn { path } if path == "log/tile/entries/002"),
        "{refused:?}"
    );
    assert!(refused.is_transient());
    stands(&view, &before);
    std::fs::write(&path, &honest).unwrap();
    follow(&mut view, &site);
    site.check(&view.reader());
}

#[test]
fn a_rolled_back_checkpoint_is_refused() {
    let (site, mut view, before) = grown();
    follow(&mut view, &site);
    let old = site.log.sign(&before).unwrap();
    site.log.write_checkpoint(&old).unwrap();
    for _ in 0..2 {
        let refused = refused(&mut view, &site);
        let sizes = (before.size, site.log.size());
        assert!(
            matches!(refused, FollowError::Rollback { kept, offered } if (offered, kept) == sizes),
            "{refused:?}"
        );
        site.check(&view.reader());
        drop(view);
        view = site.open();
    }
    site.log
        .write_checkpoint(&site.log.sign(&site.log.head()).unwrap())
        .unwrap();
    assert_eq!(follow(&mut view, &site).entries, 0);
}

#[test]
fn an_older_head_in_the_state_directory_opens_no_door() {
    let (site, mut view, before) = grown();
    follow(&mut view, &site);
    drop(view);
    let old = site.log.sign(&before).unwrap();
    std::fs::write(site.state().join("head"), &old).unwrap();
    site.log.write_checkpoint(&old).unwrap();
    let mut view = site.open();
    let refused = refused(&mut view, &site);
    assert!(
        matches!(refused, FollowError::Rollback { .. }),
        "{refused:?}"
    );
    site.check(&view.reader());
}

/// A fork is refused for ever, with both heads as evidence, until an operator removes that.
fn is_forked(site: &Site, mut view: View, kept: &Checkpoint, offered: &Checkpoint) {
    let sign = |head| site.log.sign(head).unwrap();
    let evidence = site.state().join("fork");
    let first = refused(&mut view, site);
    assert!(
        matches!(&first, FollowError::Fork { evidence: path } if *path == evidence),
        "{first:?}"
    );
    let text = std::fs::read_to_string(&evidence).unwrap();
    assert!(
        text.contains(&sign(kept)) && text.contains(&sign(offered)),
        "{text}"
    );
    stands(&view, kept);
    // And after a restart, whatever the source says by then.
    drop(view);
    let mut view = site.open();
    let again = wait(view.follow(&site.source())).unwrap_err();
    assert!(matches!(again, FollowError::Fork { .. }), "{again:?}");
    stands(&view, kept);
    std::fs::remove_file(&evidence).unwrap();
    assert!(matches!(refused(&mut view, site), FollowError::Fork { .. }));
}

#[test]
fn a_fork_of_the_same_size_is_refused() {
    let mut site = Site::new();
    site.grow(0..100);
    let mut view = site.open();
    follow(&mut view, &site);
    let kept = site.log.head();
    let offered = Checkpoint {
        root: [9; 32],
        ..kept.clone()
    };
    site.log
        .write_checkpoint(&site.log.sign(&offered).unwrap())
        .unwrap();
    is_forked(&site, view, &kept, &offered);
}

/// The same log with another beginning: entry 3 is a tick more.
fn other_history(site: &mut Site, count: u64) {
    std::fs::remove_dir_all(site.public().join("log")).unwrap();
    site.log = MadeLog::new(&site.public(), ORIGIN, [7; 32], TIME).unwrap();
    site.log.push(EntryKind::Tick).unwrap();
    site.grow(0..count);
}

#[test]
fn a_larger_fork_is_proved_and_refused() {
    for count in [101, 110, 400, 40_000] {
        let mut site = Site::new();
        site.grow(0..100);
        let mut view = site.open();
        follow(&mut view, &site);
        let kept = site.log.head();
        other_history(&mut site, count);
        let offered = site.log.head();
        is_forked(&site, view, &kept, &offered);
    }
}

#[test]
fn without_a_proof_it_is_an_altered_copy() {
    let mut site = Site::new();
    site.grow(0..100);
    let mut view = site.open();
    follow(&mut view, &site);
    let kept = site.log.head();
    other_history(&mut site, 400);
    let tile = site.public().join("log").join(hash_tile_path(0, 0, FULL));
    let mut hashes = std::fs::read(&tile).unwrap();
    hashes[70] ^= 1;
    std::fs::write(&tile, hashes).unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Altered { .. }
    ));
    std::fs::remove_file(&tile).unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Altered { .. }
    ));
    assert!(!site.state().join("fork").exists());
    stands(&view, &kept);
}

#[test]
fn a_fork_is_found_by_the_kept_head_though_the_index_is_lost() {
    let mut site = Site::new();
    site.grow(0..100);
    let mut view = site.open();
    follow(&mut view, &site);
    drop(view);
    std::fs::remove_file(site.state().join("manifest")).unwrap();
    other_history(&mut site, 400);
    let mut view = site.open();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Fork { .. }
    ));
    assert_eq!(view.reader().as_of(), None);
}

#[test]
fn heads_that_the_log_key_did_not_sign_are_refused() {
    let (site, mut view, before) = grown();
    let head = site.log.head();
    let honest = site.log.sign(&head).unwrap();
    let stranger =
        MadeLog::empty(&site.base.path().join("stranger"), ORIGIN, [8; 32], TIME).unwrap();
    let foreign = Checkpoint {
        origin: "log.example/other".into(),
        ..head.clone()
    };
    let cases = [
        (stranger.sign(&head).unwrap(), "no signature by the key"),
        (
            honest.replacen(&head.size.to_string(), &(head.size + 1).to_string(), 1),
            "does not verify",
        ),
        (
            site.log.sign(&foreign).unwrap(),
            "is of the log log.example/other",
        ),
        ("<html>".to_owned(), "not a signed checkpoint"),
        (String::new(), "not a signed checkpoint"),
    ];
    for (note, sentence) in cases {
        site.log.write_checkpoint(&note).unwrap();
        let refused = refused(&mut view, &site);
        assert!(!refused.is_transient());
        let FollowError::Head(cause) = refused else {
            panic!("{refused:?}")
        };
        assert!(cause.to_string().contains(sentence), "{cause}");
        stands(&view, &before);
    }
    std::fs::write(site.public().join("log/checkpoint"), b"\xff\xfe").unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Head(BadNote::Malformed(_))
    ));
    std::fs::write(
        site.public().join("log/checkpoint"),
        vec![b'x'; NOTE_BYTES_MAX + 1],
    )
    .unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Unreachable(_)
    ));
    std::fs::remove_file(site.public().join("log/checkpoint")).unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Torn { .. }
    ));
    stands(&view, &before);
    site.log.write_checkpoint(&honest).unwrap();
    follow(&mut view, &site);
    site.check(&view.reader());
}

#[test]
fn a_head_that_promises_entries_that_are_not_there_is_torn() {
    let (site, mut view, before) = grown();
    let more = Checkpoint {
        size: site.log.size() + 5,
        ..site.log.head()
    };
    site.log
        .write_checkpoint(&site.log.sign(&more).unwrap())
        .unwrap();
    assert!(matches!(
        refused(&mut view, &site),
        FollowError::Torn { .. }
    ));
    stands(&view, &before);
}

#[test]
fn the_full_bundle_serves_where_the_partial_one_has_gone() {
    let mut site = Site::new();
    site.grow(0..50);
    let (old, as_of) = (site.log.head(), site.log.time - 1);
    let expected = site.expected.clone();
    site.grow(50..400);
    // The partial bundle of the old head is gone; a reader that has only just read that head goes on.
    let partial = site.public().join("log/tile/entries/000.p");
    assert!(!partial.exists());
    site.log
        .write_checkpoint(&site.log.sign(&old).unwrap())
        .unwrap();
    let mut view = site.open();
    assert_eq!(follow(&mut view, &site).entries, old.size);
    assert_eq!(view.reader().as_of(), Some(UnixMillis(as_of)));
    for (serial, status) in expected {
        assert_eq!(
            view.reader().status(&issuer("device-1"), serial),
            Ok(status)
        );
    }
    site.log
        .write_checkpoint(&site.log.sign(&site.log.head()).unwrap())
        .unwrap();
    follow(&mut view, &site);
    site.check(&view.reader());
}

#[test]
fn a_wider_partial_bundle_serves_where_the_wanted_one_has_gone() {
    let mut site = Site::new();
    site.grow(0..50);
    let (old, as_of) = (site.log.head(), site.log.time - 1);
    let expected = site.expected.clone();
    site.grow(50..70);
    let newer = site.log.head();
    assert!(newer.size < u64::from(FULL), "there is no full bundle");
    // A mirror that took the head first and then the tiles, of which it keeps the widest only.
    let bundle = |width: u64| {
        let width = u16::try_from(width).unwrap();
        site.public().join("log").join(entry_bundle_path(0, width))
    };
    std::fs::remove_file(bundle(old.size)).unwrap();
    assert!(bundle(newer.size).exists());
    site.log
        .write_checkpoint(&site.log.sign(&old).unwrap())
        .unwrap();
    // Names of other kinds beside it are passed over.
    let beside = bundle(newer.size).with_file_name("300");
    std::fs::write(&beside, b"").unwrap();
    std::fs::write(beside.with_file_name("x"), b"").unwrap();
    let mut view = site.open();
    assert_eq!(follow(&mut view, &site).entries, old.size);
    assert_eq!(view.reader().as_of(), Some(UnixMillis(as_of)));
    for (serial, status) in expected {
        assert_eq!(
            view.reader().status(&issuer("device-1"), serial),
            Ok(status)
        );
    }
    // It is believed no more than the wanted one: a changed entry is found all the same.
    let mut octets = std::fs::read(bundle(newer.size)).unwrap();
    octets[40] ^= 1;
    std::fs::write(bundle(newer.size), octets).unwrap();
    let mut another =
        View::open(&site.base.path().join("another"), site.log.key().clone()).unwrap();
    assert!(matches!(
        refused(&mut another, &site),
        FollowError::Altered { .. } | FollowError::BadEntry { .. }
    ));
    assert_eq!(another.reader().as_of(), None);
    std::fs::remove_file(bundle(newer.size)).unwrap();
    assert!(matches!(
        refused(&mut another, &site),
        FollowError::Torn { .. }
    ));
}
