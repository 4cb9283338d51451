//! `cargo fuzz run name`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::texts::name(bytes));
