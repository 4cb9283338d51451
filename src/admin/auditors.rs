//! Auditors: listed, added with a certificate, disabled and enabled.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::UnixMillis;
use certstatus::log::entry::Slug;
use serde::{Deserialize, Serialize};

use super::parties::{Logged, give, record, request};
use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::http::accept::Told;
use crate::http::problem::{Problem, kind};
use crate::ra::{Change, Party, PartyState, Reader, ReaderRecord, Role};

/// What adds an auditor, or gives one a further certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewAuditor {
    auditor: Slug,
    /// PEM or base64.
    csr: String,
}

/// An auditor with the certificate that it was given.
#[derive(Debug, Serialize)]
struct Certified {
    auditor: Slug,
    #[serde(flatten)]
    certificate: Told<UnixMillis>,
}

/// An auditor of that name.
const fn auditor(name: Slug) -> Reader {
    let role = Role::Auditor;
    Reader { role, name }
}

/// `GET /v1/auditors`.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    let mut readers = admin.inner.log.registry().readers();
    readers.retain(|record| record.reader.role == Role::Auditor);
    answer(Ok(readers))
}

/// `POST /v1/auditors`.
pub(super) async fn add(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    request: Body,
) -> Response {
    match certified(&admin, &operator, request).await {
        Ok(certified) => (StatusCode::CREATED, axum::Json(certified)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Gives an auditor a certificate: one that is not known is from then on.
async fn certified(
    admin: &Admin,
    Acting(operator): &Acting,
    body: Body,
) -> Result<Certified, Problem> {
    let NewAuditor { auditor: name, csr } = read_json(body).await?;
    let csr = request(&csr)?;
    let reader = auditor(name);
    let known = admin.inner.log.registry().reader(&reader);
    if known.is_some_and(|record| record.state == PartyState::Disabled) {
        let detail = format!("the {reader} is disabled: enable it first");
        return Err(Problem::new(&kind::READER_DISABLED, detail));
    }
    let party = Party::Reader(reader.clone());
    let certificate = give(admin, operator, party, csr).await?;
    Ok(Certified {
        auditor: reader.name,
        certificate,
    })
}

/// `POST /v1/auditors/{auditor}/disable`.
pub(super) async fn disable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(name): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &name, PartyState::Disabled).await)
}

/// `POST /v1/auditors/{auditor}/enable`.
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(name): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &name, PartyState::Enabled).await)
}

/// Sets an auditor's state.
async fn set(
    admin: &Admin,
    Acting(operator): &Acting,
    name: &str,
    state: PartyState,
) -> Result<Logged, Problem> {
    let log = &admin.inner.log;
    let found = log.registry().reader(&auditor(read_path(name, "auditor")?));
    let ReaderRecord {
        reader,
        state: stands,
        ..
    } = found.ok_or_else(|| missing("auditor", name))?;
    if stands == state {
        return Ok(Logged { entry: None });
    }
    record(admin, operator, Change::ReaderSet { reader, state }).await
}
