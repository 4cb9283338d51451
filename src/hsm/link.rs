//! The daemon's end of the connection to one token host.
//!
//! Owns the connection and its making anew, requests in flight, and the keys that must be open on it.
//! Promises that every request gets exactly one answer, that a failure says whether the token may have seen
//! it, and that a key is used only on the connection that opened it. Never repeats a request: a second
//! signature is the caller's decision. Failure story: a lost connection fails what was written as
//! `Maybe` and what was not as `No`, and the connection is made again until the daemon ends.

mod connection;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use certstatus::signature::SignatureAlgorithm;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

use self::connection::Lost;
use super::host::queue_bounds;
use super::wire::{self, Answer, Fault, TokenState};
use super::{HsmError, TokenHealth, lock};
use crate::config::Token;

/// Requests in flight at most; the host's queue holds fewer, so this bounds only what a stuck host leaves.
const PENDING_MAX: usize = 2 * crate::limits::REQUESTS_IN_FLIGHT_MAX;

/// The pause before a connection is tried again at first, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// Time for the host's first answer: a worker may have to be started for it.
const WELCOME_PATIENCE: Duration = Duration::from_secs(10);

/// What the daemon waits beyond the host's own deadlines before it gives a connection up.
const ANSWER_SLACK: Duration = Duration::from_secs(5);

/// Latencies that the median is taken of.
const LATENCIES: usize = 256;

/// The connection to one token host.
#[derive(Debug)]
pub struct Link {
    /// The token's configured name.
    name: String,
    /// The host's socket.
    socket: PathBuf,
    /// How long one signature may take.
    sign_deadline: Duration,
    /// Requests.
    outbox: Mutex<Outbox>,
    /// Tells the writer that there is something to write.
    written: Notify,
    /// The number of the connection on which the token is ready; 0 for none.
    ready: AtomicU64,
    /// The token's state as the host tells it, or why no host does.
    state: watch::Sender<TokenState>,
    /// Keys that must be open.
    keys: Mutex<Vec<Weak<Key>>>,
    /// Tells that a key was added.
    key_added: Notify,
    /// For `status`.
    figures: Mutex<Figures>,
}

/// Requests that wait to be written, and those that wait for an answer.
#[derive(Debug, Default)]
struct Outbox {
    /// The connection's number; 0 while there is none.
    connection: u64,
    /// Frames to be written.
    octets: Vec<u8>,
    /// Requests without an answer.
    pending: HashMap<u32, Pending>,
    /// The next request's number.
    next_id: u32,
    /// Requests whose frames are still in `octets`, by their number.
    unwritten: Vec<u32>,
}

/// A request without an answer.
#[derive(Debug)]
struct Pending {
    /// Where the answer goes.
    answer: oneshot::Sender<Result<Answer, Fault>>,
    /// When it was made.
    since: Instant,
    /// When the host has failed to answer.
    until: Instant,
}

/// Numbers for `status`.
#[derive(Debug, Default)]
struct Figures {
    /// Signatures since the daemon started.
    signatures: u64,
    /// The last latencies in microseconds, in no order.
    latencies: Vec<u64>,
}

/// A key that is to be open, as long as somebody holds it.
#[derive(Debug)]
pub struct Key {
    /// CKA_LABEL.
    pub label: String,
    /// What it signs with.
    pub algorithm: SignatureAlgorithm,
    /// SHA-256 of the SubjectPublicKeyInfo.
    spki_sha256: [u8; 32],
    /// The connection that it is open on and its number there: connection in the upper 32 bits.
    place: AtomicU64,
    /// What the last attempt to open it brought.
    opened: watch::Sender<Opened>,
}

/// What an attempt to open a key brought.
#[derive(Clone, Debug)]
enum Opened {
    /// None was made yet.
    NotYet,
    /// It is, or was, open; its SubjectPublicKeyInfo.
    Open(Arc<[u8]>),
    /// It could not be opened.
    Failed(Fault),
}

impl Link {
    /// Starts to connect, in a task of its own that ends with the last use of this link.
    pub fn open(token: &Token) -> Arc<Self> {
        let link = Arc::new(Self {
            name: token.name.clone(),
            socket: token.socket.clone(),
            sign_deadline: token.sign_deadline,
            outbox: Mutex::default(),
            written: Notify::new(),
            ready: AtomicU64::new(0),
            state: watch::Sender::new(TokenState::Starting),
            keys: Mutex::default(),
            key_added: Notify::new(),
            figures: Mutex::default(),
        });
        tokio::spawn(connection::keep_connected(Arc::downgrade(&link)));
        link
    }

    /// The token's configured name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The error that callers see.
    pub fn error(&self, fault: Fault, label: &str) -> HsmError {
        fault.into_error(&self.name, label)
    }

    /// Why the token cannot be used now.
    fn fault(&self) -> Fault {
        self.state
            .borrow()
            .fault()
            .unwrap_or_else(|| Fault::unavailable("the connection is being made"))
    }

    //------ Requests ----

    /// Sends a request that `put` writes, and returns where its answer comes.
    fn request(
        &self,
        patience: Duration,
        put: impl FnOnce(&mut Vec<u8>, u32, u64) -> Result<(), Fault>,
    ) -> Result<oneshot::Receiver<Result<Answer, Fault>>, Fault> {
        let since = Instant::now();
        let mut outbox = lock(&self.outbox);
        if outbox.connection == 0 {
            drop(outbox);
            return Err(self.fault());
        }
        if outbox.pending.len() >= PENDING_MAX {
            return Err(Fault::Busy);
        }
        let id = outbox.next_id;
        let connection = outbox.connection;
        put(&mut outbox.octets, id, connection)?;
        outbox.next_id = id.wrapping_add(1);
        let (answer, receiver) = oneshot::channel();
        let first = outbox.unwritten.is_empty();
        outbox.unwritten.push(id);
        outbox.pending.insert(
            id,
            Pending {
                answer,
                since,
                until: since + patience,
            },
        );
        drop(outbox);
        if first {
            self.written.notify_one();
        }
        Ok(receiver)
    }

    /// Sends a request and waits for its answer.
    async fn ask(
        &self,
        patience: Duration,
        put: impl FnOnce(&mut Vec<u8>, u32),
    ) -> Result<Answer, Fault> {
        let receiver = self.request(patience, |octets, id, _| {
            put(octets, id);
            Ok(())
        })?;
        receiver.await.unwrap_or_else(|_| Err(gone()))
    }

    /// How long the host may take for a signature: its queue, the signature, and something for the road.
    fn sign_patience(&self) -> Duration {
        queue_bounds::WAIT_MAX + self.sign_deadline + ANSWER_SLACK
    }

    /// Signs with a key that is open.
    ///
    /// # Errors
    /// [`Fault`]; one call is at most one signature.
    pub async fn sign(&self, key: &Key, tbs: &[u8]) -> Result<Vec<u8>, Fault> {
        let receiver = self.request(self.sign_patience(), |octets, id, connection| {
            // A host that said that its token is away is not asked: what it is sent while its worker ends
            // would have to count as an attempt.
            let number = key
                .number_on(connection)
                .filter(|_| self.ready.load(Ordering::Acquire) == connection)
                .ok_or_else(|| self.why_closed(key))?;
            wire::put_sign(octets, id, number, tbs);
            Ok(())
        })?;
        match receiver.await.unwrap_or_else(|_| Err(gone()))? {
            Answer::Signature { signature, .. } => Ok(signature),
            _ => Err(Fault::lost("the host gave an answer to something else")),
        }
    }

    /// Why a key is not open on the present connection.
    fn why_closed(&self, key: &Key) -> Fault {
        if let Some(fault) = self.state.borrow().fault() {
            return fault;
        }
        match &*key.opened.borrow() {
            Opened::Failed(fault) => fault.clone(),
            Opened::NotYet | Opened::Open(_) => Fault::unavailable("the key is being opened"),
        }
    }

    /// Makes a key pair.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn generate(
        &self,
        label: &str,
        algorithm: super::KeyAlgorithm,
        policy: super::KeyPolicy,
    ) -> Result<super::GeneratedKey, Fault> {
        let patience = queue_bounds::WAIT_MAX + queue_bounds::GENERATE_LIMIT + ANSWER_SLACK;
        let answer = self
            .ask(patience, |octets, id| {
                wire::put_generate(octets, id, label, algorithm, policy);
            })
            .await?;
        match answer {
            Answer::Generated {
                spki, attributes, ..
            } => Ok(super::GeneratedKey { spki, attributes }),
            _ => Err(Fault::lost("the host gave an answer to something else")),
        }
    }

    /// Ends what the host does for others and waits until nothing of it runs any more.
    pub async fn take_over(&self) {
        loop {
            let asked = self.ask(ANSWER_SLACK, wire::put_take_over).await;
            match asked {
                Ok(Answer::StillRunning { jobs: 0, .. }) => return,
                Ok(_) => {}
                // No host, no worker: it dies with its host, and the host's socket refuses then.
                Err(_) if self.nobody_listens().await => return,
                Err(_) => {}
            }
            sleep(RECONNECT.0).await;
        }
    }

    /// Whether the socket provably has no process behind it.
    async fn nobody_listens(&self) -> bool {
        match UnixStream::connect(&self.socket).await {
            Ok(_) => false,
            Err(error) => matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused
            ),
        }
    }

    /// The longest that [`Self::take_over`] may need: what runs ends within its deadline, and a worker that
    /// was killed meanwhile takes its time to come back.
    pub fn take_over_patience(&self) -> Duration {
        self.sign_deadline + WELCOME_PATIENCE + 2 * ANSWER_SLACK
    }

    /// Waits until the token is ready.
    ///
    /// # Errors
    /// [`Fault`]: the verdict on the PIN, or why it is not ready after `patience`.
    pub async fn wait_ready(&self, patience: Duration) -> Result<(), Fault> {
        let mut state = self.state.subscribe();
        let settled = state.wait_for(|state| {
            matches!(
                state,
                TokenState::Ready | TokenState::PinRejected | TokenState::PinLocked
            )
        });
        // A channel cannot close under its own sender, so both failures are the time.
        let _ = timeout(patience, settled).await;
        self.state.borrow().fault().map_or(Ok(()), Err)
    }

    //------ Keys ----

    /// Opens a key, and keeps it open on every later connection while somebody holds it.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn open_key(
        &self,
        label: &str,
        algorithm: SignatureAlgorithm,
        spki_sha256: [u8; 32],
        patience: Duration,
    ) -> Result<(Arc<Key>, Arc<[u8]>), Fault> {
        self.wait_ready(patience).await?;
        let key = Arc::new(Key {
            label: label.to_owned(),
            algorithm,
            spki_sha256,
            place: AtomicU64::new(0),
            opened: watch::Sender::new(Opened::NotYet),
        });
        let mut opened = key.opened.subscribe();
        {
            let mut keys = lock(&self.keys);
            keys.retain(|held| held.strong_count() > 0);
            keys.push(Arc::downgrade(&key));
        }
        self.key_added.notify_one();
        let wait = self.sign_patience();
        let settled = timeout(
            wait,
            opened.wait_for(|opened| !matches!(opened, Opened::NotYet)),
        )
        .await;
        let brought = match settled {
            Ok(Ok(opened)) => opened.clone(),
            Ok(Err(_)) | Err(_) => Opened::NotYet,
        };
        match brought {
            Opened::Open(spki) => Ok((key, spki)),
            Opened::Failed(fault) => Err(fault),
            Opened::NotYet => Err(self.fault()),
        }
    }

    /// Whether a key could sign now.
    pub fn usable(&self, key: &Key) -> bool {
        let ready = self.ready.load(Ordering::Acquire);
        ready != 0 && key.number_on(ready).is_some()
    }

    /// The keys that somebody still holds.
    fn held_keys(&self) -> Vec<Arc<Key>> {
        lock(&self.keys).iter().filter_map(Weak::upgrade).collect()
    }

    /// The token as `status` shows it.
    pub fn health(&self) -> TokenHealth {
        let keys = self.held_keys();
        let problem = self
            .state
            .borrow()
            .fault()
            .map(|fault| (fault, ""))
            .or_else(|| {
                keys.iter()
                    .find(|key| !self.usable(key))
                    .map(|key| (self.why_closed(key), key.label.as_str()))
            });
        let figures = lock(&self.figures);
        let mut latencies = figures.latencies.clone();
        let signatures = figures.signatures;
        drop(figures);
        latencies.sort_unstable();
        TokenHealth {
            token: self.name.clone(),
            usable: problem.is_none(),
            problem: problem.map(|(fault, label)| self.error(fault, label).to_string()),
            signatures,
            latency_us: latencies.get(latencies.len() / 2).copied(),
        }
    }
}

/// The runtime ends while a request waits.
fn gone() -> Fault {
    Fault::lost("the daemon is ending")
}

impl Key {
    /// Its number on a connection, if it is open there.
    fn number_on(&self, connection: u64) -> Option<u32> {
        let place = self.place.load(Ordering::Acquire);
        if place >> 32 == connection & u64::from(u32::MAX) && place >> 32 != 0 {
            u32::try_from(place & u64::from(u32::MAX)).ok()
        } else {
            None
        }
    }

    /// Notes that it is open.
    fn opened_on(&self, connection: u64, number: u32, spki: Vec<u8>) {
        self.place
            .store(connection << 32 | u64::from(number), Ordering::Release);
        self.opened.send_replace(Opened::Open(spki.into()));
    }
}

impl Link {
    //------ What the connection's tasks bring ----

    /// Hands a batch of answers to those who wait for them.
    fn deliver(&self, connection: u64, batch: &mut Vec<Answer>) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut outbox = lock(&self.outbox);
        let mut signed = Vec::new();
        let mut states = Vec::new();
        let mut ready = Vec::with_capacity(batch.len());
        for answer in batch.drain(..) {
            let (id, result) = match answer {
                Answer::State(state) => {
                    states.push(state);
                    continue;
                }
                // Said once already.
                Answer::Welcome => continue,
                Answer::Failed { id, fault } => (id, Err(fault)),
                Answer::Signature { id, .. } => {
                    if let Some(pending) = outbox.pending.get(&id) {
                        signed.push(now.saturating_duration_since(pending.since));
                    }
                    (id, Ok(answer))
                }
                Answer::Opened { id, .. }
                | Answer::Generated { id, .. }
                | Answer::StillRunning { id, .. } => (id, Ok(answer)),
            };
            // A second answer, after a deadline was answered for it, finds nobody.
            if let Some(pending) = outbox.pending.remove(&id) {
                ready.push((pending.answer, result));
            }
        }
        drop(outbox);
        // Counted before anybody can see it done.
        lock(&self.figures).add(&signed);
        // A failure that comes with a new state is seen with it.
        for state in states {
            let usable_on = match state {
                TokenState::Ready => connection,
                _ => 0,
            };
            self.ready.store(usable_on, Ordering::Release);
            self.state.send_replace(state);
        }
        for (waiting, result) in ready {
            // Whoever asked may have gone.
            let _ = waiting.send(result);
        }
    }

    /// Why a worker ends before it says a word: it ends anyway, or the host does not take this user.
    fn lost_before_welcome(&self) -> Lost {
        if matches!(*self.state.borrow(), TokenState::Starting) {
            Lost::because(connection::REFUSED)
        } else {
            Lost::Worker
        }
    }

    /// Fails what is in flight; gives back why, where that is news.
    fn disconnected(&self, lost: &Lost) -> Option<String> {
        self.ready.store(0, Ordering::Release);
        let lost = match (lost, &*self.state.borrow()) {
            (Lost::Because(cause), _) => cause.clone(),
            // Its own last word is worth more than that it ended.
            (Lost::Worker, TokenState::Unavailable(cause)) => cause.clone(),
            (Lost::Worker, _) => "the token host's worker ended; it is started again".to_owned(),
        };
        let lost = lost.as_str();
        let mut outbox = lock(&self.outbox);
        outbox.connection = 0;
        outbox.octets = Vec::new();
        let unwritten = std::mem::take(&mut outbox.unwritten);
        let mut pending = std::mem::take(&mut outbox.pending);
        drop(outbox);
        for id in unwritten {
            if let Some(pending) = pending.remove(&id) {
                let _ = pending.answer.send(Err(Fault::unavailable(lost)));
            }
        }
        for pending in pending.into_values() {
            let _ = pending.answer.send(Err(Fault::lost(lost)));
        }
        let before = self
            .state
            .send_replace(TokenState::Unavailable(lost.to_owned()));
        (before != TokenState::Unavailable(lost.to_owned())).then(|| lost.to_owned())
    }
}

impl Figures {
    /// Adds signatures and their latencies.
    fn add(&mut self, signed: &[Duration]) {
        for latency in signed {
            let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
            let place = usize::try_from(self.signatures).unwrap_or(0) % LATENCIES;
            match self.latencies.get_mut(place) {
                Some(oldest) => *oldest = micros,
                None => self.latencies.push(micros),
            }
            self.signatures += 1;
        }
    }
}

#[cfg(test)]
mod tests;
