//! The configuration file as serde sees it, and its way into the types that the program sees.
//!
//! Owns every rule about values: names, places, addresses, ranges. Promises that the first thing wrong is
//! named with its dotted key. Never looks at the file system but for the configuration's own directory.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::log::IssuerName;
use certstatus::log::checkpoint::CosignerKey;
use certstatus::log::entry::Slug;
use serde::Deserialize;

use super::crl::{CrlTerms, PartitionUrl, read_time};
use super::text::{check_origin, check_server_name, check_url, plain};
use super::uri::TokenUri;
use super::{
    Config, ConfigError, Issuer, KeyUri, Listen, Log, LogKeyPlace, MinimumTls, Operator,
    Revocation, Server, Token, Witness,
};
use crate::limits;

/// The longest path of a Unix socket in bytes that every system takes (sockaddr_un).
const SOCKET_PATH_BYTES_MAX: usize = 103;

/// Sessions on one token: more than its processors buys nothing, and tokens have few.
const SESSIONS: std::ops::RangeInclusive<u16> = 1..=64;

/// Sessions on one token when the file does not say.
const SESSIONS_DEFAULT: u16 = 4;

/// How long a signature may take: below, a busy token is killed; above, a line waits in vain.
const SIGN_DEADLINE: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(600);

/// How long a signature may take when the file does not say.
const SIGN_DEADLINE_DEFAULT: Duration = Duration::from_secs(10);

/// How often responders look at the published log when the file does not say.
const OCSP_POLL: Duration = Duration::from_secs(1);

/// How long OCSP answers may be cached when the file does not say.
const OCSP_CACHED: Duration = Duration::from_secs(600);

/// Within which time a CRL follows a revocation when the file does not say.
const CRL_WITHIN: Duration = Duration::from_secs(5);

/// A witness's name in bytes: a key's name is a URL without its scheme.
const WITNESS_NAME_BYTES_MAX: usize = 200;

/// Names in the server's certificate.
const SERVER_NAMES_MAX: usize = 32;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Judged by [`certstatus::document::read`].
    #[serde(rename = "version")]
    _version: i64,
    state_dir: String,
    published: String,
    details: String,
    profiles: String,
    log: LogForm,
    listen: ListenForm,
    server: ServerForm,
    operator: Vec<OperatorForm>,
    token: Vec<TokenForm>,
    #[serde(default)]
    crl: CrlForm,
    issuer: Vec<IssuerForm>,
    #[serde(default)]
    revocation: RevocationForm,
    #[serde(default)]
    witness: Vec<WitnessForm>,
}

/// `[[witness]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WitnessForm {
    name: Option<String>,
    url: String,
    key: String,
}

/// `[revocation]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RevocationForm {
    ocsp_poll: Option<String>,
    ocsp_cached: Option<String>,
    crl_within: Option<String>,
}

/// `[log]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogForm {
    origin: String,
    key_file: Option<String>,
    key: Option<String>,
}

/// `[listen]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenForm {
    api: String,
    ops: String,
    admin_socket: String,
    #[serde(default)]
    tls12: bool,
}

/// `[server]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerForm {
    names: Vec<String>,
    issuer: String,
}

/// `[[operator]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OperatorForm {
    name: String,
    uid: u32,
}

/// `[[token]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenForm {
    name: String,
    module: String,
    uri: String,
    pin_file: String,
    socket: String,
    sessions: Option<u16>,
    sign_deadline: Option<String>,
    #[serde(default)]
    daemon_uids: Vec<u32>,
}

/// `[crl]`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CrlForm {
    validity: Option<String>,
    every: Option<String>,
    keep_expired_since: Option<String>,
}

/// `[[issuer]]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssuerForm {
    name: String,
    key: Option<String>,
    crl_url: Option<String>,
    crl_partition_url: Option<String>,
    crl_validity: Option<String>,
    crl_every: Option<String>,
    crl_keep_expired_since: Option<String>,
    ocsp_url: Option<String>,
    ca_url: Option<String>,
}

/// Where the values stand: for errors and relative paths.
struct Place<'a> {
    file: &'a Path,
    base: PathBuf,
}

impl File {
    /// Checks every value and what they say together.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the first key that is wrong.
    pub fn into_config(self, file: &Path) -> Result<Config, ConfigError> {
        let absolute = std::path::absolute(file).map_err(|source| ConfigError::Read {
            path: file.to_owned(),
            source,
        })?;
        let base = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        let at = Place { file, base };
        let crl = at.crl("crl.", &self.crl)?;
        at.crl_terms("crl.", crl)?;
        let config = Config {
            state_dir: at.path("state_dir", &self.state_dir)?,
            published: at.path("published", &self.published)?,
            details: at.path("details", &self.details)?,
            profiles: at.path("profiles", &self.profiles)?,
            log: at.log(&self.log)?,
            listen: at.listen(&self.listen)?,
            server: at.server(self.server)?,
            operators: at.operators(self.operator)?,
            tokens: at.tokens(self.token)?,
            crl,
            issuers: at.issuers(self.issuer, crl)?,
            revocation: at.revocation(&self.revocation)?,
            witnesses: at.witnesses(self.witness)?,
        };
        at.places(&config)?;
        at.sockets(&config)?;
        at.keys(&config)?;
        Ok(config)
    }
}

impl Place<'_> {
    /// A refusal of a key's value.
    fn refuse(&self, key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::Value {
            path: self.file.to_owned(),
            key: key.into(),
            problem: problem.into(),
        }
    }

    /// A path, absolute.
    fn path(&self, key: &str, value: &str) -> Result<PathBuf, ConfigError> {
        if value.is_empty() || value.contains('\0') {
            return Err(self.refuse(key, "must be a path"));
        }
        Ok(plain(&self.base.join(value)))
    }

    /// A value that another type parses.
    fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        key: &str,
        value: &str,
    ) -> Result<T, ConfigError> {
        value
            .parse()
            .map_err(|error: T::Err| self.refuse(key, error.to_string()))
    }

    /// `[log]`.
    fn log(&self, form: &LogForm) -> Result<Log, ConfigError> {
        check_origin(&form.origin).map_err(|problem| self.refuse("log.origin", problem))?;
        let key = match (&form.key_file, &form.key) {
            (Some(file), None) => LogKeyPlace::File(self.path("log.key_file", file)?),
            (None, Some(uri)) => LogKeyPlace::Token(self.parsed("log.key", uri)?),
            (Some(_), Some(_)) => {
                return Err(self.refuse("log.key", "stands beside log.key_file: keep one of them"));
            }
            (None, None) => {
                return Err(self.refuse(
                    "log.key_file",
                    "is missing: name the file of the log key, or its place on a token as log.key",
                ));
            }
        };
        Ok(Log {
            origin: form.origin.clone(),
            key,
        })
    }

    /// `[listen]`.
    fn listen(&self, form: &ListenForm) -> Result<Listen, ConfigError> {
        let address = |key: &str, value: &str| {
            value.parse::<SocketAddr>().map_err(|_| {
                self.refuse(
                    key,
                    "must be an address and a port, such as 192.0.2.7:8443 or [::]:8443",
                )
            })
        };
        let listen = Listen {
            api: address("listen.api", &form.api)?,
            ops: address("listen.ops", &form.ops)?,
            admin_socket: self.path("listen.admin_socket", &form.admin_socket)?,
            minimum_tls: if form.tls12 {
                MinimumTls::V1_2
            } else {
                MinimumTls::V1_3
            },
        };
        if !listen.ops.ip().is_loopback() {
            return Err(self.refuse(
                "listen.ops",
                "must be a loopback address, such as 127.0.0.1:9090: it answers without asking who asks",
            ));
        }
        let same_port = listen.ops.port() != 0 && listen.ops.port() == listen.api.port();
        if same_port && (listen.api.ip().is_unspecified() || listen.api.ip() == listen.ops.ip()) {
            return Err(self.refuse("listen.ops", "has the port of listen.api: take another"));
        }
        Ok(listen)
    }

    /// `[server]`.
    fn server(&self, form: ServerForm) -> Result<Server, ConfigError> {
        if form.names.is_empty() || form.names.len() > SERVER_NAMES_MAX {
            return Err(self.refuse(
                "server.names",
                format!("must have 1 to {SERVER_NAMES_MAX} names under which lines reach the API"),
            ));
        }
        let mut seen = HashSet::new();
        for (index, name) in form.names.iter().enumerate() {
            let key = format!("server.names[{index}]");
            check_server_name(name).map_err(|problem| self.refuse(&*key, problem))?;
            if !seen.insert(name.to_ascii_lowercase()) {
                return Err(self.refuse(key, format!("{name} stands twice")));
            }
        }
        Ok(Server {
            issuer: self.parsed("server.issuer", &form.issuer)?,
            names: form.names,
        })
    }

    /// `[[operator]]`.
    fn operators(&self, forms: Vec<OperatorForm>) -> Result<Vec<Operator>, ConfigError> {
        if forms.is_empty() {
            return Err(self.refuse("operator", "must have at least one entry"));
        }
        let (mut names, mut uids) = (HashSet::new(), HashSet::new());
        for (index, form) in forms.iter().enumerate() {
            let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_@".contains(c);
            let key = format!("operator[{index}].name");
            if form.name.is_empty() || form.name.len() > 64 || !form.name.chars().all(allowed) {
                let rule = "must have 1 to 64 letters, digits, '.', '-', '_' and '@'";
                return Err(self.refuse(key, rule));
            }
            if form.name == super::APPLIANCE {
                let rule = "\"appliance\" stands for the appliance's own acts: take another";
                return Err(self.refuse(key, rule));
            }
            if !names.insert(form.name.clone()) {
                return Err(self.refuse(key, format!("{:?} stands twice", form.name)));
            }
            if !uids.insert(form.uid) {
                let rule = format!("{} stands twice: each operator is a user", form.uid);
                return Err(self.refuse(format!("operator[{index}].uid"), rule));
            }
        }
        let operator = |form: OperatorForm| Operator {
            name: form.name,
            uid: form.uid,
        };
        Ok(forms.into_iter().map(operator).collect())
    }

    /// `[[token]]`.
    fn tokens(&self, forms: Vec<TokenForm>) -> Result<Vec<Token>, ConfigError> {
        if forms.is_empty() {
            return Err(self.refuse("token", "must have at least one entry"));
        }
        let (mut names, mut places) = (HashSet::new(), HashSet::new());
        let mut tokens = Vec::with_capacity(forms.len());
        for (index, form) in forms.into_iter().enumerate() {
            let token = self.token(index, form)?;
            if !names.insert(token.name.clone()) {
                let rule = format!("{:?} stands twice", token.name);
                return Err(self.refuse(format!("token[{index}].name"), rule));
            }
            if !places.insert((token.label.clone(), token.serial.clone())) {
                let rule = "another [[token]] names the same label and serial";
                return Err(self.refuse(format!("token[{index}].uri"), rule));
            }
            tokens.push(token);
        }
        Ok(tokens)
    }

    /// One `[[token]]`.
    fn token(&self, index: usize, form: TokenForm) -> Result<Token, ConfigError> {
        let key = |name: &str| format!("token[{index}].{name}");
        let name: Slug = self.parsed(&key("name"), &form.name)?;
        let uri: TokenUri = self.parsed(&key("uri"), &form.uri)?;
        let sessions = form.sessions.unwrap_or(SESSIONS_DEFAULT);
        if !SESSIONS.contains(&sessions) {
            let (least, most) = (SESSIONS.start(), SESSIONS.end());
            return Err(self.refuse(key("sessions"), format!("must be {least} to {most}")));
        }
        let sign_deadline = match &form.sign_deadline {
            Some(text) => self.duration(&key("sign_deadline"), text)?,
            None => SIGN_DEADLINE_DEFAULT,
        };
        if !SIGN_DEADLINE.contains(&sign_deadline) {
            return Err(self.refuse(key("sign_deadline"), "must be 100ms to 10min"));
        }
        Ok(Token {
            name: name.to_string(),
            module: self.path(&key("module"), &form.module)?,
            label: uri.label,
            serial: uri.serial,
            pin_file: self.path(&key("pin_file"), &form.pin_file)?,
            socket: self.path(&key("socket"), &form.socket)?,
            sessions,
            sign_deadline,
            daemon_uids: form.daemon_uids,
        })
    }

    /// A duration with its unit.
    fn duration(&self, key: &str, text: &str) -> Result<Duration, ConfigError> {
        humantime::parse_duration(text).map_err(|error| {
            let problem =
                format!("must be a number with a unit, such as 10s, 15min or 90days: {error}");
            self.refuse(key, problem)
        })
    }

    /// What is said of CRLs, each key behind `prefix`.
    fn crl(&self, prefix: &str, form: &CrlForm) -> Result<CrlTerms, ConfigError> {
        let key = |name: &str| format!("{prefix}{name}");
        let duration = |name: &str, text: &Option<String>| {
            let text = text.as_deref();
            text.map(|text| self.duration(&key(name), text)).transpose()
        };
        let since = form.keep_expired_since.as_deref().map(|text| {
            read_time(text).map_err(|problem| self.refuse(key("keep_expired_since"), problem))
        });
        Ok(CrlTerms {
            validity: duration("validity", &form.validity)?,
            every: duration("every", &form.every)?,
            keep_expired_since: since.transpose()?,
        })
    }

    /// Refuses terms of CRLs that contradict each other.
    fn crl_terms(&self, prefix: &str, terms: CrlTerms) -> Result<(), ConfigError> {
        terms
            .check()
            .map_err(|(name, problem)| self.refuse(format!("{prefix}{name}"), problem))
    }

    /// `[[issuer]]`.
    fn issuers(
        &self,
        forms: Vec<IssuerForm>,
        common: CrlTerms,
    ) -> Result<Vec<Issuer>, ConfigError> {
        if forms.is_empty() {
            return Err(self.refuse("issuer", "must have at least one entry"));
        }
        let mut names = HashSet::new();
        let mut issuers = Vec::with_capacity(forms.len());
        for (index, form) in forms.into_iter().enumerate() {
            let key = |name: &str| format!("issuer[{index}].{name}");
            let name: IssuerName = self.parsed(&key("name"), &form.name)?;
            if !names.insert(name.clone()) {
                return Err(self.refuse(key("name"), format!("{name} stands twice")));
            }
            let uri = form.key.map(|uri| self.parsed(&key("key"), &uri));
            let url = |field: &str, value: Option<String>| match value {
                Some(url) => match check_url(&url) {
                    Ok(()) => Ok(Some(url)),
                    Err(problem) => Err(self.refuse(key(field), problem)),
                },
                None => Ok(None),
            };
            let terms = CrlForm {
                validity: form.crl_validity,
                every: form.crl_every,
                keep_expired_since: form.crl_keep_expired_since,
            };
            let prefix = key("crl_");
            let crl = self.crl(&prefix, &terms)?.or(common);
            self.crl_terms(&prefix, crl)?;
            let partitions: Option<PartitionUrl> = match &form.crl_partition_url {
                Some(url) => Some(self.parsed(&key("crl_partition_url"), url)?),
                None => None,
            };
            if partitions.is_some() && form.crl_url.is_some() {
                let problem = "stands beside crl_partition_url: a certificate names one of them";
                return Err(self.refuse(key("crl_url"), problem));
            }
            issuers.push(Issuer {
                name,
                key: uri.transpose()?,
                crl_partition_url: partitions,
                crl,
                crl_url: url("crl_url", form.crl_url)?,
                ocsp_url: url("ocsp_url", form.ocsp_url)?,
                ca_url: url("ca_url", form.ca_url)?,
            });
        }
        Ok(issuers)
    }

    /// `[[witness]]`.
    fn witnesses(&self, forms: Vec<WitnessForm>) -> Result<Vec<Witness>, ConfigError> {
        if forms.len() > limits::WITNESSES_MAX {
            let most = limits::WITNESSES_MAX;
            return Err(self.refuse("witness", format!("must have at most {most} entries")));
        }
        let mut witnesses: Vec<Witness> = Vec::with_capacity(forms.len());
        for (index, form) in forms.into_iter().enumerate() {
            let key = |name: &str| format!("witness[{index}].{name}");
            let url = self.parsed(&key("url"), &form.url)?;
            let cosigner = CosignerKey::parse(form.key.trim()).map_err(|error| {
                let problem = format!("{error}; `hallmark-ocsp key` prints it behind \"witness:\"");
                self.refuse(key("key"), problem)
            })?;
            let name = form.name.unwrap_or_else(|| cosigner.name().to_owned());
            let visible = name.bytes().all(|octet| octet.is_ascii_graphic());
            if name.is_empty() || name.len() > WITNESS_NAME_BYTES_MAX || !visible {
                let most = WITNESS_NAME_BYTES_MAX;
                let rule = format!("must have 1 to {most} ASCII characters and no space");
                return Err(self.refuse(key("name"), rule));
            }
            if witnesses.iter().any(|other| other.name == name) {
                let problem = format!("{name:?} stands twice: give each witness a name of its own");
                return Err(self.refuse(key("name"), problem));
            }
            witnesses.push(Witness {
                name,
                url,
                key: cosigner,
            });
        }
        Ok(witnesses)
    }

    /// `[revocation]`.
    fn revocation(&self, form: &RevocationForm) -> Result<Revocation, ConfigError> {
        let within = |key: &str, value: &Option<String>, default, range: (Duration, Duration)| {
            let key = format!("revocation.{key}");
            let time = match value {
                Some(text) => self.duration(&key, text)?,
                None => default,
            };
            if (range.0..=range.1).contains(&time) {
                return Ok(time);
            }
            let (least, most) = (
                humantime::format_duration(range.0),
                humantime::format_duration(range.1),
            );
            Err(self.refuse(key, format!("must be {least} to {most}")))
        };
        let (least, hour) = (Duration::from_millis(100), Duration::from_secs(3600));
        // As long as an answer of hallmark-ocsp may live (`ocsp.answer_life`).
        let week = hour.saturating_mul(7 * 24);
        let crl_least = limits::CRL_WITHIN_MIN;
        Ok(Revocation {
            ocsp_poll: within("ocsp_poll", &form.ocsp_poll, OCSP_POLL, (least, hour))?,
            ocsp_cached: within("ocsp_cached", &form.ocsp_cached, OCSP_CACHED, (least, week))?,
            crl_within: within(
                "crl_within",
                &form.crl_within,
                CRL_WITHIN,
                (crl_least, hour),
            )?,
        })
    }

    /// What is published must not hold what is not.
    fn places(&self, config: &Config) -> Result<(), ConfigError> {
        let all = [
            ("state_dir", &config.state_dir),
            ("published", &config.published),
            ("details", &config.details),
            ("profiles", &config.profiles),
        ];
        for (outer_key, outer) in all {
            for (inner_key, inner) in all {
                let nested = outer_key != inner_key && inner.starts_with(outer);
                // The state directory is for the daemon alone, so anything may stand below it.
                if nested && (outer_key != "state_dir" || inner == outer) {
                    let problem = format!("is {outer_key} or below it: take another directory");
                    return Err(self.refuse(inner_key, problem));
                }
            }
        }
        let key_file = match &config.log.key {
            LogKeyPlace::File(path) => Some(("log.key_file".to_owned(), path)),
            LogKeyPlace::Token(_) => None,
        };
        let pins = config.tokens.iter().enumerate();
        let pins = pins.map(|(index, token)| (format!("token[{index}].pin_file"), &token.pin_file));
        for (key, path) in key_file.into_iter().chain(pins) {
            if path.starts_with(&config.published) || path.starts_with(&config.details) {
                let problem = "is below published or details, where others read: move it";
                return Err(self.refuse(key, problem));
            }
        }
        Ok(())
    }

    /// Sockets have short paths of their own.
    fn sockets(&self, config: &Config) -> Result<(), ConfigError> {
        let admin = (
            "listen.admin_socket".to_owned(),
            &config.listen.admin_socket,
        );
        let tokens = config.tokens.iter().enumerate();
        let tokens = tokens.map(|(index, token)| (format!("token[{index}].socket"), &token.socket));
        let mut seen = HashSet::new();
        for (key, path) in std::iter::once(admin).chain(tokens) {
            let length = path.as_os_str().len();
            if length > SOCKET_PATH_BYTES_MAX {
                let problem = format!(
                    "its path has {length} bytes; a Unix socket's has at most {SOCKET_PATH_BYTES_MAX}"
                );
                return Err(self.refuse(key, problem));
            }
            if !seen.insert(path) {
                return Err(self.refuse(key, "is another socket's path too: take another"));
            }
        }
        Ok(())
    }

    /// Every key is on a configured token, and no key has two uses.
    fn keys(&self, config: &Config) -> Result<(), ConfigError> {
        let log = match &config.log.key {
            LogKeyPlace::Token(uri) => Some(("log.key".to_owned(), uri)),
            LogKeyPlace::File(_) => None,
        };
        let issuers = config.issuers.iter().enumerate();
        let issuers = issuers.filter_map(|(index, issuer)| {
            Some((format!("issuer[{index}].key"), issuer.key.as_ref()?))
        });
        let mut seen: HashSet<&KeyUri> = HashSet::new();
        for (key, uri) in log.into_iter().chain(issuers) {
            if config.token_of(uri).is_none() {
                let (label, serial) = (&uri.token_label, &uri.token_serial);
                let problem =
                    format!("there is no [[token]] with label {label:?} and serial {serial:?}");
                return Err(self.refuse(key, problem));
            }
            if !seen.insert(uri) {
                return Err(self.refuse(key, "is another entry's key too: a key has one use"));
            }
        }
        let server = &config.server.issuer;
        match config.issuer(server) {
            Some(issuer) if issuer.key.is_some() => Ok(()),
            Some(_) => Err(self.refuse(
                "server.issuer",
                format!("{server} has no key: name one here"),
            )),
            None => Err(self.refuse(
                "server.issuer",
                format!("there is no [[issuer]] whose name is {server}"),
            )),
        }
    }
}

#[cfg(test)]
mod tests;
