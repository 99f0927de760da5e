//! Whose TLS handshake computes next, so that all of them together take a bounded share of the one
//! thread that carries the devices. Pure.
//!
//! A step of a handshake takes a turn, computes, and says how long that took; the next turn comes
//! after a pause of some times as long. Addresses from which a device has got in before go first,
//! and pause less.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// After a step of an address that is known, the thread has as long for everything else: a site
/// whose devices all come back takes half of it.
const PAUSE_KNOWN: u32 = 1;

/// After one of an address that is not, three times as long: whoever sends hellos and never gets in
/// takes a quarter.
const PAUSE_UNKNOWN: u32 = 3;

/// What one step is taken for at most. A step is a signature or two, and even RSA of 4,096 bits takes
/// a small board a third of a second: something else has held up the thread.
const LONGEST: Duration = Duration::from_secs(1);

/// One step that waits or computes.
pub(super) type Step = u64;

/// The order of the steps.
#[derive(Debug)]
pub(super) struct Turns {
    last: Step,
    known: VecDeque<Step>,
    unknown: VecDeque<Step>,
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

impl Turns {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: 0,
            known: VecDeque::new(),
            unknown: VecDeque::new(),
            free_at: now,
        }
    }

    /// A step begins to wait.
    pub(super) fn queue(&mut self, known: bool) -> Step {
        self.last += 1;
        let queue = if known {
            &mut self.known
        } else {
            &mut self.unknown
        };
        queue.push_back(self.last);
        self.last
    }

    /// The step that comes first.
    pub(super) fn first(&self) -> Option<Step> {
        self.known.front().or(self.unknown.front()).copied()
    }

    /// Whether it is this step's turn.
    pub(super) fn ask(&mut self, step: Step, now: Instant) -> Turn {
        if self.first() != Some(step) {
            Turn::Behind
        } else if now < self.free_at {
            Turn::At(self.free_at)
        } else {
            self.leave(step);
            Turn::Now
        }
    }

    /// A step waits no more: it has its turn, or its handshake is over.
    pub(super) fn leave(&mut self, step: Step) {
        // Steps come and go in order, so it stands near the front, unless it was cut off.
        for queue in [&mut self.known, &mut self.unknown] {
            if let Some(at) = queue.iter().position(|waiting| *waiting == step) {
                queue.remove(at);
            }
        }
    }

    /// A step has computed for so long.
    pub(super) fn spent(&mut self, known: bool, took: Duration, now: Instant) {
        let pause = if known { PAUSE_KNOWN } else { PAUSE_UNKNOWN };
        self.free_at = self.free_at.max(now) + took.min(LONGEST) * pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(6);

    /// How much of a second the steps of a crowd compute.
    fn share(known: bool) -> f64 {
        let start = Instant::now();
        let (mut turns, mut now, mut computed) = (Turns::new(start), start, Duration::ZERO);
        for _ in 0..1_000 {
            turns.queue(known);
        }
        while let Some(step) = turns.first() {
            match turns.ask(step, now) {
                Turn::Now => {
                    now += STEP;
                    computed += STEP;
                    turns.spent(known, STEP, now);
                }
                Turn::At(at) => now = at,
                Turn::Behind => unreachable!("it is the first"),
            }
        }
        computed.as_secs_f64() / (now - start).as_secs_f64()
    }

    #[test]
    fn a_crowd_takes_its_share_of_the_thread_and_no_more() {
        assert!((share(false) - 0.25).abs() < 0.01, "{}", share(false));
        assert!((share(true) - 0.5).abs() < 0.01, "{}", share(true));
    }

    #[test]
    fn a_lone_handshake_does_not_wait() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let step = turns.queue(false);
        assert_eq!(turns.ask(step, now), Turn::Now);
        assert_eq!(turns.first(), None);
    }

    #[test]
    fn an_address_that_is_known_waits_for_one_step_of_the_others_at_most() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let crowd: Vec<_> = (0..200).map(|_| turns.queue(false)).collect();
        assert_eq!(turns.ask(crowd[0], now), Turn::Now);
        turns.spent(false, STEP, now);
        let known = turns.queue(true);
        assert_eq!(turns.ask(crowd[1], now + 4 * STEP), Turn::Behind);
        assert_eq!(turns.ask(known, now), Turn::At(now + 3 * STEP));
        assert_eq!(turns.ask(known, now + 3 * STEP), Turn::Now);
        assert_eq!(turns.ask(crowd[1], now + 4 * STEP), Turn::Now);
    }

    #[test]
    fn who_leaves_makes_way_for_the_next() {
        let now = Instant::now();
        let mut turns = Turns::new(now);
        let (first, second) = (turns.queue(false), turns.queue(false));
        assert_eq!(turns.ask(second, now), Turn::Behind);
        turns.leave(first);
        assert_eq!(turns.ask(second, now), Turn::Now);
    }
}
