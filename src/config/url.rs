//! `uplink.url`: where the broker is.

use toml::de::DeValue;

use super::Broker;
use super::values::{quoted, text};

/// Port of MQTT without and with TLS, as registered with IANA.
const PORTS: (u16, u16) = (1883, 8883);

/// The address of a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BrokerUrl {
    /// `mqtts`.
    pub(super) tls: bool,
    /// Name or address, an IPv6 address without its brackets.
    pub(super) host: String,
    /// Never 0.
    pub(super) port: u16,
}

/// Brokers in one list. Each costs some seconds of each round of an outage, and nobody
/// has more sites than this to fall back to.
const MOST: usize = 16;

/// Reads `mqtt://HOST[:PORT]` or `mqtts://HOST[:PORT]`, or a list of them, the first choice first.
pub(super) fn broker_urls(value: &DeValue<'_>) -> Result<Vec<BrokerUrl>, String> {
    let Some(list) = value.as_array() else {
        return Ok(vec![parse(&text(value)?)?]);
    };
    if list.is_empty() || list.len() > MOST {
        return Err(format!(
            "is a list of {} brokers; write one to {MOST}, such as [\"mqtt://first:1883\", \
             \"mqtt://second:1883\"]",
            list.len()
        ));
    }
    let mut urls: Vec<BrokerUrl> = Vec::with_capacity(list.len());
    for (place, entry) in (1..).zip(list.iter()) {
        let url = text(entry.get_ref()).and_then(|text| parse(&text));
        let url = url.map_err(|error| format!("entry {place} {error}"))?;
        if urls.contains(&url) {
            let text = BrokerUrl::show(url.tls, &url.host, url.port);
            return Err(format!("names {text} twice; remove one of them"));
        }
        urls.push(url);
    }
    Ok(urls)
}

fn parse(url: &str) -> Result<BrokerUrl, String> {
    const FORM: &str = "write \"mqtt://HOST:PORT\", or \"mqtts://HOST:PORT\" with TLS";
    // Never shown: what stands before the @ may be a password.
    if url.contains('@') {
        return Err(
            "has a user name in it, which everybody could read who sees the \
                    configuration; use the keys username and password_file"
                .to_owned(),
        );
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(format!(
            "{} does not say how to connect; {FORM}",
            quoted(url)
        ));
    };
    let tls = match scheme.to_ascii_lowercase().as_str() {
        "mqtt" => false,
        "mqtts" => true,
        "tcp" => {
            return Err(format!(
                "{} has another scheme; write mqtt:// for tcp://",
                quoted(url)
            ));
        }
        "ssl" | "tls" => {
            return Err(format!(
                "the scheme {scheme}:// is not known; write mqtts://"
            ));
        }
        _ => {
            return Err(format!(
                "the scheme {} is not known; {FORM}",
                quoted(scheme)
            ));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(format!(
            "{} goes on after host and port; {FORM}",
            quoted(url)
        ));
    }
    let (host, port) = split_port(authority)
        .ok_or_else(|| format!("{} has no valid host and port; {FORM}", quoted(url)))?;
    let port = match port {
        None if tls => PORTS.1,
        None => PORTS.0,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            _ => {
                let port = quoted(port);
                return Err(format!(
                    "{port} is not a port; write a number from 1 to 65535"
                ));
            }
        },
    };
    Ok(BrokerUrl {
        tls,
        host: host.to_owned(),
        port,
    })
}

fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let (host, rest) = if let Some(inside) = authority.strip_prefix('[') {
        let (address, rest) = inside.split_once(']')?;
        address.parse::<std::net::Ipv6Addr>().ok()?;
        (address, rest)
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let named = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
    if host.is_empty() || !host.chars().all(named) {
        return None;
    }
    match rest {
        "" => Some((host, None)),
        rest => Some((host, Some(rest.strip_prefix(':')?))),
    }
}

impl BrokerUrl {
    /// The broker as its entry is written.
    pub(super) fn of(broker: &Broker) -> String {
        Self::show(broker.tls.is_some(), &broker.host, broker.port)
    }

    /// As it is written, with the port.
    pub(super) fn show(tls: bool, host: &str, port: u16) -> String {
        let scheme = if tls { "mqtts" } else { "mqtt" };
        if host.contains(':') {
            format!("{scheme}://[{host}]:{port}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_form_of_host_and_port_is_read_and_printed() {
        for (text, printed) in [
            ("mqtt://localhost", "mqtt://localhost:1883"),
            (
                "mqtts://broker.example.org/",
                "mqtts://broker.example.org:8883",
            ),
            ("mqtt://10.0.0.7:2883", "mqtt://10.0.0.7:2883"),
            ("MQTTS://[fe80::1]:1", "mqtts://[fe80::1]:1"),
            ("mqtt://[::1]", "mqtt://[::1]:1883"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(BrokerUrl::show(url.tls, &url.host, url.port), printed);
        }
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error = parse("mqtt://anna:geheim@broker").unwrap_err();
        assert!(
            error.contains("password_file") && !error.contains("geheim"),
            "{error}"
        );
    }

    #[test]
    fn what_is_no_address_of_a_broker_is_refused() {
        for text in [
            "localhost",
            "localhost:1883",
            "http://localhost",
            "tcp://localhost",
            "ssl://x",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:0",
            "mqtt://a:65536",
            "mqtt://a:",
            "mqtt://::1",
            "mqtt://[::1",
            "mqtt://[x]",
            "mqtt://a/b",
            "mqtt://a?x",
            "mqtt://a b",
            "mqtt://[::1]x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
