//! One connection over TCP: peers that do not read, and places that are given up.

use std::future::ready;
use std::net::IpAddr;
use std::pin::Pin;

use hyper::body::Bytes;
use tokio::task::JoinHandle;

use super::*;

/// A long time, which no test waits for.
const LONG: Duration = Duration::from_secs(600);

/// A short one.
const SHORT: Duration = Duration::from_millis(100);

/// The answer to `/long`: more than all buffers on the way take.
const LONG_ANSWER: usize = 64 * 1024 * 1024;

/// Answers `/long`, and everything else with its body.
#[derive(Clone)]
struct Answers(Bytes);

type Work = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl hyper::service::Service<Request<Incoming>> for Answers {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Work;

    fn call(&self, request: Request<Incoming>) -> Work {
        if request.uri().path() == "/long" {
            let body = Body::whole(self.0.clone());
            return Box::pin(ready(Ok(Response::new(body))));
        }
        Box::pin(async move {
            use http_body_util::BodyExt as _;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            Ok(Response::new(Body::whole(body)))
        })
    }
}

/// A connection with these manners: the client's end, and the server's task.
async fn connection(manners: Manners, places: &Shares) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = TcpStream::connect(address).await.unwrap();
    let (stream, peer) = listener.accept().await.unwrap();
    let place = places.take(Origin::of(peer.ip())).unwrap();
    let answers = Answers(Bytes::from(vec![7; LONG_ANSWER]));
    let (stop, stopping) = Stopping::new();
    let task = tokio::spawn(async move {
        serve_one(stream, answers, stopping, place, manners).await;
        drop(stop);
    });
    (client, task)
}

/// Asks for what no socket's buffers hold.
const ASK_LONG: &[u8] = b"GET /long HTTP/1.1\r\nhost: x\r\n\r\n";

/// Impatient with those who do not read.
fn hurried() -> Manners {
    let patience = Patience {
        least: SHORT,
        speed_min: 1024 * 1024,
    };
    Manners {
        patience,
        leaving: LONG,
    }
}

#[tokio::test]
async fn a_client_that_never_reads_is_cut_off() {
    let places = Shares::new(1, 1);
    let (mut client, task) = connection(hurried(), &places).await;
    client.write_all(ASK_LONG).await.unwrap();
    task.await.unwrap();
    assert_eq!(places.taken(), 0, "its place is free");
}

#[tokio::test]
async fn a_client_that_reads_drops_is_cut_off() {
    let places = Shares::new(1, 1);
    let (mut client, task) = connection(hurried(), &places).await;
    client.write_all(ASK_LONG).await.unwrap();
    let mut taken = 0;
    while !task.is_finished() {
        // Far less a second than what would earn more time.
        taken += client.read(&mut [0; 16]).await.unwrap_or_default();
        sleep(Duration::from_millis(10)).await;
    }
    assert!(taken < LONG_ANSWER / 2, "{taken}");
    assert_eq!(places.taken(), 0);
}

#[tokio::test]
async fn a_client_that_reads_gets_all_of_it() {
    let places = Shares::new(1, 1);
    let manners = Manners {
        patience: Patience::USUAL,
        leaving: LONG,
    };
    let (mut client, task) = connection(manners, &places).await;
    client
        .write_all(b"GET /long HTTP/1.0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(answer.len() > LONG_ANSWER && answer.ends_with(&[7; 100]));
    drop(client);
    task.await.unwrap();
}

/// Another origin asks for the one place.
fn newcomer(places: &Shares) -> Option<Place> {
    let address: IpAddr = "192.0.2.9".parse().unwrap();
    places.take(Origin::of(address))
}

#[tokio::test]
async fn a_request_in_work_is_answered_when_its_place_is_given_up() {
    let places = Shares::new(2, 2);
    let patient = Manners {
        patience: Patience::USUAL,
        leaving: LONG,
    };
    let (mut first, task) = connection(patient, &places).await;
    let (mut second, other) = connection(patient, &places).await;
    first
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        .await
        .unwrap();
    // The answer to this one shows that the first is in work too: one thread does both, in order.
    second
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\nz")
        .await
        .unwrap();
    let mut answer = [0; 12];
    second.read_exact(&mut answer).await.unwrap();
    let new = newcomer(&places).unwrap();
    assert!(new.made_room);
    tokio::task::yield_now().await;
    first.write_all(b"cd").await.unwrap();
    let mut answer = Vec::new();
    first.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nabcd"),
        "{answer:?}"
    );
    drop(first);
    task.await.unwrap();
    assert!(!other.is_finished(), "the other one stays");
    other.abort();
}

#[tokio::test]
async fn whoever_does_not_go_is_cut_off() {
    let places = Shares::new(2, 2);
    let hard = Manners {
        patience: Patience::USUAL,
        leaving: SHORT,
    };
    let (mut busy, task) = connection(hard, &places).await;
    let (_other, other) = connection(hard, &places).await;
    busy.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        .await
        .unwrap();
    let _new = newcomer(&places).unwrap();
    task.await.unwrap();
    assert_eq!(places.taken(), 2, "the other one and the new one");
    other.abort();
}
