//! Counts the units of orders that unresolved certificates hold, and those that operators gave back.
//!
//! Owns the rule that no more units are given back than were held. Promises to refuse nothing that an honest log
//! can say, whatever details are erased: a certificate of an unknown order may have been of any. Never counts
//! how many units an order has. Failure story: [`Cause::UnitsNotHeld`] at the entry that gives too many back.

use std::collections::BTreeMap;

use super::fault::Cause;
use crate::log::{UNRESOLVED_RETURNED_MAX, UnitsReturned};

/// The figures of all orders.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// Unresolved certificates of each order.
    unresolved: BTreeMap<String, u64>,
    /// Unresolved certificates whose order is not known, because the intent's detail is erased.
    of_any: u64,
    /// Units given back by operators.
    returned: BTreeMap<String, u64>,
}

impl Units {
    /// Takes in an unresolved certificate of an order, or of a unit of no order.
    pub(super) fn unresolved(&mut self, order: Option<&String>) {
        if let Some(order) = order {
            *self.unresolved.entry(order.clone()).or_default() += 1;
        }
    }

    /// Takes in an unresolved certificate of which nobody knows the order any more.
    pub(super) const fn unresolved_of_any(&mut self) {
        self.of_any += 1;
    }

    /// Takes in what an operator gave back.
    pub(super) fn give_back(&mut self, act: UnitsReturned) -> Result<(), Cause> {
        let UnitsReturned { order, units } = act;
        let unresolved = self.unresolved.get(&order).copied().unwrap_or_default() + self.of_any;
        let returned = self.returned.entry(order.clone()).or_default();
        let held = unresolved
            .saturating_sub(u64::from(UNRESOLVED_RETURNED_MAX))
            .saturating_sub(*returned);
        if units > held {
            return Err(Cause::UnitsNotHeld { order, units, held });
        }
        *returned += units;
        Ok(())
    }

    /// What operators gave back, by order.
    pub(super) const fn returned(&self) -> &BTreeMap<String, u64> {
        &self.returned
    }
}
