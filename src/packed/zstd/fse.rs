//! Finite state entropy coding (RFC 8878 §4.1): a table of states made of how often each symbol
//! occurs. The decoder gets the counts and makes the same table.

use super::bits::Bits;

/// How often each symbol occurs in a table of `1 << log` states. -1: less than once, which takes a
/// state all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) log: u32,
    pub(super) of: Vec<i16>,
}

/// The smallest table (§4.1.1).
const LEAST_LOG: u32 = 5;

impl Counts {
    /// Scales what was counted to a table of at most `1 << most` states. `None`: it is less than
    /// two symbols, which needs no table.
    pub(super) fn scaled(counted: &[u32], most: u32) -> Option<Self> {
        let total: u32 = counted.iter().sum();
        let symbols = counted.iter().filter(|count| **count > 0).count();
        if symbols < 2 {
            return None;
        }
        // Larger tables are more exact and take longer to describe: a quarter of what is coded.
        let wanted = total.ilog2().saturating_sub(1).max(LEAST_LOG);
        let needed = (symbols - 1).ilog2() + 2;
        let log = wanted.min(most).max(needed.min(most));
        let states = 1_u32 << log;
        let mut of: Vec<i16> = Vec::with_capacity(counted.len());
        let last = counted.iter().rposition(|count| *count > 0)?;
        for count in &counted[..=last] {
            let share = u64::from(*count) * u64::from(states);
            let rounded = (share + u64::from(total) / 2) / u64::from(total);
            of.push(match *count {
                0 => 0,
                _ => i16::try_from(rounded.max(1)).unwrap_or(i16::MAX),
            });
        }
        let mut left =
            i32::try_from(states).ok()? - of.iter().map(|one| i32::from(*one)).sum::<i32>();
        while left != 0 {
            let largest = of.iter_mut().max()?;
            // What rounding has made too much or too little hurts the most frequent one least.
            let step = match i32::from(*largest) {
                _ if left > 0 => left,
                0..=1 => return None,
                most => -left.abs().min(most / 2),
            };
            *largest = i16::try_from(i32::from(*largest) + step).ok()?;
            left -= step;
        }
        Some(Self { log, of })
    }

    /// Bits, about, that coding so many of each symbol by these counts takes.
    pub(super) fn cost(&self, counted: &[u32]) -> f64 {
        let mut bits = 0.0;
        for (symbol, count) in counted.iter().enumerate().filter(|(_, count)| **count > 0) {
            let states = self.of.get(symbol).copied().unwrap_or(0);
            if states == 0 {
                return f64::INFINITY;
            }
            let share = f64::from(states.max(1)) / f64::from(1_u32 << self.log);
            bits -= share.log2() * f64::from(*count);
        }
        bits
    }

    /// Writes the counts for the decoder (§4.1.1).
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let mut bits = Bits::new(out);
        bits.add(self.log - LEAST_LOG, 4);
        let mut remaining = (1_i32 << self.log) + 1;
        let mut threshold = 1_i32 << self.log;
        let mut width = self.log + 1;
        let mut at = 0;
        let mut after_zero = false;
        while remaining > 1 && at < self.of.len() {
            if after_zero {
                let zeros = self.of[at..].iter().take_while(|one| **one == 0).count();
                at += zeros;
                let mut more = zeros;
                while more >= 3 {
                    bits.add(3, 2);
                    more -= 3;
                }
                bits.add(more as u32, 2);
                if at >= self.of.len() {
                    break;
                }
            }
            let count = i32::from(self.of[at]);
            at += 1;
            let most = 2 * threshold - 1 - remaining;
            remaining -= count.abs();
            let mut value = count + 1;
            if value >= threshold {
                value += most;
            }
            bits.add(value as u32, if value < most { width - 1 } else { width });
            after_zero = count == 0;
            while remaining < threshold {
                width -= 1;
                threshold >>= 1;
            }
        }
        bits.align();
    }
}

/// What becomes of a state when a symbol is coded.
#[derive(Debug, Clone, Copy, Default)]
struct Change {
    bits: i64,
    state: i32,
}

/// A table for coding.
#[derive(Debug)]
pub(super) struct Table {
    log: u32,
    states: Vec<u16>,
    changes: Vec<Change>,
}

impl Table {
    pub(super) fn new(counts: &Counts) -> Self {
        let size = 1_usize << counts.log;
        let mut symbols = vec![0_usize; size];
        let mut top = size;
        for (symbol, _) in counts
            .of
            .iter()
            .enumerate()
            .filter(|(_, count)| **count < 0)
        {
            top -= 1;
            symbols[top] = symbol;
        }
        let step = (size >> 1) + (size >> 3) + 3;
        let mut place = 0;
        for (symbol, count) in counts.of.iter().enumerate() {
            for _ in 0..(*count).max(0) {
                symbols[place] = symbol;
                loop {
                    place = (place + step) & (size - 1);
                    if place < top {
                        break;
                    }
                }
            }
        }
        let mut begins = Vec::with_capacity(counts.of.len());
        let mut sum = 0_usize;
        for count in &counts.of {
            begins.push(sum);
            sum += usize::from(count.unsigned_abs());
        }
        let mut states = vec![0_u16; size];
        let mut next = begins.clone();
        for (place, symbol) in symbols.iter().enumerate() {
            states[next[*symbol]] = (size + place) as u16;
            next[*symbol] += 1;
        }
        let log = i64::from(counts.log);
        let changes = counts.of.iter().zip(&begins);
        let changes = changes.map(|(count, begin)| {
            let begin = *begin as i32;
            match i64::from(count.unsigned_abs()) {
                0 => Change::default(),
                1 => Change {
                    bits: (log << 16) - (1 << log),
                    state: begin - 1,
                },
                count => {
                    let bits = log - i64::from((count - 1).ilog2());
                    Change {
                        bits: (bits << 16) - (count << bits),
                        state: begin - count as i32,
                    }
                }
            }
        });
        Self {
            log: counts.log,
            states,
            changes: changes.collect(),
        }
    }

    fn to(&self, value: i64, bits: i64, change: Change) -> u32 {
        let place = (value >> bits) + i64::from(change.state);
        u32::from(self.states[place as usize])
    }

    /// The state that stands for this symbol, which the decoder reads last.
    pub(super) fn begin(&self, symbol: usize) -> u32 {
        let change = self.changes[symbol];
        let bits = (change.bits + (1 << 15)) >> 16;
        self.to((bits << 16) - change.bits, bits, change)
    }

    /// Goes on to the state of the symbol before.
    pub(super) fn code(&self, state: u32, symbol: usize, out: &mut Bits<'_>) -> u32 {
        let change = self.changes[symbol];
        let bits = (i64::from(state) + change.bits) >> 16;
        out.add(state, bits as u32);
        self.to(i64::from(state), bits, change)
    }

    /// Writes the state with which the decoder begins.
    pub(super) fn end(&self, state: u32, out: &mut Bits<'_>) {
        out.add(state, self.log);
    }
}
