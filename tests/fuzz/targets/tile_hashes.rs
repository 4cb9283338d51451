//! `cargo fuzz run tile_hashes`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::log::tile_hashes(bytes));
