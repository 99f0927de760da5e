//! One round of the watchdog: has everybody shown progress since it began? Pure.
//!
//! The spool's thread is busy with one piece of work at a time and cannot answer meanwhile. Waiting
//! for the disk is not its fault, and killing the hub would not mend the disk: it counts as
//! progress. What is left is a thread that computes for ever, or waits for something that is no
//! disk: a fault of ours.

/// What is seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// The piece of work that the spool's thread is busy with.
    pub(super) work: Option<u64>,
    /// A thread of the process waits in the kernel for a disk.
    pub(super) waits: bool,
    /// Bytes that the process has read from and written to disks, in all.
    pub(super) moved: u64,
}

/// A round that has begun.
#[derive(Debug)]
pub(super) struct Round {
    work: Option<u64>,
    moved: u64,
}

impl Round {
    pub(super) fn begin(sample: Sample) -> Self {
        Self {
            work: sample.work,
            moved: sample.moved,
        }
    }

    /// Whether the spool has shown progress.
    pub(super) fn spool_is_well(&self, now: Sample) -> bool {
        now.work.is_none() || now.work != self.work || now.waits || now.moved != self.moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Sample = Sample {
        work: None,
        waits: false,
        moved: 5,
    };
    const BUSY: Sample = Sample {
        work: Some(7),
        ..IDLE
    };

    #[test]
    fn a_thread_that_computes_for_ever_is_stuck_and_nothing_else_is() {
        let well = |first, now| Round::begin(first).spool_is_well(now);
        assert!(well(IDLE, IDLE), "an idle hub");
        assert!(well(BUSY, IDLE), "done");
        assert!(
            well(
                BUSY,
                Sample {
                    work: Some(8),
                    ..BUSY
                }
            ),
            "at the next"
        );
        assert!(
            well(
                BUSY,
                Sample {
                    waits: true,
                    ..BUSY
                }
            ),
            "the disk hangs"
        );
        assert!(well(BUSY, Sample { moved: 6, ..BUSY }), "the disk is slow");
        assert!(!well(BUSY, BUSY));
    }
}
