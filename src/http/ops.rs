//! Health, readiness and metrics, on loopback for systemd and Prometheus.
//!
//! Owns what is told there, and the one judgement whether the appliance is ready, which `hallmark status` shows
//! too; what is wrong with CRLs, responders' certificates and witnesses is a warning beside it. Promises that ready means: a device certificate could be issued now by at least one issuer, and the
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
use crate::crl::{self, CrlState};
use crate::hsm::{Hsm, TokenHealth};
use crate::issuance::{Issuance, IssuerHealth};
use crate::limits;
use crate::responders::{self, RespondersCertificate};
use crate::signing_log::{IssuerRole, LogState, LogStatus, SigningLog};
use crate::witnesses::{self, Said, WitnessState};

/// Connections: a scraper, a probe, and some operators.
const CONNECTIONS_MAX: u32 = 32;

/// What operations asks about; clones share it.
#[derive(Clone)]
pub struct Ops {
    api: Api,
    hsm: Hsm,
    boards: Boards,
}

/// What is known of everything that somebody keeps beside issuing; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Boards {
    /// CRLs.
    pub crls: crl::Board,
    /// The certificates of OCSP responders.
    pub responders: responders::Board,
    /// What the witnesses said at this start.
    pub witnesses: witnesses::Board,
}

/// Whether the appliance is ready: the answer of `/readyz`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    ready: bool,
    /// Everything that stands in the way.
    reasons: Vec<String>,
    /// What keeps no device waiting and needs somebody all the same.
    warnings: Vec<String>,
}

impl Readiness {
    /// At this moment.
    pub(crate) fn of(log: &SigningLog, issuance: &Issuance, hsm: &Hsm, boards: &Boards) -> Self {
        let reasons = reasons(&log.status().state, &issuance.issuers(), &hsm.health());
        Self {
            ready: reasons.is_empty(),
            reasons,
            warnings: warnings(&boards.snapshot()),
        }
    }
}

/// Requests and connections of the line API at this moment.
#[derive(Clone, Copy, Debug)]
struct Load {
    connections: usize,
    requests: usize,
}

/// What stands on the boards at one moment.
#[derive(Debug, Default)]
struct Kept {
    crls: Vec<CrlState>,
    responders: Vec<RespondersCertificate>,
    witnesses: Vec<WitnessState>,
}

impl Boards {
    /// Everything that stands on them.
    fn snapshot(&self) -> Kept {
        Kept {
            crls: self.crls.states(),
            responders: self.responders.states(),
            witnesses: self.witnesses.states(),
        }
    }
}

impl Ops {
    /// Tells of this API, these tokens and what stands on these boards.
    #[must_use]
    pub const fn new(api: Api, hsm: Hsm, boards: Boards) -> Self {
        Self { api, hsm, boards }
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
    let told = Readiness::of(&inner.log, &inner.issuance, &ops.hsm, &ops.boards);
    let status = if told.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(told)).into_response()
}

/// Every reason why devices get no certificates now; none when they do.
fn reasons(state: &LogState, issuers: &[IssuerHealth], tokens: &[TokenHealth]) -> Vec<String> {
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
    reasons
}

/// What is not as it should be with what is kept for relying parties and witnesses.
fn warnings(kept: &Kept) -> Vec<String> {
    let crls = kept.crls.iter().filter_map(|crl| {
        let problem = crl.problem.as_deref()?;
        Some(match crl.partition {
            0 => format!("CRL of {}: {problem}", crl.issuer),
            partition => format!("CRL of {}, partition {partition}: {problem}", crl.issuer),
        })
    });
    let responders = kept.responders.iter().filter_map(|certificate| {
        let problem = certificate.state.problem.as_deref()?;
        let (responder, issuer) = (&certificate.responder, &certificate.state.issuer);
        Some(format!(
            "certificate of responder {responder} by {issuer}: {problem}"
        ))
    });
    let witnesses = kept.witnesses.iter().filter_map(|witness| {
        let problem = match &witness.said {
            Said::Agrees { .. } => return None,
            Said::Unheard { problem } => problem.as_str(),
            Said::Newer { .. } => "it has seen more entries than this store had at the start",
            Said::Forked { .. } => "it has seen another history than this store's",
        };
        Some(format!("witness {}: {problem}", witness.witness))
    });
    crls.chain(responders).chain(witnesses).collect()
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
        &ops.boards.snapshot(),
        load,
    );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

/// All metrics as text.
fn exposition(
    counts: &Counts,
    log: &LogStatus,
    tokens: &[TokenHealth],
    kept: &Kept,
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
    expose_crls(&mut text, &kept.crls);
    expose_responders(&mut text, &kept.responders);
    expose_witnesses(&mut text, &kept.witnesses);
    expose_load(&mut text, load);
    text.into_text()
}

/// What the line API is busy with.
fn expose_load(text: &mut Exposition, load: Load) {
    text.metric(
        "hallmark_connections",
        "gauge",
        "Open connections of lines and readers.",
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

/// The metrics of responders' certificates.
fn expose_responders(text: &mut Exposition, certificates: &[RespondersCertificate]) {
    type Value = fn(&RespondersCertificate) -> u64;
    let gauges: [(&str, &str, Value); 2] = [
        (
            "hallmark_responder_certificate_not_after_seconds",
            "Time at which the published certificate of a responder ends; 0 when there is none.",
            |of| of.state.not_after.map_or(0, UnixMillis::seconds),
        ),
        (
            "hallmark_responder_certificate_failing",
            "1 while the certificate should be renewed and cannot be.",
            |of| u64::from(of.state.problem.is_some()),
        ),
    ];
    for (name, help, value) in gauges {
        text.metric(name, "gauge", help);
        for of in certificates {
            let (responder, issuer) = (of.responder.as_str(), of.state.issuer.as_str());
            let labels = [("responder", responder), ("issuer", issuer)];
            text.value(name, &labels, value(of));
        }
    }
}

/// The metrics of what the witnesses said at the start.
fn expose_witnesses(text: &mut Exposition, witnesses: &[WitnessState]) {
    let name = "hallmark_witness_agrees";
    let help = "1 when the witness confirmed the store at the start.";
    text.metric(name, "gauge", help);
    for witness in witnesses {
        let agrees = matches!(witness.said, Said::Agrees { .. });
        let labels = [("witness", witness.witness.as_str())];
        text.value(name, &labels, u8::from(agrees));
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

    /// Something of everything that is kept, well and not.
    fn kept() -> Kept {
        let crl = |problem: Option<&str>| CrlState {
            issuer: "device-1".parse().unwrap(),
            partition: 3,
            number: Some(8),
            listed: None,
            this_update: Some(UnixMillis(9_000)),
            next_update: None,
            problem: problem.map(str::to_owned),
        };
        let certificate = |responder: &str, not_after, problem: Option<&str>| {
            let state = crate::responders::CertificateState {
                issuer: "device-1".parse().unwrap(),
                serial: None,
                not_after,
                problem: problem.map(str::to_owned),
            };
            let responder = responder.parse().unwrap();
            RespondersCertificate { responder, state }
        };
        let witness = |name: &str, said| WitnessState {
            witness: name.to_owned(),
            url: "http://w.example".to_owned(),
            said,
        };
        let (size, cosigned_at) = (7, UnixMillis(5_000));
        Kept {
            crls: vec![crl(Some("no token"))],
            responders: vec![
                certificate("ocsp-1", Some(UnixMillis(7_000)), Some("no token")),
                certificate("ocsp-2", None, None),
            ],
            witnesses: vec![
                witness("w.example/1", Said::Agrees { size, cosigned_at }),
                witness(
                    "w.example/2",
                    Said::Unheard {
                        problem: "no answer within 5 s".to_owned(),
                    },
                ),
            ],
        }
    }

    #[test]
    fn what_keeps_no_device_waiting_is_a_warning() {
        let told = [
            "CRL of device-1, partition 3: no token",
            "certificate of responder ocsp-1 by device-1: no token",
            "witness w.example/2: no answer within 5 s",
        ];
        assert_eq!(warnings(&kept()), told);
        assert!(warnings(&Kept::default()).is_empty());
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
            let told = super::reasons(&state, &issuers, &[token(false)]);
            assert_eq!(told.len(), reasons, "{state:?} {issuers:?} {told:?}");
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
        let text = exposition(&counts, &log, &[token(true)], &kept(), load);
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
            "hallmark_responder_certificate_not_after_seconds{responder=\"ocsp-1\",issuer=\"device-1\"} 7",
            "hallmark_responder_certificate_failing{responder=\"ocsp-1\",issuer=\"device-1\"} 1",
            "hallmark_responder_certificate_not_after_seconds{responder=\"ocsp-2\",issuer=\"device-1\"} 0",
            "hallmark_responder_certificate_failing{responder=\"ocsp-2\",issuer=\"device-1\"} 0",
            "hallmark_witness_agrees{witness=\"w.example/1\"} 1",
            "hallmark_witness_agrees{witness=\"w.example/2\"} 0",
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
