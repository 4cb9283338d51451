//! CRLs of a running appliance: revocations reach them at once, OpenSSL obeys them, and no fault takes the
//! published one away or repeats a number.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::appliance::{LineIdentity, PATIENCE, pem};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::faults::Faults;
use crate::harness::program::{openssl, run};
use crate::harness::{Appliance, Site, invariants, leave_for_lint};

/// From the answer to a revocation to the CRL that has it.
const VISIBLE: Duration = Duration::from_secs(5);

/// A published CRL as OpenSSL reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Listed {
    number: u64,
    serials: Vec<String>,
    text: String,
}

impl Listed {
    /// Whether it lists a serial.
    fn has(&self, serial: &str) -> bool {
        self.serials.iter().any(|listed| listed == serial)
    }

    /// What OpenSSL shows of a serial: since when, and why.
    fn entry(&self, serial: &str) -> &str {
        let (_, entry) = self.text.split_once(&serial.to_ascii_uppercase()).unwrap();
        let end = entry
            .find("Serial Number")
            .or(entry.find("Signature Algorithm"));
        &entry[..end.unwrap()]
    }
}

/// Reads a published CRL with OpenSSL.
fn read(site: &Path, name: &str) -> Listed {
    let file = format!("public/crl/{name}.crl");
    let text = openssl(
        site,
        &["crl", "-inform", "DER", "-noout", "-text", "-in", &file],
    );
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("X509v3 CRL Number"));
    let serials = lines
        .iter()
        .filter_map(|line| line.strip_prefix("Serial Number: "));
    Listed {
        number: lines[at.unwrap() + 1].parse().unwrap(),
        serials: serials.map(str::to_ascii_lowercase).collect(),
        text: text.clone(),
    }
}

/// Writes a published CRL in PEM.
fn as_pem(site: &Path, name: &str) -> String {
    let file = format!("public/crl/{name}.crl");
    openssl(site, &["crl", "-inform", "DER", "-in", &file])
}

/// Issues a certificate and leaves it as `NAME.crt`; its serial.
async fn issue(appliance: &mut Appliance, line: &LineIdentity, name: &str) -> String {
    let path = appliance.site.path().to_owned();
    let device = Device::new(&path, name);
    let reply = appliance.ask_until_issued(line, &device).await;
    assert!(reply.status.is_success(), "{reply:?}");
    let certificate = der(&reply.body);
    std::fs::write(path.join(format!("{name}.crt")), pem(&certificate)).unwrap();
    serial_of(&path, &certificate)
}

/// Revokes a certificate.
fn revoke(appliance: &Appliance, serial: &str) {
    appliance.command(&["cert", "revoke", serial, "--reason", "key-compromise"]);
}

/// Looks until a CRL is as wanted.
async fn found(
    appliance: &Appliance,
    name: &str,
    patience: Duration,
    wanted: impl Fn(&Listed) -> bool,
) -> Listed {
    let began = Instant::now();
    loop {
        let found = read(appliance.site.path(), name);
        if wanted(&found) {
            return found;
        }
        assert!(began.elapsed() < patience, "{name} stays {found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Looks until a CRL lists a serial.
async fn listed(appliance: &Appliance, name: &str, serial: &str, patience: Duration) -> Listed {
    found(appliance, name, patience, |crl| crl.has(serial)).await
}

/// What `openssl verify` says of `NAME.crt` with these CRLs of its issuer.
fn verdict(site: &Path, name: &str, crls: &[&str]) -> String {
    judged(site, name, "-crl_check", crls)
}

/// What it says with this check.
fn judged(site: &Path, name: &str, check: &str, crls: &[&str]) -> String {
    let all: String = crls.iter().map(|crl| as_pem(site, crl)).collect();
    std::fs::write(site.join("crls.pem"), all).unwrap();
    let mut verify = Command::new("openssl");
    verify.current_dir(site);
    verify.args(["verify", "-x509_strict", check, "-CAfile", "root.pem"]);
    verify.args(["-untrusted", "issuer.pem", "-CRLfile", "crls.pem"]);
    let output = verify.arg(format!("{name}.crt")).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&said).into_owned()
}

/// Writes the device root and the device issuer where [`verdict`] finds them.
fn write_chain(site: &Site) {
    for (file, name) in [("root.pem", "device-root"), ("issuer.pem", "device-1")] {
        std::fs::write(site.path().join(file), pem(&site.ca(name))).unwrap();
    }
}

#[tokio::test]
async fn a_revocation_is_on_the_full_crl_in_seconds_and_openssl_obeys_it() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(10);
    write_chain(&appliance.site);
    let path = appliance.site.path().to_owned();
    let good = issue(&mut appliance, &line, "good").await;
    let bad = issue(&mut appliance, &line, "bad").await;
    let before = read(&path, "device-1");
    revoke(&appliance, &bad);
    let after = listed(&appliance, "device-1", &bad, VISIBLE).await;
    assert!(after.number > before.number);
    assert!(!after.serials.contains(&good));
    let scope =
        "X509v3 Issuing Distribution Point: critical\n                Only User Certificates";
    assert!(after.text.contains(scope), "{}", after.text);
    assert!(after.text.contains("Key Compromise"), "{}", after.text);
    assert!(verdict(&path, "good", &["device-1"]).contains("good.crt: OK"));
    let said = verdict(&path, "bad", &["device-1"]);
    assert!(said.contains("certificate revoked"), "{said}");

    // Twenty in a row share few CRLs, and the last one is there as fast.
    let mut serials = Vec::new();
    for number in 0..5 {
        serials.push(issue(&mut appliance, &line, &format!("more-{number}")).await);
    }
    for serial in &serials {
        revoke(&appliance, serial);
    }
    let all = listed(&appliance, "device-1", serials.last().unwrap(), VISIBLE).await;
    assert_eq!(all.serials.len(), 6, "{all:?}");
    leave_for_lint(
        "device-1-revoked.crl",
        &std::fs::read(path.join("public/crl/device-1.crl")).unwrap(),
    );

    let status = appliance.json(&["status"]);
    let crls = status["crls"].as_array().unwrap();
    let told = crls.iter().find(|crl| crl["issuer"] == "device-1").unwrap();
    assert_eq!(told["number"], all.number, "{told}");
    assert_eq!(
        (&told["listed"], &told["problem"]),
        (&6.into(), &serde_json::Value::Null)
    );
    assert_eq!(crls.len(), 4, "one for each issuer: {status}");
    let url = format!("http://{}/metrics", appliance.site.ops());
    let metrics = run(Command::new("curl").args(["--silent", "--fail", &url])).stdout;
    let metrics = String::from_utf8(metrics).unwrap();
    let number = format!(
        "hallmark_crl_number{{issuer=\"device-1\",partition=\"0\"}} {}",
        all.number
    );
    assert!(metrics.contains(&number), "{metrics}");

    // A start finds nothing to do: what is published is young and of this log.
    appliance.stop();
    appliance.start_again();
    assert_eq!(read(&path, "device-1").number, all.number);
    // One that is gone, or that somebody else wrote, is made again.
    appliance.stop();
    std::fs::remove_file(path.join("public/crl/device-1.crl")).unwrap();
    std::fs::copy(
        path.join("public/crl/access.crl"),
        path.join("public/crl/device-root.crl"),
    )
    .unwrap();
    appliance.start_again();
    appliance.wait("made again", |_| {
        path.join("public/crl/device-1.crl").exists()
    });
    let again = listed(&appliance, "device-1", &bad, VISIBLE).await;
    assert!(again.number > all.number);
    assert_eq!(again.serials, all.serials);
    appliance.wait("the root's again", |_| {
        let issuer = read(&path, "device-root").text;
        issuer.contains("CN = Quickstart Device Root")
    });
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn holds_releases_and_bulks_reach_the_crl_by_when_the_answer_says() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(10);
    write_chain(&appliance.site);
    let path = appliance.site.path().to_owned();
    let one = issue(&mut appliance, &line, "one").await;
    let two = issue(&mut appliance, &line, "two").await;
    let hold = |serial: &str| {
        let told = appliance.json(&["cert", "revoke", serial, "--reason", "certificate-hold"]);
        told["visible"]["crl"].as_u64().unwrap()
    };
    let now = || appliance.json(&["status"])["now"].as_u64().unwrap();

    let by = hold(&one);
    let held = listed(&appliance, "device-1", &one, VISIBLE).await;
    assert!(now() <= by, "later than the answer said");
    assert!(held.entry(&one).contains("Certificate Hold"), "{held:?}");
    let said = verdict(&path, "one", &["device-1"]);
    assert!(said.contains("certificate revoked"), "{said}");

    let released = appliance.json(&["cert", "release", &one]);
    let gone = found(&appliance, "device-1", VISIBLE, |crl| !crl.has(&one)).await;
    assert!(now() <= released["visible"]["crl"].as_u64().unwrap());
    assert!(gone.number > held.number);
    assert!(verdict(&path, "one", &["device-1"]).contains("one.crt: OK"));

    // Made final, a hold keeps its time. What was released is good, and may be revoked as anything.
    hold(&two);
    let held = listed(&appliance, "device-1", &two, VISIBLE).await;
    let bulk = [
        "cert",
        "revoke",
        "--order",
        "demo",
        "--reason",
        "superseded",
    ];
    let done = appliance.json(&[&bulk[..], &["--yes"]].concat());
    assert_eq!(done["changed"], 2, "{done}");
    let last = listed(&appliance, "device-1", &one, VISIBLE).await;
    assert!(now() <= done["visible"]["crl"].as_u64().unwrap());
    assert_eq!(last.serials.len(), 2, "each serial once: {last:?}");
    let since = |crl: &Listed| {
        let entry = crl.entry(&two).lines();
        let mut dates = entry.filter(|line| line.contains("Revocation Date"));
        dates.next().unwrap().to_owned()
    };
    assert_eq!(since(&last), since(&held));
    for name in ["one", "two"] {
        let said = verdict(&path, name, &["device-1"]);
        assert!(said.contains("certificate revoked"), "{name}: {said}");
        let serial = if name == "one" { &one } else { &two };
        assert!(last.entry(serial).contains("Superseded"), "{last:?}");
    }
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn an_issuer_is_on_the_crl_of_its_parent_until_it_is_released() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(10);
    write_chain(&appliance.site);
    let path = appliance.site.path().to_owned();
    issue(&mut appliance, &line, "device").await;
    let both = ["device-1", "device-root"];
    let verdict = |check| judged(&path, "device", check, &both);
    assert!(verdict("-crl_check_all").contains("device.crt: OK"));

    let hold = [
        "cert",
        "revoke",
        "--issuer-certificate",
        "device-1",
        "--yes",
    ];
    appliance.json(&[&hold[..], &["--reason", "certificate-hold"]].concat());
    let serial = serial_of(&path, &appliance.site.ca("device-1"));
    listed(&appliance, "device-root", &serial, VISIBLE).await;
    let said = verdict("-crl_check_all");
    assert!(said.contains("certificate revoked"), "{said}");
    // Its own CRL goes on, and does not list what it signed.
    assert!(verdict("-crl_check").contains("device.crt: OK"));
    assert!(!appliance.is_ready());

    appliance.json(&[
        "cert",
        "release",
        "--issuer-certificate",
        "device-1",
        "--yes",
    ]);
    found(&appliance, "device-root", VISIBLE, |crl| !crl.has(&serial)).await;
    assert!(verdict("-crl_check_all").contains("device.crt: OK"));
    assert!(appliance.is_ready());
    issue(&mut appliance, &line, "later").await;
    invariants::assert(appliance).await;
}

#[tokio::test]
async fn partitions_list_their_certificates_and_openssl_obeys_them() {
    let site = Site::before_ceremony();
    let url = "http://pki.example/crl/device-1";
    site.reconfigure(
        &format!("crl_url = \"{url}.crl\""),
        &format!(
            "crl_partition_url = \"{url}/{{partition}}.crl\"\ncrl_keep_expired_since = \"2020-01-01T00:00:00Z\""
        ),
    );
    let ceremony = site.path().join("ceremony.toml");
    let plan = std::fs::read_to_string(&ceremony).unwrap();
    let unfit = site
        .hallmark()
        .args(["ceremony", "run", "ceremony.toml"])
        .output()
        .unwrap();
    assert!(!unfit.status.success(), "no partitions, but their URL");
    let said = String::from_utf8_lossy(&unfit.stderr).into_owned();
    assert!(said.contains("crl_partitions"), "{said}");
    let subject = "subject = \"CN=Quickstart Device Issuer 1,O=Example\"";
    let plan = plan.replace(subject, &format!("{subject}\ncrl_partitions = 2"));
    std::fs::write(&ceremony, plan).unwrap();
    run(site.hallmark().args(["ceremony", "run", "ceremony.toml"]));
    write_chain(&site);
    let path = site.path().to_owned();
    for partition in [1, 2] {
        assert!(
            read(&path, &format!("device-1/{partition}"))
                .serials
                .is_empty()
        );
    }

    let mut appliance = Appliance::start(site);
    let line = appliance.line_and_order(100);
    // Two of each partition: one stays, one is revoked.
    let mut of: [Vec<(String, String)>; 2] = [Vec::new(), Vec::new()];
    for number in 0..100 {
        let name = format!("device-{number}");
        let serial = issue(&mut appliance, &line, &name).await;
        let last = u32::from_str_radix(&serial[24..], 16).unwrap();
        of[usize::try_from(last % 2).unwrap()].push((name, serial));
        if of.iter().all(|certificates| certificates.len() >= 2) {
            break;
        }
    }
    for (place, certificates) in of.iter().enumerate() {
        let (own, other) = (place + 1, 2 - place);
        let [(good, _), (bad, serial), ..] = certificates.as_slice() else {
            panic!("{of:?}");
        };
        let text = openssl(
            &path,
            &["x509", "-noout", "-text", "-in", &format!("{bad}.crt")],
        );
        assert!(text.contains(&format!("URI:{url}/{own}.crl")), "{text}");
        let untouched = read(&path, &format!("device-1/{other}"));
        revoke(&appliance, serial);
        let (own, other) = (format!("device-1/{own}"), format!("device-1/{other}"));
        let found = listed(&appliance, &own, serial, VISIBLE).await;
        assert_eq!(found.serials, std::slice::from_ref(serial));
        for part in [
            format!("URI:{url}/{}.crl", place + 1),
            "Only User Certificates".to_owned(),
        ] {
            assert!(found.text.contains(&part), "{part}: {}", found.text);
        }
        listed(&appliance, "device-1", serial, VISIBLE).await;
        assert_eq!(
            read(&path, &other),
            untouched,
            "the other partition was left alone"
        );
        for crls in [
            &["device-1"][..],
            &[&own],
            &[&own, &other],
            &[&other, &own],
            &["device-1", &own],
        ] {
            assert!(verdict(&path, good, crls).contains(": OK"), "{crls:?}");
            assert!(
                verdict(&path, bad, crls).contains("certificate revoked"),
                "{crls:?}"
            );
        }
        let said = verdict(&path, good, &[&other]);
        assert!(
            said.contains("different CRL scope") || said.contains("Different CRL scope"),
            "{said}"
        );
        let published = std::fs::read(path.join(format!("public/crl/{own}.crl"))).unwrap();
        leave_for_lint(&format!("device-1-partition-{}.crl", place + 1), &published);
    }
    // A full CRL that cannot be written keeps no partition from being made.
    let file = path.join("public/crl/device-1.crl");
    let aside = file.with_extension("aside");
    std::fs::rename(&file, &aside).unwrap();
    std::fs::create_dir(&file).unwrap();
    let (_, serial) = &of[0][0];
    revoke(&appliance, serial);
    listed(&appliance, "device-1/1", serial, VISIBLE).await;
    std::fs::remove_dir(&file).unwrap();
    std::fs::rename(&aside, &file).unwrap();
    listed(&appliance, "device-1", serial, PATIENCE).await;
    invariants::assert(appliance).await;
}

/// Revokes a certificate while something is in the way; then the CRL with it, with a larger number.
async fn under(
    what: &str,
    appliance: &mut Appliance,
    line: &LineIdentity,
    order: impl FnOnce(&mut Appliance),
    end: impl FnOnce(&mut Appliance, &Listed),
) {
    let path = appliance.site.path().to_owned();
    let name = what.replace(' ', "-");
    let serial = issue(appliance, line, &name).await;
    let before = read(&path, "device-1");
    order(appliance);
    revoke(appliance, &serial);
    end(appliance, &before);
    let after = listed(appliance, "device-1", &serial, PATIENCE).await;
    assert!(after.number > before.number, "{what}");
}

#[tokio::test]
async fn no_fault_takes_the_published_crl_away_or_repeats_a_number() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(20);
    let appliance = &mut appliance;
    for sign in ["lost 3", "done-but-failed 3", "refused 1", "wrong 1"] {
        let used_up = |appliance: &mut Appliance, before: &Listed| {
            appliance.wait("used up", |appliance| {
                // What is published stays whole whatever the token does.
                assert!(read(appliance.site.path(), "device-1").number >= before.number);
                let left = faults.token_commands();
                !left
                    .lines()
                    .any(|line| line.starts_with("sign ") && !line.ends_with(" 0"))
            });
        };
        let order = |_: &mut Appliance| faults.order_of_token(&format!("sign {sign}"));
        let name = format!("sign {sign}");
        under(&name, appliance, &line, order, used_up).await;
        faults.order_of_token("");
    }
    // The sync of the revocation passes; that of the intent, or of the outcome, does not.
    for (action, skip) in [
        ("lost", 1),
        ("done-but-failed", 1),
        ("lost", 2),
        ("done-but-failed", 2),
    ] {
        let order = |_: &mut Appliance| {
            faults.order_of_disk(&format!("{action} {skip} 1 hallmark.db-wal"));
        };
        let name = format!("{action} {skip}");
        under(&name, appliance, &line, order, |_, _| {}).await;
        faults.order_of_disk("");
        appliance.wait_until_ready();
    }
    // The file cannot be written: a directory stands in its place.
    let file = appliance.site.path().join("public/crl/device-1.crl");
    let aside = file.with_extension("aside");
    let (taken, given) = ((file.clone(), aside.clone()), (file, aside));
    let signed = faults.signatures();
    under(
        "no place",
        appliance,
        &line,
        move |_| {
            std::fs::rename(&taken.0, &taken.1).unwrap();
            std::fs::create_dir(&taken.0).unwrap();
        },
        move |appliance, _| {
            appliance.wait("told", |appliance| {
                let status = appliance.json(&["status"]);
                let crls = status["crls"].as_array().unwrap();
                crls.iter().any(|crl| {
                    crl["problem"]
                        .as_str()
                        .is_some_and(|text| text.contains("not written"))
                })
            });
            std::fs::remove_dir(&given.0).unwrap();
            std::fs::rename(&given.1, &given.0).unwrap();
        },
    )
    .await;
    // The device's certificate, and one CRL: what is issued waits for its place, and is not made again.
    assert_eq!(faults.signatures(), signed + 2);
    // Killed while the token signs the CRL; the token's host is asked no more once it is gone.
    faults.order_of_token("delay_ms 700");
    let asked = |faults: &Faults| faults.asked();
    let wanted = asked(&faults);
    under(
        "killed",
        appliance,
        &line,
        |_| {},
        |appliance, _| {
            appliance.wait("asked to sign", |_| asked(&faults) > wanted + 1);
            appliance.signal_daemon(Signal::KILL);
            appliance.wait("dead", Appliance::daemon_ended);
            faults.order_of_token("");
            faults.start_daemon(appliance);
        },
    )
    .await;
    invariants::assert_and_stop(appliance);
}
