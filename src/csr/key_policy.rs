//! Which public keys we would certify.
//!
//! Owns the rules for keys in requests: kinds, sizes, exponents, and the known ways in which an RSA
//! modulus or an Ed25519 point gives its private key away. Promises a bounded amount of work for any key.
//! Says nothing about who has the private key: that is proof of possession. Works on public values only,
//! so nothing here needs constant time. Failure is a [`CsrRefused`] that names the rule.

use certstatus::signature::{KeyKind, PublicKey};
use der::Decode;
use der::asn1::ObjectIdentifier;
use num_bigint::BigUint;
use x509_cert::spki::SubjectPublicKeyInfoRef;

use super::CsrRefused;
use crate::limits;

/// id-ecPublicKey (RFC 5480, 2.1.1).
const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// secp256r1 (RFC 5480, 2.1.1.1).
const SECP256R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
/// secp384r1.
const SECP384R1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
/// rsaEncryption (RFC 3279, 2.3.1).
const RSA_ENCRYPTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// id-Ed25519 (RFC 8410, 3).
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// The sizes of RSA moduli in bits.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=4096;
/// The one RSA exponent: with others the same modulus, and so the same private primes, would count as many keys.
const RSA_EXPONENT: u32 = 65_537;

/// How many odd primes are below [`SMALL_PRIMES_END`].
const SMALL_PRIMES_COUNT: usize = 132;
/// Small factors are looked for below this number (SP 800-89, 5.3.3, stops at 752).
const SMALL_PRIMES_END: u32 = 752;
/// The odd primes below [`SMALL_PRIMES_END`].
const SMALL_PRIMES: [u32; SMALL_PRIMES_COUNT] = small_primes();
/// Up to here the primes divide the modulus M of Infineon's primes `k·M + (65537^a mod M)`, for all RSA
/// sizes from 1984 bits on (Nemec and others, "The Return of Coppersmith's Attack", 2017, section 2).
const ROCA_PRIME_LAST: u32 = 701;
/// The generator in Infineon's primes.
const ROCA_GENERATOR: u32 = 65_537;

/// The y coordinates, without the sign bit, of all Ed25519 encodings of points of order 1, 2, 4 or 8.
const SMALL_ORDER: [[u8; 32]; 7] = [
    little_endian(0x00, 0x00, 0x00), // order 4
    little_endian(0x01, 0x00, 0x00), // order 1, the neutral point
    little_endian(0xec, 0xff, 0x7f), // order 2, y = -1
    little_endian(0xed, 0xff, 0x7f), // y = p: 0 again, not canonical
    little_endian(0xee, 0xff, 0x7f), // y = p + 1: 1 again, not canonical
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ], // order 8
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ], // order 8
];

/// A number of 32 octets, least significant first, with the same octet all through the middle.
const fn little_endian(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut octets = [middle; 32];
    let [lowest, .., highest] = &mut octets;
    *lowest = first;
    *highest = last;
    octets
}

/// The odd primes below [`SMALL_PRIMES_END`], by trial division when compiling.
#[expect(
    clippy::indexing_slicing,
    reason = "runs in the compiler only, where an index outside stops the build"
)]
const fn small_primes() -> [u32; SMALL_PRIMES_COUNT] {
    let mut primes = [0; SMALL_PRIMES_COUNT];
    let mut found = 0;
    let mut candidate = 3;
    while candidate < SMALL_PRIMES_END {
        let mut divisor = 3;
        while divisor * divisor <= candidate && candidate % divisor != 0 {
            divisor += 2;
        }
        if divisor * divisor > candidate {
            primes[found] = candidate;
            found += 1;
        }
        candidate += 2;
    }
    assert!(found == SMALL_PRIMES_COUNT);
    primes
}

/// Refuses keys that we would not certify.
pub fn admit(key: &PublicKey) -> Result<(), CsrRefused> {
    match key.kind() {
        // On the curve, uncompressed and not the point at infinity: PublicKey::parse made sure.
        KeyKind::P256 | KeyKind::P384 => Ok(()),
        KeyKind::Ed25519 => ed25519(key.spki()),
        KeyKind::Rsa(bits) => {
            let (modulus, exponent) = key.rsa_parts().ok_or(CsrRefused::KeyEncoding)?;
            rsa(bits, modulus, exponent)
        }
    }
}

/// Says why a SubjectPublicKeyInfo is not one that we know.
pub fn explain(spki: &[u8]) -> CsrRefused {
    let Ok(parsed) = SubjectPublicKeyInfoRef::from_der(spki) else {
        return CsrRefused::KeyEncoding;
    };
    match parsed.algorithm.oid {
        EC_PUBLIC_KEY => match parsed.algorithm.parameters_oid() {
            Ok(SECP256R1 | SECP384R1) => match parsed.subject_public_key.as_bytes() {
                Some([2 | 3, ..]) => CsrRefused::KeyPointCompressed,
                Some([4, ..]) => CsrRefused::KeyPoint,
                _ => CsrRefused::KeyEncoding,
            },
            _ => CsrRefused::KeyCurve,
        },
        RSA_ENCRYPTION | ED25519 => CsrRefused::KeyEncoding,
        _ => CsrRefused::KeyAlgorithm,
    }
}

/// Refuses points of small order, under which a signature can be made for any message.
fn ed25519(spki: &[u8]) -> Result<(), CsrRefused> {
    let mut point: [u8; 32] = spki.last_chunk().copied().ok_or(CsrRefused::KeyEncoding)?;
    if let Some(last) = point.last_mut() {
        *last &= 0x7f; // the sign of x
    }
    if SMALL_ORDER.contains(&point) {
        return Err(CsrRefused::KeySmallOrder);
    }
    Ok(())
}

/// Refuses RSA keys of other sizes and those whose private key is known to be computable.
fn rsa(bits: u32, modulus: &[u8], exponent: &[u8]) -> Result<(), CsrRefused> {
    if !RSA_BITS.contains(&bits) || !bits.is_multiple_of(8) {
        return Err(CsrRefused::RsaSize(bits));
    }
    if modulus.last().is_none_or(|last| last % 2 == 0) {
        return Err(CsrRefused::RsaEven);
    }
    if BigUint::from_bytes_be(exponent) != RSA_EXPONENT.into() {
        return Err(CsrRefused::RsaExponent);
    }
    let residues = small_residues(modulus);
    if let Some((prime, _)) = residues.iter().find(|(_, residue)| *residue == 0) {
        return Err(CsrRefused::RsaSmallFactor(*prime));
    }
    if has_roca_fingerprint(&residues) {
        return Err(CsrRefused::RsaRoca);
    }
    if has_close_primes(&BigUint::from_bytes_be(modulus)) {
        return Err(CsrRefused::RsaClosePrimes);
    }
    Ok(())
}

/// Each small prime with the number's remainder by it.
fn small_residues(number: &[u8]) -> Vec<(u32, u32)> {
    // Three of these primes make a divisor below 2^32: one walk over the number for three primes.
    let residues_of = |primes: &'static [u32]| {
        let product = primes.iter().map(|prime| u64::from(*prime)).product();
        let residue = residue(number, product);
        primes
            .iter()
            .map(move |prime| (*prime, low_u32(residue % u64::from(*prime))))
    };
    SMALL_PRIMES.chunks(3).flat_map(residues_of).collect()
}

/// The remainder of a big-endian number by a divisor below 2^32.
fn residue(number: &[u8], divisor: u64) -> u64 {
    number.chunks(4).fold(0, |remainder, chunk| {
        let next = chunk
            .iter()
            .fold(0, |sum, octet| sum << 8 | u64::from(*octet));
        ((remainder << (8 * chunk.len())) | next) % divisor
    })
}

/// A number that is known to be below 2^32.
fn low_u32(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Whether the modulus is a power of 65537 modulo every prime of Infineon's M: chance does that for one
/// modulus in 10^50, Infineon's library for all (CVE-2017-15361).
fn has_roca_fingerprint(residues: &[(u32, u32)]) -> bool {
    residues
        .iter()
        .take_while(|(prime, _)| *prime <= ROCA_PRIME_LAST)
        .all(|(prime, residue)| is_power_of_generator(*residue, *prime))
}

/// Whether the residue is a power of 65537 modulo the prime.
fn is_power_of_generator(residue: u32, prime: u32) -> bool {
    let step = ROCA_GENERATOR % prime;
    std::iter::successors(Some(1), |power| Some(power * step % prime))
        .take(prime as usize)
        .any(|power| power == residue)
}

/// Whether Fermat's method factors the modulus in a few steps: p and q agree in their upper half and more.
fn has_close_primes(modulus: &BigUint) -> bool {
    let mut a = modulus.sqrt();
    if &a * &a < *modulus {
        a += 1u32;
    }
    let mut remainder = &a * &a - modulus;
    for _ in 0..limits::FERMAT_STEPS {
        if is_square(&remainder) {
            return true;
        }
        // (a + 1)² - n = (a² - n) + 2a + 1
        remainder += (&a << 1) + 1u32;
        a += 1u32;
    }
    false
}

/// Whether a number is a square; asks cheap residues before it takes the root.
fn is_square(number: &BigUint) -> bool {
    /// Moduli of which few residues are squares: 12 of 64, 16 of 63, 21 of 65.
    const FILTERS: [u32; 3] = [64, 63, 65];
    let possible = FILTERS.iter().all(|modulus| {
        let residue = low_u32((number % *modulus).iter_u64_digits().next().unwrap_or(0));
        (0..*modulus).any(|root| root * root % modulus == residue)
    });
    if !possible {
        return false;
    }
    let root = number.sqrt();
    &root * &root == *number
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether a number is prime, for numbers below 2^32.
    fn is_small_prime(n: u32) -> bool {
        n > 1
            && (2..n)
                .take_while(|d| d * d <= n)
                .all(|d| !n.is_multiple_of(d))
    }

    /// The first probable prime from here on (Miller and Rabin with fixed bases).
    fn next_prime(mut n: BigUint) -> BigUint {
        n.set_bit(0, true);
        while !is_probable_prime(&n) {
            n += 2u32;
        }
        n
    }

    /// Miller and Rabin's test; its bases are good enough for numbers that no adversary chose.
    fn is_probable_prime(n: &BigUint) -> bool {
        let octets = n.to_bytes_be();
        if small_residues(&octets)
            .iter()
            .any(|(_, residue)| *residue == 0)
        {
            return false;
        }
        let less = n - 1u32;
        let twos = less.trailing_zeros().unwrap();
        let odd = &less >> twos;
        [2u32, 3, 5].iter().all(|base| {
            let mut x = BigUint::from(*base).modpow(&odd, n);
            if x == BigUint::from(1u32) || x == less {
                return true;
            }
            (1..twos).any(|_| {
                x = x.modpow(&2u32.into(), n);
                x == less
            })
        })
    }

    /// An RSA-2048 verdict with exponent 65537.
    fn verdict(modulus: &BigUint) -> Result<(), CsrRefused> {
        rsa(
            u32::try_from(modulus.bits()).unwrap(),
            &modulus.to_bytes_be(),
            &[1, 0, 1],
        )
    }

    /// A number of 1024 bits with the two topmost set, from a seed.
    fn seeded(seed: &str) -> BigUint {
        let octets: Vec<u8> = (0..4u8)
            .flat_map(|i| certstatus::log::DetailHash::of(format!("{seed}{i}").as_bytes()).0)
            .collect();
        let mut number = BigUint::from_bytes_be(&octets);
        number.set_bit(1023, true);
        number.set_bit(1022, true);
        number
    }

    #[test]
    fn the_primes_are_the_odd_primes() {
        let expected: Vec<u32> = (3..SMALL_PRIMES_END)
            .filter(|n| is_small_prime(*n))
            .collect();
        assert_eq!(SMALL_PRIMES.as_slice(), expected);
    }

    #[test]
    fn residues_are_remainders() {
        let number = seeded("residues");
        for (prime, residue) in small_residues(&number.to_bytes_be()) {
            assert_eq!(&number % prime, BigUint::from(residue), "{prime}");
        }
        assert_eq!(
            residue(&[1, 0, 0, 0, 5], 1 << 20),
            (1 << 32 | 5) % (1 << 20)
        );
    }

    #[test]
    fn a_sound_modulus_passes() {
        let modulus = next_prime(seeded("p")) * next_prime(seeded("q"));
        assert_eq!(verdict(&modulus), Ok(()));
    }

    #[test]
    fn infineon_primes_are_found() {
        // M is 2 times our odd primes: 126 primes, 971 bits, as for RSA-2048.
        let m = SMALL_PRIMES
            .iter()
            .take_while(|p| **p <= ROCA_PRIME_LAST)
            .fold(BigUint::from(2u32), |m, p| m * p);
        assert_eq!(m.bits(), 971);
        let prime = |seed: u32| {
            let base = BigUint::from(ROCA_GENERATOR).modpow(&seed.into(), &m);
            let first = ((BigUint::from(3u32) << 1022usize) / &m) * &m + base;
            std::iter::successors(Some(first), |p| Some(p + &m))
                .find(is_probable_prime)
                .unwrap()
        };
        let modulus = prime(123_457) * prime(987_643);
        assert_eq!(verdict(&modulus), Err(CsrRefused::RsaRoca));
    }

    #[test]
    fn close_primes_are_found() {
        let p = next_prime(seeded("close"));
        let q = next_prime(&p + (BigUint::from(1u32) << 500));
        assert_eq!(verdict(&(&p * &q)), Err(CsrRefused::RsaClosePrimes));
        let square = verdict(&(&p * &p));
        assert_eq!(square, Err(CsrRefused::RsaClosePrimes));
    }

    #[test]
    fn other_bad_moduli_and_exponents_are_refused() {
        let sound = next_prime(seeded("p")) * next_prime(seeded("q"));
        let octets = sound.to_bytes_be();
        let exponent = |e: &[u8]| rsa(2048, &octets, e);
        let others = [
            &[1][..],
            &[3],
            &[0x01, 0x00, 0x00],
            &[0xff, 0xff],
            // Sound in themselves, but the same primes must not count as another key.
            &[0x01, 0x00, 0x03],
            &[1, 0xff, 0xff, 0xff, 0xff],
            &[2, 0, 0, 0, 1],
        ];
        for bad in others {
            assert_eq!(exponent(bad), Err(CsrRefused::RsaExponent), "{bad:02x?}");
        }
        assert_eq!(exponent(&[0x01, 0x00, 0x01]), Ok(()));

        assert_eq!(verdict(&(&sound + 1u32)), Err(CsrRefused::RsaEven));
        let multiple = (&sound / 751u32) * 751u32;
        let multiple = if multiple.bit(0) {
            multiple
        } else {
            multiple - 751u32
        };
        assert!(matches!(
            verdict(&multiple),
            Err(CsrRefused::RsaSmallFactor(_))
        ));
        assert_eq!(verdict(&(&sound >> 1)), Err(CsrRefused::RsaSize(2047)));
        assert_eq!(verdict(&(&sound << 1)), Err(CsrRefused::RsaSize(2049)));
        assert_eq!(verdict(&(&sound << 2056)), Err(CsrRefused::RsaSize(4104)));
        assert_eq!(verdict(&BigUint::from(0u32)), Err(CsrRefused::RsaSize(0)));
    }

    #[test]
    fn points_of_small_order_are_refused() {
        for point in SMALL_ORDER {
            let mut negative = point;
            negative[31] |= 0x80;
            assert_eq!(ed25519(&point), Err(CsrRefused::KeySmallOrder));
            assert_eq!(ed25519(&negative), Err(CsrRefused::KeySmallOrder));
        }
        assert_eq!(ed25519(&[9; 32]), Ok(()));
    }
}
