//! What stands in the log of requests that were refused.

use super::*;

/// The published entries from `first` on: each leaf with its detail.
fn published(appliance: &Appliance, first: u64) -> Vec<(Value, Value)> {
    let size = appliance.log.status().size;
    assert!(size < 256, "one bundle");
    let read = |place: &str| {
        let bundle = format!("{place}/000.p/{size}");
        std::fs::read(appliance.directory.path().join(bundle)).unwrap()
    };
    let leaves = read("public/log/tile/entries");
    let details = String::from_utf8(read("private/details")).unwrap();
    let mut rest = leaves.as_slice();
    let mut found = Vec::new();
    while let Some((length, after)) = rest.split_at_checked(2) {
        let length = u16::from_be_bytes(length.try_into().unwrap());
        let (leaf, after) = after.split_at(length.into());
        rest = after;
        let leaf: Value = serde_json::from_slice(leaf).unwrap();
        let prefix = format!("{} ", leaf["index"]);
        let detail = details.lines().find_map(|line| line.strip_prefix(&prefix));
        let detail = detail.map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
        found.push((leaf, detail));
    }
    found.retain(|(leaf, _)| leaf["index"].as_u64().unwrap() >= first);
    found
}

#[tokio::test]
async fn refusals_are_entries_of_the_log() {
    const ASKED: u64 = 20;
    let mut appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let first = appliance.log.status().size;
    let mut client = appliance.connect(Some(&station)).await;
    for _ in 0..ASKED {
        client.send("POST", SINGLE, "garbage").await;
        let mut stranger = appliance.connect(None).await;
        stranger.send("POST", SINGLE, "garbage").await;
    }
    drop(appliance.stop.take());
    drop(client);
    (&mut appliance.served).await.unwrap();
    appliance.log.publish().await.unwrap();
    let certificate = DetailHash::of(&station.certificate).to_string();
    let refused = serde_json::json!({
        "certificate_sha256": certificate, "line": "one", "order": "one", "rule": "request-encoding",
    });
    // However many minutes it took: each refusal is an entry or is counted in one.
    let (mut told, mut counted, mut strangers, mut minutes) = (0, 0, 0, 0);
    for (leaf, detail) in published(&appliance, first) {
        assert_eq!(leaf["kind"], "event");
        let data = &detail["data"];
        match leaf["event"].as_str().unwrap() {
            "refused" => {
                assert_eq!(*data, refused);
                told += 1;
            }
            "refusals-counted" => {
                counted += data["lines"]["one"]["request-encoding"]
                    .as_u64()
                    .unwrap_or(0);
                strangers += data["strangers"]["no-certificate"].as_u64().unwrap();
                minutes += 1;
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!((told + counted, strangers), (ASKED, ASKED));
    let common = minutes * u64::from(limits::REFUSALS_LOGGED_PER_MINUTE);
    let most = common + u64::from(limits::REFUSALS_RESERVED_PER_DAY);
    assert!(
        told <= most && told >= most.min(1),
        "{told} in {minutes} minutes"
    );
}
