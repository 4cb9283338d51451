//! Device ids: their form, and the pattern that an order sets for them.
//!
//! Owns [`DeviceIdPattern`]. Promises that a match is of the whole device id, in time linear in its length
//! whatever the operator wrote. Failure story: a pattern that does not compile is refused when the order is
//! opened.

use regex::bytes::{Regex, RegexBuilder};

use crate::limits::DEVICE_ID_CHARS_MAX;

/// A pattern in characters: hundreds of alternatives belong into a manifest, not into an expression.
const PATTERN_CHARS_MAX: usize = 512;

/// The compiled program in bytes; a class repeated 64 times needs a tenth of it.
const PROGRAM_BYTES_MAX: usize = 512 * 1024;

/// The states that a match may cache in bytes, for each thread that matches.
const CACHE_BYTES_MAX: usize = 64 * 1024;

/// Parentheses in parentheses.
const NESTING_MAX: u32 = 32;

/// A regular expression that is matched against whole device ids.
#[derive(Clone, Debug)]
pub(crate) struct DeviceIdPattern(Regex);

impl DeviceIdPattern {
    /// Compiles an operator's pattern.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the pattern, for the operator to correct it.
    pub(crate) fn compile(pattern: &str) -> Result<Self, String> {
        if pattern.is_empty() || pattern.len() > PATTERN_CHARS_MAX {
            return Err(format!("a pattern has 1 to {PATTERN_CHARS_MAX} characters"));
        }
        if !pattern.bytes().all(|c| (0x20..=0x7e).contains(&c)) {
            return Err("a pattern has printable ASCII characters only, as device ids do".into());
        }
        // By itself first: `a)|(b` would compile inside the group below and escape its anchors.
        build(pattern)?;
        build(&format!(r"\A(?:{pattern})\z")).map(Self)
    }

    /// Whether the whole device id matches.
    pub(crate) fn matches(&self, device_id: &str) -> bool {
        self.0.is_match(device_id.as_bytes())
    }
}

/// Compiles within the limits; device ids are ASCII, so classes such as `\d` are too.
fn build(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .nest_limit(NESTING_MAX)
        .size_limit(PROGRAM_BYTES_MAX)
        .dfa_size_limit(CACHE_BYTES_MAX)
        .build()
        .map_err(|fault| match fault {
            regex::Error::CompiledTooBig(_) => {
                "the pattern is too large when compiled: use fewer repetitions".to_owned()
            }
            // The parser's text draws an arrow below the pattern; its last line says what is wrong.
            other => {
                let text = other.to_string();
                let last = text.lines().last().unwrap_or("not a regular expression");
                last.trim_start_matches("error: ").to_owned()
            }
        })
}

/// Whether a text can be a device id at all: 1 to 64 printable ASCII characters, no space at either end.
pub(crate) fn is_device_id(text: &str) -> bool {
    let printable = text.bytes().all(|c| (0x20..=0x7e).contains(&c));
    // Directories compare names without outer spaces (RFC 4518, 2.6.1), so two ids would look like one.
    printable && !text.is_empty() && text.len() <= DEVICE_ID_CHARS_MAX && text.trim() == text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_match_is_of_the_whole_device_id() {
        let rows = [
            ("dev-[0-9]+", "dev-7", true),
            ("dev-[0-9]+", "xdev-7", false),
            ("dev-[0-9]+", "dev-7x", false),
            ("a|ab", "ab", true),
            ("a|b", "ab", false),
            ("^a$", "a", true),
            ("(?m)^a$", "a\nb", false),
            ("(?i)DEV", "dev", true),
            (r"\d{4}", "1234", true),
            (r"\d", "٣", false),
            ("[A-Za-z0-9-]{1,64}", "A-1", true),
            (".*", "anything at all", true),
        ];
        for (pattern, device_id, expected) in rows {
            let compiled = DeviceIdPattern::compile(pattern).unwrap();
            assert_eq!(
                compiled.matches(device_id),
                expected,
                "{pattern} {device_id}"
            );
        }
    }

    #[test]
    fn patterns_that_escape_or_explode_are_refused() {
        let long = "a".repeat(PATTERN_CHARS_MAX + 1);
        let nested = format!("{}a{}", "(".repeat(60), ")".repeat(60));
        let rows = [
            "",
            "a)|(b",
            "(",
            "[",
            "(?x)a # b",
            "((a{64}){64}){64}",
            "a\nb",
            "gerät",
            &long,
            &nested,
        ];
        for pattern in rows {
            assert!(DeviceIdPattern::compile(pattern).is_err(), "{pattern}");
        }
        let problem = DeviceIdPattern::compile("a(").unwrap_err();
        assert_eq!(problem, "unclosed group");
    }

    #[test]
    fn device_ids_are_short_printable_ascii() {
        let (longest, long) = ("x".repeat(64), "x".repeat(65));
        let rows = [
            ("dev-1", true),
            ("a b", true),
            ("~", true),
            (longest.as_str(), true),
            (long.as_str(), false),
            ("", false),
            (" a", false),
            ("a ", false),
            ("a\0", false),
            ("a\n", false),
            ("a\u{7f}", false),
            ("ä", false),
        ];
        for (text, expected) in rows {
            assert_eq!(is_device_id(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_compiles_or_is_refused(pattern in "[ -~]{0,40}", id in "[ -~]{0,20}") {
            if let Ok(compiled) = DeviceIdPattern::compile(&pattern) {
                let _ = compiled.matches(&id);
            }
        }
    }
}
