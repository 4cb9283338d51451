//! `cargo fuzz run proof_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::log::proof_file(bytes));
