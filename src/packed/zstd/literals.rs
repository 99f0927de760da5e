//! The literals of a block (RFC 8878 §3.1.1.3.1): as they are, one byte over and over, or coded by
//! Huffman.

use super::bits::Bits;
use super::fse::{Counts, Table};

/// Bits of the longest code (§4.2.1).
const LONGEST: u32 = 11;

/// Below this Huffman's table costs more than it saves.
const FEW: usize = 64;

/// From here on four streams (§3.1.1.3.1.1).
const ONE_STREAM: usize = 1 << 10;

/// States of the table for weights (§4.2.1.2).
const WEIGHTS_LOG: u32 = 6;

/// Weights that can be written without a table of their own.
const PLAIN_WEIGHTS: usize = 128;

/// Writes the section.
pub(super) fn write(literals: &[u8], out: &mut Vec<u8>) {
    if let Some(first) = literals.first()
        && literals.len() > 4
        && literals.iter().all(|byte| byte == first)
    {
        header(1, literals.len(), out);
        out.push(*first);
        return;
    }
    let start = out.len();
    let coded = literals.len() >= FEW && huffman(literals, out).is_some();
    if !coded || out.len() - start >= literals.len() + 3 {
        out.truncate(start);
        header(0, literals.len(), out);
        out.extend_from_slice(literals);
    }
}

/// Of literals that are not compressed.
fn header(kind: u32, length: usize, out: &mut Vec<u8>) {
    let length = length as u32;
    match length {
        0..32 => out.push((length << 3 | kind) as u8),
        32..4096 => out.extend_from_slice(&((length << 4 | 1 << 2 | kind) as u16).to_le_bytes()),
        _ => out.extend_from_slice(&(length << 4 | 3 << 2 | kind).to_le_bytes()[..3]),
    }
}

/// `None`: they cannot be coded so.
fn huffman(literals: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut counted = [0_u32; 256];
    literals
        .iter()
        .for_each(|byte| counted[usize::from(*byte)] += 1);
    let lengths = lengths(&counted)?;
    let mut body = Vec::with_capacity(literals.len());
    describe(&lengths, &mut body)?;
    let codes = codes(&lengths);
    let streams = if literals.len() < ONE_STREAM { 1 } else { 4 };
    if streams == 1 {
        stream(literals, &lengths, &codes, &mut body);
    } else {
        let part = literals.len().div_ceil(streams);
        let table = body.len();
        body.extend_from_slice(&[0; 6]);
        for (at, part) in literals.chunks(part).enumerate() {
            let start = body.len();
            stream(part, &lengths, &codes, &mut body);
            let length = u16::try_from(body.len() - start).ok()?.to_le_bytes();
            if at < 3 {
                body[table + 2 * at..table + 2 * at + 2].copy_from_slice(&length);
            }
        }
    }
    let (length, size) = (literals.len() as u64, body.len() as u64);
    let (format, width, bytes) = match literals.len().max(body.len()) {
        0..1024 => (u64::from(streams > 1), 10, 3),
        1024..16_384 => (2, 14, 4),
        _ => (3, 18, 5),
    };
    let header = 2 | format << 2 | length << 4 | size << (4 + width);
    out.extend_from_slice(&header.to_le_bytes()[..bytes]);
    out.extend_from_slice(&body);
    Some(())
}

/// The length of each symbol's code, 0 for one that does not occur. `None`: less than two occur.
fn lengths(counted: &[u32; 256]) -> Option<[u32; 256]> {
    let mut counted = *counted;
    loop {
        let lengths = unbounded(&counted)?;
        if lengths.iter().all(|length| *length <= LONGEST) {
            return Some(lengths);
        }
        // Flattened until it fits, which takes a few rounds at most.
        for count in counted.iter_mut().filter(|count| **count > 0) {
            *count = count.div_ceil(2) + 1;
        }
    }
}

/// The same without a bound, by merging the two rarest again and again.
fn unbounded(counted: &[u32; 256]) -> Option<[u32; 256]> {
    let mut leaves: Vec<(u32, usize)> = counted
        .iter()
        .enumerate()
        .filter(|(_, count)| **count > 0)
        .map(|(symbol, count)| (*count, symbol))
        .collect();
    if leaves.len() < 2 {
        return None;
    }
    leaves.sort_unstable();
    // Leaves first, then the merged ones, which come in order as well.
    let mut weights: Vec<u32> = leaves.iter().map(|(count, _)| *count).collect();
    let mut parents = vec![0_usize; 2 * leaves.len() - 1];
    let (mut leaf, mut merged) = (0, leaves.len());
    while weights.len() < parents.len() {
        let mut sum = 0;
        for _ in 0..2 {
            let next_is_leaf = leaf < leaves.len()
                && (merged >= weights.len() || weights[leaf] <= weights[merged]);
            let at = if next_is_leaf { &mut leaf } else { &mut merged };
            sum += weights[*at];
            parents[*at] = weights.len();
            *at += 1;
        }
        weights.push(sum);
    }
    let mut depth = vec![0_u32; parents.len()];
    for at in (0..parents.len() - 1).rev() {
        depth[at] = depth[parents[at]] + 1;
    }
    let mut lengths = [0; 256];
    for (at, (_, symbol)) in leaves.iter().enumerate() {
        lengths[*symbol] = depth[at];
    }
    Some(lengths)
}

fn longest(lengths: &[u32; 256]) -> u32 {
    lengths.iter().copied().max().unwrap_or(0)
}

/// The codes that a decoder makes of these lengths (§4.2.1.3): the longest begin with zeros.
fn codes(lengths: &[u32; 256]) -> [u32; 256] {
    let mut per_length = [0_u32; LONGEST as usize + 2];
    lengths
        .iter()
        .for_each(|length| per_length[*length as usize] += 1);
    let mut next = [0_u32; LONGEST as usize + 2];
    let mut first = 0;
    for length in (1..=longest(lengths) as usize).rev() {
        next[length] = first;
        first = (first + per_length[length]) >> 1;
    }
    let mut codes = [0; 256];
    for (symbol, length) in lengths
        .iter()
        .enumerate()
        .filter(|(_, length)| **length > 0)
    {
        codes[symbol] = next[*length as usize];
        next[*length as usize] += 1;
    }
    codes
}

/// Writes the lengths as weights (§4.2.1); the last symbol's follows from the others.
fn describe(lengths: &[u32; 256], out: &mut Vec<u8>) -> Option<()> {
    let longest = longest(lengths);
    let last = lengths.iter().rposition(|length| *length > 0)?;
    let weight = |length: &u32| match *length {
        0 => 0_u8,
        length => (longest + 1 - length) as u8,
    };
    let weights: Vec<u8> = lengths[..last].iter().map(weight).collect();
    let start = out.len();
    if coded_weights(&weights, out).is_some() {
        let size = out.len() - start - 1;
        if size < PLAIN_WEIGHTS
            && (size < weights.len().div_ceil(2) || weights.len() > PLAIN_WEIGHTS)
        {
            out[start] = size as u8;
            return Some(());
        }
    }
    out.truncate(start);
    if weights.is_empty() || weights.len() > PLAIN_WEIGHTS {
        return None;
    }
    out.push((127 + weights.len()) as u8);
    for pair in weights.chunks(2) {
        out.push(pair[0] << 4 | pair.get(1).copied().unwrap_or(0));
    }
    Some(())
}

/// Weights by a table of their own, two states by turns (§4.2.1.2), behind a byte for the size.
fn coded_weights(weights: &[u8], out: &mut Vec<u8>) -> Option<()> {
    if weights.len() < 2 {
        return None;
    }
    let mut counted = [0_u32; LONGEST as usize + 2];
    weights
        .iter()
        .for_each(|weight| counted[usize::from(*weight)] += 1);
    let counts = Counts::scaled(&counted, WEIGHTS_LOG)?;
    out.push(0);
    counts.write(out);
    let table = Table::new(&counts);
    let mut bits = Bits::new(out);
    let mut states = [None, None];
    for (at, weight) in weights.iter().enumerate().rev() {
        let state = &mut states[at % 2];
        *state = Some(match *state {
            None => table.begin(usize::from(*weight)),
            Some(state) => table.code(state, usize::from(*weight), &mut bits),
        });
    }
    table.end(states[1]?, &mut bits);
    table.end(states[0]?, &mut bits);
    bits.close();
    Some(())
}

fn stream(literals: &[u8], lengths: &[u32; 256], codes: &[u32; 256], out: &mut Vec<u8>) {
    let mut bits = Bits::new(out);
    for byte in literals.iter().rev() {
        let symbol = usize::from(*byte);
        bits.add(codes[symbol], lengths[symbol]);
    }
    bits.close();
}
