//! The daemon's connections in the worker: accepting, reading, putting jobs in the queue.
//!
//! Owns peer credentials, the handshake, the assembly of long TBSs and the table of opened keys. Promises
//! that only configured users are heard, that a connection's jobs end with it, and bounds on all that a peer
//! can make it hold. Failure story: a peer that breaks the protocol is cut off and the reason logged.

use std::io::Read as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::args::Purpose;
use super::connection::Connection;
use super::key::{NewKey, OpenKey, Wanted};
use super::queue::{Job, Queue, Work};
use crate::hsm::lock;
use crate::hsm::wire::{
    Answer, Fault, Frame, PART_BYTES_MAX, Request, TBS_BYTES_MAX, TokenState, WireFault,
    split_frame,
};

/// Connections at a time: a daemon, its successor, a ceremony, and some that are being made anew.
const CONNECTIONS_MAX: usize = 16;

/// Keys that a worker holds open.
const KEYS_MAX: usize = 1024;

/// Time for the first frame.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);

/// Octets that one read takes in at most.
const READ_BYTES: usize = 64 * 1024;

/// What all threads of a worker share.
#[derive(Debug)]
pub struct Shared {
    /// Jobs.
    pub queue: Queue,
    /// What the host was started for.
    purpose: Purpose,
    /// Users that may connect.
    uids: Vec<u32>,
    /// The token's state.
    state: Mutex<TokenState>,
    /// Open connections.
    connections: Mutex<Vec<Arc<Connection>>>,
    /// Opened keys; their places in this table are their numbers on the wire.
    keys: Mutex<Vec<(Wanted, Arc<OpenKey>)>>,
    /// The next connection's number.
    next_number: AtomicU64,
}

impl Shared {
    /// What a worker starts with.
    pub fn new(queue: Queue, purpose: Purpose, uids: Vec<u32>) -> Self {
        Self {
            queue,
            purpose,
            uids,
            state: Mutex::new(TokenState::Starting),
            connections: Mutex::default(),
            keys: Mutex::default(),
            next_number: AtomicU64::new(1),
        }
    }

    /// Changes the token's state and tells every connection.
    pub fn set_state(&self, state: TokenState) {
        let answer = Answer::State(state.clone());
        // Under the lock of the connections, so that one being added hears of the change once or twice,
        // never not at all.
        let connections = lock(&self.connections);
        *lock(&self.state) = state;
        let all = connections.clone();
        drop(connections);
        for connection in all {
            connection.send(&answer);
        }
    }

    /// Holds a key open under a number; the same key found again replaces its former self.
    pub fn hold(&self, wanted: Wanted, key: OpenKey) -> Result<u32, Fault> {
        let mut keys = lock(&self.keys);
        let place = match keys.iter().position(|(known, _)| *known == wanted) {
            Some(place) => place,
            None if keys.len() >= KEYS_MAX => {
                return Err(Fault::refused(format!(
                    "{KEYS_MAX} keys are open already; a token host holds no more"
                )));
            }
            None => keys.len(),
        };
        let entry = (wanted, Arc::new(key));
        match keys.get_mut(place) {
            Some(old) => *old = entry,
            None => keys.push(entry),
        }
        u32::try_from(place).map_err(|_| Fault::Busy)
    }

    /// Some open key, for a probe.
    pub fn any_key(&self) -> Option<Arc<OpenKey>> {
        lock(&self.keys).first().map(|(_, key)| Arc::clone(key))
    }

    /// The key with a number.
    fn key(&self, number: u32) -> Option<Arc<OpenKey>> {
        let place = usize::try_from(number).ok()?;
        lock(&self.keys).get(place).map(|(_, key)| Arc::clone(key))
    }

    /// Why nothing can be asked of the token now.
    fn fault(&self) -> Option<Fault> {
        lock(&self.state).fault()
    }
}

/// Accepts connections until the process ends, each with a thread of its own.
pub fn accept(shared: &Arc<Shared>, listener: &UnixListener) {
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => admit(shared, stream),
            // Out of descriptors, most likely: connections end, and then there are some again.
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                std::thread::park_timeout(Duration::from_millis(100));
            }
        }
    }
}

/// Starts a thread for a connection, if its user may connect and there is room.
fn admit(shared: &Arc<Shared>, stream: UnixStream) {
    match rustix::net::sockopt::socket_peercred(&stream) {
        Ok(peer) if shared.uids.contains(&peer.uid.as_raw()) => {}
        Ok(peer) => {
            tracing::warn!(
                uid = peer.uid.as_raw(),
                "refused a connection: its user is not in daemon_uids"
            );
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "refused a connection: the system does not tell its user");
            return;
        }
    }
    let number = shared.next_number.fetch_add(1, Ordering::Relaxed);
    let Ok(connection) = Connection::new(number, stream) else {
        return;
    };
    let connection = Arc::new(connection);
    {
        let mut connections = lock(&shared.connections);
        if connections.len() >= CONNECTIONS_MAX {
            tracing::warn!("refused a connection: {CONNECTIONS_MAX} are open");
            return;
        }
        connections.push(Arc::clone(&connection));
    }
    let (theirs, served) = (Arc::clone(shared), Arc::clone(&connection));
    let spawned = std::thread::Builder::new()
        .name(format!("connection-{number}"))
        .spawn(move || serve(&theirs, &served));
    if spawned.is_err() {
        leave(shared, &connection);
    }
}

/// Forgets a connection and its waiting jobs.
fn leave(shared: &Shared, connection: &Connection) {
    connection.end();
    lock(&shared.connections).retain(|other| other.number() != connection.number());
    shared.queue.end_connection(connection);
}

/// Serves a connection until it ends.
fn serve(shared: &Arc<Shared>, connection: &Arc<Connection>) {
    if let Err(fault) = read_all(shared, connection) {
        tracing::warn!(%fault, "cut a connection off");
    }
    leave(shared, connection);
}

/// Reads frames until the end.
fn read_all(shared: &Arc<Shared>, connection: &Arc<Connection>) -> Result<(), WireFault> {
    let mut reader = Reader {
        shared,
        connection,
        greeted: false,
        assembly: None,
        dropped: None,
        jobs: Vec::new(),
    };
    let mut stream = connection.stream();
    // An error here shows again at the first read.
    let _ = stream.set_read_timeout(Some(HELLO_PATIENCE));
    let mut octets = vec![0; READ_BYTES];
    let mut filled = 0;
    loop {
        let Some(room) = octets.get_mut(filled..) else {
            return Ok(());
        };
        match stream.read(room) {
            Ok(0) => return Ok(()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // The end of the connection, whatever the system calls it.
            Err(_) => return Ok(()),
        }
        let greeted = reader.greeted;
        let used = reader.take(octets.get(..filled).unwrap_or_default())?;
        octets.copy_within(used..filled, 0);
        filled -= used;
        if filled == octets.len() {
            // A frame longer than the buffer; its length was bounded when it was looked at.
            octets.resize(octets.len() * 2, 0);
        } else if filled == 0 && octets.len() > READ_BYTES {
            octets.truncate(READ_BYTES);
            octets.shrink_to_fit();
        }
        if reader.greeted && !greeted {
            let _ = stream.set_read_timeout(None);
        }
    }
}

/// A connection's reading side.
struct Reader<'a> {
    /// The worker's.
    shared: &'a Shared,
    /// Ours.
    connection: &'a Arc<Connection>,
    /// `Hello` came.
    greeted: bool,
    /// The TBS that is not whole yet; its parts follow one another.
    assembly: Option<Assembly>,
    /// The request that was refused while parts of its TBS were still to come.
    dropped: Option<u32>,
    /// Jobs of the octets at hand.
    jobs: Vec<Job>,
}

/// A TBS that is not whole yet.
struct Assembly {
    /// The request's number.
    id: u32,
    /// The key's number.
    key: u32,
    /// The whole length in octets.
    total: usize,
    /// What came.
    tbs: Vec<u8>,
}

impl Reader<'_> {
    /// Takes all whole frames and hands their jobs over at once; returns the octets used.
    fn take(&mut self, octets: &[u8]) -> Result<usize, WireFault> {
        let mut used = 0;
        while let Some(Frame { kind, body, length }) =
            split_frame(octets.get(used..).unwrap_or_default())?
        {
            self.hear(Request::parse(kind, body)?, kind)?;
            used += length;
        }
        let jobs = std::mem::take(&mut self.jobs);
        if !jobs.is_empty() {
            for (job, fault) in self.shared.queue.push(jobs) {
                job.connection.put(&Answer::Failed { id: job.id, fault });
            }
        }
        self.connection.flush();
        Ok(used)
    }

    /// Acts on one request.
    fn hear(&mut self, request: Request<'_>, kind: u8) -> Result<(), WireFault> {
        if !self.greeted && request != Request::Hello {
            return Err(WireFault::Kind(kind));
        }
        match request {
            Request::Hello => {
                self.greeted = true;
                self.connection.put(&Answer::Welcome);
                let state = lock(&self.shared.state).clone();
                self.connection.put(&Answer::State(state));
            }
            Request::OpenKey {
                id,
                label,
                algorithm,
                spki_sha256,
            } => self.enqueue(
                id,
                Work::Open(Wanted {
                    label: label.to_owned(),
                    algorithm,
                    spki_sha256,
                }),
            ),
            Request::Sign {
                id,
                key,
                total,
                part,
            } => self.begin(id, key, total, part)?,
            Request::More { id, part } => self.continue_with(id, part)?,
            Request::Generate {
                id,
                label,
                algorithm,
                policy,
            } => match self.shared.purpose {
                Purpose::Ceremony => self.enqueue(
                    id,
                    Work::Generate(NewKey {
                        label: label.to_owned(),
                        algorithm,
                        policy,
                    }),
                ),
                Purpose::Service => self.refuse(
                    id,
                    Fault::refused(
                        "this token host makes no keys: stop it and start it with --ceremony",
                    ),
                ),
            },
            Request::TakeOver { id } => self.take_over(id),
        }
        Ok(())
    }

    /// Answers with a failure; it leaves with the next flush.
    fn refuse(&self, id: u32, fault: Fault) {
        self.connection.put(&Answer::Failed { id, fault });
    }

    /// Puts a job with the others, if the token can be asked at all.
    fn enqueue(&mut self, id: u32, work: Work) {
        match self.shared.fault() {
            Some(fault) => self.refuse(id, fault),
            None => self.jobs.push(Job {
                connection: Arc::clone(self.connection),
                id,
                work,
            }),
        }
    }

    /// The first part of a TBS, most often all of it.
    fn begin(&mut self, id: u32, key: u32, total: u32, part: &[u8]) -> Result<(), WireFault> {
        let total = usize::try_from(total).map_err(|_| WireFault::Body)?;
        if self.assembly.is_some() {
            return Err(WireFault::Body);
        }
        if part.len() == total {
            self.sign(id, key, part.to_vec());
            return Ok(());
        }
        if part.len() > total || part.len() != PART_BYTES_MAX {
            return Err(WireFault::Body);
        }
        if total > TBS_BYTES_MAX {
            self.dropped = Some(id);
            self.refuse(
                id,
                Fault::refused(format!(
                    "a TBS of {total} octets; at most {TBS_BYTES_MAX} are signed"
                )),
            );
            return Ok(());
        }
        self.assembly = Some(Assembly {
            id,
            key,
            total,
            tbs: part.to_vec(),
        });
        Ok(())
    }

    /// A further part of a TBS.
    fn continue_with(&mut self, id: u32, part: &[u8]) -> Result<(), WireFault> {
        let Some(mut assembly) = self.assembly.take().filter(|assembly| assembly.id == id) else {
            // Parts of a request that was refused are still on their way; others are strange.
            return if self.dropped == Some(id) {
                Ok(())
            } else {
                Err(WireFault::Body)
            };
        };
        if part.is_empty() || assembly.tbs.len() + part.len() > assembly.total {
            return Err(WireFault::Body);
        }
        assembly.tbs.extend_from_slice(part);
        if assembly.tbs.len() == assembly.total {
            self.sign(id, assembly.key, assembly.tbs);
        } else {
            self.assembly = Some(assembly);
        }
        Ok(())
    }

    /// A whole TBS.
    fn sign(&mut self, id: u32, key: u32, tbs: Vec<u8>) {
        match self.shared.key(key) {
            Some(key) => self.enqueue(id, Work::Sign { key, tbs }),
            None => self.refuse(
                id,
                Fault::unavailable("the key is not open in this worker; it is opened again"),
            ),
        }
    }

    /// Ends every other connection and tells how many of their jobs still run.
    fn take_over(&self, id: u32) {
        let others = lock(&self.shared.connections).clone();
        let jobs = self.shared.queue.end_others(&others, self.connection);
        for other in others {
            if other.number() != self.connection.number() {
                other.end();
            }
        }
        self.connection.put(&Answer::StillRunning {
            id,
            jobs: u32::try_from(jobs).unwrap_or(u32::MAX),
        });
    }
}

#[cfg(test)]
mod tests;
