//! Health, readiness and metrics, on loopback for systemd and Prometheus.
//!
//! Owns what is told there, and the one judgement whether the appliance is ready, which `hallmark status` shows
//! too. Promises that ready means: a device certificate could be issued now by at least one issuer, and the
//! issuer of line certificates has been loaded and is not revoked, its token may be away. Never tells a name of a
//! device. Failure story: it answers as soon as the log is open, also while the log recovers or is halted, because
//! that is when it is asked.

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use certstatus::UnixMillis;
use serde::Serialize;
use tokio::net::TcpListener;

use super::listener::{self, Places, Stopping};
use super::metrics::{Counts, Exposition};
use super::{Api, unknown_method, unknown_path};
use crate::crl::{Board, CrlState};
use crate::hsm::{Hsm, TokenHealth};
use crate::issuance::{Issuance, IssuerHealth};
use crate::limits;
use crate::signing_log::{IssuerRole, LogState, LogStatus, SigningLog};

/// Connections: a scraper, a probe, and some operators.
const CONNECTIONS_MAX: u32 = 32;

/// What operations asks about; clones share it.
#[derive(Clone)]
pub struct Ops {
    api: Api,
    hsm: Hsm,
    crls: Board,
}

/// Whether the appliance is ready: the answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    /// Everything that stands in the way.
    reasons: Vec<String>,
}

impl Readiness {
    /// At this moment.
    pub(crate) fn of(log: &SigningLog, issuance: &Issuance, hsm: &Hsm) -> Self {
        judge(&log.status().state, &issuance.issuers(), &hsm.health())
    }
}

/// Requests and connections of the line API at this moment.
#[derive(Clone, Copy, Debug)]
struct Load {
    connections: usize,
    requests: usize,
}

impl Ops {
    /// Tells of this API, these tokens and these CRLs.
    #[must_use]
    pub const fn new(api: Api, hsm: Hsm, crls: Board) -> Self {
        Self { api, hsm, crls }
    }
}

/// Serves until it is time to stop.
pub async fn serve(listener: TcpListener, ops: Ops, mut stopping: Stopping) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .route("/metrics", get(metrics))
        .fallback(|uri: Uri| async move { unknown_path(&uri) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            unknown_method(&method, &uri)
        })
        .with_state(ops);
    let places = Places::new(CONNECTIONS_MAX);
    let next = || listener::accept_tcp(&listener);
    while let Some((stream, place)) = listener::accept(&places, &mut stopping, next).await {
        let (router, stopping) = (router.clone(), stopping.clone());
        tokio::spawn(async move {
            listener::converse(stream, router, (), limits::HEADER_DEADLINE, stopping).await;
            drop(place);
        });
    }
    places.drain().await;
}

/// `GET /readyz`.
async fn readiness(State(ops): State<Ops>) -> Response {
    let inner = &ops.api.inner;
    let told = Readiness::of(&inner.log, &inner.issuance, &ops.hsm);
    let status = if told.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(told)).into_response()
}

/// Whether devices get certificates now, and if not, every reason.
fn judge(state: &LogState, issuers: &[IssuerHealth], tokens: &[TokenHealth]) -> Readiness {
    let mut reasons = Vec::new();
    match state {
        LogState::Running => {}
        LogState::Recovering => reasons.push("the signing log is recovering".to_owned()),
        LogState::Halted { reason } => {
            reasons.push(format!("the signing log is halted: {reason}"));
        }
    }
    // Loaded is enough here: devices get certificates while the token of the lines' issuer is away. Not so when its
    // certificate is revoked: nobody vouches for lines then, and the log refuses what they ask for.
    let mut access = issuers
        .iter()
        .filter(|issuer| issuer.role == IssuerRole::Access && issuer.loaded)
        .peekable();
    if access.peek().is_none() {
        reasons.push("the issuer of line certificates is not loaded yet".to_owned());
    } else if access.all(|issuer| issuer.revoked.is_some()) {
        reasons.push("the certificate of the issuer of line certificates is revoked".to_owned());
    }
    let device = issuers
        .iter()
        .filter(|issuer| issuer.role == IssuerRole::Device);
    if !device
        .clone()
        .any(|issuer| issuer.usable && issuer.revoked.is_none())
    {
        reasons.push("no issuer of device certificates can issue now".to_owned());
        let revoked = device.filter(|issuer| issuer.revoked.is_some());
        reasons.extend(
            revoked.map(|issuer| format!("issuer {}: its certificate is revoked", issuer.issuer)),
        );
        reasons.extend(tokens.iter().filter(|token| !token.usable).map(|token| {
            let problem = token.problem.as_deref().unwrap_or("not usable");
            format!("token {}: {problem}", token.token)
        }));
    }
    Readiness {
        ready: reasons.is_empty(),
        reasons,
    }
}

/// `GET /metrics`.
async fn metrics(State(ops): State<Ops>) -> Response {
    let inner = &ops.api.inner;
    let load = Load {
        connections: ops.api.connections(),
        requests: inner.in_flight.taken(),
    };
    let text = exposition(
        &inner.metrics.counts(),
        &inner.log.status(),
        &ops.hsm.health(),
        &ops.crls.states(),
        load,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// All metrics as text.
fn exposition(
    counts: &Counts,
    log: &LogStatus,
    tokens: &[TokenHealth],
    crls: &[CrlState],
    load: Load,
) -> String {
    let mut text = Exposition::default();
    let name = "hallmark_certificates_total";
    text.metric(
        name,
        "counter",
        "Certificates that left, by order; repeated ones were issued before.",
    );
    for ((order, origin), count) in &counts.issued {
        text.value(name, &[("order", order), ("origin", origin)], count);
    }
    let name = "hallmark_refusals_total";
    text.metric(
        name,
        "counter",
        "Requests without a certificate in answer, by rule.",
    );
    for (rule, count) in &counts.refused {
        text.value(name, &[("rule", rule)], count);
    }
    let gauges = [
        (
            "hallmark_log_entries",
            "Entries that are durable.",
            log.size,
        ),
        (
            "hallmark_log_published_entries",
            "Entries that are published.",
            log.published,
        ),
        (
            "hallmark_log_open_intents",
            "Intents without an outcome.",
            log.open_intents,
        ),
        (
            "hallmark_log_newest_seconds",
            "Time of the newest entry.",
            log.newest.seconds(),
        ),
        (
            "hallmark_log_running",
            "1 when the log takes entries.",
            u64::from(log.state == LogState::Running),
        ),
    ];
    for (name, help, value) in gauges {
        text.metric(name, "gauge", help);
        text.value(name, &[], value);
    }
    expose_tokens(&mut text, tokens);
    expose_crls(&mut text, crls);
    expose_load(&mut text, load);
    text.into_text()
}

/// What the line API is busy with.
fn expose_load(text: &mut Exposition, load: Load) {
    text.metric(
        "hallmark_connections",
        "gauge",
        "Open connections of lines.",
    );
    text.value("hallmark_connections", &[], load.connections);
    text.metric(
        "hallmark_requests_in_flight",
        "gauge",
        "Single requests in work.",
    );
    text.value("hallmark_requests_in_flight", &[], load.requests);
}

/// The tokens' metrics.
fn expose_tokens(text: &mut Exposition, tokens: &[TokenHealth]) {
    let name = "hallmark_token_usable";
    text.metric(name, "gauge", "1 when the token can sign.");
    for token in tokens {
        text.value(name, &[("token", &token.token)], u8::from(token.usable));
    }
    let name = "hallmark_token_signatures_total";
    text.metric(name, "counter", "Signatures since the daemon started.");
    for token in tokens {
        text.value(name, &[("token", &token.token)], token.signatures);
    }
    let name = "hallmark_token_latency_microseconds";
    text.metric(name, "gauge", "Median of the last signatures.");
    for token in tokens {
        if let Some(latency) = token.latency_us {
            text.value(name, &[("token", &token.token)], latency);
        }
    }
}

/// The CRLs' metrics: one of each kind for the full CRL (partition 0) and every partition.
fn expose_crls(text: &mut Exposition, crls: &[CrlState]) {
    type Value = fn(&CrlState) -> Option<u64>;
    let gauges: [(&str, &str, Value); 4] = [
        (
            "hallmark_crl_this_update_seconds",
            "Time at which the published CRL was made.",
            |crl| crl.this_update.map(UnixMillis::seconds),
        ),
        (
            "hallmark_crl_next_update_seconds",
            "Time at which the published CRL ends; 0 when there is none.",
            |crl| Some(crl.next_update.map_or(0, UnixMillis::seconds)),
        ),
        (
            "hallmark_crl_number",
            "Number of the published CRL.",
            |crl| crl.number,
        ),
        (
            "hallmark_crl_failing",
            "1 while the CRL should be renewed and cannot be.",
            |crl| Some(u64::from(crl.problem.is_some())),
        ),
    ];
    for (name, help, value) in gauges {
        text.metric(name, "gauge", help);
        for crl in crls {
            let partition = crl.partition.to_string();
            let labels = [("issuer", crl.issuer.as_str()), ("partition", &partition)];
            if let Some(value) = value(crl) {
                text.value(name, &labels, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use certstatus::RevocationReason;
    use certstatus::log::LeafIndex;

    use super::*;
    use crate::signing_log::Revocation;

    /// A token.
    fn token(usable: bool) -> TokenHealth {
        TokenHealth {
            token: "main".into(),
            usable,
            problem: (!usable).then(|| "its host does not answer: start it".into()),
            signatures: 3,
            latency_us: Some(80),
        }
    }

    #[test]
    fn ready_needs_a_running_log_and_both_kinds_of_issuers() {
        let issuer = |role, loaded, usable| IssuerHealth {
            issuer: "i".parse().unwrap(),
            role,
            loaded,
            usable,
            revoked: None,
        };
        let (device, access) = (IssuerRole::Device, IssuerRole::Access);
        let revoked = |role| IssuerHealth {
            revoked: Some(Revocation {
                revoked_at: UnixMillis(5_000),
                reason: Some(RevocationReason::CertificateHold),
                entry: LeafIndex(7),
            }),
            ..issuer(role, true, true)
        };
        // A second issuer of either kind may be away.
        let both = [
            issuer(device, false, false),
            issuer(device, true, true),
            issuer(access, true, false),
        ];
        let halted = LogState::Halted {
            reason: "disk full".into(),
        };
        let rows = [
            (LogState::Running, both.to_vec(), 0),
            (LogState::Recovering, both.to_vec(), 1),
            (halted, both.to_vec(), 1),
            (LogState::Running, vec![issuer(device, true, true)], 1),
            (
                LogState::Running,
                vec![issuer(device, true, true), issuer(access, false, false)],
                1,
            ),
            (
                LogState::Running,
                vec![issuer(device, true, false), issuer(access, true, true)],
                2,
            ),
            (
                LogState::Running,
                vec![issuer(device, true, true), revoked(access)],
                1,
            ),
            (
                LogState::Running,
                vec![issuer(device, true, true), revoked(access), both[2].clone()],
                0,
            ),
            (
                LogState::Running,
                vec![revoked(device), issuer(access, true, true)],
                3,
            ),
            (LogState::Recovering, Vec::new(), 4),
        ];
        for (state, issuers, reasons) in rows {
            let told = judge(&state, &issuers, &[token(false)]);
            assert_eq!(
                told.reasons.len(),
                reasons,
                "{state:?} {issuers:?} {told:?}"
            );
            assert_eq!(told.ready, reasons == 0);
        }
    }

    #[test]
    fn metrics_are_prometheus_text() {
        let mut counts = Counts::default();
        counts.issued.insert(("demo".into(), "new"), 5);
        counts.refused.insert("csr-refused", 2);
        let log = LogStatus {
            state: LogState::Running,
            size: 12,
            published: 11,
            newest: UnixMillis(5_000),
            open_intents: 1,
        };
        let load = Load {
            connections: 4,
            requests: 2,
        };
        let crl = CrlState {
            issuer: "device-1".parse().unwrap(),
            partition: 3,
            number: Some(8),
            listed: None,
            this_update: Some(UnixMillis(9_000)),
            next_update: None,
            problem: Some("no token".into()),
        };
        let text = exposition(&counts, &log, &[token(true)], &[crl], load);
        for line in [
            "hallmark_certificates_total{order=\"demo\",origin=\"new\"} 5",
            "hallmark_refusals_total{rule=\"csr-refused\"} 2",
            "hallmark_log_entries 12",
            "hallmark_log_published_entries 11",
            "hallmark_log_open_intents 1",
            "hallmark_log_newest_seconds 5",
            "hallmark_log_running 1",
            "hallmark_token_usable{token=\"main\"} 1",
            "hallmark_token_signatures_total{token=\"main\"} 3",
            "hallmark_token_latency_microseconds{token=\"main\"} 80",
            "hallmark_crl_this_update_seconds{issuer=\"device-1\",partition=\"3\"} 9",
            "hallmark_crl_next_update_seconds{issuer=\"device-1\",partition=\"3\"} 0",
            "hallmark_crl_number{issuer=\"device-1\",partition=\"3\"} 8",
            "hallmark_crl_failing{issuer=\"device-1\",partition=\"3\"} 1",
            "hallmark_connections 4",
            "hallmark_requests_in_flight 2",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            assert!(
                text.contains(&format!("# TYPE {name} ")),
                "{name} has no type"
            );
        }
    }
}
