//! The registration authority: who may ask for what.
//!
//! Owns lines, production orders, approved responders, readers and [`Grant`]s. Promises that a [`Line`] stands for a
//! certificate that we issued, that is valid now and whose line is enabled now, a [`Reader`] likewise; judged on every
//! request. Never trusts a name in a certificate: only the exact certificate, which is one party's alone. Failure story:
//! each refusal is a sentence for the line or the reader.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use certstatus::log::entry::Slug;
use certstatus::log::{Base64, DetailHash, IssuerName};
use certstatus::{SerialNumber, UnixMillis};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

pub(crate) use self::pattern::{DeviceIdPattern, is_device_id};
pub use self::reader::{Area, Party, Proved, Reader, ReaderRecord, Role};
use self::state::State;
use crate::limits::DEVICE_ID_CHARS_MAX;

mod pattern;
mod reader;
mod state;

/// The name in the log of what the appliance does on its own account: renewals, self-tests, CRLs.
pub const APPLIANCE: &str = crate::config::APPLIANCE;

/// Lines and orders as they stand, shared by all requests; changed only after the log has the change.
#[derive(Clone, Default)]
pub struct Registry {
    state: Arc<RwLock<State>>,
    changed: watch::Sender<()>,
}

/// A line that a peer certificate proved, enabled at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub(crate) name: Slug,
    pub(crate) serial: SerialNumber,
}

/// A production order as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Order {
    /// The terms.
    pub terms: OrderTerms,
    /// Open or closed.
    pub state: OrderState,
    /// Units taken: issued, in flight or held.
    pub used: u64,
    /// Unresolved intents so far (the first few returned their unit by themselves).
    pub unresolved: u32,
    /// Of the used units those of unresolved intents that stay taken until an operator gives them back.
    pub held: u64,
}

/// The figures of an order that change as it is used: they follow the entries of intents, outcomes and
/// [`Change::UnitsReturned`], in whose transactions they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// As [`Order::used`].
    pub used: u64,
    /// As [`Order::unresolved`].
    pub unresolved: u32,
    /// As [`Order::held`].
    pub held: u64,
}

/// What an order says; fixed when it is opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderTerms {
    /// The name in URLs.
    pub order: Slug,
    /// The profile's name.
    pub profile: String,
    /// The issuer.
    pub issuer: IssuerName,
    /// The lines that may use it.
    pub lines: BTreeSet<Slug>,
    /// Units.
    pub quantity: u64,
    /// Usable from (inclusive).
    pub from: UnixMillis,
    /// Usable until (exclusive).
    pub until: UnixMillis,
    /// The device ids that it may name: an anchored regular expression.
    pub device_id_pattern: String,
}

/// Whether an order is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OrderState {
    /// In use.
    Open,
    /// Closed by an operator; can be reopened.
    Closed,
}

/// A line as the registry lists it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineRecord {
    /// The name.
    pub line: Slug,
    /// Enabled or disabled.
    pub state: PartyState,
    /// Its certificates, newest last: serial, SHA-256 of the DER, validity.
    pub certificates: Vec<PartyCertificate>,
}

/// Whether a line may ask, or a reader read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PartyState {
    /// It may.
    Enabled,
    /// Refused on the next request.
    Disabled,
}

/// A certificate of a line or a reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartyCertificate {
    /// Its serial.
    pub serial: SerialNumber,
    /// SHA-256 of the whole certificate.
    pub sha256: DetailHash,
    /// Valid from.
    pub not_before: UnixMillis,
    /// Valid until.
    pub not_after: UnixMillis,
}

/// An OCSP responder whose key operators approved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ApprovedResponder {
    /// Its name: of its directory below `public/responders/`, and the common name in its certificates.
    pub responder: Slug,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub sha256: DetailHash,
    /// Its SubjectPublicKeyInfo, DER.
    pub spki: Base64,
}

/// A change of the registry: logged first, then in the store's tables, then in memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Change {
    /// A line is known from now on.
    LineAdded {
        /// Its name.
        line: Slug,
    },
    /// A line's certificate was issued: it authenticates from now on.
    LineCertified {
        /// The line.
        line: Slug,
        /// The certificate.
        certificate: PartyCertificate,
        /// The certificate that asked for it; none where an operator did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        renews: Option<SerialNumber>,
    },
    /// A line's certificate authenticates no more, because it was revoked.
    LineDecertified {
        /// The line.
        line: Slug,
        /// The certificate's serial.
        serial: SerialNumber,
    },
    /// A line may ask or not.
    LineSet {
        /// The line.
        line: Slug,
        /// The new state.
        state: PartyState,
    },
    /// An order is opened.
    OrderOpened {
        /// Its terms.
        terms: OrderTerms,
    },
    /// An order is closed or opened again.
    OrderSet {
        /// The order.
        order: Slug,
        /// The new state.
        state: OrderState,
    },
    /// An operator gives units back that unresolved intents hold.
    UnitsReturned {
        /// The order.
        order: Slug,
        /// How many: at least 1, and no more than are held.
        units: u64,
    },
    /// A responder's key gets certificates from now on, by every device issuer.
    ResponderApproved {
        /// The responder.
        responder: Slug,
        /// Its SubjectPublicKeyInfo, DER.
        spki: Base64,
    },
    /// A responder gets no more certificates; those that it answers with count until they end, and those that it reads
    /// with authenticate no more.
    ResponderRevoked {
        /// The responder.
        responder: Slug,
    },
    /// A reader's certificate was issued: it authenticates from now on. An auditor is known from its first one on.
    ReaderCertified {
        /// The reader.
        reader: Reader,
        /// The certificate.
        certificate: PartyCertificate,
    },
    /// A reader's certificate authenticates no more, because it was revoked.
    ReaderDecertified {
        /// The reader.
        reader: Reader,
        /// The certificate's serial.
        serial: SerialNumber,
    },
    /// A reader may read or not.
    ReaderSet {
        /// The reader.
        reader: Reader,
        /// The new state.
        state: PartyState,
    },
}

/// What entitles a signature. Made only here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant(pub(crate) GrantKind);

/// The three kinds of grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum GrantKind {
    /// A unit of a production order.
    Unit {
        /// The order.
        order: Slug,
        /// The line that asked.
        line: Slug,
        /// The serial of the certificate that proved the line: it must still when the unit is taken.
        certificate: SerialNumber,
        /// The device id as asked for.
        device_id: String,
    },
    /// An operator's act, or the appliance's own (renewing the server's certificate, `operator` = `appliance`).
    Act {
        /// The operator's name.
        operator: String,
        /// What for.
        purpose: Purpose,
    },
    /// A line renews its own certificate.
    LineRenewal {
        /// The line.
        line: Slug,
        /// The serial of the certificate that asks: it must be able to still when the intent is taken.
        certificate: SerialNumber,
    },
}

/// What an operator's act is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A line's certificate.
    Line(Slug),
    /// A reader's certificate.
    Reader(Reader),
    /// The API's own certificate, with these DNS names and IP addresses.
    Server(Vec<String>),
    /// A CA certificate (ceremony).
    Ca(IssuerName),
    /// A responder's certificate.
    Responder(Slug),
    /// A CRL.
    Crl(IssuerName),
    /// A self-test of a key.
    SelfTest(IssuerName),
}

/// Why a request is refused before any CSR is looked at, or an order does not entitle it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No client certificate.
    #[error(
        "this connection shows no client certificate: configure the line's or reader's certificate and key"
    )]
    NoCertificate,
    /// A certificate that this appliance did not issue to a line or a reader, or that was revoked.
    #[error("this client certificate does not belong to any line, responder or auditor")]
    UnknownCertificate,
    /// Expired or not yet valid.
    #[error("the client certificate is valid from {not_before} until {not_after}, and it is {now}")]
    OutsideValidity {
        /// From.
        not_before: UnixMillis,
        /// Until.
        not_after: UnixMillis,
        /// The appliance's time.
        now: UnixMillis,
    },
    /// Disabled by an operator.
    #[error("the line {0} is disabled")]
    LineDisabled(Slug),
    /// Disabled by an operator.
    #[error("the {0} is disabled")]
    ReaderDisabled(Reader),
    /// A certificate of somebody who is there for something else.
    #[error("this client certificate is of the {party}: {audience}")]
    WrongRole {
        /// Whose it is.
        party: Party,
        /// Whom this is for.
        audience: &'static str,
    },
    /// No such order, or not for this line (told alike, so that names cannot be probed).
    #[error("there is no order {0} for this line")]
    NoOrder(String),
    /// Closed.
    #[error("the order {0} is closed")]
    OrderClosed(Slug),
    /// Outside its dates.
    #[error("the order {order} can be used from {from} until {until}, and it is {now}")]
    OutsideDates {
        /// The order.
        order: Slug,
        /// From.
        from: UnixMillis,
        /// Until.
        until: UnixMillis,
        /// The appliance's time.
        now: UnixMillis,
    },
    /// All units are used.
    #[error("the order {order} is used up: all {quantity} units are taken")]
    UsedUp {
        /// The order.
        order: Slug,
        /// Its quantity.
        quantity: u64,
    },
    /// The device id breaks the order's rule.
    #[error("the device id {device_id:?} does not match the order's pattern {pattern}")]
    DeviceId {
        /// As asked for.
        device_id: String,
        /// The order's pattern.
        pattern: String,
    },
    /// The device id cannot be one under any order.
    #[error(
        "a device id has 1 to {DEVICE_ID_CHARS_MAX} printable ASCII characters, and no space at either end"
    )]
    DeviceIdForm,
    /// The line collects certificates instead of renewing one.
    #[error("the line {line} has {maximum} valid certificates already: use one of them")]
    TooManyCertificates {
        /// The line.
        line: Slug,
        /// How many a line may have at a time.
        maximum: usize,
    },
}

/// Why a change of the registry is refused: the operator's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// The name is taken.
    #[error("{0} exists already")]
    Exists(String),
    /// There is no such line or order.
    #[error("there is no {0}")]
    Missing(String),
    /// A value that cannot be.
    #[error("{key}: {problem}")]
    Value {
        /// Which.
        key: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The line that asked may not any more.
    #[error(transparent)]
    Line(#[from] Refused),
}

impl Refused {
    /// The stable name of the rule, for problem types and log entries.
    #[must_use]
    pub const fn rule(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no-certificate",
            Self::UnknownCertificate => "unknown-certificate",
            Self::OutsideValidity { .. } => "certificate-outside-validity",
            Self::LineDisabled(_) => "line-disabled",
            Self::ReaderDisabled(_) => "reader-disabled",
            Self::WrongRole { .. } => "wrong-role",
            Self::NoOrder(_) => "no-such-order",
            Self::OrderClosed(_) => "order-closed",
            Self::OutsideDates { .. } => "order-outside-dates",
            Self::UsedUp { .. } => "order-used-up",
            Self::DeviceId { .. } => "device-id-pattern",
            Self::DeviceIdForm => "device-id-form",
            Self::TooManyCertificates { .. } => "too-many-certificates",
        }
    }
}

impl Registry {
    /// Judges the peer's certificate (DER, leaf; `None` when the peer showed none) now.
    ///
    /// # Errors
    /// [`Refused`]: tell the line; a retry helps only after an operator has acted.
    pub fn authenticate(&self, peer: Option<&[u8]>, now: UnixMillis) -> Result<Line, Refused> {
        self.authenticate_digest(peer.map(DetailHash::of).as_ref(), now)
    }

    /// As [`Self::authenticate`], by the SHA-256 of the whole certificate: a connection hashes it once.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn authenticate_digest(
        &self,
        peer: Option<&DetailHash>,
        now: UnixMillis,
    ) -> Result<Line, Refused> {
        self.read().authenticate(peer, now)
    }

    /// Whom a peer's certificate proves now, by the SHA-256 of the whole certificate.
    ///
    /// # Errors
    /// [`Refused`]: tell the peer.
    pub fn prove(&self, peer: Option<&DetailHash>, now: UnixMillis) -> Result<Proved, Refused> {
        self.read().prove(peer, now)
    }

    /// The reader of a peer's certificate, if it may read this area now.
    ///
    /// # Errors
    /// [`Refused`]: tell the peer.
    pub fn authenticate_reader(
        &self,
        peer: Option<&DetailHash>,
        area: Area,
        now: UnixMillis,
    ) -> Result<Reader, Refused> {
        self.read().authenticate_reader(peer, area, now)
    }

    /// The order, if this line may use it at all (whatever its state, dates and units are).
    ///
    /// # Errors
    /// [`Refused::NoOrder`], also for an order of other lines.
    pub fn order_for(&self, line: &Line, order: &str) -> Result<Order, Refused> {
        self.read().order_for(line, order)
    }

    /// Entitles a line to one unit of an order for a device id: state, dates, pattern, units left.
    ///
    /// The unit itself is taken in the intent's transaction, which checks the line and its certificate, state, dates
    /// and units again.
    ///
    /// # Errors
    /// [`Refused`]: tell the line.
    pub fn grant(
        &self,
        line: &Line,
        order: &Slug,
        device_id: &str,
        now: UnixMillis,
    ) -> Result<Grant, Refused> {
        self.read().grant(line, order, device_id, now)
    }

    /// Entitles a line to a new certificate for itself, unless it has too many valid ones.
    ///
    /// # Errors
    /// [`Refused::TooManyCertificates`].
    pub fn renewal(&self, line: &Line, now: UnixMillis) -> Result<Grant, Refused> {
        self.read().renewal(line, now)
    }

    /// Whether a change can be made as the registry stands at this time.
    ///
    /// # Errors
    /// [`ChangeRefused`]: tell whoever asked; nothing changes.
    pub fn admit(&self, change: &Change, now: UnixMillis) -> Result<(), ChangeRefused> {
        self.read().admit(change, now)
    }

    /// Applies a change that is in the log: takes effect on the next request.
    pub fn apply(&self, change: &Change) {
        self.write().apply(change);
        self.changed.send_replace(());
    }

    /// Tells each change from now on, for whoever must not wait for the next request.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Takes or returns units of an order after the log has it: the figures as they now stand.
    pub fn set_units(&self, order: &Slug, units: Units) {
        self.write().set_units(order, units);
    }

    /// One line.
    #[must_use]
    pub fn line(&self, line: &Slug) -> Option<LineRecord> {
        self.read().line(line)
    }

    /// Whether a certificate that proved a line does so still: what was true when a request came counts for nothing
    /// once it was held open.
    ///
    /// # Errors
    /// As [`Self::authenticate`].
    pub fn proves_still(
        &self,
        line: &Slug,
        certificate: SerialNumber,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        self.read().proves_still(line, certificate, now)
    }

    /// Whether a line may renew by a certificate still: the line is enabled and the certificate not revoked. It may have
    /// expired since the line asked, for the line has no other then.
    ///
    /// # Errors
    /// [`Refused::LineDisabled`] and [`Refused::UnknownCertificate`].
    pub fn renews_still(&self, line: &Slug, certificate: SerialNumber) -> Result<(), Refused> {
        self.read().renews_still(line, certificate)
    }

    /// Whether a line may ask; `None` where it is not known.
    #[must_use]
    pub fn line_state(&self, line: &Slug) -> Option<PartyState> {
        self.read().line_state(line)
    }

    /// The line that a certificate authenticates, by the certificate's serial.
    #[must_use]
    pub fn line_of(&self, serial: SerialNumber) -> Option<Slug> {
        self.read().line_of(serial)
    }

    /// The reader that a certificate authenticates, by the certificate's serial.
    #[must_use]
    pub fn reader_of(&self, serial: SerialNumber) -> Option<Reader> {
        self.read().reader_of(serial)
    }

    /// The reader that a certificate authenticated until it was revoked, with what is needed to let it do so again.
    #[must_use]
    pub fn decertified(&self, serial: SerialNumber) -> Option<(Reader, PartyCertificate)> {
        self.read().decertified(serial)
    }

    /// One reader.
    #[must_use]
    pub fn reader(&self, reader: &Reader) -> Option<ReaderRecord> {
        self.read().reader(reader)
    }

    /// All readers by role and name.
    #[must_use]
    pub fn readers(&self) -> Vec<ReaderRecord> {
        self.read().readers()
    }

    /// Whether somebody's certificates count at all.
    #[must_use]
    pub fn is_enabled(&self, party: &Party) -> bool {
        self.read().state_of(party) == Some(PartyState::Enabled)
    }

    /// All lines by name.
    #[must_use]
    pub fn lines(&self) -> Vec<LineRecord> {
        self.read().lines()
    }

    /// All orders by name.
    #[must_use]
    pub fn orders(&self) -> Vec<Order> {
        self.read().orders()
    }

    /// One order.
    #[must_use]
    pub fn order(&self, order: &Slug) -> Option<Order> {
        self.read().order(order)
    }

    /// All approved responders by name.
    #[must_use]
    pub fn responders(&self) -> Vec<ApprovedResponder> {
        self.read().responders()
    }

    /// One approved responder.
    #[must_use]
    pub fn responder(&self, responder: &Slug) -> Option<ApprovedResponder> {
        self.read().responder(responder)
    }

    /// The state to read; no writer leaves it half changed, so a poisoned lock is as good as a whole one.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state to change.
    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Change {
    /// The certificate that authenticates from this change on.
    #[must_use]
    pub const fn certifies(&self) -> Option<&PartyCertificate> {
        match self {
            Self::LineCertified { certificate, .. } | Self::ReaderCertified { certificate, .. } => {
                Some(certificate)
            }
            _ => None,
        }
    }
}

impl Order {
    /// The figures that change as it is used.
    #[must_use]
    pub const fn units(&self) -> Units {
        Units {
            used: self.used,
            unresolved: self.unresolved,
            held: self.held,
        }
    }
}

impl Line {
    /// The name.
    #[must_use]
    pub const fn name(&self) -> &Slug {
        &self.name
    }

    /// The serial of the certificate that proved it.
    #[must_use]
    pub const fn serial(&self) -> SerialNumber {
        self.serial
    }

    /// Entitles the line to a new certificate for itself; [`Registry::renewal`] looks whether it has room.
    fn renewal(&self) -> Grant {
        Grant(GrantKind::LineRenewal {
            line: self.name.clone(),
            certificate: self.serial,
        })
    }
}

impl Grant {
    /// An operator's act, or the appliance's own.
    #[must_use]
    pub fn act(operator: &str, purpose: Purpose) -> Self {
        Self(GrantKind::Act {
            operator: operator.to_owned(),
            purpose,
        })
    }

    /// The line that asked, where one did and no operator.
    #[must_use]
    pub(crate) const fn line(&self) -> Option<&Slug> {
        match &self.0 {
            GrantKind::Unit { line, .. } | GrantKind::LineRenewal { line, .. } => Some(line),
            GrantKind::Act { .. } => None,
        }
    }

    /// The device id that the grant names, for an order's unit.
    #[must_use]
    pub fn device_id(&self) -> Option<&str> {
        match &self.0 {
            GrantKind::Unit { device_id, .. } => Some(device_id),
            GrantKind::Act { .. } | GrantKind::LineRenewal { .. } => None,
        }
    }
}
