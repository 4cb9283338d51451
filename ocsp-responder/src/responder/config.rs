//! The configuration of `hallmark-ocsp`: one TOML file, validated into the types that the program sees.
//!
//! `config/form.rs` is what serde sees (`version = 1`, unknown keys refused); [`Config`] is what everybody else sees; the
//! only road is [`Config::load`]. Promises that names, places and durations in it do not contradict each other. Never
//! holds a secret, only paths to them. Failure story: [`ConfigError`] names file and key; whoever loads it stops.

mod form;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::document;
use crate::log::checkpoint::VerifierKey;
use crate::log::entry::Slug;
use crate::view::HttpsFiles;

pub use crate::document::ConfigError;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// `[listen]`.
    pub listen: Listen,
    /// `[ocsp]`.
    pub ocsp: Ocsp,
    /// `[witness]`.
    pub witness: Witness,
    /// `[[log]]`, at least one.
    pub logs: Vec<LogConfig>,
}

/// Addresses and places.
#[derive(Clone, Debug)]
pub struct Listen {
    /// `http`: where everyone asks.
    pub http: Vec<SocketAddr>,
    /// `ops`: health, readiness, metrics; a loopback address.
    pub ops: SocketAddr,
    /// `connections`: open ones at a time.
    pub connections: usize,
    /// `connections_per_origin`: of these for one IPv4 address or IPv6 /64.
    pub connections_per_origin: usize,
}

impl Listen {
    /// Connections that are open at the very most: those that have a place, and those on their way out.
    #[must_use]
    pub const fn open_max(&self) -> usize {
        self.connections + super::shares::leaving_max(self.connections)
    }
}

/// What answers look like.
#[derive(Clone, Debug)]
pub struct Ocsp {
    /// `key_file`: the responder's P-256 key, PKCS#8, mode 0600; made at the first start.
    pub key_file: PathBuf,
    /// `responder_id`.
    pub identify: Identify,
    /// `answer_life`: nextUpdate lies this long after thisUpdate.
    pub life: Duration,
    /// `signatures_per_origin`: a second for one IPv4 address or IPv6 /64; none where there is no limit.
    pub signatures_per_origin: Option<NonZeroU32>,
    /// `cache_mib`: memory for signed answers, in octets.
    pub cache_bytes: usize,
}

/// How answers name the responder (RFC 6960, 4.2.2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
pub enum Identify {
    /// By the hash of its key.
    #[serde(rename = "byKey")]
    ByKey,
    /// By the subject of its certificate.
    #[serde(rename = "byName")]
    ByName,
}

/// Who cosigns the heads that were verified (C2SP tlog-cosignature).
#[derive(Clone, Debug)]
pub struct Witness {
    /// `name`: the key's name in notes.
    pub name: String,
    /// `key_file`: an Ed25519 key, PKCS#8, mode 0600; made at the first start.
    pub key_file: PathBuf,
}

/// A log that is followed.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// `name`: in messages, metrics and paths.
    pub name: String,
    /// `source`.
    pub source: SourceConfig,
    /// `log_key` or the contents of `log_key_file`.
    pub key: VerifierKey,
    /// `state_dir`: what is kept of this log, and of no other.
    pub state_dir: PathBuf,
    /// `responder`: this responder's name at the appliance.
    pub responder: Slug,
    /// `max_age`: with an older view the answer is `tryLater`.
    pub max_age: Duration,
    /// `poll`: the pause between looks at the source.
    pub poll: Duration,
}

/// Where `public/` is.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    /// A directory.
    Directory(PathBuf),
    /// The appliance.
    Https {
        /// `https://HOST:PORT/public/`.
        url: String,
        /// `ca_file`, `certificate_file`, `key_file`.
        files: HttpsFiles,
    },
}

impl Config {
    /// Reads and checks a configuration file; reads the files of log keys that it names.
    ///
    /// # Errors
    /// [`ConfigError`] names the first key that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        document::read::<form::File>(path)?.into_config(path)
    }
}

#[cfg(test)]
mod tests;
