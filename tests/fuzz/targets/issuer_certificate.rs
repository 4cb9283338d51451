//! `cargo fuzz run issuer_certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::certificates::issuer_certificate(bytes));
