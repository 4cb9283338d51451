//! `cargo fuzz run tile_details`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::log::tile_details(bytes));
