//! Storage that fails for a while: nothing is issued, everything published stays, and it mends itself.

use std::path::Path;

use hyper::StatusCode;
use serde_json::Value;

use crate::harness::Appliance;
use crate::harness::device::Device;
use crate::harness::faults::Faults;
use crate::harness::invariants;

/// The log's state as `hallmark status` tells it.
fn state(appliance: &Appliance) -> Value {
    appliance.json(&["status"])["log"].take()
}

/// The paths and contents of all files below a directory.
fn files_below(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut pending = vec![directory.to_owned()];
    let mut found = Vec::new();
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                pending.push(path);
            } else {
                let contents = std::fs::read(&path).unwrap();
                found.push((path, contents));
            }
        }
    }
    found.sort();
    found
}

#[tokio::test]
async fn a_disk_that_fails_for_a_while_halts_and_mends_itself() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(2);
    let path = appliance.site.path().to_owned();
    let before = Device::new(&path, "before");
    let issued = appliance.ask_anew(&line, "demo", &before.request()).await;
    assert_eq!(issued.status, StatusCode::CREATED);
    appliance.wait("published", |appliance| {
        let log = state(appliance);
        log["published"] == log["size"]
    });
    let published = files_below(&path.join("public"));
    let daemon = appliance.daemon_id();

    faults.order_of_disk("lost 0 1000000 hallmark.db-wal");
    let during = Device::new(&path, "during");
    for _ in 0..3 {
        let reply = appliance.ask_anew(&line, "demo", &during.request()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        let problem: Value = serde_json::from_slice(&reply.body).unwrap();
        assert_eq!(problem["type"], "urn:hallmark:problem:halted");
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
    }
    assert!(!appliance.is_ready());
    let log = state(&appliance);
    assert_eq!(log["state"], "halted");
    let reason = log["reason"].as_str().unwrap();
    assert!(reason.contains("hallmark.db") && reason.contains("make sure that the disk works"));
    // An operator's change is refused too, not lost.
    let refused = appliance.try_command(&["line", "disable", "line-1"]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // What was published is there, byte for byte, and verifies.
    assert_eq!(files_below(&path.join("public")), published);
    invariants::report(&appliance);

    faults.order_of_disk("");
    appliance.wait_until_ready();
    assert_eq!(appliance.daemon_id(), daemon, "nobody restarted it");
    assert_eq!(state(&appliance)["state"], "running");
    let again = appliance.ask_anew(&line, "demo", &before.request()).await;
    assert_eq!((again.status, again.body), (StatusCode::OK, issued.body));
    let reply = appliance.ask_anew(&line, "demo", &during.request()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn a_token_that_is_away_holds_up_no_other() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(1);
    appliance.stop();
    // The root moves to a token of its own, which is in a safe.
    let configuration = std::fs::read_to_string(appliance.site.configuration()).unwrap();
    let uri = |text: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix("uri = "))
            .unwrap()
            .to_owned()
    };
    let here = uri(&configuration);
    let away = "\"pkcs11:token=vault;serial=00000000deadbeef\"";
    let key = |token: &str| {
        format!(
            "key = {};object=device-root;type=private\"",
            token.trim_end_matches('"')
        )
    };
    appliance.site.reconfigure(&key(&here), &key(away));
    let token = "[[token]]\nname = \"soft\"\nmodule = ";
    let vault = format!(
        "[[token]]\nname = \"vault\"\nmodule = \"/usr/lib/softhsm/libsofthsm2.so\"\nuri = {away}\n\
         pin_file = \"pin\"\nsocket = \"run/vault.sock\"\nsessions = 1\n\n{token}"
    );
    appliance.site.reconfigure(token, &vault);
    appliance.spawn_host();
    faults.start_daemon_without_waiting(&mut appliance);
    appliance.wait("ready for devices", |appliance| appliance.is_ready());
    let device = Device::new(appliance.site.path(), "no-root-needed");
    let reply = appliance.ask_until_issued(&line, &device).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    let told = appliance.json(&["status"]);
    let tokens = told["tokens"].as_array().unwrap();
    let vault = tokens
        .iter()
        .find(|token| token["token"] == "vault")
        .unwrap();
    assert_eq!(vault["usable"], false, "{told}");
    let issuers = told["issuers"].as_array().unwrap();
    let root = issuers
        .iter()
        .find(|issuer| issuer["issuer"] == "device-root")
        .unwrap();
    assert_eq!(root["usable"], false, "{told}");
    invariants::assert(appliance).await;
}
