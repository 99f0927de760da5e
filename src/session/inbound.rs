//! From a frame to something that outlives it. Pure.

use bytes::Bytes;

use crate::protocol;
use crate::protocol::message::{CommandResult, FromDevice, Hello, Reject};
use crate::reading::{Encoding, Moment};

/// A batch that decodes and resolves, and has not been handed over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) seq: Option<u64>,
    pub(super) received: Moment,
    pub(super) readings: u32,
    /// Bytes of these in the payload.
    pub(super) resolved: usize,
    pub(super) encoding: Encoding,
    pub(super) frame: Bytes,
}

/// A good message.
#[derive(Debug)]
pub(super) enum Inbound {
    Hello(Hello),
    Data(Candidate),
    Result(CommandResult),
}

/// Reads a frame. `received`: when it arrived.
pub(super) fn read(encoding: Encoding, frame: &[u8], received: Moment) -> Result<Inbound, Reject> {
    let data = match protocol::decode(encoding, frame)? {
        FromDevice::Hello(hello) => return Ok(Inbound::Hello(hello)),
        FromDevice::Result(result) => return Ok(Inbound::Result(result)),
        FromDevice::Data(data) => data,
    };
    let summary = data
        .pack
        .check(received.wall)
        .map_err(|error| error.into_reject(data.seq))?;
    Ok(Inbound::Data(Candidate {
        seq: data.seq,
        received,
        readings: summary.readings,
        resolved: summary.resolved_bytes,
        encoding,
        // A copy, because the frame is a slice of the connection's read buffer and would pin it.
        frame: Bytes::copy_from_slice(frame),
    }))
}
