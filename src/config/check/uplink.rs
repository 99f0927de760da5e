//! `[uplink]`.

use std::time::Duration;

use super::{Notes, millis, number, pair, secs};
use crate::config::choices::{DOTS, DRAIN, FORMAT, VERSION};
use crate::config::document::Document;
use crate::config::files::{NamedFile, Use};
use crate::config::units::{show_duration, show_size};
use crate::config::url::{BrokerUrl, broker_urls};
use crate::config::values::{client_id, duration, file, prefix, size, text, whole, word};
use crate::config::{Broker, DrainOrder, Format, Hub, MqttVersion, TopicDots, Uplink, UplinkTls};
use crate::protocol::limits::MAX_RESOLVED;

/// Bytes that no resolved pack exceeds, in any format, with its envelope.
const MAX_PAYLOAD: u64 = 2 * MAX_RESOLVED as u64;

/// Bytes of a pack: below, it would hold one batch each time.
const MIN_PACK: u64 = 1 << 10;

/// Above, one batch more is no fewer bytes on the wire: what repeats has long been seen.
const MAX_PACK: u64 = 1 << 20;

pub(super) fn uplink(doc: &mut Document<'_>, hub: &Hub, notes: &mut Notes) -> Uplink {
    const S: &str = "uplink";
    let inflight = whole(
        1..=10_000,
        "packet ids end at 65,535 and brokers keep each one in memory",
    );
    let keep_alive = duration(
        secs(5..=65_535),
        "MQTT counts it in seconds up to 65,535 and shorter ones cost the link more than they tell",
    );
    let return_after = duration(
        secs(1..=86_400),
        "a broker that has just come back may go again, and one that is back for a day is back",
    );
    let max_payload = size(
        4096..=MAX_PAYLOAD,
        "a device's status and a gap record need some room, and no pack resolves to more",
    );
    let packing = packing(doc, notes);
    let urls = doc.get(S, "url", broker_urls);
    let url_is_wrong = urls.is_none() && doc.has(S, "url");
    let urls = urls.unwrap_or_else(|| {
        vec![BrokerUrl {
            tls: false,
            host: "localhost".to_owned(),
            port: 1883,
        }]
    });
    let tls = urls.iter().any(|url| url.tls);
    let username = doc.get(S, "username", text);
    let password_file = doc.get(S, "password_file", file);
    if let Some(file) = &password_file {
        notes
            .files
            .push(NamedFile::new(doc, S, "password_file", file, Use::Password));
    }
    if doc.has(S, "password_file") && !doc.has(S, "username") {
        let text = "write the name that the password belongs to";
        doc.missing(S, "username", "password_file", text);
    }
    let open = |url: &&BrokerUrl| !url.tls && !is_this_machine(&url.host);
    if password_file.is_some()
        && !url_is_wrong
        && let Some(url) = urls.iter().find(open)
    {
        let text = format!(
            "the password goes to {} without TLS, so that everybody on the way can read it; write \
             mqtts://, unless that network is yours alone",
            url.host
        );
        notes.warnings.push(doc.remark(S, "url", text));
    }
    let ca = doc.get(S, "ca", file);
    if let Some(ca) = &ca {
        notes
            .files
            .push(NamedFile::new(doc, S, "ca", ca, Use::Authorities));
    }
    let client = pair(doc, S, notes);
    for key in ["ca", "cert", "key"] {
        if !tls && !url_is_wrong && doc.has(S, key) {
            doc.problem(
                S,
                key,
                "has no use without TLS; write mqtts:// in url, or remove this line",
            );
        }
    }
    let tls = UplinkTls { ca, client };
    let format = doc.get(S, "format", word(FORMAT)).unwrap_or(Format::Json);
    let version = doc.get(S, "version", word(VERSION));
    if version == Some(MqttVersion::V311) && matches!(format, Format::SenmlJson | Format::SenmlCbor)
    {
        notes.warnings.push(doc.remark(
            S,
            "version",
            "loses stream, number and clock mark of each batch with the SenML formats, which \
             travel as user properties of MQTT 5; write \"auto\", or format = \"json\" or \"cbor\"",
        ));
    }
    if packing.bytes > 0 && matches!(format, Format::SenmlJson | Format::SenmlCbor) {
        notes.warnings.push(doc.remark(
            S,
            "pack",
            "loses stream, number and clock mark of each batch with the SenML formats, because an \
             item of a pack has no properties; write format = \"json\", \"cbor\" or \"influx\"",
        ));
    }
    let topic_dots = doc.get(S, "topic_dots", word(DOTS));
    if topic_dots.is_none() && hub.id.contains('.') {
        let text = format!(
            "\"{}\" has a dot, of which RabbitMQ makes a topic level and for which NATS before 2.10 \
             closes the connection: write topic_dots = \"escape\" in [uplink] for these, or \"keep\" \
             if your broker is another one",
            hub.id
        );
        notes.warnings.push(doc.remark("hub", "id", text));
    }
    Uplink {
        brokers: urls
            .into_iter()
            .map(|url| Broker {
                host: url.host,
                port: url.port,
                tls: url.tls.then(|| tls.clone()),
            })
            .collect(),
        version: version.unwrap_or(MqttVersion::Auto),
        return_after: doc
            .get(S, "return_after", return_after)
            .unwrap_or(Duration::from_secs(300)),
        max_payload: number(doc.get(S, "max_payload", max_payload), 1 << 20),
        client_id: doc
            .get(S, "client_id", client_id)
            .unwrap_or_else(|| format!("telehub-{}", hub.id)),
        username,
        password_file,
        prefix: doc
            .get(S, "prefix", prefix)
            .unwrap_or_else(|| "telehub".to_owned()),
        format,
        drain: doc
            .get(S, "drain", word(DRAIN))
            .unwrap_or(DrainOrder::LiveFirst),
        inflight: number(doc.get(S, "inflight", inflight), 100),
        ack_timeout: packing.ack_timeout,
        keep_alive: doc
            .get(S, "keep_alive", |value| whole_seconds(keep_alive(value)?))
            .unwrap_or(Duration::from_secs(30)),
        pack: packing.bytes,
        pack_delay: packing.delay,
        topic_dots: topic_dots.unwrap_or(TopicDots::Keep),
    }
}

/// What a batch waits for.
struct Packing {
    bytes: usize,
    delay: Duration,
    ack_timeout: Duration,
}

/// Packs, and how long an ack may take, which has to be longer than a batch waits for its pack.
fn packing(doc: &mut Document<'_>, notes: &mut Notes) -> Packing {
    const S: &str = "uplink";
    let bytes = size(
        0..=MAX_PACK,
        "a pack is made in memory and sent again as a whole, and a larger one is hardly smaller on \
         the wire; \"0\" means that each batch goes by itself",
    );
    let bytes = doc.get(S, "pack", |value| match bytes(value)? {
        few @ 1..MIN_PACK => Err(format!(
            "{few} bytes hold no two batches; write \"0\" for no packs, or a size from \"{}\" to \
             \"{}\", such as \"64KiB\"",
            show_size(MIN_PACK),
            show_size(MAX_PACK)
        )),
        other => Ok(other),
    });
    let delay = duration(
        Duration::ZERO..=Duration::from_secs(590),
        "devices wait for their acks meanwhile",
    );
    let ack_timeout = duration(
        millis(100..=600_000),
        "a broker needs some time to answer, and devices wait for their acks meanwhile",
    );
    let packing = Packing {
        bytes: number(bytes, 0),
        delay: doc
            .get(S, "pack_delay", delay)
            .unwrap_or(Duration::from_secs(1)),
        ack_timeout: doc
            .get(S, "ack_timeout", ack_timeout)
            .unwrap_or(Duration::from_secs(10)),
    };
    let key = match doc.has(S, "pack_delay") {
        true => "pack_delay",
        false => "pack",
    };
    // Written out with pack = "0", as `check` prints it, it is of no use and does no harm.
    let matters = packing.bytes > 0 || doc.has(S, "pack_delay") && !doc.has(S, "pack");
    if matters && packing.delay >= packing.ack_timeout {
        let text = format!(
            "lets a batch wait for \"{}\" (pack_delay), and uplink.ack_timeout, by which its ack must be \
             there, is \"{}\": every batch would go through the disk; write a shorter pack_delay, or a \
             longer ack_timeout",
            show_duration(packing.delay),
            show_duration(packing.ack_timeout)
        );
        doc.problem(S, key, &text);
    }
    if packing.bytes == 0 && doc.has(S, "pack_delay") && !doc.has(S, "pack") {
        let text = "has no use without packs; write pack = \"64KiB\" as well, or remove this line";
        notes.warnings.push(doc.remark(S, "pack_delay", text));
    }
    packing
}

/// Whether a host can only mean the machine itself.
fn is_this_machine(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse()
            .is_ok_and(|address: std::net::IpAddr| address.is_loopback())
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
