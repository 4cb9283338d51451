//! `cargo fuzz run token_frames`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::peers::token_frames(bytes));
