//! `[devices]` and `[devices.tls]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::{GIB, KIB, Notes, millis, number, pair, secs};
use crate::config::choices::{AUTH, CRL_EXPIRY};
use crate::config::document::Document;
use crate::config::files::{NamedFile, Use};
use crate::config::values::{address, duration, file, path, size, whole, word};
use crate::config::web::origins;
use crate::config::{Auth, CrlExpiry, DeviceTls, Devices};

pub(super) fn devices(doc: &mut Document<'_>, notes: &mut Notes) -> Devices {
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
    let forget_after = duration(
        secs(60..=3_650 * 86_400),
        "a device that comes back within a minute was never gone, and nothing is remembered for \
         more than ten years",
    );
    let connections = whole(1..=65_536, "each one takes a file descriptor");
    let ids = whole(
        1..=65_536,
        "the hub has to remember somebody, and each id takes up to 2 KiB of memory",
    );
    let message = size(
        64..=256 * KIB,
        "a batch has to fit into it and many of them into the hub's memory",
    );
    let rate = whole(
        1..=100_000,
        "0 would shut every device out and more is no limit",
    );
    let bytes = size(
        KIB..=GIB,
        "less shuts devices out in effect, and more is no limit",
    );
    let readings = whole(
        1..=10_000_000,
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
        max_ids: number(doc.get(S, "max_ids", ids), 10_000),
        origins: doc.get(S, "origins", origins).unwrap_or_default(),
        forget_after: doc
            .get(S, "forget_after", forget_after)
            .unwrap_or(Duration::from_secs(30 * 86_400)),
        max_message: number(doc.get(S, "max_message", message), 65_536),
        max_rate: number(doc.get(S, "max_rate", rate), 100),
        max_bytes: doc.get(S, "max_bytes", bytes).unwrap_or(256 * KIB),
        max_readings: number(doc.get(S, "max_readings", readings), 5_000),
        window: number(doc.get(S, "window", window), 32),
        tls: device_tls(doc, notes),
    };
    let tls_is_wrong = doc.has_section("devices.tls") && devices.tls.is_none();
    if devices.auth == Auth::Certificate {
        check_certificate_auth(doc);
    }
    if devices.auth != Auth::Certificate && doc.has("devices.tls", "client_ca") {
        let text = "has no effect: no certificate is asked of devices; write auth = \
                    \"certificate\", or remove this line";
        notes
            .warnings
            .push(doc.remark("devices.tls", "client_ca", text));
    }
    if devices.auth == Auth::Token && !devices.origins.is_empty() {
        let text = "has no effect: with auth = \"token\" a web page that has a token is let in \
                    wherever it comes from; remove this line";
        notes.warnings.push(doc.remark(S, "origins", text));
    }
    let local = devices.listen.ip().is_loopback();
    if devices.auth == Auth::Token && !local && devices.tls.is_none() && !tls_is_wrong {
        let text = format!(
            "tokens go to {} without TLS, so that everybody on the way can read them; add \
             [devices.tls], unless that network is yours alone",
            devices.listen
        );
        notes.warnings.push(doc.remark(S, "listen", text));
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

fn device_tls(doc: &mut Document<'_>, notes: &mut Notes) -> Option<DeviceTls> {
    const S: &str = "devices.tls";
    let pair = pair(doc, S, notes);
    let client_ca = doc.get(S, "client_ca", file);
    if let Some(ca) = &client_ca {
        notes
            .files
            .push(NamedFile::new(doc, S, "client_ca", ca, Use::Authorities));
    }
    let crl_expiry = doc.get(S, "crl_expiry", word(CRL_EXPIRY));
    if doc.has_section(S) && !doc.has(S, "cert") && !doc.has(S, "key") {
        doc.problem(S, "cert", "is missing; write the paths of the hub's certificate chain and private key as cert and key, or remove [devices.tls]");
    }
    let (cert, key) = pair?;
    Some(DeviceTls {
        cert,
        key,
        client_ca,
        crl_expiry: crl_expiry.unwrap_or(CrlExpiry::Warn),
    })
}
