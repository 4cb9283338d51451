//! The database: SQLite, WAL, `synchronous=FULL`, one writer.
//!
//! Owns the file, the lock that keeps a second process out, the pragmas (read back after they are set) and
//! the migrations. Knows no table's meaning. Never creates a database unless a ceremony asks. Failure story:
//! any error stops the caller; reopening is [`Store::open`] anew.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use sqlx::ConnectOptions as _;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};

/// The database's name within the state directory.
const DATABASE: &str = "hallmark.db";

/// The lock file's name within the state directory.
const LOCK: &str = "lock";

/// How long a connection waits for another's lock: a checkpoint of the largest WAL takes about a second.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections that only read: status and lists; issuing needs one.
const READERS_MAX: u32 = 2;

/// Prepared statements that the writer keeps: about ten kinds, each for 1 to 64 rows.
const STATEMENTS_MAX: usize = 1024;

/// Pages (4 KiB) in the write-ahead log from which on it is to be emptied: 64 MiB.
pub(crate) const WAL_PAGES: i64 = 16_384;

/// The writer's page cache in KiB (negative means KiB to SQLite): the inner pages of the random indexes.
const CACHE_KIB: &str = "-16384";

/// An open database with its lock held.
pub struct Store {
    pub(crate) path: PathBuf,
    /// The only connection that writes.
    pub(crate) writer: SqliteConnection,
    /// Connections that only read.
    pub(crate) readers: SqlitePool,
    /// Held until the process ends.
    pub(crate) lock: Lock,
}

/// The right to the state directory: no other process has it while this value lives.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Its flock goes with its last descriptor.
    _file: File,
}

/// A writer and readers on the same database.
pub(crate) struct Connections {
    /// The only connection that writes.
    pub(crate) writer: SqliteConnection,
    /// Connections that only read.
    pub(crate) readers: SqlitePool,
}

/// Why the database does not open.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process has it.
    #[error("{}: in use by another process; only one appliance may run on a state directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// There is none: a ceremony makes it.
    #[error("{}: there is no database; run the ceremony first, or restore a backup", path.display())]
    Missing {
        /// The database file.
        path: PathBuf,
    },
    /// There is one already: a ceremony does not overwrite.
    #[error("{}: there is a database already; a ceremony never overwrites one", path.display())]
    Exists {
        /// The database file.
        path: PathBuf,
    },
    /// The file system's error.
    #[error("{}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A pragma did not take.
    #[error("the database does not accept {pragma}: it says {found:?}")]
    Pragma {
        /// The pragma and the value wanted.
        pragma: &'static str,
        /// What it read back as.
        found: String,
    },
    /// SQLite's error.
    #[error("database")]
    Sql(#[source] sqlx::Error),
    /// A migration failed or the database is newer than this program.
    #[error("database schema")]
    Migrate(#[source] MigrateError),
    /// The write-ahead log could not be moved into the database as a whole.
    #[error("the write-ahead log is still in use; nothing else may have the database open")]
    WalBusy,
}

impl Store {
    /// Opens an existing database in `state_dir` and takes its lock.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    pub async fn open(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(DATABASE);
        // Before the lock, so that a wrong directory gets no stray lock file.
        if !path.exists() {
            return Err(StoreError::Missing { path });
        }
        let lock = Lock::take(state_dir)?;
        let Connections { writer, readers } = Self::connect(&path).await?;
        Ok(Self {
            path,
            writer,
            readers,
            lock,
        })
    }

    /// Makes a new database in `state_dir`, for a ceremony.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when there is one.
    pub async fn create(state_dir: &Path) -> Result<Self, StoreError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| StoreError::Io { path, source }
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(state_dir)
            .map_err(io(state_dir))?;
        let lock = Lock::take(state_dir)?;
        let path = state_dir.join(DATABASE);
        // An empty file is a new database to SQLite; made here so that only this user can read it, and
        // so that one that exists is never touched.
        let made = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path);
        match made {
            Ok(_empty) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(StoreError::Exists { path });
            }
            Err(error) => return Err(io(&path)(error)),
        }
        let synced = File::open(state_dir).and_then(|directory| directory.sync_all());
        synced.map_err(io(state_dir))?;
        let Connections { writer, readers } = Self::connect(&path).await?;
        Ok(Self {
            path,
            writer,
            readers,
            lock,
        })
    }

    /// Opens connections to a database that exists, whose lock the caller holds.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    pub(crate) async fn connect(path: &Path) -> Result<Connections, StoreError> {
        if !path.exists() {
            return Err(StoreError::Missing {
                path: path.to_owned(),
            });
        }
        let base = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(false)
            .busy_timeout(BUSY_TIMEOUT);
        let options = base
            .clone()
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // SQLite ignores what becomes of its own checkpoints; here each is asked for, and its result is seen.
            .pragma("wal_autocheckpoint", "0")
            .pragma("cache_size", CACHE_KIB)
            .statement_cache_capacity(STATEMENTS_MAX);
        let mut writer = options.connect().await.map_err(StoreError::Sql)?;
        // A database that is newer than this program is refused. (`Migrator::run` is this behind an
        // `Acquire` bound that no spawned task can meet.)
        sqlx::migrate!()
            .run_direct(None, &mut writer, false)
            .await
            .map_err(StoreError::Migrate)?;
        read_back(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS_MAX)
            .connect_lazy_with(base.read_only(true));
        Ok(Connections { writer, readers })
    }
}

/// Moves every page of the write-ahead log into the database, fsyncs both, and empties the log.
///
/// After a failed fsync this writes again what may never have reached the disk; reading it back would only
/// show the page cache.
///
/// # Errors
/// [`StoreError`]: what is in the database may not be durable; try again.
pub(crate) async fn checkpoint_wal(writer: &mut SqliteConnection) -> Result<(), StoreError> {
    let (busy, _pages, _moved): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(TRUNCATE)")
        .fetch_one(writer)
        .await
        .map_err(StoreError::Sql)?;
    if busy == 0 {
        Ok(())
    } else {
        Err(StoreError::WalBusy)
    }
}

/// What [`move_wal`] found and did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moved {
    /// Pages in the write-ahead log.
    pub pages: i64,
    /// All of them are in the database; if nobody wrote meanwhile, that is fsynced.
    pub all: bool,
}

/// Opens a connection for [`move_wal`] beside the writer.
///
/// # Errors
/// [`StoreError`]; nothing was changed.
pub(crate) async fn open_mover(path: &Path) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .busy_timeout(BUSY_TIMEOUT)
        // Also what makes it fsync the write-ahead log before pages are copied from it.
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", "0");
    options.connect().await.map_err(StoreError::Sql)
}

/// Copies what it can of the write-ahead log into the database while others read and write.
///
/// Pages are copied once: while others write, SQLite counts them as copied without an fsync of the database,
/// which the call that finds nothing new makes for all (`sqlite3WalCheckpoint`, mode PASSIVE).
///
/// # Errors
/// [`StoreError`]: the pages of this call are copied again; those of earlier calls that no fsync has covered
/// may be lost where the fsync failed, unless the write-ahead log is read from its beginning.
pub(crate) async fn move_wal(connection: &mut SqliteConnection) -> Result<Moved, StoreError> {
    let (busy, pages, moved): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
        .fetch_one(connection)
        .await
        .map_err(StoreError::Sql)?;
    Ok(Moved {
        pages,
        all: busy == 0 && pages == moved,
    })
}

/// Reads back every pragma that durability rests on: SQLite ignores what it does not know.
async fn read_back(writer: &mut SqliteConnection) -> Result<(), StoreError> {
    let journal: String = sqlx::query_scalar("PRAGMA journal_mode")
        .fetch_one(&mut *writer)
        .await
        .map_err(StoreError::Sql)?;
    if journal != "wal" {
        return Err(StoreError::Pragma {
            pragma: "journal_mode = WAL",
            found: journal,
        });
    }
    let timeout = i64::try_from(BUSY_TIMEOUT.as_millis()).unwrap_or(i64::MAX);
    for (sql, pragma, wanted) in [
        ("PRAGMA synchronous", "synchronous = FULL", 2),
        ("PRAGMA foreign_keys", "foreign_keys = ON", 1),
        ("PRAGMA busy_timeout", "busy_timeout = 5000", timeout),
    ] {
        let found: i64 = sqlx::query_scalar(sql)
            .fetch_one(&mut *writer)
            .await
            .map_err(StoreError::Sql)?;
        if found != wanted {
            return Err(StoreError::Pragma {
                pragma,
                found: found.to_string(),
            });
        }
    }
    Ok(())
}

impl Lock {
    /// Takes the lock, without waiting.
    fn take(state_dir: &Path) -> Result<Self, StoreError> {
        let path = state_dir.join(LOCK);
        let opened = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(source) => return Err(StoreError::Io { path, source }),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { path }),
            Err(error) => Err(StoreError::Io {
                path,
                source: error.into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_database_is_created_once_and_opened_only_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let missing = Store::open(dir.path()).await.err().unwrap();
        assert!(matches!(missing, StoreError::Missing { .. }));
        assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
        drop(Store::create(dir.path()).await.unwrap());
        let exists = Store::create(dir.path()).await.err().unwrap();
        assert!(matches!(exists, StoreError::Exists { .. }), "{exists}");
        drop(Store::open(dir.path()).await.unwrap());
    }

    #[tokio::test]
    async fn a_second_opener_is_locked_out() {
        let dir = tempfile::tempdir().unwrap();
        let held = Store::create(dir.path()).await.unwrap();
        let second = Store::open(dir.path()).await.err().unwrap();
        assert!(matches!(second, StoreError::Locked { .. }), "{second}");
        drop(held);
        drop(Store::open(dir.path()).await.unwrap());
    }

    #[tokio::test]
    async fn durability_is_what_sqlite_says_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).await.unwrap();
        read_back(&mut store.writer).await.unwrap();
        sqlx::query("PRAGMA synchronous = NORMAL")
            .execute(&mut store.writer)
            .await
            .unwrap();
        let weak = read_back(&mut store.writer).await.unwrap_err();
        assert!(matches!(weak, StoreError::Pragma { found, .. } if found == "1"));
    }

    #[tokio::test]
    async fn readers_cannot_write() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).await.unwrap();
        let refused = sqlx::query("INSERT INTO tree (id, size) VALUES (1, 0)")
            .execute(&store.readers)
            .await;
        assert!(refused.is_err());
    }

    #[tokio::test]
    async fn only_this_user_can_read_the_database() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let store = Store::create(dir.path()).await.unwrap();
        let mode = std::fs::metadata(&store.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_write_ahead_log_is_emptied() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::create(dir.path()).await.unwrap();
        checkpoint_wal(&mut store.writer).await.unwrap();
        let wal = dir.path().join("hallmark.db-wal");
        assert_eq!(std::fs::metadata(wal).unwrap().len(), 0);
    }
}
