//! How the spool is divided: pure decisions on sizes, names and room.

use crate::config::Overflow;

/// Bytes of groups in a segment. Small, because sled's memory follows the open data, because
/// space comes back a segment at a time, and because a damaged file costs at most this much.
const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

/// A segment is at most this part of `max_size`, so that dropping the oldest keeps the rest.
const PARTS: u64 = 16;

/// Below this a segment is mostly overhead.
const SEGMENT_BYTES_MIN: u64 = 128 * 1024;

/// What a new segment takes before the first group is in it, and what closing it adds.
pub(super) const SEGMENT_COST: u64 = 256 * 1024;

/// Bytes of a group. One value of the engine holds a group of this size; larger groups gain
/// nothing, smaller ones cost more per byte.
pub(super) const GROUP_BYTES: usize = 32 * 1024;

/// With a small rest: still one value.
const GROUP_BYTES_MAX: usize = GROUP_BYTES * 5 / 4;

/// Bytes of groups in a segment of a spool with this `max_size`.
pub(super) fn segment_bytes(max_size: u64) -> u64 {
    (max_size / PARTS).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES)
}

/// Of a segment, this part is taken ahead at a time. Each step costs about one commit more of the
/// file system's journal (20 kB); at 512 KiB that is nothing beside the thousand small commits that
/// fit in it. A segment with one batch takes no more of the disk than this.
const STEPS: u64 = 8;

/// Bytes that a commit may take ahead of what it writes: a step if that leaves both limits their
/// room, else none. The commit does not depend on it.
pub(super) fn ahead(limits: Limits, space: Space) -> u64 {
    let step = segment_bytes(limits.max_size) / STEPS;
    let more = space.needed + space.workroom + step;
    let fits = space.used.saturating_add(more) <= limits.max_size
        && space.free >= limits.min_free.saturating_add(more);
    if fits { step } else { 0 }
}

/// Bytes on disk of a segment with groups of this size.
pub(super) fn size_of(bytes: u64) -> u64 {
    bytes + bytes / 8 + SEGMENT_COST
}

/// Bytes that are kept free below `max_size` and above `min_free`, so that a segment can be
/// rewritten within both limits. A spool that is too small for it drops whole segments.
pub(super) fn workroom(max_size: u64) -> u64 {
    /// With less, the workroom would be a sixth of it and more.
    const FROM: u64 = 4 * 1024 * 1024;
    if max_size < FROM {
        return 0;
    }
    size_of(segment_bytes(max_size))
}

/// The directory of the segment that begins with this group.
pub(super) fn name(first: u64) -> String {
    format!("gen-{first:016x}")
}

/// The first group of the segment in a directory of this name.
pub(super) fn parse_name(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("gen-")?;
    (digits.len() == 16)
        .then(|| u64::from_str_radix(digits, 16).ok())
        .flatten()
}

/// Cuts a sequence of item weights into groups of about [`GROUP_BYTES`]. Returns the lengths.
/// A rest of less than a quarter goes with the group before it.
pub(super) fn split(weights: impl Iterator<Item = usize> + Clone) -> Vec<usize> {
    let mut groups = Vec::new();
    let mut left: usize = weights.clone().sum();
    let (mut count, mut bytes) = (0, 0);
    for weight in weights {
        let fits = bytes + weight <= GROUP_BYTES || bytes + left <= GROUP_BYTES_MAX;
        if count > 0 && !fits {
            groups.push(count);
            (count, bytes) = (0, 0);
        }
        count += 1;
        bytes += weight;
        left -= weight;
    }
    if count > 0 {
        groups.push(count);
    }
    groups
}

/// The limits that a commit has to fit in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes on disk at most.
    pub(super) max_size: u64,
    /// Bytes of the file system that stay free.
    pub(super) min_free: u64,
    /// What happens when the spool is full.
    pub(super) overflow: Overflow,
}

/// What to do before a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Room {
    /// Go on.
    Enough,
    /// Give up some of the oldest data and ask again.
    Drop,
    /// Do not take the commit; one sentence why.
    Full(String),
}

/// The state of spool and file system before a commit. All in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Space {
    /// What the commit may take.
    pub(super) needed: u64,
    /// What the spool takes.
    pub(super) used: u64,
    /// What the file system has left.
    pub(super) free: u64,
    /// What has been given back already to make room for this commit.
    pub(super) freed: u64,
    /// What giving up may take before it frees anything.
    pub(super) workroom: u64,
    /// Whether any group is left to give up.
    pub(super) droppable: bool,
}

/// Whether a commit may be written.
///
/// When others fill the file system the spool stops growing, but does not give up all it holds
/// for them: a commit that is paid for with as much of the oldest data goes ahead.
pub(super) fn room(limits: Limits, space: Space) -> Room {
    let Space { needed, free, .. } = space;
    let paid = space.freed >= needed && free >= needed;
    let over = |more: u64| space.used.saturating_add(needed + more) > limits.max_size;
    let tight = |more: u64| free < limits.min_free.saturating_add(needed + more) && !paid;
    if !over(space.workroom) && !tight(space.workroom) {
        return Room::Enough;
    }
    if limits.overflow == Overflow::DropOldest && space.droppable {
        return Room::Drop;
    }
    match (over(0), tight(0)) {
        (false, false) => Room::Enough,
        (_, true) => Room::Full(format!(
            "the file system has {free} bytes left and min_free is {}",
            limits.min_free
        )),
        // An empty spool takes at least one commit, however small max_size is.
        (true, false) if !space.droppable => Room::Enough,
        (true, false) => Room::Full(format!(
            "the spool takes {} bytes and max_size is {}",
            space.used, limits.max_size
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(overflow: Overflow) -> Limits {
        Limits {
            max_size: 1_000,
            min_free: 100,
            overflow,
        }
    }

    proptest! {
        #[test]
        fn groups_hold_every_item_once_and_stay_small(weights in proptest::collection::vec(1..100_000usize, 0..100)) {
            let groups = split(weights.iter().copied());
            prop_assert_eq!(groups.iter().sum::<usize>(), weights.len());
            let mut rest = &weights[..];
            for count in groups {
                let (group, after) = rest.split_at(count);
                prop_assert!(count == 1 || group.iter().sum::<usize>() <= GROUP_BYTES_MAX);
                rest = after;
            }
        }

        #[test]
        fn a_segment_is_found_by_its_name(first in any::<u64>()) {
            prop_assert_eq!(parse_name(&name(first)), Some(first));
        }
    }

    #[test]
    fn names_of_copies_are_no_segments() {
        assert_eq!(parse_name("gen-0000000000000001.corrupt-17"), None);
        assert_eq!(parse_name("gen-1"), None);
        assert_eq!(parse_name("marks"), None);
    }

    const SPACE: Space = Space {
        needed: 100,
        used: 900,
        free: 5_000,
        freed: 0,
        workroom: 0,
        droppable: true,
    };

    #[test]
    fn a_full_spool_drops_the_oldest_or_refuses_as_configured() {
        let drop = limits(Overflow::DropOldest);
        let refuse = limits(Overflow::Refuse);
        let over = Space { used: 901, ..SPACE };
        assert_eq!(room(drop, SPACE), Room::Enough);
        assert_eq!(room(drop, over), Room::Drop);
        assert!(matches!(room(refuse, over), Room::Full(_)));
    }

    #[test]
    fn there_is_always_room_to_rewrite_a_segment_while_anything_can_be_dropped() {
        let drop = limits(Overflow::DropOldest);
        let with = |workroom| Space { workroom, ..SPACE };
        assert_eq!(room(drop, with(1)), Room::Drop);
        let tight = Space {
            free: 1_000,
            used: 0,
            ..SPACE
        };
        assert_eq!(
            room(
                drop,
                Space {
                    workroom: 800,
                    ..tight
                }
            ),
            Room::Enough
        );
        assert_eq!(
            room(
                drop,
                Space {
                    workroom: 801,
                    ..tight
                }
            ),
            Room::Drop
        );
        // Nothing left to drop: the room is there to be used.
        let last = Space {
            droppable: false,
            ..with(1_000)
        };
        assert_eq!(room(drop, last), Room::Enough);
    }

    #[test]
    fn a_tight_file_system_is_full_even_with_nothing_left_to_drop() {
        let drop = limits(Overflow::DropOldest);
        let tight = Space { free: 150, ..SPACE };
        assert_eq!(room(drop, tight), Room::Drop);
        let empty = Space {
            droppable: false,
            ..tight
        };
        assert!(matches!(room(drop, empty), Room::Full(_)));
    }

    #[test]
    fn others_filling_the_disk_cost_no_more_old_data_than_the_commit_needs() {
        let paid = Space {
            free: 150,
            freed: 100,
            ..SPACE
        };
        assert_eq!(room(limits(Overflow::DropOldest), paid), Room::Enough);
    }

    #[test]
    fn nothing_is_taken_ahead_that_would_have_to_be_made_room_for() {
        let step = segment_bytes(1 << 30) / STEPS;
        let limits = Limits {
            max_size: 1 << 30,
            min_free: 1 << 20,
            overflow: Overflow::DropOldest,
        };
        let space = Space {
            free: 1 << 30,
            used: limits.max_size - 100 - step,
            ..SPACE
        };
        assert_eq!(ahead(limits, space), step);
        let used = space.used + 1;
        assert_eq!(ahead(limits, Space { used, ..space }), 0);
        let free = limits.min_free + 100 + step;
        assert_eq!(ahead(limits, Space { free, ..space }), step);
        let free = free - 1;
        assert_eq!(ahead(limits, Space { free, ..space }), 0);
        // Nor when the spool is empty and takes one commit for any price.
        let (used, droppable) = (limits.max_size, false);
        assert_eq!(
            ahead(
                limits,
                Space {
                    used,
                    droppable,
                    ..space
                }
            ),
            0
        );
        // What was given up for the commit pays for it, not for this.
        let freed = 100;
        assert_eq!(
            ahead(
                limits,
                Space {
                    free,
                    freed,
                    ..space
                }
            ),
            0
        );
    }

    #[test]
    fn an_empty_spool_takes_a_commit_larger_than_max_size() {
        let large = Space {
            needed: 4_500,
            used: 0,
            droppable: false,
            ..SPACE
        };
        assert_eq!(room(limits(Overflow::DropOldest), large), Room::Enough);
        assert_eq!(room(limits(Overflow::Refuse), large), Room::Enough);
    }
}
