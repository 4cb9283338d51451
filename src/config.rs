//! Configuration: one TOML file, validated into the types that the program sees.
//!
//! `config/file.rs` is what serde sees (`version = 1`, unknown keys refused); [`Config`] is what everybody
//! else sees; the only road is [`Config::load`]. Promises that names, places and addresses in it do not
//! contradict each other. Never holds a secret, only paths to them, and never repairs a value. Failure story:
//! [`ConfigError`] names file and key; whoever loads it stops.

mod crl;
mod file;
mod text;
mod uri;
mod witness;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use certstatus::document;
use certstatus::log::IssuerName;

pub use certstatus::document::ConfigError;
pub use crl::{CrlTerms, PartitionUrl};
pub use uri::{TokenUri, UriRefused};
pub use witness::Witness;

/// The name in the log of what the appliance does on its own account, which no operator may have.
pub const APPLIANCE: &str = "appliance";

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The database, the lock file, the server's key: `state_dir`.
    pub state_dir: PathBuf,
    /// What is published to everyone: `published`.
    pub published: PathBuf,
    /// Details for auditors: `details`.
    pub details: PathBuf,
    /// `[log]`.
    pub log: Log,
    /// `[listen]`.
    pub listen: Listen,
    /// `[server]`: the API's own certificate.
    pub server: Server,
    /// `[[operator]]`: who may use the admin socket.
    pub operators: Vec<Operator>,
    /// `[[token]]`.
    pub tokens: Vec<Token>,
    /// `[crl]`: what all CRLs have in common.
    pub crl: CrlTerms,
    /// `[[issuer]]`.
    pub issuers: Vec<Issuer>,
    /// `profiles`: a directory of `NAME.toml`.
    pub profiles: PathBuf,
    /// `[revocation]`: by when a revocation is visible.
    pub revocation: Revocation,
    /// `[[witness]]`: who is asked at a start for the newest head that it saw.
    pub witnesses: Vec<Witness>,
}

/// By when a revocation is visible where, as the site runs its responders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// `ocsp_poll`: how often responders look at the published log.
    pub ocsp_poll: Duration,
    /// `ocsp_cached`: how long an OCSP answer may be cached, the longest of all responders.
    pub ocsp_cached: Duration,
    /// `crl_within`: within which time a new CRL follows a revocation.
    pub crl_within: Duration,
}

/// The signing log.
#[derive(Clone, Debug)]
pub struct Log {
    /// The origin line: a schema-less URL, no spaces, no `+`.
    pub origin: String,
    /// Where the Ed25519 log key is.
    pub key: LogKeyPlace,
}

/// Where the log key is kept.
#[derive(Clone, Debug)]
pub enum LogKeyPlace {
    /// `key_file`: PKCS#8 (PEM or DER), mode 0600 or a systemd credential.
    File(PathBuf),
    /// `key`: on a token.
    Token(KeyUri),
}

/// Addresses that the daemon listens on.
#[derive(Clone, Debug)]
pub struct Listen {
    /// `api`: mTLS.
    pub api: SocketAddr,
    /// `ops`: `/healthz`, `/readyz`, `/metrics`; a loopback address.
    pub ops: SocketAddr,
    /// `admin_socket`: Unix socket, mode 0660.
    pub admin_socket: PathBuf,
    /// `tls12`: TLS 1.2 for old stations.
    pub minimum_tls: MinimumTls,
}

/// The oldest TLS version that is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MinimumTls {
    /// TLS 1.3 only.
    V1_3,
    /// TLS 1.2 too.
    V1_2,
}

/// The API's own certificate.
#[derive(Clone, Debug)]
pub struct Server {
    /// DNS names and IP addresses in the certificate.
    pub names: Vec<String>,
    /// The issuer of server and line certificates.
    pub issuer: IssuerName,
}

/// A user of the admin socket.
#[derive(Clone, Debug)]
pub struct Operator {
    /// The name in log entries.
    pub name: String,
    /// The Unix user id that peer credentials must show.
    pub uid: u32,
}

/// A token and its host process.
#[derive(Clone, Debug)]
pub struct Token {
    /// The name that `hallmark-token NAME` is started with.
    pub name: String,
    /// The vendor's PKCS#11 library.
    pub module: PathBuf,
    /// The token's label (CKA / CK_TOKEN_INFO).
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// The file with the user PIN, and nothing else but at most one newline.
    pub pin_file: PathBuf,
    /// The host's Unix socket.
    pub socket: PathBuf,
    /// Sessions that sign at the same time.
    pub sessions: u16,
    /// The longest that one signature may take before the worker is killed.
    pub sign_deadline: Duration,
    /// The user ids that may connect; the daemon's own user by default.
    pub daemon_uids: Vec<u32>,
}

/// Where an issuer's key is and what its certificates say about where to ask.
#[derive(Clone, Debug)]
pub struct Issuer {
    /// The name in URLs, log entries and the ceremony file.
    pub name: IssuerName,
    /// The key's place; `None` for an offline root whose key is not here.
    pub key: Option<KeyUri>,
    /// The CRL distribution point in certificates that it issues.
    pub crl_url: Option<String>,
    /// The same where it has CRL partitions: instead of `crl_url`, that of the certificate's partition.
    pub crl_partition_url: Option<PartitionUrl>,
    /// The terms of its CRLs, those of `[crl]` where it says nothing.
    pub crl: CrlTerms,
    /// The OCSP responder in certificates that it issues.
    pub ocsp_url: Option<String>,
    /// The caIssuers URL in certificates that it issues.
    pub ca_url: Option<String>,
}

/// A PKCS#11 URI (RFC 7512) of a private key: token label, token serial, key label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyUri {
    /// `token=`.
    pub token_label: String,
    /// `serial=`.
    pub token_serial: String,
    /// `object=`.
    pub key_label: String,
}

impl Config {
    /// Reads and validates a file; relative paths in it are relative to its directory.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        document::read::<file::File>(path)?.into_config(path)
    }

    /// Like [`Self::load`], from the text that stands in the file `path`, which is not opened.
    ///
    /// # Errors
    /// [`ConfigError`] names the file and the key.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, ConfigError> {
        document::parse::<file::File>(path, text)?.into_config(path)
    }

    /// The issuer of this name.
    #[must_use]
    pub fn issuer(&self, name: &IssuerName) -> Option<&Issuer> {
        self.issuers.iter().find(|issuer| issuer.name == *name)
    }

    /// The API's private key, PKCS#8 PEM, made by the ceremony.
    #[must_use]
    pub fn server_key_file(&self) -> PathBuf {
        self.state_dir.join("server.key")
    }

    /// The API's certificate and its parents' without the root, PEM, leaf first.
    #[must_use]
    pub fn server_chain_file(&self) -> PathBuf {
        self.state_dir.join("server.pem")
    }

    /// The log's verifier key, as text.
    #[must_use]
    pub fn verifier_key_file(&self) -> PathBuf {
        self.state_dir.join("log.vkey")
    }

    /// The token that holds the key, by label and serial.
    #[must_use]
    pub fn token_of(&self, key: &KeyUri) -> Option<&Token> {
        self.tokens
            .iter()
            .find(|t| t.label == key.token_label && t.serial == key.token_serial)
    }
}
