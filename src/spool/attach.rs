//! Taking the directory into use: the lock, the format, what is there, what is damaged.

use std::io;
use std::path::Path;

use super::Event;
use super::commit::Failure;
use super::contents::Scanned;
use super::files;
use super::fs;
use super::salvage::Salvage;
use super::segment::Segment;
use super::segment_log::SegmentLog;
use super::space;
use super::store::Error;
use super::tally::Tally;
use super::watermarks::Watermarks;

/// Version of everything below the spool's directory. 2: batches have uptime and boot.
const FORMAT: u32 = 2;

/// 3: there are final answers to commands in it, or totals of what `[[reduce]]` left out. The number
/// is raised when the first of them is stored, so that whoever uses neither can go back to an older
/// telehub.
const FORMAT_WITH_MORE: u32 = 3;

/// More ids than a segment can use up: 4 MiB of groups, of some 80 bytes at least.
const IDS_OF_ONE: u64 = 1 << 20;

const FORMAT_TEXT: &str = "telehub spool ";

/// The version of the spool in `path`, as its format file has it.
pub(super) fn format(path: &Path) -> Option<u32> {
    let text = String::from_utf8(fs::read(&path.join("format")).ok()?).ok()?;
    text.trim().strip_prefix(FORMAT_TEXT)?.parse().ok()
}

/// The version, if it is one that we do not know yet.
pub(super) fn newer_format(path: &Path) -> Option<u32> {
    format(path).filter(|version| *version > FORMAT_WITH_MORE)
}

/// The last id that a segment which begins with `first` may have. `following`: the first one of
/// the segment after it. How far the newest goes is not known before it is read, and the clock,
/// from which ids begin, may stand before all of them, as `next_id` does then.
pub(super) fn last_id(first: u64, following: Option<u64>, next_id: u64) -> u64 {
    following.map_or_else(
        || next_id.max(first.saturating_add(IDS_OF_ONE)),
        |next| next.saturating_sub(1).max(first),
    )
}

/// Whether an entry of the directory has a name that we give, segments aside.
pub(super) fn is_ours(name: &str) -> bool {
    // The hub keeps what it knows of its devices beside what they sent.
    let known = ["format", "marks", "devices.json", files::BALLAST];
    let leftover = [".tmp", ".new", ".dead"];
    known.contains(&name) || leftover.iter().any(|suffix| name.ends_with(suffix))
}

/// Why the directory must not be used: whoever can write to it can have the hub write anywhere, or
/// publish what no device has sent.
fn foreign(dir: &Path) -> io::Result<Option<String>> {
    let (user, found) = (fs::user(), fs::owner(dir)?);
    let path = dir.display();
    Ok(if found.user != user {
        Some(format!(
            "{path} belongs to user {} and the hub runs as user {user}; sudo chown -R {user} {path}, \
             or name another directory in spool.path",
            found.user
        ))
    } else if found.mode & 0o022 != 0 {
        Some(format!(
            "others than the hub's user may write to {path} (mode {:o}); sudo chmod go-w {path}",
            found.mode & 0o7777
        ))
    } else {
        None
    })
}

impl SegmentLog {
    /// Takes the directory into use unless that is done. `create`: makes it if it is not there;
    /// otherwise an absent directory is an empty spool, and nothing is written.
    ///
    /// # Errors
    /// The directory cannot be used now. Damage is no error.
    pub(super) fn attach(&mut self, create: bool) -> Result<(), Failure> {
        if self.lock.is_some() {
            if create && self.format.is_none_or(|version| version < FORMAT) {
                // A crash came between making the directory and this, or the format is older.
                self.write_format(FORMAT)?;
            }
            return Ok(());
        }
        let attached = self.try_attach(create);
        self.unusable |= attached.is_err();
        attached
    }

    fn try_attach(&mut self, create: bool) -> Result<(), Failure> {
        if !self.prepare(create)? {
            return Ok(());
        }
        let lock = files::lock(&self.path)?;
        let next = self.next_id;
        self.segments.clear();
        self.deletions.clear();
        if let Err(failure) = self.read_directory() {
            self.segments.clear();
            return Err(failure);
        }
        self.next_id = self.next_id.max(next);
        self.lock = Some(lock);
        self.measure_others();
        if self.announced && self.unusable {
            self.news.push(Event::Reopened {
                marks: self.marks.all(),
                depth: self.depth(),
            });
        }
        self.unusable = false;
        Ok(())
    }

    /// Makes sure of a directory of our format. Returns whether there is one.
    fn prepare(&mut self, create: bool) -> Result<bool, Failure> {
        self.foreign = false;
        match fs::is_dir(&self.path) {
            Ok(true) => {
                if let Some(error) = foreign(&self.path)? {
                    self.foreign = true;
                    return Err(Failure { full: false, error });
                }
                if let Some(version) = newer_format(&self.path) {
                    let tag = format!("version{version}");
                    self.bound_newer(&tag)?;
                    let copy = files::set_aside(&self.path, &tag)?;
                    tracing::error!(
                        version, copy = %copy.display(),
                        "the spool was written by a newer telehub: set aside, beginning a new one"
                    );
                } else {
                    // Before anything of this version is written, so that an older telehub sets
                    // the spool aside instead of taking it for damaged.
                    let known = format(&self.path);
                    self.format = known;
                    let older = known.is_some_and(|version| version < FORMAT);
                    if (create && known.is_none() || older)
                        && let Err(error) = self.write_format(FORMAT)
                    {
                        if create {
                            return Err(error.into());
                        }
                        tracing::debug!(%error, "the spool keeps its old format for now");
                    }
                    return Ok(true);
                }
            }
            Ok(false) => {
                let copy = files::set_aside(&self.path, files::CORRUPT)?;
                self.prune_whole_copies();
                tracing::error!(copy = %copy.display(), "the spool is not a directory: set aside, beginning a new one");
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        if create {
            files::create_dir(&self.path)?;
            self.write_format(FORMAT)?;
        }
        Ok(create)
    }

    /// Spools of newer versions may hold what nobody else has, so none is removed; but not more
    /// and more of them are kept.
    fn bound_newer(&self, tag: &str) -> Result<(), Failure> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let above = files::parent(&self.path);
        let copies = files::copies(above, &format!("{name}.{tag}-"), tag).len();
        if copies < files::KEPT_COPIES {
            return Ok(());
        }
        Err(Failure {
            full: false,
            error: format!(
                "it was written by a newer telehub, and {copies} such are beside it already, named \
                 {name}.{tag}-TIME: move them away, or go back to the newer telehub"
            ),
        })
    }

    fn prune_whole_copies(&self) {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        files::prune_copies(
            files::parent(&self.path),
            &format!("{name}.{}-", files::CORRUPT),
            files::CORRUPT,
            files::KEPT_COPIES,
        );
    }

    fn write_format(&mut self, version: u32) -> io::Result<()> {
        files::sync_above(&self.path)?;
        files::replace(
            &self.path.join("format"),
            format!("{FORMAT_TEXT}{version}\n").as_bytes(),
        )?;
        self.format = Some(version);
        Ok(())
    }

    /// Before a final answer to a command or a total is stored: an older telehub must set the spool
    /// aside instead of taking it for damaged.
    pub(super) fn expect_more(&mut self) -> io::Result<()> {
        if self.format == Some(FORMAT_WITH_MORE) {
            return Ok(());
        }
        self.write_format(FORMAT_WITH_MORE)
    }

    fn read_directory(&mut self) -> Result<(), Failure> {
        let mut firsts = Vec::new();
        let mut leftovers = Vec::new();
        for entry in fs::names(&self.path)? {
            let path = self.path.join(&entry);
            let name = entry.to_string_lossy();
            if let Some(first) = space::parse_name(&name) {
                firsts.push(first);
            } else if name.ends_with(".dead") || name.ends_with(".tmp") || name.ends_with(".new") {
                leftovers.push(path);
            }
        }
        for leftover in leftovers {
            self.clear_up(&leftover, &mut firsts)?;
        }
        firsts.sort_unstable();
        firsts.dedup();
        self.read_marks();
        for (at, first) in firsts.iter().copied().enumerate() {
            if self.is_within_the_one_before(first) {
                // Its groups are in that one: a power cut came before it was removed.
                let dead = self.path.join(space::name(first));
                let bytes = files::disk_bytes(&dead);
                self.delete_dir(dead, bytes, false);
                continue;
            }
            let following = firsts.get(at + 1).copied();
            let last = last_id(first, following, self.next_id);
            self.read_segment(first, last, following.is_none())?;
        }
        Ok(())
    }

    fn is_within_the_one_before(&self, first: u64) -> bool {
        self.segments
            .last()
            .is_some_and(|before| first <= before.last)
    }

    /// What a crash left half done: a replacement takes its place, the rest goes.
    fn clear_up(&self, leftover: &Path, firsts: &mut Vec<u64>) -> io::Result<()> {
        let target = leftover.with_extension("");
        let first = target
            .file_name()
            .and_then(|name| space::parse_name(&name.to_string_lossy()));
        if let Some(first) = first
            && leftover
                .extension()
                .is_some_and(|extension| extension == "new")
            && !fs::exists(&target)
            && Segment::found(first, first, leftover.to_owned())
                .1
                .is_some()
        {
            files::rename(leftover, &target)?;
            firsts.push(first);
            return Ok(());
        }
        if let Err(error) = files::remove(leftover) {
            tracing::debug!(path = %leftover.display(), %error, "cannot clear up");
        }
        Ok(())
    }

    fn read_marks(&mut self) {
        let path = self.path.join("marks");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => {
                tracing::warn!(%error, "cannot read the marks: devices may send again what is known");
                return;
            }
        };
        match Watermarks::read(&bytes) {
            Ok((next_id, marks)) => {
                self.next_id = self.next_id.max(next_id);
                self.saved_id = next_id;
                for mark in marks {
                    self.marks.raise(mark);
                }
                self.marks.saved();
            }
            Err(damage) => {
                tracing::warn!(%damage, "the marks are unreadable: devices may send again what is known");
                if let Err(error) = files::set_aside(&path, files::CORRUPT) {
                    tracing::debug!(%error, "cannot set the marks aside");
                }
                files::prune_copies(&self.path, "marks.", files::CORRUPT, files::KEPT_COPIES);
            }
        }
    }

    fn read_segment(&mut self, first: u64, last: u64, newest: bool) -> Result<(), Failure> {
        let dir = self.path.join(space::name(first));
        let (mut segment, summary) = Segment::found(first, last, dir);
        let mut damage = None;
        let last_was_written = newest && summary.is_none();
        let scanned = |segment: &mut Segment| match segment.scan(&*self.engine, last_was_written) {
            Err(Error::Full) => segment
                .scan(&Salvage, last_was_written)
                .map_err(|_| Error::Full),
            other => other,
        };
        let (mut in_doubt, mut half_made) = (false, false);
        let known = match (&summary, segment.touched) {
            (Some(_), false) => summary,
            _ => match scanned(&mut segment) {
                Ok(Scanned {
                    tally,
                    put_in,
                    sound,
                }) => {
                    if summary.is_none()
                        && let Err(why) = self.make_sure(&mut segment)
                    {
                        in_doubt = true;
                        damage = Some(why);
                    }
                    // A damaged group is a loss only if it was acknowledged. Nobody knows, so the
                    // device is asked for it, after the next start as well.
                    let whole = sound.groups == tally.groups;
                    if summary.is_none() && !in_doubt && whole {
                        if put_in.groups > tally.groups {
                            segment.touch();
                        }
                        if let Err(error) = Segment::write_summary(&segment.dir, &put_in) {
                            tracing::debug!(%error, "no summary written");
                        }
                    }
                    // What was deleted stays safe.
                    for mark in summary.iter().flat_map(Tally::implied_marks) {
                        self.marks.raise(mark);
                    }
                    segment.last = segment.last.max(put_in.last);
                    Some(sound)
                }
                Err(Error::Broken(why)) if segment.was_never_whole() => {
                    tracing::debug!(why, "removing a database that a crash left half made");
                    half_made = true;
                    None
                }
                Err(Error::Broken(why)) => {
                    damage = Some(why);
                    summary
                }
                Err(error) => {
                    tracing::warn!(dir = %segment.dir.display(), %error, "a part of the spool cannot be read now");
                    // Not empty, for all we know.
                    segment.groups = segment.groups.max(segment.expected).max(1);
                    summary
                }
            },
        };
        self.next_id = self.next_id.max(segment.last + 1);
        let readable = segment.open.is_some();
        segment.close();
        self.segments.push(segment);
        let index = self.segments.len() - 1;
        let replaced = damage.as_ref().map(|why| self.replace(index, why));
        if let Some(Err(error)) = &replaced {
            tracing::warn!(%error, "a damaged part of the spool stays where it is for now");
            // Not empty, for all we know: tried again when it is to be read.
            let segment = &mut self.segments[index];
            segment.groups = segment.groups.max(segment.expected).max(1);
        }
        match replaced {
            // Nobody is told of it before it is known to last.
            Some(Err(error)) if in_doubt => return Err(error.into()),
            _ => {
                for mark in known.iter().flat_map(Tally::implied_marks) {
                    self.marks.raise(mark);
                }
            }
        }
        if half_made || damage.is_none() && readable && self.segments[index].groups == 0 {
            self.discard(index);
        }
        Ok(())
    }

    /// Whoever wrote these groups was killed, perhaps before the sync that makes them last. It is
    /// made up for before anybody is told of them: a device forgets what it hears is safe.
    ///
    /// # Errors
    /// It failed, now or at an earlier attempt, which may have dropped what it could not write:
    /// another one that succeeds would prove nothing. Everything has to be written anew.
    fn make_sure(&mut self, segment: &mut Segment) -> Result<(), String> {
        if let Some(open) = &mut segment.open
            && let Err(error) = open.store.sync()
        {
            self.in_doubt.insert(segment.first);
            tracing::warn!(dir = %segment.dir.display(), %error, "a part of the spool cannot be synced");
        }
        if self.in_doubt.contains(&segment.first) {
            return Err("nobody knows whether all of it is on the disk".into());
        }
        Ok(())
    }
}
