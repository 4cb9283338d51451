//! What a log says of one serial: every entry about it, and its status at the verified head.
//!
//! Owns the rule from entries to a status. Promises a status only of a log that verified from its first entry to
//! its head: nothing less shows that no later entry revokes the certificate. Never keeps an entry about another
//! serial. Failure story: a log that does not verify has no status, only [`NotVerified`].

use std::fmt;

use serde::Serialize;

use super::report::{Agreement, Hex};
use super::{NotVerified, Options, Progress, Source, replayed};
use crate::log::{Entry, EntryKind, IssuerName, LeafIndex, Outcome, Subject};
use crate::{CertStatus, RevocationReason, SerialNumber, UnixMillis};

/// Which certificate is asked about.
#[derive(Clone, Debug)]
pub struct Question {
    /// Its serial.
    pub serial: SerialNumber,
    /// Its issuer, where only a certificate of that issuer is meant.
    pub issuer: Option<IssuerName>,
}

/// The answer: what the log says of a serial, up to its head.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The serial.
    pub serial: SerialNumber,
    /// What OCSP would say (RFC 6960, 2.2).
    #[serde(serialize_with = "status_json")]
    pub status: CertStatus,
    /// The issuer that the log has the serial under; none where it has no entry about it.
    pub issuer: Option<IssuerName>,
    /// The entries about the serial, by index.
    pub entries: Vec<About>,
    /// The log's origin.
    pub origin: String,
    /// The size of the head that the status holds for.
    pub size: u64,
    /// The root of that head.
    pub root: Hex,
    /// When the newest entry was made, milliseconds since 1970: the log says nothing of later.
    pub newest: UnixMillis,
    /// The other heads that this log extends.
    pub agrees_with: Vec<Agreement>,
}

/// An entry about a serial.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct About {
    /// Its index.
    pub index: LeafIndex,
    /// When it was appended, milliseconds since 1970.
    pub time: UnixMillis,
    /// Whose certificate it is about.
    pub issuer: IssuerName,
    /// What happened.
    #[serde(flatten)]
    pub act: Act,
}

/// What an entry says of a serial. All times are milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "act", rename_all = "kebab-case")]
pub enum Act {
    /// The issuer's key is about to sign a certificate with it.
    Intent {
        /// The certificate's end of validity.
        not_after: UnixMillis,
    },
    /// The certificate was signed.
    Issued {
        /// Requests that may have reached a token.
        attempts: u32,
    },
    /// No signature exists.
    Abandoned,
    /// A signature may exist.
    Unresolved {
        /// Requests that may have reached a token; 0 where a restart forgot them.
        attempts: u32,
    },
    /// It is revoked, put on hold, or released ([`RevocationReason::RemoveFromCrl`]).
    Revoked {
        /// Why.
        reason: RevocationReason,
        /// Since when.
        revoked_at: UnixMillis,
    },
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Intent { not_after } => {
                write!(f, "intent of a certificate valid until {not_after}")
            }
            Self::Issued { attempts } => write!(f, "outcome: issued, attempts: {attempts}"),
            Self::Abandoned => f.write_str("outcome: abandoned, no signature exists"),
            Self::Unresolved { attempts } => {
                write!(
                    f,
                    "outcome: unresolved, attempts: {attempts}; it counts as revoked"
                )
            }
            Self::Revoked {
                reason: RevocationReason::RemoveFromCrl,
                revoked_at,
            } => write!(f, "released from its hold on {revoked_at}"),
            Self::Revoked { reason, revoked_at } => {
                write!(f, "revoked since {revoked_at}, reason {reason}")
            }
        }
    }
}

impl About {
    /// What an entry says of the serial that it is about; `None` where it is about none.
    #[must_use]
    pub fn of(entry: &Entry) -> Option<(SerialNumber, Self)> {
        let certificate = |subject: &Subject| match subject {
            Subject::Certificate { serial, not_after } => Some((*serial, *not_after)),
            Subject::Crl { .. } | Subject::Request | Subject::SelfTest => None,
        };
        let (serial, issuer, act) = match &entry.kind {
            EntryKind::Intent { issuer, subject } => {
                let (serial, not_after) = certificate(subject)?;
                (serial, issuer, Act::Intent { not_after })
            }
            EntryKind::Outcome {
                issuer,
                subject,
                outcome,
                ..
            } => {
                let act = match *outcome {
                    Outcome::Issued { attempts } => Act::Issued { attempts },
                    Outcome::Abandoned => Act::Abandoned,
                    Outcome::Unresolved { attempts } => Act::Unresolved { attempts },
                };
                (certificate(subject)?.0, issuer, act)
            }
            EntryKind::Revoked {
                issuer,
                serial,
                reason,
                revoked_at,
            } => {
                let act = Act::Revoked {
                    reason: RevocationReason::from_code(*reason)?,
                    revoked_at: *revoked_at,
                };
                (*serial, issuer, act)
            }
            EntryKind::Genesis { .. }
            | EntryKind::Issuer { .. }
            | EntryKind::Event { .. }
            | EntryKind::Tick => return None,
        };
        let about = Self {
            index: entry.index,
            time: entry.time,
            issuer: issuer.clone(),
            act,
        };
        Some((serial, about))
    }
}

/// Collects the entries about one serial while a log is replayed.
#[derive(Debug, Default)]
pub(super) struct Dossier {
    /// `None` collects nothing.
    serial: Option<SerialNumber>,
    entries: Vec<About>,
}

impl Dossier {
    /// Takes in an entry, if it is about the serial.
    pub(super) fn note(&mut self, entry: &Entry) {
        if self.serial.is_some()
            && let Some((serial, about)) = About::of(entry)
            && self.serial == Some(serial)
        {
            self.entries.push(about);
        }
    }
}

/// What a certificate is worth after these entries about it: the newest revocation counts, unless it lifts a
/// hold, else the outcome does.
fn judge(entries: &[About]) -> CertStatus {
    let mut ended = CertStatus::Unknown;
    let mut revoked = None;
    for about in entries {
        match about.act {
            Act::Intent { .. } | Act::Abandoned => {}
            Act::Issued { .. } => ended = CertStatus::Good,
            Act::Unresolved { .. } => {
                let at = UnixMillis::from_seconds(about.time.seconds());
                ended = CertStatus::Revoked { at, reason: None };
            }
            Act::Revoked {
                reason: RevocationReason::RemoveFromCrl,
                ..
            } => revoked = None,
            Act::Revoked { reason, revoked_at } => {
                let (at, reason) = (revoked_at, Some(reason));
                revoked = Some(CertStatus::Revoked { at, reason });
            }
        }
    }
    revoked.unwrap_or(ended)
}

/// Verifies a published log and says what it says of one certificate; `progress` is as with
/// [`verify`](super::verify).
///
/// # Errors
/// As [`verify`](super::verify): the log then says nothing of any certificate.
pub fn status(
    source: &Source,
    options: &Options,
    question: &Question,
    progress: impl FnMut(Progress),
) -> Result<Standing, NotVerified> {
    let mut dossier = Dossier {
        serial: Some(question.serial),
        entries: Vec::new(),
    };
    let report = replayed(source, options, &mut dossier, progress)?;
    let entries = dossier.entries;
    // A verified log has each serial under one issuer only, whose name each of these entries has.
    let issuer = entries.first().map(|about| about.issuer.clone());
    let other = question.issuer.is_some() && question.issuer != issuer;
    let status = if other {
        CertStatus::Unknown
    } else {
        judge(&entries)
    };
    Ok(Standing {
        serial: question.serial,
        status,
        issuer,
        entries,
        origin: report.origin,
        size: report.entries,
        root: report.root,
        newest: report.newest,
        agrees_with: report.agrees_with,
    })
}

/// A status as JSON: an object whose `is` names it, with `at` (milliseconds since 1970) and `reason` where it is
/// revoked.
fn status_json<S: serde::Serializer>(status: &CertStatus, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(tag = "is", rename_all = "kebab-case")]
    enum Wire {
        Good,
        Revoked {
            at: UnixMillis,
            reason: Option<RevocationReason>,
        },
        Unknown,
    }
    let wire = match *status {
        CertStatus::Good => Wire::Good,
        CertStatus::Revoked { at, reason } => Wire::Revoked { at, reason },
        CertStatus::Unknown => Wire::Unknown,
    };
    wire.serialize(to)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(act: Act) -> About {
        About {
            index: LeafIndex(1),
            time: UnixMillis(5_999),
            issuer: "device-1".parse().unwrap(),
            act,
        }
    }

    fn revoked(reason: RevocationReason) -> Act {
        let revoked_at = UnixMillis(3_000);
        Act::Revoked { reason, revoked_at }
    }

    #[test]
    fn the_newest_word_counts() {
        use RevocationReason::{CertificateHold, KeyCompromise, RemoveFromCrl};
        let not_after = UnixMillis(9_000);
        let intent = Act::Intent { not_after };
        let issued = Act::Issued { attempts: 1 };
        let unresolved = Act::Unresolved { attempts: 0 };
        let worth = |reason| CertStatus::Revoked {
            at: UnixMillis(3_000),
            reason: Some(reason),
        };
        let in_doubt = CertStatus::Revoked {
            at: UnixMillis(5_000),
            reason: None,
        };
        let rows: [(&[Act], CertStatus); 10] = [
            (&[], CertStatus::Unknown),
            (&[intent], CertStatus::Unknown),
            (&[intent, Act::Abandoned], CertStatus::Unknown),
            (&[intent, issued], CertStatus::Good),
            (&[intent, unresolved], in_doubt),
            (
                &[intent, issued, revoked(KeyCompromise)],
                worth(KeyCompromise),
            ),
            (
                &[intent, revoked(KeyCompromise), issued],
                worth(KeyCompromise),
            ),
            (
                &[intent, issued, revoked(CertificateHold)],
                worth(CertificateHold),
            ),
            (
                &[
                    intent,
                    issued,
                    revoked(CertificateHold),
                    revoked(RemoveFromCrl),
                ],
                CertStatus::Good,
            ),
            (
                &[
                    intent,
                    unresolved,
                    revoked(CertificateHold),
                    revoked(RemoveFromCrl),
                ],
                in_doubt,
            ),
        ];
        for (acts, status) in rows {
            let entries: Vec<About> = acts.iter().copied().map(about).collect();
            assert_eq!(judge(&entries), status, "{acts:?}");
        }
    }
}
