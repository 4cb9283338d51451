//! `cargo fuzz run verifier_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::log::verifier_key(bytes));
