//! The configuration as the hub uses it: every value checked, every default filled in.

mod changes;
mod check;
mod choices;
mod document;
mod files;
mod load;
mod nearest;
mod problem;
mod show;
mod units;
mod unknown_keys;
mod url;
mod values;
mod web;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::protocol::payload::Format;
pub use changes::changes;
pub use load::{Checked, DEFAULT_FILE, keys, load, load_alone, parse};
pub use problem::{Errors, Problem};
pub use units::parse_duration;
pub use values::is_id;
pub use web::{WebOrigin, is_loopback_host};

/// Everything that can be set. A room receives its own part, never the whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[hub]`
    pub hub: Hub,
    /// `[devices]`
    pub devices: Devices,
    /// `[spool]`
    pub spool: Spool,
    /// `[uplink]`
    pub uplink: Uplink,
    /// `[[reduce]]`, in their order.
    pub reduce: Vec<ReduceRule>,
    /// `[values]`
    pub values: Values,
    /// `[homeassistant]`
    pub homeassistant: HomeAssistant,
    /// `[commands]`
    pub commands: Commands,
    /// `[admin]`; `None`: off.
    pub admin: Option<Admin>,
    /// `[log]`
    pub log: Log,
}

/// `[hub]`
#[derive(Debug, Clone, PartialEq)]
pub struct Hub {
    /// The hub's id, a topic level: same rules as a device id.
    pub id: String,
}

/// `devices.auth`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// A bearer token of the registry.
    Token,
    /// A TLS client certificate with the id as a DNS name.
    Certificate,
    /// None at all.
    Open,
}

/// `[devices]`
#[derive(Debug, Clone, PartialEq)]
pub struct Devices {
    /// Where devices connect; port 0 picks a free one.
    pub listen: SocketAddr,
    /// How a device proves who it is.
    pub auth: Auth,
    /// The file of known devices and the hashes of their tokens.
    pub registry: PathBuf,
    /// Time between WebSocket pings.
    pub ping_interval: Duration,
    /// How long after a ping a sign of life is awaited.
    pub ping_timeout: Duration,
    /// From TCP accept to the answered upgrade, TLS included.
    pub handshake_timeout: Duration,
    /// Connections at a time.
    pub max_connections: usize,
    /// Devices that are remembered with `auth = "open"`, where everybody can make up ids.
    pub max_ids: usize,
    /// Web pages that may be devices where no token is needed.
    pub origins: Vec<WebOrigin>,
    /// A device without an entry in the registry that has not come for so long is forgotten.
    pub forget_after: Duration,
    /// Bytes of one message, over all its fragments.
    pub max_message: usize,
    /// Messages a second and device; the burst is twice that.
    pub max_rate: u32,
    /// Bytes a second and device; the burst is twice that.
    pub max_bytes: u64,
    /// Readings a second and device; the burst is twice that.
    pub max_readings: u32,
    /// Batches of one connection that may be unacked.
    pub window: u32,
    /// `None`: plain `ws://`.
    pub tls: Option<DeviceTls>,
}

/// `devices.tls.crl_expiry`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrlExpiry {
    /// A revocation list past its next update is warned of.
    Warn,
    /// Nobody whose authority has such a list gets in.
    Error,
}

/// `[devices.tls]`
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceTls {
    /// PEM certificate chain, the server's own first.
    pub cert: PathBuf,
    /// PEM private key.
    pub key: PathBuf,
    /// PEM certificates that sign device certificates; needed by `auth = "certificate"`.
    pub client_ca: Option<PathBuf>,
    /// What an outdated revocation list in `client_ca` means.
    pub crl_expiry: CrlExpiry,
}

/// `spool.write`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpoolWrite {
    /// Only what cannot go out at once.
    Outage,
    /// Every batch, before anything else.
    Always,
}

/// `spool.overflow`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest data becomes a gap record.
    DropOldest,
    /// New data is not taken: close 1013, no ack.
    Refuse,
}

/// `[spool]`
#[derive(Debug, Clone, PartialEq)]
pub struct Spool {
    /// The spool's directory.
    pub path: PathBuf,
    /// When batches go through the disk.
    pub write: SpoolWrite,
    /// Bytes on disk at most.
    pub max_size: u64,
    /// Bytes of the file system that stay free.
    pub min_free: u64,
    /// Older data becomes a gap record.
    pub max_age: Duration,
    /// How long acks wait for a common commit at most; zero: they do not.
    pub commit_interval: Duration,
    /// What happens when the spool is full.
    pub overflow: Overflow,
}

/// `uplink.drain`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainOrder {
    /// New batches go out at once, the backlog beside them.
    LiveFirst,
    /// New batches wait behind the backlog.
    InOrder,
}

/// `uplink.version`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MqttVersion {
    /// MQTT 5, and 3.1.1 for brokers that do not know it.
    Auto,
    /// MQTT 5 only.
    V5,
    /// MQTT 3.1.1 only.
    V311,
}

/// `uplink.topic_dots`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicDots {
    /// As they are.
    Keep,
    /// As `%2E`, for brokers that make something else of a dot.
    Escape,
}

/// One entry of `uplink.url`.
#[derive(Debug, Clone, PartialEq)]
pub struct Broker {
    /// The broker's host name or address, an IPv6 address without its brackets.
    pub host: String,
    /// The broker's port.
    pub port: u16,
    /// `None`: plain `mqtt://`.
    pub tls: Option<UplinkTls>,
}

/// `[uplink]`
#[derive(Debug, Clone, PartialEq)]
pub struct Uplink {
    /// The brokers, the first choice first; never empty.
    pub brokers: Vec<Broker>,
    /// Which MQTT is spoken.
    pub version: MqttVersion,
    /// How long the first choice must have answered before another broker is left for it.
    pub return_after: Duration,
    /// Bytes of one publish's payload.
    pub max_payload: usize,
    /// MQTT client id.
    pub client_id: String,
    /// MQTT user name.
    pub username: Option<String>,
    /// File whose first line is the password; read at every connect.
    pub password_file: Option<PathBuf>,
    /// First topic level or levels, no wildcard, no `/` at either end.
    pub prefix: String,
    /// Payload format of batches.
    pub format: Format,
    /// Whether new batches overtake the backlog.
    pub drain: DrainOrder,
    /// Publishes that may be unacknowledged: 1 to 10,000.
    pub inflight: u16,
    /// How long the oldest unacknowledged publish may wait before data goes to disk.
    pub ack_timeout: Duration,
    /// MQTT keep-alive.
    pub keep_alive: Duration,
    /// Bytes of batches and gap records that go in one compressed publish, before compression;
    /// 0: each goes by itself.
    pub pack: usize,
    /// How long a live batch may wait for others to go with; shorter than `ack_timeout`.
    pub pack_delay: Duration,
    /// What becomes of dots in ids and names.
    pub topic_dots: TopicDots,
}

/// TLS to the broker; files are read at every connect.
#[derive(Debug, Clone, PartialEq)]
pub struct UplinkTls {
    /// PEM certificates to trust; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// PEM client certificate chain and private key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// How far a number may move without being told.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Deadband {
    /// In the reading's own unit; 0 or more.
    Absolute(f64),
    /// Of the last number that was told; 0 to 100.
    Percent(f64),
}

/// One `[[reduce]]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ReduceRule {
    /// Which devices: a pattern.
    pub device: String,
    /// Which names, base name included: a pattern.
    pub name: String,
    /// No number of a series is told sooner after the one before; zero: it may be.
    pub min_interval: Duration,
    /// `None`: however little it moves.
    pub deadband: Option<Deadband>,
    /// After this time the next reading is told whatever it says.
    pub max_interval: Duration,
}

/// `[values]`
#[derive(Debug, Clone, PartialEq)]
pub struct Values {
    /// Whether the newest value of each name is published on a topic of its own.
    pub enabled: bool,
    /// Whether the broker keeps it for those who come later.
    pub retain: bool,
    /// The bare value instead of a JSON map.
    pub plain: bool,
    /// Values a second and name at most.
    pub max_rate: u32,
}

/// `[homeassistant]`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HomeAssistant {
    /// Whether Home Assistant is told of the devices and their values.
    pub discovery: bool,
}

impl Default for Values {
    fn default() -> Self {
        Self {
            enabled: false,
            retain: true,
            plain: false,
            max_rate: 1,
        }
    }
}

/// `[commands]`
#[derive(Debug, Clone, PartialEq)]
pub struct Commands {
    /// Whether devices can be sent commands at all.
    pub enabled: bool,
    /// Bytes of one command as it comes from the broker.
    pub max_size: usize,
    /// Where an MQTT 5 Response Topic may lie.
    pub response_prefixes: Vec<String>,
    /// Whether the admin listener takes commands of whoever has its token.
    pub admin: bool,
}

/// `[admin]`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where the admin listener is.
    pub listen: SocketAddr,
    /// File whose first line is the token that requests need; `None`: they need none.
    pub token_file: Option<PathBuf>,
    /// Whether `/metrics` has metrics of each device.
    pub device_metrics: bool,
    /// For how long readings are kept for the page, in memory; zero: not at all.
    pub history: Duration,
    /// In how many bytes, of all devices together.
    pub history_size: u64,
}

/// `log.level`, from the quietest to the loudest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Data was lost, or someone must act.
    Error,
    /// Recovered, nothing lost.
    Warn,
    /// Events that matter.
    Info,
    /// For finding faults.
    Debug,
    /// Everything.
    Trace,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One line of text an event.
    Text,
    /// One JSON object an event.
    Json,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// What is printed.
    pub level: LogLevel,
    /// How.
    pub format: LogFormat,
}
