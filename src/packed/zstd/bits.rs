//! Bits in the order in which Zstandard's decoders read them: from the end (RFC 8878 §4.1).

/// Collects bits, the least significant first.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    out: &'a mut Vec<u8>,
    held: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            held: 0,
            count: 0,
        }
    }

    /// Adds the lowest `count` bits of a value, at most 32.
    pub(super) fn add(&mut self, value: u32, count: u32) {
        debug_assert!(count <= 32);
        let mask = (1_u64 << count) - 1;
        self.held |= (u64::from(value) & mask) << self.count;
        self.count += count;
        while self.count >= 8 {
            self.out.push((self.held & 0xff) as u8);
            self.held >>= 8;
            self.count -= 8;
        }
    }

    /// Ends what is read from its end: a 1 marks where it begins.
    pub(super) fn close(mut self) {
        self.add(1, 1);
        self.align();
    }

    /// Ends what is read from its beginning: the last byte is filled with zeros.
    pub(super) fn align(mut self) {
        if self.count > 0 {
            let fill = 8 - self.count;
            self.add(0, fill);
        }
    }
}
