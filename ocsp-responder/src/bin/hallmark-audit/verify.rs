//! `hallmark-audit verify`: the whole log, and a summary of what was signed.
//!
//! Owns its options and its report. Never judges: [`certstatus::audit`] does. Failure story: a fault is printed
//! as the answer, with exit code 1; a file that cannot be used ends the command before anything is printed.

use std::path::PathBuf;
use std::process::ExitCode;

use certstatus::audit::{self, Erased, Report, Source};
use clap::Args;

use crate::{Log, Progressing, Unusable, Witnesses, answer, conclude, lines_of};

/// The options of `verify`.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    log: Log,
    /// The directory `private`, with details/ in it.
    #[arg(long, value_name = "DIR")]
    details: Option<PathBuf>,
    #[command(flatten)]
    witnesses: Witnesses,
    /// Count details that are gone, instead of reporting the first as a fault.
    #[arg(long, requires = "details")]
    allow_erased: bool,
    /// Print the summary or the fault as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Verify {
    /// Verifies the log and prints the outcome.
    pub fn run(&self) -> Result<ExitCode, Unusable> {
        let erased = if self.allow_erased {
            Erased::Counted
        } else {
            Erased::Fault
        };
        let options = self.witnesses.options(self.log.key()?, erased)?;
        if let Some(details) = &self.details
            && !details.join("details").is_dir()
        {
            return Err(Unusable::Details(details.clone()));
        }
        let source = Source {
            published: self.log.published.clone(),
            details: self.details.clone(),
        };
        let progressing = Progressing::start();
        let verified = audit::verify(&source, &options, |now| progressing.show(now));
        drop(progressing);
        conclude(verified, self.json, "verified", |report| {
            let text = if self.json {
                json_of(&report)
            } else {
                text_of(&report)
            };
            answer(&text, ExitCode::SUCCESS)
        })
    }
}

/// The summary for programs.
fn json_of(report: &Report) -> String {
    serde_json::json!({ "verified": true, "report": report }).to_string()
}

/// The summary for people.
fn text_of(report: &Report) -> String {
    let lines = entries_of(report).into_iter().chain(checks_of(report));
    lines_of("VERIFIED", lines)
}

/// What the log says, as lines of a name and a value.
fn entries_of(report: &Report) -> Vec<(String, String)> {
    let certificates = &report.certificates;
    let newest = format!("{} (the log says nothing of later)", report.newest);
    let mut lines: Vec<(String, String)> = vec![
        ("log".into(), report.origin.clone()),
        ("entries".into(), report.entries.to_string()),
        ("root".into(), report.root.to_string()),
        ("oldest entry".into(), report.oldest.to_string()),
        ("newest entry".into(), newest),
        (
            "certificates issued".into(),
            certificates.issued.to_string(),
        ),
        ("  abandoned".into(), certificates.abandoned.to_string()),
        ("  unresolved".into(), certificates.unresolved.to_string()),
        ("  open".into(), certificates.open.to_string()),
        ("  revoked".into(), certificates.revoked.to_string()),
    ];
    for (class, tally) in &report.classes {
        let name = format!("signatures, {}", audit::ClassName(*class));
        lines.push((
            name,
            format!("{} in {} attempts", tally.signatures, tally.attempts),
        ));
    }
    for (order, issued) in &report.orders {
        lines.push((
            "certificates for order".into(),
            format!("{order}: {issued}"),
        ));
    }
    for (order, units) in &report.units_returned {
        lines.push((
            "units given back".into(),
            format!("{order}: {units} that were held"),
        ));
    }
    for entry in &report.unwitnessed_starts {
        let told =
            format!("entry {entry}: accepted by an operator, not confirmed by every witness");
        lines.push(("UNWITNESSED START".into(), told));
    }
    for (issuer, bound) in &report.issuers {
        let key = bound
            .spki_sha256
            .map_or_else(|| "no key".to_owned(), |key| key.to_string());
        lines.push(("issuer".into(), format!("{issuer}, key {key}")));
    }
    lines
}

/// What was checked, and against what, as lines of a name and a value.
fn checks_of(report: &Report) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut line = |name: &str, value| lines.push((name.to_owned(), value));
    match &report.details {
        None => line(
            "details",
            "not given: signatures were not verified".to_owned(),
        ),
        Some(details) => {
            let (matched, erased) = (details.matched, details.erased);
            line(
                "details",
                format!("{matched} match their leaves, {erased} erased"),
            );
            let (good, open) = (details.signatures_verified, details.signatures_unverified);
            line(
                "signatures verified",
                format!("{good} ({open} lack a detail)"),
            );
        }
    }
    let (checked, missing) = (report.tiles_checked, report.tiles_missing);
    line(
        "hash tiles",
        format!("{checked} agree, {missing} are not published"),
    );
    for crl in &report.crls {
        let age = if crl.number < crl.newest {
            ", out of date"
        } else {
            ""
        };
        let (by, number, newest) = (&crl.by, crl.number, crl.newest);
        line(
            "CRL",
            format!("{by}: number {number}, the newest is {newest}{age}"),
        );
    }
    for head in &report.agrees_with {
        line("extends", format!("{} ({} entries)", head.by, head.size));
    }
    lines
}
