//! The database's own fsync fails, after pages were moved into it beside the writer.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use crate::harness::Appliance;
use crate::harness::faults::Faults;
use crate::harness::invariants;

/// A reader of the database that keeps its view until its input ends: what was written later stays where it is.
const READER: &str = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute('BEGIN')
print(database.execute('SELECT size FROM tree').fetchone()[0], flush=True)
sys.stdin.read()
";

/// Starts the reader and waits until it has its view.
fn reader(appliance: &Appliance) -> Child {
    let mut reader = Command::new("python3");
    reader
        .args(["-c", READER])
        .arg(appliance.site.path().join("state/hallmark.db"));
    let mut reader = reader
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut size = String::new();
    BufReader::new(reader.stdout.take().unwrap())
        .read_line(&mut size)
        .unwrap();
    assert!(size.trim().parse::<u64>().unwrap() > 0);
    reader
}

/// Entries in the log.
fn size(appliance: &Appliance) -> u64 {
    appliance.json(&["status"])["log"]["size"].as_u64().unwrap()
}

#[test]
fn pages_whose_fsync_failed_are_moved_again_by_the_next_start() {
    let (mut appliance, faults) = Faults::appliance();
    let line = appliance.line_and_order(20_000);
    let before = size(&appliance);
    // With it only the older pages can be moved, and for those alone SQLite makes no fsync.
    let mut reader = reader(&appliance);
    let words = ["--connections", "2", "--batch", "128", "--count", "10000"];
    let mut client = appliance.line_client(&line, &words);
    let client = client.stdout(Stdio::inherit());
    faults.order_of_disk("lost 0 1000000 hallmark.db");
    let mut client = client.spawn().unwrap();
    appliance.wait("moved in part", |appliance| {
        size(appliance) > before + 3_000
    });
    assert_eq!(faults.disk_fired(), "", "an fsync of the database was made");
    drop(reader.stdin.take());
    reader.wait().unwrap();
    appliance.wait("dead", |appliance| {
        // In this order: without the appliance the client gives up some time.
        let over = client.try_wait().unwrap().is_some();
        let dead = appliance.daemon_ended();
        assert!(dead || !over, "the load has ended");
        dead
    });
    // It may have given up.
    let _killed = client.kill();
    client.wait().unwrap();
    assert!(faults.disk_fired().starts_with("lost\n"));
    let said = appliance.logged();
    assert!(
        said.contains("its next start moves everything again"),
        "{said}"
    );
    faults.order_of_disk("");
    appliance.kill();
    appliance.spawn_host();
    faults.start_daemon(&mut appliance);
    invariants::assert_and_stop(&mut appliance);
}
