//! The configuration file as serde sees it, and its way into the types that the program sees.
//!
//! Owns every rule about values: names, places, addresses, ranges, defaults. Promises that the first thing wrong is
//! named with its dotted key. Reads the files of log keys and no other.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{Config, ConfigError, Identify, Listen, LogConfig, Ocsp, SourceConfig, Witness};
use crate::document::{self, Place};
use crate::log::checkpoint::VerifierKey;
use crate::view::HttpsFiles;

/// How long answers may live: below, clients' clocks are too far apart; above, a revocation takes too long to be seen.
const LIFE: RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(7 * 86_400);

/// How long answers live where the file does not say.
const LIFE_DEFAULT: Duration = Duration::from_secs(600);

/// The pause between looks at a source.
const POLL: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3600);

/// The same for a directory, where the file does not say: one small file is read.
const POLL_DIRECTORY: Duration = Duration::from_millis(250);

/// The same over HTTPS: one small request.
const POLL_HTTPS: Duration = Duration::from_millis(500);

/// Memory for answers in MiB.
const CACHE_MIB: RangeInclusive<usize> = 1..=65_536;

/// The same where the file does not say: some twenty thousand answers.
const CACHE_MIB_DEFAULT: usize = 32;

/// Open connections.
const CONNECTIONS: RangeInclusive<usize> = 1..=1_000_000;

/// The same where the file does not say: at 20 KiB each they take 160 MiB at the very worst.
const CONNECTIONS_DEFAULT: usize = 8192;

/// Signatures a second for one origin: below, a client with a nonce gets none at a bad moment.
const SIGNATURES: RangeInclusive<u32> = 1..=1_000_000;

/// The same where the file does not say: more than a site asks for, and some part of what a small machine can.
const SIGNATURES_DEFAULT: u32 = 5000;

/// The word for no limit.
const UNLIMITED: &str = "unlimited";

/// First parts of paths, which no log's name may be.
const RESERVED: [&str; 4] = ["ca", "checkpoint", "crl", "ocsp"];

/// The longest file of a verifier key, in octets.
const KEY_FILE_BYTES_MAX: u64 = 4096;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Judged by [`crate::document::read`].
    #[serde(rename = "version")]
    _version: i64,
    listen: ListenForm,
    ocsp: OcspForm,
    witness: WitnessForm,
    log: Vec<LogForm>,
}

/// `[listen]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenForm {
    http: Vec<String>,
    ops: String,
    connections: Option<usize>,
    connections_per_origin: Option<usize>,
}

/// `[ocsp]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OcspForm {
    key_file: String,
    responder_id: Option<Identify>,
    answer_life: Option<String>,
    signatures_per_origin: Option<SignaturesForm>,
    cache_mib: Option<usize>,
}

/// A limit of signatures.
#[derive(Deserialize)]
#[serde(untagged)]
enum SignaturesForm {
    Number(i64),
    Word(String),
}

/// `[witness]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WitnessForm {
    name: String,
    key_file: String,
}

/// `[[log]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogForm {
    name: String,
    source: String,
    ca_file: Option<String>,
    certificate_file: Option<String>,
    key_file: Option<String>,
    log_key: Option<String>,
    log_key_file: Option<String>,
    state_dir: String,
    responder: String,
    max_age: Option<String>,
    poll: Option<String>,
}

impl File {
    /// Checks every value and what they say together.
    ///
    /// # Errors
    /// [`ConfigError`] names the first key that is wrong.
    pub fn into_config(self, file: &Path) -> Result<Config, ConfigError> {
        let place = Place::of(file)?;
        let listen = listen(self.listen, &place)?;
        let ocsp = ocsp(self.ocsp, &place)?;
        let witness = witness(self.witness, &place)?;
        if ocsp.key_file == witness.key_file {
            return Err(place.refuse(
                "witness.key_file",
                "must not be that of ocsp.key_file: the keys are of two kinds",
            ));
        }
        if self.log.is_empty() {
            return Err(place.refuse("log", "there must be at least one [[log]]"));
        }
        let mut logs = Vec::new();
        for (index, form) in self.log.into_iter().enumerate() {
            logs.push(log(form, &format!("log[{index}]"), ocsp.life, &place)?);
        }
        apart(&logs, &place)?;
        Ok(Config {
            listen,
            ocsp,
            witness,
            logs,
        })
    }
}

/// Checks `[listen]`.
fn listen(form: ListenForm, place: &Place<'_>) -> Result<Listen, ConfigError> {
    if form.http.is_empty() {
        return Err(place.refuse("listen.http", "must name at least one address"));
    }
    let http = form
        .http
        .iter()
        .map(|text| place.address("listen.http", text));
    let http = http.collect::<Result<_, _>>()?;
    let ops = place.loopback("listen.ops", &form.ops)?;
    let connections = place.number(
        "listen.connections",
        form.connections,
        CONNECTIONS_DEFAULT,
        &CONNECTIONS,
    )?;
    let key = "listen.connections_per_origin";
    let quarter = (connections / 4).max(1);
    let own = place.number(key, form.connections_per_origin, quarter, &CONNECTIONS)?;
    if own > connections {
        return Err(place.refuse(
            key,
            format!("must be at most {connections}, all connections together"),
        ));
    }
    Ok(Listen {
        http,
        ops,
        connections,
        connections_per_origin: own,
    })
}

/// Checks `[ocsp]`.
fn ocsp(form: OcspForm, place: &Place<'_>) -> Result<Ocsp, ConfigError> {
    let life = form.answer_life.as_deref();
    let mib = place.number(
        "ocsp.cache_mib",
        form.cache_mib,
        CACHE_MIB_DEFAULT,
        &CACHE_MIB,
    )?;
    Ok(Ocsp {
        key_file: place.path("ocsp.key_file", &form.key_file)?,
        identify: form.responder_id.unwrap_or(Identify::ByKey),
        life: place.duration("ocsp.answer_life", life, LIFE_DEFAULT, &LIFE)?,
        signatures_per_origin: signatures(form.signatures_per_origin, place)?,
        cache_bytes: mib.saturating_mul(1024 * 1024),
    })
}

/// Checks how many signatures an origin gets.
fn signatures(
    form: Option<SignaturesForm>,
    place: &Place<'_>,
) -> Result<Option<NonZeroU32>, ConfigError> {
    let number = match form {
        None => Some(SIGNATURES_DEFAULT),
        Some(SignaturesForm::Word(word)) if word == UNLIMITED => return Ok(None),
        Some(SignaturesForm::Number(number)) => u32::try_from(number).ok(),
        Some(SignaturesForm::Word(_)) => None,
    };
    let number = number.filter(|number| SIGNATURES.contains(number));
    let number = number.and_then(NonZeroU32::new).ok_or_else(|| {
        let (least, most) = (SIGNATURES.start(), SIGNATURES.end());
        let problem = format!("must be {least} to {most} a second, or \"{UNLIMITED}\"");
        place.refuse("ocsp.signatures_per_origin", problem)
    })?;
    Ok(Some(number))
}

/// Checks `[witness]`.
fn witness(form: WitnessForm, place: &Place<'_>) -> Result<Witness, ConfigError> {
    // The same rule as for logs: it stands in the same kind of line.
    VerifierKey::new(&form.name, [0; 32]).map_err(|_| {
        let problem =
            "must be a URL without its scheme, such as ocsp-1.example: without spaces and '+'";
        place.refuse("witness.name", problem)
    })?;
    Ok(Witness {
        name: form.name,
        key_file: place.path("witness.key_file", &form.key_file)?,
    })
}

/// Checks one `[[log]]`.
fn log(
    form: LogForm,
    at: &str,
    life: Duration,
    place: &Place<'_>,
) -> Result<LogConfig, ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let name = place.slug(&key("name"), &form.name)?;
    if RESERVED.contains(&name.as_str()) {
        return Err(place.refuse(
            &key("name"),
            "is the first part of a path that everyone asks for: choose another",
        ));
    }
    let source = source(&form, at, place)?;
    let poll = match source {
        SourceConfig::Directory(_) => POLL_DIRECTORY,
        SourceConfig::Https { .. } => POLL_HTTPS,
    };
    // An answer of a view that old still has a tenth of its life.
    let default = life - life / 10;
    let ages = Duration::from_secs(1)..=default;
    Ok(LogConfig {
        name: name.to_string(),
        source,
        key: log_key(&form, at, place)?,
        state_dir: place.path(&key("state_dir"), &form.state_dir)?,
        responder: place.slug(&key("responder"), &form.responder)?,
        max_age: place.duration(&key("max_age"), form.max_age.as_deref(), default, &ages)?,
        poll: place.duration(&key("poll"), form.poll.as_deref(), poll, &POLL)?,
    })
}

/// Checks where a log is.
fn source(form: &LogForm, at: &str, place: &Place<'_>) -> Result<SourceConfig, ConfigError> {
    let files = [
        ("ca_file", &form.ca_file),
        ("certificate_file", &form.certificate_file),
        ("key_file", &form.key_file),
    ];
    if !form.source.starts_with("https://") {
        if form.source.contains("://") {
            return Err(place.refuse(
                &format!("{at}.source"),
                "must be a directory, or a URL that begins with https://",
            ));
        }
        if let Some((name, _)) = files.iter().find(|(_, file)| file.is_some()) {
            return Err(place.refuse(
                &format!("{at}.{name}"),
                "belongs to a source over https only",
            ));
        }
        let directory = place.path(&format!("{at}.source"), &form.source)?;
        return Ok(SourceConfig::Directory(directory));
    }
    let path = |(name, file): (&str, &Option<String>)| {
        let key = format!("{at}.{name}");
        let missing = "is missing: the appliance asks for a certificate over https";
        let file = file.as_deref().ok_or_else(|| place.refuse(&key, missing))?;
        place.path(&key, file)
    };
    let [ca, certificate, key] = files;
    Ok(SourceConfig::Https {
        url: form.source.clone(),
        files: HttpsFiles {
            ca: path(ca)?,
            certificate: path(certificate)?,
            key: path(key)?,
        },
    })
}

/// The verifier key, from the file's text or from a file of its own.
fn log_key(form: &LogForm, at: &str, place: &Place<'_>) -> Result<VerifierKey, ConfigError> {
    let (key, text) = match (&form.log_key, &form.log_key_file) {
        (Some(text), None) => (format!("{at}.log_key"), text.clone()),
        (None, Some(file)) => {
            let key = format!("{at}.log_key_file");
            let path = place.path(&key, file)?;
            (key, document::text(&path, KEY_FILE_BYTES_MAX)?)
        }
        (Some(_), Some(_)) => {
            return Err(place.refuse(
                &format!("{at}.log_key_file"),
                "stands beside log_key: give one of the two",
            ));
        }
        (None, None) => {
            let problem = "is missing, and so is log_key_file: name the log's verifier key, which the ceremony wrote";
            return Err(place.refuse(&format!("{at}.log_key"), problem));
        }
    };
    VerifierKey::parse(text.trim()).map_err(|bad| place.refuse(&key, bad))
}

/// Refuses two logs that share what each must have of its own.
fn apart(logs: &[LogConfig], place: &Place<'_>) -> Result<(), ConfigError> {
    let (mut names, mut directories, mut origins) =
        (HashSet::new(), HashSet::new(), HashSet::new());
    for (index, log) in logs.iter().enumerate() {
        let key = |name: &str| format!("log[{index}].{name}");
        if !names.insert(&log.name) {
            return Err(place.refuse(&key("name"), "is that of another [[log]]"));
        }
        if !directories.insert(&log.state_dir) {
            return Err(place.refuse(
                &key("state_dir"),
                "is that of another [[log]]: each needs its own",
            ));
        }
        if !origins.insert(log.key.name()) {
            return Err(place.refuse(
                &key("log_key"),
                "has the origin of another [[log]]: a log is followed once",
            ));
        }
    }
    Ok(())
}
