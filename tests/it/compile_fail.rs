//! Code that must not compile: what would sign twice, unlogged or unchecked.
//!
//! Each file of `tests/fail/` names the one error that it must cause. They are given to the compiler
//! together with the library as cargo built it for these tests: a second build of everything below it, which
//! other tools for this make, would take longer than all other checks.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::source::root;

/// Where cargo put the libraries that this test binary was linked with.
fn dependencies() -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .to_owned()
}

/// The newest build of a library among the dependencies: cargo made sure of it before it ran this test.
fn library(name: &str) -> PathBuf {
    let prefix = format!("lib{name}-");
    let mut built: Vec<_> = std::fs::read_dir(dependencies())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let file = path.file_name().unwrap().to_string_lossy();
            file.starts_with(&prefix) && file.ends_with(".rlib")
        })
        .collect();
    built.sort_by_key(|path| path.metadata().unwrap().modified().unwrap());
    built.pop().unwrap_or_else(|| panic!("{name} is not built"))
}

/// Compiles a file as a library against hallmark; the compiler's messages, empty when it compiles.
fn compile(file: &Path, output: &Path) -> String {
    let compiler = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let mut dependency_path = std::ffi::OsString::from("dependency=");
    dependency_path.push(dependencies());
    let mut command = Command::new(compiler);
    command
        .current_dir(root())
        .args([
            "--edition=2024",
            "--crate-type=lib",
            "--emit=metadata",
            "--cap-lints=allow",
        ])
        .arg("-L")
        .arg(dependency_path)
        .arg("--out-dir")
        .arg(output);
    for name in ["hallmark", "certstatus"] {
        command
            .arg("--extern")
            .arg(format!("{name}={}", library(name).display()));
    }
    let finished = command.arg(file).output().unwrap();
    let messages = String::from_utf8_lossy(&finished.stderr).into_owned();
    assert_eq!(finished.status.success(), messages.is_empty(), "{messages}");
    messages
}

/// The text after `//! expect: ` in a case.
fn expected(case: &str) -> &str {
    let line = case
        .lines()
        .find_map(|line| line.strip_prefix("//! expect: "));
    line.unwrap_or_else(|| panic!("the case does not say what it expects"))
}

#[test]
fn what_would_sign_twice_unlogged_or_unchecked_does_not_compile() {
    let output = tempfile::tempdir().unwrap();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(root().join("tests/fail"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() >= 5, "the cases are gone");
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let messages = compile(&case, output.path());
        let errors: Vec<&str> = messages
            .lines()
            .filter(|l| l.starts_with("error["))
            .collect();
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        assert!(
            !errors.is_empty(),
            "{name} compiles, but must not:\n{messages}"
        );
        let expected = expected(&text);
        let all_as_expected = errors.iter().all(|error| error.contains(expected));
        assert!(
            all_as_expected,
            "{name} fails for another reason than {expected}:\n{messages}"
        );
    }
}

#[test]
fn the_same_code_used_rightly_compiles() {
    let output = tempfile::tempdir().unwrap();
    let file = output.path().join("rightly.rs");
    let text = "
        use hallmark::{issuer::Signer, signing_log::{Certificate, Intent}};
        pub async fn once(signer: &Signer, intent: Intent) -> Certificate {
            signer.sign(intent).await.unwrap().check().unwrap()
        }
    ";
    std::fs::write(&file, text).unwrap();
    assert_eq!(compile(&file, output.path()), "");
}
