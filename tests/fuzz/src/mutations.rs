//! Changes inputs in the ways in which inputs go wrong, the same in each run.

/// Mutated inputs in bytes: above every limit on requests, so that limits are met too.
const INPUT_BYTES_MAX: usize = 20 * 1024;

/// Random numbers, the same in each run: xorshift64* (Vigna, 2014).
pub struct Xorshift(u64);

impl Xorshift {
    /// Numbers that depend on the target and on nothing else.
    pub fn of(name: &str) -> Self {
        let start = name.bytes().fold(0x9e37_79b9_7f4a_7c15, |sum: u64, octet| {
            (sum ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(start | 1)
    }

    /// The next number.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `end`; 0 where `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX).max(1);
        usize::try_from((self.next() >> 11) % end).expect("below a usize")
    }

    /// An octet that parsers trip over, or any.
    fn octet(&mut self) -> u8 {
        let odd = b"\0\xff\x7f\x80\x81\x84\x30\x01\n\r \"\\%-+0";
        match self.below(2) {
            0 => odd[self.below(odd.len())],
            _ => self.next().to_le_bytes()[7],
        }
    }

    /// A stretch of so many octets: where it starts and ends, mostly short.
    fn stretch(&mut self, len: usize) -> std::ops::Range<usize> {
        let start = self.below(len + 1);
        let most = if self.below(4) == 0 { len } else { 16 };
        start..(start + self.below(most + 1)).min(len)
    }
}

/// Changes an input in one of the ways in which inputs go wrong; `other` is another input of the corpus.
pub fn mutate(input: &mut Vec<u8>, other: &[u8], random: &mut Xorshift) {
    let at = random.below(input.len());
    match random.below(8) {
        // One bit, one octet.
        0 | 1 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        2 if !input.is_empty() => input[at] = random.octet(),
        // Cut off at either end.
        3 => input.truncate(at),
        4 => drop(input.drain(..at.min(8))),
        // Octets put in, taken out, said again.
        5 => {
            let octets: Vec<u8> = (0..=random.below(8)).map(|_| random.octet()).collect();
            input.splice(at..at, octets);
        }
        6 => drop(input.drain(random.stretch(input.len()))),
        7 if random.below(2) == 0 => {
            let again = input[random.stretch(input.len())].to_vec();
            input.splice(at..at, again);
        }
        // A stretch of another input in the place of one of this.
        _ => {
            let from = random.stretch(other.len());
            let to = random.stretch(input.len());
            input.splice(to, other[from].iter().copied());
        }
    }
    input.truncate(INPUT_BYTES_MAX);
}
