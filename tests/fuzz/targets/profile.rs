//! `cargo fuzz run profile`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::certificates::profile(bytes));
