//! Refusals in the signing log, bounded: they cannot fill the disk or delay an answer.
//!
//! Owns the task that writes them. Promises that each minute's first refusals of a line by a rule are entries
//! of their own, whatever else is refused, and that all others are counted in one entry a minute; strangers
//! are only counted. Never makes a request wait. Failure story: while the log takes no entries, refusals are
//! only counted, and the next summary tells how many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certstatus::log::{DetailHash, EventName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval_at, timeout};

use crate::limits::{DEVICE_ID_CHARS_MAX, REFUSALS_LOGGED_PER_MINUTE, REFUSALS_SUMMARY_PAIRS_MAX};
use crate::signing_log::SigningLog;

/// Refusals that wait for the log; more are only counted.
const WAITING_MAX: usize = 256;

/// The time for the last summary when the appliance stops.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

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
    to: mpsc::Sender<Note>,
    minute: Arc<Mutex<Minute>>,
}

/// What the writing task is asked.
#[derive(Debug)]
enum Note {
    /// An entry.
    Refused(Refusal),
    /// The summary, and word when it is written.
    Finish(oneshot::Sender<()>),
}

/// What a minute has had.
#[derive(Debug, Default)]
struct Minute {
    logged: BTreeMap<(String, &'static str), u32>,
    counted: Counted,
}

/// Refusals without an entry, by line (`None` for all strangers) and rule.
#[derive(Debug, Default)]
struct Counted(BTreeMap<(Option<String>, &'static str), u64>);

impl Refusals {
    /// Starts the task that writes to `log`; it ends with the last clone.
    pub(crate) fn start(log: SigningLog) -> Self {
        let (to, from) = mpsc::channel(WAITING_MAX);
        let minute = Arc::<Mutex<Minute>>::default();
        tokio::spawn(write(log, from, Arc::clone(&minute)));
        Self { to, minute }
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
        let (line, rule) = (refusal.line.clone(), refusal.rule);
        let mut minute = lock(&self.minute);
        if !minute.logs_next(line.as_deref(), rule)
            || self.to.try_send(Note::Refused(refusal)).is_err()
        {
            minute.count(line, rule, 1);
        }
    }

    /// Writes what waits and what was counted, before the appliance stops.
    pub(crate) async fn finish(&self) {
        let (done, finished) = oneshot::channel();
        let finish = async {
            if self.to.send(Note::Finish(done)).await.is_ok() {
                // An error is a task that is gone with its runtime.
                let _told = finished.await;
            }
        };
        if timeout(FINISH_DEADLINE, finish).await.is_err() {
            tracing::warn!("the last refusals did not get into the signing log in time");
        }
    }
}

/// The minute; a panic cannot leave it half changed.
fn lock(minute: &Mutex<Minute>) -> MutexGuard<'_, Minute> {
    minute.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes refusals, minute by minute, until nobody notes any more.
async fn write(log: SigningLog, mut from: mpsc::Receiver<Note>, minute: Arc<Mutex<Minute>>) {
    let mut over = interval_at(Instant::now() + MINUTE, MINUTE);
    loop {
        let note = tokio::select! {
            note = from.recv() => note,
            _ = over.tick() => {
                summarise(&log, &minute).await;
                continue;
            }
        };
        match note {
            Some(Note::Refused(refusal)) => {
                if !record(&log, "refused", json!(refusal)).await {
                    lock(&minute).count(refusal.line, refusal.rule, 1);
                }
            }
            Some(Note::Finish(done)) => {
                summarise(&log, &minute).await;
                // Who asked may have given up.
                let _told = done.send(());
            }
            None => break,
        }
    }
    summarise(&log, &minute).await;
}

/// Ends a minute: its counts become an entry, if there are any; what the log does not take stays counted.
async fn summarise(log: &SigningLog, minute: &Mutex<Minute>) {
    let Minute { counted, .. } = std::mem::take(&mut *lock(minute));
    let Some(summary) = summary(&counted) else {
        return;
    };
    if !record(log, "refusals-counted", summary).await {
        let mut minute = lock(minute);
        for ((line, rule), count) in counted.0 {
            minute.count(line, rule, count);
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
    /// Whether one more has an entry of its own, which is then taken; a stranger's never has.
    fn logs_next(&mut self, line: Option<&str>, rule: &'static str) -> bool {
        let Some(line) = line else {
            return false;
        };
        let logged = self.logged.entry((line.to_owned(), rule)).or_default();
        let fits = *logged < REFUSALS_LOGGED_PER_MINUTE;
        if fits {
            *logged += 1;
        }
        fits
    }

    /// Counts some without an entry.
    fn count(&mut self, line: Option<String>, rule: &'static str, more: u64) {
        let count = self.counted.0.entry((line, rule)).or_default();
        *count = count.saturating_add(more);
    }
}

/// The entry for all that had none of their own.
fn summary(counted: &Counted) -> Option<Value> {
    if counted.0.is_empty() {
        return None;
    }
    let mut strangers = BTreeMap::new();
    let mut lines = BTreeMap::<&str, BTreeMap<&str, u64>>::new();
    let mut other_lines = BTreeMap::<&str, u64>::new();
    let mut pairs = 0;
    for ((line, rule), count) in &counted.0 {
        match line {
            None => {
                strangers.insert(*rule, *count);
            }
            Some(line) if pairs < REFUSALS_SUMMARY_PAIRS_MAX => {
                pairs += 1;
                lines.entry(line).or_default().insert(rule, *count);
            }
            Some(_) => {
                let sum = other_lines.entry(rule).or_default();
                *sum = sum.saturating_add(*count);
            }
        }
    }
    Some(json!({ "strangers": strangers, "lines": lines, "other_lines": other_lines }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A refusal of a line.
    fn refusal(line: Option<&str>, rule: &'static str) -> Refusal {
        let line = line.map(str::to_owned);
        Refusal {
            rule,
            line,
            ..Refusal::default()
        }
    }

    /// With so long a queue, and its end.
    fn refusals(waiting: usize) -> (Refusals, mpsc::Receiver<Note>) {
        let (to, from) = mpsc::channel(waiting);
        let minute = Arc::default();
        (Refusals { to, minute }, from)
    }

    /// The rules of the lines that have entries.
    fn logged(from: &mut mpsc::Receiver<Note>) -> Vec<(Option<String>, &'static str)> {
        let notes = std::iter::from_fn(|| from.try_recv().ok());
        notes
            .map(|note| match note {
                Note::Refused(refusal) => (refusal.line, refusal.rule),
                Note::Finish(_) => panic!("nobody finishes"),
            })
            .collect()
    }

    #[test]
    fn a_flood_hides_no_first_refusal_of_another_kind() {
        let (refusals, mut from) = refusals(WAITING_MAX);
        for _ in 0..1000 {
            refusals.note(refusal(None, "no-certificate"));
            refusals.note(refusal(Some("a"), "csr-refused"));
        }
        let flood = usize::try_from(REFUSALS_LOGGED_PER_MINUTE).unwrap();
        assert_eq!(logged(&mut from).len(), flood, "none is a stranger's");
        refusals.note(refusal(Some("a"), "key-used"));
        refusals.note(refusal(Some("b"), "csr-refused"));
        let first = [("a", "key-used"), ("b", "csr-refused")];
        let first = first.map(|(line, rule)| (Some(line.to_owned()), rule));
        assert_eq!(logged(&mut from), first);
        let expected = json!({
            "strangers": {"no-certificate": 1000},
            "lines": {"a": {"csr-refused": 1000 - flood}},
            "other_lines": {},
        });
        assert_eq!(summary(&lock(&refusals.minute).counted), Some(expected));
        assert_eq!(
            summary(&Counted::default()),
            None,
            "a quiet minute has no entry"
        );
    }

    #[test]
    fn a_full_queue_counts_by_rule_and_a_summary_is_bounded() {
        let (refusals, _from) = refusals(1);
        for number in 0..1 + 2 * REFUSALS_SUMMARY_PAIRS_MAX {
            let line = format!("{number:060}");
            refusals.note(refusal(Some(&line), "device-id-used"));
        }
        let told = summary(&lock(&refusals.minute).counted).unwrap();
        assert_eq!(
            told["lines"].as_object().unwrap().len(),
            REFUSALS_SUMMARY_PAIRS_MAX
        );
        assert_eq!(
            told["other_lines"]["device-id-used"],
            REFUSALS_SUMMARY_PAIRS_MAX
        );
        assert!(told.to_string().len() < crate::limits::DETAIL_BYTES_MAX / 2 + 16 * 1024);
    }

    #[test]
    fn a_detail_has_no_null_and_no_long_text() {
        let (refusals, mut from) = refusals(1);
        refusals.note(Refusal {
            order: Some("é".repeat(1000)),
            ..refusal(Some("a"), "no-such-order")
        });
        let Note::Refused(noted) = from.try_recv().unwrap() else {
            panic!("nobody finishes");
        };
        let expected = json!({"rule": "no-such-order", "line": "a", "order": "é".repeat(64)});
        assert_eq!(json!(noted), expected);
    }
}
