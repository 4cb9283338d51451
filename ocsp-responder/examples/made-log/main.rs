//! Makes a published log of any size for tests and benchmarks: signed checkpoint, tiles, leaves, issuers.
//!
//! ```text
//! cargo run --release -p ocsp-responder --example made-log -- --out DIR --certificates 10000000 --revoked 500000
//! ```
//!
//! `DIR` gets `public/` as the appliance publishes it (details excepted; the CRLs are the issuers' first ones, which
//! list nothing), `log-key` (the verifier key), `ISSUER.key` (PKCS#8, DER) for issuers made here, and `serials`: an even
//! sample of serials, a line each, with the issuer and the status that a responder must tell.

mod ca;
mod log;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use certstatus::crl::LogAnchor;
use certstatus::log::{DetailHash, EntryKind, IssuerName, Outcome};
use certstatus::{RevocationReason, UnixMillis, durable};
use clap::Parser;
use log::{MadeLog, serial};

/// Entries between two lines of progress.
const PROGRESS_ENTRIES: u64 = 2_000_000;

/// Makes a published log of any size.
#[derive(Parser)]
struct Arguments {
    /// Where to write; made if missing, must be empty.
    #[arg(long)]
    out: PathBuf,
    /// Certificates to issue.
    #[arg(long)]
    certificates: u64,
    /// How many of them to revoke, evenly spread.
    #[arg(long, default_value_t = 0)]
    revoked: u64,
    /// The log's origin.
    #[arg(long, default_value = "log.example/made")]
    origin: String,
    /// Chooses the log key and the serials.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Issuers, whose keys and certificates are made; certificates are theirs in turn.
    #[arg(long, default_value = "device-1")]
    issuer: Vec<IssuerName>,
    /// The time of the newest entry, milliseconds since 1970; the clock's by default.
    #[arg(long)]
    newest: Option<u64>,
    /// Serials to write down as a sample.
    #[arg(long, default_value_t = 10_000)]
    samples: u64,
}

/// Milliseconds since 1970.
#[expect(
    clippy::disallowed_methods,
    reason = "a benchmark's log must look fresh"
)]
fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}

/// The reasons of made revocations, in turn.
const REASONS: [RevocationReason; 5] = [
    RevocationReason::Unspecified,
    RevocationReason::KeyCompromise,
    RevocationReason::Superseded,
    RevocationReason::CessationOfOperation,
    RevocationReason::CertificateHold,
];

/// Whether the `n`th of `certificates` is one of the `revoked` ones, evenly spread.
fn is_revoked(n: u64, arguments: &Arguments) -> bool {
    let share =
        |n: u64| u128::from(n) * u128::from(arguments.revoked) / u128::from(arguments.certificates);
    share(n + 1) > share(n)
}

/// Writes the issuers' keys and certificates and their entries.
fn issuers(log: &mut MadeLog, arguments: &Arguments) -> io::Result<()> {
    for name in &arguments.issuer {
        let made = ca::Ca::new(name.as_str())?;
        durable::write(
            &arguments.out.join(format!("public/ca/{name}.cer")),
            &made.certificate,
        )?;
        made.write_key(&arguments.out.join(format!("{name}.key")))?;
        log.push(EntryKind::Issuer {
            issuer: name.clone(),
            spki: DetailHash::of(&made.spki).0,
            certificate: DetailHash::of(&made.certificate).0,
        })?;
        // As a ceremony does: by its first CRL an issuer says which log is its own.
        let anchor = LogAnchor {
            origin: &arguments.origin,
            log_key: &log.key().to_string(),
            checkpoint: &log.sign(&log.head())?,
        };
        let crl = made.crl(1, UnixMillis(log.time), anchor)?;
        durable::write(&arguments.out.join(format!("public/crl/{name}.crl")), &crl)?;
        log.crl(name, 1, 0, Outcome::Issued { attempts: 1 })?;
    }
    Ok(())
}

/// Writes all certificates and revocations, and the sample.
fn certificates(log: &mut MadeLog, arguments: &Arguments) -> io::Result<()> {
    let sample = std::fs::File::create(arguments.out.join("serials"))?;
    let mut sample = io::BufWriter::new(sample);
    let every = (arguments.certificates / arguments.samples.max(1)).max(1);
    let mut told = 0;
    let mut names = arguments.issuer.iter().cycle();
    let mut reasons = REASONS.iter().cycle();
    for n in 0..arguments.certificates {
        let (Some(name), serial) = (names.next(), serial(arguments.seed, n)) else {
            return Err(io::Error::other("there is no issuer"));
        };
        log.certificate(name, serial, Outcome::Issued { attempts: 1 })?;
        let revoked = is_revoked(n, arguments);
        if revoked && let Some(reason) = reasons.next() {
            log.revoke(name, serial, *reason)?;
        }
        if n % every == 0 {
            writeln!(
                sample,
                "{name} {serial} {}",
                if revoked { "revoked" } else { "good" }
            )?;
        }
        if log.size() >= told + PROGRESS_ENTRIES {
            told = log.size();
            writeln!(
                io::stderr(),
                "{told} entries, {} of {} certificates",
                n + 1,
                arguments.certificates
            )?;
        }
    }
    sample.flush()
}

/// Refuses a directory that has something in it.
fn empty(directory: &Path) -> io::Result<()> {
    std::fs::create_dir_all(directory)?;
    match std::fs::read_dir(directory)?.next() {
        None => Ok(()),
        Some(_) => Err(io::Error::other(format!(
            "{} is not empty",
            directory.display()
        ))),
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    if arguments.revoked > arguments.certificates {
        return Err(io::Error::other("more are to be revoked than issued"));
    }
    empty(&arguments.out)?;
    let log_seed = DetailHash::of(format!("log key {}", arguments.seed).as_bytes()).0;
    let entries =
        2 + 3 * arguments.issuer.len() as u64 + 2 * arguments.certificates + arguments.revoked;
    let newest = arguments.newest.unwrap_or_else(now);
    let oldest = newest.saturating_sub(entries - 1);
    let mut log = MadeLog::new(
        &arguments.out.join("public"),
        &arguments.origin,
        log_seed,
        oldest,
    )?;
    issuers(&mut log, &arguments)?;
    certificates(&mut log, &arguments)?;
    log.push(EntryKind::Tick)?;
    let head = log.publish()?;
    durable::write(
        &arguments.out.join("log-key"),
        format!("{}\n", log.key()).as_bytes(),
    )?;
    writeln!(
        io::stdout(),
        "{} entries; the log key is {}",
        head.size,
        log.key()
    )
}
