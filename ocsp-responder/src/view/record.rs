//! What the index knows of one serial, in 29 octets.
//!
//! Owns the record's octets and how a newer one adds to an older one. Promises that a revocation stands whatever
//! order it and the outcome came in, and that lifting it brings back what was there before it. Never knows time
//! or trust. Failure story: octets that are no record are `None`, and the index is damaged.

use crate::{CertStatus, RevocationReason, SerialNumber, UnixMillis};

/// Octets of a record: serial, issuer, tags, and two times in seconds of 40 bits.
pub(super) const RECORD_BYTES: usize = 29;

/// Octets of a key, with which a record begins.
pub(super) const KEY_BYTES: usize = 18;

/// The octets of a record's key.
pub(super) fn key_octets(record: &[u8; RECORD_BYTES]) -> &[u8] {
    record.get(..KEY_BYTES).unwrap_or_default()
}

/// A serial and its issuer, in the order of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    /// The 16 octets, as a number.
    pub serial: u128,
    /// The issuer's place in the book.
    pub issuer: u16,
}

impl Key {
    /// The key of a serial.
    pub(super) const fn new(serial: SerialNumber, issuer: u16) -> Self {
        Self {
            serial: u128::from_be_bytes(*serial.as_bytes()),
            issuer,
        }
    }

    /// The octets that a record begins with; they sort as keys do.
    pub(super) fn encode(self) -> [u8; KEY_BYTES] {
        let mut octets = [0; KEY_BYTES];
        let parts = self
            .serial
            .to_be_bytes()
            .into_iter()
            .chain(self.issuer.to_be_bytes());
        octets
            .iter_mut()
            .zip(parts)
            .for_each(|(to, from)| *to = from);
        octets
    }

    /// The first 64 bits of the serial, by which blocks are found.
    pub(super) const fn prefix(self) -> u64 {
        // The upper half of 128 bits.
        (self.serial >> 64) as u64
    }
}

/// How a certificate's intent ended, as far as the index cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing is known: open, abandoned, or told by another record.
    Unknown,
    /// A certificate exists.
    Issued,
    /// A signature may exist.
    Unresolved {
        /// The second of the outcome's entry.
        at: u64,
    },
}

/// What was said of a certificate since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing.
    None,
    /// Revoked, put on hold, or released ([`RevocationReason::RemoveFromCrl`]).
    Revoked {
        /// The second since when.
        at: u64,
        /// Why.
        reason: RevocationReason,
    },
}

/// What one serial is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Whose.
    pub key: Key,
    /// How its intent ended.
    pub base: Base,
    /// What came after.
    pub verdict: Verdict,
}

/// Forty bits of seconds: past the year 9999, where every time of X.509 ends.
fn seconds(octets: &mut [u8; 5], value: u64) {
    let capped = value.min(UnixMillis::END_OF_TIME.seconds());
    let [_, _, _, low @ ..] = capped.to_be_bytes();
    *octets = low;
}

/// The seconds in forty bits.
const fn number([a, b, c, d, e]: [u8; 5]) -> u64 {
    u64::from_be_bytes([0, 0, 0, a, b, c, d, e])
}

impl Verdict {
    /// Whether it is for good: neither a hold nor a release.
    const fn is_final(&self) -> bool {
        match self {
            Self::None => false,
            Self::Revoked { reason, .. } => !matches!(
                reason,
                RevocationReason::CertificateHold | RevocationReason::RemoveFromCrl
            ),
        }
    }
}

impl Record {
    /// The record's octets.
    pub(super) fn encode(&self) -> [u8; RECORD_BYTES] {
        let (mut base_at, mut revoked_at) = ([0; 5], [0; 5]);
        let base = match self.base {
            Base::Unknown => 0,
            Base::Issued => 1,
            Base::Unresolved { at } => {
                seconds(&mut base_at, at);
                2
            }
        };
        let verdict = match self.verdict {
            Verdict::None => 0,
            Verdict::Revoked { at, reason } => {
                seconds(&mut revoked_at, at);
                reason.code() + 1
            }
        };
        let mut octets = [0; RECORD_BYTES];
        let parts: [&[u8]; 4] = [
            &self.key.encode(),
            &[verdict << 4 | base],
            &base_at,
            &revoked_at,
        ];
        let from = parts.into_iter().flatten();
        octets
            .iter_mut()
            .zip(from)
            .for_each(|(to, from)| *to = *from);
        octets
    }

    /// Reads a record; `None` when the octets are none.
    pub(super) fn decode(octets: &[u8; RECORD_BYTES]) -> Option<Self> {
        let (serial, rest) = octets.split_first_chunk::<16>()?;
        let (issuer, rest) = rest.split_first_chunk::<2>()?;
        let (tags, rest) = rest.split_first_chunk::<1>()?;
        let (base_at, rest) = rest.split_first_chunk::<5>()?;
        let (revoked_at, _) = rest.split_first_chunk::<5>()?;
        let base = match tags[0] & 0x0f {
            0 => Base::Unknown,
            1 => Base::Issued,
            2 => Base::Unresolved {
                at: number(*base_at),
            },
            _ => return None,
        };
        let verdict = match tags[0] >> 4 {
            0 => Verdict::None,
            code => Verdict::Revoked {
                at: number(*revoked_at),
                reason: RevocationReason::from_code(code - 1)?,
            },
        };
        let key = Key {
            serial: u128::from_be_bytes(*serial),
            issuer: u16::from_be_bytes(*issuer),
        };
        Some(Self { key, base, verdict })
    }

    /// This record over an older one of the same serial. Only a hold is ever left: what is revoked for good stays so
    /// whatever a log says later, and however records were merged before.
    pub(super) const fn over(self, older: Self) -> Self {
        Self {
            key: self.key,
            base: match self.base {
                Base::Unknown => older.base,
                base => base,
            },
            verdict: match (self.verdict, older.verdict) {
                (Verdict::None, verdict) => verdict,
                (_, standing) if standing.is_final() => standing,
                (verdict, _) => verdict,
            },
        }
    }

    /// What OCSP says of it.
    pub(super) const fn status(&self) -> CertStatus {
        match (self.verdict, self.base) {
            (Verdict::Revoked { at, reason }, _)
                if !matches!(reason, RevocationReason::RemoveFromCrl) =>
            {
                CertStatus::Revoked {
                    at: UnixMillis::from_seconds(at),
                    reason: Some(reason),
                }
            }
            (_, Base::Issued) => CertStatus::Good,
            (_, Base::Unresolved { at }) => CertStatus::Revoked {
                at: UnixMillis::from_seconds(at),
                reason: None,
            },
            (_, Base::Unknown) => CertStatus::Unknown,
        }
    }
}

/// Sorts records and makes one of each serial's, the later in the list over the earlier.
pub(super) fn settle(records: &mut Vec<Record>) {
    // Stable: of one key the order of arrival stays.
    records.sort_by_key(|record| record.key);
    records.dedup_by(|later, kept| {
        let same = later.key == kept.key;
        if same {
            *kept = later.over(*kept);
        }
        same
    });
}

/// The record with this key in a sorted run.
pub(super) fn find(records: &[Record], key: Key) -> Option<Record> {
    let at = records
        .binary_search_by_key(&key, |record| record.key)
        .ok()?;
    records.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(base: Base, verdict: Verdict) -> Record {
        let key = Key::new(SerialNumber::from_random([0x47; 16]), 0xabcd);
        Record { key, base, verdict }
    }

    fn revoked(reason: RevocationReason) -> Verdict {
        let at = 1_800_000_000;
        Verdict::Revoked { at, reason }
    }

    #[test]
    fn every_record_round_trips() {
        let bases = [
            Base::Unknown,
            Base::Issued,
            Base::Unresolved {
                at: 253_402_300_799,
            },
        ];
        for base in bases {
            let mut verdicts = vec![Verdict::None];
            verdicts.extend(RevocationReason::ALL.map(revoked));
            for verdict in verdicts {
                let record = record(base, verdict);
                assert_eq!(Record::decode(&record.encode()), Some(record));
            }
        }
        let late = record(Base::Unresolved { at: u64::MAX }, Verdict::None);
        let read = Record::decode(&late.encode()).unwrap();
        assert_eq!(
            read.base,
            Base::Unresolved {
                at: 253_402_300_799
            }
        );
        let mut bad = record(Base::Issued, Verdict::None).encode();
        for tags in [0x03, 0x0f, 0x81, 0xc1, 0xf1] {
            bad[18] = tags;
            assert_eq!(Record::decode(&bad), None, "{tags:#x}");
        }
    }

    #[test]
    fn a_revocation_stands_whatever_the_order() {
        let issued = record(Base::Issued, Verdict::None);
        let revocation = record(Base::Unknown, revoked(RevocationReason::KeyCompromise));
        for mut order in [vec![issued, revocation], vec![revocation, issued]] {
            settle(&mut order);
            let [one] = order[..] else {
                panic!("{order:?}")
            };
            assert!(matches!(
                one.status(),
                CertStatus::Revoked {
                    reason: Some(RevocationReason::KeyCompromise),
                    ..
                }
            ));
        }
    }

    #[test]
    fn what_is_revoked_for_good_stays_so_however_it_is_merged() {
        let issued = record(Base::Issued, Verdict::None);
        let all = RevocationReason::ALL.map(|reason| record(Base::Unknown, revoked(reason)));
        for first in all {
            for second in all {
                for third in all {
                    let one_way = third.over(second.over(first.over(issued)));
                    assert_eq!(third.over(second).over(first).over(issued), one_way);
                    if first.verdict.is_final() {
                        assert_eq!(one_way.verdict, first.verdict);
                    } else if second.verdict.is_final() {
                        assert_eq!(one_way.verdict, second.verdict);
                    } else {
                        assert_eq!(one_way.verdict, third.verdict);
                    }
                }
            }
        }
    }

    #[test]
    fn a_release_brings_back_what_was_there() {
        let hold = record(Base::Unknown, revoked(RevocationReason::CertificateHold));
        let release = record(Base::Unknown, revoked(RevocationReason::RemoveFromCrl));
        let bases = [
            (Base::Issued, CertStatus::Good),
            (Base::Unknown, CertStatus::Unknown),
            (
                Base::Unresolved { at: 7 },
                CertStatus::Revoked {
                    at: UnixMillis(7000),
                    reason: None,
                },
            ),
        ];
        for (base, status) in bases {
            let mut records = vec![record(base, Verdict::None), hold, release];
            settle(&mut records);
            assert_eq!(records[0].status(), status);
            records.push(hold);
            settle(&mut records);
            assert!(matches!(
                records[0].status(),
                CertStatus::Revoked {
                    reason: Some(_),
                    ..
                }
            ));
        }
    }
}
