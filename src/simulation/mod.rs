//! A deterministic simulation of intake, spool and uplink.
//!
//! The real code runs in one thread and in simulated time: the intake's task with its lanes, the
//! spool's thread without the thread, the uplink's task with its ledger. Around it are a disk in
//! memory, which loses what was not synced, tears it, fills up and fails; a broker that is slow,
//! hangs, hangs up and goes away; devices that send again what was not acked; a scheduler that
//! draws every delay and every fault from the seed. One seed is one history, always the same.
//!
//! What is checked, at every step where it can be and else at the end, after the world has been
//! well for a while: P1 to P5 of `truth`, that everything drains, that an idle hub stops in order,
//! and that a new start after that publishes nothing again.
//!
//! ```text
//! SIM_SEED=17 SIM_TRACE=1000000 cargo test --lib simulation::tests::many      # replays one
//! SIM_SEED=17 SIM_LOG=1 cargo test --lib simulation::tests::many -- --nocapture   # with the log
//! SIM_SEEDS=1000000 cargo test --profile sim --lib simulation::tests::many_histories
//! ```
#![allow(clippy::unwrap_used)]

mod device;
mod faults;
mod hub;
mod plan;
mod trace;
mod truth;
mod world;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::world::World;
use crate::clock;
use crate::spool::simulated::medium::install;

/// A fault of the hub that is put in on purpose: each must be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// A commit is acked without a sync.
    NoDataSync,
    /// Directories are not synced.
    NoDirSync,
    /// A batch is acked when it is queued.
    AckOnQueue,
    /// A publish counts as PUBACKed when it is sent.
    PubackOnSend,
    /// The marks are not read at the start.
    ForgetMarks,
    /// New batches wait behind the backlog.
    BacklogFirst,
    /// A gap record counts one batch too few.
    WrongGap,
    /// A result is acked when its answer is queued.
    AckResultOnQueue,
}

/// What histories have met, so that it can be seen that they meet everything.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stats {
    pub(crate) batches: u64,
    pub(crate) arrived: u64,
    pub(crate) again: u64,
    pub(crate) timely: u64,
    pub(crate) faults: u64,
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) stops: u64,
    pub(crate) connects: u64,
    pub(crate) cuts: u64,
    pub(crate) poison_hang_ups: u64,
    pub(crate) refusals: u64,
    pub(crate) commits: u64,
    pub(crate) failed_commits: u64,
    pub(crate) dropped: u64,
    pub(crate) thinnings: u64,
    pub(crate) gaps: u64,
    pub(crate) refused: u64,
    pub(crate) held_back: u64,
    pub(crate) damaged: u64,
    pub(crate) disk_errors: u64,
    /// Commands that reached a hub, answers that were made, and results that were acked.
    pub(crate) asked: u64,
    pub(crate) answers: u64,
    pub(crate) results: u64,
    pub(crate) events: u64,
    /// Simulated.
    pub(crate) seconds: u64,
}

impl Stats {
    fn fields(&mut self) -> [(&'static str, &mut u64); 26] {
        [
            ("batches", &mut self.batches),
            ("arrived", &mut self.arrived),
            ("again", &mut self.again),
            ("timely", &mut self.timely),
            ("faults", &mut self.faults),
            ("kills", &mut self.kills),
            ("power cuts", &mut self.power_cuts),
            ("stops", &mut self.stops),
            ("connects", &mut self.connects),
            ("cuts", &mut self.cuts),
            ("poison hang-ups", &mut self.poison_hang_ups),
            ("refusals", &mut self.refusals),
            ("commits", &mut self.commits),
            ("failed commits", &mut self.failed_commits),
            ("dropped", &mut self.dropped),
            ("thinnings", &mut self.thinnings),
            ("gaps", &mut self.gaps),
            ("refused", &mut self.refused),
            ("held back", &mut self.held_back),
            ("damaged", &mut self.damaged),
            ("disk errors", &mut self.disk_errors),
            ("commands", &mut self.asked),
            ("answers", &mut self.answers),
            ("results", &mut self.results),
            ("events", &mut self.events),
            ("seconds", &mut self.seconds),
        ]
    }

    fn add(&mut self, mut other: Self) {
        for ((_, sum), (_, more)) in self.fields().into_iter().zip(other.fields()) {
            *sum += *more;
        }
    }
}

/// A history, told.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// Of everything that happened.
    pub(crate) hash: u64,
    pub(crate) stats: Stats,
    /// The promise that was broken, if one was, and the last events before that.
    pub(crate) broken: Option<(String, String)>,
}

/// Lives through the history of a seed.
pub(crate) fn history(seed: u64, mutation: Option<Mutation>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let outcome = runtime.block_on(async {
        let mut world = World::new(seed, mutation);
        let mut lived = Box::pin(world.live());
        let result = std::future::poll_fn(|cx| {
            let polled = catch_unwind(AssertUnwindSafe(|| lived.as_mut().poll(cx)));
            polled.unwrap_or_else(|panic| {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
                let text = text.unwrap_or_default();
                std::task::Poll::Ready(Err(format!("panic: {text}")))
            })
        })
        .await;
        drop(lived);
        world.told(result)
    });
    install(None);
    clock::simulated::set(None);
    outcome
}
