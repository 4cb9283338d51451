//! Certs-only PKCS#7 (RFC 5652, RFC 8951): the degenerate SignedData that EST and browsers read.
//!
//! Owns one encoding. Promises definite lengths, no content, no signers, and the certificates octet for
//! octet in the order given: clients take the first one for the leaf, so the set is not sorted as X.690
//! (11.6) would have it; RFC 5652 asks for DER only where something is signed. Never reads what a
//! certificate says, and cannot fail.

use crate::signature::tlv;

/// id-signedData (RFC 5652, 5.1), whole value.
const SIGNED_DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2];
/// `SEQUENCE { id-data }`: an EncapsulatedContentInfo without content (RFC 5652, 5.2).
const NO_CONTENT: &[u8] = &[
    0x30, 11, 0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1,
];
/// Version 1 (RFC 5652, 5.1: certificates are present, none of them of a form later than X.509).
const VERSION: &[u8] = &[tlv::INTEGER, 1, 1];
/// An empty SET OF: no digest algorithms, no signers.
const EMPTY_SET: &[u8] = &[tlv::SET, 0];

/// Encodes certificates (whole DER each, leaf first) as a degenerate SignedData ContentInfo.
#[must_use]
pub fn certs_only(certificates: &[&[u8]]) -> Vec<u8> {
    let set = tlv::wrap(tlv::CONTEXT_0, certificates);
    let parts = [VERSION, EMPTY_SET, NO_CONTENT, &set, EMPTY_SET];
    let signed = tlv::wrap(tlv::SEQUENCE, &parts);
    tlv::wrap(
        tlv::SEQUENCE,
        &[SIGNED_DATA, &tlv::wrap(tlv::CONTEXT_0, &[&signed])],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signature::openssl::OpenSsl;

    /// A self-signed certificate with this name, by OpenSSL.
    fn certificate(openssl: &OpenSsl, name: &str) -> Vec<u8> {
        openssl.run(&format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.pem \
             -subj /CN={name} -outform DER"
        ))
    }

    #[test]
    fn openssl_reads_the_certificates_in_their_order() {
        let openssl = OpenSsl::new();
        let names = ["leaf", "issuer", "root", "a-fourth"];
        let chain = names.map(|name| certificate(&openssl, name));
        for count in 1..=chain.len() {
            let chain: Vec<&[u8]> = chain[..count].iter().map(Vec::as_slice).collect();
            openssl.write("chain.p7", &certs_only(&chain));
            let shown = openssl.run("pkcs7 -inform DER -in chain.p7 -print_certs -noout");
            let shown = String::from_utf8(shown).unwrap();
            let subjects: Vec<&str> = shown
                .lines()
                .filter_map(|line| line.strip_prefix("subject=CN = "))
                .collect();
            assert_eq!(subjects, names[..count]);
            // OpenSSL's own encoder agrees with every octet.
            let again = openssl.run("pkcs7 -inform DER -in chain.p7 -outform DER");
            assert_eq!(again, openssl.read("chain.p7"));
        }
        let shown = openssl.run("cms -cmsout -print -inform DER -in chain.p7");
        let shown = String::from_utf8(shown).unwrap();
        for empty in ["digestAlgorithms", "signerInfos"] {
            assert!(
                shown.contains(&format!("{empty}:\n      <EMPTY>")),
                "{shown}"
            );
        }
        assert!(shown.contains("eContent: <ABSENT>"), "{shown}");
    }

    #[test]
    fn a_chain_longer_than_64_kib_keeps_its_lengths() {
        let openssl = OpenSsl::new();
        let one = certificate(&openssl, "leaf");
        let many = vec![one.as_slice(); 200];
        openssl.write("chain.p7", &certs_only(&many));
        let shown = openssl.run("pkcs7 -inform DER -in chain.p7 -print_certs -noout");
        assert_eq!(
            String::from_utf8(shown)
                .unwrap()
                .matches("subject=")
                .count(),
            200
        );
    }
}
