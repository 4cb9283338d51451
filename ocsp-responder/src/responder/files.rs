//! The files that are served: CRLs and CA certificates that verified.
//!
//! Owns the way from a path to contents. Promises that only what was put here is served, so no path reaches the file
//! system, and that a file's headers and contents belong together. Where two logs have files of one name, the first
//! log's has the short path; each has a path with its log's name before it. Never verifies, never fetches.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Arc, PoisonError, RwLock};

use hyper::body::Bytes;
use hyper::header::HeaderValue;

use super::http::body::Body;
use super::http::date::header_value;
use crate::UnixMillis;
use crate::log::DetailHash;

/// Files up to this length stay in memory.
const MEMORY_MAX: usize = 64 * 1024;

/// The kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `application/pkix-crl` (RFC 5280, 4.2.1.13).
    Crl,
    /// `application/pkix-cert` (RFC 5280, 4.2.2.1).
    Certificate,
}

/// Where the octets are.
#[derive(Debug)]
enum Contents {
    Memory(Bytes),
    Disk(Arc<File>, u64),
}

/// A file as it is served.
#[derive(Debug)]
pub struct Published {
    /// The entity tag, quoted.
    pub etag: HeaderValue,
    /// When it was made.
    pub last_modified: HeaderValue,
    kind: Kind,
    contents: Contents,
}

/// The entity tag of octets, quoted.
pub fn etag(octets: &[u8]) -> HeaderValue {
    let hash = crate::hex::encode(&DetailHash::of(octets).0);
    // Hex digits in quotes are always a header's value.
    HeaderValue::from_str(&format!("\"{hash}\""))
        .unwrap_or_else(|_| HeaderValue::from_static("\"\""))
}

impl Published {
    /// Of these octets, which `file`, if given, has too.
    pub fn new(kind: Kind, octets: &[u8], modified: UnixMillis, file: Option<File>) -> Self {
        let contents = match file {
            Some(file) if octets.len() > MEMORY_MAX => {
                Contents::Disk(Arc::new(file), octets.len() as u64)
            }
            _ => Contents::Memory(Bytes::copy_from_slice(octets)),
        };
        Self {
            etag: etag(octets),
            last_modified: header_value(modified),
            kind,
            contents,
        }
    }

    /// Octets.
    pub fn len(&self) -> u64 {
        match &self.contents {
            Contents::Memory(octets) => octets.len() as u64,
            Contents::Disk(_, length) => *length,
        }
    }

    /// The media type.
    pub const fn media_type(&self) -> HeaderValue {
        HeaderValue::from_static(match self.kind {
            Kind::Crl => "application/pkix-crl",
            Kind::Certificate => "application/pkix-cert",
        })
    }

    /// How long others may keep it: a CRL is replaced at each revocation, so it is asked for anew, by its tag.
    pub const fn cache_control(&self) -> HeaderValue {
        HeaderValue::from_static(match self.kind {
            Kind::Crl => "public, no-cache",
            Kind::Certificate => "public, max-age=3600",
        })
    }

    /// So many octets from this one on; they must be there.
    pub fn part(&self, from: u64, length: u64) -> Body {
        match &self.contents {
            Contents::Disk(file, _) => Body::part(Arc::clone(file), from, length),
            Contents::Memory(octets) => {
                let end = usize::try_from(from.saturating_add(length)).unwrap_or(usize::MAX);
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let end = end.min(octets.len());
                Body::whole(octets.slice(from.min(end)..end))
            }
        }
    }
}

/// The files of all logs.
#[derive(Debug)]
pub struct Files {
    logs: Vec<String>,
    /// By path, such as `crl/device-1.crl`; for each log one or none.
    by_path: RwLock<HashMap<String, Vec<Option<Arc<Published>>>>>,
}

impl Files {
    /// Of logs of these names, none yet.
    pub fn new(logs: Vec<String>) -> Self {
        Self {
            logs,
            by_path: RwLock::default(),
        }
    }

    /// Serves a file of a log at a path. Whether a log before it has the short path.
    pub fn set(&self, log: usize, path: &str, file: Published) -> bool {
        let mut by_path = self.by_path.write().unwrap_or_else(PoisonError::into_inner);
        let of_logs = by_path.entry(path.to_owned()).or_default();
        of_logs.resize(self.logs.len(), None);
        if let Some(place) = of_logs.get_mut(log) {
            *place = Some(Arc::new(file));
        }
        of_logs.iter().take(log).any(Option::is_some)
    }

    /// The file at a path, with or without the name of its log.
    pub fn find(&self, path: &str) -> Option<Arc<Published>> {
        let by_path = self.by_path.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_logs) = by_path.get(path) {
            return of_logs.iter().flatten().next().map(Arc::clone);
        }
        let (log, path) = path.split_once('/')?;
        let log = self.logs.iter().position(|name| name == log)?;
        by_path.get(path)?.get(log)?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_have_paths_of_their_own() {
        let files = Files::new(vec!["a".into(), "b".into()]);
        let file = |text: &[u8]| Published::new(Kind::Crl, text, UnixMillis(0), None);
        assert!(!files.set(1, "crl/x.crl", file(b"of b")));
        let length = |path: &str| files.find(path).map(|file| file.len());
        assert_eq!(length("crl/x.crl"), Some(4));
        assert!(!files.set(0, "crl/x.crl", file(b"a")));
        assert!(
            files.set(1, "crl/x.crl", file(b"of b again")),
            "the first log has it"
        );
        assert_eq!(
            (
                length("crl/x.crl"),
                length("a/crl/x.crl"),
                length("b/crl/x.crl")
            ),
            (Some(1), Some(1), Some(10))
        );
        for none in ["", "c/crl/x.crl", "crl/../crl/x.crl", "crl", "b/crl"] {
            assert_eq!(length(none), None, "{none}");
        }
    }
}
