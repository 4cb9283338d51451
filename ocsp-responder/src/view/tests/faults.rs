//! Disks that fail, processes that die, indexes that rot.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A view with several segments and some recent records.
fn settled() -> (Site, View) {
    let mut site = Site::new();
    let mut view = site.open_small();
    for part in 0..6 {
        site.grow(part * 50..(part + 1) * 50);
        follow(&mut view, &site);
    }
    settle_down(&mut view, &site);
    site.grow(300..302);
    follow(&mut view, &site);
    site.check(&view.reader());
    assert!(!site.segments().is_empty());
    (site, view)
}

fn flip(path: &Path, at: usize) {
    let mut octets = std::fs::read(path).unwrap();
    octets[at] ^= 0x20;
    std::fs::write(path, octets).unwrap();
}

#[test]
fn a_restart_answers_without_the_source() {
    let (site, view) = settled();
    drop(view);
    let view = site.open();
    std::fs::remove_dir_all(site.public()).unwrap();
    site.check(&view.reader());
    assert_eq!(
        view.reader().note(),
        Some(site.log.sign(&site.log.head()).unwrap())
    );
}

#[test]
fn a_damaged_block_is_found_said_and_mended() {
    let (site, mut view) = settled();
    let reader = view.reader();
    let path = site.state().join(&site.segments()[0]);
    flip(&path, 100);
    let (mut right, mut refused) = (0, 0);
    for (serial, status) in &site.expected {
        match reader.status(&issuer("device-1"), *serial) {
            Ok(found) => {
                assert_eq!(found, *status, "{serial}");
                right += 1;
            }
            Err(damage) => {
                assert!(
                    matches!(&damage, Damaged::Index(what) if what.contains("block 0")),
                    "{damage}"
                );
                refused += 1;
            }
        }
    }
    assert!(refused > 0 && right > 0, "{refused} {right}");
    assert!(reader.is_damaged());
    let followed = follow(&mut view, &site);
    assert!(followed.rebuilt);
    assert_eq!(
        (followed.entries, followed.changed),
        (site.log.size(), Changed::Everything)
    );
    assert!(!reader.is_damaged());
    site.check(&reader);
    drop(view);
    site.check(&site.open().reader());
}

#[test]
fn a_damaged_block_is_found_by_a_merge() {
    let mut site = Site::new();
    let mut view = site.open_small();
    site.grow(0..20);
    follow(&mut view, &site);
    flip(&site.state().join(&site.segments()[0]), 100);
    site.grow(20..40);
    follow(&mut view, &site);
    settle_down(&mut view, &site);
    // Whoever met the damage, the index is right now.
    follow(&mut view, &site);
    settle_down(&mut view, &site);
    site.check(&view.reader());
    drop(view);
    site.check(&site.open().reader());
}

#[test]
fn a_damaged_state_directory_is_made_anew() {
    type Damage = fn(&Site);
    let cases: [(&str, Damage); 7] = [
        ("truncated segment", |site| {
            let path = site.state().join(&site.segments()[0]);
            let octets = std::fs::read(&path).unwrap();
            std::fs::write(&path, &octets[..octets.len() / 2]).unwrap();
        }),
        ("missing segment", |site| {
            std::fs::remove_file(site.state().join(&site.segments()[0])).unwrap();
        }),
        ("damaged footer", |site| {
            let path = site.state().join(&site.segments()[0]);
            let length = std::fs::metadata(&path).unwrap().len();
            flip(&path, usize::try_from(length).unwrap() - 40);
        }),
        ("damaged manifest", |site| {
            flip(&site.state().join("manifest"), 300)
        }),
        ("truncated manifest", |site| {
            let octets = std::fs::read(site.state().join("manifest")).unwrap();
            std::fs::write(site.state().join("manifest"), &octets[..90]).unwrap();
        }),
        ("empty manifest", |site| {
            std::fs::write(site.state().join("manifest"), b"").unwrap()
        }),
        ("missing manifest", |site| {
            std::fs::remove_file(site.state().join("manifest")).unwrap()
        }),
    ];
    for (case, damage) in cases {
        let (site, view) = settled();
        drop(view);
        damage(&site);
        let mut view = site.open();
        let reader = view.reader();
        assert!(reader.is_damaged(), "{case}");
        let answer = reader.status(&issuer("device-1"), serial(1, 0));
        assert_eq!(answer, Err(Damaged::Nothing), "{case}");
        // An older head is still known to be older.
        let old = Checkpoint {
            size: 3,
            ..site.log.head()
        };
        site.log
            .write_checkpoint(&site.log.sign(&old).unwrap())
            .unwrap();
        assert!(
            matches!(refused(&mut view, &site), FollowError::Rollback { .. }),
            "{case}"
        );
        site.log
            .write_checkpoint(&site.log.sign(&site.log.head()).unwrap())
            .unwrap();
        assert!(follow(&mut view, &site).rebuilt, "{case}");
        site.check(&reader);
        drop(view);
        let view = site.open();
        site.check(&view.reader());
        assert!(!view.reader().is_damaged(), "{case}");
    }
}

#[test]
fn another_process_and_another_log_are_kept_out() {
    let (site, view) = settled();
    let second = View::open(&site.state(), site.log.key().clone());
    assert!(
        matches!(second, Err(ViewError::Locked { .. })),
        "{second:?}"
    );
    drop(view);
    let other = MadeLog::empty(&site.base.path().join("other"), ORIGIN, [8; 32], TIME).unwrap();
    let refused = View::open(&site.state(), other.key().clone()).unwrap_err();
    assert!(
        matches!(&refused, ViewError::OtherLog { found, .. } if *found == site.log.key().to_string())
    );
    // A kept head that somebody changed is not passed over.
    let path = site.state().join("head");
    let note = std::fs::read(&path).unwrap();
    for bad in [
        &b""[..],
        &note[..note.len() - 9],
        other.sign(&site.log.head()).unwrap().as_bytes(),
    ] {
        std::fs::write(&path, bad).unwrap();
        let refused = View::open(&site.state(), site.log.key().clone());
        assert!(
            matches!(refused, Err(ViewError::KeptHead { .. })),
            "{refused:?}"
        );
    }
    // Without it the one in the manifest serves.
    std::fs::remove_file(&path).unwrap();
    site.check(&site.open().reader());
    std::fs::write(site.base.path().join("file"), b"").unwrap();
    let refused = View::open(&site.base.path().join("file"), site.log.key().clone());
    assert!(
        matches!(refused, Err(ViewError::Storage { .. })),
        "{refused:?}"
    );
}

/// What the log grows by while the disk fails: revocations of old serials, and enough to make segments.
fn grow_on(site: &mut Site) {
    for n in [0, 1, 2, 300] {
        site.revoke(n, RevocationReason::CessationOfOperation);
    }
    site.grow(400..460);
}

#[test]
fn a_kill_between_any_two_writes_leaves_the_old_or_the_new() {
    let (mut site, mut view) = settled();
    let before = (site.log.head(), site.expected.clone());
    grow_on(&mut site);
    let after = (site.log.head(), site.expected.clone());
    let copies = site.base.path().join("copies");
    let taken = Arc::new(AtomicUsize::new(0));
    let (state, to, counter) = (site.state(), copies.clone(), Arc::clone(&taken));
    view.state.seam.set(move |_| {
        let n = counter.fetch_add(1, Ordering::Relaxed);
        copy(&state, &to.join(n.to_string()));
        Ok(())
    });
    follow(&mut view, &site);
    settle_down(&mut view, &site);
    drop(view);
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken >= 8, "{taken}");
    let (mut old, mut new) = (0, 0);
    for n in 0..taken {
        let state = copies.join(n.to_string());
        let mut view = View::open(&state, site.log.key().clone()).unwrap();
        let reader = view.reader();
        assert!(!reader.is_damaged(), "{n}");
        let head = reader.head().unwrap();
        let (_, expected) = if head == before.0 { &before } else { &after };
        if head == before.0 {
            old += 1
        } else {
            new += 1
        }
        for (serial, status) in expected {
            assert_eq!(
                reader.status(&issuer("device-1"), *serial).as_ref(),
                Ok(status),
                "{n}"
            );
        }
        let followed = wait(view.follow(&site.source())).unwrap();
        assert!(!followed.rebuilt, "{n}");
        site.check(&reader);
    }
    assert!(old > 0 && new > 0, "{old} {new}");
}

#[test]
fn a_disk_that_fails_at_any_write_changes_nothing_but_the_age() {
    let failures = (0..).find(|n| !fails_at(*n)).unwrap();
    assert!(failures >= 8, "{failures}");
}

/// Fails the `n`th step; false when there is none.
fn fails_at(n: usize) -> bool {
    let (mut site, mut view) = settled();
    let before = (site.log.head(), site.expected.clone());
    grow_on(&mut site);
    let (seen, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let (counter, told) = (Arc::clone(&seen), Arc::clone(&failed));
    view.state.seam.set(move |name| {
        if counter.fetch_add(1, Ordering::Relaxed) < n {
            return Ok(());
        }
        *told.lock().unwrap() = Some(name.to_owned());
        Err(io::ErrorKind::StorageFull.into())
    });
    let outcome = wait(view.follow(&site.source()));
    let name = failed.lock().unwrap().clone();
    let reader = view.reader();
    let Some(name) = name else {
        assert!(outcome.is_ok());
        return false;
    };
    let error = outcome.unwrap_err();
    assert!(
        matches!(error, FollowError::Storage { .. }) && error.is_transient(),
        "{name}: {error:?}"
    );
    assert_eq!(reader.head(), Some(before.0), "{name}");
    for (serial, status) in &before.1 {
        assert_eq!(
            reader.status(&issuer("device-1"), *serial).as_ref(),
            Ok(status),
            "{name}"
        );
    }
    // And a restart at this moment is right too.
    let copied = site.base.path().join("copied");
    copy(&site.state(), &copied);
    let mut restarted = View::open(&copied, site.log.key().clone()).unwrap();
    assert!(!restarted.reader().is_damaged(), "{name}");
    wait(restarted.follow(&site.source())).unwrap();
    site.check(&restarted.reader());
    // There is room again.
    view.state.seam.clear();
    assert!(!follow(&mut view, &site).rebuilt);
    site.check(&reader);
    true
}

#[test]
fn a_call_that_is_dropped_midway_leaves_everything_as_it_was() {
    let (mut site, mut view) = settled();
    let (before, segments) = (site.log.head(), site.segments());
    let expected = site.expected.clone();
    site.grow(1000..4000);
    // Long enough for some spilled segments, short enough for the head not to be reached.
    wait(async {
        let source = site.source();
        let mut following = Box::pin(view.follow(&source));
        for _ in 0..6 {
            let slice = Duration::from_millis(1);
            if tokio::time::timeout(slice, &mut following).await.is_ok() {
                return;
            }
        }
    });
    let reader = view.reader();
    if reader.head() == Some(before) {
        assert_eq!(site.segments(), segments);
        for (serial, status) in expected {
            assert_eq!(reader.status(&issuer("device-1"), serial), Ok(status));
        }
    }
    follow(&mut view, &site);
    site.check(&reader);
}

#[test]
fn readers_never_wait_and_never_see_a_mixture() {
    let (mut site, mut view) = settled();
    let done = AtomicUsize::new(0);
    let (first, second) = (serial(1, 0), serial(1, 1));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            let reader = view.reader();
            let done = &done;
            scope.spawn(move || {
                let mut asked = 0_u64;
                while done.load(Ordering::Relaxed) == 0 || asked == 0 {
                    // The second is revoked in the same heads as the first, and one entry later.
                    let one = reader.status(&issuer("device-1"), first).unwrap();
                    let two = reader.status(&issuer("device-1"), second).unwrap();
                    let revoked = |status| status != CertStatus::Good;
                    assert!(!revoked(one) || revoked(two), "{one:?} {two:?}");
                    asked += 1;
                }
            });
        }
        for round in 0..20 {
            if round == 10 {
                site.revoke(0, RevocationReason::Superseded);
                site.revoke(1, RevocationReason::Superseded);
            }
            site.grow(2000 + round * 20..2020 + round * 20);
            follow(&mut view, &site);
        }
        done.store(1, Ordering::Relaxed);
    });
    settle_down(&mut view, &site);
    site.check(&view.reader());
}

#[test]
fn superfluous_files_go() {
    let (mut site, mut view) = settled();
    std::fs::write(site.state().join("99999999.segment"), b"left by a crash").unwrap();
    for part in 0..30 {
        site.grow(5000 + part * 20..5020 + part * 20);
        follow(&mut view, &site);
    }
    settle_down(&mut view, &site);
    drop(view);
    let view = site.open();
    let named: Vec<String> = view
        .shared
        .current()
        .segments
        .iter()
        .map(|segment| segment::file_name(segment.id()))
        .collect();
    let mut sorted = named.clone();
    sorted.sort();
    assert_eq!(site.segments(), sorted);
    assert!(named.len() < 8, "{named:?}");
    site.check(&view.reader());
}
