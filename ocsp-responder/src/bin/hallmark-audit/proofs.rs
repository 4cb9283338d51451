//! `hallmark-audit inclusion`, `consistency` and `check-proof`: proofs that hold without the log.
//!
//! Owns their options, their reports and the writing of proof files. Promises to print a proof only after it was
//! checked as a file would be. Never judges: [`certstatus::audit`] does. Failure story: a fault is printed as the
//! answer, with exit code 1, and no file is written.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use certstatus::audit::{self, About, Hex, Judged, Order, Proof, ProofRefused, Shown};
use certstatus::log::checkpoint::{Checkpoint, VerifierKey};
use certstatus::{SerialNumber, chain, hex};
use clap::Args;

use crate::status::line_of;
use crate::{
    Log, LogKey, Progressing, Unusable, answer, conclude, fault_found, lines_of, name_of, read,
    read_head, serial,
};

/// What JSON says of a proof that holds.
const HOLDS: &str = "proved";

/// The options of `inclusion`.
#[derive(Args)]
pub struct InclusionOf {
    /// The certificate's serial, 32 hex digits.
    #[arg(value_parser = serial)]
    serial: SerialNumber,
    #[command(flatten)]
    log: Log,
    /// Prove for this checkpoint, or for that in this CRL's log anchor, instead of the published one.
    #[arg(long, value_name = "FILE")]
    checkpoint: Option<PathBuf>,
    #[command(flatten)]
    form: Form,
}

/// The options of `consistency`.
#[derive(Args)]
pub struct ConsistencyOf {
    /// A checkpoint, or a CRL (DER or PEM) with one in its log anchor.
    old: PathBuf,
    /// Another one.
    new: PathBuf,
    #[command(flatten)]
    log: Log,
    #[command(flatten)]
    form: Form,
}

/// The options of `check-proof`.
#[derive(Args)]
pub struct CheckProof {
    /// The proof.
    file: PathBuf,
    #[command(flatten)]
    key: LogKey,
    /// Print what it shows, or the fault, as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Where a proof goes.
#[derive(Args)]
struct Form {
    /// Write the proof to this file, which `check-proof` checks without the log.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print the proof or the fault as one JSON object.
    #[arg(long)]
    json: bool,
}

impl Form {
    /// Checks a proof that was made, writes it to its file and prints what it shows, `more` before it.
    fn hand_over(
        &self,
        proof: &Proof,
        key: &VerifierKey,
        more: Vec<(String, String)>,
        also: &[(&str, serde_json::Value)],
    ) -> Result<ExitCode, Unusable> {
        let shown = match proof.check(key) {
            Ok(shown) => shown,
            Err(refused) => return refuse(&refused, self.json),
        };
        if let Some(path) = &self.output {
            std::fs::write(path, proof.encode()).map_err(|source| Unusable::Proof {
                path: path.clone(),
                source,
            })?;
        }
        if self.json {
            let mut told = json_of(&shown);
            for (name, value) in also {
                told[*name] = value.clone();
            }
            // Reading back what was just written cannot fail.
            let file = serde_json::from_slice(&proof.encode()).unwrap_or_default();
            told["proof"] = file;
            return answer(&told.to_string(), ExitCode::SUCCESS);
        }
        let mut text = lines_of("PROVED", more.into_iter().chain(shown_lines(&shown)));
        text.push_str(&hashes_of(proof));
        if let Some(path) = &self.output {
            text.push_str(&format!(
                "  The proof is in {}; it holds without the log.\n",
                name_of(path)
            ));
        }
        answer(&text, ExitCode::SUCCESS)
    }
}

impl InclusionOf {
    /// Makes the proofs and prints them.
    pub fn run(&self) -> Result<ExitCode, Unusable> {
        let key = self.log.key()?;
        let checkpoint = self.checkpoint.as_deref().map(read_head).transpose()?;
        let progressing = Progressing::start();
        let made = audit::prove_inclusion(
            &self.log.published,
            &key,
            self.serial,
            checkpoint.as_ref(),
            |now| progressing.show(now),
        );
        drop(progressing);
        conclude(made, self.form.json, HOLDS, |made| match made {
            Some(proof) => {
                let proof = Proof::Inclusion(proof);
                self.form.hand_over(&proof, &key, Vec::new(), &[])
            }
            None => self.nothing(),
        })
    }

    /// Says that there is nothing to prove.
    fn nothing(&self) -> Result<ExitCode, Unusable> {
        let text = if self.form.json {
            serde_json::json!({ HOLDS: false, "serial": self.serial, "entries": [] }).to_string()
        } else {
            format!(
                "NO ENTRY\n  The log has no entry about {} up to this checkpoint.",
                self.serial
            )
        };
        answer(&text, ExitCode::from(4))
    }
}

impl ConsistencyOf {
    /// Makes the proof and prints it.
    pub fn run(&self) -> Result<ExitCode, Unusable> {
        let key = self.log.key()?;
        let (old, new) = (read_head(&self.old)?, read_head(&self.new)?);
        let judged = audit::prove_consistency(&self.log.published, &key, &old, &new);
        conclude(judged, self.form.json, HOLDS, |judged| {
            let (order, said) = self.order_of(&judged);
            let lines = vec![("order".to_owned(), said)];
            let also = [("order", serde_json::json!(order))];
            let proof = Proof::Consistency(judged.proof);
            self.form.hand_over(&proof, &key, lines, &also)
        })
    }

    /// Which of the two files is the older one, for programs and for people.
    fn order_of(&self, judged: &Judged) -> (&'static str, String) {
        let is_older = |older: &Path, newer: &Path| {
            let (older, newer) = (name_of(older), name_of(newer));
            format!("{older} is older, {newer} extends it")
        };
        match judged.order {
            Order::FirstIsOlder => ("first-is-older", is_older(&self.old, &self.new)),
            Order::SecondIsOlder => {
                let said = is_older(&self.new, &self.old);
                (
                    "second-is-older",
                    format!("{said} (they were named the other way round)"),
                )
            }
            Order::Same => ("same", "both state the same tree".to_owned()),
        }
    }
}

impl CheckProof {
    /// Checks the file and prints what it shows.
    pub fn run(&self) -> Result<ExitCode, Unusable> {
        let key = self.key.read()?;
        let proof = match Proof::parse(&read(&self.file)?) {
            Ok(proof) => proof,
            Err(refused) => {
                let sentence = format!("{} is no proof: {}", name_of(&self.file), chain(&refused));
                return fault_found(&sentence, None, self.json, HOLDS);
            }
        };
        match proof.check(&key) {
            Ok(shown) if self.json => answer(&json_of(&shown).to_string(), ExitCode::SUCCESS),
            Ok(shown) => answer(&lines_of("PROVED", shown_lines(&shown)), ExitCode::SUCCESS),
            Err(refused) => refuse(&refused, self.json),
        }
    }
}

/// Prints that a proof does not hold.
fn refuse(refused: &ProofRefused, json: bool) -> Result<ExitCode, Unusable> {
    let sentence = format!("the proof does not hold: {}", chain(refused));
    fault_found(&sentence, None, json, HOLDS)
}

/// What a proof shows, for programs.
fn json_of(shown: &Shown) -> serde_json::Value {
    let head = |head: &Checkpoint| {
        let Checkpoint { origin, size, root } = head;
        serde_json::json!({ "origin": origin, "size": size, "root": Hex(*root) })
    };
    match shown {
        Shown::Inclusion {
            head: of,
            serial,
            entries,
        } => {
            let head = head(of);
            serde_json::json!({
                HOLDS: true, "kind": "inclusion", "head": head, "serial": serial, "entries": entries,
            })
        }
        Shown::Consistency { older, newer } => serde_json::json!({
            HOLDS: true, "kind": "consistency", "older": head(older), "newer": head(newer),
        }),
    }
}

/// What a proof shows, for people.
fn shown_lines(shown: &Shown) -> Vec<(String, String)> {
    let tree = |head: &Checkpoint| {
        let root = hex::encode(&head.root);
        format!("{} entries, root {root}", head.size)
    };
    match shown {
        Shown::Inclusion {
            head,
            serial,
            entries,
        } => {
            let mut lines = vec![
                ("log".to_owned(), head.origin.clone()),
                ("signed head".to_owned(), tree(head)),
                ("serial".to_owned(), serial.to_string()),
            ];
            let issuer = entries.first().map(|about| about.issuer.to_string());
            lines.extend(issuer.map(|issuer| ("issuer".to_owned(), issuer)));
            lines.extend(entries.iter().map(|about: &About| line_of(about)));
            let note = "that these entries are in the log; not that no later one is";
            lines.push(("shows".to_owned(), note.to_owned()));
            lines
        }
        Shown::Consistency { older, newer } => vec![
            ("log".to_owned(), newer.origin.clone()),
            ("older head".to_owned(), tree(older)),
            ("newer head".to_owned(), tree(newer)),
            (
                "shows".to_owned(),
                "that the newer log begins with all entries of the older one".to_owned(),
            ),
        ],
    }
}

/// The leaves, hashes and notes of a proof, as they stand in its file.
fn hashes_of(proof: &Proof) -> String {
    let mut text = String::new();
    let mut path = |heading: String, hashes: &[[u8; 32]]| {
        text.push_str(&heading);
        for hash in hashes {
            text.push_str(&format!("    {}\n", hex::encode(hash)));
        }
    };
    match proof {
        Proof::Inclusion(proof) => {
            for proven in &proof.entries {
                let (index, leaf) = (proven.index, &proven.leaf);
                let heading =
                    format!("  leaf of entry {index}, and its inclusion proof\n    {leaf}\n");
                path(heading, &proven.path);
            }
            text.push_str(&note_of("checkpoint", &proof.checkpoint));
        }
        Proof::Consistency(proof) => {
            path("  consistency proof\n".to_owned(), &proof.path);
            text.push_str(&note_of("older checkpoint", &proof.older));
            text.push_str(&note_of("newer checkpoint", &proof.newer));
        }
    }
    text
}

/// A signed note, set off from what is around it.
fn note_of(name: &str, note: &str) -> String {
    let lines: Vec<String> = note.lines().map(|line| format!("    {line}")).collect();
    format!("  {name}\n{}\n", lines.join("\n"))
}
