//! Certificate serial numbers and their one canonical form.
//!
//! Owns [`SerialNumber`]: 16 octets, the first of them 0x40–0x7f, so that the DER INTEGER is always 16
//! octets long and positive (RFC 5280, 4.1.2.2) and the text is always 32 lower-case hex digits.

use std::fmt;
use std::str::FromStr;

/// A serial number: 16 octets, the first 0x40–0x7f, the other 126 bits random.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SerialNumber([u8; 16]);

/// Why bytes or text are not a serial number of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotASerial {
    /// Not 16 octets, or not 32 hex digits.
    #[error("a serial has 16 octets, written as 32 hex digits")]
    Length,
    /// A character that is not a lower-case hex digit.
    #[error("a serial is written in lower-case hex digits only")]
    Digit,
    /// The first octet is not 0x40–0x7f.
    #[error("the first octet of a serial is 0x40 to 0x7f")]
    FirstOctet,
}

impl SerialNumber {
    /// Makes a serial of 16 random octets; the two topmost bits are set to 0 and 1.
    #[must_use]
    pub const fn from_random(mut octets: [u8; 16]) -> Self {
        let [first, ..] = &mut octets;
        *first = (*first & 0x3f) | 0x40;
        Self(octets)
    }

    /// Reads the 16 octets of a DER INTEGER's contents.
    ///
    /// # Errors
    /// [`NotASerial`]: the number was not made by this appliance; treat it as unknown.
    pub fn from_slice(octets: &[u8]) -> Result<Self, NotASerial> {
        let octets: [u8; 16] = octets.try_into().map_err(|_| NotASerial::Length)?;
        match octets {
            [0x40..=0x7f, ..] => Ok(Self(octets)),
            _ => Err(NotASerial::FirstOctet),
        }
    }

    /// Reads a serial as tools write it: `serial=4B5F…` (`openssl x509 -serial`), in capitals, with colons.
    ///
    /// For what people type; everywhere else the canonical form alone counts.
    ///
    /// # Errors
    /// [`NotASerial`], as for the canonical form.
    pub fn from_tool(text: &str) -> Result<Self, NotASerial> {
        let text = text.trim();
        let text = text.strip_prefix("serial=").unwrap_or(text);
        text.replace(':', "").to_ascii_lowercase().parse()
    }

    /// The 16 octets, as they stand in the DER INTEGER.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The CRL partition of a certificate with this serial, of an issuer with `count` partitions: 1 to `count`.
    ///
    /// The last four octets, read as a big-endian number, modulo `count`, plus 1; 0 where there are no partitions.
    /// The URL of the partition is burnt into the certificate, so this never changes.
    #[must_use]
    pub const fn partition(&self, count: u32) -> u32 {
        let [.., a, b, c, d] = self.0;
        match u32::from_be_bytes([a, b, c, d]).checked_rem(count) {
            Some(place) => place + 1,
            None => 0,
        }
    }
}

impl fmt::Display for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|octet| write!(f, "{octet:02x}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

impl FromStr for SerialNumber {
    type Err = NotASerial;

    fn from_str(text: &str) -> Result<Self, NotASerial> {
        let octets: [u8; 16] = crate::hex::decode_array(text).map_err(|fault| match fault {
            crate::hex::NotHex::Length => NotASerial::Length,
            crate::hex::NotHex::Digit => NotASerial::Digit,
        })?;
        Self::from_slice(&octets)
    }
}

impl serde::Serialize for SerialNumber {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for SerialNumber {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_octets_agree() {
        let serial = SerialNumber::from_random([0xff; 16]);
        assert_eq!(serial.to_string(), "7fffffffffffffffffffffffffffffff");
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!(SerialNumber::from_slice(serial.as_bytes()), Ok(serial));
    }

    #[test]
    fn partitions_come_from_the_last_four_octets() {
        let serial = |last: u32| {
            let mut octets = [0xee; 16];
            octets[12..].copy_from_slice(&last.to_be_bytes());
            SerialNumber::from_random(octets)
        };
        assert_eq!(serial(0).partition(4), 1);
        assert_eq!(serial(7).partition(4), 4);
        assert_eq!(serial(u32::MAX).partition(1), 1);
        assert_eq!(serial(u32::MAX).partition(u32::MAX), 1);
        assert_eq!(serial(9).partition(0), 0);
    }

    #[test]
    fn what_tools_write_is_read() {
        let serial = SerialNumber::from_random([0xff; 16]);
        let colons = ["7F"; 1].into_iter().chain(["FF"; 15]);
        let colons = colons.collect::<Vec<_>>().join(":");
        let hex = serial.to_string();
        let openssl = format!("serial={}\n", hex.to_uppercase());
        for text in [&hex, &openssl, &colons, &hex.to_uppercase()] {
            assert_eq!(SerialNumber::from_tool(text), Ok(serial), "{text}");
        }
        for text in ["", "serial=", "7f", "0x7f", "serial=serial=7f"] {
            assert!(SerialNumber::from_tool(text).is_err(), "{text}");
        }
    }

    #[test]
    fn other_forms_are_refused() {
        let upper = "7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF".parse::<SerialNumber>();
        assert_eq!(upper, Err(NotASerial::Digit));
        assert_eq!("7f".parse::<SerialNumber>(), Err(NotASerial::Length));
        let low = "00ffffffffffffffffffffffffffffff".parse::<SerialNumber>();
        assert_eq!(low, Err(NotASerial::FirstOctet));
    }
}
