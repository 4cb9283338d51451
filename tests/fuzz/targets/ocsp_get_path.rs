//! `cargo fuzz run ocsp_get_path`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::ocsp::ocsp_get_path(bytes));
