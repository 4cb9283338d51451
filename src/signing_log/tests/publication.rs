//! What readers find on disk.

use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::log::merkle::{TileAt, range_root};
use certstatus::log::tile::{
    BadTile, TILE_WIDTH, detail_bundle_path, entry_bundle_path, hash_tile_path, parse_details,
    parse_entries, parse_hashes, width_in,
};

use super::life::fill;
use super::*;

/// Reads everything that the checkpoint covers, as an auditor would, and compares it with the database.
async fn audit(site: &Site, log: &SigningLog) -> u64 {
    let key = VerifierKey::parse(&log.verifier_key()).unwrap();
    let root = site.path("public/log");
    let note = std::fs::read_to_string(root.join("checkpoint")).unwrap();
    let head = Checkpoint::verify(&note, &key).unwrap();
    let stored = sqlx::query("SELECT leaf, detail FROM entry ORDER BY idx")
        .fetch_all(&mut site.sqlite().await)
        .await
        .unwrap();
    let mut next = stored.iter();
    for index in 0..head.size.div_ceil(TILE_WIDTH) {
        let width = width_in(head.size, index);
        let bytes = std::fs::read(root.join(entry_bundle_path(index, width))).unwrap();
        let details = site.path("private").join(detail_bundle_path(index, width));
        let details = std::fs::read(details).unwrap();
        let details: HashMap<u64, &[u8]> = parse_details(&details, index)
            .unwrap()
            .into_iter()
            .collect();
        for (at, leaf) in (index * TILE_WIDTH..).zip(parse_entries(&bytes, width).unwrap()) {
            let row = next.next().unwrap();
            assert_eq!(leaf, row.get::<&[u8], _>("leaf"));
            let detail = details.get(&at).copied();
            assert_eq!(detail, row.get::<Option<&[u8]>, _>("detail"));
            let entry = Entry::parse(leaf).unwrap();
            assert_eq!(entry.detail, detail.map(DetailHash::of));
        }
    }
    let tile = |at: TileAt| {
        let bytes = std::fs::read(root.join(hash_tile_path(at.level, at.index, at.width)));
        parse_hashes(&bytes.map_err(|_| BadTile)?, at.width)
    };
    assert_eq!(range_root(head.size, head.size, tile), Ok(head.root));
    head.size
}

#[tokio::test]
async fn published_files_are_the_log() {
    let site = Site::new();
    let log = site.log(1000).await;
    for count in [5, 300, 206, 600] {
        fill(&log, count).await;
        log.publish().await.unwrap();
        let size = audit(&site, &log).await;
        assert_eq!((size, log.status().published), (log.status().size, size));
    }
    // Partial tiles go when the full one is there.
    let log_dir = site.path("public/log");
    for (whole, partial) in [
        (entry_bundle_path(0, 256), "tile/entries/000.p"),
        (hash_tile_path(0, 0, 256), "tile/0/000.p"),
    ] {
        assert!(log_dir.join(whole).exists());
        let gone = async {
            while log_dir.join(partial).exists() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), gone)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn publication_follows_by_itself_and_at_once_after_a_revocation() {
    let mut site = Site::new();
    site.pace.publication = Duration::from_secs(3600);
    let log = site.log(10).await;
    let issued = site.issue(&log, device("dev-1", 1)).await.unwrap();
    let Subject::Certificate { serial, .. } = *issued.subject() else {
        panic!("no certificate");
    };
    log.record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await
        .unwrap();
    let size = log.status().size;
    let follows = async {
        while log.status().published < size {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), follows)
        .await
        .unwrap();
    audit(&site, &log).await;
}

#[tokio::test]
async fn a_restart_goes_on_where_publication_stopped() {
    let site = Site::new();
    let log = site.log(10).await;
    fill(&log, 400).await;
    log.publish().await.unwrap();
    fill(&log, 100).await;
    log.kill().await;
    let log = site.reopen().await;
    fill(&log, 30).await;
    log.publish().await.unwrap();
    audit(&site, &log).await;
    // Lost files are made again from the database.
    log.stop().await;
    drop(log);
    std::fs::remove_dir_all(site.path("public")).unwrap();
    std::fs::remove_dir_all(site.path("private")).unwrap();
    let log = site.reopen().await;
    log.publish().await.unwrap();
    assert_eq!(audit(&site, &log).await, log.status().size);
}

#[tokio::test]
async fn a_publication_that_fails_is_told_and_tried_again() {
    let site = Site::new();
    let log = site.bare().await;
    log.publish().await.unwrap();
    // A file where a directory must be.
    let blocked = site.path("public/log/tile");
    std::fs::rename(&blocked, site.path("aside")).unwrap();
    std::fs::write(&blocked, "").unwrap();
    fill(&log, 3).await;
    let failed = log.publish().await;
    assert!(matches!(failed, Err(LogError::Publish(_))), "{failed:?}");
    assert!(log.status().published < log.status().size);
    assert_eq!(log.status().state, LogState::Running);
    std::fs::remove_file(&blocked).unwrap();
    std::fs::rename(site.path("aside"), &blocked).unwrap();
    let follows = async {
        while log.status().published < log.status().size {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), follows)
        .await
        .unwrap();
    audit(&site, &log).await;
}

#[tokio::test]
async fn nothing_is_published_before_recovery() {
    let mut site = Site::new();
    site.pace.publication = Duration::from_secs(3600);
    let log = site.log(10).await;
    log.publish().await.unwrap();
    let _open = site.intent(&log, device("dev-1", 1)).await.unwrap();
    let before = log.status();
    log.kill().await;
    let note = std::fs::read(site.path("public/log/checkpoint")).unwrap();
    let log = site.open().await.unwrap();
    assert!(matches!(log.publish().await, Err(LogError::Recovering)));
    assert!(
        before.published < before.size,
        "there is nothing to publish"
    );
    // A log that ends publishes all that it may.
    log.stop().await;
    drop(log);
    let published = std::fs::read(site.path("public/log/checkpoint")).unwrap();
    assert_eq!(published, note, "published before recovery");
    let log = site.reopen().await;
    log.publish().await.unwrap();
    assert_eq!(audit(&site, &log).await, log.status().size);
}

#[tokio::test]
async fn a_database_behind_or_beside_what_is_published_is_refused() {
    let site = Site::new();
    let log = site.log(10).await;
    log.stop().await;
    drop(log);
    let database = site.path("state/hallmark.db");
    std::fs::copy(&database, site.path("backup")).unwrap();
    let log = site.reopen().await;
    fill(&log, 3).await;
    log.stop().await;
    drop(log);
    // An old backup comes back.
    std::fs::copy(site.path("backup"), &database).unwrap();
    let refused = site.open().await.err().unwrap();
    assert!(
        matches!(&refused, LogError::Damaged(why) if why.contains("rolled back")),
        "{refused}"
    );
    // It grows past the published size with other entries.
    std::fs::rename(site.path("public"), site.path("published")).unwrap();
    let log = site.reopen().await;
    fill(&log, 9).await;
    log.stop().await;
    drop(log);
    std::fs::remove_dir_all(site.path("public")).unwrap();
    std::fs::rename(site.path("published"), site.path("public")).unwrap();
    let refused = site.open().await.err().unwrap();
    assert!(
        matches!(&refused, LogError::Damaged(why) if why.contains("not the ones")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_checkpoint_of_another_key_is_made_anew() {
    let site = Site::new();
    let log = site.log(10).await;
    log.stop().await;
    drop(log);
    std::fs::write(site.path("public/log/checkpoint"), "not a note").unwrap();
    let log = site.reopen().await;
    log.publish().await.unwrap();
    assert_eq!(audit(&site, &log).await, log.status().size);
}

#[tokio::test]
async fn a_checkpoint_states_what_is_durable() {
    let site = Site::new();
    let log = site.bare().await;
    fill(&log, 10).await;
    let key = VerifierKey::parse(&log.verifier_key()).unwrap();
    let note = log.checkpoint().await.unwrap();
    let head = Checkpoint::verify(&note, &key).unwrap();
    let (entries, root) = site.entries().await;
    assert_eq!(head.origin, ORIGIN);
    assert_eq!(
        (head.size, head.root),
        (u64::try_from(entries.len()).unwrap(), root)
    );
}

#[tokio::test]
async fn details_are_not_for_everyone() {
    use std::os::unix::fs::PermissionsExt as _;
    // One that is there already, and open to all, as `mkdir` leaves it.
    for open in [false, true] {
        let site = Site::new();
        let (details, wide) = (site.path("private"), std::fs::Permissions::from_mode(0o777));
        if open {
            std::fs::create_dir(&details).unwrap();
            std::fs::set_permissions(&details, wide).unwrap();
        }
        let log = site.bare().await;
        log.publish().await.unwrap();
        let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode(&details) & 0o027, 0);
        let bundle = details.join(certstatus::log::tile::detail_bundle_path(0, 1));
        assert_eq!(mode(&bundle) & 0o137, 0, "{}", bundle.display());
    }
}

#[tokio::test]
async fn an_unreadable_checkpoint_is_not_taken_for_none() {
    let site = Site::new();
    let log = site.bare().await;
    log.stop().await;
    drop(log);
    let path = site.path("public/log/checkpoint");
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let refused = site.open().await.err().unwrap();
    assert!(matches!(refused, LogError::Publish(_)), "{refused}");
    std::fs::remove_dir(&path).unwrap();
    let log = site.reopen().await;
    log.publish().await.unwrap();
    assert_eq!(audit(&site, &log).await, log.status().size);
}
