//! Hostile input and hostile clients: always an OCSP error or a closed connection, and everybody else is answered.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use certstatus::ocsp::{
    CERT_IDS_MAX, ErrorStatus, HashAlgorithm, IssuerHashes, ParsedResponse, REQUEST_BYTES_MAX,
    read_response, request,
};

use super::site::{Answer, EC, Running, Site, connect_from, exchange, get, send, serial, until};

/// A site with a certificate, and its responder; and a request for the certificate.
fn running(listen: &str) -> (Site, Running, Vec<u8>) {
    let mut site = Site::new("log.example/hostile", &[("device-1", EC)]);
    site.issue("device-1", 1);
    site.publish();
    let config = site.config(listen, "", "");
    site.approve(&config, "device-1");
    let running = Running::start(&config);
    running.ready();
    let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    let hashes = IssuerHashes::of_certificate(&der).unwrap();
    let id = hashes.cert_id(HashAlgorithm::Sha1, serial(1).as_bytes());
    (site, running, request(&[&id], None))
}

/// That an honest client is answered.
fn answers(running: &Running, request: &[u8]) {
    let answer = send(running.address, "POST", "/ocsp", "", request);
    assert!(
        matches!(read_response(&answer.body), Ok(ParsedResponse::Basic(_))),
        "{answer:?}"
    );
    assert_eq!(running.metric("hallmark_ocsp_panics_total"), Some(0.0));
}

#[test]
fn broken_requests_get_malformed_request() {
    let (_site, running, good) = running("");
    let malformed = &ErrorStatus::MalformedRequest.der()[..];
    let mut answered = 0;
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 0x11;
        for octets in [&good[..at], &flipped] {
            let answer = send(running.address, "POST", "/ocsp", "", octets);
            assert_eq!(answer.status, 200);
            assert!(read_response(&answer.body).is_ok(), "{at}: {answer:?}");
            answered += usize::from(answer.body == malformed);
        }
    }
    assert!(
        answered > good.len(),
        "every truncation at least: {answered}"
    );
    answers(&running, &good);
}

#[test]
fn as_many_certificates_are_answered_as_the_limit_says() {
    let (site, running, good) = running("");
    let der = std::fs::read(site.public().join("ca/device-1.cer")).unwrap();
    let hashes = IssuerHashes::of_certificate(&der).unwrap();
    let ask = |count: usize| {
        let ids: Vec<Vec<u8>> = (0..count as u64)
            .map(|n| hashes.cert_id(HashAlgorithm::Sha1, serial(n).as_bytes()))
            .collect();
        let ids: Vec<&[u8]> = ids.iter().map(Vec::as_slice).collect();
        send(running.address, "POST", "/ocsp", "", &request(&ids, None)).body
    };
    assert_eq!(CERT_IDS_MAX, 64, "what docs/OCSP.md says");
    let most = ask(64);
    let Ok(ParsedResponse::Basic(basic)) = read_response(&most) else {
        panic!("not a signed answer: {most:?}");
    };
    assert_eq!(basic.singles.len(), 64);
    assert_eq!(ask(65), ErrorStatus::MalformedRequest.der());
    answers(&running, &good);
}

#[test]
fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let (_site, running, good) = running("");
    let long = vec![0x30; REQUEST_BYTES_MAX + 1];
    let answer = send(running.address, "POST", "/ocsp", "", &long);
    assert_eq!(
        (answer.status, &answer.body[..]),
        (200, &ErrorStatus::MalformedRequest.der()[..])
    );
    for (length, status) in [(1_000_000_000, 200), (u64::MAX, 431)] {
        let head = format!("POST /ocsp HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
        // Answered although none of it comes: nothing is waited for, or it would be 408.
        let answer = Answer::parse(&exchange(running.address, head.as_bytes()));
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let chunked = format!(
        "POST /ocsp HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n{}",
        format!("1000\r\n{}\r\n", "x".repeat(4096)).repeat(8)
    );
    let answer = Answer::parse(&exchange(running.address, chunked.as_bytes()));
    assert_eq!(
        (answer.status, &answer.body[..5]),
        (200, &ErrorStatus::MalformedRequest.der()[..])
    );
    for head in [
        format!(
            "GET /ocsp/{} HTTP/1.1\r\nhost: x\r\n\r\n",
            "A".repeat(60_000)
        ),
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\n{}\r\n",
            "x: y\r\n".repeat(5000)
        ),
        "\r\n\r\n\0\0\0\0 nonsense\r\n\r\n".to_owned(),
    ] {
        let answer = exchange(running.address, head.as_bytes());
        assert!(answer.is_empty() || Answer::parse(&answer).status >= 400);
    }
    answers(&running, &good);
}

#[test]
fn slow_clients_are_dropped_and_hold_nobody() {
    let (_site, running, good) = running("connections = 64\nconnections_per_origin = 64");
    let begun = Instant::now();
    let beginnings: [&[u8]; 3] = [
        b"",
        b"GET /ocsp/",
        b"POST /ocsp HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n0",
    ];
    let mut slow: Vec<TcpStream> = (0..60)
        .map(|n| {
            let mut stream = TcpStream::connect(running.address).unwrap();
            stream.write_all(beginnings[n % 3]).unwrap();
            stream
        })
        .collect();
    answers(&running, &good);
    // A drop now and then does not help.
    while begun.elapsed() < Duration::from_secs(8) {
        for stream in &mut slow {
            let _ = stream.write_all(b"x");
        }
        std::thread::park_timeout(Duration::from_secs(2));
        answers(&running, &good);
    }
    for mut stream in slow {
        stream
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let timed_out = ended
            .as_ref()
            .is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "still open");
    }
    answers(&running, &good);
}

/// Raises this process's limit of open files; how many there may be.
fn open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let hard = getrlimit(Resource::Nofile).maximum;
    let current = hard.map_or(wanted, |hard| hard.min(wanted));
    let limit = Rlimit {
        current: Some(current),
        maximum: hard,
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    current
}

#[test]
fn connections_are_bounded() {
    // Files of other tests are open too.
    let count = usize::try_from(open_files(12_000) - 1000)
        .unwrap()
        .min(10_000);
    // Few enough to be full on a busy machine too, before the first of them are dropped for their slowness.
    let places = count / 8;
    let (_site, running, good) = running(&format!(
        "connections = {}\nconnections_per_origin = {places}",
        places + 10
    ));
    let before = running.memory();
    // The beginning of a head, which has to be kept.
    let begin = |_| {
        let mut stream = TcpStream::connect(running.address).unwrap();
        // One that is refused may be closed by now.
        let _ = stream.write_all(format!("GET /{} HTTP/1.1\r\nx: ", "a".repeat(4000)).as_bytes());
        stream
    };
    let metric = |name: &str| running.metric(name).unwrap();
    let [accepted, refused] =
        ["", "_refused"].map(|kind| format!("hallmark_ocsp_connections{kind}_total"));
    let mut open: Vec<TcpStream> = Vec::new();
    while open.len() < count {
        // No more at a time than wait to be accepted: the system has others try again a second later.
        open.extend((0..250).map(begin));
        until("these have come", || {
            metric(&accepted) + metric(&refused) >= open.len() as f64
        });
    }
    assert!(metric(&refused) > 0.0 && metric(&accepted) >= places as f64);
    let each = (running.memory_peak() - before) * 1024 / places as u64;
    assert!(each < 32 * 1024, "{each} octets for each of {places}");
    drop(open);
    until("the places come back", || {
        !exchange(running.address, b"GET /x HTTP/1.0\r\n\r\n").is_empty()
    });
    answers(&running, &good);
    assert_eq!(get(running.ops, "/healthz").status, 200);
}

#[test]
fn four_origins_keep_nobody_out() {
    let (_site, running, good) = running("connections = 40\nconnections_per_origin = 10");
    let open = |last: u8| connect_from(Ipv4Addr::new(127, 0, 1, last), running.address);
    let begin = |last: u8| {
        let mut stream = open(last);
        stream.set_nodelay(true).unwrap();
        stream.write_all(b"GET /ocsp/").unwrap();
        stream
    };
    let mut attackers: Vec<TcpStream> = (0..40).map(|n| begin(n % 4)).collect();
    until("all places are taken", || {
        running.metric("hallmark_ocsp_connections_total") == Some(40.0)
    });
    for _ in 0..5 {
        // From an address of its own, with a place that one of them gives up.
        answers(&running, &good);
    }
    let given_up = || running.metric("hallmark_ocsp_connections_given_up_total");
    assert!(given_up().unwrap() >= 1.0);
    let closed = |stream: &mut TcpStream| {
        let read = stream
            .set_nonblocking(true)
            .and_then(|()| stream.read(&mut [0; 1]));
        !read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
    };
    until("whoever gave up is closed", || {
        attackers.iter_mut().any(closed)
    });
    let count = attackers
        .iter_mut()
        .filter_map(|stream| closed(stream).then_some(()))
        .count();
    assert!(count <= 5, "{count}: one for each that came");
    // They come again, take all there are, and have nobody pushed out but each other.
    let most: Vec<TcpStream> = (0..40).map(|n| open(n % 4)).collect();
    answers(&running, &good);
    drop(most);
    answers(&running, &good);
}

#[test]
fn a_body_in_drops_costs_what_it_is_long() {
    let (_site, running, good) = running("");
    let before = running.memory_peak();
    let length = 16_000;
    let mut clients: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = TcpStream::connect(running.address).unwrap();
            stream.set_nodelay(true).unwrap();
            let head =
                format!("POST /ocsp HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            stream
        })
        .collect();
    for _ in 0..length {
        for stream in &mut clients {
            // Who is too slow for the deadline has sent enough by then.
            let _ = stream.write_all(b"0");
        }
    }
    let grown = running.memory_peak() - before;
    assert!(grown < 16 * 1024, "{grown} KiB for 4 bodies of 16 kB");
    answers(&running, &good);
}
