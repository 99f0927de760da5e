//! Hostile frames cost no more memory and time than their size allows. The allocator of this
//! test program counts.
#![allow(clippy::unwrap_used, missing_docs, unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use telehub::protocol::decode;
use telehub::protocol::message::FromDevice;
use telehub::protocol::pack::Summary;
use telehub::protocol::reject::{Reject, RejectCode};
use telehub::reading::Encoding;

/// Counts the bytes that each thread holds, and the most that it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

// SAFETY: passes everything on to the system allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that any frame may cost, whatever its length: error texts and the like.
const FIXED: usize = 4 * 1024;

/// Bytes that each byte of a frame may cost at most while it is looked at: small maps in the
/// value of a result are the worst, with 165; records follow with 85.
const PER_BYTE: usize = 200;

/// Bytes that a frame of any length may cost beside twice its own.
const MOST_OF_ALL: usize = 1024 * 1024;

fn take(encoding: Encoding, frame: &[u8]) -> Result<Option<Summary>, Reject> {
    match decode(encoding, frame)? {
        FromDevice::Data(data) => match data.pack.check(1.7e9) {
            Ok(summary) => Ok(Some(summary)),
            Err(error) => Err(error.into_reject(data.seq)),
        },
        _ => Ok(None),
    }
}

/// Decodes and checks, and holds the cost to its bound.
fn cost(name: &str, encoding: Encoding, frame: &[u8]) -> Result<Option<Summary>, Reject> {
    let before = HELD.get();
    MOST.set(before);
    let result = take(encoding, frame);
    let cost = usize::try_from(MOST.get() - before).unwrap();
    assert!(
        cost <= FIXED + (frame.len() * PER_BYTE).min(frame.len() * 2 + MOST_OF_ALL),
        "{name}: {} bytes of frame cost {cost} bytes of memory",
        frame.len()
    );
    if let Err(reject) = &result {
        assert!(reject.detail.len() <= 200, "{name}: {}", reject.detail);
    }
    result
}

/// The head of a CBOR item of this major type with a length of eight bytes.
fn head(major: u8, length: u64) -> Vec<u8> {
    let mut head = vec![major << 5 | 27];
    head.extend(length.to_be_bytes());
    head
}

fn pack(records: usize, record: &[u8]) -> Vec<u8> {
    let mut frame = head(4, records as u64);
    for _ in 0..records {
        frame.extend_from_slice(record);
    }
    frame
}

const LIMIT: usize = 64 * 1024;

#[test]
fn deep_nesting_ends_early_wherever_it_stands() {
    let deep = |opening: &[u8]| opening.repeat(10_000);
    let after = |start: &[u8], opening: &[u8]| [start, &deep(opening)].concat();
    for (name, frame) in [
        ("arrays", deep(b"\x81")),
        ("endless arrays", deep(b"\x9f")),
        ("maps", deep(b"\xa1\x61a")),
        ("endless maps", deep(b"\xbf\x61a")),
        ("tags", deep(b"\xc6")),
        ("long tags", deep(b"\xdb\0\0\0\0\0\0\0\x04")),
        ("maps as keys", deep(b"\xa1")),
        ("in an unknown label", after(b"\x81\xa1\x61x", b"\x81")),
        ("in a value", after(b"\x81\xa1\x02", b"\x81")),
        ("tags on a value", after(b"\x81\xa1\x02", b"\xc4")),
        ("tags on a name", after(b"\x81\xa1\x00", b"\xc4")),
        ("in an unknown kind", after(b"\xa1\x61x", b"\xa1\x61x")),
        (
            "in the value of a result",
            after(b"\xa1\x66result\xa1\x65value", b"\x81"),
        ),
        (
            "in the value of a result, maps",
            after(b"\xa1\x66result\xa1\x65value", b"\xa1\x61x"),
        ),
    ] {
        let reject = cost(name, Encoding::Cbor, &frame).unwrap_err();
        assert_eq!(
            reject.code,
            RejectCode::Malformed,
            "{name}: {}",
            reject.detail
        );
    }
    for (name, start, opening) in [
        ("arrays", "", "["),
        ("maps", "", "{\"a\":"),
        ("in an unknown label", "[{\"x\":", "["),
        (
            "in the value of a result",
            "{\"result\":{\"value\":",
            "[{\"a\":",
        ),
    ] {
        let frame = format!("{start}{}", opening.repeat(10_000));
        let reject = cost(name, Encoding::Json, frame.as_bytes()).unwrap_err();
        assert_eq!(
            reject.code,
            RejectCode::Malformed,
            "{name}: {}",
            reject.detail
        );
    }
}

#[test]
fn claimed_lengths_reserve_nothing() {
    for length in [
        1 << 20,
        1 << 32,
        i64::MAX.cast_unsigned(),
        1 << 63,
        u64::MAX,
    ] {
        for major in 2..=5 {
            for start in [
                &b""[..],
                b"\x81",
                b"\x81\xa1\x00",
                b"\x81\xa1\x02",
                b"\x81\xa1\x03",
                b"\x81\xa1\x08",
                b"\x81\xa1\x02\xc4",
                b"\x81\xa1\x61x",
                b"\x81\xa1\x7f",
                b"\xa1\x64data\xa1\x64pack",
                b"\xa1\x65hello\xa1\x66stream",
                b"\xa1\x66result\xa1\x65value",
                b"\xa1\x66result\xa1\x65value\x5f",
            ] {
                let frame = [start, &head(major, length)].concat();
                let name = format!("{length} of type {major} after {start:02x?}");
                let reject = cost(&name, Encoding::Cbor, &frame).unwrap_err();
                assert_eq!(
                    reject.code,
                    RejectCode::Malformed,
                    "{name}: {}",
                    reject.detail
                );
            }
        }
    }
}

#[test]
fn a_pack_of_empty_records_is_stopped_at_the_limit() {
    let reject = cost("empty", Encoding::Cbor, &pack(LIMIT, b"\xa0")).unwrap_err();
    assert_eq!(reject.code, RejectCode::TooLarge, "{}", reject.detail);
    let json = format!("[{}{{}}]", "{},".repeat(20_000));
    let reject = cost("empty, JSON", Encoding::Json, json.as_bytes()).unwrap_err();
    assert_eq!(reject.code, RejectCode::TooLarge, "{}", reject.detail);
}

#[test]
fn a_pack_of_4096_records_is_taken_and_one_more_is_not() {
    let record = b"\xa2\x00\x61a\x02\x01";
    let summary = cost("4,096", Encoding::Cbor, &pack(4_096, record))
        .unwrap()
        .unwrap();
    assert_eq!(summary.readings, 4_096);
    let reject = cost("4,097", Encoding::Cbor, &pack(4_097, record)).unwrap_err();
    assert_eq!(reject.code, RejectCode::TooLarge, "{}", reject.detail);
}

#[test]
fn base_fields_in_every_record_keep_to_the_bound() {
    for record in [
        &b"\xa1\x21\x60"[..],
        b"\xa1\x25\x00",
        b"\xa2\x21\x61a\x02\x01",
    ] {
        let _ = cost("base fields", Encoding::Cbor, &pack(4_096, record));
    }
}

#[test]
fn a_long_base_name_over_many_records_is_too_large_before_it_is_built() {
    let mut frame = head(4, 4_096);
    frame.extend_from_slice(b"\xa2\x21\x78\xfaa");
    frame.extend_from_slice("/".repeat(249).as_bytes());
    frame.extend_from_slice(b"\x02\x01");
    for _ in 1..4_096 {
        frame.extend_from_slice(b"\xa1\x02\x01");
    }
    let reject = cost("base name", Encoding::Cbor, &frame).unwrap_err();
    assert_eq!(reject.code, RejectCode::TooLarge, "{}", reject.detail);
}

#[test]
fn the_value_of_a_result_is_bounded_in_parts() {
    let start = b"\xa1\x66result\xa3\x62id\x61a\x62ok\xf5\x65value";
    for (name, item) in [
        ("numbers", &b"\x00"[..]),
        ("empty texts", b"\x60"),
        ("empty arrays", b"\x80"),
        ("empty maps", b"\xa0"),
        ("small maps", b"\xa1\x61a\x00"),
    ] {
        let frame = [&start[..], &pack(LIMIT / item.len(), item)].concat();
        let reject = cost(name, Encoding::Cbor, &frame).unwrap_err();
        assert_eq!(
            reject.code,
            RejectCode::TooLarge,
            "{name}: {}",
            reject.detail
        );
        let fits = [&start[..], &pack(400, item)].concat();
        assert_eq!(cost(name, Encoding::Cbor, &fits), Ok(None), "{name}");
    }
}

#[test]
fn error_texts_of_long_wrong_values_stay_short() {
    let long = [&b"\x81\xa1\x02"[..], &head(3, 60_000), &vec![b'x'; 60_000]].concat();
    let reject = cost("long text as a number", Encoding::Cbor, &long).unwrap_err();
    assert_eq!(reject.detail, "record 1: \"v\" must be a number");
    let key = [&b"\xa1"[..], &head(3, 60_000), &vec![b'x'; 60_000], b"\x00"].concat();
    let reject = cost("long kind", Encoding::Cbor, &key).unwrap_err();
    assert_eq!(reject.code, RejectCode::UnknownKind);
}

#[test]
fn texts_in_a_thousand_chunks_cost_what_they_hold() {
    let mut frame = b"\x81\xa2\x00\x61a\x03\x7f".to_vec();
    frame.extend_from_slice(&b"\x61x".repeat(20_000));
    frame.push(0xff);
    let summary = cost("chunks", Encoding::Cbor, &frame).unwrap().unwrap();
    assert_eq!(summary.readings, 1);
    let empty = [
        &b"\x81\xa2\x00\x61a\x03\x7f"[..],
        &b"\x60".repeat(LIMIT),
        b"\xff",
    ]
    .concat();
    assert!(cost("empty chunks", Encoding::Cbor, &empty).is_ok());
}
