//! Answers as aligned text.
//!
//! Owns how answers look to people. Promises one row a thing and columns that line up; a member that is not
//! there is a hyphen. Never fails on an answer of a newer daemon.

use std::fmt::Write as _;
use std::path::Path;

use certstatus::UnixMillis;
use serde_json::{Value, json};

use super::{CliError, Output, print, print_json};

/// The configuration and the profiles are right.
pub(super) fn checked<'a>(
    output: Output,
    path: &Path,
    profiles: impl Iterator<Item = &'a String>,
) -> Result<(), CliError> {
    let profiles: Vec<_> = profiles.collect();
    match output {
        Output::Json => print_json(&json!({ "config": path, "profiles": profiles })),
        Output::Text => {
            let names: Vec<_> = profiles.iter().map(|name| name.as_str()).collect();
            print(&format!(
                "{}: valid; profiles: {}\n",
                path.display(),
                names.join(", ")
            ))
        }
    }
}

/// A member as text, found by a path of names (`log.size`); a hyphen where there is none.
pub(super) fn text(value: &Value, path: &str) -> String {
    let found = path
        .split('.')
        .try_fold(value, |value, name| value.get(name));
    match found {
        None | Some(Value::Null) => "-".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "-".to_owned(),
        Some(Value::String(text)) => text.chars().map(plain).collect(),
        Some(Value::Array(items)) => items.iter().map(word).collect::<Vec<_>>().join(","),
        Some(other) => other.to_string(),
    }
}

/// An element of a list as text.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.chars().map(plain).collect(),
        other => other.to_string(),
    }
}

/// A character that moves no cursor: names come from factories, and this goes to a terminal.
fn plain(character: char) -> char {
    if character.is_control() {
        '\u{fffd}'
    } else {
        character
    }
}

/// A member that is a time in milliseconds, as a date.
pub(super) fn date(value: &Value, path: &str) -> String {
    let found = path
        .split('.')
        .try_fold(value, |value, name| value.get(name));
    let millis = found.and_then(Value::as_u64);
    millis.map_or_else(|| "-".to_owned(), |millis| UnixMillis(millis).to_string())
}

/// The elements of a list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Rows under a heading, each column as wide as its widest cell.
pub(super) fn table(heading: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let heading = heading.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(heading).chain(rows) {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(line, "{cell:<width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values, one pair a line.
fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for (name, value) in rows {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<width$}  {value}");
    }
    text
}

/// Lines, one a row.
pub(super) fn lines(value: &Value) -> String {
    certified(value, "line", "LINE")
}

/// Auditors, one a row.
pub(super) fn auditors(value: &Value) -> String {
    certified(value, "name", "AUDITOR")
}

/// Those who have client certificates, one a row; `name` is the member that names them.
fn certified(value: &Value, name: &str, heading: &str) -> String {
    let rows = items(value).iter().map(|line| {
        let certificates = line.get("certificates").map_or(&[][..], items);
        let newest = certificates.last().unwrap_or(&Value::Null);
        vec![
            text(line, name),
            text(line, "state"),
            certificates.len().to_string(),
            text(newest, "serial"),
            date(newest, "not_after"),
        ]
    });
    table(
        &[heading, "STATE", "CERTIFICATES", "NEWEST", "UNTIL"],
        rows.collect(),
    )
}

/// What is said beside the chain of somebody; `whom` says what it is, and is the member that names it.
pub(super) fn certificate_given(whom: &str, value: &Value) -> String {
    format!(
        "{whom} {}: certificate {} until {} (entry {})",
        text(value, whom),
        text(value, "serial"),
        date(value, "not_after"),
        text(value, "entries.outcome"),
    )
}

/// Responders, one row for each certificate.
pub(super) fn responders(value: &Value) -> String {
    let mut rows = Vec::new();
    for responder in items(value) {
        let none = [Value::Null];
        let certificates = match responder.get("certificates").map_or(&[][..], items) {
            [] => &none[..],
            certificates => certificates,
        };
        rows.extend(certificates.iter().map(|certificate| {
            vec![
                text(responder, "responder"),
                text(certificate, "issuer"),
                text(certificate, "serial"),
                date(certificate, "not_after"),
                text(responder, "sha256"),
                text(certificate, "problem"),
            ]
        }));
    }
    let heading = [
        "RESPONDER",
        "ISSUER",
        "SERIAL",
        "UNTIL",
        "KEY (SHA-256)",
        "PROBLEM",
    ];
    let reading = items(value).iter().map(|responder| {
        let clients = responder.get("client_certificates").map_or(&[][..], items);
        let newest = clients.last().unwrap_or(&Value::Null);
        vec![
            text(responder, "responder"),
            clients.len().to_string(),
            text(newest, "serial"),
            date(newest, "not_after"),
        ]
    });
    let reads = ["RESPONDER", "CLIENT CERTIFICATES", "NEWEST", "UNTIL"];
    let reading = table(&reads, reading.collect());
    format!("{}\n{reading}", table(&heading, rows))
}

/// A responder that was approved.
pub(super) fn responder_approved(value: &Value) -> String {
    let name = text(value, "responder");
    let act = match value.get("entry") {
        Some(entry) => format!("responder {name} approved (entry {entry})"),
        None => format!("responder {name} was approved already"),
    };
    let client = value.get("client").map_or_else(String::new, |client| {
        format!(
            "its client certificate {} counts until {}\n",
            text(client, "serial"),
            date(client, "not_after"),
        )
    });
    format!(
        "{act}\nkey SHA-256 {}: compare it with what `hallmark-ocsp key` says\n\
         its certificates follow in public/responders/{name}/: see `hallmark responder list`\n",
        text(value, "sha256"),
    ) + &client
}

/// A responder that was revoked.
pub(super) fn responder_revoked(value: &Value) -> String {
    let act = format!(
        "responder {} revoked (entry {}): its certificates are not renewed, and it reads nothing any more",
        text(value, "responder"),
        text(value, "entry"),
    );
    match value.get("certificates_until") {
        Some(_) => format!(
            "{act}\nthose that it has count until {} at the latest; nothing ends them earlier\n",
            date(value, "certificates_until"),
        ),
        None => format!("{act}\n"),
    }
}

/// The chain of a certificate, PEM.
pub(super) fn chain(value: &Value) -> String {
    value
        .get("chain")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

/// Orders, one a row.
pub(super) fn orders(value: &Value) -> String {
    let rows = items(value).iter().map(|order| {
        vec![
            text(order, "terms.order"),
            text(order, "state"),
            text(order, "used"),
            text(order, "terms.quantity"),
            text(order, "held"),
            text(order, "terms.profile"),
            text(order, "terms.issuer"),
            date(order, "terms.until"),
            text(order, "terms.lines"),
        ]
    });
    let heading = [
        "ORDER", "STATE", "USED", "OF", "HELD", "PROFILE", "ISSUER", "UNTIL", "LINES",
    ];
    table(&heading, rows.collect())
}

/// One order.
pub(super) fn order(value: &Value) -> String {
    pairs(&[
        ("order", text(value, "terms.order")),
        ("state", text(value, "state")),
        ("used", used(value)),
        ("held", held(value)),
        ("unresolved", text(value, "unresolved")),
        ("profile", text(value, "terms.profile")),
        ("issuer", text(value, "terms.issuer")),
        ("lines", text(value, "terms.lines")),
        ("from", date(value, "terms.from")),
        ("until", date(value, "terms.until")),
        ("device ids", text(value, "terms.device_id_pattern")),
    ])
}

/// Units taken, of how many.
fn used(order: &Value) -> String {
    format!(
        "{} of {}",
        text(order, "used"),
        text(order, "terms.quantity")
    )
}

/// Units held, and what gives them back.
fn held(order: &Value) -> String {
    match order.get("held").and_then(Value::as_u64) {
        Some(1..) => format!(
            "{} of these, until `order approve {}`",
            text(order, "held"),
            text(order, "terms.order")
        ),
        _ => text(order, "held"),
    }
}

/// What an approval did, and where the order stands after it.
pub(super) fn approved(value: &Value) -> String {
    let order = value.get("order").unwrap_or(&Value::Null);
    let name = text(order, "terms.order");
    let standing = format!("{} used, {} held", used(order), text(order, "held"));
    match value.get("entry") {
        Some(entry) => format!(
            "order {name}: {} held units given back (entry {entry}); {standing}\n",
            text(value, "returned")
        ),
        None => format!("order {name}: no unit is held, nothing to give back; {standing}\n"),
    }
}

/// Certificates, one a row.
pub(super) fn certificates(value: &Value) -> String {
    let rows = items(value).iter().map(|certificate| {
        vec![
            text(certificate, "serial"),
            text(certificate, "status"),
            text(certificate, "issuer"),
            text(certificate, "order"),
            text(certificate, "device_id"),
            date(certificate, "not_after"),
            text(certificate, "intent"),
        ]
    });
    let heading = [
        "SERIAL",
        "STATUS",
        "ISSUER",
        "ORDER",
        "DEVICE ID",
        "UNTIL",
        "ENTRY",
    ];
    table(&heading, rows.collect())
}

/// One certificate.
pub(super) fn certificate(value: &Value) -> String {
    let mut shown = pairs(&[
        ("serial", text(value, "serial")),
        ("status", standing(value)),
        ("issuer", text(value, "issuer")),
        ("profile", text(value, "profile")),
        ("order", text(value, "order")),
        ("line", text(value, "line")),
        ("device id", text(value, "device_id")),
        ("from", date(value, "not_before")),
        ("until", date(value, "not_after")),
        (
            "entries",
            format!("{} and {}", text(value, "intent"), text(value, "outcome")),
        ),
    ]);
    if let Some(pem) = value.get("pem").and_then(Value::as_str) {
        shown.push_str(pem);
    }
    shown
}

/// A certificate's status, with since when and why it is revoked.
fn standing(value: &Value) -> String {
    let status = text(value, "status");
    if value.get("revocation").is_none() {
        return status;
    }
    let since = date(value, "revocation.revoked_at");
    match text(value, "revocation.reason").as_str() {
        "-" => format!("{status} since {since}"),
        reason => format!("{status} since {since} ({reason})"),
    }
}

/// A state that was set, or was so already.
pub(super) fn set(what: &str, value: &Value) -> String {
    match value.get("entry") {
        Some(entry) => format!("{what} (entry {entry})\n"),
        None => format!("{what} (it was already)\n"),
    }
}

/// The state of everything.
pub(super) fn status(value: &Value) -> String {
    let ready = match value.get("ready").and_then(Value::as_bool) {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let log = value.get("log").unwrap_or(&Value::Null);
    let mut shown = pairs(&[
        ("version", text(value, "version")),
        ("time", date(value, "now")),
        ("ready to issue", with_reason(ready, &reasons(value))),
        ("log", text(log, "origin")),
        (
            "log state",
            with_reason(&text(log, "state"), &text(log, "reason")),
        ),
        (
            "log entries",
            format!(
                "{}, {} published",
                text(log, "size"),
                text(log, "published")
            ),
        ),
        ("newest entry", date(log, "newest")),
        ("open intents", text(log, "open_intents")),
        (
            "lines",
            format!(
                "{} enabled, {} disabled",
                text(value, "lines.enabled"),
                text(value, "lines.disabled")
            ),
        ),
        (
            "orders",
            format!(
                "{} open, {} closed",
                text(value, "orders.open"),
                text(value, "orders.closed")
            ),
        ),
    ]);
    shown.push('\n');
    shown.push_str(&tokens(value));
    shown.push('\n');
    shown.push_str(&issuers(value));
    shown.push('\n');
    shown.push_str(&crls(value));
    for more in [responders_certificates(value), witnesses(value)] {
        if !more.is_empty() {
            shown.push('\n');
            shown.push_str(&more);
        }
    }
    shown
}

/// The tokens, one a row.
fn tokens(value: &Value) -> String {
    let tokens = value.get("tokens").map_or(&[][..], items).iter();
    let rows = tokens.map(|token| {
        vec![
            text(token, "token"),
            usable(token),
            text(token, "signatures"),
            text(token, "latency_us"),
            text(token, "problem"),
        ]
    });
    let heading = ["TOKEN", "USABLE", "SIGNATURES", "MEDIAN US", "PROBLEM"];
    table(&heading, rows.collect())
}

/// The issuers, one a row.
fn issuers(value: &Value) -> String {
    let issuers = value.get("issuers").map_or(&[][..], items).iter();
    let rows = issuers.map(|issuer| {
        vec![
            text(issuer, "issuer"),
            text(issuer, "role"),
            usable(issuer),
            text(issuer, "revoked.reason"),
        ]
    });
    table(&["ISSUER", "ROLE", "USABLE", "REVOKED"], rows.collect())
}

/// The CRLs, one a row.
fn crls(value: &Value) -> String {
    let crls = value.get("crls").map_or(&[][..], items).iter();
    let rows = crls.map(|crl| {
        let partition = match crl.get("partition").and_then(Value::as_u64) {
            Some(0) => "full".to_owned(),
            _ => text(crl, "partition"),
        };
        vec![
            text(crl, "issuer"),
            partition,
            text(crl, "number"),
            // How many are on a CRL that was made before this start is not known.
            match text(crl, "listed").as_str() {
                "-" if crl.get("number").is_some_and(Value::is_u64) => "?".to_owned(),
                listed => listed.to_owned(),
            },
            date(crl, "this_update"),
            date(crl, "next_update"),
            text(crl, "problem"),
        ]
    });
    let heading = [
        "CRL OF", "PART", "NUMBER", "LISTED", "MADE", "UNTIL", "PROBLEM",
    ];
    table(&heading, rows.collect())
}

/// The certificates of responders, one a row; nothing where no responder is approved.
fn responders_certificates(value: &Value) -> String {
    let certificates = value.get("responders").map_or(&[][..], items);
    if certificates.is_empty() {
        return String::new();
    }
    let rows = certificates.iter().map(|certificate| {
        vec![
            text(certificate, "responder"),
            text(certificate, "issuer"),
            text(certificate, "serial"),
            date(certificate, "not_after"),
            text(certificate, "problem"),
        ]
    });
    let heading = ["RESPONDER", "ISSUER", "SERIAL", "UNTIL", "PROBLEM"];
    table(&heading, rows.collect())
}

/// What the witnesses said at the start, one a row; nothing where none is configured.
fn witnesses(value: &Value) -> String {
    let witnesses = value.get("witnesses").map_or(&[][..], items);
    if witnesses.is_empty() {
        return String::new();
    }
    let rows = witnesses.iter().map(|witness| {
        vec![
            text(witness, "witness"),
            text(witness, "verdict"),
            text(witness, "size"),
            date(witness, "cosigned_at"),
            text(witness, "problem"),
        ]
    });
    let heading = ["WITNESS", "AT THE START", "ENTRIES", "COSIGNED", "PROBLEM"];
    table(&heading, rows.collect())
}

/// A state with its reason, where there is one.
fn with_reason(state: &str, reason: &str) -> String {
    if matches!(reason, "-" | "") {
        state.to_owned()
    } else {
        format!("{state}: {reason}")
    }
}

/// Why nothing is issued, if nothing is.
fn reasons(value: &Value) -> String {
    let reasons = value.get("reasons").and_then(Value::as_array);
    let reasons = reasons.into_iter().flatten().filter_map(Value::as_str);
    reasons.collect::<Vec<_>>().join("; ")
}

/// Whether a thing is usable, in a word.
fn usable(value: &Value) -> String {
    match value.get("usable").and_then(Value::as_bool) {
        Some(true) => "yes".to_owned(),
        Some(false) => "no".to_owned(),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let rows = vec![
            vec!["a".into(), "bb".into()],
            vec!["ccc".into(), "-".into()],
        ];
        assert_eq!(table(&["X", "YY"], rows), "X    YY\na    bb\nccc  -\n");
        assert_eq!(
            pairs(&[("a", "1".into()), ("long", "2".into())]),
            "a     1\nlong  2\n"
        );
    }

    #[test]
    fn what_is_not_there_is_a_hyphen_and_nothing_moves_the_cursor() {
        let value = json!({"a": null, "b": "x\u{1b}[2J", "c": ["p", "q"], "d": {"e": 5}, "f": ""});
        let shown: Vec<_> = ["a", "b", "c", "d.e", "f", "g.h"]
            .map(|path| text(&value, path))
            .into();
        assert_eq!(shown, ["-", "x\u{fffd}[2J", "p,q", "5", "-", "-"]);
        assert_eq!(date(&json!({"t": 1000}), "t"), "1970-01-01T00:00:01Z");
    }

    #[test]
    fn the_end_of_a_certificate_is_a_date() {
        let given =
            json!({"line": "line-1", "serial": "s", "not_after": 1000, "entries": {"outcome": 7}});
        assert_eq!(
            certificate_given("line", &given),
            "line line-1: certificate s until 1970-01-01T00:00:01Z (entry 7)"
        );
        let client = json!({"client": {"serial": "s", "not_after": 1000}});
        let told = responder_approved(&client);
        assert!(told.contains("until 1970-01-01T00:00:01Z"), "{told}");
    }

    #[test]
    fn any_answer_is_shown() {
        let odd = [
            Value::Null,
            json!([null]),
            json!([1]),
            json!({}),
            json!("x"),
        ];
        for value in odd {
            for show in [
                lines,
                auditors,
                responders,
                responder_approved,
                orders,
                order,
                certificates,
                certificate,
                status,
                chain,
                approved,
            ] {
                let _ = show(&value);
            }
            let _ = certificate_given("line", &value);
        }
    }

    #[test]
    fn the_states_of_things_are_told() {
        let status = status(&json!({
            "version": "0.1.0", "now": 0, "ready": false, "reasons": ["the token is away", "no disk"],
            "log": {"origin": "o", "state": "halted", "reason": "disk full", "size": 7, "published": 6},
            "tokens": [{"token": "main", "usable": false, "problem": "no host"}],
            "issuers": [{"issuer": "device-1", "role": "device", "usable": true,
                "revoked": {"reason": "key-compromise"}}],
            "crls": [{"issuer": "device-1", "partition": 0, "number": 9, "listed": null}],
        }));
        for part in [
            "device-1  full  9       ?",
            "ready to issue  no: the token is away; no disk",
            "halted: disk full",
            "7, 6 published",
            "no host",
            "device-1  device  yes     key-compromise",
        ] {
            assert!(status.contains(part), "{part}\n{status}");
        }
        let order = order(&json!({
            "terms": {"order": "demo", "quantity": 5, "lines": ["a", "b"]}, "used": 2, "state": "open",
        }));
        assert!(order.contains("2 of 5") && order.contains("a,b"), "{order}");
    }

    #[test]
    fn held_units_are_shown_with_what_gives_them_back() {
        let standing = |held: u64| json!({"terms": {"order": "demo", "quantity": 5}, "used": 4, "held": held, "unresolved": 12});
        let shown = order(&standing(2));
        assert!(
            shown.contains("held        2 of these, until `order approve demo`\n"),
            "{shown}"
        );
        assert!(order(&standing(0)).contains("held        0\n"));
        let listed = orders(&json!([standing(2)]));
        assert!(listed.contains("USED  OF  HELD"), "{listed}");
        assert_eq!(
            approved(&json!({"returned": 2, "entry": 57, "order": standing(0)})),
            "order demo: 2 held units given back (entry 57); 4 of 5 used, 0 held\n"
        );
        assert_eq!(
            approved(&json!({"returned": 0, "order": standing(0)})),
            "order demo: no unit is held, nothing to give back; 4 of 5 used, 0 held\n"
        );
    }
}
