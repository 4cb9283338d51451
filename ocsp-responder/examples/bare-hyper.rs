//! The least that an HTTP server of this kind does: the same octets for every request, whatever is asked.
//!
//! ```text
//! cargo run --release -p ocsp-responder --example bare-hyper -- --body answer.der --header 'etag: "abc"'
//! ```
//!
//! What `tests/bench/ocsp` holds `hallmark-ocsp` against: its runtime, its HTTP library and its octets, without deadlines,
//! limits, cache and status. Prints the address that it listens on, and runs until it is killed.

use std::convert::Infallible;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};

use clap::Parser;

/// Answers every request with the same octets.
#[derive(Parser)]
struct Arguments {
    /// The address to listen on.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// The file with the answer's body.
    #[arg(long)]
    body: PathBuf,
    /// A header field of the answer, `name: value`; may stand several times.
    #[arg(long)]
    header: Vec<String>,
}

/// The header fields of every answer.
fn headers(lines: &[String]) -> Option<HeaderMap> {
    let parse = |line: &String| {
        let (name, value) = line.split_once(": ")?;
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(value).ok()?))
    };
    lines.iter().map(parse).collect()
}

/// Serves a connection until either side ends it.
async fn converse(stream: TcpStream, answer: Arc<(HeaderMap, Bytes)>) {
    let answered = service_fn(move |_: Request<Incoming>| {
        let (headers, body) = &*answer;
        let mut response = Response::new(Full::new(body.clone()));
        headers.clone_into(response.headers_mut());
        async { Ok::<_, Infallible>(response) }
    });
    // However it ends: the next one is served.
    let _ended = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), answered)
        .await;
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let body = Bytes::from(std::fs::read(&arguments.body)?);
    let headers = headers(&arguments.header);
    let headers = headers.ok_or_else(|| io::Error::other("--header: not `name: value`"))?;
    let answer = Arc::new((headers, body));
    let listener = TcpListener::bind(&arguments.listen).await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(converse(stream, Arc::clone(&answer)));
    }
}
