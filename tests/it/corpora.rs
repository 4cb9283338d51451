//! Replays every corpus of the fuzz targets, and so many mutations of each input.
//!
//! The same mutations in every run: a failure is found again by running the test again. `cargo fuzz`
//! (`tests/fuzz.sh`) looks for inputs that reach new code; whatever it finds is added to the corpora.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use crate::source::root;

#[path = "../fuzz/src/lib.rs"]
mod fuzzed;

use fuzzed::mutations::{Xorshift, mutate};
use fuzzed::{TARGETS, Target};

/// Targets of what this package does not link, replayed by the tests of the package that has it: `ocsp_http` needs a
/// running `hallmark-ocsp` (`ocsp-responder/tests/responder/replay.rs`).
const ELSEWHERE: &[&str] = &["ocsp_http"];

/// Mutations of each target's corpus, all its inputs together.
const MUTATIONS: usize = 2_000;

/// How many times as many with `HALLMARK_TEST_LONG` set.
const LONG: usize = 50;

/// Inputs in a corpus: more belong into a fuzzer's own directory.
const CORPUS_FILES_MAX: usize = 30;

/// All corpora together in bytes.
const CORPORA_BYTES_MAX: usize = 200 * 1024;

/// Where the corpora are.
fn corpora() -> PathBuf {
    root().join("tests/vectors/corpora")
}

/// The inputs of a target, sorted by name.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = corpora().join(target.name);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    files
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Feeds one input; one that makes the target panic is kept below cargo's target directory.
fn feed(target: &Target, input: &[u8], origin: &str) {
    let fed = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(panic) = fed {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fault-{}", target.name));
        std::fs::write(&kept, input).unwrap();
        eprintln!(
            "target {}: {origin} is a fault; the input is kept as {}; once understood, add it to {} \
             under a name that says what was wrong",
            target.name,
            kept.display(),
            corpora().join(target.name).display()
        );
        std::panic::resume_unwind(panic);
    }
}

/// Replays one corpus and its mutations.
fn replay(target: &Target, mutations: usize) {
    let corpus = corpus(target);
    feed(target, b"", "no octet at all");
    for (path, input) in &corpus {
        feed(target, input, &path.display().to_string());
    }
    let mut random = Xorshift::of(target.name);
    for round in 0..mutations {
        let (path, input) = &corpus[round % corpus.len()];
        let other = &corpus[random.below(corpus.len())].1;
        let mut input = input.clone();
        for _ in 0..=random.below(4) {
            mutate(&mut input, other, &mut random);
        }
        let origin = format!("mutation {round}, of {}", path.display());
        feed(target, &input, &origin);
    }
}

#[test]
fn no_corpus_and_no_mutation_of_one_is_a_fault() {
    let long = std::env::var_os("HALLMARK_TEST_LONG").is_some();
    let mutations = if long { MUTATIONS * LONG } else { MUTATIONS };
    let (even, odd): (Vec<_>, Vec<_>) = TARGETS.iter().enumerate().partition(|(at, _)| at % 2 == 0);
    std::thread::scope(|scope| {
        for half in [even, odd] {
            scope.spawn(move || {
                for (_, target) in half {
                    replay(target, mutations);
                }
            });
        }
    });
}

#[test]
fn each_target_has_a_binary_and_a_corpus_and_no_other_has() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.into()).collect();
    assert_eq!(targets.len(), TARGETS.len(), "a name stands twice");
    let names = |directory: PathBuf| -> BTreeSet<String> {
        std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| {
                let path = entry.unwrap().path();
                path.file_stem().unwrap().to_str().unwrap().to_owned()
            })
            .collect()
    };
    let all: BTreeSet<String> = targets
        .iter()
        .cloned()
        .chain(ELSEWHERE.iter().map(|name| (*name).to_owned()))
        .collect();
    assert_eq!(all.len(), TARGETS.len() + ELSEWHERE.len());
    assert_eq!(names(corpora()), all);
    assert_eq!(names(root().join("tests/fuzz/targets")), all);
    let manifest = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for name in &all {
        let path = format!("targets/{name}.rs");
        let named = |bin: &&toml::Value| bin["name"].as_str() == Some(name);
        let bin = manifest["bin"].as_array().unwrap().iter().find(named);
        let bin = bin.unwrap_or_else(|| panic!("tests/fuzz/Cargo.toml: no [[bin]] {name}"));
        assert_eq!(bin["path"].as_str(), Some(path.as_str()));
        // The binary calls the function that this file replays.
        let text = std::fs::read_to_string(root().join("tests/fuzz").join(&path)).unwrap();
        let call = format!("::{name}(bytes));");
        assert!(text.contains(&call), "{path} does not call {name}");
    }
    assert_eq!(manifest["bin"].as_array().unwrap().len(), all.len());
}

#[test]
fn corpora_are_small() {
    let mut total = 0;
    for target in TARGETS {
        let corpus = corpus(target);
        assert!(corpus.len() <= CORPUS_FILES_MAX, "{}", target.name);
        total += corpus.iter().map(|(_, input)| input.len()).sum::<usize>();
    }
    assert!(total <= CORPORA_BYTES_MAX, "{total} bytes");
}
