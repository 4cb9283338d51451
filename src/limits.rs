//! The bounds on what comes from outside and on what many parts share, each with its reason.
//!
//! A bound that one module alone sets and meets (a pause, a deadline of its own) stands in that module.

use std::time::Duration;

/// A CSR in bytes, any encoding: RSA-4096 with many names needs about 2,500 in DER.
pub const CSR_BYTES_MAX: usize = 16 * 1024;

/// How deep a CSR's DER may nest: the deepest that is needed (RSASSA-PSS parameters) is 7.
pub const CSR_DEPTH_MAX: usize = 16;

/// Values (tag, length, contents) in a CSR's DER, all levels: a typical one has 40.
pub const CSR_VALUES_MAX: usize = 1024;

/// Attributes of the subject in a CSR; device names have one to ten.
pub const CSR_SUBJECT_ATTRIBUTES_MAX: usize = 32;

/// Attributes (RFC 2986) of a CSR: three kinds are known, each at most once.
pub const CSR_ATTRIBUTES_MAX: usize = 8;

/// Extensions asked for in a CSR; profiles make at most ten.
pub const CSR_EXTENSIONS_MAX: usize = 32;

/// Subject alternative names asked for in a CSR.
pub const CSR_SANS_MAX: usize = 64;

/// Steps of Fermat's factorisation tried on an RSA modulus: finds primes that differ in their lower half only.
pub const FERMAT_STEPS: usize = 100;

/// A profile file in bytes: the built-in ones with all their comments have about 3,000.
pub const PROFILE_BYTES_MAX: u64 = 256 * 1024;

/// Subject alternative names that a profile takes from requests by one rule, where it does not say.
pub const SANS_FROM_REQUEST: usize = 1;

/// A value from a request in characters, where the profile does not say (RFC 5280, ub-common-name).
pub const REQUEST_VALUE_CHARS: usize = 64;

/// How far a profile may back-date a certificate: clocks that are further off need an operator.
pub const BACKDATE_MAX: Duration = Duration::from_secs(24 * 3600);

/// How far CA certificates are back-dated, so that what they sign first is not older than they are.
pub const CA_BACKDATE: Duration = Duration::from_secs(3600);

/// The longest validity of an OCSP responder's certificate: it cannot be revoked (id-pkix-ocsp-nocheck).
pub const OCSP_SIGNING_VALIDITY_MAX: Duration = Duration::from_secs(72 * 3600);

/// A batch in bytes: 4,000 typical CSRs; longer work is sent in several.
pub const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;

/// CSRs in one batch.
pub const BATCH_CSRS_MAX: usize = 4096;

/// CSRs of one batch in work at a time, so that a batch cannot starve the single requests.
pub const BATCH_IN_FLIGHT_MAX: usize = 64;

/// Requests in work at a time over all connections; more answer 503 with `Retry-After`.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 1024;

/// Requests of one line in work: a quarter, so that beyond it only this line is told to come back.
pub const REQUESTS_PER_LINE_MAX: usize = REQUESTS_IN_FLIGHT_MAX / 4;

/// Batches in work at a time: each holds its body, so this and the next bound their memory (96 MiB).
pub const BATCHES_MAX: usize = 8;

/// Bodies of batches that arrive at a time.
pub const BATCH_BODIES_MAX: usize = 16;

/// Batches of one line in work at a time: one, and the next one close behind it.
pub const BATCHES_PER_LINE_MAX: usize = 2;

/// Bodies of one line's batches that arrive at a time: silent senders keep out nobody but their own line.
pub const BATCH_BODIES_PER_LINE_MAX: usize = 4;

/// The time for the whole answer to a batch: 4,096 certificates at 7 a second, which a slow token can do.
pub const BATCH_DEADLINE: Duration = Duration::from_secs(600);

/// After this long what a batch finds no room for at its token answers 503 and is not tried again: so long before the
/// batch's end that the answers of what is in work get there.
pub const BATCH_TRIES: Duration = Duration::from_secs(560);

// Else whoever waits last is cut off and never told why.
const _: () = assert!(
    BATCH_TRIES.as_secs() + ANSWER_DEADLINE.as_secs() + ADMISSION_WAIT.as_secs()
        < BATCH_DEADLINE.as_secs()
);

/// Open connections of lines on the mTLS listener.
pub const CONNECTIONS_MAX: usize = 4096;

/// Open connections of one line: a quarter, so that one line whose stations run wild shuts out no other.
pub const CONNECTIONS_PER_LINE_MAX: usize = CONNECTIONS_MAX / 4;

/// Open connections of readers on the mTLS listener: responders and auditors, of which a site has a few.
pub const READER_CONNECTIONS_MAX: usize = 256;

/// Open connections of one reader: a responder needs two, an auditor's download some.
pub const CONNECTIONS_PER_READER_MAX: usize = READER_CONNECTIONS_MAX / 8;

/// Looks at the disk for all readers at a time: each is one piece of a file, so that nobody waits for long, and the
/// threads that wait for disks stay free for the log.
pub const READER_READS_MAX: usize = 8;

/// Connections that are no line's or reader's yet: silent, in their handshake, or strangers'. A silent one costs a socket and 1 KiB,
/// a handshake that stops before its end no more than its largest message (64 KiB).
pub const DOOR_MAX: usize = 2048;

/// Of these for one origin: a thousand stations behind one gateway may come back at once, and a gateway with many
/// stations behind it looks like an attacker.
pub const DOOR_PER_ORIGIN_MAX: usize = DOOR_MAX / 2;

/// A connection at the door for so long, whatever it has said, makes room for the next of its origin where there is no
/// other: a slow station's handshake needs 1 to 2 s.
pub const DOOR_PATIENCE: Duration = Duration::from_secs(2);

/// Origins of one line or reader that are remembered, the latest, so that strangers go before them: a line has a few
/// gateways, and who has its key must not make many addresses count as a line's.
pub const PARTY_ORIGINS_MAX: usize = 16;

/// The whole life of a stranger's connection: a handshake in its own deadline, one request, one answer.
pub const STRANGER_DEADLINE: Duration = Duration::from_secs(20);

/// The time for a TLS handshake: a slow station needs 1 to 2 s for RSA.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(15);

/// The time for a request's headers to arrive.
pub const HEADER_DEADLINE: Duration = Duration::from_secs(15);

/// The time for a request's body to arrive.
pub const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The time that an issuing request may wait for its answer before 503; the work itself goes on.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(30);

/// The signatures that lines may ask of an issuer at a time, in the time that it needs for them at its own rate; what
/// is more waits for [`ADMISSION_WAIT`] and then answers 503, before anything is in the log.
pub const TOKEN_BACKLOG: Duration = Duration::from_secs(10);

/// The longest that a request waits for its line's share of that.
pub const ADMISSION_WAIT: Duration = Duration::from_secs(5);

/// The longest that a signature waits in the token host's queue: longer than what is admitted should need.
pub const TOKEN_WAIT_MAX: Duration = Duration::from_secs(12);

/// After this long no further attempt over an intent is begun: a worker that is killed and started anew, with a
/// login, fits in; beyond it the line is better served by a refusal that it can retry.
pub const SIGN_DEADLINE: Duration = Duration::from_secs(15);

// Else what was admitted would be given up, and what the queue gives up would never be tried again.
const _: () = assert!(
    TOKEN_BACKLOG.as_secs() < TOKEN_WAIT_MAX.as_secs()
        && TOKEN_WAIT_MAX.as_secs() < SIGN_DEADLINE.as_secs()
        && ADMISSION_WAIT.as_secs() + 2 * TOKEN_WAIT_MAX.as_secs() < ANSWER_DEADLINE.as_secs()
);

/// The largest entry detail in bytes, but for CRLs: a TBS with RSA-4096 and all extensions is below 8 KiB.
pub const DETAIL_BYTES_MAX: usize = 64 * 1024;

/// How long CRLs count where nobody says: longer than the outage of a token that a site must bear.
pub const CRL_VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a root's CRLs count where nobody says: its token is locked away in between.
pub const ROOT_CRL_VALIDITY: Duration = Duration::from_secs(365 * 24 * 3600);

/// How long a CRL may count at least (below an hour no reader keeps up) and at most.
pub const CRL_VALIDITY_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(10 * 366 * 24 * 3600);

/// CRLs are renewed after this long where nobody says, or after a third of their life where that is sooner.
pub const CRL_EVERY: Duration = Duration::from_secs(24 * 3600);

/// CRLs are renewed at most this often while nothing is revoked: each leaves some 2 kB in the log (ADR 0009).
pub const CRL_EVERY_MIN: Duration = Duration::from_secs(60);

/// From the start of a CRL to that of the next one that a revocation asks for: revocations in between share it.
pub const CRL_PAUSE: Duration = Duration::from_secs(2);

/// The soonest that a site may promise a revocation to be on its CRL: the pause, and the time that making one takes.
pub const CRL_WITHIN_MIN: Duration = Duration::from_secs(3);
const _: () = assert!(CRL_PAUSE.as_millis() < CRL_WITHIN_MIN.as_millis());

/// Appends that share one transaction at most: enough to hide an fsync, small enough to stay under 10 ms.
pub const GROUP_COMMIT_MAX: usize = 256;

/// Entries after which committed pages are moved into the database, beside the writer: some 20 MiB of them.
pub const MOVE_INTERVAL: u64 = 2048;

/// Appends that wait for the log at most; more answer 503.
pub const APPEND_QUEUE_MAX: usize = 4096;

/// Revocations in one transaction, and in one request: as many as other appends share.
pub const REVOCATIONS_MAX: usize = GROUP_COMMIT_MAX;

/// Certificates in one page of a selection: 300 KiB of JSON.
pub const SELECTION_PAGE: u64 = 1000;

/// Serials or device ids that a selection names one by one: with the longest ids it fits into a request.
pub const SELECTION_NAMES_MAX: usize = 500;

/// An idle log appends a tick after this long, so that a frozen feed is told from a quiet weekend.
pub const TICK_INTERVAL: Duration = Duration::from_secs(60);

/// Witnesses that a start asks; a site has a responder or two.
pub const WITNESSES_MAX: usize = 16;

/// How long a start waits for its witnesses, which it asks side by side: one that is away holds up no longer.
pub const WITNESS_DEADLINE: Duration = Duration::from_secs(5);

/// A witness's answer in bytes: a checkpoint with a log's signature and a cosignature has 500.
pub const WITNESS_BYTES_MAX: usize = 16 * 1024;

/// Published files follow the log within this time.
pub const PUBLICATION_DELAY: Duration = Duration::from_millis(200);

/// Refusals of one line by one rule that are logged one by one in a minute; the rest is in the minute's summary.
pub const REFUSALS_LOGGED_PER_MINUTE: u32 = 5;

/// Refusals of one line by all rules that are logged one by one in a minute.
pub const REFUSALS_LINE_PER_MINUTE: u32 = 10;

/// Of these in a day: enough to see what goes wrong at a line, at 1 KiB each half a megabyte.
pub const REFUSALS_LINE_PER_DAY: u32 = 500;

/// Refusals of all lines that are logged one by one in a day.
pub const REFUSALS_PER_DAY: u32 = 10 * REFUSALS_LINE_PER_DAY;

/// Refusals of one line by one rule in a day that have entries outside all these bounds: whatever else a line or the
/// others are refused for, a rule that was not broken before shows.
pub const REFUSALS_RESERVED_PER_DAY: u32 = 3;

/// Summaries of refusals in a day that follow each other by a minute; the others do by an hour.
pub const REFUSALS_SUMMARIES_PER_DAY: u32 = 60;

/// Pairs of line and rule in a summary of refusals: 100 bytes each, which fits into a detail.
pub const REFUSALS_SUMMARY_PAIRS_MAX: usize = 400;

/// Unresolved intents of an order whose units return by themselves: enough for the accidents of a token's life, too few
/// to over-produce with a token that fails on purpose. The units of later ones are held until an operator gives them
/// back (`hallmark order approve`). An auditor counts by it, so it is part of the log's format.
pub const UNRESOLVED_RETURNED_MAX: u32 = certstatus::log::UNRESOLVED_RETURNED_MAX;

/// A device id in characters: the longest that a common name holds (RFC 5280, ub-common-name).
pub const DEVICE_ID_CHARS_MAX: usize = 64;

/// Open files of the daemon: every connection, those that wait for a place, and some for everything else.
pub const FILES_MAX: u64 = 8192;
