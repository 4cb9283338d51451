//! Places that are shared out: nobody takes them all.
//!
//! Owns the counting of places by who holds them. Promises that a place comes back when it is dropped, that
//! no holder has more than its share, and that a holder's count costs no memory once it holds nothing. Never
//! decides what a place is for. Failure story: none; who finds no place is told so.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

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

impl<K: Eq + Hash> Place<K> {
    /// Whose place it is.
    pub(crate) const fn holder(&self) -> &K {
        &self.holder
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

#[cfg(test)]
mod tests {
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
}
