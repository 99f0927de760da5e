//! The registry file as the command line edits it: the hub reads it and never writes.
//!
//! Edits keep the comments that somebody wrote into the file. A new content replaces the old one
//! at once, by a rename, so that the hub never reads half a file.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, ensure};
use rustix::fs::{FlockOperation, flock};
use telehub::listen::registry::{Registered, RegistryFile};

/// A registry file, read; locked against other commands until it is dropped.
#[derive(Debug)]
pub(super) struct Registry {
    path: PathBuf,
    text: String,
    entries: Vec<Registered>,
    /// Holds the lock, when the file may be edited.
    directory: Option<File>,
}

impl Registry {
    /// Reads the file for looking at. A file that is not there has no devices.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
            read => read.with_context(|| format!("cannot read {}", path.display())),
        }?;
        let entries = parse(&text)
            .with_context(|| format!("{} is not a registry; correct it by hand", path.display()))?;
        Ok(Self {
            path: path.to_owned(),
            text,
            entries,
            directory: None,
        })
    }

    /// Reads the file for editing, and makes its directory when there is none.
    pub(super) fn edit(path: &Path) -> anyhow::Result<Self> {
        // The file that a link leads to is the one to replace.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let directory = match path.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let failed = || {
            format!(
                "cannot write to {}; is this the right user?",
                directory.display()
            )
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .with_context(failed)?;
        let lock = File::open(directory).with_context(failed)?;
        flock(&lock, FlockOperation::LockExclusive).with_context(failed)?;
        Ok(Self {
            directory: Some(lock),
            ..Self::read(&path)?
        })
    }

    pub(super) fn entries(&self) -> &[Registered] {
        &self.entries
    }

    /// Where it is: what a link leads to.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Adds devices and writes the file, once. Their ids must be new.
    pub(super) fn add(&mut self, entries: Vec<Registered>) -> anyhow::Result<()> {
        let mut text = self.text.clone();
        for entry in entries {
            if !text.is_empty() {
                text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
            }
            text.push_str(&block(&entry)?);
            self.entries.push(entry);
        }
        self.write(text)
    }

    /// Puts another entry in the place of the one of the same id and writes the file. Returns
    /// whether there was one.
    pub(super) fn replace(&mut self, entry: Registered) -> anyhow::Result<bool> {
        let Some(index) = self.entries.iter().position(|one| one.id == entry.id) else {
            return Ok(false);
        };
        let text = with_block(&self.text, index, &block(&entry)?);
        self.entries[index] = entry;
        self.write(text)?;
        Ok(true)
    }

    /// Removes a device and writes the file. Returns whether it was there.
    pub(super) fn remove(&mut self, id: &str) -> anyhow::Result<bool> {
        let Some(index) = self.entries.iter().position(|entry| entry.id == id) else {
            return Ok(false);
        };
        self.entries.remove(index);
        self.write(without_block(&self.text, index))?;
        Ok(true)
    }

    fn write(&mut self, edited: String) -> anyhow::Result<()> {
        // A file in another layout than ours loses its comments rather than a device.
        let edited = match parse(&edited) {
            Ok(entries) if entries == self.entries => edited,
            _ => toml::to_string(&RegistryFile {
                devices: self.entries.clone(),
            })?,
        };
        let path = &self.path;
        replace(path, &edited).with_context(|| {
            format!(
                "cannot write {}; is this the right user, and is there space?",
                path.display()
            )
        })?;
        if let Some(directory) = &self.directory {
            directory
                .sync_all()
                .with_context(|| format!("cannot sync {}", path.display()))?;
        }
        self.text = edited;
        Ok(())
    }
}

fn parse(text: &str) -> anyhow::Result<Vec<Registered>> {
    // The rest of the error's text is a copy of the file's lines.
    let RegistryFile { devices } = toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        anyhow!("line {line}: {}", error.message().replace('\n', ", "))
    })?;
    let mut ids = HashSet::new();
    for entry in &devices {
        let id = &entry.id;
        ensure!(telehub::config::is_id(id), "{id:?} is not an id");
        entry.check().map_err(|error| anyhow!(error))?;
        ensure!(ids.insert(id), "{id:?} is there twice");
    }
    Ok(devices)
}

fn block(entry: &Registered) -> anyhow::Result<String> {
    Ok(toml::to_string(&RegistryFile {
        devices: vec![entry.clone()],
    })?)
}

/// The text with its `index`th `[[device]]` written anew. The comments above it stay.
fn with_block(text: &str, index: usize, block: &str) -> String {
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let is_head = |line: &&str| line.trim_start().starts_with("[[device]]");
    let Some(head) = (0..lines.len())
        .filter(|&at| is_head(&lines[at]))
        .nth(index)
    else {
        return text.to_owned();
    };
    let own = lines[head + 1..]
        .iter()
        .take_while(|line| !line.trim().is_empty() && !line.trim_start().starts_with(['#', '[']));
    let end = head + 1 + own.count();
    let rest = lines[end..].concat();
    [&lines[..head].concat(), block, &rest].concat()
}

/// The text without its `index`th `[[device]]` and what belongs to it: everything up to the
/// next one, except the comments right above that.
fn without_block(text: &str, index: usize) -> String {
    let lines: Vec<_> = text.split_inclusive('\n').collect();
    let is_head = |line: &&str| line.trim_start().starts_with("[[device]]");
    let heads: Vec<_> = (0..lines.len()).filter(|&at| is_head(&lines[at])).collect();
    let above = |head: usize| {
        let comments = lines[..head]
            .iter()
            .rev()
            .take_while(|line| line.trim_start().starts_with('#'));
        head - comments.count()
    };
    let Some(&head) = heads.get(index) else {
        return text.to_owned();
    };
    let end = heads
        .get(index + 1)
        .map_or(lines.len(), |&next| above(next));
    [&lines[..above(head)], &lines[end..]].concat().concat()
}

/// Replaces the file's content as one step that survives a power cut once the directory is
/// synced. Owner and mode stay; a new file gets the directory's owner and is closed to others.
fn replace(path: &Path, content: &str) -> std::io::Result<()> {
    const MODE: u32 = 0o640;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let old = fs::metadata(path).ok();
    let mode = old.as_ref().map_or(MODE, |meta| meta.mode() & 0o777);
    let owner = match old {
        Some(meta) => Some(meta),
        None => path.parent().and_then(|parent| fs::metadata(parent).ok()),
    };
    // What a killed command left behind; the lock says that no other one is at work.
    let _ = fs::remove_file(&new);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = (|| {
        file.write_all(content.as_bytes())?;
        if let Some(owner) = owner {
            // Only root can give files away; anybody else is the owner already or cannot be.
            let _ = fchown(&file, Some(owner.uid()), Some(owner.gid()));
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(id: &str) -> Registered {
        Registered {
            id: id.to_owned(),
            token_sha256: Some("0f".repeat(32)),
            added: Some(1_763_600_000),
            expect: None,
            commands: Vec::new(),
            desired: false,
            old_sha256: None,
            old_until: None,
        }
    }

    fn ids(registry: &Registry) -> Vec<&str> {
        registry
            .entries()
            .iter()
            .map(|entry| entry.id.as_str())
            .collect()
    }

    #[test]
    fn what_is_added_is_there_after_the_next_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/devices.toml");
        Registry::edit(&path)
            .unwrap()
            .add(vec![entry("a")])
            .unwrap();
        Registry::edit(&path)
            .unwrap()
            .add(vec![entry("b")])
            .unwrap();
        assert_eq!(ids(&Registry::read(&path).unwrap()), ["a", "b"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(Registry::edit(&path).unwrap().remove("a").unwrap());
        assert!(!Registry::edit(&path).unwrap().remove("a").unwrap());
        assert_eq!(ids(&Registry::read(&path).unwrap()), ["b"]);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn comments_and_the_mode_of_the_file_survive_an_edit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        let block = |id: &str| {
            toml::to_string(&RegistryFile {
                devices: vec![entry(id)],
            })
            .unwrap()
        };
        let text = format!(
            "# ours\n\n# the barn\n{}\n# the boat\n{}# end",
            block("a"),
            block("b")
        );
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        Registry::edit(&path)
            .unwrap()
            .add(vec![entry("c")])
            .unwrap();
        Registry::edit(&path).unwrap().remove("a").unwrap();
        let edited = fs::read_to_string(&path).unwrap();
        assert!(
            edited.starts_with("# ours\n\n# the boat\n[[device]]"),
            "{edited}"
        );
        assert!(
            !edited.contains("the barn") && edited.contains("# end"),
            "{edited}"
        );
        assert_eq!(ids(&Registry::read(&path).unwrap()), ["b", "c"]);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn an_entry_is_written_anew_in_its_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        let text = format!(
            "# the barn\n{}\n# the boat\n{}\n# the mill\n{}",
            block(&entry("a")).unwrap(),
            block(&entry("b")).unwrap(),
            block(&entry("c")).unwrap()
        );
        fs::write(&path, &text).unwrap();
        let changed = Registered {
            expect: Some("1m".into()),
            ..entry("b")
        };
        let mut registry = Registry::edit(&path).unwrap();
        assert!(registry.replace(changed).unwrap());
        assert!(!registry.replace(entry("x")).unwrap());
        let edited = fs::read_to_string(&path).unwrap();
        assert_eq!(
            edited,
            text.replace(
                &block(&entry("b")).unwrap(),
                &format!("{}expect = \"1m\"\n", block(&entry("b")).unwrap())
            )
        );
    }

    #[test]
    fn a_file_in_another_layout_loses_its_comments_rather_than_a_device() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        let hash = "0f".repeat(32);
        let inline = format!(
            "device = [\n  {{ id = \"a\", token_sha256 = \"{hash}\" }}, # here\n  \
             {{ id = \"b\", token_sha256 = \"{hash}\" }},\n]\n"
        );
        fs::write(&path, inline).unwrap();
        Registry::edit(&path)
            .unwrap()
            .add(vec![entry("c")])
            .unwrap();
        Registry::edit(&path).unwrap().remove("b").unwrap();
        assert_eq!(ids(&Registry::read(&path).unwrap()), ["a", "c"]);
    }

    #[test]
    fn a_file_that_is_no_registry_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        let double = toml::to_string(&RegistryFile {
            devices: vec![entry("a"), entry("a")],
        })
        .unwrap();
        for text in [
            "[[device]]\nid = \"a\"\ntoken_sha256 = \"0f\"\n",
            "x = 1\n",
            "[[device",
            double.as_str(),
        ] {
            fs::write(&path, text).unwrap();
            let error = format!("{:#}", Registry::edit(&path).unwrap_err());
            assert!(!error.contains('\n') && !error.contains("0f0f"), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
