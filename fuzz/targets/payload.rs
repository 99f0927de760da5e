//! What the check of a pack lets through is published in every format, and each format can be
//! read by whoever gets it.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use telehub::protocol::decode;
use telehub::protocol::message::FromDevice;
use telehub::protocol::payload::{Format, MAX_PAYLOAD, encode_batch};
use telehub::reading::{Batch, Encoding};

const RECEIVED: f64 = 1_700_000_000.25;

fn readings(encoding: Encoding, pack: &[u8]) -> u32 {
    match decode(encoding, pack) {
        Ok(FromDevice::Data(data)) => data.pack.readings() as u32,
        other => panic!("a resolved pack is a pack: {other:?}"),
    }
}

fuzz_target!(|frame: &[u8]| {
    let encoding = telehub_fuzz::encoding(frame);
    let taken = match decode(encoding, frame) {
        Ok(FromDevice::Data(data)) => data.pack.check(RECEIVED).ok().map(|pack| (data.seq, pack)),
        _ => None,
    };
    let batch = Batch {
        device: "d".into(),
        stream: "s".into(),
        seq: taken.as_ref().and_then(|(seq, _)| *seq),
        received: telehub::reading::Moment::at(RECEIVED),
        readings: taken.as_ref().map_or(0, |(_, pack)| pack.readings),
        encoding,
        frame: Bytes::copy_from_slice(frame),
    };
    for format in [
        Format::Json,
        Format::Cbor,
        Format::SenmlJson,
        Format::SenmlCbor,
    ] {
        let payload = encode_batch(&batch, format);
        let Some((seq, summary)) = &taken else {
            // Also what was never taken must end as an error, because a disk may have changed it.
            assert!(payload.is_err());
            continue;
        };
        let payload = payload.expect("what was checked can be published");
        assert!(payload.len() <= MAX_PAYLOAD);
        match format {
            Format::Json => {
                let json: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
                assert_eq!(json["seq"].as_u64(), *seq);
                let records = json["pack"].as_array().expect("records");
                assert_eq!(records.len(), summary.readings as usize);
                assert!(records.iter().all(|record| record["n"].is_string()));
                assert!(records.iter().all(|record| record["t"].is_number()));
            }
            Format::Cbor => {
                let _: serde_cbor::Value = serde_cbor::from_slice(&payload).expect("CBOR");
            }
            Format::SenmlJson => assert_eq!(readings(Encoding::Json, &payload), summary.readings),
            Format::SenmlCbor => assert_eq!(readings(Encoding::Cbor, &payload), summary.readings),
            Format::Influx => unreachable!("not in the list"),
        }
    }
});
