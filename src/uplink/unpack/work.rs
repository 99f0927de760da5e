//! What `telehub unpack` has in hand: messages that hold packs, what of them is published, and which
//! may be acknowledged. Pure: no IO, no clock.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::config::is_id;
use crate::packed::{self, Fault, Items};
use crate::reading::Gap;
use crate::uplink::topic::escape_dots;
use crate::uplink::transport::Message;

/// Items that are ready to be published before another pack is opened: two windows' worth.
const READY: usize = 200;

/// An item on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) topic: String,
    pub(super) payload: Bytes,
    /// The message that it came in.
    of: u64,
}

/// A message that is not acknowledged.
#[derive(Debug)]
struct Open {
    id: Option<u16>,
    /// Its items that the other end has not taken.
    left: usize,
}

/// What is wrong with a message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) topic: String,
    pub(super) why: String,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Work {
    /// Bytes of a sequence at most.
    most: usize,
    dots: bool,
    received: VecDeque<Message>,
    ready: VecDeque<Item>,
    open: VecDeque<Open>,
    /// Number of the first of `open`.
    first: u64,
}

impl Work {
    /// `dots`: those in ids are escaped in topics.
    pub(super) fn new(most: usize, dots: bool) -> Self {
        Self {
            most,
            dots,
            received: VecDeque::new(),
            ready: VecDeque::new(),
            open: VecDeque::new(),
            first: 0,
        }
    }

    /// A message has come.
    pub(super) fn received(&mut self, message: Message) {
        self.received.push_back(message);
    }

    /// The next item to publish, in the order of the messages and of the items in each.
    pub(super) fn next(&mut self, bad: &mut Vec<Bad>) -> Option<Item> {
        while self.ready.len() < READY
            && let Some(message) = self.received.pop_front()
        {
            let before = self.ready.len();
            if let Err(why) = self.unfold(&message) {
                let topic = message.topic;
                bad.push(Bad { topic, why });
            }
            self.open.push_back(Open {
                id: message.id,
                left: self.ready.len() - before,
            });
        }
        self.ready.pop_front()
    }

    /// What stands before a fault is good.
    fn unfold(&mut self, message: &Message) -> Result<(), String> {
        let root = message
            .topic
            .strip_suffix(packed::LEVEL)
            .ok_or("it is not on the topic of packs")?;
        let words = |fault: Fault| fault.to_string();
        let sequence = packed::open(&message.payload, self.most).map_err(words)?;
        let sequence = Bytes::from(sequence);
        let of = self.first + self.open.len() as u64;
        for item in Items::of(&sequence) {
            let (kind, device, payload) = item.map_err(words)?;
            if !is_id(device) && device != Gap::UNKNOWN {
                return Err("an item of it is of no device: its id is not one".to_owned());
            }
            let device = match self.dots {
                true => escape_dots(device),
                false => device.into(),
            };
            self.ready.push_back(Item {
                topic: format!("{root}{device}/{}", kind.as_str()),
                payload: sequence.slice_ref(payload),
                of,
            });
        }
        Ok(())
    }

    /// This item is taken, or given up. Adds the ids of messages that are done to `done`.
    pub(super) fn answered(&mut self, item: &Item, done: &mut Vec<u16>) {
        let place = item.of.checked_sub(self.first);
        let place = place.and_then(|place| usize::try_from(place).ok());
        if let Some(open) = place.and_then(|place| self.open.get_mut(place)) {
            open.left -= 1;
        }
        self.finished(done);
    }

    /// Messages that are done, the oldest first: MQTT wants the PUBACKs in the order in which the
    /// messages came (MQTT 5 §4.6).
    pub(super) fn finished(&mut self, done: &mut Vec<u16>) {
        while self.open.front().is_some_and(|open| open.left == 0) {
            let open = self.open.pop_front();
            self.first += 1;
            done.extend(open.and_then(|open| open.id));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::packed::Kind;

    fn message(id: u16, items: &[(Kind, &str, &str)]) -> Message {
        let mut sequence = Vec::new();
        for (kind, device, payload) in items {
            packed::append(*kind, device, payload.as_bytes(), &mut sequence);
        }
        let mut payload = Vec::new();
        packed::seal(&sequence, &mut payload);
        Message {
            topic: "telehub/barn/packed".into(),
            payload: payload.into(),
            id: Some(id),
            ..Message::default()
        }
    }

    #[test]
    fn items_go_to_their_topics_and_a_message_is_done_with_its_last_one() {
        let mut work = Work::new(10_000, false);
        work.received(message(
            7,
            &[(Kind::Data, "cow", "a"), (Kind::Gap, "b.ull", "b")],
        ));
        work.received(message(9, &[(Kind::History, "cow", "c")]));
        let (mut bad, mut done) = (Vec::new(), Vec::new());
        let items: Vec<_> = std::iter::from_fn(|| work.next(&mut bad)).collect();
        let topics: Vec<_> = items.iter().map(|item| item.topic.as_str()).collect();
        assert_eq!(
            topics,
            [
                "telehub/barn/cow/data",
                "telehub/barn/b.ull/gap",
                "telehub/barn/cow/history"
            ]
        );
        assert_eq!(&items[1].payload[..], b"b");
        work.answered(&items[2], &mut done);
        work.answered(&items[1], &mut done);
        assert!(
            done.is_empty(),
            "the first has an item left, and the second comes after it"
        );
        work.answered(&items[0], &mut done);
        assert_eq!((done, bad), (vec![7, 9], vec![]));
        let mut escapes = Work::new(10_000, true);
        escapes.received(message(
            1,
            &[(Kind::Gap, "b.ull", "b"), (Kind::Gap, Gap::UNKNOWN, "c")],
        ));
        let item = escapes.next(&mut Vec::new()).unwrap();
        assert_eq!(item.topic, "telehub/barn/b%2Eull/gap");
        let item = escapes.next(&mut Vec::new()).unwrap();
        assert_eq!(item.topic, "telehub/barn/_unknown/gap");
    }

    #[test]
    fn a_bad_message_is_told_and_done_and_what_is_good_of_it_goes() {
        let mut work = Work::new(1_000, false);
        work.received(Message {
            payload: Bytes::from_static(b"junk"),
            ..message(1, &[])
        });
        work.received(message(
            2,
            &[(Kind::Data, "cow", "a"), (Kind::Data, "no/id", "b")],
        ));
        let large = "x".repeat(2_000);
        work.received(message(3, &[(Kind::Data, "cow", &large)]));
        work.received(message(4, &[]));
        let (mut bad, mut done) = (Vec::new(), Vec::new());
        let items: Vec<_> = std::iter::from_fn(|| work.next(&mut bad)).collect();
        assert_eq!(items.len(), 1);
        work.finished(&mut done);
        assert_eq!(done, [1]);
        work.answered(&items[0], &mut done);
        assert_eq!(done, [1, 2, 3, 4]);
        let why: Vec<_> = bad.iter().map(|bad| bad.why.as_str()).collect();
        assert!(why[0].contains("first byte") && why[1].contains("is not one"));
        assert!(why[2].contains("more than 1000 bytes"), "{why:?}");
    }

    proptest! {
        #[test]
        fn acknowledgements_come_in_the_order_of_the_messages_whatever_is_taken_first(
            counts in prop::collection::vec(0_usize..5, 1..30),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 150),
        ) {
            let mut work = Work::new(10_000, false);
            for (n, count) in counts.iter().enumerate() {
                work.received(message(n as u16 + 1, &vec![(Kind::Data, "cow", "x"); *count]));
            }
            let (mut out, mut bad, mut done) = (Vec::new(), Vec::new(), Vec::new());
            for pick in picks {
                out.extend(std::iter::from_fn(|| work.next(&mut bad)));
                work.finished(&mut done);
                if !out.is_empty() {
                    let item = out.swap_remove(pick.index(out.len()));
                    work.answered(&item, &mut done);
                }
            }
            prop_assert_eq!(done, (1..=counts.len() as u16).collect::<Vec<_>>());
            prop_assert!(work.open.is_empty() && bad.is_empty());
        }
    }
}
