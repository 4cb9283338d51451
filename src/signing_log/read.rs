//! Reading the log's tables: claims, certificates, issuers, revocations.
//!
//! Promises that a claim is answered from outcomes that are durable only, and that a certificate that is given
//! out again is, byte for byte, the one whose hash its outcome logged. Failure story: a row that is not what
//! it must be is [`LogError::Damaged`], and nothing is given out.

use std::collections::BTreeMap;

use certstatus::crl::{RevokedEntry, TbsCrlBuilder};
use certstatus::log::{
    Class, Detail as _, DetailHash, Entry, EntryKind, IntentDetail, IssuerName, LeafIndex, Outcome,
    OutcomeDetail, Subject,
};
use certstatus::signature::assemble;
use certstatus::{RevocationReason, SerialNumber, UnixMillis};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite};

use super::append::named_algorithm;
use super::error::LogError;
use super::intent::Issued;
use super::record::{
    CertificateFilter, CertificateRecord, CertificateState, Claim, Claimed, CrlContents,
    IssuerRecord,
};
use super::revocations::{NEWEST, Revocation, standing};
use super::tables::{issuer, serial, signed, unsigned};
use super::tree;

/// Certificates in one answer at most.
const LIST_MAX: u32 = 1000;

/// Revocations that are read in one go.
const PAGE_ROWS: usize = 8192;

/// How many entries after those that a CRL covers its outcome is looked for in: minutes of a log at its busiest.
const ISSUED_WITHIN: u64 = 1 << 17;

/// Certificates in one answer where the asker does not say.
const LIST_DEFAULT: u32 = 100;

/// The columns of a [`CertificateRecord`].
pub(super) const CERTIFICATES: &str = "SELECT c.intent, c.serial, c.issuer, c.why, c.profile, c.order_name, \
     c.line, c.device_id, c.not_before, c.not_after, o.entry, o.outcome, r.entry AS revoked, r.reason, \
     r.revoked_at FROM certificate c LEFT JOIN outcome o ON o.intent = c.intent ";

/// A failed read.
pub(super) fn failed(error: sqlx::Error) -> LogError {
    LogError::read(&error)
}

/// What a claim has come to, of the first `durable` entries.
pub(super) async fn claimed(
    claim: &Claim,
    durable: u64,
    database: &mut SqliteConnection,
) -> Result<Claimed, LogError> {
    let row = sqlx::query(
        "SELECT c.intent, c.serial, c.not_after, o.entry, o.outcome, r.entry AS revoked, r.reason, \
         r.revoked_at, i.detail AS intent_detail, e.detail AS outcome_detail \
         FROM certificate c JOIN entry i ON i.idx = c.intent \
         LEFT JOIN outcome o ON o.intent = c.intent LEFT JOIN entry e ON e.idx = o.entry \
         LEFT JOIN revocation r ON r.entry = \
         (SELECT max(n.entry) FROM revocation n WHERE n.serial = c.serial) \
         WHERE c.spki = $1 AND c.order_name = $2 AND c.requested = $3 \
         AND c.device_key IS NOT NULL AND (o.outcome IS NULL OR o.outcome = 0)",
    )
    .bind(claim.spki.0.as_slice())
    .bind(claim.order.as_str())
    .bind(claim.requested.0.as_slice())
    .fetch_optional(database)
    .await
    .map_err(failed)?;
    let Some(row) = row else {
        return Ok(Claimed::Free);
    };
    let entry: Option<i64> = row.try_get("entry").map_err(failed)?;
    let entry = entry.and_then(|entry| u64::try_from(entry).ok());
    let Some(entry) = entry.filter(|entry| *entry < durable) else {
        return Ok(Claimed::InFlight);
    };
    let serial = serial(&row, "serial").map_err(failed)?;
    let standing = standing(&row).map_err(failed)?;
    if let Some(standing) = standing.filter(Revocation::counts) {
        return Ok(Claimed::Revoked { serial, standing });
    }
    let not_after = UnixMillis(unsigned(&row, "not_after").map_err(failed)?);
    Ok(Claimed::Issued(Issued {
        der: certificate_der(&row)?,
        subject: Subject::Certificate { serial, not_after },
        intent: LeafIndex(unsigned(&row, "intent").map_err(failed)?),
        outcome: LeafIndex(entry),
    }))
}

/// Puts a certificate together from the details of its intent and its outcome.
fn certificate_der(row: &SqliteRow) -> Result<Vec<u8>, LogError> {
    let damaged = |what: &str| LogError::Damaged(format!("a certificate's {what}"));
    let intent: &[u8] = row.try_get("intent_detail").map_err(failed)?;
    let outcome: &[u8] = row.try_get("outcome_detail").map_err(failed)?;
    let intent = IntentDetail::parse(intent).map_err(|_| damaged("intent detail is malformed"))?;
    let outcome =
        OutcomeDetail::parse(outcome).map_err(|_| damaged("outcome detail is malformed"))?;
    let tbs = intent.tbs.0.as_slice();
    let algorithm = named_algorithm(Class::Certificate, tbs)
        .ok_or_else(|| damaged("TBS names no algorithm"))?;
    let signature = outcome
        .signature
        .ok_or_else(|| damaged("signature is missing"))?;
    let der = assemble(tbs, algorithm, &signature.0);
    if outcome.sha256 != Some(DetailHash::of(&der)) {
        return Err(damaged("hash is not the logged one"));
    }
    Ok(der)
}

/// Lists certificates, oldest first.
pub(super) async fn certificates(
    filter: &CertificateFilter,
    database: &mut SqliteConnection,
) -> Result<Vec<CertificateRecord>, LogError> {
    let mut select = QueryBuilder::<Sqlite>::new(CERTIFICATES);
    select.push(NEWEST).push(" WHERE ");
    let after = filter
        .after
        .map_or(-1, |after| i64::try_from(after).unwrap_or(i64::MAX));
    select.push("c.intent > ").push_bind(after);
    if let Some(order) = &filter.order {
        select
            .push(" AND c.order_name = ")
            .push_bind(order.as_str());
    }
    if let Some(issuer) = &filter.issuer {
        select.push(" AND c.issuer = ").push_bind(issuer.as_str());
    }
    if let Some(device) = &filter.device_id {
        // By the index: a device id is unique within an issuer, and there are few issuers.
        select
            .push(" AND c.device_key IN (SELECT name || '/' || ")
            .push_bind(device.to_ascii_lowercase())
            .push(" FROM issuer)");
    }
    let limit = filter.limit.unwrap_or(LIST_DEFAULT).clamp(1, LIST_MAX);
    select
        .push(" ORDER BY c.intent LIMIT ")
        .push_bind(i64::from(limit));
    let rows = select.build().fetch_all(database).await.map_err(failed)?;
    rows.iter().map(|row| record(row).map_err(failed)).collect()
}

/// One certificate, with its PEM.
pub(super) async fn certificate(
    number: SerialNumber,
    database: &mut SqliteConnection,
) -> Result<Option<CertificateRecord>, LogError> {
    let mut select = QueryBuilder::<Sqlite>::new(CERTIFICATES);
    select
        .push(NEWEST)
        .push(" WHERE c.serial = ")
        .push_bind(number.as_bytes().as_slice());
    let row = select
        .build()
        .fetch_optional(&mut *database)
        .await
        .map_err(failed)?;
    let Some(row) = row else {
        return Ok(None);
    };
    let mut record = record(&row).map_err(failed)?;
    if matches!(
        record.status,
        CertificateState::Issued | CertificateState::OnHold | CertificateState::Revoked
    ) {
        let details = sqlx::query(
            "SELECT i.detail AS intent_detail, e.detail AS outcome_detail FROM outcome o \
             JOIN entry i ON i.idx = o.intent JOIN entry e ON e.idx = o.entry WHERE o.intent = $1",
        )
        .bind(i64::try_from(record.intent.0).unwrap_or(i64::MAX))
        .fetch_one(database)
        .await
        .map_err(failed)?;
        let der = certificate_der(&details)?;
        let pem = der::pem::encode_string("CERTIFICATE", der::pem::LineEnding::LF, &der);
        record.pem =
            Some(pem.map_err(|_| LogError::Damaged("a certificate is too long".to_owned()))?);
    }
    Ok(Some(record))
}

/// Reads a row of [`CERTIFICATES`].
pub(super) fn record(row: &SqliteRow) -> Result<CertificateRecord, sqlx::Error> {
    let outcome: Option<i64> = row.try_get("outcome")?;
    let entry: Option<i64> = row.try_get("entry")?;
    let revocation = standing(row)?.filter(Revocation::counts);
    let status = match (outcome, revocation) {
        (None, _) => CertificateState::Open,
        (Some(0), None) => CertificateState::Issued,
        (Some(0), Some(standing)) if standing.is_hold() => CertificateState::OnHold,
        (Some(0), Some(_)) => CertificateState::Revoked,
        (Some(1), _) => CertificateState::Abandoned,
        (Some(_), _) => CertificateState::Unresolved,
    };
    Ok(CertificateRecord {
        serial: serial(row, "serial")?,
        issuer: issuer(row, "issuer")?,
        status,
        revocation,
        why: row.try_get("why")?,
        profile: row.try_get("profile")?,
        order: row.try_get("order_name")?,
        line: row.try_get("line")?,
        device_id: row.try_get("device_id")?,
        not_before: UnixMillis(unsigned(row, "not_before")?),
        not_after: UnixMillis(unsigned(row, "not_after")?),
        intent: LeafIndex(unsigned(row, "intent")?),
        outcome: entry
            .and_then(|entry| u64::try_from(entry).ok())
            .map(LeafIndex),
        pem: None,
    })
}

/// The issuers in the order of the ceremony.
pub(super) async fn issuers(
    database: &mut SqliteConnection,
) -> Result<Vec<IssuerRecord>, LogError> {
    let rows = sqlx::query(
        "SELECT name, certificate, algorithm, role, parent, partitions FROM issuer ORDER BY entry",
    )
    .fetch_all(database)
    .await
    .map_err(failed)?;
    rows.iter().map(issuer_record).collect()
}

/// Reads a row of the issuer table.
fn issuer_record(row: &SqliteRow) -> Result<IssuerRecord, LogError> {
    let damaged = |_| LogError::Damaged("an issuer's algorithm or role".to_owned());
    let algorithm: &str = row.try_get("algorithm").map_err(failed)?;
    let role: &str = row.try_get("role").map_err(failed)?;
    let partitions: i64 = row.try_get("partitions").map_err(failed)?;
    Ok(IssuerRecord {
        name: issuer(row, "name").map_err(failed)?,
        certificate: row.try_get("certificate").map_err(failed)?,
        algorithm: serde_json::from_str(algorithm).map_err(damaged)?,
        role: serde_json::from_str(role).map_err(damaged)?,
        parent: issuer(row, "parent").map_err(failed)?,
        partitions: u32::try_from(partitions)
            .map_err(|_| LogError::Damaged("an issuer's partitions".to_owned()))?,
    })
}

/// The newest CRL number of an issuer.
pub(super) async fn crl_number(
    issuer: &IssuerName,
    database: &mut SqliteConnection,
) -> Result<Option<u64>, LogError> {
    let row = sqlx::query("SELECT number FROM crl_number WHERE issuer = $1")
        .bind(issuer.as_str())
        .fetch_optional(database)
        .await
        .map_err(failed)?;
    row.map(|row| unsigned(&row, "number"))
        .transpose()
        .map_err(failed)
}

/// Whether the log has an outcome of this subject that says that it was issued, among so many entries from `first`
/// on as are written in some minutes.
pub(super) async fn issued(
    (name, subject): (&IssuerName, Subject),
    first: u64,
    database: &mut SqliteConnection,
) -> Result<bool, LogError> {
    let bound = |index| i64::try_from(index).unwrap_or(i64::MAX);
    // Leaves are canonical JSON, so this finds every outcome of a CRL, and next to nothing else.
    let leaves = sqlx::query(
        "SELECT leaf FROM entry WHERE idx >= $1 AND idx < $2 \
         AND instr(leaf, CAST('\"class\":\"crl\"' AS BLOB)) > 0 ORDER BY idx",
    )
    .bind(bound(first))
    .bind(bound(first.saturating_add(ISSUED_WITHIN)))
    .fetch_all(database)
    .await
    .map_err(failed)?;
    for row in &leaves {
        let leaf: &[u8] = row.try_get("leaf").map_err(failed)?;
        let entry =
            Entry::parse(leaf).map_err(|_| LogError::Damaged("a CRL's entry".to_owned()))?;
        if let EntryKind::Outcome {
            issuer,
            subject: of,
            outcome: Outcome::Issued { .. },
            ..
        } = &entry.kind
            && (issuer, *of) == (name, subject)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A list of what counts as revoked, as the durable log had it at one moment.
pub(super) struct Revoked {
    /// The entries, encoded.
    pub list: TbsCrlBuilder,
    /// How many entries of the log it takes into account, and their root.
    pub head: (u64, certstatus::log::merkle::Hash),
}

/// What a CRL lists: how each serial stands, but for holds that were released, and for what expired and was on a
/// CRL after that.
///
/// The one place that says so; [`changed`] must agree with it. 8 is removeFromCRL, a release.
const LISTED: &str = "FROM revocation r WHERE issuer = $1 AND entry >= $2 AND entry < $3 \
     AND ($4 = 0 OR partition = $4) AND NOT (not_after < $5 AND entry < $6) AND reason IS NOT 8 \
     AND NOT EXISTS (SELECT 1 FROM revocation n WHERE n.previous = r.entry AND n.entry < $3)";

/// One revocation in a page, as hex digits: entry, reason, time and serial. A row of its own for each of a million
/// costs more than finding it.
const PACKED: &str =
    "printf('%016x%02x%012x', entry, coalesce(reason, 255), revoked_at) || hex(serial)";

/// The octets of one.
const PACKED_LEN: usize = 16 + 2 + 12 + 32;

/// What [`PACKED`] has for no reason.
const NO_REASON: u8 = 255;

/// What is to be on a CRL, in the order of the log, read in pages within one snapshot of the database.
pub(super) async fn revoked(
    contents: &CrlContents<'_>,
    database: &mut SqliteConnection,
) -> Result<Revoked, LogError> {
    let mut snapshot = database.begin().await.map_err(failed)?;
    let size = tree::size(&mut snapshot).await?.unwrap_or(0);
    let root = tree::edge_at(size, &mut snapshot).await?.root();
    let range = |_| LogError::Damaged("an index beyond what the database holds".to_owned());
    let end = signed(size).map_err(range)?;
    let (gone, seen) = contents
        .gone
        .map_or((0, 0), |gone| (gone.expired.0, gone.covered));
    let gone = signed(gone).map_err(range)?;
    let seen = signed(seen).map_err(range)?;
    // Of the index alone, so it may be too many: room that nothing is written to takes no memory.
    let count: i64 =
        sqlx::query_scalar("SELECT count(*) FROM revocation WHERE issuer = $1 AND entry < $2")
            .bind(contents.issuer.as_str())
            .bind(end)
            .fetch_one(&mut *snapshot)
            .await
            .map_err(failed)?;
    let mut list = TbsCrlBuilder::with_capacity(usize::try_from(count).unwrap_or(0));
    let page = format!(
        "SELECT group_concat({PACKED}, '') FROM \
         (SELECT entry, serial, reason, revoked_at {LISTED} ORDER BY entry LIMIT {PAGE_ROWS})"
    );
    let mut from = 0;
    loop {
        let packed: Option<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(page.as_str()))
            .bind(contents.issuer.as_str())
            .bind(signed(from).map_err(range)?)
            .bind(end)
            .bind(i64::from(contents.partition))
            .bind(gone)
            .bind(seen)
            .fetch_one(&mut *snapshot)
            .await
            .map_err(failed)?;
        let packed = packed.unwrap_or_default();
        for record in packed.as_bytes().chunks(PACKED_LEN) {
            let unpacked = unpack(record).filter(|(entry, _)| *entry >= from);
            let (entry, revoked) = unpacked
                .ok_or_else(|| LogError::Damaged("a revocation cannot be read".to_owned()))?;
            list.push(&revoked);
            from = entry.saturating_add(1);
        }
        if packed.len() < PAGE_ROWS * PACKED_LEN {
            break;
        }
    }
    let head = (size, root);
    Ok(Revoked { list, head })
}

/// Reads one revocation of a page: its entry, and how a CRL lists it.
fn unpack(record: &[u8]) -> Option<(u64, RevokedEntry)> {
    let text = std::str::from_utf8(record).ok()?;
    let (entry, text) = text.split_at_checked(16)?;
    let (reason, text) = text.split_at_checked(2)?;
    let (revoked_at, serial) = text.split_at_checked(12)?;
    let serial = u128::from_str_radix(serial, 16).ok()?;
    let reason = match u8::from_str_radix(reason, 16).ok()? {
        NO_REASON => None,
        code => Some(RevocationReason::from_code(code)?.code()),
    };
    let revoked = RevokedEntry {
        serial: SerialNumber::from_slice(&serial.to_be_bytes()).ok()?,
        revoked_at: UnixMillis(u64::from_str_radix(revoked_at, 16).ok()?),
        reason,
    };
    Some((u64::from_str_radix(entry, 16).ok()?, revoked))
}

/// The partitions of an issuer in which something came to count as revoked, or ceased to, in the entries from
/// `since` on, each with the last such entry. Releases are rows too.
pub(super) async fn changed(
    issuer: &IssuerName,
    since: u64,
    database: &mut SqliteConnection,
) -> Result<BTreeMap<u32, u64>, LogError> {
    let rows = sqlx::query(
        "SELECT partition, max(entry) AS entry FROM revocation \
         WHERE issuer = $1 AND entry >= $2 GROUP BY partition",
    )
    .bind(issuer.as_str())
    .bind(i64::try_from(since).unwrap_or(i64::MAX))
    .fetch_all(database)
    .await
    .map_err(failed)?;
    let place = |row: &SqliteRow| {
        let partition = u32::try_from(unsigned(row, "partition")?);
        let partition = partition.map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((partition, unsigned(row, "entry")?))
    };
    rows.iter().map(|row| place(row).map_err(failed)).collect()
}
