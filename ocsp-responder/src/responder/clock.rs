//! The clock of the responder: the only place here that reads the time.
//!
//! Owns [`Clock`]. Promises two times at once: the date, which may jump, and a steady one, which does not; who measures
//! an age takes the worse of the two. Never fails: a date before 1970 reads as 1970, which makes every view too new to
//! be old and the steady time decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::UnixMillis;

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The date.
    pub date: UnixMillis,
    /// Milliseconds since the clock was made; never goes back.
    pub steady: u64,
}

/// Tells the time: the system's, or one that a test moves.
#[derive(Clone, Debug)]
pub struct Clock(Source);

/// Where the time comes from.
#[derive(Clone, Debug)]
enum Source {
    System(Instant),
    Fixed(Arc<[AtomicU64; 2]>),
}

impl Clock {
    /// The system's clocks.
    #[expect(
        clippy::disallowed_methods,
        reason = "the responder's one look at the steady clock; its tests give a clock of their own"
    )]
    #[must_use]
    pub fn system() -> Self {
        Self(Source::System(Instant::now()))
    }

    /// A clock that stands still until it is moved.
    #[must_use]
    pub fn fixed(date: UnixMillis) -> Self {
        let both = [AtomicU64::new(date.0), AtomicU64::new(0)];
        Self(Source::Fixed(Arc::new(both)))
    }

    /// Lets time pass on a fixed clock; a system clock stays as it is.
    pub fn pass(&self, time: Duration) {
        if let Source::Fixed(both) = &self.0 {
            let millis = millis(time);
            both.iter().for_each(|clock| {
                clock.fetch_add(millis, Ordering::SeqCst);
            });
        }
    }

    /// Sets the date of a fixed clock, as an operator or a broken time server does.
    pub fn jump(&self, date: UnixMillis) {
        if let Source::Fixed(both) = &self.0 {
            let [at, _] = &**both;
            at.store(date.0, Ordering::SeqCst);
        }
    }

    /// The time, to the millisecond.
    #[must_use]
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock"
    )]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Source::System(begun) => {
                let since = std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default();
                Moment {
                    date: UnixMillis(millis(since)),
                    steady: millis(begun.elapsed()),
                }
            }
            Source::Fixed(both) => {
                let [date, steady] = &**both;
                Moment {
                    date: UnixMillis(date.load(Ordering::SeqCst)),
                    steady: steady.load(Ordering::SeqCst),
                }
            }
        }
    }
}

/// A duration in milliseconds, as long as there are.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fixed_clock_passes_and_jumps() {
        let clock = Clock::fixed(UnixMillis(5_000));
        clock.clone().pass(Duration::from_secs(2));
        clock.jump(UnixMillis(1_000));
        let moment = clock.now();
        assert_eq!((moment.date.0, moment.steady), (1_000, 2_000));
    }

    #[test]
    fn the_system_clock_is_after_2025_and_steady() {
        let clock = Clock::system();
        let [now, later] = [clock.now(), clock.now()];
        assert!(now.date > UnixMillis::from_seconds(1_735_689_600));
        assert!(
            now.steady <= later.steady && later.steady < now.date.0,
            "since it was made"
        );
    }
}
