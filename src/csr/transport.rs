//! The encodings in which requests travel: DER, PEM, base64.
//!
//! Owns telling them apart by their bytes alone, because clients send wrong content types (RFC 8951 says
//! to ignore Content-Transfer-Encoding). Promises to give DER only from the one request that is there.
//! Never reads the DER. Failure is a [`CsrRefused`].

use std::borrow::Cow;

use base64ct::{Base64, Encoding};

use super::CsrRefused;

/// Begins the line before PEM's base64.
const BEGIN: &[u8] = b"-----BEGIN ";
/// Begins the line after it.
const END: &[u8] = b"-----END ";
/// Ends both lines.
const DASHES: &[u8] = b"-----";
/// The byte order mark that some editors write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The DER in a request's bytes.
pub fn decode(bytes: &[u8]) -> Result<Cow<'_, [u8]>, CsrRefused> {
    // 0x30 is also the digit 0, but the base64 of a SEQUENCE begins with M.
    if let [0x30, ..] = bytes {
        return Ok(Cow::Borrowed(bytes));
    }
    let text = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    if text.trim_ascii().is_empty() {
        return Err(CsrRefused::Empty);
    }
    let body = match cut(text, BEGIN) {
        Some((_, block)) => pem_body(block)?,
        None => text,
    };
    base64(body).map(Cow::Owned)
}

/// The base64 of the PEM block that begins after `-----BEGIN `.
fn pem_body(block: &[u8]) -> Result<&[u8], CsrRefused> {
    let (label, after) = cut(block, DASHES).ok_or(CsrRefused::PemEnd)?;
    match label {
        b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => {}
        other if other.ends_with(b"PRIVATE KEY") => return Err(CsrRefused::PrivateKey),
        _ => return Err(CsrRefused::PemLabel),
    }
    let (body, end) = cut(after, END).ok_or(CsrRefused::PemEnd)?;
    if cut(body, BEGIN).is_some() {
        return Err(CsrRefused::PemEnd);
    }
    let rest = end
        .strip_prefix(label)
        .and_then(|end| end.strip_prefix(DASHES))
        .ok_or(CsrRefused::PemEnd)?;
    if cut(rest, BEGIN).is_some() {
        return Err(CsrRefused::Several);
    }
    if !rest.trim_ascii().is_empty() {
        return Err(CsrRefused::PemEnd);
    }
    Ok(body)
}

/// Decodes base64 with line breaks and blanks anywhere, and with its padding.
fn base64(text: &[u8]) -> Result<Vec<u8>, CsrRefused> {
    let dense: Vec<u8> = text
        .iter()
        .copied()
        .filter(|c| !c.is_ascii_whitespace())
        .collect();
    let dense = std::str::from_utf8(&dense).map_err(|_| CsrRefused::Encoding)?;
    let der = Base64::decode_vec(dense).map_err(|_| CsrRefused::Encoding)?;
    if der.is_empty() {
        return Err(CsrRefused::Empty);
    }
    Ok(der)
}

/// Cuts the bytes at the first mark: what is before it and what is after it.
fn cut<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(mark.len()).position(|w| w == mark)?;
    let (before, from) = bytes.split_at_checked(at)?;
    Some((before, from.get(mark.len()..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any DER will do here: three octets of SEQUENCE.
    const DER: &[u8] = &[0x30, 1, 5];
    /// Its base64.
    const TEXT: &str = "MAEF";

    /// The rule that refuses the text.
    fn rule(text: &str) -> &'static str {
        decode(text.as_bytes()).unwrap_err().rule()
    }

    #[test]
    fn every_encoding_gives_the_same_der() {
        let request = "CERTIFICATE REQUEST";
        let new = "NEW CERTIFICATE REQUEST";
        let forms = [
            TEXT.to_owned(),
            "M\r\nAE F\n".to_owned(),
            "\u{feff}MAEF".to_owned(),
            format!("-----BEGIN {request}-----\n{TEXT}\n-----END {request}-----\n"),
            format!("-----BEGIN {new}-----\r\n{TEXT}\r\n-----END {new}-----"),
            format!(
                "Certificate Request:\n Version: 1\n-----BEGIN {new}-----\n{TEXT}\n-----END {new}-----"
            ),
        ];
        for form in &forms {
            assert_eq!(decode(form.as_bytes()).unwrap(), DER, "{form}");
        }
        assert_eq!(decode(DER).unwrap(), DER);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        let request = |body: &str| {
            format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n"
            )
        };
        assert_eq!(rule(""), "request-empty");
        assert_eq!(rule(" \r\n"), "request-empty");
        assert_eq!(rule(&request("")), "request-empty");
        assert_eq!(rule("MAE"), "request-encoding");
        assert_eq!(rule("M(EF"), "request-encoding");
        assert_eq!(rule("MAEF\u{e9}"), "request-encoding");
        assert_eq!(
            rule(&request("Proc-Type: 4,ENCRYPTED\n\nMAEF")),
            "request-encoding"
        );
        assert_eq!(rule(&(request(TEXT) + &request(TEXT))), "request-several");
        assert_eq!(rule(&(request(TEXT) + "MAEF")), "request-pem-end");
        assert_eq!(
            rule("-----BEGIN CERTIFICATE REQUEST-----\nMAEF"),
            "request-pem-end"
        );
        assert_eq!(
            rule(
                "-----BEGIN CERTIFICATE REQUEST-----\nMAEF\n-----END NEW CERTIFICATE REQUEST-----"
            ),
            "request-pem-end"
        );
        assert_eq!(
            rule("-----BEGIN CERTIFICATE-----\nMAEF\n-----END CERTIFICATE-----"),
            "request-pem-label"
        );
        assert_eq!(
            rule("-----BEGIN EC PRIVATE KEY-----\nMAEF\n-----END EC PRIVATE KEY-----"),
            "request-private-key"
        );
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn no_pem_like_text_panics(text in "(-----(BEGIN|END) (NEW )?(CERTIFICATE REQUEST)?-*|[MAEF=]{0,4}|\n){0,8}") {
            let _ = decode(text.as_bytes());
        }
    }
}
