//! A map that puts the oldest out when it is full.
//!
//! Owns the weights and the order. Promises that the weights of what it holds never exceed its bound, and that its queue
//! is at most about twice as long as its map. What it holds has one life, so the oldest is the first that is of no use.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// A value with what it weighs and its number in the queue.
#[derive(Debug)]
struct Held<V> {
    value: V,
    weight: usize,
    number: u64,
}

/// The map.
#[derive(Debug)]
pub struct Bounded<K, V> {
    map: HashMap<K, Held<V>>,
    queue: VecDeque<(u64, K)>,
    weight: usize,
    bound: usize,
    next: u64,
}

impl<K: Eq + Hash + Clone, V> Bounded<K, V> {
    /// With room for this weight.
    pub fn new(bound: usize) -> Self {
        Self {
            map: HashMap::new(),
            queue: VecDeque::new(),
            weight: 0,
            bound,
            next: 0,
        }
    }

    /// Entries.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Their weight.
    pub const fn weight(&self) -> usize {
        self.weight
    }

    /// The value of a key.
    pub fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.map.get(key).map(|held| &held.value)
    }

    /// Takes a value out.
    pub fn take(&mut self, key: &K) -> Option<V> {
        let held = self.map.remove(key)?;
        self.weight = self.weight.saturating_sub(held.weight);
        Some(held.value)
    }

    /// Puts a value in as the newest; the oldest ones go as far as it needs room.
    pub fn put(&mut self, key: K, value: V, weight: usize) {
        if weight > self.bound {
            self.take(&key);
            return;
        }
        while self.weight + weight > self.bound
            && let Some((number, oldest)) = self.queue.pop_front()
        {
            // One that was put in anew has a later place in the queue.
            if let Entry::Occupied(held) = self.map.entry(oldest)
                && held.get().number == number
            {
                self.weight = self.weight.saturating_sub(held.remove().weight);
            }
        }
        let number = self.next;
        self.next += 1;
        self.queue.push_back((number, key.clone()));
        self.weight += weight;
        let held = Held {
            value,
            weight,
            number,
        };
        if let Some(before) = self.map.insert(key, held) {
            self.weight = self.weight.saturating_sub(before.weight);
        }
        if self.queue.len() > 2 * self.map.len() + 64 {
            let map = &self.map;
            self.queue
                .retain(|(number, key)| map.get(key).is_some_and(|held| held.number == *number));
        }
    }

    /// Keeps the entries whose keys are wanted.
    pub fn retain(&mut self, mut wanted: impl FnMut(&K) -> bool) {
        let weight = &mut self.weight;
        self.map.retain(|key, held| {
            let stays = wanted(key);
            if !stays {
                *weight = weight.saturating_sub(held.weight);
            }
            stays
        });
        let map = &self.map;
        self.queue
            .retain(|(number, key)| map.get(key).is_some_and(|held| held.number == *number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_first() {
        let mut map = Bounded::new(10);
        for key in 0..5 {
            map.put(key, key, 2);
        }
        map.put(0, 10, 2);
        map.put(5, 5, 3);
        assert_eq!(
            (map.get(&1), map.get(&2), map.get(&0)),
            (None, None, Some(&10))
        );
        assert_eq!((map.len(), map.weight()), (4, 9));
        map.put(6, 6, 11);
        assert_eq!(
            map.get(&6),
            None,
            "what does not fit at all puts nothing out"
        );
        assert_eq!(map.len(), 4);
        map.retain(|key| *key != 5);
        assert_eq!((map.len(), map.weight(), map.queue.len()), (3, 6, 3));
    }

    #[test]
    fn the_queue_stays_short() {
        let mut map = Bounded::new(1000);
        for round in 0..10_000 {
            map.put(round % 7, round, 1);
            map.take(&(round % 3));
        }
        assert!(map.queue.len() <= 2 * map.len() + 65, "{}", map.queue.len());
        assert_eq!(map.weight(), map.len());
    }
}
