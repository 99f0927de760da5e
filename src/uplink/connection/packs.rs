//! Packs: many batches in one publish (`uplink.pack`), and one PUBACK for all of them.
//!
//! Only batches and gap records are packed. While one thing goes at a time, each of them is a pack of
//! its own, so that what is proven of it holds for packs as it does without.

use std::collections::HashSet;

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Duration, Instant};
use tracing::info;

use super::{Connection, Data, OUT_BYTES, Phase, Record, thing_of};
use crate::config::{DrainOrder, Uplink};
use crate::packed::{self, Kind};
use crate::reading::{Item, Lane};
use crate::uplink::blame::{Go, Thing};
use crate::uplink::packer::{self, Packer, Reach};
use crate::uplink::publication::{Head, Properties};
use crate::uplink::transport::Wire;
use crate::uplink::{Event, Submission, reasons};

/// How long a stored batch waits for more. The intake hands over what it may at once, and reads on
/// within this time.
const STORED_DELAY: Duration = Duration::from_millis(100);

/// Things that go by themselves because the broker refused one of their kind. More are found out again.
const APART: usize = 1_024;

/// A batch or gap record, and its payload.
pub(super) type Piece = packer::Piece<(Data, Vec<u8>)>;

/// What was published in one.
#[derive(Debug)]
pub(super) struct Pack {
    pub(super) pieces: Vec<Piece>,
    /// The queue that it is of; `None`: it went by itself, while one thing goes at a time.
    queue: Option<usize>,
    /// Bytes of its packet.
    pub(super) bytes: usize,
    /// Before compression.
    pub(super) size: usize,
}

impl Pack {
    pub(super) fn data(&self) -> impl Iterator<Item = &Data> {
        self.pieces.iter().map(|piece| &piece.what.0)
    }

    pub(super) fn things(&self) -> impl Iterator<Item = Thing> {
        self.data().map(|data| thing_of(&data.item, data.lane))
    }

    /// The only one that is in it.
    pub(super) fn single(&self) -> Option<&Data> {
        match &self.pieces[..] {
            [piece] => Some(&piece.what.0),
            _ => None,
        }
    }
}

/// What is known of packs over all connections to a broker.
#[derive(Debug, Default)]
pub(in crate::uplink) struct Known {
    reach: Reach,
    /// What the broker refused when it was alone in a pack.
    apart: HashSet<Thing>,
}

impl Known {
    /// The broker hung up while packs were out, the largest of so many bytes.
    pub(super) fn hung_up(&mut self, size: usize) {
        self.reach.hung_up(size, Instant::now());
    }
}

/// How this connection packs.
#[derive(Debug)]
pub(super) struct Packing {
    packer: Packer<(Data, Vec<u8>)>,
    most: usize,
    delay: Duration,
    in_order: bool,
}

impl Packing {
    /// `None`: each batch goes by itself.
    pub(super) fn new(settings: &Uplink, device_window: usize) -> Option<Self> {
        (settings.pack > 0).then(|| Self {
            packer: Packer::new(settings.pack, device_window),
            most: settings.pack,
            delay: settings.pack_delay,
            in_order: settings.drain == DrainOrder::InOrder,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.packer.is_empty()
    }

    pub(super) fn wakes(&self) -> Option<Instant> {
        self.packer.wakes(Instant::now())
    }

    pub(super) fn hurry(&mut self) {
        self.packer.hurry();
    }

    /// Where new batches wait behind the backlog, what is handed over first goes first.
    fn queue(&self, lane: Lane) -> usize {
        match lane {
            Lane::History if !self.in_order => 1,
            _ => 0,
        }
    }

    fn due(&self, lane: Lane, now: Instant) -> Instant {
        now + match lane {
            Lane::Live => self.delay,
            Lane::History => self.delay.min(STORED_DELAY),
        }
    }
}

fn kind_of(item: &Item, lane: Lane) -> Kind {
    match (item, lane) {
        (Item::Gap(_), _) => Kind::Gap,
        (_, Lane::Live) => Kind::Data,
        (_, Lane::History) => Kind::History,
    }
}

/// Whether its payload depends on when it is published.
fn depends_on_time(item: &Item) -> bool {
    matches!(item, Item::Batch(batch) if !batch.received.synced)
}

impl<W: Wire> Connection<'_, W> {
    /// Takes what is submitted and sends the packs that are ready. `false`: something has to wait
    /// until it can go alone.
    pub(super) fn feed_packs(&mut self) -> bool {
        let now = Instant::now();
        let goes_on = self.take_in(now);
        let leaves = self.phase != Phase::Serving || self.ports.stop.is_requested();
        while self.phase != Phase::Leaving && !self.alone && self.has_room_for_data() {
            let limit = self.ports.packs.reach.limit(now);
            let Some(packing) = &mut self.packing else {
                break;
            };
            if leaves || !goes_on {
                packing.hurry();
            }
            let Some((queue, pieces)) = packing.packer.next(now, limit) else {
                break;
            };
            self.send_pack(Some(queue), pieces, now);
        }
        goes_on
    }

    pub(super) fn has_room_for_data(&self) -> bool {
        self.ledger.span() + self.ports.events.waiting() < self.window.data
            && self.out_bytes < OUT_BYTES
    }

    fn take_in(&mut self, now: Instant) -> bool {
        loop {
            let waiting = self.packing.as_ref().map_or(0, |one| one.packer.len());
            if waiting >= self.inflight || self.phase == Phase::Leaving {
                return true;
            }
            let submission = match self.held.pop_front() {
                Some(submission) => submission,
                None if self.phase != Phase::Serving => return true,
                None => match self.ports.submissions.try_recv() {
                    Ok(submission) => submission,
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => {
                        self.begin_to_flush();
                        return true;
                    }
                },
            };
            if matches!(*submission.item, Item::Reply(_)) && !self.has_room_for_data() {
                self.held.push_front(submission);
                return true;
            }
            if !self.ports.blame.is_idle() && self.phase == Phase::Serving {
                let thing = thing_of(&submission.item, submission.lane);
                if self.ports.blame.may_go(&thing) == Go::Alone {
                    if waiting > 0 || !self.nothing_is_out() {
                        self.held.push_front(submission);
                        return false;
                    }
                    self.alone = true;
                    self.publish_data(submission, now);
                    return false;
                }
            }
            if matches!(*submission.item, Item::Reply(_)) {
                self.publish_data(submission, now);
            } else if let Some((queue, piece)) = self.piece(submission, now)
                && let Some(packing) = &mut self.packing
            {
                packing.packer.add(queue, piece);
            }
        }
    }

    /// What goes into a pack of a submission; `None`: it cannot be published, which the intake is told.
    fn piece(&mut self, submission: Submission, now: Instant) -> Option<(usize, Piece)> {
        let Submission {
            epoch,
            token,
            lane,
            item,
        } = submission;
        let packing = self.packing.as_ref().filter(|_| epoch == self.epoch)?;
        let mut payload = Vec::new();
        let written = match self.condemned(&item, lane) {
            Some(error) => Err(error),
            None => self.publisher.append(&item, &mut payload),
        };
        if let Err(error) = written {
            self.ports.events.push(Event::Unpublishable {
                epoch,
                token,
                error,
            });
            return None;
        }
        let device = item.device().clone();
        let piece = Piece {
            size: packed::length(kind_of(&item, lane), &device, payload.len()),
            device,
            due: packing.due(lane, now),
            alone: !self.ports.packs.apart.is_empty()
                && self.ports.packs.apart.contains(&thing_of(&item, lane)),
            what: (
                Data {
                    token,
                    lane,
                    item,
                    bytes: 0,
                    since: now,
                },
                payload,
            ),
        };
        Some((packing.queue(lane), piece))
    }

    /// Publishes a batch or a gap record as a pack of its own.
    pub(super) fn publish_single(&mut self, submission: Submission, now: Instant) {
        if let Some((_, piece)) = self.piece(submission, now) {
            self.send_pack(None, vec![piece], now);
        }
    }

    fn send_pack(&mut self, queue: Option<usize>, mut pieces: Vec<Piece>, now: Instant) {
        let mut sequence = Vec::with_capacity(pieces.iter().map(|piece| piece.size).sum());
        for piece in &mut pieces {
            let (data, payload) = &mut piece.what;
            if depends_on_time(&data.item) {
                payload.clear();
                // It could be written before.
                let _ = self.publisher.append(&data.item, payload);
            }
            let kind = kind_of(&data.item, data.lane);
            packed::append(kind, &piece.device, payload, &mut sequence);
        }
        let topic = self.publisher.packed_topic();
        let properties = Properties {
            content_type: Some(packed::CONTENT_TYPE),
            ..Properties::default()
        };
        let head = Head {
            topic: [&topic, "", "", ""],
            retain: false,
            properties: Some(&properties),
        };
        let id = self.ledger.next_id();
        let publisher = self.publisher;
        let written = self
            .wire
            .publish(id, &head, |out| publisher.append_pack(&sequence, out));
        match written {
            Ok(bytes) => {
                self.out_bytes += bytes;
                for piece in &mut pieces {
                    (piece.what.0.bytes, piece.what.0.since) = (bytes, now);
                }
                let board = &self.ports.board.uplink;
                board.published.add(pieces.len() as u64);
                board.packs.add(1);
                let size = sequence.len();
                self.ledger.enter(Record::Pack(Pack {
                    pieces,
                    queue,
                    bytes,
                    size,
                }));
            }
            Err(error) => {
                if let Some(single) = self.split(queue, pieces) {
                    let (epoch, token) = (self.epoch, single.what.0.token);
                    self.ports.events.push(Event::Unpublishable {
                        epoch,
                        token,
                        error,
                    });
                }
            }
        }
    }

    /// What could not go as it is goes in halves. A single one comes back.
    fn split(&mut self, queue: Option<usize>, mut pieces: Vec<Piece>) -> Option<Piece> {
        match (queue, &mut self.packing) {
            (Some(queue), Some(packing)) => packing.packer.split(queue, pieces),
            _ => pieces.pop(),
        }
    }

    /// PUBACK: there is room for the next one.
    pub(super) fn pack_answered(&mut self, pack: &Pack) {
        self.out_bytes -= pack.bytes;
        if let (Some(queue), Some(packing)) = (pack.queue, &mut self.packing) {
            packing.packer.answered(queue);
        }
    }

    /// The broker has taken all that is in it.
    pub(super) fn pack_taken(&mut self, pack: &Pack) {
        let most = self.packing.as_ref().map_or(0, |packing| packing.most);
        let known = &mut self.ports.packs;
        if pack.pieces.len() > 1 {
            known.reach.taken(pack.size, most);
        }
        if !known.apart.is_empty() {
            for data in pack.data() {
                known.apart.remove(&thing_of(&data.item, data.lane));
            }
        }
    }

    /// PUBACK of 0x80 and above: nothing in it was taken, for the sake of something in it.
    pub(super) fn pack_refused(&mut self, pack: Pack, reason: u8, why: &str) {
        let size = pack.size;
        self.pack_answered(&pack);
        let count = pack.pieces.len();
        if let Some(single) = self.split(pack.queue, pack.pieces) {
            let data = single.what.0;
            let apart = &mut self.ports.packs.apart;
            if apart.len() < APART {
                apart.insert(thing_of(&data.item, data.lane));
            }
            self.data_refused(&data, reason, why);
            return;
        }
        self.ports.board.uplink.refused_packs.add(1);
        info!(
            batches = count,
            why, "the broker does not take a pack; it is sent again in halves"
        );
        if reason == reasons::PACKET_TOO_LARGE {
            self.ports.packs.reach.cut(size, Instant::now());
        }
    }

    /// The broker will never acknowledge this one. All that was out is submitted again on the next
    /// connection: what was alone in it is refused if it was so before, and a larger one makes them smaller.
    pub(super) fn pack_overtaken(&mut self, pack: Pack, again: bool, why: &str) {
        self.pack_answered(&pack);
        if pack.pieces.len() > 1 {
            // Nothing else helps to find out which it was.
            self.ports.packs.hung_up(pack.size);
            self.ports.packs.hung_up(pack.size);
        } else if let Some(data) = pack.single().filter(|_| again) {
            self.data_refused(data, reasons::ERRORS, why);
        }
    }

    /// Where it is published, for people.
    pub(super) fn place_of(&self, data: &Data) -> String {
        match self.packing {
            Some(_) => {
                let thing = thing_of(&data.item, data.lane);
                format!("{} ({thing})", self.publisher.packed_topic())
            }
            None => self.publisher.topic_of(&data.item, data.lane),
        }
    }
}
