//! `cargo fuzz run algorithm`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::signatures::algorithm(bytes));
