//! Paths as clients write them, and what no client writes.

use super::*;

/// Octets whose base64 has a plus, a slash, two slashes together, and padding.
const AWKWARD: &[u8] = &[
    0x30, 0x0b, 0xfb, 0xef, 0xbe, 0xff, 0xff, 0xff, 0x3f, 0xfa, 0xfe, 0xff, 0xf3,
];

/// Escapes everything that is not a letter or digit, as Java, nginx, haproxy and NSS do.
pub fn escaped(text: &str) -> String {
    let parts = text.chars().map(|character| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => character.to_string(),
        _ => format!("%{:02X}", u32::from(character)),
    });
    parts.collect()
}

#[test]
fn paths_are_decoded_as_clients_write_them() {
    let text = Base64::encode_string(AWKWARD);
    assert!(
        text.contains('+') && text.contains("//") && text.ends_with("=="),
        "{text}"
    );
    let lines = format!("{}\n{}\n", &text[..8], &text[8..]);
    for path in [
        text.clone(),
        escaped(&text),
        text.replace('+', "%2b")
            .replace('/', "%2f")
            .replace('=', "%3d"),
        text.replace('/', "%2f"),
        text.replace('=', "%3D"),
        text.replace('+', "%20").replace('/', "%2F"),
        text.replace('+', " "),
        escaped(&escaped(&text)),
        text.bytes().map(|octet| format!("%{octet:02x}")).collect(),
        format!("/{text}"),
        format!("//{}", escaped(&text)),
        format!("%2F{text}"),
        format!("{text}%0A"),
        format!("{text}%0d%0a"),
        format!("{text}%20"),
        text.trim_end_matches('=').to_owned(),
        text.replacen('=', "", 1),
        lines.replace('\n', "%0A"),
        lines.replace('\n', "%0D%0A"),
        lines,
        Base64Url::encode_string(AWKWARD),
        Base64UrlUnpadded::encode_string(AWKWARD),
        Base64UrlUnpadded::encode_string(AWKWARD) + "%3D%3d",
    ] {
        assert_eq!(decode_get_path(&path), Ok(AWKWARD.to_vec()), "{path}");
    }
}

#[test]
fn a_path_of_a_public_authority_is_a_request() {
    // From letsencrypt/boulder's issue 798.
    let path = "MFIwUDBOMEwwSjAJBgUrDgMCGgUABBQ55F6w46hhx%2Fo6OXOHa%2BYfe32YhgQU%2B3hPEvlgFYMsnxd%2F\
                NBmzLjbqQYkCEQD6AAAAAAAGwxNOHQsYpT4M";
    let der = decode_get_path(path).unwrap();
    let read = parse_request(&der).unwrap();
    let [id] = read.cert_ids[..] else {
        panic!("one was asked for");
    };
    assert_eq!(id.hash, Some(HashAlgorithm::Sha1));
    assert_eq!(
        crate::hex::encode(id.serial),
        "00fa000000000006c3134e1d0b18a53e0c"
    );
    assert_eq!(request(&[id.der], None), der);
}

#[test]
fn paths_by_java_are_requests() {
    // OpenJDK 17, without and with jdk.security.certpath.ocspNonce.
    for (path, nonce) in [
        (
            "MFEwTzBNMEswSTAJBgUrDgMCGgUABBRuZg5xv69xSnUDMwupjxOW7JIB3wQUm3OFFApeqIuoZAvEcA5XgyK57q4C\
             EEAAAAAAAAAAAAAAAAAAAKE%3D",
            None,
        ),
        (
            "MHYwdDBNMEswSTAJBgUrDgMCGgUABBRuZg5xv69xSnUDMwupjxOW7JIB3wQUm3OFFApeqIuoZAvEcA5XgyK57q4C\
             EEAAAAAAAAAAAAAAAAAAAKGiIzAhMB8GCSsGAQUFBzABAgQSBBACo2mzo8t4cxb3klE5lyuG",
            Some(16),
        ),
    ] {
        let der = decode_get_path(path).unwrap();
        let read = parse_request(&der).unwrap();
        let serial = read.cert_ids[0].serial_number().unwrap();
        assert_eq!(serial.to_string(), "400000000000000000000000000000a1");
        assert_eq!(read.cert_ids[0].hash, Some(HashAlgorithm::Sha1));
        assert_eq!(read.nonce.map(|nonce| nonce.octets().len()), nonce);
    }
}

#[test]
fn paths_that_are_not_base64_are_refused() {
    for path in ["%", "%2", "%2x", "%%2F", "M%", "MA%3"] {
        assert_eq!(decode_get_path(path), Err(BadRequest::NotEscaped), "{path}");
    }
    for path in [
        "M", "MA=A", "MA===", "M*", "MA==%00", "MAéA", "?MA", "MB==", "MA==/",
    ] {
        assert_eq!(decode_get_path(path), Err(BadRequest::NotBase64), "{path}");
    }
    assert_eq!(decode_get_path(""), Ok(Vec::new()));
    assert_eq!(decode_get_path("//"), Ok(Vec::new()));
    let longest = "A".repeat(GET_PATH_BYTES_MAX);
    assert_eq!(
        decode_get_path(&longest).unwrap().len(),
        GET_PATH_BYTES_MAX / 4 * 3
    );
    assert_eq!(decode_get_path(&(longest + "A")), Err(BadRequest::TooLong));
    // Where a proxy makes one slash of two, nobody knows where.
    let text = Base64::encode_string(AWKWARD);
    assert_ne!(
        decode_get_path(&text.replace("//", "/")),
        Ok(AWKWARD.to_vec())
    );
}
