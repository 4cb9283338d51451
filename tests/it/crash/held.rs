//! A token that loses one signature after the other: beyond the first few the order's units stay taken, until an
//! operator gives them back.

use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::harness::appliance::{Appliance, LineIdentity};
use crate::harness::device::Device;
use crate::harness::faults::Faults;
use crate::harness::invariants;

/// Unresolved intents of an order whose units return by themselves (docs/ISSUANCE.md).
const RETURNED: u64 = 10;

/// How long the token may take to fail so often: it is given up and taken up again in between.
const PATIENCE: Duration = Duration::from_secs(120);

/// The order's figures: used, unresolved, held.
fn figures(order: &Value) -> (u64, u64, u64) {
    let figure = |name: &str| order[name].as_u64().unwrap();
    (figure("used"), figure("unresolved"), figure("held"))
}

/// The order as it stands.
fn standing(appliance: &Appliance) -> (u64, u64, u64) {
    figures(&appliance.json(&["order", "show", "demo"]))
}

/// Asks for one device until this many of the order's intents are unresolved.
async fn lose(appliance: &mut Appliance, line: &LineIdentity, device: &Device, count: u64) {
    let ends = Instant::now() + PATIENCE;
    while standing(appliance).1 < count {
        let reply = appliance.ask_anew(line, "demo", &device.request()).await;
        assert_eq!(reply.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        assert!(Instant::now() < ends, "only {:?}", standing(appliance));
    }
}

/// A command that is refused: its exit code, and what it says.
fn refused(appliance: &Appliance, words: &[&str]) -> (Option<i32>, String) {
    let output = appliance.try_command(words);
    let said = String::from_utf8(output.stderr).unwrap();
    (output.status.code(), said)
}

#[tokio::test]
async fn units_that_lost_signatures_hold_come_back_when_an_operator_approves() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(3);
    let path = appliance.site.path().to_owned();
    let nothing = appliance.json(&["order", "approve", "demo"]);
    assert_eq!(
        (&nothing["returned"], nothing.get("entry")),
        (&json!(0), None)
    );
    faults.order_of_token("sign done-but-failed 1000");
    let device = Device::new(&path, "doubtful");
    lose(&mut appliance, &line, &device, RETURNED).await;
    assert_eq!(standing(&appliance), (0, RETURNED, 0));
    lose(&mut appliance, &line, &device, RETURNED + 3).await;
    faults.order_of_token("");
    assert_eq!(standing(&appliance), (3, RETURNED + 3, 3));
    let reply = appliance.ask_anew(&line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{reply:?}");
    // A kill at this point, and one after each approval, changes no figure.
    restart(&mut appliance, &faults);
    assert_eq!(standing(&appliance), (3, RETURNED + 3, 3));
    let (code, said) = refused(&appliance, &["order", "approve", "demo", "--units", "4"]);
    assert!(
        code == Some(1) && said.contains("holds 3"),
        "{code:?} {said}"
    );
    let some = appliance.json(&["order", "approve", "demo", "--units", "1"]);
    assert_eq!(some["returned"], 1);
    assert_eq!(figures(&some["order"]), (2, RETURNED + 3, 2));
    restart(&mut appliance, &faults);
    assert_eq!(standing(&appliance), (2, RETURNED + 3, 2));
    let reply = appliance.ask_until_issued(&line, &device).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
    let more = Device::new(&path, "more");
    let reply = appliance.ask_anew(&line, "demo", &more.request()).await;
    assert_eq!(reply.status, StatusCode::CONFLICT, "{reply:?}");
    let said = appliance.command(&["order", "approve", "demo"]);
    assert!(
        said.contains("2 held units given back") && said.contains("1 of 3 used, 0 held"),
        "{said}"
    );
    restart(&mut appliance, &faults);
    assert_eq!(standing(&appliance), (1, RETURNED + 3, 0));
    let said = appliance.command(&["order", "approve", "demo"]);
    assert!(said.contains("no unit is held"), "{said}");
    let (code, said) = refused(&appliance, &["order", "approve", "demo", "--units", "1"]);
    assert!(
        code == Some(1) && said.contains("holds none"),
        "{code:?} {said}"
    );
    for (id, status) in [
        ("more", StatusCode::CREATED),
        ("last", StatusCode::CREATED),
        ("too-many", StatusCode::CONFLICT),
    ] {
        let device = Device::new(&path, id);
        let reply = appliance.ask_until_issued(&line, &device).await;
        assert_eq!(reply.status, status, "{id}: {reply:?}");
    }
    assert_eq!(standing(&appliance), (3, RETURNED + 3, 0));
    invariants::assert(appliance).await;
}

/// Kills the daemon and its token host, and starts both again.
fn restart(appliance: &mut Appliance, faults: &Faults) {
    appliance.kill();
    appliance.spawn_host();
    faults.start_daemon(appliance);
}
