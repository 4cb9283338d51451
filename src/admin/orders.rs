//! Production orders: listed, opened, closed and opened again.

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::log::entry::Slug;

use super::lines::Logged;
use super::{Acting, Admin, answer, missing, read_json, read_path};
use crate::http::problem::Problem;
use crate::ra::{Change, ChangeRefused, Order, OrderState, OrderTerms};
use crate::signing_log::IssuerRole;

/// `GET /v1/orders`.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    answer(Ok(admin.inner.log.registry().orders()))
}

/// `GET /v1/orders/{order}`.
pub(super) async fn show(State(admin): State<Admin>, Path(order): Path<String>) -> Response {
    answer(existing(&admin, &order))
}

/// The order of that name.
fn existing(admin: &Admin, order: &str) -> Result<Order, Problem> {
    let name: Slug = read_path(order, "order")?;
    let found = admin.inner.log.registry().order(&name);
    found.ok_or_else(|| missing("order", order))
}

/// `POST /v1/orders`.
pub(super) async fn open(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    request: Body,
) -> Response {
    match opened(&admin, &operator, request).await {
        Ok(order) => (StatusCode::CREATED, axum::Json(order)).into_response(),
        Err(problem) => problem.into_response(),
    }
}

/// Opens an order whose profile and issuer exist.
async fn opened(admin: &Admin, Acting(operator): &Acting, request: Body) -> Result<Order, Problem> {
    let terms: OrderTerms = read_json(request).await?;
    let log = &admin.inner.log;
    let profiles = admin.inner.issuance.profiles();
    if !profiles.contains_key(&terms.profile) {
        let known: Vec<_> = profiles.keys().map(String::as_str).collect();
        return Err(unknown("profile", &known));
    }
    let issuers = log.issuers().await.map_err(|error| Problem::from(&error))?;
    let device: Vec<_> = issuers
        .iter()
        .filter(|issuer| issuer.role == IssuerRole::Device)
        .map(|issuer| issuer.name.as_str())
        .collect();
    if !device.contains(&terms.issuer.as_str()) {
        return Err(unknown("issuer", &device));
    }
    let name = terms.order.clone();
    let change = Change::OrderOpened { terms };
    let logged = log.record_change(operator, change).await;
    logged.map_err(|error| Problem::from(&error))?;
    let order = log.registry().order(&name);
    order.ok_or_else(|| missing("order", name.as_str()))
}

/// The problem of a profile or issuer that does not exist.
fn unknown(key: &'static str, known: &[&str]) -> Problem {
    let problem = format!("there is none of that name; there is {}", known.join(", "));
    Problem::from(&ChangeRefused::Value { key, problem })
}

/// `POST /v1/orders/{order}/close`.
pub(super) async fn close(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(order): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &order, OrderState::Closed).await)
}

/// `POST /v1/orders/{order}/reopen`.
pub(super) async fn reopen(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(order): Path<String>,
) -> Response {
    answer(set(&admin, &operator, &order, OrderState::Open).await)
}

/// Sets an order's state.
async fn set(
    admin: &Admin,
    Acting(operator): &Acting,
    order: &str,
    state: OrderState,
) -> Result<Logged, Problem> {
    let order = existing(admin, order)?.terms.order;
    let change = Change::OrderSet { order, state };
    let logged = admin.inner.log.record_change(operator, change).await;
    let entry = logged.map_err(|error| Problem::from(&error))?;
    Ok(Logged { entry })
}
