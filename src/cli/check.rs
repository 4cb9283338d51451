//! `hallmark check-config`: what a valid configuration names that is not there.
//!
//! Owns warnings alone: each is something that stops a start later, or should not be so, though the file is
//! right. Promises to read no PIN and no key, and to change nothing. Failure story: none; what this user may
//! not look at is a warning too.

use std::io::{self, Write as _};
use std::path::Path;

use crate::config::{Config, LogKeyPlace};
use crate::secret::{self, SecretRefused};

/// Writes the warnings to standard error.
pub(super) fn warn(config: &Config) {
    for warning in warnings(config) {
        let _written = writeln!(io::stderr(), "warning: {warning}");
    }
}

/// What is not there or too open, one sentence each.
fn warnings(config: &Config) -> Vec<String> {
    let mut all = Vec::new();
    for token in &config.tokens {
        let of = |key: &str| format!("[[token]] {}: {key}", token.name);
        let install = "install the library or correct the path";
        all.extend(absent(&of("module"), &token.module, install));
        let write = "write the PIN into it, mode 0400, as the token host's user";
        all.extend(absent(&of("pin_file"), &token.pin_file, write));
        all.extend(too_open(&of("pin_file"), &token.pin_file));
    }
    if let LogKeyPlace::File(path) = &config.log.key {
        let make = "the ceremony makes it; after the ceremony, restore it from its backup";
        all.extend(absent("log.key_file", path, make));
        all.extend(too_open("log.key_file", path));
    }
    all
}

/// The warning about a secret that others have access to.
fn too_open(key: &str, path: &Path) -> Option<String> {
    match secret::look(path) {
        Err(refused @ SecretRefused::Open { .. }) => {
            Some(format!("{key} {} {refused}", path.display()))
        }
        // What cannot be looked at is told by `absent`, what it holds is read at the start.
        Ok(()) | Err(SecretRefused::Unreadable(_) | SecretRefused::TooLong { .. }) => None,
    }
}

/// The warning about a file that is not there or cannot be looked at.
fn absent(key: &str, path: &Path, advice: &str) -> Option<String> {
    let path_shown = path.display();
    match std::fs::metadata(path) {
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Some(format!("{key} {path_shown} is not there: {advice}"))
        }
        Err(error) => Some(format!("{key} {path_shown} cannot be looked at: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_missing_or_too_open_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let pin = dir.path().join("pin");
        let annotated = include_str!("../../hsm-config/softhsm2.toml")
            .replace("/etc/hallmark/pins/soft", &pin.display().to_string())
            .replace("/usr/lib/softhsm/libsofthsm2.so", "/nonexistent/module.so");
        let config = Config::from_text(&dir.path().join("hallmark.toml"), &annotated).unwrap();
        let told = warnings(&config).join("\n");
        for part in [
            "module /nonexistent/module.so is not there",
            "pin_file",
            "log.key_file",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        std::fs::write(&pin, "1234").unwrap();
        // The host takes a credential of systemd, which shows as 0440.
        for (mode, wide) in [(0o400, false), (0o440, false), (0o644, true)] {
            std::fs::set_permissions(&pin, std::fs::Permissions::from_mode(mode)).unwrap();
            let told = warnings(&config).join("\n");
            assert_eq!(told.contains("chmod 0400"), wide, "{told}");
            assert!(!told.contains("1234"), "{told}");
        }
    }
}
