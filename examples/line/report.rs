//! What a run came to, for people and for programs.

use std::time::Duration;

use serde::Serialize;

use crate::station::Tally;

/// A run's figures.
#[derive(Serialize)]
pub struct Report {
    /// Connections that sent requests.
    pub connections: usize,
    /// Requests in one call.
    pub batch: usize,
    /// Certificates that came back for the right key.
    pub issued: usize,
    /// Refusals by HTTP status.
    pub refused: std::collections::BTreeMap<u16, usize>,
    /// The text of the first refusal.
    pub first_refusal: Option<String>,
    /// Calls that were sent again.
    pub resent: usize,
    /// Devices without an answer in the end.
    pub given_up: usize,
    /// The time from the first call to the last answer; making keys and requests is outside.
    pub seconds: f64,
    /// Certificates a second.
    pub per_second: f64,
    /// From a call's first sending to its answer.
    pub latency_ms: Latency,
    /// The time that making keys and requests took.
    pub preparation_seconds: f64,
    /// Processor time of this client while it sent, seconds.
    pub cpu_seconds: f64,
}

/// Latency of calls, milliseconds.
#[derive(Serialize)]
pub struct Latency {
    /// Half are faster.
    pub p50: f64,
    /// 90 % are faster.
    pub p90: f64,
    /// 99 % are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

/// How long the parts of a run took.
pub struct Durations {
    /// Making keys and requests.
    pub preparation: Duration,
    /// Sending and waiting.
    pub sending: Duration,
    /// Processor time while sending, seconds.
    pub cpu_seconds: f64,
}

impl Report {
    /// Sums up.
    pub fn new(connections: usize, batch: usize, mut tally: Tally, took: &Durations) -> Self {
        tally.latencies_us.sort_unstable();
        let seconds = took.sending.as_secs_f64();
        let issued = u32::try_from(tally.issued).map_or(f64::MAX, f64::from);
        Self {
            connections,
            batch,
            issued: tally.issued,
            refused: tally.refused,
            first_refusal: tally.first_refusal,
            resent: tally.resent,
            given_up: tally.given_up,
            seconds,
            per_second: if seconds > 0.0 { issued / seconds } else { 0.0 },
            latency_ms: Latency::of(&tally.latencies_us),
            preparation_seconds: took.preparation.as_secs_f64(),
            cpu_seconds: took.cpu_seconds,
        }
    }

    /// Whether every request got its certificate.
    pub fn complete(&self) -> bool {
        self.refused.is_empty() && self.given_up == 0
    }

    /// The report in a few lines.
    pub fn text(&self) -> String {
        let latency = &self.latency_ms;
        let mut text = format!(
            "{} certificates in {:.2} s: {:.0} a second over {} connections, {} a call\n\
             latency p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms\n\
             sent again: {}, given up: {}, keys and requests made before in {:.2} s\n",
            self.issued,
            self.seconds,
            self.per_second,
            self.connections,
            self.batch,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.max,
            self.resent,
            self.given_up,
            self.preparation_seconds,
        );
        for (status, count) in &self.refused {
            text += &format!("refused with {status}: {count}\n");
        }
        if let Some(first) = &self.first_refusal {
            text += &format!("the first: {first}\n");
        }
        text
    }
}

impl Latency {
    /// Percentiles of sorted microseconds; zeros when there are none.
    fn of(sorted_us: &[u32]) -> Self {
        let at = |percent: usize| {
            let last = sorted_us.len().saturating_sub(1);
            let position = last * percent / 100;
            sorted_us
                .get(position)
                .map_or(0.0, |us| f64::from(*us) / 1000.0)
        };
        Self {
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max: at(100),
        }
    }
}

/// The processor time that this process used so far, in seconds (`/proc/self/stat`, ticks of 10 ms).
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The program's name stands in parentheses and may hold spaces; times are fields 14 and 15 of all.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.filter_map(|field| field.parse::<u32>().ok()).sum();
    f64::from(ticks) / 100.0
}
