//! OpenSSL, GnuTLS, Java, the auditor and the appliance say the same of every certificate, whatever became of it, for
//! issuers with each kind of key, from responders that name themselves in either way, and by CRLs.

use serde_json::Value;

use super::gnutls;
use super::java::{By, Java};
use super::openssl::{self, Question};
use super::place::{ISSUERS, Issuer, Leaf, Place};
use super::verdict::Verdict;
use crate::harness::appliance::pem;
use crate::harness::device::{der, serial_of};
use crate::harness::invariants;

/// Every reason that revokes for good (docs/REVOCATION.md).
const REASONS: [&str; 8] = [
    "unspecified",
    "key-compromise",
    "ca-compromise",
    "affiliation-changed",
    "superseded",
    "cessation-of-operation",
    "privilege-withdrawn",
    "aa-compromise",
];

/// A certificate, and what is to be said of it.
#[derive(Debug)]
struct Case {
    leaf: Leaf,
    truth: Verdict,
}

/// Certificates of an issuer with everything that can become of them.
async fn cases(place: &mut Place, issuer: &Issuer) -> Vec<Case> {
    let name = issuer.name;
    let good = place.issue(name, "good").await;
    let outside = place.signed_unlogged(issuer, "outside", &good);
    let mut leaves = vec![good];
    for reason in REASONS {
        let leaf = place.issue(name, reason).await;
        place.revoke(&leaf, reason);
        leaves.push(leaf);
    }
    for (what, then) in [
        ("on-hold", None),
        ("released", Some("")),
        ("final", Some("superseded")),
    ] {
        let leaf = place.issue(name, what).await;
        place.revoke(&leaf, "certificate-hold");
        match then {
            None => {}
            Some("") => drop(place.appliance.json(&["cert", "release", &leaf.serial])),
            Some(reason) => drop(place.revoke(&leaf, reason)),
        }
        leaves.push(leaf);
    }
    leaves.push(place.unresolved(issuer).await);
    let with_truth = |leaf: Leaf| {
        let shown = place.appliance.json(&["cert", "show", &leaf.serial]);
        let truth = Verdict::of_appliance(&shown);
        Case { leaf, truth }
    };
    let mut cases: Vec<Case> = leaves.into_iter().map(with_truth).collect();
    cases.push(Case {
        leaf: outside,
        truth: Verdict::Unknown,
    });
    // That it is a table of everything, and not of one thing many times.
    let count = |of: fn(&Verdict) -> bool| cases.iter().filter(|case| of(&case.truth)).count();
    assert_eq!(count(|it| *it == Verdict::Good), 2);
    assert_eq!(count(|it| matches!(it, Verdict::Revoked { .. })), 11);
    cases
}

#[tokio::test]
async fn every_relying_party_says_of_every_certificate_what_the_appliance_says() {
    let mut place = Place::start(&ISSUERS);
    let mut all = Vec::new();
    for issuer in &ISSUERS {
        all.push((issuer, cases(&mut place, issuer).await));
    }
    for (issuer, cases) in &all {
        let listed = |case: &&Case| matches!(case.truth, Verdict::Revoked { .. });
        let listed: Vec<&Leaf> = cases.iter().filter(listed).map(|case| &case.leaf).collect();
        place.wait_until_served(issuer, &listed);
    }
    let java = Java::compile(&place.path());
    std::thread::scope(|scope| {
        scope.spawn(|| java_agrees(&place, &java, &all));
        scope.spawn(|| the_auditor_agrees(&place, &all));
        for (issuer, cases) in &all {
            openssl_agrees(&place, issuer, cases);
            gnutls_agrees(&place, cases);
            crls_agree(&place, issuer, cases);
        }
    });
    nobody_hears_of_other_issuers(&place, &java);
    the_crl_of_the_root_judges_an_issuer(&mut place, &java, &all[2].1[0].leaf).await;
    invariants::assert(place.appliance).await;
}

/// By GET and POST, with every hash, with and without a nonce, one by one and all at once.
fn openssl_agrees(place: &Place, issuer: &Issuer, cases: &[Case]) {
    let site = place.path();
    let leaves: Vec<&Leaf> = cases.iter().map(|case| &case.leaf).collect();
    for (by, url) in place.urls() {
        let at_once = [
            &["-sha1"][..],
            &["-sha256", "-no_nonce"],
            &["-sha384"],
            &["-sha512", "-no_nonce"],
        ];
        for options in at_once {
            let question = Question {
                site: &site,
                url: &url,
                issuer: issuer.name,
                options,
                left_as: Some(&format!("{}-{by}-all{}", issuer.name, options[0])),
            };
            for (told, case) in question.post(&leaves).iter().zip(cases) {
                assert_eq!(*told, case.truth, "{question:?} {:?}", case.leaf);
            }
        }
        for case in cases {
            let state = case.leaf.file.trim_end_matches(".crt");
            for options in [&["-sha1", "-no_nonce"][..], &["-sha256"]] {
                let question = Question {
                    site: &site,
                    url: &url,
                    issuer: issuer.name,
                    options,
                    left_as: Some(&format!("{state}-{by}{}", options[0])),
                };
                assert_eq!(question.get(&case.leaf), case.truth, "{question:?}");
            }
        }
    }
}

/// With and without a nonce.
fn gnutls_agrees(place: &Place, cases: &[Case]) {
    for (by, url) in place.urls() {
        for case in cases {
            for nonce in [true, false] {
                let told = gnutls::ask(&place.path(), &url, &case.leaf, nonce);
                let truth = case.truth.without_reason();
                assert_eq!(told, truth, "{by} {:?}", case.leaf);
            }
        }
    }
}

/// By GET, by POST with a nonce, and by CRLs, full ones and partitions.
fn java_agrees(place: &Place, java: &Java, all: &[(&Issuer, Vec<Case>)]) {
    let cases: Vec<&Case> = all.iter().flat_map(|(_, cases)| cases).collect();
    let leaves: Vec<&Leaf> = cases.iter().map(|case| &case.leaf).collect();
    let [_, (_, by_name)] = place.urls();
    for by in [By::Get, By::PostWithNonce(&by_name), By::Crl] {
        let told = java.ask(by, &leaves);
        for (told, case) in told.iter().zip(&cases) {
            let truth = match by {
                By::Crl => case.truth.by_crl(),
                _ => case.truth.clone(),
            };
            assert_eq!(*told, truth, "{by:?} {:?}", case.leaf);
        }
    }
}

/// OpenSSL and GnuTLS, by the full CRL that is served, for certificates that name partitions too.
fn crls_agree(place: &Place, issuer: &Issuer, cases: &[Case]) {
    let site = place.path();
    let file = format!("{}-served.crl", issuer.name);
    place.fetch_crl(issuer.name, &file);
    for partition in issuer.partitions() {
        place.fetch_crl(&partition, "partition.crl");
    }
    for case in cases {
        let revoked = matches!(case.truth, Verdict::Revoked { .. });
        let said = openssl::verify(&site, &case.leaf, "-crl_check", &file);
        assert_eq!(said.contains("certificate revoked"), revoked, "{said}");
        let good = said.contains(&format!("{}: OK", case.leaf.file));
        assert_eq!(good, !revoked, "{said}");
        assert_eq!(
            gnutls::verify(&site, &case.leaf, &file),
            !revoked,
            "{case:?}"
        );
    }
}

/// Whose issuer has no responder is told so by none: a line's certificate, and that of a device issuer.
fn nobody_hears_of_other_issuers(place: &Place, java: &Java) {
    let site = place.path();
    let line = Leaf {
        serial: String::new(),
        file: "line-1.pem".to_owned(),
        chain: "line-1.pem".to_owned(),
        issuer: "access",
        key: None,
    };
    let [access, access_root, device_root] =
        ["access", "access-root", "device-root"].map(|name| pem(&place.appliance.site.ca(name)));
    for (file, text) in [
        ("access.pem", &access),
        ("access-chain.pem", &(access.clone() + &access_root)),
        ("access-root.pem", &access_root),
        ("device-root-chain.pem", &device_root),
    ] {
        std::fs::write(site.join(file), text).unwrap();
    }
    let of_root = Leaf {
        file: "device-1.pem".to_owned(),
        chain: "device-1.pem".to_owned(),
        issuer: "device-root",
        ..line.clone()
    };
    for (by, url) in place.urls() {
        for leaf in [&line, &of_root] {
            let question = Question {
                site: &site,
                url: &url,
                issuer: leaf.issuer,
                options: &["-sha256"],
                left_as: Some(&format!("{}-{by}-unauthorized", leaf.issuer)),
            };
            let refused = Verdict::Refused("unauthorized".to_owned());
            assert_eq!(question.post(&[leaf]), vec![refused.clone()], "{leaf:?}");
            assert_eq!(question.get(leaf), refused, "{leaf:?}");
            assert_eq!(gnutls::ask(&site, &url, leaf, false), refused, "{leaf:?}");
        }
        // Java asks OCSP about end entities only, as it is told.
        let told = java.ask_below("access-root.pem", By::PostWithNonce(&url), &[&line]);
        let [Verdict::Refused(said)] = told.as_slice() else {
            panic!("{told:?}");
        };
        assert!(said.contains("UNAUTHORIZED"), "{said}");
    }
}

/// A root has no responder: its CRL tells of its issuers. OCSP about what such an issuer signed goes on.
async fn the_crl_of_the_root_judges_an_issuer(place: &mut Place, java: &Java, leaf: &Leaf) {
    let site = place.path();
    let verdicts = |place: &Place| {
        place.fetch_crl("device-root", "root-served.crl");
        place.fetch_crl(leaf.issuer, "issuer-served.crl");
        let read = |file: &str| std::fs::read_to_string(site.join(file)).unwrap();
        let both = read("root-served.crl") + &read("issuer-served.crl");
        std::fs::write(site.join("both.crl"), both).unwrap();
        (
            openssl::verify(&site, leaf, "-crl_check_all", "both.crl"),
            gnutls::verify(&site, leaf, "both.crl"),
            [By::Crl, By::Both].map(|by| java.ask(by, &[leaf])),
        )
    };
    let (by_openssl, by_gnutls, by_java) = verdicts(place);
    assert!(by_openssl.contains(": OK"), "{by_openssl}");
    assert!(by_gnutls);
    assert_eq!(by_java, [[Verdict::Good], [Verdict::Good]]);

    let of_issuer = ["--issuer-certificate", leaf.issuer, "--yes"];
    let words = ["cert", "revoke", "--reason", "ca-compromise"];
    let told = place.appliance.json(&[&words[..], &of_issuer].concat());
    let serial = serial_of(&site, &place.appliance.site.ca(leaf.issuer));
    place.wait_until_on("device-root", &serial);
    let (by_openssl, by_gnutls, by_java) = verdicts(place);
    assert!(by_openssl.contains("certificate revoked"), "{by_openssl}");
    assert!(!by_gnutls);
    let at = told["revoked_at"].as_u64().unwrap() / 1000;
    let said = Verdict::Refused(format!("REVOKED 1 CA_COMPROMISE {at}"));
    assert_eq!(by_java, [[said.clone()], [said]]);
    assert_eq!(java.ask(By::Get, &[leaf]), [Verdict::Good]);
    // The access issuer's too, for those who lint.
    let line = std::fs::read(site.join("line-1.pem")).unwrap();
    let line = serial_of(&site, &der(&line));
    place.appliance.command(&["cert", "revoke", &line]);
    place.wait_until_on("access", &line);
    place.fetch_crl("access", "access-served.crl");
}

/// From the published files alone.
fn the_auditor_agrees(place: &Place, all: &[(&Issuer, Vec<Case>)]) {
    for case in all.iter().flat_map(|(_, cases)| cases) {
        let mut audit = place.appliance.site.command("hallmark-audit");
        let files = ["--published", "public", "--log-key", "state/log.vkey"];
        audit.arg("status").args(files);
        // Its exit code is the status.
        let output = audit.args(["--json", &case.leaf.serial]).output().unwrap();
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(told["verified"], true, "{told}");
        let status = &told["standing"]["status"];
        let told = match status["is"].as_str().unwrap() {
            "good" => Verdict::Good,
            "unknown" => Verdict::Unknown,
            "revoked" => Verdict::revoked(
                status["at"].as_u64().unwrap() / 1000,
                status["reason"].as_str().unwrap_or("unspecified"),
            ),
            _ => panic!("{told}"),
        };
        assert_eq!(told, case.truth, "{:?}", case.leaf);
    }
}
