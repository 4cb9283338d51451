//! Makes proofs from tiles: the writing side of RFC 9162, sections 2.1.3.1 and 2.1.4.1.
//!
//! Owns the arithmetic from a leaf range to the tiles that hold its hashes. Promises to ask for
//! tiles that a tree of the given size has, each by its exact width. Never keeps a tile.

use super::{Hash, digest, node_hash, subtree_root};

/// A hash tile of a tree: its level, its index there, and how many hashes it has (1–256).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TileAt {
    /// 0 for leaf hashes.
    pub level: u8,
    /// The tile's position within the level.
    pub index: u64,
    /// Hashes that the tile has in this tree; 256 is a full tile.
    pub width: u16,
}

/// Why a proof cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoProof<E: std::error::Error + 'static> {
    /// The leaf or the old tree is not within the tree.
    #[error("the tree is smaller than what is to be proved")]
    Outside,
    /// The tile could not be had.
    #[error("tile {0:?} could not be read")]
    Tile(TileAt, #[source] E),
    /// The tile has fewer hashes than its width says.
    #[error("tile {0:?} is short")]
    Short(TileAt),
}

/// A run of leaves: the first, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    start: u64,
    end: u64,
}

impl Range {
    /// The two subtrees of a run of two leaves or more: the left is the largest complete one.
    const fn halves(self) -> (Self, Self) {
        let count = self.end - self.start;
        let left = 1 << (u64::BITS - 1 - (count - 1).leading_zeros());
        let middle = self.start + left;
        (
            Self {
                start: self.start,
                end: middle,
            },
            Self {
                start: middle,
                end: self.end,
            },
        )
    }
}

/// The proof that leaf `index` is in the tree of `size` (RFC 9162, 2.1.3.1), hashes from `tile`.
///
/// # Errors
/// [`NoProof`]: `tile` failed or gave too few hashes, or `index` is not below `size`.
pub fn inclusion_proof<E: std::error::Error + 'static>(
    index: u64,
    size: u64,
    mut tile: impl FnMut(TileAt) -> Result<Vec<Hash>, E>,
) -> Result<Vec<Hash>, NoProof<E>> {
    if index >= size {
        return Err(NoProof::Outside);
    }
    let mut siblings = Vec::new();
    let mut range = Range {
        start: 0,
        end: size,
    };
    while range.end - range.start > 1 {
        let (left, right) = range.halves();
        let (inside, sibling) = if index < left.end {
            (left, right)
        } else {
            (right, left)
        };
        siblings.push(sibling);
        range = inside;
    }
    siblings
        .iter()
        .rev()
        .map(|part| root_of(*part, size, &mut tile))
        .collect()
}

/// The proof that the tree of `new` leaves extends that of `old` (RFC 9162, 2.1.4.1).
///
/// # Errors
/// [`NoProof`]: `tile` failed or gave too few hashes, or `old` is above `new`.
pub fn consistency_proof<E: std::error::Error + 'static>(
    old: u64,
    new: u64,
    mut tile: impl FnMut(TileAt) -> Result<Vec<Hash>, E>,
) -> Result<Vec<Hash>, NoProof<E>> {
    if old > new {
        return Err(NoProof::Outside);
    }
    if old == 0 || old == new {
        return Ok(Vec::new());
    }
    let mut parts = Vec::new();
    let mut range = Range { start: 0, end: new };
    while range.end != old {
        let (left, right) = range.halves();
        let (inside, sibling) = if old <= left.end {
            (left, right)
        } else {
            (right, left)
        };
        parts.push(sibling);
        range = inside;
    }
    // The old tree's own root is known to the verifier; an inner part of it is not.
    if range.start != 0 {
        parts.push(range);
    }
    parts
        .iter()
        .rev()
        .map(|part| root_of(*part, new, &mut tile))
        .collect()
}

/// The root of the first `count` leaves of a tree of `size`, hashes from `tile`.
///
/// # Errors
/// [`NoProof`]: `tile` failed or gave too few hashes, or `count` is above `size`.
pub fn range_root<E: std::error::Error + 'static>(
    count: u64,
    size: u64,
    mut tile: impl FnMut(TileAt) -> Result<Vec<Hash>, E>,
) -> Result<Hash, NoProof<E>> {
    if count > size {
        return Err(NoProof::Outside);
    }
    root_of(
        Range {
            start: 0,
            end: count,
        },
        size,
        &mut tile,
    )
}

/// The root of a subtree: its complete parts, largest first, joined from the right.
fn root_of<E: std::error::Error + 'static>(
    range: Range,
    size: u64,
    tile: &mut impl FnMut(TileAt) -> Result<Vec<Hash>, E>,
) -> Result<Hash, NoProof<E>> {
    let mut parts = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let height = (range.end - start).ilog2();
        parts.push(complete(start, height, size, tile)?);
        start += 1 << height;
    }
    let joined = parts
        .into_iter()
        .rev()
        .reduce(|right, left| node_hash(&left, &right));
    Ok(joined.unwrap_or_else(|| digest(&[])))
}

/// The root of the complete subtree of 2^`height` leaves from `start`, from the one tile that has it.
fn complete<E: std::error::Error + 'static>(
    start: u64,
    height: u32,
    size: u64,
    tile: &mut impl FnMut(TileAt) -> Result<Vec<Hash>, E>,
) -> Result<Hash, NoProof<E>> {
    // 64-bit sizes have heights up to 63, so the level is at most 7.
    let level = u8::try_from(height / 8).unwrap_or(u8::MAX);
    let unit_bits = u32::from(level) * 8;
    let position = start >> unit_bits;
    let index = position / 256;
    let width = ((size >> unit_bits) - index * 256).min(256);
    let at = TileAt {
        level,
        index,
        width: u16::try_from(width).unwrap_or(256),
    };
    let hashes = tile(at).map_err(|fault| NoProof::Tile(at, fault))?;
    let first = usize::try_from(position % 256).unwrap_or(usize::MAX);
    let count = 1usize << (height % 8);
    let run = hashes
        .get(first..first.saturating_add(count))
        .ok_or(NoProof::Short(at))?;
    Ok(subtree_root(run))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::super::{Frontier, leaf_hash, verify_consistency, verify_inclusion};
    use super::*;

    /// The hashes of every level of a tree.
    struct Tree(Vec<Vec<Hash>>);

    impl Tree {
        fn new(size: u64) -> Self {
            let mut levels = vec![(0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()];
            loop {
                let last: &Vec<Hash> = levels.last().unwrap();
                let next: Vec<Hash> = last.chunks_exact(256).map(subtree_root).collect();
                if next.is_empty() {
                    return Self(levels);
                }
                levels.push(next);
            }
        }

        fn tile(&self, at: TileAt) -> Result<Vec<Hash>, Infallible> {
            let level = &self.0[usize::from(at.level)];
            let start = at.index as usize * 256;
            Ok(level[start..start + usize::from(at.width)].to_vec())
        }

        fn root(&self, size: u64) -> Hash {
            let mut frontier = Frontier::default();
            self.0[0][..size as usize]
                .iter()
                .for_each(|hash| frontier.push(*hash));
            frontier.root()
        }
    }

    #[test]
    fn proofs_across_tile_levels_hold() {
        let tree = Tree::new(70_000);
        let root = tree.root(70_000);
        for index in [0, 1, 255, 256, 65_535, 65_536, 69_887, 69_888, 69_999] {
            let proof = inclusion_proof(index, 70_000, |at| tree.tile(at)).unwrap();
            let leaf = tree.0[0][index as usize];
            assert_eq!(
                verify_inclusion(&leaf, index, 70_000, &root, &proof),
                Ok(()),
                "{index}"
            );
        }
        for old in [
            1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 69_888, 69_999, 70_000,
        ] {
            let proof = consistency_proof(old, 70_000, |at| tree.tile(at)).unwrap();
            let old_root = tree.root(old);
            assert_eq!(
                range_root(old, 70_000, |at| tree.tile(at)),
                Ok(old_root),
                "{old}"
            );
            let holds = verify_consistency((old, &old_root), (70_000, &root), &proof);
            assert_eq!(holds, Ok(()), "{old}");
        }
    }

    #[test]
    fn what_is_outside_or_short_is_told() {
        let tree = Tree::new(3);
        assert_eq!(
            inclusion_proof(3, 3, |at| tree.tile(at)),
            Err(NoProof::Outside)
        );
        assert_eq!(
            consistency_proof(4, 3, |at| tree.tile(at)),
            Err(NoProof::Outside)
        );
        let short = inclusion_proof(0, 3, |_| Ok::<_, Infallible>(Vec::new()));
        let at = TileAt {
            level: 0,
            index: 0,
            width: 3,
        };
        assert_eq!(short, Err(NoProof::Short(at)));
    }
}
