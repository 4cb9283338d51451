//! Makes proofs from a published log that hold without it.
//!
//! Owns the making of inclusion and consistency proofs. Promises that a proof handed out was verified against the
//! signed heads that it names, and that a tile which cannot be relied on is found by the entries below it. Never
//! says that there is no further entry about a serial: only [`status`](super::status) can. Memory does not grow
//! with the log where its hash tiles are published. Failure story: a proof that cannot be made ends as
//! [`NotVerified`] with the cause: a wrong tile, an altered entry, a fork, or a truncated log.

use std::path::Path;

use super::anchors::read_anchor;
use super::fault::{Cause, Fault};
use super::hashes::{Hashes, Origin};
use super::proof_file::{Consistency, Inclusion, Proven};
use super::standing::About;
use super::tree::Disagreement;
use super::{Named, NotVerified, Progress, bundles, read_head};
use crate::log::checkpoint::{Checkpoint, VerifierKey};
use crate::log::merkle::{
    Hash, NoProof, TileAt, consistency_proof, inclusion_proof, leaf_hash, range_root,
    verify_consistency, verify_inclusion,
};
use crate::log::tile::TILE_WIDTH;
use crate::log::{Entry, LeafIndex};
use crate::{SerialNumber, crl};

/// A file that states a head of the log.
#[derive(Clone, Debug)]
pub enum HeadFile {
    /// A checkpoint: a signed note.
    Note(String),
    /// A CRL (DER), whose log anchor has a checkpoint. The CRL's own signature is not looked at.
    Crl(Vec<u8>),
}

/// How two heads of one log stand to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The first is the older one.
    FirstIsOlder,
    /// The second is the older one.
    SecondIsOlder,
    /// Both state the same tree.
    Same,
}

/// Two heads of one history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// The head of the smaller tree.
    pub older: Checkpoint,
    /// The head of the greater tree.
    pub newer: Checkpoint,
    /// Which of them was given first.
    pub order: Order,
    /// The proof, which holds without the log.
    pub proof: Consistency,
}

/// A signed head: where it came from, its note, and what it states.
struct Signed {
    by: String,
    note: String,
    head: Checkpoint,
}

impl Signed {
    /// Reads a head that was brought along.
    fn read(file: &Named<HeadFile>, key: &VerifierKey) -> Result<Self, Fault> {
        let by = file.name.clone();
        let (note, head) = match &file.contents {
            HeadFile::Note(note) => {
                let head = Checkpoint::verify(note, key).map_err(|source| {
                    let by = by.clone();
                    Fault::whole(Cause::Witness { by, source })
                })?;
                (note.clone(), head)
            }
            HeadFile::Crl(der) => {
                let parsed = crl::parse_head(der).map_err(|refused| {
                    let (by, what) = (by.clone(), refused.0);
                    Fault::whole(Cause::Crl { by, what })
                })?;
                let head = read_anchor(&by, &parsed, key).map_err(Fault::whole)?;
                let (_, _, note) = parsed.anchor.unwrap_or_default();
                (note, head)
            }
        };
        Ok(Self { by, note, head })
    }

    /// Refuses a head that states more than is published: its tree cannot be had.
    fn within(&self, published: &Checkpoint) -> Result<(), Fault> {
        if self.head.size <= published.size {
            return Ok(());
        }
        let cause = Cause::Truncated {
            by: self.by.clone(),
            size: self.head.size,
            published: published.size,
        };
        Err(Fault::at(LeafIndex(published.size), cause))
    }
}

/// A published log, to make proofs from.
struct Maker<'a> {
    /// The directory `public/log`.
    log: &'a Path,
    /// The published head, and its note.
    published: (String, Checkpoint),
}

/// Collects the entries about a serial, each with its proof for the published head or for another one of at most
/// its size; `None` where the tree has no entry about it. `progress` is called once a bundle of 256 entries.
///
/// The proofs show that these entries are in the log, not that no other is.
///
/// # Errors
/// [`NotVerified::Fault`]: do not rely on the log or on the other head; keep both as evidence.
/// [`NotVerified::Unreadable`]: mend the copy and try again.
pub fn prove_inclusion(
    published: &Path,
    key: &VerifierKey,
    serial: SerialNumber,
    checkpoint: Option<&Named<HeadFile>>,
    progress: impl FnMut(Progress),
) -> Result<Option<Inclusion>, NotVerified> {
    let log = published.join("log");
    let maker = Maker::open(&log, key)?;
    let signed = match checkpoint {
        Some(file) => Signed::read(file, key)?,
        None => Signed {
            by: "the published checkpoint".into(),
            note: maker.published.0.clone(),
            head: maker.published.1.clone(),
        },
    };
    signed.within(&maker.published.1)?;
    let found = maker.find(serial, signed.head.size, progress)?;
    let mut entries = Vec::with_capacity(found.len());
    for (index, leaf) in found {
        let path = maker.prove_leaf(index, &leaf, &signed)?;
        // The proof holds, so the log key's owner put it there: what it says is for `status` to judge.
        let says =
            Entry::parse(&leaf).map_err(|refused| Fault::at(index, Cause::NotAnEntry(refused)))?;
        if says.index != index {
            return Err(Fault::at(index, Cause::Misplaced { says: says.index }).into());
        }
        if About::of(&says).is_none_or(|(of, _)| of != serial) {
            continue;
        }
        // A leaf that parses is JSON text, so nothing is lost.
        let leaf = String::from_utf8_lossy(&leaf).into_owned();
        entries.push(Proven { index, leaf, path });
    }
    Ok((!entries.is_empty()).then_some(Inclusion {
        checkpoint: signed.note,
        serial,
        entries,
    }))
}

/// Proves from published tiles that the newer of two heads extends the older one.
///
/// # Errors
/// [`NotVerified::Fault`]: with [`Cause::Fork`] there are two signed histories, which is proof of a fault whichever
/// is right; keep both heads as evidence. [`NotVerified::Unreadable`]: mend the copy and try again.
pub fn prove_consistency(
    published: &Path,
    key: &VerifierKey,
    first: &Named<HeadFile>,
    second: &Named<HeadFile>,
) -> Result<Judged, NotVerified> {
    let (first, second) = (Signed::read(first, key)?, Signed::read(second, key)?);
    let (order, older, newer) = match first.head.size.cmp(&second.head.size) {
        std::cmp::Ordering::Less => (Order::FirstIsOlder, first, second),
        std::cmp::Ordering::Equal => (Order::Same, first, second),
        std::cmp::Ordering::Greater => (Order::SecondIsOlder, second, first),
    };
    let path = if order == Order::Same {
        same(&older, &newer)?;
        Vec::new()
    } else {
        let log = published.join("log");
        Maker::open(&log, key)?.prove_extension(&older, &newer)?
    };
    let proof = Consistency {
        older: older.note,
        newer: newer.note,
        path,
    };
    let (older, newer) = (older.head, newer.head);
    Ok(Judged {
        older,
        newer,
        order,
        proof,
    })
}

/// Two heads of one size have one root, or there are two histories.
fn same(first: &Signed, second: &Signed) -> Result<(), Fault> {
    if first.head.root == second.head.root {
        return Ok(());
    }
    Err(fork(second, 0))
}

/// The fault of a head of another history than the log's.
fn fork(signed: &Signed, from: u64) -> Fault {
    let (by, size) = (signed.by.clone(), signed.head.size);
    Fault::whole(Cause::Fork { by, size, from })
}

impl<'a> Maker<'a> {
    /// Reads the published head.
    fn open(log: &'a Path, key: &VerifierKey) -> Result<Self, NotVerified> {
        let published = read_head(&log.join("checkpoint"), key)?;
        Ok(Self { log, published })
    }

    /// The leaves that have the serial's text, of the first `size`.
    fn find(
        &self,
        serial: SerialNumber,
        size: u64,
        mut progress: impl FnMut(Progress),
    ) -> Result<Vec<(LeafIndex, Vec<u8>)>, NotVerified> {
        let text = serial.to_string();
        let mut found = Vec::new();
        for bundle in 0..size.div_ceil(TILE_WIDTH) {
            let file = bundles::read(self.log, size, bundle)?;
            let leaves = bundles::leaves(size, bundle, &file)?;
            let mut done = bundles::first_of(bundle).0;
            for leaf in leaves {
                if has(leaf, text.as_bytes()) {
                    found.push((LeafIndex(done), leaf.to_vec()));
                }
                done += 1;
            }
            progress(Progress { done, of: size });
        }
        Ok(found)
    }

    /// The inclusion proof of a leaf.
    fn prove_leaf(
        &self,
        index: LeafIndex,
        leaf: &[u8],
        signed: &Signed,
    ) -> Result<Vec<Hash>, NotVerified> {
        let Checkpoint { size, root, .. } = &signed.head;
        let hash = leaf_hash(leaf);
        let made = self.prove(
            *size,
            |hashes| inclusion_proof(index.0, *size, |at| hashes.tile(at)),
            |path| verify_inclusion(&hash, index.0, *size, root, path).is_ok(),
        )?;
        made.map_or_else(|wrong| Err(self.judge(wrong, &[signed])?.into()), Ok)
    }

    /// The consistency proof of two heads.
    fn prove_extension(&self, older: &Signed, newer: &Signed) -> Result<Vec<Hash>, NotVerified> {
        newer.within(&self.published.1)?;
        let (old, new) = (&older.head, &newer.head);
        let made = self.prove(
            new.size,
            |hashes| consistency_proof(old.size, new.size, |at| hashes.tile(at)),
            |path| verify_consistency((old.size, &old.root), (new.size, &new.root), path).is_ok(),
        )?;
        made.map_or_else(|wrong| Err(self.judge(wrong, &[older, newer])?.into()), Ok)
    }

    /// Makes a proof that holds: from hash tiles and, where that does not hold, from the entries.
    ///
    /// The inner error is that of a proof that does not hold either way, with the tile that disagrees.
    fn prove(
        &self,
        size: u64,
        make: impl Fn(&mut Hashes<'_>) -> Result<Vec<Hash>, NoProof<NotVerified>>,
        holds: impl Fn(&[Hash]) -> bool,
    ) -> Result<Result<Vec<Hash>, Option<Disagreement>>, NotVerified> {
        match make(&mut Hashes::new(self.log, size, Origin::Tiles)) {
            Ok(path) if holds(&path) => return Ok(Ok(path)),
            Err(NoProof::Tile(_, NotVerified::Unreadable(unreadable))) => {
                return Err(unreadable.into());
            }
            // A wrong tile or another one: the entries tell.
            Ok(_) | Err(_) => {}
        }
        let mut entries = Hashes::new(self.log, size, Origin::Entries);
        let path = make(&mut entries).map_err(|refused| self.unmade(refused))?;
        if !holds(&path) {
            return Ok(Err(entries.disagreement));
        }
        match entries.disagreement {
            Some(wrong) => {
                let first = LeafIndex(wrong.first_entry());
                Err(Fault::at(first, Cause::Tile { path: wrong.path }).into())
            }
            None => Ok(Ok(path)),
        }
    }

    /// Why a proof that the entries and heads do not bear out cannot be had: what disagrees with what.
    fn judge(&self, wrong: Option<Disagreement>, heads: &[&Signed]) -> Result<Fault, NotVerified> {
        let published = &self.published.1;
        if self.root(published.size)? == published.root {
            // The entries are those of the published head, so it is a head brought along that is not.
            let mut from = 0;
            for signed in heads {
                if self.root(signed.head.size)? != signed.head.root {
                    return Ok(fork(signed, from));
                }
                from = signed.head.size;
            }
        }
        Ok(match wrong {
            Some(wrong) if wrong.position.is_some() => {
                let (first, count) = (LeafIndex(wrong.first_entry()), wrong.entries());
                let tile = wrong.path;
                Fault::at(first, Cause::Altered { tile, count })
            }
            _ => self.unlike_the_head(),
        })
    }

    /// The root of the first `count` entries, from the entries.
    fn root(&self, count: u64) -> Result<Hash, NotVerified> {
        let mut hashes = Hashes::new(self.log, count, Origin::Entries);
        range_root(count, count, |at: TileAt| hashes.tile(at))
            .map_err(|refused| self.unmade(refused))
    }

    /// The fault of entries that do not hash up to the published head.
    fn unlike_the_head(&self) -> Fault {
        let size = self.published.1.size;
        let (from, to) = (0, size.saturating_sub(1));
        Fault::whole(Cause::Root { size, from, to })
    }

    /// Why the entries make no proof.
    fn unmade(&self, refused: NoProof<NotVerified>) -> NotVerified {
        match refused {
            NoProof::Tile(_, fault) => fault,
            // Sizes were compared and bundles have the leaves that they should; so it is the log's fault.
            NoProof::Outside | NoProof::Short(_) => self.unlike_the_head().into(),
        }
    }
}

/// Whether a leaf has this text in it.
fn has(leaf: &[u8], text: &[u8]) -> bool {
    leaf.windows(text.len()).any(|window| window == text)
}
