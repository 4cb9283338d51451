//! A revocation takes effect at each relying party by when the appliance's answer says, also where a TLS session is
//! resumed, and a release lets a device in again.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::java::{By, Java};
use super::openssl::Question;
use super::place::{ISSUERS, Leaf, Place};
use super::servers::{Servers, Session};
use super::verdict::Verdict;
use super::{gnutls, openssl};
use crate::harness::invariants;

/// Milliseconds since 1970, by the clock that the appliance has too.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis().try_into().unwrap()
}

/// Asks until a certificate is taken, or not: whoever asks after the time `visible` that the appliance's answer states
/// finds it so.
fn in_time(told: &Value, visible: &str, holds: impl Fn() -> bool) {
    let by = told["visible"][visible].as_u64().unwrap();
    loop {
        let asked = now();
        if holds() {
            return;
        }
        assert!(asked < by, "{} ms late: {told}", asked - by);
    }
}

/// Revokes a certificate that is taken; it is refused in time.
fn refused_in_time(place: &Place, leaf: &Leaf, visible: &str, takes: impl Fn() -> bool) {
    assert!(takes(), "refused before it was revoked: {leaf:?}");
    let told = place.revoke(leaf, "key-compromise");
    in_time(&told, visible, || !takes());
}

#[tokio::test]
async fn a_revoked_device_is_refused_by_every_relying_party_in_time() {
    let mut place = Place::start(&ISSUERS[..2]);
    let mut leaves = Vec::new();
    for number in 0..8 {
        leaves.push(place.issue("device-1", &format!("device-{number}")).await);
    }
    let of_partition = place.issue("device-2", "device").await;
    let site = place.path();
    let java = Java::compile(&site);
    let servers = Servers::start(&site, &place.by_name.url());
    std::thread::scope(|scope| {
        let place = &place;
        let [
            by_post,
            by_get,
            by_gnutls,
            by_java,
            by_crl,
            at_nginx,
            at_nginx_told,
            at_stunnel,
        ] = leaves.as_slice()
        else {
            panic!("{leaves:?}");
        };
        scope.spawn(|| {
            openssl_refuses(place, by_post, by_get);
            gnutls_refuses(place, by_gnutls);
            openssl_refuses_by_crl(place, by_crl);
        });
        scope.spawn(|| java_refuses(place, &java, by_java, &of_partition));
        nginx_refuses(place, &servers, at_nginx, at_nginx_told);
        stunnel_refuses(place, &servers, at_stunnel);
    });
    drop(servers);
    invariants::assert(place.appliance).await;
}

/// By POST, and by GET, where the answer before was kept to be given to everybody.
fn openssl_refuses(place: &Place, by_post: &Leaf, by_get: &Leaf) {
    let site = place.path();
    let url = place.responder.url();
    let question = Question {
        site: &site,
        url: &url,
        issuer: "device-1",
        options: &["-no_nonce"],
        left_as: None,
    };
    refused_in_time(place, by_post, "ocsp", || {
        question.post(&[by_post]) == [Verdict::Good]
    });
    refused_in_time(place, by_get, "ocsp", || {
        question.get(by_get) == Verdict::Good
    });
}

/// With a nonce.
fn gnutls_refuses(place: &Place, leaf: &Leaf) {
    let (site, url) = (place.path(), place.by_name.url());
    refused_in_time(place, leaf, "ocsp", || {
        gnutls::ask(&site, &url, leaf, true) == Verdict::Good
    });
}

/// By the CRL that is served.
fn openssl_refuses_by_crl(place: &Place, leaf: &Leaf) {
    let site = place.path();
    refused_in_time(place, leaf, "crl", || {
        place.fetch_crl("device-1", "fetched.pem");
        let said = openssl::verify(&site, leaf, "-crl_check", "fetched.pem");
        let good = said.contains(&format!("{}: OK", leaf.file));
        assert_ne!(good, said.contains("certificate revoked"), "{said}");
        good
    });
}

/// By OCSP, and by the CRL of a partition.
fn java_refuses(place: &Place, java: &Java, by_ocsp: &Leaf, by_partition: &Leaf) {
    for (by, leaf, visible) in [(By::Get, by_ocsp, "ocsp"), (By::Crl, by_partition, "crl")] {
        refused_in_time(place, leaf, visible, || {
            java.ask(by, &[leaf]) == [Verdict::Good]
        });
    }
}

/// Held, released, revoked; by the responder in the certificate and by the configured one; also in a resumed session.
fn nginx_refuses(place: &Place, servers: &Servers, leaf: &Leaf, told_leaf: &Leaf) {
    let takes = |port: u16, leaf: &Leaf| match servers.http_status(port, leaf).as_str() {
        "200" => true,
        "400" => false,
        other => panic!("{other}\n{}", servers.said()),
    };
    assert!(servers.gets_page_in(Session::Kept("nginx.session"), leaf));
    assert!(servers.gets_page_in(Session::Resumed("nginx.session"), leaf));
    let held = place.revoke(leaf, "certificate-hold");
    in_time(&held, "ocsp", || !takes(servers.nginx, leaf));
    let release = ["cert", "release", &leaf.serial];
    let released = place.appliance.json(&release);
    in_time(&released, "ocsp", || takes(servers.nginx, leaf));
    refused_in_time(place, leaf, "ocsp", || takes(servers.nginx, leaf));
    assert!(!servers.gets_page_in(Session::Resumed("nginx.session"), leaf));
    refused_in_time(place, told_leaf, "ocsp", || {
        takes(servers.nginx_told, told_leaf)
    });
}

/// Publishing through it; also in a session that the client would resume.
fn stunnel_refuses(place: &Place, servers: &Servers, leaf: &Leaf) {
    assert!(servers.connects_in(Session::Kept("stunnel.session"), leaf));
    refused_in_time(place, leaf, "ocsp", || {
        servers.publishes(leaf, &now().to_string())
    });
    assert!(!servers.connects_in(Session::Resumed("stunnel.session"), leaf));
}
