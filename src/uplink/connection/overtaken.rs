//! A publish that the broker does not acknowledge, while it acknowledges what was sent after it.
//!
//! Acknowledgements come in the order of the publishes (MQTT 5 §4.6, 3.1.1 §4.6), so that one will never
//! come, and the window, which is counted from the oldest, closes for everybody. No proof by hang-ups is
//! needed: the broker itself has said which it is. The second time it counts as refused, which gives
//! nothing up: it waits on the disk and is tried again with growing pauses. The connection is made anew
//! each time, because the packet id stays in use on this one.

use tokio::time::Instant;

use super::{Connection, Phase, Record};
use crate::uplink::Cause;
use crate::uplink::failure::Failure;
use crate::uplink::transport::Wire;

/// In `ack_timeout`s: a broker that spreads its work may be out of order, and late as well.
const PATIENCE: u32 = 2;

/// The oldest publish, since it was overtaken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Overtaken {
    /// In the ledger.
    place: u64,
    since: Instant,
}

impl<W: Wire> Connection<'_, W> {
    pub(super) fn watch_overtaken(&mut self) {
        let place = self.ledger.overtaken();
        let place = place.filter(|_| self.phase == Phase::Serving);
        self.overtaken = match (place, self.overtaken) {
            (None, _) => None,
            (Some(place), Some(known)) if known.place == place => Some(known),
            (Some(place), _) => Some(Overtaken {
                place,
                since: Instant::now(),
            }),
        };
    }

    /// When it has waited long enough.
    pub(super) fn next_overtaken(&self) -> Option<Instant> {
        self.overtaken
            .map(|one| one.since + self.ack_timeout * PATIENCE)
    }

    /// It is refused, and the connection ends.
    pub(super) fn refuse_overtaken(&mut self) -> Failure {
        let why = "the broker acknowledges what was published after it, and not this";
        let mut what = "a publish".to_owned();
        let record = self.ledger.take_oldest();
        let thing = record
            .as_ref()
            .and_then(|one| one.things().into_iter().next());
        let again = thing
            .as_ref()
            .is_some_and(|thing| self.ports.blame.overtaken(thing));
        match record {
            Some(Record::Document(device)) => self.document_refused(&device, why),
            Some(Record::Value(device, id)) => self.value_refused(&device, id, why),
            Some(Record::Pack(pack)) => {
                what = "a pack".to_owned();
                self.pack_overtaken(pack, again, why);
            }
            Some(Record::Data(data)) => {
                self.out_bytes -= data.bytes;
                what = self.place_of(&data);
                if again {
                    let detail = format!(
                        "the broker does not acknowledge what is published to {what}, and acknowledges \
                         what comes after it: check its rules (ACL) for this topic, and its limits"
                    );
                    self.refuse(&data, Cause::HungUp, detail);
                }
            }
            Some(state) => {
                if let Some(thing) = thing {
                    what = thing.to_string();
                }
                if again {
                    self.park(state, why);
                }
            }
            None => {}
        }
        let broker = self.wire.broker();
        Failure::passing(format!(
            "{broker} does not acknowledge {what}, and acknowledges what was published after it; the \
             connection is made anew"
        ))
    }
}
