//! Parts of a file that a client asks for (RFC 9110, 14).
//!
//! One range of octets is understood; several at once, and other units, get the whole file, as the RFC allows.

use hyper::header::{self, HeaderMap, HeaderValue};

/// What to send of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// So many octets, from this one on.
    Bytes {
        /// The first.
        from: u64,
        /// How many, at least one.
        length: u64,
    },
    /// Nothing: the file ends before.
    None,
}

/// What a request wants of a file of this length.
pub fn wanted(asked: &HeaderMap, etag: &HeaderValue, modified: &HeaderValue, length: u64) -> Part {
    let range = asked
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let Some(range) = range.and_then(|value| value.strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    // A part of another file than the one that the client has the rest of is of no use.
    let same = asked
        .get(header::IF_RANGE)
        .is_none_or(|known| known == etag || known == modified);
    if !same {
        return Part::Whole;
    }
    part(range.trim(), length).unwrap_or(Part::Whole)
}

/// Reads one range; none if it is not one.
fn part(range: &str, length: u64) -> Option<Part> {
    let (from, to) = range.split_once('-')?;
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
        // More digits than a length has mean beyond any end.
        digits.then(|| text.parse().unwrap_or(u64::MAX))
    };
    let (from, last) = match (from, to) {
        ("", suffix) => (
            length.saturating_sub(number(suffix)?),
            length.checked_sub(1),
        ),
        (from, "") => (number(from)?, length.checked_sub(1)),
        (from, to) => {
            let (from, to) = (number(from)?, number(to)?);
            if from > to {
                return None;
            }
            (from, length.checked_sub(1).map(|last| last.min(to)))
        }
    };
    Some(match last {
        Some(last) if from <= last => Part::Bytes {
            from,
            length: last - from + 1,
        },
        _ => Part::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bytes(from: u64, length: u64) -> Part {
        Part::Bytes { from, length }
    }

    #[test]
    fn one_range_is_understood() {
        for (range, expected) in [
            ("0-0", Some(bytes(0, 1))),
            ("2-", Some(bytes(2, 8))),
            ("-3", Some(bytes(7, 3))),
            ("-30", Some(bytes(0, 10))),
            ("5-99999999999999999999", Some(bytes(5, 5))),
            ("10-", Some(Part::None)),
            ("-0", Some(Part::None)),
            ("3-2", None),
            ("0-1,3-4", None),
            ("a-", None),
            ("-", None),
            ("", None),
        ] {
            assert_eq!(part(range, 10), expected, "{range}");
        }
        assert_eq!(part("0-", 0), Some(Part::None));
    }

    #[test]
    fn a_part_of_another_file_is_not_sent() {
        let (etag, modified) = (
            HeaderValue::from_static("\"a\""),
            HeaderValue::from_static("m"),
        );
        let mut asked = HeaderMap::new();
        assert_eq!(wanted(&asked, &etag, &modified, 10), Part::Whole);
        asked.insert(header::RANGE, HeaderValue::from_static("bytes=1-2"));
        assert_eq!(wanted(&asked, &etag, &modified, 10), bytes(1, 2));
        asked.insert(header::IF_RANGE, etag.clone());
        assert_eq!(wanted(&asked, &etag, &modified, 10), bytes(1, 2));
        asked.insert(header::IF_RANGE, HeaderValue::from_static("\"b\""));
        assert_eq!(wanted(&asked, &etag, &modified, 10), Part::Whole);
    }
}
