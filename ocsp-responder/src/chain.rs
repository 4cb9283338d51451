//! An error and its sources as one line, for logs and for people.
//!
//! Owns no text: each error says what it has to say. Promises one line's worth of the whole chain, outermost first, and
//! nothing twice. Never fails.

/// An error and its sources, outermost first, with `: ` between them.
///
/// A source whose text the errors before it end with already is left out: some libraries repeat theirs.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // The TOML parser ends its messages with a newline.
        let told = cause.to_string();
        let told = told.trim_end();
        if !text.ends_with(told) {
            text.push_str(": ");
            text.push_str(told);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An error that says what it is told to, with what it is told to as its source.
    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Told {
        text: &'static str,
        source: Option<Box<Self>>,
    }

    /// Errors by their texts, outermost first.
    fn told(texts: &[&'static str]) -> String {
        let chained = texts
            .iter()
            .rev()
            .fold(None, |source, &text| Some(Box::new(Told { text, source })));
        chained.map(|error| chain(&error)).unwrap_or_default()
    }

    #[test]
    fn every_cause_is_named_once_outermost_first() {
        for (texts, expected) in [
            (&["a"][..], "a"),
            (&["a", "b", "c"], "a: b: c"),
            (&["a: b", "b", "c"], "a: b: c"),
            (&["a", "b: c", "c"], "a: b: c"),
            (&["a", "b\n", "c"], "a: b: c"),
            (&["a", "", "c"], "a: c"),
            (&["b", "a", "b"], "b: a: b"),
        ] {
            assert_eq!(told(texts), expected, "{texts:?}");
        }
    }
}
