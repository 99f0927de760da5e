//! Items for the tests of this room.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use crate::reading::{Batch, Boot, Doubt, Encoding, Gap, GapReason, Item, Moment, Reply};

/// Copies a directory with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the copy can be made");
    for entry in fs::read_dir(from).expect("a directory is copied") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("its type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file is copied");
        }
    }
}

pub(super) fn batch(device: &str, stream: &str, seq: u64, size: usize) -> Arc<Item> {
    let fill = (seq % 251).to_le_bytes()[0];
    Arc::new(Item::Batch(Batch {
        device: device.into(),
        stream: stream.into(),
        seq: Some(seq),
        received: Moment::at(1_000.0),
        readings: 10,
        encoding: Encoding::Cbor,
        frame: Bytes::from(vec![fill; size]),
    }))
}

/// The final answer to a command, told from others by its number.
pub(super) fn reply(number: u64) -> Arc<Item> {
    Arc::new(Item::Reply(Reply {
        device: "d".into(),
        name: "on".into(),
        topic: None,
        correlation: None,
        encoding: Encoding::Json,
        payload: number.to_string().into(),
        made: Moment::at(1_000.0),
    }))
}

fn any_reply() -> impl Strategy<Value = Item> {
    let topic = proptest::option::of(any_name());
    let correlation = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..256));
    let encoding = prop_oneof![Just(Encoding::Cbor), Just(Encoding::Json)];
    let payload = proptest::collection::vec(any::<u8>(), 0..600);
    let whole = (
        any_name(),
        any_name(),
        topic,
        correlation,
        encoding,
        payload,
        any_moment(),
    );
    whole.prop_map(
        |(device, name, topic, correlation, encoding, payload, made)| {
            Item::Reply(Reply {
                device,
                name,
                topic,
                correlation: correlation.map(Into::into),
                encoding,
                payload: payload.into(),
                made,
            })
        },
    )
}

fn any_name() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["a", "b", "\u{e4}\u{1f600}", "[a-z]{1,64}"].prop_map(Into::into)
}

fn any_moment() -> impl Strategy<Value = Moment> {
    let boot = prop_oneof![Just([0; 16]), Just([7; 16]), any::<[u8; 16]>()];
    (0.0..1e10, 0.0..1e9, boot, any::<bool>()).prop_map(|(wall, uptime, boot, synced)| Moment {
        wall,
        uptime,
        boot: Boot::from_bytes(boot),
        synced,
    })
}

pub(super) fn any_item() -> impl Strategy<Value = Arc<Item>> {
    let encoding = prop_oneof![Just(Encoding::Cbor), Just(Encoding::Json)];
    let frame = proptest::collection::vec(any::<u8>(), 1..600);
    let seq = proptest::option::of(1..u64::MAX);
    let batch = (
        any_name(),
        any_name(),
        seq,
        any_moment(),
        1..10_000u32,
        encoding,
        frame,
    )
        .prop_map(
            |(device, stream, seq, received, readings, encoding, frame)| {
                Item::Batch(Batch {
                    device,
                    stream,
                    seq,
                    received,
                    readings,
                    encoding,
                    frame: frame.into(),
                })
            },
        );
    let reason = prop_oneof![
        Just(GapReason::Overflow),
        Just(GapReason::Expired),
        Just(GapReason::Corrupt),
        Just(GapReason::TooLarge),
        Just(GapReason::Refused),
        Just(GapReason::Reduced),
    ];
    let range = proptest::option::of(1..1000u64);
    let gap = (
        any_name(),
        any_name(),
        range,
        0..1000u64,
        0..100_000u64,
        reason,
    )
        .prop_map(|(device, stream, from, batches, readings, reason)| {
            Item::Gap(Gap {
                device,
                stream,
                from,
                to: from.map(|from| from + batches),
                batches,
                readings,
                reason,
                time: 77.5,
                clock: (batches % 2 == 0).then_some(Doubt::Unsynced),
            })
        });
    prop_oneof![4 => batch, 1 => gap, 1 => any_reply()].prop_map(Arc::new)
}
