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

use fuzzed::{TARGETS, Target};

/// Mutations of each target's corpus, all its inputs together.
const MUTATIONS: usize = 2_000;

/// How many times as many with `HALLMARK_TEST_LONG` set.
const LONG: usize = 50;

/// Inputs in a corpus: more belong into a fuzzer's own directory.
const CORPUS_FILES_MAX: usize = 30;

/// All corpora together in bytes.
const CORPORA_BYTES_MAX: usize = 200 * 1024;

/// Mutated inputs in bytes: above every limit on requests, so that limits are met too.
const INPUT_BYTES_MAX: usize = 20 * 1024;

/// Random numbers, the same in each run: xorshift64* (Vigna, 2014).
struct Xorshift(u64);

impl Xorshift {
    /// Numbers that depend on the target and on nothing else.
    fn of(name: &str) -> Self {
        let start = name.bytes().fold(0x9e37_79b9_7f4a_7c15, |sum: u64, octet| {
            (sum ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(start | 1)
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 where `end` is 0.
    fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap().max(1);
        usize::try_from((self.next() >> 11) % end).unwrap()
    }

    /// An octet that parsers trip over, or any.
    fn octet(&mut self) -> u8 {
        let odd = b"\0\xff\x7f\x80\x81\x84\x30\x01\n\r \"\\%-+0";
        match self.below(2) {
            0 => odd[self.below(odd.len())],
            _ => self.next().to_le_bytes()[7],
        }
    }

    /// A stretch of so many octets: where it starts and ends, mostly short.
    fn stretch(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        start..(start + self.below(most + 1)).min(len)
    }
}

/// Changes an input in one of the ways in which inputs go wrong; `other` is another input of the corpus.
fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Xorshift) {
    let at = random.below(input.len());
    match random.below(8) {
        // One bit, one octet.
        0 | 1 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        2 if !input.is_empty() => input[at] = random.octet(),
        // Cut off at either end.
        3 => input.truncate(at),
        4 => drop(input.drain(..at.min(8))),
        // Octets put in, taken out, said again.
        5 => {
            let octets: Vec<u8> = (0..=random.below(8)).map(|_| random.octet()).collect();
            input.splice(at..at, octets);
        }
        6 => drop(input.drain(random.stretch(input.len()))),
        7 if random.below(2) == 0 => {
            let again = input[random.stretch(input.len())].to_vec();
            input.splice(at..at, again);
        }
        // A stretch of another input in the place of one of this.
        _ => {
            let from = random.stretch(other.len());
            let to = random.stretch(input.len());
            input.splice(to, other[from].iter().copied());
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}

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
    assert_eq!(names(corpora()), targets);
    assert_eq!(names(root().join("tests/fuzz/targets")), targets);
    let manifest = std::fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
    let manifest: toml::Table = manifest.parse().unwrap();
    for target in TARGETS {
        let path = format!("targets/{}.rs", target.name);
        let named = |bin: &&toml::Value| bin["name"].as_str() == Some(target.name);
        let bin = manifest["bin"].as_array().unwrap().iter().find(named);
        let bin =
            bin.unwrap_or_else(|| panic!("tests/fuzz/Cargo.toml: no [[bin]] {}", target.name));
        assert_eq!(bin["path"].as_str(), Some(path.as_str()));
        // The binary calls the function that this file replays.
        let text = std::fs::read_to_string(root().join("tests/fuzz").join(&path)).unwrap();
        let call = format!("::{}(bytes));", target.name);
        assert!(text.contains(&call), "{path} does not call {}", target.name);
    }
    assert_eq!(manifest["bin"].as_array().unwrap().len(), TARGETS.len());
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
