//! The appliance's `/public/` over HTTPS with a client certificate.
//!
//! Owns one connection, kept open between requests. Promises that the server is the one that the CA bundle vouches
//! for, that every step has a deadline, that an answer is never longer than asked for, and that a file which the asker
//! has is not sent again. Never follows a redirect.
//! Failure story: a connection that breaks is made anew once, since a server may close an idle one at any time.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use der::Decode as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Bytes};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_cert::Certificate;

use super::{Fetched, SourceError, Version};
use crate::UnixMillis;

/// How long a peer may take.
#[derive(Clone, Copy)]
pub(super) struct Deadlines {
    /// For TCP and TLS together.
    pub connect: Duration,
    /// For a request and its whole answer.
    pub answer: Duration,
}

/// Longer than a healthy appliance ever needs, short enough that the next try comes soon.
const DEADLINES: Deadlines = Deadlines {
    connect: Duration::from_secs(10),
    answer: Duration::from_secs(30),
};

/// The longest answer that is looked into where it is not the file: a problem document has a tenth.
const PROBLEM_BYTES_MAX: usize = 4096;

/// What is told of a problem, in characters.
const PROBLEM_CHARS_MAX: usize = 300;

/// The port of HTTPS.
const PORT: u16 = 443;

/// The files that a connection is secured with.
#[derive(Clone, Debug)]
pub struct HttpsFiles {
    /// PEM: the CA certificates that may vouch for the appliance.
    pub ca: PathBuf,
    /// PEM: this responder's certificate, its chain after it.
    pub certificate: PathBuf,
    /// PEM: its private key, PKCS#8, SEC 1 or PKCS#1; unencrypted, so readable by this user only.
    pub key: PathBuf,
}

/// A source that cannot be set up: the operator has something to mend.
#[derive(Debug, thiserror::Error)]
pub enum HttpsRefused {
    /// Not such a URL.
    #[error(
        "{0:?} is not the https URL of the appliance's public files (https://HOST:PORT/public/)"
    )]
    Url(String),
    /// A file cannot be read, or is not PEM.
    #[error("{} cannot be read as PEM", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: PemError,
    },
    /// The client certificate was not made yet, or not brought here.
    #[error(
        "{} is not there yet: `hallmark responder approve NAME --key FILE --tls-csr FILE --out FILE` at the \
         appliance makes it: docs/READERS.md",
        path.display()
    )]
    NotThere {
        /// The file of the client certificate.
        path: PathBuf,
    },
    /// A file has no certificate in it.
    #[error("{} has no certificate in it", path.display())]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// The certificate and the key do not fit, or a CA certificate is none.
    #[error("{} cannot be used", path.display())]
    Tls {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
}

/// The appliance.
pub struct Https {
    /// The URL, `/` at its end.
    base: String,
    /// Host and port.
    address: String,
    /// What the Host header says.
    authority: String,
    server: ServerName<'static>,
    tls: TlsConnector,
    /// The end of the client certificate.
    until: Option<UnixMillis>,
    pub(super) deadlines: Deadlines,
    idle: Mutex<Option<SendRequest<Empty<Bytes>>>>,
}

impl fmt::Debug for Https {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Https({})", self.base)
    }
}

/// The certificates in a PEM file; at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HttpsRefused> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let path = || path.to_owned();
    let found = read.map_err(|source| HttpsRefused::Pem {
        path: path(),
        source,
    })?;
    if found.is_empty() {
        return Err(HttpsRefused::Empty { path: path() });
    }
    Ok(found)
}

/// The end of a certificate's validity; none where it is not one that can be read here.
fn end_of(certificate: &[u8]) -> Option<UnixMillis> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let end = certificate.tbs_certificate().validity().not_after;
    Some(UnixMillis::from_seconds(end.to_unix_duration().as_secs()))
}

/// The client's side of TLS, and the end of its certificate.
fn client_config(files: &HttpsFiles) -> Result<(ClientConfig, Option<UnixMillis>), HttpsRefused> {
    let refused = |path: &Path| {
        let path = path.to_owned();
        move |source| HttpsRefused::Tls { path, source }
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(&files.ca)? {
        roots.add(root).map_err(refused(&files.ca))?;
    }
    let chain = certificates(&files.certificate).map_err(|refused| match refused {
        HttpsRefused::Pem {
            path,
            source: PemError::Io(error),
        } if error.kind() == io::ErrorKind::NotFound => HttpsRefused::NotThere { path },
        refused => refused,
    })?;
    let until = chain.first().and_then(|leaf| end_of(leaf));
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|source| HttpsRefused::Pem {
        path: files.key.clone(),
        source,
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(refused(&files.ca))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(refused(&files.key))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((config, until))
}

impl Https {
    /// A source at `url`, which ends in `/public/` and has no query.
    ///
    /// The files are read now; make a new source when they changed.
    ///
    /// # Errors
    /// [`HttpsRefused`] names the URL or file and what is wrong with it.
    pub fn new(url: &str, files: &HttpsFiles) -> Result<Self, HttpsRefused> {
        let refused = || HttpsRefused::Url(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let host = uri.host().ok_or_else(refused)?;
        let authority = uri.authority().ok_or_else(refused)?.as_str();
        if uri.scheme_str() != Some("https") || uri.query().is_some() || authority.contains('@') {
            return Err(refused());
        }
        let plain = host.trim_start_matches('[').trim_end_matches(']');
        let server = ServerName::try_from(plain.to_owned()).map_err(|_| refused())?;
        let (config, until) = client_config(files)?;
        Ok(Self {
            base: format!("{}/", url.trim_end_matches('/')),
            address: format!("{host}:{}", uri.port_u16().unwrap_or(PORT)),
            authority: authority.to_owned(),
            server,
            tls: TlsConnector::from(Arc::new(config)),
            until,
            deadlines: DEADLINES,
            idle: Mutex::new(None),
        })
    }

    /// The last second of the client certificate's validity.
    #[must_use]
    pub const fn certificate_until(&self) -> Option<UnixMillis> {
        self.until
    }

    /// Reads a file, unless it is the one with this ETag; `path` is relative to the URL.
    pub(super) async fn get_unless(
        &self,
        path: &str,
        limit: usize,
        tag: Option<&str>,
    ) -> Result<Fetched, SourceError> {
        let url = format!("{}{path}", self.base);
        // Taken out while it is used: a request that is given up takes its connection with it.
        let idle = self.idle.lock().await.take();
        if let Some(mut sender) = idle.filter(|sender| !sender.is_closed()) {
            match self.ask(&mut sender, &url, limit, tag).await {
                Err(SourceError::Broken { .. }) => {}
                answer => return self.done(sender, answer).await,
            }
        }
        let mut sender = self.connect().await?;
        let answer = self.ask(&mut sender, &url, limit, tag).await;
        self.done(sender, answer).await
    }

    /// Keeps the connection after an answer that was read to its end.
    async fn done<T>(
        &self,
        sender: SendRequest<Empty<Bytes>>,
        answer: Result<T, SourceError>,
    ) -> Result<T, SourceError> {
        if answer.is_ok() {
            *self.idle.lock().await = Some(sender);
        }
        answer
    }

    /// Makes a connection.
    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, SourceError> {
        let failed = |source| SourceError::Connect {
            address: self.address.clone(),
            source,
        };
        let connected = timeout(self.deadlines.connect, async {
            let stream = TcpStream::connect(&self.address).await?;
            stream.set_nodelay(true)?;
            let stream = self.tls.connect(self.server.clone(), stream).await?;
            handshake(TokioIo::new(stream))
                .await
                .map_err(io::Error::other)
        });
        let late = |_| failed(io::ErrorKind::TimedOut.into());
        let (sender, connection) = connected.await.map_err(late)?.map_err(failed)?;
        // The connection's own error comes out at the request too.
        tokio::spawn(connection);
        Ok(sender)
    }

    /// One request and its answer.
    async fn ask(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        url: &str,
        limit: usize,
        tag: Option<&str>,
    ) -> Result<Fetched, SourceError> {
        let exchange = Box::pin(self.exchange(sender, url, limit, tag));
        let answer = timeout(self.deadlines.answer, exchange).await;
        answer.unwrap_or_else(|_| {
            Err(SourceError::Late {
                url: url.to_owned(),
                seconds: self.deadlines.answer.as_secs(),
            })
        })
    }

    /// As [`Self::ask`], without a deadline.
    async fn exchange(
        &self,
        sender: &mut SendRequest<Empty<Bytes>>,
        url: &str,
        limit: usize,
        tag: Option<&str>,
    ) -> Result<Fetched, SourceError> {
        let broken = |source: Box<dyn std::error::Error + Send + Sync>| SourceError::Broken {
            url: url.to_owned(),
            source,
        };
        let target = url
            .strip_prefix("https://")
            .and_then(|rest| rest.find('/').and_then(|at| rest.get(at..)));
        let mut request = Request::get(target.unwrap_or("/")).header(header::HOST, &self.authority);
        if let Some(tag) = tag {
            request = request.header(header::IF_NONE_MATCH, tag);
        }
        let request = request
            .body(Empty::new())
            .map_err(|error| broken(error.into()))?;
        sender.ready().await.map_err(|error| broken(error.into()))?;
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| broken(error.into()))?;
        let status = response.status();
        let named = response.headers().get(header::ETAG);
        let named = named.and_then(|tag| tag.to_str().ok().map(str::to_owned));
        let limit = match status {
            StatusCode::OK => limit,
            _ => limit.max(PROBLEM_BYTES_MAX),
        };
        let body = whole(response.into_body(), url, limit).await?;
        match status {
            StatusCode::OK => {
                let version = named.map(Version::Tag);
                Ok(Fetched::New(body, version))
            }
            StatusCode::NOT_MODIFIED if tag.is_some() => Ok(Fetched::Unchanged),
            StatusCode::NOT_FOUND => Ok(Fetched::Missing),
            other => Err(SourceError::Status {
                url: url.to_owned(),
                status: other.as_u16(),
                problem: problem(&body),
            }),
        }
    }
}

/// The sentence of a problem document (RFC 9457), as a line of a log may have it.
fn problem(body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let detail = document.as_ref().and_then(|it| it.get("detail")?.as_str());
    let Some(detail) = detail else {
        return "see that an appliance answers there, and that this client's certificate may read there"
            .to_owned();
    };
    let printable = detail.chars().filter(|c| !c.is_control());
    printable.take(PROBLEM_CHARS_MAX).collect()
}

/// Reads a body of at most `limit` octets into one buffer, so that many small chunks keep none of their own alive.
async fn whole<B>(mut body: B, url: &str, limit: usize) -> Result<Vec<u8>, SourceError>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut octets = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| SourceError::Broken {
            url: url.to_owned(),
            source: error.into(),
        })?;
        let Some(chunk) = frame.data_ref() else {
            continue;
        };
        if octets.len().saturating_add(chunk.len()) > limit {
            let path = url.to_owned();
            return Err(SourceError::Long { path, limit });
        }
        octets.extend_from_slice(chunk);
    }
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A chunk of one octet in a buffer of 8 KiB, which counts the buffers that are alive.
    struct Chunk(Arc<AtomicUsize>, Vec<u8>);

    impl AsRef<[u8]> for Chunk {
        fn as_ref(&self) -> &[u8] {
            self.1.get(..1).unwrap_or_default()
        }
    }

    impl Drop for Chunk {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// A body of so many chunks, and the most of their buffers that were alive at a time.
    struct Chunks {
        left: usize,
        alive: Arc<AtomicUsize>,
        most: usize,
    }

    impl Body for Chunks {
        type Data = Bytes;
        type Error = io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            let alive = self.alive.fetch_add(1, Ordering::SeqCst) + 1;
            self.most = self.most.max(alive);
            let chunk = Chunk(Arc::clone(&self.alive), vec![7; 8192]);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_owner(chunk)))))
        }
    }

    #[tokio::test]
    async fn small_chunks_keep_no_buffers_alive() {
        let chunks = |left| Chunks {
            left,
            alive: Arc::default(),
            most: 0,
        };
        let mut body = chunks(1000);
        let read = whole(&mut body, "https://x/", 1000).await.unwrap();
        assert_eq!((read.len(), body.most), (1000, 1));
        let long = whole(chunks(1001), "https://x/", 1000).await;
        assert!(matches!(long, Err(SourceError::Long { .. })), "{long:?}");
    }
}
