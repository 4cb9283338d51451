//! The units of orders within a batch: taken by intents, given back by outcomes and by operators.
//!
//! Owns the rules of an order's figures. Promises that a unit is taken and given back exactly once, in the
//! transaction of the entry that says so. Never looks at anything but the registry and the batch so far.
//! Failure story: a unit that cannot be taken refuses its intent, and nothing changes.

use certstatus::log::entry::Slug;
use certstatus::log::{IssuerName, Outcome};

use super::Planner;
use crate::limits;
use crate::ra::{Order, OrderState, Refused};
use crate::signing_log::append::UnitRow;
use crate::signing_log::error::IntentRefused;

impl Planner<'_> {
    /// Takes a unit of an order: line and its certificate, state, dates, units left.
    pub(super) fn take_unit(
        &mut self,
        unit: &UnitRow,
        issuer: &IssuerName,
    ) -> Result<(), IntentRefused> {
        let now = self.now;
        let name = &unit.order;
        let no_order = || IntentRefused::Order(Refused::NoOrder(name.to_string()));
        let (line, certificate) = &unit.asked_by;
        // The request may be older than the operator's act.
        let proved = self.view.registry.proves_still(line, *certificate, now);
        proved.map_err(IntentRefused::Order)?;
        let Some(order) = self.order(name) else {
            return Err(no_order());
        };
        let terms = &order.terms;
        if !terms.lines.contains(line) {
            return Err(no_order());
        }
        if terms.issuer != *issuer {
            let problem = "it is of another issuer than its order";
            return Err(IntentRefused::Object { problem });
        }
        let refused = if order.state != OrderState::Open {
            Refused::OrderClosed(name.clone())
        } else if now < terms.from || now >= terms.until {
            Refused::OutsideDates {
                order: name.clone(),
                from: terms.from,
                until: terms.until,
                now,
            }
        } else if order.used >= terms.quantity {
            Refused::UsedUp {
                order: name.clone(),
                quantity: terms.quantity,
            }
        } else {
            order.used += 1;
            let units = order.units();
            self.plan.units.insert(name.clone(), units);
            return Ok(());
        };
        Err(IntentRefused::Order(refused))
    }

    /// An order as the batch leaves it so far.
    fn order(&mut self, name: &Slug) -> Option<&mut Order> {
        if !self.orders.contains_key(name) {
            let order = self.view.registry.order(name)?;
            self.orders.insert(name.clone(), order);
        }
        self.orders.get_mut(name)
    }

    /// Gives a unit back as the rules say: an abandoned one always, of the unresolved ones the first few; the
    /// others are held.
    pub(super) fn return_unit(&mut self, name: &Slug, outcome: Outcome) {
        let Some(order) = self.order(name) else {
            return;
        };
        match outcome {
            Outcome::Issued { .. } => return,
            Outcome::Abandoned => order.used = order.used.saturating_sub(1),
            Outcome::Unresolved { .. } => {
                order.unresolved = order.unresolved.saturating_add(1);
                if order.unresolved <= limits::UNRESOLVED_RETURNED_MAX {
                    order.used = order.used.saturating_sub(1);
                } else {
                    order.held = order.held.saturating_add(1);
                }
            }
        }
        let units = order.units();
        self.plan.units.insert(name.clone(), units);
    }

    /// Gives held units back, as many as an operator's act that was admitted says.
    pub(super) fn give_back(&mut self, name: &Slug, count: u64) {
        let Some(order) = self.order(name) else {
            return;
        };
        order.held = order.held.saturating_sub(count);
        order.used = order.used.saturating_sub(count);
        let units = order.units();
        self.plan.units.insert(name.clone(), units);
    }
}
