//! From a frame to something that outlives it. Pure.

use bytes::Bytes;

use crate::protocol;
use crate::protocol::fast;
use crate::protocol::message::{CommandResult, FromDevice, Hello, Reject};
use crate::reading::{Encoding, Moment};

/// A batch that decodes and resolves, and has not been handed over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) seq: Option<u64>,
    pub(super) received: Moment,
    pub(super) readings: u32,
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
    let taken = |seq, readings| {
        Inbound::Data(Candidate {
            seq,
            received,
            readings,
            encoding,
            // A copy, because the frame is a slice of the connection's read buffer and would pin it.
            frame: Bytes::copy_from_slice(frame),
        })
    };
    if encoding == Encoding::Cbor
        && let Some(walked) = fast::walk(frame, received.wall, &mut fast::Count)
    {
        return Ok(taken(walked.seq, walked.pack.readings));
    }
    let data = match protocol::decode(encoding, frame)? {
        FromDevice::Hello(hello) => return Ok(Inbound::Hello(hello)),
        FromDevice::Result(result) => return Ok(Inbound::Result(result)),
        FromDevice::Data(data) => data,
    };
    let summary = data
        .pack
        .check(received.wall)
        .map_err(|error| error.into_reject(data.seq))?;
    Ok(taken(data.seq, summary.readings))
}
