//! `crl-sync` against sources that lie, brokers that fail, clocks that pass and files that others change.

mod commands;

use std::path::PathBuf;
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use der::{Decode as _, Encode as _};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use x509_cert::Certificate;
use x509_cert::ext::pkix::SubjectKeyIdentifier;

use super::place::name_hash;
use super::*;
use crate::crl::{CrlFields, LogAnchor, RevokedEntry, Scope, TbsCrl};
use crate::log::checkpoint::{Checkpoint, VerifierKey};
use crate::signature::openssl::OpenSsl;
use crate::signature::{SignatureAlgorithm, assemble};
use crate::{SerialNumber, UnixMillis};

/// When the tests begin: 2026-01-01.
const BEGIN: u64 = 1_767_225_600;

/// The life of a CRL in seconds.
const LIFE: u64 = 1000;

/// Makes a CA and, beside it, one of the same name with another key.
const ISSUERS: [&str; 2] = ["device-1", "device-2"];

/// A CA that OpenSSL made, and a log key.
struct Ca {
    openssl: OpenSsl,
    keys: Vec<EcdsaKeyPair>,
    log: Ed25519KeyPair,
    verifier: VerifierKey,
}

/// What is said in a CRL that is made for a test.
#[derive(Clone)]
struct List {
    number: u64,
    made: u64,
    revoked: Vec<u32>,
    scope: Scope,
    size: u64,
    root: u8,
}

/// A list of this number, made then, with these serials.
fn list(number: u64, made: u64, revoked: &[u32]) -> List {
    List {
        number,
        made: BEGIN + made,
        revoked: revoked.to_vec(),
        scope: Scope::UserCertificates,
        size: number,
        root: 7,
    }
}

/// A serial that this number tells from others.
fn serial(number: u32) -> SerialNumber {
    let mut octets = [0x5a; 16];
    octets[12..].copy_from_slice(&number.to_be_bytes());
    SerialNumber::from_random(octets)
}

impl Ca {
    fn new() -> Self {
        let openssl = OpenSsl::new();
        let keys = ISSUERS.map(|name| {
            openssl.key(name, "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
            openssl.run(&format!(
                "req -x509 -new -key {name}.pem -subj /O=Example/CN={name} -days 30 -out {name}.crt \
                 -addext keyUsage=critical,keyCertSign,cRLSign"
            ));
            let pkcs8 = openssl.run(&format!("pkcs8 -topk8 -nocrypt -in {name}.pem -outform DER"));
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8).unwrap()
        });
        let log = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
        let public = log.public_key().as_ref().try_into().unwrap();
        Self {
            openssl,
            keys: keys.into(),
            log,
            verifier: VerifierKey::new("log.example/site", public).unwrap(),
        }
    }

    /// A CRL (DER) by an issuer; `signer` may be another one's number.
    fn crl_by(&self, issuer: usize, signer: usize, list: &List) -> Vec<u8> {
        let name = ISSUERS[issuer];
        let der = self
            .openssl
            .run(&format!("x509 -in {name}.crt -outform DER"));
        let certificate = Certificate::from_der(&der).unwrap();
        let tbs = certificate.tbs_certificate();
        let (_, key_id) = tbs
            .get_extension::<SubjectKeyIdentifier>()
            .unwrap()
            .unwrap();
        let head = Checkpoint {
            origin: self.verifier.name().to_owned(),
            size: list.size,
            root: [list.root; 32],
        };
        let signature = self.log.sign(head.body().as_bytes());
        let note = head.to_note(&self.verifier, signature.as_ref().try_into().unwrap());
        let fields = CrlFields {
            issuer: &tbs.subject().to_der().unwrap(),
            authority_key_id: key_id.0.as_bytes(),
            algorithm: SignatureAlgorithm::EcdsaSha256,
            number: list.number,
            this_update: UnixMillis::from_seconds(list.made),
            next_update: UnixMillis::from_seconds(list.made + LIFE),
            scope: list.scope.clone(),
            expired_since: None,
            anchor: LogAnchor {
                origin: self.verifier.name(),
                log_key: "not looked at",
                checkpoint: &note,
            },
        };
        let entries: Vec<RevokedEntry> = list
            .revoked
            .iter()
            .map(|number| RevokedEntry {
                serial: serial(*number),
                revoked_at: UnixMillis::from_seconds(list.made),
                reason: None,
            })
            .collect();
        let tbs = TbsCrl::encode(&fields, &entries);
        let signature = self.keys[signer]
            .sign(&SystemRandom::new(), tbs.der())
            .unwrap();
        assemble(
            tbs.der(),
            SignatureAlgorithm::EcdsaSha256,
            signature.as_ref(),
        )
    }

    fn crl(&self, list: &List) -> Vec<u8> {
        self.crl_by(0, 0, list)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.openssl.path(name)
    }

    /// Serves a CRL of the first issuer as the file `source`.
    fn serve(&self, crl: &[u8]) {
        self.openssl.write("source", crl);
    }

    /// A synchroniser whose broker is `table` and that has these `[[crl]]` (name of the issuer, sources).
    fn open_with(
        &self,
        table: &str,
        crls: &[(&str, &str)],
        clock: &Clock,
    ) -> Result<Syncer, SyncError> {
        let mut text = format!("version = 1\nstate_dir = \"state\"\n{table}\n");
        for (name, sources) in crls {
            let key = self.verifier.to_string();
            text += &format!(
                "[[crl]]\nname = \"{name}\"\nissuer_file = \"{name}.crt\"\nsources = {sources}\nlog_key = \"{key}\"\n"
            );
        }
        self.openssl.write("sync.toml", text.as_bytes());
        Syncer::open(
            SyncConfig::load(&self.path("sync.toml")).unwrap(),
            clock.clone(),
        )
    }

    /// One with a hook that appends its input to `heard`, one issuer and the file `source`.
    fn open(&self, clock: &Clock) -> Syncer {
        self.open_with(
            &self.hook("cat >> heard"),
            &[("device-1", "[\"source\"]")],
            clock,
        )
        .unwrap()
    }

    /// The table of a hook.
    fn hook(&self, script: &str) -> String {
        let script = format!("cd {} && {script}", self.path("").display());
        format!("[hook]\ncrl_file = \"target.pem\"\ncommand = [\"sh\", \"-c\", {script:?}]")
    }

    /// What the hook heard, one line each.
    fn heard(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("heard")).unwrap_or_default();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// The number of the CRL in the target as OpenSSL reads it, its signature verified.
    fn number_in_place(&self) -> Option<u64> {
        let said = self
            .openssl
            .ask("crl -in target.pem -noout -crlnumber -CAfile device-1.crt");
        let hex = said
            .text
            .lines()
            .find_map(|line| line.strip_prefix("crlNumber="))?;
        assert!(said.text.contains("verify OK"), "{}", said.text);
        u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok()
    }
}

/// The beginning, on a clock of the test's.
fn clock() -> Clock {
    Clock::fixed(UnixMillis::from_seconds(BEGIN))
}

/// The first fault of a source.
fn fault(status: &SyncStatus) -> String {
    let status = serde_json::json!(status);
    let fault = &status["crls"][0]["sources"][0]["fault"];
    fault.as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_newer_crl_is_put_in_place_and_told_once() {
    let (ca, clock) = (Ca::new(), clock());
    let mut syncer = ca.open(&clock);
    let status = syncer.once().await;
    assert_eq!((status.exit_code(), ca.number_in_place()), (1, None));

    ca.serve(&ca.crl(&list(10, 0, &[1])));
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert_eq!(ca.number_in_place(), Some(10));
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert_eq!(ca.heard().len(), 1);
    ca.serve(&ca.crl(&list(11, 0, &[2, 3])));
    assert_eq!(syncer.once().await.exit_code(), 0);
    let heard = ca.heard();
    assert_eq!((heard.len(), ca.number_in_place()), (2, Some(11)));
    let told = &heard[1]["crls"][0];
    let texts = |numbers: &[u32]| -> Vec<String> {
        numbers.iter().map(|n| serial(*n).to_string()).collect()
    };
    assert_eq!(told["newly_revoked"], serde_json::json!(texts(&[2, 3])));
    assert_eq!(told["no_longer_listed"], serde_json::json!(texts(&[1])));
    assert_eq!(
        (&told["number"], &told["previous_number"]),
        (&11.into(), &10.into())
    );
    // A new process knows what was told.
    drop(syncer);
    assert_eq!(ca.open(&clock).once().await.exit_code(), 0);
    assert_eq!(ca.heard().len(), 2);
}

#[tokio::test]
async fn nothing_that_does_not_verify_gets_into_the_file() {
    let (ca, clock) = (Ca::new(), clock());
    let mut syncer = ca.open(&clock);
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    syncer.once().await;
    let before = std::fs::read(ca.path("target.pem")).unwrap();
    let good = ca.crl(&list(11, 0, &[1, 2]));
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    let partition = Scope::Partition("http://pki.example/crl/device-1/1.crl".to_owned());
    let delta = {
        ca.openssl.write("index.txt", b"");
        ca.openssl.write("number", b"0B\n");
        let text = "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ncrlnumber=number\ndefault_md=sha256\n\
                    default_crl_days=1\ncrl_extensions=x\n[x]\nauthorityKeyIdentifier=keyid\n\
                    2.5.29.27=critical,ASN1:INTEGER:10\n";
        ca.openssl.write("delta.cnf", text.as_bytes());
        ca.openssl.run(
            "ca -config delta.cnf -gencrl -keyfile device-1.pem -cert device-1.crt -out delta.pem",
        );
        ca.openssl.run("crl -in delta.pem -outform DER")
    };
    let of = |change: fn(&mut List)| {
        let mut list = list(11, 0, &[1, 2]);
        change(&mut list);
        ca.crl(&list)
    };
    let mut partitioned = list(11, 0, &[1]);
    partitioned.scope = partition;
    let rows: [(&str, Vec<u8>, &str); 13] = [
        ("empty", Vec::new(), "torn, forged"),
        (
            "a web page",
            b"<html>not found</html>".to_vec(),
            "torn, forged",
        ),
        ("torn", good[..good.len() / 2].to_vec(), "torn, forged"),
        ("forged", forged, "torn, forged"),
        (
            "another key in this issuer's name",
            ca.crl_by(0, 1, &list(11, 0, &[])),
            "torn, forged",
        ),
        (
            "another issuer's",
            ca.crl_by(1, 1, &list(11, 0, &[])),
            "torn, forged",
        ),
        (
            "this key in another issuer's name",
            ca.crl_by(1, 0, &list(11, 0, &[])),
            "another issuer",
        ),
        ("a delta", delta, "delta CRL"),
        (
            "a partition",
            ca.crl(&partitioned),
            "one partition (http://pki.example/crl/device-1/1.crl)",
        ),
        (
            "rolled back",
            ca.crl(&list(9, 0, &[])),
            "its number is 9, and 10 is in place",
        ),
        (
            "a twin",
            ca.crl(&list(10, 0, &[])),
            "another CRL of that number",
        ),
        ("a shorter log", of(|list| list.size = 9), "contradicts"),
        (
            "from the future",
            of(|list| list.made += 1),
            "set the clocks right",
        ),
    ];
    for (what, crl, expected) in rows {
        ca.serve(&crl);
        for _ in 0..2 {
            let status = syncer.once().await;
            assert_eq!(status.exit_code(), 1, "{what}");
            assert!(
                fault(&status).contains(expected),
                "{what}: {}",
                fault(&status)
            );
        }
        assert_eq!(
            std::fs::read(ca.path("target.pem")).unwrap(),
            before,
            "{what}"
        );
    }
    // It is taken when its time has come, though the file did not change.
    clock.pass(Duration::from_secs(1));
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(11), 2));
    // One that has ended is not taken, though newer.
    let mut ended = list(12, 0, &[]);
    ended.made = BEGIN + 1 - LIFE;
    ca.serve(&ca.crl(&ended));
    assert!(fault(&syncer.once().await).contains("it ended at 2026-01-01T00:00:01Z"));
    assert_eq!(ca.number_in_place(), Some(11));
}

#[tokio::test]
async fn a_roll_back_is_refused_by_a_new_process_too() {
    let (ca, clock) = (Ca::new(), clock());
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    ca.open(&clock).once().await;
    ca.serve(&ca.crl(&list(9, 0, &[])));
    // By the state directory, by the file in place, and by either alone.
    let (state, target) = (ca.path("state"), ca.path("target.pem"));
    let kept = std::fs::read(&target).unwrap();
    for remove in ["none", "state", "target"] {
        match remove {
            "state" => std::fs::remove_dir_all(&state).unwrap(),
            "target" => std::fs::remove_file(&target).unwrap(),
            _ => {}
        }
        let status = ca.open(&clock).once().await;
        assert!(
            fault(&status).contains("9, and 10 is in place"),
            "{remove}: {}",
            fault(&status)
        );
        assert_eq!(std::fs::read(&target).unwrap(), kept, "{remove}");
    }
    // An older file that somebody put back is replaced, and told.
    let told = ca.heard().len();
    let old = der::pem::encode_string(
        "X509 CRL",
        der::pem::LineEnding::LF,
        &ca.crl(&list(9, 0, &[])),
    );
    ca.openssl.write("target.pem", old.unwrap().as_bytes());
    ca.open(&clock).once().await;
    assert_eq!(
        (std::fs::read(&target).unwrap(), ca.heard().len()),
        (kept, told + 1)
    );
}

#[tokio::test]
async fn a_file_that_somebody_changes_while_it_runs_is_mended_and_told() {
    let (ca, clock) = (Ca::new(), clock());
    let mut syncer = ca.open(&clock);
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    syncer.once().await;
    ca.openssl.write("target.pem", b"");
    syncer.once().await;
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(10), 2));
    std::fs::remove_file(ca.path("target.pem")).unwrap();
    syncer.once().await;
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(10), 3));
}

#[tokio::test]
async fn the_newest_of_all_sources_counts() {
    let (ca, clock) = (Ca::new(), clock());
    for (name, number) in [("stuck", 10), ("newest", 12), ("newer", 11)] {
        ca.openssl.write(name, &ca.crl(&list(number, 0, &[])));
    }
    let sources = r#"["absent", "stuck", "newest", "newer"]"#;
    let mut syncer = ca
        .open_with(&ca.hook("cat >> heard"), &[("device-1", sources)], &clock)
        .unwrap();
    syncer.once().await;
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(12), 1));
}

#[tokio::test]
async fn no_file_is_made_before_every_issuer_is_there() {
    let (ca, clock) = (Ca::new(), clock());
    let crls = [("device-1", "[\"source\"]"), ("device-2", "[\"source-2\"]")];
    let mut syncer = ca
        .open_with(&ca.hook("cat >> heard"), &crls, &clock)
        .unwrap();
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    let status = syncer.once().await;
    let told = status.text();
    assert!(told.contains("device-2 is missing"), "{told}");
    assert!(!ca.path("target.pem").exists() && ca.heard().is_empty());
    ca.openssl
        .write("source-2", &ca.crl_by(1, 1, &list(5, 0, &[])));
    assert_eq!(syncer.once().await.exit_code(), 0);
    let text = std::fs::read_to_string(ca.path("target.pem")).unwrap();
    assert_eq!(text.matches("BEGIN X509 CRL").count(), 2);
    // From then on each goes its own way; the other one's stays.
    std::fs::remove_file(ca.path("source-2")).unwrap();
    ca.serve(&ca.crl(&list(11, 0, &[1, 2])));
    syncer.once().await;
    let text = std::fs::read_to_string(ca.path("target.pem")).unwrap();
    assert_eq!(text.matches("BEGIN X509 CRL").count(), 2);
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(11), 2));
}

#[tokio::test]
async fn a_broker_that_cannot_be_told_is_told_later() {
    let (ca, clock) = (Ca::new(), clock());
    let crls = [("device-1", "[\"source\"]")];
    // It hears, and says that it failed while `deaf` is there.
    let script = "cat >> heard; ! test -e deaf";
    let mut syncer = ca.open_with(&ca.hook(script), &crls, &clock).unwrap();
    ca.openssl.write("deaf", b"");
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    assert_eq!(syncer.once().await.exit_code(), 1);
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(10), 1));
    // Not again at once, and at longer and longer pauses.
    for (seconds, times) in [(0, 1), (1, 2), (1, 2), (1, 3), (3, 3), (1, 4)] {
        clock.pass(Duration::from_secs(seconds));
        assert_eq!(syncer.once().await.exit_code(), 1);
        assert_eq!(ca.heard().len(), times);
        let told = syncer.status().text();
        assert!(told.contains("could not be told"), "{told}");
    }
    // What is newer is told at once, together with what is owed.
    ca.serve(&ca.crl(&list(11, 0, &[1, 2])));
    syncer.once().await;
    let revoked = |heard: &Value| heard["crls"][0]["newly_revoked"].as_array().unwrap().len();
    assert_eq!(
        ca.heard().iter().map(revoked).collect::<Vec<_>>(),
        [1, 1, 1, 1, 2]
    );
    std::fs::remove_file(ca.path("deaf")).unwrap();
    drop(syncer);
    let mut syncer = ca.open_with(&ca.hook(script), &crls, &clock).unwrap();
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert_eq!(
        ca.heard().iter().map(revoked).collect::<Vec<_>>(),
        [1, 1, 1, 1, 2, 2]
    );
}

#[tokio::test]
async fn alarms_come_at_half_a_quarter_and_the_end() {
    let (ca, clock) = (Ca::new(), clock());
    let mut syncer = ca.open(&clock);
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    for (seconds, level, code) in [
        (0, "fresh", 0),
        (499, "fresh", 0),
        (1, "half", 3),
        (249, "half", 3),
        (1, "quarter", 3),
        (250, "ended", 1),
    ] {
        clock.pass(Duration::from_secs(seconds));
        let status = syncer.once().await;
        let told = serde_json::json!(status);
        assert_eq!(
            (&told["crls"][0]["level"], status.exit_code()),
            (&Value::from(level), code),
            "{told}"
        );
        assert_eq!(told["ready"], code != 1);
    }
    let metrics = syncer.status().metrics();
    for line in [
        "hallmark_crl_sync_alarm{crl=\"device-1\"} 3\n",
        "hallmark_crl_sync_left_seconds{crl=\"device-1\"} 0\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    ca.serve(&ca.crl(&list(11, 1000, &[1])));
    assert_eq!(syncer.once().await.exit_code(), 0);
}

#[tokio::test]
async fn crls_of_other_issuers_stay_in_the_file() {
    let (ca, clock) = (Ca::new(), clock());
    let pem =
        |der: &[u8]| der::pem::encode_string("X509 CRL", der::pem::LineEnding::LF, der).unwrap();
    let other = pem(&ca.crl_by(1, 1, &list(5, 0, &[1])));
    let stale = pem(&ca.crl_by(0, 1, &list(9, 0, &[])));
    ca.openssl.write(
        "target.pem",
        format!("# by hand\n{stale}{other}-----BEGIN X509 CRL-----\nAAAA").as_bytes(),
    );
    let mut syncer = ca.open(&clock);
    for number in [10, 11] {
        let own = ca.crl(&list(number, 0, &[1]));
        ca.serve(&own);
        assert_eq!(syncer.once().await.exit_code(), 0);
        let target = String::from_utf8(ca.openssl.read("target.pem")).unwrap();
        assert_eq!(target, pem(&own) + &other);
    }
    assert_eq!(ca.heard().len(), 2);
}

#[tokio::test]
async fn nobody_is_told_of_a_file_that_cannot_be_written() {
    let (ca, clock) = (Ca::new(), clock());
    ca.serve(&ca.crl(&list(10, 0, &[1])));
    // A directory under its name makes the rename fail.
    std::fs::create_dir_all(ca.path("target.pem/inside")).unwrap();
    let mut syncer = ca.open(&clock);
    let status = syncer.once().await;
    assert!(
        status.text().contains("target.pem cannot be written"),
        "{}",
        status.text()
    );
    assert_eq!((status.exit_code(), ca.heard().len()), (1, 0));
    std::fs::remove_dir_all(ca.path("target.pem")).unwrap();
    assert_eq!(syncer.once().await.exit_code(), 0);
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(10), 1));
}

#[tokio::test]
async fn one_process_at_a_time_has_a_broker() {
    let (ca, clock) = (Ca::new(), clock());
    let _first = ca.open(&clock);
    let second = ca.open_with(&ca.hook("true"), &[("device-1", "[\"source\"]")], &clock);
    assert!(
        matches!(second, Err(SyncError::Locked { .. })),
        "{second:?}"
    );
}

#[tokio::test]
async fn a_hashed_directory_has_the_names_that_openssl_looks_for() {
    let (ca, clock) = (Ca::new(), clock());
    ca.serve(&ca.crl(&list(10, 0, &[])));
    std::fs::create_dir(ca.path("crls")).unwrap();
    let table = "[rabbitmq]\ncrl_dir = \"crls\"";
    let mut syncer = ca
        .open_with(table, &[("device-1", "[\"source\"]")], &clock)
        .unwrap();
    assert_eq!(syncer.once().await.exit_code(), 0);
    let hash =
        String::from_utf8(ca.openssl.run("x509 -in device-1.crt -noout -subject_hash")).unwrap();
    let file = format!("crls/{}.r0", hash.trim());
    let said = ca.openssl.ask(&format!("crl -in {file} -noout -crlnumber"));
    assert!(said.text.contains("crlNumber=0x0A"), "{}", said.text);
}

#[test]
fn name_hashes_are_openssls_for_every_kind_of_text() {
    let openssl = OpenSsl::new();
    openssl.key("ca", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    for (mask, subject) in [
        ("utf8only", "/O=Examples_of__Things/CN=Device_Issuer_1"),
        ("utf8only", "/C=NL/O=Fabriek_\u{c9}\u{e9}n/CN=\u{130}x"),
        ("default", "/C=NL/O=__Lead_and_trail__/CN=UPPER"),
        (
            "default",
            "/C=NL/O=A+OU=B+CN=c/emailAddress=Some@Example.ORG",
        ),
    ] {
        // Blanks part the words of a command line here.
        let text = format!(
            "[req]\nprompt=no\nstring_mask={mask}\nutf8=yes\ndistinguished_name=d\nx509_extensions=x\n[d]\n{}\n[x]\n\
             basicConstraints=CA:TRUE\n",
            subject
                .replace('_', " ")
                .split('/')
                .skip(1)
                .enumerate()
                .flat_map(|(at, part)| {
                    let several = part.split('+').enumerate().map(move |(inner, one)| {
                        let plus = if inner == 0 { "" } else { "+" };
                        format!("{at}.{plus}{one}\n")
                    });
                    several.collect::<Vec<_>>()
                })
                .collect::<String>()
        );
        openssl.write("name.cnf", text.as_bytes());
        openssl.run("req -x509 -new -key ca.pem -config name.cnf -days 1 -out ca.crt");
        let der = openssl.run("x509 -in ca.crt -outform DER");
        let certificate = Certificate::from_der(&der).unwrap();
        let name = certificate.tbs_certificate().subject().to_der().unwrap();
        let hash = String::from_utf8(openssl.run("x509 -in ca.crt -noout -subject_hash")).unwrap();
        assert_eq!(name_hash(&name), hash.trim(), "{text}");
    }
}

/// Answers one request at a time with what `answer` makes of it.
async fn serve_http(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut octet = [0];
                if stream.read(&mut octet).await.unwrap_or(0) == 0 {
                    break;
                }
                head.push(octet[0]);
            }
            let _ = stream
                .write_all(&answer(&String::from_utf8_lossy(&head)))
                .await;
            let _ = stream.shutdown().await;
        }
    });
    format!("http://{address}/crl/device-1.crl")
}

#[tokio::test]
async fn over_http_only_what_changed_is_sent_and_no_redirect_is_followed() {
    let (ca, clock) = (Ca::new(), clock());
    let crl = ca.crl(&list(10, 0, &[1]));
    let length = crl.len();
    let (whole, torn) = (crl.clone(), crl[..length - 1].to_vec());
    let tag = crate::responder::etag(&crl).to_str().unwrap().to_owned();
    let right = serve_http(move |head| {
        assert!(
            head.starts_with("GET /crl/device-1.crl HTTP/1.1\r\n"),
            "{head}"
        );
        // Whoever was in the way once may have named a tag that every version matches.
        assert!(!head.contains("if-none-match: *"), "{head}");
        if head.contains(&format!("if-none-match: {tag}")) {
            return b"HTTP/1.1 304 Not Modified\r\n\r\n".to_vec();
        }
        let head = format!("HTTP/1.1 200 OK\r\netag: *\r\ncontent-length: {length}\r\n\r\n");
        [head.into_bytes(), whole.clone()].concat()
    })
    .await;
    let torn = serve_http(move |_| {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        [head.into_bytes(), torn.clone()].concat()
    })
    .await;
    let elsewhere = right.clone();
    let redirect = serve_http(move |_| {
        format!("HTTP/1.1 302 Found\r\nlocation: {elsewhere}\r\ncontent-length: 0\r\n\r\n")
            .into_bytes()
    })
    .await;
    let absent =
        serve_http(|_| b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec()).await;
    let long =
        serve_http(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 999999999\r\n\r\n".to_vec()).await;
    for (url, expected) in [
        (&torn, "the connection broke"),
        (&redirect, "redirects are not followed"),
        (&absent, "404 Not Found"),
        (&long, "longer than"),
    ] {
        let sources = format!("[{url:?}]");
        let mut syncer = ca
            .open_with(&ca.hook("cat >> heard"), &[("device-1", &sources)], &clock)
            .unwrap();
        let told = fault(&syncer.once().await);
        assert!(told.contains(expected), "{told}");
        assert!(!ca.path("target.pem").exists());
    }
    let sources = format!("[{torn:?}, {right:?}]");
    let mut syncer = ca
        .open_with(&ca.hook("cat >> heard"), &[("device-1", &sources)], &clock)
        .unwrap();
    for _ in 0..3 {
        syncer.once().await;
    }
    assert_eq!((ca.number_in_place(), ca.heard().len()), (Some(10), 1));
}
