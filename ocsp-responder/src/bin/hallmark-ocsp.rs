//! Answers OCSP, CRLs and CA certificates from published signing logs, and holds no CA key.
//!
//! Owns the command line, the process's hardening and its exit code; what is answered is [`certstatus::responder`]'s, and
//! what brokers get is [`certstatus::sync`]'s. Exit code 0: done; 1: failed, or not ready; 2: the command is not understood;
//! 3: a CRL has half of its life left or less (`crl-sync --once`).

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use certstatus::hex;
use certstatus::responder::{
    self, Clock, Config, ConfigError, KeyError, Responder, RunError, SigningKey, WitnessKey,
};
use certstatus::sync::{self, SyncConfig, SyncError, Syncer};
use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser, Subcommand};
use rustix::process::{DumpableBehavior, Resource, Rlimit};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Open files beside connections: logs, indexes, CRLs, sources.
const FILES_BESIDE: u64 = 512;

/// The time for the running responder to answer `status`.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The longest answer of `status` in octets.
const STATUS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The time that a stop waits for what a source does not answer.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(1);

/// Answers what certificates are worth, from verified signing logs, without any CA key.
#[derive(Debug, Parser)]
#[command(name = "hallmark-ocsp", version, max_term_width = 110)]
#[command(override_usage = "hallmark-ocsp --config FILE [OPTIONS] <COMMAND>")]
#[command(after_help = "Example: hallmark-ocsp --config /etc/hallmark/ocsp.toml run")]
struct Arguments {
    /// The configuration file; required, before or after the command
    // clap has no argument that is both global and required: `main` asks for it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Answer in JSON, for programs; the responder's own log too
    #[arg(long, global = true)]
    json: bool,
    /// What `run` logs: error, warn, info, debug, or a filter such as certstatus::view=debug,info
    #[arg(long, value_name = "FILTER", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Clone, Copy, Debug, Subcommand)]
enum Command {
    /// Answer, in the foreground, until SIGTERM or SIGINT
    #[command(after_help = "Example: hallmark-ocsp --config /etc/hallmark/ocsp.toml run")]
    Run,
    /// Check the configuration and say what is wrong with it
    #[command(after_help = "Example: hallmark-ocsp --config ocsp.toml check-config")]
    CheckConfig,
    /// Print the public key to have approved at each appliance; make the keys where there are none
    #[command(after_help = "\
Example:
  hallmark-ocsp --config ocsp.toml key > ocsp-1.pem
  hallmark --config hallmark.toml responder approve ocsp-1 --key ocsp-1.pem

The key's SHA-256, to compare by telephone, and the witness's verifier key go to standard error;
with --json everything goes to standard output.")]
    Key,
    /// Ask the running responder how it is; exit code 1 when it is not ready
    #[command(after_help = "Example: hallmark-ocsp --config ocsp.toml status --json")]
    Status,
    /// Keep a broker's CRL files, in the foreground, until SIGTERM or SIGINT; --config is a file of its own kind
    #[command(after_help = "\
Examples:
  hallmark-ocsp --config /etc/hallmark/mosquitto.toml crl-sync
  hallmark-ocsp --config /etc/hallmark/mosquitto.toml crl-sync --once --json
  hallmark-ocsp --config mosquitto.toml crl-sync --check-config

Fetches CRLs, verifies them, puts them where the broker reads them and then tells it: docs/BROKERS.md.
Exit code of --once: 0 when the broker has every CRL and was told, 3 when half of a CRL's life or more is over,
1 when something failed.")]
    CrlSync {
        /// Do everything once, and say how it is
        #[arg(long)]
        once: bool,
        /// Check the configuration and say what is wrong with it
        #[arg(long, conflicts_with = "once")]
        check_config: bool,
    },
}

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The responder.
    #[error(transparent)]
    Run(#[from] RunError),
    /// `crl-sync`.
    #[error(transparent)]
    Sync(#[from] SyncError),
    /// `--log`.
    #[error("--log {filter}: not a filter")]
    Filter {
        filter: String,
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// The system.
    #[error("{what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    /// Nobody answers.
    #[error("no responder answers at {address} (listen.ops): is it running?")]
    NotRunning {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
}

/// A failure of the system.
fn system(what: &'static str) -> impl FnOnce(io::Error) -> Failure {
    move |source| Failure::System { what, source }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let Some(config) = &arguments.config else {
        let text = "--config FILE is missing: name the configuration file";
        Arguments::command()
            .error(ErrorKind::MissingRequiredArgument, text)
            .exit();
    };
    let done = match arguments.command {
        Command::CrlSync { once, check_config } => {
            let config = SyncConfig::load(config).map_err(Failure::from);
            config.and_then(|config| match check_config {
                true => check_sync_config(&config, arguments.json),
                false => crl_sync(config, once, &arguments),
            })
        }
        command => respond(command, config, &arguments),
    };
    done.unwrap_or_else(|failure| failed(&failure))
}

/// The commands of the responder.
fn respond(command: Command, config: &Path, arguments: &Arguments) -> Result<ExitCode, Failure> {
    let config = Config::load(config)?;
    match command {
        Command::CheckConfig => check_config(&config, arguments.json),
        Command::Key => key(&config, arguments.json),
        Command::Status => status(&config, arguments.json),
        Command::Run | Command::CrlSync { .. } => run(config, arguments),
    }
}

/// Says why.
fn failed(failure: &Failure) -> ExitCode {
    eprintln!("hallmark-ocsp: {}", certstatus::chain(failure));
    ExitCode::FAILURE
}

/// Writes to standard output.
fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(system("standard output cannot be written"))
}

/// `run`.
fn run(config: Config, arguments: &Arguments) -> Result<ExitCode, Failure> {
    start_log(arguments)?;
    harden()?;
    raise_file_limit(u64::try_from(config.listen.open_max()).unwrap_or(u64::MAX));
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let told = stop_signal()?;
        let responder = Responder::open(config, Clock::system()).await?;
        for address in responder.addresses() {
            tracing::info!(%address, "listening");
        }
        if let Some(ops) = responder.ops_address() {
            tracing::info!(%ops, "health and metrics");
        }
        responder.run(told).await?;
        Ok(ExitCode::SUCCESS)
    });
    // A directory on a dead network file system must not hold up the stop.
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    done
}

/// The runtime.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    runtime.map_err(system("the runtime does not start"))
}

/// `crl-sync`.
fn crl_sync(config: SyncConfig, once: bool, arguments: &Arguments) -> Result<ExitCode, Failure> {
    start_log(arguments)?;
    let runtime = runtime()?;
    let done = runtime.block_on(async {
        let told = stop_signal()?;
        let mut syncer = Syncer::open(config, Clock::system())?;
        if !once {
            syncer.run(told).await?;
            return Ok(ExitCode::SUCCESS);
        }
        let status = syncer.once().await;
        print(&if arguments.json {
            format!("{}\n", serde_json::json!(status))
        } else {
            status.text()
        })?;
        Ok(ExitCode::from(status.exit_code()))
    });
    runtime.shutdown_timeout(SHUTDOWN_DEADLINE);
    done
}

/// `crl-sync --check-config`.
fn check_sync_config(config: &SyncConfig, json: bool) -> Result<ExitCode, Failure> {
    sync::check(config)?;
    let crls = config.names();
    let text = if json {
        format!("{}\n", serde_json::json!({ "valid": true, "crls": crls }))
    } else {
        format!("the configuration is valid; CRLs: {}\n", crls.join(", "))
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let caught = |kind| signal(kind).map_err(system("cannot wait for signals"));
    let (mut terminate, mut interrupt) = (
        caught(SignalKind::terminate())?,
        caught(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Sends the program's own log to standard error.
fn start_log(arguments: &Arguments) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&arguments.log).map_err(|source| Failure::Filter {
        filter: arguments.log.clone(),
        source,
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if arguments.json {
        log.json().init();
    } else {
        log.with_ansi(false).init();
    }
    Ok(())
}

/// Makes sure that no key gets into a core dump or under a debugger.
fn harden() -> Result<(), Failure> {
    let refused =
        |error: rustix::io::Errno| system("the system refuses to forbid core dumps")(error.into());
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    rustix::process::setrlimit(Resource::Core, none).map_err(refused)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(refused)
}

/// Raises the soft limit of open files, as far as the hard one allows, to what all connections need.
fn raise_file_limit(connections: u64) {
    let needed = connections.saturating_add(FILES_BESIDE);
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(needed, |hard| hard.min(needed));
    if limit.current.is_some_and(|soft| soft < wanted) {
        limit.current = Some(wanted);
        if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
            tracing::warn!(%error, "the limit of open files stays as it is");
        }
    }
    if wanted < needed {
        tracing::warn!(
            hard = wanted,
            needed,
            "few open files are allowed: connections beyond them wait"
        );
    }
}

/// `check-config`.
fn check_config(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    responder::check_sources(config)?;
    let logs: Vec<&str> = config.logs.iter().map(|log| log.name.as_str()).collect();
    let text = if json {
        format!("{}\n", serde_json::json!({ "valid": true, "logs": logs }))
    } else {
        format!("the configuration is valid; logs: {}\n", logs.join(", "))
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// `key`.
fn key(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let key = SigningKey::load_or_make(&config.ocsp.key_file)?;
    let witness = WitnessKey::load_or_make(&config.witness.key_file, &config.witness.name)?;
    let sha256 = hex::encode(&key.sha256());
    let verifier = witness.verifier_key();
    if json {
        let value = serde_json::json!({ "public_key": key.spki_pem(), "sha256": sha256, "witness": verifier });
        print(&format!("{value}\n"))?;
    } else {
        eprintln!("SHA-256 of the key: {sha256}\nwitness: {verifier}");
        print(&key.spki_pem())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Asks the running responder for a path; the body of its answer.
fn ask(config: &Config, path: &str) -> Result<String, Failure> {
    let address = config.listen.ops;
    let not_running = |source| Failure::NotRunning { address, source };
    let mut stream = TcpStream::connect_timeout(&address, STATUS_DEADLINE).map_err(not_running)?;
    let asked = (|| {
        stream.set_read_timeout(Some(STATUS_DEADLINE))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.take(STATUS_BYTES_MAX).read_to_string(&mut answer)?;
        let body = answer
            .split_once("\r\n\r\n")
            .map(|(_, body)| body.to_owned());
        body.ok_or_else(|| io::Error::other("the answer is not HTTP"))
    })();
    asked.map_err(not_running)
}

/// `status`.
fn status(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let body = ask(config, "/status")?;
    let strange =
        |error: serde_json::Error| system("the answer is not that of a responder")(error.into());
    let value: serde_json::Value = serde_json::from_str(&body).map_err(strange)?;
    let ready = value.get("ready") == Some(&serde_json::Value::Bool(true));
    if json {
        print(&body)?;
    } else {
        print(&text_of(&value, ready))?;
    }
    Ok(if ready {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The elements of a list in an answer.
fn list<'a>(value: &'a serde_json::Value, name: &str) -> &'a [serde_json::Value] {
    value
        .get(name)
        .and_then(serde_json::Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A field of an answer as text.
fn field(value: &serde_json::Value, name: &str) -> String {
    match value.get(name) {
        None | Some(serde_json::Value::Null) => "-".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// The status for people.
fn text_of(value: &serde_json::Value, ready: bool) -> String {
    let mut text = String::from(if ready { "READY\n" } else { "NOT READY\n" });
    let mut line = |name: &str, value: &str| text.push_str(&format!("  {name:<24}{value}\n"));
    for reason in list(value, "reasons") {
        line("reason", reason.as_str().unwrap_or_default());
    }
    for log in list(value, "logs") {
        let origin = field(log, "origin");
        line("log", &format!("{} ({origin})", field(log, "name")));
        line("  entries", &field(log, "entries"));
        let (as_of, age) = (field(log, "as_of"), field(log, "age_seconds"));
        line("  as of", &format!("{as_of}, {age} s ago"));
        for issuer in list(log, "issuers") {
            let name = field(issuer, "name");
            let until = issuer
                .get("certificate_until")
                .and_then(|until| until.as_str());
            let certificate = match until {
                Some(until) => format!("responder certificate until {until}"),
                None => {
                    "no responder certificate: none needed, unless it issues to devices".to_owned()
                }
            };
            line("  issuer", &format!("{name}, {certificate}"));
        }
        for crl in list(log, "crls") {
            let (path, number, until) = (
                field(crl, "path"),
                field(crl, "number"),
                field(crl, "next_update"),
            );
            line("  CRL", &format!("{path}, number {number}, until {until}"));
        }
        for problem in list(log, "problems") {
            line("  problem", problem.as_str().unwrap_or_default());
        }
    }
    line("witness", &field(value, "witness"));
    text
}
