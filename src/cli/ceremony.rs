//! `hallmark ceremony …`: runs, rehearses and completes ceremonies in front of people.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::{CeremonyCommand, CliError, Output, print, print_json};
use crate::ceremony::{self, CeremonyError, HostProgram, Plan, PlanRefused};
use crate::config::Config;
use crate::time::Clock;

/// Why a ceremony command failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    /// The ceremony file.
    #[error("the ceremony file cannot be used; nothing was made")]
    Plan(#[from] PlanRefused),
    /// The ceremony.
    #[error(transparent)]
    Ceremony(#[from] CeremonyError),
    /// The token host's program.
    #[error("hallmark-token is not found beside this program; install both in one directory")]
    Host(#[source] std::io::Error),
}

/// Does what the command says, telling each step before it is taken.
pub(super) async fn execute(
    command: CeremonyCommand,
    config: &Config,
    config_path: PathBuf,
    output: Output,
) -> Result<(), CliError> {
    let hosts = HostProgram::beside_this(config_path).map_err(Failed::Host)?;
    let clock = Clock::system();
    match command {
        CeremonyCommand::Run { file, dry_run } => {
            let plan = Plan::load(&file, config).map_err(Failed::from)?;
            if dry_run {
                let rehearsal = ceremony::rehearse(config, &plan, clock, &hosts, progress).await;
                let rehearsal = rehearsal.map_err(Failed::from)?;
                return match output {
                    Output::Json => print_json(&rehearsal),
                    Output::Text => print(&rehearsal.to_string()),
                };
            }
            let made = ceremony::run(config, plan, clock, &hosts, progress).await;
            let transcript = made.map_err(Failed::from)?;
            match output {
                Output::Json => print_json(&transcript),
                Output::Text => print(&transcript.to_string()),
            }
        }
        CeremonyCommand::Accept {
            issuer,
            certificates,
        } => {
            let answer = read(&certificates)?;
            let taken = ceremony::accept(config, &issuer, &answer, clock, &hosts, progress).await;
            let accepted = taken.map_err(Failed::from)?;
            match output {
                Output::Json => print_json(&accepted),
                Output::Text => print(&format!(
                    "{}: certificate {} by {} ({}) is in the log\n",
                    accepted.issuer, accepted.sha256, accepted.root, accepted.root_sha256
                )),
            }
        }
    }
}

/// Tells a step on standard error, so that the transcript alone is on standard output.
fn progress(step: &str) {
    let _written = writeln!(std::io::stderr(), "- {step}");
}

/// The root's answer, as text.
fn read(path: &Path) -> Result<String, CliError> {
    std::fs::read_to_string(path).map_err(|source| CliError::Read {
        path: path.to_owned(),
        source,
    })
}
