//! `cargo fuzz run ocsp_http`.
#![no_main]

#[path = "../src/responder.rs"]
mod responder;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| responder::ocsp_http(bytes));
