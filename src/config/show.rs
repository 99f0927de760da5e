//! The resolved configuration as TOML that reads back to the same values. Passwords and keys
//! stand in files of their own, whose paths are shown and whose content never is.

use std::fmt;
use std::path::Path;

use super::choices::{
    AUTH, CRL_EXPIRY, DOTS, DRAIN, FORMAT, LEVEL, LOG_FORMAT, OVERFLOW, VERSION, WRITE,
};
use super::units::{show_duration, show_size};
use super::url::BrokerUrl;
use super::{Commands, Config, Deadband, Devices, ReduceRule, Spool, Uplink, Values};

/// The word for a value of a fixed list.
fn word<T: PartialEq + Copy>(words: &[(&'static str, T)], value: T) -> &'static str {
    words
        .iter()
        .find(|(_, known)| *known == value)
        .map_or("", |(word, _)| word)
}

fn text(f: &mut fmt::Formatter<'_>, key: &str, value: &str) -> fmt::Result {
    writeln!(f, "{key} = {}", toml::Value::from(value))
}

fn path(f: &mut fmt::Formatter<'_>, key: &str, value: Option<&Path>) -> fmt::Result {
    value.map_or(Ok(()), |value| text(f, key, &value.to_string_lossy()))
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[hub]")?;
        text(f, "id", &self.hub.id)?;
        devices(f, &self.devices)?;
        spool(f, &self.spool)?;
        uplink(f, &self.uplink)?;
        self.reduce.iter().try_for_each(|rule| reduce(f, rule))?;
        values(f, &self.values)?;
        writeln!(f, "\n[homeassistant]")?;
        writeln!(f, "discovery = {}", self.homeassistant.discovery)?;
        commands(f, &self.commands)?;
        if let Some(admin) = &self.admin {
            writeln!(f, "\n[admin]")?;
            text(f, "listen", &admin.listen.to_string())?;
            path(f, "token_file", admin.token_file.as_deref())?;
            writeln!(f, "device_metrics = {}", admin.device_metrics)?;
            text(f, "history", &show_duration(admin.history))?;
            text(f, "history_size", &show_size(admin.history_size))?;
        }
        writeln!(f, "\n[log]")?;
        text(f, "level", word(LEVEL, self.log.level))?;
        text(f, "format", word(LOG_FORMAT, self.log.format))
    }
}

fn devices(f: &mut fmt::Formatter<'_>, devices: &Devices) -> fmt::Result {
    writeln!(f, "\n[devices]")?;
    text(f, "listen", &devices.listen.to_string())?;
    text(f, "auth", word(AUTH, devices.auth))?;
    path(f, "registry", Some(&devices.registry))?;
    text(f, "ping_interval", &show_duration(devices.ping_interval))?;
    text(f, "ping_timeout", &show_duration(devices.ping_timeout))?;
    text(
        f,
        "handshake_timeout",
        &show_duration(devices.handshake_timeout),
    )?;
    writeln!(f, "max_connections = {}", devices.max_connections)?;
    writeln!(f, "max_ids = {}", devices.max_ids)?;
    let origins: Vec<_> = devices.origins.iter().map(ToString::to_string).collect();
    writeln!(f, "origins = {}", toml::Value::from(origins))?;
    text(f, "forget_after", &show_duration(devices.forget_after))?;
    text(f, "max_message", &show_size(devices.max_message as u64))?;
    writeln!(f, "max_rate = {}", devices.max_rate)?;
    text(f, "max_bytes", &show_size(devices.max_bytes))?;
    writeln!(f, "max_readings = {}", devices.max_readings)?;
    writeln!(f, "window = {}", devices.window)?;
    if let Some(tls) = &devices.tls {
        writeln!(f, "\n[devices.tls]")?;
        path(f, "cert", Some(&tls.cert))?;
        path(f, "key", Some(&tls.key))?;
        path(f, "client_ca", tls.client_ca.as_deref())?;
        text(f, "crl_expiry", word(CRL_EXPIRY, tls.crl_expiry))?;
    }
    Ok(())
}

fn spool(f: &mut fmt::Formatter<'_>, spool: &Spool) -> fmt::Result {
    writeln!(f, "\n[spool]")?;
    path(f, "path", Some(&spool.path))?;
    text(f, "write", word(WRITE, spool.write))?;
    text(f, "max_size", &show_size(spool.max_size))?;
    text(f, "min_free", &show_size(spool.min_free))?;
    text(f, "max_age", &show_duration(spool.max_age))?;
    text(f, "commit_interval", &show_duration(spool.commit_interval))?;
    text(f, "overflow", word(OVERFLOW, spool.overflow))
}

fn uplink(f: &mut fmt::Formatter<'_>, uplink: &Uplink) -> fmt::Result {
    writeln!(f, "\n[uplink]")?;
    let urls: Vec<_> = uplink.brokers.iter().map(BrokerUrl::of).collect();
    match &urls[..] {
        [url] => text(f, "url", url)?,
        urls => writeln!(f, "url = {}", toml::Value::from(urls.to_vec()))?,
    }
    text(f, "version", word(VERSION, uplink.version))?;
    text(f, "return_after", &show_duration(uplink.return_after))?;
    text(f, "max_payload", &show_size(uplink.max_payload as u64))?;
    text(f, "client_id", &uplink.client_id)?;
    if let Some(username) = &uplink.username {
        text(f, "username", username)?;
    }
    path(f, "password_file", uplink.password_file.as_deref())?;
    // All brokers have the same.
    if let Some(tls) = uplink.brokers.iter().find_map(|broker| broker.tls.as_ref()) {
        path(f, "ca", tls.ca.as_deref())?;
        let client = tls.client.as_ref();
        path(f, "cert", client.map(|(cert, _)| cert.as_path()))?;
        path(f, "key", client.map(|(_, key)| key.as_path()))?;
    }
    text(f, "prefix", &uplink.prefix)?;
    text(f, "format", word(FORMAT, uplink.format))?;
    text(f, "drain", word(DRAIN, uplink.drain))?;
    writeln!(f, "inflight = {}", uplink.inflight)?;
    text(f, "ack_timeout", &show_duration(uplink.ack_timeout))?;
    text(f, "keep_alive", &show_duration(uplink.keep_alive))?;
    text(f, "pack", &show_size(uplink.pack as u64))?;
    text(f, "pack_delay", &show_duration(uplink.pack_delay))?;
    text(f, "topic_dots", word(DOTS, uplink.topic_dots))
}

fn reduce(f: &mut fmt::Formatter<'_>, rule: &ReduceRule) -> fmt::Result {
    writeln!(f, "\n[[reduce]]")?;
    text(f, "device", &rule.device)?;
    text(f, "name", &rule.name)?;
    if !rule.min_interval.is_zero() {
        text(f, "min_interval", &show_duration(rule.min_interval))?;
    }
    match rule.deadband {
        None => {}
        Some(Deadband::Absolute(width)) => writeln!(f, "deadband = {}", toml::Value::from(width))?,
        Some(Deadband::Percent(percent)) => text(f, "deadband", &format!("{percent}%"))?,
    }
    text(f, "max_interval", &show_duration(rule.max_interval))
}

fn values(f: &mut fmt::Formatter<'_>, values: &Values) -> fmt::Result {
    writeln!(f, "\n[values]")?;
    writeln!(f, "enabled = {}", values.enabled)?;
    writeln!(f, "retain = {}", values.retain)?;
    writeln!(f, "plain = {}", values.plain)?;
    writeln!(f, "max_rate = {}", values.max_rate)
}

fn commands(f: &mut fmt::Formatter<'_>, commands: &Commands) -> fmt::Result {
    writeln!(f, "\n[commands]")?;
    writeln!(f, "enabled = {}", commands.enabled)?;
    text(f, "max_size", &show_size(commands.max_size as u64))?;
    let prefixes = toml::Value::from(commands.response_prefixes.clone());
    writeln!(f, "response_prefixes = {prefixes}")?;
    writeln!(f, "admin = {}", commands.admin)
}
