//! `hallmark-audit status`: what one certificate is worth.
//!
//! Owns its options, its report and its exit codes. Never judges: [`certstatus::audit::status`] does. Failure
//! story: of a log that does not verify only the fault is printed, with exit code 1, and no status.

use std::process::ExitCode;

use certstatus::audit::{self, About, Erased, Question, Source, Standing};
use certstatus::log::IssuerName;
use certstatus::{CertStatus, SerialNumber};
use clap::Args;

use crate::{Log, Progressing, Unusable, Witnesses, answer, conclude, lines_of, serial};

/// The options of `status`.
#[derive(Args)]
pub struct Status {
    /// The certificate's serial, 32 hex digits.
    #[arg(value_parser = serial)]
    serial: SerialNumber,
    #[command(flatten)]
    log: Log,
    /// Only a certificate of this issuer is meant; that of another one is unknown.
    #[arg(long, value_name = "NAME")]
    issuer: Option<IssuerName>,
    #[command(flatten)]
    witnesses: Witnesses,
    /// Print the status or the fault as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Status {
    /// Verifies the log and prints the status.
    pub fn run(&self) -> Result<ExitCode, Unusable> {
        let options = self.witnesses.options(self.log.key()?, Erased::Fault)?;
        let source = Source {
            published: self.log.published.clone(),
            details: None,
        };
        let question = Question {
            serial: self.serial,
            issuer: self.issuer.clone(),
        };
        let progressing = Progressing::start();
        let standing = audit::status(&source, &options, &question, |now| progressing.show(now));
        drop(progressing);
        conclude(standing, self.json, "verified", |standing| {
            let text = if self.json {
                serde_json::json!({ "verified": true, "standing": standing }).to_string()
            } else {
                self.text_of(&standing)
            };
            answer(&text, code_of(standing.status))
        })
    }

    /// The status for people.
    fn text_of(&self, standing: &Standing) -> String {
        let heading = match standing.status {
            CertStatus::Good => "GOOD",
            CertStatus::Revoked { .. } => "REVOKED",
            CertStatus::Unknown => "UNKNOWN",
        };
        let mut lines: Vec<(String, String)> = vec![("serial".into(), standing.serial.to_string())];
        let mut line = |name: &str, value: String| lines.push((name.to_owned(), value));
        match (&standing.issuer, &self.issuer) {
            (Some(issuer), Some(asked)) if issuer != asked => {
                line("issuer", format!("{issuer}, not {asked}"));
            }
            (Some(issuer), _) => line("issuer", issuer.to_string()),
            (None, _) => line("entries", "none: the log has never had this serial".into()),
        }
        if let CertStatus::Revoked { at, reason } = standing.status {
            line("revoked since", at.to_string());
            let unresolved = "none: a signature may exist that nobody was given";
            line(
                "reason",
                reason.map_or_else(|| unresolved.to_owned(), |reason| reason.to_string()),
            );
        }
        for about in &standing.entries {
            let (name, value) = line_of(about);
            line(&name, value);
        }
        line("log", standing.origin.clone());
        line(
            "holds for the head of",
            format!("{} entries", standing.size),
        );
        line("root", standing.root.to_string());
        line(
            "newest entry",
            format!("{} (the log says nothing of later)", standing.newest),
        );
        for head in &standing.agrees_with {
            line("extends", format!("{} ({} entries)", head.by, head.size));
        }
        lines_of(heading, lines)
    }
}

/// An entry, as a name and a value.
pub fn line_of(about: &About) -> (String, String) {
    let name = format!("entry {}", about.index);
    (name, format!("{} {}", about.time, about.act))
}

/// The exit code that tells the status.
fn code_of(status: CertStatus) -> ExitCode {
    match status {
        CertStatus::Good => ExitCode::SUCCESS,
        CertStatus::Revoked { .. } => ExitCode::from(3),
        CertStatus::Unknown => ExitCode::from(4),
    }
}
