//! What strangers send to `hallmark-ocsp`: the bytes of a connection, as its server sees them.
//!
//! Promises to judge every answer: it is HTTP, its length is told, it is no fault of the server, and an answer of OCSP
//! is one that parses. Mounted by the fuzz target, which runs a responder of its own, and by the responder's tests,
//! which have one that serves something.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use certstatus::log::checkpoint::VerifierKey;
use certstatus::ocsp::{ErrorStatus, read_response};
use certstatus::responder::{Clock, Config, Responder};

/// After this long without an answer the connection is ended from our side: a server on the same machine answers what
/// it can answer long before.
const QUIET: Duration = Duration::from_millis(3);

/// After this long a connection that was ended from our side is held open by mistake.
const PATIENCE: Duration = Duration::from_secs(10);

/// One connection's bytes, sent to a responder in this process that follows an empty directory.
pub fn ocsp_http(bytes: &[u8]) {
    static ADDRESS: OnceLock<SocketAddr> = OnceLock::new();
    judge(*ADDRESS.get_or_init(start), bytes);
}

/// Starts the responder.
fn start() -> SocketAddr {
    let name = format!("hallmark-fuzz-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(directory.join("public")).expect("a directory of our own");
    let key = VerifierKey::new("log.example/fuzz", [7; 32]).expect("a key's name");
    let text = format!(
        "version = 1\n[listen]\nhttp = [\"127.0.0.1:0\"]\nops = \"127.0.0.1:0\"\n[ocsp]\nkey_file = \"ocsp.key\"\n\
         [witness]\nname = \"w.example\"\nkey_file = \"witness.key\"\n[[log]]\nname = \"plant\"\nsource = \"public\"\n\
         log_key = \"{key}\"\nstate_dir = \"state\"\nresponder = \"ocsp-1\"\n"
    );
    let path = directory.join("ocsp.toml");
    std::fs::write(&path, text).expect("a file of our own");
    let config = Config::load(&path).expect("a configuration");
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let ended: Result<(), _> = runtime.block_on(async {
            let responder = Responder::open(config, Clock::system()).await?;
            let _sent = send.send(responder.addresses());
            responder.run(std::future::pending()).await
        });
        panic!("the responder ended: {ended:?}");
    });
    let addresses = receive.recv().expect("the responder listens");
    addresses.first().copied().expect("it has an address")
}

/// Sends one connection's bytes to a responder and judges what comes back.
pub fn judge(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the responder accepts connections");
    stream.set_nodelay(true).expect("an option of TCP");
    stream.set_read_timeout(Some(QUIET)).expect("an option");
    // It may have closed the connection at the first of them.
    let _sent = stream.write_all(bytes);
    let mut answers = Vec::new();
    let mut whole = read(&mut stream, &mut answers);
    if whole.is_none() {
        let _ended = stream.shutdown(Shutdown::Write);
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        whole = read(&mut stream, &mut answers);
    }
    let ended = whole.expect("the connection is held open after its end");
    judge_answers(&answers, ended, bytes);
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// As it should.
    Closed,
    /// Thrown away, and with it perhaps what was on the way.
    Reset,
}

/// Reads until the connection's end; none where nothing comes for too long.
fn read(stream: &mut TcpStream, answers: &mut Vec<u8>) -> Option<End> {
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return Some(End::Closed),
            Ok(more) => answers.extend_from_slice(&part[..more]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => return None,
            Err(_) => return Some(End::Reset),
        }
    }
}

/// Judges all answers of a connection.
fn judge_answers(answers: &[u8], end: End, bytes: &[u8]) {
    let mut rest = answers;
    while !rest.is_empty() {
        let Some(at) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
            assert_eq!(end, End::Reset, "half a head: {rest:?}");
            return;
        };
        let head = std::str::from_utf8(&rest[..at]).expect("a head is text");
        rest = &rest[at + 4..];
        let mut lines = head.split("\r\n");
        let line = lines.next().unwrap_or_default();
        let status = line
            .strip_prefix("HTTP/1.1 ")
            .or(line.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)?.parse::<u16>().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        assert!((100..500).contains(&status) || status == 505, "{line:?}");
        let header = |name: &str| {
            let mut all = head.split("\r\n").skip(1);
            all.find_map(|line| {
                let (found, value) = line.split_once(": ")?;
                found.eq_ignore_ascii_case(name).then_some(value)
            })
        };
        let Some(length) = header("content-length") else {
            assert!(
                matches!(status, 100 | 304),
                "an answer without a length: {head}"
            );
            continue;
        };
        let length: usize = length.parse().expect("a length");
        // HEAD has no body, and 304 none; which request this one answers is not worked out.
        let next = rest.starts_with(b"HTTP/1.") || rest.is_empty();
        if next && (length == 0 || status == 304 || bytes.windows(4).any(|four| four == b"HEAD")) {
            continue;
        }
        if rest.len() < length {
            assert_eq!(end, End::Reset, "half a body: {head}");
            return;
        }
        let (body, after) = rest.split_at(length);
        rest = after;
        if header("content-type") == Some("application/ocsp-response") {
            assert_eq!(status, 200, "{head}");
            assert_ne!(
                body,
                ErrorStatus::InternalError.der(),
                "a fault of the responder"
            );
            read_response(body).expect("an answer of OCSP parses");
        }
    }
}
