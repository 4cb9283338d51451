//! The API as a client of its listener sees it, over real TLS and a real log, up to where a token signs.

mod batches;
mod description;
mod door;
mod published;
mod refusals;
mod renewal;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use certstatus::{SerialNumber, UnixMillis};
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;

use super::tls::{ServerCertificate, server_config};
use super::*;
use crate::config::MinimumTls;
use crate::hsm::{Hsm, LogKey};
use crate::ra::{Change, OrderTerms, PartyCertificate, PartyState};
use crate::signing_log::Publication;
use crate::store::Store;

/// A certificate of a client and its key.
struct Station {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Station {
    /// One with a certificate that it signed itself: only its bytes count.
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(Vec::new()).unwrap();
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self { certificate, key }
    }
}

/// An appliance without tokens that serves the API.
struct Appliance {
    address: SocketAddr,
    log: SigningLog,
    clock: Clock,
    api: Api,
    roots: RootCertStore,
    stop: Option<watch::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    directory: tempfile::TempDir,
}

/// The time at which the tests' appliance stands, in seconds.
const NOW: u64 = 1_800_000_000;

/// Where the log in a directory is published.
fn publication(directory: &Path) -> Publication {
    Publication {
        published: directory.join("public"),
        details: directory.join("private"),
    }
}

/// A new log in a directory, recovered.
pub(crate) async fn new_log(directory: &Path, clock: &Clock) -> SigningLog {
    let (state, key_file) = (directory.join("state"), directory.join("log.key"));
    let pem = LogKey::generate().unwrap();
    certstatus::durable::write_secret(&key_file, pem.as_bytes()).unwrap();
    let key = LogKey::from_file(&key_file).unwrap();
    std::fs::create_dir(&state).unwrap();
    let store = Store::create(&state).await.unwrap();
    let publication = publication(directory);
    let data = serde_json::json!({});
    let log = SigningLog::create(
        store,
        clock.clone(),
        "log.example/test",
        key,
        publication,
        data,
    );
    let log = log.await.unwrap();
    log.recover(Hsm::open(&[])).await.unwrap();
    log
}

impl Appliance {
    /// Starts one that speaks TLS from this version on.
    async fn start(minimum: MinimumTls) -> Self {
        Self::start_with(minimum, limits::STRANGER_DEADLINE).await
    }

    /// As [`Self::start`], with so much time for the idle connections of lines that may not ask any more.
    async fn start_with(minimum: MinimumTls, farewell: Duration) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(UnixMillis::from_seconds(NOW));
        let log = new_log(directory.path(), &clock).await;
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let (chain, secret) = (
            directory.path().join("s.pem"),
            directory.path().join("s.key"),
        );
        std::fs::write(&chain, certificate.pem()).unwrap();
        std::fs::write(&secret, key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let tls =
            server_config(minimum, ServerCertificate::load(&chain, &secret).unwrap()).unwrap();
        let access = "access".parse().unwrap();
        let issuance = Issuance::new(log.clone(), clock.clone(), BTreeMap::new(), access);
        let publication = publication(directory.path());
        let mut api = Api::new(issuance, log.clone(), clock.clone(), publication);
        Arc::get_mut(&mut api.inner).unwrap().farewell = farewell;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopping) = Stopping::new();
        let served = tokio::spawn(serve_api(listener, tls, api.clone(), stopping));
        Self {
            address,
            log,
            clock,
            api,
            roots,
            stop: Some(stop),
            served,
            directory,
        }
    }

    /// Makes changes of the registry through the log.
    async fn change(&self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            self.log.record_change("op", change).await.unwrap();
        }
    }

    /// Knows a station as a line, valid for a thousand seconds, with an order of its own name.
    async fn line(&self, name: &str, station: &Station) {
        let (line, now) = (name.parse::<Slug>().unwrap(), UnixMillis::from_seconds(NOW));
        let mut serial = [0; 16];
        aws_lc_rs::rand::fill(&mut serial).unwrap();
        let certificate = PartyCertificate {
            serial: SerialNumber::from_random(serial),
            sha256: DetailHash::of(&station.certificate),
            not_before: now,
            not_after: now.saturating_add(Duration::from_secs(1000)),
        };
        let terms = OrderTerms {
            order: line.clone(),
            profile: "p".into(),
            issuer: "devices".parse().unwrap(),
            lines: BTreeSet::from([line.clone()]),
            quantity: 10,
            from: now,
            until: now.saturating_add(Duration::from_secs(5000)),
            device_id_pattern: "dev-[0-9]+".into(),
        };
        let added = Change::LineAdded { line: line.clone() };
        let certified = Change::LineCertified {
            line,
            certificate,
            renews: None,
        };
        self.change([added, certified, Change::OrderOpened { terms }])
            .await;
    }

    /// A connection of a client, which shows a certificate where it has one.
    async fn connect(&self, station: Option<&Station>) -> Client {
        let config = self.client_config(station, &[&rustls::version::TLS13]);
        Client::connect(self.address, config).await
    }

    /// A client's side of TLS.
    fn client_config(
        &self,
        station: Option<&Station>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(self.roots.clone());
        Arc::new(match station {
            None => builder.with_no_client_auth(),
            Some(station) => {
                let key = PrivateKeyDer::try_from(station.key.serialize_der()).unwrap();
                let chain = vec![station.certificate.clone()];
                builder.with_client_auth_cert(chain, key).unwrap()
            }
        })
    }
}

/// Looks until something holds, for as long as a busy machine may need.
async fn until(holds: impl Fn() -> bool) {
    let looking = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_secs(20), looking)
        .await
        .expect("it holds in time");
}

/// A connection that stays open between requests.
struct Client {
    sender: SendRequest<Full<Bytes>>,
}

/// An answer.
#[derive(Debug)]
struct Reply {
    status: u16,
    headers: hyper::HeaderMap,
    body: Bytes,
}

impl Reply {
    /// The problem's type without its prefix.
    fn problem(&self) -> String {
        assert_eq!(
            self.headers["content-type"],
            problem::MEDIA_TYPE,
            "{self:?}"
        );
        let document: Value = serde_json::from_slice(&self.body).unwrap();
        assert_eq!(document["status"], self.status);
        let urn = document["type"].as_str().unwrap();
        urn.strip_prefix("urn:hallmark:problem:")
            .unwrap()
            .to_owned()
    }
}

impl Client {
    /// Connects.
    async fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends a request with a body.
    async fn send(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        self.send_with(method, path, body, "*/*").await
    }

    /// As [`Self::send`], asking for a form.
    async fn send_with(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        accept: &str,
    ) -> Reply {
        let accept = [("accept", accept)];
        self.send_headed(method, path, body, &accept).await
    }

    /// Sends a request with more headers.
    async fn send_headed(
        &mut self,
        method: &str,
        path: &str,
        body: impl Into<Bytes>,
        headers: &[(&str, &str)],
    ) -> Reply {
        let request = Request::builder().method(method).uri(path);
        let headers = headers.iter().chain(&[("host", "localhost")]);
        let request = headers.fold(request, |request, (name, value)| {
            request.header(*name, *value)
        });
        let request = request.body(Full::new(body.into())).unwrap();
        self.sender.ready().await.unwrap();
        let response = self.sender.send_request(request).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.into_body().collect().await.unwrap().to_bytes();
        Reply {
            status,
            headers,
            body,
        }
    }
}

/// A certificate request in PEM.
pub(crate) fn csr(device_id: &str) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, device_id);
    params.distinguished_name = name;
    params.serialize_request(&key).unwrap().pem().unwrap()
}

/// Where a line renews its certificate.
const RENEWAL: &str = "/v1/line/certificate";

/// Where the line `one` sends single requests.
const SINGLE: &str = "/v1/orders/one/certificates";

/// Where the line `one` sends batches.
const BATCH: &str = "/v1/orders/one/batches";

#[tokio::test]
async fn who_is_no_line_gets_a_problem_document_on_every_path() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (stranger, line) = (Station::new(), Station::new());
    appliance.line("one", &line).await;
    for path in [SINGLE, BATCH, "/v1/line/certificate"] {
        let reply = appliance
            .connect(None)
            .await
            .send("POST", path, csr("dev-1"))
            .await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (401, "no-certificate")
        );
        let reply = appliance
            .connect(Some(&stranger))
            .await
            .send("POST", path, csr("dev-1"))
            .await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (403, "unknown-certificate")
        );
    }
}

#[tokio::test]
async fn a_line_is_judged_anew_on_an_open_connection() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "no-token"));
    assert!(reply.headers.contains_key("retry-after"));
    let line = || "one".parse().unwrap();
    let set = |state| Change::LineSet {
        line: line(),
        state,
    };
    appliance.change([set(PartyState::Disabled)]).await;
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!(reply.problem(), "line-disabled");
    assert_eq!(reply.headers["connection"], "close", "told once");
    appliance.change([set(PartyState::Enabled)]).await;
    let mut client = appliance.connect(Some(&station)).await;
    assert_eq!(
        client.send("POST", SINGLE, csr("dev-1")).await.problem(),
        "no-token"
    );
    appliance.clock.set(UnixMillis::from_seconds(NOW + 1001));
    let reply = client.send("POST", SINGLE, csr("dev-1")).await;
    assert_eq!(reply.problem(), "certificate-outside-validity");
    assert_eq!(reply.headers["connection"], "close");
}

#[tokio::test]
async fn bad_input_is_a_problem_document_and_the_connection_lives() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (station, other) = (Station::new(), Station::new());
    appliance.line("one", &station).await;
    appliance.line("two", &other).await;
    let mut client = appliance.connect(Some(&station)).await;
    let with_id = format!("{SINGLE}?device_id=dev-2");
    let rows: [(&str, &str, String, u16, &str); 12] = [
        ("POST", SINGLE, "garbage".into(), 400, "csr-refused"),
        ("POST", SINGLE, String::new(), 400, "csr-refused"),
        ("POST", SINGLE, "\u{1}\u{2}".into(), 400, "csr-refused"),
        ("POST", &with_id, csr("dev-1"), 422, "device-id-differs"),
        (
            "POST",
            "/v1/orders/one/certificates?device=x",
            csr("dev-1"),
            400,
            "query-refused",
        ),
        (
            "POST",
            "/v1/orders/two/certificates",
            csr("dev-1"),
            404,
            "no-such-order",
        ),
        (
            "POST",
            "/v1/orders/none/certificates",
            csr("dev-1"),
            404,
            "no-such-order",
        ),
        (
            "POST",
            "/v1/orders/%00%ff/certificates",
            csr("dev-1"),
            404,
            "no-such-order",
        ),
        (
            "POST",
            "/v1/orders/two/batches",
            csr("dev-1"),
            404,
            "no-such-order",
        ),
        ("POST", BATCH, "garbage".into(), 400, "batch-format"),
        ("GET", "/v1/nothing", String::new(), 404, "no-such-path"),
        ("GET", SINGLE, String::new(), 405, "method-not-allowed"),
    ];
    for (method, path, body, status, kind) in rows {
        let reply = client.send(method, path, body).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (status, kind),
            "{method} {path}"
        );
        assert_eq!(reply.headers.contains_key("allow"), status == 405, "{path}");
    }
    let long = format!("{SINGLE}?device_id={}", "x".repeat(2000));
    let reply = client.send("POST", &long, csr("dev-1")).await;
    assert_eq!(reply.problem(), "device-id-form");
    assert!(reply.body.len() < 1000, "it is not given back: {reply:?}");
    let reply = client
        .send_with("POST", SINGLE, csr("dev-1"), "text/html")
        .await;
    assert_eq!(
        (reply.status, reply.problem().as_str()),
        (406, "not-acceptable")
    );
}

#[tokio::test]
async fn an_over_long_body_is_a_problem_document() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    for (path, length) in [
        (SINGLE, limits::CSR_BYTES_MAX),
        (BATCH, limits::BATCH_BYTES_MAX),
    ] {
        let mut client = appliance.connect(Some(&station)).await;
        let reply = client.send("POST", path, vec![b'-'; length + 1]).await;
        assert_eq!(
            (reply.status, reply.problem().as_str()),
            (413, "too-long"),
            "{path}"
        );
    }
    // A stranger's body is not even read.
    let mut client = appliance.connect(None).await;
    let reply = client
        .send("POST", BATCH, vec![b'-'; limits::BATCH_BYTES_MAX])
        .await;
    assert_eq!(reply.problem(), "no-certificate");
}

#[tokio::test]
async fn a_batch_answers_each_request_in_order() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let mut client = appliance.connect(Some(&station)).await;
    let mut body = String::new();
    for number in 0..100 {
        let item = match number % 3 {
            0 => serde_json::json!({"csr": csr("dev-1"), "id": number.to_string()}),
            1 => serde_json::json!({"csr": "garbage", "device_id": "dev-1"}),
            _ => serde_json::json!({"nothing": true}),
        };
        body.push_str(&format!("{item}\n"));
    }
    let reply = client.send("POST", BATCH, body).await;
    assert_eq!(
        (reply.status, &reply.headers["content-type"]),
        (200, &"application/x-ndjson".parse().unwrap())
    );
    let text = std::str::from_utf8(&reply.body).unwrap();
    let answers: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(answers.len(), 100);
    for (number, answer) in answers.iter().enumerate() {
        assert_eq!(answer["index"], number);
        let kind = answer["problem"]["type"].as_str().unwrap();
        let expected = ["no-token", "csr-refused", "batch-line"][number % 3];
        assert_eq!(kind, format!("urn:hallmark:problem:{expected}"));
        match number % 3 {
            0 => assert_eq!(answer["id"], number.to_string()),
            1 => assert_eq!(answer["device_id"], "dev-1"),
            _ => assert_eq!(answer.get("id"), None),
        }
    }
    let pem = csr("dev-1").repeat(3);
    let reply = client.send("POST", BATCH, pem).await;
    assert_eq!(reply.body.iter().filter(|c| **c == b'\n').count(), 3);
}

/// Sends a request but for its last byte, makes a change, sends the byte; the answer's status and problem.
async fn held_open(
    appliance: &Appliance,
    station: &Station,
    path: &str,
    change: Change,
) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let config = appliance.client_config(Some(station), &[&rustls::version::TLS13]);
    let stream = TcpStream::connect(appliance.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(config)
        .connect(name, stream)
        .await
        .unwrap();
    let body = csr("dev-1");
    let (last, most) = body.as_bytes().split_last().unwrap();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\nconnection: close\r\n\
         expect: 100-continue\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    // It comes when the body is first wanted (RFC 9110, 10.1.1), which is after the head was judged.
    let wanted = b"HTTP/1.1 100 Continue\r\n\r\n";
    let mut told = vec![0; wanted.len()];
    stream.read_exact(&mut told).await.unwrap();
    assert_eq!(told, wanted);
    stream.write_all(most).await.unwrap();
    stream.flush().await.unwrap();
    appliance.change([change]).await;
    stream.write_all(&[*last]).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _cut = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let document = &answer[answer.find('{').unwrap()..=answer.rfind('}').unwrap()];
    let document: Value = serde_json::from_str(document).unwrap();
    let urn = document["type"].as_str().unwrap();
    (status, urn.replace("urn:hallmark:problem:", ""))
}

#[tokio::test]
async fn a_request_that_is_held_open_is_judged_when_it_is_complete() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let line: Slug = "one".parse().unwrap();
    let certificate = appliance.log.registry().line(&line).unwrap().certificates[0].clone();
    let set = |state| Change::LineSet {
        line: line.clone(),
        state,
    };
    for path in [SINGLE, RENEWAL] {
        let told = held_open(&appliance, &station, path, set(PartyState::Enabled)).await;
        assert_eq!(told, (503, "no-token".into()), "nothing changed: {path}");
        let told = held_open(&appliance, &station, path, set(PartyState::Disabled)).await;
        assert_eq!(told, (403, "line-disabled".into()), "{path}");
        appliance.change([set(PartyState::Enabled)]).await;
    }
    let revoked = Change::LineDecertified {
        line: line.clone(),
        serial: certificate.serial,
    };
    let told = held_open(&appliance, &station, RENEWAL, revoked).await;
    assert_eq!(told.1, "unknown-certificate");
}

#[tokio::test]
async fn a_resumed_connection_shows_the_same_certificate() {
    for (minimum, version) in [
        (MinimumTls::V1_3, &rustls::version::TLS13),
        (MinimumTls::V1_2, &rustls::version::TLS12),
    ] {
        let appliance = Appliance::start(minimum).await;
        let station = Station::new();
        appliance.line("one", &station).await;
        let config = appliance.client_config(Some(&station), &[version]);
        for round in 0..3 {
            let stream = TcpStream::connect(appliance.address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(Arc::clone(&config));
            let stream = connector.connect(name, stream).await.unwrap();
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
            let driven = tokio::spawn(connection.without_shutdown());
            sender.ready().await.unwrap();
            let request = Request::builder()
                .method("POST")
                .uri(SINGLE)
                .header("host", "localhost")
                .body(Full::new(Bytes::from(csr("dev-1"))))
                .unwrap();
            let response = sender.send_request(request).await.unwrap();
            assert_eq!(response.status(), 503, "proved, but there is no token");
            let _body = response.into_body().collect().await.unwrap();
            drop(sender);
            let stream = driven.await.unwrap().unwrap().io.into_inner();
            let resumed =
                stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            assert_eq!(resumed, round > 0, "{version:?} round {round}");
        }
    }
}

#[tokio::test]
async fn old_tls_is_refused_unless_configured() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let config = appliance.client_config(None, &[&rustls::version::TLS12]);
    let stream = TcpStream::connect(appliance.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    assert!(
        TlsConnector::from(config)
            .connect(name, stream)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_stop_closes_idle_connections_and_ends_serving() {
    let mut appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let mut client = appliance.connect(Some(&station)).await;
    client.send("GET", "/openapi.json", "").await;
    drop(appliance.stop.take());
    timeout(Duration::from_secs(10), appliance.served)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(appliance.address).await.is_err());
}

#[tokio::test]
async fn strangers_do_not_keep_a_line_out() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    // Many, all silent, from an address of their own.
    let mut silent = Vec::new();
    for _ in 0..84 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
        silent.push(socket.connect(appliance.address).await.unwrap());
    }
    let asked = async {
        let mut client = appliance.connect(Some(&station)).await;
        client.send("POST", SINGLE, csr("dev-1")).await
    };
    let reply = timeout(Duration::from_secs(10), asked).await.unwrap();
    assert_eq!(reply.problem(), "no-token");
    assert!(appliance.api.inner.door.taken() >= silent.len());
}

#[tokio::test]
async fn many_stations_of_one_address_stay_connected() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let coming = (0..128).map(|_| {
        let config = appliance.client_config(Some(&station), &[&rustls::version::TLS13]);
        tokio::spawn(Client::connect(appliance.address, config))
    });
    let mut clients = Vec::new();
    for client in coming.collect::<Vec<_>>() {
        clients.push(client.await.unwrap());
    }
    for client in &mut clients {
        let reply = client.send("GET", "/openapi.json", "").await;
        assert_eq!(reply.status, 200);
        assert!(!reply.headers.contains_key("connection"));
    }
    let inner = &appliance.api.inner;
    let gone = timeout(Duration::from_secs(10), inner.door.drained());
    assert!(gone.await.is_ok(), "lines do not stand at the door");
    assert_eq!(inner.connections.taken(), clients.len());
}

#[tokio::test]
async fn a_line_over_its_share_is_busy_alone_and_its_work_goes_on() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (station, other) = (Station::new(), Station::new());
    appliance.line("one", &station).await;
    appliance.line("two", &other).await;
    let line = "one".parse::<Slug>().unwrap();
    let inner = &appliance.api.inner;
    let mut taken: Vec<_> = std::iter::from_fn(|| inner.in_flight.take(&line)).collect();
    assert_eq!(taken.len(), limits::REQUESTS_PER_LINE_MAX);
    // A batch in progress waits for a place of its line.
    let mut sending = appliance.connect(Some(&station)).await;
    let items = csr("dev-1").repeat(3);
    let batch = tokio::spawn(async move { sending.send("POST", BATCH, items).await });
    until(|| inner.batches.taken() > 0).await;
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("POST", SINGLE, csr("dev-2")).await;
    assert_eq!((reply.status, reply.problem().as_str()), (503, "busy"));
    assert!(reply.headers.contains_key("retry-after"));
    let mut client = appliance.connect(Some(&other)).await;
    let path = "/v1/orders/two/certificates";
    let reply = client.send("POST", path, csr("dev-2")).await;
    assert_eq!(reply.problem(), "no-token", "another line is served");
    assert!(!batch.is_finished());
    taken.pop();
    let reply = timeout(Duration::from_secs(10), batch)
        .await
        .unwrap()
        .unwrap();
    let text = String::from_utf8(reply.body.to_vec()).unwrap();
    assert_eq!(text.matches("problem:no-token").count(), 3, "{text}");
    drop(taken);
    until(|| inner.in_flight.taken() + inner.batches.taken() == 0).await;
}

#[tokio::test]
async fn silent_bodies_of_a_line_stop_no_other_line_s_batches() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let (station, other) = (Station::new(), Station::new());
    appliance.line("one", &station).await;
    appliance.line("two", &other).await;
    let head = format!("POST {BATCH} HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n-");
    let mut silent = Vec::new();
    for _ in 0..limits::BATCHES_MAX {
        let stream = TcpStream::connect(appliance.address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let config = appliance.client_config(Some(&station), &[&rustls::version::TLS13]);
        let mut stream = TlsConnector::from(config)
            .connect(name, stream)
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes())
            .await
            .unwrap();
        silent.push(stream);
    }
    let inner = &appliance.api.inner;
    until(|| inner.bodies.taken() >= limits::BATCH_BODIES_PER_LINE_MAX).await;
    let mut client = appliance.connect(Some(&station)).await;
    let reply = client.send("POST", BATCH, csr("dev-1")).await;
    assert_eq!(reply.problem(), "busy", "its own line waits for them");
    let mut client = appliance.connect(Some(&other)).await;
    let reply = client
        .send("POST", "/v1/orders/two/batches", csr("dev-1"))
        .await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn work_keeps_its_place_when_the_client_goes_away() {
    let appliance = Appliance::start(MinimumTls::V1_3).await;
    let station = Station::new();
    appliance.line("one", &station).await;
    let api = &appliance.api;
    let certificate = Some(DetailHash::of(&station.certificate));
    let line = api.line(Peer { certificate }).unwrap();
    let (place, request) = (api.in_flight(&line).unwrap(), csr("dev-1"));
    let issuance = &api.inner.issuance;
    {
        let mut work = Box::pin(issuance.device(&line, "one", request.as_bytes(), None, place));
        // One step: the work is a task of its own now, which this thread has not run yet.
        std::future::poll_fn(|cx| {
            assert!(work.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
    }
    assert_eq!(api.inner.in_flight.taken(), 1, "the work goes on");
    let ended = timeout(Duration::from_secs(10), api.inner.in_flight.drained());
    assert!(ended.await.is_ok(), "and then gives its place back");
}
