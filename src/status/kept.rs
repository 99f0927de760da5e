//! The last batch of each device, as its frame, for whoever asks what a device says.
//!
//! It is kept whether or not anybody watches: who looks after a silent device wants its last
//! words. The bytes go into the same buffer each time, which is a lock and a copy of a few hundred
//! bytes for a batch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

use crate::clock;
use crate::reading::{Batch, Encoding, Moment};

/// Bytes of last batches that are kept of all devices together. 1,000 devices with batches of
/// 300 bytes take a fourteenth. A device whose batch does not fit is shown without.
pub const KEPT_BYTES: usize = 4 << 20;

/// A batch as it came.
#[derive(Debug, Clone, PartialEq)]
pub struct Last {
    /// Unix seconds.
    pub received: f64,
    /// Of the frame.
    pub encoding: Encoding,
    /// A `data` message or a bare pack that decodes and resolves.
    pub frame: Bytes,
}

/// Room for one device's last batch.
#[derive(Debug)]
pub(super) struct Kept {
    /// Bytes of all rooms.
    total: Arc<AtomicUsize>,
    received: Moment,
    encoding: Encoding,
    frame: Vec<u8>,
}

impl Kept {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self {
            total,
            received: Moment::at(0.0),
            encoding: Encoding::Cbor,
            frame: Vec::new(),
        }
    }

    pub(super) fn put(&mut self, batch: &Batch) {
        self.frame.clear();
        let (has, needs) = (self.frame.capacity(), batch.frame.len());
        if needs > has {
            if self.total.load(Relaxed) + needs - has > KEPT_BYTES {
                self.give_back();
                return;
            }
            self.frame.reserve_exact(needs);
            self.total.fetch_add(self.frame.capacity() - has, Relaxed);
        }
        self.frame.extend_from_slice(&batch.frame);
        (self.received, self.encoding) = (batch.received, batch.encoding);
    }

    pub(super) fn get(&self) -> Option<Last> {
        (!self.frame.is_empty()).then(|| Last {
            received: clock::corrected(self.received).wall,
            encoding: self.encoding,
            frame: Bytes::copy_from_slice(&self.frame),
        })
    }

    fn give_back(&mut self) {
        self.total.fetch_sub(self.frame.capacity(), Relaxed);
        self.frame = Vec::new();
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn batch(bytes: usize) -> Batch {
        Batch {
            device: "cow".into(),
            stream: "s".into(),
            seq: None,
            received: Moment::at(5.0),
            readings: 1,
            encoding: Encoding::Json,
            frame: vec![b'x'; bytes].into(),
        }
    }

    #[test]
    fn what_is_kept_is_bounded_over_all_devices_and_given_back() {
        let total = Arc::new(AtomicUsize::new(0));
        let mut first = Kept::new(total.clone());
        assert_eq!(first.get(), None);
        first.put(&batch(KEPT_BYTES - 100));
        let mut second = Kept::new(total.clone());
        second.put(&batch(100));
        assert_eq!(second.get().unwrap().frame.len(), 100);
        second.put(&batch(101));
        assert_eq!(second.get(), None, "there is no room for it");
        drop(first);
        second.put(&batch(101));
        let last = second.get().unwrap();
        assert_eq!((last.received, last.encoding), (5.0, Encoding::Json));
        second.put(&batch(7));
        assert_eq!(second.get().unwrap().frame.len(), 7);
        drop(second);
        assert_eq!(total.load(Relaxed), 0);
    }
}
