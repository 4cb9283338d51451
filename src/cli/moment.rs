//! Times in arguments: a date, or a delay from now.

use std::time::UNIX_EPOCH;

use certstatus::UnixMillis;

use super::CliError;

/// Reads `2026-10-01T06:00:00Z` or `90d`.
///
/// # Errors
/// [`CliError::Argument`] names the argument and both forms.
pub(super) fn read(
    argument: &'static str,
    text: &str,
    now: UnixMillis,
) -> Result<UnixMillis, CliError> {
    if let Ok(delay) = humantime::parse_duration(text) {
        return Ok(now.saturating_add(delay));
    }
    let date = humantime::parse_rfc3339(text).ok();
    let since = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
    let millis = since.and_then(|since| u64::try_from(since.as_millis()).ok());
    millis.map(UnixMillis).ok_or_else(|| CliError::Argument {
        argument,
        problem: format!(
            "{text:?} is neither a time such as 2026-10-01T06:00:00Z nor a delay such as 90d"
        ),
    })
}

/// Reads `2026-10-01T06:00:00Z`, or `36h` for 36 hours ago.
///
/// # Errors
/// [`CliError::Argument`] names the argument and both forms.
pub(super) fn past(
    argument: &'static str,
    text: &str,
    now: UnixMillis,
) -> Result<UnixMillis, CliError> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.saturating_sub(ago));
    }
    read(argument, text, now).map_err(|_| CliError::Argument {
        argument,
        problem: format!(
            "{text:?} is neither a time such as 2026-10-01T06:00:00Z nor how long ago, such as 36h"
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_date_or_how_long_ago_is_read() {
        let now = UnixMillis::from_seconds(200_000);
        for (text, expected) in [
            ("1h", Some(196_400)),
            ("9999years", Some(0)),
            ("1970-01-01T00:00:07Z", Some(7)),
            ("yesterday", None),
        ] {
            let read = past("--issued-from", text, now)
                .ok()
                .map(UnixMillis::seconds);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn a_date_or_a_delay_is_read() {
        let now = UnixMillis::from_seconds(1_000);
        let rows = [
            ("0s", Some(1_000)),
            ("2d", Some(1_000 + 172_800)),
            ("1970-01-01T00:00:07Z", Some(7)),
            ("9999-12-31T23:59:59Z", Some(253_402_300_799)),
            ("99999years", Some(253_402_300_799)),
            ("1969-12-31T23:59:59Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("tomorrow", None),
            ("", None),
        ];
        for (text, expected) in rows {
            let read = read("--until", text, now).ok().map(UnixMillis::seconds);
            assert_eq!(read, expected, "{text}");
        }
    }
}
