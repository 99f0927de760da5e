//! The database's file, with room in it ahead of what is written.
//!
//! A file that grows with each commit makes the file system write its journal each time: for some
//! hundred bytes of batches ext4 writes 17 to 20 kB. Blocks that were allocated before, with the
//! length of the file over them, cost 4 to 8 kB. Beyond what is written they read as zeros, which is
//! how the engine itself leaves the end of a log that it has recovered.
//!
//! Nothing is written for it, only blocks are taken; they count as the spool's. What was not used is
//! given back when the database is closed.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FallocateFlags, FlockOperation, SeekFrom, fallocate, flock, seek};
use rustix::io::Errno;

/// See the module.
#[derive(Debug)]
pub(super) struct Ahead {
    file: File,
    /// The length that the file was last given or found with.
    len: u64,
    /// Bytes to take at a time; 0: none.
    step: u64,
    /// The file system does not do it.
    unsupported: bool,
}

impl Ahead {
    /// A handle of our own on the file.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            step: 0,
            unsupported: false,
        })
    }

    /// From now on so many bytes are taken at a time; 0: none.
    pub(super) fn set_step(&mut self, step: u64) {
        self.step = step;
    }

    /// Makes what was written durable, and before it what was taken ahead.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.keep_ahead()?;
        self.file.sync_data()
    }

    /// Takes the next blocks once everything that was taken is written over, which shows by the
    /// length: the engine has gone beyond it.
    fn keep_ahead(&mut self) -> io::Result<()> {
        if self.step == 0 || self.unsupported {
            return Ok(());
        }
        let len = self.file.metadata()?.len();
        let outgrown = len > self.len;
        self.len = len;
        if !outgrown {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), len, self.step) {
            Ok(()) => self.len = len + self.step,
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.unsupported = true,
            // The commit may go through all the same: it is its own sync that counts.
            Err(error) => tracing::debug!(%error, "no room taken ahead of the database"),
        }
        Ok(())
    }

    /// Gives back what was taken and never written. Only when the engine is through with the file,
    /// which its lock shows: it must not be writing there.
    pub(super) fn give_back(&self) -> io::Result<()> {
        if flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let written = end_of_data(&self.file)?;
        if written < self.file.metadata()?.len() {
            self.file.set_len(written)?;
        }
        Ok(())
    }
}

/// Where the last hole of a file begins, or the file ends. Blocks that were taken and not written
/// are a hole, zeros that were written are none; where a file system does not tell them apart, there
/// is none.
fn end_of_data(file: &File) -> io::Result<u64> {
    let mut end = 0;
    loop {
        match seek(file, SeekFrom::Data(end)) {
            Ok(data) => end = seek(file, SeekFrom::Hole(data))?,
            Err(Errno::NXIO) => return Ok(end),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;

    const STEP: u64 = 256 * 1024;

    fn made() -> (tempfile::TempDir, Ahead) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        std::fs::write(&path, vec![1; 8192]).unwrap();
        let mut ahead = Ahead::open(&path).unwrap();
        ahead.set_step(STEP);
        (dir, ahead)
    }

    fn len(ahead: &Ahead) -> u64 {
        ahead.file.metadata().unwrap().len()
    }

    #[test]
    fn room_is_taken_when_the_file_has_outgrown_it_and_not_before() {
        let (_dir, mut ahead) = made();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 8192);
        ahead.file.write_all_at(&[2; 300], 8192).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 8492 + STEP);
        ahead.file.write_all_at(&[3; 300], 8492).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 8492 + STEP);
        assert!(ahead.file.metadata().unwrap().blocks() * 512 >= STEP);
        ahead.file.write_all_at(&[4; 300], 8492 + STEP).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 8792 + 2 * STEP);
    }

    #[test]
    fn a_file_that_the_engine_has_cut_gets_room_again_once_it_grows() {
        let (_dir, mut ahead) = made();
        ahead.file.write_all_at(&[2; 300], 8192).unwrap();
        ahead.sync().unwrap();
        ahead.file.set_len(4096).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 4096);
        ahead.file.write_all_at(&[2; 300], 4096).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 4396 + STEP);
    }

    #[test]
    fn what_was_not_written_is_given_back_and_zeros_that_were_written_are_not() {
        let (_dir, mut ahead) = made();
        ahead.file.write_all_at(&[2; 300], 8192).unwrap();
        ahead.sync().unwrap();
        ahead.file.write_all_at(&[0; 8192], 12_288).unwrap();
        ahead.sync().unwrap();
        ahead.give_back().unwrap();
        let kept = len(&ahead);
        assert!((20_480..=8492 + STEP).contains(&kept), "{kept}");
        let mut bytes = vec![9; 20_480];
        ahead.file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes[8492..].iter().all(|byte| *byte == 0));
        assert!(bytes[8192..8492].iter().all(|byte| *byte == 2));
    }

    #[test]
    fn nothing_is_given_back_while_somebody_else_has_the_file() {
        let (dir, mut ahead) = made();
        ahead.file.write_all_at(&[2; 300], 8192).unwrap();
        ahead.sync().unwrap();
        let other = File::open(dir.path().join("db")).unwrap();
        flock(&other, FlockOperation::LockExclusive).unwrap();
        ahead.give_back().unwrap();
        assert_eq!(len(&ahead), 8492 + STEP);
        drop(other);
        ahead.give_back().unwrap();
        assert!(len(&ahead) < 8492 + STEP);
    }

    #[test]
    fn without_a_step_a_file_is_left_as_it_is() {
        let (_dir, mut ahead) = made();
        ahead.set_step(0);
        ahead.file.write_all_at(&[2; 300], 8192).unwrap();
        ahead.sync().unwrap();
        assert_eq!(len(&ahead), 8492);
    }
}
