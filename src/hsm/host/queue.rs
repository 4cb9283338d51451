//! The worker's queue: jobs that wait, jobs that run, and when each must be done.
//!
//! Owns the order of jobs and the account of which session works on what. Promises bounds on count and
//! octets, that a job of an ended connection never starts, and that what runs is known at every moment
//! (so that a takeover can tell when its predecessor's last signature is over). Never runs a job.
//! Failure story: a full queue answers `Busy`, a closed one `Unavailable`, both before the token is touched.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::connection::Connection;
use super::key::{NewKey, OpenKey, Wanted};
use super::stopwatch::Stopwatch;
use crate::hsm::wire::{Fault, TBS_BYTES_MAX};

/// Jobs that wait at most: as many as the daemon has requests in work.
pub const JOBS_MAX: usize = crate::limits::REQUESTS_IN_FLIGHT_MAX;

/// Octets of TBS that wait at most: two of the largest CRLs, or tens of thousands of certificates.
pub const OCTETS_MAX: usize = 2 * TBS_BYTES_MAX;

/// The longest that a job waits for a session.
pub const WAIT_MAX: Duration = crate::limits::TOKEN_WAIT_MAX;

/// What a session is to do.
#[derive(Debug)]
pub enum Work {
    /// Sign with an opened key.
    Sign {
        /// The key.
        key: Arc<OpenKey>,
        /// What is signed.
        tbs: Vec<u8>,
    },
    /// Find and check a key.
    Open(Wanted),
    /// Make a key pair.
    Generate(NewKey),
}

impl Work {
    /// The octets that it holds while it waits.
    const fn octets(&self) -> usize {
        match self {
            Self::Sign { tbs, .. } => tbs.len(),
            Self::Open(_) | Self::Generate(_) => 0,
        }
    }
}

/// A request that a session answers.
#[derive(Debug)]
pub struct Job {
    /// Who asked.
    pub connection: Arc<Connection>,
    /// The request's number on that connection.
    pub id: u32,
    /// What is to be done.
    pub work: Work,
}

/// What a session works on.
#[derive(Clone, Debug)]
pub struct Running {
    /// Who asked, and the request's number there; none for a probe.
    pub asked: Option<(Arc<Connection>, u32)>,
    /// When it started.
    since: Duration,
    /// How long it may take.
    limit: Duration,
}

/// What a session is to do next.
#[derive(Debug)]
pub enum Next {
    /// This job.
    Job(Job),
    /// Nothing came for a while: look whether the token is still there.
    Probe,
    /// Nothing any more.
    Closed,
}

/// Jobs and the sessions that work on them.
#[derive(Debug)]
pub struct Queue {
    /// Everything that changes.
    state: Mutex<State>,
    /// Tells waiting sessions that a job arrived or the queue was closed.
    arrived: Condvar,
    /// The worker's time.
    clock: Stopwatch,
    /// The longest that one signature or search may take.
    sign_limit: Duration,
}

/// What the queue knows.
#[derive(Debug, Default)]
struct State {
    /// Waiting jobs and when they came, oldest first.
    waiting: VecDeque<(Duration, Job)>,
    /// Octets in them.
    octets: usize,
    /// Numbers of connections whose jobs must not start.
    ended: HashSet<u64>,
    /// What each session works on, by its number.
    running: Vec<Option<Running>>,
    /// Sessions that wait for a job.
    idle: usize,
    /// Why no job starts any more.
    closed: Option<String>,
}

/// The longest that C_GenerateKeyPair may take: RSA 4096 on a slow card needs minutes.
pub const GENERATE_LIMIT: Duration = Duration::from_secs(300);

impl Queue {
    /// An empty queue for this many sessions.
    pub fn new(sign_limit: Duration, sessions: usize, clock: Stopwatch) -> Self {
        Self {
            state: Mutex::new(State {
                running: vec![None; sessions],
                ..State::default()
            }),
            arrived: Condvar::new(),
            clock,
            sign_limit,
        }
    }

    /// The state; a session that panicked left it whole, as no change here can be interrupted.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes jobs in, in order; returns those that it cannot take, with the reason.
    pub fn push(&self, jobs: Vec<Job>) -> Vec<(Job, Fault)> {
        let mut refused = Vec::new();
        let now = self.clock.read();
        let mut state = self.lock();
        let mut taken = 0;
        for job in jobs {
            let octets = job.work.octets();
            if let Some(cause) = &state.closed {
                refused.push((job, Fault::unavailable(cause.as_str())));
            } else if state.ended.contains(&job.connection.number()) {
                // Nobody listens for an answer.
            } else if state.waiting.len() >= JOBS_MAX || state.octets + octets > OCTETS_MAX {
                refused.push((job, Fault::Busy));
            } else {
                state.octets += octets;
                state.waiting.push_back((now, job));
                taken += 1;
            }
        }
        let woken = taken.min(state.idle);
        drop(state);
        for _ in 0..woken {
            self.arrived.notify_one();
        }
        refused
    }

    /// Ends the session's job, if it has one, and gives it the next; waits for one up to `patience`.
    pub fn next(&self, session: usize, patience: Duration) -> Next {
        let mut state = self.lock();
        state.finish(session);
        let until = self.clock.read() + patience;
        loop {
            if state.closed.is_some() {
                return Next::Closed;
            }
            let (job, expired) = self.start(&mut state, session);
            if !expired.is_empty() {
                // Not under the lock: a peer may be slow to read.
                drop(state);
                refuse(expired);
                state = self.lock();
            }
            if let Some(job) = job {
                return Next::Job(job);
            }
            let left = until.saturating_sub(self.clock.read());
            if left.is_zero() {
                // Under the account like a job, so that a probe that hangs is noticed.
                self.enter(&mut state, session, None, self.sign_limit);
                return Next::Probe;
            }
            state.idle += 1;
            state = self
                .arrived
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.idle -= 1;
        }
    }

    /// As [`Self::next`], but does not wait.
    pub fn next_now(&self, session: usize) -> Option<Job> {
        let mut state = self.lock();
        state.finish(session);
        if state.closed.is_some() {
            return None;
        }
        let (job, expired) = self.start(&mut state, session);
        drop(state);
        refuse(expired);
        job
    }

    /// Ends the session's job; it takes no other.
    pub fn finish(&self, session: usize) {
        self.lock().finish(session);
    }

    /// Starts the oldest job that may still start; returns those that waited too long beside it.
    fn start(&self, state: &mut State, session: usize) -> (Option<Job>, Vec<Job>) {
        let now = self.clock.read();
        let mut expired = Vec::new();
        while let Some((since, job)) = state.waiting.pop_front() {
            state.octets -= job.work.octets();
            if now.saturating_sub(since) > WAIT_MAX {
                expired.push(job);
                continue;
            }
            let limit = match job.work {
                Work::Sign { .. } | Work::Open(_) => self.sign_limit,
                Work::Generate(_) => GENERATE_LIMIT,
            };
            let asked = Some((Arc::clone(&job.connection), job.id));
            self.enter(state, session, asked, limit);
            return (Some(job), expired);
        }
        (None, expired)
    }

    /// Enters in the account what a session works on.
    fn enter(
        &self,
        state: &mut State,
        session: usize,
        asked: Option<(Arc<Connection>, u32)>,
        limit: Duration,
    ) {
        if let Some(place) = state.running.get_mut(session) {
            *place = Some(Running {
                asked,
                since: self.clock.read(),
                limit,
            });
        }
    }

    /// Drops a connection's waiting jobs; called by the thread that read them, which reads no more.
    pub fn end_connection(&self, connection: &Connection) {
        let mut state = self.lock();
        state.ended.insert(connection.number());
        state.drop_ended();
        // Nobody brings jobs of this number any more, so it need not be remembered.
        state.ended.remove(&connection.number());
    }

    /// Ends all connections but one and tells how many of their jobs sessions still work on.
    pub fn end_others(&self, others: &[Arc<Connection>], keeper: &Connection) -> usize {
        let mut state = self.lock();
        for other in others {
            if other.number() != keeper.number() {
                state.ended.insert(other.number());
            }
        }
        state.drop_ended();
        state
            .running
            .iter()
            .flatten()
            .filter_map(|running| running.asked.as_ref())
            .filter(|(connection, _)| connection.number() != keeper.number())
            .count()
    }

    /// Closes the queue: waiting jobs are returned, no other starts.
    pub fn close(&self, cause: &str) -> Vec<Job> {
        let mut state = self.lock();
        state.closed.get_or_insert_with(|| cause.to_owned());
        state.octets = 0;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.arrived.notify_all();
        waiting.into_iter().map(|(_, job)| job).collect()
    }

    /// What runs at this moment.
    pub fn running(&self) -> Vec<Running> {
        self.lock().running.iter().flatten().cloned().collect()
    }

    /// The jobs that run longer than they may, and by how much the worst of them.
    pub fn overdue(&self) -> (Vec<Running>, Duration) {
        let now = self.clock.read();
        let mut worst = Duration::ZERO;
        let late = self
            .running()
            .into_iter()
            .filter(|running| {
                let over = now.saturating_sub(running.since + running.limit);
                worst = worst.max(over);
                over > Duration::ZERO
            })
            .collect();
        (late, worst)
    }
}

/// Answers jobs that waited too long.
fn refuse(expired: Vec<Job>) {
    for job in expired {
        job.connection.fail(job.id, Fault::Busy);
    }
}

impl State {
    /// The session works on nothing.
    fn finish(&mut self, session: usize) {
        if let Some(place) = self.running.get_mut(session) {
            *place = None;
        }
    }

    /// Drops waiting jobs of ended connections.
    fn drop_ended(&mut self) {
        let ended = &self.ended;
        self.waiting
            .retain(|(_, job)| !ended.contains(&job.connection.number()));
        self.octets = self.waiting.iter().map(|(_, job)| job.work.octets()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    /// A connection and the daemon's end of it.
    fn connection(number: u64) -> (Arc<Connection>, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Arc::new(Connection::new(number, ours).unwrap()), theirs)
    }

    /// A job that needs no token.
    fn job(connection: &Arc<Connection>, id: u32) -> Job {
        Job {
            connection: Arc::clone(connection),
            id,
            work: Work::Open(Wanted {
                label: String::new(),
                algorithm: certstatus::signature::SignatureAlgorithm::Ed25519,
                spki_sha256: [0; 32],
            }),
        }
    }

    /// The next job, which must be there.
    fn next(queue: &Queue, session: usize) -> Job {
        match queue.next(session, Duration::ZERO) {
            Next::Job(job) => job,
            other => panic!("{other:?}"),
        }
    }

    /// A queue for two sessions.
    fn queue(limit: Duration) -> Queue {
        Queue::new(limit, 2, Stopwatch::start())
    }

    #[test]
    fn jobs_start_in_order() {
        let queue = queue(Duration::from_secs(1));
        let (a, _end) = connection(1);
        assert!(queue.push(vec![job(&a, 1), job(&a, 2)]).is_empty());
        assert_eq!(next(&queue, 0).id, 1);
        assert_eq!(next(&queue, 1).id, 2);
        assert!(queue.next_now(0).is_none());
    }

    #[test]
    fn a_full_queue_is_busy() {
        let queue = queue(Duration::from_secs(1));
        let (a, _end) = connection(1);
        let many = (0..=u32::try_from(JOBS_MAX).unwrap())
            .map(|id| job(&a, id))
            .collect();
        let refused = queue.push(many);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].1, Fault::Busy);
    }

    #[test]
    fn jobs_of_a_lost_connection_never_start() {
        let queue = queue(Duration::from_secs(1));
        let (a, _end_a) = connection(1);
        let (b, _end_b) = connection(2);
        queue.push(vec![job(&a, 1), job(&b, 2)]);
        queue.end_connection(&a);
        assert_eq!(queue.next_now(0).unwrap().id, 2);
        assert!(queue.next_now(1).is_none());
    }

    #[test]
    fn a_frame_read_before_a_takeover_and_taken_in_after_it_never_starts() {
        let queue = queue(Duration::from_secs(1));
        let (old, _end_old) = connection(1);
        let (new, _end_new) = connection(2);
        queue.end_others(&[Arc::clone(&old)], &new);
        assert!(queue.push(vec![job(&old, 3)]).is_empty());
        assert!(queue.next_now(0).is_none());
    }

    #[test]
    fn a_takeover_counts_the_predecessors_running_jobs() {
        let queue = queue(Duration::from_secs(1));
        let (old, _end_old) = connection(1);
        let (new, _end_new) = connection(2);
        queue.push(vec![job(&old, 1), job(&old, 2), job(&new, 3)]);
        assert_eq!(next(&queue, 0).id, 1);
        assert_eq!(
            queue.end_others(&[Arc::clone(&old), Arc::clone(&new)], &new),
            1
        );
        assert_eq!(next(&queue, 1).id, 3, "job 2 was dropped");
        assert_eq!(queue.end_others(&[], &new), 1, "job 3 is the keeper's own");
        assert!(queue.next_now(0).is_none());
        assert_eq!(queue.end_others(&[], &new), 0);
    }

    #[test]
    fn an_idle_session_is_told_to_probe_and_a_probe_that_hangs_is_overdue() {
        let queue = queue(Duration::ZERO);
        assert!(matches!(queue.next(0, Duration::ZERO), Next::Probe));
        while queue.overdue().0.is_empty() {
            std::thread::yield_now();
        }
        assert!(queue.overdue().0[0].asked.is_none());
        let (new, _end) = connection(1);
        assert_eq!(queue.end_others(&[], &new), 0, "a probe signs nothing");
    }

    #[test]
    fn a_closed_queue_returns_what_waited_and_takes_nothing() {
        let queue = queue(Duration::from_secs(1));
        let (a, _end) = connection(1);
        queue.push(vec![job(&a, 1)]);
        assert_eq!(queue.close("gone").len(), 1);
        let refused = queue.push(vec![job(&a, 2)]);
        assert_eq!(refused[0].1, Fault::unavailable("gone"));
        assert!(matches!(
            queue.next(0, Duration::from_secs(9)),
            Next::Closed
        ));
    }

    #[test]
    fn a_job_beyond_its_limit_is_overdue() {
        let queue = queue(Duration::ZERO);
        let (a, _end) = connection(1);
        queue.push(vec![job(&a, 7)]);
        assert!(queue.overdue().0.is_empty(), "waiting is not running");
        next(&queue, 0);
        while queue.overdue().0.is_empty() {
            std::thread::yield_now();
        }
        assert_eq!(queue.overdue().0[0].asked.as_ref().unwrap().1, 7);
        queue.next_now(0);
        assert!(queue.overdue().0.is_empty());
    }
}
