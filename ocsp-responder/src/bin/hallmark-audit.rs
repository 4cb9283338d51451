//! Verifies a published log on a laptop: no key, no network, no trust in who handed it over.
//!
//! Owns the command line and the exit code; what is verified and how is [`certstatus::audit`]'s.
//! Exit code 0: verified; 1: a fault was found; 2: the command or a file given to it cannot be used; further
//! ones, by command, tell answers apart. Failure story: what cannot be used is told on standard error, and
//! nothing is printed on standard output then.

// A binary's own modules would otherwise have to stand beside it, where Cargo takes them for binaries.
#[path = "hallmark-audit/proofs.rs"]
mod proofs;
#[path = "hallmark-audit/status.rs"]
mod status;
#[path = "hallmark-audit/verify.rs"]
mod verify;

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use certstatus::audit::{self, Erased, HeadFile, Named, NotVerified, Options, Progress};
use certstatus::log::checkpoint::{BadNote, VerifierKey};
use certstatus::serial::NotASerial;
use certstatus::{SerialNumber, chain};
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
    Verify(verify::Verify),
    /// Says what a certificate is worth, after a replay of the whole published log.
    #[command(after_long_help = "\
Example:
  hallmark-audit status 4f3c0de95b6a7788990a0b0c0d0e0f10 --published public --log-key log.vkey

Exit code: 0 good; 3 revoked, on hold or unresolved; 4 unknown: never issued, or not by
--issuer; 1 the log does not verify, so it says nothing of any certificate; 2 the command or a
file cannot be used.
Nothing less than the whole log shows that no later entry revokes the certificate. The answer
holds for the head that is printed: an older copy of the log has an older answer, which
--checkpoint and --crl with anything newer find out.")]
    Status(status::Status),
    /// Proves that the entries about a serial are in the log.
    #[command(after_long_help = "\
Example:
  hallmark-audit inclusion 4f3c0de95b6a7788990a0b0c0d0e0f10 --published public --log-key log.vkey \\
      --output device.proof
  hallmark-audit check-proof device.proof --log-key log.vkey

Exit code: 0 proved; 4 the tree has no entry about the serial; 1 a fault was found; 2 the
command or a file cannot be used.
The proof shows that these entries are in the log, not that no other is: what the certificate
is worth, `hallmark-audit status` says.")]
    Inclusion(proofs::InclusionOf),
    /// Proves that one head of the log extends another, or finds the fork.
    #[command(after_long_help = "\
Example:
  hallmark-audit consistency kept-in-march.txt device-1-in-may.crl --published public \\
      --log-key log.vkey --output march-to-may.proof

Exit code: 0 the newer head extends the older one, whichever was named first; 1 a fork or
another fault was found; 2 the command or a file cannot be used.
Of a CRL its log anchor is taken; whether an issuer of the log signed it,
`hallmark-audit verify --crl` says.")]
    Consistency(proofs::ConsistencyOf),
    /// Checks a file that `inclusion` or `consistency` wrote, without the log.
    #[command(after_long_help = "\
Example:
  hallmark-audit check-proof device.proof --log-key log.vkey

Exit code: 0 the proof holds; 1 it does not, or the file is no proof; 2 the command or a file
cannot be used.")]
    CheckProof(proofs::CheckProof),
}

/// The log, and the key that it must be signed by.
#[derive(Args)]
struct Log {
    /// The directory `public`, with log/, ca/ and crl/ in it.
    #[arg(long, value_name = "DIR")]
    published: PathBuf,
    #[command(flatten)]
    key: LogKey,
}

impl Log {
    /// The key.
    fn key(&self) -> Result<VerifierKey, Unusable> {
        self.key.read()
    }
}

/// The key that heads must be signed by.
#[derive(Args)]
struct LogKey {
    /// The file with the log's verifier key (C2SP signed-note form): the one thing that is trusted.
    #[arg(long, value_name = "FILE")]
    log_key: PathBuf,
}

impl LogKey {
    /// Reads it.
    fn read(&self) -> Result<VerifierKey, Unusable> {
        let path = &self.log_key;
        VerifierKey::parse(read_text(path)?.trim()).map_err(|source| Unusable::LogKey {
            path: path.clone(),
            source,
        })
    }
}

/// Other heads that the log must extend.
#[derive(Args)]
struct Witnesses {
    /// Another checkpoint of this log, older, later or cosigned, to find a fork or truncation by.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// A CRL (DER or PEM) of an issuer of this log, whose log anchor serves like a checkpoint.
    #[arg(long, value_name = "FILE")]
    crl: Vec<PathBuf>,
}

impl Witnesses {
    /// Reads them.
    fn options(&self, log_key: VerifierKey, erased: Erased) -> Result<Options, Unusable> {
        let mut checkpoints = Vec::new();
        for path in &self.checkpoint {
            let (name, contents) = (name_of(path), read_text(path)?);
            checkpoints.push(Named { name, contents });
        }
        let mut crls = Vec::new();
        for path in &self.crl {
            let (name, contents) = (name_of(path), decoded(read(path)?));
            crls.push(Named { name, contents });
        }
        Ok(Options {
            log_key,
            checkpoints,
            crls,
            erased,
        })
    }
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
    /// The file of `--output`.
    #[error("the proof cannot be written to {path}")]
    Proof {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Standard output.
    #[error("the report cannot be written")]
    Output(#[source] std::io::Error),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Verify(verify) => verify.run(),
        Command::Status(status) => status.run(),
        Command::Inclusion(inclusion) => inclusion.run(),
        Command::Consistency(consistency) => consistency.run(),
        Command::CheckProof(check) => check.run(),
    };
    done.unwrap_or_else(|unusable| {
        eprintln!("hallmark-audit: {}", chain(&unusable));
        ExitCode::from(2)
    })
}

/// Prints the answer.
fn answer(text: &str, code: ExitCode) -> Result<ExitCode, Unusable> {
    writeln!(std::io::stdout(), "{}", text.trim_end()).map_err(Unusable::Output)?;
    Ok(code)
}

/// Goes on with what was found, or prints the fault: `word` is what JSON then says did not come about.
fn conclude<T>(
    found: Result<T, NotVerified>,
    json: bool,
    word: &str,
    go_on: impl FnOnce(T) -> Result<ExitCode, Unusable>,
) -> Result<ExitCode, Unusable> {
    match found {
        Ok(found) => go_on(found),
        Err(NotVerified::Fault(fault)) => {
            let index = fault.index.map(|index| index.0);
            fault_found(&chain(&fault), index, json, word)
        }
        Err(NotVerified::Unreadable(unreadable)) => Err(unreadable.into()),
    }
}

/// Prints a fault.
fn fault_found(
    sentence: &str,
    index: Option<u64>,
    json: bool,
    word: &str,
) -> Result<ExitCode, Unusable> {
    let text = if json {
        let fault = serde_json::json!({ "index": index, "sentence": sentence });
        serde_json::json!({ word: false, "fault": fault }).to_string()
    } else {
        format!("FAULT\n  {sentence}")
    };
    answer(&text, ExitCode::from(1))
}

/// Lines of a name and a value under a heading.
fn lines_of(heading: &str, lines: impl IntoIterator<Item = (String, String)>) -> String {
    let mut text = format!("{heading}\n");
    for (name, value) in lines {
        text.push_str(&format!("  {name:<24}{value}\n"));
    }
    text
}

/// Reads a serial as people have it: digits of either case, octets perhaps with colons between them.
fn serial(text: &str) -> Result<SerialNumber, NotASerial> {
    text.replace(':', "").to_ascii_lowercase().parse()
}

/// What a file is called in reports.
fn name_of(path: &Path) -> String {
    path.display().to_string()
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

/// DER of a file in DER or PEM, told by its first character, which no DER SEQUENCE has; what is neither is
/// refused later.
fn decoded(contents: Vec<u8>) -> Vec<u8> {
    let decoded = match contents.first() {
        Some(b'-') => der::pem::decode_vec(&contents).ok().map(|(_, der)| der),
        _ => None,
    };
    decoded.unwrap_or(contents)
}

/// Reads a checkpoint, or a CRL (DER or PEM) for its log anchor.
fn read_head(path: &Path) -> Result<Named<HeadFile>, Unusable> {
    // The first octet of a CRL in DER, which is never UTF-8 as a whole: the length after it is above 127.
    const SEQUENCE: u8 = 0x30;
    let name = name_of(path);
    let bytes = read(path)?;
    let pem = bytes.starts_with(b"-----BEGIN X509 CRL-----");
    let contents = match String::from_utf8(bytes) {
        Ok(text) if !pem => HeadFile::Note(text),
        Ok(text) => HeadFile::Crl(decoded(text.into_bytes())),
        Err(other) => {
            let bytes = other.into_bytes();
            if bytes.first() != Some(&SEQUENCE) {
                let source = std::io::Error::new(
                    std::io::ErrorKind::InvalidData,
                    "neither a checkpoint's text nor a CRL",
                );
                let path = path.to_owned();
                return Err(Unusable::File { path, source });
            }
            HeadFile::Crl(bytes)
        }
    };
    Ok(Named { name, contents })
}

/// The line on the terminal that says how far a command has come; it goes away with this value.
struct Progressing {
    terminal: bool,
}

impl Progressing {
    /// Shows nothing where standard error is no terminal.
    fn start() -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self { terminal }
    }

    /// Redraws the line, a hundred times at most.
    fn show(&self, Progress { done, of }: Progress) {
        let step = (of / 100).max(1);
        if self.terminal && (done == of || done / step != done.saturating_sub(256) / step) {
            eprint!("\r{done} of {of} entries");
        }
    }
}

impl Drop for Progressing {
    fn drop(&mut self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }
}
