//! The registry: which devices there are, and the hashes of their tokens.
//!
//! ```toml
//! [[device]]
//! id = "barn-1"
//! token_sha256 = "…"   # 64 lower-case hexadecimal digits: SHA-256 of the token's UTF-8 bytes
//! added = 1763600000   # optional, Unix seconds
//! commands = ["reboot", "set-*"]   # optional: the commands that it takes
//! desired = true       # optional: it takes its desired state
//! ```
//!
//! With `auth = "certificate"` an entry has no token: it says only what the device takes.
//!
//! A token is 256 random bits, so a plain hash is enough: there is nothing to guess.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::version::Version;
use crate::commands::authority::{Authority, Rights, is_pattern};

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
    /// 64 lower-case hexadecimal digits; `None`: it shows a certificate instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sha256: Option<String>,
    /// Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// Names of the commands that it takes, `*` for any characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    /// It takes its desired state.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub desired: bool,
}

impl Registered {
    /// The first of its commands that is neither a name nor a pattern.
    #[must_use]
    pub fn wrong_command(&self) -> Option<&str> {
        let wrong = self.commands.iter().find(|command| !is_pattern(command));
        wrong.map(String::as_str)
    }
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

/// Every device that has an entry, and its token if it has one.
type Devices = HashMap<Arc<str>, Option<TokenHash>>;

/// Reads the text of a registry. The error is one sentence that names the device.
fn parse(text: &str) -> Result<(Devices, Authority), String> {
    let file: RegistryFile = toml::from_str(text).map_err(|error| {
        // The rest of the error's text quotes the file, which is none of the log's business.
        let line = error.span().map_or(0, |span| {
            text[..span.start.min(text.len())].lines().count().max(1)
        });
        format!("line {line}: {}", error.message())
    })?;
    let mut devices = Devices::with_capacity(file.devices.len());
    let mut rights = Vec::new();
    for device in file.devices {
        let hash = device.token_sha256.as_deref().map(parse_hash);
        if hash == Some(None) {
            return Err(format!(
                "token_sha256 of device {:?} is not 64 lower-case hexadecimal digits",
                device.id
            ));
        }
        if let Some(wrong) = device.wrong_command() {
            return Err(format!(
                "commands of device {:?} has {wrong:?}, which is no name of a command: 1 to 64 of \
                 A-Z a-z 0-9 . _ -, and * for any of them",
                device.id
            ));
        }
        let id: Arc<str> = device.id.as_str().into();
        if devices.insert(id.clone(), hash.flatten()).is_some() {
            return Err(format!("device {:?} is there twice", device.id));
        }
        if device.desired || !device.commands.is_empty() {
            let (commands, desired) = (device.commands, device.desired);
            rights.push((id, Rights { commands, desired }));
        }
    }
    Ok((devices, rights.into_iter().collect()))
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
}

/// The registry in memory, as of the last good state of the file.
#[derive(Debug)]
pub struct Registry {
    path: PathBuf,
    state: Mutex<State>,
    authority: watch::Sender<Arc<Authority>>,
}

impl Registry {
    /// Reads the file. One that is missing or broken is reported and means no devices so far.
    #[must_use]
    pub fn open(path: &Path) -> Self {
        let registry = Self {
            path: path.to_owned(),
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
        let same = |known: &TokenHash| bool::from(known.ct_eq(&hash));
        let own = state.devices.get(device).and_then(Option::as_ref);
        if own.is_some_and(same) {
            Judgement::Own(hash)
        } else if state.devices.values().flatten().any(same) {
            Judgement::OfAnother
        } else {
            Judgement::Unknown
        }
    }

    /// Whether the device still has the token with this hash.
    #[must_use]
    pub fn holds(&self, device: &str, hash: &TokenHash) -> bool {
        let state = self.lock();
        let same = |known: &TokenHash| bool::from(known.ct_eq(hash));
        let own = state.devices.get(device).and_then(Option::as_ref);
        own.is_some_and(same)
    }

    /// Forgets what the file looked like, so that the next look reads it.
    pub fn read_again(&self) {
        self.lock().version = None;
    }

    /// Looks whether the file has changed and follows it. Returns the devices whose token is no
    /// longer valid. Reads the file only when its metadata differ.
    pub fn refresh(&self) -> Vec<Arc<str>> {
        let found = fs::metadata(&self.path).map(Version::from);
        let mut state = self.lock();
        let (devices, authority) = match found {
            Ok(version) if state.version == Some(version) => return Vec::new(),
            Ok(version) => {
                state.version = Some(version);
                state.missing = false;
                match fs::read_to_string(&self.path)
                    .map_err(|error| error.to_string())
                    .and_then(|text| parse(&text))
                {
                    Ok(read) => read,
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
                if !state.complained {
                    state.complained = true;
                    warn!(registry = %self.path.display(), "no device registry: no device has a token, and none takes commands, until `telehub device add` makes one");
                }
                (Devices::new(), Authority::default())
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
        self.authority.send_if_modified(|known| {
            let changed = **known != authority;
            if changed {
                *known = Arc::new(authority);
            }
            changed
        });
        let before = std::mem::replace(&mut state.devices, devices);
        before
            .into_iter()
            .filter(|(id, hash)| hash.is_some() && state.devices.get(id) != Some(hash))
            .map(|(id, _)| id)
            .collect()
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
    fn rights_follow_the_file_and_need_no_token() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("devices.toml");
        let lamp = "[[device]]\nid = \"lamp\"\ncommands = [\"set-*\"]\n";
        fs::write(&path, entry("a", "1") + "desired = true\n" + lamp).unwrap();
        let registry = Registry::open(&path);
        let mut authority = registry.authority();
        assert!(authority.borrow_and_update().allows("lamp", "set-level"));
        assert!(authority.borrow().takes_desired("a") && !authority.borrow().allows("a", "x"));
        assert_eq!(registry.judge("lamp", ""), Judgement::Unknown);

        replace(
            &path,
            &(entry("a", "1") + "# another comment\ndesired = true\n" + lamp),
        );
        assert!(registry.refresh().is_empty());
        assert!(
            !authority.has_changed().unwrap(),
            "nothing has changed for it"
        );
        replace(&path, &entry("a", "1"));
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
