//! `hallmark-ocsp` over made logs, asked by OpenSSL, curl and bare sockets.

mod answers;
mod cache;
mod clock;
mod command;
mod faults;
mod files;
mod hostile;
mod http;
mod site;

#[path = "../../examples/made-log/log.rs"]
mod made;
