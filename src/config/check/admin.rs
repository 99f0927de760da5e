//! `[admin]`.

use std::time::Duration;

use super::{KIB, MIB, Notes, secs};
use crate::config::document::Document;
use crate::config::files::{NamedFile, Use};
use crate::config::values::{address, duration, file, size, truth};
use crate::config::{Admin, Devices};

const S: &str = "admin";

pub(super) fn admin(doc: &mut Document<'_>, devices: &Devices, notes: &mut Notes) -> Option<Admin> {
    let listen = doc.get(S, "listen", address);
    let token_file = doc.get(S, "token_file", file);
    let device_metrics = doc.get(S, "device_metrics", truth);
    let span = duration(
        secs(0..=31 * 86_400),
        "what is kept in memory is gone with the process; a month and more is a database's business",
    );
    let span = doc.get(S, "history", span);
    let bytes = size(
        64 * KIB..=1024 * MIB,
        "less holds no device's readings, and it is memory",
    );
    let bytes = doc.get(S, "history_size", bytes);
    for key in ["token_file", "device_metrics", "history", "history_size"] {
        if doc.has(S, key) && !doc.has(S, "listen") {
            let text = "write the address to listen on, such as \"127.0.0.1:8788\"";
            doc.missing(S, "listen", key, text);
            break;
        }
    }
    if let Some(token) = &token_file {
        notes
            .files
            .push(NamedFile::new(doc, S, "token_file", token, Use::Token));
    }
    let admin = Admin {
        listen: listen?,
        token_file,
        device_metrics: device_metrics.unwrap_or(false),
        history: span.unwrap_or(Duration::from_secs(86_400)),
        history_size: bytes.unwrap_or(16 * MIB),
    };
    if admin.listen == devices.listen && admin.listen.port() != 0 {
        let text = format!(
            "{} is the address of [devices] listen already; write another port, such as \
             \"127.0.0.1:8788\"",
            admin.listen
        );
        doc.problem(S, "listen", text);
    }
    // A token that is named and cannot be used is a problem of its own.
    if !admin.listen.ip().is_loopback() && !doc.has(S, "token_file") {
        let text = format!(
            "{} shows the names and addresses of all devices, and what they say, to everybody who \
             reaches it, so it needs a token; write token_file = \"/etc/telehub/admin-token\" and put one \
             there (openssl rand -hex 32), or \"127.0.0.1:{}\"",
            admin.listen,
            admin.listen.port()
        );
        doc.problem(S, "listen", text);
    }
    Some(admin)
}
