//! `cargo fuzz run pkcs11_uri`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| hallmark_fuzz::texts::pkcs11_uri(bytes));
