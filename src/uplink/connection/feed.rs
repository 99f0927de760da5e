//! What goes out, and when.

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::packs::Packing;
use super::{Connection, Data, Leave, Phase, Record, content_of, thing_of};
use crate::reading::{Item, Lane};
use crate::uplink::blame::Go;
use crate::uplink::failure::Failure;
use crate::uplink::publication::{Head, Publication};
use crate::uplink::transport::Wire;
use crate::uplink::{Event, Submission};

impl<W: Wire> Connection<'_, W> {
    /// Hands over to the wire whatever is there and fits: data first, then device states.
    pub(super) fn feed(&mut self) -> Result<(), Failure> {
        match self.phase {
            Phase::Serving if self.ports.blame.is_careful() => self.feed_one(),
            Phase::Serving | Phase::Flushing => self.feed_all(),
            Phase::Moving(why) => return self.feed_last(why),
            Phase::Leaving => return Ok(()),
        }
        let all_said = self.held.is_empty()
            && !self.untold
            && self.states.is_empty()
            && self.all_replied()
            && self.all_reported()
            && self.all_values_said()
            && self.ledger.is_empty()
            && self.kept.is_none()
            && self.packing.as_ref().is_none_or(Packing::is_empty);
        if self.phase == Phase::Flushing && all_said {
            self.say_offline()?;
        }
        Ok(())
    }

    fn feed_all(&mut self) {
        if self.alone {
            // On the way out nothing is proven any more.
            if self.phase == Phase::Serving && !self.nothing_is_out() {
                return;
            }
            self.alone = false;
        }
        self.follow_desired();
        while self.make_subscription(None) {}
        // A broker that receives one publish at a time: data would never let a state through.
        if self.window.data == usize::from(self.window.whole) {
            self.feed_states();
            self.feed_reports();
            self.feed_values_between();
        }
        // The hub's own status is the first thing that it says.
        if self.untold_hub && self.phase == Phase::Serving {
            self.say_online();
        }
        if self.feed_data() {
            self.feed_states();
            if !self.alone {
                self.feed_reports();
                self.send_probe();
                self.feed_values();
            }
        }
    }

    /// `false`: something has to wait until it can go alone.
    fn feed_data(&mut self) -> bool {
        if self.packing.is_some() {
            return self.feed_packs();
        }
        let mut now = None;
        while self.phase != Phase::Leaving && self.has_room_for_data() {
            let submission = match self.held.pop_front() {
                Some(submission) => submission,
                None if self.phase != Phase::Serving => break,
                None => match self.ports.submissions.try_recv() {
                    Ok(submission) => submission,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => {
                        self.begin_to_flush();
                        break;
                    }
                },
            };
            if !self.ports.blame.is_idle() && self.phase == Phase::Serving {
                let thing = thing_of(&submission.item, submission.lane);
                if self.ports.blame.may_go(&thing) == Go::Alone {
                    if !self.nothing_is_out() {
                        self.held.push_front(submission);
                        return false;
                    }
                    self.alone = true;
                }
            }
            self.publish_data(submission, *now.get_or_insert_with(Instant::now));
            if self.alone {
                return false;
            }
        }
        true
    }

    /// Before a connection is left: what is out is waited for, then the last states go.
    fn feed_last(&mut self, why: Leave) -> Result<(), Failure> {
        let free = usize::from(self.window.whole) > self.ledger.span();
        while free && self.statuses < self.window.states && !self.states.is_empty() {
            if let Some((device, presence)) = self.states.pop_front() {
                self.tell_state(device, presence);
            }
        }
        if !self.ledger.is_empty() || self.kept.is_some() || !self.states.is_empty() {
            return Ok(());
        }
        match why {
            Leave::Return => self.say_offline(),
            Leave::Version => {
                self.phase = Phase::Leaving;
                self.wire.disconnect();
                Ok(())
            }
        }
    }

    /// Why this cannot be published: it is proven that the broker hangs up on it.
    pub(super) fn condemned(&self, item: &Item, lane: Lane) -> Option<String> {
        let blame = &self.ports.blame;
        if blame.is_idle() {
            return None;
        }
        let thing = thing_of(item, lane);
        blame
            .is_condemned(&thing, || content_of(item))
            .then(|| format!("the broker hangs up on it and takes other {thing}"))
    }

    pub(super) fn publish_data(&mut self, submission: Submission, now: Instant) {
        if self.packing.is_some() && !matches!(*submission.item, Item::Reply(_)) {
            return self.publish_single(submission, now);
        }
        let Submission {
            epoch,
            token,
            lane,
            item,
        } = submission;
        if epoch != self.epoch {
            return;
        }
        if let Some(error) = self.condemned(&item, lane) {
            self.ports.events.push(Event::Unpublishable {
                epoch,
                token,
                error,
            });
            return;
        }
        if matches!(*item, Item::Reply(_)) {
            self.replies_first();
        }
        let publisher = self.publisher;
        let properties = publisher.properties(&item);
        let mut room = String::new();
        let head = Head {
            properties: properties.as_ref(),
            ..publisher.head(&item, lane, &mut room)
        };
        let id = self.ledger.next_id();
        match self
            .wire
            .publish(id, &head, |out| publisher.append(&item, out))
        {
            Ok(bytes) => {
                self.out_bytes += bytes;
                self.ports.board.uplink.published.add(1);
                self.ledger.enter(Record::Data(Data {
                    token,
                    lane,
                    item,
                    bytes,
                    since: now,
                }));
            }
            Err(error) => self.ports.events.push(Event::Unpublishable {
                epoch,
                token,
                error,
            }),
        }
    }

    /// Publishes a state. `false`: it can never be published here, which the log has been told.
    pub(super) fn publish_state(&mut self, publication: &Publication, record: Record) -> bool {
        let id = self.ledger.next_id();
        let written = self.wire.publish(id, &publication.head(), |out| {
            out.extend_from_slice(&publication.payload);
            Ok(())
        });
        match written {
            Ok(_) => {
                self.ports.board.uplink.published.add(1);
                self.ledger.enter(record);
                true
            }
            Err(error) => {
                let topic = &publication.topic;
                tracing::debug!(topic, error, "a status cannot be published");
                false
            }
        }
    }
}
