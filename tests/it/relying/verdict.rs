//! What is said of a certificate, in one form for the appliance and for every relying party.

use serde_json::Value;

/// What is said of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts.
    Good,
    /// It is revoked or on hold.
    Revoked {
        /// Since when, in seconds since 1970.
        at: u64,
        /// Why, as [`plain`] has it; `unspecified` also where no reason is given.
        reason: String,
    },
    /// Nobody here issued it.
    Unknown,
    /// There is no answer that counts: the relying party's words.
    Refused(String),
}

impl Verdict {
    /// A revocation.
    pub fn revoked(at: u64, reason: &str) -> Self {
        let reason = plain(reason);
        Self::Revoked { at, reason }
    }

    /// As told by who tells no reasons.
    pub fn without_reason(&self) -> Self {
        match self {
            Self::Revoked { at, .. } => Self::revoked(*at, ""),
            other => other.clone(),
        }
    }

    /// As told by a CRL: what is not on it is good.
    pub fn by_crl(&self) -> Self {
        match self {
            Self::Unknown => Self::Good,
            other => other.clone(),
        }
    }

    /// How the appliance itself says that a certificate stands.
    pub fn of_appliance(shown: &Value) -> Self {
        let revocation = &shown["revocation"];
        match shown["status"].as_str().unwrap() {
            "issued" => Self::Good,
            "revoked" | "on-hold" | "unresolved" => Self::revoked(
                revocation["revoked_at"].as_u64().unwrap() / 1000,
                revocation["reason"].as_str().unwrap_or("unspecified"),
            ),
            other => panic!("{other}: {shown}"),
        }
    }
}

/// A reason's name without what each program writes in its own way: `key-compromise`, `keyCompromise`,
/// `KEY_COMPROMISE`.
fn plain(reason: &str) -> String {
    let letters = reason.chars().filter(char::is_ascii_alphabetic);
    letters.collect::<String>().to_ascii_lowercase()
}

/// Seconds since 1970 of a date in UTC such as `Nov  2 05:46:38 2026`, given as its words.
pub fn seconds(words: [&str; 4]) -> u64 {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let [month, day, clock, year] = words;
    let month = MONTHS.find(month).unwrap() / 3;
    let number = |text: &str| text.parse::<u64>().unwrap();
    // Years begin in March here: the leap day is their last.
    let (year, month) = match month {
        0 | 1 => (number(year) - 1, month + 10),
        _ => (number(year), month - 2),
    };
    let month = u64::try_from(month).unwrap();
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year * 365 + leap_days + (month * 153 + 2) / 5 + number(day) - 1;
    let clock = clock.split(':').map(number);
    // 719,468 days from that calendar's beginning to 1970.
    (days - 719_468) * 86_400 + clock.fold(0, |sum, part| sum * 60 + part)
}

#[test]
fn dates_are_counted_as_they_should() {
    assert_eq!(seconds(["Jan", "1", "00:00:00", "1970"]), 0);
    assert_eq!(seconds(["Nov", "14", "22:13:20", "2023"]), 1_700_000_000);
    assert_eq!(seconds(["Feb", "29", "23:59:59", "2024"]), 1_709_251_199);
    assert_eq!(seconds(["Mar", "1", "00:00:00", "2024"]), 1_709_251_200);
}
