//! Events on their way to the intake.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::Event;

/// Hands events over without ever making the uplink wait: an uplink that waits for an intake that
/// waits for the uplink would be the end of both. What does not fit in the channel waits here;
/// the connection counts it against the window, which bounds it.
#[derive(Debug)]
pub(super) struct EventQueue {
    sender: mpsc::Sender<Event>,
    waiting: VecDeque<Event>,
}

impl EventQueue {
    pub(super) fn new(sender: mpsc::Sender<Event>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
        }
    }

    /// Events that the intake has not made room for.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Hands an event over, now or when there is room.
    pub(super) fn push(&mut self, event: Event) {
        if self.waiting.is_empty() {
            match self.sender.try_send(event) {
                // An intake that is gone needs no events; the closing of its submissions ends
                // the uplink.
                Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => return,
                Err(mpsc::error::TrySendError::Full(event)) => self.waiting.push_back(event),
            }
            return;
        }
        if let Event::Down { epoch, .. } = event {
            // Connections that came and went while nobody listened: the last end tells all.
            if self.waiting.back() == Some(&Event::Up { epoch }) {
                self.waiting.pop_back();
            }
            if matches!(self.waiting.back(), Some(Event::Down { .. })) {
                self.waiting.pop_back();
            }
        }
        self.waiting.push_back(event);
    }

    /// Hands over the oldest waiting event once there is room; waits for ever when none waits.
    /// Cancel safe.
    pub(super) async fn hand_over(&mut self) {
        if self.waiting.is_empty() {
            return std::future::pending().await;
        }
        match self.sender.reserve().await {
            Ok(permit) => {
                if let Some(event) = self.waiting.pop_front() {
                    permit.send(event);
                }
            }
            Err(_) => self.waiting.clear(),
        }
    }
}
