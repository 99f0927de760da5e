//! The highest safe sequence number of every stream, and the next group id: what must outlive
//! the groups themselves.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::tally::{decode_marks, encode_marks};
use super::wire::{Damage, Reader, Writer, seal, unseal};
use crate::reading::Mark;

/// The last character is the version.
pub(super) const MAGIC: [u8; 4] = *b"thm1";

/// Streams that are remembered. Beyond it some are forgotten: a device that resumes such a stream
/// hears a lower number and sends again what the broker has, which is a duplicate that its sequence
/// numbers tell. 65,536 are about 10 MB of memory.
pub(super) const REMEMBERED: usize = 65_536;

/// How many are forgotten at a time, so that finding them is rare.
const FORGOTTEN_AT_ONCE: usize = REMEMBERED / 16;

/// Streams of one device that have a place before those of others: as many as the intake keeps.
const OF_ONE_DEVICE: usize = 16;

/// Numbers that a stream has to reach to be more than a try.
const WORKING: u64 = 16;

/// The table of marks.
#[derive(Debug, Default)]
pub(super) struct Watermarks {
    streams: HashMap<(Arc<str>, Arc<str>), (u64, u64)>,
    moves: u64,
    changed: bool,
}

impl Watermarks {
    /// Raises a mark; a lower number changes nothing.
    pub(super) fn raise(&mut self, mark: Mark) {
        self.moves += 1;
        let entry = self
            .streams
            .entry((mark.device, mark.stream))
            .or_insert((0, 0));
        if mark.seq > entry.0 {
            *entry = (mark.seq, self.moves);
            self.changed = true;
        }
        if self.streams.len() > REMEMBERED {
            self.forget_some();
        }
    }

    /// Forgets first what devices have beyond [`OF_ONE_DEVICE`], then streams that never got far,
    /// then the others, and among equals those that moved longest ago. So a device that opens
    /// streams without end pushes out its own, and made-up devices push out each other.
    fn forget_some(&mut self) {
        let streams = self.streams.iter();
        let mut newest_first: Vec<_> = streams
            .map(|((device, _), (seq, moved))| (&**device, Reverse(*moved), *seq))
            .collect();
        newest_first.sort_unstable();
        let (mut of_device, mut number) = ("", 0);
        let mut ranks = Vec::with_capacity(newest_first.len());
        for (device, Reverse(moved), seq) in newest_first {
            number = if device == of_device { number + 1 } else { 0 };
            of_device = device;
            ranks.push((number < OF_ONE_DEVICE, seq >= WORKING, moved));
        }
        let (first, ..) = ranks.select_nth_unstable(FORGOTTEN_AT_ONCE);
        let forgotten: HashSet<u64> = first.iter().map(|(.., moved)| *moved).collect();
        self.streams
            .retain(|_, (_, moved)| !forgotten.contains(moved));
    }

    /// Whether anything was raised since [`Watermarks::saved`].
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// The table is on disk as it is now.
    pub(super) fn saved(&mut self) {
        self.changed = false;
    }

    /// Every mark, the one that moved longest ago first.
    pub(super) fn all(&self) -> Vec<Mark> {
        let mut entries: Vec<_> = self.streams.iter().collect();
        entries.sort_unstable_by_key(|(_, (_, moved))| *moved);
        entries
            .into_iter()
            .map(|((device, stream), (seq, _))| Mark {
                device: device.clone(),
                stream: stream.clone(),
                seq: *seq,
            })
            .collect()
    }

    /// The bytes of the marks file.
    pub(super) fn to_file(&self, next_id: u64) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u64(next_id);
        encode_marks(&self.all(), &mut writer);
        seal(MAGIC, &writer.0)
    }

    /// The next group id and the marks of a marks file.
    ///
    /// # Errors
    /// [`Damage`] when it is not exactly what was written.
    pub(super) fn read(bytes: &[u8]) -> Result<(u64, Vec<Mark>), Damage> {
        let mut reader = Reader(unseal(MAGIC, bytes)?);
        Ok((reader.u64()?, decode_marks(&mut reader)?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mark(stream: usize, seq: u64) -> Mark {
        Mark {
            device: "d".into(),
            stream: stream.to_string().into(),
            seq,
        }
    }

    #[test]
    fn streams_without_end_push_out_those_of_their_own_device_and_no_others() {
        for seq in [1, WORKING] {
            let mut marks = Watermarks::default();
            for device in 0..1_000 {
                marks.raise(Mark {
                    device: format!("real-{device}").into(),
                    stream: "s".into(),
                    seq: 1,
                });
            }
            for stream in 0..2 * REMEMBERED {
                marks.raise(mark(stream, seq));
            }
            let left = marks.all();
            let real = left.iter().filter(|mark| mark.device.starts_with("real-"));
            assert_eq!(real.count(), 1_000);
            assert!(left.len() <= REMEMBERED);
        }
    }

    #[test]
    fn made_up_devices_push_out_no_mark_of_one_that_works() {
        let mut marks = Watermarks::default();
        let real = Mark {
            device: "real".into(),
            stream: "s".into(),
            seq: WORKING,
        };
        marks.raise(real.clone());
        for device in 0..2 * REMEMBERED {
            marks.raise(Mark {
                device: format!("d-{device}").into(),
                stream: "s".into(),
                seq: 1,
            });
        }
        assert!(marks.all().contains(&real));
    }

    #[test]
    fn a_mark_never_goes_back() {
        let mut marks = Watermarks::default();
        marks.raise(mark(1, 9));
        marks.saved();
        marks.raise(mark(1, 4));
        assert!(!marks.changed());
        assert_eq!(marks.all(), [mark(1, 9)]);
    }

    #[test]
    fn the_file_gives_back_the_table_and_the_next_id() {
        let mut marks = Watermarks::default();
        marks.raise(mark(1, 9));
        marks.raise(mark(2, 3));
        let (next, read) = Watermarks::read(&marks.to_file(77)).unwrap();
        assert_eq!((next, read), (77, marks.all()));
    }

    #[test]
    fn the_streams_that_moved_longest_ago_are_forgotten_first() {
        let mut marks = Watermarks::default();
        for stream in 0..=REMEMBERED {
            marks.raise(mark(stream, 1));
            marks.raise(mark(0, stream as u64 + 1));
        }
        let kept = marks.all();
        assert!(kept.len() <= REMEMBERED && kept.len() > REMEMBERED / 2);
        assert!(kept.iter().any(|mark| &*mark.stream == "0"));
        assert!(!kept.iter().any(|mark| &*mark.stream == "1"));
    }
}
