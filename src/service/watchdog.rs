//! Tells systemd that the hub is well as long as it is.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::Manager;
use super::evidence::sample;
use super::round::Round;
use crate::pulse::{Heart, Work};
use crate::stop::Stop;

/// Rounds in the time that systemd allows: one may be late on a busy board, and a part that is
/// slow for a moment gets three quarters of the time to answer.
const ROUNDS: u32 = 4;

/// How often the spool's thread is looked at while it is not known to make progress. Short, for a
/// healthy one is at the next piece of work by then.
const LOOK: Duration = Duration::from_millis(200);

/// Asks every part and feeds the watchdog with their answers, until the stop is asked for. What
/// feeds is that all of them answered, so that a part that stops is noticed within the time that
/// systemd allows, counted from when it stopped.
pub async fn feed(manager: Manager, heart: Heart, work: Work, mut stop: Stop) {
    let Some(timeout) = manager.watchdog() else {
        return;
    };
    let every = timeout / ROUNDS;
    tracing::debug!(?timeout, "watchdog");
    loop {
        let next = Instant::now() + every;
        tokio::select! {
            () = round(&heart, &work, every) => manager.well(),
            () = stop.requested() => return,
        }
        tokio::select! {
            () = sleep_until(next) => {}
            () = stop.requested() => return,
        }
    }
}

/// Returns once everybody has shown progress. Says so when that takes longer than `patience`.
async fn round(heart: &Heart, work: &Work, patience: Duration) {
    let begun = Instant::now();
    let mut said = false;
    heart.ask();
    let round = Round::begin(sample(work));
    loop {
        let mut silent = heart.silent();
        if !round.spool_is_well(sample(work)) {
            silent.push("the spool");
        }
        if silent.is_empty() {
            if said {
                tracing::info!("every part of the hub answers again");
            }
            return;
        }
        if !said && begun.elapsed() >= patience {
            said = true;
            let parts = silent.join(", ");
            tracing::error!(
                parts,
                "a part of the hub makes no progress; if it stays so, systemd ends the hub and starts it again"
            );
        }
        tokio::select! {
            () = heart.answered() => {}
            () = sleep(LOOK) => {}
        }
    }
}
