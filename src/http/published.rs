//! What the appliance publishes, for readers: `/public/…` and `/private/…`.
//!
//! Owns which files these paths name. Promises that a path names nothing but what the appliance publishes under that
//! exact name (no other directory, no file that is being written, no second spelling), that a file is sent as it was
//! when its headers were and never held in memory as a whole, that disk work is bounded for all readers together, and that
//! a reader that takes nothing holds its place for no longer than a while. Asks nothing of the log: it answers while
//! issuing is halted. Never writes. Failure story: what cannot be read costs one answer; a file that breaks off closes
//! its connection, so that it does not look whole.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use certstatus::log::IssuerName;
use certstatus::log::entry::Slug;
use certstatus::log::tile::{FULL, detail_bundle_path, entry_bundle_path, hash_tile_path};
use certstatus::regular;
use hyper::body::{Bytes, Frame};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::problem::{Problem, kind};
use super::{Api, Asked, Peer};
use crate::limits;
use crate::ra::Area;
use crate::signing_log::Publication;

/// What is read of a file at a time, in bytes.
const PIECE_BYTES: u64 = 64 * 1024;

/// Pieces of one file that wait for the reader: the one that is sent, and the next.
const PIECES_WAITING: usize = 1;

/// The longest that a reader may take for one piece: 2 KiB/s, slower than any network that is of use here.
const PIECE_DEADLINE: Duration = Duration::from_secs(30);

/// The published files; clones share the bound on disk work.
#[derive(Clone, Debug)]
pub(super) struct Published {
    places: Publication,
    reads: Arc<Semaphore>,
}

/// A file that is open, with what names this version of it.
struct Found {
    file: File,
    length: u64,
    tag: String,
}

impl Published {
    /// The files at these places.
    pub(super) fn new(places: Publication) -> Self {
        let reads = Arc::new(Semaphore::new(limits::READER_READS_MAX));
        Self { places, reads }
    }

    /// Where a path of an area is, if the appliance publishes such a file.
    fn locate(&self, area: Area, path: &str) -> Option<PathBuf> {
        let root = match area {
            Area::Public if is_public(path) => &self.places.published,
            Area::Private if is_private(path) => &self.places.details,
            Area::Public | Area::Private => return None,
        };
        Some(root.join(path))
    }

    /// Does what waits for the disk, beside few others.
    async fn on_disk<T, F>(&self, work: F) -> io::Result<T>
    where
        T: Send + 'static,
        F: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let place = Arc::clone(&self.reads).acquire_owned().await;
        let place = place.map_err(io::Error::other)?;
        let worked = tokio::task::spawn_blocking(move || {
            // Held by the work, which goes on where nobody waits for it any more.
            let _place = place;
            work()
        });
        worked.await.map_err(io::Error::other)?
    }

    /// Sends a file piece by piece, for as long as the reader takes them.
    async fn send(self, file: File, length: u64, to: mpsc::Sender<Bytes>) {
        let file = Arc::new(file);
        let mut at = 0;
        while at < length {
            let (piece, file) = (PIECE_BYTES.min(length - at), Arc::clone(&file));
            match self.on_disk(move || read_at(&file, at, piece)).await {
                Ok(bytes) => match timeout(PIECE_DEADLINE, to.send(bytes)).await {
                    Ok(Ok(())) => at += piece,
                    // The reader is gone, or as good as.
                    Ok(Err(_)) | Err(_) => return,
                },
                Err(error) => {
                    tracing::error!(%error, "a published file breaks off while it is sent");
                    return;
                }
            }
        }
    }
}

/// Opens a regular file; none where there is none.
fn open(path: &Path) -> io::Result<Option<Found>> {
    use io::ErrorKind::{InvalidData, NotADirectory, NotFound};
    let (file, metadata) = match regular::open(path) {
        Err(error) if matches!(error.kind(), NotFound | NotADirectory | InvalidData) => {
            return Ok(None);
        }
        opened => opened?,
    };
    Ok(Some(Found {
        length: metadata.len(),
        tag: tag(&metadata),
        file,
    }))
}

/// What names this version of a file: published files are replaced and never changed, so another one is another file.
fn tag(metadata: &Metadata) -> String {
    let (seconds, nanoseconds) = (metadata.mtime(), metadata.mtime_nsec());
    let (number, length) = (metadata.ino(), metadata.len());
    format!("\"{number:x}-{seconds:x}.{nanoseconds:x}-{length:x}\"")
}

/// A part of a file.
fn read_at(file: &File, from: u64, length: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    file.read_exact_at(&mut bytes, from)?;
    Ok(bytes.into())
}

/// `GET /public/…`.
pub(super) async fn public(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    answer(&api, peer, Area::Public, &uri, &headers).await
}

/// `GET /private/…`.
pub(super) async fn private(
    State(api): State<Api>,
    Extension(peer): Extension<Peer>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    answer(&api, peer, Area::Private, &uri, &headers).await
}

/// The file that a path names, for a reader who may read it.
async fn answer(api: &Api, peer: Peer, area: Area, uri: &Uri, headers: &HeaderMap) -> Response {
    if let Err(refused) = api.reader(peer, area) {
        let problem = Problem::from(&refused);
        api.note(&problem, peer, Asked::default());
        return problem.into_response();
    }
    // What is not there is no refusal: readers look for what may have come.
    let path = uri.path().splitn(3, '/').nth(2).unwrap_or_default();
    let Some(at) = api.inner.published.locate(area, path) else {
        return super::unknown_path(uri).into_response();
    };
    let opened = api.inner.published.on_disk(move || open(&at)).await;
    match opened {
        Ok(Some(found)) => file(&api.inner.published, path, found, headers).await,
        Ok(None) => {
            let detail = format!("nothing is published at {}", uri.path());
            Problem::new(&kind::NO_SUCH_PATH, detail).into_response()
        }
        Err(error) => Problem::internal(&error).into_response(),
    }
}

/// A file, or word that the reader has it already.
async fn file(published: &Published, path: &str, found: Found, headers: &HeaderMap) -> Response {
    let Found { file, length, tag } = found;
    let known = headers.get_all(header::IF_NONE_MATCH);
    let is_known = known.iter().any(|value| names(value, &tag));
    let body = if is_known {
        Body::empty()
    } else if length <= PIECE_BYTES {
        match published.on_disk(move || read_at(&file, 0, length)).await {
            Ok(bytes) => Body::from(bytes),
            Err(error) => return Problem::internal(&error).into_response(),
        }
    } else {
        let (to, pieces) = mpsc::channel(PIECES_WAITING);
        tokio::spawn(published.clone().send(file, length, to));
        Body::new(Pieces {
            left: length,
            pieces,
        })
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else {
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(media_type(path)),
        );
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    let headers = response.headers_mut();
    // Each request is judged anew, so no cache may answer for us without asking.
    let ask = HeaderValue::from_static("private, no-cache");
    headers.insert(header::CACHE_CONTROL, ask);
    // Digits, '-', '.' and quotes: always a header's value.
    if let Ok(tag) = HeaderValue::try_from(tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}

/// Whether an If-None-Match names this tag (RFC 9110, 13.1.2).
fn names(value: &HeaderValue, tag: &str) -> bool {
    let tags = value.to_str().unwrap_or_default().split(',').map(str::trim);
    let mut plain = tags.map(|it| it.strip_prefix("W/").unwrap_or(it));
    plain.any(|it| it == "*" || it == tag)
}

/// The media type of what a path names.
fn media_type(path: &str) -> &'static str {
    match path.rsplit_once('.') {
        // RFC 2585, 4.1 and 4.2.
        Some((_, "cer")) => "application/pkix-cert",
        Some((_, "crl")) => "application/pkix-crl",
        _ if path == "log/checkpoint" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// Whether a path is one below `public/`, in its one spelling.
fn is_public(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["log", "checkpoint"] => true,
        ["log", "tile", "entries", place @ ..] => is_place(place, |at, width| {
            format!("log/{}", entry_bundle_path(at, width)) == path
        }),
        ["log", "tile", level, place @ ..] => level.parse().is_ok_and(|level| {
            is_place(place, |at, width| {
                format!("log/{}", hash_tile_path(level, at, width)) == path
            })
        }),
        ["crl", file] => is_issuer(file, ".crl"),
        ["crl", issuer, file] => {
            issuer.parse::<IssuerName>().is_ok()
                && file.strip_suffix(".crl").is_some_and(is_partition)
        }
        ["ca", file] => is_issuer(file, ".cer"),
        ["responders", name, file] => name.parse::<Slug>().is_ok() && is_issuer(file, ".cer"),
        _ => false,
    }
}

/// Whether a path is one below `private/`, in its one spelling.
fn is_private(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    match parts.as_slice() {
        ["details", place @ ..] => {
            is_place(place, |at, width| detail_bundle_path(at, width) == path)
        }
        _ => false,
    }
}

/// Whether the parts of a tile's or bundle's place (`x001/234.p/5`) are what the encoder makes of that place.
fn is_place(parts: &[&str], is_made_of: impl Fn(u64, u16) -> bool) -> bool {
    let (groups, width) = match parts {
        [groups @ .., last, width] if last.ends_with(".p") => match width.parse() {
            Ok(width @ 1..FULL) => ([groups, &[&last[..last.len() - 2]]].concat(), width),
            _ => return false,
        },
        groups => (groups.to_vec(), FULL),
    };
    let mut at = 0_u64;
    for group in &groups {
        let digits = group.strip_prefix('x').unwrap_or(group);
        let Ok(value @ 0..1000) = digits.parse::<u64>() else {
            return false;
        };
        let shifted = at.checked_mul(1000).and_then(|at| at.checked_add(value));
        let Some(next) = shifted else { return false };
        at = next;
    }
    // Whatever was read leniently above is another spelling.
    !groups.is_empty() && is_made_of(at, width)
}

/// Whether it is an issuer's name with this ending.
fn is_issuer(file: &str, ending: &str) -> bool {
    let name = file.strip_suffix(ending);
    name.is_some_and(|name| name.parse::<IssuerName>().is_ok())
}

/// Whether it is a partition's number in decimal.
fn is_partition(text: &str) -> bool {
    let number: Result<u32, _> = text.parse();
    number.is_ok_and(|number| number.to_string() == text)
}

/// A file as it is read.
struct Pieces {
    left: u64,
    pieces: mpsc::Receiver<Bytes>,
}

/// A file that breaks off.
#[derive(Debug, thiserror::Error)]
#[error("the file breaks off")]
struct BrokenOff;

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.pieces.poll_recv(cx).map(|piece| match piece {
            Some(piece) => {
                self.left = self.left.saturating_sub(piece.len() as u64);
                Some(Ok(Frame::data(piece)))
            }
            None if self.left == 0 => None,
            None => Some(Err(BrokenOff)),
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn paths_are_those_that_are_published_in_their_one_spelling() {
        for path in [
            "log/checkpoint",
            "log/tile/0/000",
            "log/tile/0/000.p/1",
            "log/tile/7/255.p/255",
            "log/tile/entries/999",
            "log/tile/entries/x001/000",
            "log/tile/entries/x001/x234/067.p/17",
            "crl/device-1.crl",
            "crl/device-1/0.crl",
            "crl/device-1/4096.crl",
            "ca/device-root.cer",
            "responders/ocsp-1/device-1.cer",
        ] {
            assert!(is_public(path) && !is_private(path), "{path}");
        }
        for path in ["details/000", "details/000.p/3", "details/x001/234"] {
            assert!(is_private(path) && !is_public(path), "{path}");
        }
        for path in [
            "",
            "/",
            "log",
            "log/",
            "log/checkpoint/",
            "log//checkpoint",
            "log/checkpoint.new",
            "log/.checkpoint",
            "log/../log/checkpoint",
            "../private/details/000",
            "log/tile/0",
            "log/tile/0/",
            "log/tile/00/000",
            "log/tile/+1/000",
            "log/tile/256/000",
            "log/tile/0/0",
            "log/tile/0/0000",
            "log/tile/0/+01",
            "log/tile/0/x000/000",
            "log/tile/0/x001",
            "log/tile/0/001/000",
            "log/tile/0/000.p",
            "log/tile/0/000.p/0",
            "log/tile/0/000.p/01",
            "log/tile/0/000.p/256",
            "log/tile/0/.p/1",
            "log/tile/0/x999/x999/x999/x999/x999/x999/x999/999",
            "log/tile/entries/000/000.p/1",
            "crl/.crl",
            "crl/device-1",
            "crl/Device-1.crl",
            "crl/device-1/01.crl",
            "crl/device-1/-1.crl",
            "crl/../crl.crl",
            "ca/device-1.crl",
            "ca/device-1.cer.tmp",
            "responders/ocsp-1/.device-1.cer",
            "responders/../device-1.cer",
            "responders/device-1.cer",
            "details",
            "details/",
            "details/0",
            "details/../details/000",
            "private/details/000",
        ] {
            assert!(!is_public(path) && !is_private(path), "{path}");
        }
    }

    #[test]
    fn a_reader_has_what_it_names() {
        for (value, known) in [
            ("\"a-1.2-3\"", true),
            ("W/\"a-1.2-3\"", true),
            ("\"b\", \"a-1.2-3\"", true),
            ("*", true),
            ("\"b\"", false),
            ("a-1.2-3", false),
        ] {
            let value = HeaderValue::from_static(value);
            assert_eq!(names(&value, "\"a-1.2-3\""), known, "{value:?}");
        }
    }

    #[tokio::test]
    async fn a_file_that_breaks_off_does_not_look_whole() {
        for (length, whole) in [(3, true), (4, false)] {
            let (to, pieces) = mpsc::channel(1);
            let sent = tokio::spawn(async move {
                let _sent = to.send(Bytes::from_static(b"abc")).await;
            });
            let body = Pieces {
                left: length,
                pieces,
            };
            assert_eq!(body.collect().await.is_ok(), whole);
            sent.await.unwrap();
        }
    }

    #[test]
    fn another_file_in_its_place_has_another_tag() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("f");
        let look = || open(&path).unwrap();
        assert!(look().is_none());
        certstatus::durable::write(&path, b"one").unwrap();
        let first = look().unwrap();
        assert_eq!(first.tag, look().unwrap().tag);
        certstatus::durable::write(&path, b"two").unwrap();
        let second = look().unwrap();
        assert_ne!(first.tag, second.tag);
        assert_eq!(read_at(&first.file, 0, 3).unwrap(), "one", "as it was");
        assert!(open(directory.path()).unwrap().is_none(), "no file");
    }
}
