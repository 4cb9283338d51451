//! What CRLs are made of: partitions, what expired, and a million entries.

use certstatus::crl::{CrlFields, LogAnchor, Scope};
use tokio::time::Instant;

use super::*;

/// Partitions of the issuer in these tests.
const PARTITIONS: u32 = 3;

/// Makes the issuer `device-1` known, with partitions.
async fn bind(site: &Site, log: &SigningLog) {
    let mut database = site.sqlite().await;
    sqlx::query(
        "INSERT INTO issuer (entry, name, certificate, algorithm, role, parent, partitions) \
         VALUES (0, 'device-1', x'', '\"ed25519\"', '\"device\"', 'device-1', $1)",
    )
    .bind(PARTITIONS)
    .execute(&mut database)
    .await
    .unwrap();
    assert_eq!(log.issuers().await.unwrap().len(), 1);
}

/// Issues and revokes a certificate.
async fn revoke(site: &Site, log: &SigningLog, id: &'static str, key: u8) -> SerialNumber {
    let device = Device {
        order: "demo",
        id,
        key,
        requested: 0,
    };
    let issued = site.issue(log, device).await.unwrap();
    let Subject::Certificate { serial, .. } = *issued.subject() else {
        panic!("no certificate");
    };
    log.record_revoked("op", serial, RevocationReason::KeyCompromise)
        .await
        .unwrap();
    serial
}

#[tokio::test]
async fn each_partition_has_its_serials_and_the_full_list_has_all() {
    let site = Site::new();
    let log = site.log(20).await;
    bind(&site, &log).await;
    let mut told = log.revocations();
    let mut serials = Vec::new();
    for (key, id) in ["a", "b", "c", "d", "e", "f", "g", "h"]
        .into_iter()
        .enumerate()
    {
        let key = u8::try_from(key).unwrap();
        serials.push(revoke(&site, &log, id, key).await);
        assert_eq!(*told.borrow_and_update(), u64::from(key) + 1);
    }
    let of = |list: Vec<certstatus::crl::RevokedEntry>| {
        let serials = list.into_iter().map(|entry| entry.serial);
        serials.collect::<Vec<_>>()
    };
    assert_eq!(of(listed(&log, 0, None).await), serials);
    let issuer = "device-1".parse().unwrap();
    let changed = log.revoked_since(&issuer, 0).await.unwrap();
    for partition in 1..=PARTITIONS {
        let mine: Vec<_> = serials
            .iter()
            .copied()
            .filter(|serial| serial.partition(PARTITIONS) == partition)
            .collect();
        assert_eq!(of(listed(&log, partition, None).await), mine);
        assert_eq!(changed.contains_key(&partition), !mine.is_empty());
    }
    let last = log.status().size - 1;
    assert_eq!(changed.values().max(), Some(&last));
    let since = log.revoked_since(&issuer, last + 1).await.unwrap();
    assert!(since.is_empty());
}

#[tokio::test]
async fn what_expired_leaves_only_after_it_was_on_a_list() {
    let site = Site::new();
    let log = site.log(20).await;
    let first = revoke(&site, &log, "a", 1).await;
    let seen = log.status().size;
    let second = revoke(&site, &log, "b", 2).await;
    // Both certificates end at the end of time; so they have expired only after it.
    let end = UnixMillis::END_OF_TIME;
    let after = UnixMillis(end.0 + 1);
    let serials = async |gone: Option<(UnixMillis, u64)>| {
        let gone = gone.map(|(expired, covered)| Gone { covered, expired });
        let list = listed(&log, 0, gone).await.into_iter();
        list.map(|entry| entry.serial).collect::<Vec<_>>()
    };
    assert_eq!(serials(None).await, [first, second]);
    assert_eq!(serials(Some((end, seen))).await, [first, second]);
    assert_eq!(serials(Some((after, 0))).await, [first, second]);
    assert_eq!(serials(Some((after, seen))).await, [second]);
    assert!(serials(Some((after, log.status().size))).await.is_empty());
}

//------ Scale ----

/// Entries of the log that the generator claims: whole tiles, so that it needs few of them.
const CLAIMED: i64 = 1 << 20;

/// Revocations that it makes: a million in the long run, which also prints what they cost.
#[expect(clippy::disallowed_methods, reason = "the long run is asked for so")]
fn revocations() -> i64 {
    if std::env::var_os("HALLMARK_TEST_LONG").is_some() {
        1_000_000
    } else {
        10_000
    }
}

/// Writes a million revocations into the database of a stopped log, with as little around them as it takes.
async fn generate(site: &Site) {
    let mut database = site.sqlite().await;
    for statement in ["PRAGMA foreign_keys = OFF", "DROP TRIGGER entry_insert"] {
        sqlx::query(statement).execute(&mut database).await.unwrap();
    }
    let tick = Entry {
        index: LeafIndex(u64::try_from(CLAIMED - 1).unwrap()),
        time: NOW,
        kind: EntryKind::Tick,
        detail: None,
    };
    sqlx::query("INSERT INTO entry (idx, leaf) VALUES ($1, $2)")
        .bind(CLAIMED - 1)
        .bind(tick.encode())
        .execute(&mut database)
        .await
        .unwrap();
    sqlx::query(
        "WITH RECURSIVE at(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM at WHERE n < 15) \
         INSERT INTO tile (level, idx, hashes) SELECT 1, n, randomblob(8192) FROM at",
    )
    .execute(&mut database)
    .await
    .unwrap();
    sqlx::query(
        "WITH RECURSIVE at(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM at WHERE n < $1 - 1) \
         INSERT INTO revocation (serial, issuer, entry, reason, revoked_at, not_after, partition) \
         SELECT CAST(x'41' || randomblob(15) AS BLOB), 'device-1', n, 1, $2, $3, 0 FROM at",
    )
    .bind(revocations())
    .bind(i64::try_from(NOW.0).unwrap())
    .bind(i64::try_from(UnixMillis::END_OF_TIME.0).unwrap())
    .execute(&mut database)
    .await
    .unwrap();
    sqlx::query("UPDATE tree SET size = $1")
        .bind(CLAIMED)
        .execute(&mut database)
        .await
        .unwrap();
    database.close().await.unwrap();
}

/// A line of this process's `/proc/self/status` in MiB.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    let kilobytes = line.split_whitespace().nth(1).unwrap();
    kilobytes.parse::<u64>().unwrap() / 1024
}

/// The processor time that this process has taken, milliseconds.
fn processor() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name in brackets: user time is the 12th field, system time the 13th, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap())
        .sum();
    ticks * 10
}

/// What each step of a CRL takes.
struct Meter {
    began: Instant,
    processor: u64,
    before: u64,
    steps: Vec<serde_json::Value>,
}

impl Meter {
    /// Begins to measure: what the generator took is not what a CRL takes, so the peak counts from here.
    fn new() -> Self {
        std::fs::write("/proc/self/clear_refs", "5").unwrap();
        Self {
            began: Instant::now(),
            processor: processor(),
            before: memory("VmRSS"),
            steps: Vec::new(),
        }
    }

    /// Notes that a step ended.
    fn note(&mut self, step: &str) {
        self.steps.push(json!({
            "step": step,
            "until_ms": u64::try_from(self.began.elapsed().as_millis()).unwrap(),
            "processor_ms": processor() - self.processor,
            "peak_mib": memory("VmHWM"),
        }));
    }

    /// Prints a table and one line of JSON.
    fn print(&self, octets: usize) {
        println!("{:>10} {:>10} {:>10}", "until, ms", "CPU, ms", "peak, MiB");
        for step in &self.steps {
            let of = |name: &str| step[name].as_u64().unwrap();
            let (until, cpu, peak) = (of("until_ms"), of("processor_ms"), of("peak_mib"));
            println!(
                "{until:>10} {cpu:>10} {peak:>10}  {}",
                step["step"].as_str().unwrap()
            );
        }
        let result = json!({
            "entries": revocations(), "octets": octets, "before_mib": self.before, "steps": self.steps,
        });
        println!("{result}");
    }
}

/// To measure: `tests/bench/crl/run.sh`.
#[tokio::test(flavor = "multi_thread")]
async fn many_revocations_are_listed_and_logged() {
    let site = Site::new();
    let log = site.bare().await;
    log.stop().await;
    drop(log);
    generate(&site).await;
    std::fs::remove_file(site.path("public/log/checkpoint")).unwrap();
    let log = site.reopen().await;
    let mut meter = Meter::new();
    let issuer: IssuerName = "device-1".parse().unwrap();
    let gone = Some(Gone {
        covered: 7,
        expired: NOW,
    });
    let contents = CrlContents {
        issuer: &issuer,
        partition: 0,
        gone,
    };
    let read = log.revoked(&contents).await.unwrap();
    assert_eq!(i64::try_from(read.list.entries()).unwrap(), revocations());
    meter.note("read and encoded");
    let tbs = read.list.finish(&CrlFields {
        issuer: &[0x30, 0x00],
        authority_key_id: &[1; 20],
        algorithm: SignatureAlgorithm::Ed25519,
        number: NOW.0,
        this_update: NOW,
        next_update: NOW,
        scope: Scope::UserCertificates,
        expired_since: None,
        anchor: LogAnchor {
            origin: ORIGIN,
            log_key: &log.verifier_key(),
            checkpoint: &read.checkpoint,
        },
    });
    let octets = tbs.der().len();
    let grant = Grant::act("op", Purpose::Crl(issuer.clone()));
    let object = ToBeSigned::Crl {
        issuer,
        key: site.ca.public.clone(),
        algorithm: SignatureAlgorithm::Ed25519,
        partition: 0,
        gone,
        tbs,
    };
    let intent = log.record_intent(&grant, object).await.unwrap();
    meter.note("intent durable");
    let certificate = site.ca.certify(intent);
    meter.note("signed and checked");
    let issued = log.record_issued(certificate).await.unwrap();
    meter.note("outcome durable");
    certstatus::durable::write(&site.path("public/crl/device-1.crl"), issued.der()).unwrap();
    meter.note("published");
    assert!(issued.der().len() > octets);
    if revocations() >= 1_000_000 {
        meter.print(octets);
        assert!(memory("VmHWM") < 200, "the whole process, MiB");
    }
}
