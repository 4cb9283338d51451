//! Subject names as a ceremony file writes them (RFC 4514).
//!
//! Owns the strict reading of the few forms that belong in a CA's name. Promises that what it returns obeys
//! RFC 5280's types and lengths. Never repairs a name. Failure story: a sentence for whoever wrote the file.

use std::str::FromStr as _;

use der::{Tag, Tagged as _};
use x509_cert::name::Name;

/// The longest value in characters (RFC 5280, appendix A.1: ub-common-name and most others).
const VALUE_CHARS_MAX: usize = 64;

/// Attributes in one name.
const ATTRIBUTES_MAX: usize = 10;

/// id-at-countryName.
const COUNTRY: &str = "2.5.4.6";

/// id-at-commonName.
const COMMON_NAME: &str = "2.5.4.3";

/// Reads `CN=…,O=…,C=…`, the most specific first.
///
/// # Errors
/// A sentence that says what would be right.
pub fn parse(text: &str) -> Result<Name, String> {
    let form = "must be a name such as CN=Plant 7 Device Issuer 1,O=Example,C=DE (RFC 4514: no space after \
                a comma, special characters after a backslash)";
    let name = Name::from_str(text).map_err(|_| form.to_owned())?;
    if name.is_empty() || name.len() > ATTRIBUTES_MAX {
        return Err(form.to_owned());
    }
    let mut common_names = 0;
    for rdn in name.iter_rdn() {
        if rdn.len() != 1 {
            return Err("must not join attributes with '+'".to_owned());
        }
        for attribute in rdn.iter() {
            let oid = attribute.oid.to_string();
            let bytes = attribute.value.value();
            let value = std::str::from_utf8(bytes).map_err(|_| form.to_owned())?;
            check_value(&oid, attribute.value.tag(), value)?;
            common_names += usize::from(oid == COMMON_NAME);
        }
    }
    if common_names != 1 {
        return Err("must have one CN: people tell CAs apart by it".to_owned());
    }
    Ok(name)
}

/// One attribute's value.
fn check_value(oid: &str, tag: Tag, value: &str) -> Result<(), String> {
    if oid == COUNTRY && !(value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase())) {
        return Err("C must be two capital letters (ISO 3166)".to_owned());
    }
    let printable = |c: char| c.is_ascii_alphanumeric() || " '()+,-./:=?".contains(c);
    let allowed = match tag {
        Tag::PrintableString => value.chars().all(printable),
        Tag::Ia5String => value.is_ascii(),
        _ => true,
    };
    if !allowed {
        return Err(format!(
            "{value:?} has characters that its attribute may not have (RFC 5280, A.1)"
        ));
    }
    let trimmed = value.trim().len() == value.len();
    let length = value.chars().count();
    if length == 0 || length > VALUE_CHARS_MAX || !trimmed || value.chars().any(char::is_control) {
        return Err(format!(
            "each value must have 1 to {VALUE_CHARS_MAX} characters, none of them control \
             characters, and no space at its ends"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_most_specific_attribute_is_encoded_last() {
        let name = parse("CN=Device Issuer 1,O=Example\\, Inc.,C=DE").unwrap();
        let oids: Vec<_> = name.iter().map(|a| a.oid.to_string()).collect();
        assert_eq!(oids, [COUNTRY, "2.5.4.10", COMMON_NAME]);
        assert_eq!(
            name.to_string(),
            "CN=Device Issuer 1,O=Example\\, Inc.,C=DE"
        );
        assert_eq!(
            name.iter().next().unwrap().value.tag(),
            Tag::PrintableString
        );
    }

    #[test]
    fn names_that_are_refused() {
        for (text, word) in [
            ("", "RFC 4514"),
            ("Device Issuer", "RFC 4514"),
            ("CN=a, O=b", "RFC 4514"),
            ("XX=a", "RFC 4514"),
            ("CN=a,C=Germany", "two capital"),
            ("CN=a,C=de", "two capital"),
            ("O=Example", "one CN"),
            ("CN=a,CN=b", "one CN"),
            ("CN=a+O=b", "'+'"),
            ("CN=", "1 to 64"),
            ("CN=a\\07", "1 to 64"),
            ("CN=a\\FF", "RFC 4514"),
            ("CN=a,serialNumber=a_b", "may not have"),
        ] {
            let refused = parse(text).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
        assert!(parse(&format!("CN={}", "a".repeat(65))).is_err());
        assert!(parse(&format!("CN={}", "\u{e4}".repeat(64))).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,60}", value in "[ -~]{0,20}") {
            let _ = parse(&text);
            let _ = parse(&format!("CN={value},{text}"));
        }
    }
}
