//! The integration tests: one binary, against the real programs and a real token.
//!
//! Each test owns its token, database, directory and ports, so they run side by side in any order. A tool
//! or library that is missing is a failure, never a skip.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    reason = "a test that fails says so by panicking, waits on the wall clock reads cargo's environment, and may be a long \
              table"
)]

mod accounts;
mod brokers;
mod ceremony;
mod compile_fail;
mod corpora;
mod crash;
mod crl;
mod deps;
mod follow;
mod harness;
mod hierarchies;
mod hsm;
mod interop;
mod issue;
mod layers;
mod operate;
mod outage;
mod relying;
mod renewal;
mod responders;
mod revoke;
mod source;
mod storage;
mod witnesses;
