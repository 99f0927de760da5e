//! From the document to the configuration: the keys, their defaults and ranges, and what must
//! hold between them.

mod admin;
mod commands;
mod devices;
mod reduce;
mod uplink;
mod values;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::choices::{LEVEL, LOG_FORMAT, OVERFLOW, WRITE};
use super::document::Document;
use super::files::{NamedFile, Use};
use super::problem::Problem;
use super::units::show_duration;
use super::values::{duration, file, id, id_from, path, size, word};
use super::{Config, Hub, Log, LogFormat, LogLevel, Overflow, Spool, SpoolWrite, Uplink};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn secs(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_secs(*range.start())..=Duration::from_secs(*range.end())
}

fn millis(range: RangeInclusive<u64>) -> RangeInclusive<Duration> {
    Duration::from_millis(*range.start())..=Duration::from_millis(*range.end())
}

/// What was read beside the configuration itself.
#[derive(Debug, Default)]
pub(in crate::config) struct Notes {
    /// What is valid but probably not meant.
    pub(in crate::config) warnings: Vec<Problem>,
    /// Files that the configuration names and the hub will need.
    pub(in crate::config) files: Vec<NamedFile>,
}

/// Reads every section. Faults are recorded in the document, and the value that is returned
/// then has defaults in their places: it is of use only when the document ends without errors.
pub(in crate::config) fn check(doc: &mut Document<'_>, host_name: &str) -> (Config, Notes) {
    let mut notes = Notes::default();
    let hub = Hub {
        id: doc
            .get("hub", "id", id)
            .or_else(|| id_from(host_name))
            .unwrap_or_else(|| "hub".to_owned()),
    };
    let devices = devices::devices(doc, &mut notes);
    let spool = spool(doc);
    let uplink = uplink::uplink(doc, &hub, &mut notes);
    commit_interval(doc, &spool, &uplink);
    let admin = admin::admin(doc, &devices, &mut notes);
    let reduce = reduce::reduce(doc, &spool, &mut notes);
    let homeassistant = values::homeassistant(doc);
    let values = values::values(doc, homeassistant, &mut notes);
    let commands = commands::commands(doc, &devices, &uplink, admin.as_ref(), &mut notes);
    let log = Log {
        level: doc
            .get("log", "level", word(LEVEL))
            .unwrap_or(LogLevel::Info),
        format: doc
            .get("log", "format", word(LOG_FORMAT))
            .unwrap_or(LogFormat::Text),
    };
    (
        Config {
            hub,
            devices,
            spool,
            uplink,
            reduce,
            values,
            homeassistant,
            commands,
            admin,
            log,
        },
        notes,
    )
}

/// A checked number in the type of its field. The range has been held before.
fn number<T: TryFrom<u64>>(read: Option<u64>, default: T) -> T {
    read.and_then(|number| T::try_from(number).ok())
        .unwrap_or(default)
}

/// A certificate and its key: both or neither.
fn pair(
    doc: &mut Document<'_>,
    section: &'static str,
    notes: &mut Notes,
) -> Option<(PathBuf, PathBuf)> {
    let cert = doc.get(section, "cert", file);
    let key = doc.get(section, "key", file);
    for (there, missing, what) in [
        ("cert", "key", "private key"),
        ("key", "cert", "certificate chain"),
    ] {
        if doc.has(section, there) && !doc.has(section, missing) {
            let text = format!("write the path of the PEM file with the {what}");
            doc.missing(section, missing, there, &text);
        }
    }
    let (cert, key) = (cert?, key?);
    notes
        .files
        .push(NamedFile::new(doc, section, "cert", &cert, Use::Chain));
    notes.files.push(NamedFile::new(
        doc,
        section,
        "key",
        &key,
        Use::KeyOf(cert.clone()),
    ));
    Some((cert, key))
}

fn spool(doc: &mut Document<'_>) -> Spool {
    const S: &str = "spool";
    let max_size = size(
        8 * MIB..=16 * TIB,
        "the store on disk takes some MiB before the first batch",
    );
    let min_free = size(0..=16 * TIB, "no file system of such a board is larger");
    let max_age = duration(
        secs(1..=3_650 * 86_400),
        "younger data would never survive an outage, and nothing is kept for more than ten years",
    );
    let commit_interval = duration(
        Duration::ZERO..=Duration::from_secs(600),
        "devices keep what is not acked in their memory, and send it again after a while",
    );
    Spool {
        path: doc
            .get(S, "path", path)
            .unwrap_or_else(|| PathBuf::from("/var/lib/telehub/spool")),
        write: doc
            .get(S, "write", word(WRITE))
            .unwrap_or(SpoolWrite::Outage),
        max_size: doc.get(S, "max_size", max_size).unwrap_or(GIB),
        min_free: doc.get(S, "min_free", min_free).unwrap_or(256 * MIB),
        max_age: doc
            .get(S, "max_age", max_age)
            .unwrap_or(Duration::from_secs(30 * 86_400)),
        commit_interval: doc
            .get(S, "commit_interval", commit_interval)
            .unwrap_or(Duration::ZERO),
        overflow: doc
            .get(S, "overflow", word(OVERFLOW))
            .unwrap_or(Overflow::DropOldest),
    }
}

/// Devices are told to expect an ack within `ack_timeout` and what the disk takes. An outage must
/// not make them wait for the card longer than a healthy hub makes them wait for the broker.
fn commit_interval(doc: &mut Document<'_>, spool: &Spool, uplink: &Uplink) {
    if spool.commit_interval <= uplink.ack_timeout || !doc.has("spool", "commit_interval") {
        return;
    }
    let text = format!(
        "is longer than uplink.ack_timeout, which is \"{0}\": devices would wait for the disk \
         longer than for the broker; write \"{0}\" or less, or raise ack_timeout",
        show_duration(uplink.ack_timeout)
    );
    doc.problem("spool", "commit_interval", &text);
}
