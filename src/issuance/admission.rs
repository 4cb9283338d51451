//! Admission: how much an issuer may be asked to sign at a time, and which line may ask for how much of it.
//!
//! Owns the count of signatures that lines wait for, by issuer. Promises that what was admitted waits for its
//! token no longer than [`limits::TOKEN_BACKLOG`] at the rate at which the issuer has signed lately, that no line
//! takes all of it, and that a line which holds nothing finds a place. Never logs and never signs: it stands before
//! the intent, so that a crowd leaves nothing in the log. Failure story: who waited in vain is told when to come back.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certstatus::log::entry::Slug;
use tokio::time::{Instant, sleep};

use super::IssueError;
use crate::limits;

/// The pause of a request that waits for its admission: shorter than most tokens take to sign.
const PAUSE: Duration = Duration::from_millis(20);

/// The time in work after which the rate is looked at anew: some signatures of a slow token.
const WINDOW: Duration = Duration::from_millis(500);

/// What a signature is taken to need of the token before any was made: no token is much slower.
const EACH_AT_FIRST: Duration = Duration::from_millis(250);

/// An issuer's admission; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    state: Arc<Mutex<State>>,
}

/// A signature that may be asked for; dropping it says that nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Admission,
    line: Slug,
    signed: bool,
}

/// What is asked of the issuer.
#[derive(Debug)]
struct State {
    /// Signatures that each line waits for; none is 0.
    held: HashMap<Slug, usize>,
    /// All of them.
    all: usize,
    /// How long the issuer takes from one signature to the next while somebody waits.
    each: Duration,
    /// Up to when `busy` is counted.
    since: Instant,
    /// The time since the rate was looked at in which somebody waited.
    busy: Duration,
    /// The signatures since then.
    signed: u32,
}

impl Admission {
    /// Nothing asked for, nothing known.
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                held: HashMap::new(),
                all: 0,
                each: EACH_AT_FIRST,
                since: Instant::now(),
                busy: Duration::ZERO,
                signed: 0,
            })),
        }
    }

    /// Waits for a while until the line may ask for one more signature.
    ///
    /// # Errors
    /// [`IssueError::Crowded`]: the line comes back later.
    pub(super) async fn admit(&self, line: &Slug) -> Result<Admitted, IssueError> {
        let until = Instant::now() + limits::ADMISSION_WAIT;
        loop {
            let now = Instant::now();
            let retry_after = match self.state().enter(line, now) {
                Ok(()) => break,
                Err(retry_after) => retry_after,
            };
            if now >= until {
                return Err(IssueError::Crowded { retry_after });
            }
            sleep(PAUSE).await;
        }
        Ok(Admitted {
            admission: self.clone(),
            line: line.clone(),
            signed: false,
        })
    }

    /// The counts; a panic cannot leave them half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted {
    /// The signature was made: it counts for the rate.
    pub(super) fn signed(mut self) {
        self.signed = true;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.admission.state();
        state.leave(&self.line, self.signed, Instant::now());
    }
}

impl State {
    /// Counts one more for a line, or tells when the line's own share may have been signed.
    fn enter(&mut self, line: &Slug, now: Instant) -> Result<(), Duration> {
        let own = self.held.get(line).copied().unwrap_or_default();
        // A line may hold as much as is free beside all: alone it gets half, with each other one less, and who holds
        // nothing finds a place.
        if own >= self.room().saturating_sub(self.all) {
            let ahead = u32::try_from(own).unwrap_or(u32::MAX);
            return Err(self.each.saturating_mul(ahead));
        }
        if self.all == 0 {
            self.since = now;
        }
        self.all += 1;
        *self.held.entry(line.clone()).or_default() += 1;
        Ok(())
    }

    /// Signatures that the issuer can make within the backlog; at least two, so that the rate can be learnt anew.
    fn room(&self) -> usize {
        let each = self.each.as_micros().max(1);
        let room = limits::TOKEN_BACKLOG.as_micros() / each;
        usize::try_from(room).unwrap_or(usize::MAX).max(2)
    }

    /// Counts one less for a line.
    fn leave(&mut self, line: &Slug, signed: bool, now: Instant) {
        self.busy += now.saturating_duration_since(self.since);
        self.since = now;
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.held.get_mut(line) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.held.remove(line);
            }
        }
        // What was refused at once says nothing on the token.
        if signed {
            self.signed = self.signed.saturating_add(1);
            if self.busy >= WINDOW {
                self.each = (self.each + self.busy / self.signed) / 2;
                (self.busy, self.signed) = (Duration::ZERO, 0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line.
    fn line(name: &str) -> Slug {
        name.parse().unwrap()
    }

    /// An issuer that takes so long for each signature.
    fn issuer(each: Duration) -> State {
        let admission = Admission::new();
        let mut state = Arc::try_unwrap(admission.state)
            .unwrap()
            .into_inner()
            .unwrap();
        state.each = each;
        state
    }

    /// How many more a line may ask for.
    fn admitted(state: &mut State, name: &str) -> usize {
        let (line, now) = (line(name), Instant::now());
        std::iter::from_fn(|| state.enter(&line, now).ok()).count()
    }

    #[test]
    fn no_line_takes_all_and_who_has_nothing_finds_a_place() {
        let room = 100;
        let mut state = issuer(limits::TOKEN_BACKLOG / room);
        let shares = ["a", "b", "c", "d"].map(|name| admitted(&mut state, name));
        assert_eq!(shares, [50, 25, 13, 6]);
        assert!(state.all < 100, "there is room for more lines");
        for _ in 0..30 {
            state.leave(&line("a"), true, Instant::now());
        }
        assert_eq!(
            admitted(&mut state, "a"),
            8,
            "and it goes on with as much as is fair now"
        );
        let wait = state.enter(&line("a"), Instant::now()).unwrap_err();
        assert_eq!(
            wait,
            limits::TOKEN_BACKLOG / room * 28,
            "the time for its own"
        );
    }

    #[test]
    fn what_is_admitted_follows_what_the_token_does() {
        for each in [400, 77, 3].map(Duration::from_millis) {
            let mut state = issuer(EACH_AT_FIRST);
            let (busy, mut now) = (line("busy"), Instant::now());
            assert_eq!(state.enter(&busy, now), Ok(()));
            for _ in 0..4000 {
                assert_eq!(state.enter(&busy, now), Ok(()));
                now += each;
                state.leave(&busy, true, now);
            }
            state.leave(&busy, true, now);
            let whole = each * u32::try_from(state.room()).unwrap();
            let backlog = limits::TOKEN_BACKLOG;
            assert!(
                whole <= backlog + each && whole >= backlog * 9 / 10,
                "{each:?}: {whole:?}"
            );
            assert!((state.all, state.held.len()) == (0, 0));
        }
    }

    #[test]
    fn idle_time_and_refusals_say_nothing_on_the_token() {
        let mut state = issuer(Duration::from_millis(10));
        let (quiet, mut now) = (line("quiet"), Instant::now());
        for signed in [true, false].repeat(500) {
            now += Duration::from_secs(60);
            assert_eq!(state.enter(&quiet, now), Ok(()));
            // A refusal takes no time of the token.
            now += Duration::from_millis(if signed { 10 } else { 0 });
            state.leave(&quiet, signed, now);
        }
        assert_eq!(state.each, Duration::from_millis(10));
    }

    #[test]
    fn a_token_that_stood_still_is_tried_again() {
        let mut state = issuer(limits::TOKEN_BACKLOG * 100);
        assert_eq!(["a", "b"].map(|name| admitted(&mut state, name)), [1, 1]);
        let mut now = Instant::now();
        for _ in 0..4000 {
            now += Duration::from_millis(5);
            state.leave(&line("a"), true, now);
            assert_eq!(state.enter(&line("a"), now), Ok(()));
        }
        assert!(state.room() > 1000, "{}", state.room());
    }

    #[tokio::test]
    async fn a_place_comes_back_however_the_work_ends() {
        let admission = Admission::new();
        let one = admission.admit(&line("a")).await.unwrap();
        let other = admission.admit(&line("a")).await.unwrap();
        assert_eq!(admission.state().all, 2);
        one.signed();
        drop(other);
        let state = admission.state();
        assert_eq!((state.all, state.held.len(), state.signed), (0, 0, 1));
    }
}
