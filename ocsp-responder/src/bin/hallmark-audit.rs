//! Verifies a published log on a laptop: no key, no network, no trust in who handed it over.
//!
//! Owns the command line and the exit code; what is verified and how is [`certstatus::audit`]'s.
//! Exit code 0: verified; 1: a fault was found; 2: the command or a file given to it cannot be used.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use certstatus::audit::{self, Erased, Named, NotVerified, Options, Progress, Report, Source};
use certstatus::log::checkpoint::{BadNote, VerifierKey};
use clap::{Args, Parser, Subcommand};

/// Verifies Hallmark's signing logs, offline and without any key.
#[derive(Parser)]
#[command(name = "hallmark-audit", version)]
#[command(after_help = "Example: hallmark-audit verify --published public --log-key log.vkey")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What can be done with a log.
#[derive(Subcommand)]
enum Command {
    /// Replays a published log and reports the first fault, or a summary of what was signed.
    #[command(after_long_help = "\
Example:
  hallmark-audit verify --published /media/usb/public --details /media/usb/private \\
      --log-key log.vkey --checkpoint kept-in-march.txt --crl device-1-in-may.crl

Exit code: 0 the log verifies; 1 a fault was found; 2 the command or a file cannot be used.
Without --details the entries, their order, serials, issuers and heads are verified; with them,
every signature too.")]
    Verify(Verify),
}

/// The options of `verify`.
#[derive(Args)]
struct Verify {
    /// The directory `public`, with log/, ca/ and crl/ in it.
    #[arg(long, value_name = "DIR")]
    published: PathBuf,
    /// The directory `private`, with details/ in it.
    #[arg(long, value_name = "DIR")]
    details: Option<PathBuf>,
    /// The file with the log's verifier key (C2SP signed-note form): the one thing that is trusted.
    #[arg(long, value_name = "FILE")]
    log_key: PathBuf,
    /// Another checkpoint of this log, older, later or cosigned, to find a fork or truncation by.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// A CRL (DER or PEM) of an issuer of this log, whose log anchor serves like a checkpoint.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
    /// Count details that are gone, instead of reporting the first as a fault.
    #[arg(long, requires = "details")]
    allow_erased: bool,
    /// Print the summary or the fault as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Why the command cannot do its work.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    /// A file given on the command line.
    #[error("{path} cannot be read")]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// The file of the verifier key.
    #[error("{path} does not hold a log's verifier key")]
    LogKey {
        path: PathBuf,
        #[source]
        source: BadNote,
    },
    /// The directory of `--details`: without this, an audit would report its first detail as lost.
    #[error(
        "--details {0}: there is no directory details/ in it; name the directory that holds details/"
    )]
    Details(PathBuf),
    /// The published directory.
    #[error(transparent)]
    Log(#[from] audit::Unreadable),
    /// Standard output.
    #[error("the report cannot be written")]
    Output(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let Command::Verify(arguments) = Arguments::parse().command;
    match verify(&arguments) {
        Ok(code) => code,
        Err(unusable) => {
            eprintln!("hallmark-audit: {}", certstatus::chain(&unusable));
            ExitCode::from(2)
        }
    }
}

/// Verifies the log and prints the outcome.
fn verify(arguments: &Verify) -> Result<ExitCode, Unusable> {
    let options = read_options(arguments)?;
    if let Some(details) = &arguments.details
        && !details.join("details").is_dir()
    {
        return Err(Unusable::Details(details.clone()));
    }
    let source = Source {
        published: arguments.published.clone(),
        details: arguments.details.clone(),
    };
    let terminal = std::io::stderr().is_terminal();
    let verified = audit::verify(&source, &options, |progress| {
        if terminal {
            show_progress(progress);
        }
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    let (text, code) = match verified {
        Ok(report) if arguments.json => (json_of(&report), ExitCode::SUCCESS),
        Ok(report) => (text_of(&report), ExitCode::SUCCESS),
        Err(NotVerified::Fault(fault)) => {
            let sentence = certstatus::chain(&fault);
            let text = if arguments.json {
                let index = fault.index.map(|index| index.0);
                let fault = serde_json::json!({ "index": index, "sentence": sentence });
                serde_json::json!({ "verified": false, "fault": fault }).to_string()
            } else {
                format!("FAULT\n  {sentence}")
            };
            (text, ExitCode::from(1))
        }
        Err(NotVerified::Unreadable(unreadable)) => return Err(unreadable.into()),
    };
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(Unusable::Output)?;
    Ok(code)
}

/// Reads the files that the options name.
fn read_options(arguments: &Verify) -> Result<Options, Unusable> {
    let path = &arguments.log_key;
    let log_key =
        VerifierKey::parse(read_text(path)?.trim()).map_err(|source| Unusable::LogKey {
            path: path.clone(),
            source,
        })?;
    let name = |path: &Path| path.display().to_string();
    let mut checkpoints = Vec::new();
    for path in &arguments.checkpoint {
        checkpoints.push(Named {
            name: name(path),
            contents: read_text(path)?,
        });
    }
    let mut crls = Vec::new();
    for path in &arguments.crl {
        let contents = read(path)?;
        // PEM is told by its first character, which no DER SEQUENCE has; what is neither is refused later.
        let decoded = match contents.first() {
            Some(b'-') => der::pem::decode_vec(&contents).ok().map(|(_, der)| der),
            _ => None,
        };
        crls.push(Named {
            name: name(path),
            contents: decoded.unwrap_or(contents),
        });
    }
    let erased = if arguments.allow_erased {
        Erased::Counted
    } else {
        Erased::Fault
    };
    Ok(Options {
        log_key,
        checkpoints,
        crls,
        erased,
    })
}

/// Reads a file given on the command line.
fn read(path: &Path) -> Result<Vec<u8>, Unusable> {
    std::fs::read(path).map_err(|source| Unusable::File {
        path: path.to_owned(),
        source,
    })
}

/// Reads a text file given on the command line.
fn read_text(path: &Path) -> Result<String, Unusable> {
    std::fs::read_to_string(path).map_err(|source| Unusable::File {
        path: path.to_owned(),
        source,
    })
}

/// Redraws the line that says how far the audit has come, a hundred times at most.
fn show_progress(Progress { done, of }: Progress) {
    let step = (of / 100).max(1);
    if done == of || done / step != done.saturating_sub(256) / step {
        eprint!("\r{done} of {of} entries");
    }
}

/// The summary for programs.
fn json_of(report: &Report) -> String {
    serde_json::json!({ "verified": true, "report": report }).to_string()
}

/// The summary for people.
fn text_of(report: &Report) -> String {
    let mut text = String::from("VERIFIED\n");
    for (name, value) in entries_of(report).into_iter().chain(checks_of(report)) {
        text.push_str(&format!("  {name:<24}{value}\n"));
    }
    text
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
