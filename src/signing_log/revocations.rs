//! Revocations: how a serial may stand, what an operator's wish makes of it, and the tables of both.
//!
//! Owns the rules of RFC 5280 and X.509 for changing a standing, and the SQL of revocations. Promises that only
//! a hold is ever left, that repeating a wish changes nothing, and that an unresolved serial counts as revoked
//! for good. Never decides who may revoke: that is `revocation`'s. Failure story: a wish that cannot be is
//! [`RevokeRefused`] and leaves nothing; a failed transaction is the writer's, as for every append.

use std::collections::{BTreeMap, HashMap};

use certstatus::log::entry::Slug;
use certstatus::log::{IssuerName, LeafIndex};
use certstatus::{RevocationReason, SerialNumber, UnixMillis};
use serde_json::{Value, json};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::append::Sealed;
use super::error::LogError;
use super::record::{CertificateState, IssuerRecord, IssuerRole};
use super::tables::{WriteFault, issuer, serial, signed, unsigned};

/// Rows in one statement, as for other appends.
const ROWS_MAX: usize = 64;

/// How a serial stands: its newest revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Revocation {
    /// Since when it counts as revoked, whole seconds; for a release, when that was.
    pub revoked_at: UnixMillis,
    /// Why; none for an unresolved intent, `remove-from-crl` where a hold was released.
    pub reason: Option<RevocationReason>,
    /// Its entry.
    pub entry: LeafIndex,
}

impl Revocation {
    /// The status of a certificate that was issued, or may have been, and stands so.
    #[must_use]
    pub const fn status(&self) -> CertificateState {
        match self.reason {
            None => CertificateState::Unresolved,
            Some(RevocationReason::CertificateHold) => CertificateState::OnHold,
            Some(RevocationReason::RemoveFromCrl) => CertificateState::Issued,
            Some(_) => CertificateState::Revoked,
        }
    }
}

/// What became of the wish to revoke, hold or release one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    /// It stands so from now on.
    Changed(Revocation),
    /// It stood so already, or is revoked for good, which nothing changes: this is how it stands.
    Unchanged(Revocation),
    /// It cannot be.
    Refused(RevokeRefused),
}

/// Why one certificate is not revoked or released: the operator's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeRefused {
    /// The log issued no such certificate.
    #[error("there is no certificate with the serial {0} that was issued")]
    NotIssued(SerialNumber),
    /// It is good: there is no hold to release.
    #[error("certificate {0} is not on hold, so there is nothing to release")]
    NotOnHold(SerialNumber),
    /// It is revoked for good.
    #[error("certificate {0} is revoked for good: only a hold can be released")]
    Final(SerialNumber),
}

/// Revocations of several certificates for one reason, in one transaction.
pub(super) struct RevokeDraft {
    pub reason: RevocationReason,
    /// Each serial with the detail of its entry.
    pub serials: Vec<(SerialNumber, Sealed)>,
}

/// What a revocation finds.
#[derive(Clone)]
pub(super) struct Revocable {
    /// Whose certificate it is.
    pub issuer: IssuerName,
    /// Its newest revocation.
    pub standing: Option<Revocation>,
}

/// A serial that counts as revoked, or was released.
pub(super) struct RevokedRow {
    pub serial: SerialNumber,
    pub issuer: IssuerName,
    pub entry: u64,
    pub reason: Option<RevocationReason>,
    pub revoked_at: UnixMillis,
    /// The entry of the row that it takes the place of.
    pub previous: Option<u64>,
}

/// What a wish comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// An entry with this time.
    Append(UnixMillis),
    /// Nothing: this stands.
    Stands(Revocation),
    /// It cannot be.
    Refused(RevokeRefused),
}

impl Revocation {
    /// Whether it counts as revoked: everything but a release.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.reason != Some(RevocationReason::RemoveFromCrl)
    }

    /// Whether it is a hold.
    #[must_use]
    pub fn is_hold(&self) -> bool {
        self.reason == Some(RevocationReason::CertificateHold)
    }
}

impl RevokeDraft {
    /// Revocations by an operator; `remove-from-crl` releases.
    ///
    /// `note` is what the details say beside the operator's name.
    pub(super) fn new(
        operator: &str,
        serials: &[SerialNumber],
        reason: RevocationReason,
        note: &BTreeMap<&'static str, String>,
    ) -> Result<Self, LogError> {
        let mut data = json!(note);
        if let Value::Object(members) = &mut data {
            members.insert("operator".to_owned(), json!(operator));
        }
        // A salt each: the leaves' hashes must not tell which revocations belong together.
        let sealed = |serial: &SerialNumber| Ok((*serial, Sealed::event(data.clone())?));
        let serials = serials
            .iter()
            .map(sealed)
            .collect::<Result<_, LogError>>()?;
        Ok(Self { reason, serials })
    }
}

/// What the wish to give a serial this reason comes to, at this second.
///
/// A hold can be released, or be made final from its own time on (X.509, holdInstructionCode: "the revocation date
/// shall be the date the certificate was placed on hold"). Everything else is for good: the first reason stands, as
/// relying parties saw it.
pub(super) fn decide(
    number: SerialNumber,
    found: Option<&Revocable>,
    wish: RevocationReason,
    now: UnixMillis,
) -> Decision {
    use RevocationReason::{CertificateHold, RemoveFromCrl};
    let Some(found) = found else {
        return Decision::Refused(RevokeRefused::NotIssued(number));
    };
    let standing = match found.standing {
        None if wish == RemoveFromCrl => {
            return Decision::Refused(RevokeRefused::NotOnHold(number));
        }
        None => return Decision::Append(now),
        Some(standing) => standing,
    };
    match (standing.reason, wish) {
        (Some(RemoveFromCrl), RemoveFromCrl) => Decision::Stands(standing),
        (Some(RemoveFromCrl), _) | (Some(CertificateHold), RemoveFromCrl) => Decision::Append(now),
        (Some(CertificateHold), CertificateHold) => Decision::Stands(standing),
        (Some(CertificateHold), _) => Decision::Append(standing.revoked_at),
        (_, RemoveFromCrl) => Decision::Refused(RevokeRefused::Final(number)),
        (_, _) => Decision::Stands(standing),
    }
}

/// The CA certificates of the log's issuers, and which of them stand revoked.
#[derive(Clone, Default)]
pub(super) struct Authorities {
    by_serial: HashMap<SerialNumber, IssuerName>,
    roles: BTreeMap<IssuerName, IssuerRole>,
    revoked: BTreeMap<IssuerName, Revocation>,
}

impl Authorities {
    /// Makes an issuer known.
    pub(super) fn add(&mut self, record: &IssuerRecord) {
        self.roles.insert(record.name.clone(), record.role);
        // An offline root numbers its certificates as it likes, and revokes them itself.
        if let Some(serial) = record.serial() {
            self.by_serial.insert(serial, record.name.clone());
        }
    }

    /// Takes in how a serial stands; tells whether that is an issuer's.
    pub(super) fn note(&mut self, serial: SerialNumber, standing: Revocation) -> bool {
        let Some(name) = self.by_serial.get(&serial) else {
            return false;
        };
        if standing.counts() {
            self.revoked.insert(name.clone(), standing);
        } else {
            self.revoked.remove(name);
        }
        true
    }

    /// Whether this serial is an issuer's.
    pub(super) fn knows(&self, serial: &SerialNumber) -> bool {
        self.by_serial.contains_key(serial)
    }

    /// The issuers whose certificates stand revoked.
    pub(super) const fn revoked(&self) -> &BTreeMap<IssuerName, Revocation> {
        &self.revoked
    }

    /// The issuer whose revocation forbids this certificate: its own, or, for what a line asks for, the one that
    /// vouches for lines. A responder's certificate is no trust of its own: it goes on telling what is revoked.
    pub(super) fn forbids(&self, by: &IssuerName, why: &str) -> Option<&IssuerName> {
        if self.revoked.is_empty() || why == "responder" {
            return None;
        }
        if let Some((name, _)) = self.revoked.get_key_value(by) {
            return Some(name);
        }
        if !matches!(why, "device" | "line") {
            return None;
        }
        let access = || {
            let of_role = self.roles.iter();
            of_role.filter(|(_, role)| **role == IssuerRole::Access)
        };
        let one_left = access().any(|(name, _)| !self.revoked.contains_key(name));
        let gone = access().map(|(name, _)| name).next();
        gone.filter(|_| !one_left)
    }
}

/// The join of a certificate `c` with its newest revocation `r`.
pub(super) const NEWEST: &str = "LEFT JOIN revocation r ON r.entry = \
     (SELECT max(n.entry) FROM revocation n WHERE n.serial = c.serial)";

/// Reads the columns `revoked`, `reason` and `revoked_at` of a row that [`NEWEST`] joined.
pub(super) fn standing(row: &SqliteRow) -> Result<Option<Revocation>, sqlx::Error> {
    let entry: Option<i64> = row.try_get("revoked")?;
    if entry.is_none() {
        return Ok(None);
    }
    Ok(Some(Revocation {
        revoked_at: UnixMillis(unsigned(row, "revoked_at")?),
        reason: reason(row)?,
        entry: LeafIndex(unsigned(row, "revoked")?),
    }))
}

/// Reads the column `reason`.
fn reason(row: &SqliteRow) -> Result<Option<RevocationReason>, sqlx::Error> {
    let code: Option<i64> = row.try_get("reason")?;
    let Some(code) = code else {
        return Ok(None);
    };
    let known = u8::try_from(code)
        .ok()
        .and_then(RevocationReason::from_code);
    let unknown = || sqlx::Error::Decode(format!("{code} is no reason of RFC 5280").into());
    known.map(Some).ok_or_else(unknown)
}

/// What revocations of these serials find: those that were issued or left unresolved.
pub(super) async fn revocable(
    serials: &[SerialNumber],
    database: &mut SqliteConnection,
) -> Result<HashMap<SerialNumber, Revocable>, WriteFault> {
    let mut found = HashMap::new();
    for chunk in serials.chunks(ROWS_MAX) {
        let mut select = QueryBuilder::<Sqlite>::new(
            "SELECT c.serial, c.issuer, r.entry AS revoked, r.reason, r.revoked_at \
             FROM certificate c JOIN outcome o ON o.intent = c.intent ",
        );
        select.push(NEWEST);
        select.push(" WHERE o.outcome <> 1 AND c.serial IN (");
        let mut list = select.separated(", ");
        for serial in chunk {
            list.push_bind(serial.as_bytes().as_slice());
        }
        select.push(")");
        for row in select.build().fetch_all(&mut *database).await? {
            let revocable = Revocable {
                issuer: issuer(&row, "issuer")?,
                standing: standing(&row)?,
            };
            found.insert(serial(&row, "serial")?, revocable);
        }
    }
    Ok(found)
}

/// Whether another certificate of a line was revoked for key-compromise after this one's intent: whoever has that key
/// could have renewed with it.
pub(super) async fn is_tainted(
    line: &Slug,
    of: SerialNumber,
    database: &mut SqliteConnection,
) -> Result<bool, WriteFault> {
    let found = sqlx::query(
        "SELECT 1 FROM certificate c \
         JOIN revocation r ON r.entry > c.intent AND r.reason = $3 AND r.serial <> c.serial \
         JOIN certificate o ON o.serial = r.serial AND o.why = 'line' AND o.line = $2 \
         WHERE c.serial = $1 LIMIT 1",
    )
    .bind(of.as_bytes().as_slice())
    .bind(line.as_str())
    .bind(i64::from(RevocationReason::KeyCompromise.code()))
    .fetch_optional(database)
    .await?;
    Ok(found.is_some())
}

/// Writes rows, in the order of their entries.
pub(super) async fn write(
    rows: &[RevokedRow],
    database: &mut SqliteConnection,
) -> Result<(), WriteFault> {
    // One by one as far as the triggers see it: each row's predecessor is there before it.
    for row in rows {
        // No certificate of that serial makes not_after NULL, which the table refuses.
        let [.., a, b, c, d] = *row.serial.as_bytes();
        sqlx::query(
            "INSERT INTO revocation \
             (entry, serial, issuer, reason, revoked_at, previous, not_after, partition) \
             VALUES ($1, $2, $3, $4, $5, $6, (SELECT not_after FROM certificate WHERE serial = $2), \
             coalesce((SELECT $7 % partitions + 1 FROM issuer \
             WHERE name = $3 AND partitions > 0), 0))",
        )
        .bind(signed(row.entry)?)
        .bind(row.serial.as_bytes().as_slice())
        .bind(row.issuer.as_str())
        .bind(row.reason.map(|reason| i64::from(reason.code())))
        .bind(signed(row.revoked_at.0)?)
        .bind(row.previous.map(signed).transpose()?)
        .bind(i64::from(u32::from_be_bytes([a, b, c, d])))
        .execute(&mut *database)
        .await?;
    }
    Ok(())
}

/// The issuers' certificates and how they stand.
pub(super) async fn authorities(
    records: &[IssuerRecord],
    database: &mut SqliteConnection,
) -> Result<Authorities, WriteFault> {
    let mut authorities = Authorities::default();
    for record in records {
        authorities.add(record);
    }
    let serials: Vec<_> = authorities.by_serial.keys().copied().collect();
    for (serial, found) in revocable(&serials, database).await? {
        if let Some(standing) = found.standing {
            authorities.note(serial, standing);
        }
    }
    Ok(authorities)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wish_in_every_standing() {
        use RevocationReason as R;
        let number = SerialNumber::from_random([7; 16]);
        let (then, now) = (UnixMillis::from_seconds(5), UnixMillis::from_seconds(9));
        let stands = |reason| Revocation {
            revoked_at: then,
            reason,
            entry: LeafIndex(3),
        };
        let outcome = |standing: Option<Revocation>, wish| {
            let issuer = "device-1".parse().unwrap();
            decide(number, Some(&Revocable { issuer, standing }), wish, now)
        };
        let (good, held, released) = (
            None,
            Some(stands(Some(R::CertificateHold))),
            Some(stands(Some(R::RemoveFromCrl))),
        );
        for wish in R::ALL {
            let unknown = Decision::Refused(RevokeRefused::NotIssued(number));
            assert_eq!(decide(number, None, wish, now), unknown);
            let release = wish == R::RemoveFromCrl;
            let expected = if release {
                Decision::Refused(RevokeRefused::NotOnHold(number))
            } else {
                Decision::Append(now)
            };
            assert_eq!(outcome(good, wish), expected, "{wish}");
            let expected = match wish {
                R::RemoveFromCrl => Decision::Append(now),
                R::CertificateHold => Decision::Stands(held.unwrap()),
                _ => Decision::Append(then),
            };
            assert_eq!(outcome(held, wish), expected, "{wish}");
            let expected = if release {
                Decision::Stands(released.unwrap())
            } else {
                Decision::Append(now)
            };
            assert_eq!(outcome(released, wish), expected, "{wish}");
            let for_good = R::ALL
                .into_iter()
                .filter(|r| !matches!(r, R::CertificateHold | R::RemoveFromCrl));
            for reason in for_good.map(Some).chain([None]) {
                let expected = if release {
                    Decision::Refused(RevokeRefused::Final(number))
                } else {
                    Decision::Stands(stands(reason))
                };
                assert_eq!(outcome(Some(stands(reason)), wish), expected);
            }
        }
    }

    #[test]
    fn a_revoked_issuer_forbids_what_hangs_on_it() {
        let name = |text: &str| -> IssuerName { text.parse().unwrap() };
        let serial = SerialNumber::from_random([1; 16]);
        let mut authorities = Authorities {
            by_serial: HashMap::from([(serial, name("access"))]),
            roles: BTreeMap::from([
                (name("access"), IssuerRole::Access),
                (name("device-1"), IssuerRole::Device),
            ]),
            revoked: BTreeMap::new(),
        };
        let standing = |reason| Revocation {
            revoked_at: UnixMillis(0),
            reason: Some(reason),
            entry: LeafIndex(1),
        };
        assert_eq!(authorities.forbids(&name("device-1"), "device"), None);
        let other = SerialNumber::from_random([2; 16]);
        assert!(!authorities.note(other, standing(RevocationReason::KeyCompromise)));
        assert!(authorities.note(serial, standing(RevocationReason::CertificateHold)));
        for (issuer, why, by) in [
            ("access", "line", Some("access")),
            ("access", "server", Some("access")),
            ("access", "responder", None),
            ("device-1", "device", Some("access")),
            ("device-1", "ca", None),
        ] {
            let found = authorities
                .forbids(&name(issuer), why)
                .map(ToString::to_string);
            assert_eq!(found.as_deref(), by, "{issuer} {why}");
        }
        // Another issuer that vouches for lines is as good.
        authorities
            .roles
            .insert(name("access-2"), IssuerRole::Access);
        assert_eq!(authorities.forbids(&name("device-1"), "device"), None);
        assert!(authorities.note(serial, standing(RevocationReason::RemoveFromCrl)));
        assert_eq!(authorities.forbids(&name("access"), "line"), None);
    }
}
