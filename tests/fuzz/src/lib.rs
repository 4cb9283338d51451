//! What the fuzz targets do with an input: each feeds one parser and holds it to what it promises.
//!
//! Owns the list of parsers that strangers' bytes reach. `cargo fuzz` runs each function below a binary of
//! `targets/`; `tests/it/corpora.rs` mounts this very file and replays the corpora through it. A target
//! takes any bytes and returns; a panic, its own assertions included, is a fault of the parser. Inputs that
//! were ever a fault stay in the corpus, named for the behaviour. `responder.rs` needs what the appliance does not
//! link, so its binary mounts it, and the responder's own tests.

#![allow(
    missing_docs,
    reason = "each target's headline says what its parser promises"
)]

pub mod certificates;
pub mod log;
pub mod mutations;
pub mod ocsp;
pub mod peers;
pub mod requests;
pub mod signatures;
pub mod texts;

/// A parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    /// The name of its binary and of its corpus below `tests/vectors/corpora/`.
    pub name: &'static str,
    /// Feeds it one input.
    pub run: fn(&[u8]),
}

impl Target {
    /// Names a target.
    const fn new(name: &'static str, run: fn(&[u8])) -> Self {
        Self { name, run }
    }
}

/// Every target; a test compares it with the binaries and the corpora.
pub const TARGETS: &[Target] = &[
    Target::new("accept", peers::accept),
    Target::new("algorithm", signatures::algorithm),
    Target::new("batch", peers::batch),
    Target::new("ceremony_plan", texts::ceremony_plan),
    Target::new("certificate", certificates::certificate),
    Target::new("checkpoint", log::checkpoint),
    Target::new("config", texts::config),
    Target::new("crl", signatures::crl),
    Target::new("csr", requests::csr),
    Target::new("detail", log::detail),
    Target::new("entry", log::entry),
    Target::new("issuer_certificate", certificates::issuer_certificate),
    Target::new("log_key_file", texts::log_key_file),
    Target::new("name", texts::name),
    Target::new("ocsp_get_path", ocsp::ocsp_get_path),
    Target::new("ocsp_request", ocsp::ocsp_request),
    Target::new("ocsp_response", ocsp::ocsp_response),
    Target::new("pkcs11_uri", texts::pkcs11_uri),
    Target::new("profile", certificates::profile),
    Target::new("proof", log::proof),
    Target::new("proof_file", log::proof_file),
    Target::new("public_key", signatures::public_key),
    Target::new("registry", certificates::registry),
    Target::new("serial", texts::serial),
    Target::new("signature", signatures::signature),
    Target::new("signed_object", signatures::signed_object),
    Target::new("tile_details", log::tile_details),
    Target::new("tile_entries", log::tile_entries),
    Target::new("tile_hashes", log::tile_hashes),
    Target::new("token_frames", peers::token_frames),
    Target::new("verifier_key", log::verifier_key),
    Target::new("witness", peers::witness),
];
