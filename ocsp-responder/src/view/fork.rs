//! Tells a fork from a damaged copy: does the new head's own tree begin with the old one?
//!
//! Owns the proof from published hash tiles, each part of which is verified against the two signed heads. Promises that
//! a fork is only called so when it is proved, and an extension too. Never believes a tile. Failure story: where tiles
//! are missing or wrong there is no proof; the caller calls the copy altered, or asks again.

use std::collections::HashMap;

use super::source::Source;
use crate::log::checkpoint::Checkpoint;
use crate::log::merkle::{
    Hash, NoProof, TileAt, consistency_proof, range_root, verify_consistency,
};
use crate::log::tile::{FULL, hash_tile_path, parse_hashes};

/// Tiles that a proof can need: two a level, eight levels, twice.
const TILES_MAX: usize = 64;

/// A tile that was not fetched yet.
#[derive(Debug, thiserror::Error)]
#[error("not fetched yet")]
struct Wanted;

/// What is proved of two heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compared {
    /// The newer one's tree begins with the older one's entries.
    Extends,
    /// It begins with other entries.
    Contradicts,
}

/// Whether the published hash tiles prove that `offered` does not extend `kept`.
pub(super) async fn is_proved(source: &Source, kept: &Checkpoint, offered: &Checkpoint) -> bool {
    compare(source, kept, offered).await == Some(Compared::Contradicts)
}

/// What the published hash tiles prove of an older and a newer head; nothing where tiles are missing or wrong.
pub(super) async fn compare(
    source: &Source,
    older: &Checkpoint,
    newer: &Checkpoint,
) -> Option<Compared> {
    let of = |same| match same {
        true => Compared::Extends,
        false => Compared::Contradicts,
    };
    if older.size == 0 || older.size == newer.size {
        return Some(of(older.size == 0 || older.root == newer.root));
    }
    let mut tiles: HashMap<TileAt, Vec<Hash>> = HashMap::new();
    while tiles.len() < TILES_MAX {
        match root_there(&tiles, older, newer) {
            Ok(there) => return there.map(|there| of(there == older.root)),
            Err(NoProof::Tile(at, Wanted)) => {
                let hashes = fetch(source, at).await?;
                tiles.insert(at, hashes);
            }
            Err(NoProof::Outside | NoProof::Short(_)) => return None,
        }
    }
    None
}

/// The root of the first `older.size` entries of the newer head's tree, where the tiles prove it.
fn root_there(
    tiles: &HashMap<TileAt, Vec<Hash>>,
    older: &Checkpoint,
    newer: &Checkpoint,
) -> Result<Option<Hash>, NoProof<Wanted>> {
    let tile = |at| tiles.get(&at).cloned().ok_or(Wanted);
    let there = range_root(older.size, newer.size, tile)?;
    let proof = consistency_proof(older.size, newer.size, tile)?;
    let proved = verify_consistency((older.size, &there), (newer.size, &newer.root), &proof);
    Ok(proved.is_ok().then_some(there))
}

/// Reads a hash tile, or a wider one in its place.
async fn fetch(source: &Source, at: TileAt) -> Option<Vec<Hash>> {
    let path = |width| format!("log/{}", hash_tile_path(at.level, at.index, width));
    let found = source
        .get_tile(path, at.width, usize::from(FULL) * 32)
        .await;
    let (octets, width) = found.ok().flatten()?;
    let mut hashes = parse_hashes(&octets, width).ok()?;
    hashes.truncate(usize::from(at.width));
    Some(hashes)
}
