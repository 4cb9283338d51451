//! `hallmark-ocsp`: answers the world from published logs, without any CA key.
//!
//! Owns the order in which the parts come up and go down. Promises that what was verified before is answered from the
//! start, whether or not an appliance can be reached, and that no part that fails silently leaves the others running.
//! Never decides a status (that is [`crate::view`]) and never reads a clock but through [`Clock`].
//!
//! ```text
//!  log.rs ── follows ──▶ view ──▶ answer.rs ──▶ cache.rs ──▶ http.rs ◀── server.rs
//!  mirror.rs ── fetches, verifies ──▶ issuers.rs (certificates) and files.rs (CRLs, CA certificates)
//! ```
//!
//! Followers and mirrors have a thread of their own (`Following`): however many ask, a revocation gets in.
//!
//! Failure story: an unusable configuration, key or state directory ends the start with its whole chain of causes; what
//! goes wrong later is told in log and metrics, and what was verified keeps being answered until its bound.

mod answer;
mod cache;
mod certificate;
mod clock;
mod config;
mod files;
mod http;
mod issuers;
mod keys;
mod log;
mod metrics;
mod mirror;
mod ops;
mod patience;
mod server;
mod shares;
mod signatures;
mod source;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;

pub use clock::{Clock, Moment};
pub use config::{Config, ConfigError, Identify, Listen, LogConfig, Ocsp, SourceConfig, Witness};
pub use keys::{KeyError, SigningKey, WitnessKey};

use crate::view::{HttpsRefused, View, ViewError};
use answer::Answerer;
use cache::Cache;
use files::Files;
pub(crate) use files::etag;
pub(crate) use http::body::Body;
use issuers::Issuers;
use log::{FollowedLog, Follower};
pub(crate) use metrics::Exposition;
use metrics::Metrics;
use mirror::Mirror;
use server::Public;
pub(crate) use server::{Stopping, converse};
pub(crate) use shares::{Origin, Shares};
use source::SharedSource;

/// The time for followers and mirrors to put things down after the last answer.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why the responder does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A key file.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A log's state directory.
    #[error("the state of the log {log} cannot be used")]
    View {
        /// Its name in the configuration.
        log: String,
        /// Why.
        #[source]
        source: ViewError,
    },
    /// The files that secure the way to an appliance.
    #[error("the source of the log {log} cannot be used")]
    Source {
        /// Its name in the configuration.
        log: String,
        /// Why.
        #[source]
        source: HttpsRefused,
    },
    /// An address.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files that are kept.
    #[error("{} cannot be used", path.display())]
    Storage {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("the threads that follow the logs cannot be started")]
    Threads(#[source] io::Error),
    /// A fault of this program.
    #[error("a part of the responder stopped unexpectedly: this is a fault of the program")]
    Stopped(#[source] io::Error),
}

/// What all parts share.
#[derive(Debug)]
pub(crate) struct State {
    clock: Clock,
    logs: Vec<Arc<FollowedLog>>,
    issuers: Issuers,
    files: Files,
    answerer: Answerer,
    witness: WitnessKey,
    metrics: Metrics,
}

/// A responder that listens and has not answered yet.
pub struct Responder {
    state: Arc<State>,
    followers: Vec<Follower>,
    mirrors: Vec<Mirror>,
    public: Vec<TcpListener>,
    ops: TcpListener,
    listen: Listen,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

/// The runtime of those that follow logs: the threads that answer may be busy with answers for as long as somebody asks.
struct Following(Option<Runtime>);

impl Following {
    /// Starts its thread.
    fn start() -> Result<Self, RunError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("following")
            .enable_all()
            .build();
        Ok(Self(Some(runtime.map_err(RunError::Threads)?)))
    }

    /// Where its tasks begin.
    fn handle(&self) -> Handle {
        let runtime = self.0.as_ref().map(Runtime::handle);
        runtime.map_or_else(Handle::current, Handle::clone)
    }
}

impl Drop for Following {
    /// Within the runtime that answers nobody may wait for this one's end; a directory on a dead network file system would
    /// make it a long one.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connections that wait to be accepted: more than come in a moment, or the system has clients try again a second later.
const BACKLOG: u32 = 4096;

/// Listens on an address.
fn listen(address: SocketAddr) -> Result<TcpListener, RunError> {
    let listening = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restart does not wait for the connections of the process before it.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listening().map_err(|source| RunError::Listen { address, source })
}

/// Reads the files that secure the ways to the appliances, as a start does.
///
/// # Errors
/// [`RunError::Source`] names the log and the file.
pub fn check_sources(config: &Config) -> Result<(), RunError> {
    for log in &config.logs {
        open_source(log)?;
    }
    Ok(())
}

/// Opens the source of a log.
fn open_source(log: &LogConfig) -> Result<SharedSource, RunError> {
    SharedSource::open(&log.source).map_err(|source| RunError::Source {
        log: log.name.clone(),
        source,
    })
}

impl Responder {
    /// Opens keys, views and listeners; makes keys that are not there yet.
    ///
    /// Must run within a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`RunError`]: nothing was answered; the operator has something to mend.
    pub async fn open(config: Config, clock: Clock) -> Result<Self, RunError> {
        let key = SigningKey::load_or_make(&config.ocsp.key_file)?;
        let witness = WitnessKey::load_or_make(&config.witness.key_file, &config.witness.name)?;
        let metrics = Metrics::default();
        let cache = Arc::new(Cache::new(config.ocsp.cache_bytes));
        let mut views = Vec::new();
        let mut logs = Vec::new();
        for (index, log) in config.logs.iter().enumerate() {
            let view = View::open(&log.state_dir, log.key.clone());
            let view = view.map_err(|source| RunError::View {
                log: log.name.clone(),
                source,
            })?;
            logs.push(Arc::new(FollowedLog::new(
                index,
                log,
                view.reader(),
                clock.now(),
            )));
            views.push(view);
        }
        let mut public = Vec::new();
        for address in &config.listen.http {
            public.push(listen(*address)?);
        }
        let ops = listen(config.listen.ops)?;
        let state = Arc::new(State {
            clock: clock.clone(),
            issuers: Issuers::new(config.logs.len()),
            files: Files::new(config.logs.iter().map(|log| log.name.clone()).collect()),
            answerer: Answerer::new(key, &config.ocsp, cache),
            witness,
            metrics,
            logs,
        });
        let mut followers = Vec::new();
        let mut mirrors = Vec::new();
        for ((log, view), followed) in config.logs.iter().zip(views).zip(&state.logs) {
            let source = Arc::new(open_source(log)?);
            let follower = Follower::new(view, Arc::clone(&source), Arc::clone(followed), log.poll);
            followers.push(follower);
            let mirror = Mirror::open(log, source, Arc::clone(followed), &state);
            mirrors.push(mirror.await?);
        }
        Ok(Self {
            state,
            followers,
            mirrors,
            public,
            ops,
            listen: config.listen,
        })
    }

    /// Where OCSP is answered: the addresses bound, their ports chosen by the system where the configuration says 0.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.public.iter().map(TcpListener::local_addr);
        addresses.filter_map(Result::ok).collect()
    }

    /// Where health and metrics are.
    #[must_use]
    pub fn ops_address(&self) -> Option<SocketAddr> {
        self.ops.local_addr().ok()
    }

    /// Answers until `told` is ready, then finishes the requests in work.
    ///
    /// # Errors
    /// [`RunError::Stopped`]: a part of it panicked; start it again.
    pub async fn run(self, told: impl Future<Output = ()>) -> Result<(), RunError> {
        let (stop, stopping) = Stopping::new();
        let mut parts = JoinSet::new();
        let following = Following::start()?;
        for follower in self.followers {
            let run = follower.run(Arc::clone(&self.state), stopping.clone());
            parts.spawn_on(run, &following.handle());
        }
        for mirror in self.mirrors {
            let run = mirror.run(Arc::clone(&self.state), stopping.clone());
            parts.spawn_on(run, &following.handle());
        }
        let ops = ops::serve(self.ops, Arc::clone(&self.state), stopping.clone());
        parts.spawn(ops);
        let public = Public::new(Arc::clone(&self.state), &self.listen);
        for listener in self.public {
            parts.spawn(server::serve(listener, public.clone(), stopping.clone()));
        }
        tracing::info!("answering");
        let ended = tokio::select! {
            () = told => Ok(()),
            Some(ended) = parts.join_next() => ended.map_err(|stopped| RunError::Stopped(io::Error::other(stopped))),
        };
        tracing::info!("stopping: requests in work are finished");
        drop(stop);
        public.drained().await;
        let rest = async { while parts.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_DEADLINE, rest).await.is_err() {
            tracing::warn!("stopping although a source does not answer");
        }
        ended
    }
}
