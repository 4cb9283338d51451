//! The command line: `hallmark --config FILE noun verb`.
//!
//! Owns arguments, output for people and for programs (`--json`), and exit codes: 0 done, 1 refused or
//! failed, 2 not understood, 3 nothing done because nobody said yes. Promises that a failure says what is wrong, where and what to do, with its
//! causes. Never takes a secret from an argument. Failure story: nothing is half done here; what a command
//! changes, the daemon changes.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use certstatus::SerialNumber;
use certstatus::log::IssuerName;
use certstatus::log::entry::Slug;
use certstatus::serial::NotASerial;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError};
use crate::daemon::{self, DaemonError};
use crate::secret;
use crate::time::Clock;
use crate::witnesses::Unwitnessed;

mod acts;
mod ceremony;
mod check;
mod client;
mod moment;
mod revoke;
mod show;

use client::ClientError;
use revoke::arguments::{ReleaseArguments, RevokeArguments};

/// Certificate signing appliance for factory floors.
#[derive(Debug, Parser)]
#[command(name = "hallmark", version, max_term_width = 110)]
#[command(override_usage = "hallmark --config FILE [OPTIONS] <COMMAND>")]
#[command(after_help = "Example: hallmark --config /etc/hallmark/hallmark.toml status")]
struct Arguments {
    /// The configuration file; required, before or after the command
    // clap has no argument that is both global and required: `Arguments::read` asks for it.
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Answer in JSON, for programs; the daemon's own log too
    #[arg(long, global = true)]
    json: bool,
    /// What `run` and `serve` log: error, warn, info, debug, or a filter such as hallmark::http=debug,info
    #[arg(long, value_name = "FILTER", default_value = "info", global = true)]
    log: String,
    #[command(subcommand)]
    command: Command,
}

impl Arguments {
    /// Reads a command line, its first word the program; and the configuration's path, which each needs.
    fn read<W>(words: impl IntoIterator<Item = W>) -> Result<(Self, PathBuf), clap::Error>
    where
        W: Into<OsString> + Clone,
    {
        let mut read = Self::try_parse_from(words)?;
        let config = read.config.take().ok_or_else(|| {
            Self::command().error(
                ErrorKind::MissingRequiredArgument,
                "--config FILE is missing: name the configuration file",
            )
        })?;
        Ok((read, config))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
enum Command {
    /// Start the token hosts and then the daemon, in the foreground
    #[command(after_help = "Example: hallmark --config hallmark.toml run")]
    Run(StartArguments),
    /// Start the daemon alone, in the foreground; its token hosts run as services of their own
    #[command(after_help = "Example: hallmark --config /etc/hallmark/hallmark.toml serve")]
    Serve(StartArguments),
    /// Read the configuration and the profiles and say what is wrong with them
    ///
    /// Also warns, on standard error, of PKCS#11 libraries, PIN files and a log key that are not there, and of
    /// PIN files that others may read. It asks no token, opens no database and listens nowhere.
    #[command(after_help = "Example: hallmark --config hallmark.toml check-config")]
    CheckConfig,
    /// Make keys and certificates, once, in front of witnesses
    #[command(subcommand)]
    #[command(
        after_help = "Example: hallmark --config hallmark.toml ceremony run ceremony.toml --dry-run"
    )]
    Ceremony(CeremonyCommand),
    /// Lines: who may ask for certificates
    #[command(subcommand)]
    #[command(after_help = "Example: hallmark --config hallmark.toml line list")]
    Line(LineCommand),
    /// Production orders: how many certificates, for what, by whom
    #[command(subcommand)]
    #[command(after_help = "Example: hallmark --config hallmark.toml order show demo")]
    Order(OrderCommand),
    /// Certificates that were issued
    #[command(subcommand)]
    #[command(after_help = "Example: hallmark --config hallmark.toml cert list --order demo")]
    Cert(CertCommand),
    /// OCSP responders: whose keys get certificates, and who may follow the published log over mTLS
    #[command(subcommand)]
    #[command(after_help = "Example: hallmark --config hallmark.toml responder list")]
    Responder(ResponderCommand),
    /// Auditors: who may fetch the published log and its details over mTLS
    #[command(subcommand)]
    #[command(after_help = "Example: hallmark --config hallmark.toml auditor list")]
    Auditor(AuditorCommand),
    /// How the appliance is
    #[command(after_help = "Example: hallmark --config hallmark.toml status --json")]
    Status,
}

/// How the daemon starts.
#[derive(Clone, Copy, Debug, Args)]
struct StartArguments {
    /// Start though a witness has a newer or another head than this store, or none confirms it; logged, for this start
    ///
    /// Only after a restore that lost entries, when no newer backup exists: certificates that were issued after it are
    /// not known here any more. What each witness said goes into the log. See docs/WITNESSES.md.
    #[arg(long)]
    accept_unwitnessed: bool,
}

impl StartArguments {
    /// What is done about a start that the witnesses do not confirm.
    const fn unwitnessed(self) -> Unwitnessed {
        if self.accept_unwitnessed {
            Unwitnessed::Accept
        } else {
            Unwitnessed::Refuse
        }
    }
}

/// What a ceremony does.
#[derive(Debug, Subcommand)]
enum CeremonyCommand {
    /// Make everything that a ceremony file declares
    #[command(
        after_help = "Example: hallmark --config hallmark.toml ceremony run ceremony.toml --dry-run"
    )]
    Run {
        /// The ceremony file
        file: PathBuf,
        /// Only rehearse: make nothing, and say what would be made and what is in the way
        #[arg(long)]
        dry_run: bool,
    },
    /// Take the certificate that an offline root made for an issuer; the daemon must be stopped
    #[command(
        after_help = "Example: hallmark --config hallmark.toml ceremony accept device-1 answer.pem"
    )]
    Accept {
        /// The issuer
        issuer: IssuerName,
        /// PEM: the issuer's certificate, then the root's
        certificates: PathBuf,
    },
}

/// What is done with lines.
#[derive(Debug, Subcommand)]
enum LineCommand {
    /// Add a line, or give one a further certificate; prints the certificate chain
    #[command(
        after_help = "Example: hallmark --config hallmark.toml line add line-1 --csr line-1.csr > line-1.pem"
    )]
    Add {
        /// Its name: a-z, 0-9 and '-'
        line: Slug,
        /// The line's certificate request, PEM, DER or base64; its private key stays at the line
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
    },
    /// List the lines
    #[command(after_help = "Example: hallmark --config hallmark.toml line list")]
    List,
    /// Refuse a line from its next request on
    #[command(after_help = "Example: hallmark --config hallmark.toml line disable line-1")]
    Disable {
        /// Its name
        line: Slug,
    },
    /// Let a disabled line ask again
    #[command(after_help = "Example: hallmark --config hallmark.toml line enable line-1")]
    Enable {
        /// Its name
        line: Slug,
    },
}

/// What is done with OCSP responders.
#[derive(Debug, Subcommand)]
enum ResponderCommand {
    /// Approve a responder's key: each device issuer signs a certificate for it, and renews it
    ///
    /// Compare the SHA-256 that this prints with the one that `hallmark-ocsp key` prints at the responder. The
    /// certificates (at most 72 hours each) are published in public/responders/NAME/ and renewed when a third of their
    /// life is left. To approve another key under the same name, revoke the responder first.
    ///
    /// With --tls-csr the responder also gets a client certificate, with which it fetches /public/ over mTLS. Approve it
    /// again, with the same key, to give it a further one before that one ends.
    #[command(
        after_help = "Example: hallmark --config hallmark.toml responder approve ocsp-1 \\
         --key ocsp-1.pem --tls-csr ocsp-1-tls.csr --out ocsp-1-tls.pem"
    )]
    Approve {
        /// Its name, which is `responder` in its configuration: a-z, 0-9 and '-'
        #[arg(value_name = "NAME")]
        responder: Slug,
        /// Its public key as `hallmark-ocsp key` prints it, PEM or DER; its private key stays at the responder
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// A request for its client certificate, PEM, DER or base64; for another key than --key
        #[arg(long, value_name = "FILE", requires = "out")]
        tls_csr: Option<PathBuf>,
        /// Where the client certificate's chain goes, PEM
        #[arg(long, value_name = "FILE", requires = "tls_csr")]
        out: Option<PathBuf>,
    },
    /// Renew a responder's certificates no more, remove them from public/, and refuse it on the mTLS listener
    ///
    /// Those that it answers with count until they end, at most 72 hours later: clients do not ask for their status. Its
    /// client certificates are refused from its next request on.
    #[command(after_help = "Example: hallmark --config hallmark.toml responder revoke ocsp-1")]
    Revoke {
        /// Its name
        #[arg(value_name = "NAME")]
        responder: Slug,
    },
    /// List the approved responders and their certificates
    #[command(after_help = "Example: hallmark --config hallmark.toml responder list")]
    List,
}

/// What is done with auditors.
#[derive(Debug, Subcommand)]
enum AuditorCommand {
    /// Add an auditor, or give one a further certificate; prints the certificate chain
    #[command(
        after_help = "Example: hallmark --config hallmark.toml auditor add audit-1 --csr audit-1.csr > audit-1.pem"
    )]
    Add {
        /// Its name: a-z, 0-9 and '-'
        auditor: Slug,
        /// The auditor's certificate request, PEM, DER or base64; its private key stays with the auditor
        #[arg(long, value_name = "FILE")]
        csr: PathBuf,
    },
    /// List the auditors
    #[command(after_help = "Example: hallmark --config hallmark.toml auditor list")]
    List,
    /// Refuse an auditor from its next request on
    #[command(after_help = "Example: hallmark --config hallmark.toml auditor disable audit-1")]
    Disable {
        /// Its name
        auditor: Slug,
    },
    /// Let a disabled auditor read again
    #[command(after_help = "Example: hallmark --config hallmark.toml auditor enable audit-1")]
    Enable {
        /// Its name
        auditor: Slug,
    },
}

/// What is done with orders.
#[derive(Debug, Subcommand)]
enum OrderCommand {
    /// Open an order; its terms are fixed from then on
    #[command(
        after_help = "Example: hallmark --config hallmark.toml order open demo --profile mqtt-device \\
         --issuer device-1 --line line-1 --quantity 500 --device-id 'sensor-[0-9]{6}' --until 90d"
    )]
    Open(OrderArguments),
    /// List the orders
    #[command(after_help = "Example: hallmark --config hallmark.toml order list")]
    List,
    /// Show one order
    #[command(after_help = "Example: hallmark --config hallmark.toml order show demo")]
    Show {
        /// Its name
        order: Slug,
    },
    /// Issue nothing more under an order
    #[command(after_help = "Example: hallmark --config hallmark.toml order close demo")]
    Close {
        /// Its name
        order: Slug,
    },
    /// Let a closed order be used again
    #[command(after_help = "Example: hallmark --config hallmark.toml order reopen demo")]
    Reopen {
        /// Its name
        order: Slug,
    },
    /// Give units back that unresolved intents hold, so that the order can use them again
    ///
    /// Where a token fails so that a signature may exist, the unit of the order returns by itself ten times; after
    /// that it is held until it is approved here. Each unit that is given back may be a certificate more than the order
    /// has units, if the token did sign: find out first why it failed. Without --units all that are held are given back,
    /// and none held is no error; with it, more than are held is refused. Closed orders stay closed.
    #[command(after_help = "Example: hallmark --config hallmark.toml order approve demo --units 3")]
    Approve {
        /// Its name
        order: Slug,
        /// How many; all that are held where it is not said
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        units: Option<u64>,
    },
}

/// The terms of an order.
#[derive(Debug, Args)]
struct OrderArguments {
    /// Its name: a-z, 0-9 and '-'
    order: Slug,
    /// The profile of its certificates
    #[arg(long)]
    profile: String,
    /// Who issues them
    #[arg(long)]
    issuer: IssuerName,
    /// A line that may use it; give it once for each line
    #[arg(long = "line", required = true, value_name = "LINE")]
    lines: Vec<Slug>,
    /// How many certificates at most
    #[arg(long, value_name = "UNITS")]
    quantity: u64,
    /// The device ids that it may name: a regular expression that must match the whole id
    #[arg(long = "device-id", value_name = "PATTERN")]
    device_id: String,
    /// Usable from: a time (2026-10-01T06:00:00Z) or a delay from now (2d)
    #[arg(long, value_name = "TIME", default_value = "0s")]
    from: String,
    /// Usable until: a time (2026-12-31T00:00:00Z) or a delay from now (90d)
    #[arg(long, value_name = "TIME", default_value = "365d")]
    until: String,
}

/// What is done with certificates.
#[derive(Debug, Subcommand)]
enum CertCommand {
    /// List certificates, oldest first
    #[command(
        after_help = "Example: hallmark --config hallmark.toml cert list --order demo --limit 20"
    )]
    List(ListArguments),
    /// Show one certificate, with its PEM
    #[command(
        after_help = "Example: hallmark --config hallmark.toml cert show 4b1f00c5d2a94e7f8a6d03b1c7e95f20"
    )]
    Show {
        /// Its serial: 32 hex digits, also as `openssl x509 -serial` writes them
        #[arg(value_parser = serial)]
        serial: SerialNumber,
    },
    /// Revoke certificates, or put them on hold: one by its serial, or many after a look at them
    ///
    /// One serial is revoked at once, unless --dry-run is there. Of anything else it first shows what would be
    /// revoked, and a token of that selection; --yes revokes without looking, --selection TOKEN exactly what was
    /// shown. Criteria are combined: a certificate must fulfil all of them. The exit code is 0 where all was done (or
    /// shown, with --dry-run), 1 where not all was, 3 where nothing was because nobody was there to say yes. With key-compromise a line's own certificate also disables the line
    /// and withdraws its others. A run that was interrupted goes on when it is run again.
    #[command(after_help = "Example: hallmark --config hallmark.toml cert revoke \\
         4b1f00c5d2a94e7f8a6d03b1c7e95f20 --reason key-compromise\n\
         Example: hallmark --config hallmark.toml cert revoke --order demo --dry-run\n\
         Example: hallmark --config hallmark.toml cert revoke --order demo --selection TOKEN")]
    Revoke(Box<RevokeArguments>),
    /// Release certificates from their hold; criteria as for revoke
    #[command(
        after_help = "Example: hallmark --config hallmark.toml cert release --order demo --dry-run"
    )]
    Release(Box<ReleaseArguments>),
}

/// A serial as people have it.
fn serial(text: &str) -> Result<SerialNumber, NotASerial> {
    SerialNumber::from_tool(text)
}

/// Which certificates to list.
#[derive(Debug, Args)]
struct ListArguments {
    /// Of this order
    #[arg(long)]
    order: Option<Slug>,
    /// Of this device id; case does not matter
    #[arg(long)]
    device_id: Option<String>,
    /// Of this issuer
    #[arg(long)]
    issuer: Option<IssuerName>,
    /// Whose entry in the log comes after this one
    #[arg(long, value_name = "ENTRY")]
    after: Option<u64>,
    /// At most so many, 1 to 1000; where there are more, standard error says how to go on
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Output {
    /// Aligned text.
    Text,
    /// JSON.
    Json,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum CliError {
    /// The configuration.
    #[error("the configuration cannot be used; correct it and try again")]
    Config(#[from] ConfigError),
    /// The daemon.
    #[error("the appliance does not run; correct the cause and start it again")]
    Daemon(#[from] DaemonError),
    /// The admin socket.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A ceremony.
    #[error(transparent)]
    Ceremony(#[from] ceremony::Failed),
    /// A file that an argument names.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file that an argument names, for what came back.
    #[error("cannot write {}", path.display())]
    Out {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// Standard output.
    #[error("cannot write the answer")]
    Write(#[source] io::Error),
    /// Its memory cannot be kept to itself.
    #[error("the system refuses to forbid core dumps, and a key could get into one")]
    Harden(#[source] io::Error),
    /// The runtime.
    #[error("the program cannot start its threads")]
    Runtime(#[source] io::Error),
    /// A revocation of many was not done, or not to its end.
    #[error(transparent)]
    Revoke(#[from] revoke::Unfinished),
    /// An argument that clap could not judge.
    #[error("{argument}: {problem}")]
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
}

impl CliError {
    /// The exit code: 2 where the command was not understood.
    fn code(&self) -> ExitCode {
        match self {
            Self::Argument { .. } => ExitCode::from(2),
            Self::Revoke(unfinished) => unfinished.code(),
            _ => ExitCode::FAILURE,
        }
    }
}

/// The whole program: arguments in, exit code out.
#[must_use]
pub fn main() -> ExitCode {
    let (arguments, config) = match Arguments::read(std::env::args_os()) {
        Ok(read) => read,
        Err(refused) => {
            // Help and version are answers, and go to standard output.
            let code = if refused.use_stderr() { 2 } else { 0 };
            let _written = refused.print();
            return ExitCode::from(code);
        }
    };
    match execute(arguments, config) {
        Ok(()) => ExitCode::SUCCESS,
        // A reader that has seen enough (`| head`) is no failure.
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _written = writeln!(io::stderr(), "hallmark: {}", certstatus::chain(&error));
            error.code()
        }
    }
}

/// Does what the arguments say.
fn execute(arguments: Arguments, path: PathBuf) -> Result<(), CliError> {
    let output = if arguments.json {
        Output::Json
    } else {
        Output::Text
    };
    // Whatever the command is: ceremonies make keys in this process, and the daemon holds some.
    secret::harden().map_err(CliError::Harden)?;
    let config = Config::load(&path)?;
    let runtime = tokio::runtime::Runtime::new().map_err(CliError::Runtime)?;
    match arguments.command {
        Command::Run(start) => {
            start_log(&arguments.log, output)?;
            let run = daemon::run(config, &path, start.unwitnessed());
            Ok(runtime.block_on(Box::pin(run))?)
        }
        Command::Serve(start) => {
            start_log(&arguments.log, output)?;
            let serve = daemon::serve(config, Clock::system(), start.unwitnessed());
            Ok(runtime.block_on(Box::pin(serve))?)
        }
        Command::CheckConfig => {
            let profiles = daemon::load_profiles(&config.profiles)?;
            check::warn(&config);
            show::checked(output, &path, profiles.keys())
        }
        Command::Ceremony(command) => {
            start_log("warn", output)?;
            runtime.block_on(Box::pin(ceremony::execute(command, &config, path, output)))
        }
        Command::Line(command) => runtime.block_on(acts::line(command, &config, output)),
        Command::Order(command) => runtime.block_on(acts::order(command, &config, output)),
        Command::Cert(command) => runtime.block_on(acts::cert(command, &config, output)),
        Command::Responder(command) => runtime.block_on(acts::responder(command, &config, output)),
        Command::Auditor(command) => runtime.block_on(acts::auditor(command, &config, output)),
        Command::Status => runtime.block_on(acts::status(&config, output)),
    }
}

/// Sends the program's own log to standard error.
fn start_log(filter: &str, output: Output) -> Result<(), CliError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| CliError::Argument {
        argument: "--log",
        problem: error.to_string(),
    })?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    match output {
        Output::Text => log.init(),
        Output::Json => log.json().init(),
    }
    Ok(())
}

/// Writes text to standard output.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    written.map_err(CliError::Write)
}

/// Writes a value as JSON to standard output.
fn print_json(value: &impl Serialize) -> Result<(), CliError> {
    let text =
        serde_json::to_string_pretty(value).map_err(|error| CliError::Write(error.into()))?;
    print(&format!("{text}\n"))
}

#[cfg(test)]
mod tests;
