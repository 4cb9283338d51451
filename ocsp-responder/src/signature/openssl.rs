//! The `openssl` command as an independent implementation, for tests only.
//!
//! Owns a directory for each test. A machine without `openssl` fails the test: nothing is skipped.

use std::path::PathBuf;
use std::process::Command;

/// One test's directory, in which `openssl` runs.
pub struct OpenSsl {
    /// Removed when the test ends.
    directory: tempfile::TempDir,
}

/// What a finished `openssl` said.
pub struct Said {
    /// Whether it ended with exit code 0.
    pub success: bool,
    /// Standard output, octet for octet.
    pub stdout: Vec<u8>,
    /// Both outputs as text, for messages that the exit code does not tell.
    pub text: String,
}

impl OpenSsl {
    /// A new empty directory.
    pub fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Where a file of this test stands.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, contents: &[u8]) {
        std::fs::write(self.path(name), contents).unwrap();
    }

    /// Reads a file.
    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a command line, split at blanks, whatever its outcome.
    pub fn ask(&self, line: &str) -> Said {
        let output = Command::new("openssl")
            .args(line.split_whitespace())
            .current_dir(self.directory.path())
            .output()
            .expect("the tests need the openssl command: install it");
        let text = [&output.stdout[..], &output.stderr[..]].concat();
        Said {
            success: output.status.success(),
            text: String::from_utf8_lossy(&text).into_owned(),
            stdout: output.stdout,
        }
    }

    /// Runs a command line that must succeed and gives its standard output.
    pub fn run(&self, line: &str) -> Vec<u8> {
        let said = self.ask(line);
        assert!(said.success, "openssl {line}: {}", said.text);
        said.stdout
    }

    /// Makes the private key `NAME.pem` and gives its SubjectPublicKeyInfo.
    pub fn key(&self, name: &str, options: &str) -> Vec<u8> {
        self.run(&format!("genpkey {options} -out {name}.pem"));
        self.run(&format!("pkey -in {name}.pem -pubout -outform DER"))
    }
}
