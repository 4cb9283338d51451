//! Time: views that grow old, certificates that end, clocks that jump. The responder runs within the test here, so that
//! the test moves its clock.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use certstatus::log::checkpoint::Checkpoint;
use certstatus::ocsp::{
    BasicResponse, ErrorStatus, HashAlgorithm, IssuerHashes, ParsedResponse, read_response, request,
};
use certstatus::responder::{Clock, Config, Responder};
use certstatus::{CertStatus, UnixMillis};
use der::Decode as _;
use x509_cert::Certificate;

use super::site::{Answer, EC, Site, get, now, send, serial, until};

const MINUTE: Duration = Duration::from_secs(60);

/// A responder within the test.
struct Inside {
    runtime: tokio::runtime::Runtime,
    clock: Clock,
    address: SocketAddr,
    ops: SocketAddr,
}

impl Inside {
    fn start(config: &Path, at: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .worker_threads(2)
            .build()
            .unwrap();
        let clock = Clock::fixed(UnixMillis(at));
        let config = Config::load(config).unwrap();
        let responder = runtime
            .block_on(Responder::open(config, clock.clone()))
            .unwrap();
        let (address, ops) = (responder.addresses()[0], responder.ops_address().unwrap());
        runtime.spawn(responder.run(std::future::pending()));
        Self {
            runtime,
            clock,
            address,
            ops,
        }
    }

    /// Asks for a serial; the answer's body.
    fn ask(&self, site: &Site, n: u64) -> Vec<u8> {
        self.asked(site, n).body
    }

    /// The same; all of the answer.
    fn asked(&self, site: &Site, n: u64) -> Answer {
        let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
        let id = IssuerHashes::of_certificate(&der)
            .unwrap()
            .cert_id(HashAlgorithm::Sha1, serial(n).as_bytes());
        send(self.address, "POST", "/ocsp", "", &request(&[&id], None))
    }

    /// How long caches may keep the answer for a serial, in seconds.
    fn max_age(&self, site: &Site, n: u64) -> u64 {
        let answer = self.asked(site, n);
        let control = answer.header("cache-control").unwrap();
        let age = control.strip_prefix("max-age=").unwrap();
        age.split(',').next().unwrap().parse().unwrap()
    }

    /// A metric of the log.
    fn metric(&self, name: &str) -> String {
        let text = String::from_utf8(get(self.ops, "/metrics").body).unwrap();
        let start = format!("{name}{{log=\"a\"}} ");
        let mut lines = text.lines();
        lines
            .find_map(|line| line.strip_prefix(&start))
            .unwrap()
            .to_owned()
    }

    /// Why it is not ready.
    fn reasons(&self) -> String {
        String::from_utf8(get(self.ops, "/readyz").body).unwrap()
    }

    fn is_ready(&self) -> bool {
        get(self.ops, "/readyz").status == 200
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        std::mem::replace(&mut self.runtime, runtime).shutdown_background();
    }
}

/// A site at this time with one good certificate, its responder approved.
fn site(time: u64, log: &str) -> (Site, Inside) {
    let mut site = Site::at("log.example/clock", &[("device-1", EC)], time);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", log);
    site.approve(&config, "device-1");
    let inside = Inside::start(&config, time + 1000);
    until("ready", || inside.is_ready());
    (site, inside)
}

/// The signed answer in these octets.
#[track_caller]
fn basic(octets: &[u8]) -> BasicResponse<'_> {
    match read_response(octets) {
        Ok(ParsedResponse::Basic(basic)) => basic,
        other => panic!("not a signed answer: {other:?}"),
    }
}

#[test]
fn an_old_view_says_so_and_recovers() {
    let time = now() / 1000 * 1000;
    let (mut site, inside) = site(time, "max_age = \"5m\"");
    let answer = inside.ask(&site, 1);
    let single = basic(&answer).singles[0];
    assert_eq!(single.status, CertStatus::Good);
    assert_eq!(
        single.this_update,
        UnixMillis(time),
        "the newest entry's time, to the second"
    );
    assert_eq!(single.next_update, Some(UnixMillis(time + 600_000)));
    inside.clock.pass(4 * MINUTE);
    assert_eq!(inside.ask(&site, 1), answer, "kept, since nothing is newer");
    inside.clock.pass(MINUTE);
    assert_eq!(
        inside.ask(&site, 1),
        ErrorStatus::TryLater.der(),
        "a kept answer too is given no more"
    );
    assert_eq!(inside.ask(&site, 9), ErrorStatus::TryLater.der());
    assert!(!inside.is_ready());
    site.tick(time + 300_000);
    until("fresh", || {
        inside.ask(&site, 1) != ErrorStatus::TryLater.der()
    });
    let newer = inside.ask(&site, 1);
    assert_eq!(
        basic(&newer).singles[0].this_update,
        UnixMillis(time + 300_000)
    );
    assert!(inside.is_ready());
}

#[test]
fn a_kept_answer_is_made_anew_at_half_its_life() {
    let time = now() / 1000 * 1000;
    let (mut site, inside) = site(time, "");
    let answer = inside.ask(&site, 1);
    inside.clock.pass(4 * MINUTE);
    site.tick(time + 240_000);
    let newest = format!(
        "hallmark_ocsp_log_newest_seconds{{log=\"a\"}} {}",
        time / 1000 + 240
    );
    until("followed", || {
        String::from_utf8(get(inside.ops, "/metrics").body)
            .unwrap()
            .contains(&newest)
    });
    assert_eq!(inside.ask(&site, 1), answer, "younger than half its life");
    inside.clock.pass(MINUTE + Duration::from_secs(1));
    until("newer", || inside.ask(&site, 1) != answer);
    assert_eq!(
        basic(&inside.ask(&site, 1)).singles[0].this_update,
        UnixMillis(time + 240_000)
    );
}

#[test]
fn a_date_that_is_set_back_makes_no_view_young() {
    // Within the responder certificate's days before and after the jump.
    let time = now() + 86_400_000;
    let (site, inside) = site(time, "max_age = \"5m\"");
    inside.clock.pass(4 * MINUTE);
    assert_eq!(inside.max_age(&site, 1), 359);
    inside.clock.jump(UnixMillis(time - 3_600_000));
    assert_eq!(inside.max_age(&site, 1), 600, "no longer than it lives");
    let answer = inside.ask(&site, 1);
    let single = basic(&answer).singles[0];
    assert_eq!(single.status, CertStatus::Good);
    assert!(basic(&answer).produced_at >= single.this_update);
    inside.clock.pass(2 * MINUTE);
    assert_eq!(
        inside.ask(&site, 1),
        ErrorStatus::TryLater.der(),
        "by the steady clock it is 6 minutes old"
    );
}

#[test]
fn nothing_is_answered_from_a_log_of_the_future() {
    let time = now();
    let (mut site, inside) = site(time, "");
    let is_good = || inside.ask(&site, 1) != ErrorStatus::TryLater.der();
    assert!(is_good());
    let time = time + 1000;
    // The appliance's clock jumps ahead: what is signed now would be believed until then.
    site.tick(time + 200_000);
    until("seen", || {
        inside.metric("hallmark_ocsp_log_ahead_seconds") == "200"
    });
    until("refused", || {
        inside.ask(&site, 1) == ErrorStatus::TryLater.der()
    });
    assert_eq!(inside.metric("hallmark_ocsp_view_fresh"), "0");
    let told = inside.reasons();
    assert!(
        told.contains("the view is dated 200 s in the future"),
        "{told}"
    );
    // Within a minute is not enough once it was refused; within half of one is.
    inside.clock.pass(Duration::from_millis(150_000));
    until("looked at", || {
        inside.metric("hallmark_ocsp_log_ahead_seconds") == "50"
    });
    assert_eq!(inside.ask(&site, 1), ErrorStatus::TryLater.der());
    inside.clock.pass(Duration::from_secs(21));
    until("answered again", || inside.is_ready());
    let newest = basic(&inside.ask(&site, 9)).singles[0].this_update;
    assert_eq!(newest, UnixMillis((time + 200_000) / 1000 * 1000));
    // And less than a minute ahead is nothing to speak of.
    site.tick(time + 200_000 + 28_000);
    until("seen", || {
        inside.metric("hallmark_ocsp_log_ahead_seconds") == "57"
    });
    assert!(inside.is_ready());
}

#[test]
fn a_clock_that_is_set_right_ends_the_future() {
    let time = now();
    let mut site = Site::at("log.example/clock", &[("device-1", EC)], time);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config("", "", "");
    site.approve(&config, "device-1");
    // Started with a clock that is an hour behind.
    let inside = Inside::start(&config, time - 3_600_000);
    until("told", || {
        inside.reasons().contains("dated 3600 s in the future")
    });
    assert_eq!(inside.ask(&site, 1), ErrorStatus::TryLater.der());
    let right = now() + 1000;
    inside.clock.jump(UnixMillis(right));
    until("answered", || inside.is_ready());
    assert_eq!(
        basic(&inside.ask(&site, 1)).singles[0].status,
        CertStatus::Good
    );
    // Set back while it runs: what was right stays so.
    inside.clock.jump(UnixMillis(right - 3_600_000));
    site.tick(right + 2000);
    until("followed", || {
        inside.metric("hallmark_ocsp_log_ahead_seconds") == "2"
    });
    assert_eq!(inside.metric("hallmark_ocsp_view_fresh"), "1");
    let told = inside.reasons();
    assert!(
        told.contains("the responder certificate by device-1 begins at "),
        "{told}"
    );
}

#[test]
fn a_date_that_jumps_ahead_ends_the_answers() {
    let time = now();
    let (site, inside) = site(time, "");
    assert_eq!(
        basic(&inside.ask(&site, 1)).singles[0].status,
        CertStatus::Good
    );
    inside.clock.jump(UnixMillis(time + 3_600_000));
    assert_eq!(inside.ask(&site, 1), ErrorStatus::TryLater.der());
    inside.clock.jump(UnixMillis(time + 2000));
    assert_eq!(
        basic(&inside.ask(&site, 1)).singles[0].status,
        CertStatus::Good
    );
}

#[test]
fn no_answer_outlives_the_responder_certificate() {
    let time = now();
    let (mut site, inside) = site(time, "");
    let three_days = 3 * 86_400_000;
    let late = time + three_days - 300_000;
    inside
        .clock
        .pass(Duration::from_millis(three_days - 300_000));
    site.tick(late);
    until("fresh", || inside.is_ready());
    let answer = inside.ask(&site, 1);
    let basic = basic(&answer);
    let next = basic.singles[0].next_update.unwrap();
    assert_eq!(
        next.seconds(),
        not_after(basic.certificates[0]),
        "the certificate's end, before ten minutes have passed"
    );
    assert!(next.0 < late + 400_000);
    inside.clock.pass(Duration::from_secs(360));
    site.tick(late + 360_000);
    until("fresh by the log", || {
        String::from_utf8(get(inside.ops, "/status").body)
            .unwrap()
            .contains("\"fresh\":true")
    });
    assert_eq!(
        inside.ask(&site, 1),
        ErrorStatus::TryLater.der(),
        "no valid certificate"
    );
    assert!(!inside.is_ready());
    let told = String::from_utf8(get(inside.ops, "/readyz").body).unwrap();
    assert!(
        told.contains("the responder certificate by device-1 ended"),
        "{told}"
    );
}

/// The end of a certificate in seconds since 1970.
fn not_after(der: &[u8]) -> u64 {
    let certificate = Certificate::from_der(der).unwrap();
    let validity = certificate.tbs_certificate().validity();
    validity.not_after.to_unix_duration().as_secs()
}

#[test]
fn a_log_is_followed_while_all_threads_answer() {
    let (mut site, inside) = site(now(), "");
    let head = site.path().join("state/head");
    let before = std::fs::read(&head).unwrap();
    // Both threads of the runtime are kept busy.
    let busy = Arc::new(Barrier::new(3));
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(Mutex::new(ended));
    for _ in 0..2 {
        let (busy, ended) = (Arc::clone(&busy), Arc::clone(&ended));
        inside.runtime.spawn(async move {
            busy.wait();
            let _ended = ended.lock().unwrap().recv();
        });
    }
    busy.wait();
    site.revoke("device-1", 1);
    site.publish();
    until("followed", || std::fs::read(&head).unwrap() != before);
    drop(end);
    until("answered", || {
        let status = basic(&inside.ask(&site, 1)).singles[0].status;
        matches!(status, CertStatus::Revoked { .. })
    });
}

#[test]
fn a_forked_log_ends_in_try_later() {
    let time = now();
    let (mut site, inside) = site(time, "");
    let honest = site.log.head();
    let lie = Checkpoint {
        root: [9; 32],
        ..honest
    };
    let note = site.log.sign(&lie).unwrap();
    site.log.write_checkpoint(&note).unwrap();
    until("told", || inside.reasons().contains("the log was forked"));
    assert_ne!(inside.ask(&site, 1), ErrorStatus::TryLater.der());
    inside.clock.pass(9 * MINUTE);
    // The honest history goes on, and is not believed.
    site.tick(time + 541_000);
    assert_eq!(inside.ask(&site, 1), ErrorStatus::TryLater.der());
    std::fs::remove_file(site.path().join("state/fork")).unwrap();
    until("believed again", || inside.is_ready());
    let single = basic(&inside.ask(&site, 1)).singles[0].status;
    assert_eq!(single, CertStatus::Good);
}
