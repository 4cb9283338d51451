//! Crashes that concern more than one request, or more than one attempt at it.

use std::collections::BTreeMap;
use std::process::Stdio;

use hyper::StatusCode;
use rustix::process::Signal;
use serde_json::Value;

use super::row::signs;
use crate::harness::appliance::{post, try_post};
use crate::harness::device::{Device, der};
use crate::harness::dice::Dice;
use crate::harness::faults::Faults;
use crate::harness::invariants;

/// The path of the one order.
const DEMO: &str = "/v1/orders/demo/certificates";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn two_requests_for_one_certificate_during_a_slow_signature_are_one() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(1);
    let device = Device::new(appliance.site.path(), "twin");
    faults.order_of_token("delay_ms 700");
    let mut sent = Vec::new();
    for _ in 0..2 {
        let (mut connection, request) = (appliance.connect(&line).await, device.request());
        sent.push(tokio::spawn(async move {
            post(&mut connection, DEMO, &request).await
        }));
        // The second one comes while the token works for the first.
        appliance.wait("signing", |appliance| signs(appliance));
    }
    let mut replies = Vec::new();
    for reply in sent {
        replies.push(reply.await.unwrap());
    }
    assert_eq!(replies[0].status, StatusCode::CREATED, "{replies:?}");
    assert_eq!(replies[1].status, StatusCode::OK, "{replies:?}");
    assert_eq!(replies[0].body, replies[1].body);
    appliance.received.push(der(&replies[0].body));
    invariants::assert(appliance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_line_that_goes_away_before_a_kill_gets_its_certificate_later() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(1);
    let device = Device::new(appliance.site.path(), "gone");
    faults.order_of_token("delay_ms 700");
    let (mut connection, request) = (appliance.connect(&line).await, device.request());
    let sent = tokio::spawn(async move { try_post(&mut connection, DEMO, &request).await });
    appliance.wait("signing", |appliance| signs(appliance));
    sent.abort();
    appliance.wait("issued", |appliance| {
        appliance.json(&["cert", "list", "--order", "demo"])[0]["status"] == "issued"
    });
    appliance.kill();
    faults.order_of_token("");
    appliance.spawn_host();
    faults.start_daemon(&mut appliance);
    let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
    invariants::assert(appliance).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stop_finishes_what_is_in_work() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(2);
    let device = Device::new(appliance.site.path(), "stopped");
    faults.order_of_token("delay_ms 700");
    let (mut connection, request) = (appliance.connect(&line).await, device.request());
    let sent = tokio::spawn(async move { post(&mut connection, DEMO, &request).await });
    appliance.wait("signing", |appliance| signs(appliance));
    appliance.signal_daemon(Signal::TERM);
    let reply = sent.await.unwrap();
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    appliance.received.push(der(&reply.body));
    appliance.stop();
    faults.order_of_token("");
    appliance.spawn_host();
    faults.start_daemon(&mut appliance);
    let again = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!((again.status, again.body), (StatusCode::OK, reply.body));
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn the_eleventh_unresolved_intent_of_an_order_keeps_its_unit() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(2);
    let device = Device::new(appliance.site.path(), "doubtful");
    // More than eleven: the CRLs that each doubt asks for are signed wrong too.
    faults.order_of_token("sign wrong 1000");
    let mut connection = appliance.connect(&line).await;
    for doubts in 1..=11 {
        let reply = appliance
            .ask(&mut connection, "demo", &device.request())
            .await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        let used = u64::from(doubts == 11);
        let order = appliance.json(&["order", "show", "demo"]);
        assert_eq!(order["used"], used, "after {doubts}: {order}");
    }
    faults.order_of_token("");
    let reply = appliance
        .ask(&mut connection, "demo", &device.request())
        .await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    let other = Device::new(appliance.site.path(), "too-many");
    let reply = appliance
        .ask(&mut connection, "demo", &other.request())
        .await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{reply:?}");
    invariants::assert(appliance).await;
}

#[test]
fn deaths_at_any_sync_under_load_lose_and_double_nothing() {
    let rounds: u64 = if std::env::var_os("HALLMARK_TEST_LONG").is_some() {
        200
    } else {
        4
    };
    let mut dice = Dice::thrown();
    let (mut appliance, faults) = Faults::appliance();
    let count = rounds * 100;
    let line = appliance.line_and_order(2 * count);
    let mut client = appliance.line_client(&line, &["--connections", "8", "--count"]);
    let client = client.arg(count.to_string());
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    let mut deaths = 0;
    for round in 0..rounds {
        let actions = ["kill-before", "kill-after", "power-cut"];
        let action = actions[usize::try_from(dice.roll(3)).unwrap()];
        let skip = dice.roll(16);
        println!("round {round}: {action} after {skip} syncs");
        faults.order_of_disk(&format!("{action} {skip} 1 hallmark.db-wal"));
        let mut finished = false;
        appliance.wait("dead", |appliance| {
            finished = client.try_wait().unwrap().is_some();
            finished || appliance.daemon_ended()
        });
        faults.order_of_disk("");
        if finished {
            break;
        }
        deaths += 1;
        if dice.roll(2) == 0 {
            // The power went for all of them.
            appliance.kill();
            appliance.spawn_host();
        }
        faults.start_daemon(&mut appliance);
    }
    let finished = client.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert!(finished.status.success(), "{report}");
    assert_eq!(report["issued"], count, "{report}");
    assert!(deaths >= rounds / 2, "the load ended after {deaths} deaths");
    let mut issued: BTreeMap<String, u64> = BTreeMap::new();
    for certificate in invariants::all_certificates(&appliance) {
        if certificate["order"] == "demo" && certificate["status"] == "issued" {
            *issued
                .entry(certificate["device_id"].to_string())
                .or_default() += 1;
        }
    }
    assert!(
        issued.values().all(|certificates| *certificates == 1),
        "{issued:?}"
    );
    assert_eq!(u64::try_from(issued.len()).unwrap(), count);
    invariants::assert_and_stop(&mut appliance);
}
