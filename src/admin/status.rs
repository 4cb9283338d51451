//! How the appliance is: log, tokens, issuers, and what it knows.

use axum::extract::State;
use axum::response::Response;
use certstatus::UnixMillis;
use serde::Serialize;

use super::{Admin, answer};
use crate::crl::CrlState;
use crate::hsm::TokenHealth;
use crate::http::ops::Readiness;
use crate::issuance::IssuerHealth;
use crate::profile::{Profile, ProfilePurpose};
use crate::ra::{OrderState, PartyState};
use crate::responders::RespondersCertificate;
use crate::signing_log::LogStatus;
use crate::witnesses::WitnessState;

/// Everything at a glance.
#[derive(Debug, Serialize)]
struct Status {
    version: &'static str,
    now: UnixMillis,
    /// `ready`, `reasons` and `warnings`, as `/readyz` says.
    #[serde(flatten)]
    readiness: Readiness,
    log: Log,
    tokens: Vec<TokenHealth>,
    issuers: Vec<IssuerHealth>,
    crls: Vec<CrlState>,
    responders: Vec<RespondersCertificate>,
    witnesses: Vec<WitnessState>,
    lines: Lines,
    orders: Orders,
}

/// The signing log.
#[derive(Debug, Serialize)]
struct Log {
    origin: String,
    verifier_key: String,
    #[serde(flatten)]
    status: LogStatus,
}

/// Lines by state.
#[derive(Debug, Serialize)]
struct Lines {
    enabled: usize,
    disabled: usize,
}

/// Orders by state.
#[derive(Debug, Serialize)]
struct Orders {
    open: usize,
    closed: usize,
}

/// `GET /v1/status`.
pub(super) async fn show(State(admin): State<Admin>) -> Response {
    let inner = &admin.inner;
    let (lines, orders) = (inner.log.registry().lines(), inner.log.registry().orders());
    let enabled = lines
        .iter()
        .filter(|line| line.state == PartyState::Enabled)
        .count();
    let open = orders
        .iter()
        .filter(|order| order.state == OrderState::Open)
        .count();
    let status = inner.log.status();
    answer(Ok(Status {
        version: env!("CARGO_PKG_VERSION"),
        now: inner.clock.now(),
        readiness: Readiness::of(&inner.log, &inner.issuance, &inner.hsm, &inner.boards),
        log: Log {
            origin: inner.log.origin().to_owned(),
            verifier_key: inner.log.verifier_key(),
            status,
        },
        tokens: inner.hsm.health(),
        issuers: inner.issuance.issuers(),
        crls: inner.boards.crls.states(),
        responders: inner.boards.responders.states(),
        witnesses: inner.boards.witnesses.states(),
        lines: Lines {
            enabled,
            disabled: lines.len() - enabled,
        },
        orders: Orders {
            open,
            closed: orders.len() - open,
        },
    }))
}

/// `GET /v1/profiles`: the names of the profiles that an order may have.
pub(super) async fn profiles(State(admin): State<Admin>) -> Response {
    let profiles = admin.inner.issuance.profiles();
    let device = profiles
        .values()
        .filter(|profile| profile.purpose() == ProfilePurpose::Device);
    answer(Ok(device.map(Profile::name).collect::<Vec<_>>()))
}
