//! What is known of the CRLs: for `status` and `/metrics`.
//!
//! Owns the last word of each keeper. Promises nothing about files: that is the keepers' part. Never fails.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use certstatus::UnixMillis;
use certstatus::log::IssuerName;

use super::Published;

/// The state of all CRLs; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Board {
    states: Arc<Mutex<BTreeMap<(IssuerName, u32), CrlState>>>,
}

/// The state of one CRL.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct CrlState {
    /// Whose.
    pub issuer: IssuerName,
    /// 0 for the full CRL, else the partition.
    pub partition: u32,
    /// The number of the published one, if there is one.
    pub number: Option<u64>,
    /// How many certificates it lists, where it was made since the start.
    pub listed: Option<usize>,
    /// When it was made.
    pub this_update: Option<UnixMillis>,
    /// When it ends.
    pub next_update: Option<UnixMillis>,
    /// Why there is no newer one though there should be; none when there need not be.
    pub problem: Option<String>,
}

impl Board {
    /// Everything, by issuer and partition.
    #[must_use]
    pub fn states(&self) -> Vec<CrlState> {
        self.lock().values().cloned().collect()
    }

    /// Tells what is published.
    pub(super) fn publish(&self, issuer: &IssuerName, partition: u32, head: Option<&Published>) {
        let state = CrlState {
            issuer: issuer.clone(),
            partition,
            number: head.map(|head| head.number),
            listed: head.and_then(|head| head.listed),
            this_update: head.map(|head| head.this_update),
            next_update: head.map(|head| head.next_update),
            problem: None,
        };
        self.lock().insert((issuer.clone(), partition), state);
    }

    /// Tells why an issuer's CRLs are not renewed, or that nothing is in the way any more.
    pub(super) fn trouble(&self, issuer: &IssuerName, problem: Option<&str>) {
        let mut states = self.lock();
        let all = states.iter_mut().filter(|((of, _), _)| of == issuer);
        for (_, state) in all {
            state.problem = problem.map(str::to_owned);
        }
    }

    /// The states; no panic can leave them half changed.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(IssuerName, u32), CrlState>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_is_its_issuers_and_ends_with_a_new_crl() {
        let board = Board::default();
        let (one, other): (IssuerName, IssuerName) = ("a".parse().unwrap(), "b".parse().unwrap());
        for (issuer, partition) in [(&one, 0), (&one, 1), (&other, 0)] {
            board.publish(issuer, partition, None);
        }
        board.trouble(&one, Some("no token"));
        let troubled = |board: &Board| {
            let states = board.states().into_iter();
            states.filter(|state| state.problem.is_some()).count()
        };
        assert_eq!(troubled(&board), 2);
        let head = Published {
            number: 7,
            this_update: UnixMillis(1),
            next_update: UnixMillis(2),
            covered: 3,
            listed: Some(4),
        };
        board.publish(&one, 1, Some(&head));
        assert_eq!(troubled(&board), 1);
        let state = &board.states()[1];
        assert_eq!((state.number, state.listed), (Some(7), Some(4)));
        board.trouble(&one, None);
        assert_eq!(troubled(&board), 0);
    }
}
