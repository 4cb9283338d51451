//! Operating: what the command line says when something is wrong, and what must not run twice.

use std::process::Output;

use serde_json::{Value, json};

use crate::harness::device::{Device, der, serial_of};
use crate::harness::program::run;
use crate::harness::{Appliance, OrderTerms, Site, invariants, with_appliance};

/// What a command that failed said, and its exit code.
fn failure(output: &Output) -> (Option<i32>, String) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "it succeeded");
    (output.status.code(), said)
}

#[tokio::test]
async fn an_operators_mistake_is_told_with_its_cause() {
    with_appliance(async |appliance| {
        let line = appliance.line_and_order(5);
        let open = |order: &str, more: &[&str]| {
            let words = [
                "order",
                "open",
                order,
                "--profile",
                "mqtt-device",
                "--issuer",
                "device-1",
            ];
            let rest = ["--line", "line-1", "--quantity", "5", "--device-id", "x+"];
            let words = [&words[..], &rest[..], more].concat();
            failure(&appliance.try_command(&words))
        };
        let (code, said) = open("demo", &[]);
        assert!(
            code == Some(1) && said.contains("demo exists already"),
            "{said}"
        );
        let (code, said) = open("other", &["--line", "line-9"]);
        assert!(code == Some(1) && said.contains("line-9"), "{said}");
        let (code, said) = open("Other", &[]);
        assert!(code == Some(2) && said.contains("a-z, 0-9"), "{said}");
        let (code, said) = open("other", &["--until", "tomorrow"]);
        assert!(code == Some(2) && said.contains("--until"), "{said}");
        let unknown = "40000000000000000000000000000000";
        let (code, said) = failure(&appliance.try_command(&["cert", "show", unknown]));
        assert!(code == Some(1) && said.contains(unknown), "{said}");
        let (code, said) = failure(&appliance.try_command(&["line", "disable", "line-9"]));
        assert!(code == Some(1) && said.contains("line-9"), "{said}");
        // Nothing of that changed anything.
        assert_eq!(
            appliance.json(&["order", "list"]).as_array().unwrap().len(),
            1
        );
        assert_eq!(
            appliance.json(&["line", "list"])[0]["line"],
            line.name.as_str()
        );
    })
    .await;
}

#[tokio::test]
async fn only_one_appliance_runs_on_a_state_directory() {
    with_appliance(async |appliance| {
        let (code, said) = failure(&appliance.try_command(&["serve"]));
        assert_eq!(code, Some(1));
        assert!(said.contains("in use by another process"), "{said}");
    })
    .await;
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_by_name() {
    let site = Site::new();
    site.reconfigure("[listen]\n", "[listen]\nbacklog = 7\n");
    let output = site.hallmark().arg("check-config").output().unwrap();
    let (code, said) = failure(&output);
    assert!(code == Some(1) && said.contains("backlog"), "{said}");
}

#[test]
fn a_ceremony_overwrites_nothing() {
    let site = Site::new();
    let before = site.ca("device-root");
    let output = site
        .hallmark()
        .args(["ceremony", "run", "ceremony.toml"])
        .output()
        .unwrap();
    let (code, said) = failure(&output);
    assert!(
        code == Some(1) && said.contains("a ceremony overwrites nothing"),
        "{said}"
    );
    assert_eq!(site.ca("device-root"), before);
}

#[tokio::test]
async fn answers_and_logs_are_json_for_programs() {
    let site = Site::new();
    let checked = run(site.hallmark().args(["check-config", "--json"])).stdout;
    let checked: Value = serde_json::from_slice(&checked).unwrap();
    assert_eq!(checked["config"], site.configuration().to_str().unwrap());
    let profiles = std::fs::read_dir(site.path().join("profiles")).unwrap();
    let mut profiles: Vec<String> = profiles
        .map(|file| {
            let path = file.unwrap().path();
            path.file_stem().unwrap().to_str().unwrap().to_owned()
        })
        .collect();
    profiles.sort();
    assert!(profiles.len() >= 5, "{profiles:?}");
    assert_eq!(checked["profiles"], json!(profiles));

    // Once with its token host, once without: each line of either log is an object.
    let mut appliance = Appliance::stopped(site);
    appliance.log_json();
    appliance.start_again();
    let device = Device::new(appliance.site.path(), "line-1");
    std::fs::write(appliance.site.path().join("line-1.csr"), device.request()).unwrap();
    let added = appliance.json(&["line", "add", "line-1", "--csr", "line-1.csr"]);
    assert_eq!(added["line"], "line-1");
    let certificate = der(added["chain"].as_str().unwrap().as_bytes());
    let serial = serial_of(appliance.site.path(), &certificate);
    assert_eq!(added["serial"], serial);
    appliance.stop();
    appliance.spawn_host();
    appliance.spawn_daemon(&[]);
    appliance.wait_until_ready();
    let shown = appliance.json(&["cert", "show", &serial]);
    assert_eq!(der(shown["pem"].as_str().unwrap().as_bytes()), certificate);
    let daemon = |line: &&Value| {
        let target = line["target"].as_str().unwrap_or_default();
        target.starts_with("hallmark::daemon")
    };
    let text = appliance.logged();
    // The token host is another program, which has no --json.
    let ours = text.lines().filter(|line| !line.contains("token{name="));
    let logged: Vec<Value> = ours
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line:?}")))
        .collect();
    let by_daemon = logged.iter().filter(daemon).count();
    assert!(by_daemon >= 2, "{text}");
    for line in &logged {
        assert!(line["timestamp"].is_string() && line["fields"]["message"].is_string());
    }
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn orders_and_lines_survive_a_restart() {
    with_appliance(async |appliance: &mut Appliance| {
        let line = appliance.line("line-1");
        appliance.order(&OrderTerms {
            name: "kept",
            lines: &[&line],
            quantity: 7,
            more: &[],
        });
        appliance.command(&["line", "disable", "line-1"]);
        let (orders, lines) = (
            appliance.json(&["order", "list"]),
            appliance.json(&["line", "list"]),
        );
        appliance.kill();
        appliance.start_again();
        assert_eq!(appliance.json(&["order", "list"]), orders);
        assert_eq!(appliance.json(&["line", "list"]), lines);
    })
    .await;
}
