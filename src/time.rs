//! The clock: the only place that reads the time.
//!
//! Owns [`Clock`]. `main` makes a system clock, tests a fixed one; nothing else asks the system.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use certstatus::UnixMillis;

/// Tells the time: the system's, or a fixed one that a test moves.
#[derive(Clone, Debug)]
pub struct Clock(Source);

/// Where the time comes from.
#[derive(Clone, Debug)]
enum Source {
    System,
    Fixed(Arc<AtomicU64>),
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands still until [`Self::set`].
    #[must_use]
    pub fn fixed(now: UnixMillis) -> Self {
        Self(Source::Fixed(Arc::new(AtomicU64::new(now.0))))
    }

    /// Moves a fixed clock; a system clock stays as it is.
    pub fn set(&self, now: UnixMillis) {
        if let Source::Fixed(at) = &self.0 {
            at.store(now.0, Ordering::SeqCst);
        }
    }

    /// The time, to the millisecond.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn now(&self) -> UnixMillis {
        match &self.0 {
            Source::System => {
                // A clock before 1970 reads as 1970; the log's monotonic check then refuses to go on.
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                UnixMillis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Source::Fixed(at) => UnixMillis(at.load(Ordering::SeqCst)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_stands_and_is_moved() {
        let clock = Clock::fixed(UnixMillis(5));
        let same = clock.clone();
        clock.set(UnixMillis(9));
        assert_eq!(same.now(), UnixMillis(9));
    }

    #[test]
    fn the_system_clock_is_after_2025() {
        assert!(Clock::system().now() > UnixMillis::from_seconds(1_735_689_600));
    }
}
