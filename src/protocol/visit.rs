//! The readings of a batch, for those who do not write them all out.

use super::decode::decode;
use super::fast::{self, Sink};
use super::message::FromDevice;
use super::pack::resolved::Resolved;
use crate::reading::Encoding;

struct Each<'f, F> {
    take: &'f mut F,
    taken: usize,
}

impl<F: FnMut(&Resolved<'_>)> Sink for Each<'_, F> {
    const CONTENT: bool = false;

    fn record(&mut self, record: &Resolved<'_>) {
        self.taken += 1;
        (self.take)(record);
    }
}

/// Gives the resolved records of a batch to `take`, in their order. `received`: the hub's clock when
/// it arrived, Unix seconds. The frame was checked before it was taken; of one that is not what it
/// was, nothing is given, or the records before the damage.
pub fn visit(encoding: Encoding, frame: &[u8], received: f64, mut take: impl FnMut(&Resolved<'_>)) {
    let mut each = Each {
        take: &mut take,
        taken: 0,
    };
    if encoding == Encoding::Cbor && fast::walk(frame, received, &mut each).is_some() {
        return;
    }
    let taken = each.taken;
    let Ok(FromDevice::Data(data)) = decode(encoding, frame) else {
        return;
    };
    // What was given before the short way came to something uncommon is the same on the long one.
    let records = data.pack.resolve(received - data.age);
    for record in records.map_while(Result::ok).skip(taken) {
        take(&record);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_is_given_once_whichever_way_it_is_read() {
        let seen = |frame: &[u8]| {
            let mut seen = Vec::new();
            visit(Encoding::Cbor, frame, 1_700_000_000.0, |record| {
                seen.push((record.name.to_owned(), record.time.as_f64()));
            });
            seen
        };
        let both = |time: f64| vec![("a".to_owned(), time), ("b".to_owned(), time)];
        // {"data": {"age": 60, "pack": [{n: "a", v: 1}, {n: "b", v: 2}]}}
        let ordinary = b"\xa1\x64data\xa2\x63age\x18\x3c\x64pack\x82\xa2\x00\x61a\x02\x01\xa2\x00\x61b\x02\x02";
        assert_eq!(seen(ordinary), both(1_699_999_940.0));
        // The same, its second value tagged; and its second record without a usable one.
        let tagged = b"\xa1\x64data\xa2\x63age\x18\x3c\x64pack\x82\xa2\x00\x61a\x02\x01\xa2\x00\x61b\x02\xd8\x2a\x02";
        let dropped = b"\xa1\x64data\xa2\x63age\x18\x3c\x64pack\x83\xa2\x00\x61a\x02\x01\xa2\x00\x61x\x02\xf6\xa2\x00\x61b\x02\x02";
        assert_eq!(seen(dropped), both(1_699_999_940.0));
        assert!(seen(tagged).len() <= 2, "{:?}", seen(tagged));
        assert_eq!(seen(b"\xff"), []);
    }
}
