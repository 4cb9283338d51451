//! The admin socket: what operators and their programs ask and change, as JSON over a Unix socket.
//!
//! Owns the socket, who is on its other end, and the routes. Promises that every change names the operator
//! whose user id the kernel vouches for, and is in the signing log before it takes effect. Never takes a name
//! from the request. Failure story: reading works as soon as the log is open; while the log recovers or is halted a
//! change is answered 503 and nothing changes.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Request};
use axum::http::{Method, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{MethodRouter, get, post};
use rustix::fs::Mode;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixListener;
use tokio::time::Instant;

use crate::config::Operator;
use crate::hsm::Hsm;
use crate::http::listener::{self, Places, Stopping};
use crate::http::ops::Boards;
use crate::http::problem::{Problem, kind};
use crate::http::{body, unknown_method, unknown_path};
use crate::issuance::Issuance;
use crate::revocation::Revocations;
use crate::signing_log::SigningLog;
use crate::time::Clock;

mod auditors;
mod certificates;
mod lines;
mod orders;
mod parties;
mod responders;
mod status;

/// Connections: operators and their programs, not a factory.
const CONNECTIONS_MAX: u32 = 64;

/// Connections of users who are no operators, while they are told so.
const OTHERS_MAX: u32 = 8;

/// The whole life of such a connection: one request and its answer.
const OTHERS_DEADLINE: Duration = Duration::from_secs(5);

/// A request's body in bytes: a CSR in JSON, or an order with all its lines.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Who may connect at all: the daemon's user and its group.
const SOCKET_MODE: Mode = Mode::from_raw_mode(0o660);

/// The admin interface; clones share it.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

/// The shared parts.
struct Inner {
    issuance: Issuance,
    log: SigningLog,
    revocations: Revocations,
    hsm: Hsm,
    clock: Clock,
    boards: Boards,
    operators: Vec<Operator>,
}

/// The operator at the other end of a connection, or the user id that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Caller(Result<Arc<str>, u32>);

/// The operator who asks, once the kernel's word for it was looked up.
#[derive(Clone, Debug)]
struct Acting(Arc<str>);

/// Why the admin socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Something that is no socket stands there.
    #[error("{}: is there and is not a socket; remove it or set [listen] admin_socket to another path", path.display())]
    Occupied {
        /// The path.
        path: PathBuf,
    },
    /// The system's error.
    #[error("{}: cannot listen on the admin socket", path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl Admin {
    /// The interface over these parts, for these operators.
    #[must_use]
    pub fn new(
        issuance: Issuance,
        log: SigningLog,
        revocations: Revocations,
        hsm: Hsm,
        clock: Clock,
        boards: Boards,
        operators: Vec<Operator>,
    ) -> Self {
        let inner = Inner {
            issuance,
            log,
            revocations,
            hsm,
            clock,
            boards,
            operators,
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Who has this user id.
    fn caller(&self, uid: u32) -> Caller {
        let found = self.inner.operators.iter().find(|known| known.uid == uid);
        Caller(found.map(|known| Arc::from(known.name.as_str())).ok_or(uid))
    }
}

/// Listens on a socket that the daemon's group may use; replaces one that a dead daemon left.
///
/// Call it while the state directory's lock is held, so that no living daemon loses its socket.
///
/// # Errors
/// [`AdminError`]: correct the path or its directory's permissions, then start again.
pub fn bind(path: &Path) -> Result<UnixListener, AdminError> {
    let failed = |source| AdminError::Bind {
        path: path.to_owned(),
        source,
    };
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_) => {
            return Err(AdminError::Occupied {
                path: path.to_owned(),
            });
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // Bound under another name and renamed, so that it never stands there with another mode than its own.
    let unready = path.with_extension("new");
    match std::fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&unready).map_err(failed)?;
    rustix::fs::chmod(&unready, SOCKET_MODE).map_err(|error| failed(error.into()))?;
    std::fs::rename(&unready, path).map_err(failed)?;
    Ok(listener)
}

/// Serves until it is time to stop, then lets requests in work finish.
pub async fn serve(listener: UnixListener, admin: Admin, mut stopping: Stopping) {
    let router = router(admin.clone());
    let (places, others) = (Places::new(CONNECTIONS_MAX), Places::new(OTHERS_MAX));
    let mut next = || async { listener.accept().await.map(|(stream, _)| stream) };
    while let Some(stream) = listener::accepted(&mut stopping, &mut next).await {
        let caller = match stream.peer_cred() {
            Ok(peer) => admin.caller(peer.uid()),
            Err(error) => {
                tracing::warn!(%error, "a connection without peer credentials is closed");
                continue;
            }
        };
        // Who it is comes first, so that whoever is no operator takes no operator's place.
        if caller.0.is_err() {
            let Some(place) = others.try_take() else {
                tracing::debug!("too many connections of others than operators: one is closed");
                continue;
            };
            let (router, stopping) = (router.clone(), stopping.clone());
            let end = Instant::now() + OTHERS_DEADLINE;
            tokio::spawn(async move {
                listener::answer_once(stream, router, caller, end, stopping).await;
                drop(place);
            });
            continue;
        }
        let place = tokio::select! {
            place = places.take() => place,
            () = stopping.wait() => break,
        };
        let (router, stopping) = (router.clone(), stopping.clone());
        tokio::spawn(async move {
            listener::converse(stream, router, caller, listener::IDLE_DEADLINE, stopping).await;
            drop(place);
        });
    }
    others.drain().await;
    places.drain().await;
}

/// Every path with its methods.
fn routes() -> [(&'static str, MethodRouter<Admin>); 23] {
    [
        ("/v1/status", get(status::show)),
        ("/v1/lines", get(lines::list).post(lines::add)),
        ("/v1/lines/{line}", get(lines::show)),
        ("/v1/lines/{line}/disable", post(lines::disable)),
        ("/v1/lines/{line}/enable", post(lines::enable)),
        ("/v1/orders", get(orders::list).post(orders::open)),
        ("/v1/orders/{order}", get(orders::show)),
        ("/v1/orders/{order}/close", post(orders::close)),
        ("/v1/orders/{order}/reopen", post(orders::reopen)),
        ("/v1/orders/{order}/approve", post(orders::approve)),
        ("/v1/certificates", get(certificates::list)),
        ("/v1/certificates/{serial}", get(certificates::show)),
        (
            "/v1/certificates/{serial}/revoke",
            post(certificates::revoke),
        ),
        (
            "/v1/certificates/{serial}/release",
            post(certificates::release),
        ),
        (
            "/v1/issuers/{issuer}/revoke",
            post(certificates::revoke_issuer),
        ),
        ("/v1/revocations", post(certificates::revoke_many)),
        ("/v1/revocations/selection", post(certificates::select)),
        (
            "/v1/responders",
            get(responders::list).post(responders::approve),
        ),
        (
            "/v1/responders/{responder}/revoke",
            post(responders::revoke),
        ),
        ("/v1/auditors", get(auditors::list).post(auditors::add)),
        ("/v1/auditors/{auditor}/disable", post(auditors::disable)),
        ("/v1/auditors/{auditor}/enable", post(auditors::enable)),
        ("/v1/profiles", get(status::profiles)),
    ]
}

/// The router; who is no operator gets no further than its door.
fn router(admin: Admin) -> Router {
    let all = routes()
        .into_iter()
        .fold(Router::new(), |router, (path, methods)| {
            router.route(path, methods)
        });
    all.fallback(|uri: Uri| async move { unknown_path(&uri) })
        .method_not_allowed_fallback(|method: Method, uri: Uri| async move {
            unknown_method(&method, &uri)
        })
        .layer(from_fn(operators_only))
        .with_state(admin)
}

/// Lets operators in, and tells everyone else what to do.
async fn operators_only(
    Extension(Caller(caller)): Extension<Caller>,
    mut request: Request,
    next: Next,
) -> Response {
    match caller {
        Ok(operator) => {
            request.extensions_mut().insert(Acting(operator));
            next.run(request).await
        }
        Err(uid) => {
            tracing::warn!(uid, path = request.uri().path(), "not an operator");
            let detail = format!(
                "user id {uid} is no operator here: add an [[operator]] with this uid to the configuration and restart"
            );
            Problem::new(&kind::UNKNOWN_OPERATOR, detail).into_response()
        }
    }
}

/// A value as a JSON answer, or the problem.
fn answer<T: Serialize>(outcome: Result<T, Problem>) -> Response {
    match outcome {
        Ok(value) => {
            let headers = [(header::CACHE_CONTROL, "no-store")];
            (headers, axum::Json(value)).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

/// Reads a body as JSON, with every key known.
async fn read_json<T: DeserializeOwned>(request: Body) -> Result<T, Problem> {
    parse_json(&body::read(request, BODY_BYTES_MAX).await?)
}

/// As [`read_json`], where a request may also have no body at all.
async fn read_json_if_any<T: DeserializeOwned + Default>(request: Body) -> Result<T, Problem> {
    let bytes = body::read(request, BODY_BYTES_MAX).await?;
    if bytes.is_empty() {
        return Ok(T::default());
    }
    parse_json(&bytes)
}

/// Parses a body.
fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| {
        let detail = format!("the body is not the JSON that is wanted here: {error}");
        Problem::new(&kind::BODY_REFUSED, detail)
    })
}

/// Reads a name or serial of the path.
fn read_path<T>(text: &str, what: &str) -> Result<T, Problem>
where
    T: std::str::FromStr,
{
    // What cannot be a name names nothing.
    text.parse().map_err(|_| missing(what, text))
}

/// The problem of something that is not there.
fn missing(what: &str, name: &str) -> Problem {
    let name: String = name.chars().take(64).collect();
    Problem::new(&kind::MISSING, format!("there is no {what} {name}"))
}

#[cfg(test)]
mod tests;
