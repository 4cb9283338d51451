//! The listeners on TCP: the line API and what readers fetch over mTLS, and health and metrics on loopback.
//!
//! Owns routes, limits on requests, and who the peer is. Promises that every request is judged anew by `ra`,
//! that every refusal is a problem document (a line's also a note in the signing log, within a budget), and
//! that work in progress is never cancelled by a client that goes away. Never decides who may have a
//! certificate. Failure story: what fails before the intent costs one answer; what fails after it is
//! `issuance`'s story.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, Method, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use certstatus::log::DetailHash;
use certstatus::log::entry::Slug;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::door::{Door, Guest, MustGo, Origin};
use self::listener::Stopping;
use self::metrics::Metrics;
use self::problem::{Problem, kind};
use self::published::Published;
use self::refusals::{Refusal, Refusals};
use self::shares::{Place, Shares};
use crate::issuance::Issuance;
use crate::limits;
use crate::ra::{Area, Line, Party, Proved, Reader, Refused};
use crate::signing_log::{Publication, SigningLog};
use crate::time::Clock;

pub(crate) mod accept;
mod batch;
pub(crate) mod body;
mod door;
pub mod lines;
pub mod listener;
mod metrics;
mod openapi;
pub mod ops;
mod orders;
pub mod problem;
mod published;
mod refusals;
mod shares;
pub mod tls;

/// The certificate requests of a batch, as the API finds them; `None` for an item that is refused alone.
///
/// Public for the fuzz targets only (`tests/fuzz/`).
///
/// # Errors
/// [`Problem`] of the whole batch.
#[doc(hidden)]
pub fn split_batch(body: &[u8]) -> Result<Vec<Option<Vec<u8>>>, Problem> {
    let batch = batch::Batch::split(&hyper::body::Bytes::copy_from_slice(body))?;
    Ok(batch.map(|item| item.csr.ok().map(Vec::from)).collect())
}

/// The media type of the answer to a client that accepts this. Public for the fuzz targets only (`tests/fuzz/`).
///
/// # Errors
/// [`Problem`]: none that is offered.
#[doc(hidden)]
pub fn answered_type(accept: &[u8]) -> Result<&'static str, Problem> {
    let accept = axum::http::HeaderValue::from_bytes(accept);
    let headers = accept.map(|value| (axum::http::header::ACCEPT, value));
    accept::Form::wanted(&headers.into_iter().collect()).map(|(name, _)| name)
}

/// The longest until an idle connection's certificate is looked at again: the clock may be set meanwhile.
const EXPIRY_LOOK: Duration = Duration::from_secs(60);

/// How long after the end of a certificate it is looked at: its last second is still valid.
const EXPIRY_STEP: Duration = Duration::from_secs(1);

/// The line API; clones share it.
#[derive(Clone)]
pub struct Api {
    inner: Arc<Inner>,
}

/// The shared parts.
struct Inner {
    issuance: Issuance,
    log: SigningLog,
    clock: Clock,
    metrics: Metrics,
    refusals: Refusals,
    door: Door,
    published: Published,
    connections: Shares<Party>,
    /// Of their own, so that neither lines nor readers keep the others out.
    reader_connections: Shares<Party>,
    in_flight: Shares<Slug>,
    bodies: Shares<Slug>,
    batches: Shares<Slug>,
    /// The time for one more answer on the connections of a line or reader that may not ask any more.
    farewell: Duration,
}

/// What TLS proved of the peer; a request carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// SHA-256 of the whole certificate, where it showed one.
    certificate: Option<DetailHash>,
}

/// What is known of a request when it is refused.
#[derive(Clone, Copy, Debug, Default)]
struct Asked<'a> {
    order: Option<&'a str>,
    line: Option<&'a Slug>,
    device_id: Option<&'a str>,
}

impl Api {
    /// The API over these parts; starts the task that notes refusals, so call it in the runtime.
    #[must_use]
    pub fn new(
        issuance: Issuance,
        log: SigningLog,
        clock: Clock,
        publication: Publication,
    ) -> Self {
        let refusals = Refusals::start(log.clone());
        Self {
            inner: Arc::new(Inner {
                issuance,
                log,
                clock,
                metrics: Metrics::default(),
                refusals,
                door: Door::new(),
                published: Published::new(publication),
                connections: Shares::new(limits::CONNECTIONS_MAX, limits::CONNECTIONS_PER_LINE_MAX),
                reader_connections: Shares::new(
                    limits::READER_CONNECTIONS_MAX,
                    limits::CONNECTIONS_PER_READER_MAX,
                ),
                in_flight: Shares::new(
                    limits::REQUESTS_IN_FLIGHT_MAX,
                    limits::REQUESTS_PER_LINE_MAX,
                ),
                bodies: Shares::new(limits::BATCH_BODIES_MAX, limits::BATCH_BODIES_PER_LINE_MAX),
                batches: Shares::new(limits::BATCHES_MAX, limits::BATCHES_PER_LINE_MAX),
                farewell: limits::STRANGER_DEADLINE,
            }),
        }
    }

    /// Judges the peer now: it must be a line.
    fn line(&self, peer: Peer) -> Result<Line, Refused> {
        let registry = self.inner.log.registry();
        registry.authenticate_digest(peer.certificate.as_ref(), self.inner.clock.now())
    }

    /// Judges the peer now: it must be a reader who may read this.
    fn reader(&self, peer: Peer, area: Area) -> Result<Reader, Refused> {
        let registry = self.inner.log.registry();
        registry.authenticate_reader(peer.certificate.as_ref(), area, self.inner.clock.now())
    }

    /// Judges the peer now: whoever it is.
    fn proved(&self, peer: Peer) -> Result<Proved, Refused> {
        let registry = self.inner.log.registry();
        registry.prove(peer.certificate.as_ref(), self.inner.clock.now())
    }

    /// Waits until the peer is nobody who may ask, by a change or because its certificate expires, and has been none
    /// for so long.
    async fn refused_for(&self, peer: Peer, grace: Duration) {
        let mut changes = self.inner.log.registry().changes();
        let mut refused_since = None;
        loop {
            let wait = if let Ok(proved) = self.proved(peer) {
                refused_since = None;
                self.valid_for(&proved)
            } else {
                // Changes of others do not lengthen it.
                let since = *refused_since.get_or_insert_with(Instant::now);
                let left = grace.saturating_sub(since.elapsed());
                if left.is_zero() {
                    return;
                }
                left
            };
            // Whichever comes first: the senders live as long as the registry, which this API holds.
            let _either = timeout(wait, changes.changed()).await;
        }
    }

    /// How long the certificate that a peer showed will be valid at least, or until it is to be looked at again.
    fn valid_for(&self, proved: &Proved) -> Duration {
        let left = proved.not_after.0.saturating_sub(self.inner.clock.now().0);
        EXPIRY_LOOK.min(Duration::from_millis(left) + EXPIRY_STEP)
    }

    /// Connections that are open, whoever's.
    fn connections(&self) -> usize {
        let inner = &self.inner;
        inner.door.taken() + inner.connections.taken() + inner.reader_connections.taken()
    }

    /// A place among the connections of whoever the peer proved to be.
    fn connection(&self, party: &Party) -> Option<Place<Party>> {
        match party {
            Party::Line(_) => self.inner.connections.take(party),
            Party::Reader(_) => self.inner.reader_connections.take(party),
        }
    }

    /// A place among the requests in work; the work keeps it, not the one who waits for the answer.
    fn in_flight(&self, line: &Line) -> Result<Place<Slug>, Problem> {
        let free = self.inner.in_flight.take(line.name());
        free.ok_or_else(Problem::busy)
    }

    /// A place among the batches whose bodies arrive.
    fn batch_body(&self, line: &Line) -> Result<Place<Slug>, Problem> {
        let free = self.inner.bodies.take(line.name());
        free.ok_or_else(Problem::busy)
    }

    /// A place among the batches in work.
    fn batch(&self, line: &Line) -> Result<Place<Slug>, Problem> {
        let free = self.inner.batches.take(line.name());
        free.ok_or_else(Problem::busy)
    }

    /// Counts a problem, and notes it in the signing log where it is the client's.
    fn note(&self, problem: &Problem, peer: Peer, asked: Asked<'_>) {
        let rule = problem.rule();
        self.inner.metrics.refused(rule);
        if problem.status().is_client_error() {
            self.inner.refusals.note(Refusal {
                rule,
                order: asked.order.map(str::to_owned),
                line: asked.line.map(ToString::to_string),
                device_id: asked.device_id.map(str::to_owned),
                certificate_sha256: peer.certificate,
            });
        }
    }
}

/// Every path of the line API with its methods; `openapi.json` describes the same ones.
fn routes() -> [(&'static str, MethodRouter<Api>); 6] {
    [
        ("/v1/orders/{order}/certificates", post(orders::certificate)),
        ("/v1/orders/{order}/batches", post(orders::batch)),
        ("/v1/line/certificate", post(lines::renew)),
        ("/public/{*path}", get(published::public)),
        ("/private/{*path}", get(published::private)),
        ("/openapi.json", get(openapi::document)),
    ]
}

/// The router of the line API.
fn router(api: Api) -> Router {
    let all = routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        });
    all.fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(from_fn_with_state(api.clone(), last_answer_to_strangers))
        .with_state(api)
}

/// Ends the connection with the answer where the peer is nobody who may ask, also who was when it connected.
async fn last_answer_to_strangers(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if api.proved(peer).is_err() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Answers a path that does not exist.
async fn no_such_path(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
) -> Response {
    let problem = unknown_path(&uri);
    api.note(&problem, peer, Asked::default());
    problem.into_response()
}

/// The problem of a path that does not exist.
pub(crate) fn unknown_path(uri: &Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    let detail = format!("there is nothing at {path}: GET /openapi.json lists what there is");
    Problem::new(&kind::NO_SUCH_PATH, detail)
}

/// Answers a method that a path does not have.
async fn method_not_allowed(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    method: Method,
    uri: Uri,
) -> Response {
    let problem = unknown_method(&method, &uri);
    api.note(&problem, peer, Asked::default());
    problem.into_response()
}

/// The problem of a method that a path does not have; the router adds `Allow`.
pub(crate) fn unknown_method(method: &Method, uri: &Uri) -> Problem {
    let path: String = uri.path().chars().take(100).collect();
    let method: String = method.as_str().chars().take(20).collect();
    let detail = format!("{method} is not a method of {path}: see the Allow header");
    Problem::new(&kind::METHOD_NOT_ALLOWED, detail)
}

/// Serves the line API until it is time to stop, then lets requests in work finish.
pub async fn serve_api(
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    api: Api,
    mut stopping: Stopping,
) {
    let (acceptor, router) = (TlsAcceptor::from(tls), router(api.clone()));
    tokio::spawn(forget_disabled(api.clone(), stopping.clone()));
    let mut next = || listener::accept_tcp(&listener);
    while let Some(stream) = listener::accepted(&mut stopping, &mut next).await {
        let (Ok(peer), Ok(ours)) = (stream.peer_addr(), stream.local_addr()) else {
            // Gone already.
            continue;
        };
        let Some((guest, must_go)) = api.inner.door.knock(Origin::of(peer.ip(), ours.ip())) else {
            tracing::debug!(%peer, "too many connections wait for their handshake: one is dropped");
            continue;
        };
        let serving = Serving {
            acceptor: acceptor.clone(),
            router: router.clone(),
            api: api.clone(),
            stopping: stopping.clone(),
        };
        tokio::spawn(serving.connection(stream, guest, must_go));
    }
    drop(listener);
    let closed = async {
        api.inner.door.drained().await;
        api.inner.connections.drained().await;
        api.inner.reader_connections.drained().await;
    };
    if timeout(limits::ANSWER_DEADLINE, closed).await.is_err() {
        let connections = api.connections();
        tracing::warn!(connections, "stopping with connections open");
    }
    api.inner.refusals.finish().await;
}

/// Lets the door forget where a line or reader came from once it is disabled, until it is time to stop.
async fn forget_disabled(api: Api, mut stopping: Stopping) {
    let registry = api.inner.log.registry();
    let mut changes = registry.changes();
    loop {
        tokio::select! {
            // The senders live as long as the registry, which this API holds.
            _changed = changes.changed() => api.inner.door.keep(|party| registry.is_enabled(party)),
            () = stopping.wait() => return,
        }
    }
}

/// What serves a connection.
struct Serving {
    acceptor: TlsAcceptor,
    router: Router,
    api: Api,
    stopping: Stopping,
}

impl Serving {
    /// One connection: the handshake, who the peer is, then its requests.
    async fn connection(mut self, stream: TcpStream, guest: Guest, must_go: MustGo) {
        let met = tokio::select! {
            met = self.meet(stream, &guest) => met,
            () = must_go.told() => {
                tracing::debug!("a connection made room for another");
                return;
            }
        };
        let Some((stream, peer, place)) = met else {
            return;
        };
        // A line may be idle between two devices, and no longer stands in the way of those who come.
        guest.is_known(place.holder());
        drop(guest);
        let Self {
            router,
            api,
            mut stopping,
            ..
        } = self;
        // Once it may not ask any more it has the time of a stranger: for one answer that says why.
        let leave = async {
            tokio::select! {
                () = stopping.wait() => {}
                () = api.refused_for(peer, api.inner.farewell) => {}
            }
        };
        listener::converse_until(stream, router, peer, listener::IDLE_DEADLINE, leave).await;
        drop(place);
    }

    /// Shakes hands; a peer that is nobody, or has too many connections, gets one answer and is gone.
    async fn meet(
        &mut self,
        stream: TcpStream,
        guest: &Guest,
    ) -> Option<(Box<TlsStream<TcpStream>>, Peer, Place<Party>)> {
        let end = Instant::now() + limits::STRANGER_DEADLINE;
        let stream = tokio::select! {
            stream = shake_hands(&self.acceptor, stream) => stream?,
            () = self.stopping.wait() => return None,
        };
        let session = stream.get_ref().1;
        let shown = session.peer_certificates().and_then(<[_]>::first);
        let peer = Peer {
            certificate: shown.map(|leaf| DetailHash::of(leaf)),
        };
        let router = match self.api.proved(peer) {
            Ok(proved) => match self.api.connection(&proved.party) {
                Some(place) => return Some((stream, peer, place)),
                None => Router::new().fallback(async || Problem::busy()),
            },
            // A stranger must not hold a place for long: it learns that it is none of ours, and that is all.
            Err(_stranger) => self.router.clone(),
        };
        guest.is_answered();
        listener::answer_once(stream, router, peer, end, self.stopping.clone()).await;
        None
    }
}

/// The TLS handshake; `None` when it fails.
async fn shake_hands(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<Box<TlsStream<TcpStream>>> {
    let handshake = async {
        // Looked at and not taken: whoever stays silent costs no state of TLS.
        stream.peek(&mut [0]).await?;
        acceptor.accept(stream).await
    };
    match timeout(limits::HANDSHAKE_DEADLINE, handshake).await {
        Ok(Ok(stream)) => Some(Box::new(stream)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake failed");
            None
        }
        Err(_late) => {
            tracing::debug!("a TLS handshake took too long");
            None
        }
    }
}

/// Waits for issuing; the work itself goes on when the wait ends.
async fn in_time<T>(work: impl Future<Output = T>) -> Result<T, Problem> {
    // `issuance` has the same deadline from its first step on; this one also bounds the wait for an equal
    // request that came first.
    let deadline = limits::ANSWER_DEADLINE + Duration::from_secs(1);
    timeout(deadline, work).await.map_err(|_| Problem::late())
}

#[cfg(test)]
pub(crate) mod tests;
