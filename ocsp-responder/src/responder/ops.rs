//! Health, readiness, metrics and status, on loopback for systemd, Prometheus and `hallmark-ocsp status`.
//!
//! Owns what is told there. Promises that `/readyz` says 200 only while every log's view is fresh and believed, no CRL that
//! the log knows is withheld, and every responder certificate that there ever was is valid. Never tells a serial. Failure story: it answers from the start,
//! because that is when it is asked.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::State;
use super::clock::Moment;
use super::http::body::Body;
use super::log::{FAULTS, Fault, FollowedLog};
use super::metrics::Exposition;
use super::server::{Stopping, converse};
use super::shares::{Origin, Shares};

/// Connections: a scraper, a probe, and some operators.
const CONNECTIONS_MAX: usize = 32;

/// The answer of `/readyz`.
#[derive(Debug, Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<String>,
}

/// The answer of `/status`.
#[derive(Debug, Serialize)]
struct Status {
    #[serde(flatten)]
    readiness: Readiness,
    logs: Vec<LogStatus>,
    witness: String,
}

/// What is told of a log.
#[derive(Debug, Serialize)]
struct LogStatus {
    name: String,
    origin: String,
    entries: Option<u64>,
    as_of: Option<String>,
    age_seconds: Option<u64>,
    fresh: bool,
    fault: Option<Fault>,
    /// When the client certificate ends that the source is read with.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_until: Option<String>,
    issuers: Vec<IssuerStatus>,
    crls: Vec<CrlStatus>,
    problems: Vec<String>,
}

/// What is told of an issuer.
#[derive(Debug, Serialize)]
struct IssuerStatus {
    name: String,
    /// When this responder's certificate ends; none if there never was one.
    certificate_until: Option<String>,
    /// None where there never was one: roots and access issuers need none.
    certificate_valid: Option<bool>,
}

/// What is told of a CRL.
#[derive(Debug, Serialize)]
struct CrlStatus {
    path: String,
    number: u64,
    entries: usize,
    this_update: String,
    next_update: String,
}

/// Serves until it is time to stop.
pub async fn serve(listener: TcpListener, state: Arc<State>, mut stopping: Stopping) {
    let places = Shares::new(CONNECTIONS_MAX, CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.wait() => return,
        };
        let Ok((stream, address)) = accepted else {
            sleep(super::server::ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = places.take(Origin::of(address.ip())) else {
            continue;
        };
        let (state, stopping) = (Arc::clone(&state), stopping.clone());
        tokio::spawn(async move {
            converse(stream, Service(state), stopping, place).await;
        });
    }
}

/// The service of one connection.
struct Service(Arc<State>);

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(route(&self.0, &request)))
    }
}

/// Answers a request.
fn route(state: &State, request: &Request<Incoming>) -> Response<Body> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return response(
            StatusCode::METHOD_NOT_ALLOWED,
            "text/plain",
            "only GET\n".into(),
        );
    }
    let now = state.clock.now();
    match request.uri().path() {
        "/healthz" => response(StatusCode::OK, "text/plain", "ok\n".into()),
        "/readyz" => {
            let told = readiness(state, now);
            let status = if told.ready {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            };
            json(status, &told)
        }
        "/status" => json(StatusCode::OK, &status(state, now)),
        "/metrics" => response(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            exposition(state, now),
        ),
        _ => response(
            StatusCode::NOT_FOUND,
            "text/plain",
            "not here: /healthz, /readyz, /status and /metrics are\n".into(),
        ),
    }
}

/// A response.
fn response(status: StatusCode, media: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A value as JSON.
fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(text) => response(status, "application/json", format!("{text}\n")),
        Err(error) => response(
            StatusCode::INTERNAL_SERVER_ERROR,
            "text/plain",
            error.to_string(),
        ),
    }
}

/// Whether everything is answered now, and if not, every reason.
fn readiness(state: &State, now: Moment) -> Readiness {
    let mut reasons = Vec::new();
    for log in &state.logs {
        if !log.is_fresh(now) {
            reasons.push(format!(
                "log {}: the view is {}",
                log.name,
                age_text(log, now)
            ));
        }
        if let Some(fault) = log.fault().filter(|fault| !fault.transient) {
            reasons.push(format!("log {}: {}", log.name, fault.text));
        }
        let withheld = log.mirror.withheld().into_iter();
        reasons.extend(withheld.map(|text| format!("log {}: {text}", log.name)));
        let issuers = state.issuers.all();
        let mut own = issuers
            .iter()
            .filter(|issuer| issuer.log.index == log.index)
            .peekable();
        if !own.peek().is_some_and(|issuer| issuer.log_has_some) {
            reasons.push(format!("log {}: no responder certificate yet: have the key of `hallmark-ocsp key` approved", log.name));
        }
        for issuer in own.filter(|issuer| issuer.certificate.is_some()) {
            let name = &issuer.name;
            if !issuer.vouched {
                reasons.push(format!("log {}: no CRL by {name} that names this log was verified yet: it is not answered for", log.name));
            } else if let [rival, ..] = state.issuers.rivals(issuer).as_slice() {
                reasons.push(format!("log {}: the key of {name} signed CRLs for this log and for the log {rival}: it is not answered for", log.name));
            }
            if let Some(certificate) = issuer
                .certificate
                .as_deref()
                .filter(|own| !own.is_valid(now.date))
            {
                let begin = certificate.not_before;
                let what = match now.date < begin {
                    true => format!(
                        "begins at {begin}: this machine's clock or the appliance's is wrong"
                    ),
                    false => format!("ended at {}", certificate.not_after),
                };
                reasons.push(format!(
                    "log {}: the responder certificate by {name} {what}",
                    log.name
                ));
            }
        }
    }
    Readiness {
        ready: reasons.is_empty(),
        reasons,
    }
}

/// How old a view is.
fn age_text(log: &FollowedLog, now: Moment) -> String {
    if log.reader.is_damaged() {
        return "damaged and made anew".to_owned();
    }
    if log.is_ahead(now) {
        let ahead = log.ahead(now).unwrap_or_default() / 1000;
        return format!(
            "dated {ahead} s in the future: this machine's clock or the appliance's is wrong"
        );
    }
    log.age(now)
        .map_or_else(|| "empty".to_owned(), |age| format!("{} s old", age / 1000))
}

/// Everything, for people and programs.
fn status(state: &State, now: Moment) -> Status {
    let issuers = state.issuers.all();
    let of_log = |log: &Arc<FollowedLog>| LogStatus {
        name: log.name.clone(),
        origin: log.key.name().to_owned(),
        entries: log.reader.head().map(|head| head.size),
        as_of: log.reader.as_of().map(|as_of| as_of.to_string()),
        age_seconds: log.age(now).map(|age| age / 1000),
        fresh: log.is_fresh(now),
        fault: log.fault(),
        client_certificate_until: log.client_until().map(|until| until.to_string()),
        issuers: issuers
            .iter()
            .filter(|issuer| issuer.log.index == log.index)
            .map(|issuer| IssuerStatus {
                name: issuer.name.to_string(),
                certificate_until: issuer
                    .certificate
                    .as_ref()
                    .map(|own| own.not_after.to_string()),
                certificate_valid: issuer
                    .certificate
                    .as_ref()
                    .map(|own| own.is_valid(now.date)),
            })
            .collect(),
        crls: log
            .mirror
            .crls()
            .into_iter()
            .map(|(path, facts)| CrlStatus {
                path,
                number: facts.number,
                entries: facts.entries,
                this_update: facts.this_update.to_string(),
                next_update: facts.next_update.to_string(),
            })
            .collect(),
        problems: log
            .mirror
            .problems()
            .into_iter()
            .map(|(path, text)| format!("{path}: {text}"))
            .collect(),
    };
    Status {
        readiness: readiness(state, now),
        logs: state.logs.iter().map(of_log).collect(),
        witness: state.witness.verifier_key(),
    }
}

/// All metrics as text.
fn exposition(state: &State, now: Moment) -> String {
    let mut text = Exposition::default();
    state.metrics.expose(&mut text);
    let (subjects, paths, octets) = state.answerer.cache().size();
    for (name, help, value) in [
        (
            "hallmark_ocsp_cache_serials",
            "Serials with a kept answer.",
            subjects,
        ),
        (
            "hallmark_ocsp_cache_paths",
            "GET paths with a kept answer.",
            paths,
        ),
        (
            "hallmark_ocsp_cache_bytes",
            "Memory that kept answers are counted as.",
            octets,
        ),
    ] {
        text.metric(name, "gauge", help);
        text.value(name, &[], value);
    }
    expose_logs(state, now, &mut text);
    expose_files(state, now, &mut text);
    text.into_text()
}

/// One value for each log.
fn gauge(
    state: &State,
    text: &mut Exposition,
    name: &str,
    help: &str,
    value: impl Fn(&FollowedLog) -> Option<u64>,
) {
    text.metric(name, "gauge", help);
    for log in &state.logs {
        if let Some(value) = value(log) {
            text.value(name, &[("log", &log.name)], value);
        }
    }
}

/// What is told of the views.
fn expose_logs(state: &State, now: Moment, text: &mut Exposition) {
    gauge(
        state,
        text,
        "hallmark_ocsp_log_entries",
        "Entries of the newest verified head.",
        |log| log.reader.head().map(|head| head.size),
    );
    gauge(
        state,
        text,
        "hallmark_ocsp_log_newest_seconds",
        "Time of the newest verified entry.",
        |log| log.reader.as_of().map(crate::UnixMillis::seconds),
    );
    gauge(
        state,
        text,
        "hallmark_ocsp_view_age_seconds",
        "Age of the view, by the worse of date and steady clock.",
        |log| log.age(now).map(|age| age / 1000),
    );
    gauge(
        state,
        text,
        "hallmark_ocsp_log_ahead_seconds",
        "How far the newest verified entry lies in the future; above 60 nothing is answered.",
        |log| log.ahead(now).map(|ahead| ahead / 1000),
    );
    gauge(
        state,
        text,
        "hallmark_ocsp_view_fresh",
        "1 while answers are given from the view.",
        |log| Some(u64::from(log.is_fresh(now))),
    );
    let name = "hallmark_ocsp_log_fault";
    text.metric(name, "gauge", "1 for what is wrong with following the log; refused, fork, rollback, altered, head and bad-entry want an operator.");
    for log in &state.logs {
        let fault = log.fault();
        for kind in FAULTS {
            let is = fault.as_ref().is_some_and(|fault| fault.kind == kind);
            text.value(name, &[("log", &log.name), ("kind", kind)], u64::from(is));
        }
    }
}

/// What is told of certificates and CRLs.
fn expose_files(state: &State, now: Moment, text: &mut Exposition) {
    let left =
        |until: crate::UnixMillis| i128::from(until.seconds()) - i128::from(now.date.seconds());
    let name = "hallmark_ocsp_client_certificate_left_seconds";
    text.metric(
        name,
        "gauge",
        "Time until the client certificate ends that the log's source is read with; negative once it has.",
    );
    for log in &state.logs {
        if let Some(until) = log.client_until() {
            text.value(name, &[("log", &log.name)], left(until));
        }
    }
    let name = "hallmark_ocsp_certificate_left_seconds";
    text.metric(
        name,
        "gauge",
        "Time until this responder's certificate ends; negative once it has.",
    );
    for issuer in state.issuers.all() {
        if let Some(certificate) = &issuer.certificate {
            let labels = [
                ("log", issuer.log.name.as_str()),
                ("issuer", issuer.name.as_str()),
            ];
            text.value(name, &labels, left(certificate.not_after));
        }
    }
    let names = [
        (
            "hallmark_ocsp_crl_age_seconds",
            "Time since the served CRL was made.",
        ),
        (
            "hallmark_ocsp_crl_left_seconds",
            "Time until the served CRL's nextUpdate; negative once it is past.",
        ),
        ("hallmark_ocsp_crl_entries", "Serials on the served CRL."),
    ];
    for (at, (name, help)) in names.into_iter().enumerate() {
        text.metric(name, "gauge", help);
        for log in &state.logs {
            for (path, facts) in log.mirror.crls() {
                let value = match at {
                    0 => -left(facts.this_update),
                    1 => left(facts.next_update),
                    _ => i128::try_from(facts.entries).unwrap_or(i128::MAX),
                };
                text.value(name, &[("log", &log.name), ("path", &path)], value);
            }
        }
    }
    gauge(
        state,
        text,
        "hallmark_ocsp_crls_withheld",
        "CRLs that the log says were issued and the source does not show.",
        |log| u64::try_from(log.mirror.withheld().len()).ok(),
    );
    let name = "hallmark_ocsp_mirror_problems";
    gauge(
        state,
        text,
        name,
        "Files that are missing, wrong or out of reach.",
        |log| u64::try_from(log.mirror.problems().len()).ok(),
    );
}
