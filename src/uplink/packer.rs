//! Which batches go together in one publish. Pure: no IO, no clock.
//!
//! There is a queue for each lane, or one for both where new batches wait behind the backlog. A queue
//! gives out a pack when it has enough for a full one, when the first batch in it has waited long
//! enough, or when waiting is of no use. One pack of a queue is on the wire at a time: what the broker
//! does not take can then be sent again in halves, down to single ones, before anything that is newer
//! of its streams.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use tokio::time::{Duration, Instant};

/// Something to be packed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece<T> {
    pub(super) what: T,
    pub(super) device: Arc<str>,
    /// Bytes in the pack.
    pub(super) size: usize,
    /// When it goes, whether or not others go with it.
    pub(super) due: Instant,
    /// It goes by itself: the broker did not take the last one of its kind.
    pub(super) alone: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Packer<T> {
    /// Bytes of a pack at most.
    most: usize,
    /// A device that has so many in the queue sends no more before it gets acks.
    window: usize,
    queues: [Queue<T>; 2],
}

#[derive(Debug)]
struct Queue<T> {
    waiting: VecDeque<Piece<T>>,
    size: usize,
    of: HashMap<Arc<str>, usize>,
    /// The first that is due.
    due: Option<Instant>,
    /// Everything that is in it goes now.
    hurried: bool,
    /// The first so many are the rest of a pack that was not taken, and so on.
    parts: VecDeque<usize>,
    /// A pack of it is on the wire.
    out: bool,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            size: 0,
            of: HashMap::new(),
            due: None,
            hurried: false,
            parts: VecDeque::new(),
            out: false,
        }
    }
}

impl<T> Queue<T> {
    fn add(&mut self, piece: Piece<T>, window: usize) {
        let of = self.of.entry(piece.device.clone()).or_default();
        *of += 1;
        self.hurried |= *of >= window;
        self.size += piece.size;
        self.due = Some(self.due.map_or(piece.due, |due| due.min(piece.due)));
        self.waiting.push_back(piece);
    }

    /// How many from the front on go now.
    fn ready(&mut self, now: Instant, limit: usize) -> usize {
        match self.waiting.front() {
            None => return 0,
            Some(first) if first.alone => return 1,
            Some(_) => {}
        }
        if let Some(part) = self.parts.pop_front() {
            return part;
        }
        let (mut count, mut size) = (0, 0);
        for piece in &self.waiting {
            size += piece.size;
            if piece.alone || count > 0 && size > limit {
                break;
            }
            count += 1;
        }
        let is_full = count < self.waiting.len() || size >= limit;
        let is_due = self.hurried || self.due.is_some_and(|due| due <= now);
        if is_full || is_due { count } else { 0 }
    }

    fn take(&mut self, count: usize) -> Vec<Piece<T>> {
        let taken: Vec<_> = self.waiting.drain(..count).collect();
        for piece in &taken {
            self.size -= piece.size;
            if let Some(of) = self.of.get_mut(&piece.device) {
                *of -= 1;
                if *of == 0 {
                    self.of.remove(&piece.device);
                }
            }
        }
        self.due = self.waiting.iter().map(|piece| piece.due).min();
        self.hurried &= !self.waiting.is_empty();
        self.out = true;
        taken
    }

    fn put_back(&mut self, pieces: Vec<Piece<T>>) {
        let half = pieces.len().div_ceil(2);
        self.parts.push_front(pieces.len() - half);
        self.parts.push_front(half);
        for piece in pieces.into_iter().rev() {
            *self.of.entry(piece.device.clone()).or_default() += 1;
            self.size += piece.size;
            self.due = Some(self.due.map_or(piece.due, |due| due.min(piece.due)));
            self.waiting.push_front(piece);
        }
    }
}

impl<T> Packer<T> {
    /// Packs of `most` bytes; `window`: see [`Packer`].
    pub(super) fn new(most: usize, window: usize) -> Self {
        Self {
            most,
            window,
            queues: [Queue::default(), Queue::default()],
        }
    }

    /// Puts one at the end of a queue, 0 or 1; the first goes before the second.
    pub(super) fn add(&mut self, queue: usize, piece: Piece<T>) {
        let window = self.window;
        self.queues[queue].add(piece, window);
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.queues.iter().map(|queue| queue.waiting.len()).sum()
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits now goes now.
    pub(super) fn hurry(&mut self) {
        for queue in &mut self.queues {
            queue.hurried = !queue.waiting.is_empty();
        }
    }

    /// The next pack, of at most `limit` bytes unless it is a single piece, and the queue that it is
    /// of. The caller says what becomes of it by [`Self::answered`] or [`Self::split`].
    pub(super) fn next(&mut self, now: Instant, limit: usize) -> Option<(usize, Vec<Piece<T>>)> {
        let limit = limit.min(self.most);
        for (at, queue) in self.queues.iter_mut().enumerate() {
            if queue.out {
                continue;
            }
            match queue.ready(now, limit) {
                0 => {}
                count => return Some((at, queue.take(count))),
            }
        }
        None
    }

    /// The pack of this queue is on the wire no more.
    pub(super) fn answered(&mut self, queue: usize) {
        self.queues[queue].out = false;
    }

    /// The pack of this queue was not taken: its halves are the next ones. A single piece comes back.
    pub(super) fn split(&mut self, queue: usize, mut pieces: Vec<Piece<T>>) -> Option<Piece<T>> {
        self.answered(queue);
        if pieces.len() < 2 {
            return pieces.pop();
        }
        self.queues[queue].put_back(pieces);
        None
    }

    /// When something is due that is not yet.
    pub(super) fn wakes(&self, now: Instant) -> Option<Instant> {
        let waiting = self.queues.iter().filter(|queue| !queue.out);
        waiting
            .filter_map(|queue| queue.due)
            .filter(|due| *due > now)
            .min()
    }
}

/// How large a pack may be: less than what was set, where the broker hangs up on larger ones or says
/// that they are too large.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// `None`: what was set.
    limit: Option<usize>,
    /// When twice as much is tried, and the pause before that.
    wider: Option<(Instant, Duration)>,
    /// One hang-up with a pack out is what every restart of a broker looks like.
    suspect: bool,
}

/// The first pause before larger packs are tried again; it doubles each time that this was in vain.
const FIRST_PAUSE: Duration = Duration::from_secs(600);

/// No pause is longer: what was put right shows within the hour.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);

impl Reach {
    /// Bytes of a pack at most now.
    pub(super) fn limit(&mut self, now: Instant) -> usize {
        if let (Some(limit), Some((at, pause))) = (self.limit, self.wider)
            && at <= now
        {
            self.limit = Some(limit.saturating_mul(2));
            self.wider = Some((now + pause, pause));
        }
        self.limit.unwrap_or(usize::MAX)
    }

    /// A pack of so many bytes was taken, of `most` that it may have.
    pub(super) fn taken(&mut self, size: usize, most: usize) {
        self.suspect = false;
        if self.limit.is_some_and(|limit| limit >= most) && size > most / 2 {
            (self.limit, self.wider) = (None, None);
        }
    }

    /// The broker hung up while one of so many bytes was out.
    pub(super) fn hung_up(&mut self, size: usize, now: Instant) {
        if std::mem::replace(&mut self.suspect, true) {
            self.cut(size, now);
        }
    }

    /// One of so many bytes is too large.
    pub(super) fn cut(&mut self, size: usize, now: Instant) {
        let limit = (size / 2).max(1);
        self.limit = Some(self.limit.map_or(limit, |before| before.min(limit)));
        let pause = self
            .wider
            .map_or(FIRST_PAUSE, |(_, pause)| (pause * 2).min(LONGEST_PAUSE));
        self.wider = Some((now + pause, pause));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn piece(number: u32, device: u8, size: usize, due: Instant) -> Piece<u32> {
        Piece {
            what: number,
            device: format!("d{device}").into(),
            size,
            due,
            alone: false,
        }
    }

    fn numbers(pieces: &[Piece<u32>]) -> Vec<u32> {
        pieces.iter().map(|piece| piece.what).collect()
    }

    #[test]
    fn a_pack_goes_when_it_is_full_or_when_its_first_piece_is_due() {
        let now = Instant::now();
        let mut packer = Packer::new(100, 32);
        for number in 0..3 {
            packer.add(0, piece(number, 0, 30, now + SECOND));
        }
        assert_eq!(packer.next(now, usize::MAX), None);
        assert_eq!(packer.wakes(now), Some(now + SECOND));
        packer.add(0, piece(3, 0, 30, now + SECOND * 2));
        let (_, pack) = packer.next(now, usize::MAX).unwrap();
        assert_eq!(numbers(&pack), [0, 1, 2]);
        assert_eq!(
            packer.next(now + SECOND * 9, usize::MAX),
            None,
            "one is out"
        );
        packer.answered(0);
        assert_eq!(packer.next(now + SECOND, usize::MAX), None);
        let (_, pack) = packer.next(now + SECOND * 2, usize::MAX).unwrap();
        assert_eq!(numbers(&pack), [3]);
        assert!(packer.is_empty() && packer.wakes(now).is_none());
    }

    #[test]
    fn a_device_whose_window_is_used_up_does_not_wait() {
        let now = Instant::now();
        let mut packer = Packer::new(1_000, 3);
        for number in 0..4 {
            packer.add(0, piece(number, (number % 2) as u8, 1, now + SECOND));
            assert_eq!(packer.next(now, usize::MAX), None);
        }
        packer.add(0, piece(4, 0, 1, now + SECOND));
        let (_, pack) = packer.next(now, usize::MAX).unwrap();
        assert_eq!(pack.len(), 5);
        packer.answered(0);
        packer.add(0, piece(5, 0, 1, now + SECOND));
        assert_eq!(packer.next(now, usize::MAX), None);
    }

    #[test]
    fn what_goes_alone_goes_at_once_and_in_its_place() {
        let now = Instant::now();
        let mut packer = Packer::new(1_000, 32);
        for number in 0..3 {
            let alone = number == 1;
            let piece = piece(number, 0, 1, now + SECOND);
            packer.add(0, Piece { alone, ..piece });
        }
        for expected in [0, 1] {
            let (_, pack) = packer.next(now, usize::MAX).unwrap();
            assert_eq!(numbers(&pack), [expected]);
            packer.answered(0);
        }
        assert_eq!(packer.next(now, usize::MAX), None);
    }

    #[test]
    fn two_hang_ups_halve_a_pack_and_time_doubles_it() {
        let now = Instant::now();
        let mut reach = Reach::default();
        assert_eq!(reach.limit(now), usize::MAX);
        reach.hung_up(1_000, now);
        assert_eq!(reach.limit(now), usize::MAX);
        reach.taken(1_000, 1_000);
        reach.hung_up(1_000, now);
        assert_eq!(reach.limit(now), usize::MAX, "one was taken between");
        reach.hung_up(1_000, now);
        assert_eq!(reach.limit(now), 500);
        reach.hung_up(500, now);
        assert_eq!(reach.limit(now), 250);
        let later = now + FIRST_PAUSE * 2;
        assert_eq!((reach.limit(later), reach.limit(later)), (500, 500));
        reach.taken(500, 1_000);
        let later = later + FIRST_PAUSE * 2;
        assert_eq!(reach.limit(later), 1_000);
        reach.taken(900, 1_000);
        assert_eq!(reach.limit(later), usize::MAX);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Add {
            queue: usize,
            device: u8,
            size: usize,
            wait: u64,
            alone: bool,
        },
        Pass {
            queue: usize,
        },
        Refuse {
            queue: usize,
        },
        Wait(u64),
        Hurry,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..2_usize, 0..4_u8, 1..60_usize, 0..5_u64, prop::bool::weighted(0.05)).prop_map(
                |(queue, device, size, wait, alone)| Step::Add { queue, device, size, wait, alone }),
            3 => (0..2_usize).prop_map(|queue| Step::Pass { queue }),
            2 => (0..2_usize).prop_map(|queue| Step::Refuse { queue }),
            1 => (0..4_u64).prop_map(Step::Wait),
            1 => Just(Step::Hurry),
        ]
    }

    proptest! {
        /// Whatever is refused, each piece ends once, in the order of its queue: taken, or refused
        /// when it was alone; and nothing waits for ever.
        #[test]
        fn every_piece_goes_once_and_in_order_and_is_refused_only_alone(
            steps in prop::collection::vec(step(), 1..200),
            limit in prop_oneof![Just(usize::MAX), 1..80_usize],
            bad in prop::collection::btree_set(0_u32..200, 0..6),
        ) {
            let mut now = Instant::now();
            let mut packer = Packer::new(100, 7);
            let mut out: BTreeMap<usize, Vec<Piece<u32>>> = BTreeMap::new();
            let mut ended: [Vec<u32>; 2] = Default::default();
            let (mut added, mut refused) = ([0; 2], BTreeSet::new());
            let mut number = 0;
            let finish = (0..3_000).map(|n| match n % 3 {
                0 => Step::Wait(9),
                other => Step::Pass { queue: other - 1 },
            });
            for step in steps.into_iter().chain(finish) {
                match step {
                    Step::Add { queue, device, size, wait, alone } => {
                        let piece = piece(number, device, size, now + SECOND * wait as u32);
                        packer.add(queue, Piece { alone, ..piece });
                        added[queue] += 1;
                        number += 1;
                    }
                    Step::Pass { queue } => if let Some(pieces) = out.remove(&queue) {
                        if pieces.iter().any(|piece| bad.contains(&piece.what)) {
                            if let Some(single) = packer.split(queue, pieces) {
                                prop_assert!(bad.contains(&single.what));
                                refused.insert(single.what);
                                ended[queue].push(single.what);
                            }
                        } else {
                            packer.answered(queue);
                            ended[queue].extend(numbers(&pieces));
                        }
                    },
                    // A broker that refuses for a while whatever it is.
                    Step::Refuse { queue } => {
                        let pieces = out.remove(&queue);
                        let single = pieces.and_then(|pieces| packer.split(queue, pieces));
                        ended[queue].extend(single.map(|single| single.what));
                    }
                    Step::Wait(seconds) => now += SECOND * seconds as u32,
                    Step::Hurry => packer.hurry(),
                }
                while let Some((queue, pieces)) = packer.next(now, limit) {
                    let size: usize = pieces.iter().map(|piece| piece.size).sum();
                    prop_assert!(!pieces.is_empty());
                    prop_assert!(pieces.len() == 1 || size <= limit.min(100));
                    prop_assert!(pieces.len() == 1 || pieces.iter().all(|piece| !piece.alone));
                    prop_assert!(out.insert(queue, pieces).is_none());
                }
                let of: usize = packer.queues.iter().map(|queue| queue.of.values().sum::<usize>()).sum();
                prop_assert_eq!(of, packer.len());
                let size: usize = packer.queues.iter().map(|queue| queue.size).sum();
                let waiting = packer.queues.iter().flat_map(|queue| &queue.waiting);
                prop_assert_eq!(size, waiting.map(|piece| piece.size).sum::<usize>());
            }
            prop_assert!(packer.is_empty() && out.is_empty());
            for queue in 0..2 {
                prop_assert_eq!(ended[queue].len(), added[queue]);
                prop_assert!(ended[queue].is_sorted());
            }
        }
    }
}
