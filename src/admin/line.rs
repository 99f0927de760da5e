//! What the answers on one connection tell the task that serves it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio::sync::Notify;

/// One connection.
#[derive(Debug, Default)]
pub(super) struct Line {
    events: AtomicBool,
    /// Told when the connection is to be dropped at once: its reader does not keep up, and may
    /// never read again.
    pub(super) cut: Arc<Notify>,
}

impl Line {
    /// An answer without end begins.
    pub(super) fn begin_events(&self) {
        self.events.store(true, Relaxed);
    }

    /// Whether the connection carries one.
    pub(super) fn has_events(&self) -> bool {
        self.events.load(Relaxed)
    }
}
