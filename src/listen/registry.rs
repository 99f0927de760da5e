//! The registry: which devices there are, and the hashes of their tokens.
//!
//! ```toml
//! [[device]]
//! id = "barn-1"
//! token_sha256 = "…"   # 64 lower-case hexadecimal digits: SHA-256 of the token's UTF-8 bytes;
//!                      # none where devices show certificates
//! added = 1763600000   # optional, Unix seconds
//! expect = "1m"        # optional: it is to send at least this often
//! commands = ["reboot", "set-*"]   # optional: the commands that it takes, * for any characters
//! desired = true       # optional: it has a desired state on the broker, and reports its own
//! old_sha256 = "…"     # optional: a token that was replaced, which is good until
//! old_until = 1763686400
//! ```
//!
//! A token is 256 random bits, so a plain hash is enough: there is nothing to guess.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::version::Version;
use crate::clock::unix_now;
use crate::commands::authority::{Authority, is_pattern};
use crate::config::parse_duration;
use crate::status::board::Expected;

/// SHA-256 of a token.
pub type TokenHash = [u8; 32];

/// The registry as it stands in the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryFile {
    /// `[[device]]`
    #[serde(default, rename = "device", skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<Registered>,
}

/// One `[[device]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registered {
    /// The device's id.
    pub id: String,
    /// 64 lower-case hexadecimal digits; none where devices show certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// How often it is to send at least, such as `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<String>,
    /// Names of the commands that it takes, `*` for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// It has a desired state on the broker, and may report its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub desired: bool,
    /// The token that was replaced by the present one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_sha256: Option<String>,
    /// How long that one is good for new connections, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_until: Option<u64>,
}

impl Registered {
    /// Whether every value is one that the hub takes.
    ///
    /// # Errors
    /// The first that is not, in a sentence that names the device.
    pub fn check(&self) -> Result<(), String> {
        self.entry().map(|_| ())
    }

    fn entry(&self) -> Result<Entry, String> {
        let id = &self.id;
        let hash = |key: &str, hex: &Option<String>| match hex.as_deref().map(parse_hash) {
            Some(None) => Err(format!(
                "{key} of device {id:?} is not 64 lower-case hexadecimal digits"
            )),
            read => Ok(read.flatten()),
        };
        let every = match self.expect.as_deref().map(parse_duration) {
            Some(None) => {
                return Err(format!(
                    "expect of device {id:?} is no duration; write one such as \"1m\""
                ));
            }
            read => read.flatten(),
        };
        if let Some(wrong) = self.commands.iter().find(|command| !is_pattern(command)) {
            return Err(format!(
                "commands of device {id:?} has {wrong:?}, which is no name of a command: 1 to 64 of \
                 A-Z a-z 0-9 . _ -, and * for any of them"
            ));
        }
        let old = hash("old_sha256", &self.old_sha256)?;
        Ok(Entry {
            token: hash("token_sha256", &self.token_sha256)?,
            old: old.zip(self.old_until),
            every,
            commands: self.commands.clone(),
            desired: self.desired,
        })
    }
}

/// What an entry grants and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    token: Option<TokenHash>,
    /// And until when, Unix seconds.
    old: Option<(TokenHash, u64)>,
    every: Option<Duration>,
    commands: Vec<String>,
    desired: bool,
}

impl Entry {
    /// Whether the token with this hash is good for a connection.
    fn admits(&self, hash: &TokenHash, now: u64) -> bool {
        let same = |known: TokenHash| bool::from(known.ct_eq(hash));
        // Both are compared, so that the time tells nothing.
        let token = self.token.is_some_and(same);
        let old = self
            .old
            .is_some_and(|(old, until)| same(old) & (now < until));
        token | old
    }

    /// Whether it keeps what an earlier entry granted.
    fn keeps(&self, before: &Self) -> bool {
        before.token.is_none_or(|token| {
            self.token == Some(token) || self.old.is_some_and(|(old, _)| old == token)
        })
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "seconds since 1970"
)]
fn now() -> u64 {
    unix_now().max(0.0) as u64
}

/// The hash of a token as the registry keeps it.
#[must_use]
pub fn token_hash(token: &str) -> TokenHash {
    Sha256::digest(token.as_bytes()).into()
}

fn parse_hash(hex: &str) -> Option<TokenHash> {
    let mut hash = TokenHash::default();
    if hex.len() != 2 * hash.len() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let digit = |d: u8| match d {
            b'0'..=b'9' => Some(d - b'0'),
            b'a'..=b'f' => Some(d - b'a' + 10),
            _ => None,
        };
        *byte = digit(digits[0])? << 4 | digit(digits[1])?;
    }
    Some(hash)
}

type Devices = HashMap<Arc<str>, Entry>;

/// Reads the text of a registry. The error is one sentence that names the device.
fn parse(text: &str) -> Result<Devices, String> {
    let file: RegistryFile = toml::from_str(text).map_err(|error| {
        // The rest of the error's text quotes the file, which is none of the log's business.
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        format!("line {line}: {}", error.message())
    })?;
    let mut devices = Devices::with_capacity(file.devices.len());
    for device in file.devices {
        let entry = device.entry()?;
        if devices.insert(device.id.as_str().into(), entry).is_some() {
            return Err(format!("device {:?} is there twice", device.id));
        }
    }
    Ok(devices)
}

/// What a token is worth to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// It is the device's own.
    Own(TokenHash),
    /// It is another device's.
    OfAnother,
    /// Nobody's.
    Unknown,
}

#[derive(Debug, Default)]
struct State {
    devices: Devices,
    version: Option<Version>,
    missing: bool,
    complained: bool,
    /// Nobody has asked for the devices since they last changed.
    untold: bool,
}

/// The registry in memory, as of the last good state of the file.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    /// Devices come without it, too: that it is missing is no news.
    optional: bool,
    state: Mutex<State>,
    authority: watch::Sender<Arc<Authority>>,
}

impl Registry {
    /// Reads the file. One that is missing or broken is reported and means no devices so far.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        Self::read(path, false)
    }

    /// The same where devices prove by other means who they are, and entries only say more of them.
    #[must_use]
    pub fn optional(path: &Path) -> Self {
        Self::read(path, true)
    }

    fn read(path: &Path, optional: bool) -> Self {
        let registry = Self {
            path: path.to_owned(),
            optional,
            state: Mutex::default(),
            authority: watch::Sender::default(),
        };
        // Twice, because a missing file counts only the second time.
        registry.refresh();
        registry.refresh();
        registry
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which device takes which commands, as of now and of every change.
    #[must_use]
    pub fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        self.authority.subscribe()
    }

    /// Judges a token in a time that does not depend on how much of it is right.
    #[must_use]
    pub fn judge(&self, device: &str, token: &str) -> Judgement {
        let hash = token_hash(token);
        let state = self.lock();
        let now = now();
        let admits = |entry: &Entry| entry.admits(&hash, now);
        if state.devices.get(device).is_some_and(admits) {
            Judgement::Own(hash)
        } else if state.devices.values().any(admits) {
            Judgement::OfAnother
        } else {
            Judgement::Unknown
        }
    }

    /// Whether the device still has the token with this hash.
    #[must_use]
    pub fn holds(&self, device: &str, hash: &TokenHash) -> bool {
        let state = self.lock();
        let now = now();
        let admits = |entry: &Entry| entry.admits(hash, now);
        state.devices.get(device).is_some_and(admits)
    }

    /// The devices, when they have changed since this was last asked.
    #[must_use]
    pub fn take_roll(&self) -> Option<Vec<Expected>> {
        let mut state = self.lock();
        if !std::mem::take(&mut state.untold) {
            return None;
        }
        let devices = state.devices.iter();
        let roll = devices.map(|(id, entry)| Expected {
            id: id.clone(),
            every: entry.every,
        });
        Some(roll.collect())
    }

    /// Forgets what the file looked like, so that the next look reads it.
    pub fn read_again(&self) {
        self.lock().version = None;
    }

    /// Looks whether the file has changed and follows it. Returns the devices whose token is no
    /// longer valid. One that was replaced, and is good for a while, ends no connection. Reads the
    /// file only when its metadata differ.
    pub fn refresh(&self) -> Vec<Arc<str>> {
        let found = fs::metadata(&self.path).map(Version::from);
        let mut state = self.lock();
        let devices = match found {
            Ok(version) if state.version == Some(version) => return Vec::new(),
            Ok(version) => {
                state.version = Some(version);
                state.missing = false;
                match fs::read_to_string(&self.path)
                    .map_err(|error| error.to_string())
                    .and_then(|text| parse(&text))
                {
                    Ok(devices) => devices,
                    Err(error) => {
                        // No device can be admitted or removed until someone repairs the file.
                        error!(registry = %self.path.display(), error, in_force = state.devices.len(), "cannot read the device registry; the devices read before stay in force");
                        return Vec::new();
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // An editor may remove the file for a moment while it saves.
                if !state.missing {
                    state.missing = true;
                    return Vec::new();
                }
                state.version = None;
                if !state.complained && !self.optional {
                    state.complained = true;
                    warn!(registry = %self.path.display(), "no device registry: no device can connect until `telehub device add` makes one");
                }
                Devices::new()
            }
            Err(error) => {
                if !state.complained {
                    state.complained = true;
                    error!(registry = %self.path.display(), %error, in_force = state.devices.len(), "cannot look at the device registry; the devices read before stay in force");
                }
                return Vec::new();
            }
        };
        if state.version.is_some() {
            state.complained = false;
            info!(registry = %self.path.display(), devices = devices.len(), "device registry read");
        }
        if devices == state.devices {
            return Vec::new();
        }
        state.untold = true;
        self.tell_authority(&devices);
        let before = std::mem::replace(&mut state.devices, devices);
        before
            .into_iter()
            .filter(|(id, entry)| {
                let present = state.devices.get(id);
                !present.is_some_and(|present| present.keeps(entry))
            })
            .map(|(id, _)| id)
            .collect()
    }
}

impl Registry {
    /// Whoever judges commands hears of it, if something has changed for them.
    fn tell_authority(&self, devices: &Devices) {
        let takes = devices
            .iter()
            .filter(|(_, entry)| !entry.commands.is_empty());
        let authority: Authority = takes
            .map(|(id, entry)| (id.clone(), entry.commands.clone()))
            .collect();
        let desired = devices.iter().filter(|(_, entry)| entry.desired);
        let authority = authority.with_desired(desired.map(|(id, _)| id.clone()).collect());
        self.authority.send_if_modified(|known| {
            let changed = **known != authority;
            if changed {
                *known = Arc::new(authority);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn entry(id: &str, token: &str) -> String {
        let hex: String = token_hash(token)
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!("[[device]]\nid = \"{id}\"\ntoken_sha256 = \"{hex}\"\n")
    }

    fn replace(path: &Path, text: &str) {
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, path).unwrap();
    }

    #[test]
    fn a_token_is_judged_by_whose_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        fs::write(
            &path,
            entry("a", "token a") + "added = 5\n" + &entry("b", "token b"),
        )
        .unwrap();
        let registry = Registry::open(&path);
        assert_eq!(
            registry.judge("a", "token a"),
            Judgement::Own(token_hash("token a"))
        );
        assert_eq!(registry.judge("a", "token b"), Judgement::OfAnother);
        assert_eq!(registry.judge("c", "token b"), Judgement::OfAnother);
        assert_eq!(registry.judge("a", "token"), Judgement::Unknown);
        assert_eq!(registry.judge("a", ""), Judgement::Unknown);
    }

    #[test]
    fn a_changed_file_is_followed_and_says_who_lost_access() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        let registry = Registry::open(&path);
        assert_eq!(registry.judge("a", "1"), Judgement::Unknown);

        let (a, b, c) = (entry("a", "1"), entry("b", "2"), entry("c", "3"));
        replace(&path, &(a.clone() + &b + &c));
        assert!(registry.refresh().is_empty());
        assert!(registry.holds("a", &token_hash("1")));

        replace(&path, &(a + &entry("b", "new")));
        let mut lost = registry.refresh();
        lost.sort();
        assert_eq!(lost, ["b".into(), "c".into()]);
        assert!(registry.holds("a", &token_hash("1")));
        assert!(!registry.holds("b", &token_hash("2")));
    }

    #[test]
    fn what_devices_take_follows_the_file_and_needs_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        let lamp = "[[device]]\nid = \"lamp\"\ncommands = [\"set-*\"]\n";
        fs::write(&path, entry("a", "1") + lamp).unwrap();
        let registry = Registry::open(&path);
        let mut authority = registry.authority();
        assert!(authority.borrow_and_update().allows("lamp", "set-level"));
        assert!(!authority.borrow().allows("a", "set-level"));
        assert_eq!(registry.judge("lamp", ""), Judgement::Unknown);

        replace(&path, &(entry("a", "1") + "added = 7\n" + lamp));
        assert!(registry.refresh().is_empty());
        assert!(
            !authority.has_changed().unwrap(),
            "nothing has changed for it"
        );
        replace(&path, &(entry("a", "1") + "[[device]]\nid = \"lamp\"\n"));
        assert!(
            registry.refresh().is_empty(),
            "nobody lost access to the port"
        );
        assert!(!authority.borrow_and_update().allows("lamp", "set-level"));
        assert!(parse("[[device]]\nid = \"x\"\ncommands = [\"a b\"]\n").is_err());
    }

    #[test]
    fn a_broken_file_leaves_the_last_good_one_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        fs::write(&path, entry("a", "1")).unwrap();
        let registry = Registry::open(&path);
        for broken in [
            "[[device]\n",
            "[[device]]\nid = \"x\"\ntoken_sha256 = \"00\"\n",
            "[[device]]\nid = \"x\"\ntoken = \"secret\"\n",
            &(entry("x", "1") + &entry("x", "2")),
        ] {
            replace(&path, broken);
            assert!(registry.refresh().is_empty(), "{broken}");
            assert!(registry.holds("a", &token_hash("1")), "{broken}");
            assert!(parse(broken).is_err());
        }
        replace(&path, "");
        assert_eq!(registry.refresh(), ["a".into()]);
    }

    #[test]
    fn a_token_that_was_replaced_is_good_for_a_while_and_ends_no_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        fs::write(&path, entry("a", "old")).unwrap();
        let registry = Registry::open(&path);
        let old: String = token_hash("old")
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        let rotated = |until: u64| {
            format!(
                "{}old_sha256 = \"{old}\"\nold_until = {until}\n",
                entry("a", "new")
            )
        };
        replace(&path, &rotated(now() + 3_600));
        assert!(registry.refresh().is_empty());
        for token in ["old", "new"] {
            assert!(
                matches!(registry.judge("a", token), Judgement::Own(_)),
                "{token}"
            );
        }
        replace(&path, &rotated(now()));
        assert!(registry.refresh().is_empty());
        assert_eq!(registry.judge("a", "old"), Judgement::Unknown);
        assert!(matches!(registry.judge("a", "new"), Judgement::Own(_)));
        replace(&path, &entry("a", "newer"));
        assert_eq!(registry.refresh(), ["a".into()]);
    }

    #[test]
    fn the_roll_is_told_once_for_each_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        fs::write(&path, "[[device]]\nid = \"a\"\nexpect = \"90s\"\n").unwrap();
        let registry = Registry::optional(&path);
        let roll = registry.take_roll().unwrap();
        assert_eq!(roll.len(), 1);
        assert_eq!(
            (&*roll[0].id, roll[0].every),
            ("a", Some(Duration::from_secs(90)))
        );
        assert_eq!(registry.take_roll(), None);
        assert_eq!(registry.judge("a", ""), Judgement::Unknown);
        assert!(
            parse("[[device]]\nid = \"a\"\nexpect = \"soon\"\n")
                .unwrap_err()
                .contains("\"1m\"")
        );
    }

    #[test]
    fn a_file_that_is_gone_for_a_moment_is_not_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        fs::write(&path, entry("a", "1")).unwrap();
        let registry = Registry::open(&path);
        fs::remove_file(&path).unwrap();
        assert!(registry.refresh().is_empty());
        assert!(registry.holds("a", &token_hash("1")));
        assert_eq!(registry.refresh(), ["a".into()]);
        assert!(!registry.holds("a", &token_hash("1")));
    }
}
