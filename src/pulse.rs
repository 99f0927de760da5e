//! Whether the parts of the hub still make progress: the watchdog asks, each of them answers.
//!
//! A task answers from its own loop, so that an answer means that the loop goes round. A thread
//! that blocks in the disk cannot answer; its [`Work`] says what it is busy with instead. Nobody
//! does anything for this while nobody asks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use tokio::sync::{Notify, watch};

/// The asking end.
#[derive(Debug)]
pub struct Heart {
    round: watch::Sender<u64>,
    parts: Vec<(&'static str, Arc<AtomicU64>)>,
    answered: Arc<Notify>,
}

impl Default for Heart {
    fn default() -> Self {
        Self {
            round: watch::channel(0).0,
            parts: Vec::new(),
            answered: Arc::default(),
        }
    }
}

impl Heart {
    /// The answering end for one more part, which has to answer from now on.
    pub fn pulse(&mut self, part: &'static str) -> Pulse {
        let last = Arc::new(AtomicU64::new(*self.round.borrow()));
        self.parts.push((part, last.clone()));
        Pulse {
            part,
            round: Some(self.round.subscribe()),
            last,
            answered: self.answered.clone(),
        }
    }

    /// Asks every part.
    pub fn ask(&self) {
        self.round.send_modify(|round| *round += 1);
    }

    /// The parts that have not answered the last question.
    #[must_use]
    pub fn silent(&self) -> Vec<&'static str> {
        let round = *self.round.borrow();
        let late = |(_, last): &&(&'static str, Arc<AtomicU64>)| last.load(SeqCst) < round;
        self.parts.iter().filter(late).map(|part| part.0).collect()
    }

    /// Returns once a part has answered since the last call. Cancel safe.
    pub async fn answered(&self) {
        self.answered.notified().await;
    }
}

/// One part's answering end. The default is asked nothing; clones answer for the same part.
#[derive(Debug, Clone, Default)]
pub struct Pulse {
    part: &'static str,
    round: Option<watch::Receiver<u64>>,
    last: Arc<AtomicU64>,
    answered: Arc<Notify>,
}

impl Pulse {
    /// Returns when there is a question that has no answer yet. Cancel safe.
    pub async fn asked(&mut self) {
        if let Some(round) = &mut self.round {
            let last = self.last.load(SeqCst);
            if round.wait_for(|round| *round > last).await.is_ok() {
                return;
            }
        }
        // Nobody asks (any more).
        std::future::pending().await
    }

    /// Answers. To be awaited by the loop itself, not beside it.
    pub async fn answer(&mut self) {
        if stall::asked_for(self.part) {
            std::future::pending::<()>().await;
        }
        if let Some(round) = &self.round {
            self.last.store(*round.borrow(), SeqCst);
            self.answered.notify_one();
        }
    }
}

/// What a thread that blocks is busy with: nothing, or its n-th piece of work.
#[derive(Debug, Clone, Default)]
pub struct Work(Arc<(AtomicU64, AtomicU64)>);

impl Work {
    /// Does one piece of work.
    pub fn busy<T>(&self, work: impl FnOnce() -> T) -> T {
        self.0.0.fetch_add(1, SeqCst);
        while stall::asked_for("the spool") {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let result = work();
        self.0.1.fetch_add(1, SeqCst);
        result
    }

    /// The number of the piece that is being worked on.
    #[must_use]
    pub fn present(&self) -> Option<u64> {
        let done = self.0.1.load(SeqCst);
        let begun = self.0.0.load(SeqCst);
        (begun > done).then_some(begun)
    }
}

/// For tests of the watchdog, in debug builds only: `TELEHUB_STALL=FILE` names a file, and the
/// part whose name is written there stops for good, or in a thread until the file is gone.
#[cfg(debug_assertions)]
mod stall {
    use std::ffi::OsString;
    use std::sync::OnceLock;

    pub(super) fn asked_for(part: &str) -> bool {
        static FILE: OnceLock<Option<OsString>> = OnceLock::new();
        let file = FILE.get_or_init(|| std::env::var_os("TELEHUB_STALL"));
        let text = file.as_ref().map(std::fs::read_to_string);
        text.is_some_and(|text| text.is_ok_and(|text| text.trim() == part))
    }
}

#[cfg(not(debug_assertions))]
mod stall {
    pub(super) fn asked_for(_: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_is_silent_from_the_question_to_its_own_answer() {
        let mut heart = Heart::default();
        let (mut a, mut b) = (heart.pulse("a"), heart.pulse("b"));
        assert!(heart.silent().is_empty(), "nobody was asked");
        heart.ask();
        assert_eq!(heart.silent(), ["a", "b"]);
        a.asked().await;
        a.answer().await;
        heart.answered().await;
        assert_eq!(heart.silent(), ["b"]);
        heart.ask();
        b.asked().await;
        b.answer().await;
        assert_eq!(heart.silent(), ["a"], "an answer is for the last question");
        let again = tokio::time::timeout(std::time::Duration::from_millis(1), b.asked());
        assert!(again.await.is_err(), "answered once, asked no more");
    }

    #[tokio::test]
    async fn who_is_asked_by_nobody_waits_for_ever() {
        let nobody = async { Pulse::default().asked().await };
        let soon = std::time::Duration::from_millis(1);
        assert!(tokio::time::timeout(soon, nobody).await.is_err());
        let mut heart = Heart::default();
        let mut pulse = heart.pulse("a");
        drop(heart);
        assert!(tokio::time::timeout(soon, pulse.asked()).await.is_err());
    }

    #[test]
    fn work_is_present_while_it_lasts() {
        let work = Work::default();
        assert_eq!(work.present(), None);
        assert_eq!(work.busy(|| work.present()), Some(1));
        assert_eq!(work.present(), None);
        assert_eq!(work.busy(|| work.present()), Some(2));
    }
}
