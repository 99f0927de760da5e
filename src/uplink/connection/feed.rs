//! What goes out, and when.

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::Instant;

use super::{Connection, Data, OUT_BYTES, Phase, Record};
use crate::uplink::door::Wire;
use crate::uplink::failure::Failure;
use crate::uplink::publication::{Head, Publication};
use crate::uplink::{Event, Submission};

impl<W: Wire> Connection<'_, W> {
    /// Hands over to the wire whatever is there and fits: data first, then device states.
    pub(super) fn feed(&mut self) -> Result<(), Failure> {
        // A broker that receives one publish at a time: data would never let a state through.
        if self.window.data == usize::from(self.window.whole) {
            self.feed_states();
        }
        self.feed_data();
        self.feed_states();
        let all_said =
            self.held.is_empty() && !self.untold && self.all_replied() && self.ledger.is_empty();
        if self.phase == Phase::Flushing && all_said {
            self.say_offline()?;
        }
        Ok(())
    }

    fn feed_data(&mut self) {
        let mut now = None;
        while self.phase != Phase::Leaving
            && self.ledger.span() + self.ports.outlet.waiting() < self.window.data
            && self.out_bytes < OUT_BYTES
        {
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
            self.publish_data(submission, *now.get_or_insert_with(Instant::now));
        }
    }

    fn publish_data(&mut self, submission: Submission, now: Instant) {
        let Submission {
            epoch,
            token,
            lane,
            item,
        } = submission;
        if epoch != self.epoch {
            return;
        }
        let publisher = self.publisher;
        let properties = publisher.properties(&item);
        let head = Head {
            properties: properties.as_ref(),
            ..publisher.head(&item, lane)
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
            Err(error) => self.ports.outlet.push(Event::Unpublishable {
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
