//! Selections: which certificates an act on many is about.
//!
//! Owns the criteria and their reading, page by page. Promises that a selection up to an entry is the same for
//! ever: it names certificates whose outcome is below that entry, and the log only grows. Promises bounded work
//! for each page, whatever is selected. Never selects a CA's certificate unless its serial is named. Failure
//! story: a criterion that cannot be is refused before anything is read.

use std::collections::BTreeSet;

use certstatus::log::entry::Slug;
use certstatus::log::{DetailHash, Entry, IssuerName};
use certstatus::{SerialNumber, UnixMillis};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::error::LogError;
use super::read::{CERTIFICATES, failed, record};
use super::record::CertificateRecord;
use super::revocations::NEWEST;
use crate::limits;
use crate::ra::{ChangeRefused, DeviceIdPattern};

/// Entries that one page looks through where no index leads to the certificates: some 100 ms of reading.
const WINDOW: u64 = 200_000;

/// Which certificates; they fulfil every criterion that is there, and there is at least one.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// These serials (at most [`limits::SELECTION_NAMES_MAX`]).
    pub serials: Vec<SerialNumber>,
    /// Of this order.
    pub order: Option<Slug>,
    /// That this line asked for.
    pub line: Option<Slug>,
    /// By this issuer.
    pub issuer: Option<IssuerName>,
    /// What they are for; devices' where neither this, serials nor a key is there.
    pub kind: Option<CertificateKind>,
    /// Of these device ids (at most [`limits::SELECTION_NAMES_MAX`]); case does not matter.
    pub device_ids: Vec<String>,
    /// Of device ids from this one on, in ASCII order of their lower-case forms, inclusive.
    pub device_id_from: Option<String>,
    /// Of device ids up to this one, inclusive.
    pub device_id_to: Option<String>,
    /// Of device ids that this regular expression matches as a whole.
    pub device_id_pattern: Option<String>,
    /// Whose intent was logged at this time or later.
    pub issued_from: Option<UnixMillis>,
    /// Whose intent was logged before this time.
    pub issued_until: Option<UnixMillis>,
    /// For the public key whose SubjectPublicKeyInfo has this SHA-256.
    pub spki: Option<DetailHash>,
}

/// What a certificate is for, as the log has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CertificateKind {
    /// A device's, under an order.
    Device,
    /// A line's own.
    Line,
    /// A reader's: what a responder or an auditor fetches published files with.
    Reader,
    /// The API's.
    Server,
    /// A responder's.
    Responder,
}

/// One page of a selection.
#[derive(Clone, Debug, Serialize)]
pub struct SelectionPage {
    /// The selection is of the log's first so many entries: give it with the next page.
    pub entries: u64,
    /// The certificates, in the order of the log. A page may be empty and not the last.
    pub certificates: Vec<CertificateRecord>,
    /// Where the next page begins (`after`); none after the last one.
    pub next: Option<u64>,
    /// Device ids of the selection that no certificate on any of its pages has, in lower case; the first page alone
    /// has them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmatched: Vec<String>,
}

/// A criterion that cannot be.
fn refused(key: &'static str, problem: impl Into<String>) -> LogError {
    LogError::Change(ChangeRefused::Value {
        key,
        problem: problem.into(),
    })
}

impl CertificateKind {
    /// As the log's tables have it.
    const fn why(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Line => "line",
            Self::Reader => "reader",
            Self::Server => "server",
            Self::Responder => "responder",
        }
    }
}

impl Selection {
    /// Refuses what names nothing, or too much at once.
    fn judged(&self) -> Result<Option<DeviceIdPattern>, LogError> {
        let none = self.serials.is_empty()
            && self.device_ids.is_empty()
            && self.order.is_none()
            && self.line.is_none()
            && self.issuer.is_none()
            && self.kind.is_none()
            && self.device_id_from.is_none()
            && self.device_id_to.is_none()
            && self.device_id_pattern.is_none()
            && self.issued_from.is_none()
            && self.issued_until.is_none()
            && self.spki.is_none();
        if none {
            let problem = "names no criterion, which would be every certificate: give at least one";
            return Err(refused("selection", problem));
        }
        let most = limits::SELECTION_NAMES_MAX;
        for (key, length) in [
            ("serials", self.serials.len()),
            ("device_ids", self.device_ids.len()),
        ] {
            if length > most {
                let problem = format!("has {length} entries: send at most {most} at a time");
                return Err(refused(key, problem));
            }
        }
        let pattern = self.device_id_pattern.as_deref();
        let compiled = pattern.map(DeviceIdPattern::compile).transpose();
        compiled.map_err(|problem| refused("device_id_pattern", problem))
    }

    /// What kind it is about; none where serials or a key say it.
    fn kind(&self) -> Option<CertificateKind> {
        let named = !self.serials.is_empty() || self.spki.is_some();
        let default = (!named).then_some(CertificateKind::Device);
        self.kind.or(default)
    }

    /// Whether an index leads to the certificates.
    fn indexed(&self) -> bool {
        !self.serials.is_empty()
            || !self.device_ids.is_empty()
            || self.order.is_some()
            || self.spki.is_some()
    }
}

/// One page of a selection of the first `entries` entries: what comes after the intent `after`.
pub(super) async fn page(
    selection: &Selection,
    entries: u64,
    after: Option<u64>,
    database: &mut SqliteConnection,
) -> Result<SelectionPage, LogError> {
    let pattern = selection.judged()?;
    let mut first = after.map_or(0, |after| after.saturating_add(1));
    let mut end = entries;
    if let Some(from) = selection.issued_from {
        first = first.max(first_at(from, entries, database).await?);
    }
    if let Some(until) = selection.issued_until {
        end = end.min(first_at(until, entries, database).await?);
    }
    let window = if selection.indexed() {
        end
    } else {
        end.min(first.saturating_add(WINDOW))
    };
    let unmatched = if after.is_none() && !selection.device_ids.is_empty() {
        // An index leads to these, so one window has them all.
        let within = (first, window, entries);
        unmatched(selection, within, pattern.as_ref(), database).await?
    } else {
        Vec::new()
    };
    let mut select = QueryBuilder::<Sqlite>::new(CERTIFICATES);
    select.push(NEWEST);
    bounded(selection, (first, window, entries), &mut select);
    select.push(" ORDER BY c.intent LIMIT ");
    select.push_bind(integer(limits::SELECTION_PAGE));
    let rows = select
        .build()
        .fetch_all(&mut *database)
        .await
        .map_err(failed)?;
    let mut certificates = Vec::with_capacity(rows.len());
    for row in &rows {
        certificates.push(record(row).map_err(failed)?);
    }
    let full = u64::try_from(rows.len()).is_ok_and(|count| count >= limits::SELECTION_PAGE);
    let next = match certificates.last() {
        Some(last) if full => Some(last.intent.0),
        _ if window < end => Some(window.saturating_sub(1)),
        _ => None,
    };
    if let Some(pattern) = pattern {
        certificates.retain(|one| {
            one.device_id
                .as_deref()
                .is_some_and(|id| pattern.matches(id))
        });
    }
    Ok(SelectionPage {
        entries,
        certificates,
        next,
        unmatched,
    })
}

/// The device ids that were named and that no certificate of the selection has, in lower case.
async fn unmatched(
    selection: &Selection,
    within: (u64, u64, u64),
    pattern: Option<&DeviceIdPattern>,
    database: &mut SqliteConnection,
) -> Result<Vec<String>, LogError> {
    let named = selection.device_ids.iter();
    let mut unmatched: BTreeSet<_> = named.map(|id| id.to_ascii_lowercase()).collect();
    let head = "SELECT DISTINCT c.device_id FROM certificate c \
         LEFT JOIN outcome o ON o.intent = c.intent";
    let mut select = QueryBuilder::<Sqlite>::new(head);
    bounded(selection, within, &mut select);
    let rows = select.build().fetch_all(database).await.map_err(failed)?;
    for row in &rows {
        let id: Option<&str> = row.try_get("device_id").map_err(failed)?;
        let id = id.filter(|id| pattern.is_none_or(|pattern| pattern.matches(id)));
        if let Some(id) = id {
            unmatched.remove(&id.to_ascii_lowercase());
        }
    }
    Ok(unmatched.into_iter().collect())
}

/// The criteria, within the intents from the first number to before the second, of the third number of entries.
fn bounded(
    selection: &Selection,
    (first, window, entries): (u64, u64, u64),
    select: &mut QueryBuilder<Sqlite>,
) {
    select.push(" WHERE o.outcome <> 1 AND c.intent >= ");
    select.push_bind(integer(first));
    select.push(" AND c.intent < ").push_bind(integer(window));
    select.push(" AND o.entry < ").push_bind(integer(entries));
    criteria(selection, select);
}

/// The criteria that SQL judges.
fn criteria(selection: &Selection, select: &mut QueryBuilder<Sqlite>) {
    if !selection.serials.is_empty() {
        select.push(" AND c.serial IN (");
        let mut list = select.separated(", ");
        for serial in &selection.serials {
            list.push_bind(serial.as_bytes().as_slice());
        }
        select.push(")");
    } else {
        // An issuer's certificate is revoked by its name, never as one of many.
        select.push(" AND c.why <> 'ca'");
    }
    if let Some(kind) = selection.kind() {
        select.push(" AND c.why = ").push_bind(kind.why());
    }
    let texts = [
        (
            " AND c.order_name = ",
            selection.order.as_ref().map(Slug::as_str),
        ),
        (" AND c.line = ", selection.line.as_ref().map(Slug::as_str)),
        (
            " AND c.issuer = ",
            selection.issuer.as_ref().map(IssuerName::as_str),
        ),
    ];
    for (sql, text) in texts {
        if let Some(text) = text {
            select.push(sql).push_bind(text);
        }
    }
    if !selection.device_ids.is_empty() {
        // By the index: a device id is unique within an issuer, and there are few issuers.
        let folded = selection.device_ids.iter();
        let folded: Vec<_> = folded.map(|id| id.to_ascii_lowercase()).collect();
        select
            .push(" AND c.device_key IN (SELECT i.name || '/' || d.value FROM issuer i, json_each(")
            .push_bind(serde_json::json!(folded).to_string())
            .push(") d)");
    }
    let ranges = [
        (" AND lower(c.device_id) >= ", &selection.device_id_from),
        (" AND lower(c.device_id) <= ", &selection.device_id_to),
    ];
    for (sql, bound) in ranges {
        if let Some(bound) = bound {
            select.push(sql).push_bind(bound.to_ascii_lowercase());
        }
    }
    if let Some(spki) = &selection.spki {
        select.push(" AND c.spki = ").push_bind(spki.0.as_slice());
    }
}

/// The first entry at or after a time: times never run back, so it is found by halving.
async fn first_at(
    time: UnixMillis,
    entries: u64,
    database: &mut SqliteConnection,
) -> Result<u64, LogError> {
    let (mut low, mut high) = (0, entries);
    while low < high {
        let middle = low + (high - low) / 2;
        let row = sqlx::query("SELECT leaf FROM entry WHERE idx = $1")
            .bind(integer(middle))
            .fetch_one(&mut *database)
            .await
            .map_err(failed)?;
        let leaf: &[u8] = row.try_get("leaf").map_err(failed)?;
        let entry = Entry::parse(leaf)
            .map_err(|_| LogError::Damaged(format!("entry {middle} is malformed")))?;
        if entry.time < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// SQLite's integers are signed; the log has fewer entries.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
