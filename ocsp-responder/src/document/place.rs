//! What the files of `hallmark-ocsp` share in the reading of values: paths, durations, numbers, addresses, names.
//!
//! Owns their form and the texts that refuse them. Promises that each refusal names file and dotted key, and says what
//! would be right. Never reads the file that a path names. Failure story: [`ConfigError::Value`].

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ConfigError;
use crate::log::entry::Slug;

/// Where the values stand: for errors and relative paths.
pub struct Place<'a> {
    file: &'a Path,
    base: PathBuf,
}

impl<'a> Place<'a> {
    /// The place of a configuration file.
    ///
    /// # Errors
    /// [`ConfigError::Read`]: there is no current directory.
    pub fn of(file: &'a Path) -> Result<Self, ConfigError> {
        let absolute = std::path::absolute(file).map_err(|source| ConfigError::Read {
            path: file.to_owned(),
            source,
        })?;
        let base = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { file, base })
    }

    /// The refusal of a value.
    pub fn refuse(&self, key: &str, problem: impl ToString) -> ConfigError {
        ConfigError::Value {
            path: self.file.to_owned(),
            key: key.to_owned(),
            problem: problem.to_string(),
        }
    }

    /// A path; relative ones begin at the configuration's directory.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn path(&self, key: &str, text: &str) -> Result<PathBuf, ConfigError> {
        if text.is_empty() {
            return Err(self.refuse(key, "must not be empty"));
        }
        Ok(self.base.join(text))
    }

    /// A duration with its unit.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn duration(
        &self,
        key: &str,
        text: Option<&str>,
        default: Duration,
        range: &RangeInclusive<Duration>,
    ) -> Result<Duration, ConfigError> {
        let Some(text) = text else {
            return Ok(default);
        };
        let read = humantime::parse_duration(text).map_err(|error| {
            self.refuse(
                key,
                format!("write a number and a unit, such as \"10m\": {error}"),
            )
        })?;
        if range.contains(&read) {
            return Ok(read);
        }
        let (least, most) = (range.start(), range.end());
        let (least, most) = (
            humantime::format_duration(*least),
            humantime::format_duration(*most),
        );
        Err(self.refuse(key, format!("must be {least} to {most}")))
    }

    /// A number.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn number(
        &self,
        key: &str,
        number: Option<usize>,
        default: usize,
        range: &RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        match number {
            None => Ok(default),
            Some(number) if range.contains(&number) => Ok(number),
            Some(_) => {
                Err(self.refuse(key, format!("must be {} to {}", range.start(), range.end())))
            }
        }
    }

    /// An address.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn address(&self, key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        let refused = |_| {
            self.refuse(
                key,
                "must be an IP address and a port, such as \"0.0.0.0:8080\"",
            )
        };
        text.parse().map_err(refused)
    }

    /// A loopback address.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn loopback(&self, key: &str, text: &str) -> Result<SocketAddr, ConfigError> {
        let address = self.address(key, text)?;
        if address.ip().is_loopback() {
            return Ok(address);
        }
        let problem = "must be a loopback address, such as \"127.0.0.1:9402\": what it tells is for this machine";
        Err(self.refuse(key, problem))
    }

    /// A name.
    ///
    /// # Errors
    /// [`ConfigError::Value`] names the key and what would be right.
    pub fn slug(&self, key: &str, text: &str) -> Result<Slug, ConfigError> {
        text.parse().map_err(|refused| self.refuse(key, refused))
    }
}
