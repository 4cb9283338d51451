//! The state directory of one log: what survives a restart.
//!
//! Owns its files and the order in which they are written. Promises that a crash at any point leaves the old manifest
//! or the new one, each with every file that it names, and that no other process writes meanwhile.
//! Never deletes evidence. Failure story: an error of writing leaves what was there; a manifest that is not what was
//! written is told from one that is absent, and the view makes it anew from the log.
//!
//! | file | holds |
//! |---|---|
//! | `lock` | nothing; locked while a process uses the directory |
//! | `head` | the newest head that was verified, a signed note: it outlives a damaged index, so that even then a rolled-back or forked log is found |
//! | `manifest` | the position in the log and the names of the segments: one line with the SHA-256 of the rest, then JSON |
//! | `N.segment` | records: see `segment.rs` |
//! | `fork` | two heads that contradict each other: evidence, for an operator to keep and then to remove |

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use base64ct::{Base64, Encoding as _};
use serde::{Deserialize, Serialize};

use super::book::{Book, Issuer};
use super::error::ViewError;
use super::record::{RECORD_BYTES, Record};
use super::segment::{Segment, file_name};
use crate::log::checkpoint::{Checkpoint, VerifierKey};
use crate::log::merkle::{Frontier, Hash};
use crate::log::{DetailHash, IssuerName};
use crate::{SerialNumber, UnixMillis, durable, hex};

/// The version of the manifest's format; another one is made anew from the log.
const VERSION: u8 = 2;

/// A position in the log: everything that following needs beside the segments.
#[derive(Clone, Debug)]
pub(super) struct Position {
    /// The tree so far.
    pub frontier: Frontier,
    /// What the entries so far say.
    pub book: Book,
    /// The head that the tree was compared with, and its signed note; none before the first.
    pub head: Option<(Checkpoint, String)>,
}

impl Position {
    /// Before entry 0.
    pub(super) fn start(key: VerifierKey) -> Self {
        Self {
            frontier: Frontier::default(),
            book: Book::new(key),
            head: None,
        }
    }
}

/// What a manifest says.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Where the view stands.
    pub position: Position,
    /// Numbers of the segments and their records, oldest first.
    pub segments: Vec<(u64, u64)>,
    /// The records that no segment has yet.
    pub recent: Vec<Record>,
}

/// The manifest in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    version: u8,
    log_key: String,
    note: String,
    edge: Vec<String>,
    newest: UnixMillis,
    issuers: Vec<WireIssuer>,
    open: BTreeMap<u64, (u16, SerialNumber)>,
    segments: Vec<(u64, u64)>,
    recent: String,
}

/// An issuer in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireIssuer {
    name: IssuerName,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    spki: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    certificate: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    crls: BTreeMap<u32, u64>,
}

/// What was found in a state directory.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing: the first start.
    Nothing,
    /// A manifest.
    Manifest(Box<Manifest>),
    /// A manifest that is not what was written, or none where there should be one.
    Damaged(String),
}

/// A locked state directory.
#[derive(Debug)]
pub(super) struct StateDir {
    path: PathBuf,
    next_segment: AtomicU64,
    /// Held for as long as this lives.
    _lock: File,
    #[cfg(test)]
    pub(super) seam: seam::Seam,
}

impl StateDir {
    /// Makes and locks the directory.
    pub(super) fn open(path: &Path) -> Result<Self, ViewError> {
        let storage = |source| ViewError::Storage {
            path: path.to_owned(),
            source,
        };
        std::fs::create_dir_all(path).map_err(storage)?;
        let lock = File::options()
            .create(true)
            .append(true)
            .open(path.join("lock"))
            .map_err(storage)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(ViewError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(storage(source)),
        }
        Ok(Self {
            path: path.to_owned(),
            next_segment: AtomicU64::new(1),
            _lock: lock,
            #[cfg(test)]
            seam: seam::Seam::default(),
        })
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// A number for a new segment.
    pub(super) fn next_segment(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    /// The head that was verified last, with its note.
    pub(super) fn read_head(
        &self,
        key: &VerifierKey,
    ) -> Result<Option<(Checkpoint, String)>, ViewError> {
        let path = self.path.join("head");
        let note = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ViewError::Storage { path, source }),
            // What is not UTF-8 is not signed either.
            Ok(octets) => String::from_utf8_lossy(&octets).into_owned(),
        };
        match Checkpoint::verify(&note, key) {
            Ok(head) => Ok(Some((head, note))),
            Err(source) => Err(ViewError::KeptHead { path, source }),
        }
    }

    /// The manifest.
    pub(super) fn read_manifest(&self, key: &VerifierKey) -> Result<Found, ViewError> {
        let path = self.path.join("manifest");
        let octets = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(source) => return Err(ViewError::Storage { path, source }),
            Ok(octets) => octets,
        };
        let damaged = |what: &str| Ok(Found::Damaged(format!("{}: {what}", path.display())));
        let Some(wire) = checked(&octets) else {
            return damaged("it is not what was written");
        };
        if wire.version != VERSION {
            return damaged("it is of another version");
        }
        if wire.log_key != key.to_string() {
            return Err(ViewError::OtherLog {
                path: self.path.clone(),
                found: wire.log_key,
            });
        }
        let Some(manifest) = wire.into_manifest(key) else {
            return damaged("it contradicts itself");
        };
        let last = manifest
            .segments
            .iter()
            .map(|(id, _)| *id)
            .max()
            .unwrap_or(0);
        self.next_segment.fetch_max(last + 1, Ordering::Relaxed);
        Ok(Found::Manifest(Box::new(manifest)))
    }

    /// Takes away segments that no manifest names: a crash left them.
    pub(super) fn remove_strays(&self, used: &[(u64, u64)]) -> io::Result<()> {
        let used: Vec<String> = used.iter().map(|(id, _)| file_name(*id)).collect();
        for entry in std::fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.ends_with(".segment") && !used.iter().any(|used| *used == name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Keeps a head that was verified.
    pub(super) fn write_head(&self, note: &str) -> io::Result<()> {
        self.write("head", note.as_bytes())
    }

    /// Writes the manifest: from now on a restart begins here.
    pub(super) fn write_manifest(
        &self,
        position: &Position,
        segments: &[std::sync::Arc<Segment>],
        recent: &[Record],
    ) -> io::Result<()> {
        // The names of new segments come to the disk before the manifest that names them.
        File::open(&self.path)?.sync_all()?;
        let octets = Wire::of(position, segments, recent).encode();
        let written = self.write("manifest", &octets);
        match written {
            // Renamed, but perhaps not durably so: whatever a crash brings back, its segments are there.
            Err(error) if std::fs::read(self.path.join("manifest")).ok() == Some(octets) => {
                segments
                    .iter()
                    .for_each(|segment| segment.set_disposable(false));
                Err(error)
            }
            written => written,
        }
    }

    /// Keeps the proof that the log key signed two histories.
    pub(super) fn write_fork(&self, kept: &str, offered: &str) -> io::Result<()> {
        let text = format!(
            "This log's key signed two heads of which neither extends the other.\n\
             Keep this file as evidence. Nothing more of the log is believed. Which history is true\n\
             decides what to do: docs/OCSP.md, 'A fork'.\n\n\
             The head that was verified before:\n\n{kept}\n\
             The head that was published then, or stands in a CRL:\n\n{offered}"
        );
        self.write("fork", text.as_bytes())
    }

    /// The evidence of a fork, if there is some.
    pub(super) fn fork(&self) -> io::Result<Option<PathBuf>> {
        let path = self.path.join("fork");
        Ok(path.try_exists()?.then_some(path))
    }

    /// Replaces one file.
    fn write(&self, name: &str, octets: &[u8]) -> io::Result<()> {
        self.step(name)?;
        durable::write(&self.path.join(name), octets)?;
        self.step(name)
    }

    /// Where tests stop the program or the disk.
    #[cfg(test)]
    pub(super) fn step(&self, name: &str) -> io::Result<()> {
        self.seam.step(name)
    }

    /// Nothing, in production.
    #[cfg(not(test))]
    #[expect(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "tests fail here"
    )]
    pub(super) const fn step(&self, _name: &str) -> io::Result<()> {
        Ok(())
    }
}

/// The JSON after a checksum that agrees.
fn checked(octets: &[u8]) -> Option<Wire> {
    let (sum, rest) = octets.split_first_chunk::<64>()?;
    let json = rest.strip_prefix(b"\n")?;
    if hex::encode(&DetailHash::of(json).0).as_bytes() != sum {
        return None;
    }
    serde_json::from_slice(json).ok()
}

impl Wire {
    /// What is to be written.
    fn of(position: &Position, segments: &[std::sync::Arc<Segment>], recent: &[Record]) -> Self {
        let Position {
            frontier,
            book,
            head,
        } = position;
        let issuers = book.issuers().iter().map(|issuer| WireIssuer {
            name: issuer.name.clone(),
            spki: issuer.bound.map(|(spki, _)| hex::encode(&spki)),
            certificate: issuer
                .bound
                .map(|(_, certificate)| hex::encode(&certificate)),
            crls: issuer.crls.clone(),
        });
        let octets: Vec<u8> = recent.iter().flat_map(Record::encode).collect();
        Self {
            version: VERSION,
            log_key: book.log_key().to_string(),
            note: head
                .as_ref()
                .map(|(_, note)| note.clone())
                .unwrap_or_default(),
            edge: frontier
                .edge()
                .iter()
                .map(|hash| hex::encode(hash))
                .collect(),
            newest: book.newest().unwrap_or(UnixMillis(0)),
            issuers: issuers.collect(),
            open: book.open().clone(),
            segments: segments
                .iter()
                .map(|segment| (segment.id(), segment.records()))
                .collect(),
            recent: Base64::encode_string(&octets),
        }
    }

    /// The file's octets.
    fn encode(&self) -> Vec<u8> {
        // Serialising strings and integers to memory cannot fail.
        let json = serde_json::to_vec(self).unwrap_or_default();
        let mut octets = hex::encode(&DetailHash::of(&json).0).into_bytes();
        octets.push(b'\n');
        octets.extend(json);
        octets
    }

    /// What was read; `None` where it contradicts itself. Its head is verified once more.
    fn into_manifest(self, key: &VerifierKey) -> Option<Manifest> {
        let head = Checkpoint::verify(&self.note, key).ok()?;
        let edge: Option<Vec<Hash>> = self
            .edge
            .iter()
            .map(|hash| hex::decode_array(hash).ok())
            .collect();
        let frontier = Frontier::from_parts(head.size, edge?)?;
        if frontier.root() != head.root {
            return None;
        }
        let mut issuers = Vec::new();
        for issuer in self.issuers {
            let bound = match (issuer.spki, issuer.certificate) {
                (Some(spki), Some(certificate)) => Some((
                    hex::decode_array(&spki).ok()?,
                    hex::decode_array(&certificate).ok()?,
                )),
                _ => None,
            };
            issuers.push(Issuer {
                name: issuer.name,
                bound,
                crls: issuer.crls,
            });
        }
        let octets = Base64::decode_vec(&self.recent).ok()?;
        let (records, rest) = octets.as_chunks::<RECORD_BYTES>();
        let recent: Option<Vec<Record>> = records.iter().map(Record::decode).collect();
        let book = Book::resume(key.clone(), head.size, self.newest, issuers, self.open);
        rest.is_empty().then_some(())?;
        Some(Manifest {
            position: Position {
                frontier,
                book,
                head: Some((head, self.note)),
            },
            segments: self.segments,
            recent: recent?,
        })
    }
}

/// Where tests stop the program or the disk.
#[cfg(test)]
pub(super) mod seam {
    use std::fmt;
    use std::io;
    use std::sync::{Mutex, PoisonError};

    /// What happens at a step.
    type Hook = Box<dyn FnMut(&str) -> io::Result<()> + Send>;

    /// A hook, called before and after each write with the file's name.
    #[derive(Default)]
    pub(in super::super) struct Seam(Mutex<Option<Hook>>);

    impl fmt::Debug for Seam {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Seam")
        }
    }

    impl Seam {
        /// Calls `hook` at each step from now on.
        pub(in super::super) fn set(
            &self,
            hook: impl FnMut(&str) -> io::Result<()> + Send + 'static,
        ) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(hook));
        }

        /// Passes every step again.
        pub(in super::super) fn clear(&self) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }

        pub(super) fn step(&self, name: &str) -> io::Result<()> {
            let mut hook = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            hook.as_mut().map_or(Ok(()), |hook| hook(name))
        }
    }
}
