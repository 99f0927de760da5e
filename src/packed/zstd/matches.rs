//! Finds what has been there before: candidates by a hash of four bytes, chained from the newest to
//! the oldest, and the three last distances before all others.

use std::ops::Range;

use super::sequences::{Repeats, Sequence};

/// A copy has at least so many bytes; shorter ones cost more than their literals.
const SHORTEST: usize = 4;

/// The same at one of the last distances, which cost next to nothing.
const SHORTEST_REPEAT: usize = 3;

/// Candidates that are looked at for one position.
const DEPTH: usize = 32;

/// From so many bytes on nothing better is looked for.
const ENOUGH: usize = 128;

/// Sequences of a block: what fits into two bytes of their number.
const MOST: usize = 0x7eff;

const NONE: u32 = u32::MAX;

/// Where a copy comes from, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Match {
    length: usize,
    offset: usize,
    gain: i64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Finder<'a> {
    plain: &'a [u8],
    /// The newest position of each hash.
    heads: Vec<u32>,
    /// For each position the one before it with the same hash.
    chain: Vec<u32>,
    /// Positions before this one are in the table.
    entered: usize,
    shift: u32,
}

impl<'a> Finder<'a> {
    pub(super) fn new(plain: &'a [u8]) -> Self {
        let log = plain.len().max(256).ilog2().min(16);
        Self {
            plain,
            heads: vec![NONE; 1 << log],
            chain: vec![NONE; plain.len()],
            entered: 0,
            shift: 32 - log,
        }
    }

    fn hash(&self, at: usize) -> Option<usize> {
        let four = self.plain.get(at..at + 4)?;
        let four = u32::from_le_bytes(four.try_into().ok()?);
        Some((four.wrapping_mul(0x9e37_79b1) >> self.shift) as usize)
    }

    fn enter(&mut self, until: usize) {
        while self.entered < until {
            if let Some(hash) = self.hash(self.entered) {
                self.chain[self.entered] = self.heads[hash];
                self.heads[hash] = self.entered as u32;
            }
            self.entered += 1;
        }
    }

    /// How many bytes from `at` on are the same as `offset` bytes before.
    fn length(&self, at: usize, offset: usize, end: usize) -> usize {
        let here = &self.plain[at..end];
        let there = &self.plain[at - offset..end - offset];
        here.iter().zip(there).take_while(|(a, b)| a == b).count()
    }

    /// The best copy for this position.
    fn best(&mut self, at: usize, end: usize, literals: usize, repeats: &Repeats) -> Option<Match> {
        let mut best: Option<Match> = None;
        let mut offer = |one: Match| {
            if best.is_none_or(|best| one.gain > best.gain) {
                best = Some(one);
            }
        };
        for (nth, offset) in repeats.0.iter().enumerate() {
            let offset = *offset as usize;
            let names_another = nth == 0 && literals == 0;
            if offset > at || names_another {
                continue;
            }
            let length = self.length(at, offset, end);
            if length >= SHORTEST_REPEAT {
                offer(Match {
                    length,
                    offset,
                    gain: 6 * length as i64 - 3,
                });
            }
        }
        self.enter(at);
        let mut candidate = self.hash(at).map_or(NONE, |hash| self.heads[hash]);
        let mut longest = SHORTEST - 1;
        for _ in 0..DEPTH {
            if candidate == NONE {
                break;
            }
            let place = candidate as usize;
            let offset = at - place;
            let promising =
                at + longest < end && self.plain[place + longest] == self.plain[at + longest];
            if promising {
                let length = self.length(at, offset, end);
                if length > longest {
                    longest = length;
                    let bits = i64::from(offset.ilog2()) + 6;
                    offer(Match {
                        length,
                        offset,
                        gain: 6 * length as i64 - bits,
                    });
                }
                if length >= ENOUGH {
                    break;
                }
            }
            candidate = self.chain[place];
        }
        best.filter(|best| best.gain > 0)
    }

    /// Sequences for a part of it, whose last literals are left over.
    pub(super) fn parse(
        &mut self,
        range: Range<usize>,
        repeats: &mut Repeats,
        out: &mut Vec<Sequence>,
    ) {
        let (mut at, mut anchor, end) = (range.start, range.start, range.end);
        while at + SHORTEST_REPEAT <= end && out.len() < MOST {
            let Some(mut found) = self.best(at, end, at - anchor, repeats) else {
                at += 1;
                continue;
            };
            // Whether the next position, or the one after it, has a better one.
            let mut ahead = 1;
            while ahead <= 2 && found.length < ENOUGH && at + ahead + SHORTEST_REPEAT <= end {
                let next = self.best(at + ahead, end, at + ahead - anchor, repeats);
                match next {
                    Some(next) if next.gain > found.gain + 4 * ahead as i64 => {
                        at += ahead;
                        found = next;
                        ahead = 1;
                    }
                    _ => ahead += 1,
                }
            }
            // What is the same right before it belongs to it.
            while at > anchor
                && at > found.offset
                && self.plain[at - 1] == self.plain[at - 1 - found.offset]
            {
                at -= 1;
                found.length += 1;
            }
            let sequence = Sequence {
                literals: (at - anchor) as u32,
                length: found.length as u32,
                offset: found.offset as u32,
            };
            repeats.name(sequence.offset, sequence.literals);
            out.push(sequence);
            at += found.length;
            anchor = at;
        }
    }
}
