//! Lines: listed, added with a certificate, disabled and enabled.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::UnixMillis;
use certstatus::log::LeafIndex;
use certstatus::log::entry::Slug;
use serde::{Deserialize, Serialize};

use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::csr::Csr;
use crate::http::accept::Told;
use crate::http::lines::{Asker, certify};
use crate::http::problem::{Problem, kind};
use crate::ra::{Change, Grant, LineRecord, LineState, Party, Purpose};

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

/// A change's entry in the log.
#[derive(Debug, Serialize)]
pub(super) struct Logged {
    /// None where everything was so already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) entry: Option<LeafIndex>,
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
    let csr = Csr::parse(csr.as_bytes()).and_then(Csr::verify);
    let csr = csr.map_err(|refused| Problem::from(&refused))?;
    let log = &admin.inner.log;
    match log.registry().line(&line).map(|record| record.state) {
        Some(LineState::Enabled) => {}
        Some(LineState::Disabled) => {
            let detail = format!("the line {line} is disabled: enable it first");
            return Err(Problem::new(&kind::LINE_DISABLED, detail));
        }
        // It is added once it has a certificate, so that a failure leaves no line without one.
        None => {}
    }
    let grant = Grant::act(operator, Purpose::Line(line.clone()));
    let issuance = &admin.inner.issuance;
    let issued = certify(
        issuance,
        log,
        operator.to_string(),
        Party::Line(line.clone()),
        grant,
        csr,
        Asker::Operator,
    )
    .await?;
    Ok(Certified {
        line,
        certificate: Told::operator(&issued)?,
    })
}

/// `POST /v1/lines/{line}/disable`.
pub(super) async fn disable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(line): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &line, LineState::Disabled).await)
}

/// `POST /v1/lines/{line}/enable`.
pub(super) async fn enable(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(line): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &line, LineState::Enabled).await)
}

/// Sets a line's state.
async fn set(
    admin: &Admin,
    Acting(operator): &Acting,
    line: &str,
    state: LineState,
) -> Result<Logged, Problem> {
    let record = existing(admin, line)?;
    if record.state == state {
        return Ok(Logged { entry: None });
    }
    let line = record.line;
    let change = Change::LineSet { line, state };
    let logged = admin.inner.log.record_change(operator, change).await;
    let entry = logged.map_err(|error| Problem::from(&error))?;
    Ok(Logged { entry: Some(entry) })
}
