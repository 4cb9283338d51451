//! The daemon's end against a host that is played here.

use super::*;
use crate::hsm::host::queue_bounds;
use crate::hsm::wire::{Frame, Request, split_frame};
use crate::hsm::{KeyAlgorithm, Reached};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream as StdStream};

/// The longest that a test waits for something that must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A token whose host's socket is in a directory of the test's own.
fn token(dir: &tempfile::TempDir) -> Token {
    Token {
        name: "soft".to_owned(),
        module: "/nonexistent".into(),
        label: "label".to_owned(),
        serial: "serial".to_owned(),
        pin_file: "/nonexistent".into(),
        socket: dir.path().join("socket"),
        sessions: 1,
        sign_deadline: Duration::from_secs(1),
        daemon_uids: Vec::new(),
    }
}

/// The host's end of one connection.
struct Host {
    /// The socket.
    stream: StdStream,
    /// What was received and not yet taken apart.
    octets: Vec<u8>,
}

impl Host {
    /// Accepts, greets, and says that the token is ready.
    fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = listener.accept().unwrap();
        let mut host = Self {
            stream,
            octets: Vec::new(),
        };
        assert_eq!(host.hear(|request| *request == Request::Hello), 0);
        host.say(&Answer::Welcome);
        host.say(&Answer::State(TokenState::Ready));
        host
    }

    /// Waits for a request, which must be `expected`, and returns its number.
    fn hear(&mut self, expected: impl Fn(&Request<'_>) -> bool) -> u32 {
        loop {
            if let Some(Frame { kind, body, length }) = split_frame(&self.octets).unwrap() {
                let request = Request::parse(kind, body).unwrap();
                assert!(expected(&request), "{request:?}");
                let id = match request {
                    Request::Hello => 0,
                    Request::OpenKey { id, .. }
                    | Request::Sign { id, .. }
                    | Request::More { id, .. }
                    | Request::Generate { id, .. }
                    | Request::TakeOver { id } => id,
                };
                self.octets.drain(..length);
                return id;
            }
            let mut more = [0; 4096];
            let count = self.stream.read(&mut more).unwrap();
            assert_ne!(count, 0, "the daemon hung up");
            self.octets.extend_from_slice(&more[..count]);
        }
    }

    /// Sends an answer.
    fn say(&mut self, answer: &Answer) {
        let mut out = Vec::new();
        answer.put(&mut out);
        self.stream.write_all(&out).unwrap();
    }

    /// Opens the one key that is asked for.
    fn open_key(&mut self, key: u32) {
        let id = self.hear(|request| matches!(request, Request::OpenKey { .. }));
        self.say(&Answer::Opened {
            id,
            key,
            spki: vec![1, 2, 3],
        });
    }
}

/// A link, its host's socket, and a directory that holds it.
fn link() -> (Arc<Link>, UnixListener, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let token = token(&dir);
    let listener = UnixListener::bind(&token.socket).unwrap();
    (Link::open(&token), listener, dir)
}

/// Opens a key.
async fn key(link: &Link) -> Result<Arc<Key>, Fault> {
    let algorithm = KeyAlgorithm::EcdsaP256.signature();
    link.open_key("ca", algorithm, [0; 32], Duration::from_secs(5))
        .await
        .map(|(key, _)| key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_comes_before_the_greeting_is_no_fault() {
    let (link, listener, _dir) = link();
    let host = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut host = Host {
            stream,
            octets: Vec::new(),
        };
        host.hear(|request| *request == Request::Hello);
        // The login came through between the connection and its greeting.
        host.say(&Answer::State(TokenState::Ready));
        host.say(&Answer::Welcome);
        host.say(&Answer::State(TokenState::Ready));
        host.open_key(7);
        host
    });
    let key = key(&link).await.unwrap();
    assert!(link.usable(&key));
    drop(host.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_leaves_a_doubt_and_the_key_is_opened_again() {
    let (link, listener, _dir) = link();
    let host = std::thread::spawn(move || {
        let mut host = Host::accept(&listener);
        host.open_key(7);
        host.hear(|request| matches!(request, Request::Sign { key: 7, .. }));
        // The worker dies with the request in its hands.
        drop(host);
        let mut host = Host::accept(&listener);
        host.open_key(8);
        let id = host.hear(|request| matches!(request, Request::Sign { key: 8, .. }));
        host.say(&Answer::Signature {
            id,
            signature: vec![9],
        });
        host
    });
    let key = key(&link).await.unwrap();
    assert!(link.usable(&key));
    let lost = link.sign(&key, b"tbs").await.unwrap_err();
    assert!(
        matches!(
            lost,
            Fault::Unavailable {
                reached: Reached::Maybe,
                ..
            }
        ),
        "{lost:?}"
    );
    let again = async {
        loop {
            match link.sign(&key, b"tbs").await {
                Err(Fault::Unavailable {
                    reached: Reached::No,
                    ..
                }) => sleep(Duration::from_millis(5)).await,
                other => break other,
            }
        }
    };
    let signature = timeout(PATIENCE, again).await.unwrap();
    assert_eq!(signature, Ok(vec![9]));
    let health = link.health();
    assert!(health.usable);
    assert_eq!(health.signatures, 1);
    drop(host.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_find_their_requests_in_any_order_and_strange_ones_nobody() {
    let (link, listener, _dir) = link();
    let host = std::thread::spawn(move || {
        let mut host = Host::accept(&listener);
        host.open_key(1);
        let ids: Vec<u32> = (0..3)
            .map(|_| host.hear(|request| matches!(request, Request::Sign { .. })))
            .collect();
        host.say(&Answer::Signature {
            id: 4_000_000_000,
            signature: Vec::new(),
        });
        for id in ids.iter().rev() {
            for _ in 0..2 {
                host.say(&Answer::Signature {
                    id: *id,
                    signature: id.to_be_bytes().to_vec(),
                });
            }
        }
        (host, ids)
    });
    let key = key(&link).await.unwrap();
    let (a, b, c) = tokio::join!(
        link.sign(&key, b"a"),
        link.sign(&key, b"b"),
        link.sign(&key, b"c")
    );
    let (_host, ids) = host.join().unwrap();
    for (signature, id) in [a, b, c].into_iter().zip(ids) {
        assert_eq!(signature, Ok(id.to_be_bytes().to_vec()));
    }
    assert_eq!(link.health().signatures, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_speaks_nonsense_is_left() {
    let (link, listener, _dir) = link();
    let host = std::thread::spawn(move || {
        for nonsense in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            &[0; 64],
            &[0, 0, 0, 1, 77],
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(nonsense).unwrap();
            // Until the daemon hangs up.
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let mut host = Host::accept(&listener);
        host.open_key(1);
        host
    });
    key(&link).await.unwrap();
    drop(host.join().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verdict_on_the_pin_is_told_at_once() {
    let (link, listener, _dir) = link();
    let host = std::thread::spawn(move || {
        let mut host = Host::accept(&listener);
        host.say(&Answer::State(TokenState::PinRejected));
        host
    });
    let _host = host.join().unwrap();
    let mut state = link.state.subscribe();
    state
        .wait_for(|state| *state == TokenState::PinRejected)
        .await
        .unwrap();
    assert_eq!(key(&link).await.unwrap_err(), Fault::PinRejected);
    let health = link.health();
    assert!(!health.usable);
    assert!(health.problem.unwrap().contains("correct pin_file"));
}

#[tokio::test]
async fn without_a_host_a_request_is_provably_unsent_and_the_host_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let link = Link::open(&token(&dir));
    let fault = link
        .wait_ready(Duration::from_millis(200))
        .await
        .unwrap_err();
    let error = link.error(fault, "ca");
    assert_eq!(error.reached(), Reached::No);
    assert!(error.to_string().contains("hallmark-token soft"), "{error}");
    link.take_over().await;
}

#[tokio::test]
async fn the_task_ends_with_the_last_use_of_a_link() {
    let dir = tempfile::tempdir().unwrap();
    let link = Link::open(&token(&dir));
    let weak = Arc::downgrade(&link);
    drop(link);
    let ending = async {
        while weak.strong_count() > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(timeout(PATIENCE, ending).await.is_ok());
}

#[test]
fn the_median_is_of_the_last_latencies() {
    let mut figures = Figures::default();
    figures.add(&[Duration::from_micros(5); LATENCIES]);
    figures.add(&[Duration::from_micros(9); LATENCIES]);
    assert_eq!(figures.latencies, [9; LATENCIES]);
    assert_eq!(figures.signatures, 2 * u64::try_from(LATENCIES).unwrap());
}

#[test]
fn the_daemon_outwaits_the_host() {
    // Else it would cut off a host that is about to answer, and leave a doubt where there is none.
    assert!(queue_bounds::WAIT_MAX < crate::limits::ANSWER_DEADLINE);
    assert!(ANSWER_SLACK > Duration::from_secs(2));
}
