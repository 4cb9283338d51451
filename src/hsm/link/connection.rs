//! Making a connection to a token host, keeping it, and moving octets on it.
//!
//! Owns the tasks of one connection: the reader, the writer, the watch over deadlines and the opening of
//! keys. Promises to try again until nobody uses the link. What a lost connection means for the requests
//! in flight is the link's to say.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::{Instant, sleep, timeout};

use super::super::wire::{self, Answer, Fault, Frame, TokenState, split_frame};
use super::{Link, Opened, RECONNECT, WELCOME_PATIENCE, lock};

/// How often a key that is missing or unfit is looked for again.
const REOPEN_INTERVAL: Duration = Duration::from_secs(2);

/// Octets that one read takes in at most.
const READ_BYTES: usize = 64 * 1024;

/// Connects again and again until nobody uses the link any more.
pub async fn keep_connected(link: Weak<Link>) {
    let mut number = 0_u64;
    let mut pause = RECONNECT.0;
    loop {
        let Some(alive) = link.upgrade() else {
            return;
        };
        // 32 bits hold a connection every 20 ms for two years and more; 0 means none.
        number = (number + 1).max(1) & u64::from(u32::MAX);
        let lost = connect_once(&alive, number.max(1), &mut pause).await;
        // Besides this task somebody uses the link, so that what was lost is lost to somebody.
        let tell = Arc::strong_count(&alive) > 1;
        let cause = alive.disconnected(&lost);
        if let Some(cause) = cause.filter(|_| tell) {
            tracing::warn!(token = alive.name, "{cause}");
        }
        drop(alive);
        sleep(pause).await;
        pause = (pause * 2).min(RECONNECT.1);
    }
}

/// Why there is no connection.
#[derive(Debug)]
pub enum Lost {
    /// The worker ended; what it said last is the reason.
    Worker,
    /// Something else.
    Because(String),
}

impl Lost {
    /// Something else.
    pub fn because(cause: impl std::fmt::Display) -> Self {
        Self::Because(cause.to_string())
    }
}

/// One connection, from its making to its end; returns why it ended.
async fn connect_once(link: &Arc<Link>, number: u64, pause: &mut Duration) -> Lost {
    let stream = match UnixStream::connect(&link.socket).await {
        Ok(stream) => stream,
        Err(error) => {
            return Lost::Because(format!(
                "no token host listens on {}: {error}; start hallmark-token {}",
                link.socket.display(),
                link.name
            ));
        }
    };
    let (mut reading, mut writing) = stream.into_split();
    let mut hello = Vec::new();
    wire::put_hello(&mut hello);
    if let Err(error) = writing.write_all(&hello).await {
        return refused(&error);
    }
    let mut inbox = Inbox::new();
    match timeout(WELCOME_PATIENCE, inbox.first(&mut reading)).await {
        Ok(Ok(Answer::Welcome)) => {}
        Ok(Ok(_)) => return Lost::because("what listens there is no token host"),
        Ok(Err(Lost::Worker)) => return link.lost_before_welcome(),
        Ok(Err(lost)) => return lost,
        Err(_) => return Lost::because("the token host does not answer"),
    }
    *pause = RECONNECT.0;
    {
        let mut outbox = lock(&link.outbox);
        outbox.connection = number;
        outbox.octets.clear();
    }
    tokio::select! {
        lost = read_answers(link, number, &mut inbox, &mut reading) => lost,
        lost = write_requests(link, &mut writing) => lost,
        lost = watch_deadlines(link) => lost,
        () = keep_keys_open(link, number) => Lost::because("the daemon is ending"),
        () = unused(link) => Lost::because("the daemon is ending"),
    }
}

/// What a host that hangs up before its first word most likely means.
pub const REFUSED: &str =
    "the token host hangs up; is this user in its daemon_uids? Its log says which it refused";

/// The host closed the connection before its first word.
fn refused(error: &std::io::Error) -> Lost {
    Lost::Because(format!("{REFUSED} ({error})"))
}

/// Waits until this task alone holds the link.
async fn unused(link: &Arc<Link>) {
    while Arc::strong_count(link) > 1 {
        sleep(REOPEN_INTERVAL).await;
    }
}

/// Received octets, taken apart into answers.
struct Inbox {
    /// The buffer.
    octets: Vec<u8>,
    /// Octets in it that are used up.
    used: usize,
    /// Octets in it that were received.
    filled: usize,
}

impl Inbox {
    /// An empty one.
    fn new() -> Self {
        Self {
            octets: vec![0; READ_BYTES],
            used: 0,
            filled: 0,
        }
    }

    /// The next answer among the octets at hand.
    fn at_hand(&mut self) -> Result<Option<Answer>, Lost> {
        let octets = self.octets.get(self.used..self.filled).unwrap_or_default();
        let split = split_frame(octets).map_err(Lost::because)?;
        let Some(Frame { kind, body, length }) = split else {
            return Ok(None);
        };
        let answer = Answer::parse(kind, body).map_err(Lost::because)?;
        self.used += length;
        Ok(Some(answer))
    }

    /// Reads more octets.
    async fn fill(&mut self, reading: &mut OwnedReadHalf) -> Result<(), Lost> {
        self.octets.copy_within(self.used..self.filled, 0);
        self.filled -= self.used;
        self.used = 0;
        if self.filled == self.octets.len() {
            // A long frame; its length was bounded when it was looked at.
            self.octets.resize(self.octets.len() * 2, 0);
        }
        let room = self.octets.get_mut(self.filled..).unwrap_or_default();
        match reading.read(room).await {
            Ok(0) => Err(Lost::Worker),
            Ok(count) => {
                self.filled += count;
                Ok(())
            }
            // A worker that was killed with octets unread.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Err(Lost::Worker),
            Err(error) => Err(Lost::Because(format!(
                "the connection to the token host broke: {error}"
            ))),
        }
    }

    /// Waits for the first answer that is not a change of the token's state: the host tells every connection
    /// of it, one that it has not greeted yet too, and tells the state again after the greeting.
    async fn first(&mut self, reading: &mut OwnedReadHalf) -> Result<Answer, Lost> {
        let mut last_word = None;
        loop {
            match self.next(reading).await {
                Ok(Answer::State(TokenState::Unavailable(cause))) => last_word = Some(cause),
                Ok(Answer::State(_)) => {}
                Err(Lost::Worker) => return Err(last_word.map_or(Lost::Worker, Lost::Because)),
                other => return other,
            }
        }
    }

    /// Waits for the next answer.
    async fn next(&mut self, reading: &mut OwnedReadHalf) -> Result<Answer, Lost> {
        loop {
            if let Some(answer) = self.at_hand()? {
                return Ok(answer);
            }
            self.fill(reading).await?;
        }
    }
}

/// Hands answers out until the connection ends.
async fn read_answers(
    link: &Link,
    number: u64,
    inbox: &mut Inbox,
    reading: &mut OwnedReadHalf,
) -> Lost {
    let mut batch = Vec::new();
    loop {
        loop {
            match inbox.at_hand() {
                Ok(Some(answer)) => batch.push(answer),
                Ok(None) => break,
                Err(lost) => return lost,
            }
        }
        link.deliver(number, &mut batch);
        if let Err(lost) = inbox.fill(reading).await {
            return lost;
        }
    }
}

/// Writes requests until the connection ends.
async fn write_requests(link: &Link, writing: &mut OwnedWriteHalf) -> Lost {
    let mut octets = Vec::new();
    loop {
        link.written.notified().await;
        // Lets the tasks that are ready now make their requests too: one system call for all of them.
        tokio::task::yield_now().await;
        {
            let mut outbox = lock(&link.outbox);
            octets.clear();
            std::mem::swap(&mut octets, &mut outbox.octets);
            outbox.unwritten.clear();
        }
        if writing.write_all(&octets).await.is_err() {
            // Nobody reads any more: the worker ended.
            return Lost::Worker;
        }
        if octets.capacity() > 2 * READ_BYTES {
            // A CRL went through; its room is not kept.
            octets = Vec::new();
        }
    }
}

/// Ends a connection whose host owes an answer for longer than its own deadlines allow.
async fn watch_deadlines(link: &Link) -> Lost {
    loop {
        sleep(Duration::from_millis(500)).await;
        let now = Instant::now();
        let mut outbox = lock(&link.outbox);
        let late: Vec<u32> = outbox
            .pending
            .iter()
            .filter(|(_, pending)| pending.until < now)
            .map(|(id, _)| *id)
            .collect();
        if !late.is_empty() {
            for id in late {
                if let Some(pending) = outbox.pending.remove(&id) {
                    // Whoever asked may have gone.
                    let _ = pending.answer.send(Err(Fault::Deadline));
                }
            }
            return Lost::because("the token host owes an answer for too long");
        }
    }
}

/// Opens every held key on this connection as soon as the token is ready, and new ones as they come.
async fn keep_keys_open(link: &Link, connection: u64) {
    let mut state = link.state.subscribe();
    loop {
        // The link holds the sender, so that waiting cannot fail.
        if state
            .wait_for(|state| *state == TokenState::Ready)
            .await
            .is_err()
        {
            return;
        }
        for key in link.held_keys() {
            if key.number_on(connection).is_some() {
                continue;
            }
            let answer = link
                .ask(link.sign_patience(), |octets, id| {
                    wire::put_open_key(octets, id, &key.label, key.algorithm, &key.spki_sha256);
                })
                .await;
            match answer {
                Ok(Answer::Opened {
                    key: number, spki, ..
                }) => key.opened_on(connection, number, spki),
                Ok(_) => {}
                Err(fault) => {
                    key.opened.send_replace(Opened::Failed(fault));
                }
            }
        }
        // Again when a key was added, and now and then for those that failed.
        let _ = timeout(REOPEN_INTERVAL, link.key_added.notified()).await;
    }
}
