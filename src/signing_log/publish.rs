//! Publication: tiles, bundles and the checkpoint, derived from the durable log and made again at will.
//!
//! Owns `public/log/` and `private/details/`. Promises that whatever checkpoint a reader finds, the tiles and
//! bundles that it needs are there: they are on disk before it, and partial ones go only after the full one
//! came. Never publishes an entry that is not durable, nor a root that is not the writer's. Failure story: the
//! old checkpoint stays and stays true; publication is tried again, and its lag shows in the status.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use certstatus::log::checkpoint::Checkpoint;
use certstatus::log::merkle::leaf_hash;
use certstatus::log::tile::{
    Edge, FULL, TILE_WIDTH, detail_bundle_path, encode_details, encode_entries, encode_hashes,
    entry_bundle_path, hash_tile_path,
};
use sqlx::sqlite::SqliteConnection;

use super::error::LogError;
use super::shared::{Head, Shared};
use super::tree::{self, StoredEntry};
use super::writer::{AbortOnPanic, Pace};
use certstatus::durable;

/// Entries that are read and written in one go: 16 bundles.
const ENTRIES_MAX: u64 = 16 * TILE_WIDTH;

/// The mode of a new directory of details: device ids, orders and names are for auditors only.
const MODE_PRIVATE: u32 = 0o750;

/// What the mode of no directory of details has: writing by the group, anything by others.
const MODE_WIDER: u32 = 0o027;

/// The bits of a mode without the kind of file.
const MODE_ALL: u32 = 0o7777;

/// The publisher's task.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    /// What is published.
    position: Position,
    pace: Pace,
}

/// A tree with the entries of its last, partial bundle.
#[derive(Clone, Default)]
struct Position {
    edge: Edge,
    bundle: Vec<StoredEntry>,
}

/// Files to write, in order, and partial tiles to take away after the checkpoint.
#[derive(Default)]
struct Files {
    write: Vec<(PathBuf, Vec<u8>)>,
    remove: Vec<PathBuf>,
}

/// Where the checkpoint is.
fn checkpoint_path(published: &Path) -> PathBuf {
    published.join("log").join("checkpoint")
}

/// The size that the published checkpoint states; 0 where there is none that our key signed.
///
/// # Errors
/// [`LogError::Damaged`] when it is ours and not of this tree: the database was rolled back or altered.
/// [`LogError::Publish`] when it is there and cannot be read.
pub(super) async fn published_size(
    shared: &Shared,
    size: u64,
    database: &mut SqliteConnection,
) -> Result<u64, LogError> {
    let path = checkpoint_path(&shared.publication.published);
    let note = match tokio::fs::read_to_string(&path).await {
        Ok(note) => note,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        // Without it a rollback would go unnoticed, and be published.
        Err(error) => {
            let path = path.display();
            return Err(LogError::Publish(format!("{path} cannot be read: {error}")));
        }
    };
    let checkpoint = match Checkpoint::verify(&note, &shared.verifier) {
        Ok(checkpoint) => checkpoint,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the published checkpoint is not this log's and is made anew");
            return Ok(0);
        }
    };
    let published = checkpoint.size;
    if published > size {
        return Err(LogError::Damaged(format!(
            "it holds {size} entries, but {} of them are published in {}: it was rolled back; \
             restore the newest backup",
            published,
            path.display()
        )));
    }
    if tree::edge_at(published, database).await?.root() != checkpoint.root {
        return Err(LogError::Damaged(format!(
            "its first {published} entries are not the ones published in {}",
            path.display()
        )));
    }
    Ok(published)
}

impl Publisher {
    /// Starts where the published checkpoint stands.
    pub(super) async fn new(
        shared: Arc<Shared>,
        published: u64,
        pace: Pace,
        database: &mut SqliteConnection,
    ) -> Result<Self, LogError> {
        private_directory(&shared.publication.details)?;
        let position = Position::at(published, database).await?;
        shared.published.send_modify(|state| state.size = published);
        Ok(Self {
            shared,
            position,
            pace,
        })
    }

    /// Follows the log until it ends.
    pub(super) async fn run(mut self) {
        let _guard = AbortOnPanic;
        let mut head = self.shared.head.subscribe();
        let mut pause = self.pace.retry_min;
        loop {
            let ended = self.shared.ended.load(Ordering::SeqCst);
            let size = head.borrow_and_update().size;
            let confirmed = self.shared.confirmed().is_ok();
            if !confirmed || size == self.position.edge.size() {
                // The senders live in what this task shares, so `changed` does not fail.
                if ended || head.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if !ended {
                // More may come, unless somebody wants it now.
                let wanted = self.shared.urgent.notified();
                let _elapsed = tokio::time::timeout(self.pace.publication, wanted).await;
            }
            match self.follow().await {
                Ok(()) => pause = self.pace.retry_min,
                Err(error) => {
                    tracing::error!(%error, "the log is not published; it is tried again");
                    self.shared.published.send_modify(|state| {
                        state.failures += 1;
                        state.fault = Some(certstatus::chain(&error));
                    });
                    if ended {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(self.pace.retry_max);
                }
            }
        }
    }

    /// Publishes everything that is durable now.
    async fn follow(&mut self) -> Result<(), LogError> {
        let target = self.shared.confirmed()?;
        let mut position = self.position.clone();
        let mut remove = Vec::new();
        while position.edge.size() < target.size {
            let first = position.edge.size();
            let end = target.size.min(first.saturating_add(ENTRIES_MAX));
            let entries = match self.shared.take(first, end) {
                Some(entries) => entries,
                None => self.read(first, end).await?,
            };
            let mut files = Files::default();
            position.extend(entries, &self.shared, &mut files);
            remove.append(&mut files.remove);
            self.write(files.write).await?;
        }
        self.finish(position, target, remove).await
    }

    /// Entries from the database.
    async fn read(&self, first: u64, end: u64) -> Result<Vec<StoredEntry>, LogError> {
        let readers = self.shared.readers();
        let mut reader = readers
            .acquire()
            .await
            .map_err(|error| LogError::read(&error))?;
        tree::entries(first, end, &mut reader).await
    }

    /// Writes files durably, in order.
    async fn write(&self, files: Vec<(PathBuf, Vec<u8>)>) -> Result<(), LogError> {
        let details = self.shared.publication.details.clone();
        let written = tokio::task::spawn_blocking(move || {
            for (path, bytes) in files {
                let written = if path.starts_with(&details) {
                    durable::write_private(&path, &bytes)
                } else {
                    durable::write(&path, &bytes)
                };
                written.map_err(|error| format!("{}: {error}", path.display()))?;
            }
            Ok(())
        });
        match written.await {
            Ok(result) => result.map_err(LogError::Publish),
            Err(error) => Err(LogError::Publish(error.to_string())),
        }
    }

    /// Writes what is partial, then the checkpoint, then takes away what it made superfluous.
    async fn finish(
        &mut self,
        position: Position,
        target: Head,
        remove: Vec<PathBuf>,
    ) -> Result<(), LogError> {
        // The publisher hashed every leaf itself: two computations, one root.
        if position.edge.root() != target.root {
            return Err(LogError::Damaged(format!(
                "the first {} entries do not have the root that the writer computed",
                target.size
            )));
        }
        self.write(position.partials(&self.shared)).await?;
        let note = self.shared.note(target.size, target.root).await?;
        let path = checkpoint_path(&self.shared.publication.published);
        self.write(vec![(path, note.into_bytes())]).await?;
        self.position = position;
        self.shared.published.send_modify(|state| {
            state.size = target.size;
            state.fault = None;
        });
        // A directory that stays is superfluous, not wrong.
        let _removed = tokio::task::spawn_blocking(move || {
            for partial in remove {
                if let Err(error) = std::fs::remove_dir_all(&partial)
                    && error.kind() != std::io::ErrorKind::NotFound
                {
                    tracing::warn!(path = %partial.display(), %error, "a partial tile stays");
                }
            }
        })
        .await;
        Ok(())
    }
}

impl Position {
    /// The position after `size` entries.
    async fn at(size: u64, database: &mut SqliteConnection) -> Result<Self, LogError> {
        let edge = tree::edge_at(size, database).await?;
        let first = size - size % TILE_WIDTH;
        let bundle = tree::entries(first, size, database).await?;
        Ok(Self { edge, bundle })
    }

    /// Takes in entries; what becomes full is to be written.
    fn extend(&mut self, entries: Vec<StoredEntry>, shared: &Shared, files: &mut Files) {
        let log = shared.publication.published.join("log");
        for entry in entries {
            self.edge.push(leaf_hash(&entry.leaf), |at, hashes| {
                let path = log.join(hash_tile_path(at.level, at.index, FULL));
                files.full(path, encode_hashes(hashes));
            });
            self.bundle.push(entry);
            if self.edge.size().is_multiple_of(TILE_WIDTH) {
                let [entries, details] = self.bundle_files(shared, FULL);
                files.full(entries.0, entries.1);
                files.full(details.0, details.1);
                self.bundle.clear();
            }
        }
    }

    /// The partial tiles and bundles.
    fn partials(&self, shared: &Shared) -> Vec<(PathBuf, Vec<u8>)> {
        let log = shared.publication.published.join("log");
        let tiles = self.edge.partials().map(|(at, hashes)| {
            let path = log.join(hash_tile_path(at.level, at.index, at.width));
            (path, encode_hashes(hashes))
        });
        let mut files: Vec<_> = tiles.collect();
        if let Ok(width @ 1..) = u16::try_from(self.bundle.len()) {
            files.extend(self.bundle_files(shared, width));
        }
        files
    }

    /// The bundle of entries and that of details.
    fn bundle_files(&self, shared: &Shared, width: u16) -> [(PathBuf, Vec<u8>); 2] {
        let first = self.bundle.first().map_or(0, |entry| entry.index);
        let index = first / TILE_WIDTH;
        let log = shared.publication.published.join("log");
        let leaves = self.bundle.iter().map(|entry| entry.leaf.as_slice());
        let details = self
            .bundle
            .iter()
            .filter_map(|entry| Some((entry.index, entry.detail.as_deref()?)));
        [
            (
                log.join(entry_bundle_path(index, width)),
                encode_entries(leaves),
            ),
            (
                shared
                    .publication
                    .details
                    .join(detail_bundle_path(index, width)),
                encode_details(details),
            ),
        ]
    }
}

impl Files {
    /// A full tile or bundle, whose partial ones are superfluous from now on.
    fn full(&mut self, path: PathBuf, bytes: Vec<u8>) {
        let mut partial = path.clone().into_os_string();
        partial.push(".p");
        self.remove.push(partial.into());
        self.write.push((path, bytes));
    }
}

/// Makes the details' directory, or takes rights away from one that is there, so that only this user and its group
/// can look inside and only this user can put something there.
fn private_directory(path: &Path) -> Result<(), LogError> {
    private_directory_by(path, |path, mode| {
        std::fs::set_permissions(path, Permissions::from_mode(mode))
    })
}

/// As [`private_directory`], with what sets a directory's mode.
fn private_directory_by(
    path: &Path,
    set_mode: impl FnOnce(&Path, u32) -> io::Result<()>,
) -> Result<(), LogError> {
    let failed = |error: io::Error| LogError::Publish(format!("{}: {error}", path.display()));
    let mut builder = DirBuilder::new();
    let made = builder.recursive(true).mode(MODE_PRIVATE).create(path);
    let found = made
        .and_then(|()| std::fs::metadata(path))
        .map_err(failed)?;
    let mode = found.permissions().mode() & MODE_ALL;
    if mode & MODE_WIDER == 0 {
        return Ok(());
    }
    let tightened = mode & !MODE_WIDER;
    set_mode(path, tightened).map_err(|error| {
        let (path, owner) = (path.display(), found.uid());
        let us = rustix::process::geteuid().as_raw();
        LogError::Publish(format!(
            "{path}: mode {mode:04o} lets its group write or others in, and this user ({us}) may not change that of \
             user {owner}'s directory ({error}): chown {us} it, or chmod {tightened:04o} it"
        ))
    })?;
    tracing::warn!(path = %path.display(), "the directory of details was open to others and is closed to them");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_s_directory_that_is_open_is_named_with_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("details");
        let not_ours = |_: &Path, _| Err(io::Error::from(io::ErrorKind::PermissionDenied));
        private_directory_by(&path, not_ours).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o2750)).unwrap();
        private_directory_by(&path, not_ours).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o2775)).unwrap();
        let told = private_directory_by(&path, not_ours)
            .unwrap_err()
            .to_string();
        let us = rustix::process::geteuid().as_raw();
        let (mode, what) = (
            "mode 2775".to_owned(),
            format!("chown {us} it, or chmod 2750 it"),
        );
        for part in [path.display().to_string(), mode, what] {
            assert!(told.contains(&part), "{part}: {told}");
        }
        private_directory(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & MODE_ALL, 0o2750);
    }
}
