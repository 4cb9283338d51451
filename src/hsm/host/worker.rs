//! The worker: the process that loads the vendor's library and signs.
//!
//! Owns the sessions' threads, the heartbeat and the worker's end. Promises to end itself, by SIGKILL, as
//! soon as the library is in a state that only a new start ends, when a call hangs, and when its host is
//! gone; what waits then is answered first, as provably unsigned. C_Finalize is never called. Failure
//! story: whatever happens here, the host starts the next worker and the daemon opens its keys again.

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cryptoki::mechanism::MechanismType;
use cryptoki::session::Session;

use super::HostError;
use super::args::Purpose;
use super::control::{Beat, Control, Host, receive_listener};
use super::key::NewKey;
use super::memory::Memory;
use super::queue::{Job, Next, Queue, Work};
use super::serve::{Shared, accept};
use super::stopwatch::Stopwatch;
use super::token::{LoggedIn, NotLoggedIn, find};
use super::verdict::{Judged, Verdict};
use crate::config::Token;
use crate::hsm::wire::{Answer, Fault, TokenState};

/// The longest from the start to logged in: C_Initialize of a network HSM may wait for its time-outs.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long a worker that found no token lives on: the pace at which libraries are started anew.
const ABSENCE: Duration = Duration::from_secs(1);

/// How long a worker that leaves waits for the sessions that still sign.
const FAREWELL: Duration = Duration::from_millis(500);

/// Signatures whose answers may be held back to leave together, while more jobs wait.
const HELD_BACK_MAX: u32 = 4;

/// Answers are held back only when a job takes less than this: a slow token's answers leave at once.
const HELD_BACK_WITHIN: Duration = Duration::from_micros(500);

/// How long a session may rest before it looks whether the token is still there: below the 15 to 30 s
/// after which common tokens drop an idle session.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// What the threads of a worker work with.
struct Worker {
    /// Jobs, connections, keys.
    shared: Arc<Shared>,
    /// To the host.
    control: Control,
    /// Monotonic time.
    clock: Stopwatch,
    /// The login is through, or has failed for good.
    settled: AtomicBool,
    /// Some thread ends the process already.
    leaving: AtomicBool,
}

/// Runs a worker; standard input is the socket of the host. Ends with the process.
///
/// # Errors
/// [`HostError`], when it was not started by a host or the system gives it no threads.
pub fn run(token: &Token, purpose: Purpose, memory: Memory) -> Result<(), HostError> {
    // The host's death ends this process even if every thread of it hangs in the library.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .map_err(|error| HostError::system("prctl", error.into()))?;
    let control = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map(UnixStream::from)
        .map_err(|error| HostError::system("standard input", error))?;
    let listener =
        receive_listener(&control).map_err(|error| HostError::system("standard input", error))?;
    let clock = Stopwatch::start();
    let queue = Queue::new(
        token.sign_deadline,
        usize::from(token.sessions.max(1)),
        clock,
    );
    let worker = Arc::new(Worker {
        shared: Arc::new(Shared::new(queue, purpose, super::permitted_uids(token))),
        control: Control::new(control).map_err(|error| HostError::system("control", error))?,
        clock,
        settled: AtomicBool::new(false),
        leaving: AtomicBool::new(false),
    });
    let shared = Arc::clone(&worker.shared);
    spawn("accept", move || accept(&shared, &listener))?;
    let heart = Arc::clone(&worker);
    spawn("heart", move || heart.beat())?;
    // Held for the process's life: the login dies with the last session.
    let _anchor = match log_in(&worker, token, purpose, memory) {
        Ok(logged_in) => start_sessions(&worker, logged_in)?,
        Err(failure) => {
            worker.stay_without(failure);
            None
        }
    };
    rest()
}

/// Finds the token and logs in; the host hears of the attempt before it is made.
fn log_in(
    worker: &Worker,
    token: &Token,
    purpose: Purpose,
    memory: Memory,
) -> Result<LoggedIn, NotLoggedIn> {
    match memory {
        Memory::PinRejected => {
            return Err(NotLoggedIn {
                state: TokenState::PinRejected,
                memory,
            });
        }
        Memory::PinLocked => {
            return Err(NotLoggedIn {
                state: TokenState::PinLocked,
                memory,
            });
        }
        Memory::Nothing | Memory::Unclear(_) => {}
    }
    find(token)?.log_in(token, purpose, memory, || {
        // Should this process die in C_Login, nobody knows whether the PIN was wrong.
        worker
            .control
            .tell(&Beat::Remember(memory.after_unclear_login()));
    })
}

/// Gives each session a thread and tells everybody that the token is there; returns the anchor session.
fn start_sessions(worker: &Arc<Worker>, logged_in: LoggedIn) -> Result<Option<Session>, HostError> {
    worker.control.tell(&Beat::Remember(Memory::Nothing));
    let mechanisms: Arc<[MechanismType]> = logged_in.mechanisms.into();
    let count = logged_in.sessions.len();
    for (number, session) in logged_in.sessions.into_iter().enumerate() {
        let theirs = Arc::clone(worker);
        let mechanisms = Arc::clone(&mechanisms);
        spawn(&format!("session-{number}"), move || {
            SessionThread {
                worker: &theirs,
                number,
                session: &session,
                mechanisms: &mechanisms,
            }
            .work();
            // Not dropped: C_CloseSession on a handle that the library has given to another closes that.
            rest::<()>();
        })?;
    }
    worker.settled.store(true, Ordering::Release);
    worker.shared.set_state(TokenState::Ready);
    worker.control.tell(&Beat::Ready);
    tracing::info!(sessions = count, "logged in");
    Ok(logged_in.anchor)
}

/// Starts a thread that lives as long as the process.
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<(), HostError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(body)
        .map(drop)
        .map_err(|error| HostError::system("a thread", error))
}

/// Does nothing until the process ends.
fn rest<T>() -> T {
    loop {
        std::thread::park();
    }
}

/// Ends this process at once: no destructor of a library whose threads still run gets to run.
fn die() {
    // A process may always signal itself; should the system refuse, the host does it.
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
}

impl Worker {
    /// Beats until the end, and ends what takes too long.
    fn beat(&self) {
        loop {
            if self.control.wait() == Host::Gone {
                die();
            }
            let (late, overdue) = self.shared.queue.overdue();
            self.control.tell(&Beat::Alive {
                overdue: overdue.max(self.start_overdue()),
            });
            if !late.is_empty() {
                for running in &late {
                    if let Some((connection, id)) = &running.asked {
                        connection.fail(*id, Fault::Deadline);
                    }
                }
                self.leave(
                    "a call of the PKCS#11 library took longer than sign_deadline",
                    late.len(),
                );
            } else if self.start_overdue() > Duration::ZERO {
                self.leave("the PKCS#11 library did not come to a login in time", 0);
            }
        }
    }

    /// By how much the login is late.
    fn start_overdue(&self) -> Duration {
        if self.settled.load(Ordering::Acquire) {
            Duration::ZERO
        } else {
            self.clock.read().saturating_sub(START_LIMIT)
        }
    }

    /// Says what is wrong; leaves after a while if another worker may find it otherwise.
    fn stay_without(&self, failure: NotLoggedIn) {
        self.settled.store(true, Ordering::Release);
        self.control.tell(&Beat::Remember(failure.memory));
        self.shared.set_state(failure.state.clone());
        match failure.state {
            TokenState::PinRejected => tracing::error!(
                "the PIN was rejected and will not be tried again: correct pin_file, then restart the token host"
            ),
            TokenState::PinLocked => tracing::error!(
                "the PIN is locked: unlock it with the vendor's tool and the SO PIN, then restart the token host"
            ),
            TokenState::Unavailable(cause) => {
                if failure.memory.tries_used_up().is_some() {
                    tracing::error!("{cause}");
                } else {
                    let until = self.clock.read() + ABSENCE;
                    while self.clock.read() < until {
                        std::thread::park_timeout(ABSENCE);
                    }
                    self.leave(&cause, 0);
                }
            }
            TokenState::Starting | TokenState::Ready => {}
        }
    }

    /// Ends the process: what waits is answered, other sessions get a moment, `hung` of them do not.
    fn leave(&self, cause: &str, hung: usize) {
        if self.leaving.swap(true, Ordering::AcqRel) {
            rest::<()>();
        }
        // The host writes it to the log, once for as long as it stays the same.
        self.control.tell(&Beat::Leaving {
            cause: cause.to_owned(),
        });
        let waiting = self.shared.queue.close(cause);
        self.shared
            .set_state(TokenState::Unavailable(cause.to_owned()));
        for job in waiting {
            job.connection.fail(job.id, Fault::unavailable(cause));
        }
        let until = self.clock.read() + FAREWELL;
        while self.clock.read() < until && self.shared.queue.running().len() > hung {
            std::thread::park_timeout(Duration::from_millis(2));
        }
        die();
    }
}

/// A thread that owns a session.
struct SessionThread<'a> {
    /// The worker's.
    worker: &'a Worker,
    /// This session's place in the queue's account.
    number: usize,
    /// The session.
    session: &'a Session,
    /// What the token offers.
    mechanisms: &'a [MechanismType],
}

impl Drop for SessionThread<'_> {
    fn drop(&mut self) {
        // The library's binding panicked: its job has no answer and its session is in an unknown state.
        if std::thread::panicking() {
            self.worker.leave("a session's thread panicked", 1);
        }
    }
}

impl SessionThread<'_> {
    /// Works until the queue is closed.
    fn work(&self) {
        let queue = &self.worker.shared.queue;
        let mut next = queue.next(self.number, PROBE_INTERVAL);
        let mut held_back = 0;
        loop {
            next = match next {
                Next::Closed => return,
                Next::Probe => {
                    if let Err(judged) = self.probe() {
                        self.give_up(&judged);
                    }
                    queue.next(self.number, PROBE_INTERVAL)
                }
                Next::Job(job) => {
                    let connection = Arc::clone(&job.connection);
                    let begun = self.worker.clock.read();
                    if let Err(judged) = self.answer(job) {
                        self.give_up(&judged);
                        connection.flush();
                    }
                    held_back += 1;
                    let quick = self.worker.clock.read().saturating_sub(begun) < HELD_BACK_WITHIN;
                    let following = if quick && held_back < HELD_BACK_MAX {
                        queue.next_now(self.number)
                    } else {
                        None
                    };
                    match following {
                        Some(job) if Arc::ptr_eq(&job.connection, &connection) => Next::Job(job),
                        following => {
                            connection.flush();
                            held_back = 0;
                            match following {
                                Some(job) => Next::Job(job),
                                None => queue.next(self.number, PROBE_INTERVAL),
                            }
                        }
                    }
                }
            };
        }
    }

    /// Ends the worker if the library needs it.
    fn give_up(&self, judged: &Judged) {
        if judged.verdict == Verdict::Leave {
            self.worker.shared.queue.finish(self.number);
            let cause = match &judged.fault {
                Fault::Unavailable { cause, .. } => cause.as_str(),
                _ => "the PKCS#11 library failed",
            };
            // Leaves together with the answer, so that nobody sends another job into this end and has to
            // count it as one that may have been signed.
            let state = TokenState::Unavailable(cause.to_owned());
            self.worker.shared.set_state(state);
            self.worker.leave(cause, 0);
        }
    }

    /// Does a job and puts its answer; the error has been answered too.
    fn answer(&self, job: Job) -> Result<(), Judged> {
        let Job {
            connection,
            id,
            work,
        } = job;
        let done = match work {
            Work::Sign { key, tbs } => key
                .plan
                .sign(self.session, key.handle, &tbs)
                .map(|signature| Answer::Signature { id, signature }),
            Work::Open(wanted) => wanted.open(self.session, self.mechanisms).map(|key| {
                let spki = key.spki.clone();
                match self.worker.shared.hold(wanted, key) {
                    Ok(key) => Answer::Opened { id, key, spki },
                    Err(fault) => Answer::Failed { id, fault },
                }
            }),
            Work::Generate(new) => self.generate(&new, id),
        };
        match done {
            Ok(answer) => {
                connection.put(&answer);
                Ok(())
            }
            Err(judged) => {
                connection.put(&Answer::Failed {
                    id,
                    fault: judged.fault.clone(),
                });
                Err(judged)
            }
        }
    }

    /// Makes a key pair.
    fn generate(&self, new: &NewKey, id: u32) -> Result<Answer, Judged> {
        let made = new.generate(self.session)?;
        tracing::info!(label = new.label, algorithm = ?new.algorithm, "made a key");
        Ok(Answer::Generated {
            id,
            spki: made.spki,
            attributes: made.attributes,
        })
    }

    /// Asks the token something that costs it nothing: the session, and a key if one is open.
    fn probe(&self) -> Result<(), Judged> {
        let failed = |error| super::verdict::judge(&error);
        self.session.get_session_info().map_err(failed)?;
        if let Some(key) = self.worker.shared.any_key() {
            self.session
                .get_attributes(key.handle, &[cryptoki::object::AttributeType::Sign])
                .map_err(failed)?;
        }
        Ok(())
    }
}
