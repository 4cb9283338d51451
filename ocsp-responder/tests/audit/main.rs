//! The auditor against honest and tampered logs.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::too_many_lines,
    reason = "a test fails by panicking, and may be a long table"
)]

mod command;
mod crls;
mod example;
mod forge;
mod honest;
mod proofs;
mod rules;
mod standing;
mod tampered;
mod units;
