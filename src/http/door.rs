//! The door: connections that have not proved to be a line's or a reader's, and which of them must go when more come.
//!
//! Owns the places of handshakes and strangers. Promises that no origin has more than its share, that whoever comes
//! from an origin that holds less than another gets in at the other's cost, and that the latest origins of each
//! party weigh less than others: connections that do not get on keep nobody else out. Never looks into a connection.
//! Failure story: none; a connection whose place is given away is told so, and one that finds no place too.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::limits;
use crate::ra::Party;

/// What one connection of an origin weighs from which no line or reader has come; one of the others weighs 1.
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

/// The places of connections that are nobody's yet; clones share them.
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
    /// How many each origin holds, of those that hold something.
    origins: HashMap<Origin, usize>,
    /// The origins from which each line and reader came lately, the latest last.
    parties: HashMap<Party, VecDeque<Origin>>,
    /// By how many of them an origin is remembered, of those that are.
    known: HashMap<Origin, usize>,
    /// The next number.
    next: u64,
}

/// A connection at the door.
#[derive(Debug)]
struct Standing {
    origin: Origin,
    since: Instant,
    /// Whether its handshake is over and it was nobody's: it gets one answer, which another may not have to wait for.
    answered: bool,
    /// Dropped when its place is given to another.
    _place: oneshot::Sender<Infallible>,
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

    /// Forgets where those come from of whom this does not hold any more: their origins weigh as any other's.
    pub(crate) fn keep(&self, holds: impl Fn(&Party) -> bool) {
        self.state().keep(holds);
    }

    /// Lines and readers whose origins are remembered.
    #[cfg(test)]
    pub(crate) fn parties(&self) -> usize {
        self.state().parties.len()
    }

    /// Who stands there; a panic cannot leave it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Its handshake is over, and what is left is one answer: it goes before those that still shake hands.
    pub(crate) fn is_answered(&self) {
        if let Some(standing) = self.door.state().guests.get_mut(&self.number) {
            standing.answered = true;
        }
    }

    /// It is this one's: its origin weighs less from now on.
    pub(crate) fn is_known(&self, party: &Party) {
        self.door.state().is_known(self.number, party);
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
        let own = self.origins.get(&origin).copied().unwrap_or_default();
        if own >= limits::DOOR_PER_ORIGIN_MAX {
            self.leave(self.overdue(origin)?);
        } else if self.guests.len() >= limits::DOOR_MAX {
            let gives_way = self.heavier(origin, own);
            self.leave(gives_way.or_else(|| self.overdue(origin))?);
        }
        *self.origins.entry(origin).or_default() += 1;
        let number = self.next;
        self.next += 1;
        let standing = Standing {
            origin,
            since: Instant::now(),
            answered: false,
            _place: place,
        };
        self.guests.insert(number, standing);
        Some(number)
    }

    /// Who of those that match goes first: the oldest that is only answered, then the oldest that shakes hands.
    fn first(&self, matching: impl Fn(&Standing) -> bool) -> Option<u64> {
        let guests = self.guests.iter().filter(|(_, it)| matching(it));
        // By number, and so by age, among equals.
        let first = guests.min_by_key(|(_, it)| !it.answered);
        first.map(|(number, _)| *number)
    }

    /// One of this origin that has been here for too long, whatever it has said meanwhile.
    fn overdue(&self, origin: Origin) -> Option<u64> {
        self.first(|it| it.origin == origin && it.since.elapsed() >= limits::DOOR_PATIENCE)
    }

    /// One of the origins that weigh most, if that is more than this one with so many.
    ///
    /// An origin's only connection goes only where nobody holds several that weigh more than the newcomer will: else
    /// many connections from where lines come would push out the first from elsewhere.
    fn heavier(&self, than: Origin, own: usize) -> Option<u64> {
        let (without, with) = (self.weight(than, own), self.weight(than, own + 1));
        let heaviest = |least| {
            let holding = self.origins.iter().filter(|&(_, &count)| count >= least);
            let weights = holding.map(|(&origin, &count)| self.weight(origin, count));
            weights.max()
        };
        let (least, most) = match heaviest(2).filter(|most| *most > with) {
            Some(most) => (2, most),
            None => (1, heaviest(1).filter(|most| *most > without)?),
        };
        self.first(|it| {
            let count = self.origins.get(&it.origin).copied().unwrap_or_default();
            count >= least && self.weight(it.origin, count) == most
        })
    }

    /// What so many of an origin weigh.
    fn weight(&self, origin: Origin, count: usize) -> usize {
        match self.known.contains_key(&origin) {
            true => count,
            false => count * STRANGER_WEIGHT,
        }
    }

    /// Gives a place back, if it is not another's already.
    fn leave(&mut self, number: u64) {
        if let Some(Standing { origin, .. }) = self.guests.remove(&number) {
            lessen(&mut self.origins, origin);
        }
    }

    /// Remembers where a party comes from, and forgets where it has not come from for the longest time.
    fn is_known(&mut self, number: u64, party: &Party) {
        let Some(&Standing { origin, .. }) = self.guests.get(&number) else {
            return;
        };
        let latest = self.parties.entry(party.clone()).or_default();
        match latest.iter().position(|it| *it == origin) {
            Some(at) => {
                latest.remove(at);
            }
            None => *self.known.entry(origin).or_default() += 1,
        }
        latest.push_back(origin);
        if latest.len() > limits::PARTY_ORIGINS_MAX
            && let Some(longest) = latest.pop_front()
        {
            lessen(&mut self.known, longest);
        }
    }

    /// Forgets those of whom this does not hold.
    fn keep(&mut self, holds: impl Fn(&Party) -> bool) {
        let Self { parties, known, .. } = self;
        parties.retain(|party, origins| {
            let keep = holds(party);
            if !keep {
                origins.drain(..).for_each(|origin| lessen(known, origin));
            }
            keep
        });
    }
}

/// Counts one less of an origin, which costs no memory once there is none.
fn lessen(counts: &mut HashMap<Origin, usize>, origin: Origin) {
    if let Some(count) = counts.get_mut(&origin) {
        *count = count.saturating_sub(1);
        if *count == 0 {
            counts.remove(&origin);
        }
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
    fn crowds_keep_nobody_else_out() {
        let door = Door::new();
        let mut first = crowd(&door, origin(1), limits::DOOR_PER_ORIGIN_MAX);
        let mut second = crowd(&door, origin(2), limits::DOOR_MAX - first.len());
        assert!(door.knock(origin(1)).is_none(), "it has its share");
        assert!(door.knock(origin(2)).is_none(), "it has as much as any");
        first[7].0.is_answered();
        second[7].0.is_answered();
        let mut others = crowd(&door, origin(3), 4);
        let left = [&mut first, &mut second].map(|crowd| {
            let gone = crowd.iter_mut().map(gone).collect::<Vec<_>>();
            (gone.iter().filter(|gone| **gone).count(), gone[7])
        });
        assert_eq!(
            left,
            [(2, true), (2, true)],
            "of each as many, and first those that are only answered"
        );
        assert!(!others.iter_mut().any(gone));
        drop((first, second, others));
        assert_eq!(door.taken(), 0);
        let state = door.state();
        assert!(state.guests.is_empty() && state.origins.is_empty());
    }

    #[test]
    fn whoever_is_here_for_too_long_makes_room_for_its_own_origin() {
        let door = Door::new();
        let mut crowd = crowd(&door, origin(1), limits::DOOR_PER_ORIGIN_MAX);
        for at in [5, 9] {
            let number = crowd[at].0.number;
            if let Some(standing) = door.state().guests.get_mut(&number) {
                standing.since = standing.since.checked_sub(limits::DOOR_PATIENCE).unwrap();
            }
        }
        crowd[1].0.is_answered();
        crowd[9].0.is_answered();
        let _next = door.knock(origin(1)).unwrap();
        assert!(gone(&mut crowd[9]), "a stranger that is only answered");
        let _next = door.knock(origin(1)).unwrap();
        assert!(gone(&mut crowd[5]), "then who still shakes hands");
        assert!(door.knock(origin(1)).is_none(), "the others have just come");
    }

    /// A line of that name.
    fn party(line: &str) -> Party {
        Party::Line(line.parse().unwrap())
    }

    /// Remembers that a line comes from an origin.
    fn comes(door: &Door, line: &str, from: Origin) {
        door.knock(from).unwrap().0.is_known(&party(line));
    }

    #[test]
    fn many_origins_with_one_each_do_not_push_out_those_of_lines() {
        let door = Door::new();
        let lines = origin(9999);
        comes(&door, "one", lines);
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
    fn one_line_s_many_origins_do_not_push_out_a_newcomer() {
        let door = Door::new();
        let all = u16::try_from(limits::DOOR_MAX / 2).unwrap();
        (0..all).for_each(|number| comes(&door, "stolen", origin(number)));
        let mut crowds: Vec<_> = (0..all).map(|at| crowd(&door, origin(at), 2)).collect();
        let mut other = door.knock(origin(9999)).unwrap();
        for at in 0..all {
            crowds.push(door.knock(origin(at)).into_iter().collect());
        }
        assert!(
            !gone(&mut other),
            "it stands there until it has shaken hands"
        );
    }

    #[test]
    fn known_origins_with_several_go_before_the_only_one_of_another() {
        let door = Door::new();
        let lines = (0..limits::DOOR_MAX / 8).map(|at| u16::try_from(at).unwrap());
        for at in lines.clone() {
            comes(&door, &format!("line-{at}"), origin(at));
        }
        comes(&door, "late", origin(9998));
        let mut crowds: Vec<_> = lines.map(|at| crowd(&door, origin(at), 8)).collect();
        let mut other = door.knock(origin(9999)).unwrap();
        let mut more = crowd(&door, origin(9998), 6);
        assert!(!gone(&mut other) && !more.iter_mut().any(gone));
        let gone = crowds.iter_mut().flatten().map(gone).filter(|gone| *gone);
        assert_eq!(gone.count(), 7, "who had one too many gave it up");
    }

    #[test]
    fn the_origins_of_a_line_are_bounded_and_end_with_it() {
        let door = Door::new();
        let most = u16::try_from(limits::PARTY_ORIGINS_MAX).unwrap();
        (0..most).for_each(|number| comes(&door, "one", origin(number)));
        comes(&door, "two", origin(1));
        comes(&door, "one", origin(0));
        comes(&door, "one", origin(most));
        let known = |number| door.state().known.contains_key(&origin(number));
        assert!(known(0) && known(most), "they came lately");
        assert!(
            known(1) && !known(17),
            "the longest ago, but for the other line"
        );
        assert_eq!(
            door.state().parties[&party("one")].len(),
            limits::PARTY_ORIGINS_MAX
        );
        comes(&door, "one", origin(most + 1));
        assert!(!known(2), "the next");
        door.keep(|it| *it == party("two"));
        assert_eq!(door.state().known, HashMap::from([(origin(1), 1)]));
        door.keep(|_| false);
        let state = door.state();
        assert!(state.known.is_empty() && state.parties.is_empty());
    }
}
