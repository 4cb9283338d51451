//! One row of the crash matrix: a request under a fault, then everything that must hold whatever the fault was.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use rustix::process::Signal;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::harness::appliance::{LineIdentity, PATIENCE, try_post};
use crate::harness::device::{Device, der, serial_of};
use crate::harness::faults::Faults;
use crate::harness::{Appliance, Reply, invariants};

/// The path of the one order.
const DEMO: &str = "/v1/orders/demo/certificates";

/// Issuers of a site; the key of each signs a self-test at every start.
const ISSUERS: u64 = 4;

/// A row of the matrix.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Step, what happens, and what makes the row special.
    pub name: &'static str,
    /// What goes wrong.
    pub fault: Fault,
    /// What the client is told.
    pub answer: Answer,
    /// What became of the request's intent.
    pub first: First,
    /// Units of the order.
    pub quantity: u64,
    /// Attempts that the log counts beyond the signatures that it records.
    pub wasted: u64,
    /// Signatures that the token made beyond those that the log records.
    pub unrecorded: u64,
}

/// What most rows have in common.
pub const ROW: Row = Row {
    name: "",
    fault: Fault::Refusal,
    answer: Answer::None,
    first: First::NoIntent,
    quantity: 3,
    wasted: 0,
    unrecorded: 0,
};

/// How a fault is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What happens instead of a sync (or a write: `no-room`) of the write-ahead log, after so many that pass.
    Sync(&'static str, u64),
    /// The same, for so many syncs in a row.
    Syncs(&'static str, u64, u64),
    /// Commands for the token; `{daemon}` and `{host}` are files with process ids.
    Token(&'static str),
    /// The daemon is killed while the request lies in its socket, unread.
    KilledBeforeReading,
    /// The daemon is killed while it waits for the right to write to the database, which the test holds.
    KilledBeforeWriting,
    /// The daemon is killed while the token takes its time.
    KilledWhileSigning,
    /// The token host is stopped before.
    HostAway,
    /// The token host is killed while the intent's sync is held, and stays away until the request is answered.
    HostKilledAfterIntent,
    /// Nothing fails: the request asks for what the profile forbids.
    Refusal,
}

/// What the client gets for its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The certificate.
    Created,
    /// A problem document with this status and type.
    Problem(u16, &'static str),
    /// Nothing: the daemon is gone.
    None,
}

/// What became of the first request's intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// There is none.
    NoIntent,
    /// Its certificate is in the log.
    Issued,
    /// The request provably never reached a token.
    Abandoned,
    /// A signature may exist.
    Unresolved,
}

/// Runs rows one after the other, each in a thread of its name, and names all that failed.
///
/// # Panics
/// When a row failed.
pub fn run(rows: &'static [Row]) {
    let mut failed = Vec::new();
    for row in rows {
        let thread = std::thread::Builder::new().name(row.name.to_owned());
        let started = Instant::now();
        let running = thread.spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(Box::pin(run_one(row)));
        });
        if running.unwrap().join().is_err() {
            failed.push(row.name);
        }
        println!("{:5.1} s  {}", started.elapsed().as_secs_f64(), row.name);
    }
    assert!(failed.is_empty(), "rows that failed: {failed:#?}");
}

/// One row, from the start of an appliance to the audit of its log.
async fn run_one(row: &Row) {
    let signed_before = signatures_of_the_ceremony();
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(row.quantity);
    let device = Device::new(appliance.site.path(), "first");
    let reply = under_fault(row, &mut appliance, &faults, &line, &device).await;
    assert_answer(row, reply.as_ref());
    if row.answer == Answer::None {
        appliance.wait("dead", Appliance::daemon_ended);
        assert_fired_and_end(row, &faults);
        let signatures = faults.signatures();
        faults.start_daemon(&mut appliance);
        if row.fault == Fault::KilledWhileSigning {
            // Self-tests come after recovery, which waits for the end of the signature that nobody wants.
            // The CRL with the unresolved serial comes by itself, and may be here already.
            let expected = signatures + 1 + ISSUERS;
            let signed = faults.signatures();
            assert!(
                (expected..=expected + 1).contains(&signed),
                "recovery was early: {signed}"
            );
        }
    } else {
        if matches!(row.fault, Fault::HostAway | Fault::HostKilledAfterIntent) {
            appliance.spawn_host();
        }
        // Recovery needs nobody.
        appliance.wait_until_ready();
        assert_fired_and_end(row, &faults);
    }
    let first = first_intent(row, &appliance);
    let issued = retry(row, &mut appliance, &line, &device, first.as_ref()).await;
    if let (Answer::Created, Some(reply)) = (row.answer, &reply) {
        assert_eq!(reply.body, issued.body, "the retry got another certificate");
    }
    use_up(row, &mut appliance, &line).await;
    invariants::assert_and_stop(&mut appliance);
    assert_accounts(row, &appliance, &faults, signed_before);
}

/// Signatures that the ceremony left in the log of every site.
fn signatures_of_the_ceremony() -> u64 {
    static COUNT: OnceLock<u64> = OnceLock::new();
    *COUNT.get_or_init(|| {
        let site = crate::harness::Site::new();
        let report = invariants::report(&Appliance::stopped(site));
        total(&report, "signatures")
    })
}

/// A figure of the auditor's report over all classes.
fn total(report: &Value, figure: &str) -> u64 {
    let classes = report["classes"].as_object().unwrap();
    classes
        .values()
        .map(|tally| tally[figure].as_u64().unwrap())
        .sum()
}

/// Sends the first request with the fault in its way; the answer, if there is one.
async fn under_fault(
    row: &Row,
    appliance: &mut Appliance,
    faults: &Faults,
    line: &LineIdentity,
    device: &Device,
) -> Option<Reply> {
    let mut request = device.request();
    let mut lock = None;
    match row.fault {
        Fault::Sync(action, skip) => {
            faults.order_of_disk(&format!("{action} {skip} 1 hallmark.db-wal"));
        }
        Fault::Syncs(action, skip, count) => {
            faults.order_of_disk(&format!("{action} {skip} {count} hallmark.db-wal"));
        }
        Fault::Token(commands) => {
            let path = appliance.site.path();
            let mut commands = commands.to_owned();
            for (name, id) in [
                ("daemon", appliance.daemon_id()),
                ("host", appliance.host_id()),
            ] {
                let file = path.join(format!("{name}.id"));
                std::fs::write(&file, id.to_string()).unwrap();
                commands = commands.replace(&format!("{{{name}}}"), file.to_str().unwrap());
            }
            faults.order_of_token(&commands);
        }
        Fault::KilledBeforeWriting => lock = Some(hold_database(appliance.site.path()).await),
        Fault::HostAway => {
            appliance.stop_host();
            appliance.wait("without a token", |appliance| !appliance.is_ready());
        }
        Fault::HostKilledAfterIntent => faults.order_of_disk("hold 0 1 hallmark.db-wal"),
        Fault::KilledWhileSigning => faults.order_of_token("delay_ms 900"),
        Fault::KilledBeforeReading => {}
        Fault::Refusal => {
            let more = ["-addext", "subjectAltName=DNS:broker.example"];
            request = device.request_with("/CN=first", &more);
        }
    }
    let mut connection = appliance.connect(line).await;
    if row.fault == Fault::KilledBeforeReading {
        appliance.signal_daemon(Signal::STOP);
        appliance.wait("stopped", |appliance| has_stopped(appliance.daemon_id()));
    }
    let sent = tokio::spawn(async move { try_post(&mut connection, DEMO, &request).await.ok() });
    let ends = Instant::now() + PATIENCE;
    while !sent.is_finished() {
        match row.fault {
            Fault::KilledBeforeReading if lies_unread(appliance) => {
                appliance.signal_daemon(Signal::KILL);
            }
            Fault::KilledBeforeWriting if in_work(appliance) => {
                appliance.signal_daemon(Signal::KILL);
            }
            Fault::KilledWhileSigning if signs(appliance) => {
                appliance.signal_daemon(Signal::KILL);
            }
            Fault::HostKilledAfterIntent
                if faults.disk_fired() == "hold\n" && !faults.disk_order().is_empty() =>
            {
                appliance.kill_host();
                // Only then goes the intent on its way, and nobody can have been asked to sign it.
                appliance.wait("without a token", |appliance| !appliance.is_ready());
                faults.order_of_disk("");
            }
            // What a service's supervisor does.
            _ if appliance.host_ended() => appliance.spawn_host(),
            _ => {}
        }
        assert!(Instant::now() < ends, "no end of the request");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Some(lock) = lock {
        lock.close().await.unwrap();
    }
    sent.await.unwrap()
}

/// Takes the right to write to the database.
async fn hold_database(site: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(site.join("state/hallmark.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

/// Whether each thread of a process has stopped: the signal alone does not say when.
fn has_stopped(process: u32) -> bool {
    std::fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit(") ").next().unwrap().starts_with('T')
        })
}

/// Whether a request has arrived at the daemon's socket that it did not read.
fn lies_unread(appliance: &Appliance) -> bool {
    let port = appliance.site.api_port();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).any(|socket| {
        let fields: Vec<&str> = socket.split_whitespace().collect();
        let (local, state, queues) = (fields[1], fields[3], fields[4]);
        let unread = queues.split(':').nth(1).unwrap();
        state == "01" && local.ends_with(&format!(":{port:04X}")) && unread != "00000000"
    })
}

/// Whether the daemon works on a request.
fn in_work(appliance: &Appliance) -> bool {
    let url = format!("http://{}/metrics", appliance.site.ops());
    let mut curl = Command::new("curl");
    let output = curl
        .args(["--silent", "--max-time", "5", &url])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .any(|line| line == "hallmark_requests_in_flight 1")
}

/// Whether a certificate of the order is being signed.
pub fn signs(appliance: &Appliance) -> bool {
    let listed = appliance.try_command(&["cert", "list", "--order", "demo", "--json"]);
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap_or_default();
    listed[0]["status"] == "open"
}

/// What the client was told is what the row says.
fn assert_answer(row: &Row, reply: Option<&Reply>) {
    match (row.answer, reply) {
        (Answer::None, None) => {}
        (Answer::Created, Some(reply)) => {
            assert_eq!(reply.status, StatusCode::CREATED, "{reply:?}")
        }
        (Answer::Problem(status, slug), Some(reply)) => {
            let problem: Value = serde_json::from_slice(&reply.body).unwrap();
            let kind = format!("urn:hallmark:problem:{slug}");
            let told = (reply.status.as_u16(), problem["type"].as_str().unwrap());
            assert_eq!(told, (status, kind.as_str()), "{problem}");
            let again = reply.headers.contains_key("retry-after");
            assert_eq!(again, status == 503, "{reply:?}");
        }
        (expected, reply) => panic!("{expected:?} expected, {reply:?} came"),
    }
}

/// The fault happened, as often as it was ordered, and happens no more.
fn assert_fired_and_end(row: &Row, faults: &Faults) {
    match row.fault {
        Fault::Sync(action, _) => assert_eq!(faults.disk_fired(), format!("{action}\n")),
        Fault::Syncs(action, _, count) => {
            assert_eq!(faults.disk_fired().matches(action).count() as u64, count);
        }
        Fault::Token(_) => {
            let left = faults.token_commands();
            for command in left.lines().filter(|line| line.starts_with("sign ")) {
                assert_eq!(command.split(' ').nth(2), Some("0"), "left: {left}");
            }
        }
        // These show in the answer and in the intent, or that there is none.
        Fault::KilledBeforeReading
        | Fault::KilledBeforeWriting
        | Fault::KilledWhileSigning
        | Fault::HostAway
        | Fault::Refusal => {}
        Fault::HostKilledAfterIntent => assert_eq!(faults.disk_fired(), "hold\n"),
    }
    faults.order_of_disk("");
    faults.order_of_token("");
}

/// What became of the first request's intent is what the row says; its record.
fn first_intent(row: &Row, appliance: &Appliance) -> Option<Value> {
    let mut found = appliance.json(&["cert", "list", "--order", "demo"]);
    let found = found.as_array_mut().unwrap();
    let status = match row.first {
        First::NoIntent => {
            assert!(found.is_empty(), "an intent was left: {found:?}");
            return None;
        }
        First::Issued => "issued",
        First::Abandoned => "abandoned",
        First::Unresolved => "unresolved",
    };
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["status"], status, "{found:?}");
    found.pop()
}

/// The same request again gets its certificate, and the one after that the same one, byte for byte.
async fn retry(
    row: &Row,
    appliance: &mut Appliance,
    line: &LineIdentity,
    device: &Device,
    first: Option<&Value>,
) -> Reply {
    let reply = appliance.ask_until_issued(line, device).await;
    let expected = match row.first {
        First::Issued => StatusCode::OK,
        First::NoIntent | First::Abandoned | First::Unresolved => StatusCode::CREATED,
    };
    assert_eq!(reply.status, expected, "the retry: {reply:?}");
    let serial = serial_of(appliance.site.path(), &der(&reply.body));
    if let Some(first) = first {
        let same = first["serial"] == serial.as_str();
        assert_eq!(same, row.first == First::Issued, "{first} then {serial}");
    }
    let again = appliance.ask_anew(line, "demo", &device.request()).await;
    assert_eq!((again.status, &again.body), (StatusCode::OK, &reply.body));
    reply
}

/// The order has exactly the units that are left after one certificate.
async fn use_up(row: &Row, appliance: &mut Appliance, line: &LineIdentity) {
    for unit in 1..=row.quantity {
        let device = Device::new(appliance.site.path(), &format!("unit-{unit}"));
        let reply = appliance.ask_anew(line, "demo", &device.request()).await;
        let expected = if unit < row.quantity {
            StatusCode::CREATED
        } else {
            StatusCode::CONFLICT
        };
        assert_eq!(reply.status, expected, "unit {unit} of the rest: {reply:?}");
    }
}

/// The log's attempts and the token's signatures agree with what the row says was lost between them.
fn assert_accounts(row: &Row, appliance: &Appliance, faults: &Faults, signed_before: u64) {
    let report = invariants::report(appliance);
    let classes = &report["classes"];
    let (signatures, attempts) = (total(&report, "signatures"), total(&report, "attempts"));
    assert_eq!(
        attempts - signatures,
        row.wasted,
        "wasted attempts: {classes}"
    );
    assert_eq!(
        faults.signatures(),
        signatures - signed_before + row.unrecorded,
        "signatures that the token made: {classes}"
    );
    for (outcome, first) in [
        ("abandoned", First::Abandoned),
        ("unresolved", First::Unresolved),
    ] {
        let expected = u64::from(row.first == first);
        assert_eq!(report["certificates"][outcome], expected, "{outcome}");
    }
}
