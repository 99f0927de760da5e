//! Commands that the operator asks for at the admin listener, and who waits there for their end.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use super::answer::State;
use super::request::Request;

/// Requests that may wait for their end at a time: a few people and scripts. Each holds one of the
/// admin listener's connections, of which there are four times as many.
pub const ASKING: usize = 16;

/// One request.
#[derive(Debug)]
pub struct Asking {
    /// The device's id, as it was written.
    pub device: Arc<str>,
    /// The command, as it was written.
    pub name: Arc<str>,
    /// What is asked.
    pub request: Request,
    /// Where its end is told. Dropped by the other side: nobody waits any more.
    pub end: oneshot::Sender<Told>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Told {
    /// A final one.
    pub state: State,
    /// The payload of `…/result/{name}`, in JSON.
    pub answer: Vec<u8>,
}

/// The operator's way into the room.
pub type AskPort = mpsc::Sender<Asking>;

/// Those who wait, by the numbers that the decider knows them by.
#[derive(Debug, Default)]
pub(super) struct Callers {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Told>>,
}

impl Callers {
    /// One more, and its number.
    pub(super) fn enter(&mut self, end: oneshot::Sender<Told>) -> u64 {
        self.last += 1;
        self.waiting.insert(self.last, end);
        self.last
    }

    /// Tells one of them.
    pub(super) fn tell(&mut self, caller: u64, told: Told) {
        if let Some(end) = self.waiting.remove(&caller) {
            // An error means that nobody waits any more.
            let _ = end.send(told);
        }
    }

    /// Takes out those who have hung up, so that they keep no place of another who asks for the
    /// same command.
    pub(super) fn take_gone(&mut self) -> Vec<u64> {
        let gone = self.waiting.extract_if(|_, end| end.is_closed());
        gone.map(|(caller, _)| caller).collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn everyone_who_waits_is_told_once_and_who_hung_up_is_found_once() {
        let mut callers = Callers::default();
        let (end, mut heard) = oneshot::channel();
        let stays = callers.enter(end);
        let (end, hangs_up) = oneshot::channel();
        let gone = callers.enter(end);
        drop(hangs_up);
        assert_eq!(callers.take_gone(), [gone]);
        assert!(callers.take_gone().is_empty());
        let told = |answer: &[u8]| Told {
            state: State::Done,
            answer: answer.to_vec(),
        };
        callers.tell(gone, told(b"1"));
        callers.tell(stays, told(b"2"));
        callers.tell(stays, told(b"3"));
        assert_eq!(heard.try_recv().unwrap().answer, b"2");
        assert!(callers.waiting.is_empty());
    }
}
