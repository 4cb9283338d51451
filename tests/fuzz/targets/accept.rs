//! `cargo fuzz run accept`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::peers::accept(bytes));
