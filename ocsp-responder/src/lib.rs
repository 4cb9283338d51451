//! What can be known and proved about certificates without any CA key.
//!
//! Owns the serial number, the signing log's format (entries, details, tiles, checkpoints, proofs),
//! signature verification, and the encodings of CRLs and certs-only PKCS#7. Links no PKCS#11, TPM or
//! database code: Cargo forbids cycles, so the arrow from the appliance to this crate keeps it so.
//! Parsers here read bytes from strangers: they never panic and never index.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]
#![cfg_attr(
    test,
    allow(clippy::too_many_lines, reason = "a test may be a long table")
)]

// The generator of logs in `examples/`, which tests use too, names this crate.
#[cfg(test)]
extern crate self as certstatus;

pub mod audit;
mod chain;
pub mod crl;
pub mod document;
pub mod durable;
pub mod hex;
pub mod log;
pub mod ocsp;
pub mod pkcs7;
pub mod regular;
#[cfg(feature = "responder")]
pub mod responder;
pub mod serial;
pub mod signature;
pub mod status;
#[cfg(feature = "responder")]
pub mod sync;
pub mod time;
#[cfg(feature = "responder")]
pub mod view;

pub use chain::chain;
pub use serial::SerialNumber;
pub use status::{CertStatus, RevocationReason};
pub use time::UnixMillis;
