//! The short cut of ordinary batches in CBOR reads and writes what the long way does, to the byte,
//! or leaves the frame to it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use telehub::protocol::decode;
use telehub::protocol::fast::{Count, walk};
use telehub::protocol::message::FromDevice;
use telehub::protocol::payload::{Format, append_batch, append_decoded};
use telehub::reading::{Batch, Encoding, Moment};

const RECEIVED: f64 = 1_700_000_000.25;

fuzz_target!(|frame: &[u8]| {
    let long = match decode(Encoding::Cbor, frame) {
        Ok(FromDevice::Data(data)) => {
            let checked = data.pack.check(RECEIVED - data.age).ok();
            checked.map(|checked| (data.seq, checked))
        }
        _ => None,
    };
    let Some(short) = walk(frame, RECEIVED, &mut Count) else {
        return;
    };
    assert_eq!(Some((short.seq, short.pack)), long);
    let batch = Batch {
        device: "d".into(),
        stream: "s".into(),
        seq: short.seq,
        received: Moment::at(RECEIVED),
        readings: short.pack.readings,
        encoding: Encoding::Cbor,
        frame: Bytes::copy_from_slice(frame),
    };
    for format in [Format::Json, Format::SenmlJson] {
        let (mut way, mut reference) = (b"head".to_vec(), b"head".to_vec());
        append_batch(&mut way, &batch, format).expect("what was checked can be published");
        append_decoded(&mut reference, &batch, format).expect("what was checked can be published");
        assert_eq!(way, reference);
    }
});
