//! Proof files: an inclusion or consistency proof with everything that it takes to check it, but the log key.
//!
//! Owns the file's format (docs/LOG-FORMAT.md, section 7) and the check. Promises that one proof has one
//! encoding, that nothing of a file is believed before the log key's signature on its checkpoint verified, and
//! that what [`Proof::check`] gives back is proved by the file alone. Never reads a log.
//! Failure story: bytes that are no proof file are [`NotAProof`]; a proof that does not hold is [`ProofRefused`]:
//! believe nothing that it says.

use serde::{Deserialize, Serialize};

use super::standing::About;
use crate::log::checkpoint::{BadNote, Checkpoint, VerifierKey};
use crate::log::entry::NotAnEntry;
use crate::log::merkle::{Hash, leaf_hash, verify_consistency, verify_inclusion};
use crate::log::{Entry, LeafIndex};
use crate::{SerialNumber, hex};

/// The longest proof file in bytes: thousands of entries about one serial.
pub const PROOF_FILE_BYTES_MAX: usize = 1 << 24;

/// The version of the format that is written and read here.
const VERSION: u8 = 1;

/// What a proof file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// That entries about a serial are in the log.
    Inclusion(Inclusion),
    /// That one head of the log extends another.
    Consistency(Consistency),
}

/// Entries about a serial, each with the proof that it is in the tree of one signed head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The head, a signed note.
    pub checkpoint: String,
    /// The serial that the entries are about.
    pub serial: SerialNumber,
    /// The entries, at least one, by index.
    pub entries: Vec<Proven>,
}

/// An entry and its inclusion proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Its index.
    pub index: LeafIndex,
    /// Its leaf, canonical JSON.
    pub leaf: String,
    /// The proof (RFC 9162, 2.1.3.1), from the leaf's sibling upwards.
    pub path: Vec<Hash>,
}

/// Two heads of a log, and the proof that the newer extends the older.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consistency {
    /// The head of the smaller tree, a signed note.
    pub older: String,
    /// The head of the greater tree, a signed note.
    pub newer: String,
    /// The proof (RFC 9162, 2.1.4.1).
    pub path: Vec<Hash>,
}

/// Why bytes are not a proof file.
#[derive(Debug, thiserror::Error)]
pub enum NotAProof {
    /// Longer than [`PROOF_FILE_BYTES_MAX`].
    #[error("a proof file has at most {PROOF_FILE_BYTES_MAX} bytes")]
    Long,
    /// Not the JSON of a proof.
    #[error("not a proof's JSON")]
    Json(#[source] serde_json::Error),
    /// A version of the format that this program does not know.
    #[error("proof file version {0} is not known")]
    Version(u8),
    /// A field that this kind needs is absent, or one that it has not is there.
    #[error("the fields do not fit the kind of proof")]
    Fields,
    /// JSON of a proof, but not in its one encoding.
    #[error("not the canonical encoding of its contents")]
    NotCanonical,
}

/// Why a proof is not to be believed.
#[derive(Debug, thiserror::Error)]
pub enum ProofRefused {
    /// A head in it is not the log's.
    #[error("its {which}checkpoint is not one that the log key signed")]
    Head {
        /// Which of its heads, with a space after it; empty where it has one only.
        which: &'static str,
        /// Why.
        #[source]
        source: BadNote,
    },
    /// There is nothing in it.
    #[error("it has no entry")]
    Empty,
    /// The entries are not in the order of the log.
    #[error("entry {0} is not after the one before it")]
    Order(LeafIndex),
    /// A leaf is not one.
    #[error("the leaf of entry {index} is not a canonical leaf")]
    NotAnEntry {
        /// Where it should stand.
        index: LeafIndex,
        /// Why.
        #[source]
        source: NotAnEntry,
    },
    /// A leaf belongs elsewhere.
    #[error("the leaf of entry {index} says that it is entry {says}")]
    Misplaced {
        /// Where it should stand.
        index: LeafIndex,
        /// Where it says that it stands.
        says: LeafIndex,
    },
    /// An entry is about something else.
    #[error("entry {0} is not about the proof's serial")]
    OtherSerial(LeafIndex),
    /// The hashes do not lead from the entry to the head.
    #[error("the proof of entry {0} does not lead to the root that the checkpoint states")]
    Inclusion(LeafIndex),
    /// The hashes do not lead from one head to the other.
    #[error("the proof does not lead from the older checkpoint's root to that of the newer one")]
    Consistency,
}

/// What a proof shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// These entries about the serial are in the tree of this head.
    Inclusion {
        /// The head.
        head: Checkpoint,
        /// The serial.
        serial: SerialNumber,
        /// The entries.
        entries: Vec<About>,
    },
    /// The newer head's tree begins with the older one's entries.
    Consistency {
        /// The head of the smaller tree.
        older: Checkpoint,
        /// The head of the greater tree.
        newer: Checkpoint,
    },
}

/// The file as it stands in JSON: fields in alphabetical order, which is the canonical order.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checkpoint: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    entries: Option<Vec<WireEntry>>,
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    newer: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    older: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proof: Option<Vec<HashText>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    serial: Option<SerialNumber>,
    v: u8,
}

/// An entry in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireEntry {
    index: LeafIndex,
    leaf: String,
    proof: Vec<HashText>,
}

/// The discriminator.
#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    Inclusion,
    Consistency,
}

/// A hash as 64 hex digits.
#[derive(Clone, Copy)]
struct HashText(Hash);

impl Serialize for HashText {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&hex::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for HashText {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        let hash = hex::decode_array(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(hash))
    }
}

impl Proof {
    /// The file's bytes: canonical JSON and a newline.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        // Serialising strings and integers to memory cannot fail.
        let mut bytes = serde_json::to_vec(&Wire::from(self)).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file and refuses any but the one encoding of its contents; the newline at its end may be gone.
    ///
    /// # Errors
    /// [`NotAProof`]: the file was damaged or altered, or is of another version; it proves nothing.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAProof> {
        if bytes.len() > PROOF_FILE_BYTES_MAX {
            return Err(NotAProof::Long);
        }
        let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let wire: Wire = serde_json::from_slice(bytes).map_err(NotAProof::Json)?;
        if wire.v != VERSION {
            return Err(NotAProof::Version(wire.v));
        }
        let proof = wire.into_proof().ok_or(NotAProof::Fields)?;
        // One comparison catches white space, other orders, doubled names and stray fields alike.
        if proof.encode().strip_suffix(b"\n") != Some(bytes) {
            return Err(NotAProof::NotCanonical);
        }
        Ok(proof)
    }

    /// Checks the proof with the log's verifier key, the one thing that is trusted, and gives back what it shows.
    ///
    /// # Errors
    /// [`ProofRefused`]: believe nothing of the proof.
    pub fn check(&self, key: &VerifierKey) -> Result<Shown, ProofRefused> {
        let head = |which, note: &str| {
            Checkpoint::verify(note, key).map_err(|source| ProofRefused::Head { which, source })
        };
        match self {
            Self::Inclusion(proof) => proof.check(head("", &proof.checkpoint)?),
            Self::Consistency(Consistency { older, newer, path }) => {
                let (older, newer) = (head("older ", older)?, head("newer ", newer)?);
                let (old, new) = ((older.size, &older.root), (newer.size, &newer.root));
                verify_consistency(old, new, path).map_err(|_| ProofRefused::Consistency)?;
                Ok(Shown::Consistency { older, newer })
            }
        }
    }
}

impl Inclusion {
    /// Checks each entry against the head.
    fn check(&self, head: Checkpoint) -> Result<Shown, ProofRefused> {
        if self.entries.is_empty() {
            return Err(ProofRefused::Empty);
        }
        let mut entries: Vec<About> = Vec::with_capacity(self.entries.len());
        for proven in &self.entries {
            let index = proven.index;
            if entries.last().is_some_and(|before| before.index >= index) {
                return Err(ProofRefused::Order(index));
            }
            entries.push(proven.check(self.serial, &head)?);
        }
        let serial = self.serial;
        Ok(Shown::Inclusion {
            head,
            serial,
            entries,
        })
    }
}

impl Proven {
    /// Checks the entry against the head.
    fn check(&self, serial: SerialNumber, head: &Checkpoint) -> Result<About, ProofRefused> {
        let index = self.index;
        let leaf = self.leaf.as_bytes();
        // The tree first: nothing of a leaf is believed before.
        let hash = leaf_hash(leaf);
        verify_inclusion(&hash, index.0, head.size, &head.root, &self.path)
            .map_err(|_| ProofRefused::Inclusion(index))?;
        let entry =
            Entry::parse(leaf).map_err(|source| ProofRefused::NotAnEntry { index, source })?;
        if entry.index != index {
            let says = entry.index;
            return Err(ProofRefused::Misplaced { index, says });
        }
        match About::of(&entry) {
            Some((of, about)) if of == serial => Ok(about),
            _ => Err(ProofRefused::OtherSerial(index)),
        }
    }
}

/// Hashes as texts.
fn texts(path: &[Hash]) -> Vec<HashText> {
    path.iter().copied().map(HashText).collect()
}

/// Texts as hashes.
fn hashes(texts: Vec<HashText>) -> Vec<Hash> {
    texts.into_iter().map(|text| text.0).collect()
}

impl From<&Proof> for Wire {
    fn from(proof: &Proof) -> Self {
        let empty = |kind| Self {
            checkpoint: None,
            entries: None,
            kind,
            newer: None,
            older: None,
            proof: None,
            serial: None,
            v: VERSION,
        };
        match proof {
            Proof::Inclusion(Inclusion {
                checkpoint,
                serial,
                entries,
            }) => {
                let entry = |proven: &Proven| WireEntry {
                    index: proven.index,
                    leaf: proven.leaf.clone(),
                    proof: texts(&proven.path),
                };
                Self {
                    checkpoint: Some(checkpoint.clone()),
                    entries: Some(entries.iter().map(entry).collect()),
                    serial: Some(*serial),
                    ..empty(Kind::Inclusion)
                }
            }
            Proof::Consistency(Consistency { older, newer, path }) => Self {
                newer: Some(newer.clone()),
                older: Some(older.clone()),
                proof: Some(texts(path)),
                ..empty(Kind::Consistency)
            },
        }
    }
}

impl Wire {
    /// The proof, if the fields are those of its kind. Stray ones are found by encoding again.
    fn into_proof(self) -> Option<Proof> {
        Some(match self.kind {
            Kind::Inclusion => {
                let entry = |entry: WireEntry| Proven {
                    index: entry.index,
                    leaf: entry.leaf,
                    path: hashes(entry.proof),
                };
                Proof::Inclusion(Inclusion {
                    checkpoint: self.checkpoint?,
                    serial: self.serial?,
                    entries: self.entries?.into_iter().map(entry).collect(),
                })
            }
            Kind::Consistency => Proof::Consistency(Consistency {
                older: self.older?,
                newer: self.newer?,
                path: hashes(self.proof?),
            }),
        })
    }
}
