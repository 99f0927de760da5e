//! Whose turn it is: items of many devices, in the order of each device, shared out by bytes.
//!
//! Pure. Fair queueing by virtual time. The clock counts the bytes that each device could have sent
//! so far: it moves by what was sent, divided by the number of devices that have something waiting
//! or have not paid yet for what they sent. An item is due at the moment by which its device has
//! paid for it, and what is due first goes first. A device that comes back after a pause begins
//! to pay now, so a little of a quiet one goes before a lot of a loud one, however much of that
//! came earlier. An item so waits for no more than one largest item, which may be on its way, and
//! as many bytes of each other device as its own device has before it, itself included.
//!
//! A round robin with deficits has the same shares, but a device with items of a megabyte has to
//! save up for many rounds, and all that save have their turn in one round, behind which a quiet
//! device stands. Each operation takes the time of a search among the devices that wait.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// What an item counts for at most: the largest payload there can be, with its envelope.
const MOST: usize = 2 << 20;

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<(usize, T)>,
    /// Bytes of all of them.
    cost: usize,
    /// The moment of the clock by which it will have paid for its first item; without items, for
    /// its last one.
    paid: u64,
    /// Of two that are due at the same moment, who was there first.
    came: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Fair<T> {
    queues: HashMap<Arc<str>, Queue<T>>,
    /// Devices with items, by `paid` and `came`.
    due: BTreeSet<(u64, u64, Arc<str>)>,
    comes: u64,
    /// Devices without, that have not paid yet.
    owing: BTreeSet<(u64, Arc<str>)>,
    clock: u64,
    len: usize,
    cost: usize,
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            queues: HashMap::new(),
            due: BTreeSet::new(),
            comes: 0,
            owing: BTreeSet::new(),
            clock: 0,
            len: 0,
            cost: 0,
        }
    }
}

impl<T> Fair<T> {
    /// Items of all devices.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// How many items wait of this device, and how many bytes.
    #[must_use]
    pub fn of(&self, device: &str) -> (usize, usize) {
        let queue = self.queues.get(device);
        queue.map_or((0, 0), |queue| (queue.items.len(), queue.cost))
    }

    /// The next item of this device.
    #[must_use]
    pub fn first_of(&self, device: &str) -> Option<&T> {
        let (_, item) = self.queues.get(device)?.items.front()?;
        Some(item)
    }

    /// The device with the most bytes. Looks at all of them.
    #[must_use]
    pub fn heaviest(&self) -> Option<Arc<str>> {
        let queues = self.queues.iter();
        let heaviest = queues.max_by(|(a, x), (b, y)| x.cost.cmp(&y.cost).then(a.cmp(b)));
        heaviest.map(|(device, _)| device.clone())
    }

    /// The next item of each device, in no order.
    pub fn heads(&self) -> impl Iterator<Item = &T> {
        let fronts = self.queues.values().filter_map(|queue| queue.items.front());
        fronts.map(|(_, item)| item)
    }

    /// Everything, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let items = self.queues.values().flat_map(|queue| &queue.items);
        items.map(|(cost, item)| (*cost, item))
    }

    /// Puts an item behind the others of its device. `cost`: bytes.
    pub fn push(&mut self, device: &Arc<str>, cost: usize, item: T) {
        let cost = cost.clamp(1, MOST);
        self.len += 1;
        self.cost += cost;
        let clock = self.clock;
        let queue = match self.queues.get_mut(device) {
            Some(queue) => queue,
            None => self.queues.entry(device.clone()).or_insert(Queue {
                items: VecDeque::new(),
                cost: 0,
                paid: clock,
                came: 0,
            }),
        };
        queue.cost += cost;
        queue.items.push_back((cost, item));
        if queue.items.len() == 1 {
            if queue.paid > clock {
                self.owing.remove(&(queue.paid, device.clone()));
            }
            queue.paid = queue.paid.max(clock) + cost as u64;
            self.comes += 1;
            queue.came = self.comes;
            self.due.insert((queue.paid, queue.came, device.clone()));
        }
    }

    /// What [`Fair::pop`] would return.
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        let (_, _, device) = self.due.first()?;
        self.first_of(device)
    }

    /// Takes out the item whose turn it is, and what it counts for.
    pub fn pop(&mut self) -> Option<(usize, T)> {
        let sharing = (self.due.len() + self.owing.len()).max(1) as u64;
        let (paid, _, device) = self.due.pop_first()?;
        let queue = self.queues.get_mut(&device)?;
        let (cost, item) = queue.items.pop_front()?;
        queue.cost -= cost;
        self.len -= 1;
        self.cost -= cost;
        // What goes out now has begun to be paid for by now.
        self.clock = (paid - cost as u64).max(self.clock + cost as u64 / sharing);
        if let Some((next, _)) = queue.items.front() {
            queue.paid += *next as u64;
            self.comes += 1;
            queue.came = self.comes;
            self.due.insert((queue.paid, queue.came, device));
        } else {
            self.owing.insert((paid, device));
        }
        self.settle();
        Some((cost, item))
    }

    /// Forgets who has paid. When nothing waits, nobody owes anybody anything.
    fn settle(&mut self) {
        if self.len == 0 {
            self.queues.clear();
            self.due.clear();
            self.owing.clear();
            self.clock = 0;
        }
        while let Some((paid, _)) = self.owing.first()
            && *paid <= self.clock
            && let Some((_, device)) = self.owing.pop_first()
        {
            self.queues.remove(&device);
        }
    }

    /// After others than the one whose turn it is were taken out: it pays for what is first now.
    fn pays_anew(&mut self, device: &Arc<str>, first: Option<usize>) {
        let Some(queue) = self.queues.get_mut(device) else {
            return;
        };
        let Some(first) = first else { return };
        let now_first = queue.items.front().map(|(cost, _)| *cost);
        if now_first == Some(first) {
            return;
        }
        self.due.remove(&(queue.paid, queue.came, device.clone()));
        queue.paid -= first as u64;
        match now_first {
            Some(now_first) => {
                queue.paid += now_first as u64;
                self.due.insert((queue.paid, queue.came, device.clone()));
            }
            None if queue.paid > self.clock => {
                self.owing.insert((queue.paid, device.clone()));
            }
            None => _ = self.queues.remove(device),
        }
    }

    /// Takes out everything of this device for which `wanted` holds, in order.
    pub fn take_of(&mut self, device: &Arc<str>, mut wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(queue) = self.queues.get_mut(device) else {
            return Vec::new();
        };
        let mut taken = Vec::new();
        let first = queue.items.front().map(|(cost, _)| *cost);
        for (cost, item) in std::mem::take(&mut queue.items) {
            if wanted(&item) {
                queue.cost -= cost;
                self.cost -= cost;
                self.len -= 1;
                taken.push(item);
            } else {
                queue.items.push_back((cost, item));
            }
        }
        self.pays_anew(device, first);
        self.settle();
        taken
    }

    /// Takes out everything, the devices in no order, each device's items in theirs.
    pub fn take_all(&mut self) -> Vec<(usize, T)> {
        let queues = std::mem::take(&mut self.queues);
        *self = Self::default();
        queues.into_values().flat_map(|queue| queue.items).collect()
    }

    /// Keeps the items for which `keeps` holds, which may change them. Returns the others.
    pub fn retain_mut(&mut self, mut keeps: impl FnMut(&mut T) -> bool) -> Vec<T> {
        let mut gone = Vec::new();
        let mut firsts = Vec::new();
        for (device, queue) in &mut self.queues {
            let first = queue.items.front().map(|(cost, _)| *cost);
            let had = queue.items.len();
            for (cost, mut item) in std::mem::take(&mut queue.items) {
                if keeps(&mut item) {
                    queue.items.push_back((cost, item));
                } else {
                    queue.cost -= cost;
                    self.cost -= cost;
                    self.len -= 1;
                    gone.push(item);
                }
            }
            if queue.items.len() < had {
                firsts.push((device.clone(), first));
            }
        }
        for (device, first) in firsts {
            self.pays_anew(&device, first);
        }
        self.settle();
        gone
    }

    /// Panics when a sum is not the sum of its parts.
    pub fn check(&self) {
        let items = || self.queues.values().flat_map(|queue| &queue.items);
        assert_eq!(self.len, items().count(), "items");
        assert_eq!(
            self.cost,
            items().map(|(cost, _)| cost).sum::<usize>(),
            "bytes"
        );
        for (device, queue) in &self.queues {
            let cost: usize = queue.items.iter().map(|(cost, _)| cost).sum();
            assert_eq!(queue.cost, cost, "bytes of a device");
            let key = (queue.paid, queue.came, device.clone());
            assert_eq!(self.due.contains(&key), !queue.items.is_empty(), "its turn");
            let key = (queue.paid, device.clone());
            assert_eq!(
                self.owing.contains(&key),
                queue.items.is_empty(),
                "its debt"
            );
        }
        let devices = self.due.len() + self.owing.len();
        assert_eq!(devices, self.queues.len(), "devices");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn name(device: usize) -> Arc<str> {
        format!("d{device}").into()
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_and_in_the_order_of_its_device(
            ops in prop::collection::vec((0..5usize, 1..100_000usize, 0..12u8), 1..300),
        ) {
            let mut fair = Fair::default();
            let mut model: HashMap<usize, VecDeque<usize>> = HashMap::new();
            for (number, (device, cost, op)) in ops.into_iter().enumerate() {
                match op {
                    0..6 => {
                        fair.push(&name(device), cost, (device, number));
                        model.entry(device).or_default().push_back(number);
                    }
                    6..10 => {
                        let front = fair.front().copied();
                        let popped = fair.pop().map(|(_, item)| item);
                        prop_assert_eq!(front, popped);
                        prop_assert_eq!(popped.is_none(), model.values().all(VecDeque::is_empty));
                        if let Some((device, number)) = popped {
                            prop_assert_eq!(model.get_mut(&device).unwrap().pop_front(), Some(number));
                        }
                    }
                    10 => {
                        let odd = |number: usize| number % 2 == 1;
                        let taken = fair.take_of(&name(device), |(_, number)| odd(*number));
                        let queue = model.entry(device).or_default();
                        let wanted: Vec<_> = queue.iter().copied().filter(|n| odd(*n)).collect();
                        queue.retain(|number| !odd(*number));
                        let taken: Vec<_> = taken.into_iter().map(|(_, number)| number).collect();
                        prop_assert_eq!(taken, wanted);
                    }
                    _ => {
                        let gone = fair.retain_mut(|(_, number)| *number % 3 != 0);
                        let before: usize = model.values().map(VecDeque::len).sum();
                        model.values_mut().for_each(|queue| queue.retain(|n| n % 3 != 0));
                        let after: usize = model.values().map(VecDeque::len).sum();
                        prop_assert_eq!(gone.len(), before - after);
                    }
                }
                fair.check();
            }
        }

        /// While all have something waiting, none gets more than another by more than their
        /// largest items.
        #[test]
        fn devices_that_wait_get_the_same_bytes(
            largest in prop::collection::vec(1..200_000usize, 2..9),
            sizes in prop::collection::vec(1..1_000usize, 50),
        ) {
            let mut fair = Fair::default();
            let size = |device: usize, n: usize| 1 + sizes[n % sizes.len()] * largest[device] / 1_000;
            let mut next = vec![0; largest.len()];
            let mut push = |fair: &mut Fair<usize>, device: usize| {
                fair.push(&name(device), size(device, next[device]), device);
                next[device] += 1;
            };
            (0..largest.len()).for_each(|device| (0..3).for_each(|_| push(&mut fair, device)));
            let mut had = vec![0usize; largest.len()];
            for _ in 0..2_000 {
                let (cost, device) = fair.pop().unwrap();
                had[device] += cost;
                push(&mut fair, device);
                for (a, b) in (0..had.len()).flat_map(|a| (0..had.len()).map(move |b| (a, b))) {
                    let slack = largest[a] + largest[b];
                    prop_assert!(had[a] <= had[b] + 2 * slack, "{had:?}");
                }
            }
        }
    }

    /// Seven devices with as much waiting as they like, in items of up to the largest there is;
    /// one that sends a little now and then. Returns the most bytes of others that went between
    /// an item's coming and its going.
    fn longest_wait(greedy: usize, big: usize, small: usize, every: usize) -> usize {
        let mut fair = Fair::default();
        for device in 0..greedy {
            (0..4).for_each(|_| fair.push(&name(device), big, device));
        }
        let honest = greedy;
        let (mut sent, mut due, mut longest) = (0usize, every, 0);
        let mut came: VecDeque<usize> = VecDeque::new();
        for _ in 0..3_000 {
            while due <= sent {
                fair.push(&name(honest), small, honest);
                came.push_back(due);
                due += every;
            }
            let (cost, device) = fair.pop().unwrap();
            if device == honest {
                longest = longest.max(sent - came.pop_front().unwrap());
            } else {
                fair.push(&name(device), big, device);
            }
            sent += cost;
        }
        longest
    }

    #[test]
    fn a_device_within_its_share_waits_for_one_largest_item_and_as_much_of_others_as_it_sends() {
        for big in [700, 30_000, 800_000, 1 << 20] {
            for small in [200, 2_000, 20_000] {
                let every = big.max(10 * small);
                let wait = longest_wait(7, big, small, every);
                // Its item, and the one before that may not be paid yet.
                let round = 2 * 7 * small;
                assert!(wait <= round + big, "{wait} for {small} beside {big}");
            }
        }
    }
}
