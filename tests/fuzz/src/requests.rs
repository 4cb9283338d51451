//! Certificate requests, and what is built from them.

use base64ct::{Base64, Encoding as _};
use hallmark::csr::{Csr, CsrRefused, VerifiedCsr};
use hallmark::limits::CSR_BYTES_MAX;

/// Parses and verifies.
fn verified(bytes: &[u8]) -> Result<VerifiedCsr, CsrRefused> {
    Csr::parse(bytes).and_then(Csr::verify)
}

/// A request in any encoding: the verdict on DER does not change in PEM or base64.
pub fn csr(bytes: &[u8]) {
    let direct = verified(bytes);
    match &direct {
        Ok(csr) => judge(csr, bytes),
        Err(refused) => assert!(!refused.rule().is_empty() && !refused.to_string().is_empty()),
    }
    if bytes.first() != Some(&0x30) {
        return;
    }
    let base64 = Base64::encode_string(bytes);
    let pem = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        wrapped(&base64)
    );
    for other in [base64, pem] {
        if other.len() > CSR_BYTES_MAX {
            continue;
        }
        match (&direct, verified(other.as_bytes())) {
            (Ok(one), Ok(other)) => assert_eq!(one.requested("d"), other.requested("d")),
            (Err(one), Err(other)) => assert_eq!(*one, other),
            (Ok(_), Err(other)) => panic!("accepted in DER only: {other}"),
            (Err(one), Ok(_)) => panic!("refused in DER only: {one}"),
        }
    }
}

/// What a request that was accepted promises.
fn judge(csr: &VerifiedCsr, bytes: &[u8]) {
    assert!(bytes.len() <= CSR_BYTES_MAX);
    assert_eq!(csr.spki_sha256().0, csr.public_key().sha256());
    assert_ne!(csr.requested("one"), csr.requested("other"));
    let ids: Vec<_> = csr
        .extensions()
        .iter()
        .map(|extension| extension.extn_id)
        .collect();
    assert!((1..ids.len()).all(|at| !ids[..at].contains(&ids[at])));
    let _ = (
        csr.common_name(),
        csr.alt_names(),
        csr.subject().to_string(),
    );
}

/// Base64 in lines of 64 characters (RFC 7468, 2).
fn wrapped(base64: &str) -> String {
    let mut lines = String::with_capacity(base64.len() + base64.len() / 64 + 1);
    for (at, character) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            lines.push('\n');
        }
        lines.push(character);
    }
    lines
}
