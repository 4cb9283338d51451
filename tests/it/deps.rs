//! Dependencies: what the keyless package may never link, a reason for each direct one, and what `deny.toml` says
//! of all of them, so that it holds where cargo-deny is not installed.

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

/// `deny.toml`.
fn policy() -> toml::Table {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    text.parse().unwrap()
}

/// Name and licence of each package that any package of the workspace is built or tested with here.
///
/// By `cargo tree`, since `cargo metadata` also tells of packages that no feature in use wants.
fn built_with() -> BTreeSet<(String, String)> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--workspace", "--offline", "--locked"])
        .args(["--edges", "normal,build,dev", "--target", &platform()])
        .args(["--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "cargo tree: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let listed = String::from_utf8(output.stdout).unwrap();
    let rows = listed.lines().filter_map(|line| {
        let (package, licence) = line.split_once('|')?;
        let (name, _version) = package.split_once(' ')?;
        Some((name.to_owned(), licence.to_owned()))
    });
    rows.collect()
}

#[test]
fn no_package_is_built_with_one_that_deny_toml_bans() {
    let policy = policy();
    let banned = policy["bans"]["deny"].as_array().unwrap();
    let banned: BTreeSet<&str> = banned
        .iter()
        .map(|ban| ban["crate"].as_str().unwrap())
        .collect();
    assert!(banned.contains("ocsp") && banned.contains("ring"));
    let names: BTreeSet<String> = built_with().into_iter().map(|(name, _)| name).collect();
    assert!(names.contains("rustls"), "the tree is not all: {names:?}");
    let found: Vec<_> = names
        .iter()
        .filter(|name| banned.contains(name.as_str()))
        .collect();
    assert!(found.is_empty(), "deny.toml bans {found:?}");
}

#[test]
fn every_package_has_a_licence_that_deny_toml_allows() {
    let policy = policy();
    let allowed = policy["licenses"]["allow"].as_array().unwrap();
    let allowed: BTreeSet<&str> = allowed.iter().map(|name| name.as_str().unwrap()).collect();
    let unfit: Vec<_> = built_with()
        .into_iter()
        .filter(|(_, licence)| !Licence::of(licence).allowed(&allowed))
        .collect();
    assert!(unfit.is_empty(), "deny.toml does not allow {unfit:?}");
}

#[test]
fn every_package_comes_from_the_registry() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    let lock: toml::Table = lock.parse().unwrap();
    assert_eq!(policy()["sources"]["unknown-git"].as_str(), Some("deny"));
    let registry = "registry+https://github.com/rust-lang/crates.io-index";
    for package in lock["package"].as_array().unwrap() {
        // Those of the workspace have none.
        let source = package.get("source").and_then(toml::Value::as_str);
        assert!(source.is_none_or(|source| source == registry), "{package}");
    }
}

/// A licence expression (SPDX 2.3, annex D), read from its start: a word at a time.
struct Licence(Vec<String>);

impl Licence {
    /// Reads one; the old `/` means OR.
    fn of(text: &str) -> Self {
        let spaced = text
            .replace('/', " OR ")
            .replace('(', " ( ")
            .replace(')', " ) ");
        let mut words: Vec<String> = spaced.split_whitespace().map(str::to_owned).collect();
        words.reverse();
        Self(words)
    }

    /// Whether it can be met with these licences alone.
    fn allowed(mut self, allowed: &BTreeSet<&str>) -> bool {
        let met = self.any(allowed);
        assert!(self.0.is_empty(), "left over: {:?}", self.0);
        met
    }

    /// Takes a word, if it is the next one.
    fn takes(&mut self, word: &str) -> bool {
        let next = self.0.last().is_some_and(|next| next == word);
        if next {
            self.0.pop();
        }
        next
    }

    /// One of several, which bind weaker than all of several.
    fn any(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut met = self.all(allowed);
        while self.takes("OR") {
            met |= self.all(allowed);
        }
        met
    }

    /// All of several.
    fn all(&mut self, allowed: &BTreeSet<&str>) -> bool {
        let mut met = self.one(allowed);
        while self.takes("AND") {
            met &= self.one(allowed);
        }
        met
    }

    /// A licence with or without an exception, or an expression in parentheses; no licence at all is none.
    fn one(&mut self, allowed: &BTreeSet<&str>) -> bool {
        if self.takes("(") {
            let met = self.any(allowed);
            assert!(self.takes(")"), "no end: {:?}", self.0);
            return met;
        }
        let Some(mut name) = self.0.pop() else {
            return false;
        };
        if self.takes("WITH") {
            name = format!("{name} WITH {}", self.0.pop().unwrap_or_default());
        }
        allowed.contains(name.as_str())
    }
}

#[test]
fn a_licence_that_is_not_allowed_is_found() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (text, met) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("GPL-3.0 AND ISC OR MIT", true),
        ("GPL-3.0 AND (ISC OR MIT)", false),
        ("ISC AND (GPL-3.0 OR MIT)", true),
        ("Apache-2.0 WITH LLVM-exception AND MIT", true),
        ("Apache-2.0 AND MIT", false),
    ] {
        assert_eq!(Licence::of(text).allowed(&allowed), met, "{text}");
    }
}
