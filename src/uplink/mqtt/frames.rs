//! Where a packet begins and ends (MQTT 3.1.1 §2.2, MQTT 5 §2.1), and the skipping of messages that
//! are too large. Pure: bytes in, packets out, whatever the pieces in which they came.

use bytes::{Buf, Bytes, BytesMut};

/// Bytes of a packet that is not a message. The longest that the hub asks for is a CONNACK with a
/// reason, a reference to another server and user properties.
pub(super) const MAX_PACKET: usize = 64 << 10;

/// Longest fixed header: a type and four bytes of length.
const MAX_HEAD: usize = 5;

const PUBLISH: u8 = 3;

/// What is no MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Bad {
    #[error("a packet has a length of more than four bytes")]
    Length,
    #[error("a packet of type {0} has {1} bytes, which is more than it can need")]
    TooLarge(u8, usize),
}

/// One step.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// A packet: its first byte, and what follows the fixed header.
    Packet(u8, Bytes),
    /// A message that is too large; its packet id, if it asks for a PUBACK.
    Skipped(Option<u16>),
    /// More bytes are needed.
    More,
}

/// Makes packets of bytes.
#[derive(Debug)]
pub(super) struct Frames {
    /// Bytes of a message that is being skipped that are still to come.
    skipping: usize,
    /// Bytes of a message that is taken, topic and properties included.
    max_message: usize,
}

impl Frames {
    pub(super) fn new(max_message: usize) -> Self {
        Self {
            skipping: 0,
            max_message,
        }
    }

    /// Whether what comes next is the rest of a message that is skipped.
    pub(super) fn is_skipping(&self) -> bool {
        self.skipping > 0
    }

    /// A larger message may be asked for from now on.
    pub(super) fn allow(&mut self, max_message: usize) {
        self.max_message = self.max_message.max(max_message);
    }

    /// Takes the next packet out of what has been read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Next, Bad> {
        let skip = self.skipping.min(input.len());
        input.advance(skip);
        self.skipping -= skip;
        if self.skipping > 0 {
            return Ok(Next::More);
        }
        let Some((head, length)) = fixed_header(input)? else {
            return Ok(Next::More);
        };
        let first = input[0];
        let kind = first >> 4;
        if kind == PUBLISH && length > self.max_message {
            return Ok(self.skip(input, head, length));
        }
        if length > MAX_PACKET.max(self.max_message) {
            return Err(Bad::TooLarge(kind, length));
        }
        if input.len() < head + length {
            return Ok(Next::More);
        }
        let mut packet = input.split_to(head + length).freeze();
        packet.advance(head);
        Ok(Next::Packet(first, packet))
    }

    /// Begins to skip a message, once its packet id has come, which a PUBACK needs. It stands
    /// behind the topic, whose length has two bytes: so at most 64 KiB are kept.
    fn skip(&mut self, input: &mut BytesMut, head: usize, length: usize) -> Next {
        let quality = input[0] >> 1 & 3;
        let mut id = None;
        if quality == 1 {
            let Some([high, low]) = input.get(head..head + 2) else {
                return Next::More;
            };
            let at = head + 2 + usize::from(u16::from_be_bytes([*high, *low]));
            if at + 2 <= head + length {
                let Some([high, low]) = input.get(at..at + 2) else {
                    return Next::More;
                };
                id = Some(u16::from_be_bytes([*high, *low]));
            }
        }
        let whole = head + length;
        let here = whole.min(input.len());
        input.advance(here);
        self.skipping = whole - here;
        Next::Skipped(id.filter(|id| *id != 0))
    }
}

/// Lengths of the fixed header and of what follows it; `None`: it is not all there.
fn fixed_header(input: &[u8]) -> Result<Option<(usize, usize)>, Bad> {
    let mut length = 0;
    for at in 1..MAX_HEAD {
        let Some(byte) = input.get(at) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte & 0x80 == 0 {
            return Ok(Some((at + 1, length)));
        }
    }
    Err(Bad::Length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn packet(first: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![first];
        let mut left = body.len();
        loop {
            let more = if left > 127 { 0x80 } else { 0 };
            bytes.push((left & 0x7f) as u8 | more);
            left >>= 7;
            if left == 0 {
                break;
            }
        }
        bytes.extend_from_slice(body);
        bytes
    }

    /// All that comes of these pieces.
    fn all<'p>(frames: &mut Frames, pieces: impl IntoIterator<Item = &'p [u8]>) -> Vec<Next> {
        let (mut input, mut all) = (BytesMut::new(), Vec::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            loop {
                match frames.next(&mut input).unwrap() {
                    Next::More => break,
                    next => all.push(next),
                }
            }
            assert!(input.len() <= MAX_PACKET + 16, "kept {}", input.len());
        }
        assert!(input.is_empty());
        all
    }

    #[test]
    fn a_length_that_never_ends_is_an_error() {
        let mut input = BytesMut::from(&[0x40, 0xff, 0xff, 0xff, 0xff][..]);
        assert_eq!(Frames::new(100).next(&mut input), Err(Bad::Length));
    }

    #[test]
    fn an_answer_that_is_too_large_is_an_error() {
        let mut input = BytesMut::from(&[0x90, 0xff, 0xff, 0xff, 0x7f][..]);
        let bad = Frames::new(100).next(&mut input);
        assert_eq!(bad, Err(Bad::TooLarge(9, 0x0fff_ffff)));
    }

    #[test]
    fn a_message_that_is_too_large_is_skipped_without_keeping_it() {
        let mut body = vec![0, 3];
        body.extend_from_slice(b"a/b\x00\x07");
        body.resize(1 << 20, b'x');
        let mut bytes = packet(0x32, &body);
        bytes.extend_from_slice(&[0x40, 2, 0, 9]);
        let next = all(&mut Frames::new(4096), bytes.chunks(1000));
        assert_eq!(next[0], Next::Skipped(Some(7)));
        assert_eq!(next[1], Next::Packet(0x40, Bytes::from_static(&[0, 9])));
        // Without QoS there is no id; with a topic that is longer than the packet neither.
        body[..2].copy_from_slice(&[0xff, 0xff]);
        body.truncate(5000);
        for first in [0x30, 0x32] {
            let next = all(&mut Frames::new(4096), [&packet(first, &body)[..]]);
            assert_eq!(next, [Next::Skipped(None)]);
        }
    }

    proptest! {
        #[test]
        fn every_packet_is_understood_however_it_is_cut(
            bodies in prop::collection::vec((1_u8..15, prop::collection::vec(any::<u8>(), 0..400)), 1..20),
            cuts in prop::collection::vec(1_usize..50, 1..20),
        ) {
            let mut bytes = Vec::new();
            for (kind, body) in &bodies {
                bytes.extend(packet(kind << 4, body));
            }
            let (mut pieces, mut rest, mut cut) = (Vec::new(), &bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                pieces.push(piece);
                rest = after;
            }
            let next = all(&mut Frames::new(500), pieces);
            prop_assert_eq!(next.len(), bodies.len());
            for (next, (kind, body)) in next.iter().zip(&bodies) {
                prop_assert_eq!(next, &Next::Packet(kind << 4, Bytes::copy_from_slice(body)));
            }
        }
    }
}
