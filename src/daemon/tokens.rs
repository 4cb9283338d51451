//! Token hosts as children of `hallmark run`, for places without systemd.
//!
//! Promises that each configured token has a running host until the daemon stops, and none after it. Never
//! reads a PIN: each host does. Failure story: a host that ends is started again after a pause, one too whose PIN
//! file is not there yet, except one that says that its configuration is wrong or its PIN file open to others: that
//! is told once and left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::DaemonError;
use crate::config::Config;
use crate::hsm::host::MISCONFIGURED;

/// The pause before a host that ended is started again.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// How long a host may take to stop before it is killed.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The running hosts.
pub(super) struct Hosts {
    stop: watch::Sender<()>,
    watchers: Vec<JoinHandle<()>>,
}

impl Hosts {
    /// Starts one host for each token, from the binary beside this one.
    pub(super) fn start(config: &Config, config_path: &Path) -> Result<Self, DaemonError> {
        let (stop, stopping) = watch::channel(());
        let mut watchers = Vec::new();
        for token in &config.tokens {
            let failed = |source| DaemonError::TokenHost {
                token: token.name.clone(),
                source,
            };
            let binary = beside_this_binary().map_err(failed)?;
            let host = Host {
                binary,
                token: token.name.clone(),
                config: config_path.to_owned(),
            };
            let child = host.spawn().map_err(failed)?;
            watchers.push(tokio::spawn(host.watch(child, stopping.clone())));
        }
        Ok(Self { stop, watchers })
    }

    /// Ends all hosts and waits for them.
    pub(super) async fn stop(self) {
        drop(self.stop);
        for watcher in self.watchers {
            // A watcher that panicked has dropped its child, which kills it.
            let _ended = watcher.await;
        }
    }
}

/// How to start one host.
struct Host {
    binary: PathBuf,
    token: String,
    config: PathBuf,
}

impl Host {
    /// Starts the process.
    fn spawn(&self) -> std::io::Result<Child> {
        Command::new(&self.binary)
            .arg(&self.token)
            .arg("--config")
            .arg(&self.config)
            .stdin(std::process::Stdio::null())
            // In a group of its own: Ctrl-C is for the daemon, whose last requests still need the token.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// Keeps the process running until the daemon stops.
    async fn watch(self, mut child: Child, mut stopping: watch::Receiver<()>) {
        loop {
            tokio::select! {
                status = child.wait() => {
                    let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
                    if code == Some(i32::from(MISCONFIGURED)) {
                        tracing::error!(
                            token = %self.token,
                            "the token host said what an operator must mend, and is not started again: \
                             correct it, then restart"
                        );
                        return;
                    }
                    tracing::error!(token = %self.token, ?code, "the token host ended");
                }
                _ended = stopping.changed() => {
                    terminate(&mut child).await;
                    return;
                }
            }
            tokio::time::sleep(RESTART_PAUSE).await;
            match self.spawn() {
                Ok(again) => child = again,
                Err(error) => tracing::error!(token = %self.token, %error, "cannot start the host"),
            }
        }
    }
}

/// Asks a child to end, and kills it when it does not.
async fn terminate(child: &mut Child) {
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _asked = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    if tokio::time::timeout(STOP_DEADLINE, child.wait())
        .await
        .is_err()
    {
        let _killed = child.kill().await;
    }
}

/// `hallmark-token` in the directory of the running program.
fn beside_this_binary() -> std::io::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let binary = this.with_file_name("hallmark-token");
    if binary.is_file() {
        return Ok(binary);
    }
    let text = format!(
        "{} is not there: install it beside hallmark",
        binary.display()
    );
    Err(std::io::Error::new(std::io::ErrorKind::NotFound, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_is_started_again_unless_its_configuration_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let (script, starts) = (
            directory.path().join("host"),
            directory.path().join("starts"),
        );
        // Ends as a host that found its socket taken, then as one whose configuration is wrong.
        let text = "echo started >>\"$2\"; test $(wc -l <\"$2\") -gt 1 && exit 2; exit 1\n";
        std::fs::write(&script, text).unwrap();
        let host = Host {
            binary: PathBuf::from("/bin/sh"),
            token: script.display().to_string(),
            config: starts.clone(),
        };
        let (_stop, stopping) = watch::channel(());
        let child = host.spawn().unwrap();
        let watched = tokio::time::timeout(Duration::from_secs(60), host.watch(child, stopping));
        assert!(watched.await.is_ok(), "a wrong configuration is left alone");
        assert_eq!(
            std::fs::read_to_string(&starts).unwrap(),
            "started\n".repeat(2)
        );
    }
}
