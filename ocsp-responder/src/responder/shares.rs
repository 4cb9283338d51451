//! Places for connections, shared out: nobody takes them all, and nobody keeps them from others.
//!
//! Owns the counting of open connections by where they come from. Promises that a place comes back when it is dropped,
//! that no origin has more than its share, that when all places are taken an origin with few of them still gets another,
//! and that an origin's count costs no memory once it holds nothing. Failure story: none; who finds no place is told so.
//!
//! When all are taken, the origin that has most gives up its oldest for one that has fewer, by two at least: so both do not
//! push each other out in turn. Whoever gives up is given a moment to end; at most an eighth of all places is on its way
//! out at a time, beside those that stay.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// Where a connection comes from, as far as one sender can choose it: an IPv4 address or an IPv6 /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(IpAddr);

impl Origin {
    /// Of a peer's address.
    pub fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(six) => IpAddr::V6(network(six, 64)),
            four @ IpAddr::V4(_) => four,
        })
    }

    /// What many senders of one customer have in common: an IPv6 /48.
    fn site(self) -> Option<Ipv6Addr> {
        match self.0 {
            IpAddr::V6(six) => Some(network(six, 48)),
            IpAddr::V4(_) => None,
        }
    }
}

/// The network of an address that has so many bits, at least one.
fn network(address: Ipv6Addr, bits: u32) -> Ipv6Addr {
    Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - bits)))
}

/// What is taken.
#[derive(Debug, Default)]
struct Taken {
    /// Places whose holders stay.
    staying: usize,
    /// Holders that are on their way out; they have no place any more.
    leaving: usize,
    /// The number of the next place: the lowest one is the oldest.
    next: u64,
    /// The places of each origin, each with the way to tell its holder to go.
    by_origin: HashMap<Origin, BTreeMap<u64, oneshot::Sender<()>>>,
    /// Origins by how many they have.
    ranks: BTreeSet<(usize, Origin)>,
    by_site: HashMap<Ipv6Addr, usize>,
}

impl Taken {
    /// Places of an origin.
    fn own(&self, origin: Origin) -> usize {
        self.by_origin.get(&origin).map_or(0, BTreeMap::len)
    }

    /// Places of the site that an origin is of.
    fn of_site(&self, origin: Origin) -> usize {
        let site = origin.site().and_then(|site| self.by_site.get(&site));
        site.copied().unwrap_or_default()
    }

    /// Takes a place: its number, and how its holder is told to go.
    fn put(&mut self, origin: Origin) -> (u64, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        self.staying += 1;
        let own = self.by_origin.entry(origin).or_default();
        own.insert(number, tell);
        let own = own.len();
        self.ranks.remove(&(own - 1, origin));
        self.ranks.insert((own, origin));
        if let Some(site) = origin.site() {
            *self.by_site.entry(site).or_default() += 1;
        }
        (number, told)
    }

    /// Gives a place back; `None` when its holder has given it up already.
    fn remove(&mut self, origin: Origin, number: u64) -> Option<oneshot::Sender<()>> {
        let own = self.by_origin.get_mut(&origin)?;
        let tell = own.remove(&number)?;
        let own = own.len();
        self.staying = self.staying.saturating_sub(1);
        self.ranks.remove(&(own + 1, origin));
        if own == 0 {
            self.by_origin.remove(&origin);
        } else {
            self.ranks.insert((own, origin));
        }
        if let Some(site) = origin.site()
            && let Some(of_site) = self.by_site.get_mut(&site)
        {
            *of_site = of_site.saturating_sub(1);
            if *of_site == 0 {
                self.by_site.remove(&site);
            }
        }
        Some(tell)
    }

    /// Has the origin that has most give up its oldest place for one that has so many; whether it did.
    fn make_room(&mut self, own: usize) -> bool {
        let Some((most, origin)) = self.ranks.last().copied() else {
            return false;
        };
        let places = self.by_origin.get(&origin);
        let oldest = places.and_then(|places| places.keys().next().copied());
        if let Some(oldest) = oldest.filter(|_| most >= own + 2)
            && let Some(tell) = self.remove(origin, oldest)
        {
            self.leaving += 1;
            // A holder that hears it no more is going already.
            let _ = tell.send(());
            return true;
        }
        false
    }
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
    number: u64,
    told: oneshot::Receiver<()>,
    /// Whether another had to give up its own for this one.
    pub made_room: bool,
}

impl Place {
    /// Waits until its holder has to give it up; wait for it once.
    pub async fn given_up(&mut self) {
        if (&mut self.told).await.is_err() {
            // Nobody can tell any more, so nobody will.
            std::future::pending().await
        }
    }
}

/// How many may be on their way out beside so many that stay.
pub const fn leaving_max(count: usize) -> usize {
    if count < 8 { 1 } else { count / 8 }
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

    /// A place; `None` when the origin's own, half of all those of its site, or all of them are taken and nobody gives one
    /// up for it.
    pub fn take(&self, origin: Origin) -> Option<Place> {
        let Inner { count, share, .. } = *self.0;
        let mut taken = self.lock();
        let own = taken.own(origin);
        if own >= share || taken.of_site(origin) >= share.max(count / 2) {
            return None;
        }
        let full = taken.staying >= count;
        if full && (taken.leaving >= leaving_max(count) || !taken.make_room(own)) {
            return None;
        }
        let (number, told) = taken.put(origin);
        drop(taken);
        Some(Place {
            shares: self.clone(),
            origin,
            number,
            told,
            made_room: full,
        })
    }

    /// Places that are taken, and holders that are on their way out.
    pub fn taken(&self) -> usize {
        let taken = self.lock();
        taken.staying + taken.leaving
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
        if taken.remove(self.origin, self.number).is_none() {
            taken.leaving = taken.leaving.saturating_sub(1);
        }
        if taken.staying + taken.leaving == 0 {
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

    /// Whether the holder was told to go.
    fn is_told(place: &mut Place) -> bool {
        place.told.try_recv().is_ok()
    }

    fn take(shares: &Shares, from: &str, count: usize) -> Vec<Place> {
        (0..count)
            .map(|_| shares.take(origin(from)).unwrap())
            .collect()
    }

    #[tokio::test]
    async fn nobody_has_more_than_its_share() {
        let shares = Shares::new(4, 2);
        let mut first = take(&shares, "192.0.2.1", 2);
        assert!(
            shares.take(origin("192.0.2.1")).is_none(),
            "its share is taken"
        );
        let second = take(&shares, "192.0.2.2", 2);
        drop(first.pop());
        assert!(shares.take(origin("192.0.2.3")).is_some());
        drop(first);
        assert_eq!(shares.taken(), 2);
        let waiting = tokio::spawn({
            let shares = shares.clone();
            async move { shares.drained().await }
        });
        tokio::task::yield_now().await;
        drop(second);
        waiting.await.unwrap();
        let taken = shares.lock();
        assert!(
            taken.by_origin.is_empty() && taken.ranks.is_empty() && taken.by_site.is_empty(),
            "who holds nothing costs nothing"
        );
    }

    #[test]
    fn who_has_most_gives_up_its_oldest() {
        let shares = Shares::new(16, 8);
        let mut most = take(&shares, "192.0.2.1", 8);
        let mut many = take(&shares, "192.0.2.2", 7);
        let mut one = take(&shares, "192.0.2.3", 1);
        let new = shares.take(origin("192.0.2.4")).unwrap();
        assert!(new.made_room && is_told(&mut most[0]) && !is_told(&mut most[1]));
        assert_eq!(shares.taken(), 17, "one of them is on its way out");
        // Seven and seven: the later address of the two, which is as good as the other.
        let newer = shares.take(origin("192.0.2.4")).unwrap();
        let told: Vec<bool> = most.iter_mut().chain(&mut many).map(is_told).collect();
        assert_eq!(told.iter().filter(|told| **told).count(), 1);
        assert!(!is_told(&mut one[0]), "who has few keeps them");
        // Two are on their way out, an eighth of sixteen: nobody else is sent off until one of them is gone.
        assert!(shares.take(origin("192.0.2.5")).is_none());
        drop(most.remove(0));
        let newest = shares.take(origin("192.0.2.5")).unwrap();
        drop((new, newer, newest, most, many, one));
        assert_eq!(shares.taken(), 0);
        assert!(shares.lock().ranks.is_empty());
    }

    #[test]
    fn those_that_have_as_many_do_not_push_each_other_out() {
        let shares = Shares::new(4, 4);
        let mut both = take(&shares, "192.0.2.1", 2);
        both.extend(take(&shares, "192.0.2.2", 2));
        assert!(shares.take(origin("192.0.2.1")).is_none(), "as many");
        let _third = shares.take(origin("192.0.2.3")).unwrap();
        let told = both.iter_mut().map(is_told);
        assert_eq!(told.filter(|told| *told).count(), 1);
        drop(both);
        let shares = Shares::new(2, 2);
        let one = take(&shares, "192.0.2.1", 1);
        let two = take(&shares, "192.0.2.2", 1);
        assert!(shares.take(origin("192.0.2.3")).is_none(), "each has one");
        drop((one, two));
    }

    #[test]
    fn a_site_has_half_at_most() {
        let shares = Shares::new(8, 2);
        let mut held = Vec::new();
        for network in 0..2 {
            held.extend(take(&shares, &format!("2001:db8:1:{network}::1"), 2));
        }
        assert!(shares.take(origin("2001:db8:1:9::1")).is_none());
        assert!(shares.take(origin("2001:db8:2:9::1")).is_some());
        held.pop();
        assert!(shares.take(origin("2001:db8:1:9::1")).is_some());
        drop(held);
        assert!(shares.lock().by_site.is_empty());
    }

    #[test]
    fn an_origin_is_what_a_sender_cannot_vary() {
        assert_eq!(origin("192.0.2.1"), origin("::ffff:192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
        assert_eq!(origin("2001:db8::1"), origin("2001:db8::ffff:1"));
        assert_ne!(origin("2001:db8::1"), origin("2001:db8:0:1::1"));
    }
}
