//! How many signatures an origin has made for it.
//!
//! Owns the count. Promises that an origin which asks for what nobody has asked for before takes so many signatures a
//! second and no more, however it connects; that the count takes no lock and its memory is fixed, whoever asks. What is
//! kept costs nobody anything. Failure story: two origins in some ten thousand share a count, and so a limit; which ones
//! nobody can choose, since the hash has a secret.

use std::hash::{BuildHasher as _, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::clock::Moment;
use super::shares::Origin;

/// Counts: 128 KiB.
const SLOTS: usize = 16 * 1024;

/// What an origin may take at once: what it did not take for so long.
const SAVED_MAX: Duration = Duration::from_secs(2);

/// Counts signatures by where they are asked from.
#[derive(Debug)]
pub struct Signatures {
    /// The time that a signature takes of an origin's, in nanoseconds; 0 without a limit.
    each: u64,
    hasher: RandomState,
    /// By the steady clock, in nanoseconds: when an origin has paid for what it got (the generic cell rate algorithm).
    paid_at: Vec<AtomicU64>,
}

impl Signatures {
    /// So many a second for each origin; as many as it asks for where there is no limit.
    pub fn new(per_second: Option<NonZeroU32>) -> Self {
        let each = per_second.map_or(0, |count| 1_000_000_000 / u64::from(count.get()));
        let slots = if each == 0 { 0 } else { SLOTS };
        Self {
            each,
            hasher: RandomState::new(),
            paid_at: (0..slots).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Whether an origin may have one more now; it is counted.
    pub fn take(&self, origin: Origin, now: Moment) -> bool {
        let slot = self.hasher.hash_one(origin) % SLOTS as u64;
        let slot = usize::try_from(slot).unwrap_or_default();
        let Some(paid_at) = self.paid_at.get(slot) else {
            return true;
        };
        let now = now.steady.saturating_mul(1_000_000);
        let saved = u64::try_from(SAVED_MAX.as_nanos()).unwrap_or(u64::MAX);
        let taken = paid_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |paid_at| {
            let next = paid_at.max(now).saturating_add(self.each);
            (next <= now.saturating_add(saved)).then_some(next)
        });
        taken.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::Clock;
    use super::*;
    use crate::UnixMillis;

    fn origin(text: &str) -> Origin {
        Origin::of(text.parse().unwrap())
    }

    #[test]
    fn an_origin_gets_its_rate() {
        let clock = Clock::fixed(UnixMillis(0));
        let signatures = Signatures::new(NonZeroU32::new(100));
        // One whose count is another one.
        let slot = |text: &str| signatures.hasher.hash_one(origin(text)) % SLOTS as u64;
        let mut others = (1..=255).map(|n| format!("192.0.2.{n}"));
        let greedy = "198.51.100.1";
        let other = others.find(|other| slot(other) != slot(greedy)).unwrap();
        let take = |from: &str| {
            let taken = (0..1000).filter(|_| signatures.take(origin(from), clock.now()));
            taken.count()
        };
        assert_eq!(take(greedy), 200, "what it has saved");
        assert_eq!(take(&other), 200, "and the other one its own");
        for _ in 0..3 {
            clock.pass(Duration::from_secs(1));
            assert_eq!(take(greedy), 100);
        }
        clock.jump(UnixMillis(1_000_000));
        assert_eq!(take(greedy), 0, "dates do not matter");
        clock.pass(Duration::from_secs(3600));
        assert_eq!(take(greedy), 200, "it saves no more than that");
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let signatures = Signatures::new(None);
        let now = Clock::fixed(UnixMillis(0)).now();
        assert!((0..100_000).all(|_| signatures.take(origin("192.0.2.1"), now)));
        assert!(signatures.paid_at.is_empty());
    }
}
