//! How revocations and looks at selections are told to people.
//!
//! Promises that by when it is visible where stands in every answer. Never fails on an answer of a newer daemon.

use std::fmt::Write as _;

use serde_json::Value;

use crate::cli::show::{certificates, date, items, text};

/// What was done to one certificate, and what became of the line whose key is in other hands.
pub(super) fn one(what: &str, value: &Value) -> String {
    let (reason, since) = (text(value, "reason"), date(value, "revoked_at"));
    let entry = text(value, "entry");
    let changed = value.get("changed").and_then(Value::as_bool) == Some(true);
    let mut told = match (reason.as_str(), changed) {
        ("remove-from-crl", true) => {
            format!("{what} is released: it counts again (entry {entry})\n")
        }
        ("remove-from-crl", false) => {
            format!("{what} was released already, at {since} (entry {entry})\n")
        }
        ("certificate-hold", true) => format!("{what} is on hold since {since} (entry {entry})\n"),
        ("certificate-hold", false) => {
            format!("{what} was on hold already, since {since} (entry {entry})\n")
        }
        ("-", _) => format!(
            "{what} counts as revoked already, since {since} (entry {entry}): its signature is unresolved\n"
        ),
        (reason, true) => format!("{what} is revoked since {since} ({reason}, entry {entry})\n"),
        (reason, false) => format!(
            "{what} was revoked already, since {since} ({reason}, entry {entry}); nothing changes that\n"
        ),
    };
    if value.get("line_disabled").is_some() {
        told.push_str(&line(value));
    }
    told.push_str(&uncertified(value));
    told.push_str(&visible(value));
    told
}

/// Lines' certificates that are released and authenticate nobody.
fn uncertified(value: &Value) -> String {
    let each = value.get("uncertified").map_or(&[][..], items).iter();
    let told = each.map(|one| format!("it authenticates no line: {}\n", text(one, "problem")));
    told.collect()
}

/// A line whose key is in other hands.
fn line(value: &Value) -> String {
    let others = value
        .get("withdrawn")
        .map_or(0, |others| items(others).len());
    format!(
        "line {} is disabled and its other certificates ({others}) authenticate no more: enable it, then add it \
         again with a new key\n",
        text(value, "line_disabled"),
    )
}

/// By when it is visible where.
fn visible(value: &Value) -> String {
    if value.get("visible").is_none_or(Value::is_null) {
        return String::new();
    }
    let published = value.pointer("/visible/published").and_then(Value::as_bool);
    if published != Some(true) {
        return "it is not published yet: that goes on by itself, see hallmark status\n".to_owned();
    }
    let waits = value.pointer("/visible/crl_waits").map_or(&[][..], items);
    let crl = match waits {
        [] => format!("CRL {}", date(value, "visible.crl")),
        waits => {
            let waits = waits.iter().map(|waits| {
                let (issuer, problem) = (text(waits, "issuer"), text(waits, "problem"));
                format!("CRL of {issuer} NOT YET: {problem}")
            });
            waits.collect::<Vec<_>>().join(", ")
        }
    };
    let ocsp = match value.pointer("/visible/ocsp") {
        // Not a device issuer's: nobody answers for it.
        None => String::new(),
        Some(_) => format!(
            ", OCSP {} (answers cached before: {})",
            date(value, "visible.ocsp"),
            date(value, "visible.ocsp_cached"),
        ),
    };
    format!(
        "visible: published log {}{ocsp}, {crl}\n",
        date(value, "visible.log")
    )
}

/// How many certificates a selection has, and the first of them.
pub(super) fn table(value: &Value) -> String {
    let shown = value.get("certificates").unwrap_or(&Value::Null);
    let mut told = certificates(shown);
    let matched = value.get("matched").and_then(Value::as_u64).unwrap_or(0);
    let more = matched.saturating_sub(u64::try_from(items(shown).len()).unwrap_or(u64::MAX));
    if more > 0 {
        // Writing to a string cannot fail.
        let _ = writeln!(told, "… and {more} more");
    }
    let statuses = value.get("statuses").and_then(Value::as_object);
    let statuses = statuses.into_iter().flatten();
    let statuses: Vec<_> = statuses
        .map(|(status, count)| format!("{count} {status}"))
        .collect();
    let _ = writeln!(told, "{matched} certificates: {}", statuses.join(", "));
    told.push_str(&unmatched(value));
    told
}

/// Device ids that were named and have no certificate in the selection.
fn unmatched(value: &Value) -> String {
    let count = value.pointer("/unmatched/count").and_then(Value::as_u64);
    let count = count.unwrap_or(0);
    if count == 0 {
        return String::new();
    }
    let first = value
        .pointer("/unmatched/device_ids")
        .map_or(&[][..], items);
    let more = if u64::try_from(first.len()).is_ok_and(|first| first < count) {
        ", …"
    } else {
        ""
    };
    let first = text(value, "unmatched.device_ids").replace(',', ", ");
    format!("unmatched: {count} of the device ids have no certificate among these: {first}{more}\n")
}

/// A look at a selection: what it would be done to, and how it is done.
pub(super) fn look(value: &Value) -> String {
    if value.get("selection").is_none_or(Value::is_null) {
        return format!("{}nothing is to be done\n", table(value));
    }
    format!(
        "{}nothing was done; to do exactly this ({}), add to the same command: --selection {}\n",
        table(value),
        text(value, "reason"),
        text(value, "selection"),
    )
}

/// What was done to a selection.
pub(super) fn sum(value: &Value) -> String {
    let mut told = String::new();
    for refused in value.get("refused").map_or(&[][..], items) {
        // Writing to a string cannot fail.
        let _ = writeln!(told, "refused: {}", text(refused, "problem"));
    }
    let _ = writeln!(
        told,
        "{} of {} certificates changed ({}), {} stood so already or are revoked for good",
        text(value, "changed"),
        text(value, "matched"),
        text(value, "reason"),
        text(value, "unchanged"),
    );
    let newer = value.get("newer").and_then(Value::as_u64).unwrap_or(0);
    if newer > 0 {
        let _ = writeln!(
            told,
            "{newer} more fulfil the criteria now: they were issued after the look, and are as they were"
        );
    }
    told.push_str(&unmatched(value));
    for withdrawn in value.get("lines").map_or(&[][..], items) {
        told.push_str(&line(withdrawn));
    }
    told.push_str(&uncertified(value));
    told.push_str(&visible(value));
    told
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_is_told_with_how_it_stands_and_by_when_it_is_seen() {
        let visible = json!({
            "published": true, "log": 0, "ocsp": 1000, "ocsp_cached": 601_000, "crl": 5000,
        });
        for (reason, changed, said) in [
            (json!("superseded"), true, "is revoked since"),
            (json!("superseded"), false, "nothing changes that"),
            (json!("certificate-hold"), true, "is on hold since"),
            (json!("certificate-hold"), false, "was on hold already"),
            (json!("remove-from-crl"), true, "counts again"),
            (json!("remove-from-crl"), false, "was released already"),
            (Value::Null, false, "unresolved"),
        ] {
            let value = json!({
                "revoked_at": 0, "reason": reason, "entry": 9, "changed": changed, "visible": visible,
            });
            let told = one("certificate x", &value);
            assert!(told.contains(said) && told.contains("entry 9"), "{told}");
            assert!(told.contains("CRL 1970-01-01T00:00:05Z"), "{told}");
        }
        let waits = json!({"issuer": "device-1", "problem": "its token cannot sign now"});
        let visible = json!({"published": true, "log": 0, "ocsp": 1000, "ocsp_cached": 601_000, "crl_waits": [waits]});
        let told = one("certificate x", &json!({"entry": 9, "visible": visible}));
        for part in [
            "OCSP 1970-01-01T00:00:01Z",
            "CRL of device-1 NOT YET: its token cannot sign now",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let value =
            json!({"visible": {"published": false}, "line_disabled": "line-1", "withdrawn": ["s"]});
        let told = one("certificate x", &value);
        assert!(
            told.contains("not published yet") && told.contains("line-1"),
            "{told}"
        );
    }

    #[test]
    fn a_look_says_how_many_and_how_to_go_on() {
        let told = look(&json!({
            "matched": 3, "selection": "7-abc", "reason": "superseded", "statuses": {"issued": 2, "revoked": 1},
            "certificates": [{"serial": "s1"}, {"serial": "s2"}],
        }));
        for part in ["… and 1 more", "2 issued, 1 revoked", "--selection 7-abc"] {
            assert!(told.contains(part), "{told}");
        }
        let lacking = json!({"count": 3, "device_ids": ["dev-8", "dev-9"]});
        for told in [
            look(&json!({"matched": 0, "selection": null, "unmatched": lacking})),
            sum(&json!({"matched": 9, "changed": 9, "unmatched": lacking})),
        ] {
            assert!(
                told.contains("3 of the device ids") && told.contains("dev-8, dev-9, …"),
                "{told}"
            );
            assert!(!told.contains("--selection"), "{told}");
        }
        for odd in [
            Value::Null,
            json!([]),
            json!({"refused": [1], "lines": [null]}),
        ] {
            let _ = (look(&odd), sum(&odd), one("x", &odd));
        }
    }
}
