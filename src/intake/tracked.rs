//! What is known of the items of a stored group.

use std::sync::Arc;

use crate::reading::Item;

/// What became of a stored item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// Still to be published, and not in memory.
    Idle,
    /// At hand, to be published.
    Ready,
    /// Being published, or about to be, from memory.
    Busy,
    /// Expired: in the gap record that is published in the place of this item of the group.
    Covered(u32),
    /// To be replaced by a gap record, which the broker refuses.
    Parked,
    /// PUBACKed.
    Done,
}

/// An item.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) state: SlotState,
    pub(super) batch: bool,
    pub(super) readings: u32,
}

/// A group.
#[derive(Debug, Default)]
pub(super) struct Tracked {
    pub(super) slots: Vec<Slot>,
    /// How many of them are.
    pub(super) done: usize,
}

impl Tracked {
    /// Takes over what was read. A group that turned out damaged holds something else: then
    /// nothing that was known of it is true, and the answer is `false`.
    pub(super) fn fit(&mut self, items: &[Arc<Item>]) -> bool {
        let fits = self.slots.is_empty() || self.slots.len() == items.len();
        if self.slots.len() != items.len() {
            self.done = 0;
            self.slots = items
                .iter()
                .map(|_| Slot {
                    state: SlotState::Idle,
                    batch: false,
                    readings: 0,
                })
                .collect();
        }
        for (slot, item) in self.slots.iter_mut().zip(items) {
            slot.batch = matches!(**item, Item::Batch(_));
            slot.readings = item.readings();
        }
        fits
    }

    /// What is done stays done.
    pub(super) fn set(&mut self, index: u32, state: SlotState) {
        if let Some(slot) = self.slots.get_mut(index as usize)
            && slot.state != SlotState::Done
        {
            slot.state = state;
        }
    }
}
