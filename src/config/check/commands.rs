//! `[commands]`.

use super::{KIB, Notes, number};
use crate::config::document::Document;
use crate::config::values::{size, topics, truth};
use crate::config::{Admin, Auth, Commands, Devices, Uplink};

const S: &str = "commands";

pub(super) fn commands(
    doc: &mut Document<'_>,
    devices: &Devices,
    uplink: &Uplink,
    admin: Option<&Admin>,
    notes: &mut Notes,
) -> Commands {
    let max_size = size(
        64..=256 * KIB,
        "a command has to fit into one message to a device, and many of them into the hub's memory",
    );
    let commands = Commands {
        enabled: doc.get(S, "enabled", truth).unwrap_or(false),
        max_size: number(doc.get(S, "max_size", max_size), 16 * 1_024),
        response_prefixes: doc.get(S, "response_prefixes", topics).unwrap_or_default(),
        admin: doc.get(S, "admin", truth).unwrap_or(false),
    };
    let mut warn = |doc: &Document<'_>, key, text: String| {
        notes.warnings.push(doc.remark(S, key, text));
    };
    if !commands.enabled {
        let text = "has no effect: commands are off; write enabled = true, or remove this line";
        if !commands.response_prefixes.is_empty() {
            warn(doc, "response_prefixes", text.to_owned());
        }
        if commands.admin {
            warn(doc, "admin", text.to_owned());
        }
        return commands;
    }
    // Without any listener there is still the socket that systemd makes for the local operator.
    if commands.admin && admin.is_some_and(|admin| admin.token_file.is_none()) {
        let text = "has no effect at [admin] listen: commands need a token there; write token_file \
                    in [admin]";
        warn(doc, "admin", text.to_owned());
    }
    if devices.auth == Auth::Open {
        let text = "lets nobody command anything: with auth = \"open\" any device could be any other, \
                    so none takes commands; write auth = \"token\", or enabled = false";
        warn(doc, "enabled", text.to_owned());
    }
    for prefix in &commands.response_prefixes {
        let own = format!("{}/", uplink.prefix);
        if format!("{}/", prefix.trim_end_matches('/')).starts_with(&own) {
            let text = format!(
                "\"{prefix}\" has no effect: answers never go below the hub's own \"{own}\"; write \
                 topic levels of the programs that ask, or remove it"
            );
            warn(doc, "response_prefixes", text);
        }
    }
    commands
}
