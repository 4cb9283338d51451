//! The configuration of `crl-sync`: every fault names its key.

use super::*;
use crate::signature::openssl::OpenSsl;

/// A directory with a CA's certificate and one of no CA.
fn directory() -> OpenSsl {
    let openssl = OpenSsl::new();
    openssl.key("ca", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let new = "req -x509 -new -key ca.pem -subj /CN=ca -days 30";
    openssl.run(&format!("{new} -out ca.crt"));
    openssl.run(&format!(
        "{new} -addext basicConstraints=CA:FALSE -out device.crt"
    ));
    openssl.run(&format!(
        "{new} -addext keyUsage=keyCertSign -out no-crl.crt"
    ));
    openssl
}

/// A configuration that is right.
const RIGHT: &str = r#"version = 1
state_dir = "state"
[mosquitto]
crl_file = "revoked.pem"
pid_file = "pid"
[[crl]]
name = "device-1"
issuer_file = "ca.crt"
sources = ["http://ocsp.example/crl/device-1.crl", "file.crl"]
"#;

fn load(openssl: &OpenSsl, text: &str) -> Result<SyncConfig, String> {
    openssl.write("sync.toml", text.as_bytes());
    SyncConfig::load(&openssl.path("sync.toml")).map_err(|error| crate::chain(&error))
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let openssl = directory();
    let config = load(&openssl, RIGHT).unwrap();
    assert_eq!(config.poll, Duration::from_secs(5));
    assert_eq!(
        (config.broker.deadline, config.ops),
        (Duration::from_secs(60), None)
    );
    assert_eq!(
        config.broker.access,
        Access {
            mode: 0o644,
            group: None
        }
    );
    assert!(matches!(
        config.broker.kind,
        Kind::Mosquitto { restart: None, .. }
    ));
    let text = RIGHT.replace(
        "pid_file",
        "end_sessions = true\ngroup = \"root\"\npid_file",
    );
    let config = load(&openssl, &text).unwrap();
    assert_eq!(config.broker.access.group, Some(0));
    let Kind::Mosquitto {
        restart: Some(words),
        ..
    } = config.broker.kind
    else {
        panic!("it is Mosquitto, restarted")
    };
    assert_eq!(words, ["systemctl", "restart", "mosquitto"]);
}

#[test]
fn every_fault_names_its_key() {
    let openssl = directory();
    for (from, to, expected) in [
        ("state_dir = \"state\"", "", "state_dir"),
        (
            "[mosquitto]",
            "[mosquitto]\ncrl_fle = \"x\"",
            "mosquitto.crl_fle: ",
        ),
        (
            "[mosquitto]",
            "poll = \"1ms\"\n[mosquitto]",
            "poll: must be 100ms to 1h",
        ),
        (
            "[mosquitto]",
            "[listen]\nops = \"0.0.0.0:1\"\n[mosquitto]",
            "listen.ops: must be a loopback",
        ),
        (
            "[mosquitto]",
            "[hook]\ncommand = [\"x\"]\n[mosquitto]",
            "exactly one of",
        ),
        (
            "pid_file = \"pid\"",
            "",
            "mosquitto.pid_file: or reload_command",
        ),
        (
            "pid_file = \"pid\"",
            "reload_command = []",
            "mosquitto.reload_command: must be a program",
        ),
        (
            "pid_file = \"pid\"",
            "pid_file = \"p\"\nreload_command = [\"x\"]",
            "and not both",
        ),
        (
            "pid_file",
            "restart_command = [\"x\"]\npid_file",
            "mosquitto.restart_command: is used with",
        ),
        (
            "pid_file",
            "mode = \"0777\"\npid_file",
            "mosquitto.mode: must be a mode",
        ),
        (
            "pid_file",
            "mode = \"044\"\npid_file",
            "mosquitto.mode: must be a mode",
        ),
        (
            "pid_file",
            "group = \"no-such-group\"\npid_file",
            "mosquitto.group: no-such-group is neither",
        ),
        (
            "pid_file",
            "command_deadline = \"2h\"\npid_file",
            "mosquitto.command_deadline: must be",
        ),
        ("\"device-1\"", "\"../x\"", "crl[0].name: a name has"),
        ("\"ca.crt\"", "\"none.crt\"", "cannot read"),
        (
            "\"ca.crt\"",
            "\"ca.pem\"",
            "crl[0].issuer_file: must be one CA certificate",
        ),
        (
            "\"ca.crt\"",
            "\"device.crt\"",
            "crl[0].issuer_file: is not a CA certificate",
        ),
        (
            "\"ca.crt\"",
            "\"no-crl.crt\"",
            "crl[0].issuer_file: may not sign CRLs",
        ),
        (
            "http://",
            "https://",
            "crl[0].sources: must be files or URLs",
        ),
        (
            "http://",
            "http://user@",
            "crl[0].sources: must be files or URLs",
        ),
        (
            "sources = [",
            "log_key = \"x\"\nsources = [",
            "crl[0].log_key: ",
        ),
        (
            "sources = [\"http://ocsp.example/crl/device-1.crl\", \"file.crl\"]",
            "sources = []",
            "crl[0].sources: must name",
        ),
    ] {
        let text = RIGHT.replacen(from, to, 1);
        assert_ne!(text, RIGHT, "{from}");
        let told = load(&openssl, &text).unwrap_err();
        assert!(told.contains(expected), "{expected:?} is not in {told:?}");
    }
    let twice = format!("{RIGHT}{}", &RIGHT[RIGHT.find("[[crl]]").unwrap()..]);
    assert!(
        load(&openssl, &twice)
            .unwrap_err()
            .contains("crl[1].name: is that of another")
    );
}

#[test]
fn a_hook_has_a_file_or_a_directory() {
    let openssl = directory();
    let begin = RIGHT.find("[mosquitto]").unwrap();
    let (head, crl) = (&RIGHT[..begin], &RIGHT[RIGHT.find("[[crl]]").unwrap()..]);
    let with = |table: &str| {
        load(
            &openssl,
            &format!("{head}[hook]\ncommand = [\"x\"]\n{table}\n{crl}"),
        )
    };
    assert!(with("crl_file = \"f\"").is_ok());
    assert!(with("crl_dir = \"d\"\nencoding = \"der\"").is_ok());
    for (table, expected) in [
        ("", "hook.crl_file: or crl_dir must be given"),
        ("crl_file = \"f\"\ncrl_dir = \"d\"", "and not both"),
        (
            "crl_file = \"f\"\nencoding = \"der\"",
            "hook.encoding: must be \"pem\"",
        ),
        ("crl_dir = \"d\"\nencoding = \"txt\"", "hook.encoding: "),
    ] {
        let told = with(table).unwrap_err();
        assert!(told.contains(expected), "{expected:?} is not in {told:?}");
    }
}

#[test]
fn a_directory_that_a_run_makes_need_not_be_there() {
    let openssl = directory();
    let check = |file: &str| {
        let text = RIGHT.replace("\"revoked.pem\"", &format!("{file:?}"));
        crate::sync::check(&load(&openssl, &text).unwrap())
    };
    assert!(check("revoked.pem").is_ok());
    assert!(check("new/revoked.pem").is_ok());
    assert!(!openssl.path("new").exists(), "a check makes nothing");
    for wrong in ["none/new/revoked.pem", "ca.crt/revoked.pem"] {
        assert!(check(wrong).is_err(), "{wrong}");
    }
}
