//! Telling a broker that its CRLs changed, and ending sessions that a revocation should end.
//!
//! Owns what is done for each kind of broker. Promises that commands run without a shell, with a deadline, that what they
//! print is read but not hoarded, and that no signal reaches a process which is not the broker. Everything here may be
//! done twice: a broker that was told and could not say so is told again. Failure story: [`TellError`]; the caller
//! remembers that it is owed and tries again.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open, pidfd_send_signal};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::config::{BrokerConfig, Kind, Reload};
use super::issuer::{Crl, Issuer};
use crate::SerialNumber;
use crate::regular;

/// The name of Mosquitto's process.
const MOSQUITTO: &str = "mosquitto";

/// What ends the sessions of revoked clients on a RabbitMQ node, in Erlang.
const END_REVOKED: &str = include_str!("rabbitmq.erl");

/// What RabbitMQ tells clients whose session is ended with all others.
const END_REASON: &str = "a client certificate was revoked";

/// What is kept of a command's messages, in octets: the end of it.
const MESSAGES_BYTES_MAX: usize = 2048;

/// The longest file with a process's id in octets.
const PID_BYTES_MAX: u64 = 32;

/// The time for a command's messages after its end: a child of it may hold the pipe.
const MESSAGES_DEADLINE: Duration = Duration::from_millis(500);

/// What became of one issuer's CRL since the broker was told last.
#[derive(Clone, Debug)]
pub struct Change {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// The file that it is in.
    pub file: PathBuf,
    /// The CRL that is in place.
    pub now: Arc<Crl>,
    /// The one that the broker was told of last.
    pub before: Option<Arc<Crl>>,
    /// Serials that are on it now and were not.
    pub revoked: Vec<SerialNumber>,
    /// Serials that were on it and are no more: released, or expired.
    pub unlisted: Vec<SerialNumber>,
}

/// A broker could not be told.
#[derive(Debug, thiserror::Error)]
pub enum TellError {
    /// The file with its process id.
    #[error("{} does not name a process; does the broker run, and has it this pid_file?", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another process has the id.
    #[error("process {pid} of {} is {found:?} and not {MOSQUITTO}: the file is left from an earlier one", path.display())]
    AnotherProcess {
        /// The file.
        path: PathBuf,
        /// The id in it.
        pid: i32,
        /// The process's name.
        found: String,
    },
    /// It is not far enough in its start.
    #[error("process {pid} does not catch SIGHUP yet: it is starting, and the signal would end it")]
    Starting {
        /// The broker.
        pid: i32,
    },
    /// The signal.
    #[error("process {pid} cannot be sent SIGHUP")]
    Signal {
        /// The broker.
        pid: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command does not start.
    #[error("{program} cannot be started")]
    Start {
        /// The program.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The command says that it failed.
    #[error("{program} ended with {status}: {messages}")]
    Failed {
        /// The program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it printed.
        messages: String,
    },
    /// The broker was told, and sessions of revoked clients go on.
    #[error("sessions of revoked clients are not ended")]
    Sessions(#[source] Box<TellError>),
    /// The command does not end.
    #[error("{program} did not end within {} s and was killed", deadline.as_secs())]
    Late {
        /// The program.
        program: String,
        /// The time that it had.
        deadline: Duration,
    },
}

impl Change {
    /// Compares two CRLs; a million entries take a second.
    pub fn between(
        issuer: Arc<Issuer>,
        file: PathBuf,
        now: Arc<Crl>,
        before: Option<Arc<Crl>>,
    ) -> Self {
        let (new, old) = (now.serials(), before.as_ref().map(|crl| crl.serials()));
        let old = old.unwrap_or_default();
        let without = |from: &[SerialNumber], other: &[SerialNumber]| {
            let missing = from
                .iter()
                .filter(|serial| other.binary_search(serial).is_err());
            missing.copied().collect()
        };
        Self {
            revoked: without(&new, &old),
            unlisted: without(&old, &new),
            issuer,
            file,
            now,
            before,
        }
    }
}

impl BrokerConfig {
    /// Tells the broker; when this returns, new connections are judged by the CRLs in place.
    ///
    /// # Errors
    /// [`TellError`]: it is owed still; parts of it may have happened.
    pub async fn tell(&self, changes: &[Change]) -> Result<(), TellError> {
        let newly_revoked = changes.iter().any(|change| !change.revoked.is_empty());
        match &self.kind {
            Kind::Mosquitto { reload, restart } => {
                match reload {
                    Reload::PidFile(path) => hang_up(path)?,
                    Reload::Command(words) => run(words, &[], self.deadline).await?,
                }
                if let Some(words) = restart.as_ref().filter(|_| newly_revoked) {
                    let ended = run(words, &[], self.deadline).await;
                    ended.map_err(|why| TellError::Sessions(Box::new(why)))?;
                    tracing::info!(
                        "mosquitto was restarted: sessions of revoked clients are over, the others come back"
                    );
                }
                Ok(())
            }
            // It reads the files at each handshake.
            Kind::RabbitMq { control } => match control.as_ref().filter(|_| newly_revoked) {
                Some(words) => {
                    let ended = end_sessions(words, changes, self.deadline).await;
                    ended.map_err(|why| TellError::Sessions(Box::new(why)))
                }
                None => Ok(()),
            },
            Kind::Hook(words) => run(words, &hook_input(changes), self.deadline).await,
        }
    }
}

/// Sends SIGHUP to the Mosquitto whose process id is in a file.
fn hang_up(path: &Path) -> Result<(), TellError> {
    let unnamed = |source| TellError::PidFile {
        path: path.to_owned(),
        source,
    };
    use std::io::Read as _;
    let mut text = String::new();
    let (file, _) = regular::open(path).map_err(unnamed)?;
    let read = io::Read::take(file, PID_BYTES_MAX).read_to_string(&mut text);
    read.map_err(unnamed)?;
    let number = text.trim().parse::<i32>().ok().filter(|number| *number > 1);
    let pid = number.and_then(Pid::from_raw);
    let (Some(number), Some(pid)) = (number, pid) else {
        return Err(unnamed(io::Error::other("not the id of a process")));
    };
    // The descriptor stays with this process: what is asked of it now is signalled, whoever gets the id later.
    let process = pidfd_open(pid, PidfdFlags::empty()).map_err(|error| unnamed(error.into()))?;
    let found = std::fs::read_to_string(format!("/proc/{number}/comm")).map_err(unnamed)?;
    let found = found.trim();
    if found != MOSQUITTO {
        return Err(TellError::AnotherProcess {
            path: path.to_owned(),
            pid: number,
            found: found.to_owned(),
        });
    }
    let status = std::fs::read_to_string(format!("/proc/{number}/status")).map_err(unnamed)?;
    if !catches_hang_up(&status) {
        return Err(TellError::Starting { pid: number });
    }
    pidfd_send_signal(process, Signal::HUP).map_err(|error| TellError::Signal {
        pid: number,
        source: error.into(),
    })
}

/// Whether a process has a handler for SIGHUP, by its status (proc(5)): without one the signal ends it.
fn catches_hang_up(status: &str) -> bool {
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1.
    caught.is_some_and(|mask| mask & 1 == 1)
}

/// Ends the sessions of a RabbitMQ's revoked clients; of all clients where it cannot tell whose they are.
async fn end_sessions(
    words: &[String],
    changes: &[Change],
    deadline: Duration,
) -> Result<(), TellError> {
    let with = |more: [&str; 2]| [words, &more.map(str::to_owned)].concat();
    let files: Vec<String> = changes
        .iter()
        .map(|change| erlang_text(&change.file))
        .collect();
    let program = END_REVOKED.replace("FILES", &format!("[{}]", files.join(",")));
    match run(&with(["eval", &program]), &[], deadline).await {
        Ok(()) => {
            tracing::info!("sessions of revoked clients were ended");
            Ok(())
        }
        Err(error) => {
            tracing::warn!(
                error = crate::chain(&error),
                "rabbitmq cannot tell which sessions are revoked clients': all are ended"
            );
            run(&with(["close_all_connections", END_REASON]), &[], deadline).await
        }
    }
}

/// A path as an Erlang string that needs no quoting: the list of its octets.
fn erlang_text(path: &Path) -> String {
    let octets = path.as_os_str().as_encoded_bytes().iter();
    let numbers: Vec<String> = octets.map(ToString::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// What a hook is told of one CRL.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    issuer: &'a str,
    number: u64,
    previous_number: Option<u64>,
    file: String,
    this_update: String,
    next_update: String,
    newly_revoked: Vec<String>,
    no_longer_listed: Vec<String>,
}

/// The input of a hook: one JSON object.
fn hook_input(changes: &[Change]) -> Vec<u8> {
    let texts = |serials: &[SerialNumber]| serials.iter().map(ToString::to_string).collect();
    let told = |change: &Change| {
        serde_json::json!(Told {
            name: change.issuer.name.as_str(),
            issuer: &change.issuer.subject_text,
            number: change.now.number,
            previous_number: change.before.as_ref().map(|crl| crl.number),
            file: change.file.display().to_string(),
            this_update: change.now.this_update.to_string(),
            next_update: change.now.next_update.to_string(),
            newly_revoked: texts(&change.revoked),
            no_longer_listed: texts(&change.unlisted),
        })
    };
    let crls: Vec<serde_json::Value> = changes.iter().map(told).collect();
    let mut input = serde_json::json!({ "version": 1, "crls": crls })
        .to_string()
        .into_bytes();
    input.push(b'\n');
    input
}

/// Runs a command to its end, with this input.
async fn run(words: &[String], input: &[u8], deadline: Duration) -> Result<(), TellError> {
    let Some((program, arguments)) = words.split_first() else {
        return Ok(());
    };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true).process_group(0);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|source| TellError::Start {
        program: program.clone(),
        source,
    })?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
    let messages = [
        child.stdout.take().map(keep_end),
        child.stderr.take().map(keep_end),
    ];
    let stdin = child.stdin.take();
    let ended = timeout(deadline, async {
        if let Some(mut stdin) = stdin {
            // A command that does not read its input may know all the same what to do.
            let _unread = stdin.write_all(input).await;
        }
        child.wait().await
    });
    let Ok(ended) = ended.await else {
        return Err(TellError::Late {
            program: program.clone(),
            deadline,
        });
    };
    // What it left running was meant to run on.
    group.0 = None;
    let status = ended.map_err(|source| TellError::Start {
        program: program.clone(),
        source,
    })?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    for messages in messages.into_iter().flatten() {
        if let Ok(Ok(octets)) = timeout(MESSAGES_DEADLINE, messages).await {
            text.push_str(&String::from_utf8_lossy(&octets));
        }
    }
    Err(TellError::Failed {
        program: program.clone(),
        status,
        messages: text.split_whitespace().collect::<Vec<_>>().join(" "),
    })
}

/// A command and its children, killed when nobody waits for them any more.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Gone already is as good.
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads a pipe to its end and keeps the last of it.
fn keep_end(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> JoinHandle<Vec<u8>> {
    tokio::spawn(async move {
        let (mut kept, mut piece) = (Vec::new(), vec![0; MESSAGES_BYTES_MAX]);
        while let Ok(length) = pipe.read(&mut piece).await {
            let Some(octets) = piece.get(..length).filter(|octets| !octets.is_empty()) else {
                break;
            };
            kept.extend_from_slice(octets);
            let surplus = kept.len().saturating_sub(MESSAGES_BYTES_MAX);
            kept.drain(..surplus);
        }
        kept
    })
}
