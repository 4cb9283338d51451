//! Production orders: listed, opened, closed and opened again; units that are held, given back.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use certstatus::UnixMillis;
use certstatus::log::LeafIndex;
use certstatus::log::entry::Slug;
use der::Decode as _;
use serde::{Deserialize, Serialize};
use x509_cert::Certificate;

use super::parties::{self, Logged};
use super::{Acting, Admin, answer, missing, read_json, read_json_if_any, read_path};
use crate::http::problem::Problem;
use crate::profile::{Profile, ProfilePurpose};
use crate::ra::{Change, ChangeRefused, Order, OrderState, OrderTerms};
use crate::signing_log::{IssuerRecord, IssuerRole, LogError};

/// What an approval is for.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Approval {
    /// How many units to give back; all that are held where it is not said.
    units: Option<u64>,
}

/// What an approval did.
#[derive(Debug, Serialize)]
struct Approved {
    /// Units given back.
    returned: u64,
    /// Its entry in the log; none where no unit was held.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<LeafIndex>,
    /// The order as it stands now.
    order: Order,
}

/// `GET /v1/orders`.
pub(super) async fn list(State(admin): State<Admin>) -> Response {
    answer(Ok(admin.inner.log.registry().orders()))
}

/// `GET /v1/orders/{order}`.
pub(super) async fn show(State(admin): State<Admin>, Path(order): Path<String>) -> Response {
    answer(existing(&admin, &order))
}

/// The order of that name.
pub(super) fn existing(admin: &Admin, order: &str) -> Result<Order, Problem> {
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
    let profile = device_profile(admin.inner.issuance.profiles(), &terms.profile)?;
    let issuers = log.issuers().await.map_err(|error| Problem::from(&error))?;
    let issuer = device_issuer(&issuers, terms.issuer.as_str())?;
    // The order's first certificate is the one that ends first.
    let first = admin.inner.clock.now().max(terms.from);
    let issuer_end = ends(&issuer.certificate).map_err(|error| Problem::internal(&error))?;
    if let Some(end) = profile.outlives(issuer_end, first) {
        let problem = format!(
            "its certificates would be valid until {end}, but the issuer {} only until {issuer_end}: \
             use an issuer that is valid longer, or a profile with a shorter validity",
            issuer.name
        );
        return Err(refused("profile", problem));
    }
    let name = terms.order.clone();
    let change = Change::OrderOpened { terms };
    let logged = log.record_change(operator, change).await;
    logged.map_err(|error| Problem::from(&error))?;
    let order = log.registry().order(&name);
    order.ok_or_else(|| missing("order", name.as_str()))
}

/// The profile of that name, where orders can use it.
fn device_profile<'a>(
    profiles: &'a BTreeMap<String, Profile>,
    name: &str,
) -> Result<&'a Profile, Problem> {
    let usable: Vec<_> = profiles
        .values()
        .filter(|profile| profile.purpose() == ProfilePurpose::Device)
        .map(Profile::name)
        .collect();
    match profiles.get(name) {
        Some(profile) if profile.purpose() == ProfilePurpose::Device => Ok(profile),
        Some(_) => Err(not_of_devices("profile", name, &usable)),
        None => Err(unknown("profile", &usable)),
    }
}

/// The issuer of that name, where it issues to devices.
fn device_issuer<'a>(issuers: &'a [IssuerRecord], name: &str) -> Result<&'a IssuerRecord, Problem> {
    let usable: Vec<_> = issuers
        .iter()
        .filter(|issuer| issuer.role == IssuerRole::Device)
        .map(|issuer| issuer.name.as_str())
        .collect();
    match issuers.iter().find(|issuer| issuer.name.as_str() == name) {
        Some(issuer) if issuer.role == IssuerRole::Device => Ok(issuer),
        Some(_) => Err(not_of_devices("issuer", name, &usable)),
        None => Err(unknown("issuer", &usable)),
    }
}

/// When an issuer's certificate ends.
fn ends(certificate: &[u8]) -> Result<UnixMillis, der::Error> {
    let certificate = Certificate::from_der(certificate)?;
    let end = certificate.tbs_certificate().validity().not_after;
    Ok(UnixMillis::from_seconds(end.to_unix_duration().as_secs()))
}

/// The problem of a profile or issuer that does not exist.
fn unknown(key: &'static str, usable: &[&str]) -> Problem {
    let usable = usable.join(", ");
    refused(
        key,
        format!("there is none of that name; there is {usable}"),
    )
}

/// The problem of a profile or issuer that exists for something else.
fn not_of_devices(key: &'static str, name: &str, usable: &[&str]) -> Problem {
    let usable = usable.join(", ");
    refused(
        key,
        format!("{name} exists but is no device {key}; there is {usable}"),
    )
}

/// The problem of a value.
fn refused(key: &'static str, problem: String) -> Problem {
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
    let standing = existing(admin, order)?;
    if standing.state == state {
        return Ok(Logged { entry: None });
    }
    let order = standing.terms.order;
    let change = Change::OrderSet { order, state };
    parties::record(admin, operator, change).await
}

/// `POST /v1/orders/{order}/approve`.
pub(super) async fn approve(
    State(admin): State<Admin>,
    Extension(operator): Extension<Acting>,
    Path(order): Path<String>,
    request: Body,
) -> Response {
    answer(approved(&admin, &operator, &order, request).await)
}

/// Gives units back that unresolved intents hold: so many, or all.
async fn approved(
    admin: &Admin,
    Acting(operator): &Acting,
    order: &str,
    request: Body,
) -> Result<Approved, Problem> {
    let Approval { units } = read_json_if_any(request).await?;
    let log = &admin.inner.log;
    loop {
        let standing = existing(admin, order)?;
        let returned = units.unwrap_or(standing.held);
        if units.is_none() && returned == 0 {
            // Nothing is held is what was asked for: whoever asks twice, their answer lost, is not refused.
            return Ok(Approved {
                returned,
                entry: None,
                order: standing,
            });
        }
        let change = Change::UnitsReturned {
            order: standing.terms.order,
            units: returned,
        };
        match log.record_change(operator, change).await {
            Ok(entry) => {
                return Ok(Approved {
                    returned,
                    entry: Some(entry),
                    order: existing(admin, order)?,
                });
            }
            // Another approval came between: all that are held are fewer now. It ends, since each round but the
            // last is one in which somebody else gave units back.
            Err(LogError::Change(_)) if units.is_none() => {}
            Err(error) => return Err(Problem::from(&error)),
        }
    }
}
