//! Creating, opening, stopping; entries, time, immutability.

use super::*;

#[tokio::test]
async fn a_log_is_created_once_and_opened_by_its_key_and_origin_only() {
    let site = Site::new();
    let missing = Store::open(&site.path("state")).await;
    assert!(missing.is_err());
    let log = site.bare().await;
    assert_eq!(log.status().state, LogState::Running);
    assert_eq!(log.origin(), ORIGIN);
    log.stop().await;
    drop(log);
    let (entries, _) = site.entries().await;
    let EntryKind::Genesis { origin, log_key } = &entries[0].kind else {
        panic!("no genesis");
    };
    assert_eq!(origin, ORIGIN);
    let log = site.reopen().await;
    assert_eq!(*log_key, log.verifier_key());
    // Nothing was open, so nothing was logged.
    assert_eq!(log.status().size, 1);
    log.stop().await;
    drop(log);

    let other = Parts {
        origin: "other.example/log".to_owned(),
        ..site.parts()
    };
    let store = site.store().await;
    let refused = SigningLog::open_with(store, other).await.err().unwrap();
    assert!(matches!(refused, LogError::WrongLog(_)), "{refused}");

    let stranger = Site::new();
    let other = Parts {
        key: stranger.parts().key,
        ..site.parts()
    };
    let store = site.store().await;
    let refused = SigningLog::open_with(store, other).await.err().unwrap();
    assert!(matches!(refused, LogError::WrongLog(_)), "{refused}");

    let store = site.store().await;
    let refused = SigningLog::create_with(store, site.parts(), json!({})).await;
    assert!(matches!(refused.err().unwrap(), LogError::WrongLog(_)));
}

#[tokio::test]
async fn a_store_without_a_log_is_not_opened() {
    let site = Site::new();
    drop(Store::create(&site.path("state")).await.unwrap());
    let refused = site.open().await.err().unwrap();
    assert!(matches!(refused, LogError::WrongLog(_)), "{refused}");
}

#[tokio::test]
async fn a_second_process_is_locked_out_for_as_long_as_any_part_lives() {
    let site = Site::new();
    let log = site.bare().await;
    let clone = log.clone();
    assert!(Store::open(&site.path("state")).await.is_err());
    log.stop().await;
    drop(log);
    assert!(Store::open(&site.path("state")).await.is_err());
    drop(clone);
    drop(site.store().await);
}

#[tokio::test]
async fn what_is_logged_cannot_be_changed_or_deleted() {
    let site = Site::new();
    let log = site.log(600).await;
    let issued = site.issue(&log, device("dev-1", 1)).await.unwrap();
    let Subject::Certificate { serial, .. } = *issued.subject() else {
        panic!("no certificate");
    };
    log.record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await
        .unwrap();
    let certificate = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    log.record_issuer(record("root", certificate.cert.der()))
        .await
        .unwrap();
    fill(&log, 260).await;
    let before = dump(&site).await;
    let mut database = site.sqlite().await;
    let columns = [
        ("entry", "leaf"),
        ("certificate", "profile"),
        ("outcome", "outcome"),
        ("revocation", "revoked_at"),
        ("issuer", "role"),
        ("registry_change", "change"),
        ("tile", "hashes"),
    ];
    for (table, column) in columns {
        let rows: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
                .fetch_one(&mut database)
                .await
                .unwrap();
        assert!(rows > 0, "{table} is empty: the test would prove nothing");
        for sql in [
            format!("UPDATE {table} SET {column} = {column}"),
            format!("DELETE FROM {table}"),
            format!("INSERT OR REPLACE INTO {table} SELECT * FROM {table}"),
        ] {
            let result = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
                .execute(&mut database)
                .await;
            assert!(result.is_err(), "{sql}");
        }
    }
    // A row that would replace another by a second unique column.
    let sneaky = "INSERT OR REPLACE INTO certificate SELECT 0, serial, issuer, why, profile, order_name, \
                  line, device_id, device_key, spki, requested, not_before, not_after FROM certificate LIMIT 1";
    assert!(sqlx::query(sneaky).execute(&mut database).await.is_err());
    let gap = "INSERT INTO entry (idx, leaf) SELECT max(idx) + 2, leaf FROM entry";
    assert!(sqlx::query(gap).execute(&mut database).await.is_err());
    // Rows that would let a serial stand in two ways, or on another's: after a first one, and out of order.
    for (entry, serial, previous, allowed) in [
        ("entry + 1", "serial", "NULL", false),
        ("entry + 1", "randomblob(16)", "entry", false),
        ("entry - 1", "randomblob(16)", "NULL", false),
        ("entry + 1", "serial", "entry", true),
        ("entry + 1", "serial", "previous", false),
    ] {
        let sql = format!(
            "INSERT INTO revocation SELECT {entry}, {serial}, issuer, 8, revoked_at, {previous}, not_after, \
             partition FROM revocation ORDER BY entry DESC LIMIT 1"
        );
        let result = sqlx::query(sqlx::AssertSqlSafe(sql.clone()))
            .execute(&mut database)
            .await;
        assert_eq!(result.is_ok(), allowed, "{sql} {result:?}");
    }
    assert_eq!(dump(&site).await, before);
}

/// Every leaf and outcome.
async fn dump(site: &Site) -> (Vec<Entry>, Vec<(i64, i64, i64)>) {
    let outcomes = sqlx::query_as("SELECT intent, entry, outcome FROM outcome ORDER BY intent")
        .fetch_all(&mut site.sqlite().await)
        .await
        .unwrap();
    (site.entries().await.0, outcomes)
}

/// An issuer of this name.
pub(super) fn record(name: &str, certificate: &[u8]) -> IssuerRecord {
    IssuerRecord {
        name: name.parse().unwrap(),
        certificate: certificate.to_vec(),
        algorithm: SignatureAlgorithm::EcdsaSha256,
        role: IssuerRole::Root,
        parent: name.parse().unwrap(),
        partitions: 2,
    }
}

#[tokio::test]
async fn issuers_are_recorded_once_and_come_back_in_order() {
    let site = Site::new();
    let log = site.bare().await;
    let certificate = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    for name in ["z-root", "a-issuer"] {
        log.record_issuer(record(name, certificate.cert.der()))
            .await
            .unwrap();
    }
    let again = log
        .record_issuer(record("z-root", certificate.cert.der()))
        .await;
    assert!(matches!(again, Err(LogError::Change(_))));
    let malformed = log.record_issuer(record("third", &[0x30, 0x00])).await;
    assert!(matches!(malformed, Err(LogError::Change(_))));
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    let issuers = log.issuers().await.unwrap();
    let names: Vec<&str> = issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    assert_eq!(names, ["z-root", "a-issuer"]);
    assert_eq!(issuers[0].certificate, certificate.cert.der().to_vec());
    assert_eq!(issuers[0].algorithm, SignatureAlgorithm::EcdsaSha256);
    assert_eq!(
        (issuers[0].role, issuers[0].partitions),
        (IssuerRole::Root, 2)
    );
    let (entries, _) = site.entries().await;
    let spki = rcgen::PublicKeyData::subject_public_key_info(&certificate.signing_key);
    assert!(entries.iter().any(|entry| matches!(
        &entry.kind,
        EntryKind::Issuer { issuer, spki: logged, .. }
            if issuer.as_str() == "z-root" && *logged == DetailHash::of(&spki).0
    )));
}

/// Appends events, many at a time.
pub(super) async fn fill(log: &SigningLog, count: u64) {
    let tasks: Vec<_> = (0..count)
        .map(|n| {
            let log = log.clone();
            let data = json!({ "n": n });
            tokio::spawn(async move { log.record_event("test".parse().unwrap(), data).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn the_tree_is_that_of_the_entries_before_and_after_a_restart() {
    let site = Site::new();
    let log = site.bare().await;
    for count in [1, 254, 1, 300, 511] {
        fill(&log, count).await;
        site.check(&log).await;
    }
    let checkpoint = log.checkpoint().await.unwrap();
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    assert_eq!(log.checkpoint().await.unwrap(), checkpoint);
    site.check(&log).await;
    fill(&log, 300).await;
    site.check(&log).await;
}

#[tokio::test]
async fn lines_and_orders_survive_a_restart() {
    let site = Site::new();
    let log = site.log(7).await;
    site.issue(&log, device("dev-1", 1)).await.unwrap();
    let (lines, orders) = (log.registry().lines(), log.registry().orders());
    assert_eq!((lines.len(), orders[0].used), (1, 1));
    let line = "line-1".parse().unwrap();
    let twice = log.record_change("op", Change::LineAdded { line }).await;
    assert!(matches!(twice, Err(LogError::Change(_))));
    log.stop().await;
    drop(log);
    let log = site.reopen().await;
    assert_eq!(log.registry().lines(), lines);
    assert_eq!(log.registry().orders(), orders);
}

#[tokio::test]
async fn certificates_are_listed_by_what_they_are() {
    let site = Site::new();
    let log = site.log(10).await;
    open_order(&log, "other", 10).await;
    let certificate = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    log.record_issuer(record("device-1", certificate.cert.der()))
        .await
        .unwrap();
    for (key, id) in (1u8..).zip(["Dev-1", "dev-2", "dev-3"]) {
        site.issue(&log, device(id, key)).await.unwrap();
    }
    let other = Device {
        order: "other",
        ..device("dev-4", 9)
    };
    let intent = site.intent(&log, other).await.unwrap();
    let list = async |filter: CertificateFilter| {
        let records = log.certificates(&filter).await.unwrap();
        records
            .into_iter()
            .map(|record| record.device_id.unwrap())
            .collect::<Vec<_>>()
    };
    let all = CertificateFilter::default();
    assert_eq!(
        list(all.clone()).await,
        ["Dev-1", "dev-2", "dev-3", "dev-4"]
    );
    let order = Some("other".parse().unwrap());
    assert_eq!(
        list(CertificateFilter {
            order,
            ..all.clone()
        })
        .await,
        ["dev-4"]
    );
    let device_id = Some("DEV-1".to_owned());
    let one = CertificateFilter {
        device_id,
        ..all.clone()
    };
    assert_eq!(list(one).await, ["Dev-1"]);
    let issuer = Some("access".parse().unwrap());
    assert!(
        list(CertificateFilter {
            issuer,
            ..all.clone()
        })
        .await
        .is_empty()
    );
    let limit = Some(2);
    let first = CertificateFilter {
        limit,
        ..all.clone()
    };
    assert_eq!(list(first).await, ["Dev-1", "dev-2"]);
    let records = log.certificates(&all).await.unwrap();
    let after = Some(records[1].intent.0);
    let rest = CertificateFilter { after, ..all };
    assert_eq!(list(rest).await, ["dev-3", "dev-4"]);
    assert_eq!(records[3].status, CertificateState::Open);
    assert_eq!(records[3].intent, intent.index());
    let shown = log.certificate(records[0].serial).await.unwrap().unwrap();
    assert_eq!(
        (shown.status, shown.line.as_deref()),
        (CertificateState::Issued, Some("line-1"))
    );
    assert!(
        shown
            .pem
            .unwrap()
            .starts_with("-----BEGIN CERTIFICATE-----\n")
    );
    assert!(log.certificate(serial()).await.unwrap().is_none());
}

#[tokio::test]
async fn time_never_runs_back_and_a_wrong_clock_stops_intents() {
    let site = Site::new();
    let log = site.log(10).await;
    let earlier = |ms| UnixMillis(NOW.0 + 60_000 - ms);
    site.clock.set(earlier(0));
    site.intent(&log, device("dev-1", 1)).await.unwrap();
    site.clock.set(earlier(5_000));
    site.intent(&log, device("dev-2", 2)).await.unwrap();
    assert_eq!(log.status().newest, earlier(0));
    site.clock.set(earlier(5_001));
    let refused = site.intent(&log, device("dev-3", 3)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Log(LogError::ClockBackwards { .. }))
    ));
    // Other entries go on: a revocation must not wait for a clock.
    log.record_event("test".parse().unwrap(), json!({}))
        .await
        .unwrap();
    assert_eq!(used(&log), 2);
    site.check(&log).await;
}

#[tokio::test]
async fn an_idle_log_ticks() {
    let mut site = Site::new();
    site.pace.tick = Duration::from_millis(10);
    let log = site.bare().await;
    let waiting = async {
        while log.status().size < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), waiting)
        .await
        .unwrap();
    log.stop().await;
    let (entries, _) = site.entries().await;
    assert!(matches!(entries[1].kind, EntryKind::Tick));
    assert!(entries[1].detail.is_none());
}

#[tokio::test]
async fn stopping_takes_no_intents_and_waits_for_outcomes() {
    let mut site = Site::new();
    site.pace.stop = Duration::from_secs(20);
    let site = Arc::new(site);
    let log = site.log(10).await;
    let intent = site.intent(&log, device("dev-1", 1)).await.unwrap();
    let stopping = {
        let log = log.clone();
        tokio::spawn(async move { log.stop().await })
    };
    while log.inner.shared.gate().is_ok() {
        tokio::task::yield_now().await;
    }
    let refused = site.intent(&log, device("dev-2", 2)).await;
    assert!(matches!(
        refused,
        Err(IntentRefused::Log(LogError::Stopping))
    ));
    log.record_issued(site.ca.certify(intent)).await.unwrap();
    stopping.await.unwrap();
    let status = log.status();
    assert_eq!((status.open_intents, status.published), (0, status.size));
    let late = log.record_event("test".parse().unwrap(), json!({})).await;
    assert!(matches!(late, Err(LogError::Stopping)));
    drop(log);
    let log = site.reopen().await;
    assert_eq!(log.status().size, status.size);
}

#[tokio::test]
async fn a_full_queue_says_busy() {
    let site = Site::new();
    let log = site.bare().await;
    let count = crate::limits::APPEND_QUEUE_MAX + 100;
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let log = log.clone();
            tokio::spawn(async move { log.record_event("test".parse().unwrap(), json!({})).await })
        })
        .collect();
    let (mut taken, mut busy) = (0, 0);
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => taken += 1,
            Err(LogError::Busy) => busy += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        busy > 0 && taken >= crate::limits::APPEND_QUEUE_MAX,
        "{taken} {busy}"
    );
    site.check(&log).await;
}

#[tokio::test]
async fn event_data_is_an_object_with_one_encoding() {
    let site = Site::new();
    let log = site.bare().await;
    let event = || "test".parse().unwrap();
    for bad in [json!(1), json!({ "a": null }), json!({ "a": 0.5 })] {
        assert!(log.record_event(event(), bad).await.is_err());
    }
    log.record_event(event(), json!({ "b": [1, "x"], "a": true }))
        .await
        .unwrap();
}
