//! From a frame to something that outlives it. Pure but for the question whether the hub's clock
//! is right.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::clock::{self, ClockState};
use crate::protocol;
use crate::protocol::fast;
use crate::protocol::message::{Bye, CommandResult, DeviceClock, FromDevice, Hello};
use crate::protocol::pack::Summary;
use crate::protocol::pack::times::PLAUSIBLE_FROM;
use crate::protocol::pack::times::RELATIVE_BELOW;
use crate::protocol::reject::{Reject, RejectCode};
use crate::reading::{Content, Encoding, Moment};

/// A batch that decodes and resolves, and has not been handed over.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) seq: Option<u64>,
    pub(super) received: Moment,
    pub(super) readings: u32,
    /// Bytes of these in the payload.
    pub(super) resolved: usize,
    pub(super) content: Content,
    /// Some time of it cannot be true.
    pub(super) implausible: Option<Implausible>,
    /// Records that were left out, and the number of the first.
    pub(super) dropped: u32,
    pub(super) first_dropped: usize,
    pub(super) encoding: Encoding,
    pub(super) frame: Bytes,
}

/// In which way a time cannot be true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Implausible {
    /// Before there was a telehub.
    Early,
    /// In the future.
    Late,
}

/// A good message.
#[derive(Debug)]
pub(super) enum Inbound {
    Hello(Hello),
    Data(Candidate),
    Result(CommandResult),
    Reported(Map<String, Value>),
    Bye(Bye),
}

/// Reads a frame. `received`: when it arrived; `clock`: what the device said of its own.
pub(super) fn read(
    encoding: Encoding,
    frame: &[u8],
    received: Moment,
    clock: Option<DeviceClock>,
) -> Result<Inbound, Reject> {
    if encoding == Encoding::Cbor
        && let Some(walked) = fast::walk(frame, received.wall, &mut fast::Count)
    {
        judge(walked.seq, &walked.pack, clock)?;
        return Ok(Inbound::Data(taken(
            walked.seq,
            &walked.pack,
            received,
            encoding,
            frame,
        )));
    }
    let data = match protocol::decode(encoding, frame)? {
        FromDevice::Hello(hello) => return Ok(Inbound::Hello(hello)),
        FromDevice::Result(result) => return Ok(Inbound::Result(result)),
        FromDevice::Reported(map) => return Ok(Inbound::Reported(map)),
        FromDevice::Bye(bye) => return Ok(Inbound::Bye(bye)),
        FromDevice::Data(data) => data,
    };
    let summary = data
        .pack
        .check(received.wall - data.age)
        .map_err(|error| error.into_reject(data.seq))?;
    judge(data.seq, &summary, clock)?;
    Ok(Inbound::Data(taken(
        data.seq, &summary, received, encoding, frame,
    )))
}

fn taken(
    seq: Option<u64>,
    pack: &Summary,
    received: Moment,
    encoding: Encoding,
    frame: &[u8],
) -> Candidate {
    let times = pack.times;
    let implausible = times.are_implausible(&received).then(|| {
        if times.absolute.first.min(times.relative.first) < PLAUSIBLE_FROM {
            Implausible::Early
        } else {
            Implausible::Late
        }
    });
    Candidate {
        seq,
        received,
        readings: pack.readings,
        resolved: pack.resolved_bytes,
        content: pack.content,
        implausible,
        dropped: pack.dropped,
        first_dropped: pack.first_dropped,
        encoding,
        // A copy, because the frame is a slice of the connection's read buffer and would pin it.
        frame: Bytes::copy_from_slice(frame),
    }
}

/// Whether the times are such as the device may send.
fn judge(seq: Option<u64>, pack: &Summary, theirs: Option<DeviceClock>) -> Result<(), Reject> {
    let refuse = |detail: &str| {
        Err(Reject {
            seq,
            code: RejectCode::BadPack,
            detail: detail.to_owned(),
        })
    };
    if theirs == Some(DeviceClock::None) && pack.times.is_given {
        return refuse(
            "a record has a time, but hello said that there is no clock: send ages (t of 0 or less) or no time",
        );
    }
    // A reader would take the absolute time for a relative one. While the hub's own clock is
    // wrong it is the hub that makes it so, and puts it right or marks it later.
    if pack.times.relative.first < RELATIVE_BELOW && clock::state() == ClockState::Synced {
        return refuse("a relative time lies before 1978: an age is at most some years of seconds");
    }
    Ok(())
}
