//! `cargo fuzz run public_key`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::signatures::public_key(bytes));
