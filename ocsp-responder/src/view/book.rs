//! What a reader of leaves has to remember between two entries, and what each entry changes.
//!
//! Owns the rules by which an entry changes an answer, and those that must hold for the answers to be right: entry 0
//! names this log, indexes and times go up, an outcome ends an open intent of its own subject, a name keeps its key.
//! Promises memory that grows with issuers, their CRLs' partitions and open intents only. Never judges what needs the
//! whole history (a serial used twice, CRL numbers that go back): that is the audit's. Failure story: the first broken
//! rule is a [`BadEntry`].

use std::collections::BTreeMap;

use super::record::{Base, Key, Record, Verdict};
use crate::log::checkpoint::VerifierKey;
use crate::log::entry::NotAnEntry;
use crate::log::{Entry, EntryKind, IssuerName, LeafIndex, Outcome, Subject};
use crate::{RevocationReason, SerialNumber, UnixMillis};

/// Intents without outcome at one time: the appliance has a few thousand in work at most.
const OPEN_MAX: usize = 1 << 18;

/// The highest partition whose CRLs are remembered; an appliance makes 128 at most.
const PARTITIONS_MAX: u32 = 4096;

/// An issuer's name with the key and the certificate that the log binds it to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerBinding {
    /// The name in leaves and paths.
    pub name: IssuerName,
    /// SHA-256 of the SubjectPublicKeyInfo.
    pub spki: [u8; 32],
    /// SHA-256 of its newest certificate: that of `public/ca/<name>.cer`.
    pub certificate: [u8; 32],
    /// The number of the newest CRL that was issued, by partition; 0 is the full CRL.
    pub crls: BTreeMap<u32, u64>,
}

/// What is wrong with an entry that the log key signed.
#[derive(Debug, thiserror::Error)]
pub enum BadEntry {
    /// Not a leaf.
    #[error("not a canonical leaf")]
    NotAnEntry(#[source] NotAnEntry),
    /// It belongs elsewhere.
    #[error("says that it is entry {0}")]
    Misplaced(LeafIndex),
    /// The time went back.
    #[error("its time {time} is before that of the entry before it, {before}")]
    TimeBack {
        /// The entry's.
        time: UnixMillis,
        /// The one before.
        before: UnixMillis,
    },
    /// Entry 0 does not name this log, or another entry names one.
    #[error("{0}")]
    Genesis(&'static str),
    /// The end of no open intent.
    #[error("ends intent {0}, which is not open or is another one's")]
    NoOpenIntent(LeafIndex),
    /// A name that gets another key.
    #[error("binds issuer {0} to another key than an entry before")]
    IssuerRebound(IssuerName),
    /// More issuers than the index can tell apart.
    #[error("names the 65,536th issuer; an index has room for 65,535")]
    ManyIssuers,
    /// More open intents than an appliance can have.
    #[error("leaves more than {OPEN_MAX} intents open")]
    ManyOpen,
    /// A reason code that is none.
    #[error("revokes with the reason code {0}, which is none")]
    Reason(u8),
}

/// An issuer, from the first time that it is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Issuer {
    /// Its name.
    pub name: IssuerName,
    /// Hashes of its key and of its newest certificate, once an entry binds them.
    pub bound: Option<([u8; 32], [u8; 32])>,
    /// The number of its newest issued CRL, by partition.
    pub crls: BTreeMap<u32, u64>,
}

/// The state of the log after some entries.
#[derive(Clone, Debug)]
pub(super) struct Book {
    log_key: VerifierKey,
    /// Entries so far.
    next: u64,
    /// The time of the newest entry.
    newest: UnixMillis,
    issuers: Vec<Issuer>,
    names: BTreeMap<IssuerName, u16>,
    /// Certificates' intents without outcome: whose, and for which serial.
    open: BTreeMap<u64, (u16, SerialNumber)>,
}

impl Book {
    /// Before entry 0 of the log that this key signs.
    pub(super) const fn new(log_key: VerifierKey) -> Self {
        Self {
            log_key,
            next: 0,
            newest: UnixMillis(0),
            issuers: Vec::new(),
            names: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    /// As it stood after `next` entries.
    pub(super) fn resume(
        log_key: VerifierKey,
        next: u64,
        newest: UnixMillis,
        issuers: Vec<Issuer>,
        open: BTreeMap<u64, (u16, SerialNumber)>,
    ) -> Self {
        let names = (0..)
            .zip(&issuers)
            .map(|(id, issuer)| (issuer.name.clone(), id));
        Self {
            log_key,
            next,
            newest,
            names: names.collect(),
            issuers,
            open,
        }
    }

    /// The log's key.
    pub(super) const fn log_key(&self) -> &VerifierKey {
        &self.log_key
    }

    /// The time of the newest entry; none before entry 0.
    pub(super) fn newest(&self) -> Option<UnixMillis> {
        (self.next > 0).then_some(self.newest)
    }

    /// All issuers, by number.
    pub(super) fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    /// The numbers of all issuers.
    pub(super) const fn names(&self) -> &BTreeMap<IssuerName, u16> {
        &self.names
    }

    /// The open intents of certificates.
    pub(super) const fn open(&self) -> &BTreeMap<u64, (u16, SerialNumber)> {
        &self.open
    }

    /// Takes in the next entry; gives back what it changes.
    pub(super) fn admit(&mut self, entry: &Entry) -> Result<Option<Record>, BadEntry> {
        if entry.index.0 != self.next {
            return Err(BadEntry::Misplaced(entry.index));
        }
        if entry.time < self.newest {
            return Err(BadEntry::TimeBack {
                time: entry.time,
                before: self.newest,
            });
        }
        let change = self.change(entry)?;
        self.next += 1;
        self.newest = entry.time;
        Ok(change)
    }

    /// What an entry changes.
    fn change(&mut self, entry: &Entry) -> Result<Option<Record>, BadEntry> {
        match &entry.kind {
            EntryKind::Genesis { origin, log_key } => self.genesis(origin, log_key)?,
            _ if self.next == 0 => {
                return Err(BadEntry::Genesis("the first entry is not genesis"));
            }
            EntryKind::Issuer {
                issuer,
                spki,
                certificate,
            } => {
                self.bind(issuer, *spki, *certificate)?;
            }
            EntryKind::Intent { issuer, subject } => {
                let id = self.issuer(issuer)?;
                if let Subject::Certificate { serial, .. } = subject {
                    self.open.insert(entry.index.0, (id, *serial));
                    if self.open.len() > OPEN_MAX {
                        return Err(BadEntry::ManyOpen);
                    }
                }
            }
            EntryKind::Outcome {
                intent,
                issuer,
                subject,
                outcome,
            } => {
                let id = self.issuer(issuer)?;
                match (subject, outcome) {
                    (Subject::Certificate { serial, .. }, _) => {
                        if self.open.remove(&intent.0) != Some((id, *serial)) {
                            return Err(BadEntry::NoOpenIntent(*intent));
                        }
                        return Ok(ended(Key::new(*serial, id), *outcome, entry.time));
                    }
                    (Subject::Crl { number, partition }, Outcome::Issued { .. }) => {
                        self.crl(id, *partition, *number);
                    }
                    (Subject::Crl { .. } | Subject::Request | Subject::SelfTest, _) => {}
                }
            }
            EntryKind::Revoked {
                issuer,
                serial,
                reason,
                revoked_at,
            } => {
                let key = Key::new(*serial, self.issuer(issuer)?);
                let reason =
                    RevocationReason::from_code(*reason).ok_or(BadEntry::Reason(*reason))?;
                let at = revoked_at.seconds();
                let verdict = Verdict::Revoked { at, reason };
                return Ok(Some(Record {
                    key,
                    base: Base::Unknown,
                    verdict,
                }));
            }
            EntryKind::Event { .. } | EntryKind::Tick => {}
        }
        Ok(None)
    }

    /// Checks that entry 0, and it alone, names this log.
    fn genesis(&self, origin: &str, log_key: &str) -> Result<(), BadEntry> {
        let fault = if self.next != 0 {
            "a genesis entry that is not the first"
        } else if origin != self.log_key.name() {
            "the genesis entry names another origin"
        } else if log_key != self.log_key.to_string() {
            "the genesis entry names another log key"
        } else {
            return Ok(());
        };
        Err(BadEntry::Genesis(fault))
    }

    /// The number of an issuer, a new one for a new name.
    fn issuer(&mut self, name: &IssuerName) -> Result<u16, BadEntry> {
        if let Some(id) = self.names.get(name) {
            return Ok(*id);
        }
        let id = u16::try_from(self.issuers.len())
            .ok()
            .filter(|id| *id < u16::MAX);
        let id = id.ok_or(BadEntry::ManyIssuers)?;
        self.names.insert(name.clone(), id);
        self.issuers.push(Issuer {
            name: name.clone(),
            bound: None,
            crls: BTreeMap::new(),
        });
        Ok(id)
    }

    /// Remembers the newest CRL of a partition.
    fn crl(&mut self, id: u16, partition: u32, number: u64) {
        if partition > PARTITIONS_MAX {
            return;
        }
        if let Some(issuer) = self.issuers.get_mut(usize::from(id)) {
            let newest = issuer.crls.entry(partition).or_default();
            *newest = number.max(*newest);
        }
    }

    /// Binds a name to a key, which it keeps, and to a certificate, which may be renewed.
    fn bind(
        &mut self,
        name: &IssuerName,
        spki: [u8; 32],
        certificate: [u8; 32],
    ) -> Result<(), BadEntry> {
        let id = self.issuer(name)?;
        let Some(issuer) = self.issuers.get_mut(usize::from(id)) else {
            return Ok(());
        };
        if issuer.bound.is_some_and(|(before, _)| before != spki) {
            return Err(BadEntry::IssuerRebound(name.clone()));
        }
        issuer.bound = Some((spki, certificate));
        Ok(())
    }
}

/// What the end of an intent makes of its serial.
const fn ended(key: Key, outcome: Outcome, time: UnixMillis) -> Option<Record> {
    let base = match outcome {
        Outcome::Issued { .. } => Base::Issued,
        // No signature exists: as if the serial had never been.
        Outcome::Abandoned => return None,
        Outcome::Unresolved { .. } => Base::Unresolved { at: time.seconds() },
    };
    Some(Record {
        key,
        base,
        verdict: Verdict::None,
    })
}
