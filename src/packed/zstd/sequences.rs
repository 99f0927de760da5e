//! The sequences of a block (RFC 8878 §3.1.1.3.2): so many literals, then a copy of so many bytes
//! from so far back.

use super::bits::Bits;
use super::fse::{Counts, Table};

/// Literals, and the copy behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    pub(super) literals: u32,
    /// At least 3.
    pub(super) length: u32,
    /// Distance, at least 1.
    pub(super) offset: u32,
}

/// The three last distances, which have short names (§3.1.1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Repeats(pub(super) [u32; 3]);

impl Default for Repeats {
    fn default() -> Self {
        Self([1, 4, 8])
    }
}

impl Repeats {
    /// The value that stands for this distance, and what it does to the last ones.
    pub(super) fn name(&mut self, offset: u32, literals: u32) -> u32 {
        let [first, second, third] = self.0;
        let shift = u32::from(literals == 0);
        if offset == first && literals > 0 {
            return 1;
        }
        if offset == second {
            self.0 = [second, first, third];
            return 2 - shift;
        }
        if offset == third {
            self.0 = [third, first, second];
            return 3 - shift;
        }
        self.0 = [offset, first, second];
        if literals == 0 && offset + 1 == first {
            return 3;
        }
        offset + 3
    }
}

/// A code, and the bits that belong to it.
type Coded = (usize, u32, u32);

/// Base and bits of each code from 16 on (§3.1.1.3.2.1.1).
const LITERALS: [(u32, u32); 20] = [
    (16, 1),
    (18, 1),
    (20, 1),
    (22, 1),
    (24, 2),
    (28, 2),
    (32, 3),
    (40, 3),
    (48, 4),
    (64, 6),
    (128, 7),
    (256, 8),
    (512, 9),
    (1024, 10),
    (2048, 11),
    (4096, 12),
    (8192, 13),
    (16_384, 14),
    (32_768, 15),
    (65_536, 16),
];

/// Base and bits of each code from 32 on.
const LENGTHS: [(u32, u32); 21] = [
    (35, 1),
    (37, 1),
    (39, 1),
    (41, 1),
    (43, 2),
    (47, 2),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 5),
    (131, 7),
    (259, 8),
    (515, 9),
    (1027, 10),
    (2051, 11),
    (4099, 12),
    (8195, 13),
    (16_387, 14),
    (32_771, 15),
    (65_539, 16),
];

fn by_table(table: &[(u32, u32)], begins: usize, value: u32) -> Coded {
    let at = table.partition_point(|(base, _)| *base <= value) - 1;
    let (base, bits) = table[at];
    (begins + at, value - base, bits)
}

pub(super) fn literals_code(literals: u32) -> Coded {
    match literals {
        0..16 => (literals as usize, 0, 0),
        _ => by_table(&LITERALS, 16, literals),
    }
}

pub(super) fn length_code(length: u32) -> Coded {
    match length {
        0..35 => (length as usize - 3, 0, 0),
        _ => by_table(&LENGTHS, 32, length),
    }
}

pub(super) fn offset_code(name: u32) -> Coded {
    let bits = name.ilog2();
    (bits as usize, name - (1 << bits), bits)
}

/// Counts that decoders know (§3.1.1.3.2.2).
mod known {
    pub(super) const LITERALS: (u32, [i16; 36]) = (
        6,
        [
            4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1,
            1, 1, 1, -1, -1, -1, -1,
        ],
    );
    pub(super) const LENGTHS: (u32, [i16; 53]) = (
        6,
        [
            1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
            1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
        ],
    );
    pub(super) const OFFSETS: (u32, [i16; 29]) = (
        5,
        [
            1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1,
            -1,
        ],
    );
}

/// How one of the three codes is written.
enum Mode {
    Known(Table),
    /// One symbol only.
    Same(u8),
    Own(Counts, Table),
}

impl Mode {
    fn of(symbols: impl Iterator<Item = usize>, known: (u32, &[i16]), most: u32) -> Self {
        let mut counted = [0_u32; 53];
        symbols.for_each(|symbol| counted[symbol] += 1);
        let known = Counts {
            log: known.0,
            of: known.1.to_vec(),
        };
        let Some(own) = Counts::scaled(&counted, most) else {
            let only = counted.iter().position(|count| *count > 0).unwrap_or(0);
            return Self::Same(only as u8);
        };
        let mut description = Vec::new();
        own.write(&mut description);
        let price = own.cost(&counted) + 8.0 * description.len() as f64;
        match known.cost(&counted) <= price {
            true => Self::Known(Table::new(&known)),
            false => {
                let table = Table::new(&own);
                Self::Own(own, table)
            }
        }
    }

    fn number(&self) -> u8 {
        match self {
            Self::Known(_) => 0,
            Self::Same(_) => 1,
            Self::Own(..) => 2,
        }
    }

    fn describe(&self, out: &mut Vec<u8>) {
        match self {
            Self::Known(_) => {}
            Self::Same(symbol) => out.push(*symbol),
            Self::Own(counts, _) => counts.write(out),
        }
    }

    fn table(&self) -> Option<&Table> {
        match self {
            Self::Known(table) | Self::Own(_, table) => Some(table),
            Self::Same(_) => None,
        }
    }

    fn code(&self, state: &mut Option<u32>, symbol: usize, bits: &mut Bits<'_>) {
        if let Some(table) = self.table() {
            *state = Some(match *state {
                None => table.begin(symbol),
                Some(state) => table.code(state, symbol, bits),
            });
        }
    }

    fn end(&self, state: Option<u32>, bits: &mut Bits<'_>) {
        if let (Some(table), Some(state)) = (self.table(), state) {
            table.end(state, bits);
        }
    }
}

/// Writes the section. At most 0x7eff of them.
pub(super) fn write(sequences: &[Sequence], repeats: &mut Repeats, out: &mut Vec<u8>) {
    let count = sequences.len();
    match count {
        0..128 => out.push(count as u8),
        _ => out.extend_from_slice(&[(count >> 8) as u8 | 0x80, count as u8]),
    }
    if count == 0 {
        return;
    }
    let coded: Vec<(Coded, Coded, Coded)> = sequences
        .iter()
        .map(|one| {
            let name = repeats.name(one.offset, one.literals);
            (
                literals_code(one.literals),
                offset_code(name),
                length_code(one.length),
            )
        })
        .collect();
    let (log, known) = known::LITERALS;
    let literals = Mode::of(coded.iter().map(|one| one.0.0), (log, &known), 9);
    let (log, known) = known::OFFSETS;
    let offsets = Mode::of(coded.iter().map(|one| one.1.0), (log, &known), 8);
    let (log, known) = known::LENGTHS;
    let lengths = Mode::of(coded.iter().map(|one| one.2.0), (log, &known), 9);
    out.push(literals.number() << 6 | offsets.number() << 4 | lengths.number() << 2);
    literals.describe(out);
    offsets.describe(out);
    lengths.describe(out);
    let mut bits = Bits::new(out);
    let mut states = (None, None, None);
    for (literal, offset, length) in coded.iter().rev() {
        offsets.code(&mut states.1, offset.0, &mut bits);
        lengths.code(&mut states.2, length.0, &mut bits);
        literals.code(&mut states.0, literal.0, &mut bits);
        for (_, value, width) in [literal, length, offset] {
            bits.add(*value, *width);
        }
    }
    lengths.end(states.2, &mut bits);
    offsets.end(states.1, &mut bits);
    literals.end(states.0, &mut bits);
    bits.close();
}
