//! The configuration file of `crl-sync` as serde sees it, and its way into the types that the program sees.
//!
//! Owns every rule about values: places, ranges, defaults, which keys go together. Promises that the first thing wrong
//! is named with its dotted key. Reads issuers' certificates, files of log keys and `/etc/group`, and no other file.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::{BrokerConfig, CrlConfig, Kind, Reload, SyncConfig, Words};
use crate::document::{self, ConfigError, Place};
use crate::durable::Access;
use crate::log::checkpoint::VerifierKey;
use crate::sync::fetch::Source;
use crate::sync::issuer::Issuer;
use crate::sync::place::{Encoding, Target};

/// The pause between looks at the sources.
const POLL: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);

/// The same where the file does not say: a conditional request each.
const POLL_DEFAULT: Duration = Duration::from_secs(5);

/// How long a command may run.
const DEADLINE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);

/// The same where the file does not say: a broker's restart takes seconds.
const DEADLINE_DEFAULT: Duration = Duration::from_secs(60);

/// The mode of the files where the file does not say: CRLs are public.
const MODE_DEFAULT: &str = "0644";

/// What restarts Mosquitto where the file does not say.
const RESTART_DEFAULT: [&str; 3] = ["systemctl", "restart", "mosquitto"];

/// The longest certificate file or file of a verifier key, in octets.
const FILE_BYTES_MAX: u64 = 64 * 1024;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Judged by [`crate::document::read`].
    #[serde(rename = "version")]
    _version: i64,
    state_dir: String,
    poll: Option<String>,
    listen: Option<ListenForm>,
    mosquitto: Option<MosquittoForm>,
    rabbitmq: Option<RabbitMqForm>,
    hook: Option<HookForm>,
    crl: Vec<CrlForm>,
}

/// `[listen]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenForm {
    ops: String,
}

/// `[mosquitto]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MosquittoForm {
    crl_file: String,
    mode: Option<String>,
    group: Option<String>,
    pid_file: Option<String>,
    reload_command: Option<Words>,
    end_sessions: Option<bool>,
    restart_command: Option<Words>,
    command_deadline: Option<String>,
}

/// `[rabbitmq]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RabbitMqForm {
    crl_dir: String,
    mode: Option<String>,
    group: Option<String>,
    end_sessions: Option<bool>,
    rabbitmqctl: Option<Words>,
    command_deadline: Option<String>,
}

/// `[hook]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HookForm {
    crl_file: Option<String>,
    crl_dir: Option<String>,
    encoding: Option<Encoding>,
    mode: Option<String>,
    group: Option<String>,
    command: Words,
    command_deadline: Option<String>,
}

/// `[[crl]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CrlForm {
    name: String,
    issuer_file: String,
    sources: Vec<String>,
    log_key: Option<String>,
    log_key_file: Option<String>,
}

impl File {
    /// Checks every value and what they say together.
    ///
    /// # Errors
    /// [`ConfigError`] names the first key that is wrong.
    pub fn into_config(self, file: &Path) -> Result<SyncConfig, ConfigError> {
        let place = Place::of(file)?;
        let ops = self
            .listen
            .map(|listen| place.loopback("listen.ops", &listen.ops));
        let broker = match (self.mosquitto, self.rabbitmq, self.hook) {
            (Some(form), None, None) => mosquitto(form, &place)?,
            (None, Some(form), None) => rabbitmq(form, &place)?,
            (None, None, Some(form)) => hook(form, &place)?,
            _ => {
                let problem = "must have exactly one of [mosquitto], [rabbitmq] and [hook]: a file is for one broker";
                return Err(place.refuse("the file", problem));
            }
        };
        if self.crl.is_empty() {
            return Err(place.refuse("crl", "there must be at least one [[crl]]"));
        }
        let (mut crls, mut names) = (Vec::new(), HashSet::new());
        for (index, form) in self.crl.into_iter().enumerate() {
            let at = format!("crl[{index}]");
            if !names.insert(form.name.clone()) {
                return Err(place.refuse(&format!("{at}.name"), "is that of another [[crl]]"));
            }
            crls.push(crl(form, &at, &place)?);
        }
        Ok(SyncConfig {
            state_dir: place.path("state_dir", &self.state_dir)?,
            poll: place.duration("poll", self.poll.as_deref(), POLL_DEFAULT, &POLL)?,
            ops: ops.transpose()?,
            broker,
            crls,
        })
    }
}

/// Checks `[mosquitto]`.
fn mosquitto(form: MosquittoForm, place: &Place<'_>) -> Result<BrokerConfig, ConfigError> {
    let reload = match (form.pid_file, form.reload_command) {
        (Some(path), None) => Reload::PidFile(place.path("mosquitto.pid_file", &path)?),
        (None, Some(words)) => Reload::Command(command("mosquitto.reload_command", words, place)?),
        _ => {
            let problem = "or reload_command must be given, and not both: how Mosquitto is made to read its files again";
            return Err(place.refuse("mosquitto.pid_file", problem));
        }
    };
    let key = "mosquitto.restart_command";
    let restart = match (form.end_sessions.unwrap_or(false), form.restart_command) {
        (true, words) => {
            let default = || RESTART_DEFAULT.map(str::to_owned).to_vec();
            Some(command(key, words.unwrap_or_else(default), place)?)
        }
        (false, None) => None,
        (false, Some(_)) => {
            return Err(place.refuse(key, "is used with end_sessions = true only"));
        }
    };
    let path = place.path("mosquitto.crl_file", &form.crl_file)?;
    Ok(BrokerConfig {
        target: Target::OneFile(path),
        access: access(
            "mosquitto",
            form.mode.as_deref(),
            form.group.as_deref(),
            place,
        )?,
        kind: Kind::Mosquitto { reload, restart },
        deadline: deadline("mosquitto", form.command_deadline.as_deref(), place)?,
    })
}

/// Checks `[rabbitmq]`.
fn rabbitmq(form: RabbitMqForm, place: &Place<'_>) -> Result<BrokerConfig, ConfigError> {
    let key = "rabbitmq.rabbitmqctl";
    let control = match (form.end_sessions.unwrap_or(false), form.rabbitmqctl) {
        (true, words) => {
            let default = || vec!["rabbitmqctl".to_owned()];
            Some(command(key, words.unwrap_or_else(default), place)?)
        }
        (false, None) => None,
        (false, Some(_)) => {
            return Err(place.refuse(key, "is used with end_sessions = true only"));
        }
    };
    let directory = place.path("rabbitmq.crl_dir", &form.crl_dir)?;
    Ok(BrokerConfig {
        target: Target::Hashed(directory),
        access: access(
            "rabbitmq",
            form.mode.as_deref(),
            form.group.as_deref(),
            place,
        )?,
        kind: Kind::RabbitMq { control },
        deadline: deadline("rabbitmq", form.command_deadline.as_deref(), place)?,
    })
}

/// Checks `[hook]`.
fn hook(form: HookForm, place: &Place<'_>) -> Result<BrokerConfig, ConfigError> {
    let target = match (form.crl_file, form.crl_dir, form.encoding) {
        (Some(path), None, None | Some(Encoding::Pem)) => {
            Target::OneFile(place.path("hook.crl_file", &path)?)
        }
        (None, Some(path), encoding) => Target::Named {
            directory: place.path("hook.crl_dir", &path)?,
            encoding: encoding.unwrap_or(Encoding::Pem),
        },
        (Some(_), None, Some(Encoding::Der)) => {
            let problem = "must be \"pem\" with crl_file: several CRLs stand in one file as PEM only; crl_dir takes both";
            return Err(place.refuse("hook.encoding", problem));
        }
        _ => {
            let problem = "or crl_dir must be given, and not both: where the CRLs are written";
            return Err(place.refuse("hook.crl_file", problem));
        }
    };
    Ok(BrokerConfig {
        target,
        access: access("hook", form.mode.as_deref(), form.group.as_deref(), place)?,
        kind: Kind::Hook(command("hook.command", form.command, place)?),
        deadline: deadline("hook", form.command_deadline.as_deref(), place)?,
    })
}

/// A command: at least a program.
fn command(key: &str, words: Words, place: &Place<'_>) -> Result<Words, ConfigError> {
    match words.first() {
        Some(program) if !program.is_empty() => Ok(words),
        _ => Err(place.refuse(
            key,
            "must be a program and its arguments, such as [\"/usr/local/bin/told\", \"now\"]",
        )),
    }
}

/// How long a command may run.
fn deadline(table: &str, text: Option<&str>, place: &Place<'_>) -> Result<Duration, ConfigError> {
    let key = format!("{table}.command_deadline");
    place.duration(&key, text, DEADLINE_DEFAULT, &DEADLINE)
}

/// Mode and group of files.
fn access(
    table: &str,
    mode: Option<&str>,
    group: Option<&str>,
    place: &Place<'_>,
) -> Result<Access, ConfigError> {
    let text = mode.unwrap_or(MODE_DEFAULT);
    let mode = u32::from_str_radix(text, 8)
        .ok()
        .filter(|mode| mode & !0o664 == 0 && mode & 0o600 == 0o600);
    let Some(mode) = mode else {
        let problem = "must be a mode such as \"0640\": octal, between 0600 and 0664";
        return Err(place.refuse(&format!("{table}.mode"), problem));
    };
    let group = group.map(|name| {
        group_id(name).ok_or_else(|| {
            let problem = format!("{name} is neither in /etc/group nor a number");
            place.refuse(&format!("{table}.group"), problem)
        })
    });
    Ok(Access {
        mode,
        group: group.transpose()?,
    })
}

/// The id of a group, by number or by its line in `/etc/group`.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let groups = document::text(Path::new("/etc/group"), document::FILE_BYTES_MAX).ok()?;
    let mut found = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())
    });
    found.next().flatten()
}

/// Checks one `[[crl]]`.
fn crl(form: CrlForm, at: &str, place: &Place<'_>) -> Result<CrlConfig, ConfigError> {
    let key = |name: &str| format!("{at}.{name}");
    let name = place.slug(&key("name"), &form.name)?;
    let log = log_key(&form, at, place)?;
    let path = place.path(&key("issuer_file"), &form.issuer_file)?;
    let octets = read(&path).map_err(|source| ConfigError::Read {
        path: path.clone(),
        source,
    })?;
    let issuer = Issuer::read(name, &octets, log)
        .map_err(|bad| place.refuse(&key("issuer_file"), crate::chain(&bad)))?;
    if form.sources.is_empty() {
        return Err(place.refuse(&key("sources"), "must name at least one URL or file"));
    }
    let mut sources = Vec::new();
    for text in form.sources {
        let source = match text.contains("://") {
            true => Source::url(&text).map_err(|bad| place.refuse(&key("sources"), bad))?,
            false => Source::File(place.path(&key("sources"), &text)?),
        };
        sources.push(source);
    }
    Ok(CrlConfig { issuer, sources })
}

/// The verifier key of the log that a CRL's anchor must be of.
fn log_key(
    form: &CrlForm,
    at: &str,
    place: &Place<'_>,
) -> Result<Option<VerifierKey>, ConfigError> {
    let (key, text) = match (&form.log_key, &form.log_key_file) {
        (None, None) => return Ok(None),
        (Some(text), None) => (format!("{at}.log_key"), text.clone()),
        (None, Some(file)) => {
            let key = format!("{at}.log_key_file");
            let path = place.path(&key, file)?;
            (key, document::text(&path, FILE_BYTES_MAX)?)
        }
        (Some(_), Some(_)) => {
            let problem = "and log_key_file must not be given both";
            return Err(place.refuse(&format!("{at}.log_key"), problem));
        }
    };
    let parsed = VerifierKey::parse(text.trim()).map_err(|bad| place.refuse(&key, bad))?;
    Ok(Some(parsed))
}

/// A certificate's file.
fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut octets = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(FILE_BYTES_MAX).read_to_end(&mut octets)?;
    Ok(octets)
}
