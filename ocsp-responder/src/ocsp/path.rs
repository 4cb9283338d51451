//! The path of a GET request: base64 below URL escaping.
//!
//! Owns what is made of the forms that clients send. Promises that one request has one meaning: no
//! octet is guessed. Never looks at the DER inside. Failure is a [`BadRequest`].

use super::{BadRequest, GET_PATH_BYTES_MAX};
use base64ct::{Base64Unpadded, Encoding};
use std::borrow::Cow;

/// Decodes the path behind `/ocsp/`.
pub fn decode(path: &str) -> Result<Vec<u8>, BadRequest> {
    if path.len() > GET_PATH_BYTES_MAX {
        return Err(BadRequest::TooLong);
    }
    // Some clients escape twice. Base64 has no %, so a second round never changes what is meant.
    let text = unescape(Cow::Borrowed(path.as_bytes()))?;
    let text = unescape(text)?;
    // A URL that ends in a slash, and a client that adds one. No DER request begins like this: a
    // SEQUENCE is base64 that begins with M.
    let begin = text.iter().take_while(|octet| **octet == b'/').count();
    let text = text.get(begin..).unwrap_or_default().trim_ascii_end();
    let mut base64 = String::with_capacity(text.len());
    for octet in text {
        match octet {
            // Base64 in lines.
            b'\r' | b'\n' | b'\t' => {}
            // Where + was taken for the blank of a form; and base64url.
            b' ' | b'-' => base64.push('+'),
            b'_' => base64.push('/'),
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'+' | b'/' | b'=' => {
                base64.push(char::from(*octet));
            }
            _ => return Err(BadRequest::NotBase64),
        }
    }
    let unpadded = base64.trim_end_matches('=');
    if base64.len() - unpadded.len() > 2 {
        return Err(BadRequest::NotBase64);
    }
    Base64Unpadded::decode_vec(unpadded).map_err(|_| BadRequest::NotBase64)
}

/// Undoes one round of percent-encoding (RFC 3986, 2.1).
fn unescape(text: Cow<'_, [u8]>) -> Result<Cow<'_, [u8]>, BadRequest> {
    if !text.contains(&b'%') {
        return Ok(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut octets = text.iter().copied();
    while let Some(octet) = octets.next() {
        out.push(match octet {
            b'%' => digit(octets.next())? << 4 | digit(octets.next())?,
            _ => octet,
        });
    }
    Ok(Cow::Owned(out))
}

/// The value of a hexadecimal digit of either case.
fn digit(octet: Option<u8>) -> Result<u8, BadRequest> {
    match octet {
        Some(digit @ b'0'..=b'9') => Ok(digit - b'0'),
        Some(digit @ b'a'..=b'f') => Ok(digit - b'a' + 10),
        Some(digit @ b'A'..=b'F') => Ok(digit - b'A' + 10),
        _ => Err(BadRequest::NotEscaped),
    }
}
