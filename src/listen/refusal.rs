//! Refused upgrades: HTTP answers with a problem description (RFC 9457).

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_VERSION,
    UPGRADE, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::gate::Loudness;

/// `Retry-After` in seconds: devices that were refused at the same moment and retry in step are
/// spread by their own jitter; this only keeps them from hammering.
const RETRY_AFTER_SECONDS: &str = "10";

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Not `/v1/devices/{id}`.
    NotFound,
    /// Not a device id.
    BadId,
    /// Not GET.
    Method,
    /// Data that does not come by POST.
    NotPost,
    /// Not a WebSocket handshake.
    NoUpgrade,
    /// A WebSocket version other than 13 (RFC 6455 §4.2.2).
    Version,
    /// `Sec-WebSocket-Key` is missing or not 16 bytes in base64.
    BadKey,
    /// No credentials.
    NoToken,
    /// Credentials that nobody has.
    WrongToken,
    /// Credentials of another device.
    OtherDevice,
    /// A web page of a site that is not in `devices.origins`.
    Origin,
    /// A name that points to the loopback.
    Host,
    /// Too many attempts without valid credentials from this address; seconds to wait.
    TooManyAttempts(u64),
    /// This device connects again and again; seconds to wait.
    TooOften(u64),
    /// `max_connections` are open.
    Full,
    /// The hub stops.
    Stopping,
}

#[derive(Serialize)]
struct Problem {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
}

impl Refusal {
    fn status(self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::BadId | Self::BadKey => StatusCode::BAD_REQUEST,
            Self::Method | Self::NotPost => StatusCode::METHOD_NOT_ALLOWED,
            Self::NoUpgrade | Self::Version => StatusCode::UPGRADE_REQUIRED,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::OtherDevice | Self::Origin | Self::Host => StatusCode::FORBIDDEN,
            Self::TooManyAttempts(_) | Self::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Full | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// One sentence for the firmware's author.
    pub(super) fn detail(self) -> &'static str {
        match self {
            Self::NotFound => {
                "devices connect to /v1/devices/{id}, or post to /v1/devices/{id}/data"
            }
            Self::BadId => {
                "a device id is 1 to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit"
            }
            Self::Method => "the WebSocket handshake is a GET request",
            Self::NotPost => "batches are posted to this path",
            Self::NoUpgrade => {
                "this path takes a WebSocket handshake: Connection: Upgrade and Upgrade: websocket"
            }
            Self::Version => "the hub speaks WebSocket version 13",
            Self::BadKey => "Sec-WebSocket-Key has to be 16 bytes in base64",
            Self::NoToken => {
                "send Authorization: Bearer TOKEN, or offer the subprotocol telehub.bearer.TOKEN"
            }
            Self::WrongToken => "this token is not in the hub's registry",
            Self::OtherDevice => "these credentials belong to another device",
            Self::Origin => {
                "this web page may not be a device: to let it, add its origin (https://HOST) to \
                 devices.origins in the hub's configuration"
            }
            Self::Host => {
                "the hub is called localhost, 127.0.0.1 or [::1] here: use one of these, or \
                 set devices.auth = \"token\" in its configuration"
            }
            Self::TooManyAttempts(_) => {
                "too many attempts without valid credentials from this address"
            }
            Self::TooOften(_) => "this device connects too often; keep the connection, or wait",
            Self::Full => "the hub has as many connections as it is allowed to",
            Self::Stopping => "the hub is stopping",
        }
    }

    /// What the log says of it: loud when a device that somebody set up cannot work.
    pub(super) fn loudness(self) -> Loudness {
        match self {
            Self::NoToken
            | Self::WrongToken
            | Self::OtherDevice
            | Self::Origin
            | Self::Host
            | Self::TooManyAttempts(_)
            | Self::TooOften(_)
            | Self::Full => Loudness::Warn,
            _ => Loudness::Info,
        }
    }

    fn headers(self) -> Vec<(HeaderName, HeaderValue)> {
        let with = HeaderValue::from_static;
        match self {
            Self::Method => vec![(ALLOW, with("GET"))],
            Self::NotPost => vec![(ALLOW, with("POST"))],
            Self::NoUpgrade => vec![(UPGRADE, with("websocket"))],
            Self::Version => vec![
                (UPGRADE, with("websocket")),
                (SEC_WEBSOCKET_VERSION, with("13")),
            ],
            // RFC 6750 §3.1: no error code when the request had no credentials at all.
            Self::NoToken => vec![(WWW_AUTHENTICATE, with(r#"Bearer realm="telehub""#))],
            Self::WrongToken => vec![(
                WWW_AUTHENTICATE,
                with(r#"Bearer realm="telehub", error="invalid_token""#),
            )],
            Self::Full | Self::Stopping => vec![(RETRY_AFTER, with(RETRY_AFTER_SECONDS))],
            Self::TooManyAttempts(seconds) | Self::TooOften(seconds) => {
                vec![(RETRY_AFTER, HeaderValue::from(seconds))]
            }
            Self::NotFound
            | Self::BadId
            | Self::BadKey
            | Self::OtherDevice
            | Self::Origin
            | Self::Host => Vec::new(),
        }
    }

    /// The answer. The connection ends with it.
    pub(super) fn response(self) -> Response<Full<Bytes>> {
        let status = self.status();
        let problem = Problem {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or_default(),
            status: status.as_u16(),
            detail: self.detail(),
        };
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        // RFC 9110 §7.8: a server that sends Upgrade also names it in Connection.
        let connection = match self {
            Self::NoUpgrade | Self::Version => "close, upgrade",
            _ => "close",
        };
        headers.insert(CONNECTION, HeaderValue::from_static(connection));
        for (name, value) in self.headers() {
            headers.insert(name, value);
        }
        response
    }
}
