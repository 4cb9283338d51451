//! What can be found out before anything is made.
//!
//! Owns the obstacles: files that are in the way, certificates that would break a rule, labels that are
//! taken. Promises to list all of them. Never makes a file or a key that stays. It cannot fail: a check that
//! cannot be made is an obstacle.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use certstatus::UnixMillis;
use certstatus::log::IssuerName;
use certstatus::signature::{SignatureAlgorithm, assemble};
use serde::Serialize;

use super::authority::facts;
use super::plan::{Ca, Parent, Plan};
use super::server::{self, OwnKey};
use super::{HostProgram, StepFailed};
use crate::config::{Config, LogKeyPlace};
use crate::hsm::{Hsm, KeyAlgorithm, LogKey, Taken};
use crate::issuance::random_serial;
use crate::profile::{CaSigner, IssuerFacts, build_ca};
use crate::signing_log::IssuerRecord;

/// What a ceremony would make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rehearsal {
    /// Its title.
    pub title: String,
    /// What would be made, in order, a line each.
    pub steps: Vec<String>,
}

impl fmt::Display for Rehearsal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: nothing is in the way. It would make:", self.title)?;
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:>3}. {step}", index + 1)?;
        }
        Ok(())
    }
}

/// What a ceremony would make, in order.
pub(super) fn outline(config: &Config, plan: &Plan) -> Rehearsal {
    let mut steps = Vec::new();
    steps.push(format!("the database in {}", config.state_dir.display()));
    match &config.log.key {
        LogKeyPlace::File(path) if path.exists() => {
            steps.push(format!("no log key: the one in {} is used", path.display()));
        }
        LogKeyPlace::File(path) => steps.push(format!("the log key in {}", path.display())),
        LogKeyPlace::Token(uri) => steps.push(format!("the log key {uri}")),
    }
    steps.push(format!("the signing log {}", config.log.origin));
    for ca in &plan.cas {
        steps.push(format!("the key of {}: {}", ca.name, ca.key));
        steps.push(match &ca.parent {
            Parent::Itself => format!("the certificate of {}, signed by itself", ca.name),
            Parent::Root(root) => format!("the certificate of {}, signed by {root}", ca.name),
            Parent::Offline(root) => {
                format!("a request of {} to the offline root {}", ca.name, root.name)
            }
        });
        if !matches!(ca.parent, Parent::Offline(_)) {
            steps.push(format!("the first CRL of {}", ca.name));
        }
    }
    steps.push(format!(
        "the server's key and certificate for {}, signed by {}",
        config.server.names.join(", "),
        config.server.issuer
    ));
    steps.push("the transcript".to_owned());
    Rehearsal {
        title: plan.title.clone(),
        steps,
    }
}

/// All that is in the way of a ceremony and can be seen without a token.
pub(super) fn obstacles(
    config: &Config,
    plan: &Plan,
    hosts: &HostProgram,
    now: UnixMillis,
) -> Vec<String> {
    let mut problems = Vec::new();
    for directory in [&config.state_dir, &config.published, &config.details] {
        occupied(config, hosts, directory, &mut problems);
    }
    if !hosts.program.is_file() {
        problems.push(format!(
            "{}: the token host's program is not there",
            hosts.program.display()
        ));
    }
    if let LogKeyPlace::File(path) = &config.log.key
        && path.exists()
        && let Err(error) = LogKey::from_file(path)
    {
        problems.push(format!(
            "the log key that was supplied: {}",
            certstatus::chain(&error)
        ));
    }
    if let Err(failed) = certificates(config, plan, now, &mut problems) {
        problems.push(certstatus::chain(&failed));
    }
    problems
}

/// Refuses a directory that holds anything but what the configuration places there.
fn occupied(config: &Config, hosts: &HostProgram, directory: &Path, problems: &mut Vec<String>) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return,
        Err(error) => {
            problems.push(format!("{}: {error}", directory.display()));
            return;
        }
    };
    let file = std::path::absolute(&hosts.config).unwrap_or_else(|_| hosts.config.clone());
    let mut expected = vec![
        &file,
        &config.published,
        &config.details,
        &config.profiles,
        &config.listen.admin_socket,
    ];
    if let LogKeyPlace::File(path) = &config.log.key {
        expected.push(path);
    }
    for token in &config.tokens {
        expected.extend([&token.pin_file, &token.socket, &token.module]);
    }
    let mut strays: Vec<String> = entries
        .flatten()
        .filter(|entry| {
            let path = entry.path();
            let placed = expected.iter().any(|expected| expected.starts_with(&path));
            !placed && entry.file_name() != "lost+found"
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    if !strays.is_empty() {
        strays.sort();
        problems.push(format!(
            "{}: must be empty, since a ceremony overwrites nothing; it holds {}",
            directory.display(),
            strays.join(", ")
        ));
    }
}

/// Builds and lints every certificate with throw-away keys.
fn certificates(
    config: &Config,
    plan: &Plan,
    now: UnixMillis,
    problems: &mut Vec<String>,
) -> Result<(), StepFailed> {
    let mut trial = HashMap::new();
    for ca in &plan.cas {
        match trial_certificate(config, ca, &trial, now) {
            Ok(facts) => {
                trial.insert(ca.name.clone(), facts);
            }
            Err(failed) => problems.push(format!("{}: {}", ca.name, certstatus::chain(&failed))),
        }
    }
    let profile = match server::profile(config) {
        Ok(profile) => profile,
        Err(error) => {
            problems.push(certstatus::chain(&error));
            return Ok(());
        }
    };
    if let Some(facts) = trial.get(&config.server.issuer) {
        let key = OwnKey::make()?;
        let serial = random_serial().map_err(|_| StepFailed::Randomness)?;
        let operator = plan.operators.first().map_or("", String::as_str);
        let grant = server::grant(config, operator);
        let built = profile.build(&server::request(&key.public), &grant, facts, serial, now);
        if let Err(refused) = built {
            problems.push(format!("the server's certificate: {refused}"));
        }
    }
    Ok(())
}

/// A CA's certificate with a throw-away key.
fn trial_certificate(
    config: &Config,
    ca: &Ca,
    trial: &HashMap<IssuerName, IssuerFacts>,
    now: UnixMillis,
) -> Result<IssuerFacts, StepFailed> {
    let algorithm = SignatureAlgorithm::EcdsaSha256;
    let key = OwnKey::make()?;
    let by = match &ca.parent {
        Parent::Root(root) => match trial.get(root) {
            Some(facts) => CaSigner::Parent(facts),
            None => return Err(StepFailed::NoParent(root.clone())),
        },
        // What an offline root will say is its own; the rest of the certificate is judged here.
        Parent::Itself | Parent::Offline(_) => CaSigner::Itself {
            name: &ca.name,
            algorithm,
        },
    };
    let serial = random_serial().map_err(|_| StepFailed::Randomness)?;
    let tbs = build_ca(&ca.spec, &key.public, by, serial, now)?;
    let signature = key
        .pair
        .sign(&SystemRandom::new(), &tbs.der)
        .map_err(|_| StepFailed::Randomness)?;
    let certificate = assemble(&tbs.der, algorithm, signature.as_ref());
    let record = IssuerRecord {
        name: ca.name.clone(),
        certificate,
        algorithm,
        role: ca.role,
        parent: ca.name.clone(),
        partitions: ca.partitions,
    };
    facts(config, &record)
}

/// Labels on the tokens that are taken.
pub(super) async fn labels_taken(config: &Config, plan: &Plan, hsm: &Hsm) -> Vec<String> {
    let log_key = match &config.log.key {
        LogKeyPlace::Token(uri) => Some((uri, KeyAlgorithm::Ed25519)),
        LogKeyPlace::File(_) => None,
    };
    let cas = plan.cas.iter().map(|ca| (&ca.key, ca.algorithm));
    let mut problems = Vec::new();
    for (uri, algorithm) in cas.chain(log_key) {
        match hsm.label_taken(uri, algorithm.signature()).await {
            Ok(Taken::No) => {}
            Ok(Taken::Yes) => problems.push(format!(
                "{uri}: the label is taken; choose another, or remove the key with the token's own tool"
            )),
            Err(error) => problems.push(format!("{uri}: {error}")),
        }
    }
    problems
}

#[cfg(test)]
mod tests;
