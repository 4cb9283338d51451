//! Sources: a directory, and an appliance over TLS with certificates that OpenSSL made.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::https::Deadlines;
use super::*;

/// A CA, the appliance's certificate and the responder's.
const SCRIPT: &str = r#"
set -e
new() { openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -keyout "$1.key" -out "$1.pem" "${@:2}"; }
for ca in ca other; do
  new $ca -subj "/CN=$ca" -addext "keyUsage=critical,keyCertSign"
done
new server -subj /CN=appliance -CA ca.pem -CAkey ca.key -addext "subjectAltName=IP:127.0.0.1,DNS:localhost" -addext "basicConstraints=critical,CA:FALSE"
new client -subj /CN=responder -CA ca.pem -CAkey ca.key -addext "basicConstraints=critical,CA:FALSE"
new stranger -subj /CN=stranger -CA other.pem -CAkey other.key -addext "basicConstraints=critical,CA:FALSE"
: > empty.pem
"#;

struct Keys(tempfile::TempDir);

impl Keys {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let made = Command::new("bash")
            .args(["-c", SCRIPT])
            .current_dir(directory.path())
            .output();
        let made = made.unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
        Self(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn files(&self, ca: &str, client: &str) -> HttpsFiles {
        HttpsFiles {
            ca: self.path(&format!("{ca}.pem")),
            certificate: self.path(&format!("{client}.pem")),
            key: self.path(&format!("{client}.key")),
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let chain = vec![CertificateDer::from_pem_file(self.path("server.pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path("server.key")).unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients.build().unwrap())
            .with_single_cert(chain, key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// An appliance that serves a directory at `/public/`; it counts connections and requests.
struct Appliance {
    port: u16,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    server: tokio::task::JoinHandle<()>,
}

async fn serve(
    request: Request<Incoming>,
    directory: PathBuf,
) -> Result<Response<Full<Bytes>>, io::Error> {
    let path = request
        .uri()
        .path()
        .strip_prefix("/public/")
        .unwrap_or_default()
        .to_owned();
    let (status, body) = match path.as_str() {
        "problem" => {
            let detail = format!("the responder is\n disabled{}", ".".repeat(1000));
            let document = serde_json::json!({ "status": 403, "detail": detail });
            (StatusCode::FORBIDDEN, document.to_string().into_bytes())
        }
        "stalled" => return std::future::pending().await,
        "forbidden" => (StatusCode::FORBIDDEN, b"no".to_vec()),
        path => match std::fs::read(directory.join(path)) {
            Ok(octets) => (StatusCode::OK, octets),
            Err(_) => (StatusCode::NOT_FOUND, b"{}".to_vec()),
        },
    };
    let tag = format!("\"{}\"", body.len());
    let asked = request.headers().get("if-none-match");
    let (status, body) = match asked {
        Some(asked) if asked == tag.as_str() => (StatusCode::NOT_MODIFIED, Vec::new()),
        _ => (status, body),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert("etag", tag.parse().unwrap());
    if path == "last" {
        response
            .headers_mut()
            .insert("connection", "close".parse().unwrap());
    }
    Ok(response)
}

impl Appliance {
    async fn start(keys: &Keys, directory: PathBuf) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let requests = Arc::new(AtomicUsize::new(0));
        let (counter, acceptor) = (Arc::clone(&connections), keys.acceptor());
        let asked = Arc::clone(&requests);
        let server = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, directory) = (acceptor.clone(), directory.clone());
                let (counter, asked) = (Arc::clone(&counter), Arc::clone(&asked));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    let service = service_fn(move |request| {
                        asked.fetch_add(1, Ordering::Relaxed);
                        serve(request, directory.clone())
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ended = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            port,
            connections,
            requests,
            server,
        }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    fn https(&self, files: &HttpsFiles) -> Https {
        let url = format!("https://127.0.0.1:{}/public", self.port);
        let mut https = Https::new(&url, files).unwrap();
        https.deadlines = Deadlines {
            connect: Duration::from_secs(5),
            answer: Duration::from_millis(500),
        };
        https
    }
}

#[tokio::test]
async fn files_come_over_one_connection() {
    let keys = Keys::new();
    let base = tempfile::tempdir().unwrap();
    std::fs::create_dir(base.path().join("log")).unwrap();
    std::fs::write(base.path().join("log/checkpoint"), b"head").unwrap();
    std::fs::write(base.path().join("last"), b"x").unwrap();
    let appliance = Appliance::start(&keys, base.path().to_owned()).await;
    let source = Source::Https(Box::new(appliance.https(&keys.files("ca", "client"))));
    for _ in 0..20 {
        assert_eq!(
            source.get("log/checkpoint", 4).await.unwrap(),
            Some(b"head".to_vec())
        );
        assert_eq!(source.get("log/absent", 100).await.unwrap(), None);
    }
    assert_eq!(appliance.connections(), 1);
    // The server closes it: the next request has one of its own.
    source.get("last", 100).await.unwrap();
    assert_eq!(
        source.get("log/checkpoint", 100).await.unwrap(),
        Some(b"head".to_vec())
    );
    assert_eq!(appliance.connections(), 2);
    let long = source.get("log/checkpoint", 3).await;
    assert!(
        matches!(long, Err(SourceError::Long { limit: 3, .. })),
        "{long:?}"
    );
    let refused = source.get("forbidden", 100).await.unwrap_err();
    assert!(
        refused.is_refusal() && refused.to_string().contains("may read there"),
        "{refused}"
    );
    let refused = source.get("problem", 1).await.unwrap_err().to_string();
    assert!(
        refused.contains("403: the responder is disabled.") && refused.len() < 500,
        "{refused}"
    );
    let late = source.get("stalled", 100).await;
    assert!(matches!(late, Err(SourceError::Late { .. })), "{late:?}");
    assert_eq!(
        source.get("log/checkpoint", 100).await.unwrap(),
        Some(b"head".to_vec())
    );
    appliance.server.abort();
}

#[tokio::test]
async fn both_sides_prove_who_they_are() {
    let keys = Keys::new();
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("f"), b"x").unwrap();
    let appliance = Appliance::start(&keys, base.path().to_owned()).await;
    let wrong_ca = appliance.https(&keys.files("other", "client"));
    let refused = wrong_ca.get_unless("f", 100, None).await;
    assert!(
        matches!(refused, Err(SourceError::Connect { .. })),
        "{refused:?}"
    );
    // In TLS 1.3 the server's refusal of the client comes after the handshake.
    let stranger = appliance.https(&keys.files("ca", "stranger"));
    let refused = stranger.get_unless("f", 100, None).await;
    assert!(
        matches!(refused, Err(SourceError::Broken { .. })),
        "{refused:?}"
    );
    assert_eq!(appliance.connections(), 0);
    let url = format!("https://localhost:{}/public/", appliance.port);
    let by_name = Https::new(&url, &keys.files("ca", "client")).unwrap();
    let found = by_name.get_unless("f", 100, None).await.unwrap();
    assert!(matches!(found, Fetched::New(octets, _) if octets == b"x"));
    let until = by_name.certificate_until().unwrap().seconds();
    let made = std::fs::metadata(keys.path("client.pem")).unwrap();
    let made = made.modified().unwrap();
    let made = made.duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let days = (until - made.as_secs()) / 86_400;
    assert!(
        (28..=30).contains(&days),
        "openssl was told 30 days: {days}"
    );
    appliance.server.abort();
    assert!(appliance.server.await.is_err());
    let nobody = Https::new(&url, &keys.files("ca", "client"))
        .unwrap()
        .get_unless("f", 100, None)
        .await;
    assert!(
        matches!(nobody, Err(SourceError::Connect { .. })),
        "{nobody:?}"
    );
}

#[tokio::test]
async fn a_server_that_never_speaks_is_given_up() {
    let keys = Keys::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/public/", listener.local_addr().unwrap());
    let mut https = Https::new(&url, &keys.files("ca", "client")).unwrap();
    https.deadlines.connect = Duration::from_millis(100);
    let late = https.get_unless("f", 100, None).await;
    assert!(
        matches!(&late, Err(SourceError::Connect { source, .. }) if source.kind() == io::ErrorKind::TimedOut),
        "{late:?}"
    );
}

#[tokio::test]
async fn what_the_asker_has_is_not_sent_again() {
    let keys = Keys::new();
    let base = tempfile::tempdir().unwrap();
    let file = base.path().join("f");
    std::fs::write(&file, b"one").unwrap();
    let appliance = Appliance::start(&keys, base.path().to_owned()).await;
    let https = Source::Https(Box::new(appliance.https(&keys.files("ca", "client"))));
    let directory = Source::directory(base.path());
    for source in [https, directory] {
        std::fs::write(&file, b"one").unwrap();
        let Fetched::New(octets, version) = source.get_unless("f", 100, None).await.unwrap() else {
            panic!("it is there");
        };
        assert_eq!((octets.as_slice(), version.is_some()), (&b"one"[..], true));
        let known = version.as_ref();
        let again = source.get_unless("f", 100, known).await.unwrap();
        assert_eq!(again, Fetched::Unchanged);
        let other = Version::Tag("\"of another source\"".to_owned());
        let again = source.get_unless("f", 100, Some(&other)).await.unwrap();
        assert!(matches!(again, Fetched::New(..)), "{again:?}");
        std::fs::write(&file, b"three").unwrap();
        let newer = source.get_unless("f", 100, known).await.unwrap();
        assert!(matches!(newer, Fetched::New(octets, _) if octets == b"three"));
        let absent = source.get_unless("absent", 100, known).await.unwrap();
        assert_eq!(absent, Fetched::Missing);
    }
    appliance.server.abort();
}

#[tokio::test]
async fn a_view_follows_over_https() {
    use crate::log::EntryKind;
    use crate::view::View;
    let keys = Keys::new();
    let base = tempfile::tempdir().unwrap();
    let public = base.path().join("public");
    let mut log =
        super::super::tests::made::MadeLog::new(&public, "log.example", [5; 32], 1).unwrap();
    for _ in 0..3000 {
        log.push(EntryKind::Tick).unwrap();
    }
    log.publish().unwrap();
    let appliance = Appliance::start(&keys, public).await;
    let source = Source::Https(Box::new(appliance.https(&keys.files("ca", "client"))));
    let mut view = View::open(&base.path().join("state"), log.key().clone()).unwrap();
    assert_eq!(view.follow(&source).await.unwrap().entries, 3001);
    assert_eq!(view.reader().head(), Some(log.head()));
    // A look that finds nothing new is one small request: the checkpoint, which has some 200 octets.
    let before = appliance.requests.load(Ordering::Relaxed);
    for _ in 0..10 {
        assert_eq!(view.follow(&source).await.unwrap().entries, 0);
    }
    assert_eq!(appliance.requests.load(Ordering::Relaxed), before + 10);
    assert_eq!(appliance.connections(), 1);
    appliance.server.abort();
}

#[test]
fn what_cannot_be_set_up_is_told() {
    let keys = Keys::new();
    let good = keys.files("ca", "client");
    for url in [
        "http://host/public/",
        "host",
        "",
        "https://",
        "https://u@host/public/",
        "https://host/p?q=1",
        "https://ho st/",
    ] {
        let refused = Https::new(url, &good);
        assert!(
            matches!(refused, Err(HttpsRefused::Url(_))),
            "{url}: {refused:?}"
        );
    }
    let url = "https://host/public/";
    let absent = HttpsFiles {
        key: keys.path("absent"),
        ..good.clone()
    };
    assert!(
        matches!(Https::new(url, &absent), Err(HttpsRefused::Pem { path, .. }) if path == absent.key)
    );
    // Before the approval: what to do is said.
    let early = HttpsFiles {
        certificate: absent.key.clone(),
        ..absent.clone()
    };
    let refused = Https::new(url, &early).err().map(|early| early.to_string());
    let told = refused.unwrap_or_default();
    assert!(
        told.contains("is not there yet") && told.contains("--tls-csr"),
        "{told}"
    );
    let empty = HttpsFiles {
        ca: keys.path("empty.pem"),
        ..good.clone()
    };
    assert!(
        matches!(Https::new(url, &empty), Err(HttpsRefused::Empty { path }) if path == empty.ca)
    );
    let swapped = HttpsFiles {
        key: keys.path("stranger.key"),
        ..good
    };
    let refused = Https::new(url, &swapped);
    assert!(
        matches!(&refused, Err(HttpsRefused::Tls { path, .. }) if *path == swapped.key),
        "{refused:?}"
    );
    assert!(!format!("{refused:?}").contains("PRIVATE"));
}

#[test]
fn a_directory_gives_regular_files_of_bounded_size() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("f"), b"12345").unwrap();
    assert_eq!(
        read(&base.path().join("f"), 5).unwrap(),
        Some(b"12345".to_vec())
    );
    assert!(read(&base.path().join("f"), 4).is_err());
    assert!(read(base.path(), 4).is_err());
    assert_eq!(read(&base.path().join("absent"), 4).unwrap(), None);
    assert_eq!(read(&base.path().join("f/below"), 4).unwrap(), None);
}

/// Makes a FIFO, which nobody writes to.
fn fifo(path: &Path) {
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

#[tokio::test]
async fn a_fifo_in_a_directory_is_told_and_not_waited_for() {
    let base = tempfile::tempdir().unwrap();
    fifo(&base.path().join("checkpoint"));
    let source = Source::directory(base.path());
    let asked = timeout(Duration::from_secs(10), source.get("checkpoint", 9));
    let refused = asked.await.unwrap();
    assert!(
        matches!(refused, Err(SourceError::File { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_directory_that_hangs_is_late_and_holds_few_threads() {
    let base = tempfile::tempdir().unwrap();
    std::fs::write(base.path().join("file"), "four").unwrap();
    let source = Source::directory(base.path());
    let Source::Directory(mut directory) = source else {
        panic!("it is one");
    };
    directory.deadline = Duration::from_millis(50);
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Arc::new(std::sync::Mutex::new(ended));
    let begun = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 * READS_MAX {
        let (begun, ended) = (Arc::clone(&begun), Arc::clone(&ended));
        let hangs = directory.look("file", move |_| {
            begun.fetch_add(1, Ordering::SeqCst);
            // Until the other end is gone.
            let _ = ended.lock().map(|ended| ended.recv());
            Ok(())
        });
        let late = hangs.await;
        assert!(matches!(late, Err(SourceError::Late { .. })), "{late:?}");
    }
    assert_eq!(begun.load(Ordering::SeqCst), READS_MAX);
    drop(end);
    directory.deadline = DEADLINE;
    let read = Source::Directory(directory).get("file", 9).await;
    assert_eq!(read.unwrap(), Some(b"four".to_vec()));
}
