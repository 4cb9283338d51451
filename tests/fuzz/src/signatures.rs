//! Signed objects, keys, algorithms and CRLs.

use certstatus::crl::{self, CrlFields, LogAnchor, TbsCrl};
use certstatus::signature::{PublicKey, SignatureAlgorithm, assemble, split};

/// All algorithms that a signature can name.
const ALGORITHMS: [SignatureAlgorithm; 10] = [
    SignatureAlgorithm::EcdsaSha256,
    SignatureAlgorithm::EcdsaSha384,
    SignatureAlgorithm::EcdsaSha512,
    SignatureAlgorithm::RsaPkcs1Sha256,
    SignatureAlgorithm::RsaPkcs1Sha384,
    SignatureAlgorithm::RsaPkcs1Sha512,
    SignatureAlgorithm::RsaPssSha256,
    SignatureAlgorithm::RsaPssSha384,
    SignatureAlgorithm::RsaPssSha512,
    SignatureAlgorithm::Ed25519,
];

/// An AlgorithmIdentifier: whatever is taken stands for an algorithm whose own form is taken too.
pub fn algorithm(bytes: &[u8]) {
    if let Ok(algorithm) = SignatureAlgorithm::parse(bytes) {
        assert_eq!(
            SignatureAlgorithm::parse(algorithm.identifier()),
            Ok(algorithm)
        );
    }
}

/// A signed object: the parts are the very octets, and joined again they are the same object.
pub fn signed_object(bytes: &[u8]) {
    let Ok((tbs, algorithm, signature)) = split(bytes) else {
        return;
    };
    let joined = assemble(tbs, algorithm, signature);
    assert_eq!(split(&joined), Ok((tbs, algorithm, signature)));
    let header = bytes.len() - after_header(bytes).len();
    assert!(bytes[header..].starts_with(tbs) && bytes.ends_with(signature));
    // Only an identifier in one of its other permitted forms may make a difference.
    if bytes[header + tbs.len()..].starts_with(algorithm.identifier()) {
        assert_eq!(joined, bytes);
    }
}

/// A SubjectPublicKeyInfo: kept as it came, and no key accepts what nobody signed.
pub fn public_key(bytes: &[u8]) {
    let Ok(key) = PublicKey::parse(bytes) else {
        return;
    };
    assert_eq!(key.spki(), bytes);
    assert_eq!(PublicKey::parse(bytes), Ok(key.clone()));
    if let Some((modulus, exponent)) = key.rsa_parts() {
        assert!(modulus[0] != 0 && exponent[0] != 0);
    }
    let _ = (
        key.kind().to_string(),
        key.sha256(),
        key.key_identifier(),
        format!("{key:?}"),
    );
    // Small integers as r and s, and signatures of zeros as long as an RSA modulus may be.
    let one_one = [0x30, 6, 2, 1, 1, 2, 1, 1];
    let own_length = vec![0; key.rsa_parts().map_or(64, |(modulus, _)| modulus.len())];
    for algorithm in ALGORITHMS {
        for forged in [&[][..], &one_one, &own_length, bytes] {
            assert!(
                key.verify(algorithm, b"nobody signed this", forged)
                    .is_err()
            );
        }
    }
}

/// A SubjectPublicKeyInfo and a signed object after it: what verifies covers each octet of the content.
pub fn signature(bytes: &[u8]) {
    let (spki, object) = bytes.split_at(bytes.len() - after_first(bytes).len());
    let (Ok(key), Ok((tbs, algorithm, signature))) = (PublicKey::parse(spki), split(object)) else {
        return;
    };
    if key.verify(algorithm, tbs, signature).is_err() {
        return;
    }
    let mut changed = tbs.to_vec();
    for at in [0, tbs.len() / 2, tbs.len() - 1] {
        changed[at] ^= 1;
        assert!(key.verify(algorithm, &changed, signature).is_err());
        changed[at] ^= 1;
    }
    assert!(key.verify(algorithm, &changed, &signature[1..]).is_err());
}

/// A CRL: what is read is all that it says, so written again it is the same.
pub fn crl(bytes: &[u8]) {
    let Ok(read) = crl::parse(bytes) else { return };
    let (_, _, signature) = split(bytes).expect("a CRL is a signed object");
    let mut serials: Vec<_> = read.revoked.iter().map(|entry| entry.serial).collect();
    serials.sort_unstable();
    assert!(serials.windows(2).all(|pair| pair[0] != pair[1]));
    // Without an anchor there is nothing that the encoder would write.
    let Some((origin, log_key, checkpoint)) = &read.anchor else {
        return;
    };
    let anchor = LogAnchor {
        origin,
        log_key,
        checkpoint,
    };
    let fields = CrlFields {
        issuer: &read.issuer,
        authority_key_id: &read.authority_key_id,
        algorithm: read.algorithm,
        number: read.number,
        this_update: read.this_update,
        next_update: read.next_update,
        scope: read.scope,
        expired_since: read.expired_since,
        anchor,
    };
    let list = TbsCrl::encode(&fields, &read.revoked);
    assert_eq!(list.number(), read.number);
    assert_eq!(assemble(list.der(), read.algorithm, signature), bytes);
}

/// What follows the header of the first DER value; nothing where there is none.
pub(crate) fn after_header(bytes: &[u8]) -> &[u8] {
    let [_, length, rest @ ..] = bytes else {
        return &[];
    };
    match length {
        0..=0x7f => rest,
        _ => rest.get(usize::from(length & 0x7f)..).unwrap_or_default(),
    }
}

/// What follows the first DER value; nothing where it is cut off.
pub(crate) fn after_first(bytes: &[u8]) -> &[u8] {
    let [_, length, rest @ ..] = bytes else {
        return &[];
    };
    let contents = match length {
        0..=0x7f => usize::from(*length),
        _ => {
            let octets = rest.get(..usize::from(length & 0x7f)).unwrap_or_default();
            let joined = octets
                .iter()
                .fold(0_u64, |sum, octet| (sum << 8) | u64::from(*octet));
            usize::try_from(joined).unwrap_or(usize::MAX)
        }
    };
    after_header(bytes).get(contents..).unwrap_or_default()
}
