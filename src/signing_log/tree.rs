//! The Merkle tree as the store has it: full tiles, and the leaves of the last bundle.
//!
//! Promises a tree's right edge from at most 255 leaves and 255 tiles a level, so that a start does not read
//! history. Never trusts a hash that it can compute. Failure story: [`LogError::Damaged`] names the row.

use certstatus::log::merkle::{Hash, leaf_hash, subtree_root};
use certstatus::log::tile::{Edge, FULL, TILE_WIDTH, parse_hashes};
use sqlx::Row as _;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use super::error::LogError;
use super::tables::{signed, unsigned};

/// An entry as it stands in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StoredEntry {
    pub index: u64,
    pub leaf: Vec<u8>,
    pub detail: Option<Vec<u8>>,
}

/// The size that the database states, or none where there is no log.
pub(super) async fn size(database: &mut SqliteConnection) -> Result<Option<u64>, LogError> {
    let row = sqlx::query("SELECT size FROM tree WHERE id = 1")
        .fetch_optional(database)
        .await
        .map_err(|error| LogError::read(&error))?;
    row.map(|row| unsigned(&row, "size"))
        .transpose()
        .map_err(|error| LogError::read(&error))
}

/// The entries from `first` up to, not including, `end`; every one of them is there.
pub(super) async fn entries(
    first: u64,
    end: u64,
    database: &mut SqliteConnection,
) -> Result<Vec<StoredEntry>, LogError> {
    let damaged = |_| LogError::Damaged(format!("an index beyond {}", i64::MAX));
    let rows = sqlx::query(
        "SELECT idx, leaf, detail FROM entry WHERE idx >= $1 AND idx < $2 ORDER BY idx",
    )
    .bind(signed(first).map_err(damaged)?)
    .bind(signed(end).map_err(damaged)?)
    .fetch_all(database)
    .await
    .map_err(|error| LogError::read(&error))?;
    let mut found = Vec::with_capacity(rows.len());
    for (wanted, row) in (first..end).zip(&rows) {
        let entry = stored(row).map_err(|error| LogError::read(&error))?;
        if entry.index != wanted {
            break;
        }
        found.push(entry);
    }
    // One that is missing, wherever it is, makes the run too short.
    if u64::try_from(found.len()).ok() != Some(end.saturating_sub(first)) {
        let missing = first.saturating_add(u64::try_from(found.len()).unwrap_or(u64::MAX));
        return Err(LogError::Damaged(format!("entry {missing} is missing")));
    }
    Ok(found)
}

/// Reads a row of the entry table.
fn stored(row: &SqliteRow) -> Result<StoredEntry, sqlx::Error> {
    Ok(StoredEntry {
        index: unsigned(row, "idx")?,
        leaf: row.try_get("leaf")?,
        detail: row.try_get("detail")?,
    })
}

/// The tree of the first `size` entries, of those that the database has.
pub(super) async fn edge_at(size: u64, database: &mut SqliteConnection) -> Result<Edge, LogError> {
    let first = size - size % TILE_WIDTH;
    let leaves = entries(first, size, database).await?;
    let mut levels = vec![leaves.iter().map(|entry| leaf_hash(&entry.leaf)).collect()];
    for level in 1..=Edge::level_max(size) {
        levels.push(roots(level, size, database).await?);
    }
    Edge::resume(size, levels)
        .map_err(|_| LogError::Damaged(format!("the tiles of a tree of {size} do not fit")))
}

/// The hashes of the partial tile at a level above 0: the roots of the full tiles below it.
async fn roots(
    level: u8,
    size: u64,
    database: &mut SqliteConnection,
) -> Result<Vec<Hash>, LogError> {
    let Some(at) = Edge::partial_at(size, level) else {
        return Ok(Vec::new());
    };
    let damaged = |what: &str| LogError::Damaged(format!("tiles of level {}: {what}", level - 1));
    let first = signed(at.index * TILE_WIDTH).map_err(|_| damaged("index"))?;
    let end = first.saturating_add(i64::from(at.width));
    let rows = sqlx::query(
        "SELECT idx, hashes FROM tile WHERE level = $1 AND idx >= $2 AND idx < $3 ORDER BY idx",
    )
    .bind(i64::from(level - 1))
    .bind(first)
    .bind(end)
    .fetch_all(database)
    .await
    .map_err(|error| LogError::read(&error))?;
    let mut roots = Vec::with_capacity(rows.len());
    for (wanted, row) in (first..end).zip(&rows) {
        let index: i64 = row.try_get("idx").map_err(|error| LogError::read(&error))?;
        let hashes: &[u8] = row
            .try_get("hashes")
            .map_err(|error| LogError::read(&error))?;
        if index != wanted {
            return Err(damaged("one is missing"));
        }
        let hashes = parse_hashes(hashes, FULL).map_err(|_| damaged("one is malformed"))?;
        roots.push(subtree_root(&hashes));
    }
    if roots.len() != usize::from(at.width) {
        return Err(damaged("one is missing"));
    }
    Ok(roots)
}
