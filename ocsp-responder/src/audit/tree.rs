//! Hashes the entries up and compares every hash tile on the way.
//!
//! Owns the growing tree and its history: the root at any earlier size can be asked for. Promises
//! memory of an eighth of an octet an entry. Never decides whether the entry or the tile is the wrong
//! one: only the signed head can, at the end.

use std::collections::HashMap;
use std::path::Path;

use super::files::{self, Unreadable};
use crate::log::merkle::{Hash, NoProof, range_root};
use crate::log::tile::{Edge, FULL, TileAt, hash_tile_path, parse_hashes};

/// A hash tile that does not agree with the entries.
#[derive(Debug)]
pub(super) struct Disagreement {
    /// The tile.
    pub path: String,
    /// Its level and place.
    pub at: TileAt,
    /// The first of its hashes that differs; `None` when it cannot be read as a tile.
    pub position: Option<usize>,
}

impl Disagreement {
    /// The first entry below the hash that differs.
    pub(super) fn first_entry(&self) -> u64 {
        let position = u64::try_from(self.position.unwrap_or(0)).unwrap_or(0);
        let hash = self
            .at
            .index
            .saturating_mul(u64::from(FULL))
            .saturating_add(position);
        hash.saturating_mul(self.entries())
    }

    /// How many entries are below each of the tile's hashes.
    pub(super) fn entries(&self) -> u64 {
        1u64.checked_shl(u32::from(self.at.level) * 8)
            .unwrap_or(u64::MAX)
    }
}

/// The tree over the entries so far.
pub(super) struct Tree<'a> {
    /// The directory `public/log`.
    base: &'a Path,
    /// The size that the signed head states.
    size: u64,
    edge: Edge,
    /// The full tiles above level 0, from which earlier roots can be had again.
    full: HashMap<(u8, u64), Vec<Hash>>,
    /// Tiles compared.
    pub checked: u64,
    /// Tiles not there.
    pub missing: u64,
}

impl<'a> Tree<'a> {
    /// The empty tree, on the way to `size` entries.
    pub(super) fn new(base: &'a Path, size: u64) -> Self {
        Self {
            base,
            size,
            edge: Edge::default(),
            full: HashMap::new(),
            checked: 0,
            missing: 0,
        }
    }

    /// Entries so far.
    pub(super) const fn size(&self) -> u64 {
        self.edge.size()
    }

    /// The root so far.
    pub(super) fn root(&self) -> Hash {
        self.edge.root()
    }

    /// Compares hashes with the published tile in their place.
    pub(super) fn compare(
        &mut self,
        level: u8,
        index: u64,
        hashes: &[Hash],
    ) -> Result<Option<Disagreement>, Unreadable> {
        let count = self.size.checked_shr(u32::from(level) * 8).unwrap_or(0);
        let path = |index, width| hash_tile_path(level, index, width);
        let Some(found) = files::read_tile(self.base, index, count, path)? else {
            self.missing += 1;
            return Ok(None);
        };
        self.checked += 1;
        let at = TileAt {
            level,
            index,
            width: found.width,
        };
        let position = match parse_hashes(&found.bytes, found.width) {
            Err(_) => None,
            Ok(published) => {
                match published
                    .iter()
                    .zip(hashes)
                    .position(|(there, here)| there != here)
                {
                    None => return Ok(None),
                    position => position,
                }
            }
        };
        Ok(Some(Disagreement {
            path: found.path,
            at,
            position,
        }))
    }

    /// Appends an entry's hash; compares each tile above level 0 that it fills.
    pub(super) fn push(&mut self, leaf: Hash) -> Result<Option<Disagreement>, Unreadable> {
        let mut filled = Vec::new();
        self.edge.push(leaf, |at, hashes| {
            if at.level > 0 {
                filled.push((at, hashes.to_vec()));
            }
        });
        let mut first = None;
        for (at, hashes) in filled {
            let disagreement = self.compare(at.level, at.index, &hashes)?;
            first = first.or(disagreement);
            self.full.insert((at.level, at.index), hashes);
        }
        Ok(first)
    }

    /// Appends an entry's hash and compares nothing.
    pub(super) fn push_unseen(&mut self, leaf: Hash) {
        self.edge.push(leaf, |_, _| {});
    }

    /// Compares the partial tiles above level 0, once the last entry is in.
    pub(super) fn compare_partials(&mut self) -> Result<Option<Disagreement>, Unreadable> {
        let partials: Vec<(TileAt, Vec<Hash>)> = self
            .edge
            .partials()
            .filter(|(at, _)| at.level > 0)
            .map(|(at, hashes)| (at, hashes.to_vec()))
            .collect();
        for (at, hashes) in partials {
            if let Some(disagreement) = self.compare(at.level, at.index, &hashes)? {
                return Ok(Some(disagreement));
            }
        }
        Ok(None)
    }

    /// The root of the first `count` entries, none of them to come; `leaves` reads a full bundle again.
    ///
    /// `None` when `count` is greater than the tree, or `leaves` gave too few hashes.
    pub(super) fn root_at<E: std::error::Error + 'static>(
        &self,
        count: u64,
        mut leaves: impl FnMut(u64) -> Result<Vec<Hash>, E>,
    ) -> Result<Option<Hash>, E> {
        let root = range_root(count, self.size(), |at| {
            if at.width == FULL {
                match self.full.get(&(at.level, at.index)) {
                    Some(hashes) => Ok(hashes.clone()),
                    None => leaves(at.index),
                }
            } else {
                let mut partials = self.edge.partials();
                let partial = partials.find(|(place, _)| *place == at);
                Ok(partial
                    .map(|(_, hashes)| hashes.to_vec())
                    .unwrap_or_default())
            }
        });
        match root {
            Ok(root) => Ok(Some(root)),
            Err(NoProof::Tile(_, fault)) => Err(fault),
            Err(NoProof::Outside | NoProof::Short(_)) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::merkle::{Frontier, leaf_hash};

    fn leaf(n: u64) -> Hash {
        leaf_hash(&n.to_be_bytes())
    }

    #[test]
    fn earlier_roots_can_be_had_again() {
        let base = tempfile::tempdir().unwrap();
        let mut tree = Tree::new(base.path(), 70_000);
        let mut frontier = Frontier::default();
        let mut roots = HashMap::new();
        for n in 0..70_000 {
            if n % 4321 == 0 || n % 256 < 2 {
                roots.insert(n, frontier.root());
            }
            assert!(tree.push(leaf(n)).unwrap().is_none());
            frontier.push(leaf(n));
        }
        assert!(tree.compare_partials().unwrap().is_none());
        assert_eq!((tree.checked, tree.missing), (0, 3));
        let bundle = |bundle: u64| {
            Ok::<_, std::convert::Infallible>(
                (bundle * 256..(bundle + 1) * 256).map(leaf).collect(),
            )
        };
        for (size, root) in roots {
            assert_eq!(tree.root_at(size, bundle).unwrap(), Some(root), "{size}");
        }
        assert_eq!(tree.root_at(70_001, bundle).unwrap(), None);
    }
}
