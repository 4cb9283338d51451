//! The command line as people type it.

use super::*;

#[test]
fn the_configuration_may_be_named_after_the_command() {
    for words in [
        ["hallmark", "--config", "F", "check-config"],
        ["hallmark", "check-config", "--config", "F"],
    ] {
        let (_, config) = Arguments::read(words).unwrap();
        assert_eq!(config, PathBuf::from("F"));
    }
}

/// Parses a command line after `hallmark --config F`.
fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
    Arguments::try_parse_from(["hallmark", "--config", "F"].iter().chain(line))
}

#[test]
fn the_arguments_are_consistent() {
    Arguments::command().debug_assert();
}

#[test]
fn every_command_has_an_example_that_parses() {
    /// A command and all below it.
    fn all(command: &clap::Command) -> Vec<clap::Command> {
        let below = command.get_subcommands().flat_map(all);
        std::iter::once(command.clone()).chain(below).collect()
    }
    for command in all(&Arguments::command()) {
        let help = command
            .get_after_help()
            .map(ToString::to_string)
            .unwrap_or_default();
        let examples = help.strip_prefix("Example: hallmark ").unwrap_or_default();
        assert!(
            !examples.is_empty(),
            "{} has no example",
            command.get_name()
        );
        for example in examples.split("\nExample: hallmark ") {
            let example = example.split(" > ").next().unwrap().replace("\\\n", " ");
            let words = example
                .split_whitespace()
                .map(|word| word.trim_matches('\''));
            let parsed = Arguments::try_parse_from(std::iter::once("hallmark").chain(words));
            assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
        }
    }
}

#[test]
fn what_quickstarts_type_parses() {
    let rows: [&[&str]; 12] = [
        &["run"],
        &["status", "--json"],
        &["--json", "status"],
        &["line", "add", "line-1", "--csr", "x.csr"],
        &[
            "order",
            "open",
            "demo",
            "--profile",
            "mqtt-device",
            "--issuer",
            "device-1",
            "--line",
            "line-1",
            "--line",
            "line-2",
            "--quantity",
            "100000",
            "--device-id",
            "[A-Za-z0-9-]+",
        ],
        &[
            "cert",
            "revoke",
            "4B1F00C5D2A94E7F8A6D03B1C7E95F20",
            "--reason",
            "superseded",
        ],
        &["order", "approve", "demo"],
        &["order", "approve", "demo", "--units", "1", "--json"],
        &[
            "cert",
            "revoke",
            "--order",
            "demo",
            "--reason",
            "ca-compromise",
            "--yes",
        ],
        &[
            "cert",
            "revoke",
            "--issuer-certificate",
            "device-1",
            "--yes",
        ],
        &["ceremony", "run", "ceremony.toml"],
        &["ceremony", "accept", "device-1", "answer.pem"],
    ];
    for row in rows {
        assert!(parse(row).is_ok(), "{row:?}");
    }
}

#[test]
fn what_cannot_be_is_a_usage_error() {
    let rows: [&[&str]; 15] = [
        &[],
        // The certificate has to go somewhere.
        &["responder", "approve", "a", "--key", "k", "--tls-csr", "x"],
        &["line", "add", "Line 1", "--csr", "x"],
        &["cert", "show", "4B1F"],
        &["cert", "list", "--limit", "0"],
        &[
            "cert",
            "revoke",
            "4b1f00c5d2a94e7f8a6d03b1c7e95f20",
            "--reason",
            "bored",
        ],
        &["cert", "revoke"],
        &[
            "cert",
            "revoke",
            "--order",
            "demo",
            "--reason",
            "remove-from-crl",
        ],
        &[
            "cert",
            "revoke",
            "--issuer-certificate",
            "device-1",
            "--order",
            "demo",
        ],
        &["cert", "revoke", "--order", "demo", "--yes", "--dry-run"],
        &["order", "open", "demo"],
        &["order", "approve"],
        &["order", "approve", "demo", "--units", "0"],
        &["order", "approve", "demo", "--units", "-1"],
        &["status", "extra"],
    ];
    for row in rows {
        let refused = parse(row).unwrap_err();
        assert_eq!(refused.exit_code(), 2, "{row:?}");
    }
    let missing = Arguments::read(["hallmark", "status"]).unwrap_err();
    assert_eq!(missing.exit_code(), 2);
    assert!(missing.to_string().contains("--config FILE"), "{missing}");
}
