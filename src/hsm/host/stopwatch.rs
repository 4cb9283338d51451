//! Monotonic time in the worker, in milliseconds since it started.
//!
//! Owns [`Stopwatch`]: the one place of the worker that reads a clock, and it is not the wall's. Deadlines
//! are differences of its readings, so a changed system time cannot end or prolong one.

use std::time::{Duration, Instant};

/// Tells the time since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Starts at 0.
    #[expect(
        clippy::disallowed_methods,
        reason = "monotonic, for deadlines only; the wall clock is crate::time's"
    )]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn read(self) -> Duration {
        self.0.elapsed()
    }
}
