//! From the document to the configuration: the keys, their defaults and ranges, and what must
//! hold between them.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::document::Document;
use super::files::{NamedFile, Use};
use super::problem::Problem;
use super::url::{BrokerUrl, broker_url};
use super::values::{
    address, client_id, duration, id, id_from, path, prefix, size, text, whole, word,
};
use super::{
    Admin, Auth, Config, DeviceTls, Devices, DrainOrder, Format, Hub, Log, LogFormat, LogLevel,
    Overflow, Spool, SpoolWrite, Uplink, UplinkTls,
};

pub(super) const AUTH: &[(&str, Auth)] = &[
    ("token", Auth::Token),
    ("certificate", Auth::Certificate),
    ("open", Auth::Open),
];
pub(super) const WRITE: &[(&str, SpoolWrite)] = &[
    ("outage", SpoolWrite::Outage),
    ("always", SpoolWrite::Always),
];
pub(super) const OVERFLOW: &[(&str, Overflow)] = &[
    ("drop-oldest", Overflow::DropOldest),
    ("refuse", Overflow::Refuse),
];
pub(super) const FORMAT: &[(&str, Format)] = &[
    ("json", Format::Json),
    ("cbor", Format::Cbor),
    ("senml-json", Format::SenmlJson),
    ("senml-cbor", Format::SenmlCbor),
];
pub(super) const DRAIN: &[(&str, DrainOrder)] = &[
    ("live-first", DrainOrder::LiveFirst),
    ("in-order", DrainOrder::InOrder),
];
pub(super) const LEVEL: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
pub(super) const LOG_FORMAT: &[(&str, LogFormat)] =
    &[("text", LogFormat::Text), ("json", LogFormat::Json)];

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
pub(super) struct Notes {
    /// What is valid but probably not meant.
    pub(super) warnings: Vec<Problem>,
    /// Files that the configuration names and the hub will need.
    pub(super) files: Vec<NamedFile>,
}

/// Reads every section. Faults are recorded in the document, and the value that is returned
/// then has defaults in their places: it is of use only when the document ends without errors.
pub(super) fn check(doc: &mut Document<'_>, host_name: &str) -> (Config, Notes) {
    let mut notes = Notes::default();
    let hub = Hub {
        id: doc
            .get("hub", "id", id)
            .or_else(|| id_from(host_name))
            .unwrap_or_else(|| "hub".to_owned()),
    };
    let devices = devices(doc, &mut notes);
    let spool = spool(doc);
    let uplink = uplink(doc, &hub, &mut notes);
    let admin = doc
        .get("admin", "listen", address)
        .map(|listen| Admin { listen });
    if let Some(admin) = &admin {
        check_admin(doc, &devices, admin, &mut notes);
    }
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
            admin,
            log,
        },
        notes,
    )
}

fn devices(doc: &mut Document<'_>, notes: &mut Notes) -> Devices {
    const S: &str = "devices";
    let ping_interval = duration(
        secs(1..=3_600),
        "more often than once a second wears out batteries and tells no more, and a device that \
         is looked for less than once an hour is not watched",
    );
    let ping_timeout = duration(
        millis(500..=600_000),
        "a slow radio link needs half a second for an answer, and ten minutes are no answer",
    );
    let handshake = duration(
        millis(500..=60_000),
        "TLS on a small device takes half a second, and who holds a connection longer than a \
         minute without a word keeps others out",
    );
    let connections = whole(1..=65_536, "each one takes a file descriptor");
    let message = size(
        64..=256 * KIB,
        "a batch has to fit into it and many of them into the hub's memory",
    );
    let rate = whole(
        1..=100_000,
        "0 would shut every device out and more is no limit",
    );
    let window = whole(
        1..=1_024,
        "a device must be able to send one batch, and each one waits in memory",
    );
    let listen = doc
        .get(S, "listen", address)
        .unwrap_or(SocketAddr::from((Ipv4Addr::LOCALHOST, 8787)));
    let devices = Devices {
        listen,
        auth: doc.get(S, "auth", word(AUTH)).unwrap_or(Auth::Token),
        registry: doc
            .get(S, "registry", path)
            .unwrap_or_else(|| PathBuf::from("/var/lib/telehub/devices.toml")),
        ping_interval: doc
            .get(S, "ping_interval", ping_interval)
            .unwrap_or(Duration::from_secs(20)),
        ping_timeout: doc
            .get(S, "ping_timeout", ping_timeout)
            .unwrap_or(Duration::from_secs(10)),
        handshake_timeout: doc
            .get(S, "handshake_timeout", handshake)
            .unwrap_or(Duration::from_secs(5)),
        max_connections: number(doc.get(S, "max_connections", connections), 1_024),
        max_message: number(doc.get(S, "max_message", message), 65_536),
        max_rate: number(doc.get(S, "max_rate", rate), 100),
        window: number(doc.get(S, "window", window), 32),
        tls: device_tls(doc, notes),
    };
    if devices.auth == Auth::Certificate {
        check_certificate_auth(doc);
    }
    if devices.auth == Auth::Open && !devices.listen.ip().is_loopback() {
        let text = format!(
            "\"open\" lets everybody who reaches {} send as any device; write auth = \"token\", \
             or listen on 127.0.0.1",
            devices.listen
        );
        notes.warnings.push(doc.remark(S, "auth", text));
    }
    devices
}

fn check_certificate_auth(doc: &mut Document<'_>) {
    if !doc.has_section("devices.tls") {
        doc.problem(
            "devices",
            "auth",
            "\"certificate\" needs TLS; add a section [devices.tls] with cert, key and client_ca, \
             or write auth = \"token\"",
        );
    } else if !doc.has("devices.tls", "client_ca") {
        doc.problem(
            "devices.tls",
            "client_ca",
            "is missing, and auth = \"certificate\" needs it; write the path of the PEM file \
             with the certificates that sign those of the devices",
        );
    }
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
    let cert = doc.get(section, "cert", path);
    let key = doc.get(section, "key", path);
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

fn device_tls(doc: &mut Document<'_>, notes: &mut Notes) -> Option<DeviceTls> {
    const S: &str = "devices.tls";
    let pair = pair(doc, S, notes);
    let client_ca = doc.get(S, "client_ca", path);
    if let Some(ca) = &client_ca {
        notes
            .files
            .push(NamedFile::new(doc, S, "client_ca", ca, Use::Authorities));
    }
    if doc.has_section(S) && !doc.has(S, "cert") && !doc.has(S, "key") {
        doc.problem(S, "cert", "is missing; write the paths of the hub's certificate chain and private key as cert and key, or remove [devices.tls]");
    }
    let (cert, key) = pair?;
    Some(DeviceTls {
        cert,
        key,
        client_ca,
    })
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
        overflow: doc
            .get(S, "overflow", word(OVERFLOW))
            .unwrap_or(Overflow::DropOldest),
    }
}

fn uplink(doc: &mut Document<'_>, hub: &Hub, notes: &mut Notes) -> Uplink {
    const S: &str = "uplink";
    let inflight = whole(
        1..=10_000,
        "packet ids end at 65,535 and brokers keep each one in memory",
    );
    let ack_timeout = duration(
        millis(100..=600_000),
        "a broker needs some time to answer, and devices wait for their acks meanwhile",
    );
    let keep_alive = duration(
        secs(5..=65_535),
        "MQTT counts it in seconds up to 65,535 and shorter ones cost the link more than they tell",
    );
    let url = doc.get(S, "url", broker_url);
    let url_is_wrong = url.is_none() && doc.has(S, "url");
    let url = url.unwrap_or(BrokerUrl {
        tls: false,
        host: "localhost".to_owned(),
        port: 1883,
    });
    let username = doc.get(S, "username", text);
    let password_file = doc.get(S, "password_file", path);
    if let Some(file) = &password_file {
        notes
            .files
            .push(NamedFile::new(doc, S, "password_file", file, Use::Password));
    }
    if doc.has(S, "password_file") && !doc.has(S, "username") {
        let text = "write the name that the password belongs to";
        doc.missing(S, "username", "password_file", text);
    }
    let ca = doc.get(S, "ca", path);
    if let Some(ca) = &ca {
        notes
            .files
            .push(NamedFile::new(doc, S, "ca", ca, Use::Authorities));
    }
    let client = pair(doc, S, notes);
    for key in ["ca", "cert", "key"] {
        if !url.tls && !url_is_wrong && doc.has(S, key) {
            doc.problem(
                S,
                key,
                "has no use without TLS; write mqtts:// in url, or remove this line",
            );
        }
    }
    Uplink {
        client_id: doc
            .get(S, "client_id", client_id)
            .unwrap_or_else(|| format!("telehub-{}", hub.id)),
        username,
        password_file,
        prefix: doc
            .get(S, "prefix", prefix)
            .unwrap_or_else(|| "telehub".to_owned()),
        format: doc.get(S, "format", word(FORMAT)).unwrap_or(Format::Json),
        drain: doc
            .get(S, "drain", word(DRAIN))
            .unwrap_or(DrainOrder::LiveFirst),
        inflight: number(doc.get(S, "inflight", inflight), 100),
        ack_timeout: doc
            .get(S, "ack_timeout", ack_timeout)
            .unwrap_or(Duration::from_secs(10)),
        keep_alive: doc
            .get(S, "keep_alive", |value| whole_seconds(keep_alive(value)?))
            .unwrap_or(Duration::from_secs(30)),
        tls: url.tls.then_some(UplinkTls { ca, client }),
        host: url.host,
        port: url.port,
    }
}

fn whole_seconds(duration: Duration) -> Result<Duration, String> {
    if duration.subsec_nanos() == 0 {
        return Ok(duration);
    }
    let seconds = duration.as_secs();
    Err(format!(
        "MQTT counts the keep-alive in whole seconds; write \"{seconds}s\""
    ))
}

fn check_admin(doc: &mut Document<'_>, devices: &Devices, admin: &Admin, notes: &mut Notes) {
    if admin.listen == devices.listen && admin.listen.port() != 0 {
        let text = format!(
            "{} is the address of [devices] listen already; write another port, such as \
             \"127.0.0.1:8788\"",
            admin.listen
        );
        doc.problem("admin", "listen", text);
    }
    if !admin.listen.ip().is_loopback() {
        let text = format!(
            "{} shows the names and addresses of all devices to everybody who reaches it; \
             write \"127.0.0.1:{}\" unless a firewall stands before it",
            admin.listen,
            admin.listen.port()
        );
        notes.warnings.push(doc.remark("admin", "listen", text));
    }
}
