//! A batch without some of its records: the message that the device would have sent if it had left
//! them out itself. What stays resolves to the same to the bit, also when the hub's clock is put
//! right later: relative times stay relative.

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::decode::decode;
use super::message::FromDevice;
use super::number::Number;
use super::pack::resolved::Resolved;
use super::pack::times::RELATIVE_BELOW;
use super::payload::{Fields, Labels};
use crate::reading::{Batch, Encoding};

/// When a record was taken, before it is put on the hub's clock.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum When {
    /// By the device's clock: Unix seconds.
    Given(f64),
    /// So many seconds after the batch arrived, as a rule 0 or less.
    Arrival(f64),
}

/// What is left of a batch.
#[derive(Debug, PartialEq)]
pub enum Selected {
    /// All of it: it stays as it is.
    All,
    /// Nothing.
    Nothing,
    /// This one, with fewer readings.
    Some(Batch),
}

/// Asks `keep` of each resolved record in its order, and puts a batch together of those that it
/// wants. A batch with a time that cannot be true is not asked about and stays whole: it is marked as
/// such by its worst record, and the mark must not depend on what is left out. The times of the
/// records that `keep` sees are worth nothing, but for [`When`].
pub fn select(batch: &Batch, mut keep: impl FnMut(&Resolved<'_>, When) -> bool) -> Selected {
    // The frame was checked before it was taken.
    let Ok(FromDevice::Data(data)) = decode(batch.encoding, &batch.frame) else {
        return Selected::All;
    };
    let received = batch.received.wall - data.age;
    if data.pack.times(received).are_implausible(&batch.received) {
        return Selected::All;
    }
    let (mut kept, mut left_out) = (Vec::new(), 0_usize);
    // Relative to nothing, a relative time stays what it is.
    for record in data.pack.resolve(0.0) {
        let Ok(record) = record else {
            return Selected::All;
        };
        let time = record.time.as_f64();
        let when = match time < RELATIVE_BELOW {
            true => When::Arrival(time - data.age),
            false => When::Given(time),
        };
        if keep(&record, when) {
            kept.push(record);
        } else {
            left_out += 1;
        }
    }
    if left_out == 0 {
        return Selected::All;
    }
    let Ok(readings) = u32::try_from(kept.len()) else {
        return Selected::All;
    };
    if readings == 0 {
        return Selected::Nothing;
    }
    let message = Message {
        data: Body {
            seq: batch.seq,
            age: (data.age > 0.0).then_some(data.age),
            pack: pack(&kept),
        },
    };
    match serde_cbor::to_vec(&message) {
        Ok(frame) => Selected::Some(Batch {
            encoding: Encoding::Cbor,
            frame: frame.into(),
            readings,
            ..batch.clone()
        }),
        Err(_) => Selected::All,
    }
}

#[derive(Serialize)]
struct Message<'r> {
    data: Body<'r>,
}

/// `age` before `pack`, or the short way of reading it would not do.
#[derive(Serialize)]
struct Body<'r> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    age: Option<f64>,
    pack: Vec<Record<'r>>,
}

/// A record by the RFC's integer labels. Base names are said once, as the device did.
struct Record<'r> {
    record: &'r Resolved<'r>,
    base_name: Option<&'r str>,
    version: Option<u64>,
}

fn pack<'r>(kept: &'r [Resolved<'r>]) -> Vec<Record<'r>> {
    let mut base = "";
    let records = kept.iter().enumerate().map(|(at, record)| Record {
        record,
        base_name: (std::mem::replace(&mut base, record.base_name) != record.base_name)
            .then_some(record.base_name),
        // The first record says it for all.
        version: record.version.filter(|_| at == 0),
    });
    records.collect()
}

impl Record<'_> {
    /// None is the moment of arrival.
    fn time(&self) -> Option<Number> {
        Some(self.record.time).filter(|time| time.as_f64() != 0.0)
    }
}

impl Serialize for Record<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let record = self.record;
        let (name, time) = (
            Some(record.name).filter(|name| !name.is_empty()),
            self.time(),
        );
        let fields = [
            self.version.is_some(),
            self.base_name.is_some(),
            name.is_some(),
            record.unit.is_some(),
            record.value.is_some(),
            record.sum.is_some(),
            time.is_some(),
            record.update_time.is_some(),
        ];
        let fields = fields.into_iter().filter(|there| *there).count();
        let mut map = Fields {
            map: serializer.serialize_map(Some(fields))?,
            labels: Labels::Integers,
        };
        if let Some(version) = self.version {
            map.put("bver", -1, &version)?;
        }
        if let Some(base_name) = self.base_name {
            map.put("bn", -2, base_name)?;
        }
        if let Some(name) = name {
            map.put("n", 0, name)?;
        }
        map.says(record, true)?;
        if let Some(time) = time {
            map.put("t", 6, &time)?;
        }
        if let Some(update_time) = record.update_time {
            map.put("ut", 7, &update_time)?;
        }
        map.map.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    use super::*;
    use crate::protocol::payload::{Format, encode_batch};
    use crate::reading::Moment;

    fn batch(frame: &Value, received: Moment) -> Batch {
        Batch {
            device: "d".into(),
            stream: "s".into(),
            seq: frame["data"]["seq"].as_u64(),
            received,
            readings: 1,
            encoding: Encoding::Json,
            frame: frame.to_string().into_bytes().into(),
        }
    }

    /// The records of a payload, each as text: JSON has no byte strings.
    fn records(batch: &Batch, format: Format) -> Vec<String> {
        use serde_cbor::Value as Cbor;
        let payload = encode_batch(batch, format).unwrap();
        let whole: Cbor = match format {
            Format::Cbor => serde_cbor::from_slice(&payload).unwrap(),
            _ => serde_json::from_slice(&payload).unwrap(),
        };
        let pack = match whole {
            Cbor::Map(mut map) => map.remove(&Cbor::Text("pack".to_owned())).unwrap(),
            pack => pack,
        };
        let Cbor::Array(records) = pack else {
            panic!("{pack:?}");
        };
        records.iter().map(|record| format!("{record:?}")).collect()
    }

    fn number() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-1_000_i64..1_000).prop_map(|n| json!(n)),
            any::<i64>().prop_map(|n| json!(n)),
            (-1e6_f64..1e6).prop_map(|n| json!(n)),
        ]
    }

    fn time() -> impl Strategy<Value = Value> {
        prop_oneof![
            (-5_000_i64..=0).prop_map(|n| json!(n)),
            (-5_000_f64..=0.0).prop_map(|n| json!(n)),
            (1_690_000_000_i64..1_700_000_000).prop_map(|n| json!(n)),
        ]
    }

    fn value() -> impl Strategy<Value = (&'static str, Value)> {
        prop_oneof![
            number().prop_map(|n| ("v", n)),
            "[a-zé\"]{0,9}".prop_map(|text| ("vs", json!(text))),
            any::<bool>().prop_map(|value| ("vb", json!(value))),
            Just(("vd", json!("AQID"))),
            (-1e3_f64..1e3).prop_map(|n| ("s", json!(n))),
        ]
    }

    prop_compose! {
        fn record()(
            base in option::weighted(0.3, "[a-z]{0,4}[:/]?"),
            name in "[a-z][a-z0-9]{0,5}",
            value in value(),
            time in option::of(time()),
            base_time in option::weighted(0.2, -100_i64..=0),
            base_value in option::weighted(0.2, -1e3_f64..1e3),
            units in (option::weighted(0.3, "[A-Z]{1,3}"), option::weighted(0.3, "[A-Z]{1,3}")),
            update_time in option::weighted(0.2, 0_u32..99),
        ) -> Value {
            let mut map = Map::new();
            map.insert("n".into(), json!(name));
            map.insert(value.0.into(), value.1);
            for (label, field) in [
                ("bn", base.filter(|base| !base.starts_with([':', '/'])).map(Value::from)),
                ("t", time),
                ("bt", base_time.map(Value::from)),
                ("bv", base_value.map(Value::from)),
                ("u", units.0.map(Value::from)),
                ("bu", units.1.map(Value::from)),
                ("ut", update_time.map(Value::from)),
            ] {
                if let Some(field) = field {
                    map.insert(label.into(), field);
                }
            }
            Value::Object(map)
        }
    }

    proptest! {
        #[test]
        fn what_is_kept_is_published_as_if_nothing_had_been_left_out(
            pack in vec(record(), 1..12),
            wanted in vec(any::<bool>(), 12),
            seq in option::of(1_u64..1_000_000),
            age in option::of(0_f64..1e5),
            synced: bool,
        ) {
            let mut data = json!({ "pack": pack });
            if let Some(seq) = seq {
                data["seq"] = json!(seq);
            }
            if let Some(age) = age {
                data["age"] = json!(age);
            }
            let received = Moment { synced, ..Moment::at(1_700_000_000.123_456) };
            let whole = batch(&json!({ "data": data }), received);
            let Ok(_) = encode_batch(&whole, Format::Json) else {
                return Err(TestCaseError::reject("no pack"));
            };
            let mut asked = 0;
            let selected = select(&whole, |_, _| {
                asked += 1;
                wanted[asked - 1]
            });
            let kept = wanted[..asked].iter().filter(|wanted| **wanted).count();
            match selected {
                Selected::All => prop_assert_eq!(kept, asked),
                Selected::Nothing => prop_assert!(kept == 0 && asked > 0),
                Selected::Some(less) => {
                    prop_assert_eq!(less.readings as usize, kept);
                    // Put right later, as after a start without a clock.
                    for wall in [received.wall, received.wall + 12_345.678] {
                        let at = |batch: &Batch| Batch {
                            received: Moment { wall, ..batch.received },
                            ..batch.clone()
                        };
                        for format in [Format::Json, Format::Cbor, Format::SenmlJson] {
                            let mut expected = records(&at(&whole), format);
                            let mut wanted = wanted.iter();
                            expected.retain(|_| *wanted.next().unwrap());
                            prop_assert_eq!(records(&at(&less), format), expected);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_batch_with_a_time_that_cannot_be_true_stays_whole() {
        let pack = json!([{"n": "a", "v": 1, "t": 946_684_800}, {"n": "b", "v": 2}]);
        let whole = batch(
            &json!({"data": {"pack": pack}}),
            Moment::at(1_700_000_000.0),
        );
        assert_eq!(select(&whole, |_, _| false), Selected::All);
    }

    #[test]
    fn the_time_of_a_record_is_told_by_the_clock_that_it_was_given_by() {
        let pack = json!([{"n": "a", "v": 1, "t": -3}, {"n": "a", "v": 1, "t": 1_699_999_999}]);
        let frame = json!({"data": {"age": 7, "pack": pack}});
        let mut seen = Vec::new();
        select(
            &batch(&frame, Moment::at(1_700_000_000.0)),
            |record, when| {
                seen.push((record.name.to_owned(), when));
                true
            },
        );
        let expected = [When::Arrival(-10.0), When::Given(1_699_999_999.0)];
        assert_eq!(seen, expected.map(|when| ("a".to_owned(), when)));
    }
}
