//! Outages: a token that goes away, processes that die. No certificate is lost or doubled,
//! and nobody has to restart anything.

use std::process::Stdio;

use hyper::StatusCode;
use serde_json::Value;

use crate::harness::appliance::{OrderTerms, post};
use crate::harness::device::Device;
use crate::harness::{Appliance, Site, invariants, with_appliance};

#[tokio::test]
async fn a_token_that_goes_away_and_comes_back_needs_nobody() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(10);
        let path = appliance.site.path().to_owned();
        let before = Device::new(&path, "before");
        assert_eq!(
            appliance.ask_until_issued(&line, &before).await.status,
            StatusCode::CREATED
        );
        std::fs::rename(path.join("tokens"), path.join("tokens-away")).unwrap();
        let during = Device::new(&path, "during");
        let reply = appliance.ask_anew(&line, "demo", &during.request()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
        let problem: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["status"], 503);
        // What was issued before is still given out.
        let reply = appliance.ask_anew(&line, "demo", &before.request()).await;
        assert_eq!(reply.status, StatusCode::OK, "{reply:?}");
        std::fs::rename(path.join("tokens-away"), path.join("tokens")).unwrap();
        assert_eq!(
            appliance.ask_until_issued(&line, &during).await.status,
            StatusCode::CREATED
        );
    })
    .await;
}

#[tokio::test]
async fn token_processes_that_die_under_load_cost_retries_only() {
    let (site, control) = Site::faulting();
    let mut appliance = Appliance::start(site);
    let line = appliance.line_and_order(1000);
    let long = std::env::var_os("HALLMARK_TEST_LONG").is_some();
    let count = if long { "1000" } else { "150" };
    // Slow as long as there are kills, so that each of them meets the load.
    std::fs::write(&control, "delay_ms 100\n").unwrap();
    let mut client = appliance.line_client(&line, &["--connections", "8", "--count", count]);
    let mut client = client.stdout(Stdio::piped()).spawn().unwrap();
    for kills in 1..=3 {
        // A worker that has logged in and signs: the count of issued certificates moves.
        let issued = |appliance: &Appliance| invariants::all_certificates(appliance).len();
        let so_far = issued(&appliance);
        appliance.wait(&format!("working before kill {kills}"), |a| {
            issued(a) > so_far
        });
        // The load also moves on a certificate that was signed just before the kill.
        let mut processes = Vec::new();
        appliance.wait("a host and its worker again", |appliance| {
            processes = appliance.processes_with(&["hallmark-token"]);
            processes.len() >= 2
        });
        // Host and worker in turn; what one leaves, the other or the daemon's parent starts again.
        let victim = processes[kills % processes.len()];
        appliance.kill_process(victim);
        let ended = client.try_wait().unwrap();
        assert_eq!(ended, None, "the load was over before kill {kills}");
    }
    std::fs::write(&control, "").unwrap();
    let finished = client.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&finished.stdout).unwrap();
    assert!(finished.status.success(), "{report}");
    assert_eq!(report["issued"].to_string(), count, "{report}");
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn a_retry_after_a_restart_without_the_token_gets_its_certificate() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(5);
    let device = Device::new(appliance.site.path(), "kept");
    let first = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!(first.status, StatusCode::CREATED, "{first:?}");
    appliance.stop();
    // The daemon alone: no token host runs, and none is started.
    appliance.spawn_daemon(&[]);
    // It listens before it has read from the log whose certificates it can give out again.
    appliance.wait("the issuers are known", |appliance| {
        let output = appliance.try_command(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["issuers"]
            .as_array()
            .is_some_and(|issuers| issuers.len() == 4)
    });
    assert!(!appliance.is_ready(), "there is a token");
    let again = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!(again.status, StatusCode::OK, "{again:?}");
    assert_eq!(again.body, first.body);
    let other = Device::new(appliance.site.path(), "new");
    let reply = appliance.ask_anew(&line, "demo", &other.request()).await;
    assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
    appliance.spawn_host();
    appliance.wait_until_ready();
    let reply = appliance.ask_until_issued(&line, &other).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn a_crowd_at_a_slow_token_leaves_nothing_in_the_log_and_keeps_no_other_line_waiting() {
    let (site, control) = Site::faulting();
    let mut appliance = Appliance::start(site);
    let path = appliance.site.path().to_owned();
    let (wild, quiet) = (appliance.line("wild"), appliance.line("quiet"));
    for (name, line) in [("many", &wild), ("few", &quiet)] {
        appliance.order(&OrderTerms {
            name,
            lines: &[line],
            quantity: 1000,
            more: &[],
        });
    }
    let requests = (0..64).map(|number| Device::new(&path, &format!("wild-{number}")).request());
    let requests: Vec<_> = requests.collect();
    let other = Device::new(&path, "quiet-1").request();
    // Far more than two sessions sign within the time that a signature may wait for them.
    std::fs::write(&control, "delay_ms 800\n").unwrap();
    let mut crowd = Vec::new();
    for request in requests {
        let mut connection = appliance.connect(&wild).await;
        crowd.push(tokio::spawn(async move {
            post(&mut connection, "/v1/orders/many/certificates", &request).await
        }));
    }
    let reply = appliance.ask_anew(&quiet, "few", &other).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    let mut refused = 0;
    for answer in crowd {
        let reply = answer.await.unwrap();
        if reply.status != StatusCode::CREATED {
            let problem: Value = serde_json::from_slice(&reply.body).unwrap();
            let kind = problem["type"].as_str().unwrap_or_default();
            assert!(kind.ends_with("busy"), "{problem}");
            assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
            refused += 1;
        }
    }
    assert!((1..64).contains(&refused), "{refused} of 64 were refused");
    std::fs::write(&control, "").unwrap();
    // The certificates of the two lines and of the appliance are among them.
    let certificates = invariants::all_certificates(&appliance);
    assert!(certificates.len() > 64 - refused, "{certificates:?}");
    let failed = certificates.iter().find(|it| it["status"] != "issued");
    assert_eq!(failed, None, "nothing was given up");
    invariants::assert(appliance).await;
}
