//! What each CRL must list: rebuilt from the entries that revoke, hold, release and leave unresolved.
//!
//! Owns the one rule of what stands on a CRL, in the auditor's words, and what may leave it. Promises that a list is
//! complete and has nothing else: it follows from the log, and is compared as values, in order. Memory grows with
//! revocations (56 octets each), never with CRLs. Failure story: the first disagreement is a [`Difference`].

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::IssuerId;
use crate::crl::{ParsedCrl, RevokedEntry, TbsCrlBuilder};
use crate::log::{Gone, LeafIndex};
use crate::{SerialNumber, UnixMillis};

/// A serial that counts as revoked from one entry on.
#[derive(Clone, Copy, Debug)]
struct Row {
    serial: SerialNumber,
    /// The entry that says so.
    entry: u64,
    /// The entry that ends it, for a release or for another reason; `u64::MAX` for none.
    until: u64,
    revoked_at: UnixMillis,
    not_after: UnixMillis,
    reason: Option<u8>,
}

/// Where a hold stands in its issuer's rows, to be ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place(usize);

/// A serial that comes to count as revoked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fallen {
    /// The serial.
    pub serial: SerialNumber,
    /// The entry that says so.
    pub entry: LeafIndex,
    /// Since when, as a CRL says it.
    pub revoked_at: UnixMillis,
    /// The certificate's end of validity.
    pub not_after: UnixMillis,
    /// The RFC 5280 reason code; none for an unresolved intent.
    pub reason: Option<u8>,
}

/// Which list is meant.
#[derive(Clone, Copy, Debug)]
pub(super) struct Selection {
    /// Whose.
    pub issuer: IssuerId,
    /// A partition, and how many the issuer has; none for the full CRL.
    pub partition: Option<(u32, u32)>,
    /// The entries that it takes into account: those below this one.
    pub size: u64,
    /// What has left it.
    pub gone: Option<Gone>,
}

/// How a list is another than the log's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// It leaves out what it must have.
    #[error("it does not list {serial}, which entry {entry} revoked")]
    Missing {
        /// The serial.
        serial: SerialNumber,
        /// The entry that revokes it.
        entry: LeafIndex,
    },
    /// It has what the log does not have as revoked, at the checkpoint in it.
    #[error("it lists {0}, which does not stand revoked in the log that it takes into account")]
    Extra(SerialNumber),
    /// Another reason.
    #[error("it lists {serial} with another reason than entry {entry}")]
    Reason {
        /// The serial.
        serial: SerialNumber,
        /// The entry that revokes it.
        entry: LeafIndex,
    },
    /// Another date.
    #[error("it lists {serial} with another date than entry {entry}")]
    Date {
        /// The serial.
        serial: SerialNumber,
        /// The entry that revokes it.
        entry: LeafIndex,
    },
    /// Another order.
    #[error("it lists {0} in another place than the log has it")]
    Order(SerialNumber),
}

/// What the log says of revocations so far, and of CRLs that let certificates leave.
#[derive(Debug, Default)]
pub(super) struct Lists {
    /// By issuer, in the order of the log.
    rows: BTreeMap<IssuerId, Vec<Row>>,
    /// What issued CRLs allow later ones to leave out, by issuer and partition: none of them below another one.
    issued: BTreeMap<(IssuerId, u32), Vec<Gone>>,
    /// Issued CRLs whose details are erased: they may have allowed anything.
    unread: BTreeSet<(IssuerId, u32)>,
}

impl Row {
    /// As a CRL has it.
    fn written(&self) -> RevokedEntry {
        let (serial, reason) = (self.serial, self.reason);
        let revoked_at = UnixMillis::from_seconds(self.revoked_at.seconds());
        RevokedEntry {
            serial,
            revoked_at: revoked_at.min(UnixMillis::END_OF_TIME),
            reason: reason.filter(|reason| crate::crl::carried(*reason)),
        }
    }
}

impl Lists {
    /// Takes in that a serial counts as revoked from now on.
    pub(super) fn fall(&mut self, issuer: IssuerId, fallen: Fallen) -> Place {
        let rows = self.rows.entry(issuer).or_default();
        rows.push(Row {
            serial: fallen.serial,
            entry: fallen.entry.0,
            until: u64::MAX,
            revoked_at: fallen.revoked_at,
            not_after: fallen.not_after,
            reason: fallen.reason,
        });
        Place(rows.len().saturating_sub(1))
    }

    /// Takes in that a hold ends: released, or revoked for good.
    pub(super) fn end(&mut self, issuer: IssuerId, Place(place): Place, entry: LeafIndex) {
        let rows = self.rows.get_mut(&issuer);
        if let Some(row) = rows.and_then(|rows| rows.get_mut(place)) {
            row.until = entry.0;
        }
    }

    /// What a CRL must list, in its order.
    fn rows(&self, of: Selection) -> impl Iterator<Item = &Row> + Clone {
        let rows = self.rows.get(&of.issuer).map_or(&[][..], Vec::as_slice);
        let known = rows.partition_point(|row| row.entry < of.size);
        let rows = rows.get(..known).unwrap_or_default();
        rows.iter().filter(move |row| {
            let here = |(number, count): (u32, u32)| row.serial.partition(count) == number;
            row.until >= of.size
                && of.partition.is_none_or(here)
                && !of
                    .gone
                    .is_some_and(|gone| gone.takes(row.not_after, row.entry))
        })
    }

    /// The list of a CRL, encoded.
    pub(super) fn build(&self, of: Selection) -> TbsCrlBuilder {
        let mut list = TbsCrlBuilder::with_capacity(self.rows(of).count());
        self.rows(of).for_each(|row| list.push(&row.written()));
        list
    }

    /// Compares a CRL's list with the log's; `of` need not say what has left: what had expired may be missing, unless
    /// the CRL says that it keeps it. Where its partition is unknown, it may lack anything.
    pub(super) fn compare(
        &self,
        of: Selection,
        partition_known: bool,
        crl: &ParsedCrl,
    ) -> Result<(), Difference> {
        let kept = |row: &Row| {
            crl.expired_since
                .is_some_and(|since| row.not_after >= since)
        };
        let may_lack =
            |row: &Row| !partition_known || (row.not_after < crl.this_update && !kept(row));
        let known = |serial| self.rows(of).any(|row| row.serial == serial);
        let has = |serial| crl.revoked.iter().any(|listed| listed.serial == serial);
        let mut listed = crl.revoked.iter().peekable();
        for row in self.rows(of) {
            let (serial, entry) = (row.serial, LeafIndex(row.entry));
            match listed.next_if(|listed| listed.serial == serial) {
                Some(listed) if listed.revoked_at != row.written().revoked_at => {
                    return Err(Difference::Date { serial, entry });
                }
                Some(listed) if listed.reason != row.written().reason => {
                    return Err(Difference::Reason { serial, entry });
                }
                Some(_) => {}
                None if may_lack(row) => {}
                // The slow way, once.
                None => {
                    let instead = listed.peek().map(|listed| listed.serial);
                    return Err(match instead.filter(|serial| !known(*serial)) {
                        Some(stranger) => Difference::Extra(stranger),
                        None if has(serial) => Difference::Order(serial),
                        None => Difference::Missing { serial, entry },
                    });
                }
            }
        }
        match listed.next() {
            Some(left) if known(left.serial) => Err(Difference::Order(left.serial)),
            Some(left) => Err(Difference::Extra(left.serial)),
            None => Ok(()),
        }
    }

    /// Takes in an issued CRL: what it took into account, and when it was made. None where its details are erased.
    pub(super) fn issue(&mut self, issuer: IssuerId, partition: u32, made: Option<Gone>) {
        let place = (issuer, partition);
        let Some(made) = made else {
            self.unread.insert(place);
            return;
        };
        let issued = self.issued.entry(place).or_default();
        let below =
            |one: &Gone, other: &Gone| one.covered <= other.covered && one.expired <= other.expired;
        if !issued.iter().any(|other| below(&made, other)) {
            issued.retain(|other| !below(other, &made));
            issued.push(made);
        }
    }

    /// Whether what a CRL leaves out stood, as far as it had not left before, on one that was made after its expiry
    /// (RFC 5280, 3.3: an entry is not removed before it was on one CRL issued beyond the end of validity).
    pub(super) fn may_leave(&self, issuer: IssuerId, partition: u32, gone: Gone) -> bool {
        let place = (issuer, partition);
        let issued = self.issued.get(&place).into_iter().flatten();
        let mut stood = issued.map(|made| (made.covered, made.expired));
        stood.any(|(covered, made)| gone.covered <= covered && gone.expired <= made)
            || self.unread.contains(&place)
    }
}
