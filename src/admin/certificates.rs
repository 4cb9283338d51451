//! Certificates: listed, shown, selected, revoked and released.

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, State};
use axum::response::Response;
use certstatus::log::IssuerName;
use certstatus::{RevocationReason, SerialNumber};
use serde::{Deserialize, Serialize};

use super::orders::existing;
use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::http::problem::{Problem, kind};
use crate::revocation::{
    AuthorityRefused, Done, RevokeError, Uncertified, Visible, Wish, Withdrawn,
};
use crate::signing_log::{
    CertificateFilter, CertificateRecord, CertificateState, LogError, Revocation, Selection,
};

/// The most certificates that one list tells of.
const LIST_MAX: u32 = 1000;

/// What revokes a certificate, or puts it on hold.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revoke {
    reason: RevocationReason,
    comment: Option<String>,
}

/// What releases a certificate.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Release {
    comment: Option<String>,
}

/// What revokes, holds or (`remove-from-crl`) releases several certificates.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeMany {
    serials: Vec<SerialNumber>,
    reason: RevocationReason,
    comment: Option<String>,
    selection: Option<String>,
}

/// A question for one page of a selection.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Select {
    selection: Selection,
    /// Of the log's first so many entries; all, where absent.
    entries: Option<u64>,
    /// After this intent.
    after: Option<u64>,
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
    if let Some(issuer) = &filter.issuer {
        known_issuer(admin, issuer).await?;
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
    let number = named(serial)?;
    let found = admin.inner.log.certificate(number).await;
    let found = found.map_err(|error| Problem::from(&error))?;
    found.ok_or_else(|| missing("certificate", serial))
}

/// A serial in a path, in any form that tools write.
fn named(serial: &str) -> Result<SerialNumber, Problem> {
    // What cannot be a serial names nothing.
    SerialNumber::from_tool(serial).map_err(|_| missing("certificate", serial))
}

/// `POST /v1/certificates/{serial}/revoke`.
pub(super) async fn revoke(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(serial): Path<String>,
    request: Body,
) -> Response {
    let outcome = async {
        let Revoke { reason, comment } = read_json(request).await?;
        one(&admin, &operator, &serial, revoking(reason)?, comment).await
    };
    answer(outcome.await)
}

/// `POST /v1/certificates/{serial}/release`.
pub(super) async fn release(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(serial): Path<String>,
    request: Body,
) -> Response {
    let outcome = async {
        let Release { comment } = read_json(request).await?;
        let release = RevocationReason::RemoveFromCrl;
        one(&admin, &operator, &serial, release, comment).await
    };
    answer(outcome.await)
}

/// `POST /v1/issuers/{issuer}/revoke`: the certificate of an issuer, by its parent; `remove-from-crl` releases.
pub(super) async fn revoke_issuer(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(issuer): Path<String>,
    request: Body,
) -> Response {
    let outcome = async {
        let Revoke { reason, comment } = read_json(request).await?;
        let name: IssuerName = read_path(&issuer, "issuer")?;
        let wish = wish(Vec::new(), reason, comment);
        let revocations = &admin.inner.revocations;
        let done = revocations.revoke_issuer(&operator.0, &name, &wish).await;
        only(done.map_err(|error| problem(&error))?)
    };
    answer(outcome.await)
}

/// `POST /v1/revocations`: up to 256 certificates by their serials, in one transaction.
pub(super) async fn revoke_many(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    request: Body,
) -> Response {
    let outcome = async {
        let many: RevokeMany = read_json(request).await?;
        let mut wish = wish(many.serials, many.reason, many.comment);
        wish.selection = many.selection;
        let done = admin.inner.revocations.revoke(&operator.0, &wish).await;
        done.map_err(|error| problem(&error))
    };
    answer(outcome.await)
}

/// `POST /v1/revocations/selection`: one page of the certificates that fulfil criteria. Changes nothing.
pub(super) async fn select(State(admin): State<Admin>, request: Body) -> Response {
    let outcome = async {
        let Select {
            selection,
            entries,
            after,
        } = read_json(request).await?;
        known(&admin, &selection).await?;
        let page = admin.inner.log.select(&selection, entries, after).await;
        page.map_err(|error| Problem::from(&error))
    };
    answer(outcome.await)
}

/// Judges the names in a selection: an empty one would read as an order, line or issuer that has nothing.
async fn known(admin: &Admin, selection: &Selection) -> Result<(), Problem> {
    if let Some(order) = &selection.order {
        existing(admin, order.as_str())?;
    }
    if let Some(line) = &selection.line
        && admin.inner.log.registry().line_state(line).is_none()
    {
        return Err(missing("line", line.as_str()));
    }
    match &selection.issuer {
        Some(issuer) => known_issuer(admin, issuer).await,
        None => Ok(()),
    }
}

/// Judges an issuer's name.
async fn known_issuer(admin: &Admin, issuer: &IssuerName) -> Result<(), Problem> {
    let issuers = admin.inner.log.issuers().await;
    let issuers = issuers.map_err(|error| Problem::from(&error))?;
    if issuers.iter().any(|known| known.name == *issuer) {
        return Ok(());
    }
    Err(missing("issuer", issuer.as_str()))
}

/// What a revocation of one certificate did.
#[derive(Debug, Serialize)]
struct Revoked {
    serial: SerialNumber,
    /// How it stands now, as a list of certificates has it.
    status: CertificateState,
    #[serde(flatten)]
    revocation: Revocation,
    /// Whether it stood otherwise before.
    changed: bool,
    #[serde(flatten)]
    withdrawn: Option<Withdrawn>,
    /// Itself, where it is released and authenticates no line.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uncertified: Vec<Uncertified>,
    visible: Visible,
}

/// A reason that revokes; a release is another request.
fn revoking(reason: RevocationReason) -> Result<RevocationReason, Problem> {
    if reason == RevocationReason::RemoveFromCrl {
        let detail =
            "the reason remove-from-crl releases: ask for the release of the certificate instead";
        return Err(Problem::new(&kind::VALUE_REFUSED, detail));
    }
    Ok(reason)
}

/// An operator's wish.
const fn wish(
    serials: Vec<SerialNumber>,
    reason: RevocationReason,
    comment: Option<String>,
) -> Wish {
    Wish {
        serials,
        reason,
        comment,
        selection: None,
    }
}

/// Revokes or releases one certificate.
async fn one(
    admin: &Admin,
    Acting(operator): &Acting,
    serial: &str,
    reason: RevocationReason,
    comment: Option<String>,
) -> Result<Revoked, Problem> {
    let serial = named(serial)?;
    let wish = wish(vec![serial], reason, comment);
    let done = admin.inner.revocations.revoke(operator, &wish).await;
    only(done.map_err(|error| problem(&error))?)
}

/// The answer about one certificate.
fn only(done: Done) -> Result<Revoked, Problem> {
    let Done {
        refused,
        mut lines,
        uncertified,
        visible,
        mut standings,
        ..
    } = done;
    if let Some(refused) = refused.first() {
        return Err(Problem::from(&refused.cause));
    }
    let gone = || LogError::Damaged("a revocation has no answer".to_owned());
    let standing = standings.pop().ok_or_else(|| Problem::from(&gone()))?;
    Ok(Revoked {
        serial: standing.serial,
        status: standing.revocation.status(),
        revocation: standing.revocation,
        changed: standing.changed,
        withdrawn: lines.pop(),
        uncertified,
        visible,
    })
}

/// The problem of a revocation.
fn problem(error: &RevokeError) -> Problem {
    match error {
        RevokeError::Log(error) => Problem::from(error),
        RevokeError::Authority(refused) => {
            let kind = match refused {
                AuthorityRefused::Missing(_) => &kind::MISSING,
                AuthorityRefused::Root(_)
                | AuthorityRefused::ParentElsewhere { .. }
                | AuthorityRefused::Among(_) => &kind::AUTHORITY,
            };
            Problem::new(kind, refused.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_a_serial_as_tools_write_it() {
        let hex = "4B1F00C5D2A94E7F8A6D03B1C7E95F20";
        let read = named(&format!("serial={hex}")).map_err(|_| ()).unwrap();
        assert_eq!(read.to_string(), hex.to_lowercase());
        assert!(named("none").is_err());
    }

    #[test]
    fn a_revocation_has_a_reason_that_revokes() {
        for reason in RevocationReason::ALL {
            let body = format!("{{\"reason\":\"{reason}\"}}");
            let parsed: Revoke = serde_json::from_str(&body).unwrap();
            let release = reason == RevocationReason::RemoveFromCrl;
            assert_eq!(revoking(parsed.reason).is_err(), release, "{reason}");
        }
        for refused in ["{}", "{\"reason\":\"bored\"}", "{\"reason\":1}"] {
            assert!(serde_json::from_str::<Revoke>(refused).is_err());
        }
    }
}
