//! Connections: accepting, HTTP/1, deadlines, and the end of all that.
//!
//! Owns every open connection. Promises that connections are bounded, of all and of one origin, that none of them keeps
//! another origin out, that a slow or silent peer is dropped, whether it sends or reads, that an answer reaches a client which is still sending, and that a stop lets requests in work finish.
//! Never looks into a request. Failure story: what goes wrong on a connection ends that connection; when none can be
//! accepted, accepting is tried again.

mod deadline;

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustix::net::sockopt;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::State;
use super::config::Listen;
use super::http::Service;
use super::http::body::Body;
use super::patience::{Patience, Patient};
use super::shares::{Origin, Place, Shares};
use deadline::Deadlines;

/// The buffer for a request's head in octets: a GET with all 64 CertIDs in its path does not fit, 20 of them do.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The time from the end of an answer to the end of the next head: for idle clients and for slow ones.
const HEAD_DEADLINE: Duration = Duration::from_secs(15);

/// The time that a client has to read our last answer while it is still sending.
const LINGER_DEADLINE: Duration = Duration::from_secs(2);

/// What is read and thrown away of a client that is still sending, in octets.
const LINGER_BYTES_MAX: usize = 1024 * 1024;

/// The time in milliseconds that data may wait for the peer's acknowledgement or for room at the peer.
const PEER_SILENCE_MS_MAX: u32 = 30_000;

/// The time that a connection has to end when another origin gets its place: a request in work is answered well within.
const LEAVING_DEADLINE: Duration = Duration::from_millis(250);

/// The pause after a failed accept: the cause (no file descriptors) needs time to go away.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests in work may take once it is time to stop.
const DRAIN_DEADLINE: Duration = Duration::from_secs(20);

/// Tells when it is time to stop: when the sender is dropped.
#[derive(Clone, Debug)]
pub struct Stopping(watch::Receiver<()>);

impl Stopping {
    /// The sender to drop, and what the parts watch.
    pub fn new() -> (watch::Sender<()>, Self) {
        let (sender, receiver) = watch::channel(());
        (sender, Self(receiver))
    }

    /// Waits until the sender is dropped.
    pub async fn wait(&mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

/// What connections of the public listeners share.
#[derive(Clone, Debug)]
pub struct Public {
    state: Arc<State>,
    places: Shares,
}

impl Public {
    /// With the places that the configuration gives.
    pub fn new(state: Arc<State>, listen: &Listen) -> Self {
        Self {
            state,
            places: Shares::new(listen.connections, listen.connections_per_origin),
        }
    }

    /// Waits until all connections are closed, for as long as a request in work may take.
    pub async fn drained(&self) {
        if timeout(DRAIN_DEADLINE, self.places.drained())
            .await
            .is_err()
        {
            let connections = self.places.taken();
            tracing::warn!(connections, "stopping with connections open");
        }
    }
}

/// Accepts until it is time to stop.
pub async fn serve(listener: TcpListener, public: Public, mut stopping: Stopping) {
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stopping.wait() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let origin = Origin::of(address.ip());
        let Some(place) = public.places.take(origin) else {
            public.state.metrics.refused();
            if !full {
                full = true;
                tracing::warn!(origin = %address.ip(), connections = public.places.taken(), "no place for a connection; it and others like it are closed");
            }
            continue;
        };
        full = false;
        public.state.metrics.accepted();
        if place.made_room {
            public.state.metrics.made_room();
        }
        let service = Service(Arc::clone(&public.state), origin);
        let stopping = stopping.clone();
        tokio::spawn(async move {
            converse(stream, service, stopping, place).await;
        });
    }
}

/// Sets a connection's options.
fn tune(stream: &TcpStream) -> rustix::io::Result<()> {
    // Answers are written whole, so waiting for more to send would only delay them.
    sockopt::set_tcp_nodelay(stream, true)?;
    // A peer that acknowledges or takes nothing for so long is gone, or holds a place to no purpose.
    sockopt::set_tcp_user_timeout(stream, PEER_SILENCE_MS_MAX)
}

/// How much of a connection's peer is put up with.
#[derive(Clone, Copy, Debug)]
struct Manners {
    patience: Patience,
    /// How long a request in work may take when another origin gets the connection's place.
    leaving: Duration,
}

/// With everybody.
const USUAL: Manners = Manners {
    patience: Patience::USUAL,
    leaving: LEAVING_DEADLINE,
};

/// Serves a connection until either side ends it or its place is given up, then closes it and gives the place back.
pub async fn converse<S>(stream: TcpStream, service: S, stopping: Stopping, place: Place)
where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Unpin,
    S::Future: Unpin,
{
    serve_one(stream, service, stopping, place, USUAL).await;
}

/// The same, with these manners.
async fn serve_one<S>(
    stream: TcpStream,
    service: S,
    mut stopping: Stopping,
    mut place: Place,
    manners: Manners,
) where
    S: hyper::service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Unpin,
    S::Future: Unpin,
{
    let stream = Patient::new(stream, manners.patience);
    if let Err(error) = tune(stream.get_ref()) {
        // Already gone, most likely: the first read will tell.
        tracing::debug!(%error, "a connection's options could not be set");
    }
    // hyper's own limit of header fields is 100; one set here would cost each request a list on the heap.
    let mut connection = http1::Builder::new()
        .timer(Deadlines::new(HEAD_DEADLINE))
        .header_read_timeout(HEAD_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        // What the client has sent already is read first, and then in work.
        biased;
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => ended,
        () = stopping.wait() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
        () = place.given_up() => {
            std::pin::Pin::new(&mut connection).graceful_shutdown();
            let ending = async {
                let _ended = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
                linger(connection.into_parts().io.into_inner().into_inner()).await;
            };
            // What has not ended by then ends here: another has its place.
            let _ended = timeout(manners.leaving, ending).await;
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(cause = crate::chain(&error), "a connection ended early");
    }
    linger(connection.into_parts().io.into_inner().into_inner()).await;
}

/// Ends our side and reads what the client still sends: closing at once would reset the connection, and a
/// reset throws away the answer that the client has not read yet (RFC 9112, 9.6).
async fn linger(mut stream: TcpStream) {
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
mod tests;
