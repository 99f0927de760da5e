//! What a device is told beside its acks and rejects: a few times each, never for ever. Pure.

use crate::protocol::message::{Note, NoteCode};

use super::inbound::{Candidate, Implausible};

/// Notes of one kind in one connection. One may be lost in a log; a device that sends the same
/// fault every second needs no thousandth.
const NOTES: u8 = 3;

/// The notes that a connection may still get.
#[derive(Debug)]
pub(super) struct Notes {
    implausible: u8,
    dropped: u8,
}

impl Default for Notes {
    fn default() -> Self {
        Self {
            implausible: NOTES,
            dropped: NOTES,
        }
    }
}

fn spend(left: &mut u8) -> bool {
    match left.checked_sub(1) {
        Some(fewer) => {
            *left = fewer;
            true
        }
        None => false,
    }
}

impl Notes {
    /// What is to be said of a batch that is taken.
    pub(super) fn about(&mut self, batch: &Candidate) -> Vec<Note> {
        let mut notes = Vec::new();
        if let Some(time) = batch.implausible
            && spend(&mut self.implausible)
        {
            let detail = match time {
                Implausible::Early => {
                    "a time before 2020 was taken and marked: is the clock set, and the time a double in seconds?"
                }
                Implausible::Late => {
                    "a time more than a day ahead of the hub was taken and marked: is it in seconds, and in UTC?"
                }
            };
            notes.push(Note {
                code: NoteCode::ImplausibleTime,
                detail: detail.to_owned(),
                seq: batch.seq,
            });
        }
        if batch.dropped > 0 && spend(&mut self.dropped) {
            let (dropped, first) = (batch.dropped, batch.first_dropped);
            notes.push(Note {
                code: NoteCode::RecordDropped,
                detail: format!(
                    "{dropped} records without a finite value were left out, the first is record {first}"
                ),
                seq: batch.seq,
            });
        }
        notes
    }
}
