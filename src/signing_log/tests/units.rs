//! Units that unresolved intents hold, and that operators give back.

use super::*;
use crate::ra::{ChangeRefused, Refused, Units};

/// The figures of `demo`.
fn figures(log: &SigningLog) -> Units {
    let order = log.registry().order(&"demo".parse().unwrap()).unwrap();
    order.units()
}

/// Figures of an order with this many unresolved intents beyond those whose units return by themselves.
fn held(used: u64, held: u64, beyond: u32) -> Units {
    let unresolved = UNRESOLVED_RETURNED_MAX + beyond;
    Units {
        used,
        unresolved,
        held,
    }
}

/// Gives units of `demo` back.
async fn approve(log: &SigningLog, units: u64) -> Result<LeafIndex, LogError> {
    let order = "demo".parse().unwrap();
    let change = Change::UnitsReturned { order, units };
    log.record_change("op", change).await
}

/// The sentence of a refused approval.
async fn refused(log: &SigningLog, units: u64) -> String {
    match approve(log, units).await {
        Err(LogError::Change(ChangeRefused::Value { problem, .. })) => problem,
        other => panic!("not refused: {other:?}"),
    }
}

/// Entries that tell of units given back.
async fn approvals(site: &Site) -> usize {
    let (entries, _) = site.entries().await;
    let told = entries.iter().filter(|entry| {
        matches!(&entry.kind, EntryKind::Event { event } if event.0.as_str() == UnitsReturned::EVENT)
    });
    told.count()
}

#[tokio::test]
async fn held_units_come_back_in_parts_and_never_more_than_are_held() {
    let site = Site::new();
    let log = site.log(4).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX).await;
    assert_eq!(figures(&log), held(0, 0, 0));
    assert!(refused(&log, 1).await.contains("holds none"));
    lose_signatures(&log, 3).await;
    assert_eq!(figures(&log), held(3, 3, 3));
    let size = log.status().size;
    for (units, said) in [(0, "at least 1"), (4, "holds 3"), (u64::MAX, "holds 3")] {
        let sentence = refused(&log, units).await;
        assert!(sentence.contains(said), "{units}: {sentence}");
    }
    assert_eq!(log.status().size, size, "a refusal is no entry");
    let entry = approve(&log, 1).await.unwrap();
    assert_eq!(entry, LeafIndex(size));
    let told = detail(entry, &mut site.sqlite().await).await;
    let change = json!({"change": "units-returned", "order": "demo", "units": 1});
    assert_eq!(told.data, json!({"change": change, "operator": "op"}));
    assert_eq!(figures(&log), held(2, 2, 3));
    site.check(&log).await;
    assert!(refused(&log, 3).await.contains("holds 2"));
    approve(&log, 2).await.unwrap();
    assert_eq!(figures(&log), held(0, 0, 3));
    assert!(refused(&log, 1).await.contains("holds none"));
    site.check(&log).await;
    // What came by itself before does not come again: the next doubt holds its unit.
    lose_signatures(&log, 1).await;
    assert_eq!(figures(&log), held(1, 1, 4));
    for (id, key) in [("dev-1", 1), ("dev-2", 2), ("dev-3", 3)] {
        site.issue(&log, device(id, key)).await.unwrap();
    }
    let last = device("dev-4", 4);
    let short = site.intent(&log, last).await;
    assert!(matches!(
        short,
        Err(IntentRefused::Order(Refused::UsedUp { .. }))
    ));
    approve(&log, 1).await.unwrap();
    site.issue(&log, last).await.unwrap();
    site.check(&log).await;
    assert_eq!(approvals(&site).await, 3);
}

#[tokio::test]
async fn a_restart_finds_the_same_figures() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 5).await;
    approve(&log, 2).await.unwrap();
    site.issue(&log, device("dev-1", 1)).await.unwrap();
    // In flight at the kill: the restart closes it as unresolved, and it holds its unit.
    let _intent = site.intent(&log, device("dev-2", 2)).await.unwrap();
    assert_eq!(figures(&log), held(5, 3, 5));
    log.kill().await;
    let log = site.reopen().await;
    assert_eq!(figures(&log), held(5, 4, 6));
    site.check(&log).await;
    assert!(refused(&log, 5).await.contains("holds 4"));
    approve(&log, 4).await.unwrap();
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    assert_eq!(figures(&log), held(1, 0, 6));
    assert!(refused(&log, 1).await.contains("holds none"));
    site.check(&log).await;
}

#[tokio::test]
async fn of_two_approvals_at_once_no_unit_comes_back_twice() {
    let site = Site::new();
    let log = site.log(30).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 3).await;
    let (one, two) = tokio::join!(approve(&log, 2), approve(&log, 2));
    assert!(one.is_ok() != two.is_ok(), "{one:?} {two:?}");
    assert_eq!(figures(&log), held(1, 1, 3));
    // Beside intents and outcomes that change the same figures.
    let mut intents = Vec::new();
    for (id, key) in [("dev-1", 1), ("dev-2", 2), ("dev-3", 3), ("dev-4", 4)] {
        intents.push(site.intent(&log, device(id, key)).await.unwrap());
    }
    let failing: Vec<_> = intents
        .into_iter()
        .map(|intent| {
            let log = log.clone();
            tokio::spawn(async move { log.record_failed(failed(intent, 1)).await })
        })
        .collect();
    let approving: Vec<_> = (0..16)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move { approve(&log, 1).await.is_ok() })
        })
        .collect();
    for task in failing {
        task.await.unwrap().unwrap();
    }
    let mut approved = 0;
    for task in approving {
        approved += u64::from(task.await.unwrap());
    }
    assert!((1..=5).contains(&approved), "{approved}");
    assert_eq!(figures(&log), held(5 - approved, 5 - approved, 7));
    site.check(&log).await;
}

#[tokio::test]
async fn an_approval_that_is_lost_gives_nothing_back() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 2).await;
    log.inner.faults.lose(1);
    let lost = approve(&log, 2).await;
    assert!(matches!(lost, Err(LogError::Halted(_))), "{lost:?}");
    until(&log, |state| *state == LogState::Running).await;
    assert_eq!((figures(&log), approvals(&site).await), (held(2, 2, 2), 0));
    site.check(&log).await;
    approve(&log, 2).await.unwrap();
    assert_eq!(figures(&log), held(0, 0, 2));
}

#[tokio::test]
async fn an_approval_done_but_reported_as_failed_counts_once() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 2).await;
    log.inner.faults.misreport(1);
    let reported = approve(&log, 1).await;
    assert!(matches!(reported, Err(LogError::Halted(_))), "{reported:?}");
    until(&log, |state| *state == LogState::Running).await;
    assert_eq!((figures(&log), approvals(&site).await), (held(1, 1, 2), 1));
    site.check(&log).await;
    log.kill().await;
    let log = site.reopen().await;
    assert_eq!(figures(&log), held(1, 1, 2));
    site.check(&log).await;
}

#[tokio::test]
async fn the_entry_and_the_figures_are_one_transaction() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 2).await;
    // The entry is written first; then the figures cannot be.
    let mut disk = site.sqlite().await;
    sqlx::query(
        "CREATE TRIGGER full BEFORE UPDATE ON order_units BEGIN SELECT RAISE(ABORT, 'full'); END",
    )
    .execute(&mut disk)
    .await
    .unwrap();
    let failed = approve(&log, 1).await;
    assert!(matches!(failed, Err(LogError::Halted(_))), "{failed:?}");
    assert_eq!(approvals(&site).await, 0);
    log.kill().await;
    sqlx::query("DROP TRIGGER full")
        .execute(&mut disk)
        .await
        .unwrap();
    disk.close().await.unwrap();
    let log = site.reopen().await;
    assert_eq!((figures(&log), approvals(&site).await), (held(2, 2, 2), 0));
    site.check(&log).await;
}

#[tokio::test]
async fn units_of_a_closed_order_come_back_and_it_stays_closed() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 1).await;
    let order: Slug = "demo".parse().unwrap();
    let state = OrderState::Closed;
    let close = Change::OrderSet { order, state };
    log.record_change("op", close).await.unwrap();
    approve(&log, 1).await.unwrap();
    assert_eq!(figures(&log), held(0, 0, 1));
    let refused = site.intent(&log, device("dev-1", 1)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Order(Refused::OrderClosed(_)))
    ));
    let unknown = Change::UnitsReturned {
        order: "none".parse().unwrap(),
        units: 1,
    };
    let refused = log.record_change("op", unknown).await;
    assert!(matches!(
        refused,
        Err(LogError::Change(ChangeRefused::Missing(_)))
    ));
    site.check(&log).await;
}

#[tokio::test]
async fn the_store_refuses_more_held_units_than_are_used() {
    let site = Site::new();
    let log = site.log(9).await;
    lose_signatures(&log, UNRESOLVED_RETURNED_MAX + 1).await;
    log.stop().await;
    let mut database = site.sqlite().await;
    for forged in ["held = 2", "held = -1", "used = 0"] {
        let update = format!("UPDATE order_units SET {forged}");
        let refused = sqlx::query(sqlx::AssertSqlSafe(update))
            .execute(&mut database)
            .await;
        assert!(refused.is_err(), "{forged}");
    }
}
