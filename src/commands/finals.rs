//! Final answers on their way to the broker. Pure.
//!
//! A final answer is kept here until the broker has taken it (P1), over as many connections as
//! that needs: only then is the device told that its result is safe, and until then the device
//! has it as well. So nothing is lost by a crash, and nothing has to go to the disk: commands
//! come from the broker, so that none is begun while it is away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::reading::Reply;

/// Answers that the broker has not acknowledged: a few round trips' worth on a slow link.
const WINDOW: usize = 16;

/// An answer, and what its safety is known by.
#[derive(Debug)]
struct Final {
    token: Option<u64>,
    reply: Reply,
}

/// What follows from a refusal of the broker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// It goes to the device's own topic instead.
    Elsewhere,
    /// It is given up; the device was not told that it is safe.
    GivenUp,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Finals {
    /// The connection to the broker.
    epoch: Option<u64>,
    queue: VecDeque<Final>,
    out: BTreeMap<u64, Final>,
    last: u64,
}

impl Finals {
    pub(super) fn push(&mut self, token: Option<u64>, reply: Reply) {
        self.queue.push_back(Final { token, reply });
    }

    /// Whether there is nothing left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.out.is_empty()
    }

    /// Whether [`Finals::next`] has one.
    pub(super) fn has_next(&self) -> bool {
        self.epoch.is_some() && self.out.len() < WINDOW && !self.queue.is_empty()
    }

    /// Whether the broker is there.
    pub(super) fn is_up(&self) -> bool {
        self.epoch.is_some()
    }

    /// The next one to publish: its connection, its number on it, and itself.
    pub(super) fn next(&mut self) -> Option<(u64, u64, Reply)> {
        let epoch = self.epoch.filter(|_| self.out.len() < WINDOW)?;
        let next = self.queue.pop_front()?;
        self.last += 1;
        let reply = next.reply.clone();
        self.out.insert(self.last, next);
        Some((epoch, self.last, reply))
    }

    /// The broker has taken it. The token by which its safety is known.
    pub(super) fn taken(&mut self, number: u64) -> Option<u64> {
        self.out.remove(&number)?.token
    }

    /// The broker has refused it.
    pub(super) fn refused(&mut self, number: u64) -> Option<(Refused, Arc<str>)> {
        let mut refused = self.out.remove(&number)?;
        let device = refused.reply.device.clone();
        if refused.reply.topic.take().is_none() {
            return Some((Refused::GivenUp, device));
        }
        self.queue.push_front(refused);
        Some((Refused::Elsewhere, device))
    }

    /// A connection has begun. What was out on one before goes out again, in its order.
    pub(super) fn up(&mut self, epoch: u64) {
        self.down();
        self.epoch = Some(epoch);
    }

    /// The connection has ended.
    pub(super) fn down(&mut self) {
        self.epoch = None;
        for (_, again) in std::mem::take(&mut self.out).into_iter().rev() {
            self.queue.push_front(again);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::reading::Encoding;

    fn reply(n: u64, topic: Option<&str>) -> Reply {
        Reply {
            device: "lamp".into(),
            name: n.to_string().into(),
            topic: topic.map(Into::into),
            correlation: None,
            encoding: Encoding::Json,
            payload: Bytes::new(),
        }
    }

    #[test]
    fn an_answer_that_is_refused_elsewhere_goes_to_the_devices_own_topic_and_then_nowhere() {
        let mut finals = Finals::default();
        finals.push(Some(7), reply(1, Some("app/1")));
        assert!(!finals.has_next(), "there is no broker");
        finals.up(1);
        let Some((1, number, _)) = finals.next() else {
            unreachable!("it goes out")
        };
        assert_eq!(
            finals.refused(number),
            Some((Refused::Elsewhere, "lamp".into()))
        );
        let Some((1, number, again)) = finals.next() else {
            unreachable!("it goes out again")
        };
        assert_eq!(again.topic, None);
        assert_eq!(
            finals.refused(number),
            Some((Refused::GivenUp, "lamp".into()))
        );
        assert!(finals.is_empty());
    }

    proptest! {
        #[test]
        fn every_answer_is_taken_once_and_only_a_broker_that_was_lost_gets_one_twice(
            ops in proptest::collection::vec(0..5u8, 1..200),
        ) {
            let mut finals = Finals::default();
            let (mut pushed, mut epoch) = (0, 0);
            let mut out: Vec<(u64, u64)> = Vec::new();
            let mut taken = Vec::new();
            for op in ops {
                match op {
                    0 | 1 => {
                        pushed += 1;
                        finals.push(Some(pushed), reply(pushed, None));
                    }
                    2 if !out.is_empty() => {
                        let (number, which) = out.remove(0);
                        prop_assert_eq!(finals.taken(number), Some(which));
                        taken.push(which);
                    }
                    3 => {
                        finals.down();
                        out.clear();
                    }
                    _ => {
                        epoch += 1;
                        finals.up(epoch);
                        out.clear();
                    }
                }
                while let Some((on, number, reply)) = finals.next() {
                    prop_assert_eq!(on, epoch);
                    out.push((number, reply.name.parse().unwrap_or_default()));
                    prop_assert!(out.len() <= WINDOW);
                }
            }
            finals.up(epoch + 1);
            while let Some((_, number, reply)) = finals.next() {
                taken.push(reply.name.parse().unwrap_or_default());
                prop_assert!(finals.taken(number).is_some());
            }
            prop_assert!(finals.is_empty());
            // Each once, and in order.
            prop_assert_eq!(taken, (1..=pushed).collect::<Vec<u64>>());
        }
    }
}
