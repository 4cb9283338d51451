//! Lower-case hexadecimal, the only text form of digests and serials here.

/// Why a text is not lower-case hex of the wanted length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotHex {
    /// The text has another length than the octets need.
    #[error("wrong number of hex digits")]
    Length,
    /// A character that is not 0–9 or a–f.
    #[error("not a lower-case hex digit")]
    Digit,
}

/// Writes octets as lower-case hex.
#[must_use]
pub fn encode(octets: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(octets.len() * 2);
    for octet in octets {
        for nibble in [octet >> 4, octet & 0x0f] {
            // A nibble is below 16, so the digit is always there.
            text.push(char::from(
                *DIGITS.get(usize::from(nibble)).unwrap_or(&b'0'),
            ));
        }
    }
    text
}

/// Reads exactly `N` octets of lower-case hex.
///
/// # Errors
/// [`NotHex`] says whether the length or a digit is wrong.
pub fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    if text.len() != N * 2 {
        return Err(NotHex::Length);
    }
    let mut octets = [0u8; N];
    for (octet, pair) in octets.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else {
            return Err(NotHex::Length);
        };
        *octet = digit(high)? << 4 | digit(low)?;
    }
    Ok(octets)
}

/// The value of one lower-case hex digit.
const fn digit(character: u8) -> Result<u8, NotHex> {
    match character {
        b'0'..=b'9' => Ok(character - b'0'),
        b'a'..=b'f' => Ok(character - b'a' + 10),
        _ => Err(NotHex::Digit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        assert_eq!(encode(&[0x00, 0xaf, 0x19]), "00af19");
        assert_eq!(decode_array::<3>("00af19"), Ok([0x00, 0xaf, 0x19]));
        assert_eq!(decode_array::<3>("00AF19"), Err(NotHex::Digit));
        assert_eq!(decode_array::<3>("00af1"), Err(NotHex::Length));
    }
}
