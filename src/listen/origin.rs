//! Web pages as devices. A page in somebody's browser can open a WebSocket to any address that this
//! browser reaches, and the browser says in `Origin` where the page comes from. Where devices prove
//! themselves by something that a page has not got, a token, that is all the same. Where they prove
//! nothing, or the browser shows a certificate for them, it decides. Pure.

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, HeaderValue, ORIGIN};

use super::refusal::Refusal;
use crate::config::{Auth, WebOrigin, is_loopback_host};

/// The rule of `devices.auth` and `devices.origins`.
#[derive(Debug)]
pub(super) struct Pages {
    auth: Auth,
    origins: Vec<WebOrigin>,
}

impl Pages {
    pub(super) fn new(auth: Auth, origins: Vec<WebOrigin>) -> Self {
        Self { auth, origins }
    }

    /// Judges a request that came to this address of the hub.
    pub(super) fn judge(&self, headers: &HeaderMap, local: Option<IpAddr>) -> Result<(), Refusal> {
        if self.auth == Auth::Token {
            return Ok(());
        }
        let host = |value: &HeaderValue| value.to_str().is_ok_and(is_loopback_host);
        // Through a name of its own that points to 127.0.0.1 a page reaches what only this machine
        // may (DNS rebinding). Its requests still carry that name. Browsers always send one.
        if self.auth == Auth::Open
            && local.is_some_and(|local| local.to_canonical().is_loopback())
            && !headers.get_all(HOST).iter().all(host)
        {
            return Err(Refusal::Host);
        }
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let passes = |value: &HeaderValue| value.to_str().is_ok_and(|text| self.passes(text, host));
        if headers.get_all(ORIGIN).iter().all(passes) {
            Ok(())
        } else {
            Err(Refusal::Origin)
        }
    }

    fn passes(&self, origin: &str, host: Option<&str>) -> bool {
        if let Some(origin) = WebOrigin::parse(origin) {
            let itself = host.is_some_and(|host| origin.is_host_itself(host));
            return itself || self.origins.contains(&origin);
        }
        // Pages that a browser keeps apart from their site, in a sandboxed frame say, have none.
        // Other schemes are those of programs, such as file:// of a library for boards.
        let scheme = origin.split(':').next().unwrap_or_default();
        let of_a_page = ["null", "http", "https"].iter();
        !of_a_page
            .into_iter()
            .any(|page| scheme.eq_ignore_ascii_case(page))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const LOCAL: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST));
    const LAN: Option<IpAddr> = Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7)));

    fn judge(auth: Auth, local: Option<IpAddr>, headers: &[(&str, &str)]) -> Result<(), Refusal> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: hyper::header::HeaderName = name.parse().unwrap();
            map.append(name, value.parse().unwrap());
        }
        let listed = WebOrigin::parse("https://farm.example").unwrap();
        Pages::new(auth, vec![listed]).judge(&map, local)
    }

    #[test]
    fn a_foreign_page_is_no_device_without_a_token_to_show() {
        let host = ("host", "192.0.2.7:8787");
        for auth in [Auth::Open, Auth::Certificate] {
            for origin in [
                "https://evil.example",
                "http://evil.example:8787",
                "HTTPS://EVIL.EXAMPLE",
                "null",
                "http:evil.example",
                "https://farm.example.evil.example",
                "https://farm.example:8443",
                "http://farm.example",
                "http://192.0.2.7:1",
            ] {
                let judged = judge(auth, LAN, &[host, ("origin", origin)]);
                assert_eq!(judged, Err(Refusal::Origin), "{origin}");
                assert_eq!(judge(Auth::Token, LAN, &[host, ("origin", origin)]), Ok(()));
            }
            let two = [
                host,
                ("origin", "file://"),
                ("origin", "https://evil.example"),
            ];
            assert_eq!(judge(auth, LAN, &two), Err(Refusal::Origin));
        }
    }

    #[test]
    fn programs_listed_pages_and_the_machine_itself_pass() {
        let host = ("host", "192.0.2.7:8787");
        for auth in [Auth::Open, Auth::Certificate] {
            assert_eq!(judge(auth, LAN, &[host]), Ok(()));
            for origin in [
                "file://",
                "https://farm.example",
                "https://farm.example:443",
                "http://192.0.2.7:8787",
                "app://shell",
            ] {
                assert_eq!(
                    judge(auth, LAN, &[host, ("origin", origin)]),
                    Ok(()),
                    "{origin}"
                );
            }
        }
    }

    #[test]
    fn a_name_that_points_to_the_loopback_is_refused_there_and_only_in_open_mode() {
        let named = [("host", "evil.example:8787")];
        assert_eq!(judge(Auth::Open, LOCAL, &named), Err(Refusal::Host));
        let mapped = Some("::ffff:127.0.0.1".parse().unwrap());
        assert_eq!(judge(Auth::Open, mapped, &named), Err(Refusal::Host));
        for auth in [Auth::Certificate, Auth::Token] {
            assert_eq!(judge(auth, LOCAL, &named), Ok(()));
        }
        assert_eq!(judge(Auth::Open, LAN, &named), Ok(()));
        for host in ["localhost:8787", "127.0.0.1:8787", "[::1]:8787"] {
            assert_eq!(judge(Auth::Open, LOCAL, &[("host", host)]), Ok(()));
        }
        assert_eq!(judge(Auth::Open, LOCAL, &[]), Ok(()), "no browser");
        let two = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(judge(Auth::Open, LOCAL, &two), Err(Refusal::Host));
    }
}
