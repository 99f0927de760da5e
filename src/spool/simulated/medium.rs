//! The simulated disk of a thread, and what has reached its medium: what the shipped code asks for
//! in tests.

use std::cell::RefCell;

use super::disk::Disk;

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
    static SYNCED: RefCell<Vec<(u64, Vec<u8>)>> = const { RefCell::new(Vec::new()) };
}

/// Puts a disk in place of the file system for this thread, or takes it away.
pub(crate) fn install(disk: Option<Disk>) {
    DISK.with_borrow_mut(|slot| *slot = disk);
    SYNCED.with_borrow_mut(Vec::clear);
}

/// Whether this thread has a simulated disk.
pub(in crate::spool) fn is_on() -> bool {
    DISK.with_borrow(Option::is_some)
}

/// Asks the simulated disk of this thread, if it has one.
pub(crate) fn with_disk<T>(ask: impl FnOnce(&mut Disk) -> T) -> Option<T> {
    DISK.with_borrow_mut(|slot| slot.as_mut().map(ask))
}

/// Groups have reached the medium.
pub(in crate::spool) fn synced<'a>(groups: impl Iterator<Item = (u64, &'a [u8])>) {
    SYNCED.with_borrow_mut(|list| list.extend(groups.map(|(id, bytes)| (id, bytes.to_vec()))));
}

/// Those that have since the last call, with their ids.
pub(super) fn take() -> Vec<(u64, Vec<u8>)> {
    SYNCED.with_borrow_mut(std::mem::take)
}
