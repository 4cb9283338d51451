//! Every variant of every error has a type and a status, and no cause from inside leaks.

use std::collections::BTreeSet;
use std::path::PathBuf;

use certstatus::UnixMillis;
use certstatus::signature::SignatureFault;
use http_body_util::BodyExt as _;

use super::*;
use crate::hsm::Reached;
use crate::signing_log::Holder;

/// A text that must never reach a client.
const INSIDE: &str = "SECRET-CAUSE";

/// A serial.
fn serial() -> SerialNumber {
    SerialNumber::from_random([7; 16])
}

/// All refusals of the registration authority with their statuses.
fn refusals() -> Vec<(Refused, u16)> {
    let (name, now) = (
        "demo".parse::<certstatus::log::entry::Slug>().unwrap(),
        UnixMillis(0),
    );
    vec![
        (Refused::NoCertificate, 401),
        (Refused::UnknownCertificate, 403),
        (
            Refused::OutsideValidity {
                not_before: now,
                not_after: now,
                now,
            },
            403,
        ),
        (Refused::LineDisabled(name.clone()), 403),
        (Refused::NoOrder("demo".into()), 404),
        (Refused::OrderClosed(name.clone()), 409),
        (
            Refused::OutsideDates {
                order: name.clone(),
                from: now,
                until: now,
                now,
            },
            409,
        ),
        (
            Refused::UsedUp {
                order: name.clone(),
                quantity: 1,
            },
            409,
        ),
        (
            Refused::DeviceId {
                device_id: "x".into(),
                pattern: "y".into(),
            },
            422,
        ),
        (Refused::DeviceIdForm, 422),
        (
            Refused::TooManyCertificates {
                line: name,
                maximum: 8,
            },
            409,
        ),
    ]
}

/// All errors of the log.
fn log_errors() -> Vec<(LogError, u16)> {
    let now = UnixMillis(0);
    let key = HsmError::Deadline {
        token: INSIDE.into(),
    };
    vec![
        (LogError::Halted(INSIDE.into()), 503),
        (LogError::Randomness, 503),
        (LogError::Recovering, 503),
        (LogError::Busy, 503),
        (LogError::Stopping, 503),
        (LogError::ClockBackwards { now, newest: now }, 503),
        (LogError::Damaged(INSIDE.into()), 500),
        (LogError::LogKey(key), 503),
        (LogError::Read(INSIDE.into()), 503),
        (LogError::WrongLog(INSIDE.into()), 500),
        (LogError::Publish(INSIDE.into()), 500),
        (
            LogError::TokenBusy(HsmError::Deadline {
                token: INSIDE.into(),
            }),
            503,
        ),
        (
            LogError::Change(ChangeRefused::Exists("the line x".into())),
            409,
        ),
        (
            LogError::Change(ChangeRefused::Missing("line x".into())),
            404,
        ),
        (LogError::Revoke(RevokeRefused::NotIssued(serial())), 404),
        (LogError::Revoke(RevokeRefused::NotOnHold(serial())), 409),
        (LogError::Revoke(RevokeRefused::Final(serial())), 409),
        (
            LogError::Change(ChangeRefused::Value {
                key: "until",
                problem: "late".into(),
            }),
            422,
        ),
    ]
}

/// All errors of tokens.
fn token_errors() -> Vec<HsmError> {
    let (token, label, cause) = (
        || INSIDE.to_owned(),
        || INSIDE.to_owned(),
        INSIDE.to_owned(),
    );
    let reached = Reached::No;
    vec![
        HsmError::Busy { token: token() },
        HsmError::Unavailable {
            token: token(),
            cause: cause.clone(),
            reached,
        },
        HsmError::PinRejected { token: token() },
        HsmError::PinLocked { token: token() },
        HsmError::KeyMissing {
            token: token(),
            label: label(),
        },
        HsmError::KeyAmbiguous {
            token: token(),
            label: label(),
            count: 2,
        },
        HsmError::KeyUnfit {
            token: token(),
            label: label(),
            problem: cause.clone(),
        },
        HsmError::Refused {
            token: token(),
            cause,
            reached,
        },
        HsmError::Deadline { token: token() },
        HsmError::LogKeyFile {
            path: PathBuf::from(INSIDE),
            problem: INSIDE.into(),
        },
    ]
}

/// All errors of issuing but those of requests, with their statuses.
fn issue_errors() -> Vec<(IssueError, u16)> {
    let (device_id, serial) = (|| "dev-1".to_owned(), serial());
    let mut all = vec![
        (
            IssueError::Build(BuildRefused::Request {
                field: "subject".into(),
                rule: "no".into(),
            }),
            422,
        ),
        (
            IssueError::Build(BuildRefused::Lint {
                profile: INSIDE.into(),
                rule: INSIDE.into(),
            }),
            500,
        ),
        (IssueError::Intent(IntentRefused::ClaimTaken), 503),
        (
            IssueError::Intent(IntentRefused::Object { problem: INSIDE }),
            500,
        ),
        (
            IssueError::Intent(IntentRefused::KeyUsed {
                holder: Some(Holder {
                    device_id: device_id(),
                    serial,
                }),
            }),
            409,
        ),
        (
            IssueError::Intent(IntentRefused::DeviceIdUsed {
                device_id: device_id(),
                serial: Some(serial),
            }),
            409,
        ),
        (
            IssueError::Intent(IntentRefused::IssuerRevoked {
                issuer: "device-1".parse().unwrap(),
            }),
            409,
        ),
        (IssueError::RevokedBefore(serial), 409),
        (IssueError::HeldBefore(serial), 409),
        (IssueError::NoDeviceId, 422),
        (
            IssueError::DeviceIdDiffers {
                subject: device_id(),
                parameter: "x".into(),
            },
            422,
        ),
        (IssueError::NoToken, 503),
        (IssueError::Check(SignatureFault::Mismatch), 503),
        (IssueError::Late, 503),
        (IssueError::NoProfile(INSIDE.into()), 500),
        (IssueError::Randomness, 500),
        (
            IssueError::NotACertificate(certstatus::log::LeafIndex(7)),
            500,
        ),
        (
            IssueError::Crowded {
                retry_after: std::time::Duration::from_secs(7),
            },
            503,
        ),
    ];
    for (refused, status) in refusals() {
        all.push((
            IssueError::Intent(IntentRefused::Order(refused.clone())),
            status,
        ));
        all.push((IssueError::Ra(refused), status));
    }
    for (error, status) in log_errors() {
        all.push((
            IssueError::Intent(IntentRefused::Log(error.clone())),
            status,
        ));
        all.push((IssueError::Log(error), status));
    }
    all.extend(
        token_errors()
            .into_iter()
            .map(|error| (IssueError::Token(error), 503)),
    );
    all
}

#[test]
fn every_error_has_its_status_and_no_cause_from_inside() {
    for (error, status) in issue_errors() {
        let problem = Problem::from(&error);
        assert_eq!(problem.status().as_u16(), status, "{error:?}");
        let text = serde_json::to_string(&problem).unwrap();
        assert!(!text.contains(INSIDE), "{text}");
        assert!(problem.detail.len() > 10, "a sentence: {text}");
        assert_eq!(status == 503, problem.kind.retry_after.is_some(), "{text}");
    }
}

#[test]
fn a_registry_refusal_has_the_type_of_its_rule() {
    for (refused, _) in refusals() {
        assert_eq!(Problem::from(&refused).kind.slug, refused.rule());
    }
}

#[test]
fn types_are_unique_names_and_their_statuses_are_errors() {
    let slugs: BTreeSet<_> = kind::ALL.iter().map(|kind| kind.slug).collect();
    assert_eq!(slugs.len(), kind::ALL.len());
    for kind in kind::ALL {
        assert!(
            kind.slug.parse::<certstatus::log::entry::Slug>().is_ok(),
            "{}",
            kind.slug
        );
        let ours = kind.status.is_server_error();
        assert!(ours || kind.status.is_client_error());
        let retry = kind.status == StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(kind.retry_after.is_some(), retry, "{}", kind.slug);
    }
}

#[tokio::test]
async fn the_answer_is_a_problem_document() {
    let error = IssueError::RevokedBefore(serial());
    let response = Problem::from(&error).into_response();
    assert_eq!(response.status(), 409);
    assert_eq!(response.headers()["content-type"], MEDIA_TYPE);
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(document["type"], "urn:hallmark:problem:revoked-before");
    assert_eq!(document["status"], 409);
    assert_eq!(document["serial"], serial().to_string());
    let retry = Problem::busy().into_response();
    assert_eq!(retry.headers()["retry-after"], "1");
    let unauthorised = Problem::from(&Refused::NoCertificate).into_response();
    assert!(unauthorised.headers().contains_key("www-authenticate"));
}

#[test]
fn a_chain_names_each_cause_once() {
    let token = HsmError::Deadline { token: "t".into() };
    let expected = format!("the token did not sign: {token}");
    assert_eq!(certstatus::chain(&IssueError::Token(token)), expected);
    let read = IssueError::Log(LogError::Read("r".into()));
    assert_eq!(certstatus::chain(&read), "reading the database failed: r");
}

#[tokio::test]
async fn a_crowd_is_told_when_to_come_back() {
    for (millis, seconds) in [
        (0, 1),
        (999, 1),
        (7200, 8),
        (3_600_000, RETRY_AFTER_SECONDS_MAX),
    ] {
        let retry_after = Duration::from_millis(millis);
        let problem = Problem::from(&IssueError::Crowded { retry_after });
        assert_eq!(problem.rule(), "busy");
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], seconds.to_string());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let document: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(document["retry_after_seconds"], seconds);
    }
}
