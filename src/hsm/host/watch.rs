//! The host's loop: start a worker, listen to its beats, kill it when it must be, start the next.
//!
//! Owns the worker's process. Promises that at most one worker lives, that the next starts within 2 s, and
//! that the worker is dead before the host's socket goes away.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use super::HostError;
use super::args::Args;
use super::control::{Beat, OVERDUE_MAX, SILENCE_MAX, send_listener};
use super::memory::Memory;
use super::place::Place;

/// The pause before the first restart.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The longest pause between two workers.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Why the watch over one worker ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The worker ended or was killed; it had logged in.
    AfterReady,
    /// The worker ended or was killed before it had logged in.
    BeforeReady,
    /// The host is to stop.
    Stopped,
}

/// Runs the host until it is told to stop.
///
/// # Errors
/// [`HostError::System`] when the system gives it no processes or signals.
pub fn run(args: &Args, place: &Place) -> Result<(), HostError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| HostError::system("a runtime", error))?;
    let ended = runtime.block_on(watch(args, place));
    place.leave();
    ended
}

/// Worker after worker.
async fn watch(args: &Args, place: &Place) -> Result<(), HostError> {
    let mut stop = Stop::new()?;
    let mut memory = args.memory;
    let mut pause = PAUSE_MIN;
    let mut told = String::new();
    tracing::info!("serving");
    loop {
        let mut worker = Worker::start(args, place, memory)?;
        let ended = worker.watch(&mut memory, &mut told, &mut stop).await;
        worker.end().await?;
        match ended {
            Ended::Stopped => {
                tracing::info!("stopped");
                return Ok(());
            }
            Ended::AfterReady => pause = PAUSE_MIN,
            Ended::BeforeReady => pause = (pause * 2).min(PAUSE_MAX),
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = stop.asked() => return Ok(()),
        }
    }
}

/// The signals that stop a host.
struct Stop {
    /// From a service manager.
    terminate: Signal,
    /// From a terminal.
    interrupt: Signal,
}

impl Stop {
    /// Listens for them from now on.
    fn new() -> Result<Self, HostError> {
        let listen = |kind| signal(kind).map_err(|error| HostError::system("signals", error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }

    /// Waits for one.
    async fn asked(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// A running worker.
struct Worker {
    /// Its process.
    child: Child,
    /// Its beats.
    beats: Lines<BufReader<UnixStream>>,
    /// Whether its end has a reason in the log: one that it gave, or that the host kills it.
    end: End,
}

/// Whether a worker's end has a reason in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Not yet: a crash, if it ends now.
    Unexplained,
    /// It has.
    Explained,
}

impl Worker {
    /// Starts a worker and hands it the listening socket.
    fn start(args: &Args, place: &Place, memory: Memory) -> Result<Self, HostError> {
        let failed = |error| HostError::system("a worker process", error);
        let (ours, theirs) = StdStream::pair().map_err(failed)?;
        send_listener(&ours, place.listener()).map_err(failed)?;
        ours.set_nonblocking(true).map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .arg(&args.name)
            .arg("--config")
            .arg(&args.config)
            .arg("--worker")
            .arg("--memory")
            .arg(memory.to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            // Libraries print there; the journal shall have it.
            .stdout(std::io::stderr())
            .kill_on_drop(true);
        if args.ceremony {
            command.arg("--ceremony");
        }
        let child = command.spawn().map_err(failed)?;
        let beats = BufReader::new(UnixStream::from_std(ours).map_err(failed)?).lines();
        Ok(Self {
            child,
            beats,
            end: End::Unexplained,
        })
    }

    /// Listens until the worker ends, must be ended, or the host is to stop.
    ///
    /// `told` is the last reason in the log: a token that is absent for a weekend is one line, not 50,000.
    async fn watch(&mut self, memory: &mut Memory, told: &mut String, stop: &mut Stop) -> Ended {
        let mut ready = Ended::BeforeReady;
        loop {
            let line = tokio::select! {
                line = timeout(SILENCE_MAX, self.beats.next_line()) => line,
                () = stop.asked() => {
                    self.end = End::Explained;
                    return Ended::Stopped;
                }
            };
            let beat = match line {
                // Deadlock, a stopped process, or a library that blocks every thread.
                Err(_) => {
                    self.end = End::Explained;
                    tracing::error!(
                        "the worker gave no sign of life for {SILENCE_MAX:?}; it is killed"
                    );
                    return ready;
                }
                // It ended: by itself, with a reason given before, or by a crash of the library.
                Ok(Ok(None) | Err(_)) => return ready,
                Ok(Ok(Some(line))) => Beat::parse(&line),
            };
            match beat {
                Some(Beat::Alive { overdue }) if overdue > OVERDUE_MAX => {
                    self.end = End::Explained;
                    tracing::error!("a call of the PKCS#11 library hangs; the worker is killed");
                    return ready;
                }
                Some(Beat::Remember(learnt)) => *memory = learnt,
                Some(Beat::Ready) => {
                    ready = Ended::AfterReady;
                    told.clear();
                }
                Some(Beat::Leaving { cause }) => {
                    self.end = End::Explained;
                    if cause != *told {
                        tracing::warn!("{cause}; the library is started anew");
                        *told = cause;
                    }
                }
                Some(Beat::Alive { .. }) | None => {}
            }
        }
    }

    /// Kills the worker, if it lives, and waits for its end.
    async fn end(&mut self) -> Result<(), HostError> {
        // It may have ended already; then there is nothing to kill.
        let _ = self.child.start_kill();
        let status = self
            .child
            .wait()
            .await
            .map_err(|error| HostError::system("the worker's end", error))?;
        if self.end == End::Unexplained {
            tracing::error!("the worker ended by itself ({status}); another is started");
        }
        Ok(())
    }
}
