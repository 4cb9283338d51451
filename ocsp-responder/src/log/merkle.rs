//! The Merkle tree of RFC 6962, section 2.1: leaf and node hashes, roots, proofs.
//!
//! Owns the hashing and the proofs of the signing log's tree. Promises that a proof made here
//! ([`inclusion_proof`], [`consistency_proof`]) verifies here, and that memory grows with the tree's
//! height, not its size. Never reads files: tiles come through the caller's function.
//! Failure story: a proof that does not hold is [`BadProof`], without a hint where; a tile that cannot
//! be had is the caller's own error, handed back in [`NoProof`].

mod proof;

pub use proof::{NoProof, TileAt, consistency_proof, inclusion_proof, range_root};

use aws_lc_rs::digest::{Context, SHA256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The hash of a leaf: SHA-256(0x00 ‖ leaf).
#[must_use]
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    digest(&[&[0x00], leaf])
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
#[must_use]
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    digest(&[&[0x01], left, right])
}

/// SHA-256 over the parts, one after another.
fn digest(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; 32];
    hash.iter_mut()
        .zip(context.finish().as_ref())
        .for_each(|(to, from)| *to = *from);
    hash
}

/// The root over a run of subtree hashes: of a full tile's 256 hashes it is their hash one level up.
#[must_use]
pub fn subtree_root(hashes: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    hashes.iter().for_each(|hash| frontier.push(*hash));
    frontier.root()
}

/// A tree that grows: keeps the right edge only (the hashes of the complete subtrees), O(log n) memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// Roots of complete subtrees, largest first.
    edge: Vec<Hash>,
}

impl Frontier {
    /// Resumes a tree of `size` leaves from the roots of its complete subtrees, largest first.
    ///
    /// `None` when the number of roots is not the number of one-bits in `size`.
    #[must_use]
    pub fn from_parts(size: u64, edge: Vec<Hash>) -> Option<Self> {
        let wanted = usize::try_from(size.count_ones()).ok()?;
        (edge.len() == wanted).then_some(Self { size, edge })
    }

    /// Appends a leaf's hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        // Each trailing one-bit of the size is a complete subtree that now gets its right sibling.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.edge.pop() {
                hash = node_hash(&left, &hash);
            }
        }
        self.edge.push(hash);
        self.size += 1;
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the complete subtrees, largest first.
    #[must_use]
    pub fn edge(&self) -> &[Hash] {
        &self.edge
    }

    /// The root; SHA-256 of nothing for the empty tree.
    #[must_use]
    pub fn root(&self) -> Hash {
        let joined = self
            .edge
            .iter()
            .copied()
            .rev()
            .reduce(|right, left| node_hash(&left, &right));
        joined.unwrap_or_else(|| digest(&[]))
    }
}

/// A proof does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not hold")]
pub struct BadProof;

/// Verifies that `leaf` stands at `index` in the tree of `size` with `root` (RFC 9162, 2.1.3.2).
///
/// # Errors
/// [`BadProof`]: do not believe that the entry is in the log.
pub fn verify_inclusion(
    leaf: &Hash,
    index: u64,
    size: u64,
    root: &Hash,
    proof: &[Hash],
) -> Result<(), BadProof> {
    if index >= size {
        return Err(BadProof);
    }
    let mut place = Place {
        node: index,
        last: size - 1,
    };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match place.climb()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    if place.last == 0 && hash == *root {
        Ok(())
    } else {
        Err(BadProof)
    }
}

/// Verifies that the tree of `new_size` extends that of `old_size` (RFC 9162, 2.1.4.2).
///
/// Every tree extends the empty one and itself; the proof of either is empty.
///
/// # Errors
/// [`BadProof`]: one of the two heads belongs to another history.
pub fn verify_consistency(
    old: (u64, &Hash),
    new: (u64, &Hash),
    proof: &[Hash],
) -> Result<(), BadProof> {
    let ((old_size, old_root), (new_size, new_root)) = (old, new);
    if old_size > new_size {
        return Err(BadProof);
    }
    if old_size == new_size {
        return if proof.is_empty() && old_root == new_root {
            Ok(())
        } else {
            Err(BadProof)
        };
    }
    if old_size == 0 {
        let empty = Frontier::default().root();
        return if proof.is_empty() && *old_root == empty {
            Ok(())
        } else {
            Err(BadProof)
        };
    }
    let mut place = Place {
        node: old_size - 1,
        last: new_size - 1,
    };
    place.skip(place.node.trailing_ones());
    // A complete old tree is itself a node of the new one, so its root is not repeated in the proof.
    let (first, rest) = if old_size.is_power_of_two() {
        (old_root, proof)
    } else {
        proof.split_first().ok_or(BadProof)?
    };
    let (mut old_hash, mut new_hash) = (*first, *first);
    for sibling in rest {
        match place.climb()? {
            Side::Left => {
                old_hash = node_hash(sibling, &old_hash);
                new_hash = node_hash(sibling, &new_hash);
            }
            Side::Right => new_hash = node_hash(&new_hash, sibling),
        }
    }
    let holds = place.last == 0 && old_hash == *old_root && new_hash == *new_root;
    if holds { Ok(()) } else { Err(BadProof) }
}

/// Where the next sibling of a proof stands.
enum Side {
    /// Left of the path.
    Left,
    /// Right of the path.
    Right,
}

/// A node on the way from a leaf to the root, and the last node of its level.
struct Place {
    node: u64,
    last: u64,
}

impl Place {
    /// Goes up so many levels.
    const fn skip(&mut self, levels: u32) {
        self.node >>= levels;
        self.last >>= levels;
    }

    /// Consumes a sibling: says on which side it stands and goes up past levels that have none.
    fn climb(&mut self) -> Result<Side, BadProof> {
        if self.last == 0 {
            return Err(BadProof);
        }
        let side = if self.node & 1 == 1 || self.node == self.last {
            if self.node & 1 == 0 {
                // The last node of a level with an odd count has no sibling until its number is odd.
                // `last` is not 0 and equals `node` here, so there is a one-bit to stop at.
                self.skip(self.node.trailing_zeros());
            }
            Side::Left
        } else {
            Side::Right
        };
        self.skip(1);
        Ok(side)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6962, section 2.1, word for word: the independent implementation.
    fn naive(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => digest(&[]),
            [leaf] => leaf_hash(leaf),
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                node_hash(&naive(&leaves[..split]), &naive(&leaves[split..]))
            }
        }
    }

    fn leaves(count: usize) -> Vec<Vec<u8>> {
        (0..count)
            .map(|n| format!("leaf {n}").into_bytes())
            .collect()
    }

    fn hash(hex: &str) -> Hash {
        crate::hex::decode_array(hex).unwrap()
    }

    #[test]
    fn known_roots() {
        // The eight inputs that the certificate-transparency project tests its trees with; the roots
        // below were computed with Python's hashlib.
        let inputs: [&[u8]; 8] = [
            b"",
            b"\x00",
            b"\x10",
            b"\x20\x21",
            b"\x30\x31",
            b"\x40\x41\x42\x43",
            b"\x50\x51\x52\x53\x54\x55\x56\x57",
            b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
        ];
        let mut frontier = Frontier::default();
        let mut roots = vec![frontier.root()];
        for input in inputs {
            frontier.push(leaf_hash(input));
            roots.push(frontier.root());
        }
        assert_eq!(
            roots[0],
            hash("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
        );
        assert_eq!(
            roots[1],
            hash("6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d")
        );
        assert_eq!(
            roots[3],
            hash("aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77")
        );
        assert_eq!(
            roots[8],
            hash("5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328")
        );
    }

    #[test]
    fn the_frontier_agrees_with_the_definition() {
        let leaves = leaves(300);
        let mut frontier = Frontier::default();
        for (count, leaf) in leaves.iter().enumerate() {
            assert_eq!(frontier.root(), naive(&leaves[..count]), "{count} leaves");
            let resumed = Frontier::from_parts(frontier.size(), frontier.edge().to_vec());
            assert_eq!(resumed, Some(frontier.clone()));
            frontier.push(leaf_hash(leaf));
        }
        assert_eq!(Frontier::from_parts(3, vec![[0; 32]]), None);
    }

    #[test]
    fn a_full_tile_hashes_to_its_node() {
        let leaves = leaves(256);
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        assert_eq!(subtree_root(&hashes), naive(&leaves));
    }

    #[test]
    fn proofs_hold_and_damaged_ones_do_not() {
        const COUNT: u64 = 40;
        let leaves = leaves(40);
        let hashes: Vec<Hash> = leaves.iter().map(|leaf| leaf_hash(leaf)).collect();
        let tile = |at: TileAt| {
            assert_eq!((at.level, at.index), (0, 0));
            Ok::<_, std::convert::Infallible>(hashes[..usize::from(at.width)].to_vec())
        };
        for size in 1..=COUNT {
            let root = naive(&leaves[..size as usize]);
            for index in 0..size {
                let mut proof = inclusion_proof(index, size, tile).unwrap();
                let leaf = hashes[index as usize];
                assert_eq!(verify_inclusion(&leaf, index, size, &root, &proof), Ok(()));
                let wrong = verify_inclusion(&leaf, index + 1, size, &root, &proof);
                assert_eq!(wrong, Err(BadProof));
                proof.push([0; 32]);
                assert_eq!(
                    verify_inclusion(&leaf, index, size, &root, &proof),
                    Err(BadProof)
                );
            }
            for old in 0..=size {
                let old_root = naive(&leaves[..old as usize]);
                let mut proof = consistency_proof(old, size, tile).unwrap();
                assert_eq!(
                    verify_consistency((old, &old_root), (size, &root), &proof),
                    Ok(())
                );
                let forked = verify_consistency((old, &[9; 32]), (size, &root), &proof);
                assert_eq!(forked, Err(BadProof), "{old} of {size}");
                let forked = verify_consistency((old, &old_root), (size, &[9; 32]), &proof);
                // Nothing is known of the empty tree, so every root extends it.
                assert_eq!(forked.is_err(), old != 0, "{old} of {size}");
                proof.push([0; 32]);
                let long = verify_consistency((old, &old_root), (size, &root), &proof);
                assert_eq!(long, Err(BadProof));
            }
        }
        let backwards = verify_consistency((2, &[0; 32]), (1, &[0; 32]), &[]);
        assert_eq!(backwards, Err(BadProof));
    }

    proptest::proptest! {
        #[test]
        fn no_proof_is_believed_at_random(
            index: u64, size: u64,
            proof in proptest::collection::vec(proptest::array::uniform32(0u8..), 0..70),
        ) {
            let (zero, one) = ([0; 32], [1; 32]);
            let included = verify_inclusion(&zero, index, size, &one, &proof);
            proptest::prop_assert_eq!(included, Err(BadProof));
            let consistent = verify_consistency((index, &zero), (size, &one), &proof);
            proptest::prop_assert_eq!(consistent, Err(BadProof));
        }
    }
}
