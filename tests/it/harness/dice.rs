//! Chance that can be had again: what a test throws follows from one number, which it prints.

/// Where the number of an earlier run is given back.
const SEED: &str = "HALLMARK_TEST_SEED";

/// Numbers that look random and follow from the first one (Marsaglia's xorshift).
pub struct Dice(u64);

impl Dice {
    /// Dice as an earlier run of the test had them, where `HALLMARK_TEST_SEED` says so, else others each time.
    ///
    /// # Panics
    /// When the variable is no number.
    pub fn thrown() -> Self {
        let seed = match std::env::var(SEED) {
            Ok(text) => text
                .parse()
                .unwrap_or_else(|_| panic!("{SEED} is no number: {text:?}")),
            Err(_) => {
                let mut seed = [0; 8];
                aws_lc_rs::rand::fill(&mut seed).unwrap();
                u64::from_le_bytes(seed)
            }
        };
        println!("the same again: {SEED}={seed}");
        // Nothing follows from 0.
        Self(seed | 1)
    }

    /// A number below `sides`.
    pub const fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }

    /// So many octets.
    pub fn octets(&mut self, count: usize) -> Vec<u8> {
        (0..count)
            .map(|_| self.roll(1 << 40).to_le_bytes()[3])
            .collect()
    }
}
