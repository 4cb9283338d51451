//! Lies and faults: what does not verify is not answered from, what did goes on, and somebody is told.

use certstatus::log::checkpoint::Checkpoint;

use super::made::MadeLog;
use super::site::{EC, RSA, Running, Site, get, serial, until};

/// A site with one good certificate, and its configuration.
fn site(log: &str) -> (Site, std::path::PathBuf) {
    let mut site = Site::new("log.example/faults", &[("device-1", EC), ("device-2", RSA)]);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", log);
    (site, config)
}

/// What OpenSSL says of the certificate.
fn ask(site: &Site, running: &Running) -> String {
    site.ask(
        &running.url(),
        "device-1",
        &serial(1).to_string(),
        "-no_nonce",
    )
}

#[test]
fn a_fork_is_loud_until_an_operator_ends_it() {
    let (mut site, config) = site("");
    site.approve(&config, "device-1");
    let mut running = Running::start(&config);
    running.ready();
    assert!(ask(&site, &running).contains(": good"));
    // The same key signs another history of the same length.
    let honest = site.log.head();
    let lie = Checkpoint {
        root: [9; 32],
        ..honest
    };
    site.log
        .write_checkpoint(&site.log.sign(&lie).unwrap())
        .unwrap();
    running.wait_for("ERROR");
    until("the flag", || {
        running.metric("hallmark_ocsp_log_fault{log=\"a\",kind=\"fork\"}") == Some(1.0)
    });
    assert_eq!(get(running.ops, "/readyz").status, 503);
    assert!(
        ask(&site, &running).contains(": good"),
        "what was verified goes on"
    );
    assert!(running.told().contains("forked"), "{}", running.told());
    // Back to the honest history: an operator has to say so.
    site.publish();
    site.tick(super::site::now());
    let flag =
        |running: &Running| running.metric("hallmark_ocsp_log_fault{log=\"a\",kind=\"fork\"}");
    // Fifteen looks at the source later.
    std::thread::park_timeout(std::time::Duration::from_millis(300));
    assert_eq!(flag(&running), Some(1.0));
    std::fs::remove_file(site.path().join("state/fork")).unwrap();
    running.wait_for("the log is followed again");
    assert_eq!(flag(&running), Some(0.0));
    assert_eq!(get(running.ops, "/readyz").status, 200);
    assert!(ask(&site, &running).contains(": good"));
}

#[test]
fn a_restart_without_the_appliance_answers_from_what_was_kept() {
    let (mut site, config) = site("");
    site.approve(&config, "device-1");
    let crl = site.crl("device-1", 4, &[2]);
    site.put("crl/device-1.crl", &crl);
    let running = Running::start(&config);
    running.ready();
    until("the CRL", || {
        get(running.address, "/crl/device-1.crl").body == crl
    });
    assert!(running.stop().success());
    std::fs::rename(site.public(), site.path().join("away")).unwrap();
    let mut running = Running::start(&config);
    assert!(
        ask(&site, &running).contains(": good"),
        "{}",
        ask(&site, &running)
    );
    assert_eq!(get(running.address, "/crl/device-1.crl").body, crl);
    assert_eq!(get(running.address, "/ca/device-1.cer").status, 200);
    assert!(get(running.address, "/checkpoint/log.example/faults").status == 200);
    running.wait_for("the log is not followed");
    running.ready();
    std::fs::rename(site.path().join("away"), site.public()).unwrap();
    running.wait_for("the log is followed again");
}

#[test]
fn a_ca_certificate_that_is_not_the_logs_is_not_used() {
    let (site, config) = site("");
    site.approve(&config, "device-1");
    let right = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    let other = std::fs::read(site.public().join("ca/device-2.cer")).unwrap();
    site.put("ca/device-1.cer", &other);
    let mut running = Running::start(&config);
    running.wait_for("it is not the certificate that the log binds this issuer to");
    assert_eq!(get(running.address, "/ca/device-1.cer").status, 404);
    assert!(
        ask(&site, &running).contains("trylater"),
        "{}",
        ask(&site, &running)
    );
    site.put("ca/device-1.cer", &right);
    running.ready();
    assert!(ask(&site, &running).contains(": good"));
    assert_eq!(get(running.address, "/ca/device-1.cer").body, right);
}

#[test]
fn a_responder_certificate_that_is_not_right_is_not_used() {
    let (site, config) = site("");
    let key = site.responder_key(&config);
    site.openssl(&format!("genpkey {EC} -out other.key"));
    let other = site.openssl("pkey -in other.key -pubout");
    let right = "extendedKeyUsage=OCSPSigning\nnoCheck=ignored\n";
    let mut running = Running::start(&config);
    assert!(
        ask(&site, &running).contains("trylater"),
        "nothing to sign with yet"
    );
    let certify =
        |by: &str, key: &[u8], extensions: &str| site.certify(by, key, extensions, "device-1");
    certify("device-1", &other, right);
    running.wait_for("it is for another key");
    certify("device-1", &key, "noCheck=ignored\n");
    running.wait_for("it has no extended key usage id-kp-OCSPSigning");
    certify("device-1", &key, "extendedKeyUsage=OCSPSigning\n");
    running.wait_for("it has no extension id-pkix-ocsp-nocheck");
    certify(
        "device-1",
        &key,
        &format!("{right}basicConstraints=CA:TRUE\n"),
    );
    running.wait_for("it is a CA certificate");
    certify("device-2", &key, right);
    running.wait_for("it is not signed by this issuer's key");
    assert!(ask(&site, &running).contains("trylater"));
    assert!(
        running
            .metric("hallmark_ocsp_mirror_failures_total")
            .unwrap()
            >= 5.0
    );
    certify("device-1", &key, right);
    running.ready();
    assert!(ask(&site, &running).contains(": good"));
    // Taken back: what is there goes on until its end, and it is told.
    std::fs::remove_file(site.public().join("responders/ocsp-1/device-1.cer")).unwrap();
    running.wait_for("it is not published");
    assert!(ask(&site, &running).contains(": good"));
}

#[test]
fn a_bad_crl_leaves_the_last_good_one() {
    let (mut site, config) = site("");
    let good = site.crl("device-1", 5, &[2]);
    let path = "crl/device-1.crl";
    site.put(path, &good);
    let mut running = Running::start(&config);
    let served = || get(running.address, "/crl/device-1.crl").body;
    until("the CRL", || served() == good);
    let seed = [3; 32];
    let strange = tempfile::tempdir().unwrap();
    let strange = MadeLog::new(
        strange.path(),
        "log.example/faults",
        seed,
        super::site::now(),
    )
    .unwrap();
    let forged = strange.sign(&site.log.head()).unwrap();
    let mut tampered = good.clone();
    let at = tampered.len() / 2;
    tampered[at] ^= 1;
    let bad = [
        (
            site.crl_with("device-2", 6, &[], &site.note()),
            "it is not signed by this issuer's key",
        ),
        (tampered, "it is not signed by this issuer's key"),
        (good[..good.len() - 1].to_vec(), "not a signed object"),
        (
            site.crl_with("device-1", 4, &[], &site.note()),
            "its number is 4, and 5 was there before",
        ),
        (
            site.crl_with("device-1", 6, &[], &forged),
            "its log anchor does not verify",
        ),
        (
            site.crl_with("device-1", 6, &[], &site.note()),
            "its number is 6, of which the verified log does not know",
        ),
    ];
    let address = running.address;
    for (crl, told) in bad {
        site.put(path, &crl);
        running.wait_for(told);
        assert_eq!(get(address, "/crl/device-1.crl").body, good, "{told}");
    }
    assert!(running.metric("hallmark_ocsp_mirror_problems").unwrap() >= 1.0);
    site.issue("device-1", 9);
    site.publish();
    let newer = site.crl("device-1", 6, &[2, 9]);
    site.put(path, &newer);
    running.wait_for("the file is right again");
    assert_eq!(get(address, "/crl/device-1.crl").body, newer);
}

#[test]
fn kept_files_that_were_changed_are_not_believed() {
    let (mut site, config) = site("");
    site.approve(&config, "device-1");
    let crl = site.crl("device-1", 5, &[2]);
    site.put("crl/device-1.crl", &crl);
    let running = Running::start(&config);
    running.ready();
    until("the CRL", || {
        get(running.address, "/crl/device-1.crl").status == 200
    });
    assert!(running.stop().success());
    std::fs::rename(site.public(), site.path().join("away")).unwrap();
    let kept = site.path().join("state/files");
    for name in ["responder/device-1.cer", "crl/device-1.crl"] {
        let mut octets = std::fs::read(kept.join(name)).unwrap();
        *octets.last_mut().unwrap() ^= 1;
        std::fs::write(kept.join(name), octets).unwrap();
    }
    let running = Running::start(&config);
    assert!(
        ask(&site, &running).contains("trylater"),
        "{}",
        ask(&site, &running)
    );
    assert_eq!(get(running.address, "/crl/device-1.crl").status, 404);
    std::fs::rename(site.path().join("away"), site.public()).unwrap();
    running.ready();
    assert!(ask(&site, &running).contains(": good"));
}

#[test]
fn what_cannot_be_kept_is_used_and_told() {
    let (mut site, config) = site("");
    site.approve(&config, "device-1");
    let crl = site.crl("device-1", 5, &[2]);
    site.put("crl/device-1.crl", &crl);
    // Files where the directories have to be: whoever writes is refused, root too.
    let kept = site.path().join("state/files");
    std::fs::create_dir_all(&kept).unwrap();
    for name in ["ca", "crl", "responder"] {
        std::fs::write(kept.join(name), "in the way").unwrap();
    }
    let mut running = Running::start(&config);
    running.wait_for("a file is used and not kept");
    running.ready();
    assert!(ask(&site, &running).contains(": good"));
    until("the CRL", || {
        get(running.address, "/crl/device-1.crl").body == crl
    });
    assert!(running.metric("hallmark_ocsp_mirror_problems").unwrap() >= 3.0);
    for name in ["ca", "crl", "responder"] {
        std::fs::remove_file(kept.join(name)).unwrap();
    }
    until("all is kept", || {
        running.metric("hallmark_ocsp_mirror_problems") == Some(0.0)
    });
    assert_eq!(std::fs::read(kept.join("crl/device-1.crl")).unwrap(), crl);
    for name in ["ca/device-1.cer", "responder/device-1.cer"] {
        assert!(kept.join(name).is_file(), "{name}");
    }
}

/// Undoes a fault.
type Mend = Box<dyn FnOnce(&mut Site)>;

/// Publishes a newer head, and changes one of its files; `None` takes it away.
fn newer_but(site: &mut Site, path: &str, change: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) -> Mend {
    site.tick(super::site::now());
    let path = site.public().join(path);
    let honest = std::fs::read(&path).unwrap();
    match change(honest.clone()) {
        Some(changed) => std::fs::write(&path, changed).unwrap(),
        None => std::fs::remove_file(&path).unwrap(),
    }
    Box::new(move |_| std::fs::write(&path, honest).unwrap())
}

/// Publishes this note in place of the newest head's.
fn head_instead(site: &Site, note: &str) -> Mend {
    let honest = site.log.sign(&site.log.head()).unwrap();
    site.log.write_checkpoint(note).unwrap();
    Box::new(move |site| site.log.write_checkpoint(&honest).unwrap())
}

/// Brings about a fault of this kind; `old` is a head that was verified before the newest one.
fn bring_about(kind: &str, site: &mut Site, old: &Checkpoint) -> Mend {
    let bundle = format!("log/tile/entries/000.p/{}", site.log.size() + 1);
    match kind {
        "unreachable" => {
            // A directory where the file was: there, and not to be read.
            let checkpoint = site.public().join("log/checkpoint");
            let aside = site.path().join("aside");
            std::fs::rename(&checkpoint, &aside).unwrap();
            std::fs::create_dir(&checkpoint).unwrap();
            Box::new(move |_| {
                std::fs::remove_dir(&checkpoint).unwrap();
                std::fs::rename(aside, checkpoint).unwrap();
            })
        }
        "torn" => newer_but(site, &bundle, |_| None),
        "altered" => newer_but(site, &bundle, |mut octets| {
            let at = octets.len() - 2;
            octets[at] ^= 1;
            Some(octets)
        }),
        "head" => {
            let directory = tempfile::tempdir().unwrap();
            let origin = site.log.key().name();
            let time = super::site::now();
            let foreign = MadeLog::new(directory.path(), origin, [3; 32], time).unwrap();
            head_instead(site, &foreign.sign(&site.log.head()).unwrap())
        }
        "rollback" => head_instead(site, &site.log.sign(old).unwrap()),
        "storage" => {
            // A directory where the file has to be: whoever writes is refused, root too.
            let (head, aside) = (site.path().join("state/head"), site.path().join("aside"));
            std::fs::rename(&head, &aside).unwrap();
            std::fs::create_dir_all(head.join("in the way")).unwrap();
            site.tick(super::site::now());
            Box::new(move |_| {
                std::fs::remove_dir_all(&head).unwrap();
                std::fs::rename(aside, head).unwrap();
            })
        }
        "bad-entry" => {
            let honest = site.log.sign(&site.log.head()).unwrap();
            site.log.push_leaf(b"{}".to_vec()).unwrap();
            site.publish();
            Box::new(move |site| site.log.write_checkpoint(&honest).unwrap())
        }
        other => panic!("{other} cannot be brought about"),
    }
}

#[test]
fn every_fault_is_flagged_told_and_over_when_it_is_mended() {
    let (mut site, config) = site("");
    site.approve(&config, "device-1");
    let old = site.log.head();
    site.tick(super::site::now());
    let mut running = Running::start(&config);
    running.ready();
    // A fork has a test of its own, and a refusal needs an appliance. The last one stays in the log for ever.
    let rows = [
        ("unreachable", "the log cannot be read", 200),
        (
            "torn",
            "is not there yet: the log is being published or copied",
            200,
        ),
        ("storage", "the index cannot be written at", 200),
        (
            "head",
            "the published checkpoint is not one that the log key signed",
            503,
        ),
        (
            "rollback",
            "the log was rolled back, or the source serves an old copy",
            503,
        ),
        ("altered", "do not hash up to the signed head", 503),
        ("bad-entry", "is signed, but breaks a rule of the log", 503),
    ];
    for (kind, line, ready) in rows {
        running.hold();
        let mend = bring_about(kind, &mut site, &old);
        running.go_on();
        running.wait_for(line);
        let name = format!("hallmark_ocsp_log_fault{{log=\"a\",kind=\"{kind}\"}}");
        assert_eq!(running.metric(&name), Some(1.0), "{kind}");
        assert_eq!(get(running.ops, "/readyz").status, ready, "{kind}");
        assert!(ask(&site, &running).contains(": good"), "{kind}");
        running.hold();
        mend(&mut site);
        running.go_on();
        running.wait_for("the log is followed again");
        assert_eq!(running.metric(&name), Some(0.0), "{kind}");
        assert_eq!(get(running.ops, "/readyz").status, 200, "{kind}");
    }
}
