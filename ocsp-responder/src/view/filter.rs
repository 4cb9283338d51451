//! Tells most serials that a segment does not have without a look at the disk.
//!
//! Owns a Bloom filter in blocks of 64 octets (one cache line a question): 12 bits a record, 6 of them asked. Serials
//! are random already, so their own octets are the hash. Promises never to deny a serial that was put in.
//! Serials that are not random only cost false alarms: a read of the disk, never a wrong answer.

use super::record::Key;

/// Words of 64 bits in a block.
const BLOCK_WORDS: usize = 8;

/// Bits a record.
const BITS: usize = 12;

/// Bits asked for one serial.
const PROBES: u32 = 6;

/// The filter's words.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter(Vec<u64>);

impl Filter {
    /// An empty filter with room for so many records.
    pub(super) fn with_room(records: usize) -> Self {
        let blocks = (records.saturating_mul(BITS))
            .div_ceil(BLOCK_WORDS * 64)
            .max(1);
        Self(vec![0; blocks * BLOCK_WORDS])
    }

    /// The filter of these words; `None` when they are not whole blocks.
    pub(super) fn from_words(words: Vec<u64>) -> Option<Self> {
        (!words.is_empty() && words.len().is_multiple_of(BLOCK_WORDS)).then_some(Self(words))
    }

    /// The words.
    pub(super) fn words(&self) -> &[u64] {
        &self.0
    }

    /// Where a serial's block begins, and what chooses its bits.
    fn place(&self, key: Key) -> (usize, u64) {
        let blocks = (self.0.len() / BLOCK_WORDS) as u128;
        // The first two bits are the same in every serial.
        let fraction = u128::from(key.prefix() << 2);
        let block = usize::try_from((fraction * blocks) >> 64).unwrap_or(0);
        // The lower half of 128 bits.
        (block * BLOCK_WORDS, key.serial as u64)
    }

    /// Takes a serial in.
    pub(super) fn insert(&mut self, key: Key) {
        let (start, bits) = self.place(key);
        for (word, mask) in probes(bits) {
            if let Some(place) = self.0.get_mut(start + word) {
                *place |= mask;
            }
        }
    }

    /// Whether the segment may have a serial.
    pub(super) fn may_have(&self, key: Key) -> bool {
        let (start, bits) = self.place(key);
        probes(bits).all(|(word, mask)| {
            self.0
                .get(start + word)
                .is_none_or(|place| place & mask != 0)
        })
    }
}

/// The bits of a serial within its block: 9 bits of the hash choose each.
fn probes(bits: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |probe| {
        let chosen = bits >> (probe * 9) & 0x1ff;
        // Below 8.
        let word = usize::try_from(chosen >> 6).unwrap_or(0);
        (word, 1 << (chosen & 63))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SerialNumber;
    use crate::log::DetailHash;

    fn key(n: u64) -> Key {
        let hash = DetailHash::of(&n.to_be_bytes()).0;
        Key::new(SerialNumber::from_random(hash[..16].try_into().unwrap()), 0)
    }

    #[test]
    fn nothing_is_denied_and_little_else_admitted() {
        let mut filter = Filter::with_room(10_000);
        (0..10_000).for_each(|n| filter.insert(key(n)));
        assert!((0..10_000).all(|n| filter.may_have(key(n))));
        let false_alarms = (10_000..110_000)
            .filter(|n| filter.may_have(key(*n)))
            .count();
        assert!(false_alarms < 1500, "{false_alarms} of 100,000");
        assert_eq!(
            Filter::from_words(filter.words().to_vec()).as_ref(),
            Some(&filter)
        );
        assert_eq!(Filter::from_words(vec![0; 7]), None);
        assert_eq!(Filter::from_words(Vec::new()), None);
        assert!(!Filter::with_room(0).may_have(key(1)));
    }
}
