//! Dates as HTTP writes them (RFC 9110, 5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`.

use std::time::Duration;

use hyper::header::HeaderValue;

use crate::UnixMillis;

/// The names of the days from the one on which 1970 began.
const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];

/// The names of the months.
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Seconds of a day.
const DAY: u64 = 86_400;

/// The date, to the second, rounded down.
pub fn text(at: UnixMillis) -> String {
    let seconds = at.min(UnixMillis::END_OF_TIME).seconds();
    // Up to the year 9999 every second is a date.
    let date = der::DateTime::from_unix_duration(Duration::from_secs(seconds))
        .unwrap_or(der::DateTime::INFINITY);
    let day = usize::try_from(seconds / DAY % 7)
        .ok()
        .and_then(|day| DAYS.get(day));
    let month = MONTHS.get(usize::from(date.month().saturating_sub(1)));
    // Every new answer has two of these: put together by hand, without the machinery of format!.
    let mut text = String::with_capacity("Sun, 06 Nov 1994 08:49:37 GMT".len());
    text.push_str(day.unwrap_or(&"Thu"));
    text.push_str(", ");
    push_two(&mut text, date.day());
    text.push(' ');
    text.push_str(month.unwrap_or(&"Jan"));
    text.push(' ');
    let [century, year] = [date.year() / 100, date.year() % 100];
    for (two, end) in [(century, ""), (year, " ")] {
        push_two(&mut text, u8::try_from(two).unwrap_or_default());
        text.push_str(end);
    }
    for (two, end) in [
        (date.hour(), ":"),
        (date.minutes(), ":"),
        (date.seconds(), " GMT"),
    ] {
        push_two(&mut text, two);
        text.push_str(end);
    }
    text
}

/// Appends two digits.
fn push_two(text: &mut String, number: u8) {
    text.push(char::from(b'0' + number / 10 % 10));
    text.push(char::from(b'0' + number % 10));
}

/// The date as a header's value.
pub fn header_value(at: UnixMillis) -> HeaderValue {
    // Letters, digits and punctuation are always a header's value.
    HeaderValue::from_maybe_shared(hyper::body::Bytes::from(text(at)))
        .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_rfc() {
        assert_eq!(
            text(UnixMillis(784_111_777_999)),
            "Sun, 06 Nov 1994 08:49:37 GMT"
        );
        assert_eq!(text(UnixMillis(0)), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(text(UnixMillis(u64::MAX)), "Fri, 31 Dec 9999 23:59:59 GMT");
    }
}
