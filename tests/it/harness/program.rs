//! Other programs: those under test, built in the same way as the tests, and OpenSSL.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use crate::source::root;

/// Where cargo puts the programs, after making sure that all of them are there and of this source.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // cargo builds the binaries of this package for its tests, but not those of the others.
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        let mut build = Command::new(cargo);
        build
            .current_dir(root())
            .args(["build", "--quiet", "--offline", "--locked"]);
        build.args(["--workspace", "--bins", "--lib", "--examples"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        run(&mut build);
        let daemon = Path::new(env!("CARGO_BIN_EXE_hallmark"));
        daemon.parent().unwrap().to_owned()
    })
}

/// The path of a program or library of the workspace.
pub fn ours(name: &str) -> PathBuf {
    let path = built().join(name);
    assert!(path.exists(), "{} was not built", path.display());
    path
}

/// Runs a command to its end and asserts that it succeeds.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?} cannot be run: {error}: tests/run.sh installs what is missing")
    });
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// Runs OpenSSL in a directory and returns what it printed.
pub fn openssl(directory: &Path, arguments: &[&str]) -> String {
    let output = run(Command::new("openssl")
        .current_dir(directory)
        .args(arguments));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
