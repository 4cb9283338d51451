//! Places for connections, shared out: nobody takes them all.
//!
//! Owns the counting of open connections by where they come from. Promises that a place comes back when it is dropped,
//! that no origin has more than its share, and that an origin's count costs no memory once it holds nothing. Failure
//! story: none; who finds no place is told so.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Where a connection comes from, as far as one sender can choose it: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin(IpAddr);

impl Origin {
    /// Of a peer's address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(six) => {
                let network = u128::from(six) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
            four @ IpAddr::V4(_) => four,
        })
    }
}

/// What is taken.
#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_origin: HashMap<Origin, usize>,
}

/// So many places, of which each origin may have a share; clones share them.
#[derive(Clone, Debug)]
pub struct Shares(Arc<Inner>);

/// The shared parts.
#[derive(Debug)]
struct Inner {
    count: usize,
    share: usize,
    taken: Mutex<Taken>,
    empty: Notify,
}

/// A place; dropping it gives it back.
#[derive(Debug)]
pub struct Place {
    shares: Shares,
    origin: Origin,
}

impl Shares {
    /// So many places, and so many of them for one origin.
    pub fn new(count: usize, share: usize) -> Self {
        Self(Arc::new(Inner {
            count,
            share,
            taken: Mutex::default(),
            empty: Notify::new(),
        }))
    }

    /// What is taken; a panic cannot leave it half changed.
    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place; `None` when all of them or the origin's own are taken.
    pub fn take(&self, origin: Origin) -> Option<Place> {
        let mut taken = self.lock();
        let own = taken.by_origin.get(&origin).copied().unwrap_or_default();
        if taken.all >= self.0.count || own >= self.0.share {
            return None;
        }
        taken.all += 1;
        taken.by_origin.insert(origin, own + 1);
        drop(taken);
        Some(Place {
            shares: self.clone(),
            origin,
        })
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.lock().all
    }

    /// Waits until no place is taken.
    pub async fn drained(&self) {
        loop {
            let empty = self.0.empty.notified();
            if self.taken() == 0 {
                return;
            }
            empty.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.by_origin.get_mut(&self.origin) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.by_origin.remove(&self.origin);
            }
        }
        if taken.all == 0 {
            self.shares.0.empty.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    #[tokio::test]
    async fn nobody_has_more_than_its_share() {
        let shares = Shares::new(4, 3);
        let (a, b, c) = (
            origin("192.0.2.1"),
            origin("192.0.2.2"),
            origin("192.0.2.3"),
        );
        let mut first: Vec<_> = (0..3).map(|_| shares.take(a).unwrap()).collect();
        assert!(shares.take(a).is_none(), "its share is taken");
        let second = shares.take(b).unwrap();
        assert!(shares.take(b).is_none(), "all are taken");
        drop(first.pop());
        assert!(shares.take(c).is_some());
        drop(first);
        assert_eq!(shares.taken(), 1);
        let waiting = tokio::spawn({
            let shares = shares.clone();
            async move { shares.drained().await }
        });
        tokio::task::yield_now().await;
        drop(second);
        waiting.await.unwrap();
        assert!(
            shares.lock().by_origin.is_empty(),
            "who holds nothing costs nothing"
        );
    }

    #[test]
    fn an_origin_is_what_a_sender_cannot_vary() {
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }
}
