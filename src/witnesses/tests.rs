//! What witnesses answer, and what is made of it.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64ct::{Base64, Encoding as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;
use crate::limits;

const ORIGIN: &str = "log.example/plant";

/// A key pair.
fn pair(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

fn public(pair: &Ed25519KeyPair) -> [u8; 32] {
    pair.public_key().as_ref().try_into().unwrap()
}

fn log_key(pair: &Ed25519KeyPair) -> VerifierKey {
    VerifierKey::new(ORIGIN, public(pair)).unwrap()
}

fn cosigner(pair: &Ed25519KeyPair) -> CosignerKey {
    CosignerKey::new("w.example/1", public(pair)).unwrap()
}

/// A head signed by the log's key and cosigned by a witness's.
fn note(log: &Ed25519KeyPair, witness: &Ed25519KeyPair, size: u64, root: Hash) -> String {
    let origin = ORIGIN.to_owned();
    let head = Checkpoint { origin, size, root };
    let signature = log.sign(head.body().as_bytes());
    let note = head.to_note(&log_key(log), signature.as_ref().try_into().unwrap());
    let at = 1_700_000_000_u64;
    let cosignature = witness.sign(head.cosigned_message(at).as_bytes());
    let key = cosigner(witness);
    let octets = [&key.id(), &at.to_be_bytes()[..], cosignature.as_ref()].concat();
    let octets = Base64::encode_string(&octets);
    format!("{note}\u{2014} {} {octets}\n", key.name())
}

/// What is made of a head where the store has this root at its size.
fn judged(answer: &str, ours: Option<Hash>) -> Said {
    match Head::read(answer.as_bytes(), &cosigner(&pair(2)), &log_key(&pair(1))) {
        Ok(head) => Said::of(&head, ours),
        Err(problem) => Said::unheard(&problem),
    }
}

#[test]
fn agreement_takes_both_signatures_and_a_contradiction_the_logs_alone() {
    let (log, witness, stranger) = (pair(1), pair(2), pair(3));
    let (size, root, other) = (7, [4; 32], [5; 32]);
    let good = note(&log, &witness, size, root);
    let cosigned_at = UnixMillis::from_seconds(1_700_000_000);
    assert_eq!(
        judged(&good, Some(root)),
        Said::Agrees { size, cosigned_at }
    );
    let newer = Said::Newer { size, root };
    let forked = Said::Forked {
        size,
        root,
        ours: other,
    };
    assert_eq!(judged(&good, None), newer);
    assert_eq!(judged(&good, Some(other)), forked);
    // The log key signed it: it is proof whoever hands it over.
    let uncosigned = note(&log, &stranger, size, root);
    assert_eq!(judged(&uncosigned, None), newer);
    assert_eq!(judged(&uncosigned, Some(other)), forked);
    let told = |said: Said| match said {
        Said::Unheard { problem } => problem,
        other => panic!("{other:?}"),
    };
    let problem = told(judged(&uncosigned, Some(root)));
    assert!(
        problem.contains("not cosigned by the configured key"),
        "{problem}"
    );
    // Nobody but the log key can contradict.
    let forged = note(&stranger, &witness, size, root);
    for ours in [None, Some(root), Some(other)] {
        let problem = told(judged(&forged, ours));
        assert!(problem.contains("no head of this log"), "{problem}");
    }
    for garbage in [
        "",
        "\n\n",
        "hello",
        &good[..good.len() - 9],
        &good.replace('7', "8"),
    ] {
        told(judged(garbage, Some(root)));
    }
}

/// A testimony of a store with ten entries.
fn testimony(said: Vec<Said>) -> Testimony {
    let state = |said| WitnessState {
        witness: "w.example/1".to_owned(),
        url: "http://w.example".to_owned(),
        said,
    };
    Testimony {
        size: 10,
        root: [1; 32],
        witnesses: said.into_iter().map(state).collect(),
    }
}

#[test]
fn one_contradiction_refuses_whatever_the_others_say() {
    let (size, root, ours) = (12, [2; 32], [3; 32]);
    let agrees = || Said::Agrees {
        size: 9,
        cosigned_at: UnixMillis(5_000),
    };
    let unheard = || Said::Unheard {
        problem: "it is away".to_owned(),
    };
    assert_eq!(testimony(vec![]).judge(), Ok(()));
    assert_eq!(testimony(vec![agrees(), unheard()]).judge(), Ok(()));
    let newer = testimony(vec![agrees(), Said::Newer { size, root }]);
    let told = newer.judge().unwrap_err().to_string();
    for part in [
        "w.example/1 (http://w.example)",
        "12 entries",
        "this store has 10",
        "older copy",
        "--accept-unwitnessed",
    ] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let told = testimony(vec![Said::Forked { size, root, ours }]).judge();
    let told = told.unwrap_err().to_string();
    for part in ["fork", &hex::encode(&root), &hex::encode(&ours)] {
        assert!(told.contains(part), "{part}: {told}");
    }
    let rows = [
        (vec![], false),
        (vec![agrees()], true),
        (vec![agrees(), unheard()], false),
    ];
    for (said, confirmed) in rows {
        assert_eq!(testimony(said).is_confirmed(), confirmed);
    }
}

#[test]
fn a_testimony_is_data_that_the_log_takes() {
    let said = vec![
        Said::Agrees {
            size: 9,
            cosigned_at: UnixMillis(5_000),
        },
        Said::Unheard {
            problem: "it is away".to_owned(),
        },
        Said::Newer {
            size: 12,
            root: [2; 32],
        },
    ];
    let data = serde_json::to_value(testimony(said)).unwrap();
    assert_eq!(data["witnesses"][0]["cosigned_at"], 5_000);
    assert_eq!(data["witnesses"][1]["problem"], "it is away");
    assert_eq!(data["witnesses"][2]["verdict"], "newer");
    assert_eq!(data["witnesses"][2]["root"], "02".repeat(32));
    // A detail of the log has no null.
    assert!(!data.to_string().contains("null"), "{data}");
}

/// What is heard from a witness that answers with these bytes and then keeps the connection open or not.
async fn heard_from(answer: Vec<u8>, stays: bool) -> Result<Head, NotHeard> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let serve = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 2048];
        let read = stream.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..read]).into_owned();
        // Whoever asked may have gone before the end of an endless answer.
        let _sent = stream.write_all(&answer).await;
        if stays {
            let _ended = stream.read(&mut [0; 1]).await;
        }
        request
    });
    let witness = Witness {
        name: "w".to_owned(),
        url: url.parse().unwrap(),
        key: cosigner(&pair(2)),
    };
    let heard = hear(&[witness], ORIGIN, &log_key(&pair(1))).await.remove(0);
    let request = serve.await.unwrap();
    assert!(
        request.starts_with("GET /checkpoint/log.example/plant HTTP/1.1\r\n"),
        "{request}"
    );
    heard
}

#[tokio::test]
async fn answers_of_every_kind_end_in_a_head_or_a_sentence() {
    let good = note(&pair(1), &pair(2), 7, [4; 32]);
    let ok = |body: &str| {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}").into_bytes()
    };
    assert_eq!(
        heard_from(ok(&good), false).await.unwrap().checkpoint.size,
        7
    );
    assert_eq!(
        heard_from(ok(&good), true).await.unwrap().checkpoint.size,
        7
    );
    let closed = format!("HTTP/1.0 200 OK\r\n\r\n{good}").into_bytes();
    assert_eq!(heard_from(closed, false).await.unwrap().checkpoint.size, 7);
    let endless = [b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'a'; 1 << 20]].concat();
    let long_head = [b"HTTP/1.1 200 OK\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat();
    let redirect =
        b"HTTP/1.1 302 Found\r\nlocation: http://other.example/\r\ncontent-length: 0\r\n\r\n";
    let short = b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\nabc".to_vec();
    let rows: [(Vec<u8>, &str); 8] = [
        (endless, "longer than"),
        (long_head, "connection broke"),
        (redirect.to_vec(), "HTTP status 302"),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "does not follow this log",
        ),
        (short, "broke off"),
        (b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), "connection broke"),
        (ok("hello"), "no head of this log"),
        (
            ok("\u{fc}").iter().map(|octet| octet | 0x80).collect(),
            "connection broke",
        ),
    ];
    for (answer, word) in rows {
        let told = certstatus::chain(&heard_from(answer, false).await.unwrap_err());
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[tokio::test]
async fn silence_is_waited_for_as_long_as_it_may_last_and_side_by_side() {
    let begun = Instant::now();
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = dead.local_addr().unwrap();
    drop(dead);
    let witness = |address: std::net::SocketAddr| Witness {
        name: address.to_string(),
        url: format!("http://{address}").parse().unwrap(),
        key: cosigner(&pair(2)),
    };
    let witnesses = [witness(address), witness(gone), witness(address)];
    let heard = hear(&witnesses, ORIGIN, &log_key(&pair(1))).await;
    assert!(matches!(heard[0], Err(NotHeard::Late)), "{heard:?}");
    assert!(matches!(heard[1], Err(NotHeard::Connect(_))), "{heard:?}");
    assert!(matches!(heard[2], Err(NotHeard::Late)), "{heard:?}");
    let took = begun.elapsed();
    // Two that are silent one after the other would take two deadlines.
    assert!(took >= limits::WITNESS_DEADLINE, "{took:?}");
}
