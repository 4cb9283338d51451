//! Which answers are found, and which are not any more, whatever happens at once.

use std::time::Duration;

use super::super::clock::Clock;
use super::super::config::{LogConfig, SourceConfig};
use super::super::http::date::header_value;
use super::*;
use crate::log::checkpoint::VerifierKey;
use crate::view::tests::made;
use crate::view::{Source, View};

const TIME: u64 = 1_800_000_000_000;

/// A followed log with a certificate in it.
struct Site {
    _directory: tempfile::TempDir,
    log: Arc<FollowedLog>,
    now: Moment,
}

impl Site {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let public = directory.path().join("public");
        let mut made = made::MadeLog::new(&public, "log.example/cache", [4; 32], TIME).unwrap();
        made.publish().unwrap();
        let key: VerifierKey = made.key().clone();
        let state_dir = directory.path().join("state");
        let mut view = View::open(&state_dir, key.clone()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime
            .block_on(view.follow(&Source::directory(public.clone())))
            .unwrap();
        let config = LogConfig {
            name: "a".into(),
            source: SourceConfig::Directory(public),
            key,
            state_dir,
            responder: "ocsp-1".parse().unwrap(),
            max_age: Duration::from_secs(300),
            poll: Duration::from_secs(1),
        };
        let now = Clock::fixed(UnixMillis(TIME)).now();
        let log = FollowedLog::new(0, &config, view.reader(), now);
        Self {
            _directory: directory,
            log: Arc::new(log),
            now,
        }
    }

    fn answer(&self, octets: usize) -> Arc<SignedAnswer> {
        let dates = [
            header_value(UnixMillis(TIME)),
            header_value(UnixMillis(TIME)),
        ];
        let life = [UnixMillis(TIME), UnixMillis(TIME + 600_000)];
        let log = Arc::clone(&self.log);
        Arc::new(SignedAnswer::new(vec![0; octets], dates, life, log, 60_000))
    }
}

fn issuer() -> IssuerName {
    "device-1".parse().unwrap()
}

fn serial(n: u64) -> SerialNumber {
    made::serial(1, n)
}

#[test]
fn an_answer_from_before_a_change_is_not_kept() {
    let (site, cache) = (Site::new(), Cache::new(1 << 20));
    let generation = site.log.generation();
    let answer = site.answer(100);
    // The log says otherwise while the answer is being signed.
    site.log.changed();
    cache.forget(0, &issuer(), serial(1));
    cache.keep(&issuer(), serial(1), b"id", &answer, generation);
    cache.keep_path("path", &answer);
    assert!(
        cache
            .by_cert_id(0, &issuer(), serial(1), b"id", site.now)
            .is_none()
    );
    assert!(cache.by_path("path", site.now).is_none());
    assert_eq!(cache.size().0, 0);
}

#[test]
fn what_is_forgotten_is_forgotten_by_path_too() {
    let (site, cache) = (Site::new(), Cache::new(1 << 20));
    for (n, id) in [(1, b"one"), (1, b"two"), (2, b"one")] {
        let answer = site.answer(100);
        cache.keep(&issuer(), serial(n), id, &answer, site.log.generation());
        cache.keep_path(&format!("{n}{id:?}"), &answer);
    }
    let by_path = |n: u64, id: &[u8; 3]| cache.by_path(&format!("{n}{id:?}"), site.now).is_some();
    assert!(by_path(1, b"one") && by_path(1, b"two") && by_path(2, b"one"));
    cache.forget(0, &issuer(), serial(1));
    assert!(!by_path(1, b"one") && !by_path(1, b"two") && by_path(2, b"one"));
    cache.forget_log(1);
    assert!(by_path(2, b"one"), "another log");
    cache.forget_log(0);
    assert!(!by_path(2, b"one"));
}

#[test]
fn an_answer_ends_with_its_time() {
    let (site, cache) = (Site::new(), Cache::new(1 << 20));
    let answer = site.answer(100);
    cache.keep(&issuer(), serial(1), b"id", &answer, site.log.generation());
    let found = |date: u64, steady| {
        let now = Moment {
            date: UnixMillis(TIME + date),
            steady,
        };
        cache
            .by_cert_id(0, &issuer(), serial(1), b"id", now)
            .is_some()
    };
    assert!(found(0, 0) && found(59_999, 59_999));
    assert!(!found(0, 60_000), "too little of its life is left");
    assert!(!found(300_000, 1), "the view is too old");
    assert!(!found(600_000, 1), "its nextUpdate is past");
}

#[test]
fn what_a_full_cache_puts_out_is_gone_by_path_too() {
    let (site, cache) = (Site::new(), Cache::new(SHARDS * 16 * 1024));
    let mut kept = Vec::new();
    for n in 0..2000 {
        let answer = site.answer(1000);
        cache.keep(&issuer(), serial(n), b"id", &answer, site.log.generation());
        cache.keep_path(&n.to_string(), &answer);
        kept.push(answer);
    }
    let (subjects, _, octets) = cache.size();
    assert!(
        subjects < 700 && octets <= SHARDS * 16 * 1024,
        "{subjects} {octets}"
    );
    let gone = kept
        .iter()
        .filter(|answer| answer.gone.load(Ordering::Acquire))
        .count();
    assert_eq!(gone, 2000 - subjects);
    for (n, answer) in kept.iter().enumerate() {
        let found = cache.by_path(&n.to_string(), site.now).is_some();
        assert!(!found || !answer.gone.load(Ordering::Acquire), "{n}");
    }
}
