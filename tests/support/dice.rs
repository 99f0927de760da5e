//! Chance that can be repeated: the same seed throws the same numbers.
#![allow(dead_code, clippy::unwrap_used, missing_docs, unreachable_pub)]

use std::time::Duration;

pub struct Dice(u64);

impl Dice {
    /// From the environment variable `SEED`, else always the same.
    pub fn new() -> Self {
        Self::of(std::env::var("SEED").map_or(1, |seed| seed.parse().unwrap()))
    }

    pub fn of(seed: u64) -> Self {
        let mut dice = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        dice.below(2);
        dice
    }

    /// xorshift64*.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % bound
    }

    pub fn millis(&mut self, bound: u64) -> Duration {
        Duration::from_micros(self.below(bound * 1_000))
    }

    pub fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}
