//! Refusals in the signing log, bounded: they cannot fill the disk or delay an answer.
//!
//! Owns the task that writes them. Promises that each minute's first refusals of a line by a rule are entries
//! of their own until the line or all lines together have had those of a minute or a day, that each line and rule has
//! a few a day beyond that, and that all others are counted in one entry a minute, later one an hour; strangers are only
//! counted. Never makes a request wait. Failure story: while the log takes no entries, refusals are only counted and use
//! up nothing, and the next summary tells how many.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use certstatus::log::{DetailHash, EventName};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, interval_at, timeout};

use crate::limits::{
    DEVICE_ID_CHARS_MAX, REFUSALS_LINE_PER_DAY, REFUSALS_LINE_PER_MINUTE,
    REFUSALS_LOGGED_PER_MINUTE, REFUSALS_PER_DAY, REFUSALS_RESERVED_PER_DAY,
    REFUSALS_SUMMARIES_PER_DAY, REFUSALS_SUMMARY_PAIRS_MAX,
};
use crate::signing_log::SigningLog;

/// Refusals that wait for the log; more are only counted.
const WAITING_MAX: usize = 256;

/// The time for the last summary when the appliance stops.
const FINISH_DEADLINE: Duration = Duration::from_secs(5);

/// What a minute is.
const MINUTE: Duration = Duration::from_secs(60);

/// The minutes of an hour.
const HOUR_MINUTES: u32 = 60;

/// The minutes of a day, which begins when the appliance starts.
const DAY_MINUTES: u32 = 24 * HOUR_MINUTES;

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
    account: Arc<Mutex<Account>>,
}

/// What the writing task is asked.
#[derive(Debug)]
enum Note {
    /// An entry, and what it has used up.
    Refused(Refusal, Budget),
    /// The summary, and word when it is written.
    Finish(oneshot::Sender<()>),
}

/// What an entry uses up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Budget {
    /// The bounds of the minute and the day.
    Common,
    /// What each line and rule has for itself.
    Reserve,
}

/// What was refused lately.
#[derive(Debug, Default)]
struct Account {
    minute: Minute,
    day: Day,
    counted: Counted,
}

/// The entries that this minute has had.
#[derive(Debug, Default)]
struct Minute {
    by_rule: BTreeMap<(String, &'static str), u32>,
    by_line: BTreeMap<String, u32>,
}

/// The entries that this day has had.
#[derive(Debug, Default)]
struct Day {
    reserve: BTreeMap<(String, &'static str), u32>,
    by_line: BTreeMap<String, u32>,
    all: u32,
    summaries: u32,
    /// Minutes that are over.
    minutes: u32,
    /// The minute from which the next summary may be written.
    summary_from: u32,
}

/// Refusals without an entry, by line (`None` for all strangers) and rule.
#[derive(Debug, Default)]
struct Counted(BTreeMap<(Option<String>, &'static str), u64>);

impl Refusals {
    /// Starts the task that writes to `log`; it ends with the last clone.
    pub(crate) fn start(log: SigningLog) -> Self {
        let (to, from) = mpsc::channel(WAITING_MAX);
        let account = Arc::<Mutex<Account>>::default();
        tokio::spawn(write(log, from, Arc::clone(&account)));
        Self { to, account }
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
        let mut account = lock(&self.account);
        let Some(budget) = account.logs_next(line.as_deref(), rule) else {
            account.counted.add(line, rule, 1);
            return;
        };
        if self.to.try_send(Note::Refused(refusal, budget)).is_err() {
            account.only_counts(line, rule, budget);
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

/// The account; a panic cannot leave it half changed.
fn lock(account: &Mutex<Account>) -> MutexGuard<'_, Account> {
    account.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes refusals, minute by minute, until nobody notes any more.
async fn write(log: SigningLog, mut from: mpsc::Receiver<Note>, account: Arc<Mutex<Account>>) {
    let mut over = interval_at(Instant::now() + MINUTE, MINUTE);
    loop {
        let note = tokio::select! {
            note = from.recv() => note,
            _ = over.tick() => {
                if lock(&account).minute_over() {
                    summarise(&log, &account).await;
                }
                continue;
            }
        };
        match note {
            Some(Note::Refused(refusal, budget)) => {
                if !record(&log, "refused", json!(refusal)).await {
                    lock(&account).only_counts(refusal.line, refusal.rule, budget);
                }
            }
            Some(Note::Finish(done)) => {
                summarise(&log, &account).await;
                // Who asked may have given up.
                let _told = done.send(());
            }
            None => break,
        }
    }
    summarise(&log, &account).await;
}

/// The counts become an entry, if there are any; what the log does not take stays counted.
async fn summarise(log: &SigningLog, account: &Mutex<Account>) {
    let counted = std::mem::take(&mut lock(account).counted);
    let Some(summary) = summary(&counted) else {
        return;
    };
    if !record(log, "refusals-counted", summary).await {
        let mut account = lock(account);
        for ((line, rule), count) in counted.0 {
            account.counted.add(line, rule, count);
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

impl Account {
    /// What one more uses up for an entry of its own; `None` where it has none, and a stranger's never has.
    fn logs_next(&mut self, line: Option<&str>, rule: &'static str) -> Option<Budget> {
        let line = line?;
        let common = self.common(line, rule);
        if common.iter().all(|(had, most)| **had < *most) {
            for (had, _) in common {
                *had += 1;
            }
            return Some(Budget::Common);
        }
        let reserved = self.day.reserve.entry((line.to_owned(), rule));
        let had = reserved.or_default();
        (*had < REFUSALS_RESERVED_PER_DAY).then(|| {
            *had += 1;
            Budget::Reserve
        })
    }

    /// Counts one that was to have an entry and got none, and gives back what it had used up.
    fn only_counts(&mut self, line: Option<String>, rule: &'static str, budget: Budget) {
        if let Some(line) = line.as_deref() {
            // In the next minute or day there may be less to give back.
            let give_back = |had: &mut u32| *had = had.saturating_sub(1);
            match budget {
                Budget::Common => {
                    let common = self.common(line, rule);
                    common.into_iter().for_each(|(had, _)| give_back(had));
                }
                Budget::Reserve => {
                    let reserved = self.day.reserve.get_mut(&(line.to_owned(), rule));
                    reserved.into_iter().for_each(give_back);
                }
            }
        }
        self.counted.add(line, rule, 1);
    }

    /// How many entries the bounds of a minute and a day have had that one of this line and rule counts for, and the
    /// most of each.
    fn common(&mut self, line: &str, rule: &'static str) -> [(&mut u32, u32); 4] {
        let Self { minute, day, .. } = self;
        [
            (
                minute.by_rule.entry((line.to_owned(), rule)).or_default(),
                REFUSALS_LOGGED_PER_MINUTE,
            ),
            (
                minute.by_line.entry(line.to_owned()).or_default(),
                REFUSALS_LINE_PER_MINUTE,
            ),
            (
                day.by_line.entry(line.to_owned()).or_default(),
                REFUSALS_LINE_PER_DAY,
            ),
            (&mut day.all, REFUSALS_PER_DAY),
        ]
    }

    /// Begins the next minute; whether what was counted is to become an entry now.
    fn minute_over(&mut self) -> bool {
        self.minute = Minute::default();
        self.day.minutes += 1;
        let due = !self.counted.0.is_empty() && self.day.minutes >= self.day.summary_from;
        if due {
            self.day.summaries += 1;
            let pause = match self.day.summaries < REFUSALS_SUMMARIES_PER_DAY {
                true => 1,
                false => HOUR_MINUTES,
            };
            self.day.summary_from = self.day.minutes + pause;
        }
        if self.day.minutes >= DAY_MINUTES {
            self.day = Day::default();
        }
        due
    }
}

impl Counted {
    /// Counts some without an entry.
    fn add(&mut self, line: Option<String>, rule: &'static str, more: u64) {
        let count = self.0.entry((line, rule)).or_default();
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
        let account = Arc::default();
        (Refusals { to, account }, from)
    }

    /// The rules of the lines that have entries.
    fn logged(from: &mut mpsc::Receiver<Note>) -> Vec<(Option<String>, &'static str)> {
        let notes = std::iter::from_fn(|| from.try_recv().ok());
        notes
            .map(|note| match note {
                Note::Refused(refusal, _) => (refusal.line, refusal.rule),
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
        let flood = REFUSALS_LOGGED_PER_MINUTE + REFUSALS_RESERVED_PER_DAY;
        let flood = usize::try_from(flood).unwrap();
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
        assert_eq!(summary(&lock(&refusals.account).counted), Some(expected));
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
        let told = summary(&lock(&refusals.account).counted).unwrap();
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

    /// The entries and summaries of a day in which these lines are refused all the time, by ever other rules.
    fn entries_of_a_day(account: &mut Account, lines: &[&str]) -> (u32, u32) {
        let (mut entries, mut summaries) = (0, 0);
        for _ in 0..DAY_MINUTES {
            for line in lines {
                for rule in ["a", "b", "c", "d"].repeat(6) {
                    match account.logs_next(Some(line), rule) {
                        Some(_) => entries += 1,
                        None => account.counted.add(Some((*line).to_owned()), rule, 1),
                    }
                }
            }
            if account.minute_over() {
                account.counted = Counted::default();
                summaries += 1;
            }
        }
        (entries, summaries)
    }

    #[test]
    fn a_line_s_refusals_are_bounded_in_a_minute_and_in_a_day() {
        let mut account = Account::default();
        let rules = ["a", "b", "c", "d"];
        let logged = rules.map(|rule| {
            let logged = std::iter::from_fn(|| account.logs_next(Some("x"), rule));
            logged.fold((0, 0), |(common, reserve), budget| match budget {
                Budget::Common => (common + 1, reserve),
                Budget::Reserve => (common, reserve + 1),
            })
        });
        let expected = [(5, 3), (5, 3), (0, 3), (0, 3)];
        assert_eq!(logged, expected, "over all rules, and some of each");
        assert_eq!(
            account.logs_next(Some("y"), "a"),
            Some(Budget::Common),
            "another line has its own"
        );
        let mut account = Account::default();
        for day in 0..3 {
            let (entries, summaries) = entries_of_a_day(&mut account, &["x"]);
            let reserve = 4 * REFUSALS_RESERVED_PER_DAY;
            assert_eq!(entries, REFUSALS_LINE_PER_DAY + reserve, "day {day}");
            assert!(summaries <= REFUSALS_SUMMARIES_PER_DAY + 24, "{summaries}");
            assert!(summaries > REFUSALS_SUMMARIES_PER_DAY, "it goes on hourly");
        }
        let names: Vec<_> = (0..26).map(|n| format!("line-{n}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let (entries, _) = entries_of_a_day(&mut account, &names);
        assert_eq!(
            entries,
            REFUSALS_PER_DAY + 26 * 4 * REFUSALS_RESERVED_PER_DAY
        );
    }

    #[test]
    fn a_rule_that_was_not_broken_before_shows_when_all_is_used_up() {
        let mut account = Account::default();
        account.day.all = REFUSALS_PER_DAY;
        let next = |account: &mut Account| account.logs_next(Some("x"), "key-used");
        for _ in 0..REFUSALS_RESERVED_PER_DAY {
            assert_eq!(next(&mut account), Some(Budget::Reserve));
        }
        assert_eq!(next(&mut account), None);
        assert_eq!(account.logs_next(None, "key-used"), None, "no stranger's");
        account.only_counts(Some("x".to_owned()), "key-used", Budget::Reserve);
        assert_eq!(
            next(&mut account),
            Some(Budget::Reserve),
            "it was given back"
        );
    }

    #[test]
    fn what_does_not_get_into_the_log_uses_up_nothing() {
        let (refusals, mut from) = refusals(1);
        for _ in 0..=2 * REFUSALS_LINE_PER_DAY {
            refusals.note(refusal(Some("a"), "csr-refused"));
        }
        assert_eq!(logged(&mut from).len(), 1, "the queue has room for one");
        let mut account = lock(&refusals.account);
        assert_eq!((account.day.all, account.minute.by_line["a"]), (1, 1));
        let counted = account.counted.0.values().sum::<u64>();
        assert_eq!(counted, u64::from(2 * REFUSALS_LINE_PER_DAY));
        assert_eq!(
            account.logs_next(Some("a"), "csr-refused"),
            Some(Budget::Common)
        );
    }

    #[test]
    fn a_detail_has_no_null_and_no_long_text() {
        let (refusals, mut from) = refusals(1);
        refusals.note(Refusal {
            order: Some("é".repeat(1000)),
            ..refusal(Some("a"), "no-such-order")
        });
        let Note::Refused(noted, _) = from.try_recv().unwrap() else {
            panic!("nobody finishes");
        };
        let expected = json!({"rule": "no-such-order", "line": "a", "order": "é".repeat(64)});
        assert_eq!(json!(noted), expected);
    }
}
