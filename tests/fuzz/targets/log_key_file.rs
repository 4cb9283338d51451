//! `cargo fuzz run log_key_file`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::texts::log_key_file(bytes));
