//! How many ECDSA P-256 signatures this machine makes with the library of `hallmark-ocsp`, and nothing else.
//!
//! ```text
//! cargo run --release -p ocsp-responder --example sign-rate -- --seconds 5
//! ```
//!
//! The ceiling of every answer that is not in the cache (`tests/bench/ocsp`). Prints JSON: how many, and how
//! many a second, by all threads together.

use std::io::{self, Write as _};
use std::num::NonZero;
use std::thread;
use std::time::{Duration, Instant};

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use clap::Parser;

/// Measures bare P-256 signing.
#[derive(Parser)]
struct Arguments {
    /// How long.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Threads; one for each core by default.
    #[arg(long)]
    threads: Option<usize>,
    /// Octets that are signed: what an answer for one certificate has.
    #[arg(long, default_value_t = 180)]
    octets: usize,
}

/// Signs until the time is over; how often.
#[expect(clippy::disallowed_methods, reason = "it measures time")]
fn sign(pair: &EcdsaKeyPair, octets: usize, time: Duration) -> Result<u64, Unspecified> {
    let (random, mut tbs) = (SystemRandom::new(), vec![0x30; octets]);
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < time {
        // No two answers are the same.
        if let Some(part) = tbs.first_chunk_mut() {
            *part = count.to_be_bytes();
        }
        std::hint::black_box(pair.sign(&random, &tbs)?);
        count += 1;
    }
    Ok(count)
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let threads = arguments.threads.unwrap_or(cores);
    let time = Duration::from_secs(arguments.seconds);
    let algorithm = &ECDSA_P256_SHA256_ASN1_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &SystemRandom::new());
    let pkcs8 = pkcs8.map_err(io::Error::other)?;
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref()).map_err(io::Error::other)?;
    let total = thread::scope(|scope| {
        let all: Vec<_> = (0..threads)
            .map(|_| scope.spawn(|| sign(&pair, arguments.octets, time)))
            .collect();
        all.into_iter()
            .map(|one| one.join().unwrap_or(Err(Unspecified)))
            .sum::<Result<u64, _>>()
    });
    let total = total.map_err(io::Error::other)?;
    let report = serde_json::json!({
        "threads": threads,
        "signatures": total,
        "per_second": total as f64 / time.as_secs_f64(),
    });
    writeln!(io::stdout(), "{report}")
}
