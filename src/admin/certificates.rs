//! Certificates: listed, shown and revoked.

use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use certstatus::SerialNumber;
use certstatus::log::entry::Slug;
use serde::{Deserialize, Serialize};

use super::orders::existing;
use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::http::problem::{Problem, kind};
use crate::ra::{Change, LineState};
use crate::signing_log::{CertificateFilter, CertificateRecord, LogError, Revocation, SigningLog};

/// The most certificates that one list tells of.
const LIST_MAX: u32 = 1000;

/// The longest that the answer to a revocation waits for its publication.
const PUBLICATION_DEADLINE: Duration = Duration::from_secs(2);

/// What revokes a certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    reason: Reason,
}

/// Why a certificate is revoked (RFC 5280, 5.3.1), but for the two that end a hold or speak of attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    /// Code 0.
    Unspecified,
    /// Code 1.
    KeyCompromise,
    /// Code 3.
    AffiliationChanged,
    /// Code 4.
    Superseded,
    /// Code 5.
    CessationOfOperation,
    /// Code 9.
    PrivilegeWithdrawn,
}

impl Reason {
    /// The code.
    const fn code(self) -> u8 {
        match self {
            Self::Unspecified => 0,
            Self::KeyCompromise => 1,
            Self::AffiliationChanged => 3,
            Self::Superseded => 4,
            Self::CessationOfOperation => 5,
            Self::PrivilegeWithdrawn => 9,
        }
    }
}

/// `GET /v1/certificates`.
pub(super) async fn list(
    State(admin): State<Admin>,
    filter: Result<Query<CertificateFilter>, QueryRejection>,
) -> Response {
    answer(listed(&admin, filter).await)
}

/// The certificates that a filter lets through.
async fn listed(
    admin: &Admin,
    filter: Result<Query<CertificateFilter>, QueryRejection>,
) -> Result<Vec<CertificateRecord>, Problem> {
    let Query(filter) = filter.map_err(|error| query_refused(&error.body_text()))?;
    if filter
        .limit
        .is_some_and(|limit| !(1..=LIST_MAX).contains(&limit))
    {
        return Err(query_refused("limit is 1 to 1000"));
    }
    if let Some(order) = &filter.order {
        // An empty list would read as an order that has issued nothing yet.
        existing(admin, order.as_str())?;
    }
    let found = admin.inner.log.certificates(&filter).await;
    found.map_err(|error| Problem::from(&error))
}

/// The problem of a query.
fn query_refused(why: &str) -> Problem {
    Problem::new(
        &kind::QUERY_REFUSED,
        format!("the query is not understood: {why}"),
    )
}

/// `GET /v1/certificates/{serial}`.
pub(super) async fn show(State(admin): State<Admin>, Path(serial): Path<String>) -> Response {
    answer(shown(&admin, &serial).await)
}

/// One certificate.
async fn shown(admin: &Admin, serial: &str) -> Result<CertificateRecord, Problem> {
    let number: SerialNumber = read_path(serial, "certificate")?;
    let found = admin.inner.log.certificate(number).await;
    let found = found.map_err(|error| Problem::from(&error))?;
    found.ok_or_else(|| missing("certificate", serial))
}

/// `POST /v1/certificates/{serial}/revoke`.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(serial): Path<String>,
    request: Body,
) -> Response {
    answer(revoked(&admin, &operator, &serial, request).await)
}

/// What a revocation did.
#[derive(Debug, Serialize)]
struct Revoked {
    #[serde(flatten)]
    revocation: Revocation,
    #[serde(flatten)]
    withdrawn: Option<Withdrawn>,
}

/// A line whose key is in other hands: whoever has it could have renewed with it.
#[derive(Debug, Serialize)]
struct Withdrawn {
    line_disabled: Slug,
    /// Its other certificates, which authenticate no more.
    withdrawn: Vec<SerialNumber>,
}

/// Disables a line and ends what its certificates but this one authenticate.
async fn withdraw(
    log: &SigningLog,
    operator: &str,
    line: Slug,
    serial: SerialNumber,
) -> Result<Withdrawn, LogError> {
    // First, so that no renewal that is in work is admitted after the others are listed.
    if log.registry().line_state(&line) != Some(LineState::Disabled) {
        let change = Change::LineSet {
            line: line.clone(),
            state: LineState::Disabled,
        };
        log.record_change(operator, change).await?;
    }
    let record = log.registry().line(&line);
    let certificates = record.map(|record| record.certificates).unwrap_or_default();
    let mut withdrawn = Vec::new();
    for certificate in certificates.iter().filter(|c| c.serial != serial) {
        let change = Change::LineDecertified {
            line: line.clone(),
            serial: certificate.serial,
        };
        log.record_change(operator, change).await?;
        withdrawn.push(certificate.serial);
    }
    Ok(Withdrawn {
        line_disabled: line,
        withdrawn,
    })
}

/// Revokes a certificate; a line's own stops authenticating it first.
async fn revoked(
    admin: &Admin,
    Acting(operator): &Acting,
    serial: &str,
    request: Body,
) -> Result<Revoked, Problem> {
    let Revoke { reason } = read_json(request).await?;
    let serial: SerialNumber = read_path(serial, "certificate")?;
    let log = &admin.inner.log;
    let mut withdrawn = None;
    if let Some(line) = log.registry().line_of(serial) {
        // First, so that a failure between the steps leaves the safer part; a retry does the rest.
        if reason == Reason::KeyCompromise {
            let done = withdraw(log, operator, line.clone(), serial).await;
            withdrawn = Some(done.map_err(|error| Problem::from(&error))?);
        }
        let change = Change::LineDecertified { line, serial };
        let logged = log.record_change(operator, change).await;
        logged.map_err(|error| Problem::from(&error))?;
    }
    let revoked = log.record_revoked(operator, serial, reason.code()).await;
    let revoked = revoked.map_err(|error| Problem::from(&error))?;
    // Readers see it before the operator does. Where publishing fails or takes long it goes on by itself,
    // and the revocation stands all the same.
    let _published = tokio::time::timeout(PUBLICATION_DEADLINE, log.publish()).await;
    Ok(Revoked {
        revocation: revoked,
        withdrawn,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_have_the_codes_of_rfc_5280() {
        let rows = [
            ("unspecified", 0),
            ("key-compromise", 1),
            ("affiliation-changed", 3),
            ("superseded", 4),
            ("cessation-of-operation", 5),
            ("privilege-withdrawn", 9),
        ];
        for (name, code) in rows {
            let body = format!("{{\"reason\":\"{name}\"}}");
            let parsed: Revoke = serde_json::from_str(&body).unwrap();
            assert_eq!(parsed.reason.code(), code);
        }
        for refused in ["{}", "{\"reason\":\"remove-from-crl\"}", "{\"reason\":1}"] {
            assert!(serde_json::from_str::<Revoke>(refused).is_err());
        }
    }
}
