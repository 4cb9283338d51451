//! Tag, length, value: the few DER steps that this crate's encoders and parsers share.
//!
//! Owns the writing of headers into a byte vector whose size is known beforehand, and the reading of
//! one whole SEQUENCE. Promises definite, minimal lengths in both directions (X.690, 10.1). Never
//! copies contents to measure them. Reading fails with the `der` crate's error; writing cannot fail.

use der::{Reader, SliceReader, Tag};

/// INTEGER.
pub const INTEGER: u8 = 0x02;
/// BIT STRING, primitive.
pub const BIT_STRING: u8 = 0x03;
/// OCTET STRING, primitive.
pub const OCTET_STRING: u8 = 0x04;
/// OBJECT IDENTIFIER.
pub const OBJECT_IDENTIFIER: u8 = 0x06;
/// UTF8String, primitive.
pub const UTF8_STRING: u8 = 0x0c;
/// UTCTime.
pub const UTC_TIME: u8 = 0x17;
/// GeneralizedTime.
pub const GENERALIZED_TIME: u8 = 0x18;
/// SEQUENCE and SEQUENCE OF.
pub const SEQUENCE: u8 = 0x30;
/// SET OF.
pub const SET: u8 = 0x31;
/// Context-specific 0, constructed.
pub const CONTEXT_0: u8 = 0xa0;

/// The octets that a header with this contents length takes: 2 to 10.
pub const fn header_len(contents: usize) -> usize {
    if contents < 0x80 {
        2
    } else {
        2 + significant_octets(contents)
    }
}

/// The octets of a whole value with this contents length.
pub const fn tlv_len(contents: usize) -> usize {
    header_len(contents) + contents
}

/// How many octets a length needs without leading zeros; at least one.
const fn significant_octets(length: usize) -> usize {
    let bits = (usize::BITS - length.leading_zeros()) as usize;
    if bits == 0 { 1 } else { bits.div_ceil(8) }
}

/// Appends a header: the tag and the length in its shortest form.
pub fn push_header(out: &mut Vec<u8>, tag: u8, contents: usize) {
    out.push(tag);
    if contents < 0x80 {
        out.push(contents.to_le_bytes()[0]);
        return;
    }
    let octets = significant_octets(contents);
    out.push(0x80 | octets.to_le_bytes()[0]);
    out.extend(
        contents
            .to_be_bytes()
            .iter()
            .skip(size_of::<usize>() - octets),
    );
}

/// Appends a whole value.
pub fn push(out: &mut Vec<u8>, tag: u8, contents: &[u8]) {
    push_header(out, tag, contents.len());
    out.extend_from_slice(contents);
}

/// A whole value whose contents are the parts, one after the other.
pub fn wrap(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let contents = parts.iter().map(|part| part.len()).sum();
    let mut out = Vec::with_capacity(tlv_len(contents));
    push_header(&mut out, tag, contents);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Reads bytes that are exactly one SEQUENCE; `read` must consume all of its contents.
pub fn whole_sequence<'a, T>(
    der: &'a [u8],
    read: impl FnOnce(&mut SliceReader<'a>) -> der::Result<T>,
) -> der::Result<T> {
    let mut reader = SliceReader::new(der)?;
    let value = reader.sequence(read)?;
    reader.finish()?;
    Ok(value)
}

/// The next value, whole, if it has this tag and length in DER; an error otherwise.
pub fn raw<'a>(reader: &mut SliceReader<'a>, tag: Tag) -> der::Result<&'a [u8]> {
    Tag::peek(reader)?.assert_eq(tag)?;
    reader.tlv_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use der::{Decode, Header};

    #[test]
    fn headers_are_minimal_and_measured() {
        let lengths = [
            0, 1, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0xff_ffff, 0x100_0000,
        ];
        for length in lengths {
            let mut out = Vec::new();
            push_header(&mut out, SEQUENCE, length);
            assert_eq!(out.len(), header_len(length));
            let mut reader = SliceReader::new(&out).unwrap();
            let header = Header::decode(&mut reader).unwrap();
            assert_eq!(usize::try_from(header.length()).unwrap(), length);
        }
    }

    #[test]
    fn a_sequence_is_whole() {
        let der = wrap(SEQUENCE, &[&[INTEGER, 1, 5], &[INTEGER, 1, 6]]);
        let both = |r: &mut SliceReader<'_>| Ok((u8::decode(r)?, u8::decode(r)?));
        assert_eq!(whole_sequence(&der, both), Ok((5, 6)));
        assert!(
            whole_sequence(&der, u8::decode).is_err(),
            "contents left over"
        );
        let mut longer = der.clone();
        longer.push(0);
        assert!(
            whole_sequence(&longer, both).is_err(),
            "octets after the value"
        );
    }
}
