//! Measures the responder's view over a log made by `made-log`: catching up, starting, memory, questions.
//!
//! ```text
//! cargo run --release -p ocsp-responder --example measure-view -- --log DIR --state STATE [--expect]
//! ```
//!
//! The first run follows the log from its beginning; later ones show what a restart costs. One line a figure.
//! `--expect` fails unless the start takes under 2 s and memory stays within 60 octets a certificate and 64 MiB.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use certstatus::log::IssuerName;
use certstatus::log::checkpoint::VerifierKey;
use certstatus::view::{Reader, Source, View};
use certstatus::{CertStatus, SerialNumber};
use clap::Parser;
use tokio::time::Instant;

/// Measures the responder's view.
#[derive(Parser)]
struct Arguments {
    /// The directory that `made-log` wrote.
    #[arg(long)]
    log: PathBuf,
    /// The view's state directory.
    #[arg(long)]
    state: PathBuf,
    /// Fail when the promised limits are exceeded.
    #[arg(long)]
    expect: bool,
    /// Questions to time.
    #[arg(long, default_value_t = 1_000_000)]
    questions: usize,
}

/// A figure of `/proc/self/status` in KiB.
fn memory(name: &str) -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next());
    figure
        .and_then(|figure| figure.parse().ok())
        .ok_or_else(|| io::Error::other("no such figure"))
}

/// The sample: issuer, serial, and whether it is revoked.
fn sample(arguments: &Arguments) -> io::Result<Vec<(IssuerName, SerialNumber, bool)>> {
    let text = std::fs::read_to_string(arguments.log.join("serials"))?;
    let parse = |line: &str| {
        let mut words = line.split(' ');
        let (issuer, serial) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some((issuer, serial, words.next()? == "revoked"))
    };
    let parsed: Option<Vec<_>> = text.lines().map(parse).collect();
    parsed.ok_or_else(|| io::Error::other("the sample is not what made-log writes"))
}

/// Asks for every serial of the sample and compares.
fn check(reader: &Reader, sample: &[(IssuerName, SerialNumber, bool)]) -> io::Result<()> {
    for (issuer, serial, revoked) in sample {
        let status = reader.status(issuer, *serial).map_err(io::Error::other)?;
        let right = match status {
            CertStatus::Good => !revoked,
            CertStatus::Revoked { .. } => *revoked,
            CertStatus::Unknown => false,
        };
        if !right {
            return Err(io::Error::other(format!(
                "{issuer} {serial}: {status:?} is wrong"
            )));
        }
    }
    Ok(())
}

/// Times questions: for each the sorted durations.
fn time(reader: &Reader, questions: usize, mut ask: impl FnMut(&Reader, usize)) -> Vec<Duration> {
    let mut times: Vec<Duration> = (0..questions)
        .map(|n| {
            let start = Instant::now();
            ask(reader, n);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

/// Prints the middle and the tail of some durations.
fn show(what: &str, times: &[Duration]) -> io::Result<()> {
    let at = |share: usize| {
        times
            .get(times.len() * share / 1000)
            .copied()
            .unwrap_or_default()
    };
    let mean =
        times.iter().sum::<Duration>() / u32::try_from(times.len().max(1)).unwrap_or(u32::MAX);
    writeln!(
        io::stdout(),
        "{what}: mean {mean:?}, median {:?}, p99 {:?}, p99.9 {:?}",
        at(500),
        at(990),
        at(999)
    )
}

/// The figures of an open view.
fn questions(reader: &Reader, arguments: &Arguments) -> io::Result<()> {
    let sample = sample(arguments)?;
    check(reader, &sample)?;
    writeln!(
        io::stdout(),
        "all {} serials of the sample have the status that they should",
        sample.len()
    )?;
    let pick = |n: usize| sample.get(n.wrapping_mul(7919) % sample.len().max(1));
    let known = time(reader, arguments.questions, |reader, n| {
        if let Some((issuer, serial, _)) = pick(n) {
            std::hint::black_box(reader.status(issuer, *serial)).ok();
        }
    });
    show("known serials", &known)?;
    let unknown = time(reader, arguments.questions, |reader, n| {
        if let Some((issuer, serial, _)) = pick(n) {
            let mut octets = *serial.as_bytes();
            octets
                .iter_mut()
                .skip(2)
                .for_each(|octet| *octet = octet.wrapping_add(77));
            let other = SerialNumber::from_random(octets);
            std::hint::black_box(reader.status(issuer, other)).ok();
        }
    });
    show("unknown serials", &unknown)
}

#[tokio::main]
async fn main() -> io::Result<()> {
    tracing_subscriber::fmt().with_writer(io::stderr).init();
    let arguments = Arguments::parse();
    let key = std::fs::read_to_string(arguments.log.join("log-key"))?;
    let key = VerifierKey::parse(key.trim()).map_err(io::Error::other)?;
    let before = memory("VmRSS:")?;
    let start = Instant::now();
    let mut view = View::open(&arguments.state, key).map_err(io::Error::other)?;
    let opened = start.elapsed();
    let source = Source::directory(arguments.log.join("public"));
    let start = Instant::now();
    let followed = view.follow(&source).await.map_err(io::Error::other)?;
    let took = start.elapsed();
    let mut out = io::stdout();
    writeln!(
        out,
        "opened in {opened:?}; {} entries read and verified in {took:?}",
        followed.entries
    )?;
    if followed.entries > 0 {
        let rate = followed.entries as f64 / took.as_secs_f64();
        writeln!(out, "{rate:.0} entries/s")?;
    }
    // Until the parts of the index are merged.
    let start = Instant::now();
    while view.is_merging() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        view.follow(&source).await.map_err(io::Error::other)?;
    }
    writeln!(out, "merged after {:?} more", start.elapsed())?;
    questions(&view.reader(), &arguments)?;
    let (now, peak) = (memory("VmRSS:")?, memory("VmHWM:")?);
    let certificates = view.reader().records();
    let limit = 60 * certificates / 1024 + 64 * 1024;
    writeln!(
        out,
        "{certificates} serials; resident {now} KiB ({:.2} octets a serial over the {before} KiB before), \
         peak {peak} KiB, limit {limit} KiB",
        (now.saturating_sub(before) * 1024) as f64 / certificates as f64
    )?;
    if arguments.expect && (opened > Duration::from_secs(2) || peak > limit) {
        return Err(io::Error::other("a limit is exceeded"));
    }
    Ok(())
}
