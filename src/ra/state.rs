//! The registry's maps and every rule on them, without locks.
//!
//! Owns lines, readers, their certificates, orders and approved responders as they stand in memory. Promises that a change which
//! [`State::admit`] accepts is applied by [`State::apply`] without loss. Failure story: `apply` never fails;
//! a change that does not fit what stands is logged and left out, which can only refuse more.

use std::collections::{BTreeMap, HashMap};

use certstatus::log::entry::Slug;
use certstatus::log::{Base64, DetailHash};
use certstatus::signature::PublicKey;
use certstatus::{SerialNumber, UnixMillis};

use super::pattern::{DeviceIdPattern, is_device_id};
use super::{
    ApprovedResponder, Area, Change, ChangeRefused, Grant, GrantKind, Line, LineRecord, Order,
    OrderState, OrderTerms, Party, PartyCertificate, PartyState, Proved, Reader, ReaderRecord,
    Refused, Role, Units,
};
use crate::limits::DEVICE_ID_CHARS_MAX;

/// Units of one order: more than any factory makes in its years, far from where counting could overflow.
const QUANTITY_MAX: u64 = 1_000_000_000;

/// Lines that one order names.
const ORDER_LINES_MAX: usize = 256;

/// The longest profile name: it is a file's stem.
const PROFILE_CHARS_MAX: usize = 64;

/// Certificates of one line that are valid at a time, where the line asks itself: it renews, it does not collect.
const LINE_CERTIFICATES_MAX: usize = 8;

/// Approved responders: each costs every device issuer a signature a day.
const RESPONDERS_MAX: usize = 64;

/// Whom the line API is for, as a refusal says it.
const LINES_ONLY: &str = "only lines ask for certificates";

/// Lines, readers, certificates, orders and responders as they stand.
#[derive(Default)]
pub(super) struct State {
    lines: BTreeMap<Slug, LineRecord>,
    readers: BTreeMap<Reader, ReaderRecord>,
    /// By the SHA-256 of the whole certificate: each is one party's alone.
    certificates: HashMap<[u8; 32], Known>,
    /// Readers' certificates that were revoked: one on hold may be released.
    decertified: HashMap<SerialNumber, (Reader, PartyCertificate)>,
    orders: BTreeMap<Slug, OpenedOrder>,
    responders: BTreeMap<Slug, ApprovedResponder>,
}

/// A certificate that authenticates somebody.
struct Known {
    party: Party,
    certificate: PartyCertificate,
}

/// An order with its compiled pattern; one that does not compile any more matches nothing.
struct OpenedOrder {
    order: Order,
    pattern: Option<DeviceIdPattern>,
}

impl State {
    /// Judges a peer certificate by its SHA-256.
    pub(super) fn prove(
        &self,
        peer: Option<&DetailHash>,
        now: UnixMillis,
    ) -> Result<Proved, Refused> {
        let digest = peer.ok_or(Refused::NoCertificate)?;
        let known = self.certificates.get(&digest.0);
        let Known { party, certificate } = known.ok_or(Refused::UnknownCertificate)?;
        certificate.valid(now)?;
        match (self.state_of(party), party) {
            (Some(PartyState::Enabled), _) => Ok(Proved {
                party: party.clone(),
                serial: certificate.serial,
                not_after: certificate.not_after,
            }),
            (Some(PartyState::Disabled), Party::Line(line)) => {
                Err(Refused::LineDisabled(line.clone()))
            }
            (Some(PartyState::Disabled), Party::Reader(reader)) => {
                Err(Refused::ReaderDisabled(reader.clone()))
            }
            (None, _) => Err(Refused::UnknownCertificate),
        }
    }

    /// As [`Self::prove`], of a line.
    pub(super) fn authenticate(
        &self,
        peer: Option<&DetailHash>,
        now: UnixMillis,
    ) -> Result<Line, Refused> {
        let Proved { party, serial, .. } = self.prove(peer, now)?;
        match party {
            Party::Line(name) => Ok(Line { name, serial }),
            Party::Reader(_) => Err(Refused::WrongRole {
                party,
                audience: LINES_ONLY,
            }),
        }
    }

    /// As [`Self::prove`], of a reader who may read an area.
    pub(super) fn authenticate_reader(
        &self,
        peer: Option<&DetailHash>,
        area: Area,
        now: UnixMillis,
    ) -> Result<Reader, Refused> {
        match self.prove(peer, now)?.party {
            Party::Reader(reader) if area.is_for(reader.role) => Ok(reader),
            party => Err(Refused::WrongRole {
                party,
                audience: area.audience(),
            }),
        }
    }

    /// Whether somebody may ask or read; none where it is not known.
    pub(super) fn state_of(&self, party: &Party) -> Option<PartyState> {
        match party {
            Party::Line(line) => self.lines.get(line).map(|record| record.state),
            Party::Reader(reader) => self.readers.get(reader).map(|record| record.state),
        }
    }

    /// The order, where this line may use it.
    fn opened_for(&self, line: &Line, order: &str) -> Result<&OpenedOrder, Refused> {
        let found = order
            .parse()
            .ok()
            .and_then(|name: Slug| self.orders.get(&name));
        found
            .filter(|opened| opened.order.terms.lines.contains(&line.name))
            .ok_or_else(|| Refused::NoOrder(shown(order)))
    }

    /// The order as it stands, where this line may use it.
    pub(super) fn order_for(&self, line: &Line, order: &str) -> Result<Order, Refused> {
        Ok(self.opened_for(line, order)?.order.clone())
    }

    /// Entitles a line to a unit of an order.
    pub(super) fn grant(
        &self,
        line: &Line,
        order: &Slug,
        device_id: &str,
        now: UnixMillis,
    ) -> Result<Grant, Refused> {
        let OpenedOrder { order, pattern } = self.opened_for(line, order.as_str())?;
        let terms = &order.terms;
        if order.state == OrderState::Closed {
            return Err(Refused::OrderClosed(terms.order.clone()));
        }
        if now < terms.from || now >= terms.until {
            return Err(Refused::OutsideDates {
                order: terms.order.clone(),
                from: terms.from,
                until: terms.until,
                now,
            });
        }
        if !is_device_id(device_id) {
            return Err(Refused::DeviceIdForm);
        }
        if !pattern.as_ref().is_some_and(|p| p.matches(device_id)) {
            return Err(Refused::DeviceId {
                device_id: device_id.to_owned(),
                pattern: terms.device_id_pattern.clone(),
            });
        }
        if order.used >= terms.quantity {
            return Err(Refused::UsedUp {
                order: terms.order.clone(),
                quantity: terms.quantity,
            });
        }
        Ok(Grant(GrantKind::Unit {
            order: terms.order.clone(),
            line: line.name.clone(),
            certificate: line.serial,
            device_id: device_id.to_owned(),
        }))
    }

    /// Entitles a line to a certificate for itself, unless it collects them.
    pub(super) fn renewal(&self, line: &Line, now: UnixMillis) -> Result<Grant, Refused> {
        self.room_for_certificate(&line.name, now)?;
        Ok(line.renewal())
    }

    /// Refuses a line that has as many valid certificates as it may have.
    fn room_for_certificate(&self, line: &Slug, now: UnixMillis) -> Result<(), Refused> {
        let valid = self.lines.get(line).map_or(0, |record| {
            let current = |c: &&PartyCertificate| now <= c.not_after;
            record.certificates.iter().filter(current).count()
        });
        if valid >= LINE_CERTIFICATES_MAX {
            return Err(Refused::TooManyCertificates {
                line: line.clone(),
                maximum: LINE_CERTIFICATES_MAX,
            });
        }
        Ok(())
    }

    /// Whether a change can be made.
    pub(super) fn admit(&self, change: &Change, now: UnixMillis) -> Result<(), ChangeRefused> {
        match change {
            Change::LineAdded { line } if self.lines.contains_key(line) => {
                Err(ChangeRefused::Exists(format!("the line {line}")))
            }
            Change::LineAdded { .. } => Ok(()),
            Change::LineCertified {
                line,
                certificate,
                renews,
            } => {
                self.existing_line(line)?;
                self.admit_certificate(certificate)?;
                match renews {
                    Some(renewed) => Ok(self.admit_renewal(line, *renewed, now)?),
                    None => Ok(()),
                }
            }
            Change::LineDecertified { line, serial } => {
                self.existing_line(line)?;
                match self.line_of(*serial) {
                    Some(owner) if owner == *line => Ok(()),
                    _ => Err(ChangeRefused::Missing(format!(
                        "certificate {serial} of line {line}"
                    ))),
                }
            }
            Change::LineSet { line, .. } => self.existing_line(line),
            Change::OrderOpened { terms } => self.admit_terms(terms),
            Change::OrderSet { order, .. } => self.existing_order(order).map(drop),
            Change::UnitsReturned { order, units } => {
                admit_return(self.existing_order(order)?, *units)
            }
            Change::ResponderApproved { responder, spki } => self.admit_responder(responder, spki),
            Change::ResponderRevoked { responder } => match self.responders.get(responder) {
                Some(_) => Ok(()),
                None => Err(ChangeRefused::Missing(format!("responder {responder}"))),
            },
            Change::ReaderCertified {
                reader,
                certificate,
            } => {
                // An auditor is known by its certificate; a responder by the approval of its key.
                if reader.role == Role::Responder && !self.responders.contains_key(&reader.name) {
                    return Err(ChangeRefused::Missing(reader.to_string()));
                }
                self.admit_certificate(certificate)
            }
            Change::ReaderDecertified { reader, serial } => match self.reader_of(*serial) {
                Some(owner) if owner == *reader => Ok(()),
                _ => Err(ChangeRefused::Missing(format!(
                    "certificate {serial} of {reader}"
                ))),
            },
            Change::ReaderSet { reader, .. } => match self.readers.get(reader) {
                Some(_) => Ok(()),
                None => Err(ChangeRefused::Missing(reader.to_string())),
            },
        }
    }

    /// The order, where there is one.
    fn existing_order(&self, order: &Slug) -> Result<&Order, ChangeRefused> {
        match self.orders.get(order) {
            Some(opened) => Ok(&opened.order),
            None => Err(ChangeRefused::Missing(format!("order {order}"))),
        }
    }

    /// Refuses a line that is not known.
    fn existing_line(&self, line: &Slug) -> Result<(), ChangeRefused> {
        match self.lines.get(line) {
            Some(_) => Ok(()),
            None => Err(ChangeRefused::Missing(format!("line {line}"))),
        }
    }

    /// Whether a certificate can authenticate somebody from now on.
    fn admit_certificate(&self, certificate: &PartyCertificate) -> Result<(), ChangeRefused> {
        // By both, so that a serial names one party too.
        if self.certificates.contains_key(&certificate.sha256.0)
            || self.party_of(certificate.serial).is_some()
        {
            let serial = certificate.serial;
            return Err(ChangeRefused::Exists(format!(
                "the client certificate {serial}"
            )));
        }
        if certificate.not_before >= certificate.not_after {
            return Err(value("not_after", "it must be after not_before"));
        }
        Ok(())
    }

    /// Whether the certificate that asked for a renewal may still, and the line has room for another.
    fn admit_renewal(
        &self,
        line: &Slug,
        renewed: SerialNumber,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        // Not whether it is valid still: signing takes its time, and the line has only the renewed one then.
        self.renews_still(line, renewed)?;
        self.room_for_certificate(line, now)
    }

    /// Whether a certificate that proved a line does so still.
    pub(super) fn proves_still(
        &self,
        line: &Slug,
        certificate: SerialNumber,
        now: UnixMillis,
    ) -> Result<(), Refused> {
        self.enabled_certificate(line, certificate)?.valid(now)
    }

    /// Whether a line may renew by a certificate still.
    pub(super) fn renews_still(
        &self,
        line: &Slug,
        certificate: SerialNumber,
    ) -> Result<(), Refused> {
        self.enabled_certificate(line, certificate).map(drop)
    }

    /// A certificate of a line that may ask.
    fn enabled_certificate(
        &self,
        line: &Slug,
        certificate: SerialNumber,
    ) -> Result<&PartyCertificate, Refused> {
        let Some(record) = self.lines.get(line) else {
            return Err(Refused::UnknownCertificate);
        };
        if record.state == PartyState::Disabled {
            return Err(Refused::LineDisabled(line.clone()));
        }
        let mut certificates = record.certificates.iter();
        let found = certificates.find(|known| known.serial == certificate);
        found.ok_or(Refused::UnknownCertificate)
    }

    /// Whether an order can be opened on these terms.
    fn admit_terms(&self, terms: &OrderTerms) -> Result<(), ChangeRefused> {
        if self.orders.contains_key(&terms.order) {
            return Err(ChangeRefused::Exists(format!("the order {}", terms.order)));
        }
        let named = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        if terms.profile.is_empty()
            || terms.profile.len() > PROFILE_CHARS_MAX
            || !terms.profile.bytes().all(named)
        {
            return Err(value(
                "profile",
                "a profile's name has 1 to 64 letters, digits, '-' and '_'",
            ));
        }
        if !(1..=QUANTITY_MAX).contains(&terms.quantity) {
            return Err(value("quantity", "an order has 1 to 1,000,000,000 units"));
        }
        if terms.from >= terms.until {
            return Err(value("until", "it must be after `from`"));
        }
        if terms.until > UnixMillis::END_OF_TIME {
            return Err(value("until", "it must be before the year 10000"));
        }
        if !(1..=ORDER_LINES_MAX).contains(&terms.lines.len()) {
            return Err(value("lines", "an order names 1 to 256 lines"));
        }
        terms
            .lines
            .iter()
            .try_for_each(|line| self.existing_line(line))?;
        DeviceIdPattern::compile(&terms.device_id_pattern)
            .map(drop)
            .map_err(|problem| value("device_id_pattern", &problem))
    }

    /// Whether a responder's key can be approved.
    fn admit_responder(&self, responder: &Slug, spki: &Base64) -> Result<(), ChangeRefused> {
        if self.responders.contains_key(responder) {
            return Err(ChangeRefused::Exists(format!("the responder {responder}")));
        }
        if self.responders.len() >= RESPONDERS_MAX {
            let problem = "64 responders are approved: revoke one that is not used any more";
            return Err(value("responder", problem));
        }
        PublicKey::parse(&spki.0).map_err(|fault| value("spki", &fault.to_string()))?;
        // Or a revocation under one name would leave the key approved under the other.
        let mut approved = self.responders.values();
        if let Some(same) = approved.find(|approved| approved.spki == *spki) {
            let problem = format!("this key is approved as {} already", same.responder);
            return Err(value("spki", &problem));
        }
        Ok(())
    }

    /// Applies a change that is in the log.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::LineAdded { line } => {
                self.lines
                    .entry(line.clone())
                    .or_insert_with(|| LineRecord {
                        line: line.clone(),
                        state: PartyState::Enabled,
                        certificates: Vec::new(),
                    });
            }
            Change::LineCertified {
                line, certificate, ..
            } => self.add_certificate(Party::Line(line.clone()), certificate),
            Change::LineDecertified { line, serial } => {
                self.remove_certificate(&Party::Line(line.clone()), *serial);
            }
            Change::LineSet { line, state } => match self.lines.get_mut(line) {
                Some(record) => record.state = *state,
                None => tracing::error!(%line, "the log sets a line that does not exist"),
            },
            Change::OrderOpened { terms } => self.open_order(terms),
            Change::OrderSet { order, state } => match self.orders.get_mut(order) {
                Some(opened) => opened.order.state = *state,
                None => tracing::error!(%order, "the log sets an order that does not exist"),
            },
            // What it leaves stands in the same transaction as figures, which `set_units` brings: counted here
            // too, it would count twice at the next start.
            Change::UnitsReturned { .. } => {}
            Change::ResponderApproved { responder, spki } => {
                let approved = ApprovedResponder {
                    responder: responder.clone(),
                    sha256: DetailHash::of(&spki.0),
                    spki: spki.clone(),
                };
                self.responders.insert(responder.clone(), approved);
            }
            Change::ResponderRevoked { responder } => {
                self.responders.remove(responder);
                self.remove_reader(&Reader {
                    role: Role::Responder,
                    name: responder.clone(),
                });
            }
            Change::ReaderCertified {
                reader,
                certificate,
            } => {
                self.readers
                    .entry(reader.clone())
                    .or_insert_with(|| ReaderRecord {
                        reader: reader.clone(),
                        state: PartyState::Enabled,
                        certificates: Vec::new(),
                    });
                self.decertified.remove(&certificate.serial);
                self.add_certificate(Party::Reader(reader.clone()), certificate);
            }
            Change::ReaderDecertified { reader, serial } => {
                let party = Party::Reader(reader.clone());
                if let Some(certificate) = self.remove_certificate(&party, *serial) {
                    let kept = (reader.clone(), certificate);
                    self.decertified.insert(*serial, kept);
                }
            }
            Change::ReaderSet { reader, state } => match self.readers.get_mut(reader) {
                Some(record) => record.state = *state,
                None => tracing::error!(%reader, "the log sets a reader that does not exist"),
            },
        }
    }

    /// The certificates of somebody, newest last.
    fn certificates_mut(&mut self, party: &Party) -> Option<&mut Vec<PartyCertificate>> {
        match party {
            Party::Line(line) => self
                .lines
                .get_mut(line)
                .map(|record| &mut record.certificates),
            Party::Reader(reader) => self
                .readers
                .get_mut(reader)
                .map(|record| &mut record.certificates),
        }
    }

    /// Lets a certificate authenticate somebody.
    fn add_certificate(&mut self, party: Party, certificate: &PartyCertificate) {
        if self.state_of(&party).is_none() {
            tracing::error!(%party, "the log certifies somebody who does not exist");
            return;
        }
        let known = Known {
            party: party.clone(),
            certificate: certificate.clone(),
        };
        let before = self.certificates.insert(certificate.sha256.0, known);
        if let Some(list) = self.certificates_mut(&party).filter(|_| before.is_none()) {
            list.push(certificate.clone());
        }
    }

    /// Ends what a certificate authenticates; gives it back, if it did.
    fn remove_certificate(
        &mut self,
        party: &Party,
        serial: SerialNumber,
    ) -> Option<PartyCertificate> {
        self.certificates
            .retain(|_, known| known.party != *party || known.certificate.serial != serial);
        let list = self.certificates_mut(party)?;
        let at = list.iter().position(|it| it.serial == serial)?;
        Some(list.remove(at))
    }

    /// Ends everything that a reader's certificates authenticate, also what a release could bring back.
    fn remove_reader(&mut self, reader: &Reader) {
        self.readers.remove(reader);
        let gone = Party::Reader(reader.clone());
        self.certificates.retain(|_, known| known.party != gone);
        self.decertified.retain(|_, (of, _)| of != reader);
    }

    /// Adds an order with no unit taken.
    fn open_order(&mut self, terms: &OrderTerms) {
        let pattern = DeviceIdPattern::compile(&terms.device_id_pattern)
            .inspect_err(|problem| {
                tracing::error!(order = %terms.order, problem, "the order's pattern matches nothing");
            })
            .ok();
        self.orders
            .entry(terms.order.clone())
            .or_insert_with(|| OpenedOrder {
                order: Order {
                    terms: terms.clone(),
                    state: OrderState::Open,
                    used: 0,
                    unresolved: 0,
                    held: 0,
                },
                pattern,
            });
    }

    /// Sets the figures of an order.
    pub(super) fn set_units(&mut self, order: &Slug, units: Units) {
        let Units {
            used,
            unresolved,
            held,
        } = units;
        if let Some(opened) = self.orders.get_mut(order) {
            opened.order.used = used;
            opened.order.unresolved = unresolved;
            opened.order.held = held;
        }
    }

    /// All approved responders by name.
    pub(super) fn responders(&self) -> Vec<ApprovedResponder> {
        self.responders.values().cloned().collect()
    }

    /// One approved responder.
    pub(super) fn responder(&self, responder: &Slug) -> Option<ApprovedResponder> {
        self.responders.get(responder).cloned()
    }

    /// One line.
    pub(super) fn line(&self, line: &Slug) -> Option<LineRecord> {
        self.lines.get(line).cloned()
    }

    /// Whether a line may ask.
    pub(super) fn line_state(&self, line: &Slug) -> Option<PartyState> {
        self.lines.get(line).map(|record| record.state)
    }

    /// Whom a certificate authenticates.
    fn party_of(&self, serial: SerialNumber) -> Option<&Party> {
        let known = self.certificates.values();
        let mut found = known.filter(|known| known.certificate.serial == serial);
        found.next().map(|known| &known.party)
    }

    /// The line that a certificate authenticates.
    pub(super) fn line_of(&self, serial: SerialNumber) -> Option<Slug> {
        match self.party_of(serial)? {
            Party::Line(line) => Some(line.clone()),
            Party::Reader(_) => None,
        }
    }

    /// The reader that a certificate authenticates.
    pub(super) fn reader_of(&self, serial: SerialNumber) -> Option<Reader> {
        match self.party_of(serial)? {
            Party::Line(_) => None,
            Party::Reader(reader) => Some(reader.clone()),
        }
    }

    /// The reader that a certificate authenticated until it was revoked.
    pub(super) fn decertified(&self, serial: SerialNumber) -> Option<(Reader, PartyCertificate)> {
        self.decertified.get(&serial).cloned()
    }

    /// One reader.
    pub(super) fn reader(&self, reader: &Reader) -> Option<ReaderRecord> {
        self.readers.get(reader).cloned()
    }

    /// All readers by role and name.
    pub(super) fn readers(&self) -> Vec<ReaderRecord> {
        self.readers.values().cloned().collect()
    }

    /// All lines by name.
    pub(super) fn lines(&self) -> Vec<LineRecord> {
        self.lines.values().cloned().collect()
    }

    /// One order.
    pub(super) fn order(&self, order: &Slug) -> Option<Order> {
        self.orders.get(order).map(|opened| opened.order.clone())
    }

    /// All orders by name.
    pub(super) fn orders(&self) -> Vec<Order> {
        self.orders
            .values()
            .map(|opened| opened.order.clone())
            .collect()
    }
}

impl PartyCertificate {
    /// Refuses a certificate outside its validity.
    fn valid(&self, now: UnixMillis) -> Result<(), Refused> {
        // Both ends are inclusive and whole seconds (RFC 5280, 4.1.2.5).
        let validity = self.not_before.seconds()..=self.not_after.seconds();
        if validity.contains(&now.seconds()) {
            return Ok(());
        }
        Err(Refused::OutsideValidity {
            not_before: self.not_before,
            not_after: self.not_after,
            now,
        })
    }
}

/// Whether an order has so many units to give back.
fn admit_return(order: &Order, units: u64) -> Result<(), ChangeRefused> {
    let name = &order.terms.order;
    match order.held {
        _ if units == 0 => Err(value("units", "give back at least 1")),
        0 => Err(value(
            "units",
            &format!("the order {name} holds none: there is nothing to give back"),
        )),
        held if units > held => Err(value(
            "units",
            &format!("the order {name} holds {held}: give back no more than these"),
        )),
        _ => Ok(()),
    }
}

/// A refused value of a change.
fn value(key: &'static str, problem: &str) -> ChangeRefused {
    ChangeRefused::Value {
        key,
        problem: problem.to_owned(),
    }
}

/// A name from a URL as an error may repeat it: printable and no longer than a real one.
fn shown(name: &str) -> String {
    let printable = name.chars().filter(|c| c.is_ascii_graphic());
    printable.take(DEVICE_ID_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
