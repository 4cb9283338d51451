//! Connections: accepting, TLS handshakes, HTTP/1.1, deadlines, and the end of all that.
//!
//! Owns every open connection of every listener. Promises that connections are bounded, that a slow or
//! silent peer is dropped, that an answer reaches a client which is still sending, and that a stop lets
//! requests in work finish. Never looks into a request. Failure story: what goes wrong on a connection ends
//! that connection; when no connection can be accepted, accepting is tried again.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tower::ServiceExt as _;

use crate::limits;

/// The buffer for a request's head in bytes: ours have 500, and a thousand idle connections keep theirs.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Header fields of a request.
const HEADER_FIELDS_MAX: usize = 48;

/// The time that an idle connection of a known line stays open: stations pause between shifts of work.
pub(crate) const IDLE_DEADLINE: Duration = Duration::from_secs(300);

/// The time that a client has to read our last answer while it is still sending.
const LINGER_DEADLINE: Duration = Duration::from_secs(2);

/// What is read and thrown away of a client that is still sending, in bytes.
const LINGER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The time in milliseconds that data may wait for the peer's acknowledgement or for room at the peer.
const PEER_SILENCE_MS_MAX: u32 = 60_000;

/// The pause after a failed accept: the cause (no file descriptors) needs time to go away.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells listeners to stop: when the sender is dropped.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<()>);

impl Stopping {
    /// The sender to drop, and what listeners watch.
    #[must_use]
    pub fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }

    /// Waits until the sender is dropped.
    pub async fn wait(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// The places for connections of one listener.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    all: Arc<Semaphore>,
    count: u32,
}

impl Places {
    /// So many.
    pub(crate) fn new(count: u32) -> Self {
        let permits = usize::try_from(count).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            all: Arc::new(Semaphore::new(permits)),
            count,
        }
    }

    /// Connections that are open.
    pub(crate) fn taken(&self) -> usize {
        let count = usize::try_from(self.count).unwrap_or(Semaphore::MAX_PERMITS);
        count.saturating_sub(self.all.available_permits())
    }

    /// Waits for a place: one connection waits here, the others in the system's queue.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).acquire_owned().await.ok()
    }

    /// A place that is free now.
    pub(crate) fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.all).try_acquire_owned().ok()
    }

    /// Waits until all connections are closed, for as long as a request in work may take.
    pub(crate) async fn drain(&self) {
        let closed = self.all.acquire_many(self.count);
        if timeout(limits::ANSWER_DEADLINE, closed).await.is_err() {
            tracing::warn!(connections = self.taken(), "stopping with connections open");
        }
    }
}

/// Accepts the next connection with a place for it; `None` when it is time to stop.
pub(crate) async fn accept<S, F>(
    places: &Places,
    stopping: &mut Stopping,
    mut next: impl FnMut() -> F,
) -> Option<(S, OwnedSemaphorePermit)>
where
    F: Future<Output = io::Result<S>>,
{
    let stream = accepted(stopping, &mut next).await?;
    tokio::select! {
        place = places.take() => Some((stream, place?)),
        () = stopping.wait() => None,
    }
}

/// Accepts the next connection at once, to find out where it comes from; `None` when it is time to stop.
pub(crate) async fn accepted<S, F>(
    stopping: &mut Stopping,
    next: &mut impl FnMut() -> F,
) -> Option<S>
where
    F: Future<Output = io::Result<S>>,
{
    loop {
        let accepted = tokio::select! {
            accepted = next() => accepted,
            () = stopping.wait() => return None,
        };
        match accepted {
            Ok(stream) => return Some(stream),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Accepts a TCP connection.
pub(crate) async fn accept_tcp(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _address) = listener.accept().await?;
    if let Err(error) = tune(&stream) {
        // Already gone, most likely: the handshake will tell.
        tracing::debug!(%error, "a connection's options could not be set");
    }
    Ok(stream)
}

/// Sets a connection's options.
fn tune(stream: &TcpStream) -> rustix::io::Result<()> {
    // Answers are written whole, so waiting for more to send would only delay them.
    sockopt::set_tcp_nodelay(stream, true)?;
    // A peer that acknowledges or takes nothing for so long is gone, or holds a place to no purpose.
    sockopt::set_tcp_user_timeout(stream, PEER_SILENCE_MS_MAX)
}

/// A router for one connection: each request carries what is known of the peer.
#[derive(Clone)]
struct Served<P> {
    router: Router,
    peer: P,
}

impl<P: Clone + Send + Sync + Unpin + 'static> hyper::service::Service<Request<Incoming>>
    for Served<P>
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(self.peer.clone());
        Box::pin(self.router.clone().oneshot(request))
    }
}

/// HTTP/1.1 within our bounds; `idle` is the time for the next head.
fn http1(idle: Duration) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    http1
        .timer(TokioTimer::new())
        .header_read_timeout(idle)
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX);
    http1
}

/// Serves requests on one connection until either side ends it; `idle` is the time for the next head.
pub(crate) async fn converse<S, P>(
    stream: S,
    router: Router,
    peer: P,
    idle: Duration,
    stopping: Stopping,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    let mut stopping = stopping;
    converse_until(stream, router, peer, idle, stopping.wait()).await;
}

/// As [`converse`], until `leave`: then a request in work is still answered, and an idle connection is closed.
pub(crate) async fn converse_until<S, P>(
    stream: S,
    router: Router,
    peer: P,
    idle: Duration,
    leave: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    serve(&http1(idle), stream, router, peer, leave).await;
}

/// Serves one request on a connection and closes it; at `end` it is closed, however far it is.
pub(crate) async fn answer_once<S, P>(
    stream: S,
    router: Router,
    peer: P,
    end: Instant,
    stopping: Stopping,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    let mut http1 = http1(limits::HEADER_DEADLINE);
    http1.keep_alive(false);
    let mut stopping = stopping;
    let served = serve(&http1, stream, router, peer, stopping.wait());
    if timeout_at(end, served).await.is_err() {
        tracing::debug!("a stranger's connection was closed at its end of life");
    }
}

/// Serves a connection until either side ends it or `leave`, then closes it.
async fn serve<S, P>(
    http1: &http1::Builder,
    stream: S,
    router: Router,
    peer: P,
    leave: impl Future<Output = ()>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    P: Clone + Send + Sync + Unpin + 'static,
{
    let mut connection = http1.serve_connection(TokioIo::new(stream), Served { router, peer });
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = leave => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(
            cause = certstatus::chain(&error),
            "a connection ended early"
        );
    }
    linger(connection.into_parts().io.into_inner()).await;
}

/// Ends our side and reads what the client still sends: closing at once would reset the connection, and a
/// reset throws away the answer that the client has not read yet (RFC 9112, 9.6).
async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let reading = async {
        stream.shutdown().await?;
        let (mut waste, mut total) = (vec![0; 4096], 0);
        while total < LINGER_BYTES_MAX {
            match stream.read(&mut waste).await? {
                0 => break,
                more => total += more,
            }
        }
        io::Result::Ok(())
    };
    // However it ends, the connection is closed now.
    let _ended = timeout(LINGER_DEADLINE, reading).await;
}

#[cfg(test)]
mod tests {
    use axum::routing::post;

    use super::*;

    /// A listener on a free port that serves `router` without TLS, and what stops it.
    async fn serving(router: Router, idle: Duration) -> (String, watch::Sender<()>, Places) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (stop, mut stopping) = Stopping::new();
        let places = Places::new(2);
        let shared = places.clone();
        tokio::spawn(async move {
            let next = || accept_tcp(&listener);
            while let Some((stream, place)) = accept(&shared, &mut stopping, next).await {
                let (router, stopping) = (router.clone(), stopping.clone());
                tokio::spawn(async move {
                    converse(stream, router, (), idle, stopping).await;
                    drop(place);
                });
            }
        });
        (address, stop, places)
    }

    /// A router that answers before it has read the body.
    fn hasty() -> Router {
        Router::new().route(
            "/",
            post(|| async { (axum::http::StatusCode::FORBIDDEN, "no") }),
        )
    }

    #[tokio::test]
    async fn an_answer_reaches_a_client_that_is_still_sending() {
        let (address, _stop, _) = serving(hasty(), IDLE_DEADLINE).await;
        let mut client = TcpStream::connect(&address).await.unwrap();
        let head = "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4000000\r\n\r\n";
        client.write_all(head.as_bytes()).await.unwrap();
        let body = vec![0; 1_000_000];
        for _ in 0..4 {
            client.write_all(&body).await.unwrap();
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    }

    #[tokio::test]
    async fn a_silent_client_is_dropped() {
        let (address, _stop, places) = serving(hasty(), Duration::from_millis(50)).await;
        let mut client = TcpStream::connect(&address).await.unwrap();
        client.write_all(b"POST / HT").await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        drop(client);
        places.drain().await;
        assert_eq!(places.taken(), 0);
    }

    #[tokio::test]
    async fn a_stranger_has_one_answer_and_an_end() {
        const FAR: Duration = Duration::from_secs(3600);
        for (bytes, life, answered) in [
            (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(), FAR, true),
            (b"G", Duration::from_millis(50), false),
        ] {
            let (mut client, server) = tokio::io::duplex(4096);
            let (_stop, stopping) = Stopping::new();
            let end = Instant::now() + life;
            let served = tokio::spawn(answer_once(server, hasty(), (), end, stopping));
            client.write_all(bytes).await.unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            assert_eq!(answer.contains("connection: close"), answered, "{answer}");
            drop(client);
            // Closed at once only after an answer.
            let closed = timeout(Duration::from_secs(20), served).await;
            closed.unwrap().unwrap();
            assert_eq!(Instant::now() < end, answered);
        }
    }

    #[tokio::test]
    async fn a_stop_waits_for_the_request_in_work() {
        let (begin, begun) = tokio::sync::oneshot::channel();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        let once = Arc::new(std::sync::Mutex::new(Some((begin, finished))));
        let slow = post(move || async move {
            let (begin, finished) = once.lock().unwrap().take().unwrap();
            begin.send(()).unwrap();
            finished.await.unwrap();
            "done"
        });
        let (address, stop, places) = serving(Router::new().route("/", slow), IDLE_DEADLINE).await;
        let mut client = TcpStream::connect(&address).await.unwrap();
        client
            .write_all(b"POST / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        begun.await.unwrap();
        drop(stop);
        finish.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("done"), "{answer}");
        drop(client);
        places.drain().await;
        assert_eq!(places.taken(), 0);
    }
}
