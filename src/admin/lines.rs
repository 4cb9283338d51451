//! Lines: listed, added with a certificate, disabled and enabled.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::UnixMillis;
use certstatus::log::entry::Slug;
use serde::{Deserialize, Serialize};

use super::parties::{Logged, give};
use super::{Acting, Admin, answer, missing, parties, read_json, read_path};
use crate::http::accept::Told;
use crate::http::problem::{Problem, kind};
use crate::ra::{Change, LineRecord, Party, PartyState};

/// What adds a line, or gives one a further certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct NewLine {
    line: Slug,
    /// PEM or base64.
    csr: String,
}

/// A line with the certificate that it was given.
#[derive(Debug, Serialize)]
struct Certified {
    line: Slug,
    #[serde(flatten)]
    certificate: Told<UnixMillis>,
}

/// `GET /v1/lines`.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    answer(Ok(admin.inner.log.registry().lines()))
}

/// `GET /v1/lines/{line}`.
pub(super) async fn show(State(admin): State<Admin>, Path(line): Path<String>) -> Response {
    answer(existing(&admin, &line))
}

/// The line of that name.
fn existing(admin: &Admin, line: &str) -> Result<LineRecord, Problem> {
    let name: Slug = read_path(line, "line")?;
    let found = admin.inner.log.registry().line(&name);
    found.ok_or_else(|| missing("line", line))
}

/// `POST /v1/lines`.
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

/// Adds a line where there is none, and gives it a certificate.
async fn certified(
    admin: &Admin,
    Acting(operator): &Acting,
    request: Body,
) -> Result<Certified, Problem> {
    let NewLine { line, csr } = read_json(request).await?;
    let csr = parties::request(&csr)?;
    let known = admin.inner.log.registry().line(&line);
    match known.map(|record| record.state) {
        Some(PartyState::Enabled) => {}
        Some(PartyState::Disabled) => {
            let detail = format!("the line {line} is disabled: enable it first");
            return Err(Problem::new(&kind::LINE_DISABLED, detail));
        }
        // It is added once it has a certificate, so that a failure leaves no line without one.
        None => {}
    }
    let certificate = give(admin, operator, Party::Line(line.clone()), csr).await?;
    Ok(Certified { line, certificate })
}

/// `POST /v1/lines/{line}/disable`.
pub(super) async fn disable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(line): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &line, PartyState::Disabled).await)
}

/// `POST /v1/lines/{line}/enable`.
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(line): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &line, PartyState::Enabled).await)
}

/// Sets a line's state.
async fn set(
    admin: &Admin,
    Acting(operator): &Acting,
    line: &str,
    state: PartyState,
) -> Result<Logged, Problem> {
    let record = existing(admin, line)?;
    if record.state == state {
        return Ok(Logged { entry: None });
    }
    let line = record.line;
    parties::record(admin, operator, Change::LineSet { line, state }).await
}
