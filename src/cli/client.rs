//! The client of the admin socket.
//!
//! Owns one request at a time over the Unix socket. Promises that a refusal comes back with the daemon's own
//! sentence. Failure story: a daemon that does not answer is told from one that refuses.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper::http::Method;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// An answer in bytes: a thousand certificates need one MiB.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The time for an answer: longer than the daemon's own, so that its sentence comes first.
const DEADLINE: Duration = Duration::from_secs(40);

/// The admin socket.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

/// Why the daemon did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens, or this user may not connect.
    #[error(
        "cannot reach the appliance at {}: start it, and see that your user is an [[operator]] and in the daemon's group",
        socket.display()
    )]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// The connection broke, or is not HTTP.
    #[error(
        "the appliance broke the connection; look into its log, then ask whether the change was made"
    )]
    Broken(#[source] hyper::Error),
    /// The request could not be made.
    #[error("the request cannot be sent")]
    Request(#[source] hyper::http::Error),
    /// The answer is too long or was cut off.
    #[error("the appliance's answer cannot be read")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not JSON.
    #[error("the appliance's answer is not JSON: another program listens on the socket")]
    NotJson(#[source] serde_json::Error),
    /// No answer in time.
    #[error("the appliance did not answer within {} s; ask later whether the change was made", DEADLINE.as_secs())]
    Late,
    /// The daemon refuses.
    #[error("{title}: {detail}")]
    Refused {
        /// The problem's title.
        title: String,
        /// What is wrong.
        detail: String,
    },
}

impl Client {
    /// A client of this socket.
    pub(super) fn new(socket: &Path) -> Self {
        Self {
            socket: socket.to_owned(),
        }
    }

    /// Asks for what is at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.call(Method::GET, path, None).await
    }

    /// Asks for a change.
    pub(super) async fn post(&self, path: &str, body: Option<Value>) -> Result<Value, ClientError> {
        self.call(Method::POST, path, body).await
    }

    /// One request and its answer.
    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, ClientError> {
        let call = Box::pin(self.exchange(method, path, body));
        timeout(DEADLINE, call)
            .await
            .map_err(|_| ClientError::Late)?
    }

    /// As [`Self::call`], without a deadline.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<Value, ClientError> {
        let stream = UnixStream::connect(&self.socket).await;
        let stream = stream.map_err(|source| ClientError::Connect {
            socket: self.socket.clone(),
            source,
        })?;
        let (mut sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(ClientError::Broken)?;
        // The connection's own error comes out at the request too.
        tokio::spawn(connection);
        let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "hallmark")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(ClientError::Request)?;
        let response = sender
            .send_request(request)
            .await
            .map_err(ClientError::Broken)?;
        let status = response.status();
        let answer = Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let answer = answer
            .collect()
            .await
            .map_err(ClientError::Answer)?
            .to_bytes();
        let value: Value = serde_json::from_slice(&answer).map_err(ClientError::NotJson)?;
        if status.is_success() {
            return Ok(value);
        }
        let member = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        Err(ClientError::Refused {
            title: member("title").to_owned(),
            detail: member("detail").to_owned(),
        })
    }
}

/// A path with the parts of its query that are there, percent-encoded (RFC 3986, 2.1).
pub(super) fn with_query(path: &str, parts: &[(&str, Option<String>)]) -> String {
    let mut whole = path.to_owned();
    let mut before = '?';
    for (name, value) in parts {
        let Some(value) = value else { continue };
        whole.push(before);
        whole.push_str(name);
        whole.push('=');
        for octet in value.bytes() {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    whole.push(char::from(octet));
                }
                _ => whole.push_str(&format!("%{octet:02X}")),
            }
        }
        before = '&';
    }
    whole
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// What a client makes of a daemon that answers `bytes`.
    async fn answered(bytes: &'static str) -> Result<Value, ClientError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        let daemon = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _head = stream.read(&mut [0; 1024]).await.unwrap();
            stream.write_all(bytes.as_bytes()).await.unwrap();
        };
        let client = Client::new(&path);
        tokio::join!(client.get("/v1/status"), daemon).0
    }

    #[tokio::test]
    async fn answers_and_refusals_are_told_apart() {
        let good = answered("HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n{\"a\":1}").await;
        assert_eq!(good.unwrap(), serde_json::json!({"a": 1}));
        let refusal = "HTTP/1.1 409 Conflict\r\ncontent-length: 28\r\n\r\n{\"title\":\"T\",\"detail\":\"D.\"} ";
        let refused = answered(refusal).await.unwrap_err();
        assert_eq!(refused.to_string(), "T: D.");
        let other = answered("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(matches!(other, Err(ClientError::NotJson(_))));
        assert!(matches!(
            answered("nonsense\r\n\r\n").await,
            Err(ClientError::Broken(_))
        ));
        let nobody = Client::new(Path::new("/nonexistent/s")).get("/").await;
        assert!(matches!(nobody, Err(ClientError::Connect { .. })));
    }

    #[test]
    fn a_query_is_encoded() {
        let parts = [
            ("order", Some("demo".to_owned())),
            ("device_id", Some("a b&ü/~".to_owned())),
            ("issuer", None),
        ];
        let whole = with_query("/v1/certificates", &parts);
        assert_eq!(
            whole,
            "/v1/certificates?order=demo&device_id=a%20b%26%C3%BC%2F~"
        );
        assert_eq!(with_query("/x", &[("a", None)]), "/x");
    }
}
