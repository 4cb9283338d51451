//! Token hosts that a ceremony starts for itself and stops again.
//!
//! Owns the child processes. Promises that they are stopped when the ceremony ends, however it ends. Never
//! sees a PIN: the hosts read it. Failure story: a host that ends or does not log in fails the ceremony
//! before anything was made, with what the host says.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use crate::config::Config;
use crate::hsm::{Hsm, HsmError, TokenHealth};

/// How long hosts may take until their tokens are usable: loading a library and logging in over a network.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a host may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How often health is looked at.
const POLL: Duration = Duration::from_millis(100);

/// What to start as token hosts.
#[derive(Clone, Debug)]
pub struct HostProgram {
    /// The `hallmark-token` program.
    pub program: PathBuf,
    /// The configuration that hosts read.
    pub config: PathBuf,
}

/// Whether the hosts may make keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HostMode {
    /// They may: `--ceremony`.
    Ceremony,
    /// They only sign.
    Signing,
}

/// Why the tokens are not usable.
#[derive(Debug, thiserror::Error)]
pub enum HostFailed {
    /// The program does not start.
    #[error("the token host {} does not start", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// The process ended.
    #[error("the host of token {token} ended ({status}); it said why on standard error. {advice}")]
    Ended {
        /// The configured name.
        token: String,
        /// How.
        status: String,
        /// What to look at.
        advice: &'static str,
    },
    /// No login in time.
    #[error("a token is not usable: {problem}")]
    NotUsable {
        /// What its health says.
        problem: String,
    },
}

/// What to look at when a host ends by itself.
const ADVICE: &str =
    "Is the appliance stopped, so that the socket is free? Are module, uri and pin_file right?";

/// Running hosts, one for each token of the configuration.
pub(super) struct Hosts {
    children: Vec<(String, Child)>,
}

/// Whether waiting does not help: a PIN is not tried twice.
fn hopeless(health: &TokenHealth) -> bool {
    let token = || health.token.clone();
    [
        HsmError::PinRejected { token: token() },
        HsmError::PinLocked { token: token() },
    ]
    .iter()
    .any(|error| health.problem.as_deref() == Some(&*error.to_string()))
}

impl HostProgram {
    /// The `hallmark-token` beside the program that runs.
    ///
    /// # Errors
    /// The system's error: name the program instead.
    pub fn beside_this(config: PathBuf) -> std::io::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("hallmark-token");
        Ok(Self { program, config })
    }
}

impl Hosts {
    /// Starts a host for each token and waits until every token is usable.
    ///
    /// # Errors
    /// [`HostFailed`]; the hosts are stopped again.
    pub async fn start(
        with: &HostProgram,
        config: &Config,
        mode: HostMode,
    ) -> Result<(Self, Hsm), HostFailed> {
        let mut hosts = Self {
            children: Vec::with_capacity(config.tokens.len()),
        };
        for token in &config.tokens {
            let mut command = Command::new(&with.program);
            command.arg(&token.name).arg("--config").arg(&with.config);
            if mode == HostMode::Ceremony {
                command.arg("--ceremony");
            }
            // Standard output may be the transcript's; what hosts say goes to standard error.
            command.stdin(Stdio::null()).stdout(Stdio::null());
            // In a group of its own, so that Ctrl-C ends the ceremony, which then stops the hosts in order.
            command.process_group(0).kill_on_drop(true);
            let child = command.spawn().map_err(|source| HostFailed::Start {
                program: with.program.clone(),
                source,
            })?;
            hosts.children.push((token.name.clone(), child));
        }
        let started = match hosts.listening(config).await {
            Ok(()) => {
                let hsm = Hsm::open(&config.tokens);
                hosts.ready(&hsm).await.map(|()| hsm)
            }
            Err(failed) => Err(failed),
        };
        match started {
            Ok(hsm) => Ok((hosts, hsm)),
            Err(failed) => {
                hosts.stop().await;
                Err(failed)
            }
        }
    }

    /// Waits until every host's socket is there, or its host has ended.
    async fn listening(&mut self, config: &Config) -> Result<(), HostFailed> {
        let deadline = Instant::now() + START_DEADLINE;
        while !config.tokens.iter().all(|token| token.socket.exists()) {
            self.none_ended()?;
            if Instant::now() >= deadline {
                // The health of its token says so in better words.
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Refuses when a host has ended.
    fn none_ended(&mut self) -> Result<(), HostFailed> {
        for (token, child) in &mut self.children {
            let status = match child.try_wait() {
                Ok(None) => continue,
                Ok(Some(status)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            return Err(HostFailed::Ended {
                token: token.clone(),
                status,
                advice: ADVICE,
            });
        }
        Ok(())
    }

    /// Waits until every token is usable.
    async fn ready(&mut self, hsm: &Hsm) -> Result<(), HostFailed> {
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            self.none_ended()?;
            let Some(waiting) = hsm.health().into_iter().find(|health| !health.usable) else {
                return Ok(());
            };
            if hopeless(&waiting) || Instant::now() >= deadline {
                let problem = waiting
                    .problem
                    .unwrap_or_else(|| format!("token {} gives no reason", waiting.token));
                return Err(HostFailed::NotUsable { problem });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Stops all hosts: asks first, kills those that do not listen.
    pub async fn stop(self) {
        for (_, child) in &self.children {
            let pid = child.id().and_then(|id| i32::try_from(id).ok());
            if let Some(pid) = pid.and_then(Pid::from_raw) {
                // One that has ended meanwhile is what we want.
                let _ = rustix::process::kill_process(pid, Signal::TERM);
            }
        }
        for (token, mut child) in self.children {
            if tokio::time::timeout(STOP_DEADLINE, child.wait())
                .await
                .is_err()
            {
                tracing::warn!(token, "the token host does not stop and is killed");
                let _ = child.kill().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[tokio::test]
    async fn a_host_that_ends_is_told_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("hallmark.toml");
        let example = include_str!("../../hsm-config/softhsm2.toml");
        // A socket that nobody made, so that nothing is taken for a host's.
        std::fs::write(&file, example.replace("/run/hallmark-token-soft/", "")).unwrap();
        let config = Config::load(&file).unwrap();
        for (program, word) in [
            ("/bin/false", "token soft ended (exit status: 1)"),
            ("/nowhere", "does not start"),
        ] {
            let with = HostProgram {
                program: Path::new(program).to_owned(),
                config: file.clone(),
            };
            let failed = Hosts::start(&with, &config, HostMode::Ceremony).await;
            let failed = failed.map(|_| ()).unwrap_err().to_string();
            assert!(failed.contains(word), "{failed}");
        }
    }

    #[tokio::test]
    async fn hosts_are_stopped() {
        let mut command = Command::new("sleep");
        command.arg("600").process_group(0).kill_on_drop(true);
        let child = command.spawn().unwrap();
        let id = child.id().unwrap();
        let hosts = Hosts {
            children: vec![("soft".to_owned(), child)],
        };
        hosts.stop().await;
        assert!(!Path::new(&format!("/proc/{id}")).exists());
    }

    #[test]
    fn a_rejected_pin_is_hopeless() {
        let health = |problem: Option<String>| TokenHealth {
            token: "soft".to_owned(),
            usable: false,
            problem,
            signatures: 0,
            latency_us: None,
        };
        let token = || "soft".to_owned();
        let rejected = HsmError::PinRejected { token: token() }.to_string();
        assert!(hopeless(&health(Some(rejected))));
        let busy = HsmError::Busy { token: token() }.to_string();
        assert!(!hopeless(&health(Some(busy))) && !hopeless(&health(None)));
    }
}
