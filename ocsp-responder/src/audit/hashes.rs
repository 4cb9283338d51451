//! The hashes that proofs are made from: published hash tiles, or the entries themselves.
//!
//! Owns the way from a tile's place to its hashes. Promises to read no more than a proof needs, and memory of
//! an eighth of an octet for each entry that is hashed. Never decides whether a tile or an entry is the wrong
//! one: only the signed head can. Failure story: what cannot be read ends the proof as [`NotVerified`]; a tile
//! that does not agree with the entries below it is remembered.

use std::collections::HashMap;
use std::path::Path;

use super::fault::{Cause, Fault};
use super::tree::Disagreement;
use super::{NotVerified, bundles, files};
use crate::log::LeafIndex;
use crate::log::merkle::{Hash, leaf_hash, subtree_root};
use crate::log::tile::{FULL, TileAt, hash_tile_path, parse_hashes};

/// Where hashes are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The published hash tiles, and the entries where a tile is not published.
    Tiles,
    /// The entries; published tiles are compared with them.
    Entries,
}

/// A hash tile as it is published.
struct Published {
    path: String,
    /// Its first hashes; `None` where it cannot be read as a tile.
    hashes: Option<Vec<Hash>>,
}

/// The hashes of a tree of so many entries.
pub(super) struct Hashes<'a> {
    /// The directory `public/log`.
    log: &'a Path,
    /// Entries of the tree.
    size: u64,
    origin: Origin,
    /// Tiles above level 0, each of which may stand for many entries that were read.
    kept: HashMap<TileAt, Vec<Hash>>,
    /// The first tile that does not agree with the entries below it.
    pub disagreement: Option<Disagreement>,
}

impl<'a> Hashes<'a> {
    /// The hashes of a tree of `size` entries that are published in `log`.
    pub(super) fn new(log: &'a Path, size: u64, origin: Origin) -> Self {
        Self {
            log,
            size,
            origin,
            kept: HashMap::new(),
            disagreement: None,
        }
    }

    /// The hashes of one tile.
    pub(super) fn tile(&mut self, at: TileAt) -> Result<Vec<Hash>, NotVerified> {
        if let Some(kept) = self.kept.get(&at) {
            return Ok(kept.clone());
        }
        let hashes = match self.origin {
            Origin::Tiles => match self.published(at)? {
                Some(Published {
                    hashes: Some(hashes),
                    ..
                }) => hashes,
                Some(Published { path, .. }) => return Err(wrong(at, path).into()),
                None => self.made(at)?,
            },
            Origin::Entries => {
                let hashes = self.made(at)?;
                self.compare(at, &hashes)?;
                hashes
            }
        };
        if at.level > 0 {
            self.kept.insert(at, hashes.clone());
        }
        Ok(hashes)
    }

    /// The published tile; `None` where there is none.
    fn published(&self, at: TileAt) -> Result<Option<Published>, NotVerified> {
        let count = self
            .size
            .checked_shr(u32::from(at.level) * 8)
            .unwrap_or_default();
        let path = |index, width| hash_tile_path(at.level, index, width);
        let found = files::read_tile(self.log, at.index, count, path)?;
        Ok(found.map(|found| {
            let hashes = parse_hashes(&found.bytes, found.width).ok();
            let first = |mut hashes: Vec<Hash>| {
                hashes.truncate(usize::from(at.width));
                hashes
            };
            Published {
                path: found.path,
                hashes: hashes.map(first),
            }
        }))
    }

    /// The tile's hashes from what is below it: leaves, or tiles of the level below.
    fn made(&mut self, at: TileAt) -> Result<Vec<Hash>, NotVerified> {
        let Some(below) = at.level.checked_sub(1) else {
            let found = bundles::read(self.log, self.size, at.index)?;
            let leaves = bundles::leaves(self.size, at.index, &found)?;
            return Ok(leaves.into_iter().map(leaf_hash).collect());
        };
        let first = at.index.saturating_mul(u64::from(FULL));
        let tiles = (first..).take(usize::from(at.width));
        let root = |index| {
            let (level, width) = (below, FULL);
            let at = TileAt {
                level,
                index,
                width,
            };
            self.tile(at).map(|hashes| subtree_root(&hashes))
        };
        tiles.map(root).collect()
    }

    /// Remembers the first published tile that is not what the entries make.
    fn compare(&mut self, at: TileAt, hashes: &[Hash]) -> Result<(), NotVerified> {
        if self.disagreement.is_some() {
            return Ok(());
        }
        let Some(Published {
            path,
            hashes: published,
        }) = self.published(at)?
        else {
            return Ok(());
        };
        let position = match published {
            None => None,
            Some(published) => {
                let differs = |(there, here)| there != here;
                match published.iter().zip(hashes).position(differs) {
                    None => return Ok(()),
                    position => position,
                }
            }
        };
        self.disagreement = Some(Disagreement { path, at, position });
        Ok(())
    }
}

/// The fault of a tile that cannot be read as one.
fn wrong(at: TileAt, path: String) -> Fault {
    let position = None;
    let tile = Disagreement { path, at, position };
    Fault::at(
        LeafIndex(tile.first_entry()),
        Cause::Tile { path: tile.path },
    )
}
