//! The door: connections that have not proved to be a line's, and which of them must go when more come.
//!
//! Owns the places of handshakes and strangers. Promises that no origin has more than its share, that whoever comes
//! from an origin that holds less than another gets in at the other's cost, and that origins from which a line
//! has come weigh less than others: silent connections keep nobody else out. Never looks into a connection.
//! Failure story: none; a connection whose place is given away is told so, and one that finds no place too.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::limits;

/// What one connection of an origin weighs from which no line has come; one of the others weighs 1.
const STRANGER_WEIGHT: usize = 16;

/// Where a connection comes from, as far as one sender can choose it: an address, or the /64 of an IPv6 address of
/// another network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Of a peer's address, on a connection to this address of ours.
    ///
    /// In our own network all stations share a /64, so that there each address counts by itself.
    pub(crate) fn of(peer: IpAddr, ours: IpAddr) -> Self {
        let network = |six: Ipv6Addr| u128::from(six) & !u128::from(u64::MAX);
        Self(match (peer.to_canonical(), ours.to_canonical()) {
            (IpAddr::V6(peer), IpAddr::V6(ours)) if network(peer) == network(ours) => peer.into(),
            (IpAddr::V6(peer), _) => Ipv6Addr::from(network(peer)).into(),
            (four, _) => four,
        })
    }
}

/// The places of connections that are no line's yet; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    state: Arc<Mutex<State>>,
    /// Connections that have not ended, those too whose place is another's already.
    open: watch::Sender<usize>,
}

/// A place at the door; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Guest {
    door: Door,
    number: u64,
}

/// Word that a guest's place is another's.
#[derive(Debug)]
pub(crate) struct MustGo(oneshot::Receiver<Infallible>);

/// Who stands at the door.
#[derive(Debug, Default)]
struct State {
    /// By number: oldest first.
    guests: BTreeMap<u64, Standing>,
    /// Origins that hold something.
    origins: HashMap<Origin, Held>,
    /// Origins from which lines came lately, with the number of the guest that last proved to be one.
    lines: HashMap<Origin, u64>,
    /// The next number.
    next: u64,
}

/// A connection at the door.
#[derive(Debug)]
struct Standing {
    origin: Origin,
    since: Instant,
    /// Whether its first byte has not come yet.
    silent: bool,
    /// Dropped when its place is given to another.
    _place: oneshot::Sender<Infallible>,
}

/// What an origin holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    count: usize,
    /// What each weighs.
    each: usize,
}

impl Door {
    /// With the places that `limits` gives.
    pub(crate) fn new() -> Self {
        Self {
            state: Arc::default(),
            open: watch::Sender::default(),
        }
    }

    /// A place; `None` when there is none and nobody must go for this origin.
    pub(crate) fn knock(&self, origin: Origin) -> Option<(Guest, MustGo)> {
        let (place, gone) = oneshot::channel();
        let number = self.state().enter(origin, place)?;
        self.open.send_modify(|open| *open += 1);
        let door = self.clone();
        Some((Guest { door, number }, MustGo(gone)))
    }

    /// Waits until nobody is at the door.
    pub(crate) async fn drained(&self) {
        // An error is a sender that is gone, and this one is ours.
        let mut open = self.open.subscribe();
        let _none = open.wait_for(|open| *open == 0).await;
    }

    /// Connections that are silent, shake hands or are strangers'.
    pub(crate) fn taken(&self) -> usize {
        *self.open.borrow()
    }

    /// Who stands there; a panic cannot leave it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Its first byte has come: those that are silent go before it.
    pub(crate) fn spoke(&self) {
        if let Some(standing) = self.door.state().guests.get_mut(&self.number) {
            standing.silent = false;
        }
    }

    /// It is a line's: its origin weighs less from now on.
    pub(crate) fn is_line(&self) {
        self.door.state().is_line(self.number);
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.door.state().leave(self.number);
        let open = &self.door.open;
        open.send_modify(|open| *open = open.saturating_sub(1));
    }
}

impl MustGo {
    /// Waits for it: then the connection must be dropped.
    pub(crate) async fn told(self) {
        // An error is what we wait for: nothing is ever sent.
        let _dropped = self.0.await;
    }
}

impl State {
    /// Takes a place for a connection, which may be another's until now.
    fn enter(&mut self, origin: Origin, place: oneshot::Sender<Infallible>) -> Option<u64> {
        let each = match self.lines.contains_key(&origin) {
            true => 1,
            false => STRANGER_WEIGHT,
        };
        let own = self.origins.get(&origin).copied();
        let own = own.unwrap_or(Held { count: 0, each });
        if own.count >= limits::DOOR_PER_ORIGIN_MAX {
            self.leave(self.overdue(origin)?);
        } else if self.guests.len() >= limits::DOOR_MAX {
            self.leave(self.heavier(own).or_else(|| self.overdue(origin))?);
        }
        let held = self.origins.entry(origin);
        held.or_insert(Held { count: 0, each }).count += 1;
        let number = self.next;
        self.next += 1;
        let standing = Standing {
            origin,
            since: Instant::now(),
            silent: true,
            _place: place,
        };
        self.guests.insert(number, standing);
        Some(number)
    }

    /// The oldest of those that match.
    fn oldest(&self, mut matching: impl FnMut(&Standing) -> bool) -> Option<u64> {
        let mut guests = self.guests.iter();
        let found = guests.find(|(_, standing)| matching(standing));
        found.map(|(number, _)| *number)
    }

    /// One of this origin that has been silent for too long.
    fn overdue(&self, origin: Origin) -> Option<u64> {
        self.oldest(|it| {
            it.origin == origin && it.silent && it.since.elapsed() >= limits::SILENCE_MAX
        })
    }

    /// One of the origins that weigh most, if that is more than this: a silent one where there is one.
    fn heavier(&self, than: Held) -> Option<u64> {
        let most = self.origins.values().map(Held::weight).max()?;
        if most <= than.weight() {
            return None;
        }
        let weighs_most = |it: &Standing| {
            let held = self.origins.get(&it.origin);
            held.is_some_and(|held| held.weight() == most)
        };
        self.oldest(|it| it.silent && weighs_most(it))
            .or_else(|| self.oldest(weighs_most))
    }

    /// Gives a place back, if it is not another's already.
    fn leave(&mut self, number: u64) {
        let Some(Standing { origin, .. }) = self.guests.remove(&number) else {
            return;
        };
        if let Some(held) = self.origins.get_mut(&origin) {
            held.count = held.count.saturating_sub(1);
            if held.count == 0 {
                self.origins.remove(&origin);
            }
        }
    }

    /// Remembers where a line comes from, and forgets where none has come from for the longest time.
    fn is_line(&mut self, number: u64) {
        let Some(&Standing { origin, .. }) = self.guests.get(&number) else {
            return;
        };
        if let Some(held) = self.origins.get_mut(&origin) {
            held.each = 1;
        }
        self.lines.insert(origin, number);
        if self.lines.len() > limits::LINE_ORIGINS_MAX
            && let Some((&longest, _)) = self.lines.iter().min_by_key(|(_, number)| **number)
        {
            self.lines.remove(&longest);
        }
    }
}

impl Held {
    /// What it weighs in all.
    const fn weight(&self) -> usize {
        self.count * self.each
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An origin in another network.
    fn origin(number: u16) -> Origin {
        let [high, low] = number.to_be_bytes();
        let ours = IpAddr::from([192, 0, 2, 1]);
        Origin::of(IpAddr::from([10, 0, high, low]), ours)
    }

    /// So many of an origin.
    fn crowd(door: &Door, origin: Origin, count: usize) -> Vec<(Guest, MustGo)> {
        let guests = std::iter::from_fn(|| door.knock(origin)).take(count);
        let guests: Vec<_> = guests.collect();
        assert_eq!(guests.len(), count);
        guests
    }

    /// Whether a guest's place is another's.
    fn gone((_, MustGo(gone)): &mut (Guest, MustGo)) -> bool {
        gone.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn an_origin_is_what_a_sender_cannot_vary() {
        let origin =
            |peer: &str, ours: &str| Origin::of(peer.parse().unwrap(), ours.parse().unwrap());
        let far = |peer| origin(peer, "2001:db8:9::1");
        assert_eq!(far("192.0.2.1"), far("::ffff:192.0.2.1"));
        assert_ne!(far("192.0.2.1"), far("192.0.2.2"));
        assert_eq!(far("2001:db8::1"), far("2001:db8::ffff:1"));
        assert_ne!(far("2001:db8::1"), far("2001:db8:0:1::1"));
        // In our own network each station has an address of its own, and so has an attacker among them.
        let near = |peer| origin(peer, "2001:db8::99");
        assert_ne!(near("2001:db8::1"), near("2001:db8::2"));
        assert_ne!(origin("fe80::1", "fe80::9"), origin("fe80::2", "fe80::9"));
    }

    #[test]
    fn silent_crowds_keep_nobody_else_out() {
        let door = Door::new();
        let mut first = crowd(&door, origin(1), limits::DOOR_PER_ORIGIN_MAX);
        let mut second = crowd(&door, origin(2), limits::DOOR_MAX - first.len());
        assert!(door.knock(origin(1)).is_none(), "it has its share");
        assert!(door.knock(origin(2)).is_none(), "it has as much as any");
        first[0].0.spoke();
        second[0].0.spoke();
        let mut others = crowd(&door, origin(3), 4);
        let left = [&mut first, &mut second].map(|crowd| {
            let gone = crowd.iter_mut().map(gone).collect::<Vec<_>>();
            (gone.iter().filter(|gone| **gone).count(), gone[0])
        });
        assert_eq!(
            left,
            [(2, false), (2, false)],
            "of each as many, and silent ones"
        );
        assert!(!others.iter_mut().any(gone));
        drop((first, second, others));
        assert_eq!(door.taken(), 0);
        let state = door.state();
        assert!(state.guests.is_empty() && state.origins.is_empty());
    }

    #[test]
    fn whoever_is_silent_for_too_long_makes_room_for_its_own_origin() {
        let door = Door::new();
        let mut crowd = crowd(&door, origin(1), limits::DOOR_PER_ORIGIN_MAX);
        let number = crowd[5].0.number;
        if let Some(standing) = door.state().guests.get_mut(&number) {
            standing.since = standing.since.checked_sub(limits::SILENCE_MAX).unwrap();
        }
        let next = door.knock(origin(1));
        assert!(next.is_some() && gone(&mut crowd[5]));
        assert!(door.knock(origin(1)).is_none(), "the others have just come");
    }

    #[test]
    fn many_origins_with_one_each_do_not_push_out_those_of_lines() {
        let door = Door::new();
        let lines = origin(9999);
        crowd(&door, lines, 1)[0].0.is_line();
        let mut stations = crowd(&door, lines, 10);
        let mut kept = Vec::new();
        for number in 0..u16::try_from(2 * limits::DOOR_MAX).unwrap() {
            kept.push(door.knock(origin(number)).unwrap());
        }
        assert!(
            !stations.iter_mut().any(gone),
            "strangers push out strangers"
        );
        assert!(gone(&mut kept[0]) && !gone(&mut kept[2 * limits::DOOR_MAX - 1]));
    }

    #[test]
    fn the_origins_of_lines_are_bounded() {
        let door = Door::new();
        let most = u16::try_from(limits::LINE_ORIGINS_MAX).unwrap();
        for number in 0..=most {
            door.knock(origin(number)).unwrap().0.is_line();
        }
        let state = door.state();
        assert_eq!(state.lines.len(), limits::LINE_ORIGINS_MAX);
        assert!(!state.lines.contains_key(&origin(0)), "the longest ago");
    }
}
