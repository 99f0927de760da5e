//! The short cut of ordinary batches against the long way of all: whatever it reads, it reads as
//! that does, to the byte.
//!
//! ```text
//! $ cargo test --test protocol_fast
//! $ FRAMES=40000000 cargo test --release --test protocol_fast -- --nocapture   # some minutes
//! $ SEED=17 cargo test --test protocol_fast                                    # other frames
//! ```
#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

#[path = "support/dice.rs"]
mod dice;
#[path = "support/frames.rs"]
mod frames;

use bytes::BytesMut;
use dice::Dice;
use telehub::protocol::fast::{Count, walk};
use telehub::protocol::message::FromDevice;
use telehub::protocol::pack::Summary;
use telehub::protocol::payload::{Format, append_batch, append_decoded, encode_batch};
use telehub::protocol::{decode, out::Out};
use telehub::reading::{Batch, Encoding, Moment};

/// Enough to meet every branch many times, and done within seconds in a debug build.
const FRAMES: u64 = 20_000;

const FORMATS: [Format; 4] = [
    Format::Json,
    Format::Cbor,
    Format::SenmlJson,
    Format::SenmlCbor,
];

/// What is in the buffer before, as the head of a packet is.
const HEAD: &[u8] = b"head";

fn hex(frame: &[u8]) -> String {
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Number and summary by the long way; `None`: it does not take the frame.
fn long_way(frame: &[u8], received: f64) -> Option<(Option<u64>, Summary)> {
    match decode(Encoding::Cbor, frame) {
        Ok(FromDevice::Data(data)) => {
            let checked = data.pack.check(received - data.age).ok()?;
            Some((data.seq, checked))
        }
        _ => None,
    }
}

fn batch(frame: &[u8], seq: Option<u64>, received: Moment) -> Batch {
    Batch {
        device: "barn-1".into(),
        stream: "s\"\u{e4}\n".into(),
        seq,
        received,
        readings: 1,
        encoding: Encoding::Cbor,
        frame: frame.to_vec().into(),
    }
}

/// Holds both ways against each other; says whether the short cut took the frame.
fn compare(frame: &[u8], received: Moment) -> (bool, bool) {
    let long = long_way(frame, received.wall);
    let short = walk(frame, received.wall, &mut Count);
    if let Some(short) = short {
        assert_eq!(Some((short.seq, short.pack)), long, "{}", hex(frame));
    }
    let batch = batch(frame, long.and_then(|(seq, _)| seq), received);
    for format in FORMATS {
        let (mut way, mut reference) = (HEAD.to_vec(), HEAD.to_vec());
        let verdict = append_batch(&mut way, &batch, format);
        assert_eq!(
            verdict,
            append_decoded(&mut reference, &batch, format),
            "{}",
            hex(frame)
        );
        assert_eq!(verdict.is_ok(), long.is_some(), "{}", hex(frame));
        assert_eq!(
            way,
            reference,
            "{} {}",
            hex(frame),
            String::from_utf8_lossy(&way)
        );
        assert_eq!(way == HEAD, verdict.is_err());
    }
    (short.is_some(), long.is_some())
}

#[test]
fn what_the_short_cut_reads_the_long_way_reads_the_same() {
    let frames = std::env::var("FRAMES").map_or(FRAMES, |frames| frames.parse().unwrap());
    let mut dice = Dice::new();
    let (mut taken_short, mut taken) = (0_u64, 0_u64);
    for _ in 0..frames {
        let frame = frames::frame(&mut dice);
        let received = Moment {
            synced: !dice.one_in(16),
            ..Moment::at(if dice.one_in(16) {
                12.5
            } else {
                1_795_797_880.345_678
            })
        };
        let (short, long) = compare(&frame, received);
        taken_short += u64::from(short);
        taken += u64::from(long);
    }
    println!("{frames} frames: {taken} good, {taken_short} of them by the short cut");
    // Else the frames would not be worth the comparison.
    assert!(taken_short * 4 > frames, "{taken_short} of {frames}");
    assert!(
        (taken - taken_short) * 100 > frames,
        "{taken} and {taken_short} of {frames}"
    );
    assert!((frames - taken) * 10 > frames, "{taken} of {frames}");
}

#[test]
fn every_single_damaged_byte_and_every_length_is_read_the_same() {
    let frame = b"\xa1\x64data\xa2\x63seq\x07\x64pack\x82\
        \xa6\x21\x62a:\x22\xfb\x41\xd9\x55\x0c\x40\x10\x00\x00\x23\x63Cel\x00\x61t\x02\xf9\x4d\x60\x06\x20\
        \xa2\x61n\x61h\x61v\x18\x37";
    assert!(walk(frame, 1.7e9, &mut Count).is_some());
    for at in 0..frame.len() {
        compare(&frame[..at], Moment::at(1.7e9));
        for byte in 0..=255 {
            let mut frame = frame.to_vec();
            frame[at] = byte;
            compare(&frame, Moment::at(1.7e9));
        }
    }
}

#[test]
fn both_buffers_get_the_same_and_keep_what_they_hold() {
    let good = b"\x82\xa4\x21\x61a\x22\x1a\x65\x53\xf1\x00\x02\x01\x00\x61b\xa2\x00\x61c\x02\xfb\x3f\xb9\x99\x99\x99\x99\x99\x9a";
    let batch_of = |frame: &[u8]| batch(frame, None, Moment::at(1.7e9));
    for format in FORMATS {
        let mut packet = BytesMut::from(HEAD);
        append_batch(&mut packet, &batch_of(good), format).unwrap();
        assert_eq!(
            &packet[HEAD.len()..],
            encode_batch(&batch_of(good), format).unwrap()
        );
        // The last record is wrong: the short cut has written the first ones by then.
        let bad = [&good[..good.len() - 10], b"\x04\x01"].concat();
        let length = Out::len(&packet);
        assert!(append_batch(&mut packet, &batch_of(&bad), format).is_err());
        assert_eq!(Out::len(&packet), length);
    }
}
