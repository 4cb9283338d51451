//! Witnesses at a start with the real programs: what a `hallmark-ocsp` cosigned is held against the store.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::signature::Ed25519KeyPair;
use certstatus::log::checkpoint::{Checkpoint, CosignerKey, VerifierKey};
use hyper::StatusCode;
use serde_json::Value;

use crate::harness::appliance::LineIdentity;
use crate::harness::device::Device;
use crate::harness::program::run;
use crate::harness::responder::Responder;
use crate::harness::{Appliance, Site, invariants, log};

/// What a restore puts back.
const STORE: [&str; 3] = ["state", "public", "private"];

/// The option that lets a start go on without its witnesses.
const ACCEPT: &[&str] = &["--accept-unwitnessed"];

/// A witness that has seen so many entries of a site's log: somebody who has its log key and no other. Its port.
pub fn claims(site: &Site, entries: u64) -> u16 {
    let configuration = std::fs::read_to_string(site.configuration()).unwrap();
    let key = configuration
        .lines()
        .find_map(|line| line.strip_prefix("key_file = "));
    let key = std::fs::read(site.path().join(key.unwrap().trim_matches('"'))).unwrap();
    let (_, key) = der::pem::decode_vec(&key).unwrap();
    let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key).unwrap();
    let verifier = std::fs::read_to_string(site.path().join("state/log.vkey")).unwrap();
    let verifier = VerifierKey::parse(verifier.trim_end()).unwrap();
    let head = Checkpoint {
        origin: verifier.name().to_owned(),
        size: entries,
        root: [7; 32],
    };
    let signature = key.sign(head.body().as_bytes());
    let note = head.to_note(&verifier, signature.as_ref().try_into().unwrap());
    let length = note.len();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{note}");
    says(Box::leak(answer.into_bytes().into_boxed_slice()))
}

/// The key of a witness that signs nothing.
pub fn nobodys_key() -> String {
    CosignerKey::new("w.example/nobody", [7; 32])
        .unwrap()
        .to_string()
}

/// Writes a `[[witness]]` into a site's configuration.
pub fn configure(site: &Site, name: &str, port: u16, key: &str) {
    let mut file = std::fs::File::options()
        .append(true)
        .open(site.configuration())
        .unwrap();
    write!(
        file,
        "\n[[witness]]\nname = \"{name}\"\nurl = \"http://127.0.0.1:{port}\"\nkey = \"{key}\"\n"
    )
    .unwrap();
}

/// The verifier key that a responder prints for its witness.
fn witness_key(responder: &Responder, site: &Site) -> String {
    let printed = run(responder.command(site).args(["key", "--json"])).stdout;
    let printed: Value = serde_json::from_slice(&printed).unwrap();
    printed["witness"].as_str().unwrap().to_owned()
}

/// A site with a responder as its witness, neither of them started.
fn witnessed() -> (Appliance, Responder) {
    let site = Site::new();
    let responder = Responder::beside(&site);
    let key = witness_key(&responder, &site);
    configure(&site, "dmz", responder.port, &key);
    (Appliance::stopped(site), responder)
}

/// What `status` says of the first witness.
fn told(appliance: &Appliance) -> Value {
    appliance.json(&["status"])["witnesses"][0].take()
}

/// The size that a checkpoint states.
fn size(note: &str) -> u64 {
    note.lines()
        .nth(1)
        .and_then(|line| line.parse().ok())
        .unwrap_or(0)
}

/// The entries that the published checkpoint of a site covers.
fn published(site: &Path) -> u64 {
    size(&std::fs::read_to_string(site.join("public/log/checkpoint")).unwrap())
}

/// Stops the appliance when its responder has everything of the log.
fn stop_seen(appliance: &mut Appliance, responder: &Responder, line_of_log: &str) {
    appliance.stop();
    let url = format!(
        "http://127.0.0.1:{}/checkpoint/{line_of_log}",
        responder.port
    );
    appliance.wait("seen by the witness", |appliance| {
        let mut curl = Command::new("curl");
        let answer = curl
            .args(["--silent", "--max-time", "5", &url])
            .output()
            .unwrap();
        size(&String::from_utf8_lossy(&answer.stdout)) == published(appliance.site.path())
    });
}

/// The log's origin.
fn origin(appliance: &Appliance) -> String {
    let note = appliance.site.path().join("public/log/checkpoint");
    let note = std::fs::read_to_string(note).unwrap();
    note.lines().next().unwrap().to_owned()
}

/// Copies the store and what is published to, or back from, a directory beside them.
fn copy(site: &Path, back: bool) {
    for part in STORE {
        let aside = site.join("aside").join(part);
        let (from, to) = if back {
            (aside, site.join(part))
        } else {
            (site.join(part), aside)
        };
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        run(Command::new("cp").arg("-a").arg(&from).arg(&to));
    }
}

/// Has a certificate issued, which a restore may lose.
async fn issue(appliance: &mut Appliance, line: &LineIdentity, device: &str) {
    let device = Device::new(appliance.site.path(), device);
    let reply = appliance.ask_anew(line, "demo", &device.request()).await;
    assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}");
}

/// Starts the appliance, which must end by itself, and returns what it logged of it.
fn refused(appliance: &mut Appliance) -> String {
    let before = appliance.logged().len();
    let checkpoint = appliance.site.path().join("public/log/checkpoint");
    let published = std::fs::read(&checkpoint).unwrap();
    appliance.spawn();
    let mut ready = false;
    appliance.wait("ended", |appliance| {
        ready |= appliance.is_ready();
        appliance.daemon_ended()
    });
    assert!(!ready, "it was ready in between");
    assert_eq!(
        std::fs::read(&checkpoint).unwrap(),
        published,
        "it published"
    );
    appliance.logged()[before..].to_owned()
}

/// The events of accepted starts in the published log, with their data.
fn accepted(appliance: &Appliance) -> Vec<Value> {
    let entries = log::entries(appliance.site.path()).into_iter();
    let accepted = entries.filter(|entry| entry.leaf["event"] == "unwitnessed-start");
    accepted.map(|entry| entry.detail["data"].clone()).collect()
}

#[tokio::test]
async fn an_older_copy_does_not_start_until_an_operator_accepts_it() {
    let (mut appliance, mut responder) = witnessed();
    // The witness is not there yet.
    appliance.start_again();
    let said = told(&appliance);
    assert_eq!(
        (&said["witness"], &said["verdict"]),
        (&"dmz".into(), &"unheard".into()),
        "{said}"
    );
    let line = appliance.line_and_order(9);
    responder.approved_and_started(&mut appliance);
    let origin = origin(&appliance);
    issue(&mut appliance, &line, "kept").await;
    stop_seen(&mut appliance, &responder, &origin);

    // It confirms a restart.
    copy(appliance.site.path(), false);
    appliance.start_again();
    let said = told(&appliance);
    assert_eq!(said["verdict"], "agrees", "{said}");
    assert!(
        said["size"].as_u64().unwrap() > 0 && said["cosigned_at"].is_u64(),
        "{said}"
    );
    let shown = appliance.command(&["status"]);
    assert!(
        shown.contains("AT THE START") && shown.contains("ocsp-1"),
        "{shown}"
    );
    // So it does after the processes were killed: nothing is published before it is in the store.
    appliance.kill();
    appliance.start_again();
    let said = told(&appliance);
    assert_eq!(said["verdict"], "agrees", "{said}");
    issue(&mut appliance, &line, "lost").await;
    stop_seen(&mut appliance, &responder, &origin);
    let seen = published(appliance.site.path());

    copy(appliance.site.path(), true);
    let older = published(appliance.site.path());
    assert!(older < seen);
    let told_so = refused(&mut appliance);
    for part in [
        "witness dmz".to_owned(),
        format!("has seen {seen} entries"),
        format!("this store has {older}"),
        "an older copy was restored".to_owned(),
        "--accept-unwitnessed".to_owned(),
    ] {
        assert!(told_so.contains(&part), "{part}: {told_so}");
    }
    invariants::report(&appliance);
    assert_eq!(accepted(&appliance), Vec::<Value>::new());

    appliance.set_options(ACCEPT);
    appliance.start_again();
    assert_eq!(told(&appliance)["verdict"], "newer");
    let shown = appliance.command(&["status"]);
    assert!(shown.contains("newer"), "{shown}");
    // What was lost is not known here any more.
    appliance.received.truncate(1);
    issue(&mut appliance, &line, "after").await;
    invariants::assert_and_stop(&mut appliance);
    let events = accepted(&appliance);
    assert_eq!(events.len(), 1, "{events:?}");
    let said = &events[0]["witnesses"][0];
    assert_eq!(
        (&said["verdict"], &said["size"]),
        (&"newer".into(), &seen.into()),
        "{events:?}"
    );
    assert_eq!(events[0]["size"], older, "{events:?}");
    let report = invariants::report(&appliance);
    let starts = report["unwitnessed_starts"].as_array().unwrap();
    assert_eq!(starts.len(), 1, "{report}");
    assert!(starts[0].as_u64().unwrap() >= older, "{report}");

    let mut audit = appliance.site.command("hallmark-audit");
    audit.args([
        "verify",
        "--published",
        "public",
        "--log-key",
        "state/log.vkey",
    ]);
    let text = String::from_utf8(run(&mut audit).stdout).unwrap();
    assert!(text.contains("UNWITNESSED START"), "{text}");

    // It was for that start only.
    appliance.set_options(&[]);
    refused(&mut appliance);
    assert_eq!(accepted(&appliance).len(), 1);
}

#[tokio::test]
async fn another_history_of_the_log_does_not_start() {
    let (mut appliance, mut responder) = witnessed();
    appliance.start_again();
    let line = appliance.line_and_order(9);
    responder.approved_and_started(&mut appliance);
    let origin = origin(&appliance);
    appliance.stop();
    copy(appliance.site.path(), false);
    appliance.start_again();
    issue(&mut appliance, &line, "one").await;
    stop_seen(&mut appliance, &responder, &origin);
    let seen = published(appliance.site.path());

    // Somebody goes on from the older copy, and keeps it from the witness.
    copy(appliance.site.path(), true);
    let configuration = std::fs::read_to_string(appliance.site.configuration()).unwrap();
    let (alone, _) = configuration.split_once("[[witness]]").unwrap();
    std::fs::write(appliance.site.configuration(), alone).unwrap();
    appliance.start_again();
    for device in ["two", "three", "four"] {
        issue(&mut appliance, &line, device).await;
    }
    appliance.stop();
    assert!(published(appliance.site.path()) > seen);
    std::fs::write(appliance.site.configuration(), &configuration).unwrap();
    let told_so = refused(&mut appliance);
    assert!(told_so.contains("another history, a fork"), "{told_so}");
    assert!(
        told_so.contains(&format!("its {seen} entries")),
        "{told_so}"
    );

    appliance.set_options(ACCEPT);
    appliance.start_again();
    assert_eq!(told(&appliance)["verdict"], "forked");
    appliance.stop();
    assert_eq!(accepted(&appliance)[0]["witnesses"][0]["verdict"], "forked");
    invariants::report(&appliance);
}

/// A listener that says this to everyone who comes, again and again, until nobody listens.
fn says(text: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut silent = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if text.is_empty() {
                silent.push(stream);
                continue;
            }
            std::thread::spawn(move || {
                // Whoever answers before it was asked is cut off before its answer is looked at.
                let mut asked = Vec::new();
                while !asked.ends_with(b"\r\n\r\n") {
                    let mut octet = [0];
                    if stream.read_exact(&mut octet).is_err() {
                        return;
                    }
                    asked.extend(octet);
                }
                while stream.write_all(text).is_ok() {}
            });
        }
    });
    port
}

#[tokio::test]
async fn witnesses_that_cannot_be_heard_are_warnings_and_cost_little_time() {
    let mut appliance = Appliance::start(Site::new());
    let line = appliance.line_and_order(2);
    let mut responder = Responder::beside(&appliance.site);
    responder.approved_and_started(&mut appliance);
    let real = witness_key(&responder, &appliance.site);
    // Somebody else's key, of the same name.
    let other = Responder::beside(&appliance.site);
    let text = std::fs::read_to_string(&other.config).unwrap();
    std::fs::write(&other.config, text.replace("ocsp/", "other/")).unwrap();
    let wrong = witness_key(&other, &appliance.site);
    assert_ne!(real, wrong);
    let origin = origin(&appliance);
    stop_seen(&mut appliance, &responder, &origin);

    let gone = says(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let rows = [
        (
            "wrong-key",
            responder.port,
            &wrong,
            "not cosigned by the configured key",
        ),
        (
            "garbage",
            says(b"garbage\r\n"),
            &real,
            "the connection broke",
        ),
        (
            "endless",
            says(b"HTTP/1.1 200 OK\r\n\r\naaaaaaaaaaaaaaaa"),
            &real,
            "longer than",
        ),
        ("silent", says(b""), &real, "no answer within 5 s"),
        ("not-here", gone, &real, "does not follow this log"),
        ("real", responder.port, &real, ""),
    ];
    for (name, port, key, _) in &rows {
        configure(&appliance.site, name, *port, key);
    }
    appliance.start_again();
    let status = appliance.json(&["status"]);
    let witnesses = status["witnesses"].as_array().unwrap();
    assert_eq!(witnesses.len(), rows.len());
    let warnings = status["warnings"].to_string();
    for (said, (name, _, _, word)) in witnesses.iter().zip(&rows) {
        assert_eq!(said["witness"], *name);
        let problem = said["problem"].as_str().unwrap_or_default();
        assert!(problem.contains(word), "{said}");
        assert_eq!(said["verdict"] == "agrees", word.is_empty(), "{said}");
        assert_eq!(
            warnings.contains(&format!("witness {name}: ")),
            !word.is_empty(),
            "{warnings}"
        );
    }
    issue(&mut appliance, &line, "all-the-same").await;
    let url = format!("http://{}/metrics", appliance.site.ops());
    let metrics = run(Command::new("curl").args(["--silent", "--fail", &url])).stdout;
    let metrics = String::from_utf8(metrics).unwrap();
    for line in [
        "hallmark_witness_agrees{witness=\"real\"} 1",
        "hallmark_witness_agrees{witness=\"silent\"} 0",
        "hallmark_responder_certificate_failing{responder=\"ocsp-1\",issuer=\"device-1\"} 0",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "{line}: {metrics}"
        );
    }
    invariants::assert_and_stop(&mut appliance);

    // A head that the log key signed is proof whoever hands it over.
    let (before, seen) = (published(appliance.site.path()), 1_000_000);
    let port = claims(&appliance.site, seen);
    configure(&appliance.site, "stranger", port, &nobodys_key());
    let told_so = refused(&mut appliance);
    for part in [
        "witness stranger".to_owned(),
        format!("has seen {seen} entries"),
        format!("this store has {before}"),
    ] {
        assert!(told_so.contains(&part), "{part}: {told_so}");
    }
}
