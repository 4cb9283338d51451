//! A factory line: stations that each keep a connection with the line's certificate and send devices' requests.
//!
//! This is the project's example of a client, and the load of its benchmark. What a real line needs is all
//! here: one connection kept alive, the same request again when an answer got lost, and a check that the
//! certificate that came back is for the device's own key.
#![expect(
    clippy::disallowed_methods,
    reason = "what it measures is real time, and nothing tests it against another"
)]

mod client;
mod device;
mod report;
mod station;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use clap::Parser;

use client::{Api, Connection, Identity};
use report::{Durations, Report, cpu_seconds};
use station::{Run, Tally};

/// Requests made before a timed stretch of sending; more are made between stretches.
const REQUESTS_AT_ONCE: usize = 100_000;

/// Asks an appliance for device certificates, as a factory line does.
#[derive(Parser)]
#[command(
    name = "line",
    after_help = "Example, after `softhsm/quickstart.sh --dir DIR --keep` and `. DIR/env`:\n\n  \
    line --api $HALLMARK_API --ca $HALLMARK_SERVER_CA --cert $HALLMARK_LINE_CERT \\\n       \
    --key $HALLMARK_LINE_KEY --order demo --connections 8 --count 1000"
)]
struct Args {
    /// The appliance's base URL: https://HOST:PORT
    #[arg(long)]
    api: String,
    /// What the appliance's certificate must lead to (PEM)
    #[arg(long)]
    ca: PathBuf,
    /// The line's certificate (PEM, leaf first)
    #[arg(long)]
    cert: PathBuf,
    /// The line's private key (PEM)
    #[arg(long)]
    key: PathBuf,
    /// The production order
    #[arg(long)]
    order: String,
    /// Stations, each with a connection of its own
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Devices; each has a key of its own
    #[arg(long, default_value_t = 100)]
    count: usize,
    /// End after so many seconds even when devices are left
    #[arg(long)]
    seconds: Option<u64>,
    /// Requests in one call; 1 asks for each by itself
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// What device ids begin with (default: a name of this run)
    #[arg(long)]
    prefix: Option<String>,
    /// Keep so many connections open beside, which send nothing; with --count 0 until standard input ends
    #[arg(long, default_value_t = 0)]
    idle: usize,
    /// How many seconds one call is retried
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let report = runtime
        .map_err(Into::into)
        .and_then(|runtime| runtime.block_on(send_all(&args)));
    match report {
        Ok(report) => {
            match serde_json::to_string(&report) {
                Ok(json) if args.json => println!("{json}"),
                _ => print!("{}", report.text()),
            }
            if report.complete() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("line: {}", chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// Makes requests and sends them, stretch by stretch.
async fn send_all(args: &Args) -> Result<Report, Box<dyn std::error::Error>> {
    allow_many_files();
    let identity = Identity {
        certificate: &args.cert,
        key: &args.key,
    };
    let api = Api::new(&args.api, &args.ca, Some(identity))?;
    let prefix = args.prefix.clone().unwrap_or_else(name_of_this_run);
    let mut idle = Vec::with_capacity(args.idle);
    for _ in 0..args.idle {
        idle.push(Connection::open(&api).await?);
    }
    if args.idle > 0 {
        eprintln!("{} connections are open", idle.len());
    }
    if args.count == 0 {
        tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink()))
            .await??;
    }
    let mut tally = Tally::default();
    let mut took = Durations {
        preparation: Duration::ZERO,
        sending: Duration::ZERO,
        cpu_seconds: 0.0,
    };
    let limit = args.seconds.map(Duration::from_secs);
    let mut made = 0;
    while made < args.count && limit.is_none_or(|limit| took.sending < limit) {
        let stretch = REQUESTS_AT_ONCE.min(args.count - made);
        let preparing = Instant::now();
        let requests = device::requests(&prefix, made, stretch)?;
        took.preparation += preparing.elapsed();
        let run = Run {
            api: api.clone(),
            order: args.order.clone(),
            requests,
            next: AtomicUsize::new(0),
            batch: usize::from(args.batch),
            ends_at: limit.map(|limit| Instant::now() + limit.saturating_sub(took.sending)),
            patience: Duration::from_secs(args.patience),
        };
        let (cpu_before, started) = (cpu_seconds(), Instant::now());
        tally.add(all_stations(run, args.connections).await?);
        took.sending += started.elapsed();
        took.cpu_seconds += cpu_seconds() - cpu_before;
        made += stretch;
    }
    drop(idle);
    Ok(Report::new(
        args.connections,
        usize::from(args.batch),
        tally,
        &took,
    ))
}

/// Runs all stations to their end.
async fn all_stations(run: Run, connections: usize) -> Result<Tally, tokio::task::JoinError> {
    let run = Arc::new(run);
    let stations: Vec<_> = (0..connections)
        .map(|_| {
            let run = Arc::clone(&run);
            tokio::spawn(async move { run.station().await })
        })
        .collect();
    let mut tally = Tally::default();
    for station in stations {
        tally.add(station.await?);
    }
    Ok(tally)
}

/// A prefix that no earlier run had.
fn name_of_this_run() -> String {
    let mut random = [0_u8; 4];
    // Without randomness the process id still tells simultaneous runs apart.
    let filled = aws_lc_rs::rand::fill(&mut random);
    let number = filled.map_or_else(|_| std::process::id(), |()| u32::from_be_bytes(random));
    format!("device-{number:08x}")
}

/// Raises the limit on open files to what the system allows, for many connections.
fn allow_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // When it cannot be raised, opening too many connections reports it.
    let _ = setrlimit(Resource::Nofile, wanted);
}
