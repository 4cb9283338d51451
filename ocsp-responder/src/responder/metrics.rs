//! What is counted since the start, and the Prometheus text form.
//!
//! Owns the counters. Promises that counting costs a request one addition. Never counts by anything that a stranger
//! chooses, so its size is bounded. Failure story: none.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::CertStatus;
use crate::ocsp::ErrorStatus;

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Status `good`, newly signed.
    Good,
    /// Status `revoked`, newly signed.
    Revoked,
    /// Status `unknown`.
    Unknown,
    /// `malformedRequest`.
    Malformed,
    /// `internalError`.
    Internal,
    /// `tryLater`.
    TryLater,
    /// `unauthorized`.
    Unauthorized,
}

impl Outcome {
    /// All of them, in the order of the counters.
    pub const ALL: [Self; 7] = [
        Self::Good,
        Self::Revoked,
        Self::Unknown,
        Self::Malformed,
        Self::Internal,
        Self::TryLater,
        Self::Unauthorized,
    ];

    /// The label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Revoked => "revoked",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed_request",
            Self::Internal => "internal_error",
            Self::TryLater => "try_later",
            Self::Unauthorized => "unauthorized",
        }
    }

    /// Of a signed status.
    pub const fn of_status(status: CertStatus) -> Self {
        match status {
            CertStatus::Good => Self::Good,
            CertStatus::Revoked { .. } => Self::Revoked,
            CertStatus::Unknown => Self::Unknown,
        }
    }

    /// Of an unsigned answer.
    pub const fn of(status: ErrorStatus) -> Self {
        match status {
            ErrorStatus::MalformedRequest => Self::Malformed,
            // Nobody is asked to sign requests here.
            ErrorStatus::InternalError | ErrorStatus::SigRequired => Self::Internal,
            ErrorStatus::TryLater => Self::TryLater,
            ErrorStatus::Unauthorized => Self::Unauthorized,
        }
    }
}

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics {
    outcomes: [AtomicU64; 7],
    hits: AtomicU64,
    accepted: AtomicU64,
    refused: AtomicU64,
    made_room: AtomicU64,
    unsigned: AtomicU64,
    panics: AtomicU64,
    mirror_failures: AtomicU64,
}

/// One more.
fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Metrics {
    /// A certificate was answered for, or a request refused.
    pub fn count(&self, outcome: Outcome) {
        let at = Outcome::ALL.iter().position(|one| *one == outcome);
        if let Some(counter) = at.and_then(|at| self.outcomes.get(at)) {
            add(counter);
        }
    }

    /// A request was answered with what is kept.
    pub fn hit(&self) {
        add(&self.hits);
    }

    /// A connection found a place.
    pub fn accepted(&self) {
        add(&self.accepted);
    }

    /// A connection found none.
    pub fn refused(&self) {
        add(&self.refused);
    }

    /// A connection found a place that another one had to give up.
    pub fn made_room(&self) {
        add(&self.made_room);
    }

    /// A request got no signature because its origin had its share of them.
    pub fn unsigned(&self) {
        add(&self.unsigned);
    }

    /// A request met a fault of this program.
    pub fn panicked(&self) {
        add(&self.panics);
    }

    /// A file could not be fetched or did not verify.
    pub fn mirror_failed(&self) {
        add(&self.mirror_failures);
    }

    /// Writes all counters.
    pub fn expose(&self, text: &mut Exposition) {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let name = "hallmark_ocsp_answers_total";
        text.metric(
            name,
            "counter",
            "Certificates answered for with a new signature, and requests refused, by status.",
        );
        for (outcome, counter) in Outcome::ALL.iter().zip(&self.outcomes) {
            text.value(name, &[("status", outcome.name())], value(counter));
        }
        let counters = [
            (
                "hallmark_ocsp_cache_hits_total",
                "Requests answered with a signed answer that was kept.",
                &self.hits,
            ),
            (
                "hallmark_ocsp_connections_total",
                "Connections that found a place.",
                &self.accepted,
            ),
            (
                "hallmark_ocsp_connections_refused_total",
                "Connections closed at once: all places, or their origin's, were taken.",
                &self.refused,
            ),
            (
                "hallmark_ocsp_connections_given_up_total",
                "Connections ended because all places were taken and their origin had the most.",
                &self.made_room,
            ),
            (
                "hallmark_ocsp_signatures_refused_total",
                "Requests answered with tryLater because their origin had its share of signatures.",
                &self.unsigned,
            ),
            (
                "hallmark_ocsp_panics_total",
                "Requests that met a fault of the program; report them.",
                &self.panics,
            ),
            (
                "hallmark_ocsp_mirror_failures_total",
                "CRLs and certificates that could not be fetched or did not verify.",
                &self.mirror_failures,
            ),
        ];
        for (name, help, counter) in counters {
            text.metric(name, "counter", help);
            text.value(name, &[], value(counter));
        }
    }
}

/// The Prometheus text form (version 0.0.4), built line by line.
#[derive(Debug, Default)]
pub struct Exposition(String);

impl Exposition {
    /// Starts a metric: its name, kind (`counter`, `gauge`) and a sentence.
    pub fn metric(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// One value of a metric with its labels.
    pub fn value(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
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
    pub fn into_text(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_out_by_status() {
        let metrics = Metrics::default();
        metrics.count(Outcome::Revoked);
        metrics.count(Outcome::Revoked);
        metrics.count(Outcome::of(ErrorStatus::TryLater));
        metrics.hit();
        let mut text = Exposition::default();
        metrics.expose(&mut text);
        let text = text.into_text();
        for line in [
            "hallmark_ocsp_answers_total{status=\"revoked\"} 2\n",
            "hallmark_ocsp_answers_total{status=\"try_later\"} 1\n",
            "hallmark_ocsp_answers_total{status=\"good\"} 0\n",
            "hallmark_ocsp_cache_hits_total 1\n",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
