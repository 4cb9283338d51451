//! How much of a CRL's life is left, and when to say so.
//!
//! Owns the levels. Promises one line in the log for each step down and one when all is well again, each with the time at
//! which brokers begin to refuse every client. Never reads a clock. Failure story: none.

use serde::Serialize;

use super::issuer::Crl;
use crate::UnixMillis;

/// How urgent the next CRL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// More than half of its life is left.
    Fresh,
    /// Half or less: the next one should have come.
    Half,
    /// A quarter or less.
    Quarter,
    /// Nothing: brokers refuse every client of the issuer.
    Ended,
    /// There is none: brokers refuse every client of the issuer.
    Missing,
}

impl Level {
    /// Of a CRL at a time.
    pub fn of(crl: Option<&Crl>, now: UnixMillis) -> Self {
        let Some(crl) = crl else {
            return Self::Missing;
        };
        let life = crl.next_update.0.saturating_sub(crl.this_update.0);
        let left = crl.next_update.0.saturating_sub(now.0);
        match () {
            () if left == 0 => Self::Ended,
            () if left <= life / 4 => Self::Quarter,
            () if left <= life / 2 => Self::Half,
            () => Self::Fresh,
        }
    }

    /// The number in metrics: 0 is well.
    pub const fn number(self) -> u8 {
        match self {
            Self::Fresh => 0,
            Self::Half => 1,
            Self::Quarter => 2,
            Self::Ended => 3,
            Self::Missing => 4,
        }
    }
}

/// Says what changed since the level was `before`.
pub fn tell(name: &str, before: Level, level: Level, crl: Option<&Crl>) {
    let until = crl
        .map(|crl| crl.next_update.to_string())
        .unwrap_or_default();
    match level {
        _ if level == before => {}
        Level::Fresh => tracing::info!(
            crl = name,
            until,
            "more than half of the CRL's life is left"
        ),
        _ if level < before => tracing::warn!(
            crl = name,
            until,
            "a newer CRL is there, and less than half of its life is left"
        ),
        Level::Half => tracing::warn!(
            crl = name,
            until,
            "half of the CRL's life is over and no newer one came: brokers refuse every client when it ends"
        ),
        Level::Quarter => tracing::error!(
            crl = name,
            until,
            "three quarters of the CRL's life are over and no newer one came: brokers refuse every client when it ends"
        ),
        Level::Ended => tracing::error!(
            crl = name,
            until,
            "the CRL has ended and no newer one came: brokers refuse every client of this issuer"
        ),
        Level::Missing => tracing::error!(
            crl = name,
            "there is no CRL of this issuer: brokers refuse every client of it"
        ),
    }
}
