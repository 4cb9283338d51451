//! The crash matrix: for each of the five issuing steps, what is lost, what is done but reported as failed, and
//! what a kill leaves; and after every row the same promises (see [`row::run`]).
//!
//! Each row is one request under one fault. Which outcome its intent must have follows from docs/ISSUANCE.md:
//! nothing, when the fault came before the intent was durable; `abandoned`, when the request provably never
//! reached a token; `unresolved`, when a signature may exist, which a restart has to assume; else `issued`.
//!
//! Steps 2, 3 and 5 ask something of a disk or a token, which can do it and report that it failed. Steps 1 and 4 only
//! compute, in the daemon's own memory: the request is judged, the signature is checked. Nothing is done there that
//! could be reported wrongly, so they have no such row, but a refusal and a wrong signature instead.

mod held;
mod moved;
mod row;
mod several;

use row::{Answer, Fault, First, ROW, Row, run};

/// Nothing was signed and nothing recorded.
const STEP_1: &[Row] = &[
    Row {
        name: "1 lost: the daemon dies with the request unread",
        fault: Fault::KilledBeforeReading,
        answer: Answer::None,
        ..ROW
    },
    Row {
        name: "1 refused: the profile forbids a field",
        fault: Fault::Refusal,
        answer: Answer::Problem(422, "field-refused"),
        ..ROW
    },
    Row {
        name: "1 kill -9 before the intent could be written, at the order's last unit",
        fault: Fault::KilledBeforeWriting,
        answer: Answer::None,
        quantity: 1,
        ..ROW
    },
];

/// The intent's sync is the first one of the write-ahead log.
const STEP_2: &[Row] = &[
    Row {
        name: "2 lost: the sync fails and writes nothing",
        fault: Fault::Sync("lost", 0),
        answer: Answer::Problem(503, "halted"),
        ..ROW
    },
    Row {
        name: "2 lost, at the order's last unit",
        fault: Fault::Sync("lost", 0),
        answer: Answer::Problem(503, "halted"),
        quantity: 1,
        ..ROW
    },
    Row {
        name: "2 done but reported as failed",
        fault: Fault::Sync("done-but-failed", 0),
        answer: Answer::Problem(503, "halted"),
        quantity: 1,
        ..ROW
    },
    Row {
        name: "2 the disk is full: the sync says so",
        fault: Fault::Sync("full", 0),
        answer: Answer::Problem(503, "halted"),
        ..ROW
    },
    Row {
        name: "2 the disk is full: a write says so, at the order's last unit",
        fault: Fault::Sync("no-room", 0),
        answer: Answer::Problem(503, "halted"),
        quantity: 1,
        ..ROW
    },
    Row {
        name: "2 the disk fails three times in a row, at the order's last unit",
        fault: Fault::Syncs("lost", 0, 3),
        answer: Answer::Problem(503, "halted"),
        quantity: 1,
        ..ROW
    },
    Row {
        name: "2 power cut before the sync: nothing of it is on the disk",
        fault: Fault::Sync("power-cut", 0),
        answer: Answer::None,
        quantity: 1,
        ..ROW
    },
    Row {
        name: "2 kill -9 before the sync: written all the same",
        fault: Fault::Sync("kill-before", 0),
        answer: Answer::None,
        first: First::Unresolved,
        ..ROW
    },
    Row {
        name: "2 kill -9 after the sync, at the order's last unit",
        fault: Fault::Sync("kill-after", 0),
        answer: Answer::None,
        first: First::Unresolved,
        quantity: 1,
        ..ROW
    },
];

/// The token answers wrongly, late or not at all.
const STEP_3_TOKEN: &[Row] = &[
    Row {
        name: "3 lost once: the token fails without signing, then signs",
        fault: Fault::Token("sign lost 1"),
        answer: Answer::Created,
        first: First::Issued,
        wasted: 1,
        ..ROW
    },
    Row {
        name: "3 lost each time, at the order's last unit",
        fault: Fault::Token("sign lost 3"),
        answer: Answer::Problem(503, "token-failed"),
        first: First::Unresolved,
        quantity: 1,
        wasted: 3,
        ..ROW
    },
    Row {
        name: "3 refused: the token says that it will not sign this",
        fault: Fault::Token("sign refused 1"),
        answer: Answer::Problem(503, "token-unfit"),
        first: First::Unresolved,
        wasted: 1,
        ..ROW
    },
    Row {
        name: "3 signed but reported as failed once",
        fault: Fault::Token("sign done-but-failed 1"),
        answer: Answer::Created,
        first: First::Issued,
        quantity: 1,
        wasted: 1,
        unrecorded: 1,
    },
    Row {
        name: "3 signed but reported as failed each time",
        fault: Fault::Token("sign done-but-failed 3"),
        answer: Answer::Problem(503, "token-failed"),
        first: First::Unresolved,
        wasted: 3,
        unrecorded: 3,
        ..ROW
    },
    Row {
        name: "3 hangs past the deadline once",
        fault: Fault::Token("sign hang 1"),
        answer: Answer::Created,
        first: First::Issued,
        wasted: 1,
        ..ROW
    },
    Row {
        name: "3 hangs past the deadline each time",
        fault: Fault::Token("sign hang 3"),
        answer: Answer::Problem(503, "token-failed"),
        first: First::Unresolved,
        wasted: 3,
        ..ROW
    },
];

/// The processes around the token die.
const STEP_3_PROCESSES: &[Row] = &[
    Row {
        name: "3 kill -9 of the worker before it signs",
        fault: Fault::Token("sign kill-before 1"),
        answer: Answer::Created,
        first: First::Issued,
        wasted: 1,
        ..ROW
    },
    Row {
        name: "3 kill -9 of the worker after it signed, at the order's last unit",
        fault: Fault::Token("sign kill-after 1"),
        answer: Answer::Created,
        first: First::Issued,
        quantity: 1,
        wasted: 1,
        unrecorded: 1,
    },
    Row {
        name: "3 kill -9 of the worker each time",
        fault: Fault::Token("sign kill-before 3"),
        answer: Answer::Problem(503, "token-failed"),
        first: First::Unresolved,
        wasted: 3,
        ..ROW
    },
    Row {
        // The worker dies with it, before it could answer: the token signed once in vain, and once again.
        name: "3 kill -9 of the token host after its worker signed",
        fault: Fault::Token("sign kill-parent-after 1 {host}"),
        answer: Answer::Created,
        first: First::Issued,
        wasted: 1,
        unrecorded: 1,
        ..ROW
    },
    Row {
        // The token goes on and signs: the restart must wait for it and cannot know.
        name: "3 kill -9 of the daemon before C_Sign, at the order's last unit",
        fault: Fault::Token("sign kill-pid-before 1 {daemon}"),
        answer: Answer::None,
        first: First::Unresolved,
        quantity: 1,
        unrecorded: 1,
        ..ROW
    },
    Row {
        name: "3 kill -9 of the daemon while a slow token signs: the intent is closed when that is over",
        fault: Fault::KilledWhileSigning,
        answer: Answer::None,
        first: First::Unresolved,
        unrecorded: 1,
        ..ROW
    },
    Row {
        // Nobody signed, and everybody knows: the serial is burnt, and the retry gets another.
        name: "3 before any token was reached: the token host is killed between intent and signature",
        fault: Fault::HostKilledAfterIntent,
        answer: Answer::Problem(503, "token-failed"),
        first: First::Abandoned,
        ..ROW
    },
    Row {
        name: "3 before any token was reached, at the order's last unit",
        fault: Fault::HostKilledAfterIntent,
        answer: Answer::Problem(503, "token-failed"),
        first: First::Abandoned,
        quantity: 1,
        ..ROW
    },
    Row {
        name: "3 no token: no intent at all",
        fault: Fault::HostAway,
        answer: Answer::Problem(503, "no-token"),
        quantity: 1,
        ..ROW
    },
];

/// The signature is there and is not what it must be, or nobody gets to check it.
const STEP_4: &[Row] = &[
    Row {
        name: "4 wrong: a bit of the signature is changed, at the order's last unit",
        fault: Fault::Token("sign wrong 1"),
        answer: Answer::Problem(503, "token-failed"),
        first: First::Unresolved,
        quantity: 1,
        wasted: 1,
        unrecorded: 1,
    },
    Row {
        name: "4 short: an octet of the signature is missing",
        fault: Fault::Token("sign short 1"),
        answer: Answer::Problem(503, "token-unfit"),
        first: First::Unresolved,
        wasted: 1,
        unrecorded: 1,
        ..ROW
    },
    Row {
        name: "4 kill -9 of the daemon with the signature on its way to the check",
        fault: Fault::Token("sign kill-pid-after 1 {daemon}"),
        answer: Answer::None,
        first: First::Unresolved,
        unrecorded: 1,
        ..ROW
    },
];

/// The outcome's sync is the second one of the write-ahead log.
const STEP_5: &[Row] = &[
    Row {
        name: "5 lost: the sync fails, recovery appends the outcome again",
        fault: Fault::Sync("lost", 1),
        answer: Answer::Created,
        first: First::Issued,
        quantity: 1,
        ..ROW
    },
    Row {
        name: "5 done but reported as failed",
        fault: Fault::Sync("done-but-failed", 1),
        answer: Answer::Created,
        first: First::Issued,
        ..ROW
    },
    Row {
        name: "5 the disk is full",
        fault: Fault::Sync("full", 1),
        answer: Answer::Created,
        first: First::Issued,
        ..ROW
    },
    Row {
        name: "5 the disk fails three times in a row",
        fault: Fault::Syncs("lost", 1, 3),
        answer: Answer::Created,
        first: First::Issued,
        ..ROW
    },
    Row {
        name: "5 power cut before the sync: a signature exists that the log does not know",
        fault: Fault::Sync("power-cut", 1),
        answer: Answer::None,
        first: First::Unresolved,
        quantity: 1,
        unrecorded: 1,
        ..ROW
    },
    Row {
        name: "5 kill -9 before the sync: written all the same",
        fault: Fault::Sync("kill-before", 1),
        answer: Answer::None,
        first: First::Issued,
        ..ROW
    },
    Row {
        name: "5 kill -9 after the sync, at the order's last unit",
        fault: Fault::Sync("kill-after", 1),
        answer: Answer::None,
        first: First::Issued,
        quantity: 1,
        ..ROW
    },
];

#[test]
fn step_1_before_the_intent() {
    run(STEP_1);
}

#[test]
fn step_2_the_intent() {
    run(STEP_2);
}

#[test]
fn step_3_the_signature_and_its_token() {
    run(STEP_3_TOKEN);
}

#[test]
fn step_3_the_signature_and_its_processes() {
    run(STEP_3_PROCESSES);
}

#[test]
fn step_4_the_check() {
    run(STEP_4);
}

#[test]
fn step_5_the_outcome() {
    run(STEP_5);
}
