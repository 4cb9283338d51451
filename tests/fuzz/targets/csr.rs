//! `cargo fuzz run csr`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::requests::csr(bytes));
