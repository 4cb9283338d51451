//! Asks witnesses for the last head that they saw: one plain HTTP request each, side by side.
//!
//! Promises bounds on everything that a peer decides: the time in all, the head of its answer, the body. Never trusts
//! the way: what comes back is judged by its signatures. Failure story: [`NotHeard`], for the operator.

use std::io;

use certstatus::log::checkpoint::{BadNote, VerifierKey};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Head;
use crate::config::Witness;
use crate::limits;

/// The head of an answer in bytes; `hallmark-ocsp` sends 200, a proxy perhaps 1,000 more.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// The headers of an answer.
const HEADERS_MAX: usize = 64;

/// Why a witness says nothing that counts.
#[derive(Debug, thiserror::Error)]
pub enum NotHeard {
    /// No connection.
    #[error("it cannot be reached")]
    Connect(#[source] io::Error),
    /// Not HTTP, or cut off.
    #[error("the connection broke")]
    Broken(#[source] hyper::Error),
    /// The body broke off.
    #[error("the answer broke off")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No request can be made of this address.
    #[error("it cannot be asked")]
    Request(#[source] hyper::http::Error),
    /// It has nothing of this log.
    #[error("it answers HTTP status {status}{}", hint(*status))]
    Status {
        /// The status.
        status: u16,
    },
    /// More than a checkpoint ever has.
    #[error("its answer is longer than {} bytes", limits::WITNESS_BYTES_MAX)]
    Long,
    /// No whole answer in time.
    #[error("no answer within {} s", limits::WITNESS_DEADLINE.as_secs())]
    Late,
    /// Its answer does not say anything of this log.
    #[error("its answer is no head of this log")]
    Note(#[source] BadNote),
    /// The log's own head, which this witness does not vouch for.
    #[error("its answer is not cosigned by the configured key")]
    Cosignature(#[source] BadNote),
}

/// What a status means here.
const fn hint(status: u16) -> &'static str {
    match status {
        404 => ": it does not follow this log, or has seen nothing of it yet",
        _ => "",
    }
}

/// Asks each witness for the head that it has of this log; the answers stand in the witnesses' order.
pub async fn hear(
    witnesses: &[Witness],
    origin: &str,
    log: &VerifierKey,
) -> Vec<Result<Head, NotHeard>> {
    let asked: Vec<_> = witnesses
        .iter()
        .map(|witness| tokio::spawn(one(witness.clone(), origin.to_owned(), log.clone())))
        .collect();
    let mut heard = Vec::with_capacity(asked.len());
    for asked in asked {
        heard.push(match asked.await {
            Ok(heard) => heard,
            Err(ended) => match ended.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Without a panic, a task ends without a result only when the runtime shuts down.
                Err(_) => Err(NotHeard::Late),
            },
        });
    }
    heard
}

/// Asks one.
async fn one(witness: Witness, origin: String, log: VerifierKey) -> Result<Head, NotHeard> {
    let answer = timeout(limits::WITNESS_DEADLINE, fetch(&witness, &origin)).await;
    let answer = answer.map_err(|_| NotHeard::Late)??;
    Head::read(&answer, &witness.key, &log)
}

/// The body of its answer.
async fn fetch(witness: &Witness, origin: &str) -> Result<Bytes, NotHeard> {
    let stream = TcpStream::connect(witness.url.address()).await;
    let stream = TokioIo::new(stream.map_err(NotHeard::Connect)?);
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(stream)
        .await
        .map_err(NotHeard::Broken)?;
    // Ends with this function; its own error comes out at the request too.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(witness.url.path(origin))
        .header(header::HOST, witness.url.authority())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(NotHeard::Request)?;
    let response = sender.send_request(request).await;
    let response = response.map_err(NotHeard::Broken)?;
    if response.status() != StatusCode::OK {
        return Err(NotHeard::Status {
            status: response.status().as_u16(),
        });
    }
    let body = Limited::new(response.into_body(), limits::WITNESS_BYTES_MAX);
    match body.collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(NotHeard::Long),
        Err(error) => Err(NotHeard::Body(error)),
    }
}
