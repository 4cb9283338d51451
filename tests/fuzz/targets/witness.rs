//! `cargo fuzz run witness`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::peers::witness(bytes));
