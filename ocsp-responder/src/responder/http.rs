//! The public HTTP interface: OCSP, CRLs, CA certificates, checkpoints.
//!
//! Owns paths, methods and headers. Promises status 200 for every OCSP answer, error statuses included (RFC 6960, A.2),
//! the caching headers of RFC 5019, and that a request for what is kept is answered without waiting for anything. Never
//! serves a file of the log's own and never a path of the file system. Failure story: a panic costs one request, which
//! gets `internalError`, and is counted; every other fault is an answer.

pub mod body;
pub mod date;
mod range;

use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::timeout;

use super::State;
use super::answer::Reply;
use super::cache::SignedAnswer;
use super::clock::Moment;
use super::files::Published;
use super::metrics::Outcome;
use super::shares::Origin;
use crate::ocsp::{ErrorStatus, REQUEST_BYTES_MAX};
use body::Body;
use range::Part;

/// The media type of answers (RFC 6960, C.2).
const OCSP_RESPONSE: HeaderValue = HeaderValue::from_static("application/ocsp-response");
/// For what nobody may keep.
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// The media type of sentences.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The time for a request's body: 16 KiB pass any line within it.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

/// The longest origin in a path, in octets; its escapes take three each.
const ORIGIN_PATH_BYTES_MAX: usize = 1024;

/// The service of one connection from there.
#[derive(Clone, Debug)]
pub struct Service(pub Arc<State>, pub Origin);

/// An answer that is there, or in work.
pub enum Answering {
    /// There; `None` once it was taken.
    Ready(Option<Response<Body>>),
    /// In work: the body of the request is read.
    Working(Pin<Box<dyn Future<Output = Response<Body>> + Send>>),
}

impl std::fmt::Debug for Answering {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Ready(_) => "Ready",
            Self::Working(_) => "Working",
        })
    }
}

impl Future for Answering {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            // Polled again after its end, which nobody does: an empty answer is as good as any.
            Self::Ready(response) => Poll::Ready(Ok(response
                .take()
                .unwrap_or_else(|| Response::new(Body::empty())))),
            Self::Working(work) => work.as_mut().poll(cx).map(Ok),
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let is_ocsp_post = request.method() == Method::POST
            && matches!(request.uri().path(), "/ocsp" | "/ocsp/" | "/");
        if is_ocsp_post {
            let (state, origin) = (Arc::clone(&self.0), self.1);
            return Answering::Working(Box::pin(async move {
                post(&state, origin, request.into_body()).await
            }));
        }
        let (head, _) = request.into_parts();
        let answered = catch_unwind(AssertUnwindSafe(|| route(&self.0, self.1, &head)));
        Answering::Ready(Some(answered.unwrap_or_else(|_| panicked(&self.0))))
    }
}

/// The answer where the program is at fault.
fn panicked(state: &State) -> Response<Body> {
    state.metrics.panicked();
    state.metrics.count(Outcome::Internal);
    once(Bytes::from_static(ErrorStatus::InternalError.der()))
}

/// Answers everything but an OCSP request in a body.
fn route(state: &State, origin: Origin, head: &hyper::http::request::Parts) -> Response<Body> {
    if head.method != Method::GET && head.method != Method::HEAD {
        let mut response = sentence(
            StatusCode::METHOD_NOT_ALLOWED,
            "OCSP takes GET and POST at /ocsp; everything else is GET\n",
        );
        let allow = HeaderValue::from_static("GET, HEAD, POST");
        response.headers_mut().insert(header::ALLOW, allow);
        return response;
    }
    let path = head.uri.path();
    if let Some(request) = path.strip_prefix("/ocsp/") {
        let now = state.clock.now();
        return reply(
            state.answerer.get(state, origin, request, now),
            Some(&head.headers),
            now,
        );
    }
    if path == "/ocsp" {
        let now = state.clock.now();
        return reply(state.answerer.get(state, origin, "", now), None, now);
    }
    if let Some(origin) = path.strip_prefix("/checkpoint/") {
        return checkpoint(state, origin);
    }
    match state.files.find(path.strip_prefix('/').unwrap_or_default()) {
        Some(file) => published(&file, &head.headers),
        None => not_found(),
    }
}

/// Answers an OCSP request in a body.
async fn post(state: &State, origin: Origin, body: Incoming) -> Response<Body> {
    if body.size_hint().lower() > REQUEST_BYTES_MAX as u64 {
        return too_long(state);
    }
    let der = match timeout(BODY_DEADLINE, gather(body)).await {
        Ok(Gathered::Whole(der)) => der,
        Ok(Gathered::TooLong) => return too_long(state),
        // Whoever still listens gets a word; the connection is at its end.
        Ok(Gathered::Broken) => {
            return sentence(StatusCode::BAD_REQUEST, "the request broke off\n");
        }
        Err(_) => {
            let mut response = sentence(
                StatusCode::REQUEST_TIMEOUT,
                "the request did not arrive in time\n",
            );
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
            return response;
        }
    };
    let answered = catch_unwind(AssertUnwindSafe(|| {
        reply(
            state.answerer.ask(state, origin, &der),
            None,
            state.clock.now(),
        )
    }));
    answered.unwrap_or_else(|_| panicked(state))
}

/// What came of a body.
#[derive(Debug, PartialEq, Eq)]
enum Gathered {
    /// All of it.
    Whole(Vec<u8>),
    /// More than any OCSP request has.
    TooLong,
    /// Its beginning.
    Broken,
}

/// Reads a body into one buffer. A frame is let go before the next one comes: each pins the buffer that it was received
/// in, some 4 KiB, however little of it is its own.
async fn gather<B: hyper::body::Body<Data = Bytes> + Unpin>(mut body: B) -> Gathered {
    let mut octets = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else {
            return Gathered::Broken;
        };
        // What is no data is a trailer, which says nothing here.
        let data = frame.into_data().unwrap_or_default();
        if octets.len() + data.len() > REQUEST_BYTES_MAX {
            return Gathered::TooLong;
        }
        octets.extend_from_slice(&data);
    }
    Gathered::Whole(octets)
}

/// The answer to a body that no OCSP request has.
fn too_long(state: &State) -> Response<Body> {
    state.metrics.count(Outcome::Malformed);
    once(Bytes::from_static(ErrorStatus::MalformedRequest.der()))
}

/// An OCSP answer; `asked` are the headers of a GET request, which may be conditional.
fn reply(reply: Reply, asked: Option<&HeaderMap>, now: Moment) -> Response<Body> {
    match reply {
        Reply::Shared(answer) | Reply::New(answer) => shared(&answer, asked, now),
        Reply::Once(body) => once(body),
        Reply::Error(status) => once(Bytes::from_static(status.der())),
    }
}

/// An answer that nobody may keep.
fn once(body: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::whole(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCSP_RESPONSE);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// An answer that caches on the way may keep until its nextUpdate (RFC 5019, 6.2).
fn shared(answer: &SignedAnswer, asked: Option<&HeaderMap>, now: Moment) -> Response<Body> {
    // No longer than the answer lives, where this clock was set back to before thisUpdate.
    let now = Moment {
        date: now.date.max(answer.this_update),
        ..now
    };
    let seconds = answer.next_update.0.saturating_sub(now.date.0) / 1000;
    let cache_control = [
        "max-age=",
        &seconds.to_string(),
        ", public, no-transform, must-revalidate",
    ]
    .concat();
    let known = asked.is_some_and(|asked| is_known(asked, &answer.etag));
    let body = if known {
        Body::empty()
    } else {
        Body::whole(answer.body.clone())
    };
    let mut response = Response::new(body);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, OCSP_RESPONSE);
    // Digits and letters are always a header's value; the shared form is not copied again.
    let cache_control = HeaderValue::from_maybe_shared(Bytes::from(cache_control));
    headers.insert(header::CACHE_CONTROL, cache_control.unwrap_or(NO_STORE));
    headers.insert(header::ETAG, answer.etag.clone());
    headers.insert(header::LAST_MODIFIED, answer.last_modified.clone());
    headers.insert(header::EXPIRES, answer.expires.clone());
    response
}

/// Whether the client has what this entity tag names (RFC 9110, 13.1.2).
fn is_known(asked: &HeaderMap, etag: &HeaderValue) -> bool {
    asked.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let tags = value
            .as_bytes()
            .split(|octet| *octet == b',')
            .map(<[u8]>::trim_ascii);
        let mut plain = tags.map(|tag| tag.strip_prefix(b"W/").unwrap_or(tag));
        plain.any(|tag| tag == b"*" || tag == etag.as_bytes())
    })
}

/// A sentence.
fn sentence(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::whole(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// There is nothing.
fn not_found() -> Response<Body> {
    sentence(
        StatusCode::NOT_FOUND,
        "not here: /ocsp, /crl/ISSUER.crl, /ca/ISSUER.cer and /checkpoint/ORIGIN are\n",
    )
}

/// The last verified head of a log, cosigned.
fn checkpoint(state: &State, origin: &str) -> Response<Body> {
    let Some(origin) = unescaped(origin) else {
        return not_found();
    };
    let log = state.logs.iter().find(|log| log.key.name() == origin);
    let cosigned = log.and_then(|log| log.cosigned(state));
    let Some(note) = cosigned else {
        return not_found();
    };
    let mut response = Response::new(Body::whole(note));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, TEXT);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// A path's part without its escapes; none where they are broken.
fn unescaped(text: &str) -> Option<String> {
    if text.len() > ORIGIN_PATH_BYTES_MAX {
        return None;
    }
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            plain => plain,
        });
    }
    String::from_utf8(octets).ok()
}

/// A published file, whole or a part of it.
fn published(file: &Published, asked: &HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::ETAG, file.etag.clone());
    headers.insert(header::LAST_MODIFIED, file.last_modified.clone());
    headers.insert(header::CACHE_CONTROL, file.cache_control());
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let unchanged = match asked.get(header::IF_NONE_MATCH) {
        Some(_) => is_known(asked, &file.etag),
        None => asked.get(header::IF_MODIFIED_SINCE) == Some(&file.last_modified),
    };
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return response;
    }
    headers.insert(header::CONTENT_TYPE, file.media_type());
    let length = file.len();
    match range::wanted(asked, &file.etag, &file.last_modified, length) {
        Part::Whole => *response.body_mut() = file.part(0, length),
        Part::Bytes { from, length: part } => {
            let to = from + part.saturating_sub(1);
            content_range(
                response.headers_mut(),
                &format!("bytes {from}-{to}/{length}"),
            );
            *response.status_mut() = StatusCode::PARTIAL_CONTENT;
            *response.body_mut() = file.part(from, part);
        }
        Part::None => {
            content_range(response.headers_mut(), &format!("bytes */{length}"));
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        }
    }
    response
}

/// Says which part of a file follows.
fn content_range(headers: &mut HeaderMap, text: &str) {
    // Numbers and punctuation are always a header's value.
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(header::CONTENT_RANGE, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_compared_weakly() {
        let etag = HeaderValue::from_static("\"abc\"");
        for (value, known) in [
            ("\"abc\"", true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("*", true),
            ("\"x\"", false),
            ("abc", false),
        ] {
            let mut asked = HeaderMap::new();
            asked.insert(header::IF_NONE_MATCH, HeaderValue::from_static(value));
            assert_eq!(is_known(&asked, &etag), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &etag));
    }

    /// Frames of a few octets, each in a buffer of its own as a socket fills them; at most one may be held at a time.
    struct Frames {
        left: usize,
        length: usize,
        broken: bool,
        held: Arc<()>,
    }

    /// A buffer that is counted while it lives.
    struct Counted(Vec<u8>, #[expect(dead_code, reason = "counted")] Arc<()>);

    impl AsRef<[u8]> for Counted {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl hyper::body::Body for Frames {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<std::io::Result<hyper::body::Frame<Bytes>>>> {
            assert_eq!(Arc::strong_count(&self.held), 1, "the frame before is held");
            if self.left == 0 {
                let error = || Err(std::io::ErrorKind::ConnectionReset.into());
                return Poll::Ready(self.broken.then(error));
            }
            self.left -= 1;
            let buffer = Counted(vec![7; self.length], Arc::clone(&self.held));
            let data = Bytes::from_owner(buffer);
            Poll::Ready(Some(Ok(hyper::body::Frame::data(data))))
        }
    }

    #[tokio::test]
    async fn a_body_is_one_buffer_however_it_comes() {
        let frames = |left, length, broken| Frames {
            left,
            length,
            broken,
            held: Arc::default(),
        };
        let most = REQUEST_BYTES_MAX;
        for (left, length) in [(most, 1), (1, most), (0, 1), (most / 2, 2)] {
            let whole = Gathered::Whole(vec![7; left * length]);
            assert_eq!(gather(frames(left, length, false)).await, whole);
        }
        for (left, length) in [(most + 1, 1), (1, most + 1), (3, most / 2)] {
            let gathered = gather(frames(left, length, false)).await;
            assert_eq!(gathered, Gathered::TooLong);
        }
        assert_eq!(gather(frames(3, 1, true)).await, Gathered::Broken);
    }

    #[test]
    fn escapes_are_undone() {
        assert_eq!(
            unescaped("log.example%2Fa").as_deref(),
            Some("log.example/a")
        );
        assert_eq!(unescaped("log.example/a").as_deref(), Some("log.example/a"));
        for bad in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(unescaped(bad), None, "{bad}");
        }
    }
}
