//! Admission: how much a token may be asked to sign at a time, and which line may ask for how much of it.
//!
//! Owns the count of signatures that lines wait for, and the queues of those that wait to be counted. Promises that what
//! was admitted waits for its token no longer than [`limits::TOKEN_BACKLOG`] at the rate at which it has signed lately, that no
//! line takes all of it, and that a free place goes to the line that holds least, in turn among equals, however many
//! requests each has waiting. Never logs and never signs: it stands before the intent, so that a crowd leaves nothing in the
//! log. Failure story: who waited in vain is told when to come back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certstatus::log::entry::Slug;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::IssueError;
use crate::limits;
use crate::ra::Grant;

/// The time in work after which the rate is looked at anew: some signatures of a slow token.
const WINDOW: Duration = Duration::from_millis(500);

/// What a signature is taken to need of the token before any was made: no token is much slower.
const EACH_AT_FIRST: Duration = Duration::from_millis(250);

/// The most that a signature counts for the rate: beyond it a token stood still, which says nothing on its pace.
const EACH_MAX: Duration = Duration::from_secs(2);

/// The admission of each token by its configured name: one for all its issuers, however often they are loaded.
#[derive(Debug, Default)]
pub(super) struct Admissions(Mutex<HashMap<String, Admission>>);

/// A token's admission; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Admission {
    state: Arc<Mutex<State>>,
}

/// A signature that may be asked for; dropping it says that nobody waits for it any more.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Admission,
    line: Slug,
    since: Instant,
    signed: bool,
}

/// Where a request waits for its admission.
type Turn = oneshot::Sender<Admitted>;

/// What is asked of the token.
#[derive(Debug)]
struct State {
    /// Signatures that each line waits for; none is 0.
    held: HashMap<Slug, usize>,
    /// All of them.
    all: usize,
    /// Requests of each line that are not admitted yet, the oldest first; none is empty.
    waiting: HashMap<Slug, VecDeque<Turn>>,
    /// The lines of these: whose last turn is longest ago comes first.
    turns: VecDeque<Slug>,
    /// How long the token takes from one signature to the next while somebody waits.
    each: Duration,
    /// When it made the last one.
    last: Instant,
    /// The time since the rate was looked at in which signatures were made.
    busy: Duration,
    /// The signatures since then.
    signed: u32,
}

impl Admissions {
    /// Waits until the line that asks may ask the token for one more signature; operators and the appliance do not wait.
    ///
    /// # Errors
    /// [`IssueError::Crowded`]: the line comes back later.
    pub(super) async fn turn(
        &self,
        grant: &Grant,
        token: &str,
    ) -> Result<Option<Admitted>, IssueError> {
        match grant.line() {
            Some(line) => self.of(token).admit(line).await.map(Some),
            None => Ok(None),
        }
    }

    /// A token's.
    fn of(&self, token: &str) -> Admission {
        let mut admissions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let admission = admissions.entry(token.to_owned());
        admission.or_insert_with(Admission::new).clone()
    }
}

impl Admission {
    /// Nothing asked for, nothing known.
    pub(super) fn new() -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                held: HashMap::new(),
                all: 0,
                waiting: HashMap::new(),
                turns: VecDeque::new(),
                each: EACH_AT_FIRST,
                last: Instant::now(),
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
        let (turn, mut admitted) = oneshot::channel();
        self.state().wait(line, turn);
        self.serve();
        if let Ok(Ok(admitted)) = timeout(limits::ADMISSION_WAIT, &mut admitted).await {
            return Ok(admitted);
        }
        admitted.close();
        // It may have come at the last moment.
        if let Ok(admitted) = admitted.try_recv() {
            return Ok(admitted);
        }
        let retry_after = self.state().give_up(line);
        Err(IssueError::Crowded { retry_after })
    }

    /// Gives the free places to those who wait.
    fn serve(&self) {
        loop {
            let next = self.state().next();
            let Some((line, turn)) = next else {
                return;
            };
            let admitted = Admitted {
                admission: self.clone(),
                line,
                since: Instant::now(),
                signed: false,
            };
            // Who has gone meanwhile gives it back by not taking it.
            drop(turn.send(admitted));
        }
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
        let made = self.signed.then_some(self.since);
        let left = |mut state: MutexGuard<'_, State>| state.leave(&self.line, made, Instant::now());
        left(self.admission.state());
        self.admission.serve();
    }
}

impl State {
    /// Queues a request of a line.
    fn wait(&mut self, line: &Slug, turn: Turn) {
        let queue = self.waiting.entry(line.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(line.clone());
        }
        queue.push_back(turn);
    }

    /// Takes the requests of a line out that nobody waits for any more, and tells when its own share may have been signed.
    fn give_up(&mut self, line: &Slug) -> Duration {
        if let Some(queue) = self.waiting.get_mut(line) {
            queue.retain(|turn| !turn.is_closed());
            if queue.is_empty() {
                self.waiting.remove(line);
                self.turns.retain(|waits| waits != line);
            }
        }
        let ahead = u32::try_from(self.own(line)).unwrap_or(u32::MAX);
        self.each.saturating_mul(ahead)
    }

    /// The next request that is admitted, counted already: the oldest of the line that holds least, if it may hold more.
    fn next(&mut self) -> Option<(Slug, Turn)> {
        loop {
            // The first of equals: whose last turn is longest ago.
            let lines = self.turns.iter().enumerate();
            let least = lines.min_by_key(|(_, line)| self.own(line))?;
            let (place, line) = (least.0, least.1.clone());
            // A line may hold as much as is free beside all: alone it gets half, with each other one less, and who
            // holds nothing finds a place.
            if self.own(&line) >= self.room().saturating_sub(self.all) {
                return None;
            }
            self.turns.remove(place);
            let mut queue = self.waiting.remove(&line).unwrap_or_default();
            let next = std::iter::from_fn(|| queue.pop_front()).find(|turn| !turn.is_closed());
            if !queue.is_empty() {
                self.waiting.insert(line.clone(), queue);
                self.turns.push_back(line.clone());
            }
            if let Some(turn) = next {
                self.all += 1;
                *self.held.entry(line.clone()).or_default() += 1;
                return Some((line, turn));
            }
        }
    }

    /// Signatures that a line waits for.
    fn own(&self, line: &Slug) -> usize {
        self.held.get(line).copied().unwrap_or_default()
    }

    /// Signatures that the token can make within the backlog; at least two, so that the rate can be learnt anew.
    fn room(&self) -> usize {
        let each = self.each.as_micros().max(1);
        let room = limits::TOKEN_BACKLOG.as_micros() / each;
        usize::try_from(room).unwrap_or(usize::MAX).max(2)
    }

    /// Counts one less for a line; `made` is when a signature that was made was admitted.
    fn leave(&mut self, line: &Slug, made: Option<Instant>, now: Instant) {
        self.all = self.all.saturating_sub(1);
        if let Some(own) = self.held.get_mut(line) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                self.held.remove(line);
            }
        }
        // What was refused, or failed, says nothing on the token's pace.
        let Some(since) = made else {
            return;
        };
        let took = now.saturating_duration_since(self.last.max(since));
        self.last = self.last.max(now);
        self.busy += took.min(EACH_MAX);
        self.signed = self.signed.saturating_add(1);
        if self.busy >= WINDOW {
            self.each = (self.each + self.busy / self.signed) / 2;
            (self.busy, self.signed) = (Duration::ZERO, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use certstatus::SerialNumber;

    use super::*;
    use crate::ra::{GrantKind, Purpose};

    /// A line.
    fn line(name: &str) -> Slug {
        name.parse().unwrap()
    }

    /// A token that takes so long for each signature.
    fn token(each: Duration) -> State {
        let admission = Admission::new();
        let mut state = Arc::try_unwrap(admission.state)
            .unwrap()
            .into_inner()
            .unwrap();
        state.each = each;
        state
    }

    /// A queue of a line's requests, with those who wait.
    fn queue(state: &mut State, name: &str, count: usize) -> Vec<oneshot::Receiver<Admitted>> {
        let mut waits = |_| {
            let (turn, admitted) = oneshot::channel();
            state.wait(&line(name), turn);
            admitted
        };
        (0..count).map(&mut waits).collect()
    }

    /// Whether a line may ask for one more.
    fn enter(state: &mut State, name: &str) -> bool {
        let _waits = queue(state, name, 1);
        let entered = state.next().is_some();
        if !entered {
            state.waiting.clear();
            state.turns.clear();
        }
        entered
    }

    /// How many more a line may ask for.
    fn admitted(state: &mut State, name: &str) -> usize {
        std::iter::from_fn(|| enter(state, name).then_some(())).count()
    }

    #[tokio::test]
    async fn devices_and_renewals_share_what_a_token_can_sign() {
        let admissions = Admissions::default();
        let certificate = SerialNumber::from_random([1; 16]);
        let renewal = Grant(GrantKind::LineRenewal {
            line: line("a"),
            certificate,
        });
        let unit = Grant(GrantKind::Unit {
            order: line("o"),
            line: line("b"),
            certificate,
            device_id: "d".into(),
        });
        let act = Grant::act("op", Purpose::Line(line("c")));
        let mut held = Vec::new();
        for grant in [&renewal, &unit, &act] {
            held.push(admissions.turn(grant, "token").await.unwrap());
        }
        assert!(held[2].is_none(), "an operator does not wait");
        assert_eq!(admissions.of("token").state().all, 2);
        assert_eq!(admissions.of("other").state().all, 0);
    }

    #[test]
    fn no_line_takes_all_and_who_has_nothing_finds_a_place() {
        let room = 100;
        let mut state = token(limits::TOKEN_BACKLOG / room);
        let shares = ["a", "b", "c", "d"].map(|name| admitted(&mut state, name));
        assert_eq!(shares, [50, 25, 13, 6]);
        assert!(state.all < 100, "there is room for more lines");
        for _ in 0..30 {
            state.leave(&line("a"), None, Instant::now());
        }
        assert_eq!(
            admitted(&mut state, "a"),
            8,
            "and it goes on with as much as is fair now"
        );
        assert_eq!(
            state.give_up(&line("a")),
            limits::TOKEN_BACKLOG / room * 28,
            "the time for its own"
        );
    }

    #[test]
    fn with_more_lines_than_room_each_has_its_turn() {
        let names = ["a", "b", "c", "d", "e", "f"];
        for room in [2, 3, 6] {
            let mut state = token(limits::TOKEN_BACKLOG / room);
            // One line has many requests waiting, and came first.
            let counts = [200, 40, 1, 40, 1, 7];
            let waits = names.iter().zip(counts);
            let _waits: Vec<_> = waits
                .map(|(name, count)| queue(&mut state, name, count))
                .collect();
            let mut order = Vec::new();
            let mut held = VecDeque::new();
            loop {
                while let Some((line, _)) = state.next() {
                    order.push(line.to_string());
                    held.push_back(line);
                }
                assert!(held.len() <= usize::try_from(room).unwrap());
                match held.pop_front() {
                    Some(line) => state.leave(&line, None, Instant::now()),
                    None => break,
                }
            }
            assert_eq!(order.len(), 289, "{room}");
            let mut first = order[..6].to_vec();
            first.sort();
            assert_eq!(first, names, "{room}: each once before any twice");
            // The lines with forty have as much as the one with two hundred, while they wait.
            let of = |name: &str| order[..80].iter().filter(|it| *it == name).count();
            assert!(
                of("a").abs_diff(of("b")) <= 1 && of("b").abs_diff(of("d")) <= 1,
                "{order:?}"
            );
        }
    }

    #[test]
    fn who_has_gone_takes_no_turn() {
        let mut state = token(limits::TOKEN_BACKLOG / 2);
        drop(queue(&mut state, "a", 3));
        let _waits = queue(&mut state, "b", 1);
        assert_eq!(state.next().unwrap().0, line("b"));
        assert!(state.next().is_none() && state.turns.is_empty() && state.waiting.is_empty());
        drop(queue(&mut state, "a", 3));
        let _ = state.give_up(&line("a"));
        assert!(state.turns.is_empty() && state.waiting.is_empty());
    }

    #[test]
    fn what_is_admitted_follows_what_the_token_does() {
        for each in [400, 77, 3].map(Duration::from_millis) {
            let mut state = token(EACH_AT_FIRST);
            let mut now = Instant::now();
            let start = now;
            assert!(enter(&mut state, "busy"));
            for _ in 0..4000 {
                assert!(enter(&mut state, "busy"));
                now += each;
                state.leave(&line("busy"), Some(start), now);
            }
            state.leave(&line("busy"), None, now);
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
    fn idle_time_and_what_was_not_signed_say_nothing_on_the_token() {
        let mut state = token(Duration::from_millis(10));
        let mut now = Instant::now();
        for signed in [true, false].repeat(500) {
            now += Duration::from_secs(60);
            assert!(enter(&mut state, "quiet"));
            let made = signed.then_some(now);
            // What is not signed may fail at once or hang.
            now += Duration::from_millis(if signed { 10 } else { 12_000 });
            state.leave(&line("quiet"), made, now);
        }
        assert_eq!(state.each, Duration::from_millis(10));
    }

    #[test]
    fn a_hang_does_not_make_a_token_slow() {
        let mut state = token(Duration::from_millis(10));
        let before = Instant::now();
        assert!(enter(&mut state, "a") && enter(&mut state, "a"));
        // One fails after a long time, and one is made by the next worker.
        let now = before + Duration::from_secs(14);
        state.leave(&line("a"), None, now);
        state.leave(&line("a"), Some(before), now);
        assert!(state.each <= EACH_MAX && state.room() >= 5, "{state:?}");
    }

    #[test]
    fn a_token_that_stood_still_is_tried_again() {
        let mut state = token(limits::TOKEN_BACKLOG * 100);
        assert_eq!(["a", "b"].map(|name| admitted(&mut state, name)), [1, 1]);
        let mut now = Instant::now();
        let start = now;
        for _ in 0..4000 {
            now += Duration::from_millis(5);
            state.leave(&line("a"), Some(start), now);
            assert!(enter(&mut state, "a"));
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

    #[tokio::test]
    async fn a_place_that_comes_back_wakes_who_waits() {
        let admission = Admission::new();
        admission.state().each = limits::TOKEN_BACKLOG;
        let one = admission.admit(&line("a")).await.unwrap();
        let other = admission.admit(&line("b")).await.unwrap();
        let waits = admission.clone();
        let waits = tokio::spawn(async move { waits.admit(&line("c")).await.is_ok() });
        tokio::task::yield_now().await;
        assert!(!waits.is_finished());
        drop(one);
        assert!(
            timeout(Duration::from_secs(1), waits)
                .await
                .unwrap()
                .unwrap()
        );
        drop(other);
        assert_eq!(admission.state().all, 0);
    }
}
