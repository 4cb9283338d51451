//! What an audit can find wrong: each fault with a sentence for the auditor.

use super::lists::Difference;
use crate::log::checkpoint::BadNote;
use crate::log::detail::NotADetail;
use crate::log::entry::NotAnEntry;
use crate::log::{Class, IssuerName, LeafIndex};
use crate::signature::SignatureFault;
use crate::{SerialNumber, UnixMillis};

/// The first thing that is wrong with a log.
#[derive(Debug)]
pub struct Fault {
    /// The entry that it was found at; `None` where it concerns the log as a whole.
    pub index: Option<LeafIndex>,
    /// What it is.
    pub cause: Cause,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.index {
            Some(index) => write!(f, "entry {index}: {}", self.cause),
            None => write!(f, "the log as a whole: {}", self.cause),
        }
    }
}

impl std::error::Error for Fault {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.cause.source()
    }
}

impl Fault {
    /// A fault at an entry.
    pub(super) const fn at(index: LeafIndex, cause: Cause) -> Self {
        Self {
            index: Some(index),
            cause,
        }
    }

    /// A fault of the log as a whole.
    pub(super) const fn whole(cause: Cause) -> Self {
        Self { index: None, cause }
    }
}

/// Each kind of fault.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The head is not the log's.
    #[error("the published checkpoint is not one that the log key signed")]
    Head(#[source] BadNote),
    /// A checkpoint given for comparison is not the log's.
    #[error("{by} is not a checkpoint that the log key signed")]
    Witness {
        /// Where it came from.
        by: String,
        /// Why.
        #[source]
        source: BadNote,
    },
    /// Two signed heads contradict each other.
    #[error(
        "{by} states another root for the first {size} entries: the log was forked or rewritten \
         somewhere from entry {from} on"
    )]
    Fork {
        /// Where the other head came from.
        by: String,
        /// Its size.
        size: u64,
        /// The first entry that no other head vouches for.
        from: u64,
    },
    /// A signed head states more entries than are published.
    #[error("{by} states {size} entries, but only {published} are published: the log is truncated")]
    Truncated {
        /// Where the other head came from.
        by: String,
        /// Its size.
        size: u64,
        /// The published size.
        published: u64,
    },
    /// The entries are others than those that the head was signed over, and no tile says which.
    #[error(
        "the entries do not hash up to the signed head of {size}: one of the entries {from} to {to} \
         was edited, added or dropped"
    )]
    Root {
        /// The head's size.
        size: u64,
        /// The first entry that no head vouches for.
        from: u64,
        /// The last entry that can be the one.
        to: u64,
    },
    /// A bundle of entries is not there.
    #[error("{path} is missing, so its entries were dropped")]
    BundleMissing {
        /// The bundle.
        path: String,
    },
    /// A bundle of entries does not have the entries that it should.
    #[error("{path} is truncated, over-long or malformed: an entry in it was dropped or edited")]
    BundleMalformed {
        /// The bundle.
        path: String,
    },
    /// Not an entry.
    #[error("not a canonical leaf")]
    NotAnEntry(#[source] NotAnEntry),
    /// The entry belongs elsewhere.
    #[error("says that it is entry {says}: an entry was dropped, added or moved")]
    Misplaced {
        /// The index that stands in the entry.
        says: LeafIndex,
    },
    /// The entry is not the one that was logged.
    #[error("{}is not what the signed head and {tile} were made from: it was edited or moved", run(*.count))]
    Altered {
        /// The hash tile that disagrees.
        tile: String,
        /// How many entries, from this one on, the disagreeing hash covers.
        count: u64,
    },
    /// A hash tile is wrong, the entries are right.
    #[error(
        "the hash tile {path} is wrong from here on: the entries hash up to the signed head without it"
    )]
    Tile {
        /// The tile.
        path: String,
    },
    /// The time went back.
    #[error("its time {time} is before that of the entry before it, {before}")]
    TimeBack {
        /// The entry's.
        time: UnixMillis,
        /// The one before.
        before: UnixMillis,
    },
    /// Entry 0 does not name this log, or another entry does.
    #[error("{0}")]
    Genesis(&'static str),
    /// The end of no open intent.
    #[error("ends intent {intent}, but there is no open intent there")]
    NoOpenIntent {
        /// The index that it names.
        intent: LeafIndex,
    },
    /// The end of another intent.
    #[error("ends intent {intent}, but its issuer or subject is another")]
    OtherIntent {
        /// The index that it names.
        intent: LeafIndex,
    },
    /// An issued outcome without an attempt.
    #[error("was signed in no attempt")]
    NoAttempt,
    /// A serial twice.
    #[error("uses serial {0} a second time")]
    SerialReused(SerialNumber),
    /// A revocation of nothing.
    #[error("revokes serial {0}, which this issuer never had an intent for")]
    RevokedUnknown(SerialNumber),
    /// A revocation of what stands revoked.
    #[error(
        "revokes serial {0}, which stands revoked already: only a hold becomes another revocation"
    )]
    RevokedAgain(SerialNumber),
    /// A release of what is not on hold.
    #[error("releases serial {0}, which is not on hold")]
    ReleasedWithoutHold(SerialNumber),
    /// A hold that became final with another time than its own.
    #[error("makes the hold of serial {0} final, but from another time on than the hold's own")]
    HoldMoved(SerialNumber),
    /// A revocation in the future.
    #[error("revokes serial {serial} from {revoked_at} on, which is after its own time")]
    RevokedAhead {
        /// The serial.
        serial: SerialNumber,
        /// The time in the entry.
        revoked_at: UnixMillis,
    },
    /// A CRL number that does not grow.
    #[error("uses CRL number {number}, but CRL {newest} was there before it")]
    CrlNumber {
        /// The number.
        number: u64,
        /// The greatest before it.
        newest: u64,
    },
    /// A signature by a name that the log does not bind to a key.
    #[error("the log never binds issuer {0} to a key and a certificate")]
    IssuerUnnamed(IssuerName),
    /// A signature by a name that was not yet bound to a key.
    #[error("issuer {0} signs before the log knows its key")]
    IssuerEarly(IssuerName),
    /// A name that gets another key.
    #[error("binds issuer {0} to another key than an entry before")]
    IssuerRebound(IssuerName),
    /// An issuer's certificate is not the logged one.
    #[error("issuer {issuer}: {what}")]
    CaCertificate {
        /// Whose.
        issuer: IssuerName,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A detail bundle is damaged.
    #[error("{path} is truncated or malformed: a detail in it was dropped, edited or moved")]
    DetailBundle {
        /// The bundle.
        path: String,
    },
    /// A detail is gone.
    #[error("its detail is missing (erased, or dropped)")]
    DetailMissing,
    /// A detail without a leaf.
    #[error("there is a detail for it, but its leaf names none")]
    DetailStray,
    /// A detail that is not the logged one.
    #[error("its detail does not hash to what its leaf says: it was edited or moved")]
    DetailAltered,
    /// A detail that is authentic, but not of this kind.
    #[error("its detail cannot be read")]
    DetailMalformed(#[source] NotADetail),
    /// A leaf that must name a detail and does not.
    #[error("its leaf names no detail, so the signature cannot be checked")]
    DetailUnnamed,
    /// An event's detail lacks what an auditor needs.
    #[error("its detail {0}")]
    Event(&'static str),
    /// An operator gave back more units of an order than were held.
    #[error(
        "gives {units} units of order {order} back, but its unresolved certificates held no more than {held}"
    )]
    UnitsNotHeld {
        /// The order.
        order: String,
        /// How many are given back.
        units: u64,
        /// How many could be, by the entries before it.
        held: u64,
    },
    /// What was to be signed is not what the leaf says.
    #[error("{class}: {what}")]
    Tbs {
        /// Of which class.
        class: ClassName,
        /// What is wrong.
        what: &'static str,
    },
    /// The signature does not verify.
    #[error("the signature in its detail is not issuer {issuer}'s over the intent's bytes")]
    Signature {
        /// Whose it should be.
        issuer: IssuerName,
        /// Why.
        #[source]
        source: SignatureFault,
    },
    /// The signed object is not the one whose hash was logged.
    #[error("the signed object does not have the hash that its detail says")]
    ObjectHash,
    /// The list of a CRL is not the one that follows from the log.
    #[error(
        "CRL: the list that follows from the log is not the one that was to be signed (of {says} certificates; by the log {by_log})"
    )]
    List {
        /// How many certificates its detail says that it lists.
        says: u64,
        /// How many it lists by the log.
        by_log: u64,
    },
    /// The list of a CRL given or published is not the one that follows from the log.
    #[error("{by}: {difference}")]
    Listed {
        /// Where it came from.
        by: String,
        /// How it differs.
        difference: Difference,
    },
    /// A CRL given or published is not the log's.
    #[error("{by}: {what}")]
    Crl {
        /// Where it came from.
        by: String,
        /// What is wrong.
        what: &'static str,
    },
}

/// Names a run of entries where a fault cannot tell which of them it is.
fn run(count: u64) -> String {
    match count {
        0 | 1 => String::new(),
        _ => format!("or one of the {} entries after it ", count - 1),
    }
}

/// A [`Class`] as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassName(pub Class);

impl std::fmt::Display for ClassName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            Class::Certificate => "certificate",
            Class::Crl => "CRL",
            Class::Request => "request",
            Class::SelfTest => "self-test",
        })
    }
}
