//! `cargo fuzz run ceremony_plan`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::texts::ceremony_plan(bytes));
