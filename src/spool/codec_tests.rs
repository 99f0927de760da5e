#![allow(clippy::unwrap_used)]
use super::super::testing::{any_item, batch};
use super::*;
use proptest::prelude::*;

fn total(items: &[Arc<Item>]) -> (u64, u64) {
    items
        .iter()
        .fold((0, 0), |(batches, readings), item| match &**item {
            Item::Batch(batch) => (batches + 1, readings + u64::from(batch.readings)),
            Item::Gap(gap) => (batches + gap.batches, readings + gap.readings),
            Item::Reply(_) => (batches, readings),
        })
}

proptest! {
    #[test]
    fn a_group_comes_back_as_it_was(
        items in proptest::collection::vec(any_item(), 1..40), id in any::<u64>(),
    ) {
        let encoded = encode(id, &items, &[]);
        prop_assert_eq!(decode(&encoded.bytes, 1.0).unwrap(), items);
        let header = header(&encoded.bytes).unwrap();
        prop_assert_eq!(header.damage(), None);
        prop_assert_eq!(header.tally, encoded.tally);
    }

    #[test]
    fn a_damaged_body_leaves_the_exact_account_of_what_was_in_it(
        items in proptest::collection::vec(any_item(), 1..20), at in any::<usize>(), bit in 0..8u8,
    ) {
        let encoded = encode(7, &items, &[]);
        let mut bytes = encoded.bytes;
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let Left { gaps, replies } = decode(&bytes, 5.0).unwrap_err();
        match header(&bytes) {
            Err(_) => prop_assert_eq!(gaps, vec![unknown_gap(5.0)]),
            Ok(_) => {
                let gaps: Vec<_> = gaps.into_iter().map(|gap| Arc::new(Item::Gap(gap))).collect();
                prop_assert_eq!(total(&gaps), total(&items));
                let told = items.iter().filter_map(|item| match &**item {
                    Item::Reply(reply) => Some(reply.clone()),
                    _ => None,
                });
                prop_assert_eq!(replies, told.collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_group_cut_anywhere_is_never_taken_for_whole(
        items in proptest::collection::vec(any_item(), 1..10), at in any::<usize>(),
    ) {
        let encoded = encode(7, &items, &[]);
        let cut = &encoded.bytes[..at % encoded.bytes.len()];
        prop_assert!(decode(cut, 5.0).is_err());
        let torn = match header(cut) {
            Err(damage) => Some(damage),
            Ok(header) => header.damage(),
        };
        prop_assert_eq!(torn, Some(Damage::Short));
    }

    #[test]
    fn arbitrary_bytes_are_gaps_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(decode(&bytes, 5.0).is_err());
    }
}

#[test]
fn a_damaged_body_names_streams_and_ranges() {
    let items: Vec<_> = (3..=9).map(|seq| batch("a", "s", seq, 50)).collect();
    let mut bytes = encode(1, &items, &[]).bytes;
    *bytes.last_mut().unwrap() ^= 1;
    let gaps = decode(&bytes, 5.0).unwrap_err().gaps;
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].from, gaps[0].to), (Some(3), Some(9)));
    assert_eq!((gaps[0].batches, gaps[0].reason), (7, GapReason::Corrupt));
}

#[test]
fn marks_survive_a_damaged_body() {
    let mark = Mark {
        device: "d".into(),
        stream: "s".into(),
        seq: 12,
    };
    let mut bytes = encode(1, &[batch("a", "s", 3, 50)], std::slice::from_ref(&mark)).bytes;
    *bytes.last_mut().unwrap() ^= 1;
    let marks: Vec<_> = header(&bytes).unwrap().tally.implied_marks().collect();
    assert!(marks.contains(&mark));
    assert!(
        marks
            .iter()
            .any(|mark| &*mark.device == "a" && mark.seq == 3)
    );
}

/// Found by fuzzing (`fuzz/targets/spool.rs`): adding them up overflowed.
#[test]
fn counts_that_cannot_be_true_do_not_stop_the_hub() {
    let gap = Gap {
        device: "d".into(),
        stream: "s".into(),
        batches: u64::MAX,
        readings: u64::MAX,
        ..unknown_gap(1.0)
    };
    let items = [Arc::new(Item::Gap(gap)), batch("d", "s", 1, 4)];
    let encoded = encode(1, &items, &[]);
    let mut sum = Tally::default();
    sum.add(&encoded.tally);
    sum.add(&encoded.tally);
    let gaps = sum.as_gaps(GapReason::Corrupt, 1.0);
    assert_eq!((gaps.len(), gaps[0].batches), (2, u64::MAX));

    let mut damaged = encoded.bytes;
    *damaged.last_mut().unwrap() ^= 1;
    assert_eq!(decode(&damaged, 1.0).unwrap_err().gaps[0].batches, u64::MAX);
}

/// Written by another program from the description of version 1.
#[test]
fn a_group_of_the_version_before_is_read_and_its_stamps_are_believed() {
    let hex = include_str!("../../tests/golden/spool/group_1.hex");
    let hex: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    let bytes: Vec<u8> = hex
        .chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect();
    assert!(begins(&bytes));
    assert_eq!(announced_len(&bytes), Some(bytes.len()));
    let items = decode(&bytes, 1.0).unwrap();
    let [first, gap, second] = &items[..] else {
        panic!("{items:?}")
    };
    let Item::Batch(first) = &**first else {
        panic!("{first:?}")
    };
    assert_eq!(
        (&*first.device, &*first.stream, first.seq, first.readings),
        ("cow-7", "boot-1", Some(41), 2)
    );
    assert_eq!(first.received, Moment::at(1_700_000_000.25));
    assert_eq!(first.encoding, Encoding::Json);
    assert_eq!(&first.frame[..], b"[{\"n\":\"t\",\"v\":1}]");
    let Item::Batch(second) = &**second else {
        panic!("{second:?}")
    };
    assert_eq!((second.seq, second.encoding), (None, Encoding::Cbor));
    assert!(matches!(&**gap, Item::Gap(gap) if gap.batches == 3 && gap.to == Some(40)));
    let header = header(&bytes).unwrap();
    assert_eq!(header.tally.oldest, Some(1_700_000_000.25));
    let marks: Vec<_> = header.tally.implied_marks().map(|mark| mark.seq).collect();
    assert!(marks.contains(&41) && marks.contains(&12), "{marks:?}");
}

#[test]
fn a_group_names_its_boot_once() {
    let stamped = |boot: u8, n: u64| {
        let item = batch("a", "s", n, 50);
        let Item::Batch(batch) = &*item else {
            unreachable!()
        };
        Arc::new(Item::Batch(Batch {
            received: Moment {
                boot: Boot::from_bytes([boot; 16]),
                ..batch.received
            },
            ..batch.clone()
        }))
    };
    let len = |boots: &[u8]| {
        let items: Vec<_> = (1..)
            .zip(boots)
            .map(|(n, boot)| stamped(*boot, n))
            .collect();
        let encoded = encode(1, &items, &[]);
        assert_eq!(decode(&encoded.bytes, 1.0).unwrap(), items);
        encoded.bytes.len()
    };
    let unknown = len(&[0, 0, 0]);
    assert_eq!(len(&[7, 7, 7]), unknown + 16);
    assert_eq!(len(&[7, 7, 8]), unknown + 32);
}
