//! Health, readiness, metrics and status of `crl-sync`, on loopback.
//!
//! Owns what is told there: a copy of the status after each round. Promises to answer from the start. Failure story: a
//! connection that cannot be served is closed.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use super::SyncStatus;
use crate::responder::{Body, Origin, Shares, Stopping, converse};

/// Connections: a scraper, a probe, and some operators.
const CONNECTIONS_MAX: usize = 16;

/// The pause after a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The status as it is shown; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Shared(Arc<Mutex<SyncStatus>>);

impl Shared {
    /// Shows a status from now on.
    pub fn publish(&self, status: SyncStatus) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// The status that is shown.
    fn get(&self) -> SyncStatus {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Serves until it is time to stop.
pub async fn serve(listener: TcpListener, shared: Shared, mut stopping: Stopping) {
    let places = Shares::new(CONNECTIONS_MAX, CONNECTIONS_MAX);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.wait() => return,
        };
        let Ok((stream, address)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Some(place) = places.take(Origin::of(address.ip())) else {
            continue;
        };
        let (service, stopping) = (Service(shared.clone()), stopping.clone());
        tokio::spawn(async move {
            converse(stream, service, stopping, place).await;
        });
    }
}

/// The service of one connection.
struct Service(Shared);

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Body>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        ready(Ok(route(&self.0.get(), &request)))
    }
}

/// Answers a request.
fn route(status: &SyncStatus, request: &Request<Incoming>) -> Response<Body> {
    let (text, json) = ("text/plain", "application/json");
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return response(
            StatusCode::METHOD_NOT_ALLOWED,
            text,
            "only GET\n".to_owned(),
        );
    }
    let whole = || format!("{}\n", serde_json::json!(status));
    match request.uri().path() {
        "/healthz" => response(StatusCode::OK, text, "ok\n".to_owned()),
        "/readyz" if status.is_ready() => response(StatusCode::OK, json, whole()),
        "/readyz" => response(StatusCode::SERVICE_UNAVAILABLE, json, whole()),
        "/status" => response(StatusCode::OK, json, whole()),
        "/metrics" => response(
            StatusCode::OK,
            "text/plain; version=0.0.4",
            status.metrics(),
        ),
        _ => {
            let where_else = "not here: /healthz, /readyz, /status and /metrics are\n";
            response(StatusCode::NOT_FOUND, text, where_else.to_owned())
        }
    }
}

/// A response.
fn response(status: StatusCode, media: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response
}
