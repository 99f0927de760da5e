//! The uplink: publishes to the broker and says exactly which publish was acknowledged.
//!
//! The uplink keeps nothing across connections: when one ends, everything that it had not
//! acknowledged is the intake's again.

use std::sync::Arc;

use crate::reading::{Item, Lane};

/// One publish that the intake asks for.
#[derive(Debug)]
pub struct Submission {
    /// The connection that it is meant for, as told by [`Event::Up`]. A submission for a
    /// connection that has ended is dropped without an answer.
    pub epoch: u64,
    /// The intake's name for it.
    pub token: u64,
    /// Decides the topic.
    pub lane: Lane,
    /// What to publish.
    pub item: Arc<Item>,
}

/// What the uplink tells the intake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Connected: submissions for this epoch are taken, at most `inflight` counted from the
    /// oldest unacknowledged one.
    Up {
        /// Grows with every connection.
        epoch: u64,
    },
    /// The connection ended, or could not be made. Nothing that was submitted for this epoch
    /// will be acknowledged any more.
    Down {
        /// The epoch that ended; the last one again when a connect failed.
        epoch: u64,
        /// One sentence for the log and the status.
        error: String,
    },
    /// The broker has acknowledged this publish (PUBACK).
    Acked {
        /// Of the submission.
        epoch: u64,
        /// Of the submission.
        token: u64,
    },
    /// This item cannot be published at all: it does not decode, or is larger than any broker
    /// takes. The connection is unharmed.
    Unpublishable {
        /// Of the submission.
        epoch: u64,
        /// Of the submission.
        token: u64,
        /// One sentence.
        error: String,
    },
}
