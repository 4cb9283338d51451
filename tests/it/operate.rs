//! Operating: what the command line says when something is wrong, and what must not run twice.

use std::process::Output;

use crate::harness::{Appliance, OrderTerms, Site, with_appliance};

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
