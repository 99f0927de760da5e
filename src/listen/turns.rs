//! Whose TLS handshake computes next, so that all of them together take a bounded share of the one
//! thread that carries the devices. Pure.
//!
//! A step of a handshake takes a turn, computes, and says how long that took; the next turn comes
//! after a pause of some times as long. Addresses from which a device has got in before go first,
//! and pause less. Of the others the one goes first for which least has been computed lately: whoever
//! sends hellos without end waits for everybody who does not.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::hash::Hash;
use std::time::{Duration, Instant};

use crate::lru::Lru;

/// After a step of an address that is known, the thread has as long for everything else: a site
/// whose devices all come back takes half of it.
const PAUSE_KNOWN: u32 = 1;

/// After one of an address that is not, three times as long: whoever sends hellos and never gets in
/// takes a quarter.
const PAUSE_UNKNOWN: u32 = 3;

/// What one step is taken for at most. A step is a signature or two, and even RSA of 4,096 bits takes
/// a small board a third of a second: something else has held up the thread.
const LONGEST: Duration = Duration::from_secs(1);

/// Addresses whose account is kept: more than may have a handshake under way.
const ACCOUNTS: usize = 1_024;

/// An address that has not asked for so long has a clean account.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// One step that waits or computes.
pub(super) type Step = u64;

/// For whom a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller<K> {
    /// A device has got in from there before.
    Known,
    /// Nobody has.
    Unknown(K),
}

/// What an unknown address has waiting, and what was computed for it.
#[derive(Debug)]
struct Account {
    waiting: VecDeque<Step>,
    computed: Duration,
    last: Instant,
}

/// The order of the steps.
#[derive(Debug)]
pub(super) struct Turns<K> {
    last: Step,
    known: VecDeque<Step>,
    accounts: HashMap<K, Account>,
    /// Of those with something waiting: what was computed, and the first step.
    order: BTreeSet<(Duration, Step, K)>,
    /// Those with nothing waiting, for who is forgotten.
    idle: Lru<K>,
    /// When the next may compute.
    free_at: Instant,
}

/// What a step that asks has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Compute now. It waits no more.
    Now,
    /// Ask again at this time: it is the first.
    At(Instant),
    /// Ask again when it is told to: others come first.
    Behind,
}

impl<K: Copy + Eq + Hash + Ord> Turns<K> {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: 0,
            known: VecDeque::new(),
            accounts: HashMap::new(),
            order: BTreeSet::new(),
            idle: Lru::default(),
            free_at: now,
        }
    }

    /// A step begins to wait.
    pub(super) fn queue(&mut self, caller: Caller<K>, now: Instant) -> Step {
        self.last += 1;
        let step = self.last;
        match caller {
            Caller::Known => self.known.push_back(step),
            Caller::Unknown(address) => {
                self.take_out(address);
                let account = self.account(address, now);
                account.waiting.push_back(step);
                self.put_in(address);
            }
        }
        step
    }

    fn account(&mut self, address: K, now: Instant) -> &mut Account {
        let account = self.accounts.entry(address).or_insert(Account {
            waiting: VecDeque::new(),
            computed: Duration::ZERO,
            last: now,
        });
        if now.saturating_duration_since(account.last) > FORGOTTEN_AFTER {
            account.computed = Duration::ZERO;
        }
        account.last = now;
        account
    }

    /// Before its account changes: it has no place in the order.
    fn take_out(&mut self, address: K) {
        self.idle.remove(&address);
        if let Some(account) = self.accounts.get(&address)
            && let Some(first) = account.waiting.front()
        {
            self.order.remove(&(account.computed, *first, address));
        }
    }

    /// After it has changed. Forgets another where there are too many.
    fn put_in(&mut self, address: K) {
        let Some(account) = self.accounts.get(&address) else {
            return;
        };
        match account.waiting.front() {
            Some(first) => _ = self.order.insert((account.computed, *first, address)),
            None => self.idle.touch(&address, 0),
        }
        while self.accounts.len() > ACCOUNTS
            && let Some(oldest) = self.idle.first().copied()
        {
            self.idle.remove(&oldest);
            self.accounts.remove(&oldest);
        }
    }

    /// The step that comes first.
    pub(super) fn first(&self) -> Option<Step> {
        let unknown = self.order.first().map(|(_, step, _)| *step);
        self.known.front().copied().or(unknown)
    }

    /// Whether it is this step's turn.
    pub(super) fn ask(&mut self, step: Step, caller: Caller<K>, now: Instant) -> Turn {
        if self.first() != Some(step) {
            Turn::Behind
        } else if now < self.free_at {
            Turn::At(self.free_at)
        } else {
            self.leave(step, caller);
            Turn::Now
        }
    }

    /// A step waits no more: it has its turn, or its handshake is over.
    pub(super) fn leave(&mut self, step: Step, caller: Caller<K>) {
        match caller {
            Caller::Known => drop_step(&mut self.known, step),
            Caller::Unknown(address) => {
                self.take_out(address);
                if let Some(account) = self.accounts.get_mut(&address) {
                    drop_step(&mut account.waiting, step);
                }
                self.put_in(address);
            }
        }
    }

    /// A step has computed for so long.
    pub(super) fn spent(&mut self, caller: Caller<K>, took: Duration, now: Instant) {
        let took = took.min(LONGEST);
        let pause = match caller {
            Caller::Known => PAUSE_KNOWN,
            Caller::Unknown(address) => {
                self.take_out(address);
                self.account(address, now).computed += took;
                self.put_in(address);
                PAUSE_UNKNOWN
            }
        };
        self.free_at = self.free_at.max(now) + took * pause;
    }
}

/// Steps come and go in order, so it stands near the front, unless it was cut off.
fn drop_step(queue: &mut VecDeque<Step>, step: Step) {
    if let Some(at) = queue.iter().position(|waiting| *waiting == step) {
        queue.remove(at);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CROWD: Caller<u32> = Caller::Unknown(1);

    const STEP: Duration = Duration::from_millis(6);

    /// How much of a second the steps of a crowd compute.
    fn share(caller: Caller<u32>) -> f64 {
        let start = Instant::now();
        let (mut turns, mut now, mut computed) = (Turns::new(start), start, Duration::ZERO);
        for _ in 0..1_000 {
            turns.queue(caller, now);
        }
        while let Some(step) = turns.first() {
            match turns.ask(step, caller, now) {
                Turn::Now => {
                    now += STEP;
                    computed += STEP;
                    turns.spent(caller, STEP, now);
                }
                Turn::At(at) => now = at,
                Turn::Behind => unreachable!("it is the first"),
            }
        }
        computed.as_secs_f64() / (now - start).as_secs_f64()
    }

    #[test]
    fn a_crowd_takes_its_share_of_the_thread_and_no_more() {
        assert!((share(CROWD) - 0.25).abs() < 0.01, "{}", share(CROWD));
        assert!(
            (share(Caller::Known) - 0.5).abs() < 0.01,
            "{}",
            share(Caller::Known)
        );
    }

    #[test]
    fn a_lone_handshake_does_not_wait() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let step = turns.queue(CROWD, now);
        assert_eq!(turns.ask(step, CROWD, now), Turn::Now);
        assert_eq!(turns.first(), None);
    }

    #[test]
    fn an_address_that_is_known_waits_for_one_step_of_the_others_at_most() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let crowd: Vec<_> = (0..200).map(|_| turns.queue(CROWD, now)).collect();
        assert_eq!(turns.ask(crowd[0], CROWD, now), Turn::Now);
        turns.spent(CROWD, STEP, now);
        let known = turns.queue(Caller::Known, now);
        assert_eq!(turns.ask(crowd[1], CROWD, now + 4 * STEP), Turn::Behind);
        assert_eq!(
            turns.ask(known, Caller::Known, now),
            Turn::At(now + 3 * STEP)
        );
        assert_eq!(turns.ask(known, Caller::Known, now + 3 * STEP), Turn::Now);
        assert_eq!(turns.ask(crowd[1], CROWD, now + 4 * STEP), Turn::Now);
    }

    #[test]
    fn who_leaves_makes_way_for_the_next() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let (first, second) = (turns.queue(CROWD, now), turns.queue(CROWD, now));
        assert_eq!(turns.ask(second, CROWD, now), Turn::Behind);
        turns.leave(first, CROWD);
        assert_eq!(turns.ask(second, CROWD, now), Turn::Now);
    }

    #[test]
    fn a_new_address_goes_before_all_for_whom_more_was_computed() {
        let mut now = Instant::now();
        let mut turns = Turns::new(now);
        let crowd: Vec<Caller<u32>> = (0..250).map(Caller::Unknown).collect();
        for caller in &crowd {
            turns.queue(*caller, now);
            turns.queue(*caller, now);
        }
        // Each of them has had one turn.
        for caller in &crowd {
            let first = turns.first().unwrap();
            now = now.max(turns.free_at);
            assert_eq!(turns.ask(first, *caller, now), Turn::Now);
            turns.spent(*caller, STEP, now);
        }
        let newcomer = Caller::Unknown(1_000);
        let step = turns.queue(newcomer, now);
        assert_eq!(turns.first(), Some(step));
        now = turns.free_at;
        assert_eq!(turns.ask(step, newcomer, now), Turn::Now);
        turns.spent(newcomer, STEP, now);
        // Its second step waits for those for whom as much was computed, and no longer.
        let step = turns.queue(newcomer, now);
        for _ in &crowd {
            let first = turns.first().unwrap();
            assert_ne!(first, step);
            let caller = crowd[usize::try_from((first - 1) / 2).unwrap()];
            now = turns.free_at;
            assert_eq!(turns.ask(first, caller, now), Turn::Now);
            turns.spent(caller, STEP, now);
            turns.queue(caller, now);
        }
        assert_eq!(turns.first(), Some(step));
    }

    #[test]
    fn accounts_are_bounded_and_forgotten_after_a_while() {
        let mut now = Instant::now();
        let mut turns = Turns::new(now);
        for address in 0..10 * u32::try_from(ACCOUNTS).unwrap() {
            let caller = Caller::Unknown(address);
            let step = turns.queue(caller, now);
            turns.spent(caller, STEP, now);
            turns.leave(step, caller);
            assert!(turns.accounts.len() <= ACCOUNTS);
        }
        assert!(turns.order.is_empty());
        let old = Caller::Unknown(10 * u32::try_from(ACCOUNTS).unwrap() - 1);
        now += FORGOTTEN_AFTER + STEP;
        let other = Caller::Unknown(0);
        let (first, second) = (turns.queue(old, now), turns.queue(other, now));
        assert_eq!(turns.first(), Some(first), "its account is clean");
        turns.leave(first, old);
        assert_eq!(turns.first(), Some(second));
    }
}
