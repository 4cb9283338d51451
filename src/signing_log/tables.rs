//! The log's tables: what a plan writes in its transaction, and what it has to know before.
//!
//! Owns the SQL of every append. Promises that a plan is written whole or not at all, and only onto the tree
//! size that it was made for (compare-and-swap). Rows of a kind share statements, up to [`ROWS_MAX`] each.
//! Failure story: any error leaves the transaction undone as far as anyone knows; recovery finds out.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use certstatus::SerialNumber;
use certstatus::log::{DetailHash, IssuerName, Outcome, Subject};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite};

use super::append::{Append, Effect};
use super::plan::{Facts, Live, Plan};
use super::revocations;
use crate::ra::Change;

/// Rows in one statement: beyond it the statement's own cost no longer counts, and its text is kept.
const ROWS_MAX: usize = 64;

/// Why a plan is not durable, as far as anyone knows.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteFault {
    /// SQLite's error.
    #[error("the database did not take an append")]
    Sql(#[from] sqlx::Error),
    /// Somebody else appended.
    #[error("the log's size in the database is not {expected}: another writer was there")]
    Swapped {
        /// The size that the plan was made for.
        expected: u64,
    },
    /// A number that SQLite cannot hold.
    #[error("a number is too large for the database")]
    Range,
    /// A row is not what it must be.
    #[error("a row of the table {0} is malformed")]
    Row(&'static str),
}

/// SQLite's integers are signed.
pub(super) fn signed(number: u64) -> Result<i64, WriteFault> {
    i64::try_from(number).map_err(|_| WriteFault::Range)
}

/// Like [`signed`], where the plan's size, which is checked, bounds an index, or a time is beyond all years.
fn clamped(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that the log wrote and that is never negative.
pub(super) fn unsigned(row: &SqliteRow, column: &str) -> Result<u64, sqlx::Error> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// An octet string of a fixed length.
pub(super) fn octets<const N: usize>(
    row: &SqliteRow,
    column: &str,
) -> Result<[u8; N], sqlx::Error> {
    let blob: &[u8] = row.try_get(column)?;
    blob.try_into()
        .map_err(|error: std::array::TryFromSliceError| sqlx::Error::Decode(error.into()))
}

/// A serial.
pub(super) fn serial(row: &SqliteRow, column: &str) -> Result<SerialNumber, sqlx::Error> {
    let blob: &[u8] = row.try_get(column)?;
    SerialNumber::from_slice(blob).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// An issuer's name.
pub(super) fn issuer(row: &SqliteRow, column: &str) -> Result<IssuerName, sqlx::Error> {
    let text: &str = row.try_get(column)?;
    text.parse()
        .map_err(|error: certstatus::log::entry::NotASlug| sqlx::Error::Decode(error.into()))
}

/// How an outcome stands in its table.
pub(super) const fn code(outcome: Outcome) -> i64 {
    match outcome {
        Outcome::Issued { .. } => 0,
        Outcome::Abandoned => 1,
        Outcome::Unresolved { .. } => 2,
    }
}

/// Writes a plan in one transaction.
pub(super) async fn write(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    let mut transaction = database.begin_with("BEGIN IMMEDIATE").await?;
    entries(plan, &mut transaction).await?;
    certificates(plan, &mut transaction).await?;
    outcomes(plan, &mut transaction).await?;
    rare(plan, &mut transaction).await?;
    let swapped = sqlx::query("UPDATE tree SET size = $1 WHERE id = 1 AND size = $2")
        .bind(signed(plan.size())?)
        .bind(signed(plan.first)?)
        .execute(&mut *transaction)
        .await?;
    if swapped.rows_affected() != 1 {
        return Err(WriteFault::Swapped {
            expected: plan.first,
        });
    }
    Ok(transaction.commit().await?)
}

/// Inserts the entries.
async fn entries(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    let mut index = signed(plan.first)?;
    for rows in plan.entries.chunks(ROWS_MAX) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO entry (idx, leaf, detail) ");
        insert.push_values(rows, |mut row, (leaf, detail)| {
            row.push_bind(index)
                .push_bind(leaf.as_slice())
                .push_bind(detail.as_deref());
            index = index.saturating_add(1);
        });
        insert.build().execute(&mut *database).await?;
    }
    Ok(())
}

/// Inserts certificates and open intents.
async fn certificates(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    for rows in plan.certificates.chunks(ROWS_MAX) {
        let mut insert = QueryBuilder::<Sqlite>::new(
            "INSERT INTO certificate (intent, serial, issuer, why, profile, order_name, line, \
             device_id, device_key, spki, requested, not_before, not_after) ",
        );
        insert.push_values(rows, |mut row, (intent, issuer, certificate)| {
            let unit = certificate.unit.as_ref();
            row.push_bind(clamped(*intent))
                .push_bind(certificate.serial.as_bytes().as_slice())
                .push_bind(issuer.as_str())
                .push_bind(certificate.why)
                .push_bind(certificate.profile.as_str())
                .push_bind(unit.map(|unit| unit.order.as_str()))
                .push_bind(
                    certificate
                        .line
                        .as_ref()
                        .map(certstatus::log::entry::Slug::as_str),
                )
                .push_bind(unit.map(|unit| unit.device_id.as_str()))
                .push_bind(unit.map(|unit| unit.device_key.as_str()))
                .push_bind(certificate.spki.0.as_slice())
                .push_bind(certificate.requested.0.as_slice())
                .push_bind(clamped(certificate.not_before.0))
                .push_bind(clamped(certificate.not_after.0));
        });
        insert.build().execute(&mut *database).await?;
    }
    for rows in plan.opened.chunks(ROWS_MAX) {
        let mut insert = QueryBuilder::<Sqlite>::new("INSERT INTO open_intent (intent) ");
        insert.push_values(rows, |mut row, intent| {
            row.push_bind(clamped(*intent));
        });
        insert.build().execute(&mut *database).await?;
    }
    Ok(())
}

/// Inserts outcomes and takes their intents off the open ones.
async fn outcomes(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    for rows in plan.closed.chunks(ROWS_MAX) {
        let mut insert =
            QueryBuilder::<Sqlite>::new("INSERT INTO outcome (intent, entry, outcome) ");
        insert.push_values(rows, |mut row, (intent, entry, outcome)| {
            row.push_bind(clamped(*intent))
                .push_bind(clamped(*entry))
                .push_bind(code(*outcome));
        });
        insert.build().execute(&mut *database).await?;
        let mut delete = QueryBuilder::<Sqlite>::new("DELETE FROM open_intent WHERE intent IN (");
        let mut list = delete.separated(", ");
        for (intent, ..) in rows {
            list.push_bind(clamped(*intent));
        }
        delete.push(")");
        delete.build().execute(&mut *database).await?;
    }
    Ok(())
}

/// Writes what few plans have, row by row.
async fn rare(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    revocations::write(&plan.revoked, database).await?;
    for (entry, change) in &plan.changes {
        let text = serde_json::to_string(change).map_err(|_| WriteFault::Row("registry_change"))?;
        sqlx::query("INSERT INTO registry_change (entry, change) VALUES ($1, $2)")
            .bind(signed(*entry)?)
            .bind(text)
            .execute(&mut *database)
            .await?;
    }
    for (entry, issuer) in &plan.issuers {
        let malformed = |_| WriteFault::Row("issuer");
        sqlx::query(
            "INSERT INTO issuer (entry, name, certificate, algorithm, role, parent, partitions) \
             VALUES ($1, $2, $3, $4, $5, $6, $7)",
        )
        .bind(signed(*entry)?)
        .bind(issuer.name.as_str())
        .bind(issuer.certificate.as_slice())
        .bind(serde_json::to_string(&issuer.algorithm).map_err(malformed)?)
        .bind(serde_json::to_string(&issuer.role).map_err(malformed)?)
        .bind(issuer.parent.as_str())
        .bind(i64::from(issuer.partitions))
        .execute(&mut *database)
        .await?;
    }
    for (issuer, number) in &plan.crl_numbers {
        sqlx::query(
            "INSERT INTO crl_number (issuer, number) VALUES ($1, $2) \
             ON CONFLICT (issuer) DO UPDATE SET number = excluded.number",
        )
        .bind(issuer.as_str())
        .bind(signed(*number)?)
        .execute(&mut *database)
        .await?;
    }
    order_units(plan, database).await?;
    for (at, hashes) in &plan.tiles {
        sqlx::query("INSERT INTO tile (level, idx, hashes) VALUES ($1, $2, $3)")
            .bind(i64::from(at.level))
            .bind(signed(at.index)?)
            .bind(hashes.as_slice())
            .execute(&mut *database)
            .await?;
    }
    Ok(())
}

/// Writes the figures of orders as they stand after the plan.
async fn order_units(plan: &Plan, database: &mut SqliteConnection) -> Result<(), WriteFault> {
    for (order, units) in &plan.units {
        sqlx::query(
            "INSERT INTO order_units (order_name, used, unresolved, held) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (order_name) DO UPDATE \
             SET used = excluded.used, unresolved = excluded.unresolved, held = excluded.held",
        )
        .bind(order.as_str())
        .bind(signed(units.used)?)
        .bind(i64::from(units.unresolved))
        .bind(signed(units.held)?)
        .execute(&mut *database)
        .await?;
    }
    Ok(())
}

/// Reads what a batch has to know.
pub(super) async fn facts(
    batch: &[Append],
    database: &mut SqliteConnection,
) -> Result<Facts, WriteFault> {
    let mut facts = Facts::default();
    let mut keys = BTreeSet::new();
    let mut devices = BTreeSet::new();
    let mut serials = Vec::new();
    for append in batch {
        match append {
            Append::Intent { draft, .. } => {
                if let Some(row) = &draft.certificate {
                    keys.insert(row.spki.0);
                    devices.extend(row.unit.as_ref().map(|unit| unit.device_key.as_str()));
                }
                if let Subject::Crl { .. } = draft.subject {
                    facts
                        .crl_numbers
                        .extend(crl_number(&draft.issuer, database).await?);
                }
            }
            Append::Note { note, .. } => {
                if let Effect::Issuer(record) = &note.effect {
                    facts
                        .issuers
                        .extend(known_issuer(&record.name, database).await?);
                }
                if let Effect::Change(change) = &note.effect {
                    serials.extend(change.certifies().map(|certificate| certificate.serial));
                }
                if let Effect::Change(Change::LineCertified {
                    line, certificate, ..
                }) = &note.effect
                {
                    let serial = certificate.serial;
                    let tainted = revocations::is_tainted(line, serial, database).await?;
                    facts.tainted.extend(tainted.then_some(serial));
                }
            }
            Append::Revoke { draft, .. } => {
                serials.extend(draft.serials.iter().map(|(serial, _)| *serial));
            }
            Append::Outcome { .. } | Append::Recover { .. } | Append::Stop { .. } => {}
        }
    }
    let keys: Vec<[u8; 32]> = keys.into_iter().collect();
    let devices: Vec<&str> = devices.into_iter().collect();
    facts.live = live(&keys, &devices, database).await?;
    facts.revocable = revocations::revocable(&serials, database).await?;
    Ok(facts)
}

/// The certificates, open or issued, that hold one of these keys or device ids.
async fn live(
    keys: &[[u8; 32]],
    devices: &[&str],
    database: &mut SqliteConnection,
) -> Result<Vec<Live>, WriteFault> {
    const SELECT: &str = "SELECT c.intent, c.serial, c.profile, c.order_name, c.device_id, \
         c.device_key, c.spki, c.requested FROM certificate c \
         LEFT JOIN outcome o ON o.intent = c.intent \
         WHERE (o.outcome IS NULL OR o.outcome = 0) AND ";
    let mut found = BTreeMap::new();
    for keys in keys.chunks(ROWS_MAX) {
        let mut select = QueryBuilder::<Sqlite>::new(SELECT);
        select.push("c.spki IN (");
        let mut list = select.separated(", ");
        for key in keys {
            list.push_bind(key.as_slice());
        }
        select.push(")");
        for row in select.build().fetch_all(&mut *database).await? {
            let live = live_row(&row)?;
            found.insert(live.intent, live);
        }
    }
    for devices in devices.chunks(ROWS_MAX) {
        let mut select = QueryBuilder::<Sqlite>::new(SELECT);
        select.push("c.device_key IN (");
        let mut list = select.separated(", ");
        for device in devices {
            list.push_bind(*device);
        }
        select.push(")");
        for row in select.build().fetch_all(&mut *database).await? {
            let live = live_row(&row)?;
            found.insert(live.intent, live);
        }
    }
    Ok(found.into_values().collect())
}

/// Reads a row of [`live`].
fn live_row(row: &SqliteRow) -> Result<Live, sqlx::Error> {
    Ok(Live {
        intent: unsigned(row, "intent")?,
        serial: serial(row, "serial")?,
        profile: row.try_get("profile")?,
        order: row.try_get("order_name")?,
        device_id: row.try_get("device_id")?,
        device_key: row.try_get("device_key")?,
        spki: DetailHash(octets(row, "spki")?),
        requested: DetailHash(octets(row, "requested")?),
    })
}

/// The newest CRL number of an issuer.
async fn crl_number(
    issuer: &IssuerName,
    database: &mut SqliteConnection,
) -> Result<HashMap<IssuerName, u64>, WriteFault> {
    let row = sqlx::query("SELECT number FROM crl_number WHERE issuer = $1")
        .bind(issuer.as_str())
        .fetch_optional(database)
        .await?;
    let number = row.map(|row| unsigned(&row, "number")).transpose()?;
    Ok(number
        .map(|number| (issuer.clone(), number))
        .into_iter()
        .collect())
}

/// The name, if there is an issuer of that name.
async fn known_issuer(
    name: &IssuerName,
    database: &mut SqliteConnection,
) -> Result<HashSet<IssuerName>, WriteFault> {
    let row = sqlx::query("SELECT 1 FROM issuer WHERE name = $1")
        .bind(name.as_str())
        .fetch_optional(database)
        .await?;
    Ok(row.map(|_| name.clone()).into_iter().collect())
}
