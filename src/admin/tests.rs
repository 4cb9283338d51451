//! The socket as operators' programs see it, over a real log, up to where a token signs.

mod revocations;

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use certstatus::log::DetailHash;
use certstatus::log::entry::Slug;
use certstatus::signature::SignatureAlgorithm;
use certstatus::{SerialNumber, UnixMillis};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use super::*;
use crate::http::tests::{csr, new_log};
use crate::limits::UNRESOLVED_RETURNED_MAX;
use crate::profile::Profile;
use crate::ra::{Change, PartyCertificate};
use crate::signing_log::tests::{add_line, lose_signatures};
use crate::signing_log::{IssuerRecord, IssuerRole};

#[tokio::test]
async fn the_socket_is_the_groups_and_replaces_a_dead_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.sock");
    for _ in 0..2 {
        let listener = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        drop(listener);
    }
    let file = directory.path().join("file");
    std::fs::write(&file, "keep").unwrap();
    assert!(matches!(bind(&file), Err(AdminError::Occupied { .. })));
    assert_eq!(std::fs::read(&file).unwrap(), b"keep");
    let nowhere = directory.path().join("none/admin.sock");
    assert!(matches!(bind(&nowhere), Err(AdminError::Bind { .. })));
}

#[tokio::test]
async fn who_is_no_operator_gets_no_further() {
    use tower::ServiceExt as _;
    let inside = || async { "in" };
    let router = Router::new()
        .route("/", get(inside))
        .layer(from_fn(operators_only));
    let ask = |caller: Caller| {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(caller);
        let router = router.clone();
        async move { router.oneshot(request).await.unwrap().status().as_u16() }
    };
    assert_eq!(ask(Caller(Ok(Arc::from("op")))).await, 200);
    assert_eq!(ask(Caller(Err(4321))).await, 403);
}

#[tokio::test]
async fn a_body_with_an_unknown_key_is_refused() {
    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        #[expect(dead_code, reason = "only its presence matters")]
        known: u8,
    }
    let read = |text: &'static str| read_json::<Wanted>(Body::from(text));
    assert!(read("{\"known\":1}").await.is_ok());
    for bad in ["{\"known\":1,\"other\":2}", "{}", "", "[", "{\"known\":-1}"] {
        assert_eq!(read(bad).await.unwrap_err().rule(), "body-refused", "{bad}");
    }
}

/// An appliance without tokens that serves its admin socket to this user.
struct Appliance {
    socket: PathBuf,
    log: SigningLog,
    stop: Option<tokio::sync::watch::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
    _directory: tempfile::TempDir,
}

/// An answer: its status and its JSON.
type Reply = (u16, Value);

impl Appliance {
    /// Starts one whose operator has this user id.
    async fn start(uid: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = Clock::fixed(UnixMillis::from_seconds(1_800_000_000));
        let log = new_log(directory.path(), &clock).await;
        let profiles = ["mqtt-device", "idevid", "line"].map(|name| {
            let file = format!("profiles/{name}.toml");
            let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
            (name.to_owned(), Profile::load(&profile).unwrap())
        });
        let profiles = BTreeMap::from(profiles);
        for (name, role) in [
            ("device-1", IssuerRole::Device),
            ("access", IssuerRole::Access),
        ] {
            log.record_issuer(issuer(name, role)).await.unwrap();
        }
        let access = "access".parse().unwrap();
        let issuance = Issuance::new(log.clone(), clock.clone(), profiles, access);
        for known in log.issuers().await.unwrap() {
            issuance.add_issuer(known.name, known.role, vec![known.certificate], None);
        }
        let name = "shift-lead".into();
        let terms = crate::config::Revocation {
            ocsp_poll: Duration::from_secs(1),
            ocsp_cached: Duration::from_secs(600),
            crl_within: Duration::from_secs(5),
        };
        let keys = ["device-root".parse().unwrap()].into();
        let boards = Boards::default();
        let outlook = (issuance.clone(), boards.crls.clone());
        let revocations = Revocations::new(log.clone(), clock.clone(), terms, keys, outlook);
        let hsm = Hsm::open(&[]);
        let admin = Admin::new(
            issuance,
            log.clone(),
            revocations,
            hsm,
            clock,
            boards,
            vec![Operator { name, uid }],
        );
        let socket = directory.path().join("admin.sock");
        let (stop, stopping) = Stopping::new();
        let served = tokio::spawn(serve(bind(&socket).unwrap(), admin, stopping));
        Self {
            socket,
            log,
            stop: Some(stop),
            served,
            _directory: directory,
        }
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, method: &str, path: &str, body: Value) -> Reply {
        let body = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        self.send_octets(method, path, body.into_bytes()).await
    }

    /// As [`Self::send`], with a body of any kind.
    async fn send_octets(&self, method: &str, path: &str, body: Vec<u8>) -> Reply {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "hallmark")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Adds a line without a certificate, which needs no token.
    async fn add_line(&self) {
        let line = "line-1".parse().unwrap();
        let added = Change::LineAdded { line };
        self.log.record_change("shift-lead", added).await.unwrap();
    }

    /// Sends a request that is refused; its status and the problem's type.
    async fn refused(&self, method: &str, path: &str, body: Value) -> (u16, String) {
        let (status, problem) = self.send(method, path, body).await;
        let urn = problem["type"].as_str().unwrap_or_default();
        (status, urn.replace("urn:hallmark:problem:", ""))
    }
}

/// An issuer with a certificate that it signed itself.
fn issuer(name: &str, role: IssuerRole) -> IssuerRecord {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    IssuerRecord {
        name: name.parse().unwrap(),
        certificate: params.self_signed(&key).unwrap().der().to_vec(),
        algorithm: SignatureAlgorithm::EcdsaSha256,
        role,
        parent: name.parse().unwrap(),
        partitions: 0,
    }
}

/// This process's user.
fn own_uid() -> u32 {
    rustix::process::getuid().as_raw()
}

/// The terms of an order, changed.
fn order(key: &str, value: Value) -> Value {
    let mut terms = json!({
        "order": "demo", "profile": "mqtt-device", "issuer": "device-1", "lines": ["line-1"],
        "quantity": 5, "from": 0, "until": 1_900_000_000_000_u64, "device_id_pattern": "dev-[0-9]+",
    });
    terms[key] = value;
    terms
}

#[tokio::test]
async fn whoever_is_no_operator_is_told_so_on_every_path() {
    let appliance = Appliance::start(own_uid() + 1).await;
    for (path, _) in routes() {
        let (status, kind) = appliance.refused("GET", path, Value::Null).await;
        assert_eq!((status, kind.as_str()), (403, "unknown-operator"), "{path}");
    }
}

#[tokio::test]
async fn lines_and_orders_are_changed_in_the_log_by_the_operator() {
    let appliance = Appliance::start(own_uid()).await;
    let added = json!({"line": "line-1", "csr": csr("line-1")});
    // No token is there, so there is no certificate, and no line without one is left behind.
    let before = appliance.log.status().size;
    let refused = appliance.refused("POST", "/v1/lines", added).await;
    assert_eq!(refused, (503, "no-token".into()));
    assert_eq!(appliance.log.status().size, before);
    let lines = appliance.send("GET", "/v1/lines", Value::Null).await;
    assert_eq!(lines, (200, json!([])));
    appliance.add_line().await;
    let (status, lines) = appliance.send("GET", "/v1/lines", Value::Null).await;
    assert_eq!((status, &lines[0]["line"]), (200, &json!("line-1")));
    let (status, opened) = appliance
        .send("POST", "/v1/orders", order("quantity", json!(7)))
        .await;
    assert_eq!((status, &opened["terms"]["quantity"]), (201, &json!(7)));
    let entries = appliance.log.status().size;
    let (status, logged) = appliance
        .send("POST", "/v1/orders/demo/close", Value::Null)
        .await;
    assert_eq!((status, &logged["entry"]), (200, &json!(entries)));
    let again = appliance
        .send("POST", "/v1/orders/demo/close", Value::Null)
        .await;
    assert_eq!(again, (200, json!({})), "it was closed already");
    let again = appliance
        .send("POST", "/v1/lines/line-1/enable", Value::Null)
        .await;
    assert_eq!(again, (200, json!({})), "it was enabled already");
    assert_eq!(appliance.log.status().size, entries + 1);
    let shown = appliance
        .send("GET", "/v1/orders/demo", Value::Null)
        .await
        .1;
    assert_eq!(shown["state"], "closed");
    appliance
        .send("POST", "/v1/orders/demo/reopen", Value::Null)
        .await;
    assert_eq!(
        appliance.send("GET", "/v1/orders", Value::Null).await.1[0]["state"],
        "open"
    );
    appliance
        .send("POST", "/v1/lines/line-1/disable", Value::Null)
        .await;
    assert_eq!(
        appliance
            .send("GET", "/v1/lines/line-1", Value::Null)
            .await
            .1["state"],
        "disabled"
    );
    let again = json!({"line": "line-1", "csr": csr("line-1")});
    assert_eq!(
        appliance.refused("POST", "/v1/lines", again).await,
        (403, "line-disabled".into())
    );
    appliance
        .send("POST", "/v1/lines/line-1/enable", Value::Null)
        .await;
    let status = appliance.send("GET", "/v1/status", Value::Null).await.1;
    assert_eq!(status["lines"], json!({"enabled": 1, "disabled": 0}));
    assert_eq!(status["orders"], json!({"open": 1, "closed": 0}));
    assert_eq!(
        (&status["ready"], &status["log"]["state"]),
        (&json!(false), &json!("running"))
    );
}

#[tokio::test]
async fn held_units_are_given_back_by_the_operator() {
    let appliance = Appliance::start(own_uid()).await;
    let path = "/v1/orders/demo/approve";
    add_line(&appliance.log, "line-1").await;
    let opened = order("quantity", json!(7));
    appliance.send("POST", "/v1/orders", opened).await;
    let figures = |order: &Value| (order["used"].as_u64(), order["held"].as_u64());
    // None is held: nothing happens, and whoever wants all of them back has them.
    lose_signatures(&appliance.log, UNRESOLVED_RETURNED_MAX).await;
    let entries = appliance.log.status().size;
    let (status, none) = appliance.send("POST", path, Value::Null).await;
    assert_eq!((status, &none["returned"]), (200, &json!(0)));
    assert_eq!(none.get("entry"), None);
    assert_eq!(figures(&none["order"]), (Some(0), Some(0)));
    let (status, problem) = appliance.send("POST", path, json!({"units": 1})).await;
    assert_eq!(status, 422, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.contains("holds none"), "{detail}");
    assert_eq!(appliance.log.status().size, entries);
    lose_signatures(&appliance.log, 5).await;
    let orders = appliance.send("GET", "/v1/orders", Value::Null).await.1;
    assert_eq!(figures(&orders[0]), (Some(5), Some(5)));
    let entries = appliance.log.status().size;
    for (wanted, said) in [(0, "at least 1"), (6, "holds 5")] {
        let (status, problem) = appliance.send("POST", path, json!({"units": wanted})).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 422 && detail.contains(said), "{status}: {detail}");
    }
    for bad in [json!({"unit": 1}), json!({"units": -1}), json!([])] {
        let refused = appliance.refused("POST", path, bad).await;
        assert_eq!(refused, (400, "body-refused".into()));
    }
    let nowhere = "/v1/orders/none/approve";
    let refused = appliance.refused("POST", nowhere, Value::Null).await;
    assert_eq!(refused, (404, "missing".into()));
    assert_eq!(appliance.log.status().size, entries);
    let (status, some) = appliance.send("POST", path, json!({"units": 2})).await;
    assert_eq!((status, &some["entry"]), (200, &json!(entries)));
    assert_eq!(some["returned"], 2);
    assert_eq!(figures(&some["order"]), (Some(3), Some(3)));
    let (status, rest) = appliance.send("POST", path, json!({})).await;
    assert_eq!((status, &rest["returned"]), (200, &json!(3)));
    assert_eq!(figures(&rest["order"]), (Some(0), Some(0)));
    let shown = appliance.send("GET", "/v1/orders/demo", Value::Null).await;
    assert_eq!(shown.1, rest["order"]);
    let (status, again) = appliance.send("POST", path, Value::Null).await;
    assert_eq!((status, &again["returned"]), (200, &json!(0)));
    assert_eq!(appliance.log.status().size, entries + 2);
}

#[tokio::test]
async fn two_operators_who_give_everything_back_at_once_give_it_back_once() {
    let appliance = Appliance::start(own_uid()).await;
    add_line(&appliance.log, "line-1").await;
    let opened = order("quantity", json!(7));
    appliance.send("POST", "/v1/orders", opened).await;
    lose_signatures(&appliance.log, UNRESOLVED_RETURNED_MAX + 3).await;
    let approve = || appliance.send("POST", "/v1/orders/demo/approve", Value::Null);
    let replies = tokio::join!(approve(), approve(), approve()).into();
    let replies: [Reply; 3] = replies;
    let returned: u64 = replies
        .iter()
        .map(|(status, reply)| {
            assert_eq!(*status, 200, "{reply}");
            reply["returned"].as_u64().unwrap()
        })
        .sum();
    assert_eq!(returned, 3);
    let order = appliance.log.registry().order(&"demo".parse().unwrap());
    assert_eq!(order.map(|order| (order.used, order.held)), Some((0, 0)));
}

#[tokio::test]
async fn mistakes_are_problem_documents_and_change_nothing() {
    let appliance = Appliance::start(own_uid()).await;
    appliance.add_line().await;
    let entries = appliance.log.status().size;
    let serial = "4b1f00c5d2a94e7f8a6d03b1c7e95f20";
    let (revoke, unknown) = (
        format!("/v1/certificates/{serial}/revoke"),
        "/v1/lines/none/disable",
    );
    let reason = json!({"reason": "superseded"});
    let rows = [
        (
            "POST",
            "/v1/orders",
            order("profile", json!("none")),
            422,
            "value-refused",
        ),
        (
            "POST",
            "/v1/orders",
            order("issuer", json!("access")),
            422,
            "value-refused",
        ),
        (
            "POST",
            "/v1/orders",
            order("quantity", json!(0)),
            422,
            "value-refused",
        ),
        (
            "POST",
            "/v1/orders",
            order("quantity", json!(-1)),
            400,
            "body-refused",
        ),
        (
            "POST",
            "/v1/orders",
            order("lines", json!(["line-2"])),
            404,
            "missing",
        ),
        (
            "POST",
            "/v1/orders",
            order("colour", json!("red")),
            400,
            "body-refused",
        ),
        (
            "POST",
            "/v1/lines",
            json!({"line": "new", "csr": "garbage"}),
            400,
            "csr-refused",
        ),
        (
            "POST",
            "/v1/lines",
            json!({"line": "New Line", "csr": csr("x")}),
            400,
            "body-refused",
        ),
        (
            "POST",
            "/v1/auditors",
            json!({"auditor": "new", "csr": "garbage"}),
            400,
            "csr-refused",
        ),
        (
            "POST",
            "/v1/auditors/none/disable",
            Value::Null,
            404,
            "missing",
        ),
        ("POST", unknown, Value::Null, 404, "missing"),
        ("POST", "/v1/orders/none/close", Value::Null, 404, "missing"),
        ("POST", revoke.as_str(), reason.clone(), 404, "missing"),
        (
            "POST",
            revoke.as_str(),
            json!({"reason": "bored"}),
            400,
            "body-refused",
        ),
        (
            "POST",
            "/v1/certificates/xyz/revoke",
            reason,
            404,
            "missing",
        ),
        ("GET", "/v1/certificates/xyz", Value::Null, 404, "missing"),
        (
            "GET",
            "/v1/certificates?limit=0",
            Value::Null,
            400,
            "query-refused",
        ),
        (
            "GET",
            "/v1/certificates?colour=red",
            Value::Null,
            400,
            "query-refused",
        ),
        (
            "GET",
            "/v1/certificates?order=none",
            Value::Null,
            404,
            "missing",
        ),
        (
            "GET",
            "/v1/certificates?issuer=none",
            Value::Null,
            404,
            "missing",
        ),
        (
            "POST",
            "/v1/revocations/selection",
            json!({"selection": {"issuer": "none"}}),
            404,
            "missing",
        ),
        (
            "POST",
            "/v1/revocations/selection",
            json!({"selection": {"line": "none"}}),
            404,
            "missing",
        ),
        ("GET", "/v1/nothing", Value::Null, 404, "no-such-path"),
        (
            "DELETE",
            "/v1/orders",
            Value::Null,
            405,
            "method-not-allowed",
        ),
    ];
    for (method, path, body, status, kind) in rows {
        let refused = appliance.refused(method, path, body.clone()).await;
        assert_eq!(refused, (status, kind.to_owned()), "{method} {path} {body}");
    }
    assert_eq!(
        appliance.log.status().size,
        entries,
        "nothing is in the log"
    );
    assert_eq!(
        appliance.send("GET", "/v1/certificates", Value::Null).await,
        (200, json!([]))
    );
    assert_eq!(
        appliance.send("GET", "/v1/profiles", Value::Null).await.1,
        json!(["idevid", "mqtt-device"])
    );
}

#[tokio::test]
async fn no_damage_to_a_body_is_a_fault_of_the_appliance() {
    let appliance = Appliance::start(own_uid()).await;
    appliance.add_line().await;
    let serial = SerialNumber::from_random([9; 16]);
    let revoke = format!("/v1/certificates/{serial}/revoke");
    let rows = [
        ("/v1/lines", json!({"line": "new", "csr": "garbage"})),
        ("/v1/orders", order("quantity", json!(7))),
        ("/v1/orders/none/approve", json!({"units": 3})),
        (revoke.as_str(), json!({"reason": "superseded"})),
    ];
    let odd = b"\0\xff\x80\"\\{}[],:-+e9. \n";
    for (path, body) in rows {
        let good = body.to_string().into_bytes();
        for at in 0..good.len() {
            let mut bodies = vec![good[..at].to_vec(), [&good[..at], &good[at + 1..]].concat()];
            for octet in [odd[at % odd.len()], odd[(at * 7 + 3) % odd.len()]] {
                let mut other = good.clone();
                other[at] = octet;
                bodies.push(other);
            }
            bodies.push([&good[..at], &good].concat());
            for body in bodies {
                let shown = String::from_utf8_lossy(&body).into_owned();
                let (status, answer) = appliance.send_octets("POST", path, body).await;
                let told = answer["type"].is_string() || status < 300;
                // 503: there is no token that could sign for a line.
                assert!(
                    told && (status < 500 || status == 503),
                    "{status}: {path} {shown}"
                );
            }
        }
    }
    // The socket is as it was.
    assert_eq!(appliance.send("GET", "/v1/lines", Value::Null).await.0, 200);
}

#[tokio::test]
async fn orders_are_opened_only_where_they_can_issue() {
    let appliance = Appliance::start(own_uid()).await;
    appliance.add_line().await;
    let entries = appliance.log.status().size;
    for (key, value, said) in [
        ("profile", "line", "no device profile"),
        ("profile", "idevid", "only until"),
        ("issuer", "access", "access exists but is no device issuer"),
        ("issuer", "none", "there is device-1"),
    ] {
        let (status, problem) = appliance
            .send("POST", "/v1/orders", order(key, json!(value)))
            .await;
        let detail = problem["detail"].as_str().unwrap();
        assert_eq!(status, 422, "{value}: {detail}");
        assert!(detail.contains(said), "{value}: {detail}");
    }
    assert_eq!(appliance.log.status().size, entries);
}

#[tokio::test]
async fn a_stop_ends_serving() {
    let mut appliance = Appliance::start(own_uid()).await;
    appliance.send("GET", "/v1/status", Value::Null).await;
    drop(appliance.stop.take());
    let served = tokio::time::timeout(std::time::Duration::from_secs(10), appliance.served);
    served.await.unwrap().unwrap();
    assert!(UnixStream::connect(&appliance.socket).await.is_err());
}

#[tokio::test]
async fn the_status_shows_issuers_that_are_away_and_why_nothing_is_issued() {
    let appliance = Appliance::start(own_uid()).await;
    let (status, told) = appliance.send("GET", "/v1/status", Value::Null).await;
    assert_eq!(status, 200);
    let away = |issuer: &str, role: &str| json!({"issuer": issuer, "role": role, "loaded": false, "usable": false});
    let issuers = json!([away("access", "access"), away("device-1", "device")]);
    assert_eq!(told["issuers"], issuers, "{told}");
    assert_eq!(told["ready"], false, "{told}");
    assert_eq!(told["reasons"].as_array().unwrap().len(), 2, "{told}");
}

#[tokio::test]
async fn whoever_is_no_operator_takes_no_operator_s_place() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let appliance = Appliance::start(own_uid() + 1).await;
    let mut client = UnixStream::connect(&appliance.socket).await.unwrap();
    let request = b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n";
    client.write_all(request).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    // Silent ones, more than may be told: the last is closed long before an operator's would be.
    let mut silent = Vec::new();
    for _ in 0..=CONNECTIONS_MAX {
        silent.push(UnixStream::connect(&appliance.socket).await.unwrap());
    }
    let mut last = silent.pop().unwrap();
    let mut read = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), last.read_to_end(&mut read));
    assert!(closed.await.is_ok() && read.is_empty());
}
