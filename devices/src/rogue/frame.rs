//! WebSocket frames by hand (RFC 6455 §5.2), because no library would write what rogues send.

/// A whole message, or its last fragment.
pub const FIN: u8 = 0x80;
/// Continues a fragmented message.
pub const CONTINUATION: u8 = 0;
/// A message in JSON.
pub const TEXT: u8 = 1;
/// A message in CBOR.
pub const BINARY: u8 = 2;
/// Goodbye.
pub const CLOSE: u8 = 8;
/// Wants a pong.
pub const PING: u8 = 9;

/// The head of a frame: its first byte as given, and a length that need not be true.
#[must_use]
pub fn head(first: u8, len: u64, mask: Option<[u8; 4]>) -> Vec<u8> {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    match len {
        0..=125 => out.push(masked | len as u8),
        126..=0xffff => {
            out.push(masked | 126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(masked | 127);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(&mask.unwrap_or_default()[..if mask.is_some() { 4 } else { 0 }]);
    out
}

/// A frame as a client sends it. The mask protects proxies from chosen bytes, which is of no
/// concern here, so it is always the same.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x5a, 0x13, 0xc7, 0x08];
    let mut out = head(first, payload.len() as u64, Some(MASK));
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(a, b)| a ^ b));
    out
}

/// A frame of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The lower half of its first byte.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Takes the first frame from what was received, if all of it is there.
#[must_use]
pub fn take(received: &mut Vec<u8>) -> Option<Frame> {
    let (first, second) = (*received.first()?, *received.get(1)?);
    let (start, len) = match second & 0x7f {
        126 => (
            4,
            u64::from(u16::from_be_bytes(received.get(2..4)?.try_into().ok()?)),
        ),
        127 => (
            10,
            u64::from_be_bytes(received.get(2..10)?.try_into().ok()?),
        ),
        len => (2, u64::from(len)),
    };
    let end = start + usize::try_from(len).ok()?;
    let payload = received.get(start..end)?.to_vec();
    received.drain(..end);
    Some(Frame {
        opcode: first & 0x0f,
        payload,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_6455_5_7_are_read() {
        let mut received = vec![0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x89];
        let hello = Frame {
            opcode: TEXT,
            payload: b"Hello".to_vec(),
        };
        assert_eq!(take(&mut received), Some(hello));
        assert_eq!(take(&mut received), None);
        assert_eq!(received, [0x89]);
        let mut long = vec![0x82, 0x7e, 0x01, 0x00];
        long.extend([7; 255]);
        assert_eq!(take(&mut long), None);
        long.push(7);
        assert_eq!(take(&mut long).map(|frame| frame.payload.len()), Some(256));
    }

    #[test]
    fn lengths_stand_in_their_shortest_form_and_payloads_are_masked() {
        assert_eq!(head(0x82, 125, None), [0x82, 125]);
        assert_eq!(head(0x82, 126, None), [0x82, 126, 0, 126]);
        assert_eq!(
            head(0x82, 1 << 16, None),
            [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]
        );
        let framed = frame(FIN | TEXT, b"ab");
        assert_eq!(framed[..2], [0x81, 0x82]);
        assert_eq!([framed[6] ^ framed[2], framed[7] ^ framed[3]], *b"ab");
    }
}
