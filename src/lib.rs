//! Hallmark: a certificate signing appliance for factory floors.
//!
//! The rule: a CA key signs nothing that is not already durable in the signing log, and nothing leaves
//! the appliance whose outcome is not durable there too. Read `docs/ISSUANCE.md`, then [`issuance`].
//!
//! Modules stand in layers; lower ones never import higher ones (`tests/it/layers.rs` checks).
#![cfg_attr(
    test,
    allow(clippy::too_many_lines, reason = "a test may be a long table")
)]

// 5
pub mod cli;
pub mod daemon;
// 4
pub mod admin;
pub mod ceremony;
pub mod http;
// 3
pub mod crl;
pub mod issuance;
pub mod responders;
pub mod revocation;
pub mod witnesses;
// 2
pub mod issuer;
// 1
pub mod csr;
pub mod profile;
pub mod ra;
pub mod signing_log;
// 0
pub mod config;
pub mod hsm;
pub mod limits;
pub mod secret;
pub mod store;
pub mod time;
