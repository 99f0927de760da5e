//! The registry file as the command line edits it: the hub reads it and never writes.
//!
//! Edits keep the comments that somebody wrote into the file. A new content replaces the old one
//! at once, by a rename, so that the hub never reads half a file.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail, ensure};
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

    /// Adds a device and writes the file. Its id must be new.
    pub(super) fn add(&mut self, entry: Registered) -> anyhow::Result<()> {
        let mut text = self.text.clone();
        if !text.is_empty() {
            text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
        }
        text.push_str(&toml::to_string(&RegistryFile {
            devices: vec![entry.clone()],
        })?);
        self.entries.push(entry);
        self.write(text)
    }

    /// Changes what a device may be sent and writes the file. Returns whether it was there.
    pub(super) fn set(
        &mut self,
        id: &str,
        change: impl FnOnce(&mut Registered),
    ) -> anyhow::Result<bool> {
        let Some(index) = self.entries.iter().position(|entry| entry.id == id) else {
            return Ok(false);
        };
        change(&mut self.entries[index]);
        let text = with_rights(&self.text, index, &self.entries[index]);
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
    for (index, entry) in devices.iter().enumerate() {
        let hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let id = &entry.id;
        ensure!(telehub::config::is_id(id), "{id:?} is not an id");
        let token = entry.token_sha256.as_ref();
        ensure!(
            token.is_none_or(|token| token.len() == 64 && token.bytes().all(hex)),
            "token_sha256 of {id:?} must be 64 lower-case hex digits"
        );
        if let Some(wrong) = entry.wrong_command() {
            bail!("commands of {id:?} has {wrong:?}, which is no name or pattern of a command");
        }
        ensure!(
            devices[..index].iter().all(|other| other.id != *id),
            "{id:?} is there twice"
        );
    }
    Ok(devices)
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

/// The text with other `commands` and `desired` in its `index`th `[[device]]`. Whether it came out
/// as meant has to be looked at: a list over several lines is taken for what it is not.
fn with_rights(text: &str, index: usize, entry: &Registered) -> String {
    let mut out = String::with_capacity(text.len() + 64);
    let mut heads = 0;
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim_start();
        let is_head = trimmed.starts_with("[[device]]");
        heads += usize::from(is_head);
        let inside = heads == index + 1;
        let key = trimmed.split(['=', ' ', '\t']).next().unwrap_or_default();
        if inside && matches!(key, "commands" | "desired") {
            continue;
        }
        out.push_str(line);
        if inside && is_head {
            if !line.ends_with('\n') {
                out.push('\n');
            }
            if !entry.commands.is_empty() {
                let commands = toml::Value::from(entry.commands.clone());
                out.push_str(&format!("commands = {commands}\n"));
            }
            if entry.desired {
                out.push_str("desired = true\n");
            }
        }
    }
    out
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
            commands: Vec::new(),
            desired: false,
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
        Registry::edit(&path).unwrap().add(entry("a")).unwrap();
        Registry::edit(&path).unwrap().add(entry("b")).unwrap();
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
        Registry::edit(&path).unwrap().add(entry("c")).unwrap();
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
    fn rights_change_where_they_stand_and_comments_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        let hash = "0f".repeat(32);
        let text = format!(
            "# the barn\n[[device]]\nid = \"a\"\n# from the shop\ntoken_sha256 = \"{hash}\"\n\
             commands = [\"old\"]\n\n# no token\n[[device]]\nid = \"b\"\n"
        );
        fs::write(&path, text).unwrap();
        let set = |id: &str, commands: &[&str], desired: bool| {
            let mut registry = Registry::edit(&path).unwrap();
            let commands = commands.iter().map(|&command| command.to_owned()).collect();
            registry
                .set(id, |entry| {
                    (entry.commands, entry.desired) = (commands, desired)
                })
                .unwrap()
        };
        assert!(set("a", &["set-*", "reboot"], true) && set("b", &["x"], false));
        assert!(!set("c", &[], false));
        let edited = fs::read_to_string(&path).unwrap();
        let registry = Registry::read(&path).unwrap();
        assert_eq!(
            registry.entries()[0].commands,
            ["set-*", "reboot"],
            "{edited}"
        );
        assert!(registry.entries()[0].desired && registry.entries()[1].commands == ["x"]);
        for kept in ["# the barn\n", "# from the shop\n", "# no token\n"] {
            assert!(edited.contains(kept), "{edited}");
        }
        assert!(set("a", &[], false));
        assert!(
            Registry::read(&path).unwrap().entries()[0]
                .commands
                .is_empty()
        );
    }

    #[test]
    fn a_list_over_several_lines_is_changed_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("devices.toml");
        fs::write(
            &path,
            "[[device]]\nid = \"a\"\ncommands = [\n  \"old\",\n]\n",
        )
        .unwrap();
        let mut registry = Registry::edit(&path).unwrap();
        registry
            .set("a", |entry| entry.commands = vec!["new".to_owned()])
            .unwrap();
        assert_eq!(
            Registry::read(&path).unwrap().entries()[0].commands,
            ["new"]
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
        Registry::edit(&path).unwrap().add(entry("c")).unwrap();
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
            "[[device]]\nid = \"a\"\ntoken_sha256 = \"00\"\n",
            "[[device]]\nid = \"a\"\ncommands = [\"a b\"]\n",
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
