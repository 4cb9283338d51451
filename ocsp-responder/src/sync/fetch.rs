//! Where CRLs are fetched from: plain HTTP, or a file.
//!
//! Owns the way from a source to octets. Promises bounded size, a deadline on each step that a peer can delay, that no
//! redirect is followed, and that what did not change is not read again. Trusts nothing that it reads: CRLs are signed, so
//! TLS would add nothing but another thing that ends. Failure story: [`FetchError`]; the caller asks again later.

use std::fmt;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::handshake;
use hyper::header::HeaderValue;
use hyper::{Request, Response, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::crl::CRL_BYTES_MAX;
use crate::regular;
use crate::responder::etag;

/// The time for a connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// The time for the head of an answer, and for each next piece of it.
const PIECE_DEADLINE: Duration = Duration::from_secs(15);

/// The time for a whole answer: the longest CRL at 220 kB/s.
const WHOLE_DEADLINE: Duration = Duration::from_secs(600);

/// Where a CRL is to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// `http://HOST[:PORT]/PATH`.
    Http {
        /// Host and port, for connecting.
        address: String,
        /// What the Host header says.
        authority: String,
        /// Path and query.
        target: String,
    },
    /// A file, such as `public/crl/ISSUER.crl` of the appliance or a mirror.
    File(PathBuf),
}

/// What tells one version of a source's CRL from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version {
    /// The entity tag (RFC 9110, 8.8.3) that `hallmark-ocsp` gives these octets. Never what a server said: whoever stood
    /// in the way once could have us name a tag for ever that matches every version.
    Tag(HeaderValue),
    /// When the file was changed, its length and number.
    Stamp(Option<SystemTime>, u64, u64),
}

/// What a source has.
#[derive(Debug)]
pub enum Fetched {
    /// Still the version that was named.
    Same,
    /// These octets, and what tells their version where anything does.
    Octets(Vec<u8>, Option<Version>),
}

/// A source gives no CRL.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The file system refuses.
    #[error("it cannot be read")]
    File(#[source] io::Error),
    /// Nobody answers at the address.
    #[error("it cannot be reached")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke")]
    Broken(#[from] hyper::Error),
    /// The answer is no CRL.
    #[error("the answer is {0}")]
    Status(StatusCode),
    /// It is elsewhere.
    #[error("the answer is {0}, and redirects are not followed: name the URL that has it")]
    Redirect(StatusCode),
    /// It is too long.
    #[error("it is longer than {CRL_BYTES_MAX} octets")]
    Long,
    /// No answer in time.
    #[error("no {what} within {} s", within.as_secs())]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        within: Duration,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http {
                authority, target, ..
            } => write!(f, "http://{authority}{target}"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Waits for a step of a peer.
async fn within<T>(
    deadline: Duration,
    what: &'static str,
    step: impl Future<Output = T>,
) -> Result<T, FetchError> {
    let late = |_| FetchError::Late {
        what,
        within: deadline,
    };
    timeout(deadline, step).await.map_err(late)
}

impl Source {
    /// Reads a URL.
    ///
    /// # Errors
    /// What would be right.
    pub fn url(text: &str) -> Result<Self, &'static str> {
        let wrong = "must be files or URLs such as http://ocsp-1.example:8080/crl/device-1.crl (plain HTTP: CRLs are signed)";
        let uri: Uri = text.parse().map_err(|_| wrong)?;
        let authority = uri.authority().ok_or(wrong)?.as_str();
        if uri.scheme_str() != Some("http") || authority.contains('@') || uri.path() == "/" {
            return Err(wrong);
        }
        let (host, port) = (uri.host().ok_or(wrong)?, uri.port_u16().unwrap_or(80));
        let target = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self::Http {
            address: format!("{host}:{port}"),
            authority: authority.to_owned(),
            target: target.to_owned(),
        })
    }

    /// Fetches the CRL, unless it is still of the known version.
    ///
    /// # Errors
    /// [`FetchError`]: ask again later.
    pub async fn fetch(&self, known: Option<Version>) -> Result<Fetched, FetchError> {
        match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read(&path, known.as_ref()));
                // A file system may hang; its thread is left behind then.
                let read = within(WHOLE_DEADLINE, "whole file", read).await?;
                read.map_err(|gone| FetchError::File(io::Error::other(gone)))?
            }
            Self::Http {
                address,
                authority,
                target,
            } => {
                let asked = Box::pin(ask(address, authority, target, known));
                within(WHOLE_DEADLINE, "whole answer", asked).await?
            }
        }
    }
}

/// Reads a file that is not of the known version.
fn read(path: &Path, known: Option<&Version>) -> Result<Fetched, FetchError> {
    let (file, metadata) = regular::open(path).map_err(FetchError::File)?;
    let version = Version::Stamp(metadata.modified().ok(), metadata.len(), metadata.ino());
    if known == Some(&version) {
        return Ok(Fetched::Same);
    }
    let mut octets = Vec::new();
    file.take(CRL_BYTES_MAX as u64 + 1)
        .read_to_end(&mut octets)
        .map_err(FetchError::File)?;
    if octets.len() > CRL_BYTES_MAX {
        return Err(FetchError::Long);
    }
    Ok(Fetched::Octets(octets, Some(version)))
}

/// One request on a connection of its own, and its answer.
async fn ask(
    address: &str,
    authority: &str,
    target: &str,
    known: Option<Version>,
) -> Result<Fetched, FetchError> {
    let stream = within(CONNECT_DEADLINE, "connection", TcpStream::connect(address));
    let stream = stream.await?.map_err(FetchError::Connect)?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    // Its error comes out at the request too; it ends with the sender.
    let connection = tokio::spawn(connection);
    let mut request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::CONNECTION, "close");
    if let Some(Version::Tag(tag)) = &known {
        request = request.header(header::IF_NONE_MATCH, tag);
    }
    let request = request
        .body(Empty::<Bytes>::new())
        .map_err(|error| FetchError::Connect(io::Error::other(error)))?;
    let response = within(PIECE_DEADLINE, "answer", sender.send_request(request)).await??;
    let fetched = judge(response, known.is_some()).await;
    connection.abort();
    fetched
}

/// What an answer says.
async fn judge(response: Response<Incoming>, conditional: bool) -> Result<Fetched, FetchError> {
    match response.status() {
        StatusCode::OK => {}
        StatusCode::NOT_MODIFIED if conditional => return Ok(Fetched::Same),
        other if other.is_redirection() => return Err(FetchError::Redirect(other)),
        other => return Err(FetchError::Status(other)),
    }
    let stated = response.headers().get(header::CONTENT_LENGTH);
    let stated = stated.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if stated.is_some_and(|length| length > CRL_BYTES_MAX) {
        return Err(FetchError::Long);
    }
    let mut body = response.into_body();
    let mut octets = Vec::new();
    while let Some(frame) = within(PIECE_DEADLINE, "next piece", body.frame()).await? {
        if let Ok(piece) = frame?.into_data() {
            if octets.len() + piece.len() > CRL_BYTES_MAX {
                return Err(FetchError::Long);
            }
            octets.extend_from_slice(&piece);
        }
    }
    let version = Version::Tag(etag(&octets));
    Ok(Fetched::Octets(octets, Some(version)))
}
