//! Tests of the log as a whole: real SQLite, real signatures, temporary directories.

mod claims;
mod faults;
mod life;
mod publication;
mod responders;
mod revocations;
mod revoked;
mod units;

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use certstatus::log::entry::Slug;
use certstatus::log::merkle::{Frontier, Hash, leaf_hash};
use certstatus::log::{
    Detail as _, DetailHash, Entry, EntryKind, EventDetail, Gone, IssuerName, LeafIndex, Outcome,
    Subject, UnitsReturned,
};
use certstatus::signature::{PublicKey, SignatureAlgorithm};
use certstatus::{SerialNumber, UnixMillis};
use serde_json::json;
use sqlx::{Connection as _, Row as _};
use tempfile::TempDir;

use super::start::Parts;
use super::tables::WriteFault;
use super::writer::Pace;
use super::*;
use crate::limits::UNRESOLVED_RETURNED_MAX;
use crate::profile::Tbs;
use crate::ra::{GrantKind, OrderState, OrderTerms, PartyCertificate, Purpose};
use crate::store::StoreError;

/// The time at which tests begin.
const NOW: UnixMillis = UnixMillis(1_800_000_000_123);

/// The origin of tests' logs.
const ORIGIN: &str = "log.example/site";

/// Everything at once, but for ticks.
const HASTE: Pace = Pace {
    tick: Duration::from_secs(3600),
    publication: Duration::from_millis(5),
    retry_min: Duration::from_millis(5),
    retry_max: Duration::from_millis(20),
    stop: Duration::from_millis(200),
};

/// What goes wrong at the next commits.
#[derive(Clone, Default)]
pub(super) struct Faults {
    before: Arc<AtomicU8>,
    after: Arc<AtomicU8>,
}

impl Faults {
    /// Fails before the transaction: lost.
    pub(super) fn before_commit(&self) -> Result<(), WriteFault> {
        spend(&self.before)
    }

    /// Fails after the transaction: done but reported as failed.
    pub(super) fn after_commit(&self) -> Result<(), WriteFault> {
        spend(&self.after)
    }

    /// The next commits are lost.
    fn lose(&self, commits: u8) {
        self.before.store(commits, Ordering::SeqCst);
    }

    /// The next commits are done but reported as failed.
    fn misreport(&self, commits: u8) {
        self.after.store(commits, Ordering::SeqCst);
    }
}

/// Uses one fault up.
fn spend(left: &AtomicU8) -> Result<(), WriteFault> {
    let taken = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    match taken {
        Ok(_) => Err(WriteFault::Sql(sqlx::Error::WorkerCrashed)),
        Err(_) => Ok(()),
    }
}

/// A directory with a log's store, keys and publication.
struct Site {
    dir: TempDir,
    clock: Clock,
    ca: Ca,
    pace: Pace,
}

/// An issuer's key in software.
struct Ca {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// A device's request as the tests vary it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Device {
    order: &'static str,
    id: &'static str,
    key: u8,
    requested: u8,
}

/// A device of the order `demo`.
const fn device(id: &'static str, key: u8) -> Device {
    Device {
        order: "demo",
        id,
        key,
        requested: key,
    }
}

impl Ca {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let mut spki = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        spki.extend_from_slice(pair.public_key().as_ref());
        let public = PublicKey::parse(&spki).unwrap();
        Self { pair, public }
    }

    /// Steps 3 and 4.
    fn certify(&self, intent: Intent) -> Certificate {
        let signature = self.pair.sign(intent.tbs()).as_ref().to_vec();
        intent.certify(signature, 1).unwrap()
    }
}

/// A DER value of less than 128 octets.
fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag, u8::try_from(contents.len()).unwrap()];
    assert!(contents.len() < 128);
    out.extend_from_slice(contents);
    out
}

/// A TBSCertificate as far as the log reads it.
fn tbs_der(serial: SerialNumber) -> Vec<u8> {
    let parts = [
        der(0xa0, &der(0x02, &[2])),
        der(0x02, serial.as_bytes()),
        SignatureAlgorithm::Ed25519.identifier().to_vec(),
        der(0x30, &[]),
        // What follows is as long as in a typical certificate for a P-256 key.
        [&[0x04, 0x82, 0x01, 0xc2][..], &[0x55; 450]].concat(),
    ];
    let contents = parts.concat();
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    [&[0x30, 0x82][..], &length, &contents].concat()
}

/// The certificate with which a line asks.
fn line_certificate(line: &str) -> PartyCertificate {
    let sha256 = DetailHash::of(line.as_bytes());
    let (serial, _) = sha256.0.split_first_chunk().unwrap();
    PartyCertificate {
        serial: SerialNumber::from_random(*serial),
        sha256,
        not_before: NOW,
        not_after: UnixMillis::END_OF_TIME,
    }
}

/// Adds a line with its certificate.
pub(crate) async fn add_line(log: &SigningLog, name: &str) {
    let line: Slug = name.parse().unwrap();
    let certified = Change::LineCertified {
        line: line.clone(),
        certificate: line_certificate(name),
        renews: None,
    };
    for change in [Change::LineAdded { line }, certified] {
        log.record_change("op", change).await.unwrap();
    }
}

/// A fresh serial.
fn serial() -> SerialNumber {
    let mut octets = [0; 16];
    aws_lc_rs::rand::fill(&mut octets).unwrap();
    SerialNumber::from_random(octets)
}

impl Device {
    fn order(&self) -> Slug {
        self.order.parse().unwrap()
    }

    fn claim(&self) -> Claim {
        Claim {
            order: self.order(),
            spki: DetailHash([self.key; 32]),
            requested: DetailHash([self.requested; 32]),
        }
    }

    fn grant(&self) -> Grant {
        Grant(GrantKind::Unit {
            order: self.order(),
            line: "line-1".parse().unwrap(),
            certificate: line_certificate("line-1").serial,
            device_id: self.id.to_owned(),
        })
    }
}

impl Site {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let pem = LogKey::generate().unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600);
        let mut file = file.open(dir.path().join("log.key")).unwrap();
        file.write_all(pem.as_bytes()).unwrap();
        Self {
            dir,
            clock: Clock::fixed(NOW),
            ca: Ca::new(),
            pace: HASTE,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn parts(&self) -> Parts {
        Parts {
            clock: self.clock.clone(),
            origin: ORIGIN.to_owned(),
            key: LogKey::from_file(&self.path("log.key")).unwrap(),
            publication: Publication {
                published: self.path("public"),
                details: self.path("private"),
            },
            pace: self.pace,
        }
    }

    /// A new log, without lines and orders.
    async fn bare(&self) -> SigningLog {
        let store = Store::create(&self.path("state")).await.unwrap();
        SigningLog::create_with(store, self.parts(), json!({ "site": "test" }))
            .await
            .unwrap()
    }

    /// A new log with a line, an issuer `device-1` and the order `demo` for this many devices.
    async fn log(&self, quantity: u64) -> SigningLog {
        let log = self.bare().await;
        add_line(&log, "line-1").await;
        open_order(&log, "demo", quantity).await;
        log
    }

    /// The store, which nobody holds any more. A program that another test is just starting has this process's
    /// files until it runs, the lock among them.
    async fn store(&self) -> Store {
        let opening = async {
            loop {
                match Store::open(&self.path("state")).await {
                    Err(StoreError::Locked { .. }) => {
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    opened => return opened.unwrap(),
                }
            }
        };
        let opened = tokio::time::timeout(Duration::from_secs(20), opening).await;
        opened.expect("nobody holds the lock")
    }

    /// The same log, recovering.
    async fn open(&self) -> Result<SigningLog, LogError> {
        SigningLog::open_with(self.store().await, self.parts()).await
    }

    /// The same log, running.
    async fn reopen(&self) -> SigningLog {
        let log = self.open().await.unwrap();
        log.recover(Hsm::open(&[])).await.unwrap();
        log
    }

    fn tbs(&self, issuer: &str, device: Device) -> Tbs {
        let serial = serial();
        Tbs {
            der: tbs_der(serial),
            issuer: issuer.parse().unwrap(),
            issuer_key: self.ca.public.clone(),
            algorithm: SignatureAlgorithm::Ed25519,
            serial,
            not_before: NOW,
            not_after: UnixMillis::END_OF_TIME,
            profile: "mqtt-device".to_owned(),
            spki: device.claim().spki,
            requested: device.claim().requested,
            device_id: Some(device.id.to_owned()),
        }
    }

    /// Step 2.
    async fn intent(&self, log: &SigningLog, device: Device) -> Result<Intent, IntentRefused> {
        let object = ToBeSigned::Certificate(self.tbs("device-1", device));
        log.record_intent(&device.grant(), object).await
    }

    /// Steps 2 to 5.
    async fn issue(&self, log: &SigningLog, device: Device) -> Result<Issued, IntentRefused> {
        let intent = self.intent(log, device).await?;
        Ok(log.record_issued(self.ca.certify(intent)).await.unwrap())
    }

    /// A connection of one's own to the database.
    async fn sqlite(&self) -> sqlx::SqliteConnection {
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.path("state/hallmark.db"))
            .busy_timeout(Duration::from_secs(5));
        sqlx::SqliteConnection::connect_with(&options)
            .await
            .unwrap()
    }

    /// Every entry, parsed, and the root over their leaves, computed without tiles.
    async fn entries(&self) -> (Vec<Entry>, Hash) {
        let mut database = self.sqlite().await;
        let rows = sqlx::query("SELECT leaf FROM entry ORDER BY idx")
            .fetch_all(&mut database)
            .await
            .unwrap();
        let mut tree = Frontier::default();
        let entries = rows.iter().map(|row| {
            let leaf: &[u8] = row.get("leaf");
            tree.push(leaf_hash(leaf));
            Entry::parse(leaf).unwrap()
        });
        let entries = entries.collect();
        (entries, tree.root())
    }

    /// What must hold at any time while the log runs: checked on the database alone.
    async fn check(&self, log: &SigningLog) {
        let (entries, root) = self.entries().await;
        let size = u64::try_from(entries.len()).unwrap();
        assert_eq!(log.status().size, size);
        let head = log.inner.shared.confirmed().unwrap();
        assert_eq!((head.size, head.root), (size, root));
        let mut time = UnixMillis(0);
        let mut serials = BTreeSet::new();
        let mut open = HashMap::new();
        for (index, entry) in (0u64..).zip(&entries) {
            assert_eq!(entry.index, LeafIndex(index));
            assert!(entry.time >= time);
            time = entry.time;
            match &entry.kind {
                EntryKind::Intent { issuer, subject } => {
                    if let Subject::Certificate { serial, .. } = subject {
                        assert!(serials.insert(*serial), "serial twice");
                    }
                    open.insert(index, (issuer.clone(), *subject));
                }
                EntryKind::Outcome {
                    intent,
                    issuer,
                    subject,
                    ..
                } => {
                    let opened = open.remove(&intent.0).expect("an open intent");
                    assert_eq!(opened, (issuer.clone(), *subject));
                }
                _ => {}
            }
        }
        assert_eq!(
            u64::try_from(open.len()).unwrap(),
            log.status().open_intents
        );
        let units = counted(&entries, &mut self.sqlite().await).await;
        for order in log.registry().orders() {
            let counted = units.get(order.terms.order.as_str()).copied();
            let counted = counted.unwrap_or_default();
            assert_eq!((order.used, order.held), counted, "{}", order.terms.order);
        }
    }
}

/// The units of each order that are used and that are held, counted from the entries by the rules.
async fn counted(
    entries: &[Entry],
    database: &mut sqlx::SqliteConnection,
) -> HashMap<String, (u64, u64)> {
    let rows = sqlx::query("SELECT intent, order_name FROM certificate WHERE order_name NOTNULL")
        .fetch_all(&mut *database)
        .await
        .unwrap();
    let orders: HashMap<u64, String> = rows
        .iter()
        .map(|row| {
            let intent: i64 = row.get("intent");
            (u64::try_from(intent).unwrap(), row.get("order_name"))
        })
        .collect();
    let mut units: HashMap<String, (u64, u64)> = HashMap::new();
    let mut unresolved: HashMap<String, u32> = HashMap::new();
    for entry in entries {
        match &entry.kind {
            EntryKind::Intent { .. } => {
                if let Some(order) = orders.get(&entry.index.0) {
                    units.entry(order.clone()).or_default().0 += 1;
                }
            }
            EntryKind::Outcome {
                intent, outcome, ..
            } => {
                let Some(order) = orders.get(&intent.0) else {
                    continue;
                };
                let (used, held) = units.get_mut(order).unwrap();
                match outcome {
                    Outcome::Issued { .. } => {}
                    Outcome::Abandoned => *used -= 1,
                    Outcome::Unresolved { .. } => {
                        let so_far = unresolved.entry(order.clone()).or_default();
                        *so_far += 1;
                        if *so_far <= UNRESOLVED_RETURNED_MAX {
                            *used -= 1;
                        } else {
                            *held += 1;
                        }
                    }
                }
            }
            EntryKind::Event { event } if event.0.as_str() == UnitsReturned::EVENT => {
                let detail = detail(entry.index, database).await;
                let act = UnitsReturned::of(&detail).unwrap();
                let (used, held) = units.get_mut(&act.order).unwrap();
                *used -= act.units;
                *held -= act.units;
            }
            _ => {}
        }
    }
    units
}

/// The detail of an event.
async fn detail(index: LeafIndex, database: &mut sqlx::SqliteConnection) -> EventDetail {
    let row = sqlx::query("SELECT detail FROM entry WHERE idx = $1")
        .bind(i64::try_from(index.0).unwrap())
        .fetch_one(database)
        .await
        .unwrap();
    EventDetail::parse(row.get("detail")).unwrap()
}

/// Loses signatures for `line-1` and the order `demo`, one intent after another.
pub(crate) async fn lose_signatures(log: &SigningLog, count: u32) {
    let site = Site::new();
    for _ in 0..count {
        let intent = site.intent(log, device("lost", 200)).await.unwrap();
        log.record_failed(failed(intent, 2)).await.unwrap();
    }
}

/// Opens an order of `device-1` from now for a day.
async fn open_order(log: &SigningLog, order: &str, quantity: u64) {
    let terms = OrderTerms {
        order: order.parse().unwrap(),
        profile: "mqtt-device".to_owned(),
        issuer: "device-1".parse().unwrap(),
        lines: BTreeSet::from(["line-1".parse().unwrap()]),
        quantity,
        from: NOW,
        until: NOW.saturating_add(Duration::from_secs(86_400)),
        device_id_pattern: "[A-Za-z0-9-]+".to_owned(),
    };
    log.record_change("op", Change::OrderOpened { terms })
        .await
        .unwrap();
}

/// A failed intent.
fn failed(intent: Intent, attempts: u32) -> Failed {
    Failed {
        intent,
        attempts,
        reason: "test".to_owned(),
    }
}

/// Waits until the log is in a state, by its status alone.
async fn until(log: &SigningLog, wanted: impl Fn(&LogState) -> bool) {
    let waiting = async {
        while !wanted(&log.status().state) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .expect("the state comes");
}

impl SigningLog {
    /// Dies as a killed process does: nothing is finished, nobody is answered.
    async fn kill(self) {
        let tasks = self.inner.tasks.lock().unwrap().take().unwrap();
        tasks.writer.abort();
        tasks.publisher.abort();
        tasks.mover.abort();
        let _aborted = (tasks.writer.await, tasks.publisher.await, tasks.mover.await);
    }
}

/// Used units of `demo`.
fn used(log: &SigningLog) -> u64 {
    log.registry().order(&"demo".parse().unwrap()).unwrap().used
}

/// The serials and reasons that a full CRL of `device-1` lists.
async fn all_revoked(log: &SigningLog) -> Vec<certstatus::crl::RevokedEntry> {
    listed(log, 0, None).await
}

/// The same for a partition, without what left.
async fn listed(
    log: &SigningLog,
    partition: u32,
    gone: Option<Gone>,
) -> Vec<certstatus::crl::RevokedEntry> {
    let contents = CrlContents {
        issuer: &"device-1".parse().unwrap(),
        partition,
        gone,
    };
    let read = log.revoked(&contents).await.unwrap();
    let size = read.checkpoint.lines().nth(1).unwrap();
    assert_eq!(size.parse(), Ok(read.size));
    let entries = read.list.entries();
    let tbs = read.list.finish(&certstatus::crl::CrlFields {
        issuer: &[0x30, 0x00],
        authority_key_id: &[1; 20],
        algorithm: SignatureAlgorithm::Ed25519,
        number: 1,
        this_update: NOW,
        next_update: NOW,
        scope: certstatus::crl::Scope::Everything,
        expired_since: None,
        anchor: certstatus::crl::LogAnchor {
            origin: ORIGIN,
            log_key: &log.verifier_key(),
            checkpoint: &read.checkpoint,
        },
    });
    let der = certstatus::signature::assemble(tbs.der(), SignatureAlgorithm::Ed25519, &[0; 64]);
    let revoked = certstatus::crl::parse(&der).unwrap().revoked;
    assert_eq!(revoked.len(), entries);
    revoked
}
