//! Commits that fail: lost, done but reported as failed, refused by the disk, and deaths at each point.

use super::*;

#[tokio::test]
async fn a_lost_intent_leaves_nothing_and_the_log_goes_on() {
    let site = Site::new();
    let log = site.log(1).await;
    log.inner.faults.lose(1);
    let refused = site.intent(&log, device("dev-1", 1)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Log(LogError::Halted(_)))
    ));
    until(&log, |state| *state == LogState::Running).await;
    assert_eq!((used(&log), log.status().open_intents), (0, 0));
    site.check(&log).await;
    site.issue(&log, device("dev-1", 1)).await.unwrap();
    site.check(&log).await;
    let (entries, _) = site.entries().await;
    let events = entries
        .iter()
        .filter(|entry| matches!(&entry.kind, EntryKind::Event { event } if event.0.as_str() == "recovered"));
    assert_eq!(events.count(), 1);
}

#[tokio::test]
async fn an_intent_done_but_reported_as_failed_is_abandoned() {
    let site = Site::new();
    let log = site.log(1).await;
    log.inner.faults.misreport(1);
    let refused = site.intent(&log, device("dev-1", 1)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Log(LogError::Halted(_)))
    ));
    until(&log, |state| *state == LogState::Running).await;
    // Durable, so it has an entry; nobody held it, so it is abandoned and its unit is back.
    let (entries, _) = site.entries().await;
    let abandoned = entries.iter().filter(|entry| {
        matches!(
            entry.kind,
            EntryKind::Outcome {
                outcome: Outcome::Abandoned,
                ..
            }
        )
    });
    assert_eq!(abandoned.count(), 1);
    assert_eq!((used(&log), log.status().open_intents), (0, 0));
    site.check(&log).await;
    site.issue(&log, device("dev-1", 1)).await.unwrap();
}

#[tokio::test]
async fn a_lost_outcome_waits_and_is_appended_after_recovery() {
    let site = Site::new();
    let log = site.log(1).await;
    let device = device("dev-1", 1);
    let intent = site.intent(&log, device).await.unwrap();
    log.inner.faults.lose(3);
    let issued = log.record_issued(site.ca.certify(intent)).await.unwrap();
    site.check(&log).await;
    let Claimed::Issued(found) = log.claimed(&device.claim()).await.unwrap() else {
        panic!("not issued");
    };
    assert_eq!(found.der(), issued.der());
    assert_eq!(found.entries(), issued.entries());
}

#[tokio::test]
async fn an_outcome_done_but_reported_as_failed_is_not_appended_twice() {
    let site = Site::new();
    let log = site.log(1).await;
    let device = device("dev-1", 1);
    let intent = site.intent(&log, device).await.unwrap();
    log.inner.faults.misreport(2);
    let issued = log.record_issued(site.ca.certify(intent)).await.unwrap();
    until(&log, |state| *state == LogState::Running).await;
    site.check(&log).await;
    let Claimed::Issued(found) = log.claimed(&device.claim()).await.unwrap() else {
        panic!("not issued");
    };
    assert_eq!(found.entries(), issued.entries());
}

#[tokio::test]
async fn changes_done_but_reported_as_failed_count() {
    let site = Site::new();
    let log = site.log(1).await;
    log.inner.faults.misreport(1);
    let order: Slug = "demo".parse().unwrap();
    let state = OrderState::Closed;
    let change = Change::OrderSet { order, state };
    let result = log.record_change("op", change).await;
    assert!(matches!(result, Err(LogError::Halted(_))));
    until(&log, |state| *state == LogState::Running).await;
    let order = log.registry().order(&"demo".parse().unwrap()).unwrap();
    assert_eq!(order.state, OrderState::Closed);
    site.check(&log).await;
}

#[tokio::test]
async fn a_disk_that_refuses_halts_and_resumes_with_every_outcome() {
    let site = Arc::new(Site::new());
    let log = site.log(100).await;
    let one = site.intent(&log, device("dev-1", 1)).await.unwrap();
    let two = site.intent(&log, device("dev-2", 2)).await.unwrap();
    // Every append fails in SQLite itself until the trigger goes.
    let mut disk = site.sqlite().await;
    sqlx::query(
        "CREATE TRIGGER full BEFORE INSERT ON entry BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .execute(&mut disk)
    .await
    .unwrap();
    let issuing = {
        let (log, certificate) = (log.clone(), site.ca.certify(one));
        tokio::spawn(async move { log.record_issued(certificate).await })
    };
    until(&log, |state| matches!(state, LogState::Halted { .. })).await;
    let failing = {
        let log = log.clone();
        tokio::spawn(async move { log.record_failed(failed(two, 1)).await })
    };
    let refused = site.intent(&log, device("dev-3", 3)).await;
    let Err(IntentRefused::Log(LogError::Halted(reason))) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        reason.contains("hallmark.db") && reason.contains("full"),
        "{reason}"
    );
    // What was durable before is still read, but for the moments in which recovery opens the database anew.
    let claimed = log.claimed(&device("dev-1", 1).claim()).await;
    assert!(matches!(
        claimed,
        Ok(Claimed::InFlight) | Err(LogError::Read(_) | LogError::Halted(_))
    ));
    // Each attempt to recover that fails tells the publisher, which waits for one that does not.
    let mut attempts = log.inner.shared.head.subscribe();
    for _ in 0..3 {
        attempts.changed().await.unwrap();
    }
    assert!(!issuing.is_finished() && !failing.is_finished());
    sqlx::query("DROP TRIGGER full")
        .execute(&mut disk)
        .await
        .unwrap();
    disk.close().await.unwrap();
    let issued = issuing.await.unwrap().unwrap();
    failing.await.unwrap().unwrap();
    until(&log, |state| *state == LogState::Running).await;
    assert_eq!(log.status().open_intents, 0);
    site.check(&log).await;
    match log.claimed(&device("dev-1", 1).claim()).await.unwrap() {
        Claimed::Issued(found) => assert_eq!(found.der(), issued.der()),
        other => panic!("{other:?}"),
    }
    site.issue(&log, device("dev-3", 3)).await.unwrap();
}

#[tokio::test]
async fn another_writer_is_found_out_and_stops_the_log() {
    let site = Site::new();
    let log = site.log(10).await;
    let mut other = site.sqlite().await;
    sqlx::query("UPDATE tree SET size = size + 1")
        .execute(&mut other)
        .await
        .unwrap();
    let refused = site.intent(&log, device("dev-1", 1)).await;
    let Err(IntentRefused::Log(LogError::Halted(reason))) = refused else {
        panic!("{refused:?}");
    };
    assert!(reason.contains("another writer"), "{reason}");
    let damaged = |state: &LogState| matches!(state, LogState::Halted { reason } if reason.contains("damaged"));
    until(&log, damaged).await;
    sqlx::query("UPDATE tree SET size = size - 1")
        .execute(&mut other)
        .await
        .unwrap();
    until(&log, |state| *state == LogState::Running).await;
    site.issue(&log, device("dev-1", 1)).await.unwrap();
    site.check(&log).await;
}

#[tokio::test]
async fn stopping_while_halted_gives_up_after_one_more_attempt() {
    let site = Site::new();
    let log = site.log(10).await;
    let intent = site.intent(&log, device("dev-1", 1)).await.unwrap();
    log.inner.faults.lose(255);
    let issuing = {
        let (log, certificate) = (log.clone(), site.ca.certify(intent));
        tokio::spawn(async move { log.record_issued(certificate).await })
    };
    until(&log, |state| matches!(state, LogState::Halted { .. })).await;
    log.stop().await;
    assert!(matches!(issuing.await.unwrap(), Err(LogError::Stopping)));
    drop(log);
    // The certificate never left: its intent is unresolved.
    let log = site.reopen().await;
    site.check(&log).await;
    let (entries, _) = site.entries().await;
    let unresolved = entries.iter().filter(|entry| {
        matches!(
            entry.kind,
            EntryKind::Outcome {
                outcome: Outcome::Unresolved { attempts: 0 },
                ..
            }
        )
    });
    assert_eq!(unresolved.count(), 1);
}

#[tokio::test]
async fn a_kill_leaves_open_intents_that_only_recovery_closes() {
    let site = Site::new();
    let log = site.log(10).await;
    let lost = site.intent(&log, device("dev-1", 1)).await.unwrap();
    let Subject::Certificate { serial, .. } = *lost.subject() else {
        panic!("no certificate");
    };
    site.issue(&log, device("dev-2", 2)).await.unwrap();
    log.kill().await;
    let log = site.open().await.unwrap();
    assert_eq!(log.status().state, LogState::Recovering);
    assert_eq!(log.status().open_intents, 1);
    // Nothing is issued or given out before recovery; lists work.
    let refused = site.intent(&log, device("dev-3", 3)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Log(LogError::Recovering))
    ));
    let claimed = log.claimed(&device("dev-2", 2).claim()).await;
    assert!(matches!(claimed, Err(LogError::Recovering)));
    assert!(log.checkpoint().await.is_err());
    let record = log.certificate(serial).await.unwrap().unwrap();
    assert_eq!(record.status, CertificateState::Open);
    log.recover(Hsm::open(&[])).await.unwrap();
    log.recover(Hsm::open(&[])).await.unwrap();
    let record = log.certificate(serial).await.unwrap().unwrap();
    assert_eq!(record.status, CertificateState::Unresolved);
    let revoked = all_revoked(&log).await;
    assert_eq!(revoked.len(), 1);
    // One is issued, the unresolved one's unit came back.
    assert_eq!(used(&log), 1);
    site.issue(&log, device("dev-1", 1)).await.unwrap();
    site.check(&log).await;
}

#[tokio::test]
async fn an_asker_that_went_away_leaves_no_open_intent() {
    let site = Site::new();
    let log = site.log(10).await;
    // It asks, and goes away before the writer had a turn.
    let asking = site.intent(&log, device("dev-1", 1));
    let gone = tokio::time::timeout(Duration::ZERO, asking).await;
    assert!(gone.is_err());
    let waiting = async {
        while log.status().open_intents > 0 || log.status().size < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
    assert_eq!(used(&log), 0);
    site.check(&log).await;
}
