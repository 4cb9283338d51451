//! `cargo fuzz run signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::signatures::signature(bytes));
