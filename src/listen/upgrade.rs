//! The opening handshake (RFC 6455 §4.2), decided from the request head alone.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{
    AUTHORIZATION, CONNECTION, HeaderMap, HeaderName, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use hyper::http::request::Parts;
use hyper::{Method, Version};

use super::refusal::Refusal;
use crate::config::is_id;
use crate::session::wire::accept_key;

/// The subprotocol that the hub speaks.
pub(super) const SUBPROTOCOL: &str = "telehub.v1";

/// A browser cannot set headers; it offers its token as a subprotocol of this prefix.
const BEARER_SUBPROTOCOL: &str = "telehub.bearer.";

/// What stands before the id.
pub(super) const PATH: &str = "/v1/devices/";

/// A correct handshake.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Upgrade {
    /// The device's id.
    pub(super) device: String,
    /// `Sec-WebSocket-Accept`.
    pub(super) accept: String,
    /// Whether the device offered [`SUBPROTOCOL`].
    pub(super) subprotocol: bool,
    /// The credentials, not yet judged.
    pub(super) token: Option<String>,
}

/// Elements of a comma-separated header over all its lines (RFC 9110 §5.6.1).
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

/// The token of a request.
pub(super) fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned());
    }
    elements(headers, SEC_WEBSOCKET_PROTOCOL)
        .find_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL))
        .map(str::to_owned)
}

/// Judges a request head.
pub(super) fn parse(head: &Parts) -> Result<Upgrade, Refusal> {
    let device = head
        .uri
        .path()
        .strip_prefix(PATH)
        .filter(|id| !id.contains('/'))
        .ok_or(Refusal::NotFound)?;
    if !is_id(device) {
        return Err(Refusal::BadId);
    }
    if head.method != Method::GET {
        return Err(Refusal::Method);
    }
    let headers = &head.headers;
    let has = |name, wanted: &str| {
        elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted))
    };
    if head.version != Version::HTTP_11 || !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket")
    {
        return Err(Refusal::NoUpgrade);
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err(Refusal::Version);
    }
    let key = headers
        .get(SEC_WEBSOCKET_KEY)
        .filter(|key| {
            STANDARD
                .decode(key.as_bytes())
                .is_ok_and(|key| key.len() == 16)
        })
        .ok_or(Refusal::BadKey)?;
    Ok(Upgrade {
        device: device.to_owned(),
        accept: accept_key(key.as_bytes()),
        subprotocol: elements(headers, SEC_WEBSOCKET_PROTOCOL).any(|offer| offer == SUBPROTOCOL),
        token: bearer(headers),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hyper::Request;

    const GOOD: [(&str, &str); 4] = [
        ("connection", "keep-alive, Upgrade"),
        ("upgrade", "WebSocket"),
        ("sec-websocket-version", "13"),
        ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn judge(path: &str, headers: &[(&str, &str)]) -> Result<Upgrade, Refusal> {
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        parse(&request.body(()).unwrap().into_parts().0)
    }

    fn with<'a>(extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [&GOOD, extra].concat()
    }

    fn without(name: &str) -> Vec<(&'static str, &'static str)> {
        GOOD.into_iter().filter(|(n, _)| *n != name).collect()
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let upgrade = judge("/v1/devices/barn-1", &GOOD).unwrap();
        assert_eq!(upgrade.device, "barn-1");
        assert_eq!(upgrade.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert!(!upgrade.subprotocol);
        assert_eq!(upgrade.token, None);
    }

    #[test]
    fn only_the_device_path_is_there() {
        for path in [
            "/",
            "/v1/devices",
            "/v2/devices/a",
            "/v1/devices/a/b",
            "/v1/devices/a/",
        ] {
            assert_eq!(judge(path, &GOOD), Err(Refusal::NotFound), "{path}");
        }
        assert!(judge("/v1/devices/a?x=1", &GOOD).is_ok());
    }

    #[test]
    fn ids_follow_the_rule() {
        let (longest, too_long) = ("a".repeat(64), "a".repeat(65));
        for id in ["a", "0", "A.b_c-9", &longest] {
            assert!(judge(&format!("/v1/devices/{id}"), &GOOD).is_ok(), "{id}");
        }
        for id in ["", ".a", "_a", "-a", "a%20b", "a+b", "a%2Fb", &too_long] {
            let path = format!("/v1/devices/{id}");
            assert_eq!(judge(&path, &GOOD), Err(Refusal::BadId), "{id}");
        }
    }

    #[test]
    fn each_part_of_the_handshake_is_needed() {
        for (missing, refusal) in [
            ("connection", Refusal::NoUpgrade),
            ("upgrade", Refusal::NoUpgrade),
            ("sec-websocket-version", Refusal::Version),
            ("sec-websocket-key", Refusal::BadKey),
        ] {
            assert_eq!(judge("/v1/devices/a", &without(missing)), Err(refusal));
        }
        for key in ["", "short", "dGhlIHNhbXBsZSBub25jZQ"] {
            let mut headers = without("sec-websocket-key");
            headers.push(("sec-websocket-key", key));
            assert_eq!(judge("/v1/devices/a", &headers), Err(Refusal::BadKey));
        }
        let mut headers = without("sec-websocket-version");
        headers.push(("sec-websocket-version", "8"));
        assert_eq!(judge("/v1/devices/a", &headers), Err(Refusal::Version));
    }

    #[test]
    fn tokens_come_in_the_header_or_as_a_subprotocol() {
        let token = |extra: &[(&str, &str)]| judge("/v1/devices/a", &with(extra)).unwrap().token;
        assert_eq!(token(&[("authorization", "Bearer abc")]).unwrap(), "abc");
        assert_eq!(token(&[("authorization", "bearer  abc")]).unwrap(), "abc");
        assert_eq!(token(&[("authorization", "Basic abc")]), None);
        assert_eq!(token(&[("authorization", "abc")]), None);

        let offer = [("sec-websocket-protocol", "telehub.v1, telehub.bearer.abc")];
        let upgrade = judge("/v1/devices/a", &with(&offer)).unwrap();
        assert!(upgrade.subprotocol);
        assert_eq!(upgrade.token.unwrap(), "abc");

        let lines = [
            ("sec-websocket-protocol", "telehub.bearer.abc"),
            ("sec-websocket-protocol", "telehub.v1"),
        ];
        let upgrade = judge("/v1/devices/a", &with(&lines)).unwrap();
        assert!(upgrade.subprotocol);
        assert_eq!(upgrade.token.unwrap(), "abc");
    }
}
