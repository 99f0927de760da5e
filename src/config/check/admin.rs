//! `[admin]`.

use super::Notes;
use crate::config::document::Document;
use crate::config::files::{NamedFile, Use};
use crate::config::values::{address, file, truth};
use crate::config::{Admin, Devices};

const S: &str = "admin";

pub(super) fn admin(doc: &mut Document<'_>, devices: &Devices, notes: &mut Notes) -> Option<Admin> {
    let listen = doc.get(S, "listen", address);
    let token_file = doc.get(S, "token_file", file);
    let device_metrics = doc.get(S, "device_metrics", truth);
    for key in ["token_file", "device_metrics"] {
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
    };
    if admin.listen == devices.listen && admin.listen.port() != 0 {
        let text = format!(
            "{} is the address of [devices] listen already; write another port, such as \
             \"127.0.0.1:8788\"",
            admin.listen
        );
        doc.problem(S, "listen", text);
    }
    if !admin.listen.ip().is_loopback() && admin.token_file.is_none() {
        let text = format!(
            "{} shows the names and addresses of all devices, and what they say, to everybody who \
             reaches it; write token_file, or \"127.0.0.1:{}\" unless a firewall stands before it",
            admin.listen,
            admin.listen.port()
        );
        notes.warnings.push(doc.remark(S, "listen", text));
    }
    Some(admin)
}
