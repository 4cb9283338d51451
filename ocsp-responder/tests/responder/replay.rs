//! Replays the corpus of the fuzz target `ocsp_http`, and so many mutations of it, on a responder that serves something.

use std::path::{Path, PathBuf};

use super::site::{EC, Running, Site};

#[path = "../../../tests/fuzz/src/responder.rs"]
#[expect(dead_code, reason = "the fuzz target's own responder")]
mod fuzzed;
#[path = "../../../tests/fuzz/src/mutations.rs"]
mod mutations;

use fuzzed::judge;
use mutations::{Xorshift, mutate};

/// Mutations of the corpus.
const MUTATIONS: usize = 1_000;

/// How many times as many with `HALLMARK_TEST_LONG` set.
const LONG: usize = 50;

/// The inputs, sorted by name.
fn corpus() -> Vec<(PathBuf, Vec<u8>)> {
    let directory =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/corpora/ocsp_http");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let read = |path: PathBuf| {
        let input = std::fs::read(&path).unwrap();
        (path, input)
    };
    files.into_iter().map(read).collect()
}

#[test]
fn whatever_comes_on_a_connection_is_answered_or_closed() {
    let mut site = Site::new("log.example/replay", &[("device-1", EC)]);
    site.issue("device-1", 1);
    site.publish();
    let crl = site.crl("device-1", 1, &[]);
    site.put("crl/device-1.crl", &crl);
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let running = Running::start(&config);
    running.ready();
    let corpus = corpus();
    for (path, input) in &corpus {
        eprintln!("{}", path.display());
        judge(running.address, input);
    }
    let long = std::env::var_os("HALLMARK_TEST_LONG").is_some();
    let rounds = if long { MUTATIONS * LONG } else { MUTATIONS };
    let mut random = Xorshift::of("ocsp_http");
    for round in 0..rounds {
        let (path, input) = &corpus[round % corpus.len()];
        let other = &corpus[random.below(corpus.len())].1;
        let mut input = input.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, other, &mut random);
        }
        let judged = std::panic::catch_unwind(|| judge(running.address, &input));
        if let Err(panic) = judged {
            let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault-ocsp_http");
            std::fs::write(&kept, &input).unwrap();
            eprintln!(
                "mutation {round} of {} is a fault; the input is kept as {}",
                path.display(),
                kept.display()
            );
            std::panic::resume_unwind(panic);
        }
    }
    assert_eq!(running.metric("hallmark_ocsp_panics_total"), Some(0.0));
}
