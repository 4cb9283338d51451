//! `hallmark-ocsp` over made logs, asked by OpenSSL, curl and bare sockets.
#![allow(
    clippy::disallowed_methods,
    reason = "programs of their own are waited for by the real clock"
)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod answers;
mod cache;
mod clock;
mod command;
mod crls;
mod faults;
mod files;
mod hostile;
mod http;
mod issuers;
mod replay;
mod site;

#[path = "../../examples/made-log/log.rs"]
mod made;
