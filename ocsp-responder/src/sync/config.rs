//! The configuration of `crl-sync`: one TOML file for one broker.
//!
//! `config/form.rs` is what serde sees (`version = 1`, unknown keys refused); [`SyncConfig`] is what everybody else
//! sees; the only road is [`SyncConfig::load`]. Promises that every issuer's certificate was read and can sign CRLs, and
//! that no two CRLs claim one name. Holds no secret. Failure story: [`ConfigError`] names file and key.

mod form;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::fetch::Source;
use super::issuer::Issuer;
use super::place::Target;
use crate::document::{self, ConfigError};
use crate::durable::Access;

/// A program and its arguments; no shell comes between.
pub type Words = Vec<String>;

/// The whole configuration.
#[derive(Debug)]
pub struct SyncConfig {
    /// `state_dir`: which CRLs the broker was told of last.
    pub state_dir: PathBuf,
    /// `poll`: the pause between looks at the sources.
    pub poll: Duration,
    /// `listen.ops`: health and metrics, on loopback.
    pub ops: Option<SocketAddr>,
    /// `[mosquitto]`, `[rabbitmq]` or `[hook]`.
    pub broker: BrokerConfig,
    /// `[[crl]]`, at least one.
    pub crls: Vec<CrlConfig>,
}

/// What is written for the broker, and how it is told.
#[derive(Debug)]
pub struct BrokerConfig {
    /// The files.
    pub target: Target,
    /// Their mode and group.
    pub access: Access,
    /// The broker.
    pub kind: Kind,
    /// `command_deadline`: how long a command may run.
    pub deadline: Duration,
}

/// The brokers.
#[derive(Debug)]
pub enum Kind {
    /// Eclipse Mosquitto 2.
    Mosquitto {
        /// How it is made to read its files again.
        reload: Reload,
        /// What ends all sessions when something is newly revoked; none: they live on.
        restart: Option<Words>,
    },
    /// RabbitMQ, which reads the files at each handshake.
    RabbitMq {
        /// `rabbitmqctl` and its options, with which sessions of revoked clients are ended; none: they live on.
        control: Option<Words>,
    },
    /// A command that gets what changed as JSON.
    Hook(Words),
}

/// How Mosquitto is made to read its files again.
#[derive(Debug)]
pub enum Reload {
    /// SIGHUP to the process whose id Mosquitto wrote here.
    PidFile(PathBuf),
    /// A command.
    Command(Words),
}

/// One issuer's CRL.
#[derive(Debug)]
pub struct CrlConfig {
    /// Who signs it.
    pub issuer: Issuer,
    /// Where it is to be had; all of them are asked.
    pub sources: Vec<Source>,
}

impl SyncConfig {
    /// Reads and checks a configuration file; reads the certificates and the files of log keys that it names.
    ///
    /// # Errors
    /// [`ConfigError`] names the first key that is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        document::read::<form::File>(path)?.into_config(path)
    }

    /// The names of the CRLs.
    pub fn names(&self) -> Vec<&str> {
        self.crls
            .iter()
            .map(|crl| crl.issuer.name.as_str())
            .collect()
    }
}

#[cfg(test)]
mod tests;
