//! A walk over DER before anything is built from it: depth, count, lengths.
//!
//! Owns the structural limits. Promises that bytes that pass are exactly one SEQUENCE whose values are
//! well-formed DER on every level that tags show, so that no later parser meets deep nesting. Uses no
//! recursion and one small allocation. Failure is a [`CsrRefused`] naming what is wrong.

use super::CsrRefused;
use crate::limits;

/// The tag of a SEQUENCE.
const SEQUENCE: u8 = 0x30;
/// Set in the tag of a value that is made of values.
const CONSTRUCTED: u8 = 0x20;
/// These bits set say that the tag's number follows in more octets.
const LONG_TAG: u8 = 0x1f;

/// One value and what follows it.
struct Value<'a> {
    tag: u8,
    contents: &'a [u8],
    rest: &'a [u8],
}

/// Walks over exactly one SEQUENCE.
pub fn scan(der: &[u8]) -> Result<(), CsrRefused> {
    let whole = next(der)?;
    if whole.tag != SEQUENCE {
        return Err(CsrRefused::Malformed("outer SEQUENCE"));
    }
    if !whole.rest.is_empty() {
        return Err(CsrRefused::Trailing);
    }
    // What is left to read of each value that is open, the innermost last.
    let mut open = Vec::with_capacity(limits::CSR_DEPTH_MAX);
    open.push(whole.contents);
    let mut values = 1;
    while let Some(left) = open.pop() {
        if left.is_empty() {
            continue;
        }
        let value = next(left).map_err(|refused| match refused {
            // The outer length said that everything is here, so an inner one is wrong.
            CsrRefused::Truncated => CsrRefused::NotDer("a value is longer than what holds it"),
            other => other,
        })?;
        values += 1;
        if values > limits::CSR_VALUES_MAX {
            return Err(CsrRefused::TooMany {
                what: "values",
                max: limits::CSR_VALUES_MAX,
            });
        }
        open.push(value.rest);
        if value.tag & CONSTRUCTED != 0 {
            if open.len() >= limits::CSR_DEPTH_MAX {
                return Err(CsrRefused::TooDeep(limits::CSR_DEPTH_MAX));
            }
            open.push(value.contents);
        }
    }
    Ok(())
}

/// Takes the first value off the bytes.
fn next(bytes: &[u8]) -> Result<Value<'_>, CsrRefused> {
    let [tag, first, after @ ..] = bytes else {
        return Err(CsrRefused::Truncated);
    };
    if tag & LONG_TAG == LONG_TAG {
        return Err(CsrRefused::NotDer("a tag that no request has"));
    }
    let (length, after) = match first {
        0..=0x7f => (usize::from(*first), after),
        // X.690, 10.1: definite lengths only.
        0x80 => return Err(CsrRefused::NotDer("a length is indefinite")),
        _ => long_length(usize::from(first & 0x7f), after)?,
    };
    match after.split_at_checked(length) {
        Some((contents, rest)) => Ok(Value {
            tag: *tag,
            contents,
            rest,
        }),
        None => Err(CsrRefused::Truncated),
    }
}

/// Reads a length of this many octets, and gives what follows it.
fn long_length(octets: usize, after: &[u8]) -> Result<(usize, &[u8]), CsrRefused> {
    // The limit on a request's bytes needs two octets; three show a length that is just too long.
    if octets > 3 {
        return Err(CsrRefused::Truncated);
    }
    let (length, rest) = after
        .split_at_checked(octets)
        .ok_or(CsrRefused::Truncated)?;
    let length = length.iter().fold(0, |sum, o| sum << 8 | usize::from(*o));
    // X.690, 10.1: the fewest octets.
    let fewest = match length {
        0..=0x7f => 0,
        0x80..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 3,
    };
    if octets == fewest {
        Ok((length, rest))
    } else {
        Err(CsrRefused::NotDer("a length is not the shortest"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// SEQUENCEs inside each other.
    fn nested(levels: usize) -> Vec<u8> {
        (0..levels).fold(Vec::new(), |inner, _| {
            certstatus::signature::tlv::wrap(SEQUENCE, &[&inner])
        })
    }

    #[test]
    fn depth_ends_at_the_limit() {
        assert_eq!(scan(&nested(limits::CSR_DEPTH_MAX)), Ok(()));
        let deeper = scan(&nested(limits::CSR_DEPTH_MAX + 1));
        assert_eq!(deeper, Err(CsrRefused::TooDeep(limits::CSR_DEPTH_MAX)));
        // As deep as a request's bytes can hold.
        let deepest = scan(&nested(limits::CSR_BYTES_MAX / 4));
        assert_eq!(deepest, Err(CsrRefused::TooDeep(limits::CSR_DEPTH_MAX)));
    }

    #[test]
    fn values_end_at_the_limit() {
        let nulls = |count| certstatus::signature::tlv::wrap(SEQUENCE, &vec![&[5, 0][..]; count]);
        assert_eq!(scan(&nulls(limits::CSR_VALUES_MAX - 1)), Ok(()));
        let refused = scan(&nulls(limits::CSR_VALUES_MAX)).unwrap_err();
        assert_eq!(refused.rule(), "request-too-many");
    }

    #[test]
    fn other_encodings_are_told_apart() {
        let cases: [(&[u8], &str); 9] = [
            (&[], "request-truncated"),
            (&[0x30], "request-truncated"),
            (&[0x30, 2, 5], "request-truncated"),
            (&[0x30, 0x80, 0, 0], "request-not-der"),
            (&[0x30, 0x81, 2, 5, 0], "request-not-der"),
            (&[0x30, 2, 5, 1], "request-not-der"),
            (&[0x30, 2, 0x1f, 0], "request-not-der"),
            (&[0x30, 0, 0], "request-trailing-bytes"),
            (&[0x31, 0], "request-malformed"),
        ];
        for (der, rule) in cases {
            assert_eq!(scan(der).unwrap_err().rule(), rule, "{der:02x?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = scan(&bytes);
        }
    }
}
