//! `cargo fuzz run ocsp_request`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::ocsp::ocsp_request(bytes));
