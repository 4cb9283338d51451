//! `cargo fuzz run entry`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::log::entry(bytes));
