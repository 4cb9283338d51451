//! Whose log an issuer is answered for from: the one that its own key named.

use super::site::{EC, Running, Site, get, head, serial, until};

const FULL: &str = "crl/device-1.crl";

/// What OpenSSL says of a certificate of the first site's issuer.
fn ask(site: &Site, running: &Running, n: u64) -> String {
    let serial = serial(n).to_string();
    site.ask(&running.url(), "device-1", &serial, "-no_nonce")
}

fn reasons(running: &Running) -> String {
    String::from_utf8(get(running.ops, "/readyz").body).unwrap()
}

/// An appliance, and another one that names the first one's issuer as its own, with everything of it that is public; the
/// configuration of a responder that follows both, the second one first.
fn twins() -> (Site, Site, std::path::PathBuf) {
    let mut one = Site::new("log.example/one", &[("device-1", EC)]);
    let mut two = Site::new("log.example/two", &[]);
    one.issue("device-1", 1);
    one.revoke("device-1", 1);
    one.publish();
    let config = one.path().join("ocsp.toml");
    let logs = [two.log_config("two", ""), one.log_config("one", "")];
    std::fs::write(&config, format!("{}{}{}", head("", ""), logs[0], logs[1])).unwrap();
    one.approve(&config, "device-1");
    for path in ["responders/ocsp-1/device-1.cer", FULL] {
        two.put(path, &std::fs::read(one.public().join(path)).unwrap());
    }
    let der = std::fs::read(one.public().join("ca/device-1.cer")).unwrap();
    two.bind("device-1", &der);
    // It says of the other one's certificate that it is good.
    two.issue("device-1", 1);
    two.log_crl("device-1", 1, 0);
    (one, two, config)
}

#[test]
fn a_log_does_not_answer_for_an_issuer_that_did_not_name_it() {
    let (one, two, config) = twins();
    // The honest one cannot be reached at first.
    std::fs::rename(one.public(), one.path().join("away")).unwrap();
    let mut running = Running::start(&config);
    running.wait_for("its log anchor names another log");
    until("its certificate", || {
        reasons(&running).contains("no CRL by device-1 that names this log was verified yet")
    });
    assert!(
        ask(&one, &running, 1).contains("trylater"),
        "{}",
        ask(&one, &running, 1)
    );
    std::fs::rename(one.path().join("away"), one.public()).unwrap();
    until("the right log is asked", || {
        ask(&one, &running, 1).contains(": revoked")
    });
    assert!(ask(&one, &running, 2).contains(": unknown"));
    assert_eq!(get(running.ops, "/readyz").status, 503, "the other is told");
    // What vouched for it is kept over a restart, whatever comes up first.
    assert!(running.stop().success());
    std::fs::rename(one.public(), one.path().join("away")).unwrap();
    let running = Running::start(&config);
    assert!(ask(&one, &running, 1).contains(": revoked"));
    assert!(!two.public().join("fork").exists());
}

#[test]
fn an_issuer_that_named_two_logs_is_answered_for_from_neither() {
    let (one, mut two, config) = twins();
    let mut running = Running::start(&config);
    running.wait_for("another log names the same issuer");
    until("the right log is asked", || {
        ask(&one, &running, 1).contains(": revoked")
    });
    // The CA's key signs for the second log too: a key in two places, or in other hands.
    for name in ["device-1.key", "device-1.pem"] {
        std::fs::copy(one.path().join(name), two.path().join(name)).unwrap();
    }
    let crl = two.crl("device-1", 9, &[]);
    two.put(FULL, &crl);
    until("tryLater", || ask(&one, &running, 1).contains("trylater"));
    assert!(
        reasons(&running).contains("signed CRLs for this log and for the log"),
        "{}",
        reasons(&running)
    );
}

#[test]
fn an_issuer_is_answered_for_once_its_crl_is_there() {
    let mut site = Site::new("log.example/first", &[("device-1", EC), ("root", EC)]);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let crl = std::fs::read(site.public().join(FULL)).unwrap();
    std::fs::remove_dir_all(site.public().join("crl")).unwrap();
    let running = Running::start(&config);
    until("its certificate", || {
        reasons(&running).contains("no CRL by device-1 that names this log was verified yet")
    });
    assert!(
        !reasons(&running).contains("no CRL by root"),
        "{}",
        reasons(&running)
    );
    assert!(ask(&site, &running, 1).contains("trylater"));
    // A root has no certificate for a responder: nobody answers for it, with or without its CRL.
    let of_root = site.ask(&running.url(), "root", &serial(1).to_string(), "-no_nonce");
    assert!(of_root.contains("unauthorized"), "{of_root}");
    site.put(FULL, &crl);
    until("answers", || ask(&site, &running, 1).contains(": good"));
}
