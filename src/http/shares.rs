//! Places that are shared out: nobody takes them all.
//!
//! Owns the counting of places by who holds them. Promises that a place comes back when it is dropped, that
//! no holder has more than its share, and that a holder's count costs no memory once it holds nothing. Never
//! decides what a place is for. Failure story: none; who finds no place is told so.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits;

/// So many places, of which each holder may have a share; clones share them.
#[derive(Debug)]
pub(crate) struct Shares<K: Eq + Hash> {
    inner: Arc<Inner<K>>,
}

/// The shared parts.
#[derive(Debug)]
struct Inner<K> {
    all: Arc<Semaphore>,
    count: usize,
    share: usize,
    held: Mutex<HashMap<K, usize>>,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place<K: Eq + Hash> {
    shares: Shares<K>,
    holder: K,
    _permit: OwnedSemaphorePermit,
}

impl<K: Eq + Hash> Clone for Shares<K> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { inner }
    }
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// So many places, and so many of them for one holder.
    pub(crate) fn new(count: usize, share: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                all: Arc::new(Semaphore::new(count)),
                count,
                share,
                held: Mutex::default(),
            }),
        }
    }

    /// A place for this holder; `None` when all places or its own share are taken.
    pub(crate) fn take(&self, holder: &K) -> Option<Place<K>> {
        let mut held = self.held();
        let own = held.get(holder).copied().unwrap_or_default();
        if own >= self.inner.share {
            return None;
        }
        let permit = Arc::clone(&self.inner.all).try_acquire_owned().ok()?;
        held.insert(holder.clone(), own + 1);
        Some(Place {
            shares: self.clone(),
            holder: holder.clone(),
            _permit: permit,
        })
    }

    /// Waits until no place is taken.
    pub(crate) async fn drained(&self) {
        let count = u32::try_from(self.inner.count).unwrap_or(u32::MAX);
        // An error is a closed semaphore, and this one is never closed.
        let _all = self.inner.all.acquire_many(count).await;
    }

    /// Places that are taken.
    pub(crate) fn taken(&self) -> usize {
        let free = self.inner.all.available_permits();
        self.inner.count.saturating_sub(free)
    }
}

impl<K: Eq + Hash> Shares<K> {
    /// The counts; a panic cannot leave them half changed.
    fn held(&self) -> MutexGuard<'_, HashMap<K, usize>> {
        let held = &self.inner.held;
        held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash> Drop for Place<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held();
        if let Some(own) = held.get_mut(&self.holder) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                held.remove(&self.holder);
            }
        }
    }
}

/// Where a connection comes from, as far as one sender can choose it: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(IpAddr);

impl Origin {
    /// Of a peer's address.
    pub(crate) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(six) => {
                let network = u128::from(six) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            four @ IpAddr::V4(_) => four,
        })
    }
}

/// The places of connections that have not proved to be a line's; clones share them.
///
/// A connection over its origin's share waits: a thousand stations behind one gateway may come at once.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// All that came in and are no line's, those that wait too.
    knocking: Shares<Origin>,
    all: Arc<Semaphore>,
    by_origin: Arc<Mutex<HashMap<Origin, Arc<Semaphore>>>>,
}

/// Leave to stand at the door: to wait for [`Door::enter`].
#[derive(Debug)]
pub(crate) struct Knock {
    door: Door,
    place: Place<Origin>,
    /// The origin's places; `None` only in the drop.
    own: Option<Arc<Semaphore>>,
}

/// A place for a handshake or a stranger.
#[derive(Debug)]
pub(crate) struct Visit {
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _knock: Knock,
}

impl Door {
    /// With the places that `limits` gives.
    pub(crate) fn new() -> Self {
        Self {
            knocking: Shares::new(limits::KNOCKING_MAX, limits::KNOCKING_PER_ORIGIN_MAX),
            all: Arc::new(Semaphore::new(limits::STRANGERS_MAX)),
            by_origin: Arc::default(),
        }
    }

    /// Leave to wait; `None` when too many wait, of this origin or of all: then the connection is dropped.
    pub(crate) fn knock(&self, origin: Origin) -> Option<Knock> {
        let place = self.knocking.take(&origin)?;
        let mut by_origin = self.by_origin();
        let own = by_origin
            .entry(origin)
            .or_insert_with(|| Arc::new(Semaphore::new(limits::STRANGERS_PER_ORIGIN_MAX)));
        Some(Knock {
            door: self.clone(),
            place,
            own: Some(Arc::clone(own)),
        })
    }

    /// Waits until nobody is at the door.
    pub(crate) async fn drained(&self) {
        self.knocking.drained().await;
    }

    /// Connections that wait, shake hands or are strangers'.
    pub(crate) fn taken(&self) -> usize {
        self.knocking.taken()
    }

    /// The semaphores by origin; a panic cannot leave them half changed.
    fn by_origin(&self) -> MutexGuard<'_, HashMap<Origin, Arc<Semaphore>>> {
        let by_origin = self.by_origin.lock();
        by_origin.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Knock {
    /// Waits for a place; cancel it when it takes too long.
    pub(crate) async fn enter(self) -> Option<Visit> {
        // The origin's own share first, so that its crowd is not in the queue of all.
        let own = self.own.clone()?.acquire_owned().await.ok()?;
        let all = Arc::clone(&self.door.all).acquire_owned().await.ok()?;
        Some(Visit {
            _all: all,
            _own: own,
            _knock: self,
        })
    }
}

impl Drop for Knock {
    fn drop(&mut self) {
        let mut by_origin = self.door.by_origin();
        // Under the lock, so that the last one of an origin finds the map's alone.
        drop(self.own.take());
        let origin = &self.place.holder;
        if by_origin
            .get(origin)
            .is_some_and(|own| Arc::strong_count(own) == 1)
        {
            by_origin.remove(origin);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[test]
    fn nobody_has_more_than_its_share() {
        let shares = Shares::new(4, 3);
        let mut first: Vec<_> = (0..3).map(|_| shares.take(&"a").unwrap()).collect();
        assert!(shares.take(&"a").is_none(), "its share is taken");
        let second = shares.take(&"b").unwrap();
        assert!(shares.take(&"b").is_none(), "all are taken");
        assert!(shares.take(&"c").is_none(), "all are taken");
        drop(first.pop());
        assert!(shares.take(&"c").is_some());
        drop((first, second));
        assert_eq!(shares.taken(), 0);
        assert!(shares.held().is_empty(), "who holds nothing costs nothing");
    }

    #[test]
    fn an_origin_is_what_a_sender_cannot_vary() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }

    #[tokio::test]
    async fn one_origin_takes_no_place_of_another() {
        let door = Door::new();
        let origin = |last| Origin::of(IpAddr::from([192, 0, 2, last]));
        let mut inside = Vec::new();
        for _ in 0..limits::STRANGERS_PER_ORIGIN_MAX {
            inside.push(door.knock(origin(1)).unwrap().enter().await.unwrap());
        }
        let next = door.knock(origin(1)).unwrap();
        let soon = Duration::from_millis(20);
        assert!(timeout(soon, next.enter()).await.is_err(), "it waits");
        assert!(door.knock(origin(2)).unwrap().enter().await.is_some());
        let waiting: Vec<_> = std::iter::from_fn(|| door.knock(origin(1))).collect();
        assert_eq!(
            waiting.len() + inside.len(),
            limits::KNOCKING_PER_ORIGIN_MAX
        );
        assert!(door.knock(origin(2)).is_some(), "another may still wait");
        drop(waiting);
        inside.pop();
        let entered = door.knock(origin(1)).unwrap().enter().await;
        assert!(entered.is_some(), "a place that came back is given again");
        drop((entered, inside));
        assert_eq!((door.taken(), door.by_origin().len()), (0, 0));
    }
}
