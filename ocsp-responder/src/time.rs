//! The one notion of time in log entries and certificates.

use std::fmt;

/// Milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted (POSIX time).
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The last second that a certificate can name: 99991231235959Z (RFC 5280, 4.1.2.5).
    pub const END_OF_TIME: Self = Self(253_402_300_799_000);

    /// Whole seconds since 1970, rounded down.
    #[must_use]
    pub const fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// The time `seconds` whole seconds after 1970.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// The later time, stopping at [`Self::END_OF_TIME`].
    #[must_use]
    pub fn saturating_add(self, duration: std::time::Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(millis)).min(Self::END_OF_TIME)
    }

    /// The earlier time, stopping at 1970.
    #[must_use]
    pub fn saturating_sub(self, duration: std::time::Duration) -> Self {
        Self(
            self.0
                .saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        )
    }
}

impl fmt::Display for UnixMillis {
    /// RFC 3339 in UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let within = self.seconds().min(Self::END_OF_TIME.seconds());
        match der::DateTime::from_unix_duration(std::time::Duration::from_secs(within)) {
            Ok(date) => write!(f, "{date}"),
            Err(_) => write!(f, "{}s", self.seconds()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_as_rfc_3339() {
        assert_eq!(UnixMillis(0).to_string(), "1970-01-01T00:00:00Z");
        assert_eq!(UnixMillis::END_OF_TIME.to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(UnixMillis(u64::MAX).to_string(), "9999-12-31T23:59:59Z");
    }
}
