//! Dependencies: what the keyless package may never link, and a reason for each direct one.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::source::root;

/// Names (and beginnings of names) that must not stand below the keyless package.
const NEVER_BELOW_THE_KEYLESS: &[&str] = &[
    "cryptoki",
    "tss-esapi",
    "sqlx",
    "libsqlite3-sys",
    "libloading",
    "hallmark",
];

/// The platform that the compiler builds for: other platforms' packages may not be downloaded.
fn platform() -> String {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let output = Command::new(compiler).arg("-vV").output().unwrap();
    let version = String::from_utf8(output.stdout).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

/// What cargo knows of the workspace, without asking a network.
fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", &platform()])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo metadata: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The text of a JSON string.
fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The names of all packages that `package` links or builds with, directly or not (tests' own excluded).
fn linked_by(metadata: &Value, package: &str) -> BTreeSet<String> {
    let packages = metadata["packages"].as_array().unwrap();
    let name_of =
        |id: &str| text(&packages.iter().find(|p| p["id"] == id).unwrap()["name"]).to_owned();
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let start = packages.iter().find(|p| p["name"] == package).unwrap();
    let mut pending = vec![text(&start["id"]).to_owned()];
    let mut seen = BTreeSet::new();
    while let Some(id) = pending.pop() {
        let node = nodes.iter().find(|n| n["id"] == id.as_str()).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            let id = text(&dependency["pkg"]);
            if kinds.iter().any(|k| k["kind"] != "dev") && seen.insert(id.to_owned()) {
                pending.push(id.to_owned());
            }
        }
    }
    seen.iter().map(|id| name_of(id)).collect()
}

#[test]
fn the_keyless_package_cannot_reach_a_key_or_a_database() {
    let metadata = metadata();
    let linked = linked_by(&metadata, "ocsp-responder");
    assert!(linked.contains("der"), "the walk found nothing: {linked:?}");
    let forbidden: Vec<_> = linked
        .iter()
        .filter(|name| NEVER_BELOW_THE_KEYLESS.iter().any(|n| name.starts_with(n)))
        .collect();
    assert!(forbidden.is_empty(), "ocsp-responder links {forbidden:?}");
    // The same walk finds them where they belong, so it would see them above too.
    let appliance = linked_by(&metadata, "hallmark");
    assert!(appliance.contains("cryptoki") && appliance.contains("sqlx"));
}

#[test]
fn every_direct_dependency_has_a_reason_above_it() {
    let mut without = Vec::new();
    for package in metadata()["packages"].as_array().unwrap() {
        let manifest = text(&package["manifest_path"]);
        if package["source"].is_null() {
            let contents = std::fs::read_to_string(manifest).unwrap();
            without.extend(
                unexplained(&contents)
                    .iter()
                    .map(|d| format!("{manifest}: {d}")),
            );
        }
    }
    assert!(
        without.is_empty(),
        "dependencies without a comment that says what for:\n{}",
        without.join("\n")
    );
}

/// The dependencies of a manifest that no comment explains; the workspace's table explains inherited ones.
fn unexplained(manifest: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut in_dependencies, mut explained) = (false, false);
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            in_dependencies = line.trim_matches(['[', ']']).ends_with("dependencies");
        } else if line.starts_with('#') {
            explained = line.trim_start_matches('#').trim().len() > 10;
            continue;
        } else if in_dependencies && let Some((name, value)) = line.split_once('=') {
            let inherited =
                name.trim().ends_with(".workspace") || value.contains("workspace = true");
            if !explained && !inherited {
                found.push(name.trim().to_owned());
            }
        }
        explained = false;
    }
    found
}

#[test]
fn a_dependency_without_a_reason_is_found() {
    let manifest = "[dependencies]\n# Reads and writes JSON.\na = \"1\"\nb = \"1\"\nc.workspace = true\n[features]\nd = []\n";
    assert_eq!(unexplained(manifest), ["b"]);
}
