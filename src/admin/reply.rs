//! How answers look. Errors are `application/problem+json` (RFC 9457).

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;

use super::events::Events;
use super::list::List;

pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";
const EVENTS: &str = "text/event-stream";

/// A proxy that gathers an answer before it hands it on would never hand on one without end
/// (nginx's `proxy_buffering`).
const BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What an answer consists of.
#[derive(Debug)]
pub(super) enum Content {
    Whole(Full<Bytes>),
    /// Without end.
    Events(Events),
    /// Made piece by piece, as the connection takes it.
    List(List),
}

pub(super) type Answer = Response<Content>;

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Events(body) => Pin::new(body).poll_frame(cx),
            Self::List(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Events(_) | Self::List(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Events(_) | Self::List(_) => SizeHint::default(),
        }
    }
}

pub(super) fn unauthorized() -> Answer {
    let mut refused = problem(
        StatusCode::UNAUTHORIZED,
        "show the token of [admin] token_file: Authorization: Bearer TOKEN, or as the password of \
         any user",
    );
    // Basic, because that is what browsers ask for by themselves.
    let how = HeaderValue::from_static("Basic realm=\"telehub\"");
    refused.headers_mut().insert(WWW_AUTHENTICATE, how);
    refused
}

pub(super) fn problem(status: StatusCode, detail: &str) -> Answer {
    let title = status.canonical_reason().unwrap_or_default();
    let code = status.as_u16();
    let body = serde_json::json!({"type": "about:blank", "title": title, "status": code, "detail": detail});
    json_as(PROBLEM, status, &body)
}

pub(super) fn json(body: &impl Serialize) -> Answer {
    json_as(JSON, StatusCode::OK, body)
}

fn json_as(kind: &'static str, status: StatusCode, body: &impl Serialize) -> Answer {
    match serde_json::to_vec(body) {
        Ok(body) => response(status, kind, body),
        Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, error.to_string()),
    }
}

pub(super) fn done() -> Answer {
    let mut answer = response(StatusCode::NO_CONTENT, TEXT, "");
    answer.headers_mut().remove(CONTENT_TYPE);
    answer
}

pub(super) fn response(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Content::Whole(Full::new(body.into())));
    *response.status_mut() = status;
    dress(&mut response, kind);
    response
}

pub(super) fn list(list: List) -> Answer {
    let mut response = Response::new(Content::List(list));
    dress(&mut response, JSON);
    response
}

pub(super) fn events(events: Events) -> Answer {
    let mut response = Response::new(Content::Events(events));
    dress(&mut response, EVENTS);
    let no = HeaderValue::from_static("no");
    response.headers_mut().insert(BUFFERING, no);
    response
}

/// Nothing further is answered on this connection.
pub(super) fn last(mut answer: Answer) -> Answer {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}

fn dress(response: &mut Answer, kind: &'static str) {
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}
