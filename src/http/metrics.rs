//! Counters of the line API, and the Prometheus text form.
//!
//! Owns what is counted since the daemon started. Promises that counting costs a request next to nothing.
//! Never counts by anything that a stranger chooses, so its size is bounded. Failure story: none.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use crate::issuance::Origin;

/// Counters; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    counts: Arc<Mutex<Counts>>,
}

/// What is counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Certificates by order and origin.
    pub(crate) issued: BTreeMap<(String, &'static str), u64>,
    /// Answers other than certificates, by rule.
    pub(crate) refused: BTreeMap<&'static str, u64>,
}

impl Metrics {
    /// A certificate left, under an order that exists.
    pub(crate) fn issued(&self, order: &str, origin: Origin) {
        let key = (order.to_owned(), super::accept::origin(origin));
        *self.lock().issued.entry(key).or_default() += 1;
    }

    /// A request was refused or failed.
    pub(crate) fn refused(&self, rule: &'static str) {
        *self.lock().refused.entry(rule).or_default() += 1;
    }

    /// The counts as they stand.
    pub(crate) fn counts(&self) -> Counts {
        self.lock().clone()
    }

    /// The counts; a panic cannot leave them half changed.
    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The Prometheus text form (version 0.0.4), built line by line.
#[derive(Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// Starts a metric: its name, kind (`counter`, `gauge`) and a sentence.
    pub(crate) fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of a metric with its labels.
    pub(crate) fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let text = text
                .replace('\\', r"\\")
                .replace('"', "\\\"")
                .replace('\n', r"\n");
            let _ = write!(self.0, "{before}{label}=\"{text}\"");
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    /// The text.
    pub(crate) fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_order_and_rule() {
        let metrics = Metrics::default();
        metrics.issued("demo", Origin::New);
        metrics.issued("demo", Origin::New);
        metrics.issued("demo", Origin::Repeated);
        metrics.clone().refused("line-disabled");
        let counts = metrics.counts();
        assert_eq!(counts.issued[&("demo".to_owned(), "new")], 2);
        assert_eq!(counts.issued[&("demo".to_owned(), "repeated")], 1);
        assert_eq!(counts.refused["line-disabled"], 1);
    }

    #[test]
    fn the_text_form_escapes_labels() {
        let mut text = Exposition::default();
        text.metric("x_total", "counter", "How many.");
        text.value("x_total", &[("a", "q\"\\\n"), ("b", "c")], 3);
        text.value("x_total", &[], 0.5);
        let expected = "# HELP x_total How many.\n# TYPE x_total counter\n\
                        x_total{a=\"q\\\"\\\\\\n\",b=\"c\"} 3\nx_total 0.5\n";
        assert_eq!(text.into_text(), expected);
    }
}
