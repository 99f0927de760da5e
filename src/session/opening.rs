//! How the message that is being received begins, read beside the WebSocket library: of a message that
//! is too large the library gives up everything, and the device should hear which one it was. Pure.

use crate::protocol;
use crate::reading::Encoding;

/// Bytes of a message's beginning that are kept: enough for `{"data": {"seq": N,` with whatever space
/// an encoder puts between, and next to nothing beside the read buffer.
const KEPT: usize = 64;

/// Bytes of the longest head of a frame (RFC 6455 §5.2).
const LONGEST_HEAD: usize = 14;

/// Opcodes of RFC 6455 §5.2.
const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;

/// Follows the frames of one connection. It judges nothing: that is the library's.
#[derive(Debug)]
pub(super) struct Opening {
    head: [u8; LONGEST_HEAD],
    head_len: u8,
    /// Bytes of the frame's content that are still to come.
    left: u64,
    mask: [u8; 4],
    /// Where in the mask the next byte of the content stands.
    phase: u8,
    /// The frame's content belongs to a message: it is no ping, pong or close.
    is_content: bool,
    kept: [u8; KEPT],
    kept_len: u8,
    encoding: Encoding,
    max_message: u64,
    /// Bytes of the message by the heads of its frames so far. Once they are too many nothing is followed
    /// any more: what comes behind it was read with it and means nothing.
    message: u64,
}

impl Opening {
    /// `max_message`: bytes above which a message is too large.
    pub(super) fn new(max_message: usize) -> Self {
        Self {
            max_message: max_message as u64,
            message: 0,
            head: [0; LONGEST_HEAD],
            head_len: 0,
            left: 0,
            mask: [0; 4],
            phase: 0,
            is_content: false,
            kept: [0; KEPT],
            kept_len: 0,
            encoding: Encoding::Cbor,
        }
    }

    /// More bytes of the connection.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.left {
                0 if self.message > self.max_message => return,
                0 => self.head(bytes),
                _ => self.content(bytes),
            };
        }
    }

    /// Takes bytes of the frame's content; returns what comes after it.
    fn content<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let here = usize::try_from(self.left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let (content, rest) = bytes.split_at(here);
        if self.is_content {
            let free = KEPT - usize::from(self.kept_len);
            for byte in content.iter().take(free) {
                self.kept[usize::from(self.kept_len)] = byte ^ self.mask[usize::from(self.phase)];
                self.kept_len += 1;
                self.phase = (self.phase + 1) % 4;
            }
        }
        self.left -= here as u64;
        rest
    }

    /// Takes bytes of a frame's head; returns what comes after it.
    fn head<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut bytes = bytes.iter();
        for byte in bytes.by_ref() {
            self.head[usize::from(self.head_len)] = *byte;
            self.head_len += 1;
            if self.take_head() {
                break;
            }
        }
        bytes.as_slice()
    }

    /// Whether the head is complete; then the frame's content begins.
    fn take_head(&mut self) -> bool {
        let head = &self.head[..usize::from(self.head_len)];
        let [first, second, rest @ ..] = head else {
            return false;
        };
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let masked = second & 0x80 != 0;
        if rest.len() < extended + 4 * usize::from(masked) {
            return false;
        }
        let (length, mask) = rest.split_at(extended);
        self.left = match extended {
            0 => u64::from(second & 0x7f),
            _ => length
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte)),
        };
        self.mask = mask.try_into().unwrap_or_default();
        self.phase = 0;
        self.head_len = 0;
        let opcode = first & 0x0f;
        self.is_content = matches!(opcode, CONTINUATION | TEXT | BINARY);
        let content = self.left;
        if matches!(opcode, TEXT | BINARY) {
            self.kept_len = 0;
            self.message = 0;
            self.encoding = match opcode {
                TEXT => Encoding::Json,
                _ => Encoding::Cbor,
            };
        }
        if self.is_content {
            self.message = self.message.saturating_add(content);
        }
        true
    }

    /// How the message that began last is encoded.
    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Its sequence number, if it stands at its beginning.
    pub(super) fn seq(&self) -> Option<u64> {
        let kept = &self.kept[..usize::from(self.kept_len)];
        protocol::seq_of_beginning(self.encoding, kept)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn frame(first: u8, mask: [u8; 4], content: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match content.len() {
            short @ ..=125 => frame.push(0x80 | short as u8),
            long @ 126..=0xffff => {
                frame.push(0x80 | 126);
                frame.extend((long as u16).to_be_bytes());
            }
            longer => {
                frame.push(0x80 | 127);
                frame.extend((longer as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        let masked = content.iter().zip(mask.iter().cycle());
        frame.extend(masked.map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn cbor(seq: u64) -> Vec<u8> {
        // {"data": {"seq": N, "pack": [...
        let mut bytes = b"\xa1\x64data\xa2\x63seq\x1b".to_vec();
        bytes.extend(seq.to_be_bytes());
        bytes.extend(b"\x64pack\x99\xff\xff");
        bytes
    }

    #[test]
    fn a_number_is_read_only_where_all_of_it_is_there() {
        for (text, seq) in [
            (r#"{"data":{"seq":17,"pack":[{"n""#, Some(17)),
            ("{ \"data\" : {\n \"seq\" : 4.0e1 , ", Some(40)),
            (r#"{"data":{"seq":17"#, None),
            (r#"{"data":{"seq":1."#, None),
            (r#"{"data":{"pack":["#, None),
            (r#"{"hello":{"stream":"#, None),
            (r#"[{"n":"seq"#, None),
            ("", None),
        ] {
            let mut opening = Opening::new(100_000);
            opening.feed(&frame(0x81, [1, 2, 3, 4], text.as_bytes()));
            assert_eq!(opening.seq(), seq, "{text}");
            assert_eq!(opening.encoding(), Encoding::Json);
        }
    }

    #[test]
    fn what_comes_behind_a_message_that_is_too_large_does_not_take_its_place() {
        let mut bytes = frame(0x02, [0; 4], &cbor(7));
        bytes.extend(frame(0x80, [0; 4], &[0; 1_000]));
        bytes.extend(frame(0x82, [0; 4], &cbor(8)));
        for piece in [1, 10_000] {
            let mut opening = Opening::new(1_000);
            for piece in bytes.chunks(piece) {
                opening.feed(piece);
            }
            assert_eq!(opening.seq(), Some(7));
        }
    }

    proptest! {
        /// Whatever came before, however the bytes are cut, and whatever is between the fragments.
        #[test]
        fn the_last_message_is_known_by_its_beginning(
            seq in 1_u64..,
            mask in any::<[u8; 4]>(),
            before in prop::collection::vec((0_usize..70_000, any::<bool>()), 0..4),
            cut in 1_usize..30,
            piece in 1_usize..5_000,
        ) {
            let mut bytes = Vec::new();
            for (length, text) in before {
                let opcode = if text { 0x81 } else { 0x82 };
                bytes.extend(frame(opcode, mask, &vec![b'x'; length]));
            }
            let whole = cbor(seq);
            let (first, rest) = whole.split_at(cut.min(whole.len()));
            bytes.extend(frame(0x02, mask, first));
            bytes.extend(frame(0x89, mask, b"a ping"));
            bytes.extend(frame(0x80, [9, 8, 7, 6], rest));
            let mut opening = Opening::new(100_000);
            for piece in bytes.chunks(piece) {
                opening.feed(piece);
            }
            prop_assert_eq!(opening.seq(), Some(seq));
            prop_assert_eq!(opening.encoding(), Encoding::Cbor);
        }

        #[test]
        fn no_bytes_confuse_it(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..300) {
            let mut opening = Opening::new(100_000);
            for piece in bytes.chunks(piece) {
                opening.feed(piece);
            }
            let _ = opening.seq();
        }
    }
}
