//! What peers send: batches and headers of stations, frames between the daemon and token hosts, heads of witnesses.

use base64ct::{Base64, Encoding as _};
use certstatus::log::checkpoint::{Checkpoint, CosignerKey};
use hallmark::hsm::wire::{self, Answer, Frame, Request, WireFault, split_frame};
use hallmark::http::{answered_type, split_batch};
use hallmark::limits::BATCH_CSRS_MAX;
use hallmark::witnesses::Head;

use super::log::{ORIGIN, log_key, note};

/// A batch: each block of PEM and each line is one item, in order, and nothing of a block is changed.
pub fn batch(bytes: &[u8]) {
    let Ok(items) = split_batch(bytes) else {
        return;
    };
    assert!(items.len() <= BATCH_CSRS_MAX);
    let first = bytes.iter().find(|octet| !octet.is_ascii_whitespace());
    if first == Some(&b'{') {
        let lines = bytes.split(|octet| *octet == b'\n');
        assert_eq!(
            items.len(),
            lines.filter(|line| !line.trim_ascii().is_empty()).count()
        );
        return;
    }
    let mut rest = bytes;
    for item in items {
        let block = item.expect("a block is an item as it stands");
        assert!(block.starts_with(b"-----BEGIN "));
        let at = rest.windows(block.len()).position(|window| window == block);
        rest = &rest[at.expect("a block stands in the body") + block.len()..];
    }
}

/// An Accept header: the answer's type is one that is offered.
pub fn accept(bytes: &[u8]) {
    if let Ok(name) = answered_type(bytes) {
        assert!(name.starts_with("application/"));
        assert_eq!(answered_type(name.as_bytes()).ok(), Some(name));
    }
}

/// Frames as the daemon or a token host gets them: what is read, written again, is the same frame.
pub fn token_frames(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        let Frame {
            kind,
            body,
            length: taken,
        } = match split_frame(rest) {
            Ok(Some(frame)) => frame,
            Ok(None) => return,
            Err(fault) => return assert!(matches!(fault, WireFault::Length(_))),
        };
        let frame = &rest[..taken];
        assert_eq!(body.len() + 5, taken);
        let request = Request::parse(kind, body).map(|request| judge_request(&request, frame));
        let answer = Answer::parse(kind, body).map(|answer| judge_answer(&answer, frame));
        assert!(
            request.is_err() || answer.is_err(),
            "a frame means one thing"
        );
        rest = &rest[taken..];
    }
}

/// Writes a request again.
fn judge_request(request: &Request<'_>, frame: &[u8]) {
    let mut out = Vec::new();
    match *request {
        Request::Hello => wire::put_hello(&mut out),
        Request::OpenKey {
            id,
            label,
            algorithm,
            ref spki_sha256,
        } => {
            wire::put_open_key(&mut out, id, label, algorithm, spki_sha256);
        }
        Request::Sign {
            id,
            key,
            total,
            part,
        } if part.len() == total as usize => {
            wire::put_sign(&mut out, id, key, part);
        }
        Request::Generate {
            id,
            label,
            algorithm,
            policy,
        } => {
            wire::put_generate(&mut out, id, label, algorithm, policy);
        }
        Request::TakeOver { id } => wire::put_take_over(&mut out, id),
        // Parts of something longer.
        Request::Sign { .. } | Request::More { .. } => return,
    }
    assert_eq!(out, frame);
}

/// Writes an answer again.
fn judge_answer(answer: &Answer, frame: &[u8]) {
    let mut out = Vec::new();
    answer.put(&mut out);
    // The attributes of a new key have no order when they are read.
    if !matches!(answer, Answer::Generated { .. }) {
        assert_eq!(out, frame);
    }
    let whole = split_frame(&out).expect("a frame").expect("a whole one");
    let Frame {
        kind,
        body,
        length: taken,
    } = whole;
    assert_eq!(
        (Answer::parse(kind, body).as_ref(), taken),
        (Ok(answer), frame.len())
    );
    if let Answer::Failed { fault, .. } = answer {
        drop(fault.clone().into_error("token", "label").to_string());
    }
}

/// The name of the witness in the corpus.
pub const WITNESS: &str = "witness.example/w1";

/// The body as a note with the log's signature and the witness's, whatever the body is.
fn cosigned(body: &str, witness: &CosignerKey) -> String {
    let at: u64 = 1_700_000_000;
    let (pair, _) = log_key();
    let message = format!("cosignature/v1\ntime {at}\n{body}");
    let signature = pair.sign(message.as_bytes());
    let octets = [&witness.id(), &at.to_be_bytes()[..], signature.as_ref()].concat();
    let octets = Base64::encode_string(&octets);
    format!("{}\u{2014} {WITNESS} {octets}\n", note(body))
}

/// What a witness answers, as it stands, and again with its first part signed by the log key and the witness: what is
/// read of it is what the log key signed, and the witness vouches for nothing else.
pub fn witness(bytes: &[u8]) {
    let (_, log) = log_key();
    let witness = CosignerKey::new(WITNESS, *log.key()).expect("it is a key's name");
    let read = |answer: &[u8]| {
        let head = Head::read(answer, &witness, &log).ok()?;
        let text = str::from_utf8(answer).expect("a note is text");
        assert_eq!(head.checkpoint.origin, ORIGIN);
        assert!(text.starts_with(&head.checkpoint.body()));
        assert_eq!(
            Checkpoint::verify(text, &log).as_ref(),
            Ok(&head.checkpoint)
        );
        Some(head)
    };
    let _ = read(bytes);
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let (body, lines) = text.split_once("\n\n").unwrap_or((text, ""));
    let whole = cosigned(&format!("{body}\n"), &witness);
    if let Some(head) = read(whole.as_bytes()) {
        assert!(head.cosigned.is_ok());
    }
    // Other lines before ours may be broken, but say nothing else.
    let _ = read(format!("{}{lines}", note(&format!("{body}\n"))).as_bytes());
}
