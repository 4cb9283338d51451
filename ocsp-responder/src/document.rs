//! Reading a versioned TOML file, with errors that name the key.
//!
//! Owns the way from a path to a serde form. Promises that an error names file, line and dotted key, and that
//! no line of the file is quoted in it: somebody may have put a secret where none belongs. Never interprets
//! a value but `version`. Failure story: every failure is a [`ConfigError`]; nothing is half read.

#[cfg(feature = "responder")]
mod place;

use std::io::Read as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

#[cfg(feature = "responder")]
pub use place::Place;

/// The longest file in bytes: a hundred times the annotated example.
pub const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The version of the file formats that this program reads.
const VERSION: i64 = 1;

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{}:{line}: {key}: not what belongs here", path.display())]
    Toml {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// The dotted key, or the table in which one is missing.
        key: String,
        /// What was found and expected, without the file's text.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A value that cannot be.
    #[error("{}: {key}: {problem}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// The dotted key.
        key: String,
        /// What is wrong and what would be right.
        problem: String,
    },
}

/// Reads a file whose top level says `version = 1` into its serde form, which has a `version` field.
///
/// # Errors
/// [`ConfigError`]; tell the operator.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    parse(path, &text(path, FILE_BYTES_MAX)?)
}

/// The text of a file that is not longer than `limit` bytes.
///
/// # Errors
/// [`ConfigError`]; tell the operator.
pub fn text(path: &Path, limit: u64) -> Result<String, ConfigError> {
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(limit + 1).read_to_string(&mut text))
        .map_err(|source| ConfigError::Read {
            path: path.to_owned(),
            source,
        })?;
    if text.len() as u64 > limit {
        return Err(ConfigError::Value {
            path: path.to_owned(),
            key: "the file".to_owned(),
            problem: format!("it is longer than {limit} bytes"),
        });
    }
    Ok(text)
}

/// Like [`read`], from the text.
///
/// # Errors
/// [`ConfigError`]; tell the operator.
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    check_version(path, text)?;
    toml::from_str(text).map_err(|error| located(path, text, error))
}

/// Reads the version first, so that a file of another version is not blamed for its unknown keys.
fn check_version(path: &Path, text: &str) -> Result<(), ConfigError> {
    let table = DeTable::parse(text).map_err(|error| located(path, text, error))?;
    let found = table.get_ref().get("version").map(Spanned::get_ref);
    let problem = match found {
        Some(DeValue::Integer(n)) if n.as_str().parse() == Ok(VERSION) => return Ok(()),
        Some(DeValue::Integer(n)) => {
            format!(
                "{} is not known: this program reads version {VERSION}",
                n.as_str()
            )
        }
        Some(_) => format!("must be a number: write version = {VERSION}"),
        None => format!("is missing: write version = {VERSION} at the top"),
    };
    Err(ConfigError::Value {
        path: path.to_owned(),
        key: "version".to_owned(),
        problem,
    })
}

/// Names line and key of a TOML error, and drops the quoted line.
fn located(path: &Path, text: &str, mut error: toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start);
    let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
    let key = DeTable::parse(text)
        .ok()
        .and_then(|table| key_at(table.get_ref(), at))
        .unwrap_or_else(|| "top level".to_owned());
    error.set_input(None);
    ConfigError::Toml {
        path: path.to_owned(),
        line,
        key,
        source: Box::new(error),
    }
}

/// The dotted key of the deepest entry that covers a byte of the text.
fn key_at(table: &DeTable<'_>, at: usize) -> Option<String> {
    table.iter().find_map(|(name, value)| {
        let inner = inner_key_at(value.get_ref(), at);
        match inner {
            Some(inner) if inner.starts_with('[') => Some(format!("{}{inner}", name.get_ref())),
            Some(inner) => Some(format!("{}.{inner}", name.get_ref())),
            None => (name.span().contains(&at) || value.span().contains(&at))
                .then(|| name.get_ref().to_string()),
        }
    })
}

/// [`key_at`] below a value; an index into an array stands in brackets.
fn inner_key_at(value: &DeValue<'_>, at: usize) -> Option<String> {
    match value {
        DeValue::Table(table) => key_at(table, at),
        DeValue::Array(items) => items.iter().enumerate().find_map(|(index, item)| {
            match inner_key_at(item.get_ref(), at) {
                Some(inner) if inner.starts_with('[') => Some(format!("[{index}]{inner}")),
                Some(inner) => Some(format!("[{index}].{inner}")),
                None => item.span().contains(&at).then(|| format!("[{index}]")),
            }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Form {
        #[expect(dead_code, reason = "read by serde only")]
        version: u32,
        #[expect(dead_code, reason = "read by serde only")]
        #[serde(default)]
        item: Vec<Item>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Item {
        #[expect(dead_code, reason = "read by serde only")]
        size: u8,
    }

    fn fault(text: &str) -> String {
        let error = parse::<Form>(Path::new("f.toml"), text).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    }

    #[test]
    fn errors_name_line_and_key() {
        let text = "version = 1\n[[item]]\nsize = 1\n[[item]]\nsize = 300\n";
        assert!(fault(text).starts_with("f.toml:5: item[1].size: "));
        let text = "version = 1\n[[item]]\nsize = 1\npin = \"1234\"\n";
        assert!(fault(text).starts_with("f.toml:4: item[0].pin: "));
        let text = "version = 1\n[[item]]\n";
        let shown = fault(text);
        assert!(
            shown.starts_with("f.toml:2: item[0]: ") && shown.contains("`size`"),
            "{shown}"
        );
        assert!(fault("version = 1\nitem = = 3").starts_with("f.toml:2: "));
    }

    #[test]
    fn no_line_is_quoted() {
        assert!(!fault("version = 1\n[[item]]\nsize = 1\npin = \"1234\"\n").contains("1234"));
        assert!(!fault("version = 1\npin = \"1234").contains("1234"));
    }

    #[test]
    fn the_version_is_judged_first() {
        assert!(fault("version = 2\nnovel = 1\n").starts_with("f.toml: version: 2 is not known"));
        assert!(fault("").starts_with("f.toml: version: is missing"));
        assert!(fault("version = \"1\"").starts_with("f.toml: version: must be a number"));
    }

    #[test]
    fn long_and_absent_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("long.toml");
        assert!(matches!(read::<Form>(&path), Err(ConfigError::Read { .. })));
        std::fs::write(&path, " ".repeat(2 * 1024 * 1024)).unwrap();
        assert!(matches!(
            read::<Form>(&path),
            Err(ConfigError::Value { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_answered(text in "[\\[\\]a-z=\"1.\\n# ]{0,80}") {
            let _ = parse::<Form>(Path::new("f.toml"), &text);
        }
    }
}
