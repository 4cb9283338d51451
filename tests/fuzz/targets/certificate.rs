//! `cargo fuzz run certificate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::certificates::certificate(bytes));
