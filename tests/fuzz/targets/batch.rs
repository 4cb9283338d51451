//! `cargo fuzz run batch`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::peers::batch(bytes));
