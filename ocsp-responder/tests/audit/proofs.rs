//! `hallmark-audit inclusion`, `consistency` and `check-proof`: proofs that hold, and all those that do not.

use std::path::Path;
use std::process::{Command, Output};

use certstatus::audit::{
    self, Cause, Consistency, HeadFile, Inclusion, Named, NotVerified, Order, Proof, Shown,
};
use certstatus::hex;
use certstatus::log::checkpoint::VerifierKey;
use certstatus::log::merkle::leaf_hash;
use serde_json::Value;

use crate::forge::{Forge, ORIGIN, Published, chain, serial, write};

/// Runs `hallmark-audit` in a directory.
pub fn run(base: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hallmark-audit"))
        .current_dir(base)
        .args(arguments)
        .output()
        .unwrap()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What was printed, on both streams.
pub fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

const LOG: [&str; 4] = ["--published", "public", "--log-key", "log.vkey"];

/// An honest log in a directory, with older heads and a fork beside it.
struct Site {
    base: tempfile::TempDir,
    forge: Forge,
    published: Published,
}

impl Site {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        let (forge, _) = Forge::standard();
        let published = forge.published();
        published.write(base.path());
        for size in [0, 1, 100, 256, 300, 594] {
            let note = forge.sign_head(&published.leaves[..size]);
            write(base.path(), &format!("head-{size}"), note.as_bytes());
        }
        let mut forked = published.leaves.clone();
        forked[200] = b"another history".to_vec();
        for size in [300, 594] {
            let note = forge.sign_head(&forked[..size]);
            write(base.path(), &format!("fork-{size}"), note.as_bytes());
        }
        write(base.path(), "kept.crl", &published.crls["device-1"]);
        Self {
            base,
            forge,
            published,
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.base.path(), arguments)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.base.path().join(name)).unwrap()
    }

    /// A proof file of `inclusion` or `consistency`, made by the command.
    fn proof(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(&[arguments, &LOG, &["--output", "proof"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        self.read("proof")
    }

    fn check(&self) -> Output {
        self.run(&["check-proof", "proof", "--log-key", "log.vkey"])
    }

    /// What Python's hashlib says of the proof file that was written last.
    fn hashlib(&self) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/audit/proof.py");
        let told = Command::new("python3")
            .arg(script)
            .arg(self.base.path().join("proof"))
            .output()
            .unwrap();
        text(&told)
    }
}

fn of(n: u8) -> String {
    serial(n).to_string()
}

fn inclusion(published: &Published, n: u8) -> Result<Option<Inclusion>, NotVerified> {
    let base = tempfile::tempdir().unwrap();
    published.write(base.path());
    let public = base.path().join("public");
    audit::prove_inclusion(&public, &published.log_key, serial(n), None, |_| {})
}

fn consistency(published: &Published, old: &str, new: &str) -> Result<audit::Judged, NotVerified> {
    let base = tempfile::tempdir().unwrap();
    published.write(base.path());
    let head = |name: &str, note: &str| Named {
        name: name.to_owned(),
        contents: HeadFile::Note(note.to_owned()),
    };
    let public = base.path().join("public");
    let (old, new) = (head("old", old), head("new", new));
    audit::prove_consistency(&public, &published.log_key, &old, &new)
}

fn fault<T: std::fmt::Debug>(refused: Result<T, NotVerified>) -> audit::Fault {
    match refused {
        Err(NotVerified::Fault(fault)) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_entry_about_a_serial_is_proved_and_the_file_holds_alone() {
    let site = Site::new();
    let proof = site.proof(&["inclusion", &of(11)]);
    std::fs::remove_dir_all(site.base.path().join("public")).unwrap();
    let output = site.check();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let said = text(&output);
    for line in [
        "PROVED",
        "outcome: issued",
        "reason key-compromise",
        &of(11),
    ] {
        assert!(said.contains(line), "{said}");
    }
    let Proof::Inclusion(parsed) = Proof::parse(&proof).unwrap() else {
        panic!("an inclusion proof")
    };
    let (_, marks) = Forge::standard();
    let indexes: Vec<u64> = parsed.entries.iter().map(|it| it.index.0).collect();
    let intent = marks.intent_a.0;
    assert_eq!(indexes, [intent, intent + 1, marks.revoked.0]);
    assert_eq!(site.hashlib(), "holds\n");
}

#[test]
fn proofs_hold_for_hashlib_too_and_altered_ones_do_not() {
    let site = Site::new();
    for n in [1, 11, 12, 13, 15, 16] {
        site.proof(&["inclusion", &of(n)]);
        assert_eq!(site.hashlib(), "holds\n", "{n}");
    }
    for (old, new) in [
        ("head-1", "head-594"),
        ("head-100", "head-300"),
        ("head-256", "head-594"),
        ("kept.crl", "head-594"),
    ] {
        let proof = site.proof(&["consistency", old, new]);
        assert_eq!(site.hashlib(), "holds\n", "{old} {new}");
        let Proof::Consistency(mut parsed) = Proof::parse(&proof).unwrap() else {
            panic!("a consistency proof")
        };
        parsed.path[0][31] ^= 1;
        write(
            site.base.path(),
            "proof",
            &Proof::Consistency(parsed).encode(),
        );
        assert!(site.hashlib().contains("AssertionError"), "{old} {new}");
        assert_eq!(site.check().status.code(), Some(1), "{old} {new}");
    }
}

#[test]
fn an_inclusion_can_be_proved_for_another_checkpoint() {
    let site = Site::new();
    let proof = site.proof(&["inclusion", &of(12), "--checkpoint", "head-100"]);
    let Ok(Shown::Inclusion { head, entries, .. }) =
        Proof::parse(&proof).unwrap().check(&site.forge.log_key)
    else {
        panic!("it holds")
    };
    assert_eq!((head.size, entries.len()), (100, 2));
    assert_eq!(site.hashlib(), "holds\n");
    site.proof(&["inclusion", &of(1), "--checkpoint", "kept.crl"]);
    // What is not in the older tree yet cannot be proved for it.
    let later = ["inclusion", &of(15), "--checkpoint", "head-300"];
    let output = site.run(&[&later[..], &LOG].concat());
    assert_eq!(output.status.code(), Some(4), "{}", text(&output));
    let output = site.run(&[&["inclusion", &of(99), "--json"][..], &LOG].concat());
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(json(&output)["proved"], false);
    // A checkpoint of another history, and one of more than is published.
    for (name, said) in [("fork-300", "forked or rewritten"), ("longer", "truncated")] {
        let mut longer = site.published.leaves.clone();
        longer.push(b"one more".to_vec());
        let note = site.forge.sign_head(&longer);
        write(site.base.path(), "longer", note.as_bytes());
        let arguments = ["inclusion", &of(12), "--checkpoint", name];
        let output = site.run(&[&arguments[..], &LOG].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
}

#[test]
fn proofs_are_made_without_hash_tiles_too() {
    let site = Site::new();
    let with = site.proof(&["inclusion", &of(11)]);
    let both = site.proof(&["consistency", "head-100", "head-594"]);
    std::fs::remove_dir_all(site.base.path().join("public/log/tile/0")).unwrap();
    std::fs::remove_dir_all(site.base.path().join("public/log/tile/1")).unwrap();
    assert_eq!(site.proof(&["inclusion", &of(11)]), with);
    assert_eq!(site.proof(&["consistency", "head-100", "head-594"]), both);
}

#[test]
fn an_altered_leaf_has_no_proof() {
    let (forge, marks) = Forge::standard();
    let mut published = forge.published();
    let at = marks.revoked.0 as usize;
    let leaf = String::from_utf8(published.leaves[at].clone()).unwrap();
    published.leaves[at] = leaf.replace("\"reason\":1", "\"reason\":4").into_bytes();
    let found = fault(inclusion(&published, 11));
    assert_eq!(found.index, Some(marks.revoked));
    assert!(matches!(found.cause, Cause::Altered { .. }), "{found}");
    // With tiles made anew from it, or none, the head still convicts it.
    published.hashes = Some(
        published
            .leaves
            .iter()
            .map(|leaf| leaf_hash(leaf))
            .collect(),
    );
    let found = fault(inclusion(&published, 11));
    assert!(matches!(found.cause, Cause::Root { .. }), "{found}");
    published.hashes = None;
    let found = fault(inclusion(&published, 11));
    assert!(matches!(found.cause, Cause::Root { .. }), "{found}");
}

#[test]
fn a_wrong_hash_tile_is_found_and_named() {
    let (forge, marks) = Forge::standard();
    let honest = forge.published();
    let mut published = honest.clone();
    let sibling = marks.intent_a.0 as usize ^ 1;
    published.hashes.as_mut().unwrap()[sibling][5] ^= 1;
    let found = fault(inclusion(&published, 11));
    assert!(
        matches!(&found.cause, Cause::Tile { path } if path == "tile/0/000"),
        "{found}"
    );
    assert_eq!(found.index.unwrap().0, sibling as u64);
    let (old, new) = (forge.sign_head(&honest.leaves[..100]), forge.head());
    let mut published = honest.clone();
    published.hashes.as_mut().unwrap()[99][5] ^= 1;
    let found = fault(consistency(&published, &old, &new));
    assert!(
        matches!(&found.cause, Cause::Tile { path } if path == "tile/0/000"),
        "{found}"
    );
    // One that is cut off is no tile.
    let base = tempfile::tempdir().unwrap();
    honest.write(base.path());
    write(base.path(), "public/log/tile/0/000", &[7; 100]);
    let public = base.path().join("public");
    let made = audit::prove_inclusion(&public, &honest.log_key, serial(11), None, |_| {});
    let found = fault(made);
    assert!(
        matches!(&found.cause, Cause::Tile { path } if path == "tile/0/000"),
        "{found}"
    );
}

#[test]
fn a_missing_bundle_is_a_fault_and_a_missing_log_is_not() {
    let site = Site::new();
    std::fs::remove_file(site.base.path().join("public/log/tile/entries/001")).unwrap();
    let output = site.run(&[&["inclusion", &of(11)][..], &LOG].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("tile/entries/001 is missing"),
        "{}",
        text(&output)
    );
    let away = [
        "inclusion",
        &of(11),
        "--published",
        "away",
        "--log-key",
        "log.vkey",
    ];
    assert_eq!(site.run(&away).status.code(), Some(2));
}

#[test]
fn a_key_that_is_not_the_logs_proves_nothing() {
    let site = Site::new();
    site.proof(&["inclusion", &of(11)]);
    let other = VerifierKey::new(ORIGIN, [9; 32]).unwrap();
    write(site.base.path(), "log.vkey", other.to_string().as_bytes());
    let serial = of(11);
    let inclusion = [&["inclusion", &serial][..], &LOG].concat();
    let consistency = [&["consistency", "head-1", "head-594"][..], &LOG].concat();
    let check = vec!["check-proof", "proof", "--log-key", "log.vkey"];
    for arguments in [inclusion, consistency, check] {
        let output = site.run(&arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = text(&output);
        assert!(said.contains("that the log key signed"), "{said}");
    }
}

#[test]
fn the_older_of_two_heads_is_named_in_whatever_order_they_come() {
    let site = Site::new();
    let mut proofs = Vec::new();
    for (first, second, order, said) in [
        (
            "head-100",
            "head-594",
            "first-is-older",
            "head-100 is older, head-594 extends it\n",
        ),
        (
            "head-594",
            "head-100",
            "second-is-older",
            "named the other way round",
        ),
        ("head-300", "head-300", "same", "both state the same tree"),
        ("head-0", "head-594", "first-is-older", "0 entries"),
        (
            "kept.crl",
            "head-594",
            "first-is-older",
            "kept.crl is older",
        ),
    ] {
        let arguments = [&["consistency", first, second][..], &LOG].concat();
        let output = site.run(&arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output));
        assert!(text(&output).contains(said), "{}", text(&output));
        let told = json(&site.run(&[&arguments[..], &["--json"]].concat()));
        assert_eq!(
            (&told["proved"], &told["order"]),
            (&Value::Bool(true), &Value::from(order))
        );
        proofs.push(site.proof(&["consistency", first, second]));
        assert_eq!(site.check().status.code(), Some(0));
    }
    assert_eq!(proofs[0], proofs[1]);
}

#[test]
fn a_proof_with_its_heads_swapped_does_not_hold() {
    let site = Site::new();
    let proof = site.proof(&["consistency", "head-100", "head-594"]);
    let Ok(Proof::Consistency(Consistency { older, newer, path })) = Proof::parse(&proof) else {
        panic!("a consistency proof")
    };
    let swapped = Proof::Consistency(Consistency {
        older: newer,
        newer: older,
        path,
    });
    assert!(swapped.check(&site.forge.log_key).is_err());
}

#[test]
fn a_fork_is_found_wherever_it_is() {
    let site = Site::new();
    for (old, new, who) in [
        ("head-300", "fork-594", "fork-594 states"),
        ("fork-300", "head-594", "fork-300 states"),
        ("fork-594", "head-594", "head-594 states"),
        ("kept.crl", "fork-594", "fork-594 states"),
        // Two heads of the other history, of which the published log is none.
        ("fork-300", "fork-594", ""),
    ] {
        let output = site.run(&[&["consistency", old, new][..], &LOG].concat());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{old} {new}: {said}");
        assert!(
            said.contains("forked or rewritten") && said.contains(who),
            "{said}"
        );
        let told = json(&site.run(&[&["consistency", old, new, "--json"][..], &LOG].concat()));
        assert_eq!(told["proved"], false);
        assert!(!site.base.path().join("proof").exists());
    }
    // Where the fork has its own tiles, the honest head is the other one.
    let mut forked = site.published.clone();
    forked.leaves.truncate(200);
    forked.leaves.push(b"another history".to_vec());
    forked.hashes = Some(forked.leaves.iter().map(|leaf| leaf_hash(leaf)).collect());
    forked.head = site.forge.sign_head(&forked.leaves);
    let old = site.forge.sign_head(&site.published.leaves[..201]);
    let found = fault(consistency(&forked, &old, &forked.head));
    assert!(matches!(found.cause, Cause::Fork { .. }), "{found}");
    let old = site.forge.sign_head(&site.published.leaves[..200]);
    let judged = consistency(&forked, &old, &forked.head).unwrap();
    assert_eq!(judged.order, Order::FirstIsOlder);
}

#[test]
fn a_head_beyond_the_published_one_shows_a_truncation() {
    let site = Site::new();
    write(
        site.base.path(),
        "public/log/checkpoint",
        &site.read("head-300"),
    );
    let output = site.run(&[&["consistency", "head-100", "head-594"][..], &LOG].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output).contains("the log is truncated"),
        "{}",
        text(&output)
    );
}

/// Every JSON value that differs from this one in one place.
fn alterations(value: &Value) -> Vec<Value> {
    match value {
        Value::String(text) => {
            let chars: Vec<char> = text.chars().collect();
            let other = |at: usize| {
                let mut chars = chars.clone();
                chars[at] = if chars[at] == 'a' { 'b' } else { 'a' };
                Value::String(chars.into_iter().collect())
            };
            let ends = [format!("{text}a"), String::new(), format!("{text}\n")];
            let altered = (0..chars.len()).map(other);
            altered.chain(ends.map(Value::String)).collect()
        }
        Value::Number(number) => {
            let number = number.as_u64().unwrap();
            vec![
                Value::from(number + 1),
                Value::from(number ^ 1),
                Value::from(number.wrapping_sub(1)),
            ]
        }
        Value::Array(items) => {
            let mut altered = Vec::new();
            for at in 0..items.len() {
                for item in alterations(&items[at]) {
                    let mut items = items.clone();
                    items[at] = item;
                    altered.push(Value::Array(items));
                }
                let mut twice = items.clone();
                twice.insert(at, items[at].clone());
                altered.push(Value::Array(twice));
            }
            altered
        }
        Value::Object(members) => {
            let mut altered = Vec::new();
            for (name, member) in members {
                for member in alterations(member) {
                    let mut members = members.clone();
                    members.insert(name.clone(), member);
                    altered.push(Value::Object(members));
                }
                let mut without = members.clone();
                without.remove(name);
                altered.push(Value::Object(without));
            }
            let mut more = members.clone();
            more.insert("more".into(), Value::from(1));
            altered.push(Value::Object(more));
            altered
        }
        Value::Null | Value::Bool(_) => panic!("a proof has none"),
    }
}

#[test]
fn no_field_of_a_proof_can_be_altered() {
    let site = Site::new();
    let key = &site.forge.log_key;
    let believed = |bytes: &[u8]| Proof::parse(bytes).is_ok_and(|proof| proof.check(key).is_ok());
    for arguments in [
        vec!["inclusion".to_owned(), of(11)],
        vec![
            "consistency".to_owned(),
            "head-100".into(),
            "head-594".into(),
        ],
    ] {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let proof = site.proof(&arguments);
        assert!(believed(&proof));
        let value: Value = serde_json::from_slice(&proof).unwrap();
        // Written again as it was, it is the same file.
        assert_eq!(format!("{value}\n").as_bytes(), proof);
        let altered = alterations(&value);
        assert!(altered.len() > 1000, "{}", altered.len());
        for altered in altered {
            assert!(!believed(altered.to_string().as_bytes()), "{altered}");
        }
        for end in 0..proof.len() - 1 {
            assert!(!believed(&proof[..end]), "cut off at {end}");
        }
        let text = String::from_utf8(proof.clone()).unwrap();
        for other in [
            text.replacen(':', ": ", 1),
            text.replacen("{", "{\"v\":1,", 1),
            format!("{text}\n"),
            serde_json::to_string_pretty(&value).unwrap(),
        ] {
            assert!(!believed(other.as_bytes()), "{other}");
        }
    }
}

#[test]
fn an_entry_cannot_be_proved_to_be_another_one() {
    let site = Site::new();
    let proof = site.proof(&["inclusion", &of(11)]);
    let other = site.proof(&["inclusion", &of(12)]);
    let (Ok(Proof::Inclusion(proof)), Ok(Proof::Inclusion(other))) =
        (Proof::parse(&proof), Proof::parse(&other))
    else {
        panic!("inclusion proofs")
    };
    let refused = |change: &dyn Fn(&mut Inclusion)| {
        let mut proof = proof.clone();
        change(&mut proof);
        let refused = Proof::Inclusion(proof)
            .check(&site.forge.log_key)
            .unwrap_err();
        chain(&refused)
    };
    assert!(refused(&|it| it.entries.clear()).contains("no entry"));
    assert!(refused(&|it| it.entries.swap(0, 1)).contains("is not after"));
    let stray = refused(&|it| it.entries.push(other.entries[0].clone()));
    assert!(
        stray.contains("is not after") || stray.contains("not about"),
        "{stray}"
    );
    let stray = refused(&|it| it.entries = other.entries.clone());
    assert!(stray.contains("not about the proof's serial"), "{stray}");
    let moved = refused(&|it| it.entries[2].index.0 += 1);
    assert!(moved.contains("does not lead to the root"), "{moved}");
    let older = String::from_utf8(site.read("head-300")).unwrap();
    let elsewhere = refused(&|it| it.checkpoint.clone_from(&older));
    assert!(
        elsewhere.contains("does not lead to the root"),
        "{elsewhere}"
    );
}

#[test]
fn what_is_no_proof_is_said_to_be_none() {
    let site = Site::new();
    for (contents, said) in [
        (&b"{}"[..], "not a proof's JSON"),
        (b"\xff\xfe", "not a proof's JSON"),
        (br#"{"kind":"consistency","v":2}"#, "version 2"),
        (br#"{"kind":"consistency","v":1}"#, "fields do not fit"),
    ] {
        write(site.base.path(), "proof", contents);
        let output = site.check();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output).contains(said), "{}", text(&output));
    }
    std::fs::remove_file(site.base.path().join("proof")).unwrap();
    assert_eq!(site.check().status.code(), Some(2));
    let nowhere = ["inclusion", &of(11), "--output", "no/where"];
    let output = site.run(&[&nowhere[..], &LOG].concat());
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
}

#[test]
fn programs_get_the_proof_itself() {
    let site = Site::new();
    let file = site.proof(&["inclusion", &of(12)]);
    let told = json(&site.run(&[&["inclusion", &of(12), "--json"][..], &LOG].concat()));
    assert_eq!(format!("{}\n", told["proof"]).as_bytes(), file);
    assert_eq!(told["proved"], true);
    assert_eq!(told["head"]["size"], 594);
    let root =
        certstatus::log::checkpoint::Checkpoint::verify(&site.published.head, &site.forge.log_key);
    assert_eq!(told["head"]["root"], hex::encode(&root.unwrap().root));
    assert_eq!(told["entries"][1]["act"], "issued");
    let output = site.run(&["check-proof", "proof", "--log-key", "log.vkey", "--json"]);
    assert_eq!(json(&output)["entries"], told["entries"]);
}

#[test]
fn the_document_names_every_field_of_a_proof_file() {
    const DOCUMENT: &str = include_str!("../../../docs/LOG-FORMAT.md");
    let site = Site::new();
    let mut fields = std::collections::BTreeSet::new();
    for proof in [
        site.proof(&["inclusion", &of(11)]),
        site.proof(&["consistency", "head-100", "head-594"]),
    ] {
        let value: Value = serde_json::from_slice(&proof).unwrap();
        fields.extend(value.as_object().unwrap().keys().cloned());
        if let Some(entries) = value.get("entries") {
            fields.extend(entries[0].as_object().unwrap().keys().cloned());
        }
    }
    assert_eq!(fields.len(), 10, "{fields:?}");
    for field in fields {
        assert!(DOCUMENT.contains(&format!("`{field}`")), "{field}");
    }
}

#[test]
fn help_of_each_command_shows_an_example() {
    for command in ["status", "inclusion", "consistency", "check-proof"] {
        let output = run(Path::new("."), &[command, "--help"]);
        let example = format!("  hallmark-audit {command} ");
        let said = text(&output);
        assert!(
            said.contains(&example) && said.contains("Exit code: 0"),
            "{said}"
        );
    }
}
