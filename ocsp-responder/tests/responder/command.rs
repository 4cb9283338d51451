//! The command line: what it prints, its exit codes, its signals.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use super::site::{EC, Running, Site, get, hallmark_ocsp, until};

/// Runs a command: exit code, standard output, standard error.
fn run(config: &std::path::Path, words: &[&str]) -> (Option<i32>, String, String) {
    let output = hallmark_ocsp(config).args(words).output().unwrap();
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

#[test]
fn commands_say_what_they_do() {
    let site = Site::new("log.example/command", &[("device-1", EC)]);
    let config = site.config("", "", "");
    for command in ["run", "check-config", "key", "status"] {
        let (code, help, _) = run(&config, &[command, "--help"]);
        assert_eq!(code, Some(0));
        assert!(help.contains("Example:"), "{help}");
    }
    let (code, text, _) = run(&config, &["check-config"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "the configuration is valid; logs: a\n")
    );
    let (_, json, _) = run(&config, &["check-config", "--json"]);
    assert_eq!(json, "{\"logs\":[\"a\"],\"valid\":true}\n");
    let (code, pem, told) = run(&config, &["key"]);
    assert_eq!(code, Some(0));
    assert!(
        pem.starts_with("-----BEGIN PUBLIC KEY-----\n") && told.contains("SHA-256 of the key: "),
        "{told}"
    );
    assert_eq!(run(&config, &["key"]).1, pem, "made once");
    let (_, json, _) = run(&config, &["key", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["public_key"], pem);
    assert!(
        json["witness"]
            .as_str()
            .unwrap()
            .starts_with("ocsp.example/1+")
    );
    let (code, _, told) = run(&config, &["status"]);
    assert!(
        code == Some(1) && told.contains("(listen.ops): is it running?"),
        "{told}"
    );
    let text = std::fs::read_to_string(&config).unwrap();
    let over_https = text.replace(
        &format!("source = {:?}", site.public()),
        "source = \"https://appliance.example/public/\"\nca_file = \"none.pem\"\ncertificate_file = \"c\"\nkey_file = \"k\"",
    );
    std::fs::write(&config, over_https).unwrap();
    let (code, _, told) = run(&config, &["check-config"]);
    assert!(
        code == Some(1) && told.contains("the source of the log a cannot be used"),
        "{told}"
    );
    assert!(told.contains("none.pem cannot be read as PEM"), "{told}");
    std::fs::write(&config, "version = 2").unwrap();
    let (code, _, told) = run(&config, &["check-config"]);
    assert!(
        code == Some(1) && told.contains("ocsp.toml: version: 2 is not known"),
        "{told}"
    );
    let bare = std::process::Command::new(env!("CARGO_BIN_EXE_hallmark-ocsp"))
        .arg("run")
        .output()
        .unwrap();
    assert_eq!(bare.status.code(), Some(2));
}

#[test]
fn status_tells_how_it_is() {
    let site = Site::new("log.example/command", &[("device-1", EC)]);
    let config = site.config("", "", "");
    let running = Running::start(&config);
    let text = std::fs::read_to_string(&config).unwrap();
    let known = text.replace(
        "ops = \"127.0.0.1:0\"",
        &format!("ops = \"{}\"", running.ops),
    );
    let asking = site.path().join("asking.toml");
    std::fs::write(&asking, known).unwrap();
    let (code, text, _) = run(&asking, &["status"]);
    assert!(
        code == Some(1)
            && text.starts_with("NOT READY\n")
            && text.contains("no responder certificate yet"),
        "{text}"
    );
    site.approve(&config, "device-1");
    running.ready();
    let (code, text, _) = run(&asking, &["status"]);
    assert!(
        code == Some(0) && text.contains("device-1, responder certificate until 20"),
        "{text}"
    );
    let (code, json, _) = run(&asking, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (code, &json["ready"], &json["logs"][0]["fresh"]),
        (Some(0), &true.into(), &true.into())
    );
    let (code, _, told) = run(&config, &["run"]);
    assert!(
        code == Some(1) && told.contains("is in use by another process"),
        "{told}"
    );
}

#[test]
fn sigterm_finishes_the_request_in_work() {
    let site = Site::new("log.example/command", &[("device-1", EC)]);
    let mut running = Running::start(&site.config("", "", ""));
    assert_eq!(get(running.ops, "/healthz").body, b"ok\n");
    let mut idle = TcpStream::connect(running.address).unwrap();
    let mut client = TcpStream::connect(running.address).unwrap();
    client
        .write_all(b"POST /ocsp HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n30")
        .unwrap();
    until("both have a place", || {
        running.metric("hallmark_ocsp_connections_total") == Some(2.0)
    });
    running.signal(rustix::process::Signal::TERM);
    running.wait_for("stopping: requests in work are finished");
    client.write_all(b"00").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
    assert_eq!(idle.read(&mut [0; 8]).unwrap(), 0, "idle ones are closed");
    assert!(running.stop().success());
}
