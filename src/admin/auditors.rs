//! Auditors: listed, added with a certificate, disabled and enabled.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::UnixMillis;
use certstatus::log::entry::Slug;
use serde::{Deserialize, Serialize};

use super::lines::Logged;
use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::csr::{Csr, VerifiedCsr};
use crate::http::accept::Told;
use crate::http::lines::{Asker, certify};
use crate::http::problem::{Problem, kind};
use crate::ra::{Change, Grant, LineState, Party, Purpose, Reader, ReaderRecord, Role};

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

/// Gives a reader a certificate to read with.
///
/// # Errors
/// [`Problem`], for the operator; a retry gives another certificate.
pub(super) async fn give(
    admin: &Admin,
    operator: &str,
    reader: &Reader,
    csr: VerifiedCsr,
) -> Result<Told<UnixMillis>, Problem> {
    let (issuance, log) = (&admin.inner.issuance, &admin.inner.log);
    let grant = Grant::act(operator, Purpose::Reader(reader.clone()));
    let (operator, party) = (operator.to_owned(), Party::Reader(reader.clone()));
    let asker = Asker::Operator;
    let issued = certify(issuance, log, operator, party, grant, csr, asker).await?;
    Told::operator(&issued)
}

/// Reads a certificate request.
///
/// # Errors
/// [`Problem`]: the operator's request is at fault.
pub(super) fn request(csr: &str) -> Result<VerifiedCsr, Problem> {
    let csr = Csr::parse(csr.as_bytes()).and_then(Csr::verify);
    csr.map_err(|refused| Problem::from(&refused))
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
    if known.is_some_and(|record| record.state == LineState::Disabled) {
        let detail = format!("the {reader} is disabled: enable it first");
        return Err(Problem::new(&kind::READER_DISABLED, detail));
    }
    let certificate = give(admin, operator, &reader, csr).await?;
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
    answer(set(&admin, &operator, &name, LineState::Disabled).await)
}

/// `POST /v1/auditors/{auditor}/enable`.
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(name): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &name, LineState::Enabled).await)
}

/// Sets an auditor's state.
async fn set(
    admin: &Admin,
    Acting(operator): &Acting,
    name: &str,
    state: LineState,
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
    let change = Change::ReaderSet { reader, state };
    let logged = log.record_change(operator, change).await;
    let entry = logged.map_err(|error| Problem::from(&error))?;
    Ok(Logged { entry: Some(entry) })
}
