//! What a token can do by itself: bare `C_SignInit` and `C_Sign` in as many threads as there are sessions.
//!
//! The benchmark measures the appliance against this, with the same key, and against the cost of one P-256
//! verification on the same machine in the same minute.
#![expect(
    clippy::disallowed_methods,
    reason = "what it measures is real time, and nothing tests it against another"
)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use clap::Parser;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

/// Signatures that one session makes between two looks at the clock.
const SIGNATURES_AT_ONCE: u32 = 16;

/// Measures a token's own rate of P-256 signatures and one verification in software.
#[derive(Parser)]
#[command(
    name = "token-ceiling",
    after_help = "Example: SOFTHSM2_CONF=DIR/softhsm2.conf token-ceiling \\\n  \
    --module /usr/lib/softhsm/libsofthsm2.so --token hallmark --pin-file DIR/pin --key device-1 --sessions 2"
)]
struct Args {
    /// The PKCS#11 library
    #[arg(long)]
    module: PathBuf,
    /// The token's label
    #[arg(long)]
    token: String,
    /// The file with the user PIN
    #[arg(long)]
    pin_file: PathBuf,
    /// The label of a P-256 private key
    #[arg(long)]
    key: String,
    /// Sessions that sign at the same time, a thread each
    #[arg(long, default_value_t = 2)]
    sessions: usize,
    /// For how long, seconds
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

/// What was measured.
#[derive(serde::Serialize)]
struct Measured {
    sessions: usize,
    signatures: u32,
    seconds: f64,
    per_second: f64,
    /// Processor time of one signature, microseconds.
    signature_cpu_us: f64,
    /// Processor time of one P-256 verification with SHA-256 over 400 bytes, microseconds.
    verification_us: f64,
}

fn main() -> ExitCode {
    let measured = measure(&Args::parse());
    let json = measured.and_then(|measured| Ok(serde_json::to_string(&measured)?));
    match json {
        Ok(json) => {
            println!("{json}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("token-ceiling: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures signatures, then verifications.
fn measure(args: &Args) -> Result<Measured, Box<dyn std::error::Error>> {
    let module = Pkcs11::new(&args.module)?;
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))?;
    // The login counts for all sessions of this process, as long as this one is open.
    let anchor = log_in(&module, args)?;
    let sessions: Result<Vec<_>, _> = (0..args.sessions)
        .map(|_| open(&module, &args.token).and_then(|session| find(session, &args.key)))
        .collect();
    let start = Barrier::new(args.sessions + 1);
    let duration = Duration::from_secs(args.seconds);
    let (signatures, seconds, cpu) = std::thread::scope(|scope| {
        let threads: Vec<_> = sessions?
            .into_iter()
            .map(|(session, key)| {
                let start = &start;
                scope.spawn(move || {
                    start.wait();
                    sign_for(&session, key, duration)
                })
            })
            .collect();
        start.wait();
        let (cpu, started) = (cpu_seconds(), Instant::now());
        let mut signatures = 0;
        for thread in threads {
            signatures += thread
                .join()
                .map_err(|_| "a signing thread ended early")??;
        }
        let seconds = started.elapsed().as_secs_f64();
        Ok::<_, Box<dyn std::error::Error>>((signatures, seconds, cpu_seconds() - cpu))
    })?;
    drop(anchor);
    Ok(Measured {
        sessions: args.sessions,
        signatures,
        seconds,
        per_second: f64::from(signatures) / seconds,
        signature_cpu_us: cpu * 1e6 / f64::from(signatures),
        verification_us: verification_us()?,
    })
}

/// Opens the session that keeps the login alive.
fn log_in(module: &Pkcs11, args: &Args) -> Result<Session, Box<dyn std::error::Error>> {
    let pin = std::fs::read_to_string(&args.pin_file)?;
    let session = open(module, &args.token)?;
    session.login(UserType::User, Some(&AuthPin::new(pin.trim_end().into())))?;
    Ok(session)
}

/// Opens a session with the token of this label.
fn open(module: &Pkcs11, label: &str) -> Result<Session, Box<dyn std::error::Error>> {
    for slot in module.get_slots_with_initialized_token()? {
        if module.get_token_info(slot)?.label() == label {
            return Ok(module.open_ro_session(slot)?);
        }
    }
    Err(format!("there is no token {label}").into())
}

/// Finds the private key in a session.
fn find(
    session: Session,
    label: &str,
) -> Result<(Session, ObjectHandle), Box<dyn std::error::Error>> {
    let found = session.find_objects(&[
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Label(label.into()),
    ])?;
    match found.as_slice() {
        [key] => Ok((session, *key)),
        keys => Err(format!("there are {} private keys {label}", keys.len()).into()),
    }
}

/// Signs digests until the time is over; how many.
fn sign_for(
    session: &Session,
    key: ObjectHandle,
    duration: Duration,
) -> Result<u32, cryptoki::error::Error> {
    let ends = Instant::now() + duration;
    let digest = [0x5a; 32];
    let mut signatures = 0;
    while Instant::now() < ends {
        for _ in 0..SIGNATURES_AT_ONCE {
            session.sign(&Mechanism::Ecdsa, key, &digest)?;
            signatures += 1;
        }
    }
    Ok(signatures)
}

/// The processor time of one verification, over half a second of them.
fn verification_us() -> Result<f64, Box<dyn std::error::Error>> {
    let random = aws_lc_rs::rand::SystemRandom::new();
    let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
    let message = [0x5a; 400];
    let signature = key.sign(&random, &message)?;
    let (ends, cpu) = (Instant::now() + Duration::from_millis(500), cpu_seconds());
    let mut verifications = 0_u32;
    while Instant::now() < ends {
        // The public key is parsed each time, as it is for each request.
        let public = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.public_key().as_ref());
        public.verify(&message, signature.as_ref())?;
        verifications += 1;
    }
    Ok((cpu_seconds() - cpu) * 1e6 / f64::from(verifications))
}

/// The processor time that this process used so far, in seconds (nanoseconds in `/proc/self/schedstat` are
/// of one thread only, so this reads the ticks of 10 ms of all of them).
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.filter_map(|field| field.parse::<u32>().ok()).sum();
    f64::from(ticks) / 100.0
}
