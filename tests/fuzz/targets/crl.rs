//! `cargo fuzz run crl`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::signatures::crl(bytes));
