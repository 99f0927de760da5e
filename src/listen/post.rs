//! `POST /v1/devices/{id}/data`: a batch without a WebSocket, its answer when it is safe.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Map, Value, json};

use super::Shared;
use super::access::{Access, Shown};
use super::admission::{admit, note, refuse_page};
use super::attempts::Origin;
use super::gate::{Gate, Open};
use super::refusal::Refusal;
use super::upgrade;
use crate::config::is_id;

use crate::session::post::{Encoding, Post, Posted, post};

/// Characters of a stream's name, as in `hello`.
const MAX_STREAM: usize = 64;

/// Seconds. As for `hello`: longer would mean another thing as a relative time.
const MAX_AGE: f64 = 268_435_456.0;

/// `Retry-After` in seconds for what may come again at once when the one before is through.
const BUSY: u64 = 1;

/// `Retry-After` in seconds when the hub could not make it safe: broker and disk need a moment.
const NOT_SAFE: u64 = 10;

/// The device of a request for this; `None`: it is a request for something else.
pub(super) fn device(request: &Request<Incoming>) -> Option<&str> {
    let path = request.uri().path().strip_prefix(upgrade::PATH)?;
    path.strip_suffix("/data").filter(|id| !id.contains('/'))
}

/// An answer other than 204.
struct Problem {
    status: StatusCode,
    detail: String,
    retry_after: Option<u64>,
    more: Map<String, Value>,
}

impl Problem {
    fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status,
            detail: detail.into(),
            retry_after: None,
            more: Map::new(),
        }
    }

    fn retry(self, seconds: u64) -> Self {
        Self {
            retry_after: Some(seconds),
            ..self
        }
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.more.insert(key.to_owned(), value.into());
        self
    }

    fn response(self) -> Response<Full<Bytes>> {
        let mut body = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Some(body) = body.as_object_mut() {
            body.extend(self.more);
        }
        let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Answers one. `read`: set once the body has been read, from when on the answer may take as long
/// as an ack.
pub(super) async fn answer(
    shared: &Shared,
    open: &Open,
    request: Request<Incoming>,
    (shown, local): (Option<&Shown>, Option<IpAddr>),
    origin: Origin,
    read: &AtomicBool,
) -> Response<Full<Bytes>> {
    let id = device(&request).unwrap_or_default().to_owned();
    let (head, body) = request.into_parts();
    let gate = open.gate();
    let judged = refuse_page(shared, gate, &head.headers, local, origin)
        .and_then(|()| judge(shared, gate, &head, &id, shown, origin));
    if let Err(refusal) = judged {
        note(shared, gate, origin, refusal, &id);
        return refusal.response();
    }
    // Where everybody can make up ids it goes on making room for newcomers.
    if !matches!(*shared.access, Access::Open) {
        open.accepted();
    }
    match take(shared, &head, body, &id, read).await {
        Ok(()) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NO_CONTENT;
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(CONNECTION, close);
            response
        }
        Err(problem) => problem.response(),
    }
}

/// The same questions as before an upgrade.
fn judge(
    shared: &Shared,
    gate: &Gate,
    head: &Parts,
    id: &str,
    shown: Option<&Shown>,
    origin: Origin,
) -> Result<(), Refusal> {
    if !is_id(id) {
        return Err(Refusal::BadId);
    }
    if head.method != Method::POST {
        return Err(Refusal::NotPost);
    }
    let token = upgrade::bearer(&head.headers);
    admit(shared, gate, id, token.as_deref(), shown, origin).map(drop)
}

async fn take(
    shared: &Shared,
    head: &Parts,
    body: Incoming,
    id: &str,
    read: &AtomicBool,
) -> Result<(), Problem> {
    let encoding = encoding(head)?;
    let query = Query::read(head.uri.query().unwrap_or_default())
        .map_err(|detail| Problem::new(StatusCode::BAD_REQUEST, detail))?;
    let limit = shared.settings.max_message;
    let too_large = || {
        let detail = format!("a body may have {limit} bytes: send smaller packs");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).with("code", "too-large")
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let pack = match Limited::new(body, limit).collect().await {
        Ok(pack) => pack.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(_) => {
            let detail = "the body ended before its time";
            return Err(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
    };
    read.store(true, Relaxed);
    let Query { stream, seq, age } = query;
    let what = Post {
        device: id.into(),
        stream: stream.map(Into::into),
        seq,
        age,
        encoding,
        pack,
    };
    match post(
        &shared.roster,
        shared.port.clone(),
        what,
        shared.settings.limits(),
        shared.ack_timeout,
    )
    .await
    {
        Posted::Safe => Ok(()),
        Posted::Rejected(reject) => {
            Err(Problem::new(StatusCode::BAD_REQUEST, reject.detail)
                .with("code", reject.code.as_str()))
        }
        Posted::Conflict { reject, highest } => {
            Err(Problem::new(StatusCode::CONFLICT, reject.detail)
                .with("code", reject.code.as_str())
                .with("seq", highest))
        }
        Posted::NotSafe => {
            let detail = "the batch is not safe yet: send it again as it is, under the same number";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).retry(NOT_SAFE))
        }
        Posted::TooFast(wait) => {
            let detail = "too much in too short a time: see max_rate, max_bytes and max_readings";
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry(seconds.max(1)))
        }
        Posted::Busy => {
            let detail = "one at a time: the batch before has not been answered";
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, detail).retry(BUSY))
        }
    }
}

fn encoding(head: &Parts) -> Result<Encoding, Problem> {
    let coded = head.headers.get_all(CONTENT_ENCODING).iter();
    if coded
        .into_iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
    {
        let detail = "the body is taken as it is, without a Content-Encoding";
        // RFC 9110 §15.5.16: what would have been taken.
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let value = head.headers.get(CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    // Parameters, like a charset, change nothing.
    let media = value.split(';').next().unwrap_or("").trim();
    if media.eq_ignore_ascii_case("application/senml+cbor") {
        Ok(Encoding::Cbor)
    } else if media.eq_ignore_ascii_case("application/senml+json") {
        Ok(Encoding::Json)
    } else {
        let detail = "Content-Type must be application/senml+cbor or application/senml+json";
        Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail))
    }
}

/// What stands behind the question mark.
#[derive(Debug, Default, PartialEq)]
struct Query {
    stream: Option<String>,
    seq: Option<u64>,
    age: Option<f64>,
}

impl Query {
    fn read(query: &str) -> Result<Self, String> {
        let mut read = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if value.is_empty() {
                continue;
            }
            let twice = match key {
                "stream" => read.stream.is_some(),
                "seq" => read.seq.is_some(),
                "age" => read.age.is_some(),
                _ => false,
            };
            if twice {
                return Err(format!("{key} comes twice"));
            }
            match key {
                "stream" => {
                    let name = decoded(value).filter(|name| {
                        name.chars().count() <= MAX_STREAM && !name.chars().any(char::is_control)
                    });
                    let wrong = || format!("stream must be 1 to {MAX_STREAM} characters of UTF-8");
                    read.stream = Some(name.ok_or_else(wrong)?);
                }
                "seq" => {
                    let seq = value.parse().ok().filter(|seq| *seq > 0);
                    read.seq = Some(seq.ok_or("seq must be an integer of at least 1")?);
                }
                "age" => {
                    let age = value
                        .parse()
                        .ok()
                        .filter(|age| (0.0..MAX_AGE).contains(age));
                    read.age =
                        Some(age.ok_or("age must be seconds, at least 0 and less than 2^28")?);
                }
                _ => {}
            }
        }
        if read.seq.is_some() && read.stream.is_none() {
            return Err("seq counts in a stream: give both, or neither".to_owned());
        }
        Ok(read)
    }
}

/// Without its percent signs (RFC 3986 §2.1).
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_query_is_read_whole_or_refused() {
        let read = Query::read("stream=boot%2d1%C3%A9&seq=7&age=1.5&later=x").unwrap();
        assert_eq!(read.stream.as_deref(), Some("boot-1é"));
        assert_eq!((read.seq, read.age), (Some(7), Some(1.5)));
        assert_eq!(Query::read("").unwrap(), Query::default());
        assert_eq!(Query::read("stream=&seq=&age=").unwrap(), Query::default());
        let long = format!("stream={}", "x".repeat(65));
        for wrong in [
            "seq=1",
            "stream=a&seq=0",
            "stream=a&seq=-1",
            "stream=a&seq=1.5",
            "age=-1",
            "age=1e9",
            "age=NaN",
            "stream=%zz",
            "stream=%ff",
            "stream=%0a",
            "stream=a%2",
            "stream=a&seq=1&seq=2",
            "age=1&age=1",
            &long,
        ] {
            assert!(Query::read(wrong).is_err(), "{wrong}");
        }
    }
}
