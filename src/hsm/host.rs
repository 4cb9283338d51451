//! The token host: the process that watches over a worker, which loads the vendor's library.
//!
//! Owns the Unix socket that the daemon connects to, the start of each worker, and what must outlive one:
//! the verdict on the PIN. Promises that one host serves a socket, that a worker that is silent or hangs is
//! killed, and that a rejected PIN is not tried again. Never loads vendor code and never reads the PIN.
//! Failure story: a worker's end, for whatever reason, is answered by starting the next; only a faulty
//! installation (configuration, socket, PIN file) ends the host.
//!
//! ```text
//! host ──spawns──▶ worker ──loads──▶ PKCS#11 module
//!  │  ◀──beats────   ▲
//!  └─listening socket┘◀──frames── daemon
//! ```

mod args;
mod connection;
mod control;
mod encode;
mod key;
mod mechanism;
mod memory;
mod place;
mod queue;
mod serve;
mod stopwatch;
mod token;
mod verdict;
mod watch;
mod worker;

/// The host's bounds that the daemon must know to outwait them.
pub(super) mod queue_bounds {
    pub use super::queue::{GENERATE_LIMIT, WAIT_MAX};
}

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use self::args::Args;
use crate::config::{Config, ConfigError, Token};
use crate::secret::{self, SecretRefused};

/// The exit code of a host whose command line or configuration is wrong, or whose PIN file is there and none: as it is,
/// no new start helps.
pub const MISCONFIGURED: u8 = 2;

/// Why a host cannot run; each is for an operator to mend.
#[derive(Debug, thiserror::Error)]
enum HostError {
    /// The configuration.
    #[error("the configuration is refused")]
    Config(#[from] ConfigError),
    /// No such token.
    #[error("the configuration has no [[token]] named {name:?}; it has: {known}")]
    UnknownToken {
        /// What was asked for.
        name: String,
        /// What there is.
        known: String,
    },
    /// The PIN file cannot be used.
    #[error("pin_file {}", path.display())]
    PinFile {
        /// The file.
        path: PathBuf,
        /// Why and what to do.
        #[source]
        source: SecretRefused,
    },
    /// Another host has the socket.
    #[error("another token host serves {}: stop it first", path.display())]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}: its directory must exist and be writable by this user", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The system refuses something.
    #[error("the system refuses: {what}")]
    System {
        /// What was asked.
        what: &'static str,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
}

impl HostError {
    /// The exit code: [`MISCONFIGURED`] where only an operator helps, so that nobody starts the host in vain.
    const fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::UnknownToken { .. } => MISCONFIGURED,
            Self::PinFile { source, .. } => match source {
                SecretRefused::Open { .. } | SecretRefused::TooLong { .. } => MISCONFIGURED,
                // It may be put there or handed over later, as from a mount that comes after the start.
                SecretRefused::Unreadable(_) => 1,
            },
            // The other host may end, and the system may have what it lacks now.
            Self::Taken { .. } | Self::Socket { .. } | Self::System { .. } => 1,
        }
    }

    /// The system refused something.
    const fn system(what: &'static str, source: std::io::Error) -> Self {
        Self::System { what, source }
    }
}

/// The whole of `hallmark-token`: reads the command line and runs as host or as worker.
#[must_use]
pub fn main() -> ExitCode {
    let args = Args::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .init();
    let span = tracing::info_span!("token", name = args.name);
    let _entered = span.enter();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("hallmark-token: {}", certstatus::chain(&error));
            // Where even standard error is closed there is nobody to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
            ExitCode::from(error.code())
        }
    }
}

/// Runs as host or worker.
fn run(args: &Args) -> Result<(), HostError> {
    // No PIN and no session's state gets to a disk, and files are made for this user only.
    secret::harden().map_err(|error| HostError::system("no core dumps", error))?;
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    let token = configured(args)?;
    if args.worker {
        worker::run(&token, args.purpose(), args.memory)
    } else {
        // Told now, where an operator reads it, and not when a worker logs in.
        secret::open(&token.pin_file).map_err(|source| HostError::PinFile {
            path: token.pin_file.clone(),
            source,
        })?;
        let place = place::Place::take(&token.socket)?;
        watch::run(args, &place)
    }
}

/// The token's part of the configuration.
fn configured(args: &Args) -> Result<Token, HostError> {
    let config = Config::load(&args.config)?;
    let known: Vec<&str> = config.tokens.iter().map(|t| t.name.as_str()).collect();
    let known = known.join(", ");
    config
        .tokens
        .into_iter()
        .find(|token| token.name == args.name)
        .ok_or_else(|| HostError::UnknownToken {
            name: args.name.clone(),
            known,
        })
}

/// The users that may connect: those of the configuration, or else the host's own.
fn permitted_uids(token: &Token) -> Vec<u32> {
    if token.daemon_uids.is_empty() {
        vec![rustix::process::geteuid().as_raw()]
    } else {
        token.daemon_uids.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_an_operator_mends_has_an_exit_code_of_its_own() {
        let path = || PathBuf::from("/run/hallmark/soft");
        let system = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let config = Config::load(std::path::Path::new("/nowhere/hallmark.toml")).unwrap_err();
        let name = String::new();
        for error in [
            HostError::Config(config),
            HostError::UnknownToken {
                known: name.clone(),
                name,
            },
            HostError::PinFile {
                path: path(),
                source: SecretRefused::Open { mode: 0o644 },
            },
            HostError::PinFile {
                path: path(),
                source: SecretRefused::TooLong { bytes_max: 64 },
            },
        ] {
            assert_eq!(error.code(), MISCONFIGURED, "{error}");
        }
        for error in [
            HostError::Taken { path: path() },
            HostError::PinFile {
                path: path(),
                source: SecretRefused::Unreadable(system()),
            },
            HostError::Socket {
                path: path(),
                source: system(),
            },
            HostError::system("a runtime", system()),
        ] {
            assert_eq!(error.code(), 1, "{error}");
        }
    }
}
