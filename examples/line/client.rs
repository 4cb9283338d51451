//! An HTTP/1.1 connection to the appliance with a line's certificate, kept alive.
//!
//! Owns one TLS connection each. Promises that a lost connection is told from an answer, because only the
//! first is to be retried. Never sends a request by itself. Failure story: [`ClientError`] says what broke.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where the appliance is and who asks.
#[derive(Clone)]
pub struct Api {
    connector: TlsConnector,
    authority: String,
    server_name: ServerName<'static>,
}

/// A line's certificate chain and private key, PEM files.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    /// The certificate, leaf first.
    pub certificate: &'a Path,
    /// Its private key.
    pub key: &'a Path,
}

/// An open connection; one request at a time.
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    authority: String,
}

/// A request's contents.
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// The path and query.
    pub path: &'a str,
    /// The body's media type.
    pub content_type: &'a str,
    /// What the answer may be.
    pub accept: &'a str,
    /// The body.
    pub body: Bytes,
}

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is not `https://HOST[:PORT]`.
    #[error("{0:?} is not of the form https://HOST:PORT")]
    Url(String),
    /// A PEM file cannot be read or holds nothing of use.
    #[error("{}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// Certificate and key do not work with TLS.
    #[error("the client's certificate and key cannot be used")]
    Tls(#[source] rustls::Error),
    /// No connection, or it broke: retry.
    #[error("the connection failed")]
    Connection(#[source] std::io::Error),
    /// HTTP broke: retry.
    #[error("the exchange broke off")]
    Http(#[source] hyper::Error),
    /// The request itself is not HTTP.
    #[error("the request cannot be expressed in HTTP")]
    Request(#[source] hyper::http::Error),
}

impl Api {
    /// Prepares connections to `base` that trust `ca` only, with or without a client certificate.
    ///
    /// # Errors
    /// [`ClientError`]: correct the URL or the file that it names.
    pub fn new(base: &str, ca: &Path, identity: Option<Identity<'_>>) -> Result<Self, ClientError> {
        let not_a_url = || ClientError::Url(base.to_owned());
        let rest = base.strip_prefix("https://").ok_or_else(not_a_url)?;
        let host_and_port = rest.trim_end_matches('/');
        let (host, _port) = host_and_port.rsplit_once(':').ok_or_else(not_a_url)?;
        let server_name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let mut roots = rustls::RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(ClientError::Tls)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(ClientError::Tls)?
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let chain = certificates(identity.certificate)?;
                let key = PrivateKeyDer::from_pem_file(identity.key)
                    .map_err(|source| pem_error(identity.key, source))?;
                config
                    .with_client_auth_cert(chain, key)
                    .map_err(ClientError::Tls)?
            }
            None => config.with_no_client_auth(),
        };
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
            authority: host_and_port.to_owned(),
            server_name: server_name.map_err(|_| not_a_url())?,
        })
    }
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    all.map_err(|source| pem_error(path, source))
}

/// A PEM file's fault with its name.
fn pem_error(path: &Path, source: rustls::pki_types::pem::Error) -> ClientError {
    let path = path.to_owned();
    ClientError::Pem { path, source }
}

impl Connection {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// [`ClientError::Connection`] or [`ClientError::Http`]: try again after a pause.
    pub async fn open(api: &Api) -> Result<Self, ClientError> {
        let stream = TcpStream::connect(&api.authority).await;
        let stream = stream.map_err(ClientError::Connection)?;
        stream.set_nodelay(true).map_err(ClientError::Connection)?;
        let stream = api.connector.connect(api.server_name.clone(), stream).await;
        let stream = TokioIo::new(stream.map_err(ClientError::Connection)?);
        let (sender, connection) = handshake(stream).await.map_err(ClientError::Http)?;
        // The connection's own error also fails the request in flight, which reports it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            authority: api.authority.clone(),
        })
    }

    /// Sends one request and reads its whole answer.
    ///
    /// # Errors
    /// [`ClientError::Http`]: the request may or may not have been carried out; send the same again.
    pub async fn send(&mut self, call: Call<'_>) -> Result<Reply, ClientError> {
        self.sender.ready().await.map_err(ClientError::Http)?;
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, call.content_type)
            .header(ACCEPT, call.accept)
            .body(Full::new(call.body))
            .map_err(ClientError::Request)?;
        let response = self.sender.send_request(request).await;
        let (head, body) = response.map_err(ClientError::Http)?.into_parts();
        let body = body.collect().await.map_err(ClientError::Http)?.to_bytes();
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}
