//! The right edge of a growing log in tiles: what a writer holds in memory between publications.
//!
//! Owns, for every level, the hashes of the tile that is not full yet. Promises to hand out each full
//! tile exactly once, when its last hash arrives, lower levels first. Never grows beyond 255 hashes a
//! level.

use super::{BadTile, FULL, Hash, TileAt, width_in};
use crate::log::merkle::{Frontier, subtree_root};

/// The partial tiles of a tree, level by level, and its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edge {
    frontier: Frontier,
    /// For each level from 0 the hashes of its last, partial tile: none where it is just full.
    levels: Vec<Vec<Hash>>,
}

impl Edge {
    /// Resumes from a tree's size and its partial tiles, level 0 first, empty where there is none.
    ///
    /// Compare [`Self::root`] with the newest checkpoint before believing the tiles.
    ///
    /// # Errors
    /// [`BadTile`]: a level has not the number of hashes that the size demands; read the tiles anew.
    pub fn resume(size: u64, levels: Vec<Vec<Hash>>) -> Result<Self, BadTile> {
        for level in 0..=Self::level_max(size).max(u8::try_from(levels.len()).unwrap_or(u8::MAX)) {
            let have = levels.get(usize::from(level)).map_or(0, Vec::len);
            let partial = Self::partial_at(size, level).map_or(0, |at| usize::from(at.width));
            if have != partial {
                return Err(BadTile);
            }
        }
        // The complete subtrees of a tree are those within its partial tiles, highest level first.
        let mut edge = Vec::new();
        for hashes in levels.iter().rev() {
            let mut frontier = Frontier::default();
            hashes.iter().for_each(|hash| frontier.push(*hash));
            edge.extend_from_slice(frontier.edge());
        }
        let frontier = Frontier::from_parts(size, edge).ok_or(BadTile)?;
        Ok(Self { frontier, levels })
    }

    /// The partial tile that a tree of `size` has at `level`, if it has one there.
    #[must_use]
    pub fn partial_at(size: u64, level: u8) -> Option<TileAt> {
        let count = size.checked_shr(u32::from(level) * 8).unwrap_or(0);
        let index = count / u64::from(FULL);
        let width = width_in(count, index);
        (width > 0).then_some(TileAt {
            level,
            index,
            width,
        })
    }

    /// The highest level at which a tree of `size` has hashes.
    #[must_use]
    pub const fn level_max(size: u64) -> u8 {
        let Some(bits) = size.checked_ilog2() else {
            return 0;
        };
        // At most 63 / 8.
        (bits / 8) as u8
    }

    /// Appends a leaf's hash; each tile that it fills goes to `full`, lower levels first.
    pub fn push(&mut self, leaf: Hash, mut full: impl FnMut(TileAt, &[Hash])) {
        self.frontier.push(leaf);
        let mut hash = leaf;
        for level in 0..=Self::level_max(u64::MAX) {
            let place = usize::from(level);
            if self.levels.len() <= place {
                self.levels.resize_with(place + 1, Vec::new);
            }
            let Some(hashes) = self.levels.get_mut(place) else {
                return;
            };
            hashes.push(hash);
            if hashes.len() < usize::from(FULL) {
                return;
            }
            let count = self.frontier.size() >> (u32::from(level) * 8);
            let index = count / u64::from(FULL) - 1;
            full(
                TileAt {
                    level,
                    index,
                    width: FULL,
                },
                hashes,
            );
            hash = subtree_root(hashes);
            hashes.clear();
        }
    }

    /// The partial tiles that a tree of this size has, level 0 first.
    pub fn partials(&self) -> impl Iterator<Item = (TileAt, &[Hash])> {
        (0u8..).zip(&self.levels).filter_map(|(level, hashes)| {
            Some((Self::partial_at(self.size(), level)?, hashes.as_slice()))
        })
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of the whole tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::log::merkle::{leaf_hash, range_root};

    #[test]
    fn tiles_partials_and_root_are_those_of_the_specification() {
        let mut edge = Edge::default();
        let mut tiles = BTreeMap::new();
        for n in 0u64..70_000 {
            edge.push(leaf_hash(&n.to_be_bytes()), |at, hashes| {
                assert!(tiles.insert(at, hashes.to_vec()).is_none());
            });
        }
        let full = |level| tiles.keys().filter(|at| at.level == level).count();
        assert_eq!((full(0), full(1), full(2)), (273, 1, 0));
        let partials: Vec<TileAt> = edge.partials().map(|(at, _)| at).collect();
        let expected = [(0, 273, 112), (1, 1, 17), (2, 0, 1)].map(|(level, index, width)| TileAt {
            level,
            index,
            width,
        });
        assert_eq!(partials, expected);
        tiles.extend(edge.partials().map(|(at, hashes)| (at, hashes.to_vec())));
        let read = |at| tiles.get(&at).cloned().ok_or(BadTile);
        assert_eq!(range_root(70_000, 70_000, read), Ok(edge.root()));
    }

    #[test]
    fn a_writer_resumes_where_it_stopped() {
        let mut edge = Edge::default();
        for n in 0u64..66_000 {
            let levels: Vec<Vec<Hash>> = edge.levels.clone();
            if n % 251 == 0 || n % 256 < 2 || n.abs_diff(65_536) < 3 {
                assert_eq!(Edge::resume(n, levels.clone()).unwrap(), edge, "{n}");
                assert_eq!(Edge::resume(n + 1, levels), Err(BadTile), "{n}");
            }
            edge.push(leaf_hash(&n.to_be_bytes()), |_, _| {});
        }
        let stray = vec![vec![[0; 32]], vec![[0; 32]]];
        assert_eq!(Edge::resume(1, stray), Err(BadTile));
    }
}
