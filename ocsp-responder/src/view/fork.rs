//! Tells a fork from a damaged copy: does the new head's own tree begin with the old one?
//!
//! Owns the proof from published hash tiles, each part of which is verified against the two signed heads. Promises that
//! a fork is only called so when it is proved. Never believes a tile. Failure story: where tiles are missing or wrong
//! there is no proof, and the caller calls the copy altered.

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

/// Whether the published hash tiles prove that `offered` does not extend `kept`.
pub(super) async fn is_proved(source: &Source, kept: &Checkpoint, offered: &Checkpoint) -> bool {
    let mut tiles: HashMap<TileAt, Vec<Hash>> = HashMap::new();
    while tiles.len() < TILES_MAX {
        match contradicts(&tiles, kept, offered) {
            Ok(verdict) => return verdict,
            Err(NoProof::Tile(at, Wanted)) => match fetch(source, at).await {
                Some(hashes) => tiles.insert(at, hashes),
                None => return false,
            },
            Err(NoProof::Outside | NoProof::Short(_)) => return false,
        };
    }
    false
}

/// Whether the first `kept.size` entries of the offered head's tree are proved to be others.
fn contradicts(
    tiles: &HashMap<TileAt, Vec<Hash>>,
    kept: &Checkpoint,
    offered: &Checkpoint,
) -> Result<bool, NoProof<Wanted>> {
    let tile = |at| tiles.get(&at).cloned().ok_or(Wanted);
    let there = range_root(kept.size, offered.size, tile)?;
    let proof = consistency_proof(kept.size, offered.size, tile)?;
    let old = (kept.size, &there);
    let proved = verify_consistency(old, (offered.size, &offered.root), &proof).is_ok();
    Ok(kept.size > 0 && proved && there != kept.root)
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
