//! PKCS#11 URIs (RFC 7512): how a configuration names tokens and keys.
//!
//! Owns the parser and printer of the two forms that we use. Promises that one place has one printed form
//! and that nothing is matched by fewer attributes than were given. Never accepts a PIN in a URI. Failure
//! story: [`UriRefused`] says which attribute is wrong and what would be right.

use std::fmt;
use std::str::FromStr;

use super::KeyUri;

/// The longest token label in bytes (PKCS#11, CK_TOKEN_INFO).
const LABEL_BYTES_MAX: usize = 32;

/// The longest token serial number in bytes (PKCS#11, CK_TOKEN_INFO).
const SERIAL_BYTES_MAX: usize = 16;

/// The longest key label in bytes: more than any token family shows in its tools.
const KEY_LABEL_BYTES_MAX: usize = 64;

/// Bytes that stand for themselves besides letters and digits (RFC 7512, 2.3: pk11-pchar).
const PLAIN: &[u8] = b"-._~:[]@!$'()*+,=&";

/// A PKCS#11 URI of a token: label and serial number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TokenUri {
    /// `token=`.
    pub label: String,
    /// `serial=`.
    pub serial: String,
}

/// Why a PKCS#11 URI is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UriRefused {
    /// Another scheme.
    #[error("a PKCS#11 URI begins with \"pkcs11:\" (RFC 7512)")]
    Scheme,
    /// It holds a PIN.
    #[error(
        "it holds a PIN: take it out, write it to the token's pin_file, and change it, since this file was not a secret"
    )]
    Pin,
    /// It has a query.
    #[error("a query ('?') is not used here: module and PIN have keys of their own")]
    Query,
    /// A part without a name and value.
    #[error("attribute {0} is not of the form name=value")]
    Form(usize),
    /// An attribute that is not used here.
    #[error("the attribute {0:?} is not used here: write {1}")]
    Unknown(String, &'static str),
    /// An attribute twice.
    #[error("the attribute {0:?} stands twice")]
    Duplicate(&'static str),
    /// An attribute that must be there.
    #[error("the attribute {0:?} is missing: write {1}")]
    Missing(&'static str, &'static str),
    /// A byte that must be escaped.
    #[error(
        "the value of {0:?} has a character that must be written as %XX, such as %20 for a space"
    )]
    Unescaped(&'static str),
    /// `%` without two hexadecimal digits, or not UTF-8.
    #[error("the value of {0:?} has a '%' that no UTF-8 text in hexadecimal digits follows")]
    Escape(&'static str),
    /// Empty, too long, or with characters that no label has.
    #[error(
        "the value of {0:?} must have 1 to {1} bytes, no control characters, and no space at its ends"
    )]
    Value(&'static str, usize),
    /// `type` is not `private`.
    #[error("the type must be \"private\": it is the private key that signs")]
    Type,
}

/// The form of a token's URI, for messages.
const TOKEN_FORM: &str = "pkcs11:token=LABEL;serial=NUMBER";

/// The form of a key's URI, for messages.
const KEY_FORM: &str = "pkcs11:token=LABEL;serial=NUMBER;object=KEYLABEL;type=private";

/// The attributes of a URI, each at most once.
#[derive(Default)]
struct Attributes {
    token: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    class: Option<String>,
}

impl FromStr for TokenUri {
    type Err = UriRefused;

    fn from_str(text: &str) -> Result<Self, UriRefused> {
        let found = Attributes::parse(text, TOKEN_FORM)?;
        if found.object.is_some() {
            return Err(UriRefused::Unknown("object".to_owned(), TOKEN_FORM));
        }
        if found.class.is_some() {
            return Err(UriRefused::Unknown("type".to_owned(), TOKEN_FORM));
        }
        Ok(Self {
            label: present(found.token, "token", TOKEN_FORM)?,
            serial: present(found.serial, "serial", TOKEN_FORM)?,
        })
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, serial) = (escape(&self.label), escape(&self.serial));
        write!(f, "pkcs11:token={label};serial={serial}")
    }
}

impl FromStr for KeyUri {
    type Err = UriRefused;

    fn from_str(text: &str) -> Result<Self, UriRefused> {
        let found = Attributes::parse(text, KEY_FORM)?;
        if present(found.class, "type", KEY_FORM)? != "private" {
            return Err(UriRefused::Type);
        }
        Ok(Self {
            token_label: present(found.token, "token", KEY_FORM)?,
            token_serial: present(found.serial, "serial", KEY_FORM)?,
            key_label: present(found.object, "object", KEY_FORM)?,
        })
    }
}

impl fmt::Display for KeyUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (label, serial) = (escape(&self.token_label), escape(&self.token_serial));
        let object = escape(&self.key_label);
        write!(
            f,
            "pkcs11:token={label};serial={serial};object={object};type=private"
        )
    }
}

impl Attributes {
    /// Reads the path attributes; `form` is what messages recommend.
    fn parse(text: &str, form: &'static str) -> Result<Self, UriRefused> {
        let path = text.strip_prefix("pkcs11:").ok_or(UriRefused::Scheme)?;
        // Looked for before anything else, wherever it stands: a PIN in a file must not go unnoticed.
        if text.to_ascii_lowercase().contains("pin-value") {
            return Err(UriRefused::Pin);
        }
        if path.contains('?') {
            return Err(UriRefused::Query);
        }
        let mut found = Self::default();
        for (index, attribute) in path.split(';').enumerate() {
            let (name, value) = attribute
                .split_once('=')
                .ok_or(UriRefused::Form(index + 1))?;
            let (slot, name, max) = match name {
                "token" => (&mut found.token, "token", LABEL_BYTES_MAX),
                "serial" => (&mut found.serial, "serial", SERIAL_BYTES_MAX),
                "object" => (&mut found.object, "object", KEY_LABEL_BYTES_MAX),
                "type" => (&mut found.class, "type", KEY_LABEL_BYTES_MAX),
                other => return Err(UriRefused::Unknown(other.to_owned(), form)),
            };
            if slot.is_some() {
                return Err(UriRefused::Duplicate(name));
            }
            *slot = Some(unescape(name, value, max)?);
        }
        Ok(found)
    }
}

/// The value of an attribute that must be there.
fn present(
    value: Option<String>,
    name: &'static str,
    form: &'static str,
) -> Result<String, UriRefused> {
    value.ok_or(UriRefused::Missing(name, form))
}

/// Decodes a value: percent escapes, UTF-8, length.
fn unescape(name: &'static str, value: &str, max: usize) -> Result<String, UriRefused> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let [high, low, after @ ..] = after else {
                return Err(UriRefused::Escape(name));
            };
            let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                return Err(UriRefused::Escape(name));
            };
            bytes.push(high << 4 | low);
            rest = after;
        } else if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            bytes.push(byte);
        } else {
            return Err(UriRefused::Unescaped(name));
        }
    }
    let text = String::from_utf8(bytes).map_err(|_| UriRefused::Escape(name))?;
    // Tokens pad labels and serials with spaces, so a space at an end cannot be told from padding.
    let padded = text.starts_with(' ') || text.ends_with(' ');
    if text.is_empty() || text.len() > max || padded || text.chars().any(char::is_control) {
        return Err(UriRefused::Value(name, max));
    }
    Ok(text)
}

/// The value of a hexadecimal digit.
fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|value| u8::try_from(value).ok())
}

/// Encodes a value.
fn escape(value: &str) -> String {
    use fmt::Write as _;
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || PLAIN.contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_key_uri_is_read_and_printed() {
        let text = "pkcs11:token=Line%20A;serial=0d3f;object=device-1;type=private";
        let uri: KeyUri = text.parse().unwrap();
        assert_eq!(uri.token_label, "Line A");
        assert_eq!(uri.token_serial, "0d3f");
        assert_eq!(uri.key_label, "device-1");
        assert_eq!(uri.to_string(), text);
        let turned = "pkcs11:type=private;object=device-1;serial=0d3f;token=Line%20A";
        assert_eq!(turned.parse(), Ok(uri));
    }

    #[test]
    fn key_uris_that_are_refused() {
        let whole = "pkcs11:token=t;serial=s;object=o;type=private";
        let cases = [
            ("token=t", UriRefused::Scheme),
            ("PKCS11:token=t", UriRefused::Scheme),
            (&format!("{whole}?pin-value=1234"), UriRefused::Pin),
            (&format!("{whole};PIN-Value=1234"), UriRefused::Pin),
            (
                &format!("{whole}?pin-source=file:/etc/pin"),
                UriRefused::Query,
            ),
            (&format!("{whole};"), UriRefused::Form(5)),
            ("pkcs11:", UriRefused::Form(1)),
            (
                &format!("{whole};id=%01"),
                UriRefused::Unknown("id".to_owned(), KEY_FORM),
            ),
            (
                &format!("{whole};Token=t"),
                UriRefused::Unknown("Token".to_owned(), KEY_FORM),
            ),
            (&format!("{whole};token=t"), UriRefused::Duplicate("token")),
            (
                "pkcs11:token=t;object=o;type=private",
                UriRefused::Missing("serial", KEY_FORM),
            ),
            (
                "pkcs11:token=t;serial=s;object=o",
                UriRefused::Missing("type", KEY_FORM),
            ),
            (
                "pkcs11:token=t;serial=s;object=o;type=cert",
                UriRefused::Type,
            ),
            (
                "pkcs11:token=a b;serial=s;object=o;type=private",
                UriRefused::Unescaped("token"),
            ),
            (
                "pkcs11:token=t;serial=s;object=\u{fc};type=private",
                UriRefused::Unescaped("object"),
            ),
            (
                "pkcs11:token=%2;serial=s;object=o;type=private",
                UriRefused::Escape("token"),
            ),
            (
                "pkcs11:token=%+1;serial=s;object=o;type=private",
                UriRefused::Escape("token"),
            ),
            (
                "pkcs11:token=%FF;serial=s;object=o;type=private",
                UriRefused::Escape("token"),
            ),
            (
                "pkcs11:token=;serial=s;object=o;type=private",
                UriRefused::Value("token", 32),
            ),
            (
                "pkcs11:token=t%20;serial=s;object=o;type=private",
                UriRefused::Value("token", 32),
            ),
            (
                "pkcs11:token=t%00;serial=s;object=o;type=private",
                UriRefused::Value("token", 32),
            ),
            (
                "pkcs11:token=t;serial=12345678901234567;object=o;type=private",
                UriRefused::Value("serial", 16),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(text.parse::<KeyUri>(), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_token_uri_names_no_object() {
        assert_eq!(
            "pkcs11:token=t;serial=s".parse(),
            Ok(TokenUri {
                label: "t".to_owned(),
                serial: "s".to_owned()
            })
        );
        assert_eq!(
            "pkcs11:token=t;serial=s;object=o".parse::<TokenUri>(),
            Err(UriRefused::Unknown("object".to_owned(), TOKEN_FORM))
        );
        assert_eq!(
            "pkcs11:token=t;serial=s;type=private".parse::<TokenUri>(),
            Err(UriRefused::Unknown("type".to_owned(), TOKEN_FORM))
        );
    }

    #[test]
    fn no_refusal_repeats_a_pin() {
        for text in [
            "pkcs11:token=t?pin-value=4711",
            "pkcs11:pin-value=4711;token=t",
        ] {
            let refused = text.parse::<TokenUri>().unwrap_err();
            assert!(!format!("{refused} {refused:?}").contains("4711"));
        }
    }

    /// Labels as tokens have them, umlauts and signs included.
    fn label(max: usize) -> impl Strategy<Value = String> {
        "[ -~\u{e0}-\u{ff}]{1,32}".prop_map(move |text| {
            let mut text = text;
            while text.len() > max {
                text.pop();
            }
            match text.trim_matches(' ') {
                "" => "x".to_owned(),
                trimmed => trimmed.to_owned(),
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            token_label in label(32),
            token_serial in label(16),
            key_label in label(64),
        ) {
            let uri = KeyUri { token_label, token_serial, key_label };
            // Only this spelling inside a label would be taken for a PIN.
            prop_assume!(!uri.to_string().to_ascii_lowercase().contains("pin-value"));
            prop_assert_eq!(uri.to_string().parse::<KeyUri>(), Ok(uri.clone()));
            let token = TokenUri { label: uri.token_label, serial: uri.token_serial };
            prop_assert_eq!(token.to_string().parse::<TokenUri>(), Ok(token));
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,80}") {
            let _ = text.parse::<KeyUri>();
            let _ = format!("pkcs11:{text}").parse::<TokenUri>();
        }

        #[test]
        fn a_mutated_uri_is_answered_and_canonical(at in 0_usize..70, byte in 0_u8..128) {
            let mut text = b"pkcs11:token=Line%20A;serial=0d3f;object=device%2D1;type=private".to_vec();
            if let Some(place) = text.get_mut(at) {
                *place = byte;
            }
            let text = String::from_utf8_lossy(&text);
            if let Ok(uri) = text.parse::<KeyUri>() {
                prop_assert_eq!(uri.to_string().parse::<KeyUri>(), Ok(uri));
            }
        }
    }
}
