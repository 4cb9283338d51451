//! Reads bundles of leaves for a tree of a given size.
//!
//! Owns the rule that a bundle has the places that the size demands. Promises to hand out the leaves below that
//! size and no other. Never reads what a leaf says. Failure story: a bundle that is missing or damaged is a
//! [`Fault`] at its first entry; one that cannot be read is [`Unreadable`](super::Unreadable).

use std::path::Path;

use super::NotVerified;
use super::fault::{Cause, Fault};
use super::files::{self, Found};
use crate::log::LeafIndex;
use crate::log::tile::{self, TILE_WIDTH};

/// The first entry of a bundle.
pub(super) const fn first_of(bundle: u64) -> LeafIndex {
    LeafIndex(bundle.saturating_mul(TILE_WIDTH))
}

/// Reads a bundle of a tree of `size` entries; `log` is the directory `public/log`.
pub(super) fn read(log: &Path, size: u64, bundle: u64) -> Result<Found, NotVerified> {
    let found = files::read_tile(log, bundle, size, tile::entry_bundle_path)?;
    found.ok_or_else(|| {
        let path = tile::entry_bundle_path(bundle, tile::width_in(size, bundle));
        Fault::at(first_of(bundle), Cause::BundleMissing { path }).into()
    })
}

/// The leaves of a bundle that a tree of `size` entries covers.
pub(super) fn leaves(size: u64, bundle: u64, found: &Found) -> Result<Vec<&[u8]>, Fault> {
    let mut leaves = tile::parse_entries(&found.bytes, found.width).map_err(|_| {
        let path = found.path.clone();
        Fault::at(first_of(bundle), Cause::BundleMalformed { path })
    })?;
    leaves.truncate(usize::from(tile::width_in(size, bundle)));
    Ok(leaves)
}
