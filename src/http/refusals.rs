//! Refusals in the signing log, bounded: they cannot fill the disk or delay an answer.
//!
//! Owns the task that writes them. Promises that each minute's first refusals are entries of their own and
//! the rest of the minute is one entry with counts. Never makes a request wait. Failure story: while the log
//! takes no entries, refusals are only counted, and the next summary tells how many.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use certstatus::log::{DetailHash, EventName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::limits::{DEVICE_ID_CHARS_MAX, REFUSALS_LOGGED_PER_MINUTE};
use crate::signing_log::SigningLog;

/// Refusals that wait for the log; more are only counted.
const WAITING_MAX: usize = 256;

/// What a minute is.
const MINUTE: Duration = Duration::from_secs(60);

/// A refusal as the log's detail keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Refusal {
    /// The rule.
    pub(crate) rule: &'static str,
    /// The order in the URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) order: Option<String>,
    /// The line, where the certificate proved one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<String>,
    /// The device id, as far as it was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) device_id: Option<String>,
    /// SHA-256 of the peer's certificate, where it showed one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) certificate_sha256: Option<DetailHash>,
}

/// Where refusals are noted; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    to: mpsc::Sender<Refusal>,
    missed: Arc<AtomicU64>,
}

/// What a minute has had.
#[derive(Debug, Default)]
struct Minute {
    logged: u32,
    counted: BTreeMap<&'static str, u64>,
}

impl Refusals {
    /// Starts the task that writes to `log`; it ends with the last clone.
    pub(crate) fn start(log: SigningLog) -> Self {
        let (to, from) = mpsc::channel(WAITING_MAX);
        let missed = Arc::<AtomicU64>::default();
        tokio::spawn(write(log, from, Arc::clone(&missed)));
        Self { to, missed }
    }

    /// Notes a refusal; returns at once.
    pub(crate) fn note(&self, mut refusal: Refusal) {
        for text in [&mut refusal.order, &mut refusal.device_id]
            .into_iter()
            .flatten()
        {
            if text.chars().count() > DEVICE_ID_CHARS_MAX {
                *text = text.chars().take(DEVICE_ID_CHARS_MAX).collect();
            }
        }
        if self.to.try_send(refusal).is_err() {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes refusals, minute by minute, until nobody notes any more.
async fn write(log: SigningLog, mut from: mpsc::Receiver<Refusal>, missed: Arc<AtomicU64>) {
    while let Some(first) = from.recv().await {
        let mut minute = Minute::default();
        let over = tokio::time::sleep(MINUTE);
        tokio::pin!(over);
        let mut next = Some(first);
        while let Some(refusal) = next {
            if minute.logs_next() {
                let rule = refusal.rule;
                if !record(&log, "refused", json!(refusal)).await {
                    minute.count(rule);
                }
            } else {
                minute.count(refusal.rule);
            }
            next = tokio::select! {
                refusal = from.recv() => refusal,
                () = &mut over => None,
            };
        }
        if let Some(summary) = minute.summary(missed.swap(0, Ordering::Relaxed)) {
            record(&log, "refusals-counted", summary).await;
        }
    }
}

/// Records an event; whether the log took it.
async fn record(log: &SigningLog, event: &str, data: Value) -> bool {
    let Ok(event) = event.parse::<EventName>() else {
        return false;
    };
    match log.record_event(event, data).await {
        Ok(_) => true,
        Err(error) => {
            tracing::warn!(%error, "refusals are only counted while the log takes no entries");
            false
        }
    }
}

impl Minute {
    /// Whether one more has an entry of its own, which is then taken.
    const fn logs_next(&mut self) -> bool {
        let fits = self.logged < REFUSALS_LOGGED_PER_MINUTE;
        if fits {
            self.logged += 1;
        }
        fits
    }

    /// Counts one without an entry.
    fn count(&mut self, rule: &'static str) {
        let count = self.counted.entry(rule).or_default();
        *count = count.saturating_add(1);
    }

    /// The entry for all that had none of their own.
    fn summary(self, missed: u64) -> Option<Value> {
        if self.counted.is_empty() && missed == 0 {
            return None;
        }
        Some(json!({ "by_rule": self.counted, "not_noted": missed }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_logs_so_many_and_counts_the_rest() {
        let mut minute = Minute::default();
        let logged = (0..200).filter(|_| minute.logs_next()).count();
        assert_eq!(logged, usize::try_from(REFUSALS_LOGGED_PER_MINUTE).unwrap());
        minute.count("line-disabled");
        minute.count("csr-refused");
        minute.count("line-disabled");
        let summary = minute.summary(4).unwrap();
        let expected = json!({"by_rule": {"csr-refused": 1, "line-disabled": 2}, "not_noted": 4});
        assert_eq!(summary, expected);
        assert_eq!(Minute::default().summary(0), None);
    }

    #[test]
    fn a_detail_has_no_null_and_no_long_text() {
        let (to, mut from) = mpsc::channel(1);
        let refusals = Refusals {
            to,
            missed: Arc::default(),
        };
        let long = Some("é".repeat(1000));
        let refusal = Refusal {
            rule: "no-such-order",
            order: long,
            ..Refusal::default()
        };
        refusals.note(refusal.clone());
        refusals.note(refusal);
        assert_eq!(
            refusals.missed.load(Ordering::Relaxed),
            1,
            "a full queue only counts"
        );
        let noted = json!(from.try_recv().unwrap());
        assert_eq!(
            noted,
            json!({"rule": "no-such-order", "order": "é".repeat(64)})
        );
    }
}
