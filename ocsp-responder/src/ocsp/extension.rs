//! The extensions of requests and responses.
//!
//! Owns the reading of an Extensions list without copying it. Promises that each extension is one
//! SEQUENCE of OID, criticality and value, in DER save for a written-out `critical FALSE`. Never knows
//! what an extension means. Fails with what the caller names, or with the visitor's own error.

use super::{only, value};
use der::{Decode, Reader, SliceReader, Tag};

/// One extension.
#[derive(Clone, Copy)]
pub struct Extension<'a> {
    /// The contents of its OBJECT IDENTIFIER.
    pub oid: &'a [u8],
    /// Whether it must be understood.
    pub critical: bool,
    /// The contents of its extnValue.
    pub value: &'a [u8],
}

/// Reads an Extensions list, whole, and shows each extension to `visit`; gives their number.
pub fn each<'a, E: Copy>(
    list: &'a [u8],
    refused: E,
    mut visit: impl FnMut(Extension<'a>) -> Result<(), E>,
) -> Result<usize, E> {
    let list = only(list, Tag::Sequence).map_err(|_| refused)?;
    let mut reader = SliceReader::new(list).map_err(|_| refused)?;
    let mut count = 0;
    while !reader.is_finished() {
        visit(reader.sequence(extension).map_err(|_| refused)?)?;
        count += 1;
    }
    Ok(count)
}

/// Reads the contents of an Extension (RFC 5280, 4.1).
fn extension<'a>(reader: &mut SliceReader<'a>) -> der::Result<Extension<'a>> {
    let oid = value(reader, Tag::ObjectIdentifier)?;
    let critical = match Tag::peek(reader)? {
        Tag::Boolean => bool::decode(reader)?,
        _ => false,
    };
    let value = value(reader, Tag::OctetString)?;
    Ok(Extension {
        oid,
        critical,
        value,
    })
}
