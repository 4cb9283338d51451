//! Making and opening a log: from an empty store or a full one to running tasks.
//!
//! Promises a start whose cost does not grow with certificates: right edge, open intents, and the changes of
//! lines and orders, which are replayed. Refuses a store that is not this log, or that was rolled back behind what is
//! published. Failure story: [`LogError`], and nothing was changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use certstatus::UnixMillis;
use certstatus::log::checkpoint::VerifierKey;
use certstatus::log::entry::Slug;
use certstatus::log::{Entry, EntryKind, LeafIndex, Outcome};
use serde_json::Value;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;
use tokio::sync::mpsc;

use super::append::{Append, Closing, Note};
use super::error::LogError;
use super::mover;
use super::plan::View;
use super::publish::{Publisher, published_size};
use super::read;
use super::record::{LogState, Publication};
use super::revocations;
use super::shared::Shared;
use super::tables::unsigned;
use super::tree;
use super::writer::{Pace, Writer};
use super::{SigningLog, Tasks};
use crate::hsm::LogKey;
use crate::limits;
use crate::ra::{Change, Registry, Units};
use crate::store::{self, Store};
use crate::time::Clock;

/// Why a restart closes intents, in their outcomes' details.
const RESTART: &str = "restart: whether a token signed is not known";

/// What a log needs beside its store.
pub(super) struct Parts {
    pub clock: Clock,
    pub origin: String,
    pub key: LogKey,
    pub publication: Publication,
    pub pace: Pace,
}

impl Parts {
    /// What a log in service needs.
    pub(super) fn new(clock: Clock, origin: &str, key: LogKey, publication: Publication) -> Self {
        Self {
            clock,
            origin: origin.to_owned(),
            key,
            publication,
            pace: Pace::NORMAL,
        }
    }
}

/// What a log begins with.
struct Begun {
    /// What is durable.
    view: View,
    /// Open intents of earlier processes.
    inherited: Vec<Closing>,
    state: LogState,
}

/// A log whose tasks do not run yet.
struct Idle {
    asks: mpsc::Sender<Append>,
    writer: Writer,
    publisher: Publisher,
    mover: SqliteConnection,
}

impl Idle {
    /// Puts a log together over its store.
    async fn new(
        store: Store,
        parts: Parts,
        verifier: VerifierKey,
        begun: Begun,
    ) -> Result<Self, LogError> {
        let Store {
            path,
            mut writer,
            readers,
            lock,
        } = store;
        let Parts {
            clock,
            origin,
            key,
            publication,
            pace,
        } = parts;
        let Begun {
            view,
            inherited,
            state,
        } = begun;
        let shared = Arc::new(Shared::new(
            (clock, origin, key, verifier, publication),
            view.registry.clone(),
            readers,
            (state, view.head()),
            lock,
        ));
        let mover = store::open_mover(&path).await;
        let mover = mover.map_err(|error| LogError::halted(&error))?;
        shared.set_revoked_issuers(&view.authorities);
        let published = published_size(&shared, view.edge.size(), &mut writer).await?;
        let publisher = Publisher::new(Arc::clone(&shared), published, pace, &mut writer).await?;
        let (asks, queue) = mpsc::channel(limits::APPEND_QUEUE_MAX);
        let writer = Writer {
            shared,
            queue,
            path,
            database: Some(writer),
            view,
            inherited,
            kept: Vec::new(),
            stop: None,
            pace,
            #[cfg(test)]
            faults: super::tests::Faults::default(),
        };
        Ok(Self {
            asks,
            writer,
            publisher,
            mover,
        })
    }
}

/// A failed read.
fn failed(error: sqlx::Error) -> LogError {
    LogError::read(&error)
}

/// The verifier key of a log.
fn verifier(parts: &Parts) -> Result<VerifierKey, LogError> {
    VerifierKey::new(&parts.origin, parts.key.public())
        .map_err(|error| LogError::WrongLog(format!("origin {:?}: {error}", parts.origin)))
}

impl SigningLog {
    /// Makes a new log whose entry 0 is the genesis, and runs it.
    pub(super) async fn create_with(
        mut store: Store,
        parts: Parts,
        data: Value,
    ) -> Result<Self, LogError> {
        let verifier = verifier(&parts)?;
        let genesis = Note::genesis(&parts.origin, &verifier.to_string(), data)?;
        if let Some(size) = tree::size(&mut store.writer).await?
            && size > 0
        {
            let fault = "there is a log in this database already".to_owned();
            return Err(LogError::WrongLog(fault));
        }
        // Not a log yet: a size of 0 is refused by `open`.
        sqlx::query("INSERT INTO tree (id, size) VALUES (1, 0) ON CONFLICT DO NOTHING")
            .execute(&mut store.writer)
            .await
            .map_err(|error| LogError::Halted(certstatus::chain(&error)))?;
        let begun = Begun {
            view: View::empty(Registry::default()),
            inherited: Vec::new(),
            state: LogState::Running,
        };
        let mut idle = Idle::new(store, parts, verifier, begun).await?;
        let note = Box::new(genesis);
        let group = vec![Append::Note { note, answer: None }];
        // The store stays without a log: the ceremony starts over with an empty directory.
        idle.writer
            .commit(group)
            .await
            .map_err(|(_, fault)| fault)?;
        Ok(Self::spawn(idle))
    }

    /// Opens the log that the configuration names; recovering until told that no token signs any more.
    pub(super) async fn open_with(mut store: Store, parts: Parts) -> Result<Self, LogError> {
        let verifier = verifier(&parts)?;
        let database = &mut store.writer;
        let none = || LogError::WrongLog("there is none in this database".to_owned());
        let size = tree::size(database).await?.ok_or_else(none)?;
        if size == 0 {
            return Err(none());
        }
        check_genesis(&parts.origin, &verifier, database).await?;
        let registry = registry(database).await?;
        let (open, inherited) = open_intents(database).await?;
        let issuers = read::issuers(database).await?;
        let authorities = revocations::authorities(&issuers, database).await;
        let authorities = authorities.map_err(|fault| LogError::Read(certstatus::chain(&fault)))?;
        let view = View {
            edge: tree::edge_at(size, database).await?,
            newest: newest(size, database).await?,
            open,
            registry,
            authorities,
        };
        let begun = Begun {
            view,
            inherited,
            state: LogState::Recovering,
        };
        Ok(Self::spawn(Idle::new(store, parts, verifier, begun).await?))
    }

    /// Starts the tasks.
    fn spawn(idle: Idle) -> Self {
        let Idle {
            asks,
            writer,
            publisher,
            mover,
        } = idle;
        let shared = Arc::clone(&writer.shared);
        #[cfg(test)]
        let faults = writer.faults.clone();
        let tasks = Tasks {
            mover: tokio::spawn(mover::run(Arc::clone(&shared), mover)),
            writer: tokio::spawn(writer.run()),
            publisher: tokio::spawn(publisher.run()),
        };
        Self::from_parts(
            shared,
            asks,
            tasks,
            #[cfg(test)]
            faults,
        )
    }
}

/// Checks that entry 0 names this origin and this log key.
async fn check_genesis(
    origin: &str,
    verifier: &VerifierKey,
    database: &mut SqliteConnection,
) -> Result<(), LogError> {
    let entries = tree::entries(0, 1, database).await?;
    let genesis = entries
        .first()
        .and_then(|entry| Entry::parse(&entry.leaf).ok());
    let Some(Entry {
        kind: EntryKind::Genesis {
            origin: logged,
            log_key,
        },
        ..
    }) = genesis
    else {
        return Err(LogError::Damaged("entry 0 is not a genesis".to_owned()));
    };
    if logged != origin {
        return Err(LogError::WrongLog(format!(
            "its origin is {logged}, the configuration says {origin}"
        )));
    }
    if log_key != verifier.to_string() {
        return Err(LogError::WrongLog(format!(
            "its log key is {log_key}, the configured one is {verifier}"
        )));
    }
    Ok(())
}

/// The time of the newest entry, which is the last of the tree.
async fn newest(size: u64, database: &mut SqliteConnection) -> Result<UnixMillis, LogError> {
    let row = sqlx::query("SELECT max(idx) AS last FROM entry")
        .fetch_one(&mut *database)
        .await
        .map_err(failed)?;
    let last = unsigned(&row, "last").map_err(failed)?;
    if last.checked_add(1) != Some(size) {
        return Err(LogError::Damaged(format!(
            "the newest entry is {last}, but the tree has {size}"
        )));
    }
    let entries = tree::entries(last, size, database).await?;
    let entry = entries
        .first()
        .and_then(|entry| Entry::parse(&entry.leaf).ok());
    entry
        .map(|entry| entry.time)
        .ok_or_else(|| LogError::Damaged(format!("entry {last} is malformed")))
}

/// Lines and orders as the log left them.
async fn registry(database: &mut SqliteConnection) -> Result<Registry, LogError> {
    let registry = Registry::default();
    let changes = sqlx::query("SELECT entry, change FROM registry_change ORDER BY entry")
        .fetch_all(&mut *database)
        .await
        .map_err(failed)?;
    for row in &changes {
        let text: &str = row.try_get("change").map_err(failed)?;
        let change: Change = serde_json::from_str(text).map_err(|error| {
            let entry: i64 = row.try_get("entry").unwrap_or(-1);
            LogError::Damaged(format!("the change at entry {entry}: {error}"))
        })?;
        registry.apply(&change);
    }
    let units = sqlx::query("SELECT order_name, used, unresolved, held FROM order_units")
        .fetch_all(database)
        .await
        .map_err(failed)?;
    for row in &units {
        let malformed = || LogError::Damaged("the units of an order".to_owned());
        let name: &str = row.try_get("order_name").map_err(failed)?;
        let order: Slug = name.parse().map_err(|_| malformed())?;
        let used = unsigned(row, "used").map_err(failed)?;
        let unresolved = unsigned(row, "unresolved").map_err(failed)?;
        let unresolved = u32::try_from(unresolved).map_err(|_| malformed())?;
        let held = unsigned(row, "held").map_err(failed)?;
        let units = Units {
            used,
            unresolved,
            held,
        };
        registry.set_units(&order, units);
    }
    Ok(registry)
}

/// The open intents of earlier processes, and the outcomes that recovery gives them.
async fn open_intents(
    database: &mut SqliteConnection,
) -> Result<(BTreeSet<u64>, Vec<Closing>), LogError> {
    let rows = sqlx::query(
        "SELECT n.intent, e.leaf, c.order_name FROM open_intent n \
         JOIN entry e ON e.idx = n.intent LEFT JOIN certificate c ON c.intent = n.intent \
         ORDER BY n.intent",
    )
    .fetch_all(database)
    .await
    .map_err(failed)?;
    let mut open = BTreeSet::new();
    let mut closings = Vec::with_capacity(rows.len());
    for row in &rows {
        let intent = unsigned(row, "intent").map_err(failed)?;
        let malformed = || LogError::Damaged(format!("the intent at {intent}"));
        let leaf: &[u8] = row.try_get("leaf").map_err(failed)?;
        let entry = Entry::parse(leaf).map_err(|_| malformed())?;
        let EntryKind::Intent { issuer, subject } = entry.kind else {
            return Err(malformed());
        };
        let order: Option<&str> = row.try_get("order_name").map_err(failed)?;
        let order = order.map(str::parse).transpose().map_err(|_| malformed())?;
        open.insert(intent);
        closings.push(Closing::unsigned(
            LeafIndex(intent),
            issuer,
            subject,
            Outcome::Unresolved { attempts: 0 },
            order,
            RESTART.to_owned(),
        )?);
    }
    Ok((open, closings))
}
