//! What `crl-sync` tells of itself: to `--once --json`, to `/status` and `/readyz`, and as metrics.
//!
//! Owns these forms. Promises that the exit code of `--once` and `/readyz` follow from the same facts as the text.
//! Never tells a serial. Failure story: none.

use serde::Serialize;

use super::alarm::Level;
use super::{Held, Syncer};
use crate::UnixMillis;
use crate::responder::Exposition;

/// The exit code where all is well.
const WELL: u8 = 0;
/// The exit code where something failed.
const FAILED: u8 = 1;
/// The exit code where a CRL has half of its life left or less.
const ALARM: u8 = 3;

/// What was done since the start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Tries to tell the broker.
    pub tries: u64,
    /// Times that it was told.
    pub told: u64,
    /// Rounds that failed.
    pub failures: u64,
}

/// Everything, at one moment.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SyncStatus {
    /// Whether the broker has every CRL, none of them ended, and was told.
    ready: bool,
    /// What stops it from being ready.
    reasons: Vec<String>,
    /// Whether the broker is still to be told.
    owed: bool,
    counts: Counts,
    crls: Vec<CrlStatus>,
}

/// One issuer's CRL.
#[derive(Clone, Debug, Serialize)]
struct CrlStatus {
    name: String,
    level: Level,
    number: Option<u64>,
    told_number: Option<u64>,
    this_update: Option<String>,
    next_update: Option<String>,
    left_seconds: Option<i128>,
    sources: Vec<SourceStatus>,
}

/// One source.
#[derive(Clone, Debug, Serialize)]
struct SourceStatus {
    source: String,
    fault: Option<String>,
}

impl Syncer {
    /// What there is to tell now.
    pub fn status(&self) -> SyncStatus {
        let now = self.clock.now().date;
        let each = self.held.iter().enumerate();
        let crls: Vec<CrlStatus> = each
            .map(|(at, held)| self.crl_status(at, held, now))
            .collect();
        let mut reasons: Vec<String> = self.failure.iter().cloned().collect();
        for crl in crls.iter().filter(|crl| crl.level >= Level::Ended) {
            let text = match crl.level {
                Level::Missing => "there is no CRL yet",
                _ => "the CRL has ended",
            };
            reasons.push(format!(
                "{}: {text}: the broker refuses every client of this issuer",
                crl.name
            ));
        }
        let owed = self.is_owed();
        if owed && reasons.is_empty() {
            reasons.push("the broker is still to be told".to_owned());
        }
        SyncStatus {
            ready: reasons.is_empty(),
            reasons,
            owed,
            counts: self.counts,
            crls,
        }
    }

    /// What there is to tell of one CRL.
    fn crl_status(&self, at: usize, held: &Held, now: UnixMillis) -> CrlStatus {
        let left = |until: UnixMillis| i128::from(until.seconds()) - i128::from(now.seconds());
        let current = held.current.as_deref();
        CrlStatus {
            name: held.issuer.name.to_string(),
            level: held.level,
            number: current.map(|crl| crl.number),
            told_number: held.told.as_ref().map(|crl| crl.number),
            this_update: current.map(|crl| crl.this_update.to_string()),
            next_update: current.map(|crl| crl.next_update.to_string()),
            left_seconds: current.map(|crl| left(crl.next_update)),
            sources: self
                .sources
                .of(at)
                .map(|(source, fault)| SourceStatus {
                    source,
                    fault: fault.map(str::to_owned),
                })
                .collect(),
        }
    }
}

impl SyncStatus {
    /// Whether the broker has every CRL, none of them ended, and was told.
    pub const fn is_ready(&self) -> bool {
        self.ready
    }

    /// Of `--once`: 0 when all is well, 1 when something failed, 3 when a CRL has half of its life left or less.
    pub fn exit_code(&self) -> u8 {
        let mut sources = self.crls.iter().flat_map(|crl| &crl.sources);
        if !self.ready {
            FAILED
        } else if self.crls.iter().any(|crl| crl.level > Level::Fresh) {
            ALARM
        } else if sources.any(|source| source.fault.is_some()) {
            FAILED
        } else {
            WELL
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = String::from(if self.ready { "READY\n" } else { "NOT READY\n" });
        for reason in &self.reasons {
            text.push_str(&format!("  reason  {reason}\n"));
        }
        for crl in &self.crls {
            let number = crl
                .number
                .map_or_else(|| "-".to_owned(), |number| number.to_string());
            let until = crl.next_update.as_deref().unwrap_or("-");
            let level = serde_json::json!(crl.level);
            let level = level.as_str().unwrap_or_default();
            text.push_str(&format!(
                "  CRL     {}, number {number}, until {until}, {level}\n",
                crl.name
            ));
            for source in &crl.sources {
                let fault = source.fault.as_deref().unwrap_or("answers");
                text.push_str(&format!("  source  {}: {fault}\n", source.source));
            }
        }
        text
    }

    /// As Prometheus metrics.
    pub fn metrics(&self) -> String {
        let mut text = Exposition::default();
        let counters = [
            (
                "hallmark_crl_sync_tries_total",
                "Tries to tell the broker.",
                self.counts.tries,
            ),
            (
                "hallmark_crl_sync_told_total",
                "Times that the broker was told.",
                self.counts.told,
            ),
            (
                "hallmark_crl_sync_failures_total",
                "Rounds that failed.",
                self.counts.failures,
            ),
        ];
        for (name, help, value) in counters {
            text.metric(name, "counter", help);
            text.value(name, &[], value);
        }
        let gauges = [
            (
                "hallmark_crl_sync_ready",
                "1 while the broker has every CRL, none of them ended, and was told.",
                self.ready,
            ),
            (
                "hallmark_crl_sync_owed",
                "1 while the broker is still to be told of a CRL.",
                self.owed,
            ),
        ];
        for (name, help, value) in gauges {
            text.metric(name, "gauge", help);
            text.value(name, &[], u8::from(value));
        }
        self.expose_crls(&mut text);
        let name = "hallmark_crl_sync_source_fault";
        text.metric(
            name,
            "gauge",
            "1 while a source gives no CRL that can be used.",
        );
        for crl in &self.crls {
            for source in &crl.sources {
                let labels = [
                    ("crl", crl.name.as_str()),
                    ("source", source.source.as_str()),
                ];
                text.value(name, &labels, u8::from(source.fault.is_some()));
            }
        }
        text.into_text()
    }

    /// What there is of each CRL.
    fn expose_crls(&self, text: &mut Exposition) {
        type Value = fn(&CrlStatus) -> Option<i128>;
        let gauges: [(&str, &str, Value); 4] = [
            (
                "hallmark_crl_sync_alarm",
                "0 fresh, 1 half of its life is over, 2 three quarters, 3 ended, 4 there is none.",
                |crl| Some(i128::from(crl.level.number())),
            ),
            (
                "hallmark_crl_sync_left_seconds",
                "Time until the CRL in place ends; negative once it has.",
                |crl| crl.left_seconds,
            ),
            (
                "hallmark_crl_sync_number",
                "Number of the CRL in place.",
                |crl| crl.number.map(i128::from),
            ),
            (
                "hallmark_crl_sync_told_number",
                "Number of the CRL that the broker was told of last.",
                |crl| crl.told_number.map(i128::from),
            ),
        ];
        for (name, help, value) in gauges {
            text.metric(name, "gauge", help);
            for crl in &self.crls {
                if let Some(value) = value(crl) {
                    text.value(name, &[("crl", &crl.name)], value);
                }
            }
        }
    }
}
