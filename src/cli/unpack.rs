//! `telehub unpack`.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use telehub::config::{Config, Log, LogFormat, LogLevel};
use telehub::uplink::unpack::{Unpacking, run};
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, load, with_broker};

#[derive(Debug, Args)]
#[command(after_help = "\
Reads {prefix}/+/packed with QoS 1, publishes every batch and gap record in it on
{prefix}/{hub}/{device}/data, history or gap, and acknowledges a pack once the broker has taken all
of it. The broker keeps the packs that come while it does not run, for a week with MQTT 5. What comes
twice, after a kill or a broken connection, is known by its key (device, stream, seq). A pack that
cannot be read is told in the log and acknowledged. One at a time for each client id.

A file has the keys of [uplink] in the hub's configuration: url, username, password_file, ca, cert,
key, prefix, version, keep_alive, topic_dots.

Examples:
  telehub unpack mqtt://localhost
  telehub unpack /etc/telehub/unpack.toml
  telehub unpack mqtt://localhost --to /etc/telehub/other-broker.toml")]
pub(super) struct Arguments {
    /// The broker with the packs: mqtt://HOST:PORT, or a file with an [uplink] section
    #[arg(value_name = "BROKER")]
    from: String,
    /// Publish on another broker: a URL or a file
    #[arg(long, value_name = "BROKER")]
    to: Option<String>,
    /// The first topic level or levels, instead of what the file says
    #[arg(long)]
    prefix: Option<String>,
    /// Names the session that the broker keeps
    #[arg(long, value_name = "ID", default_value = "telehub-unpack")]
    client_id: String,
    /// Give up what the broker does not take, and count it, instead of waiting until it does
    #[arg(long)]
    skip: bool,
}

/// One end: a URL, or a file with an `[uplink]` section.
fn end(argument: &str) -> Result<Config, Failure> {
    if !argument.contains("://") {
        return Ok(load(Path::new(argument))?.config);
    }
    with_broker(argument, argument).map_err(Failure::Config)
}

pub(super) fn unpack(arguments: &Arguments) -> Result<(), Failure> {
    let mut from = end(&arguments.from)?.uplink;
    let mut to = match &arguments.to {
        Some(to) => Some(end(to)?.uplink),
        None => None,
    };
    from.client_id.clone_from(&arguments.client_id);
    if let Some(to) = &mut to {
        to.client_id = format!("{}-out", arguments.client_id);
    }
    if let Some(prefix) = &arguments.prefix {
        from.prefix.clone_from(prefix);
    }
    telehub::log::start(&Log {
        level: LogLevel::Info,
        format: LogFormat::Text,
    });
    let runtime = super::runtime()?;
    let unpacking = Unpacking {
        from,
        to,
        skip: arguments.skip,
    };
    let done = runtime.block_on(async {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        let mut term = listen(SignalKind::terminate())?;
        let mut int = listen(SignalKind::interrupt())?;
        let stop = async {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
        };
        anyhow::Ok(run(unpacking, stop).await)
    });
    runtime.shutdown_background();
    let done = done?;
    tracing::info!(
        packs = done.packs,
        published = done.items,
        unreadable = done.bad,
        given_up = done.skipped,
        "stopped"
    );
    Ok(())
}
