//! The auditor against honest and tampered logs.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod command;
mod example;
mod forge;
mod honest;
mod rules;
mod tampered;
mod units;
