//! The registry's maps and every rule on them, without locks.
//!
//! Owns lines, their certificates, orders and approved responders as they stand in memory. Promises that a change which
//! [`State::admit`] accepts is applied by [`State::apply`] without loss. Failure story: `apply` never fails;
//! a change that does not fit what stands is logged and left out, which can only refuse more.

use std::collections::{BTreeMap, HashMap};

use certstatus::log::entry::Slug;
use certstatus::log::{Base64, DetailHash};
use certstatus::signature::PublicKey;
use certstatus::{SerialNumber, UnixMillis};

use super::pattern::{DeviceIdPattern, is_device_id};
use super::{
    ApprovedResponder, Change, ChangeRefused, Grant, GrantKind, Line, LineCertificate, LineRecord,
    LineState, Order, OrderState, OrderTerms, Refused, Units,
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

/// Lines, certificates, orders and responders as they stand.
#[derive(Default)]
pub(super) struct State {
    lines: BTreeMap<Slug, LineRecord>,
    certificates: HashMap<[u8; 32], Known>,
    orders: BTreeMap<Slug, OpenedOrder>,
    responders: BTreeMap<Slug, ApprovedResponder>,
}

/// A certificate that authenticates a line.
struct Known {
    line: Slug,
    certificate: LineCertificate,
}

/// An order with its compiled pattern; one that does not compile any more matches nothing.
struct OpenedOrder {
    order: Order,
    pattern: Option<DeviceIdPattern>,
}

impl State {
    /// Judges a peer certificate by its SHA-256.
    pub(super) fn authenticate(
        &self,
        peer: Option<&DetailHash>,
        now: UnixMillis,
    ) -> Result<Line, Refused> {
        let digest = peer.ok_or(Refused::NoCertificate)?;
        let known = self.certificates.get(&digest.0);
        let Known { line, certificate } = known.ok_or(Refused::UnknownCertificate)?;
        certificate.valid(now)?;
        match self.lines.get(line).map(|record| record.state) {
            Some(LineState::Enabled) => Ok(Line {
                name: line.clone(),
                serial: certificate.serial,
            }),
            Some(LineState::Disabled) => Err(Refused::LineDisabled(line.clone())),
            None => Err(Refused::UnknownCertificate),
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
            let current = |c: &&LineCertificate| now <= c.not_after;
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
                self.admit_certificate(line, certificate)?;
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

    /// Whether a certificate can be added to a line.
    fn admit_certificate(
        &self,
        line: &Slug,
        certificate: &LineCertificate,
    ) -> Result<(), ChangeRefused> {
        self.existing_line(line)?;
        if self.certificates.contains_key(&certificate.sha256.0) {
            let serial = certificate.serial;
            return Err(ChangeRefused::Exists(format!(
                "the line certificate {serial}"
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
    ) -> Result<&LineCertificate, Refused> {
        let Some(record) = self.lines.get(line) else {
            return Err(Refused::UnknownCertificate);
        };
        if record.state == LineState::Disabled {
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
                        state: LineState::Enabled,
                        certificates: Vec::new(),
                    });
            }
            Change::LineCertified {
                line, certificate, ..
            } => self.add_certificate(line, certificate),
            Change::LineDecertified { line, serial } => self.remove_certificate(line, *serial),
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
            }
        }
    }

    /// Lets a certificate authenticate its line.
    fn add_certificate(&mut self, line: &Slug, certificate: &LineCertificate) {
        let Some(record) = self.lines.get_mut(line) else {
            tracing::error!(%line, "the log certifies a line that does not exist");
            return;
        };
        let known = Known {
            line: line.clone(),
            certificate: certificate.clone(),
        };
        if self
            .certificates
            .insert(certificate.sha256.0, known)
            .is_none()
        {
            record.certificates.push(certificate.clone());
        }
    }

    /// Ends what a certificate authenticates.
    fn remove_certificate(&mut self, line: &Slug, serial: SerialNumber) {
        self.certificates
            .retain(|_, known| known.line != *line || known.certificate.serial != serial);
        if let Some(record) = self.lines.get_mut(line) {
            record.certificates.retain(|c| c.serial != serial);
        }
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
    pub(super) fn line_state(&self, line: &Slug) -> Option<LineState> {
        self.lines.get(line).map(|record| record.state)
    }

    /// The line that a certificate authenticates.
    pub(super) fn line_of(&self, serial: SerialNumber) -> Option<Slug> {
        let known = self.certificates.values();
        let mut found = known.filter(|known| known.certificate.serial == serial);
        found.next().map(|known| known.line.clone())
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

impl LineCertificate {
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
