//! WebSocket frames of the server's side (RFC 6455 §5.2), by hand, because no library would write
//! what a hostile hub sends.

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
/// Answers a ping.
pub const PONG: u8 = 10;

/// The largest frame that a device may send here: 16 times the default `max_message`.
const MAX_FRAME: u64 = 1 << 20;

/// The head of an unmasked frame, with a length that need not be true.
#[must_use]
pub fn head(first: u8, len: u64) -> Vec<u8> {
    let mut out = vec![first];
    match len {
        0..=125 => out.push(len as u8),
        126..=0xffff => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out
}

/// A frame as a server sends it.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = head(first, payload.len() as u64);
    out.extend_from_slice(payload);
    out
}

/// A close frame.
#[must_use]
pub fn close(code: u16, reason: &str) -> Vec<u8> {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend_from_slice(reason.as_bytes());
    frame(FIN | CLOSE, &payload)
}

/// A frame of the device, unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether it ends its message.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// Takes the first frame from what was received, if all of it is there.
///
/// # Errors
/// What makes it no frame of a client.
pub fn take(received: &mut Vec<u8>) -> Result<Option<Frame>, String> {
    let &[first, second, ..] = &received[..] else {
        return Ok(None);
    };
    if first & 0x70 != 0 {
        return Err("the device set reserved bits of a frame".into());
    }
    if second & 0x80 == 0 {
        return Err("the device sent a frame without a mask (RFC 6455 §5.3)".into());
    }
    let (start, len) = match second & 0x7f {
        126 => match received.get(2..4) {
            Some(bytes) => (4, bytes.iter().fold(0, |len, b| len << 8 | u64::from(*b))),
            None => return Ok(None),
        },
        127 => match received.get(2..10) {
            Some(bytes) => (10, bytes.iter().fold(0, |len, b| len << 8 | u64::from(*b))),
            None => return Ok(None),
        },
        len => (2, u64::from(len)),
    };
    let opcode = first & 0x0f;
    if opcode >= CLOSE && (len > 125 || first & FIN == 0) {
        return Err("the device sent a control frame that is long or fragmented".into());
    }
    if len > MAX_FRAME {
        return Err(format!("the device announced a frame of {len} bytes"));
    }
    let end = start + 4 + len as usize;
    let Some(body) = received.get(start..end) else {
        return Ok(None);
    };
    let (mask, masked) = body.split_at(4);
    let payload = masked.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b);
    let frame = Frame {
        fin: first & FIN != 0,
        opcode,
        payload: payload.collect(),
    };
    received.drain(..end);
    Ok(Some(frame))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_masked_example_of_rfc_6455_5_7_is_read_and_an_unmasked_one_refused() {
        let mut received = vec![
            0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58, 0x89,
        ];
        let hello = take(&mut received).unwrap().unwrap();
        assert_eq!((hello.opcode, &hello.payload[..]), (TEXT, &b"Hello"[..]));
        assert_eq!(take(&mut received).unwrap(), None);
        let mut unmasked = vec![0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
        assert!(take(&mut unmasked).unwrap_err().contains("mask"));
    }

    #[test]
    fn lengths_of_all_three_forms_are_written() {
        assert_eq!(head(0x82, 125), [0x82, 125]);
        assert_eq!(head(0x82, 126), [0x82, 126, 0, 126]);
        assert_eq!(head(0x82, 1 << 16), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
