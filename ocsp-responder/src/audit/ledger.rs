//! Reads the log as a book: every outcome to its intent, every serial once, every name to one key.
//!
//! Owns the rules that leaves alone can show. Promises memory that grows with serials (about 32
//! octets each), revocations, open intents, CRLs and accepted starts, never with entries. Never looks at details.
//! Failure story: the first broken rule is a [`Cause`]; the ledger is then of no further use.

use std::collections::{BTreeMap, HashMap};

use super::fault::Cause;
use super::lists::{Fallen, Lists, Place, Selection};
use super::report::{Certificates, Tally};
use crate::crl::{Frame, Scope};
use crate::log::checkpoint::VerifierKey;
use crate::log::{
    Class, DetailHash, Entry, EntryKind, EventName, Gone, IssuerName, LeafIndex, Outcome, Subject,
    UNWITNESSED_START,
};
use crate::signature::PublicKey;
use crate::status::RevocationReason;
use crate::{SerialNumber, UnixMillis};

/// An issuer's place among the issuers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct IssuerId(u32);

/// What the log says of an issuer.
#[derive(Debug)]
pub(super) struct IssuerRecord {
    /// Its name.
    pub name: IssuerName,
    /// SHA-256 of its key, once the log binds it.
    pub spki: Option<[u8; 32]>,
    /// Its key, once known.
    pub key: Option<PublicKey>,
    /// The subject Name of its certificate, once known.
    pub subject: Option<Vec<u8>>,
    /// How many CRL partitions it has, once known: only details tell.
    pub partitions: Option<u32>,
    /// Its newest `issuer` entry, and the hash of the certificate there.
    pub bound: Option<(LeafIndex, [u8; 32])>,
    /// Its first intent of a certificate or CRL: what makes it more than a key that waits for its certificate.
    pub first_use: Option<LeafIndex>,
}

/// An intent that has no outcome yet.
#[derive(Debug)]
pub(super) struct Open {
    /// Whose.
    pub issuer: IssuerId,
    /// What for.
    pub subject: Subject,
    /// The bytes to be signed, where the detail is known.
    pub tbs: Option<Vec<u8>>,
    /// Of a CRL, what its bytes follow from.
    pub list: Option<Recipe>,
    /// The production order, where the detail names one.
    pub order: Option<String>,
}

/// What the bytes of a CRL follow from: they may be 50 MB, and there may be many open intents in a log that lies.
#[derive(Debug)]
pub(super) struct Recipe {
    /// The bytes around the list.
    pub frame: Frame,
    /// The list.
    pub of: Selection,
}

/// What the log says of a serial.
#[derive(Clone, Copy, Debug)]
struct Standing {
    issuer: IssuerId,
    state: State,
    not_after: UnixMillis,
}

/// How a serial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No entry revokes it, or the newest one released it.
    Good,
    /// On hold: the one state that can be left.
    Held,
    /// Revoked for good.
    Revoked,
    /// Its intent was left unresolved, which counts as revoked for good.
    Unresolved,
}

/// Where a CRL stands: issuer, partition, number.
type CrlPlace = (IssuerId, u32, u64);

/// The state of the log after some entries.
#[derive(Debug)]
pub(super) struct Ledger {
    log_key: VerifierKey,
    /// The time of entry 0.
    pub oldest: UnixMillis,
    /// The time of the newest entry.
    pub newest: UnixMillis,
    names: BTreeMap<IssuerName, IssuerId>,
    issuers: Vec<IssuerRecord>,
    open: HashMap<LeafIndex, Open>,
    serials: HashMap<SerialNumber, Standing>,
    /// Since when what is on hold is: a final revocation keeps that time. Holds are few.
    holds: HashMap<SerialNumber, (UnixMillis, Place)>,
    /// What CRLs list.
    pub lists: Lists,
    crls: BTreeMap<CrlPlace, Option<DetailHash>>,
    tallies: BTreeMap<(IssuerId, Class), Tally>,
    /// Events by name.
    pub events: BTreeMap<EventName, u64>,
    /// Starts of the appliance that no witness confirmed.
    pub unwitnessed: Vec<LeafIndex>,
}

impl Ledger {
    /// The state before entry 0 of the log that this key signs.
    pub(super) fn new(log_key: VerifierKey) -> Self {
        Self {
            log_key,
            oldest: UnixMillis(0),
            newest: UnixMillis(0),
            names: BTreeMap::new(),
            issuers: Vec::new(),
            open: HashMap::new(),
            serials: HashMap::new(),
            holds: HashMap::new(),
            lists: Lists::default(),
            crls: BTreeMap::new(),
            tallies: BTreeMap::new(),
            events: BTreeMap::new(),
            unwitnessed: Vec::new(),
        }
    }

    /// Takes in the next entry; gives back the intent that it ends, if it ends one.
    pub(super) fn admit(&mut self, entry: &Entry) -> Result<Option<Open>, Cause> {
        if entry.time < self.newest {
            return Err(Cause::TimeBack {
                time: entry.time,
                before: self.newest,
            });
        }
        self.newest = entry.time;
        match &entry.kind {
            EntryKind::Genesis { origin, log_key } => self.genesis(entry, origin, log_key)?,
            _ if entry.index.0 == 0 => {
                return Err(Cause::Genesis("the first entry is not genesis"));
            }
            EntryKind::Issuer {
                issuer,
                spki,
                certificate,
            } => {
                let id = self.issuer(issuer);
                self.bind_key(id, *spki)?;
                if let Some(record) = self.record_mut(id) {
                    record.bound = Some((entry.index, *certificate));
                }
            }
            EntryKind::Intent { issuer, subject } => self.intent(entry.index, issuer, *subject)?,
            EntryKind::Outcome {
                intent,
                issuer,
                subject,
                outcome,
            } => {
                let ended = (*intent, entry.index);
                return self.outcome(ended, issuer, *subject, *outcome).map(Some);
            }
            EntryKind::Revoked {
                issuer,
                serial,
                reason,
                revoked_at,
            } => {
                self.revoke(entry.index, issuer, *serial, (*reason, *revoked_at))?;
            }
            EntryKind::Event { event } => {
                *self.events.entry(event.clone()).or_default() += 1;
                if event.0.as_str() == UNWITNESSED_START {
                    self.unwitnessed.push(entry.index);
                }
            }
            EntryKind::Tick => {}
        }
        Ok(None)
    }

    /// Checks that entry 0, and it alone, names this log.
    fn genesis(&mut self, entry: &Entry, origin: &str, log_key: &str) -> Result<(), Cause> {
        if entry.index.0 != 0 {
            return Err(Cause::Genesis("a genesis entry that is not the first"));
        }
        if origin != self.log_key.name() {
            return Err(Cause::Genesis("the genesis entry names another origin"));
        }
        if log_key != self.log_key.to_string() {
            return Err(Cause::Genesis("the genesis entry names another log key"));
        }
        self.oldest = entry.time;
        Ok(())
    }

    /// The place of an issuer, a new one for a new name.
    pub(super) fn issuer(&mut self, name: &IssuerName) -> IssuerId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        // Each issuer needs an entry of its own, so there are never 2³² of them.
        let id = IssuerId(u32::try_from(self.issuers.len()).unwrap_or(u32::MAX));
        self.names.insert(name.clone(), id);
        self.issuers.push(IssuerRecord {
            name: name.clone(),
            spki: None,
            key: None,
            subject: None,
            partitions: None,
            bound: None,
            first_use: None,
        });
        id
    }

    /// What the log says of an issuer.
    pub(super) fn record(&self, id: IssuerId) -> Option<&IssuerRecord> {
        self.issuers.get(usize::try_from(id.0).ok()?)
    }

    /// The same, to be added to.
    pub(super) fn record_mut(&mut self, id: IssuerId) -> Option<&mut IssuerRecord> {
        self.issuers.get_mut(usize::try_from(id.0).ok()?)
    }

    /// All issuers, in the order in which the log first names them.
    pub(super) fn issuers(&self) -> impl Iterator<Item = (IssuerId, &IssuerRecord)> {
        (0u32..).map(IssuerId).zip(&self.issuers)
    }

    /// Binds a name to a key's hash: a name keeps its key for ever.
    pub(super) fn bind_key(&mut self, id: IssuerId, spki: [u8; 32]) -> Result<(), Cause> {
        let Some(record) = self.record_mut(id) else {
            return Ok(());
        };
        if record.spki.is_some_and(|before| before != spki) {
            return Err(Cause::IssuerRebound(record.name.clone()));
        }
        record.spki = Some(spki);
        Ok(())
    }

    /// Takes in an intent.
    fn intent(
        &mut self,
        index: LeafIndex,
        issuer: &IssuerName,
        subject: Subject,
    ) -> Result<(), Cause> {
        let id = self.issuer(issuer);
        match subject {
            Subject::Certificate { serial, not_after } => {
                let standing = Standing {
                    issuer: id,
                    state: State::Good,
                    not_after,
                };
                if self.serials.insert(serial, standing).is_some() {
                    return Err(Cause::SerialReused(serial));
                }
            }
            Subject::Crl { number, partition } => {
                let places = (id, partition, 0)..=(id, partition, u64::MAX);
                if let Some(((_, _, newest), _)) = self.crls.range(places).next_back()
                    && *newest >= number
                {
                    return Err(Cause::CrlNumber {
                        number,
                        newest: *newest,
                    });
                }
            }
            Subject::Request | Subject::SelfTest => {}
        }
        let tally = self.tally(id, subject.class());
        tally.intents += 1;
        tally.open += 1;
        let vouches = matches!(subject.class(), Class::Certificate | Class::Crl);
        if let Some(record) = self.record_mut(id).filter(|_| vouches) {
            record.first_use.get_or_insert(index);
        }
        self.open.insert(
            index,
            Open {
                issuer: id,
                subject,
                tbs: None,
                list: None,
                order: None,
            },
        );
        Ok(())
    }

    /// What an issuer signed in a class.
    fn tally(&mut self, id: IssuerId, class: Class) -> &mut Tally {
        self.tallies.entry((id, class)).or_default()
    }

    /// Takes in the end of an intent.
    fn outcome(
        &mut self,
        (intent, entry): (LeafIndex, LeafIndex),
        issuer: &IssuerName,
        subject: Subject,
        outcome: Outcome,
    ) -> Result<Open, Cause> {
        let open = self
            .open
            .remove(&intent)
            .ok_or(Cause::NoOpenIntent { intent })?;
        if self.names.get(issuer) != Some(&open.issuer) || open.subject != subject {
            return Err(Cause::OtherIntent { intent });
        }
        let tally = self.tally(open.issuer, subject.class());
        tally.open -= 1;
        match outcome {
            Outcome::Issued { attempts: 0 } => return Err(Cause::NoAttempt),
            Outcome::Issued { attempts } => {
                tally.signatures += 1;
                tally.attempts += u64::from(attempts);
                if let Subject::Crl { number, partition } = subject {
                    self.crls.insert((open.issuer, partition, number), None);
                }
            }
            Outcome::Abandoned => tally.abandoned += 1,
            Outcome::Unresolved { attempts } => {
                tally.unresolved += 1;
                tally.attempts += u64::from(attempts);
                if let Subject::Certificate { serial, .. } = subject
                    && let Some(standing) = self.serials.get_mut(&serial)
                {
                    // What was revoked before its outcome stays listed as it is.
                    if standing.state == State::Good {
                        let fallen = Fallen {
                            serial,
                            entry,
                            revoked_at: self.newest,
                            not_after: standing.not_after,
                            reason: None,
                        };
                        self.lists.fall(open.issuer, fallen);
                    }
                    standing.state = State::Unresolved;
                }
            }
        }
        Ok(open)
    }

    /// Takes in a revocation: of a serial that this issuer had an intent for, and only as its standing allows.
    ///
    /// Only a hold can be left: for good, from the hold's own time on (X.509, holdInstructionCode), or by a release.
    fn revoke(
        &mut self,
        entry: LeafIndex,
        issuer: &IssuerName,
        serial: SerialNumber,
        (reason, revoked_at): (u8, UnixMillis),
    ) -> Result<(), Cause> {
        const HOLD: u8 = RevocationReason::CertificateHold.code();
        const RELEASE: u8 = RevocationReason::RemoveFromCrl.code();
        if revoked_at > self.newest {
            return Err(Cause::RevokedAhead { serial, revoked_at });
        }
        let id = self.names.get(issuer).copied();
        let standing = match self.serials.get_mut(&serial) {
            Some(standing) if Some(standing.issuer) == id => standing,
            _ => return Err(Cause::RevokedUnknown(serial)),
        };
        let id = standing.issuer;
        let fallen = Fallen {
            serial,
            entry,
            revoked_at,
            not_after: standing.not_after,
            reason: Some(reason),
        };
        standing.state = match (standing.state, reason) {
            (State::Held, RELEASE) => {
                if let Some((_, place)) = self.holds.remove(&serial) {
                    self.lists.end(id, place, entry);
                }
                State::Good
            }
            (_, RELEASE) => return Err(Cause::ReleasedWithoutHold(serial)),
            (State::Good, HOLD) => {
                let place = self.lists.fall(id, fallen);
                self.holds.insert(serial, (revoked_at, place));
                State::Held
            }
            (State::Good, _) => {
                self.lists.fall(id, fallen);
                State::Revoked
            }
            (State::Held | State::Revoked | State::Unresolved, HOLD)
            | (State::Revoked | State::Unresolved, _) => return Err(Cause::RevokedAgain(serial)),
            (State::Held, _) => {
                match self.holds.remove(&serial) {
                    Some((since, place)) if since == revoked_at => {
                        self.lists.end(id, place, entry);
                        self.lists.fall(id, fallen);
                    }
                    _ => return Err(Cause::HoldMoved(serial)),
                }
                State::Revoked
            }
        };
        Ok(())
    }

    /// The open intent at an index, to be given its detail.
    pub(super) fn open_mut(&mut self, index: LeafIndex) -> Option<&mut Open> {
        self.open.get_mut(&index)
    }

    /// Remembers the hash of an issued CRL.
    pub(super) fn set_crl_hash(&mut self, id: IssuerId, subject: Subject, sha256: DetailHash) {
        if let Subject::Crl { number, partition } = subject
            && let Some(hash) = self.crls.get_mut(&(id, partition, number))
        {
            *hash = Some(sha256);
        }
    }

    /// The issued CRLs of this issuer and number: partition and hash.
    ///
    /// A hash is `None` where details were not given.
    pub(super) fn crls_numbered(
        &self,
        id: IssuerId,
        number: u64,
    ) -> Vec<(u32, Option<DetailHash>)> {
        let places = (id, 0, 0)..=(id, u32::MAX, u64::MAX);
        let of_number = self
            .crls
            .range(places)
            .filter(|((_, _, other), _)| *other == number);
        of_number
            .map(|((_, partition, _), hash)| (*partition, *hash))
            .collect()
    }

    /// The number of this issuer's newest full CRL (partition 0), or that of a partition.
    pub(super) fn newest_crl(&self, id: IssuerId, partition: u32) -> Option<u64> {
        let places = (id, partition, 0)..=(id, partition, u64::MAX);
        self.crls
            .range(places)
            .next_back()
            .map(|((_, _, number), _)| *number)
    }

    /// The list of a CRL of which the log has this partition (0: the full one), its scope being what it should; none
    /// where nothing says how many partitions its issuer has.
    pub(super) fn selection(
        &self,
        issuer: IssuerId,
        partition: u32,
        scope: &Scope,
        (size, gone): (u64, Option<Gone>),
    ) -> Result<Option<Selection>, &'static str> {
        if matches!(scope, Scope::Partition(_)) != (partition > 0) {
            return Err(
                "it covers a partition and the log says a full CRL, or the other way round",
            );
        }
        let count = self.record(issuer).and_then(|record| record.partitions);
        let partition = match (partition, count) {
            (0, _) => None,
            (_, None) => return Ok(None),
            (number, Some(count)) if number > count => {
                return Err("its partition is none of its issuer's");
            }
            (number, Some(count)) => Some((number, count)),
        };
        Ok(Some(Selection {
            issuer,
            partition,
            size,
            gone,
        }))
    }

    /// What was signed, class by class, over all issuers.
    pub(super) fn classes(&self) -> BTreeMap<Class, Tally> {
        let mut classes: BTreeMap<Class, Tally> = BTreeMap::new();
        for ((_, class), tally) in &self.tallies {
            classes.entry(*class).or_default().add(tally);
        }
        classes
    }

    /// What one issuer signed, class by class.
    pub(super) fn classes_of(&self, id: IssuerId) -> BTreeMap<Class, Tally> {
        let own = self.tallies.iter().filter(|((issuer, _), _)| *issuer == id);
        own.map(|((_, class), tally)| (*class, *tally)).collect()
    }

    /// What became of certificates.
    pub(super) fn certificates(&self) -> Certificates {
        let tally = self
            .classes()
            .get(&Class::Certificate)
            .copied()
            .unwrap_or_default();
        let revoked = self
            .serials
            .values()
            .filter(|standing| matches!(standing.state, State::Held | State::Revoked))
            .count();
        Certificates {
            issued: tally.signatures,
            abandoned: tally.abandoned,
            unresolved: tally.unresolved,
            open: tally.open,
            revoked: u64::try_from(revoked).unwrap_or(u64::MAX),
        }
    }
}
