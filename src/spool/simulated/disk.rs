//! A disk in memory. What was written is in the cache; what was synced is on the medium. A killed
//! process finds the cache as it left it, after a power cut only the medium is there, with some of
//! what had not been synced, or parts of it.
//!
//! Entries of directories reach the medium in the order in which they were made, as a journal
//! takes them, or those of each directory on its own account (`strict`), as POSIX has it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::ops::Range;
use std::path::{Component, Path};

use rustix::io::Errno;

use super::chance::Chance;
use crate::spool::stat::Stat;

const BLOCK: u64 = 4096;

type NodeId = usize;

const ROOT: NodeId = 0;

#[derive(Debug, Default)]
struct File {
    cache: Vec<u8>,
    medium: Vec<u8>,
    /// From here on the cache may differ from the medium.
    dirty_from: usize,
    /// Written out with an error: clean for the kernel, and not on the medium.
    lost: Vec<Range<usize>>,
    reserved: u64,
}

#[derive(Debug, Default)]
struct Dir {
    cache: BTreeMap<OsString, NodeId>,
    medium: BTreeMap<OsString, NodeId>,
}

#[derive(Debug)]
enum Node {
    File(File),
    Dir(Dir),
}

#[derive(Debug)]
enum Change {
    Link(OsString, NodeId),
    Unlink(OsString),
    Rename(OsString, OsString, NodeId),
}

/// How the disk behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mood {
    Well,
    /// So many of a thousand writes and syncs fail.
    Failing(u64),
    /// So many of a thousand reads fail.
    Unreadable(u64),
    /// Every write fails as on a file system that was mounted read-only.
    ReadOnly,
}

/// Faults of the program under test that the simulation has to find.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Omit {
    /// Entries of directories are not synced.
    pub(crate) dir_sync: bool,
}

#[derive(Debug)]
pub(crate) struct Disk {
    nodes: Vec<Node>,
    changes: Vec<(NodeId, Change)>,
    chance: Chance,
    pub(crate) mood: Mood,
    pub(crate) capacity: u64,
    pub(crate) strict: bool,
    pub(crate) omit: Omit,
    /// Operations until the machine stops.
    pub(crate) stops_in: Option<u64>,
    /// The machine has stopped: nothing reaches the disk any more.
    pub(crate) frozen: bool,
    pub(crate) operations: u64,
    /// Errors returned so far.
    pub(crate) errors: u64,
}

fn error(errno: Errno) -> io::Error {
    errno.into()
}

impl Disk {
    pub(crate) fn new(chance: Chance) -> Self {
        Self {
            nodes: vec![Node::Dir(Dir::default())],
            changes: Vec::new(),
            chance,
            mood: Mood::Well,
            capacity: u64::MAX / 2,
            strict: false,
            omit: Omit::default(),
            stops_in: None,
            frozen: false,
            operations: 0,
            errors: 0,
        }
    }

    /// Before every operation.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some(left) = &mut self.stops_in {
            *left = left.saturating_sub(1);
            self.frozen |= *left == 0;
        }
        if self.frozen {
            return Err(error(Errno::IO));
        }
        Ok(())
    }

    fn fails(&mut self, errno: Errno) -> io::Result<()> {
        self.errors += 1;
        Err(error(errno))
    }

    fn before_read(&mut self) -> io::Result<()> {
        self.step()?;
        match self.mood {
            Mood::Unreadable(n) if self.chance.permille(n) => self.fails(Errno::IO),
            _ => Ok(()),
        }
    }

    fn before_write(&mut self) -> io::Result<()> {
        self.step()?;
        match self.mood {
            Mood::Failing(n) if self.chance.permille(n) => self.fails(Errno::IO),
            Mood::ReadOnly => self.fails(Errno::ROFS),
            _ => Ok(()),
        }
    }

    /// A read of the engine's, which keeps its values in memory here.
    pub(crate) fn touch(&mut self) -> io::Result<()> {
        self.before_read()
    }

    fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut at = ROOT;
        for part in path.components() {
            let Component::Normal(name) = part else {
                continue;
            };
            let Node::Dir(dir) = &self.nodes[at] else {
                return Err(error(Errno::NOTDIR));
            };
            at = *dir.cache.get(name).ok_or_else(|| error(Errno::NOENT))?;
        }
        Ok(at)
    }

    fn dir(&mut self, id: NodeId) -> io::Result<&mut Dir> {
        match &mut self.nodes[id] {
            Node::Dir(dir) => Ok(dir),
            Node::File(_) => Err(error(Errno::NOTDIR)),
        }
    }

    fn file(&mut self, id: NodeId) -> io::Result<&mut File> {
        match &mut self.nodes[id] {
            Node::File(file) => Ok(file),
            Node::Dir(_) => Err(error(Errno::ISDIR)),
        }
    }

    fn split<'a>(&self, path: &'a Path) -> io::Result<(NodeId, &'a OsStr)> {
        let parent = self.find(path.parent().unwrap_or(Path::new("/")))?;
        Ok((parent, path.file_name().ok_or_else(|| error(Errno::INVAL))?))
    }

    fn note(&mut self, dir: NodeId, change: Change) {
        self.changes.push((dir, change));
    }

    fn make(&mut self, path: &Path, node: Node) -> io::Result<NodeId> {
        let (parent, name) = self.split(path)?;
        let id = self.nodes.len();
        if self.dir(parent)?.cache.contains_key(name) {
            return Err(error(Errno::EXIST));
        }
        if self.free() < BLOCK {
            self.fails(Errno::NOSPC)?;
        }
        self.nodes.push(node);
        self.dir(parent)?.cache.insert(name.to_owned(), id);
        self.note(parent, Change::Link(name.to_owned(), id));
        Ok(id)
    }

    fn bytes(&self, id: NodeId) -> u64 {
        match &self.nodes[id] {
            Node::File(file) => (file.cache.len() as u64)
                .max(file.reserved)
                .next_multiple_of(BLOCK),
            Node::Dir(_) => BLOCK,
        }
    }

    fn all_bytes(&self, id: NodeId) -> u64 {
        let below = match &self.nodes[id] {
            Node::Dir(dir) => dir.cache.values().map(|id| self.all_bytes(*id)).sum(),
            Node::File(_) => 0,
        };
        self.bytes(id) + below
    }

    /// Bytes that all of it takes.
    pub(crate) fn used(&self) -> u64 {
        self.all_bytes(ROOT)
    }

    fn free(&self) -> u64 {
        self.capacity.saturating_sub(self.used())
    }

    pub(crate) fn stat(&mut self, path: &Path) -> io::Result<Stat> {
        self.step()?;
        let id = self.find(path)?;
        Ok(Stat {
            is_dir: matches!(self.nodes[id], Node::Dir(_)),
            bytes: self.bytes(id),
        })
    }

    pub(crate) fn names(&mut self, dir: &Path) -> io::Result<Vec<OsString>> {
        self.before_read()?;
        let id = self.find(dir)?;
        Ok(self.dir(id)?.cache.keys().cloned().collect())
    }

    pub(crate) fn read(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        self.before_read()?;
        let id = self.find(path)?;
        Ok(self.file(id)?.cache.clone())
    }

    pub(crate) fn create_dir(&mut self, path: &Path) -> io::Result<()> {
        self.before_write()?;
        self.make(path, Node::Dir(Dir::default())).map(drop)
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.before_write()?;
        let (parent, old) = self.split(from)?;
        let (other, new) = self.split(to)?;
        assert_eq!(parent, other, "renamed within a directory only");
        let dir = self.dir(parent)?;
        let id = *dir.cache.get(old).ok_or_else(|| error(Errno::NOENT))?;
        if let Some(known) = dir.cache.get(new).copied()
            && let Node::Dir(known) = &self.nodes[known]
            && !known.cache.is_empty()
        {
            return Err(error(Errno::NOTEMPTY));
        }
        let dir = self.dir(parent)?;
        dir.cache.remove(old);
        dir.cache.insert(new.to_owned(), id);
        self.note(parent, Change::Rename(old.to_owned(), new.to_owned(), id));
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.step()?;
        let id = self.find(path)?;
        if let Node::Dir(dir) = &self.nodes[id] {
            // One entry after the other, and the machine may stop between any two.
            let names: Vec<_> = dir.cache.keys().cloned().collect();
            for name in names {
                self.remove(&path.join(name))?;
            }
        }
        self.before_write()?;
        let (parent, name) = self.split(path)?;
        self.dir(parent)?.cache.remove(name);
        self.note(parent, Change::Unlink(name.to_owned()));
        Ok(())
    }

    /// Makes the file if it is not there. `anew`: empties it first.
    pub(crate) fn write(&mut self, path: &Path, content: &[u8], anew: bool) -> io::Result<()> {
        self.before_write()?;
        let id = match self.find(path) {
            Ok(id) => id,
            Err(_) => self.make(path, Node::File(File::default()))?,
        };
        let free = self.free();
        let file = self.file(id)?;
        if anew {
            file.cache.clear();
        }
        file.dirty_from = 0;
        if file.cache.len() < content.len() {
            file.cache.resize(content.len(), 0);
        }
        file.cache[..content.len()].copy_from_slice(content);
        if content.len() as u64 > free {
            self.fails(Errno::NOSPC)?;
        }
        Ok(())
    }

    /// Adds to the end of a file.
    pub(crate) fn append(&mut self, path: &Path, content: &[u8]) -> io::Result<()> {
        self.before_write()?;
        let id = self.find(path)?;
        let free = self.free();
        let file = self.file(id)?;
        let slack = (file.cache.len() as u64).next_multiple_of(BLOCK) - file.cache.len() as u64;
        let room = usize::try_from(free + slack).unwrap_or(usize::MAX);
        file.cache
            .extend_from_slice(&content[..content.len().min(room)]);
        if content.len() > room {
            self.fails(Errno::NOSPC)?;
        }
        Ok(())
    }

    pub(crate) fn reserve(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        self.write(path, &[], true)?;
        if self.free() < bytes {
            return self.fails(Errno::NOSPC);
        }
        let id = self.find(path)?;
        self.file(id)?.reserved = bytes;
        Ok(())
    }

    pub(crate) fn free_bytes(&mut self, dir: &Path) -> io::Result<u64> {
        self.step()?;
        self.find(dir)?;
        Ok(self.free())
    }

    pub(crate) fn sync(&mut self, path: &Path) -> io::Result<()> {
        let outcome = self.before_write();
        let id = self.find(path)?;
        if self.frozen {
            return outcome;
        }
        let cut = self.chance.next();
        match &mut self.nodes[id] {
            Node::File(file) => {
                let from = file.dirty_from.min(file.medium.len());
                file.medium.truncate(from);
                file.medium.extend_from_slice(&file.cache[from..]);
                if outcome.is_err() && file.cache.len() > from {
                    let at = from + usize::try_from(cut).unwrap_or(0) % (file.cache.len() - from);
                    file.lost.push(at..file.cache.len());
                }
                for lost in &file.lost {
                    let end = lost.end.min(file.medium.len());
                    file.medium[lost.start.min(end)..end].fill(0);
                }
                file.dirty_from = file.cache.len();
                outcome
            }
            Node::Dir(_) => {
                outcome?;
                if !self.omit.dir_sync {
                    self.sync_dir(id);
                }
                Ok(())
            }
        }
    }

    fn sync_dir(&mut self, id: NodeId) {
        let Some(last) = self.changes.iter().rposition(|(dir, _)| *dir == id) else {
            return;
        };
        let all = std::mem::take(&mut self.changes);
        for (at, (dir, change)) in all.into_iter().enumerate() {
            if at <= last && (dir == id || !self.strict) {
                self.reach_medium(dir, change);
            } else {
                self.changes.push((dir, change));
            }
        }
    }

    fn reach_medium(&mut self, dir: NodeId, change: Change) {
        let Node::Dir(dir) = &mut self.nodes[dir] else {
            return;
        };
        match change {
            Change::Link(name, id) => _ = dir.medium.insert(name, id),
            Change::Unlink(name) => _ = dir.medium.remove(&name),
            Change::Rename(old, new, id) => {
                dir.medium.remove(&old);
                dir.medium.insert(new, id);
            }
        }
    }

    /// The power goes and comes back.
    pub(crate) fn power_cut(&mut self) {
        let all = std::mem::take(&mut self.changes);
        let kept = self.chance.below(all.len() + 1);
        for (dir, change) in all.into_iter().take(kept) {
            self.reach_medium(dir, change);
        }
        for node in &mut self.nodes {
            match node {
                Node::Dir(dir) => dir.cache.clone_from(&dir.medium),
                Node::File(file) => {
                    let from = file.dirty_from.min(file.medium.len());
                    if from < file.medium.len() {
                        // Written over: the old content, the new, or some of each.
                        let cut = match self.chance.below(3) {
                            0 => 0,
                            1 => file.cache.len(),
                            _ => self.chance.below(file.cache.len() + 1),
                        };
                        let rest = file.medium.split_off(cut.min(file.medium.len()));
                        file.medium.clear();
                        file.medium.extend_from_slice(&file.cache[..cut]);
                        if cut < file.cache.len() {
                            file.medium.extend_from_slice(&rest);
                        }
                    } else if file.cache.len() > from {
                        // Added to: as much of it as had been written out by the kernel.
                        let more = file.cache.len() - from;
                        let cut = match self.chance.below(3) {
                            0 => 0,
                            1 => more,
                            _ => self.chance.below(more),
                        };
                        file.medium.extend_from_slice(&file.cache[from..from + cut]);
                        for lost in &file.lost {
                            let end = lost.end.min(file.medium.len());
                            file.medium[lost.start.min(end)..end].fill(0);
                        }
                    }
                    file.lost.clear();
                    file.cache.clone_from(&file.medium);
                    file.dirty_from = file.cache.len();
                }
            }
        }
        self.frozen = false;
        self.stops_in = None;
    }

    /// Another process begins, on the disk as the one before left it.
    pub(crate) fn thaw(&mut self) {
        self.frozen = false;
        self.stops_in = None;
    }

    /// Changes a byte of a file, in cache and on the medium, at a place given in thousandths.
    pub(crate) fn damage(&mut self, path: &Path, at: u64) -> Option<usize> {
        let id = self.find(path).ok()?;
        let file = self.file(id).ok()?;
        let len = file.cache.len().min(file.medium.len());
        let at = usize::try_from(at * len as u64 / 1000).ok()?;
        for copy in [&mut file.cache, &mut file.medium] {
            *copy.get_mut(at)? ^= 0x40;
        }
        Some(at)
    }
}
