//! What readers fetch: only what is published, only by who may, and beside the lines.

use super::*;
use crate::ra::{Reader, Role};

/// What is published at every test's appliance.
const CHECKPOINT: &str = "/public/log/checkpoint";

impl Appliance {
    /// Knows a station as an auditor, valid for a thousand seconds.
    async fn auditor(&self, name: &str, station: &Station) -> Reader {
        let (now, mut serial) = (UnixMillis::from_seconds(NOW), [0; 16]);
        aws_lc_rs::rand::fill(&mut serial).unwrap();
        let reader = Reader {
            role: Role::Auditor,
            name: name.parse().unwrap(),
        };
        let certificate = PartyCertificate {
            serial: SerialNumber::from_random(serial),
            sha256: DetailHash::of(&station.certificate),
            not_before: now,
            not_after: now.saturating_add(Duration::from_secs(1000)),
        };
        let certified = Change::ReaderCertified {
            reader: reader.clone(),
            certificate,
        };
        self.change([certified]).await;
        reader
    }
}

#[tokio::test]
async fn a_reader_gets_what_is_published_and_nothing_else() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.auditor("audit-1", &station).await;
    appliance.log.publish().await.unwrap();
    let mut client = appliance.connect(Some(&station)).await;
    let public = appliance.directory.path().join("public");
    for (path, file) in [
        (CHECKPOINT, "public/log/checkpoint"),
        ("/private/details/000.p/2", "private/details/000.p/2"),
    ] {
        let kept = std::fs::read(appliance.directory.path().join(file)).unwrap();
        let reply = client.send("GET", path, "").await;
        assert_eq!((reply.status, reply.body.as_ref()), (200, kept.as_slice()));
        let head = client.send("HEAD", path, "").await;
        assert_eq!(head.headers["content-length"], kept.len().to_string());
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers["etag"], reply.headers["etag"]);
    }
    // Longer than a piece, and nothing that is not there under its very name.
    let crl: Vec<u8> = (0..1_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    for (file, bytes) in [
        ("crl/device-1.crl", crl.as_slice()),
        ("crl/.device-1.crl.tmp", b"half"),
        ("notes", b"an operator's"),
    ] {
        certstatus::durable::write(&public.join(file), bytes).unwrap();
    }
    let reply = client.send("GET", "/public/crl/device-1.crl", "").await;
    assert_eq!(reply.headers["content-type"], "application/pkix-crl");
    assert!(reply.body == crl);
    for path in [
        "/public/crl/.device-1.crl.tmp",
        "/public/notes",
        "/public/log",
        "/public/",
        "/public",
        "/public/crl/device-2.crl",
        "/public/../private/details/000.p/2",
        "/public/log/../log/checkpoint",
        "/public/log%2Fcheckpoint",
        "/public//log/checkpoint",
        "/private/log/checkpoint",
        "/private/details/000",
    ] {
        let reply = client.send("GET", path, "").await;
        assert_eq!(
            (reply.status, reply.problem()),
            (404, "no-such-path".into()),
            "{path}"
        );
    }
    let reply = client.send("POST", CHECKPOINT, "x").await;
    assert_eq!(reply.problem(), "method-not-allowed");
}

#[tokio::test]
async fn a_reader_is_told_that_it_has_the_file_already() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.auditor("audit-1", &station).await;
    appliance.log.publish().await.unwrap();
    let mut client = appliance.connect(Some(&station)).await;
    let first = client.send("GET", CHECKPOINT, "").await;
    let tag = first.headers["etag"].to_str().unwrap().to_owned();
    let asked = [("if-none-match", tag.as_str())];
    let again = client.send_headed("GET", CHECKPOINT, "", &asked).await;
    assert_eq!((again.status, again.body.len()), (304, 0));
    assert_eq!(again.headers["etag"], first.headers["etag"]);
    appliance.change([set("nobody")]).await;
    appliance.log.publish().await.unwrap();
    let newer = client.send_headed("GET", CHECKPOINT, "", &asked).await;
    assert_eq!(newer.status, 200);
    assert_ne!(newer.body, first.body);
}

/// Any change.
fn set(line: &str) -> Change {
    Change::LineAdded {
        line: line.parse().unwrap(),
    }
}

#[tokio::test]
async fn lines_and_readers_do_only_what_they_are_there_for() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (line, auditor) = (Station::new(), Station::new());
    appliance.line("one", &line).await;
    appliance.auditor("one", &auditor).await;
    appliance.log.publish().await.unwrap();
    let mut client = appliance.connect(Some(&line)).await;
    for path in [CHECKPOINT, "/private/details/000.p/2", "/public/nothing"] {
        let reply = client.send("GET", path, "").await;
        assert_eq!((reply.status, reply.problem()), (403, "wrong-role".into()));
        assert!(
            !reply.headers.contains_key("connection"),
            "it is a line still"
        );
    }
    let mut client = appliance.connect(Some(&auditor)).await;
    for path in [
        "/v1/orders/one/certificates",
        "/v1/orders/one/batches",
        RENEWAL,
    ] {
        let reply = client.send("POST", path, csr("dev-1")).await;
        assert_eq!((reply.status, reply.problem()), (403, "wrong-role".into()));
    }
    for station in [None, Some(&Station::new())] {
        let mut client = appliance.connect(station).await;
        let reply = client.send("GET", CHECKPOINT, "").await;
        let expected = match station {
            None => (401, "no-certificate".to_owned()),
            Some(_) => (403, "unknown-certificate".to_owned()),
        };
        assert_eq!((reply.status, reply.problem()), expected);
    }
}

#[tokio::test]
async fn a_reader_that_may_not_read_any_more_is_refused_on_its_open_connection() {
    let farewell = Duration::from_millis(300);
    let appliance = Appliance::start_with(MinimumTls::V1_3, farewell).await;
    let mut clients = Vec::new();
    let mut readers = Vec::new();
    for name in ["asks", "idle"] {
        let station = Station::new();
        readers.push(appliance.auditor(name, &station).await);
        let mut client = appliance.connect(Some(&station)).await;
        assert_eq!(client.send("GET", "/openapi.json", "").await.status, 200);
        clients.push(client);
    }
    let disabled = readers.into_iter().map(|reader| Change::ReaderSet {
        reader,
        state: PartyState::Disabled,
    });
    appliance.change(disabled).await;
    let reply = clients[0].send("GET", CHECKPOINT, "").await;
    assert_eq!(
        (reply.status, reply.problem()),
        (403, "reader-disabled".into())
    );
    assert_eq!(reply.headers["connection"], "close");
    until(|| clients[1].sender.is_closed()).await;
}

#[tokio::test]
async fn neither_readers_nor_lines_take_the_others_places() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (line, auditor, other) = (Station::new(), Station::new(), Station::new());
    appliance.line("one", &line).await;
    let reader = appliance.auditor("one", &auditor).await;
    appliance.auditor("two", &other).await;
    appliance.log.publish().await.unwrap();
    let (inner, party) = (&appliance.api.inner, Party::Reader(reader));
    let most = limits::CONNECTIONS_PER_READER_MAX;
    let _own: Vec<_> = (0..most)
        .map(|_| inner.reader_connections.take(&party))
        .collect();
    let mut refused = appliance.connect(Some(&auditor)).await;
    let reply = refused.send("GET", CHECKPOINT, "").await;
    assert_eq!((reply.status, reply.problem()), (503, "busy".into()));
    let mut client = appliance.connect(Some(&other)).await;
    assert_eq!(client.send("GET", CHECKPOINT, "").await.status, 200);
    let mut client = appliance.connect(Some(&line)).await;
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!(reply.problem(), "no-token", "it has its turn");
}
