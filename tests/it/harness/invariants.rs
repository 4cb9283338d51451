//! What holds after every test, whatever it did: the log verifies, serials are unique, every certificate that
//! a line received is accounted for, no intent is open, and orders' units are exact.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::appliance::Appliance;
use super::device::{der, serial_of};
use super::program::run;

/// Unresolved intents of an order whose units return by themselves (docs/ISSUANCE.md).
const UNRESOLVED_RETURNED: u64 = 10;

/// Certificates in one answer of `cert list`.
const PAGE: usize = 500;

/// Asks the running appliance, stops it, and has the auditor verify what it published.
///
/// # Panics
/// When an invariant does not hold.
pub async fn assert(mut appliance: Appliance) {
    assert_and_stop(&mut appliance);
}

/// As [`assert`], and leaves the stopped appliance for further questions.
///
/// # Panics
/// When an invariant does not hold.
pub fn assert_and_stop(appliance: &mut Appliance) {
    let certificates = all_certificates(appliance);
    let serials: BTreeSet<&str> = certificates.iter().map(|c| text(&c["serial"])).collect();
    assert_eq!(serials.len(), certificates.len(), "a serial stands twice");
    let open: Vec<_> = certificates
        .iter()
        .filter(|c| c["status"] == "open")
        .collect();
    assert!(open.is_empty(), "open intents: {open:?}");
    every_received_certificate_is_accounted_for(appliance);
    let approved = units_are_exact(appliance, &certificates);
    appliance.stop();
    the_auditor_saw_all_of_it(appliance, &certificates, &approved);
}

/// The auditor verified the whole published log, and found in it the certificates that the appliance told of, and
/// all units that operators gave back.
fn the_auditor_saw_all_of_it(
    appliance: &Appliance,
    certificates: &[Value],
    approved: &BTreeMap<String, u64>,
) {
    let report = report(appliance);
    assert!(report["details"].is_object(), "no details: {report}");
    assert_eq!(report["details"]["signatures_unverified"], 0, "{report}");
    assert_eq!(report["tiles_missing"], 0, "{report}");
    let count = |statuses: &[&str]| {
        let found = certificates.iter();
        found
            .filter(|c| statuses.contains(&text(&c["status"])))
            .count()
    };
    for (figure, statuses) in [
        ("issued", &["issued", "revoked", "on-hold"][..]),
        ("revoked", &["revoked", "on-hold"]),
        ("abandoned", &["abandoned"]),
        ("unresolved", &["unresolved"]),
        ("open", &[]),
    ] {
        assert_eq!(
            report["certificates"][figure],
            count(statuses),
            "{figure}: {report}"
        );
    }
    assert_eq!(report["units_returned"], json!(approved), "{report}");
}

/// Every certificate that the appliance knows, page by page.
pub fn all_certificates(appliance: &Appliance) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    let limit = PAGE.to_string();
    loop {
        let last = all.last().map(|c| c["intent"].to_string());
        let mut words = vec!["cert", "list", "--limit", &limit];
        if let Some(last) = &last {
            words.extend(["--after", last]);
        }
        let page = appliance.json(&words);
        let page = page.as_array().unwrap().clone();
        let complete = page.len() < PAGE;
        all.extend(page);
        if complete {
            return all;
        }
    }
}

/// Each received certificate is the one that the appliance shows for its serial.
fn every_received_certificate_is_accounted_for(appliance: &Appliance) {
    let received: BTreeSet<&Vec<u8>> = appliance.received.iter().collect();
    for certificate in received {
        let serial = serial_of(appliance.site.path(), certificate);
        let shown = appliance.json(&["cert", "show", &serial]);
        let status = text(&shown["status"]);
        assert!(
            matches!(status, "issued" | "revoked" | "on-hold"),
            "{serial} left as {status}"
        );
        assert_eq!(
            &der(text(&shown["pem"]).as_bytes()),
            certificate,
            "{serial}"
        );
    }
}

/// Each order's used units are those of certificates and those that doubts hold; gives back the doubts, by order,
/// whose units no longer return by themselves and are not held: an operator gave them back.
fn units_are_exact(appliance: &Appliance, certificates: &[Value]) -> BTreeMap<String, u64> {
    let mut by_order: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for certificate in certificates {
        if let Some(order) = certificate["order"].as_str() {
            let (issued, unresolved) = by_order.entry(order).or_default();
            match text(&certificate["status"]) {
                "issued" | "revoked" | "on-hold" => *issued += 1,
                "unresolved" => *unresolved += 1,
                _ => {}
            }
        }
    }
    let mut approved = BTreeMap::new();
    for order in appliance.json(&["order", "list"]).as_array().unwrap() {
        let name = text(&order["terms"]["order"]);
        let (issued, unresolved) = by_order.get(name).copied().unwrap_or_default();
        let held = order["held"].as_u64().unwrap();
        assert_eq!(
            (order["used"].as_u64(), order["unresolved"].as_u64()),
            (Some(issued + held), Some(unresolved)),
            "units of {name}: {order}"
        );
        let beyond = unresolved.saturating_sub(UNRESOLVED_RETURNED);
        let returned = beyond.checked_sub(held);
        match returned.unwrap_or_else(|| panic!("more units held than doubts: {order}")) {
            0 => {}
            returned => drop(approved.insert(name.to_owned(), returned)),
        }
    }
    approved
}

/// The auditor's report on the published log with all details; it must find no fault.
pub fn report(appliance: &Appliance) -> Value {
    let path = appliance.site.path();
    let mut command = appliance.site.command("hallmark-audit");
    command
        .arg("verify")
        .arg("--published")
        .arg(path.join("public"));
    command.arg("--details").arg(path.join("private"));
    command
        .arg("--log-key")
        .arg(path.join("state/log.vkey"))
        .arg("--json");
    let mut told: Value = serde_json::from_slice(&run(&mut command).stdout).unwrap();
    assert_eq!(told["verified"], true, "{told}");
    told["report"].take()
}

/// The text of a JSON string.
fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("not a text: {value}"))
}
