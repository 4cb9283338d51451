//! `cargo fuzz run signed_object`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::signatures::signed_object(bytes));
