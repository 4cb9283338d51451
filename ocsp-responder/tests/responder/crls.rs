//! CRLs that are genuine and not the right ones: of another place, of an older time, of another history.

use certstatus::log::checkpoint::Checkpoint;
use certstatus::log::{DetailHash, EntryKind};

use super::made::MadeLog;
use super::site::{EC, Running, Site, get, until};

const FULL: &str = "crl/device-1.crl";
const WITHHELD: &str = "hallmark_ocsp_crls_withheld{log=\"a\"}";
const FORK: &str = "hallmark_ocsp_log_fault{log=\"a\",kind=\"fork\"}";

fn site() -> Site {
    Site::new("log.example/crls", &[("device-1", EC)])
}

/// What is served at a path of the source.
fn served(running: &Running, path: &str) -> Vec<u8> {
    get(running.address, &format!("/{path}")).body
}

/// Why it is not ready.
fn reasons(running: &Running) -> String {
    String::from_utf8(get(running.ops, "/readyz").body).unwrap()
}

#[test]
fn a_crl_in_the_place_of_another_is_not_served() {
    let mut site = site();
    let (one, two) = ("crl/device-1/1.crl", "crl/device-1/2.crl");
    let full = site.crl("device-1", 7, &[1, 2]);
    let first = site.partition_crl("device-1", 8, 1, &[1]);
    let second = site.partition_crl("device-1", 9, 2, &[2]);
    for (path, crl) in [(FULL, &full), (one, &first), (two, &second)] {
        site.put(path, crl);
    }
    let mut running = Running::start(&site.config("", "", ""));
    until("all of them", || served(&running, two) == second);
    // Each of them has a higher number than what is served, and the issuer's signature.
    let second = site.partition_crl("device-1", 10, 2, &[]);
    site.put(FULL, &second);
    running.wait_for("it covers a partition only, and this is the place of the full CRL");
    site.put(FULL, &full);
    running.wait_for("the file is right again");
    let newer = site.crl("device-1", 11, &[]);
    site.put(one, &newer);
    running.wait_for("it covers no partition, and this is the place of one");
    site.put(one, &second);
    running.wait_for("it covers something else than the one before");
    let full = newer;
    site.put(FULL, &full);
    until("the newer one", || served(&running, FULL) == full);
    assert_eq!(served(&running, one), first);
    // At a first start nothing is served yet to compare with: then the log's number counts alone.
    site.put(two, &second);
    assert!(running.stop().success());
    std::fs::remove_dir_all(site.path().join("state")).unwrap();
    let mut running = Running::start(&site.config("", "", ""));
    running.wait_for("its number is 10, of which the verified log does not know");
    assert_eq!(get(running.address, "/crl/device-1/1.crl").status, 404);
    assert_eq!(served(&running, two), second);
}

#[test]
fn a_crl_that_the_log_knows_and_the_source_withholds_is_told() {
    let mut site = site();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let old = site.crl("device-1", 5, &[]);
    site.put(FULL, &old);
    let mut running = Running::start(&config);
    running.ready();
    until("the CRL", || served(&running, FULL) == old);
    assert_eq!(running.metric(WITHHELD), Some(0.0));
    let new = site.crl("device-1", 6, &[1]);
    running.wait_for("its number is 5, and by the verified log 6 was issued");
    assert_eq!(running.metric(WITHHELD), Some(1.0));
    assert!(reasons(&running).contains("by the verified log 6 was issued"));
    assert_eq!(served(&running, FULL), old, "what was verified stays");
    assert!(running.stop().success());
    // What was taken before a restart is served after it.
    let running = Running::start(&config);
    assert_eq!(served(&running, FULL), old);
    until("it is told", || running.metric(WITHHELD) == Some(1.0));
    assert!(running.stop().success());
    // At a first start an old one is not taken, nor is none.
    std::fs::remove_dir_all(site.path().join("state")).unwrap();
    let mut running = Running::start(&config);
    running.wait_for("its number is 5, and by the verified log 6 was issued");
    assert_eq!(get(running.address, "/crl/device-1.crl").status, 404);
    std::fs::remove_file(site.public().join(FULL)).unwrap();
    until("it is missed", || {
        reasons(&running).contains("not published, although by the verified log number 6")
    });
    site.put(FULL, &new);
    running.ready();
    assert_eq!(served(&running, FULL), new);
    assert_eq!(running.metric(WITHHELD), Some(0.0));
}

#[test]
fn a_crl_that_the_log_does_not_know_yet_waits_for_it() {
    let mut site = site();
    let next = site.crl_with("device-1", 5, &[], &site.note());
    let running = Running::start(&site.config("", "", ""));
    until("the first", || {
        get(running.address, "/crl/device-1.crl").status == 200
    });
    let first = served(&running, FULL);
    site.put(FULL, &next);
    std::thread::park_timeout(std::time::Duration::from_secs(6));
    assert_eq!(served(&running, FULL), first);
    assert_eq!(running.metric("hallmark_ocsp_mirror_problems"), Some(0.0));
    site.log_crl("device-1", 5, 0);
    until("the next", || served(&running, FULL) == next);
}

#[test]
fn a_crl_convicts_a_log_that_does_not_begin_with_its_anchor() {
    for behind in [0, 3, 300] {
        let mut site = site();
        for n in 0..400 {
            site.issue("device-1", n);
        }
        site.publish();
        let config = site.config("", "", "");
        site.approve(&config, "device-1");
        let good = site.crl("device-1", 4, &[]);
        site.put(FULL, &good);
        let mut running = Running::start(&config);
        running.ready();
        let lie = Checkpoint {
            root: [9; 32],
            size: site.log.size() + 2 - behind,
            ..site.log.head()
        };
        let crl = site.crl_with("device-1", 5, &[], &site.log.sign(&lie).unwrap());
        site.log_crl("device-1", 5, 0);
        site.put(FULL, &crl);
        running.wait_for("the log was forked");
        until("the flag", || running.metric(FORK) == Some(1.0));
        let evidence = std::fs::read_to_string(site.path().join("state/fork")).unwrap();
        let note = site.log.sign(&lie).unwrap();
        assert!(evidence.contains(&note), "{evidence}");
        assert_eq!(served(&running, FULL), good);
    }
}

#[test]
fn an_honest_anchor_convicts_nobody_and_missing_tiles_are_told() {
    let mut site = site();
    for n in 0..600 {
        site.issue("device-1", n);
    }
    site.publish();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let crl = site.crl("device-1", 5, &[]);
    for n in 600..700 {
        site.issue("device-1", n);
    }
    site.publish();
    site.put(FULL, &crl);
    let tiles = site.public().join("log/tile/0");
    std::fs::rename(&tiles, site.path().join("away")).unwrap();
    let mut running = Running::start(&config);
    until("the CRL", || served(&running, FULL) == crl);
    running.wait_for("its log anchor cannot be compared with the log");
    std::fs::rename(site.path().join("away"), &tiles).unwrap();
    running.wait_for("the file is right again");
    assert_eq!(running.metric(FORK), Some(0.0));
}

#[test]
fn a_kept_crl_convicts_a_rewritten_log_though_the_index_is_lost() {
    let mut site = site();
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    let crl = site.crl("device-1", 5, &[]);
    site.put(FULL, &crl);
    let running = Running::start(&config);
    running.ready();
    until("the CRL", || served(&running, FULL) == crl);
    assert!(running.stop().success());
    for entry in std::fs::read_dir(site.path().join("state")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    // The same key tells another history: the certificate was never issued.
    let origin = site.log.key().name().to_owned();
    let seed = DetailHash::of(origin.as_bytes()).0;
    std::fs::remove_dir_all(site.public().join("log")).unwrap();
    std::fs::remove_dir_all(site.public().join("crl")).unwrap();
    let time = super::site::now();
    site.log = MadeLog::new(&site.public(), &origin, seed, time).unwrap();
    let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    site.bind("device-1", &der);
    for _ in 0..20 {
        site.log.push(EntryKind::Tick).unwrap();
    }
    site.publish();
    let mut running = Running::start(&config);
    running.wait_for("the log was forked");
    until("the flag", || running.metric(FORK) == Some(1.0));
}
