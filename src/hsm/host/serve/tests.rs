//! What a peer may say, without a token behind it: jobs stay in the queue.

use super::*;
use crate::hsm::host::queue::Next;
use crate::hsm::host::stopwatch::Stopwatch;
use crate::hsm::wire::{
    put_generate, put_hello, put_open_key, put_sign, put_take_over, split_frame,
};
use crate::hsm::{KeyAlgorithm, KeyPolicy};
use certstatus::signature::SignatureAlgorithm;
use proptest::prelude::*;
use std::io::Write as _;

/// A worker's shared part, as its own user sees it, with the token ready.
fn shared(purpose: Purpose) -> Arc<Shared> {
    let queue = Queue::new(Duration::from_secs(1), 1, Stopwatch::start());
    let own = rustix::process::geteuid().as_raw();
    let shared = Arc::new(Shared::new(queue, purpose, vec![own]));
    shared.set_state(TokenState::Ready);
    shared
}

/// The daemon's end of a connection.
struct Peer(UnixStream, Vec<u8>);

impl Peer {
    /// Connects.
    fn new(shared: &Arc<Shared>) -> Self {
        let (theirs, ours) = UnixStream::pair().unwrap();
        admit(shared, theirs);
        Self(ours, Vec::new())
    }

    /// Connects and exchanges greetings.
    fn greeted(shared: &Arc<Shared>) -> Self {
        let mut peer = Self::new(shared);
        peer.say(put_hello);
        assert_eq!(peer.hear(), Some(Answer::Welcome));
        assert_eq!(peer.hear(), Some(Answer::State(TokenState::Ready)));
        peer
    }

    /// Sends what `put` writes.
    fn say(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut out = Vec::new();
        put(&mut out);
        // The other side may have hung up already, which is what some tests are about.
        let _ = self.0.write_all(&out);
    }

    /// The next answer; none at the end.
    fn hear(&mut self) -> Option<Answer> {
        loop {
            if let Some(Frame { kind, body, length }) = split_frame(&self.1).unwrap() {
                let answer = Answer::parse(kind, body).unwrap();
                self.1.drain(..length);
                return Some(answer);
            }
            let mut more = [0; 4096];
            match self.0.read(&mut more) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.1.extend_from_slice(&more[..count]),
            }
        }
    }
}

/// The next job that the worker would do.
fn job(shared: &Shared) -> Job {
    match shared.queue.next(0, Duration::from_secs(30)) {
        Next::Job(job) => job,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_is_heard_before_the_greeting() {
    let shared = shared(Purpose::Service);
    let mut peer = Peer::new(&shared);
    peer.say(|out| put_take_over(out, 1));
    assert_eq!(peer.hear(), None);
}

#[test]
fn a_request_becomes_a_job() {
    let shared = shared(Purpose::Service);
    let mut peer = Peer::greeted(&shared);
    peer.say(|out| put_open_key(out, 3, "ca", SignatureAlgorithm::Ed25519, &[1; 32]));
    let job = job(&shared);
    assert_eq!(job.id, 3);
    assert!(matches!(job.work, Work::Open(wanted) if wanted.label == "ca"));
}

#[test]
fn a_key_that_is_not_open_is_unavailable_and_nothing_is_queued() {
    let shared = shared(Purpose::Service);
    let mut peer = Peer::greeted(&shared);
    for tbs in [vec![1], vec![1; 2 * PART_BYTES_MAX + 1]] {
        peer.say(|out| put_sign(out, 1, 0, &tbs));
        assert!(matches!(
            peer.hear(),
            Some(Answer::Failed {
                id: 1,
                fault: Fault::Unavailable { .. }
            })
        ));
    }
    assert!(shared.queue.next_now(0).is_none());
}

#[test]
fn a_tbs_that_is_too_long_is_refused_and_the_connection_goes_on() {
    let shared = shared(Purpose::Service);
    let mut peer = Peer::greeted(&shared);
    let writer = {
        let mut stream = peer.0.try_clone().unwrap();
        std::thread::spawn(move || {
            let mut out = Vec::new();
            put_sign(&mut out, 1, 0, &vec![0; TBS_BYTES_MAX + 1]);
            put_take_over(&mut out, 2);
            stream.write_all(&out).unwrap();
        })
    };
    assert!(matches!(
        peer.hear(),
        Some(Answer::Failed {
            id: 1,
            fault: Fault::Refused { .. }
        })
    ));
    assert_eq!(peer.hear(), Some(Answer::StillRunning { id: 2, jobs: 0 }));
    writer.join().unwrap();
}

#[test]
fn keys_are_made_in_a_ceremony_only() {
    let generate = |out: &mut Vec<u8>| {
        put_generate(
            out,
            1,
            "new",
            KeyAlgorithm::EcdsaP256,
            KeyPolicy::NeverExtractable,
        );
    };
    let service = shared(Purpose::Service);
    let mut peer = Peer::greeted(&service);
    peer.say(generate);
    let Some(Answer::Failed {
        fault: Fault::Refused { cause, .. },
        ..
    }) = peer.hear()
    else {
        panic!("another answer")
    };
    assert!(cause.contains("--ceremony"), "{cause}");
    let ceremony = shared(Purpose::Ceremony);
    let mut peer = Peer::greeted(&ceremony);
    peer.say(generate);
    assert!(matches!(job(&ceremony).work, Work::Generate(_)));
}

#[test]
fn a_verdict_reaches_open_connections_and_answers_every_request() {
    let shared = shared(Purpose::Service);
    let mut peer = Peer::greeted(&shared);
    shared.set_state(TokenState::PinLocked);
    assert_eq!(peer.hear(), Some(Answer::State(TokenState::PinLocked)));
    peer.say(|out| put_open_key(out, 1, "ca", SignatureAlgorithm::Ed25519, &[1; 32]));
    assert_eq!(
        peer.hear(),
        Some(Answer::Failed {
            id: 1,
            fault: Fault::PinLocked
        })
    );
}

#[test]
fn a_takeover_ends_the_others_and_counts_what_runs() {
    let shared = shared(Purpose::Service);
    let mut old = Peer::greeted(&shared);
    old.say(|out| {
        for id in 0..3 {
            put_open_key(out, id, "ca", SignatureAlgorithm::Ed25519, &[1; 32]);
        }
    });
    job(&shared);
    let mut new = Peer::greeted(&shared);
    new.say(|out| put_take_over(out, 1));
    assert_eq!(new.hear(), Some(Answer::StillRunning { id: 1, jobs: 1 }));
    assert_eq!(old.hear(), None, "it was cut off");
    assert!(shared.queue.next_now(0).is_none(), "its jobs were dropped");
    new.say(|out| put_take_over(out, 2));
    assert_eq!(new.hear(), Some(Answer::StillRunning { id: 2, jobs: 0 }));
}

#[test]
fn a_foreign_user_and_one_connection_too_many_are_hung_up_on() {
    let queue = Queue::new(Duration::from_secs(1), 1, Stopwatch::start());
    let strict = Arc::new(Shared::new(queue, Purpose::Service, vec![u32::MAX - 1]));
    let mut peer = Peer::new(&strict);
    peer.say(put_hello);
    assert_eq!(peer.hear(), None);
    let shared = shared(Purpose::Service);
    let held: Vec<Peer> = (0..CONNECTIONS_MAX)
        .map(|_| Peer::greeted(&shared))
        .collect();
    let mut peer = Peer::new(&shared);
    peer.say(put_hello);
    assert_eq!(peer.hear(), None);
    drop(held);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_octets_of_a_peer_panic_or_stop_the_others(
        octets in proptest::collection::vec(any::<u8>(), 0..600),
        greeted in any::<bool>(),
    ) {
        let shared = shared(Purpose::Service);
        let mut peer = if greeted { Peer::greeted(&shared) } else { Peer::new(&shared) };
        peer.say(|out| out.extend_from_slice(&octets));
        peer.0.shutdown(std::net::Shutdown::Write).unwrap();
        while peer.hear().is_some() {}
        Peer::greeted(&shared);
    }
}
