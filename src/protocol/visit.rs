//! The readings of a batch, for those who do not write them all out.

use super::decode::decode;
use super::fast::{self, Sink};
use super::message::FromDevice;
use super::pack::resolve::Resolved;
use crate::reading::{Batch, Encoding};

struct Each<'f, F>(&'f mut F);

impl<F: FnMut(&Resolved<'_>)> Sink for Each<'_, F> {
    const CONTENT: bool = false;

    fn record(&mut self, record: &Resolved<'_>) {
        (self.0)(record);
    }
}

/// Gives the resolved records of a batch to `take`, in their order. The frame was checked before it
/// was taken; of one that is not what it was, nothing is given, or the records before the damage.
/// Where an uncommon frame has to be read the long way, the records before that place come twice.
pub fn visit(batch: &Batch, take: &mut impl FnMut(&Resolved<'_>)) {
    let received = batch.received.wall;
    if batch.encoding == Encoding::Cbor
        && fast::walk(&batch.frame, received, &mut Each(take)).is_some()
    {
        return;
    }
    let Ok(FromDevice::Data(data)) = decode(batch.encoding, &batch.frame) else {
        return;
    };
    for record in data.pack.resolve(received - data.age) {
        let Ok(record) = record else {
            return;
        };
        take(&record);
    }
}
