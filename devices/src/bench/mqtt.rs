//! As much of MQTT 3.1.1 as the measurements need, as cheap as it can be: what the load costs
//! would else be counted against the broker.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::client::Histogram;
use crate::sensors::now;

/// Publishes of one device that are not acknowledged at a time: as many as the hub allows a
/// device by default.
const WINDOW: u64 = 32;
/// Readings of one device that have not come out of the bridge at a time: as many as there are in
/// the hub's window of 32 batches of ten. Without such a bound the bridge would take in more than
/// it forwards, and what it forwards would not be live.
const AHEAD: u64 = 320;
/// Every so many readings one goes to a topic that is subscribed to at the other end, which costs
/// the last broker much less than subscribing to all of them.
const MARK: u64 = 32;
/// A broker answers within this time, whatever else it does.
const PATIENCE: Duration = Duration::from_secs(30);

const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const SUBACK: u8 = 9;

/// Packets from the broker.
struct Reader {
    stream: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
}

/// One packet: its type, and its bytes behind the fixed header.
struct Packet<'a> {
    kind: u8,
    body: &'a [u8],
}

impl Reader {
    /// The next packet that has been read already, if there is a whole one.
    fn ready(&mut self) -> Option<Packet<'_>> {
        let bytes = &self.buffer[self.start..];
        let kind = bytes.first()? >> 4;
        let (mut length, mut header) = (0_usize, 1);
        loop {
            let byte = *bytes.get(header)?;
            length |= usize::from(byte & 0x7f) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if bytes.len() < header + length {
            return None;
        }
        let from = self.start + header;
        self.start = from + length;
        let body = &self.buffer[from..from + length];
        Some(Packet { kind, body })
    }

    /// Reads what is there, at least one byte.
    async fn fill(&mut self) -> anyhow::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
        let read = read.await.context("the broker is silent")??;
        if read == 0 {
            bail!("the broker has closed the connection");
        }
        Ok(())
    }

    async fn expect(&mut self, kind: u8) -> anyhow::Result<()> {
        loop {
            while let Some(packet) = self.ready() {
                if packet.kind == kind {
                    return Ok(());
                }
            }
            self.fill().await?;
        }
    }
}

async fn connect(port: u16, id: &str) -> anyhow::Result<(Reader, OwnedWriteHalf)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.set_nodelay(true)?;
    let (read, mut write) = stream.into_split();
    // Protocol name and level, clean session, no keep-alive.
    let mut body = b"\0\x04MQTT\x04\x02\0\0".to_vec();
    text(&mut body, id);
    let mut packet = Vec::new();
    fixed(&mut packet, 0x10, body.len());
    packet.extend_from_slice(&body);
    write.write_all(&packet).await?;
    let mut reader = Reader {
        stream: read,
        buffer: Vec::with_capacity(16 * 1024),
        start: 0,
    };
    reader.expect(CONNACK).await?;
    Ok((reader, write))
}

fn fixed(out: &mut Vec<u8>, first: u8, mut length: usize) {
    out.push(first);
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// A PUBLISH with QoS 1.
fn publish(out: &mut Vec<u8>, topic: &str, id: u16, payload: &[u8]) {
    fixed(out, 0x32, 2 + topic.len() + 2 + payload.len());
    text(out, topic);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The packet id of the `index`th publish: 1 to 50,000, again and again.
fn packet_id(index: u64) -> u16 {
    (index % 50_000) as u16 + 1
}

/// What has come out at the other end of a bridge, for one device.
#[derive(Debug, Default)]
pub struct Delivered {
    readings: AtomicU64,
    more: Notify,
}

impl Delivered {
    /// A mark has come through, and with it everything before it.
    pub fn mark(&self) {
        self.readings.fetch_add(MARK, Relaxed);
        self.more.notify_one();
    }

    /// Readings that are known to have come through.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.readings.load(Relaxed)
    }
}

/// The number of the device that has sent a mark.
#[must_use]
pub fn marked_by(topic: &str) -> Option<usize> {
    let name = topic.strip_prefix("telehub/bridge/swarm-")?;
    name.strip_suffix("/mark")?.parse().ok()
}

/// One device without a hub: sends each reading as a message of its own until it is dropped,
/// never further ahead of what has come out at the other end than [`AHEAD`].
///
/// # Errors
/// When the broker fails.
pub async fn device(port: u16, number: usize, delivered: Arc<Delivered>) -> anyhow::Result<()> {
    let (mut reader, mut writer) = connect(port, &format!("device-{number}")).await?;
    let name = format!("telehub/bridge/swarm-{number}");
    let (data, mark) = (format!("{name}/data"), format!("{name}/mark"));
    let (mut sent, mut acked) = (0, 0);
    let (mut out, mut payload) = (Vec::new(), String::new());
    loop {
        // Each message is a write of its own, as MQTT libraries have it.
        while sent - acked < WINDOW && sent - delivered.readings() < AHEAD {
            payload.clear();
            let value = 2000 + (sent * 7919) % 500;
            let (whole, cents) = (value / 100, value % 100);
            let time = now();
            let _ = write!(
                payload,
                r#"[{{"n":"swarm-{number}/t","u":"Cel","t":{time:.3},"v":{whole}.{cents:02}}}]"#
            );
            let last = (sent + 1).is_multiple_of(MARK);
            let topic = if last { &mark } else { &data };
            out.clear();
            publish(&mut out, topic, packet_id(sent), payload.as_bytes());
            writer.write_all(&out).await?;
            sent += 1;
        }
        tokio::select! {
            filled = reader.fill() => filled?,
            () = delivered.more.notified() => {}
        }
        while let Some(packet) = reader.ready() {
            acked += u64::from(packet.kind == PUBACK);
        }
    }
}

/// A subscriber of few messages.
pub struct Subscriber {
    reader: Reader,
    writer: OwnedWriteHalf,
}

impl Subscriber {
    /// Subscribes to a filter with QoS 1.
    ///
    /// # Errors
    /// When the broker fails.
    pub async fn new(port: u16, filter: &str) -> anyhow::Result<Self> {
        let (mut reader, mut writer) = connect(port, &format!("bench-{filter}")).await?;
        let mut body = b"\0\x01".to_vec();
        text(&mut body, filter);
        body.push(1);
        let mut packet = Vec::new();
        fixed(&mut packet, 0x82, body.len());
        packet.extend_from_slice(&body);
        writer.write_all(&packet).await?;
        reader.expect(SUBACK).await?;
        Ok(Self { reader, writer })
    }

    /// The next message: topic and payload.
    ///
    /// # Errors
    /// When the broker fails, or nothing comes for 30 s.
    pub async fn next(&mut self) -> anyhow::Result<(String, Vec<u8>)> {
        loop {
            while let Some(Packet { kind, body }) = self.reader.ready() {
                if kind != PUBLISH {
                    continue;
                }
                let [high, low, rest @ ..] = body else {
                    bail!("a PUBLISH without a topic");
                };
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                let topic = rest.get(..length).context("a cut PUBLISH")?;
                let topic = String::from_utf8_lossy(topic).into_owned();
                // What is subscribed to with QoS 1 comes with QoS 1, but what the broker says of
                // itself comes with QoS 0 and has no packet id.
                if topic.starts_with("$SYS") {
                    return Ok((topic, rest[length..].to_vec()));
                }
                let [a, b, payload @ ..] = &rest[length..] else {
                    bail!("a PUBLISH without a packet id");
                };
                let puback = [0x40, 2, *a, *b];
                let payload = payload.to_vec();
                self.writer.write_all(&puback).await?;
                return Ok((topic, payload));
            }
            self.reader.fill().await?;
        }
    }
}

/// How many messages a second a broker takes, as near as a client can ask: every packet is ready
/// before it begins, as many as fit into the window go in one write, and PUBACKs are only counted.
///
/// # Errors
/// When the broker fails.
pub async fn limit(
    port: u16,
    topics: &[String],
    size: usize,
    window: u64,
    time: Duration,
) -> anyhow::Result<f64> {
    let (mut reader, mut writer) = connect(port, "ready-made").await?;
    let payload = vec![b'x'; size];
    // One after the other, a window of them and as many again: any window of them is one piece.
    let mut ready = Vec::new();
    let mut places = vec![0];
    for index in 0..2 * window {
        let topic = &topics[(index % window) as usize % topics.len()];
        publish(&mut ready, topic, packet_id(index % window), &payload);
        places.push(ready.len());
    }
    let (mut sent, mut acked) = (0, 0);
    let since = Instant::now();
    while since.elapsed() < time {
        let room = window - (sent - acked);
        if room > 0 {
            let from = sent % window;
            let piece = places[from as usize]..places[(from + room) as usize];
            writer.write_all(&ready[piece]).await?;
            sent += room;
        }
        reader.fill().await?;
        while let Some(packet) = reader.ready() {
            acked += u64::from(packet.kind == PUBACK);
        }
    }
    Ok(acked as f64 / since.elapsed().as_secs_f64())
}

/// Publishes `{}` to these topics in turn, so many a second in all, without an end.
///
/// # Errors
/// When the broker fails.
pub async fn publish_in_turn(
    port: u16,
    topics: &[String],
    rate: f64,
) -> anyhow::Result<std::convert::Infallible> {
    let (mut reader, mut writer) = connect(port, "in-turn").await?;
    let mut tick = interval(Duration::from_secs_f64(1.0 / rate));
    let (mut sent, mut out) = (0_u64, Vec::new());
    loop {
        tokio::select! {
            _ = tick.tick() => {
                out.clear();
                let topic = &topics[sent as usize % topics.len()];
                publish(&mut out, topic, packet_id(sent), b"{}");
                writer.write_all(&out).await?;
                sent += 1;
            }
            filled = reader.fill() => {
                filled?;
                while reader.ready().is_some() {}
            }
        }
    }
}

/// How long a broker takes to acknowledge, at a fixed rate: `rate` publishes a second of this
/// size, evenly spread.
///
/// # Errors
/// When the broker fails.
pub async fn puback_times(
    port: u16,
    rate: f64,
    size: usize,
    time: Duration,
) -> anyhow::Result<Histogram> {
    let (mut reader, mut writer) = connect(port, "puback-times").await?;
    let payload = vec![b'x'; size];
    let mut latency = Histogram::default();
    let mut sent: Vec<Instant> = Vec::new();
    let mut acked = 0;
    let mut tick = interval(Duration::from_secs_f64(1.0 / rate));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let end = Instant::now() + time;
    let mut out = Vec::new();
    loop {
        tokio::select! {
            _ = tick.tick(), if Instant::now() < end => {
                out.clear();
                publish(&mut out, "puback/times", packet_id(sent.len() as u64), &payload);
                sent.push(Instant::now());
                writer.write_all(&out).await?;
            }
            filled = reader.fill() => {
                filled?;
                let now = Instant::now();
                while let Some(packet) = reader.ready() {
                    // A broker acknowledges in the order of arrival (MQTT 3.1.1 §4.6).
                    if packet.kind == PUBACK && let Some(since) = sent.get(acked) {
                        latency.add(now - *since);
                        acked += 1;
                    }
                }
            }
        }
        if acked == sent.len() && Instant::now() >= end {
            return Ok(latency);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_is_as_the_specification_has_it() {
        let mut out = Vec::new();
        publish(&mut out, "a/b", 10, b"hello");
        assert_eq!(out, b"\x32\x0c\0\x03a/b\0\x0ahello");
        let mut out = Vec::new();
        fixed(&mut out, 0x32, 321);
        assert_eq!(out, [0x32, 0xc1, 0x02]);
    }

    #[test]
    fn a_mark_names_its_device() {
        assert_eq!(marked_by("telehub/bridge/swarm-17/mark"), Some(17));
        assert_eq!(marked_by("telehub/bridge/swarm-17/data"), None);
    }

    #[test]
    fn packet_ids_are_never_zero_and_come_again_late() {
        assert_eq!(packet_id(0), 1);
        assert_eq!(packet_id(49_999), 50_000);
        assert_eq!(packet_id(50_000), 1);
    }
}
